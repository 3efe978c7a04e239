package record

import (
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// What is remembered of one path changes no verdict: in whatever order records come, of trees of any size, with or without a bit of
// the path, the index or the size changed, a Verifier says what the check of each record alone says.
func TestARememberedPathChangesNoVerdict(t *testing.T) {
	rnd := rand.New(rand.NewPCG(6, 4))
	leaf := func(i uint64) Hash { return sha256.Sum256(binary.BigEndian.AppendUint64(nil, i)) }
	kept, refused := 0, 0
	for range 60 {
		size := 1 + rnd.Uint64N(1<<rnd.IntN(9))
		var tree Tree
		var full fullTree
		for i := range size {
			more, err := tlog.StoredHashesForRecordHash(int64(i), leaf(i), full)
			if err != nil {
				t.Fatal(err)
			}
			full = append(full, more...)
			tree.AppendHash(leaf(i))
		}
		var k proven
		next := uint64(0)
		for range 4 * size {
			c, index := Checkpoint{Size: size, Root: tree.Root()}, next
			if next = (next + 1) % size; rnd.IntN(8) == 0 {
				index = rnd.Uint64N(size)
			}
			path, err := tlog.ProveRecord(int64(size), int64(index), full)
			if err != nil {
				t.Fatal(err)
			}
			hash := leaf(index)
			switch rnd.IntN(12) {
			case 0:
				hash[rnd.IntN(32)] ^= 1
			case 1:
				c.Root[rnd.IntN(32)] ^= 1
			case 2:
				index ^= 1 << rnd.IntN(9)
			case 3:
				c.Size ^= 1 << rnd.IntN(9)
			case 4:
				if len(path) > 0 {
					path[rnd.IntN(len(path))][rnd.IntN(32)] ^= 1
				}
			case 5:
				path = append(path, leaf(index))
			case 6:
				path = path[:max(len(path)-1, 0)]
			}
			want := index < c.Size && tlog.CheckRecord(path, int64(c.Size), c.Root, int64(index), hash) == nil
			if got := k.leads(path, index, hash, c); got != want {
				t.Fatalf("leaf %d of a tree of %d: %v, alone it is %v", index, c.Size, got, want)
			}
			if want {
				kept++
			} else {
				refused++
			}
		}
	}
	if kept < 1000 || refused < 1000 {
		t.Fatalf("%d were accepted, %d refused: this test would see nothing", kept, refused)
	}
}
