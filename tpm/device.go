package tpm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// device is a TPM behind the kernel's driver, best behind its resource manager (/dev/tpmrm0).
type device struct {
	path string
	fd   int
	busy chan struct{} // set when a command was left behind in the driver, closed when it ends
}

// openDevice opens the device and makes sure that a TPM 2.0 answers. The first commands to some SPI chips fail, and
// /dev/tpm0 is busy while another process has it: both are tried again for a while.
func openDevice(ctx context.Context, path string) (link, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, devicePatience.most, fmt.Errorf("the TPM at %s did not answer within %v", path, devicePatience.most))
	defer cancel()
	var err error
	for range 6 {
		var d *device
		if d, err = tryDevice(ctx, path); err == nil {
			return d, nil
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.ENOTTY) {
			break
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("cannot open the TPM: %w; enable the TPM in the firmware setup or the device tree", err)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("cannot open the TPM: %w; add the user to the group of the device (tss on most systems)", err)
	case errors.Is(err, unix.EBUSY):
		return nil, fmt.Errorf("cannot open the TPM: %w; another program has it, use %s", err, devicePath)
	}
	return nil, fmt.Errorf("cannot open the TPM: %w", err)
}

func tryDevice(ctx context.Context, path string) (*device, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Mode()&os.ModeCharDevice == 0 {
		return nil, &fs.PathError{Op: "open", Path: path, Err: unix.ENOTTY}
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	d := &device{path: path, fd: fd}
	if _, err := vendor(&bus{ctx: ctx, link: d, patience: devicePatience}); err != nil {
		d.close()
		return nil, fmt.Errorf("%s does not answer as a TPM 2.0: %w", path, err)
	}
	return d, nil
}

func (d *device) String() string { return "the TPM at " + d.path }

// exchange writes the command and reads the answer. The driver keeps us waiting inside write for as long as it trusts
// the chip, minutes for some commands, so a goroutine of its own waits there and is left behind when ctx ends. (With
// O_NONBLOCK poll waits all the same, and the driver's own timeout is never told: Linux 6.1.)
func (d *device) exchange(ctx context.Context, command []byte) ([]byte, error) {
	var answer []byte
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		answer, err = d.transmit(command)
	}()
	select {
	case <-done:
		return answer, err
	case <-ctx.Done():
		d.busy = done
		return nil, context.Cause(ctx)
	}
}

func (d *device) transmit(command []byte) ([]byte, error) {
	if n, err := unix.Write(d.fd, command); err != nil || n != len(command) {
		return nil, fmt.Errorf("cannot write to %s: wrote %d of %d bytes: %w", d.path, n, len(command), err)
	}
	answer := make([]byte, 0, answerMost)
	for want := headerSize; len(answer) < want; { // the kernel gives all of it at once
		n, err := unix.Read(d.fd, answer[len(answer):answerMost])
		if err != nil {
			return nil, fmt.Errorf("cannot read from %s: %w", d.path, err)
		}
		if n == 0 {
			break
		}
		if answer = answer[:len(answer)+n]; len(answer) >= headerSize {
			want = min(int(binary.BigEndian.Uint32(answer[2:])), answerMost)
		}
	}
	return answer, nil
}

func (d *device) close() error {
	if d.busy == nil {
		return unix.Close(d.fd)
	}
	go func() { // the descriptor is free for others only when the driver has let go of it
		<-d.busy
		unix.Close(d.fd)
	}()
	return nil
}
