package pipeline_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/adapters"
)

// An adapter that gives up, or panics, is begun again by itself, and the monitor beside it notices nothing.
func TestOneLineIsBegunAgainWithoutTheOthers(t *testing.T) {
	b := start(t, t.TempDir(), "ihe-pcd01", 1<<24)
	wantAcks(t, wait(t, b.send(t, heartRate("A1", 1, 71))), "AA A1")
	for i, fail := range []func(){func() { panic("a fault of ours") }, func() { b.fails.Store(&errBroken) }} {
		b.health.Clear("monitor-line", "bed-1")
		b.fault <- fail
		for end := time.Now().Add(60 * time.Second); !strings.Contains(b.conditions(), "monitor-line bed-1"); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("fault %d is no condition: %s", i, b.conditions())
			}
		}
		a := b.otherSays(t, heartRate("B1", 2+i, 72))
		if !strings.Contains(a, "MSA|AA|B1") {
			t.Errorf("the other monitor is answered %q", a)
		}
		b.fails.Store(nil)
		wantAcks(t, wait(t, b.send(t, heartRate("A2", 10+i, 73))), "AA A2")
	}
}

var errBroken = errors.New("the line is broken")

func (b *box) conditions() (s string) {
	for _, c := range b.health.Conditions() {
		s += c.Code + " " + c.About + ", "
	}
	return s
}

func (b *box) otherSays(t *testing.T, message string) string {
	t.Helper()
	return wait(t, b.other.send(t, message))
}

// A pulse comes back while the line moves, and not when the disk does not answer.
func TestThePulse(t *testing.T) {
	b := start(t, t.TempDir(), "ihe-pcd01", 1<<24)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	if err := b.pipeline.Pulse(ctx); err != nil {
		t.Fatal(err)
	}
	b.stop()
	stopped, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := b.pipeline.Pulse(stopped); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a line that has stopped has a pulse: %v", err)
	}
}

// faults make a bedside fail.
type faults struct {
	fault chan func()
	fails atomic.Pointer[error]
}

func (f *faults) err() error {
	if e := f.fails.Load(); e != nil {
		return *e
	}
	return nil
}

var _ adapters.Adapter = (*bedside)(nil)
