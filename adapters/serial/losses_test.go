//go:build linux

package serial

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/adapters/adapterstest"
	"github.com/vitalgate/vitalgate/adapters/serial/pty"
)

// lossy is an adapter on a pseudo terminal whose driver, if it counts overruns, counts them as the test says.
type lossy struct {
	*adapterstest.Running
	line     *pty.Pair
	port     atomic.Pointer[port]
	overruns atomic.Int32
	buffer   atomic.Int32
	written  uint64
}

func newLossy(t *testing.T, cfg Config, counts bool) *lossy {
	t.Helper()
	cfg.Monitor, cfg.Device = "bed-2", filepath.Join(t.TempDir(), "ttyUSB0")
	line, err := pty.Open(cfg.Device)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { line.Close() })
	a, err := New(cfg, adapterstest.Log(t))
	if err != nil {
		t.Fatal(err)
	}
	l := &lossy{line: line}
	a.(*adapter).openPort = func(cfg Config) (*port, error) {
		p, err := openPort(cfg)
		if err == nil && counts {
			p.counts = true
			p.count = func() (icounts, error) {
				return icounts{Overrun: l.overruns.Load(), BufOverrun: l.buffer.Load()}, nil
			}
		}
		l.port.Store(p)
		return p, err
	}
	l.Running = adapterstest.Start(t, a)
	l.Await(t, "open", func(s adapters.Status) bool { return s.Connections == 1 })
	return l
}

func (l *lossy) write(t *testing.T, p string) {
	t.Helper()
	l.written += uint64(len(p))
	if _, err := l.line.Write([]byte(p)); err != nil {
		t.Error(err)
	}
}

// read waits until all that was written has been read, so that nothing of it lies in the kernel.
func (l *lossy) read(t *testing.T) {
	t.Helper()
	l.Await(t, "all bytes", func(s adapters.Status) bool { return s.Bytes == l.written })
}

// next is the next message, by its value and whether it may be charted.
func (l *lossy) next(t *testing.T) string {
	t.Helper()
	f := l.Next(t)
	f.Reply(nil)
	_, rest, _ := strings.Cut(string(f.Data), "||")
	s, _, _ := strings.Cut(rest, "|")
	if adapters.Partial(f.Notes) {
		s += " not charted"
	}
	return s
}

func value(v string) string { return "MSH|^~\\&|\rOBX|1|NM|8867-4||" + v + "|/min\r" }

// A UART that was not emptied in time loses a byte and marks nothing: 172 becomes 72, with the right code and unit. The message
// in which that may have been is not charted, nor the one after it; the next one is.
func TestOverrunIsNotCharted(t *testing.T) {
	for _, framing := range []adapters.Framing{adapters.MLLP, adapters.Unframed} {
		for _, where := range []string{"in the UART", "in the buffer"} {
			t.Run(fmt.Sprintf("%s %s", framing, where), func(t *testing.T) {
				l := newLossy(t, Config{Framing: framing, IdleEnd: time.Hour}, true)
				frame := func(s string) string { return s }
				if framing == adapters.MLLP {
					frame = func(s string) string { return string(adapterstest.MLLP(s)) }
				}
				good, bad := frame(value("80")), frame(value("72"))
				cut := strings.Index(bad, "72")
				l.write(t, good+bad[:cut])
				if got := l.next(t); got != "80" {
					t.Fatalf("before the loss came %q", got)
				}
				l.read(t)
				if where == "in the UART" {
					l.overruns.Add(1)
				} else {
					l.buffer.Add(1)
				}
				l.write(t, bad[cut:]+frame(value("81")))
				got := []string{l.next(t)}
				l.read(t) // what comes in one read with the loss is in doubt
				l.write(t, frame(value("82"))+frame(value("83"))+frame(value("84")))
				for range 3 {
					got = append(got, l.next(t))
				}
				if got[0] != "72 not charted" || got[1] != "81 not charted" || got[3] != "83" {
					t.Fatalf("around the loss and after it came %q", got)
				}
			})
		}
	}
}

// Where nothing holds the monitor back and nobody reads for longer than the kernel's buffer lasts, two messages may have grown
// together in it, and not every driver counts that. None that lay in it is charted, nor the next; the one after that is.
func TestFullBufferIsNotCharted(t *testing.T) {
	for _, flow := range []string{"none", "rtscts"} {
		t.Run(flow, func(t *testing.T) {
			l := newLossy(t, Config{Baud: 921600, Flow: flow}, false)
			one := string(adapterstest.MLLP(value("80")))
			n := 2 * kernelBuffer / len(one)
			l.write(t, one) // this one is being delivered, and stays so
			l.Await(t, "the first", func(s adapters.Status) bool { return s.Frames == 1 })
			written := make(chan struct{})
			go func() {
				defer close(written)
				l.write(t, strings.Repeat(one, n))
			}()
			for end := time.Now().Add(adapterstest.Patience); l.port.Load().waiting() < kernelBuffer; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("the buffer does not fill")
				}
			}
			time.Sleep(100 * time.Millisecond) // it lasts a third of that
			var got []string
			for range 1 + n {
				got = append(got, l.next(t))
			}
			<-written
			doubtful := len(slices.DeleteFunc(slices.Clone(got), func(s string) bool { return s == "80" }))
			switch {
			case got[0] != "80":
				t.Errorf("what came before is %q", got[0])
			case flow == "rtscts" && doubtful > 0:
				t.Errorf("%d messages are not charted although the monitor was held back", doubtful)
			case flow == "none" && doubtful < kernelBuffer/len(one):
				t.Errorf("%d messages of %d are not charted", doubtful, n)
			}
			l.read(t)
			l.write(t, one+one+one)
			var last string
			for range 3 {
				last = l.next(t)
			}
			if last != "80" {
				t.Errorf("long after that comes %q", last)
			}
		})
	}
}

// The doubt is over only when the kernel's buffer has been empty: the loss may lie behind what it holds. And there is none where
// little waits, or where it waits for a short time.
func TestLosses(t *testing.T) {
	start := time.Unix(1_000_000, 0)
	var count uint64
	var waiting int
	counted := true
	fresh := func(flow string) *losses {
		count, waiting, counted = 0, 0, true
		l := newLosses(&port{}, Config{Flow: flow, Baud: 9600, DataBits: 8, StopBits: 1}, start)
		l.overruns, l.waiting = func() (uint64, bool) { return count, counted }, func() int { return waiting }
		return l
	}
	step := func(l *losses, after time.Duration, before, then int) string {
		waiting = before
		l.before(start.Add(after))
		waiting = then
		lost, over := l.after(start.Add(after))
		return fmt.Sprint(lost, over)
	}
	check := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: lost and over are %s, want %s", what, got, want)
		}
	}

	l := fresh("none")
	check("nothing", step(l, 0, 10, 0), "false false")
	count = 1
	check("an overrun, and much to read yet", step(l, time.Second, 4000, 4000), "true false")
	check("still", step(l, 2*time.Second, 4000, 100), "true false")
	check("read", step(l, 3*time.Second, 100, 0), "true true")
	check("after that", step(l, 3*time.Second, 10, 0), "false false")
	count = 0
	check("a counter that has wrapped", step(l, 4*time.Second, 10, 0), "true true")
	count, counted = 7, false
	check("a counter that cannot be read", step(l, 5*time.Second, 10, 0), "false false")

	l = fresh("none")
	check("3 s", step(l, 3*time.Second, 4000, 50), "false false")
	check("still not empty", step(l, 4*time.Second, 4000, 0), "true true") // 3072 bytes of 10 bits at 9600 are 3.2 s
	check("long, but the monitor said little", step(l, time.Minute, kernelBuffer-1, 0), "false false")

	l = fresh("xonxoff")
	check("held back", step(l, time.Minute, 4000, 0), "false false")
}

// DTR and RTS go where the configuration wants them, and a device without them is used all the same.
func TestModemLines(t *testing.T) {
	for _, c := range []struct {
		dtr, rts string
		on, off  int
	}{
		{"", "", 0, 0},
		{"on", "off", unix.TIOCM_DTR, unix.TIOCM_RTS},
		{"off", "on", unix.TIOCM_RTS, unix.TIOCM_DTR},
		{"off", "off", 0, unix.TIOCM_RTS | unix.TIOCM_DTR},
	} {
		if on, off := modemBits(Config{DTR: c.dtr, RTS: c.rts}); on != c.on || off != c.off {
			t.Errorf("dtr %q, rts %q: %x on, %x off", c.dtr, c.rts, on, off)
		}
	}
	line, err := pty.Open("")
	if err != nil {
		t.Fatal(err)
	}
	defer line.Close()
	cfg := Config{Device: line.Name, DTR: "on", RTS: "off"}
	defaults(&cfg)
	p, err := openPort(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p.close()
	for _, cfg := range []Config{{DTR: "high"}, {RTS: "1"}, {RTS: "on", Flow: "rtscts"}} {
		cfg.Device = "x"
		if _, err := New(cfg, adapterstest.Log(t)); err == nil || errors.Unwrap(err) == nil {
			t.Errorf("%+v is taken: %v", cfg, err)
		}
	}
}
