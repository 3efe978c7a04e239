package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vitalgate/vitalgate/firmware/spool"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/logfile"
)

// look is the box's log as one cut has left it, once it was opened.
type look struct {
	period, position    int
	live                bool // the box went on from it: its last operation was not answered
	first, next, signed uint64
	leaves              []uint64 // a digest of each from first on
}

// look mounts an image, opens the log on it with the box's own code and notes what is there. The image stays as it is.
func (w *world) look(image []byte, position int, live bool) (err error) {
	file, dir := filepath.Join(w.dir, "look.img"), filepath.Join(w.dir, "look")
	defer func() {
		if err != nil {
			err = fmt.Errorf("power cut %d, at operation %d: %w", w.period, position, errors.Join(err, w.keep(image)))
		}
	}()
	if err := errors.Join(os.WriteFile(file, image, 0o600), os.MkdirAll(dir, 0o700)); err != nil {
		return err
	}
	if err := mount(file, dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmount(dir)) }()
	s, err := spool.Open(filepath.Join(dir, "log"), spool.Options{Quota: 4 << 20, SegmentBytes: 128 << 10, Begun: filepath.Join(dir, "log-begun")})
	if err != nil {
		return err
	}
	if why := s.RolledBack(); why != "" {
		return errors.Join(fmt.Errorf("the box would take its log for set back: %s", why), s.Close())
	}
	l := look{period: w.period, position: position, live: live, first: s.First(), next: s.Next(), signed: s.Signed()}
	if c, ok := s.Cursor("ward1"); ok && c.Next > l.signed {
		return errors.Join(fmt.Errorf("the place in the stream is %d, and %d records are signed", c.Next, l.signed), s.Close())
	}
	r := s.Reader(l.first)
	for r.From() < l.signed {
		all, err := r.Next()
		if err != nil {
			return errors.Join(fmt.Errorf("cannot read record %d, which is signed: %w", r.From(), err), r.Close(), s.Close())
		}
		for _, p := range all {
			l.leaves = append(l.leaves, digest(p.Leaf))
		}
	}
	unsigned := l.signed
	err = s.Latest(l.next-l.first, func(leaf record.Leaf) {
		if h, _, err := record.ParseLeaf(leaf); err == nil && h.Index == unsigned {
			l.leaves = append(l.leaves, digest(leaf))
			unsigned++
		}
	})
	if err == nil && unsigned != l.next {
		err = fmt.Errorf("the log ends at %d, and its leaves at %d", l.next, unsigned)
	}
	ended, end := context.WithCancel(context.Background())
	end()
	if err := errors.Join(err, r.Close(), s.Run(ended), s.Close()); err != nil {
		return err
	}
	found, err := logfile.Check(filepath.Join(dir, "log"), logfile.CheckOptions{})
	if err != nil || !found.Clean() {
		return fmt.Errorf("the log is not clean once it was opened: %w: %v, missing %v", err, found.Problems, found.Missing)
	}
	w.looks = append(w.looks, l)
	return nil
}

func digest(leaf record.Leaf) uint64 {
	sum := sha256.Sum256(leaf)
	return binary.BigEndian.Uint64(sum[:])
}

// judge holds each look against what monitors and peers had from the box by then: what was acknowledged is there, byte for byte as it
// stands at the peers in the end, and what was verified there is signed here. index is where a message stands.
func (w *world) judge(index map[int]uint64) (wrong []string, err error) {
	published := map[uint64]uint64{}
	log, err := logfile.Open(filepath.Join(w.h.Data("hub"), "store", "f1", "gw1"), logfile.Options{})
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if err := log.Leaves(log.First(), func(l record.Leaf) error {
		h, _, err := record.ParseLeaf(l)
		published[h.Index] = digest(l)
		return err
	}); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.looks {
		// An operation that is under way was not waited for; at the end of a period nothing more was.
		had := func(e event) bool {
			return e.period < l.period || e.period == l.period && (e.position < l.position || l.live)
		}
		need := map[uint64]bool{} // what stands below first was acknowledged, and its place was needed
		for _, e := range w.answer {
			if at, ok := index[int(e.what)]; ok && at >= l.first && had(e) {
				need[at] = true
			}
		}
		for _, e := range w.seen {
			if e.what >= l.first && had(e) {
				need[e.what] = true
				if e.what >= l.signed {
					wrong = append(wrong, fmt.Sprintf("period %d, operation %d: record %d was published, and only %d are signed", l.period, l.position, e.what, l.signed))
				}
			}
		}
		for at := range need {
			switch {
			case at >= l.next:
				wrong = append(wrong, fmt.Sprintf("period %d, operation %d: record %d was acknowledged, and the log ends at %d", l.period, l.position, at, l.next))
			case l.leaves[at-l.first] != published[at]:
				wrong = append(wrong, fmt.Sprintf("period %d, operation %d: record %d is not the one that the peers have", l.period, l.position, at))
			}
		}
	}
	return wrong, nil
}
