package logfile

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A Reader that finds damage where it begins, and cannot open the segment a second time, says so once and for all.
func TestReaderWithoutAFileForTheNotes(t *testing.T) {
	origin, from, _ := damagedLog(t)
	dir := filepath.Join(t.TempDir(), "log")
	copyLog(t, from, dir)
	head, err := os.OpenFile(segment{}.name(dir), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = head.WriteAt(make([]byte, 64), 0)
	if err = errors.Join(err, head.Close()); err != nil {
		t.Fatal(err)
	}
	w := &writer{t: t, key: origin.key, sealer: origin.sealer}
	w.open(dir, Options{SegmentBytes: 30 << 10, Disk: &quick})
	defer w.log.Close()
	r := w.log.Reader(0)
	defer r.Close()

	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	free := uint64(f.Fd()) // it was the lowest one, and is again when it is closed
	f.Close()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	one := limit
	one.Cur = free + 1
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &one); err != nil {
		t.Fatal(err)
	}
	_, err = r.Next()
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, syscall.EMFILE) || errors.As(err, new(*Missing)) {
		t.Fatalf("the reader says %v", err)
	}
	if _, again := r.Next(); again == nil || again == io.EOF || again.Error() != err.Error() {
		t.Fatalf("the reader goes on with %v", again)
	}
}
