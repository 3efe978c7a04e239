// Package adapterstest holds what every adapters.Adapter must do, as tests that are run against a real one with a real line
// between it and the test's monitor.
package adapterstest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/adapters"
)

// Patience is how long a test waits for what must happen.
const Patience = 60 * time.Second

// Rig is an adapter and the monitor's end of its line. Framing is mllp.
type Rig struct {
	Adapter adapters.Adapter
	Via     string // what Frame.Via begins with
	// Plug connects the monitor. Closing what it returns unplugs it; it can be plugged in again.
	Plug func(t *testing.T) io.ReadWriteCloser
}

// Run tests that the adapters which rig makes keep the contract of adapters.Adapter.
func Run(t *testing.T, rig func(t *testing.T) Rig) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Rig)
	}{
		{"Answers", testAnswers},
		{"Pieces", testPieces},
		{"Outstanding", testOutstanding},
		{"Window", testWindow},
		{"HangUpWhileFull", testHangUpWhileFull},
		{"Replug", testReplug},
		{"Incomplete", testIncomplete},
		{"Stop", testStop},
		{"StopWhileFull", testStopWhileFull},
	} {
		t.Run(c.name, func(t *testing.T) {
			Goroutines(t)
			c.test(t, rig(t))
		})
	}
}

// Log gives a logger whose lines are the test's.
func Log(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

// Goroutines fails t if, after its other clean-up, goroutines of adapters run that did not when Goroutines was called.
func Goroutines(t *testing.T) {
	before := strings.Count(stacks(), "vitalgate/adapters/")
	t.Cleanup(func() {
		var now string
		for range 100 {
			if now = stacks(); strings.Count(now, "vitalgate/adapters/") <= before {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("goroutines are left over:\n%s", now)
	})
}

func stacks() string {
	buf := make([]byte, 1<<20)
	return string(buf[:runtime.Stack(buf, true)])
}

// Message is a small HL7 message with the control id n.
func Message(n int) string {
	return fmt.Sprintf("MSH|^~\\&|SIM||||20260101120000||ORU^R01|%d|P|2.6\rOBX|1|NM|147842^MDC_ECG_HEART_RATE^MDC||72|||||F\r", n)
}

// MLLP frames messages.
func MLLP(messages ...string) []byte {
	var b bytes.Buffer
	for _, m := range messages {
		b.WriteString("\v" + m + "\x1c\r")
	}
	return b.Bytes()
}

// Running is an adapter that runs.
type Running struct {
	adapters.Adapter
	Out  chan *adapters.Frame
	Stop func() error // ends Run and gives its error
}

// Start runs a until the test ends or Stop is called.
func Start(t *testing.T, a adapters.Adapter) *Running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, done := make(chan *adapters.Frame), make(chan error, 1)
	go func() { done <- a.Run(ctx, out) }()
	var once bool
	var result error
	r := &Running{Adapter: a, Out: out}
	r.Stop = func() error {
		t.Helper()
		if !once {
			once = true
			cancel()
			select {
			case result = <-done:
			case <-time.After(Patience):
				t.Fatalf("Run does not return after its context has ended\n%s", stacks())
			}
		}
		return result
	}
	t.Cleanup(func() { r.Stop() })
	return r
}

// Next is the next frame.
func (r *Running) Next(t *testing.T) *adapters.Frame {
	t.Helper()
	select {
	case f := <-r.Out:
		return f
	case <-time.After(Patience):
		t.Fatalf("no frame comes; the adapter says %+v\n%s", r.Status(), stacks())
		return nil
	}
}

// Await waits until the adapter's status is as ok wants it.
func (r *Running) Await(t *testing.T, what string, ok func(adapters.Status) bool) adapters.Status {
	t.Helper()
	for end := time.Now().Add(Patience); ; time.Sleep(2 * time.Millisecond) {
		s := r.Status()
		if ok(s) {
			return s
		}
		if time.Now().After(end) {
			t.Fatalf("the status never becomes: %s; it is %+v", what, s)
		}
	}
}

func send(t *testing.T, w io.Writer, p []byte) {
	t.Helper()
	if _, err := w.Write(p); err != nil {
		t.Fatal(err)
	}
}

// Acks reads n MLLP frames from the box.
func Acks(t *testing.T, r io.Reader, n int) []string {
	t.Helper()
	type result struct {
		acks []string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		var res result
		b := bufio.NewReader(r)
		for len(res.acks) < n && res.err == nil {
			var ack string
			if ack, res.err = b.ReadString('\r'); strings.HasSuffix(ack, "\x1c\r") {
				res.acks = append(res.acks, strings.TrimSuffix(strings.TrimPrefix(ack, "\v"), "\x1c\r"))
			} else if res.err == nil {
				res.err = fmt.Errorf("the box sent %q, which is no frame", ack)
			}
		}
		done <- res
	}()
	select {
	case res := <-done:
		if len(res.acks) < n {
			t.Fatalf("%d of %d acknowledgements came: %v", len(res.acks), n, res.err)
		}
		return res.acks
	case <-time.After(Patience):
		t.Fatalf("the acknowledgements do not come")
		return nil
	}
}

func ack(n int) []byte { return fmt.Appendf(nil, "MSA|AA|%d", n) }

func wantAcks(t *testing.T, r io.Reader, from, n int) {
	t.Helper()
	for i, got := range Acks(t, r, n) {
		if want := string(ack(from + i)); got != want {
			t.Fatalf("answer %d is %q, want %q", i, got, want)
		}
	}
}

func (r *Running) reply(t *testing.T, f *adapters.Frame, ack []byte) {
	t.Helper()
	if err := f.Reply(ack); err != nil {
		t.Fatal(err)
	}
}

// A monitor's message comes as it was sent, its answer goes back, in the order of the messages; an answer may be none, or two;
// and it is given once.
func testAnswers(t *testing.T, rig Rig) {
	r := Start(t, rig.Adapter)
	m := rig.Plug(t)
	defer m.Close()
	before := time.Now()
	send(t, m, MLLP(Message(1), Message(2), Message(3)))
	f1, f2, f3 := r.Next(t), r.Next(t), r.Next(t)
	for i, f := range []*adapters.Frame{f1, f2, f3} {
		if string(f.Data) != Message(i+1) {
			t.Fatalf("frame %d is %q", i+1, f.Data)
		}
		if f.Line == 0 || f.Line != f1.Line {
			t.Fatalf("frame %d is of line %d, the first of line %d", i+1, f.Line, f1.Line)
		}
		if f.Monitor == "" || f.Monitor != r.Status().Monitor || !strings.HasPrefix(f.Via, rig.Via) || f.Arrived.Before(before) || f.Arrived.After(time.Now()) || f.Notes != nil {
			t.Fatalf("frame %d: monitor %q, via %q, arrived %v, notes %v", i+1, f.Monitor, f.Via, f.Arrived, f.Notes)
		}
	}
	r.reply(t, f3, ack(3))
	r.reply(t, f2, nil)
	if err := f1.Reply(ack(1), ack(11)); err != nil {
		t.Fatal(err)
	}
	if got := Acks(t, m, 3); !slices.Equal(got, []string{string(ack(1)), string(ack(11)), string(ack(3))}) {
		t.Fatalf("the monitor got %q", got)
	}
	if err := f1.Reply(ack(1)); !errors.Is(err, adapters.ErrReplied) {
		t.Fatalf("the second answer gives %v, want ErrReplied", err)
	}
	s := r.Await(t, "2 replies", func(s adapters.Status) bool { return s.Replies == 2 })
	if s.State != adapters.StateConnected || s.Connections != 1 || s.Frames != 3 || s.Bytes != uint64(len(MLLP(Message(1), Message(2), Message(3)))) || s.Dropped != 0 || s.LastFrame.Before(before) {
		t.Fatalf("status: %+v", s)
	}
}

func testPieces(t *testing.T, rig Rig) {
	r := Start(t, rig.Adapter)
	m := rig.Plug(t)
	defer m.Close()
	go func() {
		for _, b := range MLLP(Message(7)) {
			m.Write([]byte{b})
		}
	}()
	f := r.Next(t)
	if string(f.Data) != Message(7) {
		t.Fatalf("it came as %q", f.Data)
	}
	f.Reply(nil)
}

// A monitor may send many messages before it looks at an answer.
func testOutstanding(t *testing.T, rig Rig) {
	const n = 16
	r := Start(t, rig.Adapter)
	m := rig.Plug(t)
	defer m.Close()
	var all []string
	for i := range n {
		all = append(all, Message(i))
	}
	send(t, m, MLLP(all...))
	var frames []*adapters.Frame
	for range n {
		frames = append(frames, r.Next(t))
	}
	for i, f := range slices.Backward(frames) {
		if string(f.Data) != Message(i) {
			t.Fatalf("frame %d is %q", i, f.Data)
		}
		r.reply(t, f, ack(i))
	}
	wantAcks(t, m, 0, n)
}

// A box that is behind holds the monitor back, and loses nothing.
func testWindow(t *testing.T, rig Rig) {
	const n = 3 * adapters.Window
	r := Start(t, rig.Adapter)
	m := rig.Plug(t)
	defer m.Close()
	go func() {
		for i := range n {
			m.Write(MLLP(Message(i)))
		}
	}()
	var frames []*adapters.Frame
	for range adapters.Window {
		frames = append(frames, r.Next(t))
	}
	select {
	case <-r.Out:
		t.Fatalf("frame %d came with %d unanswered", len(frames)+1, len(frames))
	case <-time.After(200 * time.Millisecond):
	}
	go func() {
		for i := range n {
			if i >= len(frames) {
				frames = append(frames, <-r.Out)
			}
			frames[i].Reply(ack(i))
		}
	}()
	wantAcks(t, m, 0, n)
}

// A message that was read whole while the box was full is kept though the monitor hangs up and its line breaks before there is room;
// only its answer has nowhere to go. Some monitors never send a message again.
func testHangUpWhileFull(t *testing.T, rig Rig) {
	const n = adapters.Window / 2
	r := Start(t, rig.Adapter)
	m := rig.Plug(t)
	defer m.Close()
	var all []string
	for i := range n {
		all = append(all, Message(i))
	}
	go m.Write(MLLP(all...))
	var frames []*adapters.Frame
	for range n - 1 {
		frames = append(frames, r.Next(t))
	}
	r.Await(t, "all is read", func(s adapters.Status) bool { return s.Bytes == uint64(len(MLLP(all...))) })
	m.Close()
	broken := false
	for i := 0; i < len(frames) && !broken; i++ { // until writing fails: the first write that meets a closed connection does not yet
		broken = errors.Is(frames[i].Reply(ack(i)), adapters.ErrGone)
		for end := time.Now().Add(100 * time.Millisecond); r.Status().Replies <= uint64(i) && time.Now().Before(end); {
			time.Sleep(2 * time.Millisecond)
		}
	}
	if !broken {
		t.Fatalf("%d answers went to a monitor that has hung up", len(frames))
	}
	f := r.Next(t)
	if string(f.Data) != all[n-1] || f.Notes != nil {
		t.Fatalf("it came as %q %v", f.Data, f.Notes)
	}
	if err := f.Reply(ack(n - 1)); !errors.Is(err, adapters.ErrGone) {
		t.Fatalf("its answer gives %v, want ErrGone", err)
	}
}

// A monitor that goes away and comes back is read again.
func testReplug(t *testing.T, rig Rig) {
	r := Start(t, rig.Adapter)
	lines := map[uint64]bool{0: true}
	for i := range 3 {
		m := rig.Plug(t)
		send(t, m, MLLP(Message(i)))
		f := r.Next(t)
		if string(f.Data) != Message(i) {
			t.Fatalf("after plug %d it came as %q", i, f.Data)
		}
		if lines[f.Line] {
			t.Fatalf("after plug %d the frame is of line %d, which is not new", i, f.Line)
		}
		lines[f.Line] = true
		r.reply(t, f, ack(i))
		wantAcks(t, m, i, 1)
		m.Close()
		s := r.Await(t, "not connected", func(s adapters.Status) bool { return s.Connections == 0 })
		if s.State == adapters.StateConnected || s.Detail == "" {
			t.Fatalf("after unplug %d the status is %+v", i, s)
		}
	}
}

// Half a message is not lost and not whole.
func testIncomplete(t *testing.T, rig Rig) {
	r := Start(t, rig.Adapter)
	m := rig.Plug(t)
	half := Message(1)[:60]
	send(t, m, []byte("\v"+half))
	r.Await(t, "bytes read", func(s adapters.Status) bool { return s.Bytes == uint64(len(half)+1) })
	m.Close()
	f := r.Next(t)
	if string(f.Data) != half || !slices.Contains(f.Notes, adapters.NoteIncomplete) || !adapters.Partial(f.Notes) {
		t.Fatalf("half a message came as %q %v", f.Data, f.Notes)
	}
	f.Reply(nil)
}

// Answers that were given before the stop reach the monitor; those after it fail.
func testStop(t *testing.T, rig Rig) {
	r := Start(t, rig.Adapter)
	m := rig.Plug(t)
	defer m.Close()
	send(t, m, MLLP(Message(1), Message(2)))
	f1, f2 := r.Next(t), r.Next(t)
	r.reply(t, f1, ack(1))
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	wantAcks(t, m, 1, 1)
	if err := f2.Reply(ack(2)); !errors.Is(err, adapters.ErrGone) {
		t.Fatalf("an answer after the stop gives %v, want ErrGone", err)
	}
}

// A stop does not wait long for a box that takes no frames, and what it leaves behind is counted.
func testStopWhileFull(t *testing.T, rig Rig) {
	r := Start(t, rig.Adapter)
	m := rig.Plug(t)
	defer m.Close()
	send(t, m, MLLP(Message(1), Message(2)))
	r.Await(t, "bytes read", func(s adapters.Status) bool { return s.Bytes > 0 })
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	if s := r.Status(); s.Undelivered == 0 {
		t.Fatalf("the messages that found no room are not counted: %+v", s)
	}
}
