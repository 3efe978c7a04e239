package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vitalgate/vitalgate/firmware/health"
	"github.com/vitalgate/vitalgate/firmware/spool"
	"github.com/vitalgate/vitalgate/record"
)

// sign is the signer loop: while the chip signs one checkpoint, leaves for the next collect (group commit, no timer).
// A chip that fails is a condition; readings go on being kept, and everything is signed when it is back.
func (p *Pipeline) sign(ctx context.Context) error {
	failing := false
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
			failing = true
			if p.Health.Set(trouble(err)) {
				p.Log.Error("cannot sign", "error", err)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(p.RetryAfter):
			}
			continue
		}
		if failing {
			failing = false
			p.Health.Clear("not-signed", "")
			p.Log.Info("signing again")
		}
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
	c.Sentence = "The TPM does not sign: " + err.Error() + ". Readings are kept on the box but not published."
	c.Remedy = "If it stays so for minutes, restart the box; if it comes back, the TPM must be replaced and the box enrolled anew."
	return c
}

// errKeep tells a fault of the disk from one of the chip.
var errKeep = errors.New("cannot keep a checkpoint")

func (p *Pipeline) signTree(tree record.Tree) error {
	clock, err := p.Signer.Clock()
	if err != nil {
		return err
	}
	boot := p.Signer.Boot()
	if boot != p.booted {
		p.booted = boot
		select {
		case <-p.resets: // not taken yet: this one is newer
		default:
		}
		p.resets <- boot
	}
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
