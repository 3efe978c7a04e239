//go:build !linux

// Package pty makes pairs of pseudo terminals: a serial line without hardware, for tests and for the simulator.
package pty

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

// Pair is a pseudo terminal; there is none here.
type Pair struct {
	*os.File
	Name string
}

// Open fails: pseudo terminals are made on Linux only.
func Open(string) (*Pair, error) {
	return nil, fmt.Errorf("pseudo terminals are made on Linux only, this is %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

// Discard does nothing.
func (*Pair) Discard() {}
