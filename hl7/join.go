package hl7

import "bytes"

// Join puts a continued message together (HL7 v2.9 §2.10.2): each part but
// the last ends with a DSC segment whose pointer is MSH-14 of the next part,
// and an ADD segment goes on where the segment before it was cut. Join also
// takes one part alone, for its ADD segments. The result is a message for Parse.
func Join(dst []byte, parts ...*Message) ([]byte, error) {
	for i, m := range parts {
		if m.delims != parts[0].delims {
			return dst, &Error{Code: CodeOther, Segment: "MSH", Sequence: 1, Field: 2, What: "cannot join parts with unlike delimiters"}
		}
		last := i == len(parts)-1
		if !last {
			end := m.Segment(m.Len() - 1)
			pointer := end.Field(1).Raw()
			if end.Name() != "DSC" || len(pointer) == 0 || !bytes.Equal(pointer, parts[i+1].Header().Field(14).Raw()) {
				return dst, &Error{Code: CodeSegmentSequence, Segment: "DSC", Field: 1, What: "cannot join parts that do not point to each other", Remedy: "DSC-1 must be MSH-14 of the next part"}
			}
		}
		for j := range m.Len() {
			s := m.Segment(j)
			switch {
			case i > 0 && j == 0, !last && j == m.Len()-1:
			case s.Name() == "ADD":
				if n := len(dst); n > 0 && dst[n-1] == '\r' {
					dst = dst[:n-1]
				}
				dst = append(dst, s.Raw()[min(len("ADD|"), len(s.Raw())):]...)
				dst = append(dst, '\r')
			default:
				dst = append(append(dst, s.Raw()...), '\r')
			}
		}
	}
	return dst, nil
}

// Joiner collects the parts of continued messages of one sender, as they come (HL7 v2.9 §2.10.2). The zero Joiner is ready.
type Joiner struct {
	parts []*Message
	size  int
}

// maxParts bounds what a sender may leave unfinished, together with the length of a message.
const maxParts = 100

// Take takes the next message. A message that stands alone gives nothing. A part that is to be continued is waiting: it may end
// in the middle of a value, so nothing may be read from it. The last part gives the whole message. A part that goes on with what
// is not there is an error. Take keeps m's bytes, not m.
func (j *Joiner) Take(m *Message) (whole []byte, waiting bool, err error) {
	from := m.Header().Field(14).Raw()
	_, adds := m.First("ADD")
	next := pointer(m)
	goesOn := len(j.parts) > 0 && len(from) > 0 && bytes.Equal(from, pointer(j.parts[len(j.parts)-1]))
	switch {
	case !goesOn && adds && len(from) > 0:
		j.drop()
		return nil, false, &Error{Code: CodeSegmentSequence, Segment: "MSH", Sequence: 1, Field: 14, What: "cannot read a part whose message began elsewhere", Remedy: "send all parts, in order, over one connection"}
	case !goesOn:
		j.drop() // what was begun is not finished
	}
	if !goesOn && next == nil {
		if adds {
			whole, err = Join(nil, m)
		}
		return whole, false, err
	}
	part, perr := Parse(bytes.Clone(m.raw))
	if perr != nil {
		j.drop()
		return nil, false, perr
	}
	j.parts = append(j.parts, part)
	if j.size += len(m.raw); j.size > DefaultLimits.Bytes || len(j.parts) > maxParts {
		j.drop()
		return nil, false, &Error{Code: CodeTooLong, Segment: "DSC", Field: 1, What: "cannot join a message of so many parts", Remedy: "raise the message limit if the monitor really sends that much"}
	}
	if next != nil {
		return nil, true, nil
	}
	whole, err = Join(nil, j.parts...)
	j.drop()
	return whole, false, err
}

// Waiting says whether a message was begun and is not whole.
func (j *Joiner) Waiting() bool { return len(j.parts) > 0 }

func (j *Joiner) drop() { j.parts, j.size = nil, 0 }

// pointer gives DSC-1 of a message that ends with DSC, nil if it is not to be continued.
func pointer(m *Message) []byte {
	if end := m.Segment(m.Len() - 1); end.Name() == "DSC" && !end.Field(1).Empty() {
		return end.Field(1).Raw()
	}
	return nil
}
