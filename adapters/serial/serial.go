// Package serial reads monitors over a serial line (RS-232, mostly through a USB adapter), in MLLP, HLLP or no framing.
//
// github.com/tarm/serial carries the data. It cannot tell a silent line from one that is gone, nor set flow control, nor see
// line errors; a second file descriptor on the same device does that.
package serial

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/adapters/framing"
)

// Config says which line to read and how. Zero values mean 9600 baud, 8 data bits, no parity, 1 stop bit, no flow control, MLLP.
type Config struct {
	Monitor    string // its name in all that the box says
	Device     string // "/dev/ttyUSB0", or better a stable name under /dev/serial/by-id
	Baud       int
	DataBits   int              // 7 or 8
	Parity     string           // "none", "even" or "odd"
	StopBits   int              // 1 or 2
	Flow       string           // "none", "rtscts" or "xonxoff"
	DTR, RTS   string           // level of the line while the device is open: "on", "off", or "" as the kernel leaves it, mostly on
	Framing    adapters.Framing // default mllp
	MaxMessage int              // bytes, default adapters.DefaultMaxMessage
	IdleEnd    time.Duration    // silence that ends an unframed message, default 500 ms
}

const (
	writeTimeout = 10 * time.Second      // for a monitor that holds its flow control
	cutFramed    = 5 * time.Second       // silence within a framed message after which it is given up
	minRetry     = 50 * time.Millisecond // between attempts to open the device
	maxRetry     = 2 * time.Second
	readSize     = 4 << 10
)

var (
	errHangup = errors.New("the device is gone")
	errHeld   = errors.New("the monitor takes no bytes (flow control)")
)

type adapter struct {
	cfg      Config
	log      *slog.Logger
	count    framing.Counters
	openPort func(Config) (*port, error) // openPort, but for tests

	mu     sync.Mutex
	state  string
	detail string
	open   int
	line   adapters.LineStatus

	lost uint64 // times that bytes were; for Run only
}

// New makes an adapter. The error names the setting that cannot be. That the device is not there is no error.
func New(cfg Config, log *slog.Logger) (adapters.Adapter, error) {
	cannot := func(format string, args ...any) (adapters.Adapter, error) {
		return nil, fmt.Errorf("cannot set up monitor %s: %w", cfg.Monitor, fmt.Errorf(format, args...))
	}
	if cfg.Device == "" {
		return cannot("a device is needed, such as /dev/ttyUSB0")
	}
	defaults(&cfg)
	if err := checkBaud(cfg.Baud); err != nil {
		return cannot("%w", err)
	}
	switch {
	case cfg.DataBits != 7 && cfg.DataBits != 8:
		return cannot("data bits %d must be 7 or 8", cfg.DataBits)
	case cfg.Parity != "none" && cfg.Parity != "even" && cfg.Parity != "odd":
		return cannot("parity %q must be \"none\", \"even\" or \"odd\"", cfg.Parity)
	case cfg.StopBits != 1 && cfg.StopBits != 2:
		return cannot("stop bits %d must be 1 or 2", cfg.StopBits)
	case cfg.Flow != "none" && cfg.Flow != "rtscts" && cfg.Flow != "xonxoff":
		return cannot("flow %q must be \"none\", \"rtscts\" or \"xonxoff\"", cfg.Flow)
	case !level(cfg.DTR) || !level(cfg.RTS):
		return cannot("dtr %q and rts %q must be \"on\", \"off\" or not given", cfg.DTR, cfg.RTS)
	case cfg.RTS != "" && cfg.Flow == "rtscts":
		return cannot("rts cannot be %q with flow \"rtscts\", which moves it", cfg.RTS)
	case cfg.IdleEnd < 0:
		return cannot("idle end cannot be negative")
	}
	if _, err := framing.NewDecoder(cfg.Framing, cfg.MaxMessage); err != nil {
		return cannot("%w", err)
	}
	return &adapter{cfg: cfg, log: log.With("monitor", cfg.Monitor, "via", "serial "+cfg.Device), openPort: openPort, state: adapters.StateWaiting, detail: "Not started."}, nil
}

func level(s string) bool { return s == "" || s == "on" || s == "off" }

func defaults(cfg *Config) {
	if cfg.Baud == 0 {
		cfg.Baud = 9600
	}
	if cfg.DataBits == 0 {
		cfg.DataBits = 8
	}
	if cfg.Parity == "" {
		cfg.Parity = "none"
	}
	if cfg.StopBits == 0 {
		cfg.StopBits = 1
	}
	if cfg.Flow == "" {
		cfg.Flow = "none"
	}
	if cfg.Framing == "" {
		cfg.Framing = adapters.MLLP
	}
	if cfg.MaxMessage == 0 {
		cfg.MaxMessage = adapters.DefaultMaxMessage
	}
	if cfg.IdleEnd == 0 {
		cfg.IdleEnd = 500 * time.Millisecond
	}
}

// Status says how the adapter is.
func (a *adapter) Status() adapters.Status {
	a.mu.Lock()
	line := a.line
	s := adapters.Status{Monitor: a.cfg.Monitor, Kind: "serial", Address: a.cfg.Device, State: a.state, Detail: a.detail, Connections: a.open, Line: &line}
	a.mu.Unlock()
	a.count.Fill(&s)
	switch {
	case s.State != adapters.StateConnected || s.Frames > 0:
	case line.Framing+line.Parity > 0:
		s.Detail = fmt.Sprintf("The line gives errors and no message: check that the monitor is set to %d baud, %d data bits, parity %s, %d stop bits.", a.cfg.Baud, a.cfg.DataBits, a.cfg.Parity, a.cfg.StopBits)
	case s.Dropped > 0 && a.cfg.Framing != adapters.Unframed:
		s.Detail = fmt.Sprintf("Bytes arrive but no %s frame among them: check framing (\"none\" for bare messages), baud rate and parity.", a.cfg.Framing)
	case s.Bytes == 0:
		s.Detail = "The device is open; nothing has come yet. If this lasts, check the cable and that the monitor's serial HL7 output is on."
	}
	return s
}

func (a *adapter) set(state, detail string, open int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state, a.detail, a.open = state, detail, open
}

// Run opens the device and reads it, again and again, until ctx ends.
func (a *adapter) Run(ctx context.Context, out chan<- *adapters.Frame) error {
	var said string
	for retry := minRetry; ; retry = min(2*retry, maxRetry) {
		p, err := a.openPort(a.cfg)
		switch {
		case err == nil:
			said, retry = "", minRetry
			a.set(adapters.StateConnected, "The device is open.", 1)
			a.log.Info("opened the device", "baud", a.cfg.Baud)
			if !p.modem && a.cfg.DTR+a.cfg.RTS != "" {
				a.log.Warn("the device has no modem lines: dtr and rts are as they are")
			}
			err = a.serve(ctx, p, out)
			if ctx.Err() == nil {
				a.set(adapters.StateWaiting, fmt.Sprintf("Lost %s: %v. It is opened again when it is back; check that it is plugged in.", a.cfg.Device, err), 0)
				a.log.Warn("lost the device", "error", err)
			}
		case errors.Is(err, errors.ErrUnsupported):
			err = fmt.Errorf("cannot open %s for monitor %s: %w", a.cfg.Device, a.cfg.Monitor, err)
			a.set(adapters.StateFailed, err.Error(), 0)
			return err
		default:
			detail := fmt.Sprintf("Cannot open %s: %s.", a.cfg.Device, remedy(err))
			a.set(adapters.StateFailed, detail, 0)
			if detail != said { // not every second
				said = detail
				a.log.Warn("cannot open the device, trying again", "error", err)
			}
		}
		t := time.NewTimer(retry)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			if n := a.count.Undelivered.Load(); n > 0 {
				a.log.Error("stopped before there was room for all that was read; a monitor that waits for answers sends it again", "messages", n)
			}
			a.set(adapters.StateWaiting, "Stopped.", 0)
			return nil
		}
	}
}

func remedy(err error) string {
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENXIO), errors.Is(err, syscall.ENODEV):
		return "there is no such device; plug the adapter in, or give the name of a socket (vitalprov probe and ls /dev/serial/by-path list them)"
	case errors.Is(err, os.ErrPermission):
		return "no permission; add the service's user to the group of the device (mostly dialout)"
	case errors.Is(err, syscall.EBUSY), errors.Is(err, syscall.EAGAIN):
		return "another program, or another monitor of this configuration, has it"
	case errors.Is(err, syscall.ENOTTY):
		return "this is no serial device"
	}
	return err.Error()
}

// serve reads an open device to its end and closes it. The error says why it ended.
func (a *adapter) serve(ctx context.Context, p *port, out chan<- *adapters.Frame) error {
	defer p.close()
	gone, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cfg := framing.LineConfig{
		Monitor: a.cfg.Monitor, Via: "serial " + a.cfg.Device, Framing: a.cfg.Framing, MaxMessage: a.cfg.MaxMessage,
		Pause: a.cfg.IdleEnd, Cut: cutFramed,
		Write:  func(b []byte) error { return p.write(b, writeTimeout) },
		Broken: cancel,
		Out:    out, Count: &a.count,
	}
	if a.cfg.Framing == adapters.Unframed {
		cfg.Cut = 3 * a.cfg.IdleEnd
	}
	line, err := framing.NewLine(cfg)
	if err != nil {
		return err // New has checked the same
	}
	defer line.Close()
	room, full := framing.Grace(ctx)
	defer full()
	err = a.read(gone, room, p, line)
	if ctx.Err() == nil {
		line.End(room)
		if broken := context.Cause(gone); broken != nil {
			return broken
		}
		return err
	}
	drain, done := framing.Grace(ctx)
	defer done()
	line.Drain(drain)
	return nil
}

// read feeds line until the device is gone or ctx ends. What was read has until the end of room to find some.
func (a *adapter) read(ctx, room context.Context, p *port, line *framing.Line) error {
	before := a.lineStatus()
	var looked time.Time
	losses, doubt := newLosses(p, a.cfg, time.Now()), false
	for ctx.Err() == nil {
		if now := time.Now(); now.Sub(looked) >= time.Second {
			looked = now
			a.look(p, before)
		}
		losses.before(time.Now())
		data, damaged, err := p.read()
		if err != nil {
			a.look(p, before)
			return err
		}
		lost, over := losses.after(time.Now())
		if lost && !doubt {
			if a.lost++; a.lost&(a.lost-1) == 0 { // the 1st, 2nd, 4th … : a bad line does not fill the log
				a.log.Warn("bytes were lost on the line: the messages around them are kept and not charted; use flow control or a lower rate", "times", a.lost)
			}
		}
		if lost {
			line.Lost(true)
		}
		doubt = lost && !over
		if err := feed(room, line, data, damaged); err != nil {
			return err
		}
		if over {
			line.Lost(false)
		}
	}
	return ctx.Err()
}

func feed(ctx context.Context, line *framing.Line, data []byte, damaged []int) error {
	if len(data) == 0 {
		return line.Tick(ctx)
	}
	from := 0
	for _, i := range damaged {
		if err := line.Feed(ctx, data[from:i]); err != nil {
			return err
		}
		line.Damaged()
		from = i
	}
	return line.Feed(ctx, data[from:])
}

func (a *adapter) lineStatus() adapters.LineStatus {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.line
}

// look brings the line status up to date: the counts before this opening of the device plus those since.
func (a *adapter) look(p *port, before adapters.LineStatus) {
	s := p.status()
	s.Parity += before.Parity
	s.Framing += before.Framing
	s.Overrun += before.Overrun
	s.BufferOverrun += before.BufferOverrun
	s.Breaks += before.Breaks
	a.mu.Lock()
	defer a.mu.Unlock()
	a.line = s
}

// marks undoes the marking of PARMRK: FF 00 x is a byte x that came damaged, FF FF is FF. A mark may be cut in two by a read.
type marks struct{ held []byte }

const substitute = 0x1A // SUB, "a character that is invalid or in error"

// decode appends what p means to dst, with substitute for each damaged byte, and says where in dst those are.
func (m *marks) decode(dst, p []byte) (_ []byte, damaged []int) {
	for _, b := range p {
		m.held = append(m.held, b)
		switch h := m.held; {
		case h[0] != 0xFF:
			dst = append(dst, b)
		case len(h) == 1, len(h) == 2 && h[1] == 0:
			continue
		case len(h) == 2 && h[1] == 0xFF:
			dst = append(dst, 0xFF)
		case len(h) == 2: // from a driver that does not double FF
			dst = append(dst, 0xFF, b)
		default:
			damaged = append(damaged, len(dst))
			dst = append(dst, substitute)
		}
		m.held = m.held[:0]
	}
	return dst, damaged
}
