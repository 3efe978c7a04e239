package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vitalgate/vitalgate/firmware/health"
	"github.com/vitalgate/vitalgate/firmware/spool"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/tpm"
)

// sign is the signer loop: while the chip signs one checkpoint, leaves for the next collect (group commit, no timer).
// A chip that fails is a condition; readings go on being kept, and everything is signed when it is back.
func (p *Pipeline) sign(ctx context.Context) error {
	failing := false
	fail := func(err error) (again bool) {
		failing = true
		if p.Health.Set(trouble(err)) {
			p.Log.Error("cannot sign", "error", err)
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(p.RetryAfter):
			return true
		}
	}
	recovered := func() {
		if failing {
			failing = false
			p.Health.Clear("not-signed", "")
			p.Log.Info("signing again")
		}
	}
	for p.booted == (tpm.Boot{}) { // the box has started without its TPM: that is said though nothing has come to sign
		if _, err := p.clock(); err != nil && !fail(err) {
			return nil
		}
	}
	recovered()
	for {
		tree, err := p.Spool.WaitUnsigned(ctx)
		if err != nil {
			if ctx.Err() != nil {
				p.signLast()
				return nil
			}
			return err
		}
		if err := p.signTree(tree); err != nil {
			if errors.Is(err, spool.ErrDisk) || errors.Is(err, spool.ErrClosed) {
				return err
			}
			if !fail(err) {
				return nil
			}
			continue
		}
		recovered()
	}
}

// trouble is the condition of a checkpoint that could not be made; it is tried again. Nothing is lost meanwhile.
func trouble(err error) health.Condition {
	c := health.Condition{Code: "not-signed", Severity: health.Critical}
	if errors.Is(err, errKeep) {
		c.Sentence = "Signatures are not kept: " + err.Error() + ". Readings are not published."
		c.Remedy = "The box's disk is full or fails. It goes on by itself when there is room; if it stays so, replace the box's storage."
		return c
	}
	const kept = ". Readings are kept on the box but not published."
	switch {
	case errors.Is(err, tpm.ErrIdentity):
		c.Sentence = "The TPM is not the one that this box was enrolled with: " + err.Error() + kept
		c.Remedy = "Put the old TPM, or the old main board, back into the box. If it is lost, enrol the box anew; what is kept on it is published under its old name no more."
	case errors.Is(err, tpm.ErrFirmware):
		c.Sentence = "The TPM does not sign under this firmware: " + err.Error() + kept
		c.Remedy = "Install a release of the box's maker, and leave secure boot as the factory has set it."
	case errors.Is(err, tpm.ErrLocked):
		c.Sentence = "The TPM has locked itself: " + err.Error() + kept
		c.Remedy = "Leave the box powered: the TPM opens by itself within hours. Keep other programs from the TPM."
	default:
		c.Sentence = "The TPM does not sign: " + err.Error() + kept
		c.Remedy = "It is tried again by itself. If it stays so for minutes, power the box off and on; if that does not help, the TPM must be replaced and the box enrolled anew."
	}
	return c
}

// errKeep tells a fault of the disk from one of the chip.
var errKeep = errors.New("cannot keep a checkpoint")

func (p *Pipeline) signTree(tree record.Tree) error {
	clock, err := p.clock()
	if err != nil {
		return err
	}
	boot := p.booted
	c := record.Checkpoint{
		Origin: p.Box.Origin(), Size: tree.Size(), Root: tree.Root(),
		Boot: boot.Resets, Clock: clock, Counter: boot.Counter, Protection: p.Protection,
	}
	sc, err := c.Sign(p.Signer.Data())
	if err != nil {
		return err
	}
	if err := p.Spool.AddCheckpoint(sc, c); err != nil {
		return fmt.Errorf("%w: %w", errKeep, err)
	}
	return nil
}

// clock asks the chip for its time, and has a boot leaf written where that tells of another run of it.
func (p *Pipeline) clock() (uint64, error) {
	clock, boot, err := p.run()
	if err != nil {
		return 0, err
	}
	if boot != p.booted {
		p.booted = boot
		select {
		case <-p.resets: // not taken yet: this one is newer
		default:
		}
		p.resets <- boot
	}
	return clock, nil
}

// signLast signs what was kept while the line was stopping, so that it can be published before the box stops. What it cannot
// sign is signed at the next start.
func (p *Pipeline) signLast() {
	for tree, ok := p.Spool.Unsigned(); ok; tree, ok = p.Spool.Unsigned() {
		if err := p.signTree(tree); err != nil {
			p.Log.Warn("cannot sign the last readings; they are signed at the next start", "error", err)
			return
		}
	}
}

// run is the time of the chip and the run of it that the time is of. Others use the chip too, and whoever finds it reset opens
// it anew: a time of one run under the counters of the next would look as if the chip had been set back.
func (p *Pipeline) run() (clock uint64, boot tpm.Boot, err error) {
	for before := p.Signer.Boot(); ; before = boot {
		if clock, err = p.Signer.Clock(); err != nil {
			return 0, boot, err
		}
		if boot = p.Signer.Boot(); boot == before {
			return clock, boot, nil
		}
	}
}
