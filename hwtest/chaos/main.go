// Command chaos breaks a hospital of real processes at random, for as long as it is told, and then counts: each message that a
// monitor was answered for must be at every peer, verified, once, in the order of the box's log. The faults are drawn from a seed, so
// that a run can be repeated; what the machine does between them cannot.
package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/vitalgate/vitalgate/hwtest/hospital"
)

type command struct {
	Bin     string  `default:"dist" help:"Folder of vitalgate and vitalpeer."`
	Minutes float64 `default:"0" help:"Stop breaking things after so many minutes; 0 is no bound."`
	Faults  int     `default:"400" help:"Stop breaking things after so many faults; 0 is no bound."`
	Seed    uint64  `default:"1" help:"What is broken when, and for how long."`
	Keep    string  `placeholder:"DIR" help:"Keep data and logs in this new folder."`
	Log     bool    `help:"Print each fault as it begins."`
}

func main() {
	if filepath.Base(os.Args[0]) == "swtpm" { // the box takes this program for its emulated TPM
		os.Exit(beTPM())
	}
	var c command
	kong.Parse(&c, kong.Name("chaos"), kong.Description("Break a hospital of real processes at random and count what was lost."))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := c.run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

const (
	wards    = 1 // beside ward1
	hubs     = 2 // beside hub
	monitors = 4
	round    = 1000                   // faults, after which all is mended once and must come level
	pace     = 250 * time.Millisecond // from one message of a monitor to the next
	patience = 5 * time.Minute        // until what was broken has healed
)

// changes of summer time in Berlin: an hour that clocks show twice, and one that they do not show. A run has its box and its monitors
// live through one of them, by its seed: with clocks that are more than a day apart, what is sent again is kept twice (docs/adr/0005).
var changes = []time.Time{time.Date(2027, 3, 28, 1, 0, 0, 0, time.UTC), time.Date(2026, 10, 25, 1, 0, 0, 0, time.UTC)}

const (
	changesZone = "Europe/Berlin"
	before      = 5 * time.Second // how long before the change a run begins, by the clocks of its box and monitors
)

// run breaks things and counts. ok says that nothing was lost, doubled or out of order.
func (c *command) run(ctx context.Context) (ok bool, err error) {
	if c.Faults == 0 && c.Minutes == 0 {
		return false, errors.New("cannot run for ever: give --faults or --minutes")
	}
	dir, remove, err := hospital.Folder("chaos", c.Keep)
	if err != nil {
		return false, err
	}
	defer remove()
	bin := filepath.Join(dir, "bin")
	if err := gather(ctx, c.Bin, bin); err != nil {
		return false, err
	}
	change := changes[c.Seed%uint64(len(changes))]
	season := time.Until(change.Add(-before)).Round(time.Second)
	berlin, err := time.LoadLocation(changesZone)
	if err != nil {
		return false, err
	}
	clock, err := newClock(ctx, dir, filepath.Join(bin, "vitalgate"), season)
	if err != nil {
		return false, err
	}
	chip, source, err := newChip(dir)
	if err != nil {
		return false, err
	}
	addr := make([]string, monitors)
	config := ""
	zones := []string{"UTC", "UTC", "UTC", changesZone} // the last monitor's messages name none
	for i := range addr {
		addr[i] = hospital.FreeAddr()
		config += hospital.Monitor(fmt.Sprintf("bed-%d", i+1), addr[i], zones[i])
	}
	env := append(clock.env(), chip.env()...)
	h, err := hospital.New(ctx, hospital.Options{Bin: bin, Dir: dir, TPM: source, Wards: wards, Hubs: hubs, Env: env, Monitors: config})
	if err != nil {
		return false, err
	}
	disks := map[string]*disk{}
	for _, name := range []string{"gw1/data", "ward1", "hub2"} {
		d, err := newDisk(filepath.Join(dir, name))
		if err != nil {
			fmt.Println("the disk of", name, "is not filled:", err)
			continue
		}
		defer d.close()
		disks[name] = d
	}

	if err := h.Start(ctx); err != nil {
		return false, errors.Join(err, h.Stop())
	}
	defer func() {
		for _, p := range h.All() {
			p.Kill() // what still runs; an orderly stop was asked for before
		}
	}()
	label, err := h.Label()
	if err != nil {
		return false, err
	}
	fmt.Printf("seed %d; the box's key: %s; peers: hub, %s\n", c.Seed, label, strings.Join(peerNames(h), ", "))

	acked := &hospital.Acknowledged{}
	enough := make(chan struct{})
	all := make([]*hospital.Sender, monitors)
	var sending sync.WaitGroup
	for i := range all {
		all[i] = &hospital.Sender{Addr: addr[i], Bed: fmt.Sprintf("bed-%d", i+1), From: i * 200_000, To: (i + 1) * 200_000, Acked: acked,
			Pause: pace, Unanswered: 3 * time.Second, Done: enough, Ahead: season}
		if i == monitors-1 { // its clock goes on as if nothing was changed
			all[i].Clock = change.Add(-before).In(berlin)
		}
		sending.Go(func() { all[i].Run(ctx) })
	}
	began := time.Now()
	w := &wrecker{h: h, dice: rand.New(rand.NewPCG(c.Seed, 0)), clock: clock, chip: chip, disks: disks, said: c.Log, counts: map[string]int{}, busy: map[string]bool{}, backups: map[string]string{}}
	w.free.L = &w.mu
	watch, watched := context.WithCancel(ctx)
	defer watched()
	go w.progress(watch, began, acked)
	var end time.Time
	if c.Minutes > 0 {
		end = began.Add(time.Duration(c.Minutes * float64(time.Minute)))
	}
	for over := false; !over; {
		most, since := round, time.Now()
		if c.Faults > 0 {
			most = min(round, c.Faults-w.total())
		}
		over = w.work(ctx, most, end)
		if err := errors.Join(w.heal(), ctx.Err()); err != nil {
			return false, err
		}
		if over = over || w.total() == c.Faults; over {
			break
		}
		mended := time.Now()
		if err := level(ctx, h); err != nil {
			return false, fmt.Errorf("after %d faults: %w", w.total(), err)
		}
		fmt.Printf("%d faults, the last %d in %v (%.1f a second), %d messages acknowledged; all was mended, and every peer had everything after %v\n",
			w.total(), most, mended.Sub(since).Round(time.Second), float64(most)/mended.Sub(since).Seconds(), acked.Count(), time.Since(mended).Round(100*time.Millisecond))
	}
	close(enough)
	fmt.Printf("%d faults in %v; all is mended, waiting for what is under way\n", w.total(), time.Since(began).Round(time.Second))
	answered := make(chan struct{})
	go func() { sending.Wait(); close(answered) }()
	select {
	case <-answered:
	case <-time.After(patience):
		return false, fmt.Errorf("monitors still wait for acknowledgements %v after all was mended; box:\n%s", patience, h.Gateway.Log(3000))
	}
	wait := level(ctx, h)
	if wait != nil {
		fmt.Println(wait)
	}
	if err := c.stop(h, w); err != nil {
		return false, err
	}
	v, err := count(ctx, h, acked, all)
	if err != nil {
		return false, err
	}
	w.print()
	return v.print(w.total(), c.Seed) && wait == nil, nil
}

// gather puts the programs into one folder; vitalgate is built anew for its clock.
func gather(ctx context.Context, from, to string) error {
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	path, err := filepath.Abs(filepath.Join(from, "vitalpeer"))
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("cannot find the programs: %w; run ./build.sh build", err)
	}
	return os.Symlink(path, filepath.Join(to, "vitalpeer"))
}

func peerNames(h *hospital.Hospital) (names []string) {
	for _, p := range h.Peers {
		names = append(names, p.Name)
	}
	return names
}

// status is what the box says of its log.
type status struct {
	Spool   struct{ Next, Signed uint64 } `json:"spool"`
	Network struct{ Acked uint64 }        `json:"network"`
}

func boxStatus(h *hospital.Hospital) (st status, err error) {
	ask := http.Client{Timeout: 2 * time.Second} // it may be paused
	r, err := ask.Get("http://" + h.Status + "/status")
	if err != nil {
		return st, err
	}
	defer r.Body.Close()
	return st, json.NewDecoder(r.Body).Decode(&st)
}

// recordsAt is how many records of the box a peer has stored, 0 if it does not say.
func recordsAt(h *hospital.Hospital, peer string) uint64 {
	for _, p := range h.All() {
		if p.Name == peer {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second) // it may be paused
			defer cancel()
			figures, _ := h.Figures(ctx, p)
			return uint64(figures[fmt.Sprintf("vitalpeer_store_records{box=%q}", hospital.Box)])
		}
	}
	return 0
}

// level waits until every peer holds what the box has in its log now, all of it signed.
func level(ctx context.Context, h *hospital.Hospital) error {
	var now uint64
	if err := h.Wait(ctx, patience, "the box shows its status", func() bool {
		st, err := boxStatus(h)
		now = st.Spool.Next
		return err == nil
	}); err != nil {
		return err
	}
	if err := h.Wait(ctx, patience, "the box has signed what is in its log", func() bool {
		st, err := boxStatus(h)
		return err == nil && st.Spool.Signed >= now
	}); err != nil {
		return err
	}
	for _, name := range append(peerNames(h), "hub") {
		if err := h.Wait(ctx, patience, fmt.Sprintf("%s has the %d records that the box has signed", name, now), func() bool { return recordsAt(h, name) >= now }); err != nil {
			return err
		}
	}
	return nil
}

// stop ends all programs. A box whose TPM was killed may say so at its end: everything is signed by then.
func (c *command) stop(h *hospital.Hospital, w *wrecker) error {
	err := h.Gateway.Stop(time.Minute)
	if err != nil && w.counts["TPM killed"] > 0 && strings.Contains(h.Gateway.Log(1000), "cannot shut the TPM down") {
		err = nil
	}
	for _, p := range h.Peers {
		err = errors.Join(err, p.Stop(time.Minute))
	}
	err = errors.Join(err, h.Hub.Stop(time.Minute))
	if err != nil {
		return fmt.Errorf("a program did not stop in order: %w; box:\n%s", err, h.Gateway.Log(2000))
	}
	if out, err := h.Run(context.Background(), "vitalgate", "fsck", h.Data("gw1/data")); err != nil {
		return fmt.Errorf("the box's log is not whole: %w\n%s", err, out)
	}
	return nil
}

// verdict is what became of the messages.
type verdict struct {
	acknowledged int
	peers        []peerVerdict
}

type peerVerdict struct {
	name                         string
	records, verified            int // of the log; messages that were acknowledged and are there
	lost, doubled, order, differ int
	quarantined                  int
	wrong                        []string // which are lost and doubled
}

// count reads the verified copy of every peer.
func count(ctx context.Context, h *hospital.Hospital, acked *hospital.Acknowledged, all []*hospital.Sender) (v verdict, err error) {
	v.acknowledged = acked.Count()
	first := map[uint64]string{} // leaf by index, of the hub: every copy must be the same
	for _, name := range append([]string{"hub"}, peerNames(h)...) {
		p := peerVerdict{name: name}
		seen := map[int][]uint64{} // records by number of message
		next := uint64(0)
		if name != "hub" { // while it ran, the hub's page alone opened records, which costs more than to store them
			if err := h.LetRead(name); err != nil {
				return v, err
			}
		}
		err := h.Tail(ctx, name, false, func(r hospital.Record) {
			p.records++
			if r.Index < next {
				p.order++
			}
			next = r.Index + 1
			id := fmt.Sprintf("%s %x", r.Kind, sha256.Sum256(r.Bundle))
			if known, ok := first[r.Index]; ok && known != id {
				p.differ++
			} else if name == "hub" {
				first[r.Index] = id
			}
			if n := hospital.NumberOf(r.Bundle); n >= 0 {
				seen[n] = append(seen[n], r.Index)
			}
		})
		if err != nil {
			return v, fmt.Errorf("cannot read the copy of %s: %w", name, err)
		}
		for _, s := range all {
			for n := s.From; n < s.Begun(); n++ {
				switch {
				case acked.Has(n) && len(seen[n]) == 0:
					p.wrong = append(p.wrong, fmt.Sprintf("message %d of %s is lost", n, s.Bed))
					p.lost++
				case acked.Has(n):
					p.verified++
				}
				if len(seen[n]) > 1 {
					p.wrong = append(p.wrong, fmt.Sprintf("message %d of %s is in the records %d", n, s.Bed, seen[n]))
					p.doubled += len(seen[n]) - 1
				}
			}
		}
		if p.quarantined, err = h.Quarantined(name); err != nil {
			return v, err
		}
		if out, err := h.Run(ctx, "vitalpeer", "verify", "--data", h.Data(name)); err != nil {
			return v, fmt.Errorf("the copy of %s does not verify: %w\n%s", name, err, out)
		}
		v.peers = append(v.peers, p)
	}
	return v, nil
}

func (v verdict) print(faults int, seed uint64) (ok bool) {
	var lost, doubled, order, differ, quarantined int
	for _, p := range v.peers {
		fmt.Printf("%-6s %d records, %d of %d acknowledged messages verified, lost %d, doubled %d, out of order %d, quarantined %d\n",
			p.name, p.records, p.verified, v.acknowledged, p.lost, p.doubled, p.order+p.differ, p.quarantined)
		for _, line := range p.wrong[:min(len(p.wrong), 20)] {
			fmt.Println("      ", line)
		}
		lost, doubled, order, differ, quarantined = lost+p.lost, doubled+p.doubled, order+p.order, differ+p.differ, quarantined+p.quarantined
	}
	fmt.Printf("seed %d: faults %d, acknowledged %d, lost %d, doubled %d, out of order %d, quarantined %d\n", seed, faults, v.acknowledged, lost, doubled, order+differ, quarantined)
	return v.acknowledged > 0 && cmp.Or(lost, doubled, order, differ, quarantined) == 0
}

// print says how often what was broken.
func (w *wrecker) print() {
	for _, name := range slices.Sorted(maps.Keys(w.counts)) {
		fmt.Printf("%6d %s\n", w.counts[name], name)
	}
}
