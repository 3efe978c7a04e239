package logfile

import (
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/vitalgate/vitalgate/record"
)

// Leaves calls each with the leaves from index from on that are safe on the disk, signed or not, in order. from below First is
// First. It ends with the first error of each. What is damaged is left out; then the error, after all others, says what: a *Missing
// where it was leaves.
func (l *Log) Leaves(from uint64, each func(record.Leaf) error) error {
	v := l.view.Load()
	var missing error
	for i, s := range v.segments {
		if i+1 < len(v.segments) && v.segments[i+1].first <= from {
			continue
		}
		s.size = v.size(i)
		end := uint64(math.MaxUint64)
		if i+1 < len(v.segments) {
			end = v.segments[i+1].first
		}
		err := l.leaves(s, from, end, each)
		if errors.Is(err, ErrDamaged) {
			missing = err
		} else if err != nil {
			return fmt.Errorf("cannot read the leaves of log %s: %w", l.dir, err)
		}
	}
	if missing != nil {
		return fmt.Errorf("cannot read the leaves of log %s: %w", l.dir, missing)
	}
	return nil
}

// leaves reads one segment, which ends before index end.
func (l *Log) leaves(s segment, from, end uint64, each func(record.Leaf) error) (missing error) {
	sc, _, err := openScanner(l.dir, s, readBuffer)
	if sc == nil {
		return err
	}
	defer sc.close()
	at := int64(0)
	for index := s.first; ; {
		var kind byte
		var payload []byte
		if err == nil {
			at = sc.at
			kind, payload, err = sc.next()
		}
		switch {
		case err == io.EOF:
			return missing
		case errors.Is(err, ErrDamaged):
			m, ok, fault := sc.nextMark(at + 1)
			if fault != nil {
				return fault
			}
			if !ok || m.bare || m.tree.Size() < index {
				return &Missing{index, max(end, index+1), err}
			}
			if missing = err; m.tree.Size() > index {
				missing = &Missing{index, m.tree.Size(), err}
			}
			index, err = m.tree.Size(), nil
			sc.goTo(m)
		case err != nil:
			return err
		case kind == typeLeaf:
			if index >= from {
				if err := each(payload); err != nil {
					return err
				}
			}
			index++
		}
	}
}
