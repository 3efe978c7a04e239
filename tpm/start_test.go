package tpm_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"syscall"
	"testing"

	"github.com/vitalgate/vitalgate/tpm"
	"github.com/vitalgate/vitalgate/tpm/attestation"
	"github.com/vitalgate/vitalgate/tpm/tpmtest"
)

// about is the qualifying data of a run in these tests.
func about(run tpm.Boot) ([]byte, error) {
	sum := sha256.Sum256(fmt.Append(nil, run))
	return sum[:], nil
}

func started(t *testing.T, a *tpm.Attestor) (attestation.Start, tpm.Boot, []byte) {
	t.Helper()
	s, run, err := a.Start(t.Context(), about)
	must(t, err)
	binding, err := about(run)
	must(t, err)
	return s, run, binding
}

// TestStartIsAttested is run over the kernel's driver too (tpmtest/qemu).
func TestStartIsAttested(t *testing.T) {
	sources(t, func(t *testing.T, source, dir string) {
		if source == "software" {
			t.Skip("nobody vouches for a key in a file")
		}
		var before tpm.Boot
		var last uint64
		for range 2 {
			x := open(t, source, dir)
			a, lak := attestor(t, x)
			s, run, binding := started(t, a)
			e, err := lak.Started(s, binding, run)
			must(t, err)
			if run != x.Boot() || run.Counter <= before.Counter || run.Resets < before.Resets || run.Resets == before.Resets && e.Clock <= last {
				t.Errorf("%+v at %d ms follows %+v at %d", run, e.Clock, before, last)
			}
			before, last = run, e.Clock
			stop(t, x)
		}
	})
}

func TestStartOfAnotherRunIsNotTaken(t *testing.T) {
	x, other := tpmtest.Open(t), tpmtest.Open(t)
	a, lak := attestor(t, x)
	b, _ := attestor(t, other)
	s, run, binding := started(t, a)
	x.Kill(syscall.SIGKILL) // the TPM is reset under the running box
	later, then, bindingThen := started(t, a)
	if then.Resets <= run.Resets || then.Counter != run.Counter {
		t.Fatalf("the run after the reset is %+v, before it was %+v", then, run)
	}
	stranger, _, _ := started(t, b)
	bend := func(change func(*attestation.Start)) attestation.Start {
		bent := attestation.Start{PCRs: maps.Clone(s.PCRs), Quote: s.Quote, Counter: s.Counter}
		change(&bent)
		return bent
	}
	flip := func(s attestation.Statement) attestation.Statement {
		s.Signature = bytes.Clone(s.Signature)
		s.Signature[len(s.Signature)-1] ^= 1
		return s
	}
	other11 := bytes.Repeat([]byte{1}, 32)
	for name, c := range map[string]struct {
		start   attestation.Start
		binding []byte
		run     tpm.Boot
		why     error
	}{
		"another leaf":              {s, bindingThen, run, attestation.ErrQuestion},
		"more resets":               {s, binding, tpm.Boot{Resets: run.Resets + 1, Restarts: run.Restarts, Counter: run.Counter}, attestation.ErrCounters},
		"more restarts":             {s, binding, tpm.Boot{Resets: run.Resets, Restarts: run.Restarts + 1, Counter: run.Counter}, attestation.ErrCounters},
		"another counter":           {s, binding, tpm.Boot{Resets: run.Resets, Restarts: run.Restarts, Counter: run.Counter + 1}, attestation.ErrCounters},
		"quote of another TPM":      {bend(func(s *attestation.Start) { s.Quote = stranger.Quote }), binding, run, attestation.ErrSignature},
		"counter of another TPM":    {bend(func(s *attestation.Start) { s.Counter = stranger.Counter }), binding, run, attestation.ErrSignature},
		"quote of another run":      {bend(func(s *attestation.Start) { s.Quote = later.Quote }), binding, run, attestation.ErrQuestion},
		"counter of another run":    {bend(func(s *attestation.Start) { s.Counter = later.Counter }), binding, run, attestation.ErrQuestion},
		"signature of the quote":    {bend(func(s *attestation.Start) { s.Quote = flip(s.Quote) }), binding, run, attestation.ErrSignature},
		"signature of the counter":  {bend(func(s *attestation.Start) { s.Counter = flip(s.Counter) }), binding, run, attestation.ErrSignature},
		"quote for the counter":     {bend(func(s *attestation.Start) { s.Counter = s.Quote }), binding, run, attestation.ErrKind},
		"counter for the quote":     {bend(func(s *attestation.Start) { s.Quote = s.Counter }), binding, run, attestation.ErrKind},
		"another value of PCR 11":   {bend(func(s *attestation.Start) { s.PCRs[11] = other11 }), binding, run, attestation.ErrPCRs},
		"PCR 11 left out":           {bend(func(s *attestation.Start) { delete(s.PCRs, 11) }), binding, run, attestation.ErrPCRs},
		"a PCR that was not quoted": {bend(func(s *attestation.Start) { s.PCRs[12] = other11 }), binding, run, attestation.ErrPCRs},
	} {
		if _, err := lak.Started(c.start, c.binding, c.run); !errors.Is(err, c.why) {
			t.Errorf("%s: %v, want: %v", name, err, c.why)
		}
	}
	for i := range s.Quote.Attest {
		if _, err := lak.Started(bend(func(s *attestation.Start) {
			s.Quote.Attest = bytes.Clone(s.Quote.Attest)
			s.Quote.Attest[i] ^= 1
		}), binding, run); !errors.Is(err, attestation.ErrSignature) {
			t.Errorf("byte %d of the quote changed: %v", i, err)
		}
	}
	// What is quoted must be all that peers judge by.
	few, values, err := a.Quote(t.Context(), binding, 0, 7)
	must(t, err)
	if _, err := lak.Started(attestation.Start{PCRs: values, Quote: few, Counter: s.Counter}, binding, run); !errors.Is(err, attestation.ErrPCRs) {
		t.Errorf("a quote of two PCRs: %v", err)
	}
}

// TestMeasured matches a release with what a box quotes that runs it.
func TestMeasured(t *testing.T) {
	release, quoted := bytes.Repeat([]byte{3}, 32), attestation.Extend(bytes.Repeat([]byte{3}, 32), attestation.Opened[:])
	p := attestation.PCRs{attestation.FirmwarePCR: quoted}
	if !p.Measured(release) || !p.Measured(quoted) || p.Measured(attestation.Extend(quoted, attestation.Opened[:])) || (attestation.PCRs{}).Measured(nil) {
		t.Error("PCR 11 is not told apart")
	}
}
