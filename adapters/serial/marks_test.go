package serial

import (
	"bytes"
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
		{"\xff\x00\x00", "\x1a", []int{0}},  // a break
		{"\xffa\xff\xff", "\xffa\xff", nil}, // a driver that does not double
		{"\xff\xff\x00\xff\x00a\xff\xff", "\xff\x00\x1a\xff", []int{2}},
	} {
		for cut := range len(c.in) + 1 {
			var m marks
			var got []byte
			var damaged []int
			for _, p := range []string{c.in[:cut], c.in[cut:]} {
				var d []int
				got, d = m.decode(got, []byte(p))
				damaged = append(damaged, d...)
			}
			if string(got) != c.want || !slices.Equal(damaged, c.damaged) {
				t.Errorf("%q cut at %d gives %q, damaged %v; want %q, %v", c.in, cut, got, damaged, c.want, c.damaged)
			}
		}
	}
}

// Whatever comes and however it is cut: as many bytes as the marks leave, and each damaged one within them.
func FuzzMarks(f *testing.F) {
	f.Add([]byte("a\xff\xffb\xff\x00c\xff"), uint8(3))
	f.Fuzz(func(t *testing.T, in []byte, cut uint8) {
		c := min(int(cut), len(in))
		var whole, parts marks
		want, damaged := whole.decode(nil, in)
		got, d1 := parts.decode(nil, in[:c])
		got, d2 := parts.decode(got, in[c:])
		if !bytes.Equal(got, want) || !slices.Equal(append(d1, d2...), damaged) {
			t.Fatalf("cut at %d: %q %v, whole %q %v", c, got, append(d1, d2...), want, damaged)
		}
		if len(want) > len(in) {
			t.Fatalf("%q gives more than came: %q", in, want)
		}
		for _, i := range damaged {
			if want[i] != substitute {
				t.Fatalf("%d in %q is no damaged byte", i, want)
			}
		}
	})
}
