package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/vitalgate/vitalgate/hwtest/hospital"
)

// flashPages are page sizes of flash that is in use: what is flushed takes whole ones.
var flashPages = []int64{pageBytes, 16 << 10}

// The eMMC that years are given for: 32 GB, of which each cell may be written so often (MLC).
const (
	flashBytes  = 32e9
	flashCycles = 3000
)

// written is what a disk was told between two moments.
type written struct {
	bytes   int64
	writes  int
	flushes int
	flash   []int64 // bytes, for each of flashPages
}

// written counts the operations from one position up to another.
func (d *disk) written(from, to int) written {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := written{flash: make([]int64, len(flashPages))}
	touched := make([]map[int64]bool, len(flashPages))
	clean := func() {
		for i := range touched {
			w.flash[i] += int64(len(touched[i])) * flashPages[i]
			touched[i] = map[int64]bool{}
		}
	}
	clean()
	for _, o := range d.ops[from:to] {
		if o.data == nil {
			w.flushes++
			clean()
			continue
		}
		w.writes++
		w.bytes += int64(len(o.data))
		for i, page := range flashPages {
			for p := o.at / page; p*page < o.at+int64(len(o.data)); p++ {
				touched[i][p] = true
			}
		}
	}
	clean()
	return w
}

// wear measures what the box writes to its disk, at each of the paces. What a page of flash takes twice before a flush counts once.
func (w *world) wear(ctx context.Context) error {
	fmt.Printf("%8s %8s %8s %12s %9s %9s %11s %11s %9s %9s\n", "wanted/s", "had/s", "records", "log B/record", "B/record", "flushes/r", "flash 4K/r", "flash 16K/r", "GB/day", "years")
	for n, rate := range w.Wear {
		done := make(chan struct{})
		var sending sync.WaitGroup
		for i := range monitors {
			if rate == 0 {
				break
			}
			from := (n*monitors + i) * 200_000
			s := &hospital.Sender{Addr: w.addr[i], Bed: fmt.Sprintf("bed-%d", i+1), From: from, To: from + 200_000, Acked: &w.acked,
				Pause: monitors * time.Second / time.Duration(rate), Unanswered: time.Minute, Done: done}
			sending.Go(func() { s.Run(ctx) })
		}
		pause(ctx, w.For/4) // until the pace is held, and what was before is through
		begin, from, was := time.Now(), w.d.position(), w.acked.Count()
		pause(ctx, w.For)
		took, is := time.Since(begin).Seconds(), w.acked.Count()
		got := w.d.written(from, w.d.position())
		log, err := w.h.Spool()
		close(done)
		sending.Wait()
		if err := ctx.Err(); err != nil {
			return err
		}
		if err != nil {
			return fmt.Errorf("cannot ask the box for its log: %w", err)
		}
		records := is - was
		each := float64(max(records, 1))
		day := float64(got.flash[len(flashPages)-1]) / took * 86400
		fmt.Printf("%8d %8.1f %8d %12.0f %9.0f %9.2f %11.0f %11.0f %9.2f %9.0f\n", rate, float64(records)/took, records, float64(log.Bytes)/float64(max(log.Next-log.First, 1)),
			float64(got.bytes)/each, float64(got.flushes)/each, float64(got.flash[0])/each, float64(got.flash[1])/each, day/1e9, flashBytes*flashCycles/day/365)
	}
	fmt.Printf("GB/day is in pages of 16 KiB; years are those of an eMMC of %d GB that takes %d cycles; a page that is written twice before a flush counts once\n", int(flashBytes/1e9), flashCycles)
	return w.h.Stop()
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
