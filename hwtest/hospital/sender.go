package hospital

import (
	"bufio"
	"bytes"
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
	Acked      *Acknowledged
	Pause      time.Duration   // between messages
	Unanswered time.Duration   // after which the connection is given up
	Done       <-chan struct{} // no further number is begun; nil never

	Broken atomic.Int64 // connections that ended before all was acknowledged
	begun  int          // first number that was never sent
}

// Acknowledged are the numbers for which a monitor has got AA.
type Acknowledged struct {
	mu sync.Mutex
	by map[int]bool
}

// Add notes one.
func (a *Acknowledged) Add(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.by == nil {
		a.by = map[int]bool{}
	}
	a.by[n] = true
}

// Has says whether a number is acknowledged.
func (a *Acknowledged) Has(n int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.by[n]
}

// Count is how many are.
func (a *Acknowledged) Count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.by)
}

// underWay is how many messages may be unanswered.
const underWay = 8

// Run sends until all messages are acknowledged, or until Done and all that were begun are.
func (s *Sender) Run(ctx context.Context) error {
	next := s.From
	s.begun = s.From
	for ctx.Err() == nil {
		for next < s.To && s.Acked.Has(next) {
			next++
		}
		if next == s.To || s.done() && next >= s.begun {
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

func (s *Sender) done() bool {
	select {
	case <-s.Done:
		return true
	default:
		return false
	}
}

var msa = regexp.MustCompile(`MSA\|([A-Z]{2})\|E2E-([0-9]{6})`)

// connection sends from number first on over one connection, until it breaks, an answer is overdue, or all is done.
func (s *Sender) connection(ctx context.Context, first int) {
	c, err := net.DialTimeout("tcp", s.Addr, time.Second)
	if err != nil {
		return
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	slots := make(chan struct{}, underWay)
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
			<-slots
		}
	}()
	for n := first; n < s.To && !(s.done() && n >= s.begun); n++ {
		if s.Acked.Has(n) {
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-broken:
			s.Broken.Add(1)
			return
		}
		s.begun = max(s.begun, n+1)
		if _, err := c.Write(s.Message(n)); err != nil {
			return
		}
		time.Sleep(s.Pause)
	}
	for range underWay { // until nothing is under way
		select {
		case slots <- struct{}{}:
		case <-broken:
			return
		}
	}
}

// begun is when the first message was measured.
var begun = time.Now().UTC()

// Message is number n, framed for MLLP.
func (s *Sender) Message(n int) []byte {
	at := begun.Add(time.Duration(n) * 10 * time.Millisecond).Format("20060102150405")
	var b bytes.Buffer
	fmt.Fprintf(&b, "\x0bMSH|^~\\&|SIM^00A0370027000143^EUI-64|E2E|||%s+0000||ORU^R01^ORU_R01|E2E-%06d|P|2.6\r", at, n)
	fmt.Fprintf(&b, "PID|||%s^^^Hospital^PI||Test^%s^^^^^L\rPV1||I|ICU^^%s\r", s.Bed, s.Bed, s.Bed)
	fmt.Fprintf(&b, "OBR|1|||69952^MDC_DEV_MON_PT_PHYSIO_MULTI_PARAM^MDC|||%s+0000\r", at)
	fmt.Fprintf(&b, "OBX|1|NM|147842^MDC_ECG_HEART_RATE^MDC|1.7.4.147842|%d|264864^MDC_DIM_BEAT_PER_MIN^MDC|||||R\r", 50+n%60)
	fmt.Fprintf(&b, "OBX|2|ST|E2E-NUMBER^number of this message^99E2E|1.9.1.1|E2E-%06d||||||R\r\x1c\r", n)
	return b.Bytes()
}

var numberText = regexp.MustCompile(`E2E-([0-9]{6})`)

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
