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
