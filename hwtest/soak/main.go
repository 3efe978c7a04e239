// Command soak runs a hospital of real processes under a steady load: monitors send at a pace, box, ward peer and hub keep up or do
// not, and every few seconds it is written down what each of them takes of the machine and how long readings are under way. At the
// end every message that a monitor was answered for must be at the hub, verified, once, and no program may have grown.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/vitalgate/vitalgate/hwtest/hospital"
)

type command struct {
	Bin      string        `default:"dist" help:"Folder of vitalgate and vitalpeer."`
	Minutes  float64       `default:"60" help:"How long monitors send."`
	Rate     float64       `default:"2000" help:"Messages a second, of all monitors together."`
	Monitors int           `default:"32" help:"How many monitors there are."`
	Every    time.Duration `default:"5s" help:"How often it is measured."`
	Out      string        `default:"dist" help:"Folder for soak.tsv and soak.svg."`
	Keep     string        `placeholder:"DIR" help:"Keep data and logs in this new folder."`
}

func main() {
	var c command
	kong.Parse(&c, kong.Name("soak"), kong.Description("Load a hospital of real processes for long and see that it stays as it was."))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := c.run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

const (
	patience = 15 * time.Minute // until all that was sent has arrived
	quota    = "1GiB"           // of the box's log, so that an hour's run shows its ring go round
)

// run loads the hospital and judges it. ok says that nothing was lost or doubled, and that nothing grew.
func (c *command) run(ctx context.Context) (ok bool, err error) {
	if c.Monitors < 1 || c.Rate <= 0 || c.Minutes <= 0 || c.Every < 100*time.Millisecond {
		return false, errors.New("cannot run so: give at least one monitor, a rate, a time, and 100ms between measurements")
	}
	dir, remove, err := hospital.Folder("soak", c.Keep)
	if err != nil {
		return false, err
	}
	defer remove()
	addr, config := make([]string, c.Monitors), fmt.Sprintf("[spool]\nquota = %q\n", quota)
	for i := range addr {
		addr[i] = hospital.FreeAddr()
		config += hospital.Monitor(fmt.Sprintf("bed-%d", i+1), addr[i], "UTC")
	}
	h, err := hospital.New(ctx, hospital.Options{Bin: c.Bin, Dir: dir, Monitors: config})
	if err != nil {
		return false, err
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
	fmt.Printf("%d monitors at %.0f messages a second together for %g minutes; the box's key: %s\n", c.Monitors, c.Rate, c.Minutes, label)

	acked, arrived, doubled := &hospital.Acknowledged{}, &hospital.Numbers{}, atomic.Int64{}
	var ack, seen latencies
	var reading sync.WaitGroup
	defer reading.Wait()
	tctx, stopTail := context.WithCancel(ctx)
	defer stopTail()
	var tailErr error
	reading.Go(func() {
		tailErr = h.Tail(tctx, "hub", true, func(r hospital.Record) {
			n := hospital.NumberOf(r.Bundle)
			if n < 0 {
				return
			}
			if !arrived.Add(n) {
				doubled.Add(1)
			}
			if r.Arrived != nil {
				seen.add(r.Seen.Sub(*r.Arrived))
			}
		})
	})

	m := &meter{h: h, dir: dir, acked: acked, arrived: arrived, ack: &ack, seen: &seen, began: time.Now()}
	hospital.Tick = time.Duration(float64(time.Second) / c.Rate)
	enough := make(chan struct{})
	senders := make([]*hospital.Sender, c.Monitors)
	var sending sync.WaitGroup
	for i := range senders {
		senders[i] = &hospital.Sender{Addr: addr[i], Bed: fmt.Sprintf("bed-%d", i+1), From: i, To: 1 << 30, Step: c.Monitors, Acked: acked,
			Pause: time.Duration(float64(c.Monitors) * float64(time.Second) / c.Rate), Unanswered: time.Minute, Done: enough, Answered: ack.add}
		sending.Go(func() { senders[i].Run(ctx) })
	}
	end := time.NewTimer(time.Duration(c.Minutes * float64(time.Minute)))
	defer end.Stop()
	tick := time.NewTicker(c.Every)
	defer tick.Stop()
	for open := true; open; {
		select {
		case <-ctx.Done():
			return false, errors.Join(ctx.Err(), m.write(c.Out))
		case <-end.C:
			open = false
		case <-tick.C:
			if err := m.measure(ctx); err != nil {
				return false, err
			}
			if len(m.samples)%24 == 0 {
				fmt.Println(m.line())
			}
		}
	}
	close(enough)
	sending.Wait()
	took := time.Since(m.began)
	if err := m.write(c.Out); err != nil { // whatever comes of it
		return false, err
	}
	wait := h.Wait(ctx, patience, "all that was acknowledged is at the hub", func() bool { return arrived.Count() >= acked.Count() })
	stopTail()
	reading.Wait()
	if wait != nil || tailErr != nil {
		fmt.Println(errors.Join(wait, tailErr))
	}
	lost, sent, broken := 0, 0, int64(0)
	for _, s := range senders {
		for n := s.From; n < s.Begun(); n += s.Step {
			sent++
			if acked.Has(n) && !arrived.Has(n) {
				lost++
			}
		}
		broken += s.Broken.Load()
	}
	quarantined, err := h.Quarantined("hub")
	if err != nil {
		return false, err
	}
	if err := h.Stop(); err != nil {
		return false, fmt.Errorf("a program did not stop in order: %w", err)
	}
	if out, err := h.Run(ctx, "vitalgate", "fsck", filepath.Join(h.Data("gw1"), "data")); err != nil {
		return false, fmt.Errorf("the box's log is not whole: %w\n%s", err, out)
	}
	verdicts, flat := m.judge()
	fmt.Printf("%d messages sent in %v (%.0f a second; %.0f wanted), acknowledged %d, verified at the hub %d, lost %d, doubled %d, quarantined %d, connections broken %d\n",
		sent, took.Round(time.Second), float64(sent)/took.Seconds(), c.Rate, acked.Count(), arrived.Count(), lost, doubled.Load(), quarantined, broken)
	fmt.Print(strings.Join(verdicts, ""))
	return acked.Count() > 0 && lost == 0 && doubled.Load() == 0 && quarantined == 0 && broken == 0 && wait == nil && flat, nil
}
