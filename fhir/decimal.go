package fhir

import "strings"

// maxDecimal bounds the text of a number: no measurement needs more, and readers must hold it exactly.
const maxDecimal = 40

// Decimal brings the text of a number (HL7 v2 NM, v2.9 §2A.3.49: optional sign, digits, optional point and
// digits) into the form that JSON allows, changing as little as can be: `.5` gives `0.5`, `+5` gives `5`, `05`
// gives `5`, `5.` gives `5`; trailing zeros stay, they carry the precision. bent says that anything but blanks
// around it was changed. ok is false where the text is no decimal number; then it must be kept as text.
//
// It allocates only where it changes something.
func Decimal(s string) (number string, bent, ok bool) {
	s = strings.Trim(s, " \t")
	if s == "" || len(s) > maxDecimal {
		return "", false, false
	}
	i := 0
	negative := s[0] == '-'
	if negative || s[0] == '+' {
		i++
	}
	whole := i
	for i < len(s) && digit(s[i]) {
		i++
	}
	wholeEnd := i
	fraction := i
	if i < len(s) && s[i] == '.' {
		i++
		fraction = i
		for i < len(s) && digit(s[i]) {
			i++
		}
	}
	fractionEnd := i
	if wholeEnd == whole && fractionEnd == fraction {
		return "", false, false // no digit at all
	}
	if i < len(s) { // an exponent is no NM, but JSON allows it and monitors send it: 2.73E-7
		if s[i] != 'e' && s[i] != 'E' {
			return "", false, false
		}
		e := i + 1
		if e < len(s) && (s[e] == '-' || s[e] == '+') {
			e++
		}
		if n := len(s) - e; n < 1 || n > 2 {
			return "", false, false
		}
		for ; e < len(s); e++ {
			if !digit(s[e]) {
				return "", false, false
			}
		}
	}
	pointless := fractionEnd == fraction && fraction > wholeEnd // "5."
	zeros := whole
	for zeros < wholeEnd-1 && s[zeros] == '0' {
		zeros++
	}
	if s[0] != '+' && wholeEnd > whole && zeros == whole && !pointless {
		return s, false, true
	}
	var b strings.Builder
	if negative {
		b.WriteByte('-')
	}
	if wholeEnd == whole {
		b.WriteByte('0')
	}
	b.WriteString(s[zeros:wholeEnd])
	if pointless {
		b.WriteString(s[fractionEnd:])
	} else {
		b.WriteString(s[wholeEnd:])
	}
	return b.String(), true, true
}

func digit(c byte) bool { return c >= '0' && c <= '9' }
