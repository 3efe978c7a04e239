//go:build !linux

package replay

import (
	"errors"
	"fmt"
	"io"
	"runtime"
)

// openSerial fails: serial lines are used on Linux only.
func openSerial(string) (io.ReadWriteCloser, error) {
	return nil, fmt.Errorf("serial lines are used on Linux only, this is %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
