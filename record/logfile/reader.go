package logfile

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/vitalgate/vitalgate/record"
)

// ErrDropped says that the leaves a Reader should give are no longer kept.
var ErrDropped = errors.New("the leaves asked for are no longer kept")

// Reader gives the signed leaves of a log in order, beside its writer. It is not for concurrent use; several Readers are.
type Reader struct {
	log    *Log
	from   uint64      // the next index to give
	tree   record.Tree // at the leaf that leaves will read next
	leaves cursor
	notes  cursor // goes ahead to the next checkpoint
	note   record.SignedCheckpoint
	last   record.Checkpoint // what note says
	err    error
}

// cursor reads entries over the bounds of segments.
type cursor struct {
	log *Log
	seg segment
	sc  *scanner
	why error // what was damaged last
}

const readBuffer = 256 << 10

// errEnd says that there is no entry any more where the log's size wants one.
var errEnd = errors.New("the end of the log")

// Reader returns a Reader that begins with the leaf at from.
func (l *Log) Reader(from uint64) *Reader { return &Reader{log: l, from: from} }

// Next returns the leaves of the next checkpoint with their proofs; of the first one, those at or above the index that was asked
// for. It does not wait: io.EOF says that nothing newer is signed yet. *Missing says that leaves cannot be read, and the next call
// goes on behind them. The records are the caller's. Any other error is final.
func (r *Reader) Next() ([]record.Published, error) {
	if r.err != nil {
		return nil, r.err
	}
	if r.log.view.Load().signed <= r.from {
		return nil, io.EOF
	}
	out, err := r.next()
	if m := (*Missing)(nil); errors.As(err, &m) {
		return nil, fmt.Errorf("cannot read log %s: %w", r.log.dir, m)
	}
	if err != nil {
		r.Close()
		r.err = fmt.Errorf("cannot read log %s from leaf %d: %w", r.log.dir, r.from, err)
		return nil, r.err
	}
	return out, nil
}

// From is the index of the leaf that Next will give first.
func (r *Reader) From() uint64 { return r.from }

func (r *Reader) next() ([]record.Published, error) {
	if r.leaves.sc == nil {
		if err := r.seek(); err != nil {
			return nil, err
		}
	}
	note, c, err := r.checkpoint()
	if err != nil {
		return nil, err
	}
	prev := r.tree
	var leaves []record.Leaf
	var hashes []record.Hash
	for r.tree.Size() < c.Size {
		kind, payload, tree, err := r.leaves.next(false, r.tree.Size())
		if err != nil {
			return nil, err
		}
		if tree != nil && tree.Size() != r.tree.Size() { // the log goes on with another tree than that of what was read
			if first := r.leaves.seg.first; r.log.First() >= first && tree.Size() == first && first > r.tree.Size() {
				return nil, ErrDropped
			}
			lost := &Missing{r.from, tree.Size(), r.leaves.why}
			r.tree = *tree
			if r.from < tree.Size() {
				r.from = tree.Size()
				return nil, lost
			}
			prev, leaves, hashes = *tree, nil, nil
			continue
		}
		if kind != typeLeaf {
			continue
		}
		hash := record.LeafHash(payload)
		if r.tree.Size() >= r.from {
			leaves, hashes = append(leaves, payload), append(hashes, hash)
		}
		r.tree.AppendHash(hash)
		if r.tree.Size() == r.from {
			prev = r.tree
		}
	}
	out, err := record.ProveHashed(prev, leaves, hashes, note)
	if err != nil {
		return nil, err
	}
	r.from = c.Size
	return out, nil
}

// checkpoint gives the next one that covers the leaf at from.
func (r *Reader) checkpoint() (note record.SignedCheckpoint, c record.Checkpoint, err error) {
	if r.note != nil && r.last.Size > r.from { // that before which leaves were missing
		return r.note, r.last, nil
	}
	for c.Size <= r.from {
		kind, payload, _, err := r.notes.next(true, 0)
		if last := r.notes.seg; errors.Is(err, errEnd) && r.from < last.first { // the checkpoint of what was before it cannot be read
			lost := &Missing{r.from, last.first, r.notes.why}
			r.from = last.first
			return nil, c, lost
		}
		if err != nil {
			return nil, c, err
		}
		if kind == typeCheckpoint {
			note = payload
			if c, err = note.Unverified(); err != nil {
				return nil, c, r.notes.sc.damaged(r.notes.sc.at, err.Error())
			}
		}
	}
	r.note, r.last = note, c
	return note, c, nil
}

// seek goes to the segment that holds the leaf at from.
func (r *Reader) seek() error {
	v := r.log.view.Load()
	if r.from < v.segments[0].first {
		return ErrDropped
	}
	at := len(v.segments) - 1
	for v.segments[at].first > r.from {
		at--
	}
	r.leaves.log, r.notes.log = r.log, r.log
	tree, err := r.leaves.open(v, at)
	if err != nil {
		return err
	}
	if _, err := r.notes.open(v, at); err != nil {
		return err
	}
	if r.tree = tree; r.from < tree.Size() {
		lost := &Missing{r.from, tree.Size(), r.leaves.why}
		r.from = tree.Size()
		return lost
	}
	return nil
}

// open goes to the beginning of segment i, or where that cannot be read behind its first mark, or on to the next segment. It gives
// the tree there.
func (c *cursor) open(v *view, i int) (tree record.Tree, err error) {
	c.seg = v.segments[i]
	c.seg.size = v.size(i)
	sc, h, err := openScanner(c.log.dir, c.seg, readBuffer)
	switch {
	case errors.Is(err, os.ErrNotExist) && (i == 0 || c.log.First() > c.seg.first):
		return tree, ErrDropped
	case errors.Is(err, ErrDamaged):
		c.sc, c.why = sc, err
		if m, err := c.resync(0, c.seg.first); err != nil || m != nil {
			if m != nil {
				tree = *m
			}
			return tree, err
		}
		sc.close()
		if i+1 == len(v.segments) {
			c.sc = nil
			return tree, c.why
		}
		return c.open(v, i+1)
	case err != nil:
		return tree, err
	}
	c.sc = sc
	return h.tree, nil
}

// resync goes on behind the next mark that holds a tree of at least size; nil if there is none.
func (c *cursor) resync(from int64, size uint64) (*record.Tree, error) {
	for {
		m, ok, err := c.sc.nextMark(from)
		if err != nil || !ok {
			return nil, err
		}
		if !m.bare && m.tree.Size() >= size {
			c.sc.goTo(m)
			return &m.tree, nil
		}
		from = m.end
	}
}

// next reads an entry, going on to the next segment at the end of one. The caller knows that there is one. size is that of the tree
// so far, and tree, if not nil, another one with which the log goes on, because entries are damaged or a segment is missing.
func (c *cursor) next(skipLeaves bool, size uint64) (kind byte, payload []byte, tree *record.Tree, err error) {
	for {
		if skipLeaves {
			err = c.sc.skipLeaves()
		}
		at := c.sc.at
		if err == nil {
			kind, payload, err = c.sc.next()
		}
		if err == nil {
			return kind, payload, nil, nil
		}
		damaged := errors.Is(err, ErrDamaged)
		if damaged {
			c.why = err
			if tree, err := c.resync(at+1, size); err != nil || tree != nil {
				return 0, nil, tree, err
			}
		} else if err != io.EOF {
			return 0, nil, nil, err
		}
		err = nil
		v := c.log.view.Load()
		i := 0
		for i < len(v.segments) && v.segments[i].first < c.seg.first {
			i++
		}
		if i < len(v.segments) && v.segments[i].first == c.seg.first { // not dropped since
			if v.size(i) > c.sc.limit { // it has grown
				c.sc.grow(v.size(i))
				continue
			}
			i++
		}
		if i == len(v.segments) {
			if damaged {
				return 0, nil, nil, c.why
			}
			return 0, nil, nil, errors.Join(c.sc.damaged(c.sc.at, "entries are missing at its end"), errEnd)
		}
		if !damaged {
			c.why = c.sc.damaged(c.sc.at, missingBehind)
		}
		c.sc.close()
		c.sc = nil
		t, err := c.open(v, i)
		if err != nil {
			return 0, nil, nil, err
		}
		if !skipLeaves && t.Size() < size {
			return 0, nil, nil, c.sc.damaged(0, "it begins before the end of the segment before it")
		}
		if !skipLeaves && t.Size() > size {
			return 0, nil, &t, nil
		}
	}
}

// Close gives up the files of the Reader.
func (r *Reader) Close() error {
	for _, c := range []*cursor{&r.leaves, &r.notes} {
		if c.sc != nil {
			c.sc.close()
			c.sc = nil
		}
	}
	if r.err == nil {
		r.err = errors.New("the reader is closed")
	}
	return nil
}
