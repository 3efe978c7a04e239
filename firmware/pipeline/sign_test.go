package pipeline

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/vitalgate/vitalgate/firmware/health"
	"github.com/vitalgate/vitalgate/tpm"
)

// What is wrong with the TPM is told apart, because what a person must do is not the same.
func TestTroubleIsToldApart(t *testing.T) {
	remedies := map[string]bool{}
	for _, c := range []struct {
		err  error
		says string
	}{
		{fmt.Errorf("cannot sign: %w", tpm.ErrIdentity), "not the one that this box was enrolled with"},
		{fmt.Errorf("cannot sign: %w", tpm.ErrFirmware), "under this firmware"},
		{fmt.Errorf("cannot sign: %w", tpm.ErrLocked), "has locked itself"},
		{errors.New("the TPM at /dev/tpmrm0 did not answer within 20s"), "did not answer"},
		{fmt.Errorf("%w: no space left", errKeep), "Signatures are not kept"},
	} {
		got := trouble(c.err)
		if got.Code != "not-signed" || got.Severity != health.Critical || !strings.Contains(got.Sentence, c.says) {
			t.Errorf("%v gives %+v", c.err, got)
		}
		if got.Remedy == "" || remedies[got.Remedy] {
			t.Errorf("%v has the remedy of another trouble: %s", c.err, got.Remedy)
		}
		remedies[got.Remedy] = true
	}
}
