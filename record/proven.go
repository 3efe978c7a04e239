package record

import (
	"math/bits"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// proven is the last path that led to a signed root: the nodes on it and their siblings are known to be of that tree. A path of the
// same tree meets it at the lowest node that lies over both leaves, and from there on must be the same.
type proven struct {
	root  Hash
	size  uint64 // of the tree; 0: nothing is proven yet
	index uint64
	path  []Hash
	nodes [maxLevels + 1]Hash // on the path, by level
	used  [maxLevels + 1]int  // how many hashes of the path lie below the level
}

// leads says whether the path leads from the leaf with this hash, at this index, to the root that c signs (RFC 9162 §2.1.3.2).
// The path becomes part of what is remembered.
func (k *proven) leads(path []Hash, index uint64, leaf Hash, c Checkpoint) bool {
	if index >= c.Size {
		return false
	}
	meets := maxLevels + 1 // nowhere
	if k.size == c.Size && k.root == c.Root {
		meets = bits.Len64(index ^ k.index)
	}
	var nodes [maxLevels + 1]Hash
	var used [maxLevels + 1]int
	node, n, level := leaf, 0, 0
	for at, last := index, c.Size-1; ; at, last, level = at>>1, last>>1, level+1 {
		nodes[level], used[level] = node, n
		if level == meets {
			if node != k.nodes[level] || !slices.Equal(path[n:], k.path[k.used[level]:]) {
				return false
			}
			break
		}
		if last == 0 {
			if node != c.Root || n != len(path) {
				return false
			}
			break
		}
		switch {
		case at&1 == 0 && at == last: // it has no sibling and goes up alone
			continue
		case n == len(path):
			return false
		case at&1 == 1:
			node = tlog.NodeHash(path[n], node)
		default:
			node = tlog.NodeHash(node, path[n])
		}
		n++
	}
	for l, shift := level+1, n-k.used[min(level, maxLevels)]; meets <= maxLevels && l <= maxLevels; l++ {
		k.used[l] += shift
	}
	copy(k.nodes[:], nodes[:level+1])
	copy(k.used[:], used[:level+1])
	k.root, k.size, k.index, k.path = c.Root, c.Size, index, path
	return true
}
