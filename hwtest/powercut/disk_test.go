package main

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// A sector holds after a cut what it held at the last flush, or what was written to it since: nothing else, and nothing older.
func TestACutKeepsWhatWasFlushed(t *testing.T) {
	const sectors = 64
	older, newer := 0, 0
	for seed := range uint64(300) {
		dice := rand.New(rand.NewPCG(seed, 0))
		d := newDisk(make([]byte, sectors*sectorBytes))
		flushed, since := make([]byte, sectors), make([][]byte, sectors)
		for n := range 40 {
			if dice.IntN(5) == 0 {
				d.flush()
				for s, all := range since {
					if len(all) > 0 {
						flushed[s], since[s] = all[len(all)-1], nil
					}
				}
				continue
			}
			first := dice.IntN(sectors)
			count, mark := 1+dice.IntN(min(16, sectors-first)), byte(n+1)
			d.write(bytes.Repeat([]byte{mark}, count*sectorBytes), int64(first*sectorBytes))
			for s := first; s < first+count; s++ {
				since[s] = append(since[s], mark)
			}
		}
		d.write(make([]byte, 1), 0) // under way, so that the last flush is not
		since[0] = append(since[0], 0)
		image := d.cut(d.position(), dice)
		for s := range sectors {
			got := image[s*sectorBytes+1 : (s+1)*sectorBytes] // the first byte of the first sector is the one under way
			if !bytes.Equal(got, bytes.Repeat(got[:1], len(got))) {
				t.Fatalf("seed %d: sector %d is torn within", seed, s)
			}
			switch {
			case got[0] == flushed[s]:
				older++
			case bytes.IndexByte(since[s], got[0]) >= 0:
				newer++
			default:
				t.Fatalf("seed %d: sector %d holds %d; %d was flushed, %v written since", seed, s, got[0], flushed[s], since[s])
			}
		}
	}
	if older < 1000 || newer < 1000 {
		t.Errorf("%d sectors are as they were flushed, %d newer: these cuts show too little", older, newer)
	}
}

func TestThePowerGoesAtAnOperation(t *testing.T) {
	d := newDisk(make([]byte, 4*sectorBytes))
	d.on(d.cut(0, rand.New(rand.NewPCG(0, 0))), 3)
	one := bytes.Repeat([]byte{1}, sectorBytes)
	if !d.write(one, 0) || !d.flush() || !d.hasPower() {
		t.Fatal("the power has gone too early")
	}
	if d.write(one, sectorBytes) || d.hasPower() || d.write(one, 2*sectorBytes) || d.flush() {
		t.Fatal("the power has not gone")
	}
	for seed := range uint64(100) {
		image := d.cut(d.position(), rand.New(rand.NewPCG(seed, 0)))
		if !bytes.Equal(image[:sectorBytes], one) || bytes.IndexByte(image[2*sectorBytes:], 1) >= 0 {
			t.Fatal("what was flushed is lost, or what was refused is there")
		}
	}
}

func TestAWriteBeyondTheDiskIsRefused(t *testing.T) {
	d := newDisk(make([]byte, sectorBytes))
	for _, at := range []int64{-1, 1, sectorBytes, 1 << 40} {
		if d.write(make([]byte, sectorBytes), at) || d.position() != 0 {
			t.Errorf("a write at %d was taken", at)
		}
	}
}
