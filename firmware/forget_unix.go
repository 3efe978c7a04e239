//go:build unix

package main

import (
	"fmt"
	"os"
	"syscall"
)

// again puts the program into the place of this process. It returns only if it cannot.
func again(program string, env []string) error {
	if err := syscall.Exec(program, os.Args, env); err != nil {
		return fmt.Errorf("cannot begin again with memory that forgets: %w", err)
	}
	return nil
}
