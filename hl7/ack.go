package hl7

import (
	"bytes"
	"strconv"
	"time"
	"unicode/utf8"
)

// AckCode is a code of HL7 table 0008.
type AckCode string

// Acknowledgement codes: A of the original mode and of the application, C of
// the accept acknowledgement in enhanced mode (HL7 v2.9 §2.9).
const (
	AA AckCode = "AA" // application accept
	AE AckCode = "AE" // application error
	AR AckCode = "AR" // application reject
	CA AckCode = "CA" // commit accept
	CE AckCode = "CE" // commit error
	CR AckCode = "CR" // commit reject
)

// AckMode gives MSH-15 and MSH-16, the conditions under which the sender wants
// an accept and an application acknowledgement: AL, NE, ER or SU (table 0155).
// Both are empty in original mode.
func AckMode(m *Message) (accept, application string) {
	h := m.Header()
	return keyword(h.Field(15)), keyword(h.Field(16))
}

// keyword gives v's text without allocating for the usual words. A null says as little as nothing.
func keyword(v Value) string {
	switch string(v.Raw()) {
	case "", `""`:
		return ""
	case "AL":
		return "AL"
	case "NE":
		return "NE"
	case "ER":
		return "ER"
	case "SU":
		return "SU"
	}
	return v.Comp(1).String()
}

// AppendAck appends the acknowledgement of a message (HL7 v2.9 §2.9.2, §2.9.3,
// §2.13.1): sender and receiver swapped, the sender's delimiters, version,
// processing id and MSH-10 echoed byte for byte, one ERR segment for each
// error, in the form of the sender's version. id becomes MSH-10, at MSH-7.
func AppendAck(dst []byte, to *Message, code AckCode, at time.Time, id string, errs ...*Error) []byte {
	return AppendAckExpecting(dst, to, code, at, id, "", errs...)
}

// AppendAckExpecting is AppendAck with MSA-4, the sequence number that is expected next (HL7 v2.9 §2.9.4); "" for none.
func AppendAckExpecting(dst []byte, to *Message, code AckCode, at time.Time, id, expected string, errs ...*Error) []byte {
	if to == nil || to.Len() == 0 {
		return appendNak(dst, code, at, id, errs)
	}
	h, d := to.Header(), to.delims
	bar, comp := d.Field, d.Component
	minor := minorVersion(h.Field(12).Comp(1).Raw())

	dst = append(dst, "MSH"...)
	dst = append(dst, bar)
	declared, _, _ := bytes.Cut(h.Field(2).Raw(), []byte("\n")) // where the parser took them to end
	dst = append(dst, declared...)
	for _, n := range [...]int{5, 6, 3, 4} {
		dst = appendEcho(append(dst, bar), h.Field(n))
	}
	dst = at.AppendFormat(append(dst, bar), "20060102150405-0700")
	dst = append(dst, bar, bar)
	dst = append(dst, "ACK"...)
	if event := h.Field(9).Comp(2).Raw(); len(event) > 0 && minor >= 30 && comp != 0 {
		dst = append(append(dst, comp), event...)
		if minor >= 40 {
			dst = append(append(dst, comp), "ACK"...)
		}
	}
	dst = d.appendOwn(append(dst, bar), id)
	dst = appendEcho(append(dst, bar), h.Field(11))
	dst = appendEcho(append(dst, bar), h.Field(12))
	if set := h.Field(18); !set.Empty() {
		dst = append(dst, bar, bar, bar, bar, bar, bar)
		dst = appendEcho(dst, set)
	}
	dst = append(dst, '\r')

	dst = append(append(append(dst, "MSA"...), bar), code...)
	dst = append(append(dst, bar), h.Field(10).Raw()...)
	if minor < 50 && len(errs) > 0 {
		dst = d.appendOwn(append(dst, bar), errs[0].What) // MSA-3, before ERR had a text of its own
	} else if expected != "" {
		dst = append(dst, bar)
	}
	if expected != "" {
		dst = append(append(dst, bar), expected...)
	}
	dst = append(dst, '\r')
	return appendErrors(dst, d, minor, code, errs)
}

// appendEcho appends a field as it was sent, but for line feeds: where it stands now one may begin a segment.
func appendEcho(dst []byte, v Value) []byte {
	raw := v.Raw()
	for {
		line, rest, found := bytes.Cut(raw, []byte("\n"))
		dst = append(dst, line...)
		if !found {
			return dst
		}
		raw = rest
	}
}

// AppendNak appends the acknowledgement of bytes whose header could not be
// read: standard delimiters, version 2.5, an empty MSA-2.
func AppendNak(dst []byte, code AckCode, at time.Time, id string, err *Error) []byte {
	return appendNak(dst, code, at, id, []*Error{err})
}

func appendNak(dst []byte, code AckCode, at time.Time, id string, errs []*Error) []byte {
	d := StandardDelimiters
	dst = append(dst, `MSH|^~\&|||||`...)
	dst = at.AppendFormat(dst, "20060102150405-0700")
	dst = d.appendOwn(append(dst, "||ACK|"...), id)
	dst = append(dst, "|P|2.5\rMSA|"...)
	dst = append(append(dst, code...), "|\r"...)
	return appendErrors(dst, d, 50, code, errs)
}

// minorVersion gives 31 for "2.3.1" and 50 for "2.5"; a version that cannot be read counts as 2.5.
func minorVersion(v []byte) int {
	if len(v) < 3 || v[0] != '2' || v[1] != '.' || !isDigit(v[2]) {
		return 50
	}
	n := int(v[2]-'0') * 10
	if len(v) >= 5 && v[3] == '.' && isDigit(v[4]) {
		n += int(v[4] - '0')
	}
	return n
}

// appendErrors appends ERR segments: ERR-1 up to v2.4 (v2.4 §2.16.5), ERR-2 to
// ERR-8 from v2.5 on (v2.9 §2.14.5).
func appendErrors(dst []byte, d Delimiters, minor int, code AckCode, errs []*Error) []byte {
	bar, comp, sub := d.Field, d.Component, d.Subcomponent
	number := func(n int) {
		if n > 0 {
			dst = strconv.AppendInt(dst, int64(n), 10)
		}
	}
	for _, e := range errs {
		if e == nil {
			continue
		}
		dst = append(append(dst, "ERR"...), bar)
		if minor < 50 {
			dst = append(d.appendOwn(dst, e.Segment), comp)
			number(e.Sequence)
			dst = append(dst, comp)
			number(e.Field)
			dst = strconv.AppendInt(append(dst, comp), int64(e.Code), 10)
			if sub != 0 {
				dst = append(append(dst, sub), conditionText(e.Code)...)
				dst = append(append(dst, sub), "HL70357"...)
			}
			dst = append(dst, '\r')
			continue
		}
		dst = append(dst, bar)
		dst = d.appendOwn(dst, e.Segment) // ERL: v2.9 §2A.2.29
		at := [...]int{e.Sequence, e.Field, e.Repetition, e.Component, e.Subcomponent}
		depth := len(at)
		for depth > 0 && at[depth-1] <= 0 {
			depth--
		}
		for _, n := range at[:depth] {
			dst = append(dst, comp)
			number(n)
		}
		dst = strconv.AppendInt(append(dst, bar), int64(e.Code), 10)
		dst = append(append(dst, comp), conditionText(e.Code)...)
		dst = append(append(append(dst, comp), "HL70357"...), bar)
		if code == AA || code == CA {
			dst = append(dst, 'W')
		} else {
			dst = append(dst, 'E')
		}
		dst = append(dst, bar, bar, bar)
		if e.Offset > 0 {
			dst = append(dst, "byte "...)
			number(e.Offset)
		}
		dst = d.appendOwn(append(dst, bar), e.What)
		if e.Remedy != "" {
			dst = d.appendOwn(append(dst, "; "...), e.Remedy)
		}
		dst = append(dst, '\r')
	}
	return dst
}

// appendOwn appends text of ours. It is ASCII, so that it fits every character
// set that the rest of the answer may be in; what is not becomes a question mark.
func (d Delimiters) appendOwn(dst []byte, text string) []byte {
	start := len(dst)
	dst = d.AppendEscaped(dst, text)
	for i, c := range dst[start:] {
		if c >= utf8.RuneSelf {
			dst[start+i] = '?'
		}
	}
	return dst
}
