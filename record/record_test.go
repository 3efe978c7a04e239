package record

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"testing"
	"time"
)

var testBox = BoxID{"f1", "gw1"}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newReader(t testing.TB) ReaderSecret {
	t.Helper()
	k, err := GenerateReaderKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newSealer(t testing.TB, network, patient []ReaderKey) *Sealer {
	t.Helper()
	s, err := NewSealer(testBox, network, patient)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sign makes the checkpoint of a tree.
func sign(t testing.TB, key *ecdsa.PrivateKey, tree Tree) SignedCheckpoint {
	t.Helper()
	sc, err := Checkpoint{Origin: testBox.Origin(), Size: tree.Size(), Root: tree.Root(), Boot: 3, Clock: 123456, Counter: 7, Protection: "software"}.Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	return sc
}

// publish proves leaves after prev and verifies each.
func publish(t testing.TB, key *ecdsa.PrivateKey, prev Tree, leaves []Leaf) []Verified {
	t.Helper()
	tree := prev
	for _, l := range leaves {
		tree.Append(l)
	}
	ps, err := Prove(prev, leaves, sign(t, key, tree))
	if err != nil {
		t.Fatal(err)
	}
	v := NewVerifier(testBox, &key.PublicKey)
	var out []Verified
	for _, p := range ps {
		one, err := v.Verify(p)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, one)
	}
	return out
}

func reading(patient string, n int) Reading {
	at := time.Date(2026, 11, 21, 6, 9, 26, 123e6, time.UTC)
	return Reading{Kind: KindVitals, Patient: patient, Observed: at, Arrived: at.Add(time.Second), Digest: Digest{1, 2, 3}, Content: Content{
		Monitor: "icu-3-bed-12", Via: "tcp 10.0.0.7:51234", Notes: []string{"idle-ended"},
		Bundle: bytes.Repeat([]byte(`{"resourceType":"Observation","valueQuantity":{"value":72.50,"unit":"/min"}}`), n),
		Raw:    []byte("MSH|^~\\&|MONITOR\rPID|||" + patient + "\r"),
	}}
}

func sameContent(a, b Content) bool {
	return a.Monitor == b.Monitor && a.Via == b.Via && a.Reason == b.Reason && fmt.Sprint(a.Notes) == fmt.Sprint(b.Notes) &&
		bytes.Equal(a.Bundle, b.Bundle) && bytes.Equal(a.Raw, b.Raw)
}

// What a monitor sent comes out at the reader as it was, and at nobody else.
func TestReadingReachesReaderOnly(t *testing.T) {
	key, alice, mallory := newKey(t), newReader(t), newReader(t)
	s := newSealer(t, []ReaderKey{alice.Public()}, nil)
	var leaves []Leaf
	var sent []Reading
	for i := range 5 {
		r := reading("PAT-4711-0815", i*40)
		if i == 3 {
			r = Reading{Kind: KindRaw, Content: Content{Monitor: "m", Reason: "cannot parse:\nno MSH", Raw: []byte{0, 1, 2, 255}}}
		}
		ls, err := s.Seal(uint64(len(leaves)), r)
		if err != nil {
			t.Fatal(err)
		}
		leaves = append(leaves, ls...)
		sent = append(sent, r)
	}
	if len(leaves) != 7 {
		t.Fatalf("%d leaves, want 5 records and 2 epochs", len(leaves))
	}
	for i, l := range leaves {
		if bytes.Contains(l, []byte("PAT-4711-0815")) || bytes.Contains(l, []byte("72.50")) || bytes.Contains(l, []byte("icu-3")) {
			t.Errorf("leaf %d shows the patient, a value or the bed", i)
		}
	}
	o, m := NewOpener(alice), NewOpener(mallory)
	n := 0
	for _, v := range publish(t, key, Tree{}, leaves) {
		if _, err := m.Open(v); err == nil || v.Header().Kind == KindEpoch && !errors.Is(err, ErrNoKey) {
			t.Errorf("a stranger's key on leaf %d: %v", v.Header().Index, err)
		}
		c, err := o.Open(v)
		if v.Header().Kind.Control() {
			if !errors.Is(err, ErrNoContent) {
				t.Errorf("epoch: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		want := sent[n]
		if n == 3 {
			want.Content.Reason = "cannot parse: no MSH"
		}
		if !sameContent(c, want.Content) {
			t.Errorf("record %d came out changed", n)
		}
		if h := v.Header(); h.Kind != want.Kind || !h.Observed.Equal(want.Observed) || !h.Arrived.Equal(want.Arrived) || h.Digest != want.Digest {
			t.Errorf("record %d: header %+v", n, h)
		}
		n++
	}
	if n != len(sent) {
		t.Fatalf("%d readings came out of %d", n, len(sent))
	}
}
