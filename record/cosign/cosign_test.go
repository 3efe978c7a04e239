package cosign_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/cosign"
)

var box = record.BoxID{Facility: "f1", Name: "gw1"}

func checkpoint(t testing.TB, size uint64) (record.SignedCheckpoint, *ecdsa.PublicKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sc, err := record.Checkpoint{Origin: box.Origin(), Size: size, Root: record.Hash{1}, Boot: 3, Clock: 9, Counter: 7, Protection: "software"}.Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	return sc, &key.PublicKey
}

func secret(t testing.TB, peer string) *cosign.Secret {
	t.Helper()
	s, err := cosign.Generate(cosign.Name("f1", peer))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func cosigned(t testing.TB, sc record.SignedCheckpoint, at time.Time, by ...*cosign.Secret) record.SignedCheckpoint {
	t.Helper()
	var lines []record.Signature
	for _, s := range by {
		l, err := s.Cosign(sc, at)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, l...)
	}
	note, err := sc.Cosigned(lines...)
	if err != nil {
		t.Fatal(err)
	}
	return note
}

func TestCosign(t *testing.T) {
	sc, pub := checkpoint(t, 6)
	ward, hub, other := secret(t, "ward1"), secret(t, "hub"), secret(t, "ward1")
	at := time.Unix(1700000000, 0).UTC()
	note := cosigned(t, sc, at, ward, hub)
	if _, err := record.OpenCheckpoint(note, box, pub); err != nil {
		t.Fatalf("with cosignatures the checkpoint does not open any more: %v", err)
	}
	for _, s := range []*cosign.Secret{ward, hub} {
		if lines, when, err := s.Public.Verify(note); err != nil || !when.Equal(at) || len(lines) != 2 {
			t.Errorf("%s: %v %v", s.Name, when, err)
		}
	}
	if _, _, err := other.Public.Verify(note); !errors.Is(err, cosign.ErrNone) {
		t.Errorf("another key under the same name: %v", err)
	}
	if _, _, err := ward.Public.Verify(sc); !errors.Is(err, cosign.ErrNone) {
		t.Errorf("not cosigned: %v", err)
	}
	bare, err := note.Cosigned()
	if err != nil || !bytes.Equal(bare, sc) {
		t.Errorf("without cosignatures it is not the checkpoint of the box: %v", err)
	}
}

// No byte of the text or of a cosignature can change, and no signature can be taken out, doubled or moved to another checkpoint.
func TestCosignatureTampering(t *testing.T) {
	sc, _ := checkpoint(t, 6)
	longer, _ := checkpoint(t, 7)
	ward := secret(t, "ward1")
	note := cosigned(t, sc, time.Unix(1700000000, 0), ward)
	lines, _, err := ward.Public.Verify(note)
	if err != nil {
		t.Fatal(err)
	}
	later, err := ward.Cosign(sc, time.Unix(1700000001, 0))
	if err != nil {
		t.Fatal(err)
	}
	for name, by := range map[string][]record.Signature{
		"only Ed25519": lines[:1], "only ML-DSA-44": lines[1:], "Ed25519 twice": {lines[0], lines[0], lines[1]},
		"two times": {lines[0], later[1]}, "ML-DSA-44 twice": {lines[0], lines[1], lines[1]},
	} {
		bent, err := sc.Cosigned(by...)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := ward.Public.Verify(bent); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	moved, err := longer.Cosigned(lines...)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := ward.Public.Verify(moved); err == nil {
		t.Error("on another checkpoint: taken")
	}
	for i := range lines {
		for at := 0; at < len(lines[i].Bytes); at += 1 + at/200*13 {
			bent := []record.Signature{lines[0], lines[1]}
			bent[i].Bytes = bytes.Clone(lines[i].Bytes)
			bent[i].Bytes[at] ^= 1
			n, err := sc.Cosigned(bent...)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := ward.Public.Verify(n); err == nil {
				t.Errorf("byte %d of signature %d changed: taken", at, i)
			}
		}
	}
}

func TestKeyForms(t *testing.T) {
	s := secret(t, "ward1")
	again, err := cosign.ParseSecret(s.Text())
	if err != nil || again.Text() != s.Text() {
		t.Fatal(err)
	}
	p, err := cosign.ParseKeys(s.Keys())
	if err != nil || strings.Join(p.Keys(), " ") != strings.Join(s.Keys(), " ") {
		t.Fatal(err)
	}
	words, err := s.Statement([]byte("a"))
	if err != nil || !p.States([]byte("a"), words) || p.States([]byte("b"), words) || p.States([]byte("a"), words[1:]) || secret(t, "ward1").States([]byte("a"), words) {
		t.Errorf("statements: %v", err)
	}
	keys := s.Keys()
	for name, bad := range map[string][]string{
		"none": nil, "one": keys[:1], "exchanged": {keys[1], keys[0]}, "twice": {keys[0], keys[0]}, "short": {keys[0], keys[1][:200]},
		"another name": {strings.Replace(keys[0], "ward1", "ward2", 1), strings.Replace(keys[1], "ward1", "ward2", 1)},
		"two names":    {keys[0], secret(t, "hub").Keys()[1]}, "text": {"a", "b"},
	} {
		if _, err := cosign.ParseKeys(bad); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	for _, bad := range []string{"", "vitalgate/cosigner/v1\n", strings.Replace(s.Text(), "v1", "v2", 1), s.Text() + "x", s.Text()[:40]} {
		if _, err := cosign.ParseSecret(bad); err == nil {
			t.Errorf("%q: taken", bad)
		}
	}
}

func BenchmarkCosign(b *testing.B) {
	sc, _ := checkpoint(b, 6)
	s := secret(b, "ward1")
	for b.Loop() {
		if _, err := s.Cosign(sc, time.Unix(1, 0)); err != nil {
			b.Fatal(err)
		}
	}
}
