package hl7

import "testing"

func TestPartsOfAField(t *testing.T) { // §2.5.3
	m := parse(t, header+"\rPID|1||A1&a2&a3^B1~C1^^C3||\"\"|^^||&x~\r")
	pid := m.Segment(1)
	f := pid.Field(3)
	if f.Reps() != 2 || f.Comps() != 2 || f.Subs() != 3 {
		t.Errorf("got %d repetitions, %d components, %d subcomponents", f.Reps(), f.Comps(), f.Subs())
	}
	for want, v := range map[string]Value{
		"A1&a2&a3^B1~C1^^C3": f, "A1&a2&a3^B1": f.Rep(1), "C1^^C3": f.Rep(2), "": f.Rep(3),
		"A1&a2&a3": f.Comp(1), "B1": f.Comp(2), "A1": f.Sub(1), "a3": f.Rep(1).Comp(1).Sub(3), "C3": f.Rep(2).Comp(3),
	} {
		if string(v.Raw()) != want {
			t.Errorf("got %q, want %q", v.Raw(), want)
		}
	}
	if v := f.Rep(2).Comp(2); !v.Empty() || v.Null() || v.Subs() != 0 {
		t.Error("the empty component is not empty")
	}
	if v := f.Rep(2); v.Rep(1) != v || !v.Rep(2).Empty() || v.Reps() != 1 {
		t.Error("a repetition is its own first repetition")
	}
	if pid.Field(6).Comps() != 3 || pid.Field(6).Empty() {
		t.Error("a field of empty components has components")
	}
	if v := pid.Field(8); v.Reps() != 2 || !v.Comp(1).Sub(1).Empty() || v.Sub(2).String() != "x" || !v.Rep(2).Empty() {
		t.Errorf("got %d repetitions of %q", v.Reps(), v.Raw())
	}
}

func TestNullIsNotEmpty(t *testing.T) { // §2.5.3: "" deletes, empty leaves as it is
	pid := parse(t, header+"\rPID|\"\"||\"\"^\"\"|\"\r").Segment(1)
	for n, want := range map[int][2]bool{1: {true, false}, 2: {false, true}, 3: {false, false}, 4: {false, false}, 5: {false, true}} {
		v := pid.Field(n)
		if got := [2]bool{v.Null(), v.Empty()}; got != want {
			t.Errorf("PID-%d null, empty are %v, want %v", n, got, want)
		}
	}
	if !pid.Field(3).Comp(2).Null() {
		t.Error("a component can be null too")
	}
	if pid.Field(1).String() != `""` {
		t.Error("the text of null is as sent")
	}
}

func TestDelimitersNotInUseSplitNothing(t *testing.T) {
	m := parse(t, "MSH|^|A\rPID|a~b&c\\F\\|x^y\r")
	f := m.Segment(1).Field(1)
	if f.Reps() != 1 || f.Subs() != 1 || f.String() != `a~b&c\F\` {
		t.Errorf("got %d repetitions, %d subcomponents, %q", f.Reps(), f.Subs(), f.String())
	}
	if m.Segment(1).Field(2).Comps() != 2 {
		t.Error("components are in use")
	}
}

func TestRangesGiveWhatNumbersGive(t *testing.T) {
	pid := parse(t, header+"\rPID|A1&a2&a3^B1~C1^^C3~||^|a^|&x~|\"\"|z\r").Segment(1)
	for n := range pid.Fields() + 2 {
		f := pid.Field(n)
		values := []Value{f, f.Rep(1), f.Rep(2), f.Rep(2).Comp(3), f.Comp(1).Sub(2)}
		for _, v := range values {
			reps, comps, subs := 0, 0, 0
			for i, p := range v.Repetitions() {
				if reps++; i != reps || p != v.Rep(i) {
					t.Errorf("PID-%d: repetition %d of %q is %q, want %q", n, i, v.Raw(), p.Raw(), v.Rep(i).Raw())
				}
			}
			for i, p := range v.Components() {
				if comps++; i != comps || p != v.Comp(i) {
					t.Errorf("PID-%d: component %d of %q is %q, want %q", n, i, v.Raw(), p.Raw(), v.Comp(i).Raw())
				}
			}
			for i, p := range v.Subcomponents() {
				if subs++; i != subs || p != v.Sub(i) {
					t.Errorf("PID-%d: subcomponent %d of %q is %q, want %q", n, i, v.Raw(), p.Raw(), v.Sub(i).Raw())
				}
			}
			if reps != v.Reps() || comps != v.Comps() || subs != v.Subs() {
				t.Errorf("PID-%d: %q has %d, %d, %d parts, want %d, %d, %d", n, v.Raw(), reps, comps, subs, v.Reps(), v.Comps(), v.Subs())
			}
		}
	}
	for i := range pid.Field(1).Components() {
		if i == 1 {
			break
		}
	}
}
