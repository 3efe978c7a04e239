//go:build linux && amd64

package e2e_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/hwtest/hospital"
)

// callFault is what goes wrong at one system call of the box: at the nth one of a class, "" any, in one way.
type callFault struct {
	call  string
	nth   int
	fault string
	done  bool
}

func (f callFault) String() string {
	done := ""
	if f.done {
		done = ", done"
	}
	return fmt.Sprintf("%s%s at call %d of %q", f.fault, done, f.nth, f.call)
}

// callHospital is a hospital whose box runs under callfault, with monitors that send all the time.
type callHospital struct {
	*hospital.Hospital
	t     *testing.T
	acked *hospital.Acknowledged
	data  string
	hit   string // a file: the call at which the fault has happened
}

// TestFaultsAtSystemCalls has the system calls by which the box, the program that is shipped, changes its disk go wrong: it is killed
// with SIGKILL before a call and after it, and calls fail with their effect and without. First at one call after the other from the
// first start on, then at each class of calls that was seen. After each fault: fsck, and the next start. At the end the peers have
// what was acknowledged, once. The short form takes a few of each; VITALGATE_CALLS=all takes all.
func TestFaultsAtSystemCalls(t *testing.T) {
	t.Parallel()
	all := os.Getenv("VITALGATE_CALLS") == "all"
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Hour)
	defer cancel()
	callfault := filepath.Join(t.TempDir(), "callfault")
	if out, err := exec.Command("go", "build", "-o", callfault, "github.com/vitalgate/vitalgate/hwtest/callfault").CombinedOutput(); err != nil {
		t.Fatalf("cannot build callfault: %v\n%s", err, out)
	}
	if out, err := exec.Command(callfault, "--in", t.TempDir(), "--", "true").CombinedOutput(); err != nil {
		t.Skipf("processes cannot be followed here: %s", out)
	}
	addr := []string{hospital.FreeAddr(), hospital.FreeAddr()}
	config := "[spool]\nquota = \"256KiB\"\nsegment = \"64KiB\"\n"
	for i := range addr {
		config += monitorAt(fmt.Sprintf("bed-%d", i+1), addr[i])
	}
	h, err := hospital.New(ctx, hospital.Options{Bin: bin, Dir: t.TempDir(), TPM: "software", Monitors: config})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Stop() })
	w := &callHospital{h, t, &hospital.Acknowledged{}, h.Data("gw1/data"), filepath.Join(t.TempDir(), "hit")}
	under := func(args ...string) {
		h.Gateway.Under(append([]string{callfault, "--in", w.data}, append(args, "--")...))
	}

	// The peers run from here on; the box has not begun its log yet.
	for _, p := range []*hospital.Process{h.Hub, h.Ward} {
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
	}
	sending, enough := context.WithCancel(ctx)
	senders := make([]*hospital.Sender, len(addr))
	done := make(chan struct{})
	var senderGroup sync.WaitGroup
	for i := range senders {
		senders[i] = &hospital.Sender{Addr: addr[i], Bed: fmt.Sprintf("bed-%d", i+1), From: i * 1_000_000, To: (i + 1) * 1_000_000, Acked: w.acked,
			Pause: 15 * time.Millisecond, Unanswered: 20 * time.Second, Done: done}
		senderGroup.Go(func() { senders[i].Run(sending) })
	}
	defer senderGroup.Wait()
	defer enough()

	hits := map[string]int{}
	run := func(f callFault) {
		args := []string{"--call", f.call, "--nth", strconv.Itoa(f.nth), "--fault", f.fault, "--hit", w.hit}
		if f.done {
			args = append(args, "--done")
		}
		under(args...)
		if at := w.live(f); at != "" {
			kind := f.fault
			if f.done {
				kind += ", done"
			}
			hits[kind]++
			hits["in "+at]++
		}
	}

	// One call after the other, from the first start on.
	last, step, most, every := 7, 3, 1, 17
	switch {
	case all:
		last, step, most, every = 100, 1, 3, 1
	case testing.Short():
		last, every = 4, 50
	}
	for n := 1; n <= last; n += step {
		run(callFault{"", n, "kill", false})
		run(callFault{"", n, "kill", true})
	}

	// Then what the box does in a life in which its log turns over.
	list := filepath.Join(t.TempDir(), "list")
	under("--list", list)
	from := w.acked.Count()
	w.start()
	w.until(callFault{}, "its log has turned over", func() bool { return w.acked.Count() >= from+300 })
	if err := h.Gateway.Stop(60 * time.Second); err != nil {
		t.Fatalf("the box did not stop in order: %v\n%s", err, h.Gateway.Log(3000))
	}
	seen := map[string]int{}
	b, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	for call := range strings.Lines(string(b)) {
		seen[strings.TrimSpace(call)]++
	}
	for _, need := range []string{"pwrite64 log/#", "fdatasync log/#", "renameat log/#", "unlinkat log/#", "pwrite64 log/cursors/", "fsync log"} {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(seen)), func(call string) bool { return strings.HasPrefix(call, need) }) {
			t.Errorf("no call of the box was %s…: this test would see nothing of it; seen: %v", need, seen)
		}
	}
	i := 0
	for _, call := range slices.Sorted(maps.Keys(seen)) {
		for n := 1; n <= min(seen[call], most); n++ {
			for _, f := range []callFault{{call, n, "kill", false}, {call, n, "kill", true}, {call, n, "EIO", false}, {call, n, "EIO", true}, {call, n, "ENOSPC", false}, {call, n, "ENOSPC", true}} {
				if i++; i%every == 0 {
					run(f)
				}
			}
		}
	}

	h.Gateway.Under(nil)
	w.start()
	close(done)
	senderGroup.Wait()
	var at map[int]int
	if err := h.Wait(ctx, 10*time.Minute, "the hub has everything that was acknowledged", func() bool {
		at = map[int]int{}
		if err := h.Tail(ctx, "hub", false, func(r hospital.Record) {
			if n := hospital.NumberOf(r.Bundle); n >= 0 {
				at[n]++
			}
		}); err != nil {
			return false
		}
		return len(at) >= w.acked.Count()
	}); err != nil {
		t.Error(err)
	}
	lost, doubled := 0, 0
	for _, s := range senders {
		for n := s.From; n < s.Begun(); n++ {
			switch {
			case at[n] > 1:
				doubled++
				t.Errorf("message %d stands %d times at the hub", n, at[n])
			case at[n] == 0 && w.acked.Has(n):
				lost++
				t.Errorf("message %d was acknowledged and is not at the hub", n)
			}
		}
	}
	quarantined, err := h.Quarantined("hub")
	if err != nil || quarantined > 0 {
		t.Errorf("%d records are in quarantine (%v)", quarantined, err)
	}
	for _, peer := range []string{"hub", "ward1"} {
		if out, err := h.Run(ctx, "vitalpeer", "verify", "--data", h.Data(peer)); err != nil {
			t.Errorf("the copy of %s does not verify: %v\n%s", peer, err, out)
		}
	}
	for _, what := range slices.Sorted(maps.Keys(hits)) {
		t.Logf("%4d %s", hits[what], what)
	}
	t.Logf("%d acknowledged, lost %d, doubled %d", w.acked.Count(), lost, doubled)
}

// start starts the box.
func (w *callHospital) start() {
	w.t.Helper()
	if err := w.Gateway.Start(); err != nil {
		w.t.Fatal(err)
	}
}

// live lets the box live until the fault has happened and, where it was not killed by it, it has ended or gone on; a call that does not
// come may be one of a stop in order. Then the log is looked at. It gives the class of the call, "" if there was none.
func (w *callHospital) live(f callFault) string {
	w.t.Helper()
	os.Remove(w.hit)
	hit := func() bool { _, err := os.Stat(w.hit); return err == nil }
	w.start()
	acked := w.acked.Count()
	w.until(f, "the fault happens", func() bool { return hit() || w.acked.Count() > acked+200 })
	if hit() && f.fault == "kill" {
		w.until(f, "it is dead", func() bool { return false })
	} else if hit() {
		acked = w.acked.Count()
		w.until(f, "it keeps readings again, or ends", func() bool { return w.acked.Count() >= acked+3 })
	}
	if w.Gateway.Running() {
		if err := w.Gateway.Stop(60 * time.Second); err != nil && w.Gateway.Running() {
			w.t.Fatalf("%v: %v\n%s", f, err, w.Gateway.Log(3000))
		}
	}
	if w.acked.Count() > 0 {
		if out, err := w.Run(context.Background(), "vitalgate", "fsck", w.data); err != nil {
			w.t.Fatalf("%v: the log is not in order: %v\n%s", f, err, out)
		}
	}
	at, _ := os.ReadFile(w.hit)
	return string(at)
}

// until waits until it is so, or the box has ended.
func (w *callHospital) until(f callFault, what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(5 * time.Minute); !ok() && w.Gateway.Running(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("%v: waited five minutes, but not: %s; box:\n%s", f, what, w.Gateway.Log(3000))
		}
	}
}
