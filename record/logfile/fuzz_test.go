package logfile

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// Whatever stands in a segment file, Open and Check answer without a panic, and what Open takes is clean and goes on.
func FuzzSegment(f *testing.F) {
	segments, err := listSegments(filepath.Join(vectors, "log"))
	if err != nil {
		f.Fatal(err)
	}
	first, err := os.ReadFile(segments[0].name(filepath.Join(vectors, "log")))
	if err != nil {
		f.Fatal(err)
	}
	at, _ := entries(first)
	for _, end := range append(at[1:], len(first)) {
		f.Add(first[:end], true)
	}
	f.Add(first[:len(first)-3], false)
	dir := filepath.Join(f.TempDir(), "log")
	f.Fuzz(func(t *testing.T, b []byte, fix bool) {
		if fix { // so that what was bent is not only found by its checksum
			b = rechecked(b)
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(segment{}.name(dir), b, 0o600); err != nil {
			t.Fatal(err)
		}
		before, err := Check(dir, CheckOptions{})
		if errors.Is(err, errVersion) { // whole, and of other software
			if l, err := Open(dir, Options{Disk: &quick}); !errors.Is(err, errVersion) {
				t.Fatalf("check refuses its version; open: %v, %v", l, err)
			}
			if after, err := os.ReadFile(segment{}.name(dir)); err != nil || !bytes.Equal(after, b) {
				t.Fatalf("what other software wrote was changed (%v)", err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		l, err := Open(dir, Options{Disk: &quick})
		if err != nil {
			if before.Clean() {
				t.Fatalf("check finds nothing, but: %v", err)
			}
			return
		}
		defer l.Close()
		if len(before.Problems) == 0 && l.Found().Torn != before.Torn || l.Next() != before.Next || l.Signed() > l.Next() {
			t.Fatalf("check: %+v; open: torn %d, next %d", before, l.Found().Torn, l.Next())
		}
		if err := l.Append(leaf(l.Next(), 10)); err != nil {
			t.Fatal(err)
		}
		if err := l.Sync(); err != nil {
			t.Fatal(err)
		}
		r := l.Reader(0)
		defer r.Close()
		for {
			if _, err := r.Next(); err != nil {
				break // the end, or a checkpoint that signs another tree
			}
		}
	})
}

// rechecked gives each entry of b the checksum that it should have.
func rechecked(b []byte) []byte {
	b = append([]byte(nil), b...)
	for at := 0; at+overhead <= len(b); {
		n := int(b[at])<<24 | int(b[at+1])<<16 | int(b[at+2])<<8 | int(b[at+3])
		if n > len(b)-at-overhead {
			break
		}
		copy(b[at:], appendEntry(nil, b[at+4], b[at+5:at+5+n]))
		at += n + overhead
	}
	return b
}
