package serial

import (
	"slices"
	"testing"
)

// A byte that came damaged must not become part of a value; and the FF of text must come through. Wherever a read ends.
func TestMarks(t *testing.T) {
	for _, c := range []struct {
		in      string
		want    string
		damaged []int
	}{
		{"plain", "plain", nil},
		{"a\xff\xffb", "a\xffb", nil},
		{"1\xff\x002x", "1\x1ax", []int{1}},
		{"\xff\x00\x00", "\x1a", []int{0}}, // a break
		{"\xff\xff\x00\xff\x00a\xff\xff", "\xff\x00\x1a\xff", []int{2}},
	} {
		for cut := range len(c.in) + 1 {
			var m marks
			var got []byte
			var damaged []int
			for _, p := range [][]byte{[]byte(c.in[:cut]), []byte(c.in[cut:])} {
				n, d := m.decode(p)
				for _, i := range d {
					damaged = append(damaged, len(got)+i)
				}
				got = append(got, p[:n]...)
			}
			if string(got) != c.want || !slices.Equal(damaged, c.damaged) {
				t.Errorf("%q cut at %d gives %q, damaged %v; want %q, %v", c.in, cut, got, damaged, c.want, c.damaged)
			}
		}
	}
}
