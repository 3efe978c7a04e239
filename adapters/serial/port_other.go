//go:build !linux

package serial

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/vitalgate/vitalgate/adapters"
)

// port cannot be opened here. vitalgate reads serial lines on Linux only, where a line that is gone can be told from a silent one.
type port struct{ modem bool }

func openPort(Config) (*port, error) {
	return nil, fmt.Errorf("serial lines are read on Linux only, this is %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

func (*port) read() ([]byte, []int, error)      { return nil, nil, errors.ErrUnsupported }
func (*port) write([]byte, time.Duration) error { return errors.ErrUnsupported }
func (*port) status() (s adapters.LineStatus)   { return s }
func (*port) overruns() (uint64, bool)          { return 0, false }
func (*port) waiting() int                      { return 0 }
func (*port) close()                            {}
func checkBaud(int) error                       { return nil }
