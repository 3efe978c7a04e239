package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vitalgate/vitalgate/peer/facility"
	"github.com/vitalgate/vitalgate/peer/store"
	"github.com/vitalgate/vitalgate/record/logfile"
)

// notBackedUp is what a peer makes again by itself: the streams are the boxes' mailboxes, which they fill again from their rings.
// What was cosigned must never be put back: a peer that has forgotten it could cosign a second history. So the cosigner's key stays
// behind with it, and a peer that is restored cosigns with a new one.
func notBackedUp(d facility.Dir) map[string]bool {
	return map[string]bool{d.Nats(): true, d.Cursors(): true, d.Lock(): true, d.Socket(): true, d.Witness(): true, d.CosignerKey(): true}
}

type backupCmd struct {
	data
	Out string `short:"o" required:"" placeholder:"DIR" help:"A new folder for the backup."`
}

func (c *backupCmd) Run() error {
	d := c.dir()
	if _, err := d.Load(); err != nil {
		return err
	}
	if err := copyPeer(d, c.Out, notBackedUp(d)); err != nil {
		return fmt.Errorf("cannot back up %s: %w", d, err)
	}
	damaged, err := report(facility.Dir(c.Out))
	if err != nil {
		return errors.Join(fmt.Errorf("cannot back up %s: %w", d, err), os.RemoveAll(c.Out))
	}
	if damaged > 0 {
		return fmt.Errorf("%s is a backup of %s, but the logs of %d boxes in it are damaged, as they are in what it was made from; when the peer has mended them (vitalpeer status), make another one", c.Out, d, damaged)
	}
	fmt.Printf("%s is a backup of %s. It holds the peer's keys: keep it like them.\n", c.Out, d)
	return nil
}

type restoreBackupCmd struct {
	data
	Backup string `arg:"" type:"existingdir" help:"Folder that vitalpeer backup has written."`
}

func (c *restoreBackupCmd) Run() error {
	d, from := c.dir(), facility.Dir(c.Backup)
	if _, err := from.Load(); err != nil {
		return fmt.Errorf("cannot restore: %w", err)
	}
	if err := copyPeer(from, string(d), notBackedUp(from)); err != nil {
		return fmt.Errorf("cannot restore %s: %w", d, err)
	}
	damaged, err := report(d)
	if err != nil {
		return fmt.Errorf("cannot read what was restored to %s: %w", d, err)
	}
	fmt.Printf("%s is restored. Run it: vitalpeer run --data %s\nWhat came after the backup it gets from the other peers and from the boxes. Never run it beside the peer that was backed up: they are one peer. It cosigns with a new key.\n", d, d)
	if damaged > 0 {
		return fmt.Errorf("the logs of %d boxes are damaged in the backup: when %s runs, it asks the other peers for what is missing", damaged, d)
	}
	return nil
}

// report checks the logs in a copy, says what they hold, and counts those that are damaged. The end of a log that was being written
// is no fault.
func report(d facility.Dir) (damaged int, err error) {
	state, err := d.Registry().Load()
	if err != nil {
		return 0, err
	}
	for _, r := range state.Boxes {
		dir := store.LogDir(d.Store(), r.ID())
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		rep, err := logfile.Check(dir, logfile.CheckOptions{Box: r.ID()})
		if err != nil {
			return damaged, err
		}
		if len(rep.Problems) > 0 {
			damaged++
		}
		for _, p := range rep.Problems {
			fmt.Println("  " + p.String())
		}
		fmt.Printf("%s: records %d to %d, %d of them signed\n", r.Box, rep.First, rep.Next, rep.Signed-min(rep.Signed, rep.First))
	}
	return damaged, nil
}

// copyPeer copies a peer's folder to one that is new, whole and synced or not at all. Logs may grow meanwhile: what is copied of them
// is a part that ends somewhere, as after a power cut. The head of the registry is copied first: one that names more entries than
// the log has is that of a log that was cut.
func copyPeer(d facility.Dir, to string, leaveOut map[string]bool) (err error) {
	from, head := string(d), d.Registry().Head
	if _, err := os.Lstat(to); err == nil {
		return fmt.Errorf("%s exists; name a new folder", to)
	}
	if in, err := inside(to, from); err != nil {
		return err
	} else if in {
		return fmt.Errorf("%s is inside %s; name a folder elsewhere", to, from)
	}
	work, err := os.MkdirTemp(filepath.Dir(filepath.Clean(to)), ".vitalpeer-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(work)
		}
	}()
	if err := copyFile(head, filepath.Join(work, filepath.Base(head))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err = filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // it was there when its folder was read
			return nil
		}
		if err != nil {
			return err
		}
		if leaveOut[path] || path == head {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch {
		case e.IsDir():
			return os.MkdirAll(filepath.Join(work, name), 0o700)
		case e.Type().IsRegular():
			err := copyFile(path, filepath.Join(work, name))
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := syncFolders(work); err != nil {
		return err
	}
	if err := os.Rename(work, to); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(filepath.Clean(to)))
}

// inside says whether a path that is to be made would be below dir.
func inside(path, dir string) (bool, error) {
	parent, err := filepath.EvalSymlinks(filepath.Dir(filepath.Clean(path)))
	if err != nil {
		return false, err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return false, err
	}
	if parent, err = filepath.Abs(parent); err != nil {
		return false, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return false, err
	}
	name, err := filepath.Rel(dir, parent)
	return err == nil && filepath.IsLocal(name), err
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, info.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Sync(), out.Close())
}

func syncFolders(root string) error {
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return err
		}
		return syncFolder(path)
	})
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
