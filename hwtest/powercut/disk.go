package main

import (
	"math/rand/v2"
	"slices"
	"sync"
)

const (
	sectorBytes = 512  // what a disk writes whole
	pageBytes   = 4096 // of flash
)

// disk is a block device with a cache that is lost with the power. It keeps all that it was told since the power came, so that the
// cut can be looked at anywhere in it.
type disk struct {
	size int64

	mu    sync.Mutex
	now   []byte        // what a read gives
	begin []byte        // what was there when the power came
	ops   []op          // since then
	last  int           // with so many the power goes; 0 is never
	off   chan struct{} // closed when it has gone
}

// op is a write, or a flush of the cache: no data.
type op struct {
	at   int64
	data []byte
}

func newDisk(image []byte) *disk {
	d := &disk{size: int64(len(image))}
	d.on(image, 0)
	return d
}

// on brings the power back, until so many operations.
func (d *disk) on(image []byte, last int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.begin, d.now = image, slices.Clone(image)
	d.ops, d.last, d.off = nil, last, make(chan struct{})
}

// hasPower says whether it has not gone yet.
func (d *disk) hasPower() bool {
	select {
	case <-d.gone():
		return false
	default:
		return true
	}
}

// gone is closed when the power has gone.
func (d *disk) gone() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.off
}

// position is how many operations there were since the power came.
func (d *disk) position() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.ops)
}

func (d *disk) read(b []byte, at int64) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if at >= d.size {
		return 0
	}
	return copy(b, d.now[at:])
}

// write takes a write into the cache; false without power.
func (d *disk) write(b []byte, at int64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if at < 0 || at+int64(len(b)) > d.size || !d.take(op{at, slices.Clone(b)}) {
		return false
	}
	copy(d.now[at:], b)
	return true
}

// flush makes what is in the cache safe; false without power.
func (d *disk) flush() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.take(op{})
}

// take notes an operation. With the last one the power goes: it is under way, and nobody hears that it was done. d.mu is held.
func (d *disk) take(o op) bool {
	if d.last > 0 && len(d.ops) >= d.last {
		return false
	}
	d.ops = append(d.ops, o)
	if len(d.ops) == d.last {
		close(d.off)
		return false
	}
	return true
}

// cut is the disk as the power may leave it when it goes after n operations: all that was flushed, and of what was written since
// anything, whole, in part or not at all.
func (d *disk) cut(n int, dice *rand.Rand) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	image, safe := slices.Clone(d.begin), 0
	for i, o := range d.ops[:n] {
		if o.data == nil && (i < n-1 || dice.IntN(2) == 0) { // the last one is under way
			safe = i
		}
	}
	keep := dice.IntN(4) // nothing, all, or some of it
	for i, o := range d.ops[:n] {
		if i < safe || keep == 1 {
			copy(image[o.at:], o.data)
			continue
		}
		if keep == 0 {
			break
		}
		switch dice.IntN(4) {
		case 0: // lost
		case 1:
			copy(image[o.at:], o.data)
		case 2: // torn once
			unit := []int{sectorBytes, pageBytes}[dice.IntN(2)]
			copy(image[o.at:], o.data[:min(len(o.data), unit*dice.IntN(len(o.data)/unit+1))])
		case 3: // each of its sectors for itself
			for s := 0; s < len(o.data); s += sectorBytes {
				if dice.IntN(2) == 0 {
					copy(image[o.at+int64(s):], o.data[s:min(len(o.data), s+sectorBytes)])
				}
			}
		}
	}
	return image
}
