// Package measured reads what a release that was started as a signed and measured program carries with it.
package measured

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/vitalgate/vitalgate/image/release"
	"github.com/vitalgate/vitalgate/tpm/attestation"
)

// Firmware is the release key and its approvals of the release that runs; nil on a system that is not measured, where the program
// is one among others.
func Firmware() (*attestation.Firmware, error) {
	key, err := os.ReadFile(release.ApprovalKeyPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the key that approves releases: %w", err)
	}
	approvals, err := os.ReadFile(release.ApprovalsPath)
	if err != nil {
		return nil, fmt.Errorf("cannot read the approvals of this release: %w", err)
	}
	return attestation.ParseFirmware(key, approvals)
}
