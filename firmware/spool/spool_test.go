package spool

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vitalgate/vitalgate/leaktest"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/logfile"
)

var box = record.BoxID{Facility: "f1", Name: "gw1"}

// bench is a box's log with its sealer and its key.
type bench struct {
	*Spool
	sealer *record.Sealer
	key    *ecdsa.PrivateKey
}

func sealer(t testing.TB) *record.Sealer {
	t.Helper()
	secret, err := record.GenerateReaderKey()
	if err != nil {
		t.Fatal(err)
	}
	s, err := record.NewSealer(box, []record.ReaderKey{secret.Public()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func open(t testing.TB, dir string, o Options) *bench {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{s, sealer(t), newKey(t)}
	t.Cleanup(func() { s.Close() })
	return b
}

// run starts the committer; the test's end stops it.
func (b *bench) run(t testing.TB) {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil && !errors.Is(err, ErrClosed) {
			t.Errorf("committer: %v", err)
		}
	})
}

// leaf makes the leaf for the next index.
func (b *bench) leaf(t testing.TB) record.Leaf {
	t.Helper()
	l, err := b.sealer.Boot(b.Next(), record.Boot{Protection: "software", Software: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// keep appends n leaves and waits until they are durable.
func (b *bench) keep(t testing.TB, n int) {
	t.Helper()
	done := make(chan error, n)
	for range n {
		if err := b.Append([]record.Leaf{b.leaf(t)}, func(err error) { done <- err }); err != nil {
			t.Fatal(err)
		}
	}
	for range n {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// sign signs all that is durable.
func (b *bench) sign(t testing.TB) {
	t.Helper()
	for {
		tree, ok := b.Unsigned()
		if !ok {
			return
		}
		sc, c := b.checkpoint(t, tree)
		if err := b.AddCheckpoint(sc, c); err != nil {
			t.Fatal(err)
		}
	}
}

func (b *bench) checkpoint(t testing.TB, tree record.Tree) (record.SignedCheckpoint, record.Checkpoint) {
	t.Helper()
	c := record.Checkpoint{Origin: box.Origin(), Size: tree.Size(), Root: tree.Root(), Protection: "software"}
	sc, err := c.Sign(b.key)
	if err != nil {
		t.Fatal(err)
	}
	return sc, c
}

// read gives the indexes that can be published from index from on, each verified.
func (b *bench) read(t testing.TB, from uint64) (indexes []uint64) {
	t.Helper()
	r := b.Reader(from)
	defer r.Close()
	for {
		records, err := r.Next()
		if errors.Is(err, io.EOF) {
			return indexes
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range records {
			if _, err := record.Verify(p, box, &b.key.PublicKey); err != nil {
				t.Fatal(err)
			}
			indexes = append(indexes, p.Index)
		}
	}
}

func wantRun(t testing.TB, got []uint64, from, to uint64) {
	t.Helper()
	if uint64(len(got)) != to-from {
		t.Fatalf("%d records, want those from %d to %d", len(got), from, to)
	}
	for i, x := range got {
		if x != from+uint64(i) {
			t.Fatalf("record %d stands where %d should", x, from+uint64(i))
		}
	}
}

// What was called durable, and signed, is there after the box was closed and opened again, under the same indexes.
func TestKeptRecordsAreThereAfterReopening(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, Options{})
	b.run(t)
	b.keep(t, 100)
	b.sign(t)
	b.keep(t, 7)
	b.Close()

	again := open(t, dir, Options{})
	again.key = b.key
	wantRun(t, again.read(t, 0), 0, 100)
	if again.Next() != 107 {
		t.Fatalf("next index is %d, want 107", again.Next())
	}
	if c := again.LastCheckpoint(); c.Size != 100 {
		t.Fatalf("last checkpoint covers %d, want 100", c.Size)
	}
	again.sign(t)
	wantRun(t, again.read(t, 50), 50, 107)
}

// While one fsync runs, what comes is collected, and one more fsync serves it all. Answers come in index order.
func TestOneSyncServesAllThatCollected(t *testing.T) {
	b := open(t, t.TempDir(), Options{})
	const n = 500
	order := make(chan int, n)
	for i := range n {
		if err := b.Append([]record.Leaf{b.leaf(t)}, func(err error) {
			if err != nil {
				t.Error(err)
			}
			order <- i
		}); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-order:
		t.Fatal("an answer came before anything was written")
	default:
	}
	b.run(t)
	for i := range n {
		if got := <-order; got != i {
			t.Fatalf("answer %d came as number %d", got, i)
		}
	}
	if st := b.Stats(); st.Fsyncs != 1 || st.Next != n || st.Depth != n || st.FsyncP50 <= 0 || st.OldestAge <= 0 {
		t.Fatalf("%d records took %d fsyncs: %+v", n, st.Fsyncs, st)
	}
}

// A checkpoint may be of a size that the log has passed while the chip was signing.
func TestLogGrowsWhileTheChipSigns(t *testing.T) {
	b := open(t, t.TempDir(), Options{})
	b.run(t)
	b.keep(t, 10)
	tree, err := b.WaitUnsigned(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b.keep(t, 5) // the chip is still at work
	sc, c := b.checkpoint(t, tree)
	if err := b.AddCheckpoint(sc, c); err != nil {
		t.Fatal(err)
	}
	wantRun(t, b.read(t, 0), 0, 10)
	if tree, ok := b.Unsigned(); !ok || tree.Size() != 15 {
		t.Fatal("the leaves that came meanwhile are not up for signing")
	}
	b.sign(t)
	wantRun(t, b.read(t, 0), 0, 15)
}

// A signature that does not fit harms neither the leaves that wait nor the next signature.
func TestWrongCheckpointIsRefusedAlone(t *testing.T) {
	b := open(t, t.TempDir(), Options{})
	b.run(t)
	b.keep(t, 3)
	tree, _ := b.Unsigned()
	tree.Append(b.leaf(t))
	if err := b.AddCheckpoint(b.checkpoint(t, tree)); err == nil {
		t.Fatal("a checkpoint of leaves that the log does not have was taken")
	}
	b.keep(t, 3)
	b.sign(t)
	wantRun(t, b.read(t, 0), 0, 6)
}

// At the quota the spool refuses, keeps all that it has, and takes again when a leaf node has acknowledged. Then the
// oldest goes, and nothing that was not acknowledged.
func TestQuotaNeverDropsUnsent(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, Options{Quota: 64 << 10, SegmentBytes: 4 << 10})
	b.run(t)
	var kept uint64
	full := func() bool {
		done := make(chan error, 1)
		err := b.Append([]record.Leaf{b.leaf(t)}, func(err error) { done <- err })
		if err == nil {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			kept++
			return false
		}
		if !errors.Is(err, ErrFull) {
			t.Fatal(err)
		}
		return true
	}
	for !full() {
		if kept%10 == 0 {
			b.sign(t)
		}
	}
	b.sign(t)
	wantRun(t, b.read(t, 0), 0, kept)
	if st := b.Stats(); st.Depth != kept || st.Bytes < 50<<10 || st.Bytes > 80<<10 {
		t.Fatalf("full with %d records: %+v", kept, st)
	}

	acked := kept / 2
	if err := b.SetCursor("ward1", Cursor{Next: acked}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the spool takes records again", func() bool { return !full() })
	for !full() {
		if kept%10 == 0 {
			b.sign(t)
		}
	}
	b.sign(t)
	first := b.First()
	if first == 0 || first > acked {
		t.Fatalf("the ring begins at %d; acknowledged is all below %d", first, acked)
	}
	wantRun(t, b.read(t, first), first, kept)
	r := b.Reader(0)
	if _, err := r.Next(); !errors.Is(err, logfile.ErrDropped) {
		t.Fatalf("reading what was dropped: %v", err)
	}
}

// What is on disk is called durable, and is signed, even if the disk then refuses to let go of what is old: the monitor must
// not be told that a reading was lost which was not.
func TestRecordOnDiskIsDurableThoughNothingCanBeDropped(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, dir string){
		"a segment cannot be removed": func(t *testing.T, dir string) {
			oldest := filepath.Join(dir, fmt.Sprintf("%020d.log", 0))
			if err := os.Rename(oldest, filepath.Join(dir, "elsewhere")); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Join(oldest, "full"), 0o700); err != nil {
				t.Fatal(err)
			}
		},
		"a cursor cannot be written": func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, "cursors")); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			b := open(t, dir, Options{Quota: 64 << 10, SegmentBytes: 4 << 10})
			b.run(t)
			for b.Stats().Bytes < 58<<10 {
				b.keep(t, 1)
				b.sign(t)
			}
			if err := b.SetCursor("ward1", Cursor{Next: 10}); err != nil {
				t.Fatal(err)
			}
			spoil(t, dir)
			if err := b.SetCursor("ward1", Cursor{Next: 30}); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			for b.Stats().Bytes < 62<<10 { // past the size at which the oldest should go
				b.keep(t, 1)
				tree, err := b.WaitUnsigned(t.Context())
				if err != nil || tree.Size() != b.Next() {
					t.Fatalf("%d of %d leaves are up for signing: %v", tree.Size(), b.Next(), err)
				}
				b.sign(t)
			}
			if b.Signed() != b.Next() || b.LastCheckpoint().Size != b.Next() {
				t.Fatalf("%d of %d leaves are signed", b.Signed(), b.Next())
			}
		})
	}
}

// A disk that is full below the quota refuses what does not fit, and only that; when there is room again, the box goes on
// without a restart.
func TestFullDiskIsSurvived(t *testing.T) {
	for name, meet := range map[string]func(*bench) error{
		"a leaf node was met before":       func(b *bench) error { return b.SetCursor("ward1", Cursor{}) },
		"no leaf node was ever met before": func(b *bench) error { return b.Reserve("ward1", "ward2") },
	} {
		t.Run(name, func(t *testing.T) { surviveFullDisk(t, meet) })
	}
}

func surviveFullDisk(t *testing.T, meet func(*bench) error) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skip("cannot mount a small disk here: ", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	b := open(t, filepath.Join(dir, "log"), Options{SegmentBytes: 8 << 10})
	b.run(t)
	if err := meet(b); err != nil {
		t.Fatal(err)
	}
	hog := filepath.Join(dir, "hog")
	if err := os.WriteFile(hog, make([]byte, 100<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	put := func() error {
		done := make(chan error, 1)
		if err := b.Append([]record.Leaf{b.leaf(t)}, func(err error) { done <- err }); err != nil {
			return err
		}
		return <-done
	}
	var err error
	kept := uint64(0)
	for range 10000 {
		if err = put(); err != nil {
			break
		}
		kept++
	}
	if !errors.Is(err, unix.ENOSPC) || errors.Is(err, ErrDisk) {
		t.Fatalf("after %d records: %v", kept, err)
	}
	if b.Next() != kept {
		t.Fatalf("next index is %d after %d kept records", b.Next(), kept)
	}
	if err := put(); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("on a disk that is still full: %v", err)
	}
	if err := os.Remove(hog); err != nil {
		t.Fatal(err)
	}
	b.keep(t, 20)
	b.sign(t)
	kept += 20
	wantRun(t, b.read(t, 0), 0, kept)

	// Full again. Now a leaf node acknowledges: the ring makes the room.
	for range 10000 {
		if err = put(); err != nil {
			break
		}
		kept++
	}
	if err == nil {
		t.Fatal("the disk does not fill")
	}
	if err := b.SetCursor("ward1", Cursor{Next: 200}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a record is kept again", func() bool { return put() == nil })
	if b.First() == 0 || b.First() > 200 {
		t.Fatalf("the ring begins at %d", b.First())
	}
	b.sign(t)
	wantRun(t, b.read(t, b.First()), b.First(), kept+1)
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

// After Close, nothing is taken, and what waited is reported as not kept.
func TestClosedSpoolTakesNothing(t *testing.T) {
	b := open(t, t.TempDir(), Options{})
	got := make(chan error, 1)
	if err := b.Append([]record.Leaf{b.leaf(t)}, func(err error) { got <- err }); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; !errors.Is(err, ErrClosed) {
		t.Fatalf("the waiting leaf was told %v", err)
	}
	if err := b.Append(nil, nil); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if err := b.WaitSigned(t.Context(), 5); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

func TestWaitersEndWithTheirContext(t *testing.T) {
	b := open(t, t.TempDir(), Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.WaitUnsigned(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := b.WaitSigned(ctx, 0); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// The committer that is told to stop first keeps what it was given.
func TestStopKeepsWhatWasAppended(t *testing.T) {
	b := open(t, t.TempDir(), Options{})
	got := make(chan error, 1)
	if err := b.Append([]record.Leaf{b.leaf(t)}, func(err error) { got <- err }); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
}

func TestCursorsSurvive(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, Options{})
	b.run(t)
	b.keep(t, 50)
	b.sign(t)
	want := Cursor{Next: 40, Offset: ^uint64(0) - 2, From: 7, Refill: 9, Unsure: true}
	for leaf, c := range map[string]Cursor{"ward1": {Next: 10}, "ward2": want, "ward3": {Next: 20}} {
		if err := b.SetCursor(leaf, c); err != nil {
			t.Fatal(err)
		}
	}
	if b.Acked() != 40 || b.Stats().Depth != 10 {
		t.Fatalf("acknowledged below %d, depth %d", b.Acked(), b.Stats().Depth)
	}
	b.Close()

	// A cursor with a flipped byte is put aside.
	path := filepath.Join(dir, "cursors", "ward1.cursor")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	os.WriteFile(path, []byte(strings.Replace(string(text), "next 10", "next 11", 1)), 0o600)
	again := open(t, dir, Options{})
	if got, ok := again.Cursor("ward2"); !ok || got != want {
		t.Fatalf("cursor is %+v, want %+v", got, want)
	}
	for _, leaf := range []string{"ward1", "never"} {
		if c, ok := again.Cursor(leaf); ok {
			t.Fatalf("the bad cursor of %s was taken: %+v", leaf, c)
		}
	}
	if err := again.SetCursor("../ward", Cursor{}); err == nil {
		t.Fatal("a leaf name left the folder")
	}
}

// The log is set back to before what a leaf node has acknowledged. The box knows it at once and for good, keeps what it is
// given, counts none of it as acknowledged, and signs no second history.
func TestLogThatWasSetBackIsNotSignedOn(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, Options{})
	b.run(t)
	b.keep(t, 50)
	b.sign(t)
	if err := b.SetCursor("ward1", Cursor{Next: 40}); err != nil {
		t.Fatal(err)
	}
	segment := filepath.Join(dir, fmt.Sprintf("%020d.log", 0))
	image, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	b.keep(t, 50)
	b.sign(t)
	if err := b.SetCursor("ward1", Cursor{Next: 100}); err != nil {
		t.Fatal(err)
	}
	b.Close()
	if err := os.WriteFile(segment, image, 0o600); err != nil {
		t.Fatal(err)
	}
	for start := range 3 { // at the last start the log is longer than what was acknowledged
		again := open(t, dir, Options{})
		again.key = b.key
		again.run(t)
		if why := again.RolledBack(); !strings.Contains(why, "ward1") || !strings.Contains(why, "100") || !strings.Contains(why, "50") {
			t.Fatalf("start %d: set back: %q", start, why)
		}
		again.keep(t, 40)
		if _, ok := again.Unsigned(); ok {
			t.Fatal("a second history is given out for signing")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := again.WaitUnsigned(ctx); !errors.Is(err, context.Canceled) {
			t.Fatalf("a second history is given out for signing: %v", err)
		}
		if again.Acked() != 50 {
			t.Fatalf("%d records count as acknowledged, 50 are", again.Acked())
		}
		if n := uint64(50 + 40*(start+1)); again.Next() != n {
			t.Fatalf("%d records are kept, want %d", again.Next(), n)
		}
		again.Close()
	}
}

// A checkpoint that was lost, with all leaves still there, is signed again: it is the same history.
func TestLostCheckpointAloneIsSignedAgain(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, Options{})
	b.run(t)
	b.keep(t, 50)
	segment := filepath.Join(dir, fmt.Sprintf("%020d.log", 0))
	image, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	b.sign(t)
	if err := b.SetCursor("ward1", Cursor{Next: 50}); err != nil {
		t.Fatal(err)
	}
	b.Close()
	if err := os.WriteFile(segment, image, 0o600); err != nil {
		t.Fatal(err)
	}
	again := open(t, dir, Options{})
	again.key = b.key
	if why := again.RolledBack(); why != "" {
		t.Fatal(why)
	}
	again.sign(t)
	wantRun(t, again.read(t, 0), 0, 50)
}

// A log that is missing was lost if something of it had been signed; before that the box is new, however often it was started.
func TestALogThatHadBegunIsMissed(t *testing.T) {
	root := t.TempDir()
	dir, begun := filepath.Join(root, "log"), filepath.Join(root, "log-begun")
	lose := func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	for start := range 3 {
		b := open(t, dir, Options{Begun: begun})
		if why := b.RolledBack(); why != "" {
			t.Fatalf("start %d of a new box: set back: %s", start, why)
		}
		switch start {
		case 1: // kept, never signed, and lost
			b.run(t)
			b.keep(t, 1)
		case 2:
			b.run(t)
			b.keep(t, 1)
			b.sign(t)
		}
		b.Close()
		if start == 1 {
			lose()
		}
	}
	b := open(t, dir, Options{Begun: begun})
	if why := b.RolledBack(); why != "" || b.Next() != 1 {
		t.Fatalf("the log is there, at %d: set back: %s", b.Next(), why)
	}
	b.Close()
	lose()
	for range 2 {
		b := open(t, dir, Options{Begun: begun})
		if why := b.RolledBack(); !strings.Contains(why, "gone") {
			t.Fatalf("the log is lost: set back: %q", why)
		}
		b.Close()
	}
}

// A cursor's file that is torn in its newest write gives the one before.
func TestTornCursorGivesTheOneBefore(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, Options{})
	b.run(t)
	b.keep(t, 50)
	b.sign(t)
	for _, next := range []uint64{10, 20, 30} {
		if err := b.SetCursor("ward1", Cursor{Next: next, From: next}); err != nil {
			t.Fatal(err)
		}
	}
	b.Close()
	path := filepath.Join(dir, "cursors", "ward1.cursor")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range slotBytes { // the third write stands in the second slot
		torn := append(whole[:slotBytes:slotBytes], whole[slotBytes:slotBytes+cut]...)
		torn = append(torn, make([]byte, slotBytes-cut)...)
		if c, err := parseCursor(torn); err != nil || c.Next != 20 || c.writes != 2 {
			t.Fatalf("cut after %d bytes: %+v, %v", cut, c, err)
		}
	}
	if c, err := parseCursor(whole); err != nil || c.Next != 30 {
		t.Fatalf("whole: %+v, %v", c, err)
	}
}

// The place that an older version of the box kept is still known, and taken as if a connection had been open.
func TestCursorOfAnOlderVersionIsRead(t *testing.T) {
	const line = "vitalgate/cursor/v1 write 8 next 10 offset 18446744073709551615 from 3 refill 4 unsure true crc32c 84da53f2"
	file := append(bytes.Repeat([]byte(" "), slotBytes), fmt.Sprintf("%-255s\n", line)...)
	want := Cursor{Next: 10, Offset: ^uint64(0), From: 3, Refill: 4, Unsure: true, Sent: AllSigned}
	if c, err := parseCursor(file); err != nil || c.Cursor != want || c.writes != 8 || c.unmet {
		t.Fatalf("%+v, %v", c, err)
	}
}

func FuzzCursor(f *testing.F) {
	one := (&cursor{Cursor: Cursor{Next: 1, Offset: ^uint64(0), From: 3, Refill: 4, Unsure: true, Sent: AllSigned}}).appendSlot(nil, 7)
	f.Add((&cursor{Cursor: Cursor{Next: 2}, unmet: true}).appendSlot(one, 8))
	f.Add(one[:100])
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseCursor(b)
		if err == nil && !bytes.Contains(b, c.appendSlot(nil, c.writes)) && !bytes.Contains(b, []byte(cursorMagicV1)) {
			t.Fatalf("%+v was read from a file that does not say so", c)
		}
	})
}

// The box is killed with -9 many times while it keeps and signs. Everything that it had called durable is there afterwards.
func TestKilledBoxKeepsWhatItCalledDurable(t *testing.T) {
	dir := t.TempDir()
	var durable uint64 // all below it were called durable
	for round := range 6 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestMain$")
		cmd.Env = append(os.Environ(), "SPOOL_TEST_CHILD="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for seen := 0; lines.Scan(); seen++ {
			n, err := strconv.ParseUint(lines.Text(), 10, 64)
			if err != nil {
				t.Fatalf("child: %s", lines.Text())
			}
			if n != durable {
				t.Fatalf("round %d: index %d was called durable, expected %d", round, n, durable)
			}
			durable++
			if seen == 300+round*97 {
				cmd.Process.Kill()
			}
		}
		cmd.Wait()
		s, err := Open(dir, Options{SegmentBytes: 16 << 10})
		if err != nil {
			t.Fatal(err)
		}
		if s.Next() < durable {
			t.Fatalf("round %d: %d leaves on disk, %d were called durable", round, s.Next(), durable)
		}
		durable = s.Next() // more may be there than was reported
		b := &bench{s, sealer(t), newKey(t)}
		b.sign(t)
		r := s.Reader(0)
		n := uint64(0)
		for {
			records, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range records {
				h, _, err := record.ParseLeaf(p.Leaf)
				if err != nil || h.Index != n {
					t.Fatalf("record %d: header says %d: %v", n, h.Index, err)
				}
				n++
			}
		}
		if n != durable {
			t.Fatalf("round %d: %d records can be read of %d", round, n, durable)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// child keeps and signs until it is killed, and prints each index when it is durable.
func child(dir string) error {
	s, err := Open(dir, Options{SegmentBytes: 16 << 10})
	if err != nil {
		return err
	}
	secret, err := record.GenerateReaderKey()
	if err != nil {
		return err
	}
	seal, err := record.NewSealer(box, []record.ReaderKey{secret.Public()}, nil)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ctx := context.Background()
	go s.Run(ctx)
	go func() {
		for {
			tree, err := s.WaitUnsigned(ctx)
			if err != nil {
				return
			}
			c := record.Checkpoint{Origin: box.Origin(), Size: tree.Size(), Root: tree.Root(), Protection: "software"}
			sc, err := c.Sign(key)
			if err != nil {
				panic(err)
			}
			if err := s.AddCheckpoint(sc, c); err != nil {
				panic(err)
			}
		}
	}()
	window := make(chan struct{}, 32)
	for {
		index := s.Next()
		leaf, err := seal.Boot(index, record.Boot{Protection: "software", Software: "test"})
		if err != nil {
			return err
		}
		window <- struct{}{}
		if err := s.Append([]record.Leaf{leaf}, func(err error) {
			if err != nil {
				panic(err)
			}
			fmt.Println(index)
			<-window
		}); err != nil {
			return err
		}
	}
}

func TestMain(m *testing.M) {
	if dir := os.Getenv("SPOOL_TEST_CHILD"); dir != "" {
		fmt.Println(child(dir))
		os.Exit(1)
	}
	leaktest.Main(m)
}

// BenchmarkKeep is the left half's wait: one fsync for each record with one monitor, shared by all with 64.
func BenchmarkKeep(b *testing.B) {
	for _, window := range []int{1, 64, 1024} {
		b.Run(fmt.Sprintf("unanswered=%d", window), func(b *testing.B) {
			var pages atomic.Int64 // of 4 KiB, which is what a flash chip writes at least, however little of one has changed
			disk := *logfile.SystemDisk()
			disk.Pwrite = func(f *os.File, b []byte, at int64) error {
				pages.Add((at+int64(len(b))-1)/4096 - at/4096 + 1)
				return logfile.SystemDisk().Pwrite(f, b, at)
			}
			s := open(b, b.TempDir(), Options{Quota: 1 << 40, Disk: &disk})
			s.run(b)
			pages.Store(0)
			head := record.Header{Box: box, Kind: record.KindVitals, Commit: [32]byte{1}, Arrived: time.Now()}
			body := make([]byte, 1200)
			tokens := make(chan struct{}, window)
			b.SetBytes(1400)
			for b.Loop() {
				tokens <- struct{}{}
				h := head
				h.Index = s.Next()
				h.Epoch = max(h.Index, 1) - 1
				if h.Index == 0 {
					h.Kind, h.Commit = record.KindBoot, [32]byte{}
				}
				if err := s.Append([]record.Leaf{append(h.AppendText(nil), body...)}, func(err error) {
					if err != nil {
						b.Error(err)
					}
					<-tokens
				}); err != nil {
					b.Fatal(err)
				}
			}
			for range window {
				tokens <- struct{}{}
			}
			st := s.Stats()
			b.ReportMetric(float64(st.Next)/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(float64(st.Next)/float64(st.Fsyncs), "records/fsync")
			b.ReportMetric(float64(st.Bytes)/float64(st.Next), "disk-B/record")
			b.ReportMetric(float64(pages.Load()*4096)/float64(st.Next), "flash-B/record")
		})
	}
}

// smallDisk is a disk of so many bytes, all of which are of the files in dir. limit may change.
func smallDisk(dir string, limit *atomic.Int64) *logfile.Disk {
	d := *logfile.SystemDisk()
	d.Pwrite = func(f *os.File, b []byte, at int64) error {
		used := int64(0)
		filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
			if info, err := os.Stat(path); err == nil && !info.IsDir() {
				used += info.Size()
			}
			return nil
		})
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if grow := at + int64(len(b)) - info.Size(); grow > 0 && used+grow > limit.Load() {
			logfile.SystemDisk().Pwrite(f, b[:max(0, int64(len(b))-(used+grow-limit.Load()))], at)
			return unix.ENOSPC
		}
		return logfile.SystemDisk().Pwrite(f, b, at)
	}
	return &d
}

// The disk is full of records of which none is signed: the signature still finds room, so that they can be published and dropped,
// and then the box takes readings again, without a restart and without anybody's help.
func TestFullOfUnsignedRecordsIsNoEnd(t *testing.T) {
	for name, segment := range map[string]int64{"one segment": 8 << 20, "several": 32 << 10} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			var limit atomic.Int64
			limit.Store(400 << 10)
			b := open(t, dir, Options{SegmentBytes: segment, Disk: smallDisk(dir, &limit)})
			b.run(t)
			if err := b.Reserve("ward1"); err != nil {
				t.Fatal(err)
			}
			put := func() error {
				done := make(chan error, 1)
				if err := b.Append([]record.Leaf{b.leaf(t)}, func(err error) { done <- err }); err != nil {
					return err
				}
				return <-done
			}
			kept := uint64(0)
			for put() == nil {
				kept++
			}
			for range 50 { // what room is left, small records take
				if put() == nil {
					kept++
				}
			}
			if kept < 100 || b.Signed() != 0 || b.Next() != kept {
				t.Fatalf("%d kept, next is %d, %d signed", kept, b.Next(), b.Signed())
			}
			b.sign(t)
			if b.Signed() != kept {
				t.Fatalf("%d of %d are signed on a full disk", b.Signed(), kept)
			}
			wantRun(t, b.read(t, 0), 0, kept)
			if err := put(); !errors.Is(err, unix.ENOSPC) {
				t.Fatalf("the room for signatures is given to a record: %v", err)
			}
			if err := b.SetCursor("ward1", Cursor{Next: kept}); err != nil {
				t.Fatal(err)
			}
			eventually(t, "a record is kept again", func() bool { return put() == nil })
			b.sign(t)
			wantRun(t, b.read(t, b.First()), b.First(), kept+1)
			if err := b.SetCursor("ward1", Cursor{Next: b.Next()}); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the reserve is there again", func() bool {
				put()
				info, err := os.Stat(filepath.Join(dir, reserveFile))
				return err == nil && info.Size() == reserveBytes
			})
		})
	}
}

// A log whose end is destroyed does not stop the box: it takes readings, and signs none of them under an index that it may have
// signed before.
func TestDestroyedLogKeepsReadings(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, Options{SegmentBytes: 8 << 10})
	b.run(t)
	for range 30 {
		b.keep(t, 1)
		b.sign(t)
	}
	b.Close()
	segments, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || len(segments) < 2 {
		t.Fatal(segments, err)
	}
	last := segments[len(segments)-1]
	if err := os.WriteFile(last, make([]byte, 3000), 0o600); err != nil {
		t.Fatal(err)
	}
	b = open(t, dir, Options{SegmentBytes: 8 << 10})
	b.run(t)
	if why := b.RolledBack(); !strings.Contains(why, filepath.Base(last)) {
		t.Fatalf("rolled back: %q", why)
	}
	next := b.Next()
	b.keep(t, 3)
	if _, ok := b.Unsigned(); ok || b.Next() != next+3 {
		t.Fatalf("the log goes on at %d with something to sign: %t", b.Next(), ok)
	}
}

// A pulse does not come back before the disk has answered, though nothing is to be kept. Where something was kept since the pulse before, the
// disk has answered already.
func TestAPulseGoesToTheDisk(t *testing.T) {
	var syncs atomic.Int32
	var hangs atomic.Pointer[chan struct{}]
	reached := make(chan struct{}, 1)
	d := *logfile.SystemDisk()
	d.Fdatasync = func(f *os.File) error {
		syncs.Add(1)
		if hang := hangs.Load(); hang != nil {
			reached <- struct{}{}
			<-*hang
		}
		return logfile.SystemDisk().Fdatasync(f)
	}
	b := open(t, t.TempDir(), Options{Disk: &d})
	b.run(t)
	pulse := func() chan error {
		t.Helper()
		beat := make(chan error, 1)
		if err := b.Pulse(func(err error) { beat <- err }); err != nil {
			t.Fatal(err)
		}
		return beat
	}
	answered := func(beat chan error) {
		t.Helper()
		select {
		case err := <-beat:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(time.Minute):
			t.Fatal("no pulse")
		}
	}
	for range 2 {
		hang := make(chan struct{})
		hangs.Store(&hang)
		beat := pulse()
		select {
		case <-reached:
		case <-time.After(time.Minute):
			close(hang)
			t.Fatal("an idle pulse does not reach the disk")
		}
		select {
		case <-beat:
			t.Error("there is a pulse, and the disk hangs")
		default:
		}
		hangs.Store(nil)
		close(hang)
		answered(beat)
	}
	b.keep(t, 1)
	before := syncs.Load()
	answered(pulse())
	if n := syncs.Load() - before; n != 0 {
		t.Errorf("the disk is asked %d times, though it has just answered", n)
	}
	if err := os.Remove(b.reservePath()); err != nil {
		t.Fatal(err)
	}
	answered(pulse()) // a disk that refuses has answered
	b.keep(t, 1)
}
