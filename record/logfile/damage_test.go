package logfile

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// damagedLog is a closed log of some segments, each with many batches and checkpoints.
func damagedLog(t *testing.T) (w *writer, dir string, next uint64) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "log")
	w = newWriter(t, dir, Options{SegmentBytes: 30 << 10, Disk: &quick})
	for range 60 {
		w.append(2, 500)
		w.sync()
		w.sign()
	}
	next = w.log.Next()
	w.log.Close()
	return w, dir, next
}

// goesOn opens a damaged log and says what it gives: it takes and signs what comes, and what it lacks is named.
func goesOn(t *testing.T, w *writer, dir string) (next uint64, read, lost uint64) {
	t.Helper()
	w.open(dir, Options{SegmentBytes: 30 << 10, Disk: &quick})
	defer func() { w.log.Close() }()
	next = w.log.Next()
	w.append(2, 500)
	w.sync()
	w.sign()
	got, missing := w.readAround(w.log.First())
	for _, m := range missing {
		lost += m.To - m.From
	}
	if n := uint64(len(got)); n+lost != next+2-w.log.First() || got[n-1].Header().Index != next+1 {
		t.Fatalf("the log has leaves %d to %d; %d can be read, missing %v", w.log.First(), next+2, n, missing)
	}
	return next, uint64(len(got)), lost
}

// Blocks of the disk are destroyed anywhere, in the last segment or before: the log goes on at the index that it had, and loses only
// what stood there and what shares a checkpoint with it. What was damaged is kept, and Repair makes the files whole again.
func TestDamagedBlocks(t *testing.T) {
	dice := rand.New(rand.NewPCG(6, 0))
	origin, from, want := damagedLog(t)
	segments, err := listSegments(from)
	if err != nil || len(segments) < 3 {
		t.Fatal(len(segments), err)
	}
	dir := filepath.Join(t.TempDir(), "log")
	for round := 0; round < 60; round += few(3) {
		w := &writer{t: t, key: origin.key, sealer: origin.sealer}
		copyLog(t, from, dir)
		s := segments[dice.IntN(len(segments))]
		if round%2 == 0 {
			s = segments[len(segments)-1]
		}
		b, err := os.ReadFile(s.name(dir))
		if err != nil {
			t.Fatal(err)
		}
		at := dice.IntN(max(1, len(b)-8<<10)) // two checkpoints or more follow it
		if round%5 == 0 {
			at = 0
		}
		copy(b[at:min(at+4096, len(b))], bytes.Repeat([]byte{byte(round)}, 4096))
		if err := os.WriteFile(s.name(dir), b, 0o600); err != nil {
			t.Fatal(err)
		}
		next, _, lost := goesOn(t, w, dir)
		if next != want || lost > 14 {
			t.Fatalf("byte %d of %s: the log goes on at %d, not %d, and %d leaves are missing", at, s.name(dir), next, want, lost)
		}
		r := w.check(dir)
		if len(r.Problems) == 0 || r.Next != want+2 {
			t.Fatalf("check does not see the damage: %+v", r)
		}
		replaced, err := Repair(dir, &quick)
		if err != nil || len(replaced) != 1 {
			t.Fatalf("repaired %v: %v", replaced, err)
		}
		if again, err := Repair(dir, &quick); err != nil || len(again) > 0 {
			t.Fatalf("repaired twice: %v: %v", again, err)
		}
		if r := w.check(dir); len(r.Problems) > 0 || r.Next != want+2 || lost > 0 && len(r.Missing) != 1 {
			t.Fatalf("after the repair: %+v", r)
		}
		if kept, err := os.ReadFile(filepath.Join(dir, aside, filepath.Base(s.name(dir)))); err != nil || !bytes.HasPrefix(kept, b[:min(len(b), len(kept))]) {
			t.Fatalf("the damaged segment is not kept: %v", err)
		}
		if _, _, after := goesOn(t, w, dir); after != lost {
			t.Fatalf("%d leaves are missing after the repair, %d before", after, lost)
		}
	}
}

// A log may go on in a new segment that is still empty. What is destroyed before that, up to the end, is named before anything new comes.
func TestDamageBeforeAnEmptySegment(t *testing.T) {
	w, dir, want := damagedLog(t)
	before, at := lastSegment(t, dir)
	w.open(dir, Options{Disk: &quick})
	if err := w.log.begin(); err != nil {
		t.Fatal(err)
	}
	w.log.Close()
	clear(at[len(at)/2:])
	if err := os.WriteFile(before, at, 0o600); err != nil {
		t.Fatal(err)
	}
	w.open(dir, Options{Disk: &quick})
	defer func() { w.log.Close() }()
	got, missing := w.readAround(w.log.First())
	if len(missing) != 1 || missing[0].To != want || uint64(len(got)) != missing[0].From-w.log.First() {
		t.Fatalf("of %d leaves %d can be read, missing %v", want, len(got), missing)
	}
	r := w.log.Reader(missing[0].From)
	defer r.Close()
	if _, err := r.Next(); !errors.As(err, new(*Missing)) {
		t.Fatal(err)
	}
	w.append(2, 10)
	w.sync()
	w.sign()
	if news, err := r.Next(); err != nil || len(news) != 2 {
		t.Fatalf("%d new leaves, %v", len(news), err)
	}
}

// Nothing of the last segment can be read, or nothing at all: the log goes on from what there is, and says that it was set back, so
// that nobody signs under an index that may be signed already.
func TestDestroyedSegments(t *testing.T) {
	origin, from, want := damagedLog(t)
	segments, err := listSegments(from)
	if err != nil {
		t.Fatal(err)
	}
	last := segments[len(segments)-1]
	for name, c := range map[string]struct {
		destroy []segment
		next    uint64
	}{"the last": {segments[len(segments)-1:], last.first}, "all": {segments, 0}} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "log")
			copyLog(t, from, dir)
			for _, s := range c.destroy {
				if err := os.WriteFile(s.name(dir), make([]byte, s.size), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			w := &writer{t: t, key: origin.key, sealer: origin.sealer}
			w.open(dir, Options{Disk: &quick})
			if w.log.Next() != c.next || w.log.Found().SetBack == "" || c.next >= want {
				t.Fatalf("the log goes on at %d: %+v", w.log.Next(), w.log.Found())
			}
			w.append(1, 10)
			w.sync()
			w.log.Close()
			if _, err := os.Stat(filepath.Join(dir, aside, filepath.Base(last.name(dir)))); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A segment of a later version is no damage: it is not touched, and the log does not open.
func TestLaterVersionIsNotDamage(t *testing.T) {
	w, dir, _ := damagedLog(t)
	segments, err := listSegments(dir)
	if err != nil {
		t.Fatal(err)
	}
	name := segments[len(segments)-1].name(dir)
	later := appendEntry(nil, typeSegment, []byte("vitalgate/log/v9\n"), []byte("what it may hold"))
	if err := os.WriteFile(name, later, 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := Open(dir, Options{Disk: &quick}); !errors.Is(err, errVersion) {
		l.Close()
		t.Fatalf("opened: %v", err)
	}
	if _, err := Repair(dir, &quick); !errors.Is(err, errVersion) {
		t.Fatalf("repaired: %v", err)
	}
	if b, err := os.ReadFile(name); err != nil || !bytes.Equal(b, later) {
		t.Fatal("the segment has been changed", err)
	}
	_ = w
}

// A disk that is full when a damaged log is opened does not keep it from opening.
func TestDamagedLogOpensOnAFullDisk(t *testing.T) {
	w, dir, want := damagedLog(t)
	name, b := lastSegment(t, dir)
	b[len(b)/2] ^= 1
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	full := quick
	full.Create = func(string) (*os.File, error) { return nil, syscall.ENOSPC }
	w.open(dir, Options{SegmentBytes: 30 << 10, Disk: &full})
	if w.log.Next() != want {
		t.Fatalf("the log goes on at %d, not %d", w.log.Next(), want)
	}
	if err := w.log.Append(leaf(want, 10)); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	full.Create = quick.Create
	w.append(1, 10)
	w.sync()
	w.sign()
	w.log.Close()
	if next, _, _ := goesOn(t, w, dir); next != want+1 {
		t.Fatalf("the log goes on at %d", next)
	}
}
