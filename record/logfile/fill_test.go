package logfile

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/vitalgate/vitalgate/record"
)

// mend does what a peer does: it finds what is missing, and fills it from another copy.
func mend(t *testing.T, w *writer, copy *Log, part uint64) {
	t.Helper()
	for range 100 {
		_, missing := w.readAround(w.log.First())
		if len(missing) == 0 {
			return
		}
		from, to, atOnce, err := w.log.Wanted(&missing[0])
		if err != nil {
			t.Fatal(err)
		}
		if !atOnce {
			to = min(to, from+part)
		}
		var tree record.Tree
		var records []record.Published
		r := copy.Reader(0)
		for uint64(len(records)) < to-from {
			group, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range group {
				if p.Index < from {
					tree.Append(p.Leaf)
				} else if p.Index < to {
					records = append(records, p)
				}
			}
		}
		r.Close()
		if err := w.log.Fill(tree, records); err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("the log is never whole")
}

// What is damaged in a log, or left out of it, is filled from another copy while it is in use, and then the log is whole, also when
// it is opened again. Records of another log are not taken.
func TestFill(t *testing.T) {
	origin, from, want := damagedLog(t)
	full, err := Open(from, Options{SegmentBytes: 30 << 10, Disk: &quick})
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for name, spoil := range map[string]func(t *testing.T, dir string){
		"first": func(t *testing.T, dir string) { bend(t, dir, 0) },
		"last":  func(t *testing.T, dir string) { bend(t, dir, -1) },
		"gone": func(t *testing.T, dir string) {
			segments, err := listSegments(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(segments[1].name(dir)); err != nil {
				t.Fatal(err)
			}
		},
		"two": func(t *testing.T, dir string) { bend(t, dir, 0); bend(t, dir, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "log")
			copyLog(t, from, dir)
			spoil(t, dir)
			w := &writer{t: t, key: origin.key, sealer: origin.sealer}
			w.open(dir, Options{SegmentBytes: 30 << 10, Disk: &quick})
			if _, missing := w.readAround(0); len(missing) == 0 {
				t.Fatal("nothing is missing")
			}
			mend(t, w, full, 7)
			for range 2 {
				if got := w.read(0); uint64(len(got)) != want {
					t.Fatalf("%d of %d can be read", len(got), want)
				}
				w.log.Close()
				if r := w.check(dir); !r.Clean() {
					t.Fatalf("check: %+v", r)
				}
				w.open(dir, Options{SegmentBytes: 30 << 10, Disk: &quick})
			}
			w.log.Close()
		})
	}
	t.Run("records of another log", func(t *testing.T) {
		other := newWriter(t, filepath.Join(t.TempDir(), "other"), Options{Disk: &quick})
		for range 60 {
			other.append(2, 499)
			other.sync()
			other.sign()
		}
		dir := filepath.Join(t.TempDir(), "log")
		copyLog(t, from, dir)
		bend(t, dir, 0)
		w := &writer{t: t, key: origin.key, sealer: origin.sealer}
		w.open(dir, Options{Disk: &quick})
		defer w.log.Close()
		_, missing := w.readAround(0)
		_, to, _, err := w.log.Wanted(&missing[0])
		if err != nil {
			t.Fatal(err)
		}
		var records []record.Published
		r := other.log.Reader(0)
		defer r.Close()
		for uint64(len(records)) < to {
			group, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			records = append(records, group...)
		}
		if err := w.log.Fill(record.Tree{}, records[:to]); err == nil {
			t.Fatal("they are taken")
		}
	})
}

// bend spoils one leaf in the middle of a segment; -1 is the last one.
func bend(t *testing.T, dir string, i int) {
	t.Helper()
	segments, err := listSegments(dir)
	if err != nil {
		t.Fatal(err)
	}
	if i < 0 {
		i += len(segments)
	}
	name := segments[i].name(dir)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	at, kinds := entries(b)
	for j := len(at) / 2; j < len(at); j++ {
		if kinds[j] == typeLeaf {
			b[at[j]+20] ^= 4
			break
		}
	}
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A log goes on beyond leaves that never came; they can be filled in later, in parts, and one that is set aside for ever is no harm.
func TestSkip(t *testing.T) {
	origin, from, want := damagedLog(t)
	full, err := Open(from, Options{SegmentBytes: 30 << 10, Disk: &quick})
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	w := newWriter(t, filepath.Join(t.TempDir(), "log"), Options{SegmentBytes: 30 << 10, Disk: &quick})
	w.key = origin.key
	r := full.Reader(0)
	defer r.Close()
	var tree record.Tree
	for tree.Size() < want {
		group, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range group {
			skipped := tree.Size() >= 20 && tree.Size() < 90
			if tree.Size() == 90 {
				if err := w.log.Skip(tree); err != nil {
					t.Fatal(err)
				}
			}
			tree.Append(p.Leaf)
			if skipped {
				continue
			}
			if err := w.log.Append(p.Leaf); err != nil {
				t.Fatal(err)
			}
			if c, err := p.Checkpoint.Unverified(); err == nil && c.Size == tree.Size() {
				if err := w.log.AppendCheckpoint(p.Checkpoint, c); err != nil {
					t.Fatal(err)
				}
			}
		}
		w.sync()
	}
	got, missing := w.readAround(0)
	if len(missing) != 1 || missing[0].From != 20 || missing[0].To != 90 || uint64(len(got)) != want-70 {
		t.Fatalf("missing %v, %d can be read", missing, len(got))
	}
	if err := w.log.Skip(tree); err == nil {
		t.Fatal("nothing is left out, and yet")
	}
	w.log.Close()
	w.open(w.log.dir, Options{SegmentBytes: 30 << 10, Disk: &quick})
	if w.log.Next() != want || w.log.Found().SetBack != "" {
		t.Fatalf("opened at %d: %+v", w.log.Next(), w.log.Found())
	}
	mend(t, w, full, 33)
	if got := w.read(0); uint64(len(got)) != want {
		t.Fatalf("%d of %d can be read", len(got), want)
	}
	w.log.Close()
	if r := w.check(w.log.dir); !r.Clean() {
		t.Fatalf("check: %+v", r)
	}
}
