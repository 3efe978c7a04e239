package logfile_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/logfile"
	"github.com/vitalgate/vitalgate/record/logfile/logfiletest"
)

// The power is cut again and again, between any two calls, on a disk that keeps only what was synced, or part of the rest, and
// whose syncs sometimes fail. Whatever Sync has returned for, or Open has shown, is there afterwards.
func TestPowerCutKeepsWhatSyncReturnedFor(t *testing.T) {
	for seed := range uint64(16) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { cutPower(t, seed) })
	}
}

func cutPower(t *testing.T, seed uint64) {
	box := record.BoxID{Facility: "f1", Name: "gw1"}
	dice := rand.New(rand.NewPCG(seed, 0))
	key, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(t.TempDir(), "disk")
	power := logfiletest.NewPowerCut(root, dice)
	dir := filepath.Join(root, "log")
	var all []record.Leaf // what was appended, of which the first safe must be there, and the first signed be signed
	var safe, signed, first uint64
	for range 25 {
		o := logfile.Options{SegmentBytes: 2000, Disk: power.Disk()}
		log, err := logfile.Open(dir, o)
		if errors.Is(err, syscall.EIO) { // a sync failed; the box starts again
			log, err = logfile.Open(dir, o)
		}
		if err != nil {
			t.Fatal(err)
		}
		if log.Next() < safe || log.Signed() < signed || log.First() > first {
			t.Fatalf("records %d to %d, %d signed; those from %d to %d were safe, and %d signed", log.First(), log.Next(), log.Signed(), first, safe, signed)
		}
		index := log.First()
		if err := log.Leaves(0, func(l record.Leaf) error {
			if index >= uint64(len(all)) || !bytes.Equal(l, all[index]) {
				return fmt.Errorf("leaf %d is not what was appended", index)
			}
			index++
			return nil
		}); err != nil || index != log.Next() {
			t.Fatalf("leaves to %d of %d: %v", index, log.Next(), err)
		}
		if r, err := logfile.Check(dir, logfile.CheckOptions{Box: box, Key: &key.PublicKey}); err != nil || len(r.Problems) > 0 {
			t.Fatalf("check: %v, %v", r.Problems, err)
		}
		all, safe, signed = all[:log.Next()], log.Next(), log.Signed()
		cut := dice.IntN(3) > 0 // else only the process ends, and the cache stays
		if cut && dice.IntN(2) == 0 {
			power.OffAfter(dice.IntN(20))
		}
		for range dice.IntN(12) {
			switch dice.IntN(6) {
			case 0, 1:
				h := record.Header{Box: box, Index: log.Next(), Kind: record.KindBoot, Epoch: log.Next(), Arrived: time.UnixMilli(int64(1e12 + seed))}
				l := record.Leaf(append(h.AppendText(nil), strings.Repeat("x", dice.IntN(400))...))
				if log.Append(l) == nil {
					all = append(all[:h.Index], l)
				}
			case 2, 3:
				if dice.IntN(8) == 0 {
					power.FailSync()
				}
				next := log.Next()
				if log.Sync() == nil {
					safe, signed = next, log.Signed()
				}
			case 4:
				if tree, n := log.Unsigned(); n > 0 {
					c := record.Checkpoint{Origin: box.Origin(), Size: tree.Size(), Root: tree.Root(), Protection: "software"}
					sc, err := c.Sign(key)
					if err != nil {
						t.Fatal(err)
					}
					log.AppendCheckpoint(sc, c)
				}
			case 5:
				log.DropBefore(signed - min(signed, 5))
				first = log.First()
			}
		}
		if cut {
			power.Off()
		}
		log.Close()
		if cut {
			if err := power.On(); err != nil {
				t.Fatal(err)
			}
		}
	}
}
