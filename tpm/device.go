package tpm

import (
	"context"
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
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	d := &device{path, fd}
	if _, err := vendor(&bus{ctx: ctx, link: d, patience: devicePatience}); err != nil {
		d.close()
		return nil, fmt.Errorf("%s does not answer as a TPM 2.0: %w", path, err)
	}
	return d, nil
}

func (d *device) String() string { return "the TPM at " + d.path }

// exchange writes the command and waits for the answer. With O_NONBLOCK the driver works in the background and poll
// tells when the answer is there (Linux 4.20 and later; before, write blocks for as long as the driver allows).
func (d *device) exchange(ctx context.Context, command []byte) ([]byte, error) {
	if n, err := unix.Write(d.fd, command); err != nil || n != len(command) {
		return nil, fmt.Errorf("cannot write to %s: wrote %d of %d bytes: %w", d.path, n, len(command), err)
	}
	fds := []unix.PollFd{{Fd: int32(d.fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 100)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil && err != unix.EINTR {
			return nil, fmt.Errorf("cannot wait for %s: %w", d.path, err)
		}
		if n > 0 && err == nil {
			break
		}
	}
	answer := make([]byte, answerMost)
	n, err := unix.Read(d.fd, answer)
	if err != nil {
		return nil, fmt.Errorf("cannot read from %s: %w", d.path, err)
	}
	return answer[:n], nil
}

// close may wait for a command still running in the chip, as long as the driver does: that is nobody's wait.
func (d *device) close() error {
	go unix.Close(d.fd)
	return nil
}
