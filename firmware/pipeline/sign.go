package pipeline

import (
	"context"
	"errors"
	"time"

	"github.com/vitalgate/vitalgate/firmware/health"
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
				return p.signLast()
			}
			return err
		}
		if err := p.signTree(tree); err != nil {
			if errors.Is(err, errSpool) {
				return err
			}
			failing = true
			if p.Health.Set(health.Condition{Code: "tpm-failed", Severity: health.Critical, Sentence: "The TPM does not sign: " + err.Error() + ". Readings are kept on the box but not published.",
				Remedy: "Nothing is lost. If it stays so for minutes, restart the box; if it comes back, the TPM must be replaced and the box enrolled anew."}) {
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
			p.Health.Clear("tpm-failed", "")
			p.Log.Info("signing again")
		}
	}
}

// errSpool marks an error of the disk, which ends the loop, as against one of the chip, which is tried again.
var errSpool = errors.New("cannot keep a checkpoint")

func (p *Pipeline) signTree(tree record.Tree) error {
	clock, err := p.Signer.Clock()
	if err != nil {
		return err
	}
	c := record.Checkpoint{
		Origin: p.Box.Origin(), Size: tree.Size(), Root: tree.Root(),
		Boot: p.Boot.Resets, Clock: clock, Counter: p.Boot.Counter, Protection: p.Boot.Protection,
	}
	sc, err := c.Sign(p.Signer.Data())
	if err != nil {
		return err
	}
	if err := p.Spool.AddCheckpoint(sc, c); err != nil {
		return errors.Join(errSpool, err)
	}
	return nil
}

// signLast signs what was kept while the line was stopping, so that it can be published at the next start at once.
func (p *Pipeline) signLast() error {
	tree, ok := p.Spool.Unsigned()
	if !ok {
		return nil
	}
	return p.signTree(tree)
}
