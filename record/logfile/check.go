package logfile

import (
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/vitalgate/vitalgate/record"
)

// CheckOptions says what Check knows of the log. Without a key it does not look at signatures.
type CheckOptions struct {
	Box   record.BoxID                        // whose log it is; zero: that of the first leaf
	Key   *ecdsa.PublicKey                    // the data key of the box
	KeyAt func(index uint64) *ecdsa.PublicKey // in place of Key, where it has changed: the key that signs the leaf at an index
}

// Report is what Check found.
type Report struct {
	Segments    int
	Bytes       int64
	First, Next uint64 // the leaves that are there
	Signed      uint64 // how many of the log are signed
	Checkpoints int
	Live        bool  // a writer has the log open, and its last entries may be half written
	Torn        int64 // bytes of a torn tail, which the next Open cuts off
	Problems    []Problem
	Missing     []Missing // leaves that are damaged, or whose segment is
}

// Problem is one thing that is wrong, at a byte of a file.
type Problem struct {
	File   string
	Offset int64
	What   string
}

func (p Problem) String() string { return fmt.Sprintf("%s: byte %d: %s", p.File, p.Offset, p.What) }

// Clean reports whether everything is as it was written.
func (r Report) Clean() bool {
	return len(r.Problems) == 0 && len(r.Missing) == 0 && (r.Torn == 0 || r.Live)
}

// Check reads the whole log in dir: each checksum, each leaf and its place, the tree from segment to segment, each checkpoint and,
// with a key, its signature. It changes nothing and may run beside a writer. The error says that dir could not be read; what is
// wrong in it stands in the report.
func Check(dir string, o CheckOptions) (Report, error) {
	c := checker{options: o, dir: dir}
	c.Live = locked(dir)
	segments, err := listSegments(dir)
	if err != nil {
		return c.Report, fmt.Errorf("cannot check log %s: %w", dir, err)
	}
	c.Segments = len(segments)
	if len(segments) == 0 {
		c.Problems = append(c.Problems, Problem{dir, 0, "there is no segment"})
	} else {
		c.First = segments[0].first
	}
	for i, s := range segments {
		c.Bytes += s.size
		if err := c.segment(s, i == len(segments)-1); err != nil {
			return c.Report, fmt.Errorf("cannot check log %s: %w", dir, err)
		}
	}
	c.Next, c.Signed = c.tree.Size(), c.last.Size
	return c.Report, nil
}

// locked reports whether a writer holds the log.
func locked(dir string) bool {
	f, err := os.Open(filepath.Join(dir, "lock"))
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

type checker struct {
	Report
	options CheckOptions
	dir     string

	begun  bool
	broken bool // the segment before could not be read to its end
	why    error
	tree   record.Tree
	last   record.Checkpoint
	note   record.SignedCheckpoint
	base   record.Tree   // the tree at last.Size or later
	since  []record.Hash // leaves from base on
}

func (c *checker) problem(at int64, sc *scanner, what string) {
	c.Problems = append(c.Problems, Problem{sc.name, at, what})
}

// segment reads one segment. The error is one of reading, not of what was read.
func (c *checker) segment(s segment, isLast bool) error {
	sc, h, err := openScanner(c.dir, s, readBuffer)
	if sc == nil {
		return err
	}
	defer sc.close()
	switch {
	case errors.Is(err, ErrDamaged):
		c.problem(0, sc, damageOf(err).what)
		if m, ok, fault := sc.nextMark(0); fault != nil {
			return fault
		} else if ok && !m.bare && m.tree.Size() >= c.tree.Size() {
			c.goOn(m.tree, err)
			sc.goTo(m)
			return c.entries(s, sc, isLast)
		}
		c.broken = true
		return nil
	case err != nil:
		return err
	case !c.begun:
		c.tree, c.base, c.since = h.tree, h.tree, nil
		c.note, c.last = h.note, h.last
	case h.tree.Size() > c.tree.Size():
		why := sc.damaged(0, "the leaves before it are missing")
		if !c.broken && c.why != nil {
			why = c.why
		}
		c.goOn(h.tree, why)
		if len(h.note) > 0 && h.last.Size > c.last.Size {
			c.note, c.last = h.note, h.last
		}
	case h.tree.Size() != c.tree.Size() || h.tree.Root() != c.tree.Root():
		c.problem(0, sc, "its header does not continue the log before it")
		c.tree, c.base, c.since = h.tree, h.tree, nil
		c.note, c.last = h.note, h.last
	case h.last.Size == c.last.Size && h.last.Root != c.last.Root:
		c.problem(0, sc, "its header does not hold the last checkpoint before it")
	case h.last.Size > c.last.Size: // a smaller one stands where leaves were missing and have been filled in, and a larger one was lost there
		c.note, c.last = h.note, h.last
	}
	if len(h.note) > 0 {
		c.signature(0, sc, h.note)
	}
	return c.entries(s, sc, isLast)
}

// goOn goes on with a later tree, because the leaves before it cannot be read.
func (c *checker) goOn(tree record.Tree, why error) {
	if c.begun && tree.Size() > c.tree.Size() {
		c.Missing = append(c.Missing, Missing{c.tree.Size(), tree.Size(), why})
	}
	c.tree, c.base, c.since = tree, tree, nil
}

func damageOf(err error) *damage {
	var d *damage
	errors.As(err, &d)
	return d
}

// entries reads what follows the header.
func (c *checker) entries(s segment, sc *scanner, isLast bool) error {
	c.begun, c.broken, c.why = true, false, nil
	for {
		at := sc.at
		kind, payload, err := sc.next()
		switch {
		case err == io.EOF:
			return nil
		case errors.Is(err, ErrDamaged):
			m, ok, fault := sc.nextMark(at + 1)
			switch {
			case fault != nil:
				return fault
			case !ok && isLast:
				c.Torn = s.size - at
				return nil
			}
			c.problem(at, sc, damageOf(err).what)
			if !ok || m.bare || m.tree.Size() < c.tree.Size() {
				c.broken, c.why = true, err
				return nil
			}
			if m.tree.Size() > c.tree.Size() { // else no leaf is lost
				c.goOn(m.tree, err)
			}
			sc.goTo(m)
		case err != nil:
			return err
		case kind == typeLeaf:
			c.leaf(at, sc, payload)
		case kind == typeCheckpoint:
			c.checkpoint(at, sc, payload)
		case kind == typeMark:
			if m, _ := parseMark(payload, at); !m.bare && (m.tree.Size() != c.tree.Size() || m.tree.Root() != c.tree.Root()) {
				c.problem(at, sc, "the mark is of another tree")
			}
		}
	}
}

func (c *checker) leaf(at int64, sc *scanner, leaf record.Leaf) {
	h, _, err := record.ParseLeaf(leaf)
	switch {
	case err != nil:
		c.problem(at, sc, err.Error())
	case h.Index != c.tree.Size():
		c.problem(at, sc, fmt.Sprintf("leaf %d stands at the place of leaf %d", h.Index, c.tree.Size()))
	case c.options.Box == record.BoxID{}:
		c.options.Box = h.Box
	case h.Box != c.options.Box:
		c.problem(at, sc, "the leaf is of another box, "+h.Box.String())
	}
	hash := record.LeafHash(leaf)
	c.tree.AppendHash(hash)
	c.since = append(c.since, hash)
}

func (c *checker) checkpoint(at int64, sc *scanner, note record.SignedCheckpoint) {
	c.Checkpoints++
	cp, err := note.Unverified()
	if err != nil {
		c.problem(at, sc, err.Error())
		return
	}
	if cp.Size <= c.last.Size || cp.Size > c.tree.Size() {
		c.problem(at, sc, fmt.Sprintf("the checkpoint of %d leaves does not stand after that of %d and after its leaves", cp.Size, c.last.Size))
		return
	}
	c.signature(at, sc, note)
	c.last, c.note = cp, note
	if cp.Size < c.base.Size() {
		return // signs leaves of a segment that is no longer here or was not readable
	}
	n := cp.Size - c.base.Size()
	for _, h := range c.since[:n] {
		c.base.AppendHash(h)
	}
	c.since = append([]record.Hash(nil), c.since[n:]...)
	if c.base.Root() != cp.Root {
		c.problem(at, sc, fmt.Sprintf("the checkpoint of %d leaves signs another tree", cp.Size))
	}
}

func (c *checker) signature(at int64, sc *scanner, note record.SignedCheckpoint) {
	cp, _ := note.Unverified()
	key := c.options.Key
	if c.options.KeyAt != nil && cp.Size > 0 {
		key = c.options.KeyAt(cp.Size - 1)
	}
	if key == nil {
		return
	}
	if c.options.Box == (record.BoxID{}) {
		c.options.Box, _ = record.ParseOrigin(cp.Origin)
	}
	if _, err := record.OpenCheckpoint(note, c.options.Box, key); err != nil {
		c.problem(at, sc, err.Error())
	}
}
