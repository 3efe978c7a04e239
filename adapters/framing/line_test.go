package framing

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/adapters"
)

func newLine(t *testing.T, cfg LineConfig) (*Line, chan *adapters.Frame) {
	t.Helper()
	out := make(chan *adapters.Frame, 8)
	cfg.Monitor, cfg.Via, cfg.MaxMessage, cfg.Count, cfg.Out = "bed-1", "test", 4096, &Counters{}, out
	if cfg.Write == nil {
		cfg.Write = func([]byte) error { return nil }
	}
	if cfg.Broken == nil {
		cfg.Broken = func(error) {}
	}
	l, err := NewLine(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l, out
}

// A message with a byte that the line damaged is marked, and only that one.
func TestDamaged(t *testing.T) {
	l, out := newLine(t, LineConfig{Framing: adapters.MLLP})
	ctx := context.Background()
	if err := l.Feed(ctx, []byte("\v"+adt+"\x1c\r\vMSH|^~\\&|1")); err != nil {
		t.Fatal(err)
	}
	l.Damaged()
	if err := l.Feed(ctx, []byte("\x1a|x\x1c\r\v"+adt+"\x1c\r")); err != nil {
		t.Fatal(err)
	}
	for i, want := range [][]string{nil, {adapters.NoteLineError}, nil} {
		if f := <-out; !slices.Equal(f.Notes, want) {
			t.Errorf("message %d has the notes %v, want %v", i, f.Notes, want)
		}
	}
}

// When the monitor takes nothing any more, the line ends: the reader is told, and answers fail.
func TestBroken(t *testing.T) {
	broken := make(chan struct{})
	l, out := newLine(t, LineConfig{Framing: adapters.MLLP, Write: func([]byte) error { return errors.New("no") }, Broken: func(error) { close(broken) }})
	if err := l.Feed(context.Background(), []byte("\v"+adt+"\x1c\r\v"+adt+"\x1c\r")); err != nil {
		t.Fatal(err)
	}
	if err := (<-out).Reply([]byte("ack")); err != nil {
		t.Fatal(err)
	}
	<-broken
	if err := (<-out).Reply([]byte("ack")); !errors.Is(err, adapters.ErrGone) {
		t.Fatalf("an answer over a broken line gives %v", err)
	}
	for range adapters.Window {
		if err := l.Feed(context.Background(), []byte("\v"+adt+"\x1c\r")); err != nil {
			if !errors.Is(err, adapters.ErrGone) {
				t.Fatal(err)
			}
			return
		}
		select {
		case <-out:
		default:
		}
	}
	t.Fatal("a broken line is fed on and on")
}

// Messages that wait for a place in the window, or for room, are delivered though the line breaks meanwhile.
func TestBrokenWhileFull(t *testing.T) {
	broken := make(chan struct{})
	l, _ := newLine(t, LineConfig{Framing: adapters.MLLP, Write: func([]byte) error { return errors.New("no") }, Broken: func(error) { close(broken) }})
	out := make(chan *adapters.Frame)
	l.cfg.Out = out
	const n = adapters.Window + 3
	fed := make(chan error, 1)
	go func() { fed <- l.Feed(context.Background(), []byte(strings.Repeat("\v"+adt+"\x1c\r", n))) }()
	first := <-out
	for range adapters.Window - 1 {
		<-out
	}
	if err := first.Reply([]byte("ack")); err != nil {
		t.Fatal(err)
	}
	<-broken
	for i := adapters.Window; i < n; i++ {
		select {
		case f := <-out:
			if string(f.Data) != adt {
				t.Fatalf("message %d is %q", i, f.Data)
			}
		case err := <-fed:
			t.Fatalf("message %d was dropped: %v", i, err)
		}
	}
	if err := <-fed; !errors.Is(err, adapters.ErrGone) {
		t.Fatalf("the reader is told %v, want ErrGone", err)
	}
}

// Only the end of the program leaves messages behind, and it counts them.
func TestUndelivered(t *testing.T) {
	l, out := newLine(t, LineConfig{Framing: adapters.MLLP})
	ctx, end := context.WithCancel(context.Background())
	fed := make(chan error, 1)
	go func() { fed <- l.Feed(ctx, []byte(strings.Repeat("\v"+adt+"\x1c\r", cap(out)+3))) }()
	for len(out) < cap(out) {
		time.Sleep(time.Millisecond)
	}
	end()
	if err := <-fed; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if n := l.cfg.Count.Undelivered.Load(); n != 3 {
		t.Fatalf("%d messages are counted, 3 were left behind", n)
	}
}

// The time that the box itself held the monitor back does not make the monitor slow.
func TestHeldBackIsNotSlow(t *testing.T) {
	l, out := newLine(t, LineConfig{Framing: adapters.MLLP, Slow: 400 * time.Millisecond})
	for range cap(out) {
		if err := l.Feed(context.Background(), []byte("\v"+adt+"\x1c\r")); err != nil {
			t.Fatal(err)
		}
	}
	go func() {
		time.Sleep(500 * time.Millisecond)
		<-out
	}()
	if err := l.Feed(context.Background(), []byte("\v"+adt+"\x1c\r\v"+adt[:20])); err != nil {
		t.Fatalf("held back, then: %v", err)
	}
	if !l.dec.Pending() {
		t.Fatal("the second message was cut")
	}
}

// A block that the monitor refuses is sent again three times and no more: a monitor that refuses for ever does not keep the line
// busy for ever.
func TestHLLPResendsAreBounded(t *testing.T) {
	sent := make(chan string, 100)
	l, out := newLine(t, LineConfig{Framing: adapters.HLLP, Write: func(p []byte) error { sent <- string(p); return nil }})
	ctx := context.Background()
	if err := l.Feed(ctx, Append(nil, adapters.HLLP, []byte(adt))); err != nil {
		t.Fatal(err)
	}
	if err := (<-out).Reply([]byte("ack")); err != nil {
		t.Fatal(err)
	}
	want := string(Append(nil, adapters.HLLP, []byte("ack")))
	for range 1 + maxRepeats {
		if got := <-sent; got != want {
			t.Fatalf("sent %q, want %q", got, want)
		}
		if err := l.Feed(ctx, AppendNak(nil, NakChecksum)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Feed(ctx, Append(nil, adapters.HLLP, []byte(adt))); err != nil {
		t.Fatal(err)
	}
	if err := (<-out).Reply([]byte("next")); err != nil {
		t.Fatal(err)
	}
	if got := <-sent; got != string(Append(nil, adapters.HLLP, []byte("next"))) {
		t.Fatalf("sent %q after the last resend", got)
	}
}

// A whole message that came while the box had no room is delivered once there is room: the monitor may say nothing more before
// it is answered. And the time without room is not taken for the monitor's silence.
func TestHeldBackUnframed(t *testing.T) {
	const pause = 20 * time.Millisecond
	room := make(chan *adapters.Frame)
	l, _ := newLine(t, LineConfig{Framing: adapters.Unframed, Pause: pause, Cut: 3 * pause})
	l.cfg.Out = room
	ctx := context.Background()
	feed := func(p string) {
		t.Helper()
		go func() {
			time.Sleep(4 * pause)
			<-room
		}()
		if err := l.Feed(ctx, []byte(p)); err != nil {
			t.Fatal(err)
		}
	}
	feed(adt + adt + "OBX|1|NM|x||1")
	if at := l.Wake(); at.Before(l.begun.Add(pause)) {
		t.Fatalf("for the other half the line waits until %v only, the room came at %v", at, l.begun)
	}
	if err := l.Feed(ctx, []byte("20\r")); err != nil || !l.dec.Pending() {
		t.Fatalf("the other half: %v, pending %t", err, l.dec.Pending())
	}
	feed(adt) // and with this the one before
	came := make(chan *adapters.Frame)
	go func() { came <- <-room }()
	for l.dec.Pending() {
		at := l.Wake()
		if at.IsZero() {
			t.Fatal("a whole message is held, and nothing will deliver it until the monitor speaks again")
		}
		time.Sleep(time.Until(at))
		if err := l.Tick(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if f := <-came; string(f.Data) != adt || !slices.Equal(f.Notes, []string{adapters.NoteIdleEnded}) {
		t.Fatalf("it came as %q %v", f.Data, f.Notes)
	}
}

// A reader that was late for all of its times is woken all the same.
func TestWakeAfterALongSleep(t *testing.T) {
	l, out := newLine(t, LineConfig{Framing: adapters.Unframed, Pause: time.Nanosecond, Cut: 3 * time.Nanosecond})
	if err := l.Feed(context.Background(), []byte(adt)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Millisecond)
	if l.Wake().IsZero() {
		t.Fatal("the line will not be woken")
	}
	if err := l.Tick(context.Background()); err != nil {
		t.Fatal(err)
	}
	if f := <-out; string(f.Data) != adt {
		t.Fatalf("it came as %q %v", f.Data, f.Notes)
	}
}
