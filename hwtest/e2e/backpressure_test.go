package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/hwtest/hospital"
)

// memory is the resident memory of a process in KiB.
func memory(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(b) {
		if f := bytes.Fields(line); len(f) > 1 && string(f[0]) == "VmRSS:" {
			n, _ := strconv.Atoi(string(f[1]))
			return n
		}
	}
	return 0
}

// TestBackpressure: 32 monitors send as fast as they are answered while the network is down; the box keeps all of it and its memory
// does not grow with it. Then the network is back: the backlog leaves while live readings go on being answered. VITALGATE_BACKLOG is
// the number of messages (a day of 32 monitors at one in three seconds is 921600); the figures of such a run are in docs/performance.md.
func TestBackpressure(t *testing.T) {
	t.Parallel()
	const monitors = 32
	total, patience := 6_400, 10*time.Minute
	if testing.Short() {
		total = 3_200
	}
	if s := os.Getenv("VITALGATE_BACKLOG"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n > 990_000 {
			t.Fatalf("VITALGATE_BACKLOG is %q", s)
		}
		total, patience = n, time.Hour
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	addr, config := make([]string, monitors), ""
	for i := range addr {
		addr[i] = hospital.FreeAddr()
		config += monitorAt(fmt.Sprintf("bed-%d", i+1), addr[i])
	}
	h, err := hospital.New(ctx, hospital.Options{Bin: bin, Dir: t.TempDir(), TPM: os.Getenv("VITALGATE_E2E_TPM"), Monitors: config})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Stop() })
	if err := h.Start(ctx); err != nil {
		t.Fatal(err)
	}
	h.BoxWire.Cut()

	acked := &hospital.Acknowledged{}
	send := func(from, each int, pause time.Duration) time.Duration {
		var sending sync.WaitGroup
		began := time.Now()
		for i := range monitors {
			s := &hospital.Sender{Addr: addr[i], Bed: fmt.Sprintf("bed-%d", i+1), From: from + i*each, To: from + (i+1)*each, Acked: acked, Pause: pause, Unanswered: time.Minute}
			sending.Go(func() {
				if err := s.Run(ctx); err != nil {
					t.Errorf("sender %d: %v", i, err)
				}
			})
		}
		sending.Wait()
		return time.Since(began)
	}
	var rss []int
	took := time.Duration(0)
	const parts = 10
	for part := range parts {
		took += send(part*(total/parts), total/parts/monitors, 0)
		rss = append(rss, memory(h.Gateway.PID()))
	}
	n := acked.Count()
	t.Logf("%d messages kept in %v (%.0f a second), nothing published; memory of the box after each tenth: %v KiB", n, took.Round(time.Millisecond), float64(n)/took.Seconds(), rss)
	if early, late := slices.Max(rss[:parts/2]), slices.Max(rss[parts/2:]); late > early+early/4+16<<10 {
		t.Errorf("the box's memory grows with what it keeps: %v KiB", rss)
	}

	spool := func() (s struct{ Next, Acked uint64 }) {
		r, err := http.Get("http://" + h.Status + "/status")
		if err != nil {
			return s
		}
		defer r.Body.Close()
		var all struct {
			Spool *struct{ Next, Acked uint64 } `json:"spool"`
		}
		all.Spool = &s
		json.NewDecoder(r.Body).Decode(&all)
		return s
	}
	backlog := spool()
	if backlog.Next < uint64(n) || backlog.Acked > backlog.Next/10 {
		t.Fatalf("the backlog is %+v after %d messages", backlog, n)
	}
	h.BoxWire.Mend()
	live, stop := make([]time.Duration, 0), make(chan struct{})
	drained := make(chan time.Duration, 1)
	go func() {
		var first time.Time
		for ctx.Err() == nil {
			s := spool()
			if first.IsZero() && s.Acked > backlog.Acked {
				first = time.Now()
			}
			if s.Acked >= backlog.Next {
				drained <- time.Since(first)
				break
			}
			time.Sleep(2 * time.Millisecond)
		}
		close(stop)
	}()
	next := 990_000
	for open := true; open; next++ {
		s := &hospital.Sender{Addr: addr[next%monitors], Bed: fmt.Sprintf("bed-%d", next%monitors+1), From: next, To: next + 1, Acked: acked, Unanswered: time.Minute}
		began := time.Now()
		if err := s.Once(ctx); err != nil {
			t.Fatal(err)
		}
		live = append(live, time.Since(began))
		select {
		case <-stop:
			open = false
		case <-time.After(10 * time.Millisecond):
		}
	}
	slices.Sort(live)
	select {
	case d := <-drained:
		t.Logf("%d records left the box in %v (%.0f a second); %d live readings meanwhile were answered in p50 %v, p99 %v; memory %d KiB", backlog.Next-backlog.Acked,
			d.Round(time.Millisecond), float64(backlog.Next-backlog.Acked)/d.Seconds(), len(live), live[len(live)/2].Round(time.Microsecond), live[len(live)*99/100].Round(time.Microsecond), memory(h.Gateway.PID()))
	default:
		t.Fatalf("the backlog did not leave the box: %+v of %d", spool(), backlog.Next)
	}
	if err := h.Wait(ctx, patience, "all is at the hub", func() bool {
		out, _ := h.Run(ctx, "vitalpeer", "status", "--json", "--data", h.Data("hub"))
		var st struct {
			Boxes []struct{ Records uint64 }
		}
		return json.Unmarshal(out, &st) == nil && len(st.Boxes) == 1 && st.Boxes[0].Records >= backlog.Next+uint64(len(live))
	}); err != nil {
		t.Fatal(err)
	}
	if err := h.Stop(); err != nil {
		t.Errorf("a program did not stop cleanly: %v", err)
	}
	if out, err := h.Run(ctx, "vitalgate", "fsck", filepath.Join(h.Data("gw1"), "data")); err != nil {
		t.Errorf("the box's log is damaged: %v\n%s", err, out)
	}
}
