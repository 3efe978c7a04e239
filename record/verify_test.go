package record

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"io"
	"math/big"
	"strings"
	"testing"
)

// sealed returns n records, with their epoch, and the whole published under one checkpoint.
func sealed(t testing.TB, key *ecdsa.PrivateKey, n int) ([]Leaf, []Published) {
	t.Helper()
	s := newSealer(t, []ReaderKey{newReader(t).Public()}, nil)
	var leaves []Leaf
	var tree Tree
	for range n {
		ls, err := s.Seal(uint64(len(leaves)), reading("PAT-4711-0815", 2))
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range ls {
			tree.Append(l)
		}
		leaves = append(leaves, ls...)
	}
	ps, err := Prove(Tree{}, leaves, sign(t, key, tree))
	if err != nil {
		t.Fatal(err)
	}
	return leaves, ps
}

// Whatever byte of a record changes on its way, each peer refuses it, and the reason says which part does not hold.
func TestEveryByteMatters(t *testing.T) {
	key := newKey(t)
	_, ps := sealed(t, key, 9)
	p := ps[6]
	wire, err := p.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParsePublished(wire); err != nil {
		t.Fatal(err)
	} else if _, err := Verify(got, testBox, &key.PublicKey); err != nil {
		t.Fatal(err)
	}
	// Where each part begins in the wire form, and the reasons that its change may have.
	text := bytes.Index(p.Checkpoint, []byte("\n\n"))
	at := len(wireMagic)
	regions := []struct {
		name    string
		n       int
		reasons []Reason
	}{
		{"index", 8, []Reason{ReasonMalformed, ReasonSize, ReasonProof}},
		{"path length", 1, []Reason{ReasonMalformed, ReasonProof}},
		{"path", 32 * len(p.Path), []Reason{ReasonProof}},
		{"checkpoint length", 2, []Reason{ReasonMalformed}},
		{"checkpoint text", text + 1, []Reason{ReasonCheckpoint, ReasonSignature}},
		{"signature", len(p.Checkpoint) - text - 1, []Reason{ReasonCheckpoint, ReasonSignature}},
		{"leaf length", 4, []Reason{ReasonMalformed}},
		{"leaf header", bytes.Index(p.Leaf, []byte("\n\n")) + 2, []Reason{ReasonProof}},
		{"leaf body", len(p.Leaf) - bytes.Index(p.Leaf, []byte("\n\n")) - 2, []Reason{ReasonProof}},
	}
	total := at
	for _, r := range regions {
		total += r.n
	}
	if total != len(wire) {
		t.Fatalf("the regions make %d bytes of %d", total, len(wire))
	}
	seen := map[Reason]int{}
	try := func(name string, bent []byte, reasons []Reason) {
		t.Helper()
		got, err := ParsePublished(bent)
		if err == nil {
			_, err = Verify(got, testBox, &key.PublicKey)
		}
		reason := ReasonOf(err)
		seen[reason]++
		for _, r := range reasons {
			if r == reason {
				return
			}
		}
		t.Fatalf("%s changed: %v, want a refusal for one of %v", name, err, reasons)
	}
	for i := range at {
		bent := bytes.Clone(wire)
		bent[i] ^= 1
		try("magic", bent, []Reason{ReasonMalformed})
	}
	for _, r := range regions {
		for i := at; i < at+r.n; i++ {
			for bit := range 8 {
				bent := bytes.Clone(wire)
				bent[i] ^= 1 << bit
				try(r.name, bent, r.reasons)
			}
		}
		at += r.n
	}
	for cut := range len(wire) {
		try("length", wire[:cut], []Reason{ReasonMalformed})
	}
	try("length", append(bytes.Clone(wire), 0), []Reason{ReasonMalformed})
	for _, r := range []Reason{ReasonMalformed, ReasonCheckpoint, ReasonSignature, ReasonSize, ReasonProof} {
		if seen[r] == 0 {
			t.Errorf("no change led to the reason %q", r)
		}
	}
}

// Records cannot change places, boxes or checkpoints, and what a box itself signs wrongly is evidence against it.
func TestSwaps(t *testing.T) {
	key, stranger := newKey(t), newKey(t)
	leaves, ps := sealed(t, key, 9)
	other := BoxID{"f1", "gw2"}
	for name, c := range map[string]struct {
		reason Reason
		box    BoxID
		pub    *ecdsa.PublicKey
		p      Published
	}{
		"leaf of another index":           {ReasonProof, testBox, &key.PublicKey, Published{leaves[3], 4, ps[4].Path, ps[4].Checkpoint}},
		"path of another index":           {ReasonProof, testBox, &key.PublicKey, Published{leaves[3], 3, ps[4].Path, ps[4].Checkpoint}},
		"another index":                   {ReasonProof, testBox, &key.PublicKey, Published{leaves[3], 5, ps[3].Path, ps[3].Checkpoint}},
		"beyond the log":                  {ReasonSize, testBox, &key.PublicKey, Published{leaves[3], 10, ps[3].Path, ps[3].Checkpoint}},
		"shorter path":                    {ReasonProof, testBox, &key.PublicKey, Published{leaves[3], 3, ps[3].Path[1:], ps[3].Checkpoint}},
		"replayed to another box":         {ReasonOrigin, other, &key.PublicKey, ps[3]},
		"key of another box":              {ReasonSignature, testBox, &stranger.PublicKey, ps[3]},
		"no key":                          {ReasonSignature, testBox, nil, ps[3]},
		"no checkpoint":                   {ReasonCheckpoint, testBox, &key.PublicKey, Published{leaves[3], 3, ps[3].Path, nil}},
		"signed by the box: wrong box":    {ReasonBox, other, &key.PublicKey, single(t, key, other, leaves[0])},
		"signed by the box: wrong index":  {ReasonIndex, testBox, &key.PublicKey, single(t, key, testBox, leaves[4])},
		"signed by the box: not a record": {ReasonHeader, testBox, &key.PublicKey, single(t, key, testBox, Leaf("hello\n\n"))},
	} {
		if _, err := Verify(c.p, c.box, c.pub); ReasonOf(err) != c.reason {
			t.Errorf("%s: %v, want a refusal for %q", name, err, c.reason)
		}
	}
	for i, p := range ps {
		if _, err := Verify(p, testBox, &key.PublicKey); err != nil {
			t.Errorf("record %d: %v", i, err)
		}
	}
}

// single signs a log of one leaf as a box that does not keep the rules.
func single(t *testing.T, key *ecdsa.PrivateKey, box BoxID, l Leaf) Published {
	t.Helper()
	sc, err := Checkpoint{Origin: box.Origin(), Size: 1, Root: LeafHash(l), Protection: "software"}.Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	return Published{Leaf: l, Checkpoint: sc}
}

// The signature is the only thing in a checkpoint that may exist twice: (r, -s) signs too. Neither form changes what is signed,
// and a cached checkpoint never stands in for another one.
func TestVerifierCache(t *testing.T) {
	key := newKey(t)
	_, ps := sealed(t, key, 5)
	v := NewVerifier(testBox, &key.PublicKey)
	if _, err := v.Verify(ps[1]); err != nil {
		t.Fatal(err)
	}
	bent := ps[2]
	bent.Checkpoint = bytes.Clone(bent.Checkpoint)
	bent.Checkpoint[len(bent.Checkpoint)-30] ^= 1
	if _, err := v.Verify(bent); err == nil {
		t.Fatal("after a good checkpoint a bad one passed")
	}
	if _, err := v.Verify(ps[2]); err != nil {
		t.Fatal(err)
	}
	copy(ps[2].Checkpoint, "garbage") // the cache must not be a view of a buffer that is used again
	if _, err := v.Verify(ps[2]); err == nil {
		t.Fatal("a checkpoint that was overwritten after it had passed, passed again")
	}
}

// A checkpoint is the C2SP form to the byte, so that other tools read it.
func TestCheckpointText(t *testing.T) {
	key := newKey(t)
	c := Checkpoint{Origin: "vitalgate/f1/gw1", Size: 42, Root: Hash{1, 2, 3}, Boot: 3, Clock: 123456, Counter: 7, Protection: "emulated TPM (swtpm)"}
	sc, err := c.Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	want := "vitalgate/f1/gw1\n42\nAQIDAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nboot 3\nclock 123456\ncounter 7\nprotection emulated TPM (swtpm)\n\n\u2014 vitalgate/f1/gw1 "
	if !strings.HasPrefix(string(sc), want) || strings.Count(string(sc), "\n") != 9 {
		t.Fatalf("%s", sc)
	}
	got, err := OpenCheckpoint(sc, testBox, &key.PublicKey)
	if err != nil || got != c {
		t.Fatalf("%+v, %v", got, err)
	}
	// Cosignatures may follow; they change nothing. A strange line in their place is refused.
	with := string(sc) + "\u2014 witness.example/w1 " + base64.StdEncoding.EncodeToString(make([]byte, 76)) + "\n"
	if got, err := OpenCheckpoint(SignedCheckpoint(with), testBox, &key.PublicKey); err != nil || got != c {
		t.Fatalf("with a cosignature: %v", err)
	}
	for _, bad := range []string{string(sc) + "x\n", string(sc) + "\n", with + with[len(sc):len(sc)+20] + "\n",
		string(sc) + strings.Repeat(with[len(sc):], 16), strings.Replace(string(sc), "size", "", 1) + "\u2014 a b\n",
		strings.Replace(string(sc), "boot 3", "boot 03", 1), strings.Replace(string(sc), "\nclock", "\nextra 1\nclock", 1)} {
		if _, err := OpenCheckpoint(SignedCheckpoint(bad), testBox, &key.PublicKey); ReasonOf(err) != ReasonCheckpoint {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestSignRefuses(t *testing.T) {
	good := Checkpoint{Origin: "vitalgate/f1/gw1", Protection: "software"}
	key := newKey(t)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := good.Sign(p384); err == nil {
		t.Error("a key that is not P-256: taken")
	}
	if _, err := good.Sign(brokenChip{key}); err == nil || !strings.Contains(err.Error(), "does not verify") {
		t.Errorf("a chip that signs wrongly: %v", err)
	}
	if _, err := good.Sign(deadChip{key}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a chip that fails: %v", err)
	}
	for _, c := range []Checkpoint{{Origin: "x", Protection: "p"}, {Origin: good.Origin}, {Origin: good.Origin, Protection: "a\nb"},
		{Origin: good.Origin, Protection: " a"}, {Origin: good.Origin, Protection: "p", Size: MaxIndex}, {Origin: "vitalgate/F1/gw1", Protection: "p"}} {
		if _, err := c.Sign(key); err == nil {
			t.Errorf("%+v: signed", c)
		}
	}
}

type brokenChip struct{ *ecdsa.PrivateKey }

func (b brokenChip) Sign(r io.Reader, _ []byte, o crypto.SignerOpts) ([]byte, error) {
	return b.PrivateKey.Sign(r, make([]byte, 32), o)
}

type deadChip struct{ *ecdsa.PrivateKey }

func (deadChip) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, io.ErrUnexpectedEOF
}

// A signature whose s was negated verifies as ECDSA; it must not make a refused record pass or a passed one differ.
func TestMalleableSignature(t *testing.T) {
	key := newKey(t)
	_, ps := sealed(t, key, 2)
	_, _, sig, err := parseCheckpoint(ps[1].Checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	var rs struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(sig[4:], &rs); err != nil {
		t.Fatal(err)
	}
	rs.S.Sub(elliptic.P256().Params().N, rs.S)
	der, err := asn1.Marshal(rs)
	if err != nil {
		t.Fatal(err)
	}
	end := bytes.Index(ps[1].Checkpoint, []byte("\n\n")) + 2
	twin := append(bytes.Clone(ps[1].Checkpoint[:end]), signatureMark+testBox.Origin()+" "+base64.StdEncoding.EncodeToString(append(sig[:4:4], der...))+"\n"...)
	a, err := OpenCheckpoint(ps[1].Checkpoint, testBox, &key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := OpenCheckpoint(twin, testBox, &key.PublicKey); err != nil || a != b {
		t.Fatalf("the twin says %+v, %v", b, err)
	}
}

func TestProofText(t *testing.T) {
	key := newKey(t)
	leaves, ps := sealed(t, key, 6)
	for i, p := range ps {
		text := p.Text()
		got, err := ParseProof(leaves[i], text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(got, testBox, &key.PublicKey); err != nil {
			t.Fatal(err)
		}
		for off := range text {
			bent := bytes.Clone(text)
			bent[off] ^= 1 << (off % 8)
			got, err := ParseProof(leaves[i], bent)
			if err == nil {
				_, err = Verify(got, testBox, &key.PublicKey)
			}
			if ReasonOf(err) == "" {
				t.Fatalf("record %d: byte %d of the proof changed and nobody saw it: %v", i, off, err)
			}
		}
	}
}

// A leaf has one form. Nothing that means the same in other bytes is taken.
func TestLeafIsCanonical(t *testing.T) {
	h := Header{Box: testBox, Index: 7, Kind: KindVitals, Epoch: 3, Patient: strings.Repeat("0a", 16), Digest: Digest{0xab}, Commit: [32]byte{1},
		Observed: reading("", 0).Observed, Arrived: reading("", 0).Arrived}
	good := string(h.AppendText(nil)) + "body"
	got, body, err := ParseLeaf(Leaf(good))
	if err != nil || got != h || string(body) != "body" {
		t.Fatalf("%+v %q %v", got, body, err)
	}
	for _, c := range [][2]string{
		{"v1\n", "v2\n"}, {"index 7", "index 07"}, {"index 7", "index +7"}, {"index 7", "index 9999999999999"}, {"epoch 3", "epoch 7"}, {"epoch 3", "epoch 8"},
		{"kind vitals", "kind lab"}, {"kind vitals", "kind boot"}, {"kind vitals", "kind epoch"}, {"patient 0a", "patient 0A"}, {"patient 0a", "patient 0"},
		{"observed 2026-11-21T06:09:26.123Z", "observed 2026-11-21T06:09:26.1230Z"}, {"observed 2026-11-21T06:09:26.123Z", "observed 2026-11-21T06:09:26.123+00:00"},
		{"observed 2026-11-21T06:09:26.123Z", "observed 0001-01-01T00:00:00.000Z"}, {"observed 2026-11-21T06:09:26.123Z", "observed 2026-02-30T06:09:26.123Z"},
		{"digest ab", "digest AB"}, {"digest ab", "digest b"}, {"digest ab", "digest 00"}, {"digest ab", "digest xb"}, {"\ndigest ab" + strings.Repeat("00", 15), ""},
		{"box f1/gw1", "box f1/GW1"}, {"box f1/gw1", "box f1"}, {"box f1/gw1", "box  f1/gw1"}, {"\ncommit", "\nnote x\ncommit"},
		{"\n", "\r\n"}, {"commit " + base64.StdEncoding.EncodeToString(h.Commit[:]), "commit -"}, {"AA=\n\n", "AB=\n\n"}, {"\nkind vitals\nepoch 3", "\nepoch 3\nkind vitals"},
	} {
		bent := strings.Replace(good, c[0], c[1], 1)
		if bent == good {
			t.Fatalf("%q does not occur", c[0])
		}
		if _, _, err := ParseLeaf(Leaf(bent)); err == nil {
			t.Errorf("%q instead of %q: taken", c[1], c[0])
		}
	}
	if _, _, err := ParseLeaf(make(Leaf, MaxLeaf+1)); err == nil {
		t.Error("a leaf over the limit: taken")
	}
}

func TestBoxID(t *testing.T) {
	for _, s := range []string{"f1/gw1", "a/b", "st-mary/icu-3-west-" + strings.Repeat("x", 13)} {
		b, err := ParseBoxID(s)
		if err != nil || b.String() != s {
			t.Errorf("%s: %v", s, err)
		}
		if o, err := ParseOrigin(b.Origin()); err != nil || o != b {
			t.Errorf("%s: origin: %v", s, err)
		}
	}
	for _, s := range []string{"", "f1", "/", "f1/", "/gw1", "f1/gw1/x", "F1/gw1", "f1/gw.1", "f1/gw*", "f1/" + strings.Repeat("x", 33), "f1/gw1\n", "f1/>"} {
		if _, err := ParseBoxID(s); err == nil {
			t.Errorf("%q: taken", s)
		}
	}
	if testBox.Origin() != "vitalgate/f1/gw1" || testBox.Subject() != "obs.f1.gw1" {
		t.Error("names")
	}
}
