package tpm

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// selfTest is TPM2_SelfTest(fullTest = YES) (part 3 §10.2), which go-tpm has not: tag without sessions, size, command, argument.
var selfTest = []byte{0x80, 0x01, 0, 0, 0, 11, 0, 0, 0x01, 0x43, 1}

// SelfTest has the chip test itself wholly. It may take seconds.
func (a *Attestor) SelfTest(ctx context.Context) error {
	return a.chip.do(ctx, "test itself", func(t transport.TPM, _ tpm2.Session) error {
		answer, err := t.Send(selfTest)
		if err != nil {
			return err
		}
		if len(answer) < headerSize {
			return fmt.Errorf("the answer has %d bytes", len(answer))
		}
		if rc := tpm2.TPMRC(binary.BigEndian.Uint32(answer[6:])); rc != tpm2.TPMRCSuccess {
			return rc
		}
		return nil
	})
}
