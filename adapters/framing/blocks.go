package framing

import (
	"bytes"

	"github.com/vitalgate/vitalgate/adapters"
)

// blocks decodes 0B … 1C 0D, the envelope of MLLP (HL7 v2 transport specification, release 1) and of HLLP. What real
// monitors and interface engines do to it is accepted and noted: bytes before 0B, doubled 0B and 1C, a missing 0D,
// NUL padding, a message that is broken off by the next one.
func (d *Decoder) blocks(p []byte) {
	for len(p) > 0 {
		switch d.state {
		case outside:
			i := bytes.IndexByte(p, vt)
			if i < 0 {
				d.between(p)
				return
			}
			d.between(p[:i])
			d.mark('f', p[i:i+1])
			d.state = inside
			p = p[i+1:]

		case inside:
			n, found := indexControl(p)
			d.take(p[:n])
			if p = p[n:]; !found {
				continue
			}
			switch {
			case p[0] == fs:
				d.held = append(d.held[:0], fs)
				d.state = afterFS
			case len(d.data) == 0 && !d.over:
				d.notes |= doubledStart
				d.mark('f', p[:1])
			default:
				d.held = append(d.held[:0], vt)
				d.state = afterVT
			}
			p = p[1:]

		case afterVT:
			// A 0B is the start of the next message only if a header follows; else it is a damaged or odd byte of this one.
			d.held = append(d.held, p[0])
			match, possible := d.header(d.held[1:])
			switch {
			case match:
				header := [3]byte(d.held[1:])
				d.mark('f', d.held[:1])
				d.notes |= noEnd
				d.finish()
				d.state = inside
				d.take(header[:])
				p = p[1:]
			case possible:
				p = p[1:]
			default:
				d.held = d.held[:len(d.held)-1]
				d.keepHeld()
			}

		case afterFS:
			switch p[0] {
			case cr:
				d.release('f')
				d.mark('f', p[:1])
				d.finish()
				p = p[1:]
			case vt, nul, lf:
				d.release('f')
				d.notes |= noTrailingCR
				d.finish()
			case fs:
				d.notes |= doubledEnd
				d.held = append(d.held, fs)
				if len(d.held) > maxHeld { // not a doubled end any more
					d.keepHeld()
				}
				p = p[1:]
			default:
				d.keepHeld()
			}
		}
	}
}

// maxHeld bounds the control bytes that are held while it is open what they are.
const maxHeld = 8

// keepHeld makes the held control bytes part of the message.
func (d *Decoder) keepHeld() {
	d.notes |= controlByte
	d.notes &^= doubledEnd
	d.state = inside
	d.take(d.held)
	d.held = d.held[:0]
}

// between drops the bytes between two messages and notes what they were.
func (d *Decoder) between(p []byte) {
	for _, b := range p {
		switch b {
		case cr, lf:
		case nul:
			d.notes |= nulPadding
		case fs:
			d.notes |= doubledEnd
		default:
			d.notes |= junk
		}
	}
	d.drop(p)
}

// header says whether p, up to three bytes, is or may become what stands behind a 0B.
func (d *Decoder) header(p []byte) (match, possible bool) {
	if d.framing == adapters.HLLP {
		for i, b := range p {
			if i == 0 && b != 'D' && b != 'N' || i > 0 && !digit(b) {
				return false, false
			}
		}
		return len(p) == 3, true
	}
	for _, name := range [...]string{"MSH", "FHS", "BHS"} {
		if name[:len(p)] == string(p) {
			return len(p) == len(name), true
		}
	}
	return false, false
}

func digit(b byte) bool { return '0' <= b && b <= '9' }

// indexControl is the place of the first 0B or 1C in p, or how much of p has none. It looks only a little ahead: of a run of one
// of the two it would else search the whole rest for the other, at each byte.
func indexControl(p []byte) (n int, found bool) {
	p = p[:min(len(p), 512)]
	n = len(p)
	if i := bytes.IndexByte(p, fs); i >= 0 {
		n = i
	}
	if i := bytes.IndexByte(p[:n], vt); i >= 0 {
		n = i
	}
	return n, n < len(p)
}
