package serial

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"
	"unsafe"

	"github.com/tarm/serial"
	"golang.org/x/sys/unix"

	"github.com/vitalgate/vitalgate/adapters"
)

// readTimeout is set on every port: without it a Read of tarm/serial on a silent line never ends, not even by Close.
const readTimeout = 100 * time.Millisecond

// port is an open serial device. read and status are for one goroutine, write for another.
type port struct {
	data *serial.Port
	ctl  int // second descriptor on the same device, never read from and never written to

	marked bool // the kernel marks damaged bytes (PARMRK)
	marks  marks
	raw    [readSize]byte
	clean  []byte
	seen   uint64 // damaged bytes
	count  func() (icounts, error)
	first  icounts
	counts bool // count works
	modem  bool // TIOCMGET works
}

// openPort opens the device with the settings of cfg.
//
// Order matters: the control descriptor comes first, with a lock that keeps other programs which lock and other monitors of this
// box away (TIOCEXCL does not stop root), then the data descriptor, and then TIOCEXCL, which would stop the data one.
func openPort(cfg Config) (_ *port, err error) {
	ctl, err := unix.Open(cfg.Device, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: cfg.Device, Err: err}
	}
	p := &port{ctl: ctl, count: func() (icounts, error) { return getICounts(ctl) }}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if err := unix.Flock(ctl, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("cannot lock %s: %w", cfg.Device, err)
	}
	p.data, err = serial.OpenPort(&serial.Config{
		Name: cfg.Device, Baud: cfg.Baud, ReadTimeout: readTimeout, Size: byte(cfg.DataBits),
		Parity:   map[string]serial.Parity{"none": serial.ParityNone, "even": serial.ParityEven, "odd": serial.ParityOdd}[cfg.Parity],
		StopBits: map[int]serial.StopBits{1: serial.Stop1, 2: serial.Stop2}[cfg.StopBits],
	})
	if err != nil {
		return nil, err
	}
	if err := unix.IoctlSetInt(ctl, unix.TIOCEXCL, 0); err != nil && !lacks(err) {
		return nil, fmt.Errorf("cannot take %s for this program alone: %w", cfg.Device, err)
	}
	if err := p.settings(cfg); err != nil {
		return nil, err
	}
	var e error
	p.first, e = p.count()
	p.counts = e == nil
	_, e = unix.IoctlGetInt(ctl, unix.TIOCMGET)
	p.modem = e == nil
	return p, nil
}

// settings adds what tarm/serial does not set, and checks that the device took it.
func (p *port) settings(cfg Config) error {
	t, err := unix.IoctlGetTermios(p.ctl, unix.TCGETS)
	if err != nil {
		return fmt.Errorf("cannot read the settings of %s: %w", cfg.Device, err)
	}
	t.Iflag &^= unix.IGNPAR | unix.IXON | unix.IXOFF | unix.IXANY
	t.Iflag |= unix.INPCK | unix.PARMRK
	t.Cflag &^= unix.CRTSCTS
	switch cfg.Flow {
	case "rtscts":
		t.Cflag |= unix.CRTSCTS
	case "xonxoff":
		t.Iflag |= unix.IXON | unix.IXOFF
		t.Cc[unix.VSTART], t.Cc[unix.VSTOP] = 0x11, 0x13
	}
	if err := unix.IoctlSetTermios(p.ctl, unix.TCSETS, t); err != nil {
		return fmt.Errorf("cannot set up %s: %w", cfg.Device, err)
	}
	got, err := unix.IoctlGetTermios(p.ctl, unix.TCGETS)
	if err != nil {
		return fmt.Errorf("cannot read the settings of %s: %w", cfg.Device, err)
	}
	if cfg.Flow == "rtscts" && got.Cflag&unix.CRTSCTS == 0 {
		return fmt.Errorf("cannot set up %s: it has no RTS/CTS flow control; use flow = \"none\" or another adapter", cfg.Device)
	}
	p.marked = got.Iflag&unix.PARMRK != 0
	on, off := modemBits(cfg)
	for _, m := range []struct {
		request uint
		bits    int
	}{{unix.TIOCMBIS, on}, {unix.TIOCMBIC, off}} {
		if m.bits == 0 {
			continue
		}
		if err := unix.IoctlSetPointerInt(p.ctl, m.request, m.bits); err != nil && !lacks(err) {
			return fmt.Errorf("cannot set DTR and RTS of %s: %w", cfg.Device, err)
		}
	}
	return nil
}

// modemBits are the lines to raise and to lower. The kernel raises both when it opens a device.
func modemBits(cfg Config) (on, off int) {
	for _, l := range []struct {
		level string
		bit   int
	}{{cfg.DTR, unix.TIOCM_DTR}, {cfg.RTS, unix.TIOCM_RTS}} {
		switch l.level {
		case "on":
			on |= l.bit
		case "off":
			off |= l.bit
		}
	}
	return on, off
}

// lacks says that a device has no such thing, as pseudo terminals and some USB adapters do not.
func lacks(err error) bool {
	return errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EIO) || errors.Is(err, unix.EOPNOTSUPP)
}

// read gives what came, until the next call. It gives nothing and no error when the line is silent for readTimeout, and errHangup
// when the device is gone: tarm/serial gives 0, io.EOF for both. damaged are the places in data of bytes that came damaged.
func (p *port) read() (data []byte, damaged []int, err error) {
	n, err := p.data.Read(p.raw[:])
	if n > 0 {
		if !p.marked {
			return p.raw[:n], nil, nil
		}
		p.clean, damaged = p.marks.decode(p.clean[:0], p.raw[:n])
		p.seen += uint64(len(damaged))
		return p.clean, damaged, nil
	}
	switch {
	case p.hungUp(), errors.Is(err, unix.EIO), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return nil, nil, errHangup
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
		return nil, nil, nil
	}
	return nil, nil, err
}

func (p *port) hungUp() bool {
	fds := []unix.PollFd{{Fd: int32(p.ctl)}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
}

// write writes b in pieces small enough for the room that poll has promised, so that a monitor that holds its flow control
// costs timeout and not for ever.
func (p *port) write(b []byte, timeout time.Duration) error {
	const piece = 64
	for end := time.Now().Add(timeout); len(b) > 0; {
		fds := []unix.PollFd{{Fd: int32(p.ctl), Events: unix.POLLOUT}}
		_, err := unix.Poll(fds, int(readTimeout/time.Millisecond))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case fds[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0:
			return errHangup
		case fds[0].Revents&unix.POLLOUT == 0:
			if time.Now().After(end) {
				unix.IoctlSetInt(p.ctl, unix.TCFLSH, unix.TCOFLUSH) // what is stuck would hold up the close
				return errHeld
			}
			continue
		}
		n, err := p.data.Write(b[:min(len(b), piece)])
		if err != nil {
			return err
		}
		b = b[n:]
		end = time.Now().Add(timeout)
	}
	return nil
}

// status is the state of the line; its counts are since the opening.
func (p *port) status() adapters.LineStatus {
	s := adapters.LineStatus{Framing: p.seen}
	if p.counts {
		if c, err := p.count(); err == nil {
			s = adapters.LineStatus{
				Counted: true,
				Parity:  since(c.Parity, p.first.Parity), Framing: since(c.Frame, p.first.Frame), Breaks: since(c.Break, p.first.Break),
				Overrun: since(c.Overrun, p.first.Overrun), BufferOverrun: since(c.BufOverrun, p.first.BufOverrun),
			}
		}
	}
	if p.modem {
		if m, err := unix.IoctlGetInt(p.ctl, unix.TIOCMGET); err == nil {
			s.Modem, s.DCD, s.DSR, s.CTS = true, m&unix.TIOCM_CAR != 0, m&unix.TIOCM_DSR != 0, m&unix.TIOCM_CTS != 0
		}
	}
	return s
}

// overruns is how often bytes were lost since the opening, in the UART or in the kernel, as far as the driver counts.
func (p *port) overruns() (n uint64, counted bool) {
	if !p.counts {
		return 0, false
	}
	c, err := p.count()
	return since(c.Overrun, p.first.Overrun) + since(c.BufOverrun, p.first.BufOverrun), err == nil
}

// waiting is how many bytes can be read. That there are none is sure: poll fetches what the driver has.
func (p *port) waiting() int {
	fds := []unix.PollFd{{Fd: int32(p.ctl), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, 0); err == nil && n == 0 {
		return 0
	}
	n, err := unix.IoctlGetInt(p.ctl, unix.TIOCINQ)
	if err != nil {
		return kernelBuffer
	}
	return n
}

// since is how far a 32-bit counter has gone; it may have wrapped.
func since(now, then int32) uint64 { return uint64(uint32(now) - uint32(then)) }

func (p *port) close() {
	if p.data != nil {
		p.data.Close()
	}
	unix.IoctlSetInt(p.ctl, unix.TIOCNXCL, 0)
	unix.Close(p.ctl)
}

// icounts is struct serial_icounter_struct of linux/serial.h.
type icounts struct {
	CTS, DSR, Ring, DCD, RX, TX               int32
	Frame, Overrun, Parity, Break, BufOverrun int32
	_                                         [9]int32
}

func getICounts(fd int) (icounts, error) {
	var c icounts
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGICOUNT, uintptr(unsafe.Pointer(&c)))
	if errno != 0 {
		return icounts{}, errno
	}
	return c, nil
}

func checkBaud(baud int) error {
	switch baud {
	case 300, 600, 1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200, 230400, 460800, 921600:
		return nil
	}
	return fmt.Errorf("baud %d is no rate of a serial line: 9600, 19200, 38400, 57600 and 115200 are usual", baud)
}
