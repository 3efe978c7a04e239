package framing

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vitalgate/vitalgate/adapters"
)

// Counters of an adapter, over all its connections.
type Counters struct {
	Frames, Bytes, Replies, Dropped, Refused, Undelivered atomic.Uint64

	lastFrame atomic.Int64
}

// Fill copies the counters into s.
func (c *Counters) Fill(s *adapters.Status) {
	s.Frames, s.Bytes, s.Replies = c.Frames.Load(), c.Bytes.Load(), c.Replies.Load()
	s.Dropped, s.Refused, s.Undelivered = c.Dropped.Load(), c.Refused.Load(), c.Undelivered.Load()
	if ns := c.lastFrame.Load(); ns != 0 {
		s.LastFrame = time.Unix(0, ns)
	}
}

// LineConfig is what a Line needs to know.
type LineConfig struct {
	Monitor, Via string
	Framing      adapters.Framing
	MaxMessage   int

	// Pause is the silence after which a message that may be whole is taken as whole (Decoder.Silence).
	Pause time.Duration
	// Cut is the silence after which a message that has begun is given up (Decoder.Cut). 0 is never.
	Cut time.Duration
	// Slow is the longest time that a framed message may take from its first byte to its last. 0 is for ever.
	Slow time.Duration

	// Write sends bytes to the monitor. It must end by itself, with an error, when the monitor takes nothing.
	Write func([]byte) error
	// Broken is called once if Write fails, with its error. It should make the reading end.
	Broken func(error)
	// Spoke, if given, is called for each message that came, before it is delivered. It must not keep or change it.
	Spoke func(message []byte)
	Out   chan<- *adapters.Frame
	Count *Counters
}

// ErrSlow says that a message did not arrive whole in time. What was there of it has been delivered.
var ErrSlow = errors.New("a message did not arrive whole in time")

// StopTimeout is how long after the end of the program what was read may still find room, and what was answered its way out.
const StopTimeout = time.Second

// Grace is a context that outlives ctx by StopTimeout.
func Grace(ctx context.Context) (context.Context, context.CancelFunc) {
	g, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(StopTimeout, cancel) })
	return g, func() { stop(); cancel() }
}

// Line is one open connection to a monitor, as seen from its bytes: Feed takes what was read, Tick the passing of time, End the
// end of the reading, Close the end of all. Feed, Tick, End and Close are called by one goroutine; they block while Window
// frames are unanswered or Out is full, which is how the monitor is held back.
//
// A message that was read whole is delivered though its connection breaks while it waits for room: not every monitor sends again
// what was not answered. Only the end of ctx ends the waiting; what it leaves behind is counted (Counters.Undelivered).
type Line struct {
	cfg     LineConfig
	number  uint64
	dec     *Decoder
	found   []Message
	last    time.Time // of the last byte
	since   time.Time // silence counts from here: the last byte, or the end of our own waiting for room
	paused  bool      // Pause has passed since then, and the decoder knows
	begun   time.Time // of the message that is being read
	dropped uint64    // as far as counted

	window chan struct{} // a place per unanswered frame
	done   chan struct{} // closed: nothing is written any more
	wake   chan struct{}
	writer sync.WaitGroup

	mu      sync.Mutex
	answers []*answer // unanswered, or waiting for one before them, in frame order
	sending bool
	closed  bool
	repeat  []byte // HLLP: our last block, to send again when it is refused
	repeats int
}

type answer struct {
	ready bool
	line  []byte // as it goes over the line; nil for nothing
	reply bool   // a reply of the box (not a refusal by the adapter)
}

// maxRepeats bounds how often one HLLP block is sent again.
const maxRepeats = 3

// NewLine makes a Line and starts its writer, which Close ends.
func NewLine(cfg LineConfig) (*Line, error) {
	dec, err := NewDecoder(cfg.Framing, cfg.MaxMessage)
	if err != nil {
		return nil, err
	}
	l := &Line{
		cfg: cfg, number: adapters.NewLine(), dec: dec, last: time.Now(), since: time.Now(),
		window: make(chan struct{}, adapters.Window),
		done:   make(chan struct{}),
		wake:   make(chan struct{}, 1),
	}
	l.writer.Go(l.write)
	return l, nil
}

// Feed decodes what was read and delivers the frames in it. The error is ErrSlow, or that of ctx, or, when the frames are delivered,
// adapters.ErrGone if the monitor takes no answers any more.
func (l *Line) Feed(ctx context.Context, p []byte) error {
	l.last = time.Now()
	l.since, l.paused = l.last, false
	l.cfg.Count.Bytes.Add(uint64(len(p)))
	pending := l.dec.Pending()
	l.dec.Write(p, l.collect)
	if !pending || len(l.found) > 0 {
		l.begun = l.last
	}
	if err := l.deliver(ctx); err != nil {
		return err
	}
	return l.tooSlow(ctx)
}

// Tick applies the rules for silence. The errors are those of Feed.
func (l *Line) Tick(ctx context.Context) error {
	silent := time.Since(l.since)
	switch {
	case l.cfg.Cut > 0 && silent >= l.cfg.Cut:
		l.dec.Cut(l.collect)
	case silent >= l.cfg.Pause:
		l.paused = true
		l.dec.Silence(l.collect)
	}
	if err := l.deliver(ctx); err != nil {
		return err
	}
	return l.tooSlow(ctx)
}

func (l *Line) tooSlow(ctx context.Context) error {
	if l.cfg.Slow == 0 || !l.dec.Pending() || time.Since(l.begun) < l.cfg.Slow {
		return nil
	}
	l.dec.Cut(l.collect)
	if err := l.deliver(ctx); err != nil {
		return err
	}
	return ErrSlow
}

// readable is the least time for which the next read is tried: what came while we did something else is no silence.
const readable = 5 * time.Millisecond

// Wake is when Tick should be called next if nothing is read until then; the zero time is never.
func (l *Line) Wake() time.Time {
	if !l.dec.Pending() {
		return time.Time{}
	}
	var wake time.Time
	sooner := func(t time.Time) {
		if wake.IsZero() || t.Before(wake) {
			wake = t
		}
	}
	if !l.paused {
		sooner(l.since.Add(l.cfg.Pause))
	}
	if l.cfg.Cut > 0 {
		sooner(l.since.Add(l.cfg.Cut))
	}
	if l.cfg.Slow > 0 {
		sooner(l.begun.Add(l.cfg.Slow))
	}
	if soon := time.Now().Add(readable); !wake.IsZero() && wake.Before(soon) {
		return soon
	}
	return wake
}

// Damaged notes that the next byte that is fed was damaged on the line.
func (l *Line) Damaged() { l.dec.Damaged() }

// Lost notes that bytes were lost on the line (Decoder.Lost).
func (l *Line) Lost(more bool) { l.dec.Lost(more) }

// End delivers what there is of a message that will not be completed.
func (l *Line) End(ctx context.Context) error {
	l.dec.Cut(l.collect)
	return l.deliver(ctx)
}

// Drain waits until all frames are answered and the answers written, or until ctx ends or writing fails.
func (l *Line) Drain(ctx context.Context) {
	for range cap(l.window) {
		select {
		case l.window <- struct{}{}:
		case <-l.done:
			return
		case <-ctx.Done():
			return
		}
	}
}

// Close ends the writer, which is after its current Write. Answers after Close fail with adapters.ErrGone.
func (l *Line) Close() {
	l.shut()
	l.writer.Wait()
}

func (l *Line) shut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.closed = true
		close(l.done)
	}
}

func (l *Line) collect(m Message) { l.found = append(l.found, m) }

func (l *Line) deliver(ctx context.Context) error {
	d := l.dec.Dropped()
	l.cfg.Count.Dropped.Add(d - l.dropped)
	l.dropped = d
	defer func() { clear(l.found); l.found = l.found[:0] }()
	for i, m := range l.found {
		if m.Resend {
			l.resend()
			continue
		}
		select {
		case l.window <- struct{}{}:
		case <-l.done: // nothing is answered any more, so no place is needed
		case <-ctx.Done():
			l.leave(l.found[i:])
			return ctx.Err()
		}
		a := &answer{}
		l.mu.Lock()
		l.answers = append(l.answers, a)
		l.mu.Unlock()
		answered := func(acks ...[]byte) error { return l.answer(a, acks) }
		if m.Nak != 0 {
			l.refuse(a, m.Nak)
			answered = func(...[]byte) error { return nil }
		}
		if m.Data == nil {
			continue
		}
		f := adapters.NewFrame(l.cfg.Monitor, l.cfg.Via, m.Data, l.last, m.Notes, answered)
		f.Line = l.number
		if l.cfg.Spoke != nil {
			l.cfg.Spoke(m.Data)
		}
		l.cfg.Count.Frames.Add(1)
		l.cfg.Count.lastFrame.Store(l.last.UnixNano())
		select {
		case l.cfg.Out <- f:
		case <-ctx.Done():
			answered() // nobody will
			l.leave(l.found[i:])
			return ctx.Err()
		}
	}
	if len(l.found) == 0 {
		return nil
	}
	l.begun = time.Now() // time spent waiting for room is not the monitor's
	l.since = l.begun
	select {
	case <-l.done:
		return adapters.ErrGone
	default:
		return nil
	}
}

// leave counts messages that will not be delivered.
func (l *Line) leave(messages []Message) {
	for _, m := range messages {
		if m.Data != nil {
			l.cfg.Count.Undelivered.Add(1)
		}
	}
}

func (l *Line) answer(a *answer, acks [][]byte) error {
	var line []byte
	for _, ack := range acks {
		if ack != nil {
			line = Append(line, l.cfg.Framing, ack)
		}
	}
	return l.settle(a, line, line != nil)
}

func (l *Line) refuse(a *answer, reason byte) { _ = l.settle(a, AppendNak(nil, reason), false) }

func (l *Line) settle(a *answer, line []byte, reply bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return adapters.ErrGone
	}
	a.ready, a.line, a.reply = true, line, reply
	l.signal()
	return nil
}

func (l *Line) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// resend queues our last block again, ahead of nothing: it takes the place of an answer that asks for no place.
func (l *Line) resend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.repeat == nil || l.repeats == maxRepeats {
		return
	}
	l.repeats++
	l.sending = true
	l.signal()
}

// write sends the answers that are next, as many as there are in one Write.
func (l *Line) write() {
	var out []byte
	for {
		select {
		case <-l.wake:
		case <-l.done:
			return
		}
		for {
			var n int
			var replies uint64
			out, n, replies = l.next(out[:0])
			if n == 0 && len(out) == 0 {
				break
			}
			if len(out) > 0 {
				if err := l.cfg.Write(out); err != nil {
					l.shut()
					l.cfg.Broken(err)
					return
				}
			}
			l.cfg.Count.Replies.Add(replies)
			for range n {
				<-l.window
			}
		}
	}
}

// next takes the answers that are ready off the front and appends them to out.
func (l *Line) next(out []byte) (_ []byte, n int, replies uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sending {
		l.sending = false
		out = append(out, l.repeat...)
	}
	for n < len(l.answers) && l.answers[n].ready {
		a := l.answers[n]
		out = append(out, a.line...)
		if a.reply {
			replies++
			l.repeat, l.repeats = a.line, 0
		}
		n++
	}
	l.answers = append(l.answers[:0], l.answers[n:]...)
	return out, n, replies
}
