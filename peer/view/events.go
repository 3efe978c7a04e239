package view

import (
	"fmt"
	"net/http"
	"sync"
	"time"
)

const (
	maxStreams    = 64
	eventPause    = time.Second     // at least between two events of one stream
	eventBeat     = 5 * time.Second // at most
	eventPatience = 10 * time.Second
)

// stream tells open pages that something is new. What is new they fetch themselves, as any reader would.
type stream struct {
	mu     sync.Mutex
	open   map[chan struct{}]struct{}
	done   chan struct{}
	closed bool
}

func (s *stream) notify() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		select {
		case c <- struct{}{}:
		default: // it is told already
		}
	}
}

// join returns a channel that gets a signal after each change, and one that is closed at the end; nil if there are too many.
func (s *stream) join() (changes chan struct{}, done <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.open) >= maxStreams {
		return nil, nil
	}
	if s.open == nil {
		s.open = map[chan struct{}]struct{}{}
	}
	if s.done == nil {
		s.done = make(chan struct{})
	}
	changes = make(chan struct{}, 1)
	s.open[changes] = struct{}{}
	return changes, s.done
}

func (s *stream) leave(c chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
}

func (s *stream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed && s.done != nil {
		close(s.done)
	}
	s.closed = true
}

// events is the stream of Server-Sent Events: "update" when something is new, "beat" when nothing is, both with the
// server's clock in milliseconds. A page that hears nothing for some seconds knows that it is no longer live.
func (v *View) events(w http.ResponseWriter, r *http.Request) {
	changes, done := v.stream.join()
	if changes == nil {
		w.Header().Set("Retry-After", "10")
		v.fail(w, http.StatusServiceUnavailable, "Too many open pages", "Close other pages that show this peer, then reload this one.")
		return
	}
	defer v.stream.leave(changes)
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	if r.Method == http.MethodHead {
		return
	}
	control := http.NewResponseController(w)
	send := func(event string) bool {
		control.SetWriteDeadline(time.Now().Add(eventPatience))
		_, err := fmt.Fprintf(w, "event: %s\ndata: %d\n\n", event, v.now().UnixMilli())
		return err == nil && control.Flush() == nil
	}
	if !send("beat") {
		return
	}
	beat := time.NewTicker(eventBeat)
	defer beat.Stop()
	for {
		event := "beat"
		select {
		case <-r.Context().Done():
			return
		case <-done:
			return
		case <-changes:
			event = "update"
		case <-beat.C:
		}
		if !send(event) {
			return
		}
		select { // what comes in the meantime is one event
		case <-r.Context().Done():
			return
		case <-done:
			return
		case <-time.After(eventPause):
		}
	}
}
