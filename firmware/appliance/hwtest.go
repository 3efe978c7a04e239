package appliance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/vitalgate/vitalgate/provision/protocol"
)

// test is maintain's Test: the command of this program, whose exit status says whether all is good and not whether it ran.
func (b *box) test(ctx context.Context, o protocol.TestOptions) ([]byte, error) {
	f, err := os.CreateTemp(boxFolder, "hwtest-*.json")
	if err != nil {
		return nil, fmt.Errorf("cannot test the hardware: %w", err)
	}
	defer os.Remove(f.Name())
	if err := f.Close(); err != nil {
		return nil, err
	}
	args := []string{"hwtest", "--dir", filepath.Join(boxFolder, "data"), "--out", f.Name()}
	if o.Factory {
		args = append(args, "--factory")
	}
	cmd := exec.CommandContext(ctx, "/init", args...)
	cmd.Args[0], cmd.Stderr = "vitalgate", os.Stderr
	ended := cmd.Run()
	report, err := os.ReadFile(f.Name())
	if len(report) == 0 {
		return nil, fmt.Errorf("cannot test the hardware: %w", errors.Join(ended, err))
	}
	return report, nil
}
