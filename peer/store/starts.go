package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vitalgate/vitalgate/peer/starts"
	"github.com/vitalgate/vitalgate/record"
)

// noted is what is remembered of the starts of a box between two runs: a short cut, which the log itself can replace.
type noted struct {
	Judged  int            `json:"judged"` // by which starts.Version
	Size    uint64         `json:"size"`   // of the log that was looked through
	Thinned bool           `json:"thinned,omitempty"`
	Starts  []starts.Start `json:"starts"`
}

func (n *noted) add(s starts.Start) {
	all, thinned := starts.Thin(append(n.Starts, s))
	n.Starts, n.Thinned = all, n.Thinned || thinned
}

// before is where the starts from an index on begin.
func (n *noted) before(index uint64) int {
	at, _ := slices.BinarySearchFunc(n.Starts, index, func(s starts.Start, i uint64) int { return cmp.Compare(s.Index, i) })
	return at
}

const (
	noteEvery = 1 << 12     // records: no more need be looked through after a power cut
	noteAfter = time.Second // at the earliest, however many starts come
	atOnce    = 64          // starts that are judged again before the box is used
)

// Starts are the starts of the box in its log here, in their order, as far as they are known: see Looking. It is the caller's to read.
func (b *Box) Starts() []starts.Start {
	b.startsMu.Lock()
	defer b.startsMu.Unlock()
	return slices.Clip(b.noted.Starts)
}

// Looking says whether the log is still looked through for starts that are not known, and how far. What comes in meanwhile is judged
// by those that are.
func (b *Box) Looking() (size uint64, yes bool) {
	b.startsMu.Lock()
	defer b.startsMu.Unlock()
	return b.seen.Size, b.looking
}

// Looked waits until the starts of the box are known.
func (b *Box) Looked(ctx context.Context) error {
	b.startsMu.Lock()
	looked := b.looked
	b.startsMu.Unlock()
	select {
	case <-looked:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// before is a record before one that is about to continue the log. What is not safe yet is made so: else a start would be judged by
// what happened to come with it.
func (b *Box) before(index uint64) (record.Verified, bool) {
	v, err := b.known(index)
	if err != nil && index >= b.log.Signed() && b.log.Sync() == nil {
		v, err = b.known(index)
	}
	return v, err == nil // it may be damaged, or never have been here
}

// stored is a record that is safe.
func (b *Box) stored(index uint64) (record.Verified, bool) {
	v, err := b.Get(index)
	return v, err == nil
}

// judge judges the starts among verified records that are about to continue the log, before any reader can meet these.
func (b *Box) judge(group []record.Verified) (fresh []starts.Start) {
	for _, v := range group {
		if v.Header().Kind != record.KindBoot {
			continue
		}
		s := starts.Judge(v, b.Registration(), b.Starts(), b.before)
		fresh = append(fresh, s)
		b.startsMu.Lock()
		b.noted.add(s)
		b.startsMu.Unlock()
	}
	return fresh
}

// judgeAgain judges stored starts behind those in n. One that cannot be read stays what it was.
func (b *Box) judgeAgain(n *noted, again []starts.Start) {
	for _, s := range again {
		if v, ok := b.stored(s.Index); ok {
			n.add(starts.Judge(v, b.Registration(), n.Starts, b.stored))
		} else if s.Verdict != "" {
			n.add(s)
		}
	}
}

// unjudge forgets the starts of records that could not be stored.
func (b *Box) unjudge() {
	b.startsMu.Lock()
	defer b.startsMu.Unlock()
	b.noted.Starts = slices.Clone(b.noted.Starts[:b.noted.before(b.tree.Size())])
}

// began notes starts that are stored now. Those that are forged are set aside, too.
func (b *Box) began(from string, fresh []starts.Start) {
	for _, s := range fresh {
		if !s.Verdict.Forged() {
			continue
		}
		if v, err := b.known(s.Index); err == nil {
			if data, err := v.Published().AppendBinary(nil); err == nil {
				b.refuse(from, indexed(Message{Data: data}, s.Index), record.Reason(s.Verdict),
					"the TPM of the box has not said this of its start ("+s.Why+"); the records of the start are kept in the log and shown to nobody")
			}
		}
	}
	b.startsMu.Lock()
	due := (len(fresh) > 0 || b.log.Signed() >= b.noted.Size+noteEvery) && time.Since(b.notedAt) >= noteAfter
	b.startsMu.Unlock()
	if due {
		b.note()
	}
}

// note keeps what is known of the starts, up to the first that is not. It is no more than a short cut, so it is not synced, and that it
// cannot be written is nothing.
func (b *Box) note() {
	if b.startsFile == "" || b.reading {
		return
	}
	b.startsMu.Lock()
	b.notedAt = time.Now()
	if !b.looking {
		b.noted.Size = b.log.Signed()
		b.seen = b.noted
	}
	n := b.seen
	if len(b.filled) > 0 {
		first := slices.Min(b.filled)
		n.Size, n.Starts = min(n.Size, first), n.Starts[:n.before(first)]
	}
	text, err := json.Marshal(n)
	b.startsMu.Unlock()
	if err == nil {
		err = os.MkdirAll(filepath.Dir(b.startsFile), 0o700)
	}
	if err == nil {
		err = os.WriteFile(b.startsFile+".new", text, 0o600)
	}
	if err == nil {
		err = os.Rename(b.startsFile+".new", b.startsFile)
	}
	if err != nil {
		b.count("starts-not-noted")
	}
}

// recall reads what was noted of the starts, and looks through the log for those that were not: beside all else, where that takes long.
func (b *Box) recall() {
	var n noted
	text, err := os.ReadFile(b.startsFile)
	if err != nil || json.Unmarshal(text, &n) != nil || n.Size > b.log.Signed() {
		n = noted{} // nothing was noted, it is damaged, or of another log
	}
	b.noted = n
	short := b.log.Signed()-n.Size <= noteEvery && (n.Judged == starts.Version || len(n.Starts) <= atOnce && !n.Thinned)
	if look := b.look(n); short {
		look()
	} else {
		go look()
	}
}

// look begins to look for the starts that n lacks; the rest, which takes a while, is for the caller to run.
func (b *Box) look(n noted) (rest func()) {
	looked := make(chan struct{})
	b.startsMu.Lock()
	b.seen, b.looking, b.looked = n, true, looked
	b.startsMu.Unlock()
	return func() {
		defer close(looked)
		again := n.Starts
		switch {
		case n.Judged == starts.Version:
			n.Starts, again = slices.Clone(n.Starts), nil // those in use go on by themselves
		case n.Thinned: // those that were dropped may be needed now
			n, again = noted{}, nil
		default:
			n.Starts = nil
		}
		n.Judged = starts.Version
		for _, s := range again {
			if b.closing.Err() != nil {
				return
			}
			b.judgeAgain(&n, []starts.Start{s})
		}
		for range 2 { // the second finds little, and the last next to nothing
			b.scan(&n)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.scan(&n)
		if b.closing.Err() != nil {
			return
		}
		b.startsMu.Lock()
		b.noted, b.looking = n, false
		b.startsMu.Unlock()
		b.judgeFilled()
		b.note()
	}
}

// scan takes in the starts behind what was looked through.
func (b *Box) scan(n *noted) {
	size, all := b.log.Signed(), errors.New("all")
	err := b.log.Leaves(n.Size, func(l record.Leaf) error {
		h, _, err := record.ParseLeaf(l)
		switch {
		case err != nil:
			return nil
		case h.Index >= size:
			return all
		case h.Kind == record.KindBoot:
			b.judgeAgain(n, []starts.Start{{Index: h.Index}})
		}
		n.Size = h.Index + 1
		if n.Size%noteEvery == 0 {
			b.startsMu.Lock()
			b.seen = *n
			due := time.Since(b.notedAt) >= noteAfter
			b.startsMu.Unlock()
			if due {
				b.note()
			}
		}
		return b.closing.Err()
	})
	if err != nil && err != all && b.closing.Err() == nil {
		b.count("starts-unread") // damaged: what was there is judged when it is mended
	}
}

// boots are the boot leaves from an index up to (not including) another that are safe on the disk, signed or not.
func (b *Box) boots(from, to uint64) (at []uint64) {
	b.log.Leaves(from, func(l record.Leaf) error {
		if h, _, err := record.ParseLeaf(l); err == nil && h.Kind == record.KindBoot && h.Index < to {
			at = append(at, h.Index)
		}
		return nil
	})
	return at
}

// fill says that boot leaves come, or have come, to where the log had none. Until they are judged nothing is noted of what is behind.
func (b *Box) fill(boots []uint64) {
	b.startsMu.Lock()
	defer b.startsMu.Unlock()
	b.filled = append(b.filled, boots...)
}

// judgeFilled judges the starts that were filled in and all behind them, in their order: each is judged by those before it.
func (b *Box) judgeFilled() {
	b.startsMu.Lock()
	n, looking := b.noted, b.looking
	fresh := b.filled
	if len(fresh) == 0 || looking {
		b.startsMu.Unlock()
		return
	}
	b.filled = nil
	b.startsMu.Unlock()
	if n.Thinned { // those that were dropped may be needed now
		go b.look(noted{})()
		return
	}
	first := n.before(slices.Min(fresh))
	again := slices.Clone(n.Starts[first:])
	for _, index := range fresh {
		again = append(again, starts.Start{Index: index})
	}
	slices.SortStableFunc(again, func(x, y starts.Start) int { return cmp.Compare(x.Index, y.Index) })
	again = slices.CompactFunc(again, func(x, y starts.Start) bool { return x.Index == y.Index })
	n.Starts = slices.Clone(n.Starts[:first])
	b.judgeAgain(&n, again)
	b.startsMu.Lock()
	b.noted = n
	b.startsMu.Unlock()
	b.note()
}
