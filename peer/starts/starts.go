// Package starts judges what the TPM of a box says of each start of it, in the boot leaves of its log: whether the counters and the
// firmware are the TPM's word or the box's, and whether somebody has bent them.
package starts

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/vitalgate/vitalgate/peer/registry"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/tpm/attestation"
)

// Verdict is what a start is taken for, in one stable word.
type Verdict string

// A start is attested, or claimed, or forged for one of the reasons behind.
const (
	Attested Verdict = "attested" // the box's TPM says so itself
	Claimed  Verdict = "claimed"  // form 1, a later form, or no attestation key of the box is known: it is the box's own word

	Form      Verdict = "start-form"      // the boot leaf is not in its one form
	Signature Verdict = "start-signature" // a statement is not signed by the box's attestation key
	Statement Verdict = "start-statement" // it was signed, but it is not what a TPM says at a start
	Binding   Verdict = "start-binding"   // it is about another box, another log, other claims
	PCRs      Verdict = "start-pcrs"      // the PCRs are not those that were quoted
	Counters  Verdict = "start-counters"  // the counters are not those of the TPM
	Replayed  Verdict = "start-replayed"  // an older start is shown again, or the TPM was set back
	OtherLog  Verdict = "start-other-log" // it names a log that the box had not
)

// Forged says whether who wrote the boot leaf has lied.
func (v Verdict) Forged() bool { return v != Attested && v != Claimed }

// Start is a start of a box as its log tells it.
type Start struct {
	Index    uint64  `json:"index"` // of the boot leaf
	Verdict  Verdict `json:"verdict"`
	Why      string  `json:"why,omitempty"` // one sentence on other verdicts than attested
	Resets   uint32  `json:"resets"`
	Restarts uint32  `json:"restarts"`
	Counter  uint64  `json:"counter"`
	Clock    uint64  `json:"clock,omitempty"` // of the TPM, in milliseconds; attested starts only
	Software string  `json:"software"`
	PCR11    string  `json:"pcr11,omitempty"` // hex; what was started, as measured; attested starts only
}

// Firmware says whether a start is of a firmware that stands in a deny-list: by its name, or as "pcr11:" and the hex value that a release
// measures itself to, or that a box quotes which runs it.
func (s Start) Firmware(denied map[string]string) (name, why string, yes bool) {
	if why, yes := denied[s.Software]; yes {
		return s.Software, why, true
	}
	pcr, err := hex.DecodeString(s.PCR11)
	if err != nil || len(pcr) == 0 {
		return "", "", false
	}
	quoted := attestation.PCRs{attestation.FirmwarePCR: pcr}
	for name, why := range denied {
		if value, ok := registry.MeasuredFirmware(name); ok && quoted.Measured(value) {
			return name, why, true
		}
	}
	return "", "", false
}

// At is the start that a record belongs to; nil where that is not known. all are the starts of its box, in their order.
func At(all []Start, index uint64) *Start {
	n, _ := slices.BinarySearchFunc(all, index, func(s Start, i uint64) int {
		if s.Index <= i {
			return -1
		}
		return 1
	})
	if n == 0 {
		return nil
	}
	return &all[n-1]
}

// Withheld is the start of a record if it is forged: no reader gets the record then. Else it is nil.
func Withheld(all []Start, index uint64) *Start {
	if s := At(all, index); s != nil && s.Verdict.Forged() {
		return s
	}
	return nil
}

// Version is raised whenever Judge comes to judge a start otherwise than before, so that what was noted of it is judged again.
const Version = 1

// Judge says what the start of a verified boot leaf is. before are the starts of the box before it, in their order. known is a record of
// its log as it is here; ok is false where it cannot be told.
func Judge(v record.Verified, r *registry.Registration, before []Start, known func(index uint64) (_ record.Verified, ok bool)) Start {
	s := Start{Index: v.Header().Index, Verdict: Claimed}
	lak, since := r.ChipAt(s.Index)
	boot, err := record.ParseBoot(v.Body())
	if errors.Is(err, record.ErrLaterBoot) {
		s.Why = "Its boot leaf has a form that this program does not know; update vitalpeer."
		return s
	}
	if err != nil {
		return s.forged(Form, err.Error())
	}
	s.Resets, s.Restarts, s.Counter, s.Software = boot.Resets, boot.Restarts, boot.Counter, boot.Software
	switch {
	case boot.Evidence == nil:
		s.Why = "The box has not had its TPM attest this start."
		return s
	case lak == nil:
		s.Why = "No attestation key of this box is in the registry."
		return s
	}
	key, err := attestation.ParseLAK(lak)
	if err != nil {
		s.Why = "The attestation key in the registry cannot be used: " + err.Error() + "."
		return s
	}
	binding, err := boot.Binding(v.Header().Box)
	if err != nil {
		return s.forged(Form, err.Error())
	}
	e, err := started(key, binding, boot)
	if verdictOf(err) == Signature && ofEarlier(r, s.Index, binding, boot) {
		s.Why = "It was attested by the TPM that the box had before."
		return s
	}
	if err != nil {
		return s.forged(verdictOf(err), err.Error())
	}
	s.Clock = e.Clock
	for _, p := range boot.Evidence.PCRs {
		if p.Number == attestation.FirmwarePCR {
			s.PCR11 = hex.EncodeToString(p.Value[:])
		}
	}
	if c := v.Checkpoint(); c.Counter < boot.Counter || c.Boot < boot.Resets {
		return s.forged(Counters, fmt.Sprintf("the checkpoint over the start has lower counters (%d, %d) than the TPM says (%d, %d)", c.Counter, c.Boot, boot.Counter, boot.Resets))
	}
	for _, b := range before {
		if b.Verdict == Attested && b.Index >= since && !s.after(b) {
			return s.forged(Replayed, fmt.Sprintf("the TPM was at counter %d, reset %d, %d ms at an earlier start, and is shown at counter %d, reset %d, %d ms",
				b.Counter, b.Resets, b.Clock, s.Counter, s.Resets, s.Clock))
		}
	}
	if boot.LastSize > s.Index {
		return s.forged(OtherLog, "it names a log that is longer than the one it stands in")
	}
	if boot.LastSize > 0 { // of no log every root is as good
		if last, ok := known(boot.LastSize - 1); ok && last.After().Root != boot.LastRoot {
			return s.forged(OtherLog, fmt.Sprintf("the first %d records of its log are others than those here", boot.LastSize))
		}
	}
	if boot.LastSize < s.Index {
		// Records that were kept while the TPM was away may be signed before the leaf, all in the run that it tells of.
		if next, ok := known(boot.LastSize); ok {
			if c := next.Checkpoint(); c.Size <= s.Index && (c.Counter != boot.Counter || c.Boot != boot.Resets) {
				s.Clock, s.PCR11 = 0, ""
				s.Why = fmt.Sprintf("What its TPM has attested was kept back: since then the box has signed in another run (counter %d, reset %d).", c.Counter, c.Boot)
				return s
			}
		}
	}
	s.Verdict = Attested
	return s
}

// started checks what a TPM has said of a start.
func started(key *attestation.LAK, binding []byte, boot record.Boot) (attestation.Evidence, error) {
	said := attestation.Start{PCRs: attestation.PCRs{}, Quote: attestation.Statement(boot.Evidence.Quote), Counter: attestation.Statement(boot.Evidence.Certify)}
	for _, p := range boot.Evidence.PCRs {
		said.PCRs[uint(p.Number)] = p.Value[:]
	}
	return key.Started(said, binding, attestation.Boot{Resets: boot.Resets, Restarts: boot.Restarts, Counter: boot.Counter})
}

// ofEarlier says whether a TPM that the box had before has attested the start: one that died before it could sign the leaf.
func ofEarlier(r *registry.Registration, index uint64, binding []byte, boot record.Boot) bool {
	return slices.ContainsFunc(r.Earlier, func(e registry.KeyPeriod) bool {
		if e.Attested == nil || e.Until > index {
			return false
		}
		key, err := attestation.ParseLAK(e.Attested.LAK)
		if err == nil {
			_, err = started(key, binding, boot)
		}
		return err == nil
	})
}

// Bound of the starts of one box that are kept. No honest box comes near it.
const most = 4096

// Thin drops starts where there are too many: those that change nothing in what is taken for true. At then gives an older start that is
// as good. Where forged ones and others take turns without end, all but the newest are taken for forged.
func Thin(all []Start) (_ []Start, thinned bool) {
	if len(all) < most {
		return all, false
	}
	old, kept := all[:most/2], []Start(nil)
	last := len(all) - 1 // that was attested: the TPM was later at it than at all before
	for ; last >= 0 && all[last].Verdict != Attested; last-- {
	}
	thin := func(drops func(before, s Start) bool) {
		kept = nil
		for i, s := range old {
			if i == 0 || i == last || !drops(kept[len(kept)-1], s) {
				kept = append(kept, s)
			}
		}
	}
	thin(func(before, s Start) bool { return before.Verdict.Forged() == s.Verdict.Forged() })
	if len(kept) > most/4 {
		thin(func(before, s Start) bool { return before.Verdict.Forged() || !s.Verdict.Forged() })
	}
	return append(kept, all[most/2:]...), true
}

// after says whether the TPM was later at s than at b: all its counters only rise, its clock does within one run.
func (s Start) after(b Start) bool {
	switch {
	case s.Counter < b.Counter || s.Resets < b.Resets:
		return false
	case s.Resets > b.Resets:
		return true // its clock may have lost some time with the power
	case s.Restarts != b.Restarts:
		return s.Restarts > b.Restarts
	}
	return s.Clock > b.Clock
}

func (s Start) forged(v Verdict, why string) Start {
	s.Verdict, s.Why = v, why
	return s
}

func verdictOf(err error) Verdict {
	for _, e := range []struct {
		err error
		is  Verdict
	}{
		{attestation.ErrSignature, Signature},
		{attestation.ErrQuestion, Binding},
		{attestation.ErrPCRs, PCRs},
		{attestation.ErrCounters, Counters},
	} {
		if errors.Is(err, e.err) {
			return e.is
		}
	}
	return Statement
}
