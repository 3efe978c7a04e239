package framing

import "bytes"

// unframed decodes bare messages one after the other. A message begins with MSH and a delimiter at the start of a segment, and
// ends where the next one begins, at a 1C behind a whole segment, or when Silence or Cut says so. What does not begin with MSH is
// delivered too: it may be the rest of a message that a pause cut in two.
//
// A 1C within a segment is the end of an MLLP block only if the message began with 0B, and 0D and then a new block or silence
// follow. Else it is a damaged byte, and what stands before it is no whole value: "12<1C>0" is not 12.
func (d *Decoder) unframed(p []byte) {
	for len(p) > 0 {
		if d.state == inside {
			n, ended := segmentEnd(p)
			d.take(p[:n])
			p = p[n:]
			switch {
			case ended:
				d.state = lineHead
			case len(p) > 0: // a 1C
				d.held = append(d.held[:0], fs)
				d.state = afterFS
				p = p[1:]
			}
			continue
		}
		if d.state == afterFS {
			p = d.afterSeparator(p)
			continue
		}
		// At the start of a segment: hold what may be a header until it is one or not.
		b := p[0]
		d.held = append(d.held, b)
		match, possible := messageHeader(d.held)
		switch {
		case match:
			header := [maxHeader]byte{}
			n := copy(header[:], d.held)
			d.held = d.held[:0]
			d.finishUnframed()
			d.state = inside
			d.take(header[:n])
			p = p[1:]
		case possible:
			p = p[1:]
		case len(d.held) > 1:
			d.held = d.held[:len(d.held)-1]
			d.state = inside
			d.body(d.held)
			d.held = d.held[:0]
		default:
			d.held = d.held[:0]
			one := p[:1]
			p = p[1:]
			switch b {
			case fs:
				d.notes |= framed
				d.mark('f', one)
				d.finishUnframed()
			case vt:
				d.finishUnframed()
				d.notes |= framed
				d.mark('f', one)
			case cr, lf, nul:
				if len(d.data) > 0 || d.over {
					d.take(one)
				} else {
					d.drop(one)
				}
			default:
				d.state = inside
				d.body(one)
			}
		}
	}
}

// afterSeparator decides on a 1C within a segment by what follows it.
func (d *Decoder) afterSeparator(p []byte) []byte {
	switch b := p[0]; {
	case b == vt && d.notes&framed != 0:
		d.release('f')
		d.finishUnframed()
		return p
	case (b == cr || b == lf || b == nul || b == fs) && d.notes&framed != 0 && len(d.held) < maxHeld:
		d.held = append(d.held, b)
		return p[1:]
	}
	last := d.held[len(d.held)-1]
	d.keepHeld()
	if last == cr || last == lf {
		d.state = lineHead
	}
	return p
}

// body adds bytes that are not a header to the message, and notes if there was no header before them.
func (d *Decoder) body(p []byte) {
	if len(d.data) == 0 && !d.over {
		d.notes |= noHeader
	}
	d.take(p)
}

// finishUnframed ends the message that is being read, if there is one.
func (d *Decoder) finishUnframed() {
	if len(d.data) > 0 || d.over {
		d.finish()
	}
}

const maxHeader = 7 // U+FEFF or U+2028, then MSH and the delimiter

// messageHeader says whether p is, or may become, the start of a message: MSH and a delimiter, behind a byte order mark or a
// line separator (U+2028, seen on XH80X) or not.
func messageHeader(p []byte) (match, possible bool) {
	for _, mark := range [...]string{"\xEF\xBB\xBF", "\xE2\x80\xA8"} {
		if len(p) <= len(mark) && mark[:len(p)] == string(p) {
			return false, true
		}
		if rest, ok := bytes.CutPrefix(p, []byte(mark)); ok {
			p = rest
			break
		}
	}
	const msh = "MSH"
	if len(p) <= len(msh) {
		return false, msh[:len(p)] == string(p)
	}
	return string(p[:len(msh)]) == msh && delimiter(p[len(msh)]), false
}

// delimiter says whether b can be a field separator: a visible ASCII character that is no letter and no digit.
func delimiter(b byte) bool {
	return b > ' ' && b < 0x7F && !digit(b) && (b|0x20 < 'a' || b|0x20 > 'z')
}

// segmentEnd is the number of bytes of p up to and with the next CR or LF, which ends a segment, or up to and without the next 1C.
func segmentEnd(p []byte) (n int, ended bool) {
	for i, b := range p {
		switch b {
		case cr, lf:
			return i + 1, true
		case fs:
			return i, false
		}
	}
	return len(p), false
}
