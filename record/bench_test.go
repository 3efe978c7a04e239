package record

import (
	"fmt"
	"os"
	"testing"
)

// benchReading has a Bundle of 16 KB with changing values and the 2 KB message it was made of.
func benchReading(n int) Reading {
	r := reading("PAT-4711-0815", 0)
	for i := 0; len(r.Content.Bundle) < 16<<10; i++ {
		r.Content.Bundle = fmt.Appendf(r.Content.Bundle, `{"fullUrl":"urn:uuid:%08x-0000-4000-8000-%012x","resource":{"resourceType":"Observation","status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}],"code":{"coding":[{"system":"http://loinc.org","code":"%d-4"},{"system":"urn:iso:std:iso:11073:10101","code":"%d"}]},"effectiveDateTime":"2026-11-21T06:09:%02d.%03d+01:00","valueQuantity":{"value":%d.%d,"unit":"/min","system":"http://unitsofmeasure.org","code":"/min"}}},`,
			n*7919+i*104729, n*31+i*17, 8867+i, 147842+4*i, i%60, (n*37)%1000, 60+(n+i*7)%50, (n*3+i)%100)
	}
	for i := 0; len(r.Content.Raw) < 2<<10; i++ {
		r.Content.Raw = fmt.Appendf(r.Content.Raw, "OBX|%d|NM|%d^MDC_X^MDC|1.1.1.%d|%d.%d|264864^MDC_DIM_BEAT_PER_MIN^MDC|||||F|||20261121060926.%03d\r", i, 147842+4*i, i, 60+(n+i*7)%50, (n*3+i)%100, n%1000)
	}
	return r
}

func BenchmarkSeal(b *testing.B) {
	for _, side := range []string{"record", "epoch"} {
		b.Run(side, func(b *testing.B) {
			s := newSealer(b, []ReaderKey{newReader(b).Public()}, nil)
			readings := make([]Reading, 64)
			for i := range readings {
				readings[i] = benchReading(i)
			}
			next, size := uint64(0), 0
			b.SetBytes(int64(len(readings[0].Content.Bundle) + len(readings[0].Content.Raw)))
			b.ReportAllocs()
			for b.Loop() {
				if side == "epoch" {
					s.End()
				}
				leaves, err := s.Seal(next, readings[next%64])
				if err != nil {
					b.Fatal(err)
				}
				next += uint64(len(leaves))
				size = len(leaves[len(leaves)-1])
			}
			b.ReportMetric(float64(size), "leaf-bytes")
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	key, reader := newKey(b), newReader(b)
	s := newSealer(b, []ReaderKey{reader.Public()}, nil)
	leaves, err := s.Seal(0, benchReading(1))
	if err != nil {
		b.Fatal(err)
	}
	vs := publish(b, key, Tree{}, leaves)
	o := NewOpener(reader)
	o.Open(vs[0])
	b.ReportAllocs()
	for b.Loop() {
		if _, err := o.Open(vs[1]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseLeaf(b *testing.B) {
	leaf, err := os.ReadFile(vectors + "/2.leaf")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := ParseLeaf(leaf); err != nil {
			b.Fatal(err)
		}
	}
}

func benchLeaves(n, size int) (prev Tree, leaves []Leaf) {
	for i := range 4003 {
		prev.Append(Leaf(fmt.Sprint(i)))
	}
	for i := range n {
		h := Header{Box: testBox, Index: uint64(4003 + i), Kind: KindVitals, Epoch: 1, Commit: [32]byte{1}}
		leaves = append(leaves, append(h.AppendText(nil), make([]byte, size)...))
	}
	return prev, leaves
}

func BenchmarkTreeAppend(b *testing.B) {
	tree, leaves := benchLeaves(1, 2<<10)
	b.SetBytes(int64(len(leaves[0])))
	for b.Loop() {
		tree.Append(leaves[0])
	}
}

func BenchmarkSign(b *testing.B) { // with a software key; a chip takes 25 to 190 ms
	key := newKey(b)
	tree, _ := benchLeaves(0, 0)
	c := Checkpoint{Origin: testBox.Origin(), Size: tree.Size(), Root: tree.Root(), Protection: "software"}
	for b.Loop() {
		if _, err := c.Sign(key); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkProve is the time for one record of a group of n with 2 KB leaves.
func BenchmarkProve(b *testing.B) {
	for _, n := range []int{1, 16, 256} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			prev, leaves := benchLeaves(n, 2<<10)
			tree := prev
			for _, l := range leaves {
				tree.Append(l)
			}
			sc := sign(b, newKey(b), tree)
			b.ReportAllocs()
			for i := 0; i < b.N; i += n {
				if _, err := Prove(prev, leaves, sc); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	key := newKey(b)
	prev, leaves := benchLeaves(256, 2<<10)
	tree := prev
	for _, l := range leaves {
		tree.Append(l)
	}
	ps, err := Prove(prev, leaves, sign(b, key, tree))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("alone", func(b *testing.B) {
		i := 0
		for b.Loop() {
			if _, err := Verify(ps[i%256], testBox, &key.PublicKey); err != nil {
				b.Fatal(err)
			}
			i++
		}
	})
	b.Run("known-checkpoint", func(b *testing.B) {
		v, i := NewVerifier(testBox, &key.PublicKey), 0
		b.ReportAllocs()
		for b.Loop() {
			if _, err := v.Verify(ps[i%256]); err != nil {
				b.Fatal(err)
			}
			i++
		}
	})
	b.Run("parse-published", func(b *testing.B) {
		wire := must(ps[7].AppendBinary(nil))
		b.ReportMetric(float64(len(wire)-len(ps[7].Leaf)), "proof-bytes")
		for b.Loop() {
			if _, err := ParsePublished(wire); err != nil {
				b.Fatal(err)
			}
		}
	})
}
