package record

import (
	"fmt"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

func testLeaves(n int) (out []Leaf) {
	for i := range n {
		h := Header{Box: testBox, Index: uint64(i), Kind: KindBoot, Epoch: uint64(i)}
		out = append(out, append(h.AppendText(nil), fmt.Sprintf("body %d", i)...))
	}
	return out
}

// fullTree keeps all hashes, as the box does not.
type fullTree []Hash

func (f fullTree) ReadHashes(ix []int64) (out []Hash, err error) {
	for _, x := range ix {
		out = append(out, f[x])
	}
	return out, nil
}

// The compact tree gives the roots and the proofs of the reference, from any place, and survives marshalling.
func TestTreeAgreesWithReference(t *testing.T) {
	const total = 70
	key, leaves := newKey(t), testLeaves(total)
	var full fullTree
	var tree Tree
	trees := []Tree{tree}
	for i, l := range leaves {
		hs, err := tlog.StoredHashes(int64(i), l, full)
		if err != nil {
			t.Fatal(err)
		}
		full = append(full, hs...)
		tree.Append(l)
		want, err := tlog.TreeHash(int64(i+1), full)
		if err != nil {
			t.Fatal(err)
		}
		if tree.Root() != want || tree.Size() != uint64(i+1) {
			t.Fatalf("size %d: another root than the reference", i+1)
		}
		b, _ := tree.AppendBinary(nil)
		again, rest, err := ParseTree(append(b, "rest"...))
		if err != nil || string(rest) != "rest" || again.Root() != want {
			t.Fatalf("size %d: marshalling: %v", i+1, err)
		}
		trees = append(trees, again) // go on from what was read back
	}
	for from := range total {
		for _, to := range []int{from + 1, from + 2, from + 7, total} {
			if to > total {
				continue
			}
			ps, err := Prove(trees[from], leaves[from:to], sign(t, key, trees[to]))
			if err != nil {
				t.Fatalf("%d to %d: %v", from, to, err)
			}
			for i, p := range ps {
				want, err := tlog.ProveRecord(int64(to), int64(from+i), full)
				if err != nil {
					t.Fatal(err)
				}
				if fmt.Sprint(p.Path) != fmt.Sprint([]Hash(want)) || p.Index != uint64(from+i) {
					t.Fatalf("record %d in %d from %d: another path than the reference", from+i, to, from)
				}
			}
		}
	}
}

func TestProveRefusesWrongCheckpoint(t *testing.T) {
	key, leaves := newKey(t), testLeaves(9)
	var prev, tree, other Tree
	for i, l := range leaves {
		if i < 4 {
			prev.Append(l)
		}
		tree.Append(l)
		other.Append(append(l, 'x'))
	}
	if _, err := Prove(prev, leaves[4:], sign(t, key, other)); err == nil {
		t.Error("a checkpoint of another tree: taken")
	}
	if _, err := Prove(prev, leaves[4:8], sign(t, key, tree)); err == nil {
		t.Error("a checkpoint of another size: taken")
	}
	if _, err := Prove(prev, leaves[4:], SignedCheckpoint("x")); err == nil {
		t.Error("no checkpoint: taken")
	}
	if ps, err := Prove(tree, nil, sign(t, key, tree)); err != nil || len(ps) != 0 {
		t.Errorf("nothing to prove: %v", err)
	}
}

func TestTreeIsAValue(t *testing.T) {
	leaves := testLeaves(8)
	var a Tree
	for _, l := range leaves[:5] {
		a.Append(l)
	}
	b, root := a, a.Root()
	b.Append(leaves[5])
	if a.Root() != root || a.Size() != 5 {
		t.Error("appending to a copy changed the original")
	}
	if _, _, err := ParseTree([]byte{0, 0, 0, 0, 0, 0, 0, 3, 1}); err == nil {
		t.Error("a tree without its hashes: taken")
	}
}
