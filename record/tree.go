package record

import (
	"encoding/binary"
	"errors"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"
)

// Hash is a node of the tree: SHA-256 with the prefixes of RFC 9162 §2.1.
type Hash = tlog.Hash

// LeafHash is the hash of a leaf in the tree (RFC 9162 §2.1.1).
func LeafHash(l Leaf) Hash { return tlog.RecordHash(l) }

const maxLevels = 40 // MaxIndex is 1<<maxLevels

// Tree is the compact range of a log from its first leaf: the roots of the complete subtrees, one for each set bit of the
// size. It is all that is needed to go on appending. The zero Tree is empty; a copy is independent of the original.
type Tree struct {
	size  uint64
	roots [maxLevels]Hash // roots[i] is valid where bit i of size is set
}

// Size is the number of leaves.
func (t Tree) Size() uint64 { return t.size }

// Append adds a leaf. It panics at MaxIndex leaves.
func (t *Tree) Append(l Leaf) { t.AppendHash(tlog.RecordHash(l)) }

// AppendHash adds a leaf by its LeafHash.
func (t *Tree) AppendHash(h Hash) {
	if t.size >= MaxIndex-1 {
		panic("record: tree is full")
	}
	level := bits.TrailingZeros64(^t.size)
	for i := range level {
		h = tlog.NodeHash(t.roots[i], h)
	}
	t.roots[level] = h
	t.size++
}

// Root is the root hash, that of RFC 9162 §2.1.1 for the empty tree too.
func (t Tree) Root() Hash {
	if t.size == 0 {
		h, _ := tlog.TreeHash(0, nil)
		return h
	}
	low := bits.TrailingZeros64(t.size)
	h := t.roots[low]
	for i := low + 1; i < maxLevels; i++ {
		if t.size>>i&1 != 0 {
			h = tlog.NodeHash(t.roots[i], h)
		}
	}
	return h
}

// AppendBinary appends the size (8 bytes, big endian) and the roots from the largest subtree to the smallest. It never fails.
func (t Tree) AppendBinary(dst []byte) ([]byte, error) {
	dst = binary.BigEndian.AppendUint64(dst, t.size)
	for i := maxLevels - 1; i >= 0; i-- {
		if t.size>>i&1 != 0 {
			dst = append(dst, t.roots[i][:]...)
		}
	}
	return dst, nil
}

// ParseTree reads the form of AppendBinary from the beginning of b and returns what follows it.
func ParseTree(b []byte) (t Tree, rest []byte, err error) {
	if len(b) < 8 {
		return Tree{}, nil, errors.New("cannot read tree: too short")
	}
	size := binary.BigEndian.Uint64(b)
	b = b[8:]
	if size >= MaxIndex || len(b) < 32*bits.OnesCount64(size) {
		return Tree{}, nil, errors.New("cannot read tree: the size does not fit its hashes")
	}
	t.size = size
	for i := maxLevels - 1; i >= 0; i-- {
		if size>>i&1 != 0 {
			b = b[copy(t.roots[i][:], b):]
		}
	}
	return t, b, nil
}

// growth is a tree and the leaves after it, with all nodes that the paths of those leaves need: at each level those that the new
// leaves completed, beside the roots that were there before.
type growth struct {
	prev *Tree
	size uint64

	nodes  [maxLevels][]Hash // nodes[l][i] is node prev.size>>l + i of level l
	ragged [maxLevels]Hash   // of the leaves behind the last complete node of the level, where there are any
}

func newGrowth(prev *Tree, level []Hash) (*growth, error) {
	g := &growth{prev: prev, size: prev.size + uint64(len(level))}
	if g.size >= MaxIndex {
		return nil, errors.New("the tree is full")
	}
	for l := 0; len(level) > 0; l++ {
		g.nodes[l] = level
		first, end := prev.size>>l, prev.size>>l+uint64(len(level))
		up := make([]Hash, 0, len(level)/2+1)
		for parent := first >> 1; parent < end>>1; parent++ {
			left := prev.roots[l] // the left child was complete before
			if 2*parent >= first {
				left = level[2*parent-first]
			}
			up = append(up, tlog.NodeHash(left, level[2*parent+1-first]))
		}
		level = up
	}
	for l := range maxLevels - 1 {
		switch {
		case g.size>>l&1 == 0:
			g.ragged[l+1] = g.ragged[l]
		case g.size&(1<<l-1) == 0: // nothing is behind that node
			g.ragged[l+1] = g.node(l, g.size>>l-1)
		default:
			g.ragged[l+1] = tlog.NodeHash(g.node(l, g.size>>l-1), g.ragged[l])
		}
	}
	return g, nil
}

// node is a complete node that the path of a new leaf may need.
func (g *growth) node(level int, n uint64) Hash {
	if first := g.prev.size >> level; n >= first {
		return g.nodes[level][n-first]
	}
	return g.prev.roots[level] // the one before first: all older ones are parts of larger subtrees
}

// appendPath appends the inclusion proof of a new leaf (RFC 9162 §2.1.3.1).
func (g *growth) appendPath(path []Hash, index uint64) []Hash {
	for at, last, l := index, g.size-1, 0; last > 0; at, last, l = at>>1, last>>1, l+1 {
		switch {
		case at&1 == 1:
			path = append(path, g.node(l, at-1))
		case at == last: // it has no sibling and goes up alone
		case at+1 < g.size>>l:
			path = append(path, g.node(l, at+1))
		default:
			path = append(path, g.ragged[l])
		}
	}
	return path
}
