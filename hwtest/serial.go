package hwtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// setting is one way to set a line.
type setting struct {
	baud   uint32
	data   int  // bits
	parity byte // N, E, O
	stop   int
}

func (s setting) String() string { return fmt.Sprintf("%d %d%c%d", s.baud, s.data, s.parity, s.stop) }

var speeds = map[uint32]uint32{1200: unix.B1200, 2400: unix.B2400, 4800: unix.B4800, 9600: unix.B9600, 19200: unix.B19200, 38400: unix.B38400,
	57600: unix.B57600, 115200: unix.B115200, 230400: unix.B230400}

// settings are those a box can be configured with: every rate, and every form of a character at two of them.
func settings(all bool) []setting {
	if !all {
		return []setting{{9600, 8, 'N', 1}, {115200, 8, 'N', 1}, {19200, 7, 'E', 2}}
	}
	var list []setting
	for _, b := range []uint32{1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200, 230400} {
		list = append(list, setting{b, 8, 'N', 1})
	}
	for _, b := range []uint32{9600, 115200} {
		for _, d := range []int{7, 8} {
			for _, p := range []byte("NEO") {
				for _, s := range []int{1, 2} {
					if d != 8 || p != 'N' || s != 1 {
						list = append(list, setting{b, d, p, s})
					}
				}
			}
		}
	}
	return list
}

// testSerial sends and receives on each line that has a loopback, of a plug or of the UART itself, with each setting.
func testSerial(ctx context.Context, t *tester) {
	if len(t.Lines) == 0 {
		t.not("", "", "There is no serial line.")
	}
	for _, device := range t.Lines {
		if ctx.Err() != nil {
			return
		}
		testLine(ctx, t, device)
	}
}

const plug = "Put a loopback plug on it (2-3, 4-6, 7-8 of a DE-9) and test again."

func testLine(ctx context.Context, t *tester, device string) {
	if slices.Contains(strings.Fields(t.read("/sys/class/tty/console/active")), filepath.Base(device)) {
		t.not(device, "", "The system's console is there.")
		return
	}
	l, err := openLine(t.path(device))
	switch {
	case errors.Is(err, unix.EWOULDBLOCK), errors.Is(err, unix.EBUSY):
		t.not(device, "Stop the program that has it, or test while the box is not provisioned.", "Another program has the line.")
		return
	case errors.Is(err, unix.EIO), errors.Is(err, unix.ENXIO):
		t.not(device, "", "The system names a line where there is no UART.")
		return
	case err != nil:
		t.fail(device, nil, "Unplug the adapter and plug it in again; if that does not help, replace it.", "The line cannot be opened: %v.", err)
		return
	}
	defer l.close()
	how, err := l.loop()
	switch {
	case errors.Is(err, errSpeaks):
		t.not(device, "Unplug the monitor and test again.", "Somebody speaks on the line.")
		return
	case err != nil:
		t.not(device, plug, "Nothing comes back of what is sent: there is no loopback.")
		return
	}
	before, counts := l.counters()
	bytesSent, done := 0, 0
	var refused []string
	for _, s := range settings(t.Factory) {
		if ctx.Err() != nil {
			return
		}
		n, err := l.try(s)
		if errors.Is(err, errUnsupported) {
			refused = append(refused, s.String())
			continue
		}
		if err != nil {
			t.fail(device, nil, "Check plug and cable; if both are good, replace the adapter.", "With %v: %v.", s, err)
			return
		}
		bytesSent += n
		done++
	}
	figures := map[string]float64{"settings": float64(done), "bytes": float64(bytesSent)}
	if after, ok := l.counters(); ok && counts {
		bad := after.minus(before)
		if bad.Frame+bad.Overrun+bad.Parity+bad.BufOverrun != 0 {
			t.fail(device, figures, "Check plug and cable; if both are good, replace the adapter.", "The driver counted errors: framing %d, parity %d, overrun %d, buffer overrun %d.", bad.Frame, bad.Parity, bad.Overrun, bad.BufOverrun)
			return
		}
	}
	note := ""
	if !counts {
		note = " The driver counts no errors (TIOCGICOUNT)."
	}
	if len(refused) > 0 {
		note += " It does not take " + strings.Join(refused, ", ") + "."
	}
	t.pass(device, figures, "What was sent with %d settings came back, by %s.%s", done, how, note)
	l.modem(t, device, how)
}

var (
	errSpeaks      = errors.New("somebody speaks on the line")
	errUnsupported = errors.New("the device does not take the setting")
	errNoLoop      = errors.New("nothing came back")
)

// line is an open serial line of the test. It is not that of adapters/serial, which reads monitors and would hide what is to be found.
type line struct {
	fd  int
	old unix.Termios
	mcr int // modem bits before, to put back
}

func openLine(path string) (*line, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	l := &line{fd: fd}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil { // as adapters/serial does
		unix.Close(fd)
		return nil, err
	}
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	l.old = *old
	l.mcr, _ = unix.IoctlGetInt(fd, unix.TIOCMGET)
	return l, nil
}

func (l *line) close() {
	unix.IoctlSetPointerInt(l.fd, unix.TIOCMSET, l.mcr)
	unix.IoctlSetTermios(l.fd, unix.TCSETS, &l.old)
	unix.Close(l.fd)
}

func (l *line) set(s setting) error {
	want := l.old
	want.Iflag, want.Oflag, want.Lflag = unix.INPCK, 0, 0
	want.Cflag = unix.CREAD | unix.CLOCAL | speeds[s.baud] | unix.CS8
	if s.data == 7 {
		want.Cflag = want.Cflag&^unix.CSIZE | unix.CS7
	}
	switch s.parity {
	case 'E':
		want.Cflag |= unix.PARENB
	case 'O':
		want.Cflag |= unix.PARENB | unix.PARODD
	}
	if s.stop == 2 {
		want.Cflag |= unix.CSTOPB
	}
	want.Cc[unix.VMIN], want.Cc[unix.VTIME] = 0, 0
	if err := unix.IoctlSetTermios(l.fd, unix.TCSETSF, &want); err != nil {
		return err
	}
	got, err := unix.IoctlGetTermios(l.fd, unix.TCGETS)
	if err != nil {
		return err
	}
	if got.Cflag&(unix.CBAUD|unix.CSIZE|unix.PARENB|unix.PARODD|unix.CSTOPB) != want.Cflag&(unix.CBAUD|unix.CSIZE|unix.PARENB|unix.PARODD|unix.CSTOPB) {
		return errUnsupported // a pty has neither parity nor seven bits, some adapters not every rate
	}
	return nil
}

// loop finds out how bytes come back: by a plug, else by the loop that the UART has inside (TIOCM_LOOP), else not at all.
func (l *line) loop() (how string, err error) {
	if err := l.set(setting{9600, 8, 'N', 1}); err != nil {
		return "", err
	}
	if b := l.read(1, 300*time.Millisecond); len(b) > 0 {
		return "", errSpeaks
	}
	if _, err := l.exchange([]byte("vitalgate?"), 10); err == nil {
		return "a plug", nil
	}
	const loop = 0x8000 // TIOCM_LOOP
	if err := unix.IoctlSetPointerInt(l.fd, unix.TIOCMBIS, loop); err != nil {
		return "", errNoLoop
	}
	if _, err := l.exchange([]byte("vitalgate?"), 10); err == nil {
		return "the loop inside the UART; plug and cable were not tested", nil
	}
	unix.IoctlSetPointerInt(l.fd, unix.TIOCMBIC, loop)
	return "", errNoLoop
}

// try sends bytes of every value that the setting can carry, for about a quarter of a second.
func (l *line) try(s setting) (int, error) {
	if err := l.set(s); err != nil {
		return 0, err
	}
	size := min(max(int(s.baud/10/4), 32), 512)
	b := make([]byte, size)
	rand.Read(b)
	for i := range b {
		if i < 256 && size >= 256 {
			b[i] = byte(i)
		}
		if s.data == 7 {
			b[i] &= 0x7F
		}
	}
	bits := 1 + s.data + s.stop
	if s.parity != 'N' {
		bits++
	}
	return l.exchange(b, bits*int(size)*1000/int(s.baud))
}

// exchange sends b and wants it back. lasts is how many milliseconds it is on the line.
func (l *line) exchange(b []byte, lasts int) (int, error) {
	patience := time.Duration(lasts)*time.Millisecond + 2*time.Second
	if lasts <= 10 { // a probe: silence is an answer too
		patience = 500 * time.Millisecond
	}
	end := time.Now().Add(patience)
	var got []byte
	for rest := b; len(got) < len(b); {
		if len(rest) > 0 {
			n, err := unix.Write(l.fd, rest[:min(len(rest), 64)])
			if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
				return 0, err
			}
			rest = rest[max(n, 0):]
		}
		got = append(got, l.read(len(b)-len(got), 20*time.Millisecond)...)
		if time.Now().After(end) {
			break
		}
	}
	switch {
	case len(got) == 0:
		return 0, errNoLoop
	case !bytes.Equal(got, b):
		return 0, fmt.Errorf("of %d bytes %d came back, and not as they were sent", len(b), len(got))
	}
	return len(b), nil
}

// read gives what comes within the time, at most n bytes.
func (l *line) read(n int, wait time.Duration) []byte {
	fds := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}}
	if c, err := unix.Poll(fds, int(wait/time.Millisecond)); err != nil || c == 0 || fds[0].Revents&unix.POLLIN == 0 {
		return nil
	}
	b := make([]byte, n)
	c, err := unix.Read(l.fd, b)
	if err != nil || c < 0 {
		return nil
	}
	return b[:c]
}

// modem moves the lines that the box drives and looks whether those that it reads follow, as the plug joins them.
func (l *line) modem(t *tester, device, how string) {
	subject := device + " modem lines"
	if _, err := unix.IoctlGetInt(l.fd, unix.TIOCMGET); err != nil {
		t.not(subject, "", "The device has no modem lines.")
		return
	}
	wrong := ""
	seen := map[string]bool{}
	for _, drive := range []struct {
		name  string
		bit   int
		reads map[string]int
	}{{"RTS", unix.TIOCM_RTS, map[string]int{"CTS": unix.TIOCM_CTS}}, {"DTR", unix.TIOCM_DTR, map[string]int{"DSR": unix.TIOCM_DSR}}} {
		for name, bit := range drive.reads {
			var level [2]bool
			for i, request := range []uint{unix.TIOCMBIC, unix.TIOCMBIS} {
				if err := unix.IoctlSetPointerInt(l.fd, request, drive.bit); err != nil {
					t.not(subject, "", "The device does not let its modem lines be set.")
					return
				}
				time.Sleep(20 * time.Millisecond)
				m, _ := unix.IoctlGetInt(l.fd, unix.TIOCMGET)
				level[i] = m&bit != 0
			}
			if seen[name] = !level[0] && level[1]; !seen[name] {
				wrong = name + " does not follow " + drive.name
			}
		}
	}
	switch {
	case wrong == "":
		t.pass(subject, nil, "CTS follows RTS, DSR follows DTR.")
	case !seen["CTS"] && !seen["DSR"]:
		t.not(subject, plug, "No line follows another: the plug joins only the data lines.")
	default:
		t.fail(subject, nil, "Check the plug (4-6, 7-8); if it is good, replace the adapter.", "%s.", wrong)
	}
}

// counters is struct serial_icounter_struct of linux/serial.h.
type counters struct {
	CTS, DSR, Ring, DCD, RX, TX               int32
	Frame, Overrun, Parity, Break, BufOverrun int32
	_                                         [9]int32
}

func (c counters) minus(o counters) counters {
	return counters{Frame: c.Frame - o.Frame, Overrun: c.Overrun - o.Overrun, Parity: c.Parity - o.Parity, BufOverrun: c.BufOverrun - o.BufOverrun}
}

func (l *line) counters() (c counters, ok bool) {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(l.fd), unix.TIOCGICOUNT, uintptr(unsafe.Pointer(&c)))
	return c, errno == 0
}
