package hl7

import (
	"bufio"
	"bytes"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// checkMessage holds what must be true of every message that Parse takes.
func checkMessage(t *testing.T, m *Message) {
	t.Helper()
	if m.Len() == 0 || m.Header().Name() != "MSH" {
		t.Fatalf("the first of %d segments is %q, not MSH", m.Len(), m.Header().Name())
	}
	out := m.Append(nil)
	if got, want := lines(out), lines(m.Raw()); !strings.HasSuffix(want, got) && !strings.Contains(want, got) {
		t.Fatalf("written again the message differs:\n got %q\nwant %q", got, want)
	}
	again, err := Parse(out)
	if err != nil {
		t.Fatalf("what was written cannot be read: %v", err)
	}
	if twice := again.Append(nil); !bytes.Equal(twice, out) {
		t.Fatalf("written twice the message differs:\n got %q\nwant %q", twice, out)
	}
	if was, is := charsetOf(m), charsetOf(again); was != is || m.Delimiters() != again.Delimiters() || m.Len() != again.Len() {
		t.Fatalf("written again %d segments in %s, delimiters %q, are %d in %s, %q", m.Len(), was, m.Delimiters(), again.Len(), is, again.Delimiters())
	}
	for i := range m.Len() {
		s, a := m.Segment(i), again.Segment(i)
		if s.Name() != a.Name() || s.Sequence() != a.Sequence() || s.Fields() != a.Fields() || !bytes.Equal(s.Raw(), a.Raw()) {
			t.Fatalf("written again segment %d differs:\n got %s[%d] %q\nwant %s[%d] %q", i, a.Name(), a.Sequence(), a.Raw(), s.Name(), s.Sequence(), s.Raw())
		}
	}
	d := m.Delimiters()
	for i := range m.Len() {
		s := m.Segment(i)
		if s.Index() != i {
			t.Fatalf("segment %d says it is %d", i, s.Index())
		}
		// The parts, put together again, are the segment.
		var whole []byte
		if s.Name() == "MSH" || s.Name() == "FHS" || s.Name() == "BHS" {
			whole = append(whole, s.Name()...)
			for n := 2; n <= s.Fields(); n++ {
				whole = appendField(append(whole, d.Field), s.Field(n), d)
			}
		} else {
			whole = bytes.Clone(s.Raw())
			if bars := s.bars(); len(bars) > 0 {
				whole = whole[:bars[0]-m.segments[i].start]
			}
			for n := 1; n <= s.Fields(); n++ {
				whole = appendField(append(whole, d.Field), s.Field(n), d)
			}
		}
		if !bytes.Equal(whole, s.Raw()) {
			t.Fatalf("the fields of %s do not make the segment:\n got %q\nwant %q", s.Name(), whole, s.Raw())
		}
	}
}

// appendField puts a field together from its smallest parts. What the numbers 1, 2, 3 … name must be what comes along one by one;
// each number is looked for from the start, so only the first are asked for.
func appendField(dst []byte, f Value, d Delimiters) []byte {
	same := func(n int, byNumber func(int) Value, v Value) {
		if n <= 40 && !bytes.Equal(byNumber(n).Raw(), v.Raw()) {
			panic("a part is not the one of its number")
		}
	}
	reps := 0
	for r, rep := range f.Repetitions() {
		if reps = r; r > 1 {
			dst = append(dst, d.Repetition)
		}
		same(r, f.Rep, rep)
		comps := 0
		for c, comp := range rep.Components() {
			if comps = c; c > 1 {
				dst = append(dst, d.Component)
			}
			same(c, rep.Comp, comp)
			subs := 0
			for s, sub := range comp.Subcomponents() {
				if subs = s; s > 1 {
					dst = append(dst, d.Subcomponent)
				}
				same(s, comp.Sub, sub)
				dst = append(dst, sub.Raw()...)
				if !utf8.ValidString(sub.String()) {
					panic("text is not UTF-8")
				}
			}
			if subs != comp.Subs() {
				panic("the subcomponents are counted wrongly")
			}
		}
		if comps != rep.Comps() {
			panic("the components are counted wrongly")
		}
	}
	if reps != f.Reps() {
		panic("the repetitions are counted wrongly")
	}
	return dst
}

// lines gives b without terminators, blank bytes at line ends and framing.
func lines(b []byte) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("\r\n\x00\x0b\x1c \t", r) {
			return -1
		}
		return r
	}, string(b))
}

func TestSplitTellsACutBlock(t *testing.T) {
	const one, two = "MSH|^~\\&|A\rPID|1", "MSH|^~\\&|B\rPID|2"
	for _, c := range []struct {
		name, in string
		cut      []bool
	}{
		{"whole", "\x0b" + one + "\r\x1c\r", []bool{false}},
		{"no end", "\x0b" + one + "\r", []bool{true}},
		{"no end before the next", "\x0b" + one + "\r\x0b" + two + "\r\x1c\r", []bool{true, false}},
		{"bare", one + "\r" + two + "\r", []bool{false, false}},
		{"last 0D missing", "\x0b" + one + "\r\x1c\x0b" + two + "\r\x1c", []bool{false, false}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := bufio.NewScanner(strings.NewReader(c.in))
			s.Split(SplitMessages)
			var got []bool
			for s.Scan() {
				got = append(got, Cut(s.Bytes()))
			}
			if !slices.Equal(got, c.cut) {
				t.Errorf("%v, want %v", got, c.cut)
			}
		})
	}
}
