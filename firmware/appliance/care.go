package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vitalgate/vitalgate/firmware/maintain"
	"github.com/vitalgate/vitalgate/image/release"
	"github.com/vitalgate/vitalgate/provision/protocol"
	"github.com/vitalgate/vitalgate/tpm"
)

// trialTime is how long a release on trial may take in messages without one coming through.
const trialTime = 15 * time.Minute

// mostFailures is how often the line may end by itself on trial.
const mostFailures = 5

// judge keeps the release that is on trial when a reading has come through, and gives it up when the line does not stay up or
// nothing comes through. While no monitor speaks there is nothing to judge by; a restart would go back.
func (b *box) judge(ctx context.Context) {
	began := time.Now()
	for tick := time.NewTicker(time.Second); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		kept, through, failed := b.work.state()
		unowned := !b.server.Owned() && time.Since(began) > time.Minute // there is no line; the link is up
		why := ""
		switch {
		case through || unowned:
			if err := b.updater.Commit(ctx); err != nil {
				b.log.Error("the release cannot be kept; it is tried again", "error", err.Error())
				select { // each try writes boot entries
				case <-ctx.Done():
				case <-time.After(time.Minute):
				}
				continue
			}
			b.trial.Store(false)
			if b.server.Owned() {
				if err := b.work.settle(boxFolder); err != nil {
					b.log.Error(err.Error())
				}
			}
			b.work.tell()
			return
		case failed >= mostFailures:
			why = fmt.Sprintf("the line from monitor to network ended %d times", failed)
		case kept > 0 && time.Since(began) > trialTime:
			why = fmt.Sprintf("messages came in for %v and none came through", trialTime)
		default:
			continue
		}
		t, err := b.updater.Trial()
		if err == nil {
			err = b.updater.GiveUp(t, why)
		}
		if err != nil {
			b.log.Error("the end of the trial cannot be noted", "error", err.Error())
		}
		b.again <- "the release on trial is given up: " + why
		return
	}
}

// update is maintain's Update.
func (b *box) update(ctx context.Context, bundle io.Reader, say func(string)) error {
	show := func(s string) {
		b.updating.Store(&s)
		b.work.tell()
	}
	err := b.updater.Take(ctx, bundle, func(s string) {
		b.log.Info("update: " + s)
		show(s)
		say(s)
	})
	if err != nil {
		show("")
		return err
	}
	b.restartSoon("a new release is to be tried")
	return nil
}

// oneStick is held while a stick is looked at: there is one place to mount it.
var oneStick sync.Mutex

// stick serves a stick: an update for any box, grant and configuration for one that is nobody's, readers for one that has an owner.
func (b *box) stick(ctx context.Context, device string) {
	oneStick.Lock()
	defer oneStick.Unlock()
	if err := mountStick(device); err != nil {
		b.log.Warn("a stick is of no use", "device", device, "why", err.Error())
		return
	}
	defer func() {
		if err := unix.Unmount(stickFolder, 0); err != nil {
			b.log.Error("the stick cannot be let go of", "error", err.Error())
			return
		}
		b.log.Info("the stick may be pulled", "device", device)
	}()
	if _, err := b.server.Stick(ctx, stickFolder); err != nil && !errors.Is(err, maintain.ErrOwned) {
		b.log.Warn("the stick was not taken", "why", err.Error())
	}
	f, err := os.Open(filepath.Join(string(protocol.StickAt(stickFolder)), release.BundleName))
	if err != nil {
		return
	}
	defer f.Close()
	if err := b.updateFromStick(ctx, f); err != nil {
		b.log.Warn("the update of the stick was refused", "why", err.Error())
	}
}

// updateFromStick leaves a bundle alone that was tried before: the stick may stay plugged in.
func (b *box) updateFromStick(ctx context.Context, f *os.File) error {
	bundle, err := release.OpenBundle(f, b.updater.Key)
	if err != nil {
		return err
	}
	t, err := b.updater.Trial()
	if err != nil {
		return err
	}
	if v := bundle.Manifest.Version; v == b.running.Version || v == t.Version && t.Outcome != "" {
		b.log.Info("the stick has nothing new", "version", v)
		return nil
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return b.update(ctx, f, func(string) {})
}

// wipe is maintain's Wipe: the disk loses its sealed key, the TPM forgets how to open it and the identity. What is carried over to
// the new data is the label, because it is stuck to the box. A TPM that does not answer is found out before anything is lost.
func (b *box) wipe(ctx context.Context) error {
	label := map[string][]byte{}
	for _, name := range own {
		text, err := os.ReadFile(filepath.Join(boxFolder, name))
		if err != nil {
			return fmt.Errorf("cannot carry the label over: %w", err)
		}
		label[name] = text
	}
	lowest, err := b.vault.Rollback(ctx)
	if err != nil {
		return err
	}
	if err := b.data.wipe(); err != nil {
		return err
	}
	if err := b.clear(ctx, lowest); err != nil {
		return err
	}
	if err := b.data.renew(ctx, b.vault, b.firm, label); err != nil {
		return err
	}
	b.log.Warn("the box was wiped")
	b.restartSoon("the box was reset")
	return nil
}

// clear ends everything that the TPM was asked to keep, but for the rollback index, which outlives a reset.
func (b *box) clear(ctx context.Context, lowest uint64) error {
	if err := b.vault.Clear(ctx); err != nil {
		return err
	}
	return b.vault.RaiseRollback(ctx, max(lowest, uint64(b.running.RollbackIndex)))
}

// locked is a box whose data cannot be opened. It says why, and waits: for a person who puts the disk back into its box, or who wants
// the box to begin anew, which a stick with the file vitalgate/reset.txt says. Nothing is lost by that: the data is of no use.
func (b *box) locked(ctx context.Context, plug *hotplug, why error) string {
	b.log.Error("the box is locked", "error", why.Error())
	if trial, err := b.onTrial(); err == nil && trial {
		return "the release on trial cannot open the data"
	}
	if b.vault == nil || b.drive == nil {
		time.Sleep(time.Minute)
		return "it is tried again"
	}
	plug.stick = func(device string) {
		oneStick.Lock()
		defer oneStick.Unlock()
		if err := mountStick(device); err != nil {
			return
		}
		_, err := os.Stat(filepath.Join(string(protocol.StickAt(stickFolder)), "reset.txt"))
		unix.Unmount(stickFolder, 0)
		if err != nil {
			return
		}
		if err := b.beginAnew(ctx); err != nil {
			b.log.Error("the box cannot be reset", "error", err.Error())
		}
	}
	go b.plugs(ctx, plug)
	go button(ctx, b.beginAnew, b.log)
	for {
		select {
		case why := <-b.again:
			return why
		case <-time.After(10 * time.Minute):
			if !errors.Is(why, tpm.ErrIdentity) && !errors.Is(why, errDamaged) {
				return "it is tried again"
			}
		}
	}
}

// beginAnew resets a box whose data cannot be opened.
func (b *box) beginAnew(ctx context.Context) error {
	lowest, err := b.vault.Rollback(ctx)
	if err != nil {
		return err
	}
	if err := (&store{device: b.drive.parts["vitalgate-data"]}).wipe(); err != nil {
		return err
	}
	if err := b.clear(ctx, lowest); err != nil {
		return err
	}
	b.log.Warn("the box was wiped")
	b.again <- "the box was reset"
	return nil
}

func (b *box) onTrial() (bool, error) {
	current, err := b.slots.Current()
	if err != nil {
		return false, err
	}
	committed, err := b.slots.Committed()
	return current != committed, err
}
