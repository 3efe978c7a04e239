package e2e_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/hwtest/hospital"
)

// figures are what a program tells of itself.
type figures struct {
	rss     int           // KiB
	cpu     time.Duration // of the processor, from its beginning
	records uint64        // of the box that are stored and verified; of a peer only
}

// figuresOf asks a running program.
func figuresOf(h *hospital.Hospital, p *hospital.Process) (f figures) {
	r, err := http.Get(h.Metrics(p))
	if err != nil {
		return f
	}
	defer r.Body.Close()
	for lines := bufio.NewScanner(r.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		n, _ := strconv.ParseFloat(value, 64)
		switch name {
		case "process_resident_memory_bytes":
			f.rss = int(n) / 1024
		case "process_cpu_seconds_total":
			f.cpu = time.Duration(n * float64(time.Second))
		case fmt.Sprintf("vitalpeer_store_records{box=%q}", hospital.Box):
			f.records = uint64(n)
		}
	}
	return f
}

// spooled is how far the box's log reaches, and how much of it a leaf node has acknowledged.
func spooled(h *hospital.Hospital) (s struct{ Next, Acked uint64 }) {
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

// live sends single messages, as a monitor does that has something to say now and then, and finds how long each takes until its AA
// and until the hub has verified it.
type live struct {
	h     *hospital.Hospital
	addr  []string
	acked *hospital.Acknowledged
	next  int // number

	ack, hub []time.Duration
	open     []underWay
}

// underWay is a message that the hub lacks: it has arrived when the hub's copy has grown to the length that the log had after its AA.
type underWay struct {
	began time.Time
	size  uint64
}

func (l *live) send(ctx context.Context) error {
	i := l.next % len(l.addr)
	s := &hospital.Sender{Addr: l.addr[i], Bed: fmt.Sprintf("bed-%d", i+1), From: l.next, To: l.next + 1, Acked: l.acked, Unanswered: time.Minute}
	l.next++
	began := time.Now()
	if err := s.Once(ctx); err != nil {
		return err
	}
	l.ack = append(l.ack, time.Since(began))
	l.open = append(l.open, underWay{began, spooled(l.h).Next})
	return nil
}

// look finds what has arrived at the hub.
func (l *live) look() {
	for records := figuresOf(l.h, l.h.Hub).records; len(l.open) > 0 && records >= l.open[0].size; l.open = l.open[1:] {
		l.hub = append(l.hub, time.Since(l.open[0].began))
	}
}

func quantiles(all []time.Duration) (p50, p99 time.Duration) {
	if len(all) == 0 {
		return 0, 0
	}
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2].Round(100 * time.Microsecond), all[len(all)*99/100].Round(100 * time.Microsecond)
}

// TestBackpressure: 32 monitors send as fast as they are answered while the network is down; the box keeps all of it and its memory
// does not grow with it. Then the network is back: the backlog leaves while live readings go on being answered. "Drained" is said
// twice: when the ward's stream has acknowledged all, so that the box's ring may let go of it, and when ward and hub have verified and
// stored it. At the end the hub is asked for all of it: nothing is lost, doubled, or in another order than its monitor sent it.
//
// VITALGATE_BACKLOG is the number of messages (a day of 32 monitors at one a second is 2764800, some 4 GB at the box and as much at
// each peer), VITALGATE_BACKLOG_FOR how long they may be sent at most; the figures of such a run are in docs/performance.md.
func TestBackpressure(t *testing.T) {
	t.Parallel()
	const monitors = 32
	total, patience := 6_400, 10*time.Minute
	if testing.Short() {
		total = 3_200
	}
	if s := os.Getenv("VITALGATE_BACKLOG"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 10*monitors || n > 10_000_000 {
			t.Fatalf("VITALGATE_BACKLOG is %q", s)
		}
		total, patience = n, 6*time.Hour
	}
	limit := patience
	if s := os.Getenv("VITALGATE_BACKLOG_FOR"); s != "" {
		var err error
		if limit, err = time.ParseDuration(s); err != nil {
			t.Fatalf("VITALGATE_BACKLOG_FOR is %q", s)
		}
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
	acked := &hospital.Acknowledged{}
	quiet := &live{h: h, addr: addr, acked: acked}
	for range 40 {
		if err := quiet.send(ctx); err != nil {
			t.Fatal(err)
		}
		for quiet.look(); len(quiet.open) > 0 && ctx.Err() == nil; quiet.look() {
			time.Sleep(2 * time.Millisecond)
		}
	}
	h.BoxWire.Cut()

	memory := func() string {
		return fmt.Sprintf("%d / %d / %d", figuresOf(h, h.Gateway).rss, figuresOf(h, h.Ward).rss, figuresOf(h, h.Hub).rss)
	}
	t.Logf("memory of box / ward / hub in KiB: %s with nothing to do", memory())
	var rss []int
	took := time.Duration(0)
	parts := max(10, total/30_000)
	for part := range parts {
		if took >= limit && part >= 10 {
			break
		}
		var sending sync.WaitGroup
		began, each := time.Now(), total/parts/monitors
		for i := range monitors {
			from := quiet.next + part*(total/parts) + i*each
			s := &hospital.Sender{Addr: addr[i], Bed: fmt.Sprintf("bed-%d", i+1), From: from, To: from + each, Acked: acked, Unanswered: time.Minute}
			sending.Go(func() {
				if err := s.Run(ctx); err != nil {
					t.Errorf("sender %d: %v", i, err)
				}
			})
		}
		sending.Wait()
		took += time.Since(began)
		rss = append(rss, figuresOf(h, h.Gateway).rss)
	}
	n := acked.Count() - len(quiet.ack)
	t.Logf("%d messages kept in %v (%.0f a second), nothing published; memory of the box after each %d: %v KiB", n, took.Round(time.Millisecond), float64(n)/took.Seconds(), total/parts, rss)
	if early, late := slices.Max(rss[:len(rss)/2]), slices.Max(rss[len(rss)/2:]); late > early+early/4+16<<10 {
		t.Errorf("the box's memory grows with what it keeps: %v KiB", rss)
	}

	backlog := spooled(h)
	if backlog.Next < uint64(n) || backlog.Acked > backlog.Next/10 {
		t.Fatalf("the backlog is %+v after %d messages", backlog, n)
	}
	before := []figures{figuresOf(h, h.Gateway), figuresOf(h, h.Ward), figuresOf(h, h.Hub)}
	h.BoxWire.Mend()
	var began time.Time
	reached := map[string]time.Duration{} // when the whole backlog had got there
	note := func(where string, size uint64) {
		if began.IsZero() && size > backlog.Acked {
			began = time.Now()
		}
		if reached[where] == 0 && size >= backlog.Next {
			reached[where] = time.Since(began)
		}
	}
	busy := &live{h: h, addr: addr, acked: acked, next: quiet.next + total}
	most := make([]int, 3)
	look := func() {
		note("stream", spooled(h).Acked)
		for i, p := range []*hospital.Process{h.Gateway, h.Ward, h.Hub} {
			f := figuresOf(h, p)
			most[i] = max(most[i], f.rss)
			if i > 0 {
				note(p.Name, f.records)
			}
		}
		busy.look()
	}
	for ctx.Err() == nil && len(reached) < 3 {
		if reached["stream"] == 0 {
			if err := busy.send(ctx); err != nil {
				t.Fatal(err)
			}
		}
		look()
		time.Sleep(100 * time.Millisecond) // to be asked costs the programs too
	}
	for ctx.Err() == nil && len(busy.open) > 0 {
		busy.look()
		time.Sleep(10 * time.Millisecond)
	}
	if ctx.Err() != nil {
		t.Fatalf("the backlog did not get everywhere: %+v of %d, reached %v, %d live readings missing", spooled(h), backlog.Next, reached, len(busy.open))
	}
	records := float64(backlog.Next - backlog.Acked)
	for _, where := range []string{"stream", "ward1", "hub"} {
		t.Logf("drained: %.0f records in %v (%.0f a second) at: %s", records, reached[where].Round(time.Millisecond), records/reached[where].Seconds(), where)
	}
	for i, p := range []*hospital.Process{h.Gateway, h.Ward, h.Hub} {
		cpu := figuresOf(h, p).cpu - before[i].cpu
		t.Logf("%s: processor %.0f µs a record, that is %.0f records/s for a core of its own; memory at most %d KiB", p.Name, cpu.Seconds()/records*1e6, records/cpu.Seconds(), most[i])
	}
	for name, l := range map[string][2][]time.Duration{"until AA": {quiet.ack, busy.ack}, "until the hub's verdict": {quiet.hub, busy.hub}} {
		q50, q99 := quantiles(l[0])
		b50, b99 := quantiles(l[1])
		t.Logf("live readings %s: quiet p50 %v, p99 %v (%d); during the drain p50 %v, p99 %v (%d): %.1f and %.1f times", name, q50, q99, len(l[0]), b50, b99, len(l[1]),
			b50.Seconds()/q50.Seconds(), b99.Seconds()/q99.Seconds())
	}
	t.Logf("memory of box / ward / hub in KiB: %s after the drain", memory())
	audit(ctx, t, h, acked)
	if err := h.Stop(); err != nil {
		t.Errorf("a program did not stop cleanly: %v", err)
	}
	if out, err := h.Run(ctx, "vitalgate", "fsck", filepath.Join(h.Data("gw1"), "data")); err != nil {
		t.Errorf("the box's log is damaged: %v\n%s", err, out)
	}
}

// audit reads at the hub what the monitors were told is kept.
func audit(ctx context.Context, t *testing.T, h *hospital.Hospital, acked *hospital.Acknowledged) {
	t.Helper()
	var arrived hospital.Numbers
	last := map[string]int{} // of each monitor
	doubled, disordered, end := 0, 0, 0
	err := h.Tail(ctx, "hub", false, func(r hospital.Record) {
		n := hospital.NumberOf(r.Bundle)
		if n < 0 {
			return
		}
		if !arrived.Add(n) {
			doubled++
		}
		if before, ok := last[r.Monitor]; ok && n < before {
			disordered++
		}
		last[r.Monitor], end = n, max(end, n+1)
	})
	if err != nil {
		t.Fatal(err)
	}
	lost := 0
	for n := range end {
		if acked.Has(n) && !arrived.Has(n) {
			lost++
		}
	}
	lost += max(0, acked.Count()-arrived.Count()-lost) // behind the last that arrived
	t.Logf("acknowledged %d, at the hub %d: lost %d, doubled %d, out of order %d", acked.Count(), arrived.Count(), lost, doubled, disordered)
	if lost+doubled+disordered > 0 || acked.Count() == 0 {
		t.Error("what the monitors were told is kept is not what the hub has")
	}
}
