package logfile

import (
	"testing"

	"github.com/vitalgate/vitalgate/record"
)

func TestLeavesGivesWhatIsSafeSignedOrNot(t *testing.T) {
	w := newWriter(t, t.TempDir(), Options{SegmentBytes: 4 << 10})
	const n = 100
	for i := range n {
		w.append(1, 100)
		if i%7 == 0 {
			w.sync()
		}
		if i == 50 {
			w.sign()
		}
	}
	w.sync()
	for _, from := range []uint64{0, 1, 33, n - 1, n, 1000} {
		want := from
		if err := w.log.Leaves(from, func(l record.Leaf) error {
			h, _, err := record.ParseLeaf(l)
			if err != nil || h.Index != want {
				t.Fatalf("from %d: leaf %d where %d should be (%v)", from, h.Index, want, err)
			}
			want++
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if want != max(n, from) {
			t.Errorf("from %d: ended at %d", from, want)
		}
	}
}
