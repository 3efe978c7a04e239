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
	Box record.BoxID     // whose log it is; zero: that of the first leaf
	Key *ecdsa.PublicKey // the data key of the box
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
}

// Problem is one thing that is wrong, at a byte of a file.
type Problem struct {
	File   string
	Offset int64
	What   string
}

func (p Problem) String() string { return fmt.Sprintf("%s: byte %d: %s", p.File, p.Offset, p.What) }

// Clean reports whether everything is as it was written.
func (r Report) Clean() bool { return len(r.Problems) == 0 && (r.Torn == 0 || r.Live) }

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
	var d *damage
	if errors.As(err, &d) {
		c.Problems = append(c.Problems, Problem{d.file, d.offset, d.what})
		c.broken = true
		return nil
	}
	if err != nil {
		return err
	}
	defer sc.close()
	if c.begun && !c.broken {
		if h.tree.Size() != c.tree.Size() || h.tree.Root() != c.tree.Root() {
			c.problem(0, sc, "its header does not continue the log before it")
			c.broken = true
		} else if string(h.note) != string(c.note) {
			c.problem(0, sc, "its header does not hold the last checkpoint before it")
		}
	}
	if !c.begun || c.broken {
		c.tree, c.base, c.since = h.tree, h.tree, nil
		c.note, c.last = h.note, h.last
	}
	if len(h.note) > 0 && c.options.Key != nil {
		c.signature(0, sc, h.note)
	}
	c.begun, c.broken = true, false
	for {
		at := sc.at
		kind, payload, err := sc.next()
		switch {
		case err == io.EOF:
			return nil
		case errors.As(err, &d):
			c.broken = true
			if safe, fault := sc.vouched(d.offset); fault != nil {
				return fault
			} else if isLast && !safe {
				c.Torn = s.size - d.offset
			} else {
				c.problem(d.offset, sc, d.what)
			}
			return nil
		case err != nil:
			return err
		case kind == typeLeaf:
			c.leaf(at, sc, payload)
		case kind == typeCheckpoint:
			c.checkpoint(at, sc, payload)
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
	if c.options.Key == nil {
		return
	}
	if c.options.Box == (record.BoxID{}) {
		cp, _ := note.Unverified()
		c.options.Box, _ = record.ParseOrigin(cp.Origin)
	}
	if _, err := record.OpenCheckpoint(note, c.options.Box, c.options.Key); err != nil {
		c.problem(at, sc, err.Error())
	}
}
