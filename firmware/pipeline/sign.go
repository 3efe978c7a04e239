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
	"github.com/vitalgate/vitalgate/tpm/attestation"
)

// sign is the signer loop: while the chip signs one checkpoint, leaves for the next collect (group commit, no timer).
// A chip that fails is a condition; readings go on being kept, and everything is signed when it is back.
// begun is the start of a run that is known from the beginning, or nil.
func (p *Pipeline) sign(ctx context.Context, begun *start) error {
	failing := false
	fail := func(err error) (again bool) {
		if ctx.Err() != nil {
			p.Log.Warn(unsigned, "error", err)
			return false
		}
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
	if begun != nil {
		if err := begun.wait(ctx); err != nil {
			return nil
		}
	}
	for p.booted == (tpm.Boot{}) { // what the TPM says of this start, or that it is not there: said though nothing has come to sign
		if _, err := p.clock(ctx); err != nil && !fail(err) {
			return nil
		}
	}
	recovered()
	for {
		if _, err := p.Spool.WaitUnsigned(ctx); err != nil {
			if ctx.Err() != nil {
				p.signLast(ctx)
				return nil
			}
			return err
		}
		if err := p.signTree(ctx); err != nil {
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

func (p *Pipeline) signTree(ctx context.Context) error {
	clock, err := p.clock(ctx)
	if err != nil {
		return err
	}
	tree, ok := p.Spool.Unsigned() // with the boot leaf, where that has just come
	if !ok {
		return nil
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

// clock asks the chip for its time, and has a boot leaf written first where that tells of another run of it.
func (p *Pipeline) clock(ctx context.Context) (uint64, error) {
	for {
		clock, boot, err := p.run()
		if err != nil {
			p.unattested = 0 // it is not there at all
			return 0, err
		}
		if boot == p.booted {
			return clock, nil
		}
		if err := p.announce(ctx, boot); err != nil {
			return 0, err
		}
	}
}

// announce gives the boot leaf of a run to the keeper. It waits until that is on disk, or the disk has refused it: nothing is signed in
// a run before what tells of the run can be signed with it (docs/spec/record.md §3). Readings are kept meanwhile. A line that ends first
// has not told of the run, and signs nothing in it.
func (p *Pipeline) announce(ctx context.Context, boot tpm.Boot) error {
	s := p.start(boot)
	if p.Attestor != nil {
		said, run, err := p.Attestor.Start(context.WithoutCancel(ctx), func(run tpm.Boot) ([]byte, error) {
			s.setRun(run)
			return s.leaf.Binding(p.Box)
		})
		switch {
		case err == nil:
			boot = run
			s.leaf.Evidence = evidence(said)
			p.unattested = 0
			p.Health.Clear("start-not-attested", "")
		case p.unattested < attempts:
			p.unattested++
			return err
		default: // it signs, and does not say what it is: the counters stay the box's own word
			s.setRun(boot)
			p.Health.Set(health.Condition{Code: "start-not-attested", Sentence: "The TPM does not attest this start: " + err.Error() + "."})
			p.Log.Error("cannot attest the start", "error", err)
		}
	}
	select {
	case <-p.starts: // not taken yet: this one is newer
	default:
	}
	p.starts <- s
	if err := s.wait(ctx); err != nil {
		return err
	}
	p.booted = boot
	return nil
}

// attempts is how often a TPM that answers is asked again to attest a start.
const attempts = 3

// evidence is what a TPM has said, as it stands in a boot leaf.
func evidence(s attestation.Start) *record.BootEvidence {
	e := &record.BootEvidence{Quote: record.Statement(s.Quote), Certify: record.Statement(s.Counter)}
	for _, n := range attestation.BootPCRs {
		e.PCRs = append(e.PCRs, record.PCR{Number: uint8(n), Value: [32]byte(s.PCRs[n])})
	}
	return e
}

const unsigned = "cannot sign the last readings; they are signed at the next start"

// signLast signs what was kept while the line was stopping, so that it can be published before the box stops. What it cannot
// sign is signed at the next start.
func (p *Pipeline) signLast(ctx context.Context) {
	for _, ok := p.Spool.Unsigned(); ok; _, ok = p.Spool.Unsigned() {
		if err := p.signTree(ctx); err != nil {
			p.Log.Warn(unsigned, "error", err)
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
