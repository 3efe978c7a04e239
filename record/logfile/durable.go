package logfile

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Disk is all the calls by which a log changes its disk, so that a test can make each of them fail, or cut the power (package
// logfiletest). SystemDisk is the real one.
//
//	append   pwrite at the known end of the last segment; on error the segment is cut back to what was synced (Rollback)
//	sync     fdatasync of the last segment, which also makes its length durable; on error nothing is known any more: poisoned
//	rotate   open(O_TRUNC) next.tmp, pwrite the header, fdatasync, rename to its name, fsync the directory;
//	         a segment is never seen without its header, and the one before is complete and synced by then
//	drop     unlink of the oldest segments first, so that the rest is always one run
type Disk struct {
	Create    func(name string) (*os.File, error)
	Pwrite    func(f *os.File, b []byte, at int64) error
	Fdatasync func(f *os.File) error
	Truncate  func(f *os.File, size int64) error
	Rename    func(from, to string) error
	SyncDir   func(dir string) error
	Unlink    func(name string) error
}

// SystemDisk is the disk of the machine.
func SystemDisk() *Disk { return &system }

var system = Disk{
	Create: func(name string) (*os.File, error) {
		return os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	},
	Pwrite: func(f *os.File, b []byte, at int64) error {
		_, err := f.WriteAt(b, at)
		return err
	},
	Fdatasync: func(f *os.File) error {
		for {
			if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
				return err
			}
		}
	},
	Truncate: func(f *os.File, size int64) error { return f.Truncate(size) },
	Rename:   os.Rename,
	SyncDir: func(dir string) error {
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		defer d.Close()
		return d.Sync()
	},
	Unlink: os.Remove,
}

// lockDir takes the lock that makes its holder the one writer. It ends with the process.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another process writes it (%w); stop that one first", err)
	}
	return f, nil
}
