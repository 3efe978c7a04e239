package hospital

import (
	"context"
	"net"
	"sync"
	"time"
)

// Wire is a TCP proxy on loopback that can be cut: a network cable with a person at it.
type Wire struct {
	lis    net.Listener
	target string

	mu    sync.Mutex
	mode  Mode
	conns map[net.Conn]struct{}
	eaten map[net.Conn]struct{} // of conns: their bytes have been lost, so they cannot go on when the wire is mended
}

// Mode is what a wire does with what it carries.
type Mode int

// The modes of a wire.
const (
	Whole     Mode = iota
	Severed        // connections end, and none is made
	BlackHole      // what the target answers is lost; connections stay open
	HalfOpen       // what either side sends is lost; connections stay open
	Slow           // each piece, of 4 KiB at most, takes 20 ms
)

// NewWire listens on a free port and passes everything on to target.
func NewWire(ctx context.Context, target string) (*Wire, error) {
	lis, err := net.Listen("tcp", FreeAddr())
	if err != nil {
		return nil, err
	}
	w := &Wire{lis: lis, target: target, conns: map[net.Conn]struct{}{}, eaten: map[net.Conn]struct{}{}}
	context.AfterFunc(ctx, func() { lis.Close(); w.Cut() })
	go func() {
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			go w.pass(c)
		}
	}()
	return w, nil
}

// Addr is where to connect instead of the target.
func (w *Wire) Addr() string { return w.lis.Addr().String() }

// Cut ends every connection and refuses new ones.
func (w *Wire) Cut() { w.Set(Severed) }

// Mend lets connections through again.
func (w *Wire) Mend() { w.Set(Whole) }

// Set changes what the wire does.
func (w *Wire) Set(m Mode) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mode = m
	end := w.eaten
	if m == Severed {
		end = w.conns
	}
	for c := range end {
		c.Close()
	}
	clear(w.eaten)
}

func (w *Wire) now() Mode {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mode
}

func (w *Wire) pass(a net.Conn) {
	defer a.Close()
	if w.now() == Severed {
		return
	}
	b, err := net.DialTimeout("tcp", w.target, 2*time.Second)
	if err != nil {
		return
	}
	defer b.Close()
	w.mu.Lock()
	w.conns[a], w.conns[b] = struct{}{}, struct{}{}
	severed := w.mode == Severed
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		for _, c := range []net.Conn{a, b} {
			delete(w.conns, c)
			delete(w.eaten, c)
		}
		w.mu.Unlock()
	}()
	if severed {
		return
	}
	done := make(chan struct{}, 2)
	go func() { w.carry(a, b, true); done <- struct{}{} }()
	go func() { w.carry(b, a, false); done <- struct{}{} }()
	<-done
}

// carry copies from src to dst as the mode says. answers says that src is the target.
func (w *Wire) carry(dst, src net.Conn, answers bool) {
	b := make([]byte, 64<<10)
	for {
		part := b
		if w.now() == Slow {
			part = b[:4<<10]
		}
		n, err := src.Read(part)
		if n > 0 {
			switch m := w.now(); {
			case m == HalfOpen || m == BlackHole && answers:
				w.mu.Lock()
				if w.mode == m {
					w.eaten[dst] = struct{}{}
				}
				w.mu.Unlock()
				if w.now() != m { // mended in this moment: what was lost is lost
					return
				}
				continue
			case m == Slow:
				time.Sleep(20 * time.Millisecond)
			}
			if _, err := dst.Write(part[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
