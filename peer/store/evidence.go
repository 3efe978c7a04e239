package store

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/evidence"
)

// known is a record that is stored, or waits for the rest of its checkpoint; io.EOF where its checkpoint is not here.
func (b *Box) known(index uint64) (record.Verified, error) {
	if len(b.pending) > 0 {
		if first := b.pending[0].Header().Index; index >= first && index-first < uint64(len(b.pending)) {
			return b.pending[index-first], nil
		}
	}
	p, err := b.published(index)
	if err != nil {
		return record.Verified{}, err
	}
	return b.mine.Verify(p)
}

// whole is the log of a checkpoint as a prefix of itself.
func whole(sc record.SignedCheckpoint, c record.Checkpoint) record.Prefix {
	return record.Prefix{Size: c.Size, Root: c.Root, Checkpoint: sc}
}

// diverged keeps the evidence of two histories: what is stored here, and what was shown. Where the other one is shown by a
// boot leaf in which the box says that it found less than it had signed before, that says more.
func (b *Box) diverged(from string, mine, theirs record.Prefix, shown record.Verified) {
	if bytes.Equal(b.shown, theirs.Checkpoint) {
		return // the other records of that checkpoint show nothing more
	}
	b.shown = bytes.Clone(theirs.Checkpoint)
	key := b.Registration().KeyAt(mine.Size - 1)
	if sc, last := b.log.LastCheckpoint(); shown.Header().Kind == record.KindBoot && last.Size > 0 {
		if f, err := evidence.Confessed(b.ID, key, whole(sc, last), shown); err == nil {
			b.keep(from, mine.Size, f)
			return
		}
	}
	f, err := evidence.Diverged(b.ID, key, mine, theirs)
	b.keepOr(from, mine.Size, f, err)
}

// counters compares those of the chip in a checkpoint that continues the log with those of the last one: they never go back.
func (b *Box) counters(from string, c record.Checkpoint) {
	sc, last := b.log.LastCheckpoint()
	if last.Size == 0 || !evidence.Earlier(c, last) || b.pending[0].Header().Index != last.Size {
		return
	}
	key := b.Registration().KeyAt(c.Size - 1)
	if !key.Equal(b.Registration().KeyAt(last.Size - 1)) {
		return // another chip, which counts anew
	}
	f, err := evidence.SetBack(b.ID, key, whole(sc, last), b.pending[0].Before())
	b.keepOr(from, last.Size, f, err)
}

func (b *Box) keepOr(from string, at uint64, f *evidence.File, err error) {
	if err != nil { // what contradicts is set aside all the same
		b.count("evidence-failed")
		return
	}
	b.keep(from, at, f)
}

// keep keeps evidence, with a note of where it came from.
func (b *Box) keep(from string, at uint64, f *evidence.File) {
	b.count("evidence")
	found, err := f.Verify(nil)
	text, err2 := f.Bytes()
	if err == nil && err2 == nil {
		note := Note{b.ID.String(), string(f.Kind), found.Sentence, from, time.Now().UTC()}
		_, err = b.proofs.put(fmt.Sprintf("%012d.%s", at, f.Kind), note, map[string][]byte{".evidence": text})
	}
	if errors.Join(err, err2) != nil {
		b.count("evidence-failed")
	}
}

// Prefix is the stored log up to a size, as a later checkpoint of it shows it.
func (b *Box) Prefix(size uint64) (record.Prefix, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if size == 0 || size > b.log.Signed() {
		return record.Prefix{}, fmt.Errorf("cannot show the first %d records of box %s: %d are stored", size, b.ID, b.log.Signed())
	}
	if p, ok := b.recent.find(size); ok {
		return p, nil
	}
	v, err := b.known(size - 1)
	if err != nil {
		return record.Prefix{}, fmt.Errorf("cannot read the stored log of box %s: %w", b.ID, err)
	}
	return v.After(), nil
}

// Missing begins the evidence that the records from an index up to (not including) another are signed and not here; nil where one of
// them is here, or nothing that is here shows that they were signed.
func (b *Box) Missing(from, to uint64) (*evidence.File, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if held, err := b.holds(from, to); err != nil || held {
		return nil, err
	}
	sc, c := b.log.LastCheckpoint()
	if c.Size < to && b.beyond != nil {
		var err error
		sc = b.beyond
		if c, err = sc.Unverified(); err != nil { // it was verified when it came
			return nil, err
		}
	}
	if c.Size < to {
		return nil, nil
	}
	return evidence.Missing(b.ID, b.Registration().KeyAt(c.Size-1), whole(sc, c), from, to)
}

// Holds says whether any record from an index up to (not including) another is here.
func (b *Box) Holds(from, to uint64) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.holds(from, to)
}

func (b *Box) holds(from, to uint64) (bool, error) {
	if max(from, b.log.Signed()) < min(to, b.tree.Size()) { // it waits for its checkpoint
		return true, nil
	}
	return b.readable(from, to)
}
