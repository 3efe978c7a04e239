package record

import (
	"crypto/ecdsa"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"
)

// Prefix says that the log of a checkpoint begins with a log of Size leaves whose root is Root, and proves it. Two prefixes
// of one size under one key with different roots are two histories, which cannot both be true.
type Prefix struct {
	Size       uint64
	Root       Hash
	Proof      []Hash // consistency proof from Size to the size of the checkpoint (RFC 9162 §2.1.4.1); none where they are equal
	Checkpoint SignedCheckpoint
}

// Open checks that the key of the box signed the checkpoint and that its log begins so. The error is a *Refusal.
func (p Prefix) Open(box BoxID, pub *ecdsa.PublicKey) (Checkpoint, error) {
	c, err := OpenCheckpoint(p.Checkpoint, box, pub)
	if err != nil {
		return Checkpoint{}, err
	}
	if p.Size == 0 || p.Size > c.Size {
		return Checkpoint{}, refuse(ReasonSize, "the prefix is empty or longer than the log of the checkpoint")
	}
	if p.Size == c.Size && (len(p.Proof) != 0 || p.Root != c.Root) || len(p.Proof) > 2*maxLevels ||
		tlog.CheckTree(p.Proof, int64(c.Size), c.Root, int64(p.Size), p.Root) != nil {
		return Checkpoint{}, refuse(ReasonProof, "the proof does not lead from the prefix to the signed root")
	}
	return c, nil
}

// Before is the log up to the record, without it, as the record's own proof shows it: the siblings to the left of its path
// are the complete subtrees before it (RFC 9162 §2.1.3). It is the zero Prefix for the first record.
func (v Verified) Before() Prefix {
	index := v.published.Index
	if index == 0 {
		return Prefix{}
	}
	level := bits.TrailingZeros64(index)
	node, path := v.hash, v.siblings()
	for path[0].level < level {
		node, path = tlog.NodeHash(node, path[0].hash), path[1:]
	}
	return v.prefix(index, path[0].hash, append([]sibling{{hash: node}}, path[1:]...))
}

// After is the log up to the record and with it.
func (v Verified) After() Prefix {
	node, path := v.hash, v.siblings()
	for range bits.TrailingZeros64(^v.published.Index) {
		node, path = tlog.NodeHash(path[0].hash, node), path[1:]
	}
	return v.prefix(v.published.Index+1, node, path)
}

// prefix is the log of size leaves whose last complete subtree is last; path leads from there to the signed root.
func (v Verified) prefix(size uint64, last Hash, path []sibling) Prefix {
	p := Prefix{Size: size, Root: last, Checkpoint: v.published.Checkpoint}
	if size&(size-1) != 0 { // else last is all of it, which the verifier knows
		p.Proof = append(p.Proof, last)
	}
	for _, s := range path {
		p.Proof = append(p.Proof, s.hash)
		if s.left {
			p.Root = tlog.NodeHash(s.hash, p.Root)
		}
	}
	if size == v.checkpoint.Size {
		p.Proof = nil
	}
	return p
}

// sibling is one hash of an inclusion proof, with its place.
type sibling struct {
	hash  Hash
	left  bool
	level int
}

func (v Verified) siblings() (all []sibling) {
	path := v.published.Path
	for at, last, level := v.published.Index, v.checkpoint.Size-1, 0; last > 0; at, last, level = at>>1, last>>1, level+1 {
		if left := at&1 == 1; left || at < last { // else the node goes up alone
			all = append(all, sibling{path[0], left, level})
			path = path[1:]
		}
	}
	return all
}
