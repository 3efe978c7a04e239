package attestation

import "fmt"

// BootPCRs are quoted when a box is enrolled and whenever it starts: the firmware (0 to 7) and what that has started (11).
var BootPCRs = []uint{0, 1, 2, 3, 4, 5, 6, 7, FirmwarePCR}

// Boot tells one start of a box from another. All three only rise in the life of one TPM.
type Boot struct {
	Resets   uint32 // TPM Resets (power cycles), TPMS_CLOCK_INFO.resetCount
	Restarts uint32 // TPM Restarts and Resumes since the last Reset
	Counter  uint64 // NV counter, one more at each start
}

// Start is what a TPM says of one start of its box.
type Start struct {
	PCRs    PCRs
	Quote   Statement // of the PCRs
	Counter Statement // of the boot counter, made after the quote
}

// Started checks that the TPM has said all of it about one start, and that this start is the one that is claimed.
func (k *LAK) Started(s Start, binding []byte, claimed Boot) (Evidence, error) {
	e, err := k.Quoted(s.Quote, binding, s.PCRs)
	if err != nil {
		return e, err
	}
	for _, n := range BootPCRs {
		if s.PCRs[n] == nil {
			return e, fmt.Errorf("cannot accept the quote: it leaves PCR %d out, so %w", n, ErrPCRs)
		}
	}
	counter, then, err := k.Counted(s.Counter, binding)
	if err != nil {
		return e, err
	}
	said := Boot{e.Resets, e.Restarts, counter}
	if said != claimed {
		return e, fmt.Errorf("cannot accept the start: %w: the TPM says %d resets, %d restarts and a boot counter of %d", ErrCounters, said.Resets, said.Restarts, said.Counter)
	}
	if then.Resets != e.Resets || then.Restarts != e.Restarts || then.Clock < e.Clock || then.Firmware != e.Firmware {
		return e, fmt.Errorf("cannot accept the start: %w: the two statements are of two runs of the TPM", ErrCounters)
	}
	return e, nil
}

// Measured says whether PCR 11 is what a release with this measurement leaves when the disk is open (decision 0018), or has this very value.
func (p PCRs) Measured(value []byte) bool {
	now := string(p[FirmwarePCR])
	return now != "" && (now == string(value) || now == string(Extend(value, Opened[:])))
}
