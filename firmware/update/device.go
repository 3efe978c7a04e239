package update

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Device is the block device of a slot.
type Device struct{ *os.File }

// OpenDevice opens the block device at path for writing.
func OpenDevice(path string) (Device, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return Device{}, fmt.Errorf("cannot open the slot: %w", err)
	}
	return Device{f}, nil
}

// Forget empties the kernel's cache of the device.
func (d Device) Forget() error {
	if _, err := unix.IoctlRetInt(int(d.Fd()), unix.BLKFLSBUF); err != nil {
		return fmt.Errorf("cannot empty the cache of the slot: %w", err)
	}
	return nil
}
