// Package mllp reads monitors over TCP, as server (the monitor dials) or as client (the box dials), with or without TLS. The
// messages stand in MLLP, HLLP or no framing.
package mllp

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/adapters/framing"
)

// Config says which monitor to read and how. Zero values of the numbers mean the defaults.
type Config struct {
	Monitor        string           // its name in all that the box says
	Role           string           // "server" or "client"
	Address        string           // host:port to listen on, or to dial
	Framing        adapters.Framing // default mllp
	MaxMessage     int              // bytes, default adapters.DefaultMaxMessage
	MaxConnections int              // server only, default 8
	FirstFrame     time.Duration    // when all places are taken, a connection without a frame for so long gives up its own, default 10 s
	ReadIdle       time.Duration    // close a connection that is silent for so long; default never (TCP keep-alive finds dead ones)
	IdleEnd        time.Duration    // silence that ends an unframed message, default 500 ms
	FrameTimeout   time.Duration    // longest time from the first to the last byte of a framed message, default 30 s
	WriteTimeout   time.Duration    // let a monitor go that does not take its answers for so long, default 10 s
	TLS            *tls.Config      // nil for none

	Target func() string   // client only: the address to dial instead of Address, "" while it is not known
	Wake   <-chan struct{} // client only: dial again without further waiting
	Voice  func() Voice    // if given, makes the Voice of each connection
}

// Voice is what a protocol has to say by itself on a connection, beside the answers to frames.
type Voice struct {
	Speak func(ctx context.Context, send func(message []byte) error) // ends with ctx, or when send fails
	Heard func(message []byte)                                       // each message before it is delivered; must not block, keep or change it
}

const (
	unsentTimeout = 30 * time.Second // for a monitor whose TCP acknowledges nothing of what was sent
	dialTimeout   = 10 * time.Second
	handshake     = 10 * time.Second
	readSize      = 16 << 10
	maxRest       = 8 << 20 // read at most of a connection that has to end; more than a kernel keeps of one (tcp_rmem)
	minBackoff    = 250 * time.Millisecond
	maxBackoff    = 15 * time.Second
)

// keepAlive finds the other side gone within half a minute: a monitor that was unplugged says nothing. Probes are not sent while
// an answer waits to be acknowledged by the other side's TCP, so limitUnsent bounds that wait.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}

type adapter struct {
	cfg   Config
	log   *slog.Logger
	count framing.Counters

	mu     sync.Mutex
	state  string
	detail string
	bound  net.Addr // server: the address that is listened on
	open   map[*connection]bool
}

// connection is an open connection of a monitor, or of somebody else.
type connection struct {
	net.Conn
	since time.Time
	spoke atomic.Bool // a frame has come
}

// finish makes the reading end behind what has come so far, which Close would throw away: the kernel has acknowledged it to the
// monitor, and not every monitor sends again what was not answered.
func (c *connection) finish() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		tcp.CloseRead() // fails when the other side has reset the connection, whose reading ends by itself
	}
}

// New makes an adapter. The error names the setting that cannot be.
func New(cfg Config, log *slog.Logger) (adapters.Adapter, error) {
	cannot := func(format string, args ...any) (adapters.Adapter, error) {
		return nil, fmt.Errorf("cannot set up monitor %s: %w", cfg.Monitor, fmt.Errorf(format, args...))
	}
	if cfg.Role != "server" && cfg.Role != "client" {
		return cannot("role %q must be \"server\" or \"client\"", cfg.Role)
	}
	host, port, err := net.SplitHostPort(cfg.Address)
	if err != nil {
		return cannot("address %q must be host:port, such as 0.0.0.0:2575: %w", cfg.Address, err)
	}
	if cfg.Role == "client" && cfg.Target == nil && (host == "" || port == "0" || port == "") {
		return cannot("address %q must give the monitor's host and port, such as 192.0.2.7:2575", cfg.Address)
	}
	if cfg.Framing == "" {
		cfg.Framing = adapters.MLLP
	}
	if cfg.MaxMessage == 0 {
		cfg.MaxMessage = adapters.DefaultMaxMessage
	}
	if _, err := framing.NewDecoder(cfg.Framing, cfg.MaxMessage); err != nil {
		return cannot("%w", err)
	}
	if cfg.MaxConnections < 0 || cfg.ReadIdle < 0 || cfg.IdleEnd < 0 || cfg.FrameTimeout < 0 || cfg.WriteTimeout < 0 || cfg.FirstFrame < 0 {
		return cannot("limits and times cannot be negative")
	}
	if cfg.MaxConnections == 0 {
		cfg.MaxConnections = 8
	}
	if cfg.IdleEnd == 0 {
		cfg.IdleEnd = 500 * time.Millisecond
	}
	if cfg.FrameTimeout == 0 {
		cfg.FrameTimeout = 30 * time.Second
	}
	if cfg.FirstFrame == 0 {
		cfg.FirstFrame = 10 * time.Second
	}
	if cfg.WriteTimeout == 0 {
		cfg.WriteTimeout = 10 * time.Second
	}
	if cfg.TLS != nil {
		cfg.TLS = cfg.TLS.Clone()
		if cfg.Role == "client" && cfg.TLS.ServerName == "" && !cfg.TLS.InsecureSkipVerify {
			cfg.TLS.ServerName = host
		}
		if cfg.Role == "server" && len(cfg.TLS.Certificates) == 0 && cfg.TLS.GetCertificate == nil && cfg.TLS.GetConfigForClient == nil {
			return cannot("TLS as server needs a certificate")
		}
	}
	return &adapter{cfg: cfg, log: log.With("monitor", cfg.Monitor), state: adapters.StateWaiting, detail: "Not started.", open: map[*connection]bool{}}, nil
}

// Status says how the adapter is. Address is the one in use, so for port 0 the one that was given.
func (a *adapter) Status() adapters.Status {
	a.mu.Lock()
	s := adapters.Status{Monitor: a.cfg.Monitor, Kind: "mllp-" + a.cfg.Role, Address: a.cfg.Address, State: a.state, Detail: a.detail, Connections: len(a.open)}
	if a.bound != nil {
		s.Address = a.bound.String()
	}
	a.mu.Unlock()
	a.count.Fill(&s)
	if s.State == adapters.StateConnected && s.Frames == 0 && s.Dropped > 0 && a.cfg.Framing != adapters.Unframed {
		s.Detail = fmt.Sprintf("Bytes arrive but no %s frame among them: check framing (\"none\" for bare messages) and the monitor's own setting.", a.cfg.Framing)
	}
	return s
}

func (a *adapter) set(state, detail string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state, a.detail = state, detail
}

// Run serves or dials until ctx ends.
func (a *adapter) Run(ctx context.Context, out chan<- *adapters.Frame) error {
	var err error
	if a.cfg.Role == "server" {
		err = a.listen(ctx, out)
	} else {
		err = a.dial(ctx, out)
	}
	if err != nil {
		a.set(adapters.StateFailed, sentence(err))
		return err
	}
	if n := a.count.Undelivered.Load(); n > 0 {
		a.log.Error("stopped before there was room for all that was read; a monitor that waits for answers sends it again", "messages", n)
	}
	a.set(adapters.StateWaiting, "Stopped.")
	return nil
}

// listen accepts monitors. It opens the port again if it is lost, or if its address is not there yet.
func (a *adapter) listen(ctx context.Context, out chan<- *adapters.Frame) error {
	var serving sync.WaitGroup
	defer serving.Wait()
	for b := newBackoff(); ; {
		ln, err := (&net.ListenConfig{KeepAliveConfig: keepAlive}).Listen(ctx, "tcp", a.cfg.Address)
		switch {
		case ctx.Err() != nil:
			if err == nil {
				ln.Close()
			}
			return nil
		case err == nil:
			b.reset()
			a.accept(ctx, ln, out, &serving)
		case errors.Is(err, syscall.EADDRNOTAVAIL): // an interface that comes up later
			a.set(adapters.StateWaiting, fmt.Sprintf("Cannot listen on %s: this box has no such address yet. Check the address, or use 0.0.0.0.", a.cfg.Address))
			a.log.Warn("cannot listen, trying again", "address", a.cfg.Address, "error", err)
		default:
			return fmt.Errorf("cannot listen on %s for monitor %s: %w (%s)", a.cfg.Address, a.cfg.Monitor, err, remedyListen(err))
		}
		if !b.wait(ctx, nil) {
			return nil
		}
	}
}

func remedyListen(err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return "another program or another monitor of this configuration has the port: choose another address, or stop that program; ss -ltnp names it"
	case errors.Is(err, os.ErrPermission):
		return "ports below 1024 need the capability CAP_NET_BIND_SERVICE: choose a higher port, or grant it"
	}
	return "check the address"
}

// accept serves the connections of ln until ctx ends or ln fails.
func (a *adapter) accept(ctx context.Context, ln net.Listener, out chan<- *adapters.Frame, serving *sync.WaitGroup) {
	a.mu.Lock()
	a.bound = ln.Addr()
	a.mu.Unlock()
	a.set(adapters.StateListening, "Waiting for the monitor to connect.")
	a.log.Info("listening", "address", ln.Addr().String())
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	defer ln.Close()
	for b := newBackoff(); ; {
		conn, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOBUFS), errors.Is(err, syscall.ENOMEM), errors.Is(err, syscall.ECONNABORTED):
			a.log.Warn("cannot accept a connection", "error", err)
			if !b.wait(ctx, nil) {
				return
			}
			continue
		case err != nil:
			a.set(adapters.StateWaiting, "The port was lost and is opened again.")
			a.log.Warn("lost the port", "error", err)
			return
		}
		b.reset()
		c, ok := a.enter(conn)
		if !ok {
			if n := a.count.Refused.Add(1); n&(n-1) == 0 { // the 1st, 2nd, 4th … : a flood does not fill the log
				a.log.Warn("refused a connection: as many as allowed are open", "from", conn.RemoteAddr().String(), "open", a.cfg.MaxConnections, "refused", n)
			}
			conn.Close()
			continue
		}
		serving.Go(func() {
			defer a.leave(c, adapters.StateListening, "The monitor has disconnected; waiting for it to connect.")
			a.serve(ctx, c, out)
		})
	}
}

// enter gives a connection its place, if there is one. When there is none, the oldest of those that have been silent since they
// were opened, for FirstFrame at least, has to go: connections that say nothing must not keep a monitor out.
func (a *adapter) enter(conn net.Conn) (*connection, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := &connection{Conn: conn, since: time.Now()}
	if len(a.open) >= a.cfg.MaxConnections {
		var silent *connection
		for o := range a.open {
			if !o.spoke.Load() && time.Since(o.since) >= a.cfg.FirstFrame && (silent == nil || o.since.Before(silent.since)) {
				silent = o
			}
		}
		if silent == nil {
			return nil, false
		}
		a.log.Warn("closed a connection that brought no message, to make room", "from", silent.RemoteAddr().String())
		silent.finish()
		delete(a.open, silent)
	}
	a.open[c] = true
	a.state, a.detail = adapters.StateConnected, "Connected."
	return c, true
}

func (a *adapter) leave(c *connection, state, detail string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.open, c)
	if len(a.open) == 0 && a.state == adapters.StateConnected {
		a.state, a.detail = state, detail
	}
}

// dial connects to the monitor, again and again.
func (a *adapter) dial(ctx context.Context, out chan<- *adapters.Frame) error {
	dialer := net.Dialer{Timeout: dialTimeout, KeepAliveConfig: keepAlive}
	for b := newBackoff(); ; {
		address := a.cfg.Address
		if a.cfg.Target != nil {
			address = a.cfg.Target()
		}
		if address == "" {
			a.set(adapters.StateWaiting, "The monitor has not announced its port yet. Check that it is on and that its beacon reaches this box, or set the port.")
			if !b.wait(ctx, a.cfg.Wake) {
				return nil
			}
			continue
		}
		conn, err := dialer.DialContext(ctx, "tcp", address)
		switch {
		case err == nil:
			began := time.Now()
			c, _ := a.enter(conn)
			a.serve(ctx, c, out)
			a.leave(c, adapters.StateWaiting, fmt.Sprintf("The connection to %s has ended; connecting again.", address))
			if time.Since(began) > maxBackoff {
				b.reset()
			}
		case ctx.Err() == nil:
			a.set(adapters.StateWaiting, fmt.Sprintf("Cannot reach the monitor at %s: %s. Check that it is on, that its HL7 output is enabled, and the address.", address, cause(err)))
			a.log.Warn("cannot reach the monitor, trying again", "address", address, "error", err)
		}
		if !b.wait(ctx, a.cfg.Wake) {
			return nil
		}
	}
}

// serve reads one connection to its end.
func (a *adapter) serve(ctx context.Context, c *connection, out chan<- *adapters.Frame) {
	conn := c.Conn
	via := "tcp " + conn.RemoteAddr().String()
	log := a.log.With("via", via)
	defer conn.Close()
	if err := limitUnsent(conn, unsentTimeout); err != nil {
		log.Debug("cannot limit the wait for a monitor that is gone", "error", err)
	}
	// The end of ctx must end a blocked Read, but not the answers that are under way.
	stop := context.AfterFunc(ctx, c.finish)
	defer stop()

	if a.cfg.TLS != nil {
		secure, err := a.secure(ctx, conn)
		if err != nil {
			log.Warn("refused a connection: TLS failed", "error", err)
			return
		}
		conn = secure
	}
	write := func(p []byte) error {
		conn.SetWriteDeadline(time.Now().Add(a.cfg.WriteTimeout))
		_, err := conn.Write(p)
		return err
	}
	var voice Voice
	if a.cfg.Voice != nil {
		voice = a.cfg.Voice()
	}
	cfg := framing.LineConfig{
		Monitor: a.cfg.Monitor, Via: via, Framing: a.cfg.Framing, MaxMessage: a.cfg.MaxMessage,
		Pause: a.cfg.IdleEnd, Slow: a.cfg.FrameTimeout,
		Write: write,
		Broken: func(err error) {
			log.Warn("the monitor takes no answers", "error", err)
			c.finish()
		},
		Spoke: func(message []byte) {
			c.spoke.Store(true)
			if voice.Heard != nil {
				voice.Heard(message)
			}
		},
		Out: out, Count: &a.count,
	}
	if a.cfg.Framing == adapters.Unframed {
		cfg.Cut, cfg.Slow = 3*a.cfg.IdleEnd, 0
	}
	line, err := framing.NewLine(cfg)
	if err != nil {
		log.Error("cannot read the connection", "error", err) // New has checked the same
		return
	}
	defer line.Close()
	log.Info("connected")
	if voice.Speak != nil {
		sctx, silence := context.WithCancel(ctx)
		var speaking sync.WaitGroup
		speaking.Go(func() {
			voice.Speak(sctx, func(message []byte) error {
				err := write(framing.Append(nil, a.cfg.Framing, message))
				if err != nil {
					c.finish()
				}
				return err
			})
		})
		defer func() {
			silence()
			conn.SetWriteDeadline(time.Unix(1, 0)) // a monitor that takes nothing does not hold up the end
			speaking.Wait()
		}()
	}
	room, full := framing.Grace(ctx)
	defer full()
	err = a.read(ctx, room, c, conn, line)
	if ctx.Err() == nil { // if err is nil the monitor has closed its side, perhaps only that: it may still be waiting for answers
		err = errors.Join(err, line.End(room))
	}
	drain, cancel := framing.Grace(ctx)
	defer cancel()
	if err != nil {
		var cancel context.CancelFunc
		drain, cancel = context.WithTimeout(drain, framing.StopTimeout)
		defer cancel()
	}
	line.Drain(drain)
	if err != nil && ctx.Err() == nil {
		log.Warn("disconnected", "error", err)
	} else {
		log.Info("disconnected")
	}
}

var errIdle = errors.New("the monitor was silent for longer than read_idle")

// read feeds line until the connection ends (nil) or has to be ended; what has come until then is read before it returns. What was
// read has until the end of room to find some. conn is c, or TLS over it.
func (a *adapter) read(ctx, room context.Context, c *connection, conn net.Conn, line *framing.Line) error {
	buf := make([]byte, readSize)
	last := time.Now()
	var ended error // why the connection has to be ended, though there may be something to read yet
	for rest := maxRest; ; {
		deadline := line.Wake()
		if a.cfg.ReadIdle > 0 {
			if idle := last.Add(a.cfg.ReadIdle); deadline.IsZero() || idle.Before(deadline) {
				deadline = idle
			}
		}
		conn.SetReadDeadline(deadline)
		n, err := conn.Read(buf)
		var fed error
		if n > 0 {
			last = time.Now()
			fed = line.Feed(room, buf[:n])
		} else if errors.Is(err, os.ErrDeadlineExceeded) {
			fed = line.Tick(room)
		}
		switch {
		case fed == nil:
		case errors.Is(fed, adapters.ErrGone), errors.Is(fed, framing.ErrSlow):
			if ended == nil {
				ended = fed
				c.finish()
			}
		default:
			return fed
		}
		over := ended != nil || ctx.Err() != nil
		if over {
			rest -= n
		}
		switch {
		case over && (rest <= 0 || err != nil && !errors.Is(err, os.ErrDeadlineExceeded)):
			return cmp.Or(ended, ctx.Err())
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			if a.cfg.ReadIdle > 0 && time.Since(last) >= a.cfg.ReadIdle {
				return errIdle
			}
		case errors.Is(err, io.EOF):
			return nil
		default:
			return err
		}
	}
}

func (a *adapter) secure(ctx context.Context, conn net.Conn) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshake)
	defer cancel()
	var t *tls.Conn
	if a.cfg.Role == "server" {
		t = tls.Server(conn, a.cfg.TLS)
	} else {
		t = tls.Client(conn, a.cfg.TLS)
	}
	return t, t.HandshakeContext(ctx)
}

// backoff waits longer and longer, with chance, so that a ward of boxes does not come back in step.
type backoff struct{ next time.Duration }

func newBackoff() *backoff { return &backoff{next: minBackoff} }

func (b *backoff) reset() { b.next = minBackoff }

// wait says whether ctx lives. wake, if any, ends the waiting.
func (b *backoff) wait(ctx context.Context, wake <-chan struct{}) bool {
	d := b.next/2 + rand.N(b.next/2+1)
	b.next = min(2*b.next, maxBackoff)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-wake:
		b.reset()
		return true
	case <-ctx.Done():
		return false
	}
}

// cause is the innermost text of a network error: "connection refused".
func cause(err error) string {
	var dns *net.DNSError
	var errno syscall.Errno
	var timeout net.Error
	switch {
	case errors.As(err, &dns):
		return "the name is not known"
	case errors.As(err, &errno):
		return errno.Error()
	case errors.As(err, &timeout) && timeout.Timeout():
		return "no answer"
	}
	return err.Error()
}

func sentence(err error) string {
	s := err.Error()
	return strings.ToUpper(s[:1]) + s[1:] + "."
}
