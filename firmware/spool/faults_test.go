package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/logfile"
)

// fault is one way in which one call of the disk goes wrong.
type fault struct {
	name string
	err  error
	done bool // the call has its effect and is reported failed all the same
	part bool // a write has half of its effect
	dead bool // the process is killed there: no call after it has an effect
}

var faults = []fault{
	{name: "EIO", err: syscall.EIO}, {name: "EIO, done", err: syscall.EIO, done: true}, {name: "EIO, half done", err: syscall.EIO, part: true},
	{name: "ENOSPC", err: syscall.ENOSPC}, {name: "ENOSPC, done", err: syscall.ENOSPC, done: true}, {name: "ENOSPC, half done", err: syscall.ENOSPC, part: true},
	{name: "EROFS", err: syscall.EROFS},
	{name: "killed before", err: syscall.EIO, dead: true}, {name: "killed after", err: syscall.EIO, done: true, dead: true}, {name: "killed within", err: syscall.EIO, part: true, dead: true},
}

// faultyDisk counts the calls of a disk; at the nth one the fault happens. n is 0 for a disk without a fault.
type faultyDisk struct {
	mu    sync.Mutex
	calls int
	n     int
	fault
	real *logfile.Disk
}

// call runs one call of the disk; half does a part of it.
func (d *faultyDisk) call(do, half func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls++
	switch {
	case d.n == 0 || d.calls < d.n || d.calls > d.n && !d.dead:
		return do()
	case d.calls > d.n: // killed
		return d.err
	case d.done:
		if err := do(); err != nil {
			return err
		}
	case d.part && half != nil:
		half()
	}
	return fmt.Errorf("injected: %w", d.err)
}

func (d *faultyDisk) disk() *logfile.Disk {
	return &logfile.Disk{
		Create: func(name string) (f *os.File, err error) {
			err = d.call(func() (err error) { f, err = d.real.Create(name); return err }, nil)
			if err != nil && f != nil {
				f.Close()
				f = nil
			}
			return f, err
		},
		Pwrite: func(f *os.File, b []byte, at int64) error {
			return d.call(func() error { return d.real.Pwrite(f, b, at) }, func() error { return d.real.Pwrite(f, b[:len(b)/2], at) })
		},
		Fdatasync: func(f *os.File) error { return d.call(func() error { return d.real.Fdatasync(f) }, nil) },
		Truncate:  func(f *os.File, n int64) error { return d.call(func() error { return d.real.Truncate(f, n) }, nil) },
		Rename:    func(from, to string) error { return d.call(func() error { return d.real.Rename(from, to) }, nil) },
		SyncDir:   func(dir string) error { return d.call(func() error { return d.real.SyncDir(dir) }, nil) },
		Unlink:    func(name string) error { return d.call(func() error { return d.real.Unlink(name) }, nil) },
	}
}

// quickDisk is the disk of the machine without waiting for it: no power is cut here.
func quickDisk() *logfile.Disk {
	d := *logfile.SystemDisk()
	d.Fdatasync = func(*os.File) error { return nil }
	d.SyncDir = func(string) error { return nil }
	return &d
}

// life is what a box has been told about its log.
type life struct {
	t        *testing.T
	b        *bench
	answered map[uint64]record.Leaf // by index: the monitor got its acknowledgement
	stream   []uint64               // what the leaf node was sent, in order, as it stored it
	ended    string                 // why the spool took nothing more
}

// live opens the log on a disk and lets the box live: it keeps records, signs, publishes to a leaf node that stores each record, and
// keeps its place there, over several segments and with a ring that drops. It ends early if the disk ends it.
func (l *life) live(dir string, disk *logfile.Disk, rounds int, dead bool) {
	s, err := Open(filepath.Join(dir, "log"), Options{Quota: 48 << 10, SegmentBytes: 4 << 10, Disk: disk})
	if err != nil {
		return
	}
	l.b.Spool = s
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { s.Run(ctx); close(ended) }()
	defer func() { stop(); <-ended; s.Close() }()
	if why := s.RolledBack(); why != "" {
		l.t.Fatalf("rolled back: %s", why)
	}
	s.Reserve("ward1")
	for range rounds {
		for range 3 {
			l.keep()
		}
		l.publish()
	}
	eventually(l.t, "a record is kept, or the disk is given up", func() bool { return l.keep() || s.Stats().Error != "" || dead })
	l.ended = s.Stats().Error
	l.publish()
}

// keep gives the box one record and says whether it was answered for.
func (l *life) keep() bool {
	index, leaf := l.b.Next(), l.b.leaf(l.t)
	done := make(chan error, 1)
	if l.b.Append([]record.Leaf{leaf}, func(err error) { done <- err }) != nil || <-done != nil {
		return false
	}
	l.answered[index] = leaf
	return true
}

// publish signs what is kept, and does what package link does at a leaf node whose stream l.stream is: its length says where to go on.
func (l *life) publish() {
	if tree, ok := l.b.Unsigned(); ok {
		sc, c := l.b.checkpoint(l.t, tree)
		l.b.AddCheckpoint(sc, c)
	}
	cur, _ := l.b.Cursor("ward1")
	cur.Next = max(cur.Next, uint64(len(l.stream))) // an answer that was not kept
	r := l.b.Reader(max(cur.Next, l.b.First()))
	defer r.Close()
	for {
		group, err := r.Next()
		if err != nil {
			return
		}
		for _, p := range group {
			if p.Index != uint64(len(l.stream)) {
				l.t.Fatalf("record %d is published behind %d others", p.Index, len(l.stream))
			}
			if want, ok := l.answered[p.Index]; ok && !bytes.Equal(p.Leaf, want) {
				l.t.Fatalf("record %d is another one than what was answered for", p.Index)
			}
			l.stream = append(l.stream, p.Index)
		}
		cur.Next, cur.Sent = uint64(len(l.stream)), AllSigned
		l.b.SetCursor("ward1", cur)
	}
}

// Each call that the log, its checkpoints, its cursors and its reserve make of the disk goes wrong once, in each way. Afterwards, on a
// sound disk: the log opens and is clean, all that was answered for is there or was published, it goes on without a restart where the
// disk allows, and the leaf node has each record once. VITALGATE_FAULTS=all leaves out no call.
func TestEveryCallOfTheDiskGoesWrong(t *testing.T) {
	rounds := 14
	begin := func(t *testing.T) *life {
		return &life{t: t, b: &bench{nil, sealer(t), newKey(t)}, answered: map[uint64]record.Leaf{}}
	}
	sound := &faultyDisk{real: quickDisk()}
	l := begin(t)
	l.live(t.TempDir(), sound.disk(), rounds, false)
	if len(l.answered) != 3*rounds+1 || sound.calls < 100 {
		t.Fatalf("without a fault %d records are published, with %d calls", len(l.stream), sound.calls)
	}
	step := 5
	switch {
	case os.Getenv("VITALGATE_FAULTS") == "all":
		step = 1
	case testing.Short():
		step = 20
	}
	cases := 0
	for i, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			for n := 1 + i%step; n <= sound.calls; n += step {
				cases++
				dir := t.TempDir()
				l := begin(t)
				disk := &faultyDisk{n: n, fault: f, real: quickDisk()}
				l.live(dir, disk.disk(), rounds, f.dead)
				if !errors.Is(f.err, syscall.EIO) && l.ended != "" && !strings.Contains(l.ended, "sync") {
					t.Fatalf("call %d: a fault that passes is the end: %s", n, l.ended)
				}
				if r, err := logfile.Check(filepath.Join(dir, "log"), logfile.CheckOptions{Box: box, Key: &l.b.key.PublicKey}); err == nil && len(r.Problems) > 0 && r.Segments > 0 {
					t.Fatalf("call %d: check: %v", n, r.Problems)
				}
				l.live(dir, quickDisk(), 3, false)
				for index := range l.answered {
					if index >= uint64(len(l.stream)) {
						t.Fatalf("call %d: record %d was answered for; the leaf node has %d", n, index, len(l.stream))
					}
				}
				if r, err := logfile.Check(filepath.Join(dir, "log"), logfile.CheckOptions{Box: box, Key: &l.b.key.PublicKey}); err != nil || !r.Clean() {
					t.Fatalf("call %d: check at the end: %v, %+v", n, err, r)
				}
			}
		})
	}
	t.Logf("%d cases: %d ways at each of %d calls", cases, len(faults), sound.calls)
}
