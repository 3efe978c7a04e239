package record

import (
	"bytes"
	"fmt"
	"testing"
)

// Whatever comes in, a parser answers without a panic, and what it takes is exactly what it writes again.

func FuzzParseLeaf(f *testing.F) {
	for i := range 6 {
		f.Add(readVector(f, fmt.Sprint(i)+".leaf"))
	}
	f.Add([]byte("vitalgate/record/v1\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, body, err := ParseLeaf(b)
		if err != nil {
			return
		}
		if again := append(h.AppendText(nil), body...); !bytes.Equal(again, b) {
			t.Fatalf("%q is read as %q", b, again)
		}
		switch h.Kind {
		case KindBoot:
			if boot, err := ParseBoot(body); err == nil && !bytes.Equal(must(boot.AppendText(nil)), body) {
				t.Fatal("a boot leaf with two forms")
			}
		case KindEpoch:
			if shares, err := parseEpoch(body); err == nil && (len(shares) == 0 || len(shares) > maxReaders) {
				t.Fatal("an epoch without shares")
			}
		}
	})
}

func FuzzParsePublished(f *testing.F) {
	for i := range 6 {
		f.Add(readVector(f, fmt.Sprint(i)+".published"))
		f.Add(readVector(f, fmt.Sprint(i)+".tlog-proof"))
	}
	leaf, good, pub := readVector(f, "2.leaf"), map[string]bool{}, vectorKey(f)
	for i := range 6 {
		good[string(readVector(f, fmt.Sprint(i)+".leaf"))] = true
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePublished(b)
		if err == nil {
			if again, err := p.AppendBinary(nil); err != nil || !bytes.Equal(again, b) {
				t.Fatalf("%x is read as %x: %v", b, again, err)
			}
			if _, err := Verify(p, testBox, pub); err == nil && !good[string(p.Leaf)] {
				t.Fatal("a record that the box never signed is verified")
			} else if err != nil && ReasonOf(err) == "" {
				t.Fatalf("no reason: %v", err)
			}
		}
		if p, err := ParseProof(leaf, b); err == nil && !bytes.Equal(p.Text(), b) {
			t.Fatalf("%q is read as %q", b, p.Text())
		}
	})
}

func FuzzOpenCheckpoint(f *testing.F) {
	good := readVector(f, "checkpoint")
	f.Add(good)
	f.Add(append(bytes.Clone(good), "\u2014 witness/w AAAAAAAA\n"...))
	pub := vectorKey(f)
	text := good[:bytes.Index(good, []byte("\n\n"))+1]
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := SignedCheckpoint(b).Unverified()
		if err != nil {
			return
		}
		again := c.AppendText(nil)
		if !bytes.HasPrefix(b, append(bytes.Clone(again), '\n')) {
			t.Fatalf("%q is read as %q", b, again)
		}
		if _, err := OpenCheckpoint(b, testBox, pub); err == nil && !bytes.Equal(again, text) {
			t.Fatal("a checkpoint that the box never signed is opened")
		}
	})
}

func FuzzContent(f *testing.F) {
	for i, c := range vectorContent {
		f.Add(readVector(f, fmt.Sprint(i)+".content"))
		f.Add(newCompressor().EncodeAll(must(c.AppendBinary(nil)), nil))
	}
	d := newDecompressor()
	f.Fuzz(func(t *testing.T, b []byte) {
		if out, err := decompress(d, b); err == nil && len(out) > MaxContent {
			t.Fatalf("%d bytes became %d", len(b), len(out))
		}
		c, err := ParseContent(b)
		if err != nil {
			return
		}
		again := append(append(c.appendHeader(nil, len(c.Bundle), len(c.Raw)), c.Bundle...), c.Raw...)
		if !bytes.Equal(again, b) {
			t.Fatalf("%q is read as %q", b, again)
		}
	})
}
