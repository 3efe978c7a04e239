package hl7

import (
	"os"
	"testing"
	"time"
)

// vitals20 is a PCD-01 message of our own with 20 numeric observations.
func vitals20(tb testing.TB) []byte {
	raw, err := os.ReadFile("testdata/vitals20.hl7")
	if err != nil {
		tb.Fatal(err)
	}
	return raw
}

// readObservations sums the sizes of code, value and unit of every OBX.
func readObservations(m *Message) (rows, size int) {
	for i := range m.Len() {
		s := m.Segment(i)
		if s.Name() != "OBX" {
			continue
		}
		rows++
		size += len(s.Field(3).Comp(1).Raw()) + len(s.Field(5).Raw()) + len(s.Field(6).Comp(1).Raw())
	}
	return rows, size
}

func BenchmarkParse(b *testing.B) {
	raw := vitals20(b)
	var m Message
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if err := m.Reset(raw, DefaultLimits); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseRead(b *testing.B) {
	raw := vitals20(b)
	var m Message
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if err := m.Reset(raw, DefaultLimits); err != nil {
			b.Fatal(err)
		}
		if rows, size := readObservations(&m); rows != 20 || size == 0 {
			b.Fatal(rows, size)
		}
	}
}

func BenchmarkAck(b *testing.B) {
	m, err := Parse(vitals20(b))
	if err != nil {
		b.Fatal(err)
	}
	at := time.Date(2026, 11, 21, 6, 0, 0, 0, time.UTC)
	var ack []byte
	b.ReportAllocs()
	for b.Loop() {
		ack = AppendAck(ack[:0], m, AA, at, "1", nil...)
	}
}

func BenchmarkText(b *testing.B) {
	m, err := Parse([]byte("MSH|^~\\&|A||||||ORU^R01|1|P|2.5\rOBX|1|ST|a||2.73x10\\S\\-7 caf\xe9\r"))
	if err != nil {
		b.Fatal(err)
	}
	v := m.Segment(1).Field(5)
	var text []byte
	b.ReportAllocs()
	for b.Loop() {
		text = v.AppendText(text[:0])
	}
	if string(text) != "2.73x10^-7 café" {
		b.Fatalf("%q", text)
	}
}

func BenchmarkParseTime(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseTime("20261121060102.123+0100", nil); err != nil {
			b.Fatal(err)
		}
	}
}
