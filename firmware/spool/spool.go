// Package spool is the box's store and forward: the log of sealed records on its disk, from the fsync that allows the
// monitor's acknowledgement to the leaf node's acknowledgement of the published record.
//
// Appending is group commit without a timer: while the disk works, leaves collect; the next write takes them all and one
// fsync covers them. Signing is the same one step further: while the chip signs a size, the log grows.
//
// The log is a ring. What a leaf node has acknowledged stays until its space is needed, so that a leaf node that loses its
// data can be given it again. What no leaf node has acknowledged is never dropped: at the quota the spool refuses.
package spool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/logfile"
)

// ErrFull says that the quota is reached and nothing can be dropped: the network has acknowledged none of it.
var ErrFull = errors.New("the log has reached its quota and no leaf node has acknowledged what it holds; bring a leaf node back, or raise spool.quota if the disk has room")

// ErrDisk says that an fsync failed, so that nobody knows what is on the disk. The spool takes nothing more; only opening
// it anew tells what it holds.
var ErrDisk = errors.New("the disk of the log fails")

// ErrClosed says that the spool was closed before the leaf was on disk.
var ErrClosed = errors.New("the spool is closed")

// Options of a spool.
type Options struct {
	Quota        int64 // bytes of the log on disk; 0 is 8 GiB
	SegmentBytes int64 // of one file of the log; 0 is what package logfile chooses
	// Begun is a file, outside the log's folder, that is there from the first signature on: a log that is missing then was lost,
	// and one that begins anew under the same key would be a second history. "" is none.
	Begun string
	Log   *slog.Logger
	Disk  *logfile.Disk // nil is logfile.SystemDisk
}

// maxQueued bounds the bytes that wait for the disk; Append blocks beyond it.
const maxQueued = 16 << 20

// Spool is the log of one box. One goroutine appends, one runs Run, one signs, one publishes.
type Spool struct {
	dir  string
	opts Options
	disk *logfile.Disk
	log  *logfile.Log

	commitMu sync.Mutex // one write and fsync at a time, with its callbacks
	cursorMu sync.Mutex // one cursor file at a time; taken before mu

	wake chan struct{} // the committer has something to do

	mu         sync.Mutex
	room       sync.Cond // the queue was taken
	err        error     // the disk failed, or the spool is closed; final
	leaves     []record.Leaf
	calls      []call
	queued     int64  // bytes of leaves
	pulse      bool   // the disk is to answer, though there may be nothing to write
	committing bool   // a commit has taken what was queued, and has not made room yet
	next       uint64 // index of the next leaf
	size       uint64 // leaves that are on disk
	signed     uint64 // size of the newest checkpoint on disk
	last       record.Checkpoint
	acked      uint64        // first index that no leaf node has acknowledged
	bytes      int64         // of the log on disk
	crowded    bool          // bytes is near the quota
	changed    chan struct{} // closed at the next change of size, signed or err
	marks      []mark
	cursors    map[string]*cursor
	intact     uint64             // what was acknowledged at or above it was not this log; no bound unless rolledBack
	rolledBack string             // how it is known that the log is older than what was published
	fsyncs     [512]time.Duration // the latest
	nfsyncs    uint64

	begun       bool          // the file Begun is there; the signer's
	wrote       bool          // since the last pulse; under commitMu
	cramped     bool          // drop failed; under commitMu
	lean        bool          // the reserve is in use: only checkpoints are taken; under commitMu
	leanTried   time.Time     // when it was last tried to make the reserve again; under commitMu
	spareLeaves []record.Leaf // of the queue, for reuse; under commitMu
	spareCalls  []call
}

// call is the callback of one Append.
type call func(error)

// mark remembers when a leaf came to disk, to tell the age of what is unsent.
type mark struct {
	index uint64
	at    time.Time
}

const maxMarks = 1024

// Open opens the log in folder dir, which it makes if needed, and recovers what a crash left.
func Open(dir string, o Options) (*Spool, error) {
	if o.Quota <= 0 {
		o.Quota = 8 << 30
	}
	if o.Disk == nil {
		o.Disk = logfile.SystemDisk()
	}
	s := &Spool{dir: dir, opts: o, disk: o.Disk, wake: make(chan struct{}, 1), changed: make(chan struct{}), cursors: map[string]*cursor{}, intact: math.MaxUint64}
	s.room.L = &s.mu
	log, err := logfile.Open(dir, logfile.Options{SegmentBytes: o.SegmentBytes, Disk: o.Disk})
	if err != nil {
		return nil, err
	}
	s.log = log
	if s.lean = true; !s.makeReserve() {
		s.warn("nothing is kept until the disk has room for signatures too", "dir", dir, "bytes", s.reserveSize())
	}
	s.next, s.size, s.signed, s.bytes = log.Next(), log.Next(), log.Signed(), log.Bytes()
	_, s.last = log.LastCheckpoint()
	if err := errors.Join(s.loadRolledBack(), s.loadCursors()); err != nil {
		log.Close()
		return nil, fmt.Errorf("cannot open the spool: %w; check the disk and the owner of its files", err)
	}
	if err := s.checkBegun(); err != nil {
		log.Close()
		return nil, err
	}
	found := log.Found()
	if n := found.Torn; n > 0 {
		s.warn("cut off what a crash left unfinished; none of it had been acknowledged", "bytes", n)
	}
	for _, m := range found.Missing {
		s.warn("the log is damaged; the box goes on without these records", "from", m.From, "to", m.To, "error", m.Cause)
	}
	if found.SetBack != "" { // what was behind it may have been signed
		if err := s.SetRolledBack(fmt.Sprintf("its end is destroyed, behind record %d (%s)", log.Next(), found.SetBack)); err != nil {
			s.warn("cannot note that the log was set back", "error", err)
		}
	}
	if s.next > s.acked {
		s.marks = []mark{{s.acked, s.oldest()}}
	}
	return s, nil
}

// oldest is when the oldest record that no leaf node has acknowledged came to the box; now if that cannot be told yet.
func (s *Spool) oldest() time.Time {
	r := s.log.Reader(max(s.acked, s.log.First()))
	defer r.Close()
	if unsent, err := r.Next(); err == nil {
		if h, _, err := record.ParseLeaf(unsent[0].Leaf); err == nil {
			return h.Arrived
		}
	}
	return time.Now()
}

// Close writes the cursors and closes the log. Run has ended before; leaves that still wait for the disk get ErrClosed.
func (s *Spool) Close() error {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	err := s.flushCursors()
	s.mu.Lock()
	s.fail(ErrClosed)
	calls := s.calls
	s.leaves, s.calls = nil, nil
	s.mu.Unlock()
	for _, durable := range calls {
		durable(ErrClosed)
	}
	return errors.Join(err, s.log.Close())
}

// Next is the index that the next leaf gets.
func (s *Spool) Next() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next
}

// First is the index of the oldest leaf that is still here.
func (s *Spool) First() uint64 { return s.log.First() }

// Signed is the size of the newest checkpoint: all leaves below it can be published.
func (s *Spool) Signed() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.signed
}

// Acked is the first index that no leaf node has acknowledged.
func (s *Spool) Acked() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acked
}

// LastCheckpoint is the newest checkpoint on disk; zero if there is none.
func (s *Spool) LastCheckpoint() record.Checkpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// Append gives leaves, of the indexes from Next on, to the disk. durable is called once, in index order and from another
// goroutine: with nil after the fsync, or with the reason why the leaves are not on disk. If Append returns an error
// (ErrFull, or what the disk said before), the leaves were not taken and durable is not called. Append keeps the leaves.
func (s *Spool) Append(leaves []record.Leaf, durable func(error)) error {
	size := int64(0)
	for _, l := range leaves {
		size += int64(len(l)) + entryOverhead
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	full := func() bool { return s.bytes+s.queued+size > s.opts.Quota }
	for s.err == nil && (s.queued > 0 && s.queued+size > maxQueued || full() && (s.queued > 0 || s.committing)) {
		s.room.Wait() // the commit may make room, too
	}
	if s.err != nil {
		return s.err
	}
	if full() {
		s.crowded = true
		s.kick()
		return fmt.Errorf("cannot keep a record: %w", ErrFull)
	}
	s.leaves = append(s.leaves, leaves...)
	s.calls = append(s.calls, durable)
	s.queued += size
	s.next += uint64(len(leaves))
	s.kick()
	return nil
}

// Pulse asks the disk for an answer: durable is called, as that of Append, when all that was appended before is on disk, and the disk has
// answered a write since the pulse before. If none came, a block of the reserve is written anew.
func (s *Spool) Pulse(durable func(error)) error {
	s.mu.Lock()
	s.pulse = true
	s.mu.Unlock()
	return s.Append(nil, durable)
}

// entryOverhead is about what an entry takes on disk beside its payload.
const entryOverhead = 16

// kick wakes the committer.
func (s *Spool) kick() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run is the committer. It ends with ctx, when all that was appended before is on disk, or with ErrDisk. A write that the
// disk refuses, as when it is full, is no end: the callbacks hear of it, and Next goes back to what is on disk.
func (s *Spool) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return final(s.commit(nil, record.Checkpoint{}))
		case <-s.wake:
			if err := final(s.commit(nil, record.Checkpoint{})); err != nil {
				return err
			}
		}
	}
}

func final(err error) error {
	if errors.Is(err, ErrDisk) || errors.Is(err, ErrClosed) {
		return err
	}
	return nil
}

// AddCheckpoint puts a checkpoint of a tree that WaitUnsigned or Unsigned gave on disk, with all that waits for the disk,
// and returns after the fsync. Then the records that it covers can be read and published. After an error that is neither
// ErrDisk nor ErrClosed it may be tried again.
func (s *Spool) AddCheckpoint(sc record.SignedCheckpoint, c record.Checkpoint) error {
	if err := s.begin(); err != nil {
		return err
	}
	return s.commit(sc, c)
}

// commit writes what has collected, and sc if there is one, with one fsync, and calls back. Its error is that of sc too.
func (s *Spool) commit(sc record.SignedCheckpoint, c record.Checkpoint) error {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()

	s.mu.Lock()
	err := s.err
	leaves, calls, pulse := s.leaves, s.calls, s.pulse
	s.leaves, s.calls, s.queued, s.pulse, s.committing = s.spareLeaves[:0], s.spareCalls[:0], 0, false, true
	s.room.Broadcast()
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.committing = false
		s.room.Broadcast()
		s.mu.Unlock()
	}()

	if err == nil && s.lean && !s.makeReserve() && len(calls) > 0 {
		s.makeRoom(true)
		s.refuse(calls, fmt.Errorf("cannot keep a record: %w: what room is left is for signing what is kept", unix.ENOSPC))
		leaves, calls = nil, nil
	}
	var refused error // the log does not take sc: no fault of the disk, and of no concern to the leaves
	var took time.Duration
	if err == nil && sc != nil {
		if refused = s.log.AppendCheckpoint(sc, c); refused != nil {
			sc = nil
		}
	}
	if err == nil && (len(leaves) > 0 || sc != nil) {
		took, err = s.write(leaves)
		s.wrote = true
	}
	if pulse {
		if err == nil && !s.wrote {
			s.touchReserve()
		}
		s.wrote = false
	}
	signed := err // what became of sc
	if err == nil {
		s.makeRoom(s.lean)
	} else if s.log.Rollback() == nil {
		err = fmt.Errorf("cannot keep a record: %w", err)
		if signed = err; errors.Is(err, unix.ENOSPC) {
			s.makeRoom(true)
			if sc != nil && s.useReserve() {
				if signed = s.log.AppendCheckpoint(sc, c); signed == nil {
					took, signed = s.write(nil)
				}
				if signed != nil && s.log.Rollback() != nil {
					err = fmt.Errorf("%w: %w", ErrDisk, signed)
				}
			}
		}
	} else if !errors.Is(err, ErrClosed) {
		err = fmt.Errorf("%w: %w", ErrDisk, err)
		signed = err
	}

	s.mu.Lock()
	if errors.Is(err, ErrDisk) {
		s.fail(err)
	}
	if took > 0 && signed == nil {
		s.fsyncs[s.nfsyncs%uint64(len(s.fsyncs))] = took
		s.nfsyncs++
		if err == nil {
			s.mark(s.size, len(leaves))
		}
		s.size, s.signed = s.log.Next(), s.log.Signed()
		_, s.last = s.log.LastCheckpoint()
		s.announce()
	}
	s.mu.Unlock()

	if err != nil {
		s.refuse(calls, err)
	} else {
		for _, durable := range calls {
			durable(nil)
		}
	}
	clear(leaves)
	clear(calls)
	s.spareLeaves, s.spareCalls = leaves, calls
	return errors.Join(signed, refused)
}

// refuse calls back that leaves are not kept: those of calls, and those that came meanwhile, which count on indexes that are gone.
func (s *Spool) refuse(calls []call, err error) {
	s.mu.Lock()
	all := append(slices.Clip(calls), s.calls...)
	s.leaves, s.calls, s.queued = s.leaves[:0], nil, 0
	s.next = s.log.Next()
	s.room.Broadcast()
	s.mu.Unlock()
	for _, durable := range all {
		durable(err)
	}
}

// write makes leaves, and what else was appended to the log, durable.
func (s *Spool) write(leaves []record.Leaf) (took time.Duration, err error) {
	if err := s.log.Append(leaves...); err != nil {
		return 0, err
	}
	start := time.Now()
	err = s.log.Sync()
	return max(time.Since(start), 1), err
}

// makeRoom drops what may be dropped. That it cannot is no fault of what was just written: the leaves are on disk, and the
// next commit tries again. It is said once until it succeeds.
func (s *Spool) makeRoom(now bool) {
	err := s.drop(now)
	if err != nil && !s.cramped {
		s.warn("cannot make room in the log; records are kept until its quota is reached", "error", err)
	}
	s.cramped = err != nil
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes = s.log.Bytes()
	s.crowded = err != nil || s.bytes > s.dropAbove()
}

// dropAbove is how large the log may be before its oldest part goes.
func (s *Spool) dropAbove() int64 { return s.opts.Quota - s.opts.Quota/16 }

// drop makes room when the log comes near its quota: the oldest sixteenth goes, as often as needed, of what a leaf node has
// acknowledged. now says that the disk is full below the quota.
func (s *Spool) drop(now bool) error {
	bytes, limit := s.log.Bytes(), s.dropAbove()
	if now {
		limit = min(limit, bytes-1)
	}
	if bytes <= limit {
		return nil
	}
	// A cursor on disk must not point below the ring, or the leaf node's stream could not be matched with it.
	if err := s.flushCursors(); err != nil {
		return err
	}
	acked, first := s.Acked(), s.log.First()
	step := max(1, (s.log.Next()-first)/16)
	for to := first; bytes > limit && to < acked; bytes = s.log.Bytes() {
		to = min(to+step, acked)
		if err := s.log.DropBefore(to); err != nil {
			return err
		}
	}
	if now && bytes > limit && acked == s.log.Signed() && s.log.First() < acked { // all that is left is in the last segment
		if err := s.log.Rotate(); err != nil {
			return err
		}
		return s.log.DropBefore(acked)
	}
	return nil
}

// fail ends the spool; s.mu is held.
func (s *Spool) fail(err error) {
	if s.err == nil {
		s.err = err
		s.room.Broadcast()
		s.announce()
	}
}

// announce wakes those who wait for the disk or for a signature; s.mu is held.
func (s *Spool) announce() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// wait blocks until ok, which is called with s.mu held.
func (s *Spool) wait(ctx context.Context, ok func() bool) error {
	for {
		s.mu.Lock()
		done, err, changed := ok(), s.err, s.changed
		s.mu.Unlock()
		switch {
		case done:
			return nil
		case err != nil:
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// WaitUnsigned waits until there is something on disk that no checkpoint covers, and gives the tree to sign. There is one
// signer: AddCheckpoint takes the tree that was given last. After RolledBack there is nothing to sign.
func (s *Spool) WaitUnsigned(ctx context.Context) (record.Tree, error) {
	if err := s.wait(ctx, func() bool { return s.size > s.signed && s.rolledBack == "" }); err != nil {
		return record.Tree{}, err
	}
	tree, _ := s.log.Unsigned()
	return tree, nil
}

// Unsigned gives the tree to sign, or false if all that is on disk is covered by a checkpoint, or after RolledBack.
func (s *Spool) Unsigned() (record.Tree, bool) {
	tree, n := s.log.Unsigned()
	return tree, n > 0 && s.RolledBack() == ""
}

// WaitSigned waits until the record of the given index can be read.
func (s *Spool) WaitSigned(ctx context.Context, index uint64) error {
	return s.wait(ctx, func() bool { return s.signed > index })
}

// Reader reads published records from an index on, which must not be below First.
func (s *Spool) Reader(from uint64) *logfile.Reader { return s.log.Reader(from) }

// Latest calls each with the newest leaves on disk, at most n, in order.
func (s *Spool) Latest(n uint64, each func(record.Leaf)) error {
	next := s.Next()
	return s.log.Leaves(next-min(n, next), func(l record.Leaf) error { each(l); return nil })
}

// Stats is the spool as it is now.
type Stats struct {
	First     uint64        `json:"first"`  // oldest index on disk
	Next      uint64        `json:"next"`   // index of the next leaf
	Signed    uint64        `json:"signed"` // size of the newest checkpoint
	Acked     uint64        `json:"acked"`  // first index that no leaf node has acknowledged
	Depth     uint64        `json:"depth"`  // records that no leaf node has acknowledged
	OldestAge time.Duration `json:"oldest_unsent_ns"`
	Bytes     int64         `json:"bytes"`
	Quota     int64         `json:"quota"`
	Fsyncs    uint64        `json:"fsyncs"`
	FsyncP50  time.Duration `json:"fsync_p50_ns"` // of the latest 512
	FsyncP99  time.Duration `json:"fsync_p99_ns"`
	Error     string        `json:"error,omitempty"` // why nothing more is taken
}

// Stats reports how the spool is.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	st := Stats{Next: s.next, Signed: s.signed, Acked: s.acked, Bytes: s.bytes, Quota: s.opts.Quota, Fsyncs: s.nfsyncs}
	if s.next > s.acked {
		st.Depth = s.next - s.acked
	}
	if len(s.marks) > 0 {
		st.OldestAge = time.Since(s.marks[0].at)
	}
	if s.err != nil {
		st.Error = s.err.Error()
	}
	took := slices.Clone(s.fsyncs[:min(s.nfsyncs, uint64(len(s.fsyncs)))])
	s.mu.Unlock()
	st.First = s.First()
	if n := len(took); n > 0 {
		slices.Sort(took)
		st.FsyncP50, st.FsyncP99 = took[n/2], took[n*99/100]
	}
	return st
}

// mark notes that n leaves from index on have come to disk; s.mu is held.
func (s *Spool) mark(index uint64, n int) {
	if n == 0 {
		return
	}
	if len(s.marks) == maxMarks { // halve the resolution; an older time stands for more leaves
		for i := range maxMarks / 2 {
			s.marks[i] = s.marks[2*i]
		}
		s.marks = s.marks[:maxMarks/2]
	}
	s.marks = append(s.marks, mark{index, time.Now()})
	s.trimMarks()
}

// trimMarks forgets the marks of what was acknowledged; s.mu is held.
func (s *Spool) trimMarks() {
	i := 0
	for i+1 < len(s.marks) && s.marks[i+1].index <= s.acked {
		i++
	}
	if i < len(s.marks) && s.acked >= s.next {
		i = len(s.marks)
	}
	s.marks = slices.Delete(s.marks, 0, i)
}

func (s *Spool) warn(msg string, args ...any) {
	if s.opts.Log != nil {
		s.opts.Log.Warn(msg, args...)
	}
}
