package framing

// HLLP, the hybrid lower layer protocol for lines that do not correct errors (HL7 implementation support guide 2.x,
// appendix C):
//
//	0B t vv 0D data ccccc xxx 1C 0D
//
// t is D for data or N for a refusal, vv the version, ccccc the number of bytes from 0B through the last one of data, xxx the
// exclusive or of those bytes, or 999 for none; both in decimal digits.
const (
	hllpHead    = 4 // t vv 0D
	hllpTrail   = 8 // ccccc xxx
	hllpVersion = "23"
	hllpNoXOR   = 999
)

// Reasons to refuse an HLLP block.
const (
	NakCount    = 'C' // the count of bytes is wrong
	NakChecksum = 'X'
	NakTooLong  = 'B'
	NakOther    = 'G'
)

// AppendNak appends the HLLP block that refuses a block for one of the Nak reasons.
func AppendNak(dst []byte, reason byte) []byte { return appendHLLP(dst, 'N', []byte{reason}) }

func appendHLLP(dst []byte, t byte, data []byte) []byte {
	start := len(dst)
	dst = append(dst, vt, t)
	dst = append(dst, hllpVersion...)
	dst = append(dst, cr)
	dst = append(dst, data...)
	count, sum := len(dst)-start, xor(dst[start:])
	dst = appendDecimal(dst, count, 5)
	dst = appendDecimal(dst, sum, 3)
	return append(dst, fs, cr)
}

// deliverHLLP checks the block in d.data. A damaged one is refused and not delivered: the sender has it still, and what
// came of it may read like good values. The next message says so, for what was refused may have named another patient.
func (d *Decoder) deliverHLLP() {
	b := d.data
	if d.notes&tooLong != 0 {
		if n := len(b); n > hllpHead {
			b = b[hllpHead:]
		}
		d.give(b, NakTooLong)
		return
	}
	reason, data, count, sum := byte(NakOther), b, 0, 0
	if len(b) >= hllpHead+hllpTrail && d.isHead(b) {
		data = b[hllpHead : len(b)-hllpTrail]
		trail := b[len(b)-hllpTrail:]
		var ok1, ok2 bool
		count, ok1 = decimal(trail[:5])
		sum, ok2 = decimal(trail[5:])
		want := xor(b[:len(b)-hllpTrail]) ^ vt
		switch {
		case !ok1 || !ok2:
		case count != (len(b)-hllpTrail+1)%100_000:
			reason = NakCount
		case sum == hllpNoXOR:
			d.notes |= noChecksum
			reason = 0
		case sum != want:
			reason = NakChecksum
		default:
			reason = 0
		}
	}
	switch {
	case reason != 0:
		d.dropped += uint64(len(b))
		d.emit(Message{Nak: reason})
		d.notes = d.notes&junk | refused // for the next one
	case b[0] == 'N':
		d.emit(Message{Resend: true})
		d.notes &= junk | refused // what was lost is still lost
	default:
		d.give(data, 0)
	}
}

func (d *Decoder) isHead(b []byte) bool {
	match, _ := d.header(b[:3])
	return match && b[3] == cr
}

// looksLikeHLLP says whether the content of an MLLP frame is an HLLP block.
func looksLikeHLLP(b []byte) bool {
	if len(b) < hllpHead+hllpTrail || b[0] != 'D' || !digit(b[1]) || !digit(b[2]) || b[3] != cr {
		return false
	}
	_, ok := decimal(b[len(b)-hllpTrail:])
	return ok
}

func xor(p []byte) int {
	var x byte
	for _, b := range p {
		x ^= b
	}
	return int(x)
}

// appendDecimal appends n in width digits; a larger n keeps its low digits, as five digits cannot say more.
func appendDecimal(dst []byte, n, width int) []byte {
	for range width {
		dst = append(dst, '0')
	}
	for i := len(dst) - 1; width > 0; i, width = i-1, width-1 {
		dst[i] = byte('0' + n%10)
		n /= 10
	}
	return dst
}

func decimal(p []byte) (n int, ok bool) {
	for _, b := range p {
		if !digit(b) {
			return 0, false
		}
		n = n*10 + int(b-'0')
	}
	return n, true
}
