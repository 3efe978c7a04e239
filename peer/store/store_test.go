package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/peer/peertest"
	"github.com/vitalgate/vitalgate/peer/registry"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/enrolment"
	"github.com/vitalgate/vitalgate/record/evidence"
	"github.com/vitalgate/vitalgate/record/logfile"
)

// newBox is a box that seals for a reader of its own.
func newBox(t testing.TB, id string) *peertest.Box {
	t.Helper()
	b := peertest.NewBox(t, id)
	reader, err := record.GenerateReaderKey()
	if err != nil {
		t.Fatal(err)
	}
	b.Granted(&enrolment.Grant{Readers: enrolment.Readers{Network: []string{reader.Public().String()}}})
	return b
}

func registration(t testing.TB, b *peertest.Box) *registry.Registration {
	t.Helper()
	key, err := enrolment.FormatKey(&b.Data.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return &registry.Registration{Version: registry.Version, Box: b.ID.String(), DataKey: key,
		Claim: "software", Kinds: registry.AllKinds, Registered: time.Now()}
}

func open(t testing.TB, dir string, b *peertest.Box) (*Store, *Box) {
	t.Helper()
	s := New(Options{Dir: filepath.Join(dir, "store"), Quarantine: filepath.Join(dir, "quarantine"), Evidence: filepath.Join(dir, "evidence")})
	t.Cleanup(func() { s.Close() })
	box, err := s.Box(registration(t, b))
	if err != nil {
		t.Fatal(err)
	}
	return s, box
}

func messages(t testing.TB, records ...record.Published) []Message {
	t.Helper()
	out := make([]Message, len(records))
	for i, p := range records {
		b, err := p.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		out[i] = Message{b, fmt.Sprintf("seq-%d", i)}
	}
	return out
}

func add(t testing.TB, b *Box, m ...Message) Early {
	t.Helper()
	early, err := b.Add("test", m)
	if err != nil {
		t.Fatal(err)
	}
	return early
}

// Whether a proof continues a tree, for every index in every small tree: the true one does, one of another history never.
func TestExtendsKnowsItsOwnHistory(t *testing.T) {
	leaf := func(i int, history byte) record.Leaf { return record.Leaf(fmt.Sprintf("leaf %d %c", i, history)) }
	key := peertest.Key(t)
	for size := 1; size <= 33; size++ {
		leaves := make([]record.Leaf, size)
		var all record.Tree
		for i := range leaves {
			leaves[i] = leaf(i, 'a')
			all.Append(leaves[i])
		}
		sc, err := record.Checkpoint{Origin: "vitalgate/f1/gw1", Size: uint64(size), Root: all.Root(), Protection: "software"}.Sign(key)
		if err != nil {
			t.Fatal(err)
		}
		proofs, err := record.Prove(record.Tree{}, leaves, sc)
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range proofs {
			var mine record.Tree
			for j := range i {
				mine.Append(leaves[j])
			}
			if !extends(&mine, p, uint64(size)) {
				t.Fatalf("record %d of %d does not continue its own log", i, size)
			}
			for changed := range i { // one earlier leaf is another one
				var other record.Tree
				for j := range i {
					if j == changed {
						other.Append(leaf(j, 'b'))
					} else {
						other.Append(leaves[j])
					}
				}
				if extends(&other, p, uint64(size)) {
					t.Fatalf("record %d of %d continues a log whose leaf %d is another", i, size, changed)
				}
			}
		}
	}
}

func TestRecordsAreStoredOnceInOrder(t *testing.T) {
	dir, b := t.TempDir(), newBox(t, "f1/gw1")
	s, box := open(t, dir, b)
	first, second := messages(t, b.Record(20)...), messages(t, b.Record(20)...)

	if early := add(t, box, second...); early.Count != len(second) || early.Gap != uint64(len(first)) || early.First != 0 {
		t.Errorf("records behind a gap: %+v", early)
	}
	if box.Size() != 0 {
		t.Error("records behind a gap are stored")
	}
	grown := box.Grown()
	add(t, box, first[:7]...)
	if box.Size() != 0 || box.Pending() != 7 || box.Next() != 7 {
		t.Errorf("a part of a checkpoint: size %d, pending %d, next %d", box.Size(), box.Pending(), box.Next())
	}
	add(t, box, first[3:]...) // some come again
	if box.Size() != uint64(len(first)) || box.Pending() != 0 {
		t.Errorf("size %d, pending %d", box.Size(), box.Pending())
	}
	select {
	case <-grown:
	default:
		t.Error("who waits for growth is not woken")
	}
	add(t, box, append(first, second...)...)
	add(t, box, second...)
	if files, _ := filepath.Glob(filepath.Join(dir, "quarantine", "*", "*", "*")); len(files) != 0 {
		t.Errorf("records that come again are set aside: %v", files)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	_, box = open(t, dir, b) // after a restart
	if box.Size() != uint64(len(b.Log)) {
		t.Fatalf("%d records after a restart, want %d", box.Size(), len(b.Log))
	}
	for i, p := range b.Log {
		v, err := box.Get(uint64(i))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(v.Leaf(), p.Leaf) {
			t.Fatalf("record %d is another one", i)
		}
	}
}

// What a peer remembers of the newest checkpoints is what it would read in its log, and what it has not kept is not remembered.
func TestPrefixesFromMemoryAreThoseOfTheLog(t *testing.T) {
	dir, b := t.TempDir(), newBox(t, "f1/gw1")
	s, box := open(t, dir, b)
	for range 5 {
		add(t, box, messages(t, b.Record(3)...)...)
	}
	prefixes := func(box *Box) (all []record.Prefix) {
		for size := uint64(1); size <= uint64(len(b.Log)); size++ {
			p, err := box.Prefix(size)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, p)
		}
		return all
	}
	remembered := 0
	for size := range uint64(len(b.Log)) {
		if _, ok := box.recent.find(size + 1); ok {
			remembered++
		}
	}
	if remembered != 5 {
		t.Fatalf("%d of 5 checkpoints are remembered", remembered)
	}
	want := prefixes(box)
	box.fail(errors.New("the disk"))
	if got := prefixes(box); !reflect.DeepEqual(got, want) {
		t.Error("read in the log, the prefixes are others")
	}
	if _, ok := box.recent.find(uint64(len(b.Log))); ok {
		t.Error("a checkpoint is remembered though the disk may have lost it")
	}
	if s.Close() != nil {
		t.Error("the store does not close")
	}
}

func TestAnotherRecordAtAKnownIndexIsAFork(t *testing.T) {
	dir, b := t.TempDir(), newBox(t, "f1/gw1")
	_, box := open(t, dir, b)
	add(t, box, messages(t, b.Record(10)...)...)
	clone := b.Fork(5)
	fork := clone.Record(3)
	add(t, box, messages(t, fork...)...)
	if box.Size() != uint64(len(b.Log)) {
		t.Errorf("size %d, want %d", box.Size(), len(b.Log))
	}
	for i := range fork {
		if _, err := os.Stat(filepath.Join(dir, "quarantine", "f1", "gw1", fmt.Sprintf("%012d.fork.json", 5+i))); err != nil {
			t.Error(err)
		}
	}
	// The same is seen from checkpoints alone, as peers announce them.
	other := b.Fork(5)
	other.Record(len(b.Log) - 5 - 1) // and the epoch leaf before them
	theirs := other.Log[len(other.Log)-1]
	if len(other.Log) != len(b.Log) {
		t.Fatalf("the test's second history has %d records, want %d", len(other.Log), len(b.Log))
	}
	if _, err := box.Head("peer x", theirs.Checkpoint); err != nil {
		t.Fatal(err)
	}
	// Both are kept in one kind of file, which shows it without this peer. The box did not start in between.
	for _, at := range []int{6, len(b.Log)} {
		if found := proof(t, dir, b, at, evidence.Clone); found.Kind != evidence.Clone {
			t.Error(found)
		}
	}
}

// proof reads and verifies evidence that was kept.
func proof(t testing.TB, dir string, b *peertest.Box, at int, kind evidence.Kind) evidence.Finding {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "evidence", b.ID.Facility, b.ID.Name, fmt.Sprintf("%012d.%s.evidence", at, kind)))
	if err != nil {
		t.Fatal(err)
	}
	f, err := evidence.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	found, err := f.Verify(nil)
	if err != nil || found.Box != b.ID || !found.Key.Equal(&b.Data.PublicKey) {
		t.Fatalf("%+v %v", found, err)
	}
	return found
}

// An image of the disk is put back, and the box starts again from it.
func TestARestoredDiskIsEvidence(t *testing.T) {
	dir, b := t.TempDir(), newBox(t, "f1/gw1")
	_, box := open(t, dir, b)
	add(t, box, messages(t, b.Record(5)...)...)
	image := b.Fork(len(b.Log))
	add(t, box, messages(t, b.Record(5)...)...)
	size := box.Size()
	add(t, box, messages(t, image.Restart()...)...)
	add(t, box, messages(t, image.Record(10)...)...)
	if box.Size() != size {
		t.Errorf("size %d, want %d", box.Size(), size)
	}
	proof(t, dir, b, 7, evidence.Rollback) // the boot leaf confesses it
	proof(t, dir, b, 8, evidence.Fork)     // and what comes after it contradicts
}

// The image was made, and is put back, within one start of the chip: its counters tell nothing, the two histories do. Here the
// second one is longer when it is first seen, and is seen only where it goes on.
func TestADiskPutBackWithinOneStartIsEvidence(t *testing.T) {
	dir, b := t.TempDir(), newBox(t, "f1/gw1")
	_, box := open(t, dir, b)
	add(t, box, messages(t, b.Record(5)...)...)
	image := b.Fork(len(b.Log))
	add(t, box, messages(t, b.Record(5)...)...)
	image.Record(30)
	add(t, box, messages(t, image.Log[box.Size()])...)
	proof(t, dir, b, int(box.Size()), evidence.Clone)
}

// The chip of an emulator is put back while the log goes on: no record contradicts another, the counters do.
func TestAChipSetBackIsEvidence(t *testing.T) {
	dir, b := t.TempDir(), newBox(t, "f1/gw1")
	_, box := open(t, dir, b)
	b.Record(1)
	b.Restart()
	add(t, box, messages(t, b.Log...)...)
	size := len(b.Log)
	b.Starts = 1
	add(t, box, messages(t, b.Record(2)...)...)
	proof(t, dir, b, size, evidence.Rollback)
	if int(box.Size()) != len(b.Log) {
		t.Errorf("%d records are stored, want all %d: nothing of the log itself is wrong", box.Size(), len(b.Log))
	}
}

// A box that goes on honestly, through restarts, records that come again and heads of any age, is accused of nothing.
func TestAnHonestBoxIsNotAccused(t *testing.T) {
	dir, b := t.TempDir(), newBox(t, "f1/gw1")
	_, box := open(t, dir, b)
	for range 4 {
		b.Record(3)
		add(t, box, messages(t, b.Restart()...)...)
		add(t, box, messages(t, b.Log...)...)
		add(t, box, messages(t, b.Log...)...)
		for _, p := range b.Log {
			if _, err := box.Head("peer x", p.Checkpoint); err != nil {
				t.Fatal(err)
			}
		}
	}
	if int(box.Size()) != len(b.Log) {
		t.Errorf("%d records, want %d", box.Size(), len(b.Log))
	}
	if found, _ := filepath.Glob(filepath.Join(dir, "evidence", "*", "*", "*")); len(found) != 0 {
		t.Errorf("accused by %v", found)
	}
}

// A power cut kept the leaves of the last write and tore the checkpoint behind them. The records come again, from the stream
// or from another peer, and can be read at once, without waiting for the box to sign something more.
func TestRecordsWhoseCheckpointWasTornAreReadableWhenTheyComeAgain(t *testing.T) {
	for _, again := range []int{3, 1} { // all of them, or no more than the last
		dir, b := t.TempDir(), newBox(t, "f1/gw1")
		all := b.Record(3)
		log, err := logfile.Open(LogDir(filepath.Join(dir, "store"), b.ID), logfile.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range all {
			if err := log.Append(p.Leaf); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(log.Sync(), log.Close()); err != nil {
			t.Fatal(err)
		}
		s, box := open(t, dir, b)
		if box.Size() != 0 || box.Lacks() != 0 || box.Next() != uint64(len(all)) {
			t.Fatalf("after the power cut: size %d, lacks %d, next %d", box.Size(), box.Lacks(), box.Next())
		}
		grown := box.Grown()
		add(t, box, messages(t, all[len(all)-again:]...)...)
		if box.Size() != uint64(len(all)) || box.Lacks() != box.Size() {
			t.Fatalf("%d of %d came again: size %d", again, len(all), box.Size())
		}
		select {
		case <-grown:
		default:
			t.Error("who waits for growth is not woken")
		}
		add(t, box, messages(t, all...)...) // once more changes nothing
		add(t, box, messages(t, b.Record(2)...)...)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		_, box = open(t, dir, b) // it is on the disk
		for i, p := range b.Log {
			if v, err := box.Get(uint64(i)); err != nil || !bytes.Equal(v.Leaf(), p.Leaf) {
				t.Fatalf("record %d: %v", i, err)
			}
		}
	}
}

// Leaves without a checkpoint are not made readable by a checkpoint of another history.
func TestTornCheckpointIsNotReplacedByAnotherHistory(t *testing.T) {
	dir, b := t.TempDir(), newBox(t, "f1/gw1")
	other := b.Fork(0)
	all, theirs := b.Record(3), other.Record(3)
	log, err := logfile.Open(LogDir(filepath.Join(dir, "store"), b.ID), logfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if err := log.Append(p.Leaf); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(log.Sync(), log.Close()); err != nil {
		t.Fatal(err)
	}
	_, box := open(t, dir, b)
	add(t, box, messages(t, theirs...)...)
	if box.Size() != 0 {
		t.Fatalf("%d records are signed by a checkpoint of another log", box.Size())
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "quarantine", "f1", "gw1", "*.fork.json")); len(files) != len(theirs) {
		t.Errorf("%d of the %d records of the other log are set aside", len(files), len(theirs))
	}
	add(t, box, messages(t, all...)...)
	if box.Size() != uint64(len(all)) {
		t.Errorf("size %d", box.Size())
	}
}

// A disk that takes no more for a while: the store says so as long as it lasts, loses nothing of what it had, and goes on
// when it can.
func TestStoreSaysThatItCannotWriteUntilItCan(t *testing.T) {
	dir, b := t.TempDir(), newBox(t, "f1/gw1")
	s := New(Options{Dir: filepath.Join(dir, "store"), Quarantine: filepath.Join(dir, "quarantine"), Evidence: filepath.Join(dir, "evidence"), SegmentBytes: 1})
	t.Cleanup(func() { s.Close() })
	box, err := s.Box(registration(t, b))
	if err != nil {
		t.Fatal(err)
	}
	add(t, box, messages(t, b.Record(3)...)...)
	if _, err := box.Trouble(); err != nil {
		t.Fatal(err)
	}
	stored := box.Size()
	logs, away := LogDir(filepath.Join(dir, "store"), b.ID), filepath.Join(dir, "away")
	if err := os.Rename(logs, away); err != nil { // no file can be made
		t.Fatal(err)
	}
	next := messages(t, b.Record(3)...)
	for range 2 {
		if _, err := box.Add("test", next); err == nil {
			t.Fatal("records are stored in a folder that is not there")
		}
	}
	if since, err := box.Trouble(); err == nil || since.IsZero() {
		t.Errorf("the store does not say that it cannot write: %v since %v", err, since)
	}
	if box.Err() != nil || box.Size() != stored || box.Pending() != 0 {
		t.Errorf("err %v, size %d, pending %d", box.Err(), box.Size(), box.Pending())
	}
	if err := os.Rename(away, logs); err != nil {
		t.Fatal(err)
	}
	add(t, box, next...)
	if _, err := box.Trouble(); err != nil || box.Size() != uint64(len(b.Log)) {
		t.Errorf("trouble %v, size %d, want none and %d", err, box.Size(), len(b.Log))
	}
}

// The quarantine is bounded: what comes beyond is counted and not kept.
func TestAsideIsBounded(t *testing.T) {
	dir := t.TempDir()
	a := newAside(dir, 10, 1000)
	for i := range 100 {
		if _, err := a.put(fmt.Sprintf("x%d", i), Note{}, map[string][]byte{".bin": make([]byte, 10)}); err != nil {
			t.Fatal(err)
		}
	}
	if files, _ := os.ReadDir(dir); len(files) > 10 || len(files) < 4 {
		t.Errorf("%d files are kept, want at most 10", len(files))
	}
	if kept, err := newAside(dir, 10, 1000).put("y", Note{}, map[string][]byte{".bin": nil}); kept || err != nil {
		t.Errorf("after a restart the bound is forgotten (%v, %v)", kept, err)
	}
	if kept, err := newAside(t.TempDir(), 10, 1000).put("z", Note{}, map[string][]byte{".bin": make([]byte, 2000)}); kept || err != nil {
		t.Errorf("what is too large is kept (%v, %v)", kept, err)
	}
}

// Nothing gets into the store but what the box has signed, whatever the bytes.
func FuzzAdd(f *testing.F) {
	b := newBox(f, "f1/gw1")
	honest := messages(f, b.Record(3)...)
	for _, m := range honest {
		f.Add(m.Data)
	}
	f.Add([]byte("VGP1"))
	f.Add([]byte{})
	_, box := open(f, f.TempDir(), b)
	add(f, box, honest[0])
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := box.Add("test", []Message{{bytes.Clone(data), "seq-1"}}); err != nil {
			t.Fatal(err)
		}
		if n := box.Next(); n > uint64(len(b.Log)) {
			t.Fatalf("%d records are taken, the box has signed %d", n, len(b.Log))
		}
		for i := range box.Size() {
			if v, err := box.Get(i); err != nil || !bytes.Equal(v.Leaf(), b.Log[i].Leaf) {
				t.Fatalf("record %d is another one (%v)", i, err)
			}
		}
	})
}

// BenchmarkAdd verifies and stores groups of 256 records, each group with its fsync.
func BenchmarkAdd(b *testing.B) {
	box := newBox(b, "f1/gw1")
	var groups [][]Message
	for range 16 {
		groups = append(groups, messages(b, box.Record(256)...))
	}
	size := 0
	for _, g := range groups {
		for _, m := range g {
			size += len(m.Data)
		}
	}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		s, stored := open(b, b.TempDir(), box)
		b.StartTimer()
		for _, g := range groups {
			add(b, stored, g...)
		}
		b.StopTimer()
		s.Close()
		b.StartTimer()
	}
	b.ReportMetric(float64(16*256*b.N)/b.Elapsed().Seconds(), "records/s")
}

// A suspended box that is then revoked is no longer suspended: what it signed before its end is believed whenever it comes.
func TestTheEndOfASuspendedBoxIsReached(t *testing.T) {
	b := newBox(t, "f1/gw1")
	s, box := open(t, t.TempDir(), b)
	add(t, box, messages(t, b.Record(10)...)...)
	behind := messages(t, b.Record(10)...)
	until := uint64(len(b.Log))
	r := registration(t, b)
	r.Suspended = &registry.Suspension{At: time.Now(), Reason: "under repair"}
	if _, err := s.Box(r); err != nil {
		t.Fatal(err)
	}
	if _, err := box.Add("test", behind); !errors.Is(err, ErrSuspended) {
		t.Errorf("records of a suspended box: %v", err)
	}
	ended := *r
	ended.Until, ended.Revoked = &until, &registry.Revocation{At: time.Now(), Reason: "stolen"}
	if _, err := s.Box(&ended); err != nil {
		t.Fatal(err)
	}
	add(t, box, behind...)
	if box.Size() != until {
		t.Errorf("the store has %d records of a revoked box, %d are believed", box.Size(), until)
	}
	add(t, box, messages(t, b.Record(10)...)...)
	if box.Size() != until {
		t.Errorf("the store has %d records of a revoked box, only %d are believed", box.Size(), until)
	}
}
