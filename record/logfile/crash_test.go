package logfile

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/leaktest"
	"github.com/vitalgate/vitalgate/record"
)

const childDir = "VITALGATE_TEST_LOG"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if err := child(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1) // only a kill ends it
	}
	leaktest.Main(m)
}

// child appends groups for ever and says on stdout how many leaves are safe, and how many of them are signed.
func child(dir string) error {
	l, err := Open(dir, Options{SegmentBytes: 40 << 10})
	if err != nil {
		return err
	}
	key, err := sharedKey(dir)
	if err != nil {
		return err
	}
	for {
		var group []record.Leaf
		for i := range 1 + rand.Uint64N(20) {
			group = append(group, leaf(l.Next()+i, int(rand.Uint64N(600))))
		}
		if err := l.Append(group...); err != nil {
			return err
		}
		if err := l.Sync(); err != nil {
			return err
		}
		if tree, n := l.Unsigned(); n > 50 {
			c := record.Checkpoint{Origin: testBox.Origin(), Size: tree.Size(), Root: tree.Root(), Protection: "software"}
			sc, err := c.Sign(key)
			if err != nil {
				return err
			}
			if err := l.AppendCheckpoint(sc, c); err != nil {
				return err
			}
			if err := l.Sync(); err != nil {
				return err
			}
		}
		fmt.Println(l.Next(), l.Signed())
	}
}

// What was acknowledged is there after kill -9 at any moment.
func TestKill(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	key, err := sharedKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	w := &writer{t: t, key: key}
	w.open(dir, Options{})
	var safe, signed uint64
	for range 40 {
		w.log.Close()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		time.AfterFunc(time.Duration(10+rand.IntN(60))*time.Millisecond, func() { cmd.Process.Kill() })
		for lines.Scan() {
			fmt.Sscan(lines.Text(), &safe, &signed)
		}
		cmd.Wait()
		if stderr.Len() > 0 {
			t.Fatalf("the writer stopped by itself: %s", &stderr)
		}
		w.open(dir, Options{})
		if w.log.Next() < safe || w.log.Signed() < signed {
			t.Fatalf("%d leaves were safe and %d signed; %d and %d are there", safe, signed, w.log.Next(), w.log.Signed())
		}
	}
	defer func() { w.log.Close() }()
	if safe < 1000 {
		t.Logf("only %d leaves were written; the machine is slow", safe)
	}
	w.sign()
	if got := w.read(0); uint64(len(got)) != w.log.Next() {
		t.Fatalf("%d of %d leaves can be read", len(got), w.log.Next())
	}
	if r := w.check(dir); !r.Clean() {
		t.Fatalf("check: %v", r.Problems)
	}
}

// few is the step of a loop over many like cases: 1, or a larger one where tests are to be short.
func few(step int) int {
	if testing.Short() {
		return step
	}
	return 1
}

// copyLog copies the files of a closed log.
func copyLog(t *testing.T, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// lastSegment returns the name and the bytes of the last segment.
func lastSegment(t *testing.T, dir string) (string, []byte) {
	t.Helper()
	s, err := listSegments(dir)
	if err != nil {
		t.Fatal(err)
	}
	name := s[len(s)-1].name(dir)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return name, b
}

// entries returns where each entry of a segment begins, with its type.
func entries(b []byte) (at []int, kinds []byte) {
	for i := 0; i < len(b); i += int(binary.BigEndian.Uint32(b[i:])) + overhead {
		at, kinds = append(at, i), append(kinds, b[i+4])
	}
	return at, kinds
}

// A power cut may leave any prefix of what was being written, and rubbish after it. The log opens with all whole entries before the
// cut, goes on, and is clean.
func TestTornTail(t *testing.T) {
	origin, dir := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	w := newWriter(t, origin, Options{})
	w.append(4, 100)
	w.sync()
	w.sign()
	w.append(3, 80)
	w.append(2, 10)
	w.sync() // the last batch: a mark and five leaves
	w.log.Close()
	_, whole := lastSegment(t, origin)
	at, kinds := entries(whole)
	if string(kinds) != string([]byte{typeSegment, typeMark, typeLeaf, typeLeaf, typeLeaf, typeLeaf, typeMark, typeCheckpoint,
		typeMark, typeLeaf, typeLeaf, typeLeaf, typeLeaf, typeLeaf}) {
		t.Fatalf("entries %v", kinds)
	}
	for cut := at[8]; cut <= len(whole); cut += few(7) {
		for _, junk := range []int{0, 40} {
			copyLog(t, origin, dir)
			name, _ := lastSegment(t, dir)
			torn := append([]byte(nil), whole[:cut]...)
			if cut < len(whole) {
				torn = append(torn, make([]byte, junk)...)
			}
			if err := os.WriteFile(name, torn, 0o600); err != nil {
				t.Fatal(err)
			}
			kept := uint64(4)
			for i := 9; i < len(at); i++ {
				if end := append(at, len(whole))[i+1]; cut >= end {
					kept++
				}
			}
			w.open(dir, Options{Disk: &quick})
			if w.log.Next() != kept || w.log.Signed() != 4 {
				t.Fatalf("cut at %d: next %d, signed %d; want %d, 4", cut, w.log.Next(), w.log.Signed(), kept)
			}
			w.append(1, 5)
			w.sync()
			w.sign()
			if got := w.read(0); uint64(len(got)) != kept+1 {
				t.Fatalf("cut at %d: %d records", cut, len(got))
			}
			w.log.Close()
			if r := w.check(dir); !r.Clean() || r.Live {
				t.Fatalf("cut at %d: check: %+v", cut, r)
			}
		}
	}
}

// Each byte of a log that changes on the disk is found, and never silently cut off where later writes show that it was safe. The log
// goes on, and gives all that is not damaged, or not in one checkpoint with what is.
func TestEveryByteFlipped(t *testing.T) {
	origin, dir := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	w := newWriter(t, origin, Options{SegmentBytes: 900})
	for range 4 {
		w.append(2, 30)
		w.sync()
		w.sign()
	}
	w.log.Close()
	if r := w.check(origin); !r.Clean() || r.Segments < 2 || r.Next != 8 {
		t.Fatalf("before: %+v", r)
	}
	copyLog(t, origin, dir)
	segments, _ := listSegments(origin)
	for i, s := range segments {
		whole, err := os.ReadFile(s.name(origin))
		if err != nil {
			t.Fatal(err)
		}
		at, kinds := entries(whole)
		lastMark := 0
		for j, k := range kinds {
			if k == typeMark {
				lastMark = at[j]
			}
		}
		for off := 0; off < len(whole); off += few(5) {
			bent := append([]byte(nil), whole...)
			bent[off] ^= 1 << (off % 8)
			if err := os.WriteFile(s.name(dir), bent, 0o600); err != nil {
				t.Fatal(err)
			}
			if r := w.check(dir); r.Clean() {
				t.Fatalf("segment %d: check does not see byte %d", i, off)
			}
			if off >= lastMark && i == len(segments)-1 || off%7 != 0 {
				continue // no later write shows that it was safe; or enough of them are tried
			}
			w.open(dir, Options{Disk: &quick})
			if got := w.log.Next(); got != 8 || w.log.Found().SetBack != "" {
				t.Fatalf("segment %d, byte %d was safe and is damaged: the log ends at %d, %+v", i, off, got, w.log.Found())
			}
			w.append(1, 30)
			w.sync()
			w.sign()
			got, missing := w.readAround(0)
			lost := uint64(0)
			for _, m := range missing {
				if lost += m.To - m.From; !strings.Contains(m.Error(), filepath.Base(s.name(dir))) {
					t.Fatalf("segment %d, byte %d: %v", i, off, m)
				}
			}
			if uint64(len(got))+lost != 9 || len(got) < 5 || got[len(got)-1].Header().Index != 8 {
				t.Fatalf("segment %d, byte %d: %d records can be read, missing %v", i, off, len(got), missing)
			}
			w.log.Close()
			copyLog(t, origin, dir)
		}
		if err := os.WriteFile(s.name(dir), whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// A segment that is gone, and one of another log.
	if err := os.Remove(segments[1].name(dir)); err != nil {
		t.Fatal(err)
	}
	if len(segments) > 2 {
		if r := w.check(dir); r.Clean() {
			t.Error("check does not see that a segment is missing")
		}
	}
}

// quick is the disk without waiting for it: what a test cuts or bends itself need not be synced.
var quick = func() Disk {
	s := system
	s.Fdatasync = func(*os.File) error { return nil }
	s.SyncDir = func(string) error { return nil }
	return s
}()

var errDisk = fmt.Errorf("injected: %w", syscall.EIO)

// failing returns system calls of which the nth call of one kind fails, before or after it was done.
func failing(call string, n int, after bool, with error) *Disk {
	s := quick
	hit := func(name string, do func() error) error {
		if name != call {
			return do()
		}
		if n--; n != 0 {
			return do()
		}
		if after {
			if err := do(); err != nil {
				return err
			}
		}
		return with
	}
	s.Create = func(name string) (f *os.File, err error) {
		err = hit("create", func() (err error) { f, err = system.Create(name); return err })
		if err != nil && f != nil {
			f.Close()
		}
		return f, err
	}
	s.Pwrite = func(f *os.File, b []byte, at int64) error {
		err := hit("pwrite", func() error { return system.Pwrite(f, b, at) })
		if err != nil && !after {
			system.Pwrite(f, b[:len(b)/2], at) // a short write
		}
		return err
	}
	s.Fdatasync = func(f *os.File) error { return hit("fdatasync", func() error { return quick.Fdatasync(f) }) }
	s.Truncate = func(f *os.File, size int64) error {
		return hit("truncate", func() error { return system.Truncate(f, size) })
	}
	s.Rename = func(from, to string) error { return hit("rename", func() error { return system.Rename(from, to) }) }
	s.SyncDir = func(dir string) error { return hit("syncDir", func() error { return quick.SyncDir(dir) }) }
	s.Unlink = func(name string) error { return hit("unlink", func() error { return system.Unlink(name) }) }
	return &s
}

// Whatever call of the disk fails, once, whether it was done or not: what Sync returned for is there, and the log opens again.
func TestFaults(t *testing.T) {
	for _, call := range []string{"create", "pwrite", "fdatasync", "truncate", "rename", "syncDir", "unlink"} {
		for _, after := range []bool{false, true} {
			for n := 1; n <= 30; n++ {
				t.Run(fmt.Sprintf("%s-%d-%v", call, n, after), func(t *testing.T) {
					dir := filepath.Join(t.TempDir(), "log")
					w := newWriter(t, dir, Options{SegmentBytes: 600, Disk: &quick})
					w.append(2, 100)
					w.sync()
					w.sign()
					w.log.Close()
					safe := faulty(t, w, dir, failing(call, n, after, errDisk))
					w.log.Close()
					w.open(dir, Options{Disk: &quick})
					if w.log.Next() < safe {
						t.Fatalf("%d leaves were safe, %d are there", safe, w.log.Next())
					}
					w.sign()
					if first := w.log.First(); uint64(len(w.read(first))) != w.log.Next()-first {
						t.Fatal("not all can be read")
					}
					if r := w.check(dir); !r.Clean() {
						t.Fatalf("check: %v", r.Problems)
					}
				})
			}
		}
	}
}

// faulty writes some groups on a disk that fails once, and returns how many leaves it was told are safe.
func faulty(t *testing.T, w *writer, dir string, calls *Disk) (safe uint64) {
	safe = 2
	l, err := Open(dir, Options{SegmentBytes: 600, Disk: calls})
	if err != nil {
		w.open(dir, Options{Disk: &quick})
		return safe
	}
	w.log = l
	for range 8 {
		err := l.Append(leaf(l.Next(), 100), leaf(l.Next()+1, 100))
		if err == nil {
			err = l.Sync()
		}
		if err == nil {
			safe = l.Next()
			tree, _ := l.Unsigned()
			if err = l.AppendCheckpoint(w.checkpoint(tree)); err == nil {
				err = l.Sync()
			}
			if err == nil {
				err = l.DropBefore(safe - 4)
			}
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, syscall.EIO) {
			t.Fatalf("the error does not say what failed: %v", err)
		}
		if again := l.Rollback(); again != nil {
			if !errors.Is(again, ErrPoisoned) || l.Append(leaf(l.Next(), 1)) == nil || l.Sync() == nil {
				t.Fatalf("after %v: %v, but the log goes on", err, again)
			}
			return safe
		}
		if l.Next() != safe && !errors.Is(err, ErrPoisoned) {
			t.Fatalf("rolled back to %d, %d are safe", l.Next(), safe)
		}
	}
	return safe
}

// A full disk is no end: nothing half-written stays, and when there is space again the log goes on without restart.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	w := newWriter(t, dir, Options{})
	w.append(3, 50)
	w.sync()
	w.sign()
	full := true
	calls := system
	calls.Pwrite = func(f *os.File, b []byte, at int64) error {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if full && at+int64(len(b)) > info.Size() { // what has its place on the disk can be written again
			system.Pwrite(f, b[:len(b)/3], at)
			return syscall.ENOSPC
		}
		return system.Pwrite(f, b, at)
	}
	w.log.Close()
	w.open(dir, Options{Disk: &calls})
	for range 3 {
		w.append(5, 50)
		err := w.log.Sync()
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		if again := w.log.Sync(); !errors.Is(again, syscall.ENOSPC) {
			t.Fatalf("a second Sync after a failed one: %v", again)
		}
		if err := w.log.Append(leaf(w.log.Next(), 1)); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("Append after a failed Sync: %v", err)
		}
		if err := w.log.Rollback(); err != nil {
			t.Fatal(err)
		}
		if w.log.Next() != 3 {
			t.Fatalf("rolled back to %d", w.log.Next())
		}
		if len(w.read(0)) != 3 {
			t.Fatal("what was safe cannot be read while the disk is full")
		}
	}
	full = false
	w.append(5, 50)
	w.sync()
	w.sign()
	if len(w.read(0)) != 8 {
		t.Fatal("not all can be read")
	}
	if r := w.check(dir); !r.Clean() {
		t.Fatalf("check: %v", r.Problems)
	}
}

// A reader beside a writer gets each record once, in order.
func TestReaderBesideWriter(t *testing.T) {
	w := newWriter(t, t.TempDir(), Options{SegmentBytes: 20 << 10})
	const total = 3000
	done := make(chan error, 1)
	go func() {
		r := w.log.Reader(0)
		defer r.Close()
		v := record.NewVerifier(testBox, &w.key.PublicKey)
		for next := uint64(0); next < total; {
			ps, err := r.Next()
			if err == io.EOF {
				time.Sleep(time.Millisecond)
				continue
			}
			for _, p := range ps {
				if _, bad := v.Verify(p); bad != nil || p.Index != next {
					err = fmt.Errorf("record %d at the place of %d: %w", p.Index, next, bad)
				}
				next++
			}
			if err != nil {
				done <- err
				return
			}
			w.log.DropBefore(next / 2)
		}
		done <- nil
	}()
	for w.log.Next() < total {
		w.append(20, 100)
		w.sync()
		w.sign()
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
