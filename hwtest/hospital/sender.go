package hospital

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net"
	"regexp"
	"sync"
	"sync/atomic"
	"time"
)

// Sender is a monitor that sends numbered messages, each with the same bytes until it is acknowledged, and a time of its own.
type Sender struct {
	Addr, Bed  string
	From, To   int // numbers
	Step       int // from one number to the next; 0 is 1
	Acked      *Acknowledged
	Pause      time.Duration       // from one message to the next, as long as they are answered in time
	Unanswered time.Duration       // after which the connection is given up
	Done       <-chan struct{}     // no further number is begun; nil never
	Answered   func(time.Duration) // called for each message with how long its AA took; may be nil
	Ahead      time.Duration       // of its clock before ours
	Clock      time.Time           // what its clock shows at its first message: local time that names no zone; zero is now and Ahead, in UTC

	Broken atomic.Int64 // connections that ended before all was acknowledged
	begun  int          // first number that was never sent
}

// Acknowledged are the numbers for which a monitor has got AA.
type Acknowledged struct {
	Numbers
	Each func(n int) // is told of each; nil is nobody
}

// Add notes one.
func (a *Acknowledged) Add(n int) bool {
	if a.Each != nil {
		a.Each(n)
	}
	return a.Numbers.Add(n)
}

// Numbers is a set of numbers of messages. Runs of them take one bit each, so that millions fit.
type Numbers struct {
	mu    sync.Mutex
	bits  map[int]*[numbersChunk / 64]uint64
	count int
}

const numbersChunk = 4096

// Add notes one. It says whether the number is new.
func (s *Numbers) Add(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bits == nil {
		s.bits = map[int]*[numbersChunk / 64]uint64{}
	}
	chunk := s.bits[n/numbersChunk]
	if chunk == nil {
		chunk = new([numbersChunk / 64]uint64)
		s.bits[n/numbersChunk] = chunk
	}
	word, bit := &chunk[n%numbersChunk/64], uint64(1)<<(n%64)
	fresh := *word&bit == 0
	*word |= bit
	if fresh {
		s.count++
	}
	return fresh
}

// Has says whether a number is among them.
func (s *Numbers) Has(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	chunk := s.bits[n/numbersChunk]
	return chunk != nil && chunk[n%numbersChunk/64]>>(n%64)&1 == 1
}

// Count is how many there are.
func (s *Numbers) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// underWay is how many messages may be unanswered.
const underWay = 8

// maxLate is how far a monitor may fall behind its pace and still catch up.
const maxLate = 250 * time.Millisecond

// Run sends until all messages are acknowledged, or until Done and all that were begun are.
func (s *Sender) Run(ctx context.Context) error {
	next := s.From
	s.begun = s.From
	for ctx.Err() == nil {
		for next < s.To && s.Acked.Has(next) {
			next += s.step()
		}
		if next >= s.To || s.done() && next >= s.begun {
			return nil
		}
		s.connection(ctx, next)
		time.Sleep(20 * time.Millisecond)
	}
	return ctx.Err()
}

// Once sends the first message over a new connection and waits for its acknowledgement.
func (s *Sender) Once(ctx context.Context) error {
	s.connection(ctx, s.From)
	if !s.Acked.Has(s.From) {
		return fmt.Errorf("message %d was not acknowledged", s.From)
	}
	return ctx.Err()
}

// Begun is the first number that was never sent. It is for after Run.
func (s *Sender) Begun() int { return s.begun }

func (s *Sender) step() int { return cmp.Or(s.Step, 1) }

func (s *Sender) done() bool {
	select {
	case <-s.Done:
		return true
	default:
		return false
	}
}

var msa = regexp.MustCompile(`MSA\|([A-Z]{2})\|E2E-([0-9]{6,})`)

// connection sends from number first on over one connection, until it breaks, an answer is overdue, or all is done.
func (s *Sender) connection(ctx context.Context, first int) {
	c, err := net.DialTimeout("tcp", s.Addr, time.Second)
	if err != nil {
		return
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	slots := make(chan time.Time, underWay) // since when, of what is unanswered
	broken := make(chan struct{})
	go func() {
		defer close(broken)
		in := bufio.NewReader(c)
		for {
			c.SetReadDeadline(time.Now().Add(s.Unanswered))
			frame, err := in.ReadBytes(0x1C)
			if err != nil {
				return
			}
			m := msa.FindSubmatch(frame)
			if m == nil || string(m[1]) != "AA" {
				return
			}
			var n int
			fmt.Sscanf(string(m[2]), "%d", &n)
			s.Acked.Add(n)
			if since := <-slots; s.Answered != nil {
				s.Answered(time.Since(since))
			}
		}
	}()
	due := time.Now()
	for n := first; n < s.To && !(s.done() && n >= s.begun); n += s.step() {
		if s.Acked.Has(n) {
			continue
		}
		select {
		case slots <- time.Now():
		case <-broken:
			s.Broken.Add(1)
			return
		}
		s.begun = max(s.begun, n+s.step())
		if _, err := c.Write(s.Message(n)); err != nil {
			return
		}
		due = due.Add(s.Pause)
		if late := time.Since(due); late > maxLate { // what could not be sent in time is not made up for
			due = due.Add(late - maxLate)
		}
		time.Sleep(time.Until(due))
	}
	for range underWay { // until nothing is under way
		select {
		case slots <- time.Now():
		case <-broken:
			return
		}
	}
}

// begun is when message 0 was measured, and Tick how much later each next one was.
var (
	begun = time.Now().UTC()
	Tick  = 10 * time.Millisecond
)

// Message is number n, framed for MLLP.
func (s *Sender) Message(n int) []byte {
	at := begun.Add(s.Ahead+time.Duration(n)*Tick).Format("20060102150405") + "+0000"
	if !s.Clock.IsZero() {
		at = s.Clock.Add(time.Duration(n-s.From) * Tick).Format("20060102150405")
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "\x0bMSH|^~\\&|SIM^00A0370027000143^EUI-64|E2E|||%s||ORU^R01^ORU_R01|E2E-%06d|P|2.6\r", at, n)
	fmt.Fprintf(&b, "PID|||%s^^^Hospital^PI||Test^%s^^^^^L\rPV1||I|ICU^^%s\r", s.Bed, s.Bed, s.Bed)
	fmt.Fprintf(&b, "OBR|1|||69952^MDC_DEV_MON_PT_PHYSIO_MULTI_PARAM^MDC|||%s\r", at)
	fmt.Fprintf(&b, "OBX|1|NM|147842^MDC_ECG_HEART_RATE^MDC|1.7.4.147842|%d|264864^MDC_DIM_BEAT_PER_MIN^MDC|||||R\r", 50+n%60)
	fmt.Fprintf(&b, "OBX|2|ST|E2E-NUMBER^number of this message^99E2E|1.9.1.1|E2E-%06d||||||R\r\x1c\r", n)
	return b.Bytes()
}

var numberText = regexp.MustCompile(`E2E-([0-9]{6,})`)

// NumberOf finds the number that a Bundle carries, -1 if none.
func NumberOf(bundle []byte) int {
	m := numberText.FindSubmatch(bundle)
	if m == nil {
		return -1
	}
	var n int
	fmt.Sscanf(string(m[1]), "%d", &n)
	return n
}
