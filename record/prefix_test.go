package record

import (
	"fmt"
	"slices"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// What a record's proof tells of the log before it and with it is what the tree itself proves, for every record of every small log.
func TestPrefixes(t *testing.T) {
	key := newKey(t)
	var stored []Hash
	read := tlog.HashReaderFunc(func(indexes []int64) ([]Hash, error) {
		out := make([]Hash, len(indexes))
		for i, x := range indexes {
			out[i] = stored[x]
		}
		return out, nil
	})
	roots := []Hash{Tree{}.Root()}
	var leaves []Leaf
	var tree Tree
	for size := 1; size <= 40; size++ {
		h := Header{Box: testBox, Index: uint64(size - 1), Kind: KindBoot, Epoch: uint64(size - 1)}
		leaf := Leaf(append(h.AppendText(nil), fmt.Sprint("leaf ", size)...))
		leaves = append(leaves, leaf)
		more, err := tlog.StoredHashes(int64(size-1), leaf, read)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, more...)
		tree.Append(leaf)
		roots = append(roots, tree.Root())
		for _, v := range publish(t, key, Tree{}, leaves) {
			for _, p := range []Prefix{v.Before(), v.After()} {
				if p.Size == 0 && v.Header().Index == 0 {
					continue
				}
				if p.Root != roots[p.Size] {
					t.Fatalf("log of %d, record %d: the root of the first %d is wrong", size, v.Header().Index, p.Size)
				}
				if c, err := p.Open(testBox, &key.PublicKey); err != nil || c.Size != uint64(size) {
					t.Fatalf("log of %d, first %d: %v", size, p.Size, err)
				}
				if p.Size < uint64(size) {
					if want, err := tlog.ProveTree(int64(size), int64(p.Size), read); err != nil || !slices.Equal(want, p.Proof) {
						t.Fatalf("log of %d, first %d: not the consistency proof of RFC 9162: %v", size, p.Size, err)
					}
				}
			}
			if b, a := v.Before(), v.After(); v.Header().Index > 0 && b.Size != v.Header().Index || a.Size != v.Header().Index+1 {
				t.Fatalf("sizes %d and %d around record %d", b.Size, a.Size, v.Header().Index)
			}
		}
	}
}

// A prefix that is not one of the signed log is refused with its reason.
func TestPrefixRefused(t *testing.T) {
	key, other := newKey(t), newKey(t)
	_, ps := sealed(t, key, 6)
	v, err := Verify(ps[3], testBox, &key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	good := v.Before()
	if _, err := good.Open(testBox, &key.PublicKey); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		bend func(*Prefix)
		want Reason
	}{
		"no size":         {func(p *Prefix) { p.Size = 0 }, ReasonSize},
		"beyond the log":  {func(p *Prefix) { p.Size = 1 << 39 }, ReasonSize},
		"another size":    {func(p *Prefix) { p.Size++ }, ReasonProof},
		"another root":    {func(p *Prefix) { p.Root[0] ^= 1 }, ReasonProof},
		"another hash":    {func(p *Prefix) { p.Proof[0][31] ^= 1 }, ReasonProof},
		"no proof":        {func(p *Prefix) { p.Proof = nil }, ReasonProof},
		"long proof":      {func(p *Prefix) { p.Proof = append(p.Proof, Hash{}) }, ReasonProof},
		"very long proof": {func(p *Prefix) { p.Proof = make([]Hash, 1000) }, ReasonProof},
		"whole, other":    {func(p *Prefix) { p.Size, p.Proof = v.Checkpoint().Size, nil }, ReasonProof},
		"changed text":    {func(p *Prefix) { p.Checkpoint[len(testBox.Origin())+1] ^= 1 }, ReasonSignature},
		"no checkpoint":   {func(p *Prefix) { p.Checkpoint = nil }, ReasonCheckpoint},
	} {
		p := good
		p.Proof, p.Checkpoint = slices.Clone(good.Proof), slices.Clone(good.Checkpoint)
		c.bend(&p)
		if _, err := p.Open(testBox, &key.PublicKey); ReasonOf(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := good.Open(testBox, &other.PublicKey); ReasonOf(err) != ReasonSignature {
		t.Errorf("another key: %v", err)
	}
	if _, err := good.Open(BoxID{"f1", "gw2"}, &key.PublicKey); ReasonOf(err) != ReasonOrigin {
		t.Errorf("another box: %v", err)
	}
}
