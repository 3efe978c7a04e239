// Package pds reads a Mindray bedside monitor (BeneView T, uMEC, iMEC, iPM, PM) over its patient data share interface.
//
// The monitor is the TCP server, mostly on port 4601, and says nothing until it is asked: the adapter sends a query (QRY^R02,
// class 1203) for parameters, physiological and technical alarms. Both sides send a keep-alive (class 106) each second; a side
// that hears none lets the connection go. Nothing is acknowledged. MSH-10 is the class of a message and no identity. Monitors
// announce themselves by a UDP broadcast (class 101), which is believed only as far as it cannot do harm (see beacon).
//
// The messages that the adapter sends are fixed texts; what the monitor's messages mean is decided elsewhere.
package pds

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/adapters/mllp"
)

// Port is where most monitors listen.
const Port = 4601

// Config says how one monitor is reached and what it is asked for.
type Config struct {
	Monitor string
	Address string // the monitor's host:port. With Beacon the host must be an IP address, and the port may be 0: the announced one

	Beacon string // UDP host:port to hear the monitor's beacon at, mostly 0.0.0.0:4600; "" for none

	IDs      []string      // parameters to ask for, by their numbers; none: all that the monitor has
	Again    bool          // ask once more at the monitor's first keep-alive: uMEC12 forgets what it was asked before
	Interval time.Duration // ask again this often; 0: never

	KeepAlive  time.Duration // between our keep-alives, default 1 s
	Silence    time.Duration // a connection on which nothing has come for so long is dead, default 5 s
	MaxMessage int           // bytes, default adapters.DefaultMaxMessage
}

const (
	keepAlive = time.Second
	silence   = 5 * time.Second
	maxIDs    = 400
	perQRF    = 4 // uMEC12 takes no more in one QRF
)

type adapter struct {
	adapters.Adapter
	cfg    Config
	log    *slog.Logger
	beacon *beacon // nil for none
}

// New makes an adapter. The error names the setting that cannot be.
func New(cfg Config, log *slog.Logger) (adapters.Adapter, error) {
	cannot := func(format string, args ...any) (adapters.Adapter, error) {
		return nil, fmt.Errorf("cannot set up monitor %s: %w", cfg.Monitor, fmt.Errorf(format, args...))
	}
	if cfg.KeepAlive < 0 || cfg.Silence < 0 || cfg.Interval < 0 {
		return cannot("times cannot be negative")
	}
	if cfg.KeepAlive == 0 {
		cfg.KeepAlive = keepAlive
	}
	if cfg.Silence == 0 {
		cfg.Silence = silence
	}
	if len(cfg.IDs) > maxIDs {
		return cannot("%d parameters are asked for, at most %d can be", len(cfg.IDs), maxIDs)
	}
	for _, id := range cfg.IDs {
		if id == "" || len(id) > 6 || strings.Trim(id, "0123456789") != "" {
			return cannot("parameter %q is no number of at most 6 digits", id)
		}
	}
	host, port, err := net.SplitHostPort(cfg.Address)
	if err != nil || host == "" {
		return cannot("address %q must be the monitor's host:port, such as 192.0.2.7:%d", cfg.Address, Port)
	}
	a := &adapter{cfg: cfg, log: log.With("monitor", cfg.Monitor)}
	m := mllp.Config{Monitor: cfg.Monitor, Role: "client", Address: cfg.Address, MaxMessage: cfg.MaxMessage, ReadIdle: cfg.Silence, Voice: a.voice}
	if cfg.Beacon != "" {
		ip, err := netip.ParseAddr(host)
		if err != nil {
			return cannot("address %q must give the monitor's IP address where a beacon is heard: a beacon is believed from that address only", cfg.Address)
		}
		if _, _, err := net.SplitHostPort(cfg.Beacon); err != nil {
			return cannot("beacon %q must be host:port, such as 0.0.0.0:4600", cfg.Beacon)
		}
		a.beacon = &beacon{monitor: ip.Unmap(), wake: make(chan struct{}, 1)}
		m.Wake = a.beacon.wake
		if port == "0" {
			m.Target = a.beacon.target
		}
	}
	if a.Adapter, err = mllp.New(m, log); err != nil {
		return nil, err
	}
	return a, nil
}

// Run dials the monitor, and hears its beacon, until ctx ends.
func (a *adapter) Run(ctx context.Context, out chan<- *adapters.Frame) error {
	ctx, stop := context.WithCancel(ctx)
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		if a.beacon != nil {
			a.beacon.listen(ctx, a.cfg.Beacon, a.log)
		}
	}()
	err := a.Adapter.Run(ctx, out)
	stop()
	<-heard
	return err
}

// Status says how the adapter is.
func (a *adapter) Status() adapters.Status {
	s := a.Adapter.Status()
	s.Kind = "mindray-pds"
	switch {
	case s.State == adapters.StateConnected && s.Bytes == 0:
		s.Detail = "Connected and asked, and nothing has come yet. If this lasts, check that the monitor's data share interface is enabled and allows this box."
	case s.State == adapters.StateWaiting && a.beacon != nil:
		if said := a.beacon.said.Load(); said != nil {
			s.Detail += " " + *said
		}
	}
	return s
}

// voice makes what the box says on one connection.
func (a *adapter) voice() mllp.Voice {
	var alive atomic.Bool
	first := make(chan struct{}, 1)
	return mllp.Voice{
		Heard: func(message []byte) {
			if a.cfg.Again && !alive.Load() && class(message) == "106" {
				alive.Store(true)
				first <- struct{}{} // once, and there is room for one
			}
		},
		Speak: func(ctx context.Context, send func([]byte) error) {
			tick := time.NewTicker(a.cfg.KeepAlive)
			defer tick.Stop()
			var again <-chan time.Time
			if a.cfg.Interval > 0 {
				t := time.NewTicker(a.cfg.Interval)
				defer t.Stop()
				again = t.C
			}
			err := send(a.query(time.Now()))
			for err == nil {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					err = send([]byte(echo))
				case <-first:
					err = send(a.query(time.Now()))
				case <-again:
					err = send(a.query(time.Now()))
				}
			}
			if !errors.Is(err, net.ErrClosed) && ctx.Err() == nil {
				a.log.Warn("the monitor takes nothing more", "error", err)
			}
		},
	}
}

// echo is the keep-alive.
const echo = "MSH|^~\\&|||||||ORU^R01|106|P|2.3.1|\r"

// query asks for parameters (type 1), physiological alarms (3) and technical alarms (4), each second, of the monitor itself.
func (a *adapter) query(now time.Time) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "MSH|^~\\&|||||||QRY^R02|1203|P|2.3.1\rQRD|%s|R|I|Q%s|||||RES\r", now.Format("20060102150405"), now.Format("150405"))
	if len(a.cfg.IDs) == 0 {
		b.WriteString("QRF|MON||||0&0^1^1^1^\r")
	}
	for i := 0; i < len(a.cfg.IDs); i += perQRF {
		fmt.Fprintf(&b, "QRF|MON||||0&0^1^1^0^%s\r", strings.Join(a.cfg.IDs[i:min(i+perQRF, len(a.cfg.IDs))], "&"))
	}
	b.WriteString("QRF|MON||||0&0^3^1^1^\rQRF|MON||||0&0^4^1^1^\r")
	return []byte(b.String())
}
