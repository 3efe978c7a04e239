package appliance

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// resetLine is the name of the GPIO line of the reset button in the board's device tree or ACPI table. A board without one has no
// reset button; the field tool and a stick do the same.
const resetLine = "vitalgate-reset"

// holdTime is how long the button must be held: nobody leans on it that long.
const holdTime = 10 * time.Second

// GPIO character device, version 2 (Linux, include/uapi/linux/gpio.h).
const (
	gpioLineInfo  = 0xc100b405 // GPIO_V2_GET_LINEINFO_IOCTL
	gpioLine      = 0xc250b407 // GPIO_V2_GET_LINE_IOCTL
	gpioValues    = 0xc010b40e // GPIO_V2_LINE_GET_VALUES_IOCTL
	gpioChipInfo  = 0x8044b401 // GPIO_GET_CHIPINFO_IOCTL
	gpioInput     = 1 << 2     // GPIO_V2_LINE_FLAG_INPUT
	gpioActiveLow = 1 << 1     // GPIO_V2_LINE_FLAG_ACTIVE_LOW
)

func control(fd uintptr, request uintptr, b []byte) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(unsafe.Pointer(&b[0]))); errno != 0 {
		return errno
	}
	return nil
}

// openButton finds the line by its name and asks for it. The button pulls it to ground.
func openButton() (pressed func() (bool, error), err error) {
	chips, err := filepath.Glob("/dev/gpiochip*")
	if err != nil {
		return nil, err
	}
	for _, path := range chips {
		chip, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			continue
		}
		line, err := requestLine(chip, resetLine)
		chip.Close()
		if err != nil {
			return nil, fmt.Errorf("cannot use the reset button at %s: %w", path, err)
		}
		if line == nil {
			continue
		}
		return func() (bool, error) {
			b := make([]byte, 16) // values, mask
			binary.NativeEndian.PutUint64(b[8:], 1)
			err := control(line.Fd(), gpioValues, b)
			return b[0]&1 == 1, err
		}, nil
	}
	return nil, nil
}

func requestLine(chip *os.File, name string) (*os.File, error) {
	info := make([]byte, 68)
	if err := control(chip.Fd(), gpioChipInfo, info); err != nil {
		return nil, err
	}
	for offset := range binary.NativeEndian.Uint32(info[64:]) {
		line := make([]byte, 256)
		binary.NativeEndian.PutUint32(line[64:], offset)
		if err := control(chip.Fd(), gpioLineInfo, line); err != nil {
			return nil, err
		}
		if !bytes.Equal(bytes.TrimRight(line[:32], "\x00"), []byte(name)) {
			continue
		}
		request := make([]byte, 592)
		binary.NativeEndian.PutUint32(request, offset)
		copy(request[256:288], "vitalgate reset")
		binary.NativeEndian.PutUint64(request[288:], gpioInput|gpioActiveLow)
		binary.NativeEndian.PutUint32(request[560:], 1)
		if err := control(chip.Fd(), gpioLine, request); err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(binary.NativeEndian.Uint32(request[588:])), name), nil
	}
	return nil, nil
}

// hold counts how long a button has been pressed without a break. One that was never seen released is stuck, or its line is not
// connected: it would wipe the box at every start.
type hold struct {
	released bool
	since    time.Time
}

// see says whether the button has been held long enough.
func (h *hold) see(pressed bool, now time.Time) bool {
	switch {
	case !pressed:
		h.released, h.since = true, time.Time{}
	case h.released && h.since.IsZero():
		h.since = now
	}
	return !h.since.IsZero() && now.Sub(h.since) >= holdTime
}

// button resets the box when its button has been held.
func button(ctx context.Context, reset func(context.Context) error, log *slog.Logger) {
	pressed, err := openButton()
	if err != nil {
		log.Error("the reset button does not work", "error", err.Error())
	}
	if pressed == nil {
		return
	}
	var h hold
	for tick := time.NewTicker(200 * time.Millisecond); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		down, err := pressed()
		if err != nil {
			log.Error("the reset button does not work any more", "error", err.Error())
			return
		}
		if !h.see(down, time.Now()) {
			continue
		}
		log.Warn("the reset button was held: the box is wiped")
		if err := reset(ctx); err != nil {
			log.Error("the box cannot be reset", "error", err.Error())
		}
		return
	}
}
