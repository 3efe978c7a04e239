// Package durable writes small files that must be whole after a power cut: those of the box and of a peer.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// WriteFile puts a whole file in place, readable by its owner alone, or leaves the old one: the new one is written beside it and
// synced, then renamed, then the folder is synced. When it has returned nil the file is there for good. One writer a file at a time. What stands in the way of the
// new one goes first: a link there, of somebody who may write to the folder, must not lead elsewhere.
func WriteFile(path string, b []byte) error {
	if err := os.Remove(path + ".new"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // O_EXCL follows no link (open(2))
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		os.Remove(path + ".new")
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir makes what was made, renamed or removed in a folder last.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
