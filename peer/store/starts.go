package store

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"

	"github.com/vitalgate/vitalgate/peer/starts"
	"github.com/vitalgate/vitalgate/record"
)

// noted is what is remembered of the starts of a box between two runs: a short cut, which the log itself can replace.
type noted struct {
	Size   uint64         `json:"size"` // of the log that was looked through
	Starts []starts.Start `json:"starts"`
}

// noteEvery is after how many records the size is noted, so that no more need be looked through after a power cut.
const noteEvery = 1 << 16

// Starts are all starts of the box in its log here, in their order. It is the caller's to read.
func (b *Box) Starts() []starts.Start {
	b.startsMu.Lock()
	defer b.startsMu.Unlock()
	return slices.Clip(b.noted.Starts)
}

// root is that of the log up to a size.
func (b *Box) root(size uint64) (record.Hash, bool) {
	if size == 0 {
		return record.Tree{}.Root(), true
	}
	v, err := b.known(size - 1)
	if err != nil {
		return record.Hash{}, false // damaged, or never had here
	}
	return v.After().Root, true
}

// judge judges the starts among verified records that are about to continue the log, before any reader can meet these.
func (b *Box) judge(group []record.Verified) (fresh []starts.Start) {
	for _, v := range group {
		if v.Header().Kind != record.KindBoot {
			continue
		}
		s := starts.Judge(v, b.Registration(), b.Starts(), b.root)
		fresh = append(fresh, s)
		b.startsMu.Lock()
		b.noted.Starts = append(b.noted.Starts, s)
		b.startsMu.Unlock()
	}
	return fresh
}

// unjudge forgets the starts of records that could not be stored.
func (b *Box) unjudge() {
	b.startsMu.Lock()
	defer b.startsMu.Unlock()
	all, size := b.noted.Starts, b.tree.Size()
	for len(all) > 0 && all[len(all)-1].Index >= size {
		all = all[:len(all)-1]
	}
	b.noted.Starts = slices.Clone(all)
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
	due := len(fresh) > 0 || b.log.Signed() >= b.noted.Size+noteEvery
	b.startsMu.Unlock()
	if due {
		b.note()
	}
}

// note keeps what is known of the starts. It is no more than a short cut, so it is not synced, and that it cannot be written is nothing.
func (b *Box) note() {
	if b.startsFile == "" {
		return
	}
	b.startsMu.Lock()
	b.noted.Size = b.log.Signed()
	text, err := json.Marshal(b.noted)
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

// recall reads what was noted of the starts, and looks through the log for those that were not.
func (b *Box) recall() {
	text, err := os.ReadFile(b.startsFile)
	if err != nil || json.Unmarshal(text, &b.noted) != nil || b.noted.Size > b.log.Signed() {
		b.noted = noted{} // nothing was noted, it is damaged, or of another log
	}
	var at []uint64 // of boot leaves
	size := b.log.Signed()
	if err := b.log.Leaves(b.noted.Size, func(l record.Leaf) error {
		if h, _, err := record.ParseLeaf(l); err == nil && h.Kind == record.KindBoot && h.Index < size {
			at = append(at, h.Index)
		}
		return nil
	}); err != nil {
		b.count("starts-unread") // damaged: the starts behind it are met when it is whole again
	}
	for _, index := range at {
		v, err := b.Get(index)
		if err != nil {
			continue
		}
		b.judge([]record.Verified{v})
	}
	if len(at) > 0 {
		b.note()
	}
}
