package hl7

import (
	"bytes"
	"iter"
)

// Segment is one segment of a Message. The zero Segment is empty.
type Segment struct {
	m *Message
	i int
}

// Raw is the segment without its terminator.
func (s Segment) Raw() []byte {
	if s.m == nil {
		return nil
	}
	x := &s.m.segments[s.i]
	return s.m.raw[x.start:x.end]
}

// Name is the segment's name, as "OBX"; "" for a line that begins with none.
func (s Segment) Name() string {
	if s.m == nil {
		return ""
	}
	x := &s.m.segments[s.i]
	switch x.name {
	case 0:
		return ""
	case nameOBX: // nearly all that monitors send
		return "OBX"
	}
	key := [3]byte(s.m.raw[x.start : x.start+3])
	if name, ok := segmentNames[key]; ok {
		return name
	}
	return string(key[:])
}

// Index is the segment's place in the message, from 0.
func (s Segment) Index() int { return s.i }

// Sequence is the 1-based occurrence of the segment's name in the message.
func (s Segment) Sequence() int {
	if s.m == nil {
		return 0
	}
	return int(s.m.segments[s.i].sequence)
}

// Broken says whether the line behind the segment is none: it may be what is left of this segment, with a terminator in the middle of
// one of its fields, so that its last field may be cut.
func (s Segment) Broken() bool {
	return s.m != nil && s.i+1 < len(s.m.segments) && s.m.segments[s.i+1].name == 0
}

// isHeader: MSH, FHS and BHS count their separator as field 1 (HL7 v2.9 §2.14.9.1).
func (x *segment) isHeader() bool {
	return x.name == nameMSH || x.name == nameFHS || x.name == nameBHS
}

// bars gives the segment's field separators.
func (s Segment) bars() []uint32 {
	last := len(s.m.bars)
	if s.i+1 < len(s.m.segments) {
		last = int(s.m.segments[s.i+1].first)
	}
	return s.m.bars[s.m.segments[s.i].first:last]
}

// Fields is the number of the last field.
func (s Segment) Fields() int {
	if s.m == nil {
		return 0
	}
	n := len(s.bars())
	if s.m.segments[s.i].isHeader() {
		n++
	}
	return n
}

// Field gives field n, counted from 1 as the standard does: in MSH, FHS and
// BHS field 1 is the separator itself and field 2 the other delimiters. A field
// that is not there is an empty Value.
func (s Segment) Field(n int) Value {
	if s.m == nil || n < 1 {
		return Value{}
	}
	x := &s.m.segments[s.i]
	bars := s.bars()
	level := levelField
	if x.isHeader() {
		if n == 1 && len(bars) > 0 {
			return Value{s.m, bars[0], bars[0] + 1, levelWhole}
		}
		if n == 2 {
			level = levelWhole
		}
		n--
	}
	if n < 1 || n > len(bars) {
		return Value{}
	}
	v := Value{s.m, bars[n-1] + 1, x.end, level}
	if n < len(bars) {
		v.end = bars[n]
	}
	return v
}

// Value is a field, a repetition, a component or a subcomponent. The zero
// Value is empty. All numbers are 1-based; what is out of range is an empty Value.
type Value struct {
	m          *Message
	start, end uint32
	level      level
}

type level uint8

const (
	levelField level = iota
	levelRepetition
	levelComponent
	levelSubcomponent
	levelWhole // MSH-1, MSH-2: no delimiters inside
)

// Raw gives the bytes as sent: escaped, in the message's character set.
func (v Value) Raw() []byte {
	if v.m == nil {
		return nil
	}
	return v.m.raw[v.start:v.end:v.end]
}

// Empty says whether nothing was sent. A null is not empty.
func (v Value) Empty() bool { return v.start == v.end }

// Null says whether the sender asks to delete the value: "" (HL7 v2.9 §2.5.3).
func (v Value) Null() bool {
	return v.end-v.start == 2 && v.m.raw[v.start] == '"' && v.m.raw[v.start+1] == '"'
}

// Reps counts the repetitions; 0 if the field is empty.
func (v Value) Reps() int { return v.count(levelRepetition) }

// Rep gives repetition i.
func (v Value) Rep(i int) Value { return v.part(i, levelRepetition) }

// Comps counts the components, of the first repetition if v is a field; 0 if there is nothing.
func (v Value) Comps() int { return v.count(levelComponent) }

// Comp gives component i, of the first repetition if v is a field.
func (v Value) Comp(i int) Value { return v.part(i, levelComponent) }

// Subs counts the subcomponents, of the first component if v is more than that; 0 if there is nothing.
func (v Value) Subs() int { return v.count(levelSubcomponent) }

// Sub gives subcomponent i, of the first component if v is more than that.
func (v Value) Sub(i int) Value { return v.part(i, levelSubcomponent) }

// Repetitions ranges over the repetitions with their numbers. In a loop it is
// to be preferred to Rep, which searches from the start each time.
func (v Value) Repetitions() iter.Seq2[int, Value] { return v.parts(levelRepetition) }

// Components ranges over the components with their numbers, of the first
// repetition if v is a field; as in waveforms, where there are thousands.
func (v Value) Components() iter.Seq2[int, Value] { return v.parts(levelComponent) }

// Subcomponents ranges over the subcomponents with their numbers, of the first
// component if v is more than that.
func (v Value) Subcomponents() iter.Seq2[int, Value] { return v.parts(levelSubcomponent) }

// within narrows v to its first part until parts of that level come next.
func (v Value) within(want level) Value {
	for l := v.level + 1; l < want; l++ {
		v.end = v.find(v.start, v.delimiter(l))
		v.level = l
	}
	return v
}

func (v Value) delimiter(l level) byte {
	switch l {
	case levelRepetition:
		return v.m.delims.Repetition
	case levelComponent:
		return v.m.delims.Component
	default:
		return v.m.delims.Subcomponent
	}
}

// find gives the offset of the next c from start on, v.end if there is none.
func (v Value) find(start uint32, c byte) uint32 {
	return start + uint32(v.m.index(v.m.raw[start:v.end], c))
}

// index gives the offset of delimiter c in b, len(b) if it is not there or not in use.
func (m *Message) index(b []byte, c byte) int {
	if c == 0 {
		return len(b)
	}
	if m.charset.skip != nil {
		return indexMultibyte(b, c, m.charset.skip)
	}
	if n := bytes.IndexByte(b, c); n >= 0 {
		return n
	}
	return len(b)
}

func (v Value) count(want level) int {
	if v.m == nil || v.start == v.end {
		return 0
	}
	if v.level >= want {
		return 1
	}
	v = v.within(want)
	if v.start == v.end {
		return 0
	}
	c, n := v.delimiter(want), 1
	for at := v.find(v.start, c); at < v.end; at = v.find(at+1, c) {
		n++
	}
	return n
}

func (v Value) part(i int, want level) Value {
	if v.m == nil || i < 1 {
		return Value{}
	}
	if v.level >= want {
		if i == 1 {
			return v
		}
		return Value{}
	}
	v = v.within(want)
	c := v.delimiter(want)
	at := v.start
	for ; i > 1; i-- {
		if at = v.find(at, c); at == v.end {
			return Value{}
		}
		at++
	}
	return Value{v.m, at, v.find(at, c), want}
}

func (v Value) parts(want level) iter.Seq2[int, Value] {
	return func(yield func(int, Value) bool) {
		if v.m == nil || v.level >= want {
			if !v.Empty() {
				yield(1, v)
			}
			return
		}
		v := v.within(want)
		if v.Empty() {
			return
		}
		c := v.delimiter(want)
		for n, at := 1, v.start; ; n++ {
			end := v.find(at, c)
			if !yield(n, Value{v.m, at, end, want}) || end == v.end {
				return
			}
			at = end + 1
		}
	}
}
