package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// disk is a small disk that can be filled.
type disk struct {
	dir string
	mu  sync.Mutex // held while it is filled, and while a backup is put back: whoever does that makes room first
}

const (
	diskSize = "256m"
	hog      = "hog" // the file that fills it
)

// newDisk puts the files of a folder on a small disk, which is mounted there. It needs the right to mount.
func newDisk(dir string) (*disk, error) {
	old := dir + ".old"
	if err := os.Rename(dir, old); err != nil {
		return nil, err
	}
	defer os.RemoveAll(old)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=700,size="+diskSize); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot mount a small disk: %w", err), os.Remove(dir), os.Rename(old, dir))
	}
	return &disk{dir: dir}, copyTree(old, dir)
}

func (d *disk) close() error { return unix.Unmount(d.dir, unix.MNT_DETACH) }

// fill leaves no room for a while. What becomes free meanwhile is not taken again.
func (d *disk) fill(long time.Duration) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	path := filepath.Join(d.dir, hog)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	for _, size := range []int{1 << 20, 4 << 10} {
		b := make([]byte, size)
		for err == nil {
			_, err = f.Write(b)
		}
		if !errors.Is(err, unix.ENOSPC) {
			break
		}
		err = nil
	}
	time.Sleep(long)
	return errors.Join(err, f.Close(), os.Remove(path))
}
