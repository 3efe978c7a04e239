// Package update puts a release into the slot that does not run, has it tried once, and keeps it when it has shown that readings
// come through. Until then every restart is back on the release of before.
package update

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"

	"github.com/vitalgate/vitalgate/image/disk"
	"github.com/vitalgate/vitalgate/image/release"
	"github.com/vitalgate/vitalgate/record/durable"
)

// Slot is one of the two places for a release.
type Slot string

const (
	A Slot = "a"
	B Slot = "b"
)

// Other is the slot that this one is not.
func (s Slot) Other() Slot {
	if s == A {
		return B
	}
	return A
}

// Slots is what firmware offers to choose what is started: UEFI here, other boards have other ways.
type Slots interface {
	Current() (Slot, error)   // runs now
	Committed() (Slot, error) // is started at every start
	Try(Slot) error           // is started at the next start, and only then
	Commit(Slot) error
}

// Mount is the device of a slot, opened for writing: a block device, or a file in a test.
type Mount interface {
	io.WriterAt
	io.ReaderAt
	Sync() error
	Forget() error // what was written is read from the medium again, not from a cache
	Close() error
}

// Trial is the note of an update, kept on the data partition. It says what is in the slot that is not committed, and how it went.
type Trial struct {
	Version string `json:"version"`
	Index   uint32 `json:"rollback_index"`
	Slot    Slot   `json:"slot"`
	Tries   int    `json:"tries"`
	Outcome string `json:"outcome,omitempty"` // "": not decided yet; "committed"; else why it was given up
}

// mostTries is how often a release is started before it is given up. A power cut on trial looks like a release that died.
const mostTries = 2

// Updater updates one box.
type Updater struct {
	Slots    Slots
	Open     func(Slot) (Mount, error)
	Key      *ecdsa.PublicKey                           // of releases
	Running  release.Running                            // what runs now
	Rollback func(context.Context) (uint64, error)      // lowest index that may run
	Raise    func(ctx context.Context, to uint64) error // raises it
	Note     string                                     // path of the trial's note
	Log      *slog.Logger

	mu sync.Mutex
}

// errBusy tells that one update is under way.
var errBusy = errors.New("cannot update: another update is under way")

// Take checks the bundle, writes it to the other slot and has it tried at the next start, which is the caller's to make. Nothing is
// written before signature, board and rollback index are good, and the slot can be started only when all of it is there: its
// first sector comes last.
func (u *Updater) Take(ctx context.Context, bundle io.Reader, say func(string)) error {
	if !u.mu.TryLock() {
		return errBusy
	}
	defer u.mu.Unlock()
	b, err := release.OpenBundle(bundle, u.Key)
	if err != nil {
		return err
	}
	m := b.Manifest
	lowest, err := u.Rollback(ctx)
	if err != nil {
		return err
	}
	lowest = max(lowest, uint64(u.Running.RollbackIndex))
	if uint64(m.RollbackIndex) < lowest {
		return fmt.Errorf("cannot update to release %s: its rollback index is %d, this box takes none below %d, because going back would be dangerous", m.Version, m.RollbackIndex, lowest)
	}
	current, err := u.Slots.Current()
	if err != nil {
		return err
	}
	committed, err := u.Slots.Committed()
	if err != nil {
		return err
	}
	if current != committed {
		return fmt.Errorf("cannot update: release %s is on trial; wait until it is kept, which takes a reading that comes through", u.Running.Version)
	}
	target := current.Other()
	say(fmt.Sprintf("release %s is genuine; writing it to slot %s", m.Version, target))
	if err := u.write(ctx, target, b, say); err != nil {
		return err
	}
	if err := u.keep(Trial{Version: m.Version, Index: m.RollbackIndex, Slot: target}); err != nil {
		return err
	}
	if err := u.try(target); err != nil {
		return err
	}
	say("written and read back; the box restarts and tries it. It is kept when a reading has come through, else the box goes back by itself")
	return nil
}

// try counts a trial before it is made.
func (u *Updater) try(s Slot) error {
	t, err := u.Trial()
	if err != nil {
		return err
	}
	t.Tries++
	if err := u.keep(t); err != nil {
		return err
	}
	return u.Slots.Try(s)
}

func (u *Updater) write(ctx context.Context, target Slot, b *release.Bundle, say func(string)) (err error) {
	cannot := func(err error) error {
		return fmt.Errorf("cannot write release %s to slot %s: %w; the box goes on with what it has", b.Manifest.Version, target, err)
	}
	m, err := u.Open(target)
	if err != nil {
		return cannot(err)
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	// From here on the slot cannot be started: without its first sector it is no file system.
	if _, err := m.WriteAt(make([]byte, head), 0); err != nil {
		return cannot(err)
	}
	if err := m.Sync(); err != nil {
		return cannot(err)
	}
	first := make([]byte, head)
	if _, err := io.ReadFull(b.Slot, first); err != nil {
		return cannot(err)
	}
	hash := sha256.New()
	hash.Write(first)
	buf := make([]byte, 1<<20)
	told := 0
	for at := int64(head); at < b.File.Size; {
		if err := ctx.Err(); err != nil {
			return cannot(context.Cause(ctx))
		}
		n, err := io.ReadFull(b.Slot, buf[:min(int64(len(buf)), b.File.Size-at)])
		if err != nil {
			return cannot(err)
		}
		hash.Write(buf[:n])
		if _, err := m.WriteAt(buf[:n], at); err != nil {
			return cannot(err)
		}
		at += int64(n)
		if percent := int(at * 100 / b.File.Size); percent >= told+25 {
			told = percent / 25 * 25
			say(fmt.Sprintf("%d %% written", told))
		}
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != b.File.SHA256 {
		return cannot(errors.New("the bundle is damaged: its slot is not the one that was signed"))
	}
	if err := errors.Join(m.Sync(), m.Forget()); err != nil {
		return cannot(err)
	}
	hash.Reset()
	hash.Write(first)
	if _, err := io.Copy(hash, io.NewSectionReader(m, head, b.File.Size-head)); err != nil {
		return cannot(err)
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != b.File.SHA256 {
		return cannot(errors.New("what was written does not read back the same; the disk is failing"))
	}
	if _, err := m.WriteAt(first, 0); err != nil {
		return cannot(err)
	}
	if err := m.Sync(); err != nil {
		return cannot(err)
	}
	return nil
}

// head is written last: one sector, which a disk writes whole or not at all.
const head = disk.Sector

// Begin looks at the note at the start of the box. It says whether this start is a trial, and whether the box must restart at
// once because an update is to be tried again.
func (u *Updater) Begin(ctx context.Context) (onTrial, again bool, err error) {
	t, err := u.Trial()
	if err != nil {
		return false, false, err
	}
	current, err := u.Slots.Current()
	if err != nil {
		return false, false, err
	}
	committed, err := u.Slots.Committed()
	if err != nil {
		return false, false, err
	}
	if current != committed {
		u.Log.Warn("this release is on trial", "version", u.Running.Version, "slot", string(current))
		return true, false, nil
	}
	if err := u.Raise(ctx, uint64(u.Running.RollbackIndex)); err != nil { // the power may have gone between commit and this
		return false, false, err
	}
	switch {
	case t.Slot == "" || t.Outcome != "":
		return false, false, nil
	case t.Slot == current:
		t.Outcome = "committed"
		return false, false, u.keep(t)
	case t.Tries < mostTries:
		u.Log.Warn("the release that was to be tried did not come to an end; it is tried again", "version", t.Version)
		return false, true, u.try(t.Slot)
	}
	return false, false, u.GiveUp(t, fmt.Sprintf("it was started %d times and did not get as far as a reading that comes through", t.Tries))
}

// GiveUp notes why a release is not kept. The next start is on the committed one.
func (u *Updater) GiveUp(t Trial, why string) error {
	t.Outcome = why
	u.Log.Error("the update was rolled back", "version", t.Version, "why", why)
	return u.keep(t)
}

// Commit keeps the release that runs: from now on it is started, and none with a lower rollback index is. The index comes last,
// because with it the release of before is refused.
func (u *Updater) Commit(ctx context.Context) error {
	current, err := u.Slots.Current()
	if err != nil {
		return err
	}
	if err := u.Slots.Commit(current); err != nil {
		return err
	}
	t, err := u.Trial()
	if err != nil {
		return err
	}
	t.Outcome = "committed"
	if err := u.keep(t); err != nil {
		return err
	}
	u.Log.Info("this release is kept", "version", u.Running.Version, "slot", string(current))
	return u.Raise(ctx, uint64(u.Running.RollbackIndex))
}

// Trial reads the note; it is empty where there was no update yet.
func (u *Updater) Trial() (t Trial, err error) {
	b, err := os.ReadFile(u.Note)
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return t, fmt.Errorf("cannot read the note of the update: %w", err)
	}
	if err := json.Unmarshal(b, &t); err != nil {
		u.Log.Error("the note of the update is damaged and is left aside", "error", err.Error())
		return Trial{}, nil
	}
	return t, nil
}

// keep puts the whole note in place, or leaves the old one.
func (u *Updater) keep(t Trial) error {
	b, err := json.Marshal(t)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(u.Note, b); err != nil {
		return fmt.Errorf("cannot keep the note of the update: %w", err)
	}
	return nil
}
