package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"time"

	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/logfile"
)

// ReasonGap is that of a record whose checkpoint cannot be completed any more, because others that it covers are lost.
const ReasonGap record.Reason = "gap"

// DefaultPatience is how long missing records may be on their way, from the box or another peer, before the log goes on without them.
const DefaultPatience = 10 * time.Minute

// Gap is a run of records, From up to (not including) To, that are missing in the log of a box here: damaged on the disk, or left
// out because nobody had them. They are asked of the other peers until one has them.
type Gap struct {
	From, To uint64
	Why      string
}

// waiting is what the log waits for before it goes on.
type waiting struct {
	from, to uint64 // to is the first record that is known to lie behind
	since    time.Time
}

// Overdue says that the log has waited long enough for what is missing before the records that were offered: offered again, they are
// taken without it.
func (b *Box) Overdue() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.overdue()
}

func (b *Box) overdue() bool {
	return !b.waits.since.IsZero() && b.waits.from == b.tree.Size() && time.Since(b.waits.since) >= b.patience
}

// leap goes on with a verified record that lies behind a gap, if it is the first behind it and the gap is overdue. The tree at the
// record is taken from its proof: the siblings to the left of its path.
func (b *Box) leap(from string, v record.Verified) (bool, error) {
	p := v.Published()
	if b.waits.from != b.tree.Size() || b.waits.since.IsZero() {
		b.waits = waiting{b.tree.Size(), p.Index, time.Now()}
	}
	b.waits.to = min(b.waits.to, p.Index)
	if p.Index != b.waits.to || !b.overdue() {
		return false, nil
	}
	tree, ok := treeBefore(p, v.Checkpoint().Size)
	if !ok || !begins(tree, b.tree) {
		return false, nil
	}
	for _, w := range b.pending {
		b.Refuse(w, ReasonGap, "others that its checkpoint covers are lost, so it cannot be proven from this log; it is kept here")
	}
	b.pending, b.bytes = nil, 0
	if err := b.log.Sync(); err != nil {
		return false, err
	}
	if err := b.log.Skip(tree); err != nil {
		return false, err
	}
	b.tree, b.waits = tree, waiting{}
	b.count("leapt")
	b.gap(Gap{b.log.Signed(), p.Index, "nobody had them in time"})
	return true, nil
}

// gap notes what is missing.
func (b *Box) gap(g Gap) {
	b.gapMu.Lock()
	defer b.gapMu.Unlock()
	for i, have := range b.gaps {
		if have.From == g.From {
			b.gaps[i] = g
			return
		}
	}
	b.gaps = append(b.gaps, g)
}

// Unread notes what a reader has met that cannot be read, so that it is asked of the other peers now and not when the log is next
// scrubbed.
func (b *Box) Unread(m *logfile.Missing) {
	known := func(g Gap) bool { return g.From <= m.From && m.To <= g.To }
	if !slices.ContainsFunc(b.Gaps(), known) {
		b.gap(Gap{m.From, m.To, m.Cause.Error()})
	}
}

// here takes out of what is missing the records from one index up to (not including) another, because they are here.
func (b *Box) here(from, to uint64) {
	if from >= to {
		return
	}
	b.gapMu.Lock()
	defer b.gapMu.Unlock()
	var rest []Gap
	for _, g := range b.gaps {
		before, behind := g, g
		before.To, behind.From = min(g.To, from), max(g.From, to)
		for _, left := range []Gap{before, behind} {
			if left.From < left.To {
				rest = append(rest, left)
			}
		}
	}
	b.gaps = rest
}

// Gaps is what is missing here, as far as it has been seen.
func (b *Box) Gaps() []Gap {
	b.gapMu.Lock()
	defer b.gapMu.Unlock()
	return append([]Gap(nil), b.gaps...)
}

// Scrub reads the whole log, verifies each record again, and finds what is missing.
func (b *Box) Scrub(ctx context.Context) error {
	before := b.Gaps()
	r := b.log.Reader(b.log.First())
	defer r.Close()
	verifier := b.Registration().Verifier()
	var found []Gap
	for ctx.Err() == nil {
		group, err := r.Next()
		var m *logfile.Missing
		switch {
		case err == io.EOF:
			b.scrubbed(before, found)
			return nil
		case errors.As(err, &m):
			found = append(found, Gap{m.From, m.To, m.Cause.Error()})
			continue
		case err != nil:
			return fmt.Errorf("cannot scrub the log of box %s: %w", b.ID, err)
		}
		for _, p := range group {
			if _, err := verifier.Verify(p); err != nil {
				return fmt.Errorf("cannot scrub the log of box %s: record %d does not verify: %w", b.ID, p.Index, err)
			}
		}
	}
	return ctx.Err()
}

// scrubbed puts what Scrub has found into the place of what was known before it began. What was noted meanwhile is newer than both.
func (b *Box) scrubbed(before, found []Gap) {
	b.gapMu.Lock()
	defer b.gapMu.Unlock()
	fresh := slices.DeleteFunc(b.gaps, func(g Gap) bool { return slices.Contains(before, g) })
	found = slices.DeleteFunc(found, func(f Gap) bool {
		return slices.ContainsFunc(fresh, func(g Gap) bool { return g.From < f.To && f.From < g.To })
	})
	b.gaps = append(found, fresh...)
}

// fetchBytes bounds what is held of the records of one Mend, where they may come in parts.
const fetchBytes = 8 << 20

// Mend fills a gap with what ask gives: published records from an index on, so many at most, in order, as long as it returns true.
// They are believed no more than others: each is verified, and all must fit what is here. A damaged part of the log is replaced as a
// whole by what can be had, unless that were less than can still be read.
func (b *Box) Mend(g Gap, ask func(from, most uint64, take func(data []byte) bool) error) error {
	from, to, damaged, err := b.log.Wanted(&logfile.Missing{From: g.From, To: g.To})
	if err != nil {
		return err
	}
	if !damaged {
		b.here(g.From, from) // it was mended from its other end, or has come by itself
	}
	if from == to {
		return nil
	}
	verifier := b.Registration().Verifier()
	var tree, at record.Tree
	var records []record.Published
	size := 0
	full := func() bool { return from+uint64(len(records)) == to || !damaged && size > fetchBytes }
	var refusal error
	for !full() && refusal == nil {
		had := len(records)
		next := from + uint64(had)
		err := ask(next, to-next, func(data []byte) bool {
			p, err := record.ParsePublished(data)
			var v record.Verified
			if err == nil {
				v, err = verifier.Verify(p)
			}
			if err != nil || p.Index != from+uint64(len(records)) {
				refusal = errors.Join(err, fmt.Errorf("cannot mend the log of box %s at record %d", b.ID, from+uint64(len(records))))
				return false
			}
			before, ok := treeBefore(p, v.Checkpoint().Size)
			if !ok || len(records) > 0 && before.Root() != at.Root() {
				refusal = fmt.Errorf("cannot mend the log of box %s: record %d is of another history", b.ID, p.Index)
				return false
			}
			if len(records) == 0 {
				tree, at = before, before
			}
			at.Append(p.Leaf)
			records = append(records, p)
			size += len(data)
			return !full()
		})
		if err != nil || len(records) == had {
			refusal = errors.Join(refusal, err, errors.New("the peer has not all of it"))
		}
	}
	if len(records) == 0 {
		return refusal
	}
	end := tree.Size() + uint64(len(records))
	if damaged && !full() {
		if read, err := b.readable(end, to); err != nil || read {
			return errors.Join(refusal, err)
		}
	}
	var boots []uint64
	for _, p := range records {
		if h, _, err := record.ParseLeaf(p.Leaf); err == nil && h.Kind == record.KindBoot {
			boots = append(boots, h.Index)
		}
	}
	if b.fill(boots); len(boots) > 0 {
		b.note() // lest a power cut keeps the leaves, and the note that says they are judged
	}
	if err := b.log.Fill(tree, records); err != nil {
		return err
	}
	b.count("mended")
	b.here(tree.Size(), end)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fill(boots)
	b.judgeFilled()
	return nil
}

// readable says whether any record from an index up to (not including) another can be read here.
func (b *Box) readable(from, to uint64) (bool, error) {
	r := b.log.Reader(from)
	defer r.Close()
	for {
		group, err := r.Next()
		switch {
		case err == io.EOF:
			return false, nil
		case errors.As(err, new(*logfile.Missing)):
		case err != nil:
			return false, err
		default:
			return group[0].Index < to, nil
		}
	}
}

// treeBefore is the tree before a record of a log of the given size, from its proof: the siblings to the left of its path are the
// roots of the complete subtrees before it (RFC 9162 §2.1.3), from the smallest to the largest.
func treeBefore(p record.Published, size uint64) (record.Tree, bool) {
	var left []record.Hash
	path := p.Path
	for at, last := p.Index, size-1; last > 0; at, last = at>>1, last>>1 {
		if at&1 == 0 && at >= last {
			continue // no sibling: the node goes up alone
		}
		if len(path) == 0 {
			return record.Tree{}, false
		}
		if at&1 == 1 {
			left = append(left, path[0])
		}
		path = path[1:]
	}
	if len(path) > 0 || len(left) != bits.OnesCount64(p.Index) {
		return record.Tree{}, false
	}
	b := binary.BigEndian.AppendUint64(nil, p.Index)
	for i := len(left) - 1; i >= 0; i-- {
		b = append(b, left[i][:]...)
	}
	t, _, err := record.ParseTree(b)
	return t, err == nil
}

// begins says whether a later tree can begin with an earlier one, as far as both show: subtrees that are whole in the one and stand
// in the other must be the same. What was between them nobody knows, so this is no proof.
func begins(later, earlier record.Tree) bool {
	roots := func(t record.Tree) []byte { b, _ := t.AppendBinary(nil); return b[8:] }
	a, b := roots(later), roots(earlier)
	for bit := 63; bit >= 0; bit-- {
		x, y := later.Size()>>bit&1, earlier.Size()>>bit&1
		if x != y {
			return true
		}
		if x == 1 {
			if string(a[:32]) != string(b[:32]) {
				return false
			}
			a, b = a[32:], b[32:]
		}
	}
	return true
}
