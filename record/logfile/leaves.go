package logfile

import (
	"fmt"
	"io"

	"github.com/vitalgate/vitalgate/record"
)

// Leaves calls each with the leaves from index from on that are safe on the disk, signed or not, in order. from below First is
// First. It ends with the first error of each.
func (l *Log) Leaves(from uint64, each func(record.Leaf) error) error {
	v := l.view.Load()
	for i, s := range v.segments {
		if i+1 < len(v.segments) && v.segments[i+1].first <= from {
			continue
		}
		s.size = v.size(i)
		if err := l.leaves(s, from, each); err != nil {
			return fmt.Errorf("cannot read the leaves of log %s: %w", l.dir, err)
		}
	}
	return nil
}

func (l *Log) leaves(s segment, from uint64, each func(record.Leaf) error) error {
	sc, _, err := openScanner(l.dir, s, readBuffer)
	if err != nil {
		return err
	}
	defer sc.close()
	for index := s.first; ; {
		kind, payload, err := sc.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if kind != typeLeaf {
			continue
		}
		if index >= from {
			if err := each(payload); err != nil {
				return err
			}
		}
		index++
	}
}
