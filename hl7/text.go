package hl7

import (
	"bytes"
	"unicode/utf8"
)

// String gives the text of v in UTF-8, escape sequences resolved. Delimiters
// of a value that has parts stay in the text.
func (v Value) String() string {
	if v.Empty() {
		return ""
	}
	if v.plain() {
		return string(v.Raw())
	}
	return string(v.AppendText(nil))
}

// plain says whether the raw bytes are the text.
func (v Value) plain() bool {
	raw := v.Raw()
	c := v.m.charset
	return (v.m.delims.Escape == 0 || bytes.IndexByte(raw, v.m.delims.Escape) < 0) &&
		c.single == nil && c.multi == nil && !c.shifts
}

// AppendText appends what String gives.
func (v Value) AppendText(dst []byte) []byte {
	if v.Empty() {
		return dst
	}
	if v.plain() {
		return append(dst, v.Raw()...)
	}
	if v.level == levelWhole {
		return v.m.charset.decode(dst, v.Raw())
	}
	return v.m.unescape(dst, v.Raw())
}

// maxSkip bounds the blank lines and blanks that one formatting command may ask for.
const maxSkip = 100

// unescape appends raw as text: HL7 v2.9 §2.7. Unknown and broken sequences,
// and local ones (\Z..\), stay as they are.
func (m *Message) unescape(dst, raw []byte) []byte {
	base := len(dst)
	for len(raw) > 0 {
		n := m.index(raw, m.delims.Escape)
		dst = append(dst, raw[:n]...)
		if raw = raw[n:]; len(raw) == 0 {
			break
		}
		n = 1 + m.index(raw[1:], m.delims.Escape) // offset of the closing escape character
		if n == len(raw) {
			dst = append(dst, raw...)
			break
		}
		sequence := raw[1:n]
		if out, ok := m.delims.appendSequence(dst, sequence); ok {
			dst, raw = out, raw[n+1:]
			continue
		}
		if len(sequence) > 0 && sequence[0] == 'Z' {
			n++
		}
		dst = append(dst, raw[:n]...)
		raw = raw[n:]
	}
	// Decode behind the bytes that were put together, then close the gap.
	end := len(dst)
	c, text := m.charset, dst[base:end]
	if !c.shifts && bytes.IndexByte(text, 0x1b) >= 0 {
		dst = decodeShifted(dst, text, c)
	} else if c.single == nil && c.multi == nil && !c.shifts && utf8.Valid(text) {
		return dst
	} else {
		dst = c.decode(dst, text)
	}
	return append(dst[:base], dst[end:]...)
}

// appendSequence appends the text of the escape sequence s; false if it is none.
func (d Delimiters) appendSequence(dst, s []byte) ([]byte, bool) {
	if len(s) == 0 {
		return dst, false
	}
	if len(s) == 1 { // §2.7.1, §2.7.4
		switch s[0] {
		case 'F':
			return append(dst, d.Field), true
		case 'S':
			return append(dst, d.Component), true
		case 'T':
			return append(dst, d.Subcomponent), true
		case 'R':
			return append(dst, d.Repetition), true
		case 'E':
			return append(dst, d.Escape), true
		case 'P':
			if d.Truncation == 0 {
				return append(dst, '#'), true
			}
			return append(dst, d.Truncation), true
		case 'H', 'N': // highlighting begins, ends
			return dst, true
		}
		return dst, false
	}
	switch s[0] {
	case 'X': // §2.7.5
		return appendHex(dst, s[1:])
	case 'C': // §2.7.2
		if len(s) == 5 {
			return appendHex(append(dst, 0x1b), s[1:])
		}
	case 'M': // §2.7.2
		if len(s) == 5 || len(s) == 7 {
			return appendHex(append(dst, 0x1b), s[1:])
		}
	case '.': // §2.7.6
		return appendFormatting(dst, s[1:])
	}
	return dst, false
}

func appendHex(dst, digits []byte) ([]byte, bool) {
	if len(digits) == 0 || len(digits)%2 != 0 {
		return dst, false
	}
	for _, c := range digits {
		if unhex(c) > 15 {
			return dst, false
		}
	}
	for i := 0; i < len(digits); i += 2 {
		dst = append(dst, unhex(digits[i])<<4|unhex(digits[i+1]))
	}
	return dst, true
}

func unhex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}

// appendFormatting appends what a formatting command means in plain text.
func appendFormatting(dst, command []byte) ([]byte, bool) {
	if len(command) < 2 {
		return dst, false
	}
	name, rest := string(command[:2]), command[2:]
	n := 0
	for i, c := range rest {
		if c == '+' || c == '-' {
			if i > 0 {
				return dst, false
			}
			continue
		}
		if c < '0' || c > '9' {
			return dst, false
		}
		n = min(n*10+int(c-'0'), maxSkip)
	}
	fill := func(c byte, n int) []byte {
		for ; n > 0; n-- {
			dst = append(dst, c)
		}
		return dst
	}
	switch name {
	case "br", "ce":
		return fill('\n', 1), len(rest) == 0
	case "sp":
		return fill('\n', max(n, 1)), true
	case "sk":
		return fill(' ', max(n, 1)), true
	case "in", "ti", "fi", "nf":
		return dst, true
	}
	return dst, false
}

// AppendEscaped appends UTF-8 text as it must stand in a field (HL7 v2.9 §2.7.4):
// delimiters as \F\ \S\ \T\ \R\ \E\ \P\, control characters as \X..\. Where no
// escape character is in use, a blank takes their place.
func (d Delimiters) AppendEscaped(dst []byte, text string) []byte {
	const hex = "0123456789ABCDEF"
	for i := 0; i < len(text); i++ {
		c := text[i]
		var name byte
		switch c {
		case d.Field:
			name = 'F'
		case d.Component:
			name = 'S'
		case d.Subcomponent:
			name = 'T'
		case d.Repetition:
			name = 'R'
		case d.Escape:
			name = 'E'
		case d.Truncation:
			name = 'P'
		}
		control := c < ' ' || c == 0x7f
		switch {
		case name == 0 && !control:
			dst = append(dst, c)
		case d.Escape == 0:
			dst = append(dst, ' ')
		case control:
			dst = append(dst, d.Escape, 'X', hex[c>>4], hex[c&15], d.Escape)
		default:
			dst = append(dst, d.Escape, name, d.Escape)
		}
	}
	return dst
}
