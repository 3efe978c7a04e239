package logfile

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/vitalgate/vitalgate/record"
)

// missingBehind is what is wrong with a segment that is whole, where the next one begins later than it ends.
const missingBehind = "leaves behind it are missing"

// Wanted says which leaves, from one index up to (not including) another, Fill needs to mend m. A damaged segment is replaced as a
// whole, so it needs them all at once; what is missing between two segments may come in parts.
func (l *Log) Wanted(m *Missing) (from, to uint64, atOnce bool, err error) {
	v := l.view.Load()
	i := len(v.segments) - 1
	for i > 0 && v.segments[i].first > m.From {
		i--
	}
	s := v.segments[i]
	if i+1 == len(v.segments) { // it is written to; another one must follow it first
		if err := l.Rotate(); err != nil {
			return 0, 0, false, err
		}
		if v = l.view.Load(); i+1 >= len(v.segments) {
			return 0, 0, false, errors.New("cannot mend the last segment: it holds no leaf")
		}
	}
	s.size, from, to = v.size(i), s.first, v.segments[i+1].first
	n := uint64(0)
	switch err := l.leaves(s, 0, to, func(record.Leaf) error { n++; return nil }); {
	case err == nil:
		return from + n, to, false, nil
	case errors.Is(err, ErrDamaged):
		return from, to, true, nil
	default:
		return 0, 0, false, fmt.Errorf("cannot mend log %s: %w", l.dir, err)
	}
}

// Fill puts records in the place of what Wanted names, in a segment of their own. at is the tree before the first of them. That they
// are the box's own is the caller's to verify; that they fit what follows them here is checked.
func (l *Log) Fill(at record.Tree, records []record.Published) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	next := slices.IndexFunc(l.segments, func(s segment) bool { return s.first > at.Size() })
	if next < 1 || len(records) == 0 {
		return fmt.Errorf("cannot fill log %s from leaf %d: nothing is missing there", l.dir, at.Size())
	}
	first, end := at.Size(), l.segments[next].first
	after, err := l.headerOf(l.segments[next])
	if err != nil {
		return fmt.Errorf("cannot fill log %s: %w", l.dir, err)
	}
	note, err := l.noteBefore(next, first)
	if err != nil {
		return fmt.Errorf("cannot fill log %s: %w", l.dir, err)
	}
	b := header{tree: at, note: note}.append(nil)
	b = appendMark(b, int64(len(b)), at)
	for _, p := range records {
		if p.Index != at.Size() || p.Index >= end {
			return fmt.Errorf("cannot fill log %s: record %d does not belong at %d, before %d", l.dir, p.Index, at.Size(), end)
		}
		b = appendEntry(b, typeLeaf, p.Leaf)
		at.Append(p.Leaf)
		// The checkpoint at the very end stands there, or in the segment that follows.
		if c, err := p.Checkpoint.Unverified(); err == nil && c.Size == at.Size() && (c.Size < end || c.Size == after.last.Size) {
			b = appendEntry(b, typeCheckpoint, p.Checkpoint)
		}
	}
	if at.Size() == end && after.tree.Size() == end && after.tree.Root() != at.Root() {
		return fmt.Errorf("cannot fill log %s: the records are of another log than what follows them here", l.dir)
	}
	b = appendMark(b, int64(len(b)), at)
	s := segment{first, int64(len(b))}
	if err := l.put(s, b); err != nil {
		return fmt.Errorf("cannot fill log %s: %w", l.dir, err)
	}
	segments := slices.Clone(l.segments)
	if segments[next-1].first == first { // it had the same name
		segments[next-1] = s
	} else {
		segments = slices.Insert(segments, next, s)
	}
	l.segments = segments
	l.publish()
	return nil
}

// put makes a segment that is whole and safe, or none.
func (l *Log) put(s segment, b []byte) error {
	tmp := filepath.Join(l.dir, temporary)
	f, err := l.sys.Create(tmp)
	if err != nil {
		return err
	}
	err = l.sys.Pwrite(f, b, 0)
	if err == nil {
		err = l.sys.Fdatasync(f)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = l.sys.Rename(tmp, s.name(l.dir))
	}
	if err != nil {
		l.sys.Unlink(tmp)
		return err
	}
	return l.sys.SyncDir(l.dir)
}

// headerOf reads the header of a segment; none where it is damaged, for then it is mended next, and compared then.
func (l *Log) headerOf(s segment) (h header, err error) {
	sc, h, err := openScanner(l.dir, s, 64<<10)
	if sc != nil {
		sc.close()
	}
	if errors.Is(err, ErrDamaged) {
		return header{}, nil
	}
	return h, err
}

// noteBefore finds the last checkpoint that stands before a segment, which is to begin with leaf first.
func (l *Log) noteBefore(next int, first uint64) (note record.SignedCheckpoint, err error) {
	for i := next - 1; i >= 0; i-- {
		sc, h, err := openScanner(l.dir, l.segments[i], readBuffer)
		if sc == nil {
			return nil, err
		}
		if note = h.note; l.segments[i].first < first {
			for err == nil {
				var kind byte
				var payload []byte
				if err = sc.skipLeaves(); err == nil {
					kind, payload, err = sc.next()
				}
				if err == nil && kind == typeCheckpoint {
					note = payload
				}
			}
		}
		sc.close()
		if err == nil || err == io.EOF {
			return note, nil
		}
		if !errors.Is(err, ErrDamaged) {
			return nil, err
		}
	}
	return note, nil
}
