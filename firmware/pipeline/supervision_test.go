package pipeline_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/firmware/pipeline"
	"github.com/vitalgate/vitalgate/firmware/spool"
	"github.com/vitalgate/vitalgate/record/logfile"
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
	var syncs atomic.Int32
	disk := *logfile.SystemDisk()
	disk.Fdatasync = func(f *os.File) error {
		syncs.Add(1)
		return logfile.SystemDisk().Fdatasync(f)
	}
	sp, err := spool.Open(t.TempDir(), spool.Options{Disk: &disk})
	if err != nil {
		t.Fatal(err)
	}
	defer sp.Close()
	b := startWith(t, t.TempDir(), "ihe-pcd01", 1<<24, func(c *pipeline.Config) { c.Spool = sp })
	defer b.stop()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	if err := sp.WaitSigned(ctx, 0); err != nil { // the boot leaf; then the box is idle
		t.Fatal(err)
	}
	for range 3 {
		if err := b.pipeline.Pulse(ctx); err != nil {
			t.Fatal(err)
		}
	}
	before := syncs.Load()
	if err := b.pipeline.Pulse(ctx); err != nil {
		t.Fatal(err)
	}
	if syncs.Load() == before {
		t.Error("there is a pulse, and the disk was not asked")
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
