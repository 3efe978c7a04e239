package hospital

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Wire is a TCP proxy on loopback that can be cut: a network cable with a person at it.
type Wire struct {
	lis    net.Listener
	target string
	cut    atomic.Bool
	mu     sync.Mutex
	conns  map[net.Conn]struct{}
}

// NewWire listens on a free port and passes everything on to target.
func NewWire(ctx context.Context, target string) (*Wire, error) {
	lis, err := net.Listen("tcp", FreeAddr())
	if err != nil {
		return nil, err
	}
	w := &Wire{lis: lis, target: target, conns: map[net.Conn]struct{}{}}
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
func (w *Wire) Cut() {
	w.cut.Store(true)
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		c.Close()
	}
}

// Mend lets connections through again.
func (w *Wire) Mend() { w.cut.Store(false) }

func (w *Wire) pass(a net.Conn) {
	defer a.Close()
	if w.cut.Load() {
		return
	}
	b, err := net.DialTimeout("tcp", w.target, 2*time.Second)
	if err != nil {
		return
	}
	defer b.Close()
	w.mu.Lock()
	w.conns[a], w.conns[b] = struct{}{}, struct{}{}
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		delete(w.conns, a)
		delete(w.conns, b)
		w.mu.Unlock()
	}()
	if w.cut.Load() {
		return
	}
	done := make(chan struct{}, 2)
	go func() { io.Copy(a, b); done <- struct{}{} }()
	go func() { io.Copy(b, a); done <- struct{}{} }()
	<-done
}
