package record

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// victim is a log of an honest box and the keys to all of it.
type victim struct {
	key    *ecdsa.PrivateKey
	reader ReaderSecret
	leaves []Leaf
	ps     []Published
}

func newVictim(t testing.TB) *victim {
	t.Helper()
	v := &victim{key: newKey(t), reader: newReader(t)}
	s := newSealer(t, []ReaderKey{v.reader.Public()}, nil)
	boot, err := s.Boot(0, Boot{Resets: 3, Restarts: 1, Counter: 7, Protection: "software", Software: "test", LastRoot: Tree{}.Root()})
	if err != nil {
		t.Fatal(err)
	}
	v.leaves = []Leaf{boot}
	for _, patient := range []string{"P1", "P2", "P1", "P2"} {
		r := reading(patient, 2)
		r.Digest = Digest{0xd1, 15: 0x57}
		ls, err := s.Seal(uint64(len(v.leaves)), r)
		if err != nil {
			t.Fatal(err)
		}
		v.leaves = append(v.leaves, ls...)
	}
	v.ps = v.sign(t, v.leaves)
	return v
}

// sign signs leaves as the log of the box.
func (v *victim) sign(t testing.TB, leaves []Leaf) []Published {
	t.Helper()
	var tree Tree
	for _, l := range leaves {
		tree.Append(l)
	}
	ps, err := Prove(Tree{}, leaves, sign(t, v.key, tree))
	if err != nil {
		t.Fatal(err)
	}
	return ps
}

// judge is the reason for which a reader with the key refuses the record at index of these.
func (v *victim) judge(ps []Published, index int) Reason {
	o := NewOpener(v.reader)
	for i, p := range ps {
		got, err := Verify(p, testBox, &v.key.PublicKey)
		if err == nil {
			if _, err = o.Open(got); err == ErrNoContent {
				err = nil
			}
		}
		if i == index || got.Header().Kind == KindEpoch && err != nil {
			return ReasonOf(err)
		}
	}
	return ""
}

// turnable is where b has a character that is still one of base64 with its lowest bit turned.
func turnable(b []byte) int {
	return bytes.IndexAny(b, "BCDEFGHIJKLMNOPQRSTUVWXYbcdefghijklmnopqrstuvwxy0123456789")
}

// Each field of a record, of its proof and of its checkpoint is changed, by who carries it and by the box itself: each change
// is found, for its own reason. The table of them is printed with -v.
func TestTamperingWithARecord(t *testing.T) {
	v := newVictim(t)
	const at = 5 // the second vitals of P1, in the epoch of leaf 1; leaf 3 is the epoch of P2
	if v.judge(v.ps, at) != "" || len(v.ps) != 7 {
		t.Fatalf("the honest record is refused: %s", v.judge(v.ps, at))
	}
	n := 0
	want := func(part, change string, got, want Reason) {
		t.Helper()
		n++
		t.Logf("%3d  %-22s %-44s %s", n, part, change, got)
		if got != want {
			t.Errorf("%s, %s: %q, want %q", part, change, got, want)
		}
	}
	// one changes a copy of the record.
	one := func(change func(p *Published)) Reason {
		p := v.ps[at]
		p.Leaf, p.Path, p.Checkpoint = bytes.Clone(p.Leaf), slices.Clone(p.Path), bytes.Clone(p.Checkpoint)
		change(&p)
		all := slices.Clone(v.ps)
		all[at] = p
		return v.judge(all, at)
	}
	// signed is the log with one leaf changed, signed anew by the box itself.
	signed := func(index int, change func(h *Header, body *[]byte)) Reason {
		h, body, err := ParseLeaf(v.leaves[index])
		if err != nil {
			t.Fatal(err)
		}
		body = bytes.Clone(body)
		change(&h, &body)
		leaves := slices.Clone(v.leaves)
		leaves[index] = append(h.AppendText(nil), body...)
		return v.judge(v.sign(t, leaves), at)
	}

	lines := strings.SplitAfter(string(v.leaves[at]), "\n")
	for i, line := range lines[:10] {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		start := len(strings.Join(lines[:i], ""))
		for what, off := range map[string]int{"its name": 0, "its value": len(line) - 2, "its end": len(line) - 1} {
			want("header "+name, what+", one bit", one(func(p *Published) { p.Leaf[start+off] ^= 1 }), ReasonProof)
		}
		want("header "+name, "line left out", one(func(p *Published) { p.Leaf = append(p.Leaf[:start:start], p.Leaf[start+len(line):]...) }), ReasonProof)
		want("header "+name, "line twice", one(func(p *Published) {
			p.Leaf = Leaf(strings.Join(slices.Insert(slices.Clone(lines), i, line), ""))
		}), ReasonProof)
	}
	body := len(v.leaves[at]) - 1
	for what, change := range map[string]func(p *Published){
		"first byte": func(p *Published) { p.Leaf[bytes.Index(p.Leaf, []byte("\n\n"))+2] ^= 1 }, "last byte": func(p *Published) { p.Leaf[body] ^= 1 },
		"one byte more": func(p *Published) { p.Leaf = append(p.Leaf, 0) }, "one byte less": func(p *Published) { p.Leaf = p.Leaf[:body] },
		"left out": func(p *Published) { p.Leaf = p.Leaf[:bytes.Index(p.Leaf, []byte("\n\n"))+2] }, "of another record": func(p *Published) { p.Leaf = v.leaves[at+1] },
		"empty leaf": func(p *Published) { p.Leaf = nil },
	} {
		want("body", what, one(change), ReasonProof)
	}
	for i := range v.ps[at].Path {
		want("path", fmt.Sprintf("hash %d, one bit", i), one(func(p *Published) { p.Path[i][0] ^= 1 }), ReasonProof)
		want("path", fmt.Sprintf("hash %d left out", i), one(func(p *Published) { p.Path = slices.Delete(p.Path, i, i+1) }), ReasonProof)
		want("path", fmt.Sprintf("hash %d twice", i), one(func(p *Published) { p.Path = slices.Insert(p.Path, i, p.Path[i]) }), ReasonProof)
	}
	want("path", "two hashes exchanged", one(func(p *Published) { p.Path[0], p.Path[1] = p.Path[1], p.Path[0] }), ReasonProof)
	want("path", "left out", one(func(p *Published) { p.Path = nil }), ReasonProof)
	want("path", "of another record", one(func(p *Published) { p.Path = v.ps[at+1].Path }), ReasonProof)
	want("path", "longer than any log", one(func(p *Published) { p.Path = make([]Hash, 41) }), ReasonMalformed)
	want("index of the proof", "one more", one(func(p *Published) { p.Index++ }), ReasonProof)
	want("index of the proof", "one less", one(func(p *Published) { p.Index-- }), ReasonProof)
	want("index of the proof", "the end of the log", one(func(p *Published) { p.Index = uint64(len(v.ps)) }), ReasonSize)
	want("index of the proof", "2^39", one(func(p *Published) { p.Index = 1 << 39 }), ReasonSize)

	note := strings.SplitAfter(string(v.ps[at].Checkpoint), "\n") // origin, size, root, boot, clock, counter, protection, "", signature
	for i, field := range []string{"origin", "size", "root", "boot", "clock", "counter", "protection"} {
		start := len(strings.Join(note[:i], ""))
		end := start + len(note[i]) - 2
		if field == "root" {
			end = start + turnable([]byte(note[i]))
		}
		reason := ReasonSignature
		if field == "origin" {
			reason = ReasonCheckpoint // the signature line names another
		}
		want("checkpoint "+field, "its value, one bit", one(func(p *Published) { p.Checkpoint[end] ^= 1 }), reason)
		want("checkpoint "+field, "left out", one(func(p *Published) {
			p.Checkpoint = SignedCheckpoint(strings.Join(slices.Delete(slices.Clone(note), i, i+1), ""))
		}), ReasonCheckpoint)
		want("checkpoint "+field, "twice", one(func(p *Published) {
			p.Checkpoint = SignedCheckpoint(strings.Join(slices.Insert(slices.Clone(note), i, note[i]), ""))
		}), ReasonCheckpoint)
	}
	rewrite := func(change func(c *Checkpoint)) Reason {
		return one(func(p *Published) {
			c, err := p.Checkpoint.Unverified()
			if err != nil {
				t.Fatal(err)
			}
			change(&c)
			p.Checkpoint = append(append(SignedCheckpoint(c.AppendText(nil)), '\n'), strings.Join(note[8:], "")...)
		})
	}
	want("checkpoint origin", "of another box", rewrite(func(c *Checkpoint) { c.Origin = "vitalgate/f1/gw2" }), ReasonCheckpoint)
	want("checkpoint size", "larger, in its form", rewrite(func(c *Checkpoint) { c.Size *= 2 }), ReasonSignature)
	want("checkpoint root", "another, in its form", rewrite(func(c *Checkpoint) { c.Root[5] ^= 4 }), ReasonSignature)
	want("checkpoint boot", "another, in its form", rewrite(func(c *Checkpoint) { c.Boot++ }), ReasonSignature)
	want("checkpoint clock", "another, in its form", rewrite(func(c *Checkpoint) { c.Clock++ }), ReasonSignature)
	want("checkpoint counter", "another, in its form", rewrite(func(c *Checkpoint) { c.Counter-- }), ReasonSignature)
	want("checkpoint protection", "a better one", rewrite(func(c *Checkpoint) { c.Protection = "hardware" }), ReasonSignature)
	name, sig, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(note[8]), signatureMark), " ")
	raw, err := base64.StdEncoding.DecodeString(sig)
	if err != nil {
		t.Fatal(err)
	}
	resign := func(name string, raw []byte) Reason {
		return one(func(p *Published) {
			p.Checkpoint = SignedCheckpoint(strings.Join(note[:8], "") + signatureMark + name + " " + base64.StdEncoding.EncodeToString(raw) + "\n")
		})
	}
	flip := func(i int) []byte { b := bytes.Clone(raw); b[i] ^= 1; return b }
	want("signature name", "of another box", resign("vitalgate/f1/gw2", raw), ReasonCheckpoint)
	want("signature name", "none", resign("", raw), ReasonCheckpoint)
	for i, part := range []string{"key id", "key id", "key id", "key id", "sequence tag", "sequence length", "r tag", "r length", "r"} {
		want("signature", part+", one bit", resign(name, flip(i)), ReasonSignature)
	}
	want("signature", "r, middle", resign(name, flip(20)), ReasonSignature)
	want("signature", "s, last byte", resign(name, flip(len(raw)-1)), ReasonSignature)
	want("signature", "cut short", resign(name, raw[:len(raw)-1]), ReasonSignature)
	want("signature", "with a byte more", resign(name, append(bytes.Clone(raw), 0)), ReasonSignature)
	want("signature", "of another key", one(func(p *Published) {
		c, _ := p.Checkpoint.Unverified()
		p.Checkpoint, _ = c.Sign(newKey(t))
	}), ReasonSignature)
	want("signature", "left out", one(func(p *Published) { p.Checkpoint = SignedCheckpoint(strings.Join(note[:8], "")) }), ReasonCheckpoint)
	want("signature", "17 of them", one(func(p *Published) {
		p.Checkpoint = SignedCheckpoint(strings.Join(note, "") + strings.Repeat(note[8], 16))
	}), ReasonCheckpoint)
	want("cosignature", "without a name", one(func(p *Published) { p.Checkpoint = append(p.Checkpoint, signatureMark+" AAAAAAAA\n"...) }), ReasonCheckpoint)
	want("cosignature", "not in base64", one(func(p *Published) { p.Checkpoint = append(p.Checkpoint, signatureMark+"x AAAA!AAA\n"...) }), ReasonCheckpoint)
	want("cosignature", "before that of the box", one(func(p *Published) {
		p.Checkpoint = SignedCheckpoint(strings.Join(note[:8], "") + signatureMark + "x AAAAAAAA\n" + note[8])
	}), ReasonCheckpoint)

	wire, err := v.ps[at].AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	path := 13 + 32*len(v.ps[at].Path)
	for part, off := range map[string]int{"magic": 0, "version": 3, "index, high byte": 4, "length of the path": 12, "length of the checkpoint": path, "length of the leaf": path + 2 + len(v.ps[at].Checkpoint)} {
		bent := bytes.Clone(wire)
		bent[off] ^= 0x80
		_, err := ParsePublished(bent)
		want("wire form", part, ReasonOf(err), ReasonMalformed)
	}
	for _, cut := range []int{0, 3, 12, path, path + 1, len(wire) - 1} {
		_, err := ParsePublished(wire[:cut])
		want("wire form", fmt.Sprintf("cut after %d bytes", cut), ReasonOf(err), ReasonMalformed)
	}

	// What follows the box has signed itself: it lies, or somebody has its key.
	want("box: header", "another box", signed(at, func(h *Header, _ *[]byte) { h.Box.Name = "gw2" }), ReasonBox)
	want("box: header", "another index", signed(at, func(h *Header, _ *[]byte) { h.Index++ }), ReasonIndex)
	want("box: header", "another kind", signed(at, func(h *Header, _ *[]byte) { h.Kind = KindAlarm }), ReasonSeal)
	want("box: header", "an unknown kind", signed(at, func(h *Header, _ *[]byte) { h.Kind = "lab" }), ReasonHeader)
	want("box: header", "another observed", signed(at, func(h *Header, _ *[]byte) { h.Observed = h.Observed.Add(1e9) }), ReasonSeal)
	want("box: header", "another arrived", signed(at, func(h *Header, _ *[]byte) { h.Arrived = h.Arrived.Add(1e9) }), ReasonSeal)
	want("box: header", "another digest", signed(at, func(h *Header, _ *[]byte) { h.Digest[3] ^= 1 }), ReasonSeal)
	want("box: header", "another commitment", signed(at, func(h *Header, _ *[]byte) { h.Commit[3] ^= 1 }), ReasonSeal)
	want("box: header", "no commitment", signed(at, func(h *Header, _ *[]byte) { h.Commit = [32]byte{} }), ReasonHeader)
	want("box: header", "another patient", signed(at, func(h *Header, _ *[]byte) { h.Patient = strings.Repeat("ab", 16) }), ReasonEpoch)
	want("box: header", "epoch of another patient", signed(at, func(h *Header, _ *[]byte) { h.Epoch = 3 }), ReasonEpoch)
	want("box: body", "another", signed(at, func(_ *Header, b *[]byte) { (*b)[7] ^= 1 }), ReasonSeal)
	want("box: body", "of another record", signed(at, func(_ *Header, b *[]byte) { _, *b, _ = ParseLeaf(v.leaves[2]) }), ReasonSeal)
	epoch := int(func() uint64 { h, _, _ := ParseLeaf(v.leaves[at]); return h.Epoch }())
	want("box: epoch", "another patient", signed(epoch, func(h *Header, _ *[]byte) { h.Patient = strings.Repeat("ab", 16) }), ReasonEpoch)
	want("box: epoch", "another time", signed(epoch, func(h *Header, _ *[]byte) { h.Arrived = h.Arrived.Add(1e9) }), ReasonSeal)
	want("box: epoch", "another suite", signed(epoch, func(_ *Header, b *[]byte) { *b = bytes.Replace(*b, []byte("647a"), []byte("0020"), 1) }), ReasonEpoch)
	want("box: epoch", "another side", signed(epoch, func(_ *Header, b *[]byte) { *b = bytes.Replace(*b, []byte("network"), []byte("patient"), 1) }), ReasonEpoch)
	want("box: epoch", "a share changed", signed(epoch, func(_ *Header, b *[]byte) { (*b)[100+turnable((*b)[100:])] ^= 1 }), ReasonShare)
	want("box: epoch", "no share", signed(epoch, func(_ *Header, b *[]byte) { *b = (*b)[:bytes.Index(*b, []byte("share"))] }), ReasonEpoch)
	want("box: epoch", "shares of another epoch", signed(epoch, func(_ *Header, b *[]byte) {
		for i, l := range v.leaves {
			if h, body, _ := ParseLeaf(l); h.Kind == KindEpoch && i != epoch {
				*b = body
			}
		}
	}), ReasonShare)
	if n < 100 {
		t.Errorf("only %d changes", n)
	}
	t.Logf("%d changes", n)
}
