package logfile

import (
	"fmt"
	"testing"

	"github.com/vitalgate/vitalgate/record"
)

// BenchmarkAppendSync is the time for one 2 KB leaf in a group of n that is made safe together.
func BenchmarkAppendSync(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			l, err := Open(b.TempDir(), Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			group := make([]record.Leaf, n)
			b.SetBytes(2 << 10)
			for i := 0; i < b.N; i += n {
				b.StopTimer()
				for j := range group {
					group[j] = leaf(l.Next()+uint64(j), 2<<10)
				}
				b.StartTimer()
				if err := l.Append(group...); err != nil {
					b.Fatal(err)
				}
				if err := l.Sync(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRead is the time for one 2 KB record, proved, in groups of 64.
func BenchmarkRead(b *testing.B) {
	w := newWriter(b, b.TempDir(), Options{})
	for range 64 {
		w.append(64, 2<<10)
		w.sync()
		w.sign()
	}
	b.SetBytes(2 << 10)
	b.ResetTimer()
	for n := 0; n < b.N; {
		r := w.log.Reader(0)
		for n < b.N {
			ps, err := r.Next()
			if err != nil {
				break
			}
			n += len(ps)
		}
		r.Close()
	}
}

// BenchmarkOpen is the time to open a log whose last segment is full.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	w := newWriter(b, dir, Options{})
	for range 62 {
		w.append(64, 2<<10)
	}
	w.sync()
	w.log.Close()
	b.SetBytes(62 * 64 * 2 << 10)
	for b.Loop() {
		l, err := Open(dir, Options{})
		if err != nil {
			b.Fatal(err)
		}
		l.Close()
	}
}
