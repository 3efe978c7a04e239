package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/logfile/logfiletest"
)

// The power is cut again and again, with records under way, on a disk that keeps only what was synced, or part of the rest.
// Each record that the monitor was answered for is there afterwards, each checkpoint too, and so is each place in a stream
// that the link was told is kept.
func TestPowerCutKeepsWhatWasAnswered(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { cutPower(t, seed) })
	}
}

func cutPower(t *testing.T, seed uint64) {
	dice := rand.New(rand.NewPCG(seed, 0))
	root := filepath.Join(t.TempDir(), "disk")
	power := logfiletest.NewPowerCut(root, dice)
	key := newKey(t)
	var mu sync.Mutex
	answered := map[uint64]record.Leaf{}
	var signed uint64
	kept, tried := map[string]Cursor{}, map[string][]uint64{} // as SetCursor returned for last; offsets it was asked for since
	for range 12 {
		o := Options{SegmentBytes: 4 << 10, Disk: power.Disk()}
		s, err := Open(filepath.Join(root, "log"), o)
		if errors.Is(err, unix.EIO) { // a sync failed; the box starts again
			s, err = Open(filepath.Join(root, "log"), o)
		}
		if err != nil {
			t.Fatal(err)
		}
		b := &bench{s, sealer(t), key}
		if why := s.RolledBack(); why != "" {
			t.Fatal(why)
		}
		found := map[uint64]record.Leaf{}
		if err := s.Latest(1<<20, func(l record.Leaf) { found[uint64(len(found))] = l }); err != nil {
			t.Fatal(err)
		}
		for i, l := range answered {
			if !bytes.Equal(found[i], l) {
				t.Fatalf("record %d was answered for; %d records are there", i, len(found))
			}
		}
		if s.Signed() < signed {
			t.Fatalf("%d records were signed, %d are", signed, s.Signed())
		}
		for leaf, want := range kept {
			got, ok := s.Cursor(leaf)
			if got.Next = want.Next; !ok || got != want && !slices.Contains(tried[leaf], got.Offset) {
				t.Fatalf("the place in the stream of %s is %+v (%t), want %+v", leaf, got, ok, want)
			}
		}
		if err := s.Reserve("ward1", "ward2"); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		if dice.IntN(2) == 0 {
			power.OffAfter(dice.IntN(100))
		}
		for range dice.IntN(40) {
			switch dice.IntN(8) {
			case 0:
				if tree, ok := b.Unsigned(); ok {
					sc, c := b.checkpoint(t, tree)
					if b.AddCheckpoint(sc, c) == nil {
						signed = c.Size
					}
				}
			case 1, 2:
				leaf := []string{"ward1", "ward2"}[dice.IntN(2)]
				c := Cursor{Next: signed, Offset: dice.Uint64(), From: signed}
				if dice.IntN(2) == 0 { // a step in the same stream
					c.Offset, c.From = kept[leaf].Offset, kept[leaf].From
				}
				tried[leaf] = append(tried[leaf], c.Offset)
				if s.SetCursor(leaf, c) == nil {
					kept[leaf], tried[leaf] = c, nil
				}
			case 3:
				if dice.IntN(10) == 0 {
					power.FailSync()
				}
			default:
				index, leaf := b.Next(), b.leaf(t)
				s.Append([]record.Leaf{leaf}, func(err error) {
					if err == nil {
						mu.Lock()
						answered[index] = leaf
						mu.Unlock()
					}
				})
			}
		}
		power.Off()
		stop()
		<-done
		s.Close()
		if err := power.On(); err != nil {
			t.Fatal(err)
		}
	}
}
