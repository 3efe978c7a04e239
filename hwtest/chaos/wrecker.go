package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vitalgate/vitalgate/hwtest/hospital"
)

// wrecker breaks one thing after another, up to atOnce at a time, and mends each.
type wrecker struct {
	h     *hospital.Hospital
	dice  *rand.Rand // used by work alone
	clock *clock
	chip  *chip
	disks map[string]*disk
	said  bool
	loss  sync.Mutex // held while a peer's data is taken away

	mu      sync.Mutex
	free    sync.Cond // something is not busy any more
	busy    map[string]bool
	counts  map[string]int
	backups map[string]string // by peer: where a copy of its data is
	err     error
}

const atOnce = 10

// fault is one thing to break: what is busy with it, and the breaking and mending itself.
type fault struct {
	kind   string
	target string
	do     func() error
}

// work breaks things until there have been so many more, or until end, if there is one; over says that it was end. It stops where
// something cannot be broken or mended, which heal says.
func (w *wrecker) work(ctx context.Context, most int, end time.Time) (over bool) {
	var under sync.WaitGroup
	defer under.Wait()
	slots := make(chan struct{}, atOnce)
	var late <-chan time.Time
	if !end.IsZero() {
		late = time.After(time.Until(end))
	}
	for range most {
		f := w.draw()
		pause := time.Duration(w.dice.IntN(100)) * time.Millisecond
		select {
		case <-ctx.Done():
			return false
		case <-late:
			return true
		case slots <- struct{}{}:
		}
		w.mu.Lock()
		for w.busy[f.target] {
			w.free.Wait()
		}
		w.busy[f.target] = true
		w.counts[f.kind]++
		failed := w.err != nil
		w.mu.Unlock()
		if failed {
			return false
		}
		if w.said {
			fmt.Printf("%s %s: %s\n", time.Now().UTC().Format("15:04:05.000"), f.kind, f.target)
		}
		under.Go(func() {
			err := f.do()
			w.mu.Lock()
			delete(w.busy, f.target)
			w.err = errors.Join(w.err, err)
			w.free.Broadcast()
			w.mu.Unlock()
			<-slots
		})
		time.Sleep(pause)
	}
	return false
}

// progress says each minute how far the run is.
func (w *wrecker) progress(ctx context.Context, began time.Time, acked *hospital.Acknowledged) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Minute):
			fmt.Printf("%s: %d faults, %d messages acknowledged\n", time.Since(began).Round(time.Second), w.total(), acked.Count())
		}
	}
}

func (w *wrecker) total() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.counts {
		n += c
	}
	return n
}

// draw takes the next fault from the seed.
func (w *wrecker) draw() fault {
	type choice struct {
		weight int
		make   func(long time.Duration) fault
	}
	peers := append([]*hospital.Process{w.h.Hub}, func() (all []*hospital.Process) {
		for _, p := range w.h.Peers {
			all = append(all, p.Process)
		}
		return all
	}()...)
	anyPeer := func() *hospital.Process { return peers[w.dice.IntN(len(peers))] }
	wires := map[string]*hospital.Wire{}
	var names []string
	for _, p := range w.h.Peers {
		if p.BoxWire != nil {
			names, wires["box-"+p.Name] = append(names, "box-"+p.Name), p.BoxWire
		}
		for i, wire := range p.HubWires {
			name := fmt.Sprintf("%s-hub%d", p.Name, i+1)
			names, wires[name] = append(names, name), wire
		}
	}
	wire := func(kind string, mode hospital.Mode) func(time.Duration) fault {
		return func(long time.Duration) fault {
			name := names[w.dice.IntN(len(names))]
			return fault{kind, name, func() error {
				wires[name].Set(mode)
				time.Sleep(long)
				wires[name].Mend()
				return nil
			}}
		}
	}
	choices := []choice{
		{10, func(long time.Duration) fault { return w.kill(w.h.Gateway, long, false) }},
		{12, func(long time.Duration) fault { return w.kill(anyPeer(), long, w.dice.IntN(4) == 0) }},
		{4, func(long time.Duration) fault { return w.pause(w.h.Gateway, long) }},
		{8, func(long time.Duration) fault { return w.pause(anyPeer(), long) }},
		{12, wire("line cut", hospital.Severed)},
		{8, wire("acknowledgements lost", hospital.BlackHole)},
		{8, wire("line half open", hospital.HalfOpen)},
		{8, wire("line slow", hospital.Slow)},
		{4, func(long time.Duration) fault {
			// A box cannot know the hour that is meant when the clocks are changed, and must not lose or mix what comes in it.
			short := time.Duration(w.dice.IntN(3)) * time.Second
			return fault{"clock set to a change of summer time", "clock", func() error { w.clock.back(before - short); time.Sleep(long); return nil }}
		}},
		{8, func(long time.Duration) fault {
			to := []time.Duration{0, time.Second, -time.Second, 10 * time.Minute, -10 * time.Minute, time.Hour, -time.Hour, 12 * time.Hour, -12 * time.Hour}[w.dice.IntN(9)]
			return fault{"clock set", "clock", func() error { w.clock.set(to); time.Sleep(long); return nil }}
		}},
		{4, func(time.Duration) fault { return w.restore(anyPeer()) }},
		{2, func(time.Duration) fault { return w.lose(anyPeer()) }},
	}
	if w.chip != nil {
		choices = append(choices,
			choice{4, func(time.Duration) fault { return fault{"TPM killed", "tpm", w.chip.kill} }},
			choice{6, func(long time.Duration) fault {
				return fault{"TPM slow", "tpm", func() error { return w.chip.while("slow", 2*long) }}
			}},
			choice{3, func(long time.Duration) fault {
				return fault{"TPM hangs", "tpm", func() error { return w.chip.while("hang", long) }}
			}})
	}
	full := []string{}
	for _, name := range []string{"gw1/data", "ward1", "hub2"} {
		if w.disks[name] != nil {
			full = append(full, name)
		}
	}
	if len(full) > 0 {
		choices = append(choices, choice{6, func(long time.Duration) fault {
			name := full[w.dice.IntN(len(full))]
			return fault{"disk full", "disk " + name, func() error { return w.disks[name].fill(long) }}
		}})
	}
	sum := 0
	for _, c := range choices {
		sum += c.weight
	}
	long := time.Duration(100+w.dice.ExpFloat64()*450) * time.Millisecond
	at := w.dice.IntN(sum)
	for _, c := range choices {
		if at -= c.weight; at < 0 {
			return c.make(min(long, 6*time.Second))
		}
	}
	panic("chaos: no choice")
}

func (w *wrecker) kill(p *hospital.Process, down time.Duration, backup bool) fault {
	return fault{"kill -9 " + kindOf(p), p.Name, func() error {
		p.Kill()
		if backup {
			if err := w.backup(p.Name); err != nil {
				return err
			}
		}
		time.Sleep(down)
		return p.Start()
	}}
}

func (w *wrecker) pause(p *hospital.Process, long time.Duration) fault {
	return fault{"paused " + kindOf(p), p.Name, func() error {
		p.Pause()
		time.Sleep(long)
		p.Resume()
		return nil
	}}
}

// kindOf is "box", "hub" or "ward".
func kindOf(p *hospital.Process) string {
	if p.Name == "gw1" {
		return "box"
	}
	return strings.TrimRight(p.Name, "0123456789")
}

// backup copies the data of a peer that is down.
func (w *wrecker) backup(name string) error {
	w.mu.Lock()
	old := w.backups[name]
	w.mu.Unlock()
	if old != "" { // the older, the better; see heal
		return nil
	}
	to := filepath.Join(w.h.Dir, "backup-"+name)
	if err := copyTree(w.h.Data(name), to); err != nil {
		return fmt.Errorf("cannot back up %s: %w", name, err)
	}
	w.mu.Lock()
	w.backups[name] = to
	w.mu.Unlock()
	return nil
}

// restore sets a peer back to its backup, which it takes where there is none. The same backup may be put back again in this round.
func (w *wrecker) restore(p *hospital.Process) fault {
	return w.destroy("old backup put back", p, func() error {
		w.mu.Lock()
		from := w.backups[p.Name]
		w.mu.Unlock()
		if from == "" {
			return w.backup(p.Name)
		}
		if d := w.disks[p.Name]; d != nil {
			d.mu.Lock()
			defer d.mu.Unlock()
		}
		if err := clearTree(w.h.Data(p.Name)); err != nil {
			return err
		}
		if err := copyTree(from, w.h.Data(p.Name)); err != nil {
			return fmt.Errorf("cannot restore %s: %w", p.Name, err)
		}
		return nil
	})
}

// lose empties a peer's store of records, as when its disk was replaced; its identity is put back from a safe place.
func (w *wrecker) lose(p *hospital.Process) fault {
	return w.destroy("store lost", p, func() error { return clearTree(filepath.Join(w.h.Data(p.Name), "store")) })
}

// destroy takes a peer's data away while it is down, one peer's at a time, and never the last copy of what the box may have given
// up: a box whose disk is full frees the records that a leaf node has acknowledged, and nothing brings back what then nobody has. A
// peer whose copy is the last is only killed.
func (w *wrecker) destroy(kind string, p *hospital.Process, how func() error) fault {
	return fault{kind, p.Name, func() error {
		w.loss.Lock()
		defer w.loss.Unlock()
		for end := time.Now().Add(5 * time.Second); !w.elsewhere(p.Name) && time.Now().Before(end); {
			time.Sleep(200 * time.Millisecond)
		}
		p.Kill()
		if !w.elsewhere(p.Name) { // looked at anew, because it may have taken more until it was killed
			w.mu.Lock()
			w.counts[kind]--
			w.counts["kill -9 of who had the last copy"]++
			w.mu.Unlock()
			return p.Start()
		}
		return errors.Join(how(), p.Start())
	}}
}

// elsewhere says whether one of the other peers has stored all that the box knows to be acknowledged.
func (w *wrecker) elsewhere(name string) bool {
	st, err := boxStatus(w.h)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(append(peerNames(w.h), "hub"), func(other string) bool {
		return other != name && recordsAt(w.h, other) >= st.Network.Acked
	})
}

// heal mends everything that may still be broken, and lets backups be made anew: what is put back is a round old at most.
func (w *wrecker) heal() error {
	w.clock.set(0)
	for _, p := range w.h.Peers {
		if p.BoxWire != nil {
			p.BoxWire.Mend()
		}
		for _, wire := range p.HubWires {
			wire.Mend()
		}
	}
	for name, backup := range w.backups {
		delete(w.backups, name)
		w.err = errors.Join(w.err, os.RemoveAll(backup))
	}
	return w.err
}

// clearTree removes what is in a folder, and leaves the folder, on which a disk may be mounted.
func clearTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if e.Name() != hog {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// copyTree copies folders and files with their modes, and leaves out sockets.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		at := filepath.Join(to, strings.TrimPrefix(path, from))
		switch {
		case d.IsDir():
			return os.MkdirAll(at, info.Mode().Perm())
		case !info.Mode().IsRegular() || d.Name() == hog:
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(at, b, info.Mode().Perm())
	})
}
