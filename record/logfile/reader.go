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
	err    error
}

// cursor reads entries over the bounds of segments.
type cursor struct {
	log *Log
	seg segment
	sc  *scanner
}

const readBuffer = 256 << 10

// Reader returns a Reader that begins with the leaf at from.
func (l *Log) Reader(from uint64) *Reader { return &Reader{log: l, from: from} }

// Next returns the leaves of the next checkpoint with their proofs; of the first one, those at or above the index that was asked
// for. It does not wait: io.EOF says that nothing newer is signed yet. The records are the caller's. Any other error is final.
func (r *Reader) Next() ([]record.Published, error) {
	if r.err != nil {
		return nil, r.err
	}
	if r.log.view.Load().signed <= r.from {
		return nil, io.EOF
	}
	out, err := r.next()
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
	var note record.SignedCheckpoint
	var c record.Checkpoint
	for c.Size <= r.from {
		kind, payload, err := r.notes.next(true)
		if err != nil {
			return nil, err
		}
		if kind == typeCheckpoint {
			note = payload
			if c, err = note.Unverified(); err != nil {
				return nil, r.notes.sc.damaged(r.notes.sc.at, err.Error())
			}
		}
	}
	prev := r.tree
	var leaves []record.Leaf
	for r.tree.Size() < c.Size {
		kind, payload, err := r.leaves.next(false)
		if err != nil {
			return nil, err
		}
		if first := r.leaves.seg.first; first > r.tree.Size() {
			if r.log.First() >= first {
				return nil, ErrDropped
			}
			return nil, r.leaves.sc.damaged(0, "leaves before it are missing")
		}
		if kind != typeLeaf {
			continue
		}
		if r.tree.Size() >= r.from {
			leaves = append(leaves, payload)
		}
		r.tree.Append(payload)
		if r.tree.Size() == r.from {
			prev = r.tree
		}
	}
	out, err := record.Prove(prev, leaves, note)
	if err != nil {
		return nil, err
	}
	r.from = c.Size
	return out, nil
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
	h, err := r.leaves.open(v, at)
	if err != nil {
		return err
	}
	r.tree = h.tree
	_, err = r.notes.open(v, at)
	return err
}

func (c *cursor) open(v *view, i int) (h header, err error) {
	c.seg = v.segments[i]
	c.seg.size = v.size(i)
	c.sc, h, err = openScanner(c.log.dir, c.seg, readBuffer)
	if errors.Is(err, os.ErrNotExist) && (i == 0 || c.log.First() > c.seg.first) {
		err = ErrDropped
	}
	return h, err
}

// next reads an entry, going on to the next segment at the end of one. The caller knows that there is one.
func (c *cursor) next(skipLeaves bool) (kind byte, payload []byte, err error) {
	for {
		if skipLeaves {
			err = c.sc.skipLeaves()
		}
		if err == nil {
			kind, payload, err = c.sc.next()
		}
		if err != io.EOF {
			return kind, payload, err
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
			return 0, nil, c.sc.damaged(c.sc.at, "entries are missing at its end")
		}
		c.sc.close()
		c.sc = nil
		if _, err := c.open(v, i); err != nil {
			return 0, nil, err
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
