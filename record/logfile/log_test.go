package logfile

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/record"
)

var testBox = record.BoxID{Facility: "f1", Name: "gw1"}

// writer is a box in small: it makes leaves and signs what the log proposes.
type writer struct {
	t      testing.TB
	log    *Log
	key    *ecdsa.PrivateKey
	sealer *record.Sealer
}

func newWriter(t testing.TB, dir string, o Options) *writer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	reader, err := record.GenerateReaderKey()
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := record.NewSealer(testBox, []record.ReaderKey{reader.Public()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &writer{t: t, key: key, sealer: sealer}
	w.open(dir, o)
	t.Cleanup(func() { w.log.Close() })
	return w
}

func (w *writer) open(dir string, o Options) {
	w.t.Helper()
	l, err := Open(dir, o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.log = l
}

// leaf is a small valid leaf: boot leaves need no epoch.
func leaf(i uint64, size int) record.Leaf {
	h := record.Header{Box: testBox, Index: i, Kind: record.KindBoot, Epoch: i, Arrived: time.UnixMilli(int64(1e12 + i))}
	return append(h.AppendText(nil), strings.Repeat("x", size)...)
}

func (w *writer) append(n, size int) {
	w.t.Helper()
	next := w.log.Next()
	var leaves []record.Leaf
	for i := range n {
		leaves = append(leaves, leaf(next+uint64(i), size))
	}
	if err := w.log.Append(leaves...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *writer) sync() {
	w.t.Helper()
	if err := w.log.Sync(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *writer) checkpoint(tree record.Tree) (record.SignedCheckpoint, record.Checkpoint) {
	w.t.Helper()
	c := record.Checkpoint{Origin: testBox.Origin(), Size: tree.Size(), Root: tree.Root(), Boot: 1, Protection: "software"}
	sc, err := c.Sign(w.key)
	if err != nil {
		w.t.Fatal(err)
	}
	return sc, c
}

// sign signs all that is unsigned, in as many checkpoints as the log proposes, and returns how many those were.
func (w *writer) sign() (n int) {
	w.t.Helper()
	for {
		tree, unsigned := w.log.Unsigned()
		if unsigned == 0 {
			return n
		}
		if err := w.log.AppendCheckpoint(w.checkpoint(tree)); err != nil {
			w.t.Fatal(err)
		}
		w.sync()
		n++
	}
}

// read reads all that is signed and verifies each record.
func (w *writer) read(from uint64) []record.Verified {
	w.t.Helper()
	r := w.log.Reader(from)
	defer r.Close()
	out, err := w.drain(r, from)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func (w *writer) drain(r *Reader, from uint64) (out []record.Verified, err error) {
	v := record.NewVerifier(testBox, &w.key.PublicKey)
	for {
		ps, err := r.Next()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		for _, p := range ps {
			one, err := v.Verify(p)
			if err != nil {
				return out, err
			}
			if p.Index != from+uint64(len(out)) {
				return out, fmt.Errorf("record %d came at the place of %d", p.Index, from+uint64(len(out)))
			}
			out = append(out, one)
		}
	}
}

// readAround reads all that is signed and can be read.
func (w *writer) readAround(from uint64) (out []record.Verified, missing []Missing) {
	w.t.Helper()
	r := w.log.Reader(from)
	defer r.Close()
	for {
		some, err := w.drain(r, r.From())
		out = append(out, some...)
		var m *Missing
		switch {
		case err == nil:
			return out, missing
		case errors.As(err, &m):
			missing = append(missing, *m)
		default:
			w.t.Fatal(err)
		}
	}
}

func (w *writer) check(dir string) Report {
	w.t.Helper()
	r, err := Check(dir, CheckOptions{Box: testBox, Key: &w.key.PublicKey})
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// A log gives back, from any place and after any reopening, what was signed, each record provable alone.
func TestWriteReopenRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	w := newWriter(t, dir, Options{SegmentBytes: 3000})
	for round := range 12 {
		w.append(1+round, 100)
		w.sync()
		if round%2 == 0 {
			w.sign()
		}
		if round%3 == 2 {
			if err := w.log.Close(); err != nil {
				t.Fatal(err)
			}
			w.open(dir, Options{SegmentBytes: 3000})
		}
	}
	if w.log.Next() != 78 || w.log.Signed() != 66 {
		t.Fatalf("next %d, signed %d; want 78, 66", w.log.Next(), w.log.Signed())
	}
	for from := range w.log.Signed() {
		if got := len(w.read(from)); uint64(got) != w.log.Signed()-from {
			t.Fatalf("from %d: %d records, want %d", from, got, w.log.Signed()-from)
		}
	}
	if r := w.check(dir); !r.Clean() || !r.Live || r.Next != 78 || r.Signed != 66 || r.Segments < 3 || r.Bytes != w.log.Bytes() {
		t.Fatalf("check: %+v, the log has %d bytes", r, w.log.Bytes())
	}
	if n := w.sign(); n == 0 || w.log.Signed() != 78 {
		t.Fatal("what was unsigned before could not be signed")
	}
}

// Leaves that arrive while the chip signs do not wait for it, and are signed by the next checkpoint.
func TestAppendWhileSigning(t *testing.T) {
	w := newWriter(t, t.TempDir(), Options{SegmentBytes: 2000})
	r := w.log.Reader(0)
	defer r.Close()
	var got []record.Verified
	for range 10 {
		w.append(5, 50)
		w.sync()
		tree, n := w.log.Unsigned()
		if n == 0 {
			t.Fatal("nothing to sign")
		}
		w.append(7, 50) // the chip is at work
		w.sync()
		w.append(1, 50) // and this is not even safe
		if err := w.log.AppendCheckpoint(w.checkpoint(tree)); err != nil {
			t.Fatal(err)
		}
		w.sync()
		more, err := w.drain(r, uint64(len(got)))
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, more...); uint64(len(got)) != tree.Size() {
			t.Fatalf("%d records can be read, %d are signed", len(got), tree.Size())
		}
	}
	w.sign()
	if got := w.read(0); uint64(len(got)) != w.log.Next() || len(got) != 130 {
		t.Fatalf("%d records at the end", len(got))
	}
}

// After hours without the chip the rest is signed in bounded parts, also after a restart.
func TestLongTimeUnsigned(t *testing.T) {
	dir := t.TempDir()
	w := newWriter(t, dir, Options{SegmentBytes: 200 << 10})
	for range 90 {
		w.append(100, 20)
		w.sync()
	}
	if _, n := w.log.Unsigned(); n > groupLeaves {
		t.Fatalf("one checkpoint would sign %d leaves", n)
	}
	w.log.Close()
	w.open(dir, Options{})
	if _, n := w.log.Unsigned(); n == 0 || n > groupLeaves {
		t.Fatalf("after a restart one checkpoint would sign %d leaves", n)
	}
	if n := w.sign(); n < 3 {
		t.Fatalf("9000 leaves were signed by %d checkpoints", n)
	}
	r := w.log.Reader(0)
	defer r.Close()
	for n := 0; n < 9000; {
		ps, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if len(ps) > groupLeaves {
			t.Fatalf("a reader got %d records at once", len(ps))
		}
		n += len(ps)
	}
	if len(w.read(4321)) != 9000-4321 {
		t.Fatal("not all can be read")
	}
	if r := w.check(dir); !r.Clean() {
		t.Fatalf("check: %v", r.Problems)
	}
}

// The ring gives up the oldest segments only, and readers ahead of them do not notice.
func TestDropBefore(t *testing.T) {
	dir := t.TempDir()
	w := newWriter(t, dir, Options{SegmentBytes: 1000})
	ahead, behind := w.log.Reader(0), w.log.Reader(0)
	defer ahead.Close()
	defer behind.Close()
	seen := uint64(0)
	for range 20 {
		w.append(3, 100)
		w.sync()
		w.sign()
		got, err := w.drain(ahead, seen)
		if err != nil {
			t.Fatal(err)
		}
		seen += uint64(len(got))
		if seen == 3 {
			if _, err := behind.Next(); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.log.DropBefore(seen); err != nil {
			t.Fatal(err)
		}
	}
	if seen != 60 || w.log.First() < 40 {
		t.Fatalf("seen %d, first %d", seen, w.log.First())
	}
	if _, err := behind.Next(); !errors.Is(err, ErrDropped) {
		t.Fatalf("a reader that was too slow: %v", err)
	}
	if _, err := w.log.Reader(w.log.First() - 1).Next(); !errors.Is(err, ErrDropped) {
		t.Fatalf("a reader of dropped leaves: %v", err)
	}
	first := w.log.First()
	w.log.Close()
	w.open(dir, Options{})
	if w.log.First() != first || uint64(len(w.read(first))) != 60-first {
		t.Fatal("after a restart the rest cannot be read")
	}
	if r := w.check(dir); !r.Clean() || r.First != first {
		t.Fatalf("check: %+v", r)
	}
	// What is not signed is never dropped.
	w.append(50, 100)
	w.sync()
	w.append(50, 100)
	w.sync()
	if err := w.log.DropBefore(1000); err != nil {
		t.Fatal(err)
	}
	w.sign()
	if len(w.read(60)) != 100 {
		t.Fatal("unsigned leaves were dropped")
	}
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	w := newWriter(t, dir, Options{})
	w.append(3, 10)
	w.sync()
	if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second writer: %v", err)
	}
	for name, l := range map[string]record.Leaf{
		"wrong index": leaf(4, 10), "no leaf": record.Leaf("hello"), "too large": leaf(3, record.MaxLeaf),
	} {
		if err := w.log.Append(l); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	tree, _ := w.log.Unsigned()
	sc, c := w.checkpoint(tree)
	other := c
	other.Counter++
	if err := w.log.AppendCheckpoint(sc, other); err == nil {
		t.Error("a checkpoint that says something else: taken")
	}
	var wrong record.Tree
	for range 3 {
		wrong.Append(record.Leaf("x"))
	}
	if err := w.log.AppendCheckpoint(w.checkpoint(wrong)); err == nil {
		t.Error("a checkpoint of another tree: taken")
	}
	if err := w.log.AppendCheckpoint(sc, c); err != nil {
		t.Fatal(err)
	}
	if err := w.log.AppendCheckpoint(sc, c); err == nil {
		t.Error("the same checkpoint twice: taken")
	}
	if w.log.Signed() != 0 {
		t.Error("readers see a checkpoint before it is safe")
	}
	w.sync()
	if len(w.read(0)) != 3 {
		t.Error("the log was harmed by what it refused")
	}
	// Odd files.
	w.log.Close()
	if err := os.WriteFile(filepath.Join(dir, "1.log"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), "1.log") {
		t.Errorf("a file that is no segment: %v", err)
	}
}
