package hl7

import (
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/japanese"
	"golang.org/x/text/encoding/korean"
	"golang.org/x/text/encoding/simplifiedchinese"
	"golang.org/x/text/encoding/traditionalchinese"
	"golang.org/x/text/transform"
)

// charset is a character set of HL7 table 0211.
type charset struct {
	name   string             // IANA
	single *charmap.Charmap   // one byte a character
	multi  encoding.Encoding  // several bytes a character
	skip   func(b []byte) int // length of the character at b, set only where a character may hold ASCII bytes
	shifts bool               // ISO 2022: escape sequences switch between character sets
}

var (
	charsetUTF8    = &charset{name: "UTF-8"}
	charsetASCII   = &charset{name: "US-ASCII"}
	charsetWestern = &charset{name: "windows-1252", single: charmap.Windows1252}
	charsetJapan   = &charset{name: "ISO-2022-JP", skip: skipShifted, shifts: true}
)

// charsets is keyed by the MSH-18 value in capitals without blanks, hyphens,
// underscores and slashes (HL7 table 0211 and names seen in the field).
// ISO 8859-1 is read as windows-1252, which only adds characters where 8859-1 has controls.
var charsets = func() map[string]*charset {
	latin1 := &charset{name: "ISO-8859-1", single: charmap.Windows1252}
	gbk := &charset{name: "GBK", multi: simplifiedchinese.GBK, skip: skipGB}
	gb18030 := &charset{name: "GB18030", multi: simplifiedchinese.GB18030, skip: skipGB}
	big5 := &charset{name: "Big5", multi: traditionalchinese.Big5, skip: skipPair}
	sjis := &charset{name: "Shift_JIS", multi: japanese.ShiftJIS, skip: skipShiftJIS}
	korean := &charset{name: "EUC-KR", multi: korean.EUCKR}
	m := map[string]*charset{
		"ASCII": charsetASCII, "USASCII": charsetASCII, "ISOIR6": charsetASCII, "ANSIX3.41986": charsetASCII,
		"UNICODEUTF8": charsetUTF8, "UTF8": charsetUTF8, "UNICODE": charsetUTF8,
		"WINDOWS1252": charsetWestern, "CP1252": charsetWestern,
		"WINDOWS1251": {name: "windows-1251", single: charmap.Windows1251},
		"WINDOWS1250": {name: "windows-1250", single: charmap.Windows1250},
		"GBK":         gbk, "GB2312": gbk, "ISOIR58": gbk, "GB18030": gb18030, "GB180302000": gb18030,
		"BIG5":     big5,
		"SHIFTJIS": sjis, "SJIS": sjis, "WINDOWS31J": sjis,
		"EUCJP":   {name: "EUC-JP", multi: japanese.EUCJP},
		"ISOIR14": charsetJapan, "ISOIR87": charsetJapan, "ISOIR159": charsetJapan, "ISO2022JP": charsetJapan,
		"KSX1001": korean, "ISOIR149": korean, "EUCKR": korean, "KSC5601": korean,
		"ISOIR13": sjis,
	}
	parts := []struct {
		n, ir string
		set   *charmap.Charmap
	}{
		{"2", "101", charmap.ISO8859_2}, {"3", "109", charmap.ISO8859_3}, {"4", "110", charmap.ISO8859_4},
		{"5", "144", charmap.ISO8859_5}, {"6", "127", charmap.ISO8859_6}, {"7", "126", charmap.ISO8859_7},
		{"8", "138", charmap.ISO8859_8}, {"9", "148", charmap.ISO8859_9}, {"10", "157", charmap.ISO8859_10},
		{"13", "179", charmap.ISO8859_13}, {"14", "199", charmap.ISO8859_14}, {"15", "203", charmap.ISO8859_15},
		{"16", "226", charmap.ISO8859_16},
	}
	for _, key := range []string{"88591", "ISO88591", "ISOIR100", "LATIN1"} {
		m[key] = latin1
	}
	for _, p := range parts {
		c := &charset{name: "ISO-8859-" + p.n, single: p.set}
		m["8859"+p.n], m["ISO8859"+p.n], m["ISOIR"+p.ir] = c, c, c
	}
	return m
}()

var charsetKey = strings.NewReplacer(" ", "", "-", "", "_", "", "/", "")

// lookupCharset finds the character set that MSH-18 names, nil if none.
func lookupCharset(value []byte) *charset {
	switch string(value) { // the usual ones without allocation
	case "UNICODE UTF-8":
		return charsetUTF8
	case "ASCII":
		return charsetASCII
	}
	return charsets[strings.ToUpper(charsetKey.Replace(string(value)))]
}

// chooseCharset settles how text is decoded (HL7 v2.9 §2.14.9.18). high says
// whether body has bytes outside ASCII.
func (m *Message) chooseCharset(body []byte, high bool) {
	field := m.Header().Field(18)
	declared := lookupCharset(field.Rep(1).Raw())
	for i := 2; declared == charsetASCII && i <= field.Reps(); i++ {
		// ASCII first and then the sets that escape sequences switch to (§2.14.9.18, §2.7.2).
		if c := lookupCharset(field.Rep(i).Raw()); c != nil && c.shifts {
			declared = c
		}
	}
	if declared == nil && !field.Empty() && !field.Null() {
		m.note(FindingCharsetUnknown, "MSH-18", "the character set is not one we know")
	}
	if !high {
		m.charset, m.assumed = declared, false
		if declared == nil {
			m.charset = charsetUTF8
		}
		return
	}
	valid := utf8.Valid(body)
	switch {
	case declared == nil || declared == charsetASCII || declared == charsetUTF8 && !valid:
		m.charset, m.assumed = charsetWestern, true
		if valid {
			m.charset = charsetUTF8
		}
		if declared != nil {
			m.note(FindingCharsetMismatch, "MSH-18", "the text does not fit the declared character set; read as "+m.charset.name)
		} else if field.Empty() {
			m.note(FindingCharsetAssumed, "MSH-18", "no character set is declared; text outside ASCII is read as "+m.charset.name)
		}
	default:
		m.charset, m.assumed = declared, false
		if valid && (declared.single != nil || declared.multi != nil) {
			m.note(FindingCharsetDoubtful, "MSH-18", "the text would read as UTF-8 too; read as declared")
		}
	}
}

// decode appends src, in character set c, to dst as UTF-8. What has no meaning becomes U+FFFD.
func (c *charset) decode(dst, src []byte) []byte {
	switch {
	case c.single != nil:
		return decodeSingle(dst, src, c.single)
	case c.shifts:
		return decodeShifted(dst, src, charsetASCII)
	case c.multi != nil && !isASCII(src):
		return decodeWith(dst, src, c.multi)
	}
	return appendValidUTF8(dst, src)
}

func decodeSingle(dst, src []byte, m *charmap.Charmap) []byte {
	for _, b := range src {
		if b < utf8.RuneSelf {
			dst = append(dst, b)
		} else {
			dst = utf8.AppendRune(dst, m.DecodeByte(b))
		}
	}
	return dst
}

func isASCII(b []byte) bool {
	for _, c := range b {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func decodeWith(dst, src []byte, e encoding.Encoding) []byte {
	out, _, err := transform.Bytes(e.NewDecoder(), src)
	if err != nil {
		return utf8.AppendRune(dst, utf8.RuneError)
	}
	return append(dst, out...)
}

func appendValidUTF8(dst, src []byte) []byte {
	if utf8.Valid(src) {
		return append(dst, src...)
	}
	for len(src) > 0 {
		r, n := utf8.DecodeRune(src)
		dst = utf8.AppendRune(dst, r)
		src = src[n:]
	}
	return dst
}

// skipPair: lead bytes 81 to FE, two bytes a character (Big5).
func skipPair(b []byte) int {
	if b[0] >= 0x81 && b[0] <= 0xfe && len(b) > 1 && b[1] >= 0x40 {
		return 2
	}
	return 1
}

// skipGB: two bytes, or four where the second is a digit (GB18030).
func skipGB(b []byte) int {
	if b[0] < 0x81 || b[0] > 0xfe || len(b) < 2 {
		return 1
	}
	if b[1] >= 0x40 && b[1] != 0x7f {
		return 2
	}
	if len(b) >= 4 && b[1] >= '0' && b[1] <= '9' && b[2] >= 0x81 && b[3] >= '0' && b[3] <= '9' {
		return 4
	}
	return 1
}

// skipShiftJIS: lead bytes 81 to 9F and E0 to FC; A1 to DF stand alone.
func skipShiftJIS(b []byte) int {
	if (b[0] >= 0x81 && b[0] <= 0x9f || b[0] >= 0xe0 && b[0] <= 0xfc) && len(b) > 1 && b[1] >= 0x40 && b[1] != 0x7f {
		return 2
	}
	return 1
}

// indexMultibyte gives the offset of character c in b, len(b) if it is not there.
func indexMultibyte(b []byte, c byte, skip func([]byte) int) int {
	for i := 0; i < len(b); {
		n := skip(b[i:])
		if n == 1 && b[i] == c {
			return i
		}
		i += n
	}
	return len(b)
}

// shift names the character set that an ISO 2022 escape sequence (without the
// ESC) switches to: HL7 v2.9 §2.7.2.
type shift struct {
	sequence string
	two      bool // G0 set of two seven-bit bytes a character
	set      func(dst, src []byte) []byte
}

var shifts = []shift{
	{"(B", false, appendValidUTF8}, // ISO IR6, ASCII
	{"(J", false, appendValidUTF8}, // ISO IR14, JIS X 0201 Roman
	{")I", false, func(dst, src []byte) []byte { return decodeWith(dst, src, japanese.ShiftJIS) }},
	{"(I", false, func(dst, src []byte) []byte { return decodeWith(dst, raised(src, 0), japanese.ShiftJIS) }},
	{"$B", true, func(dst, src []byte) []byte { return decodeWith(dst, raised(src, 0), japanese.EUCJP) }},
	{"$@", true, func(dst, src []byte) []byte { return decodeWith(dst, raised(src, 0), japanese.EUCJP) }},
	{"$(D", true, func(dst, src []byte) []byte { return decodeWith(dst, raised(src, 0x8f), japanese.EUCJP) }},
	{"$)C", false, func(dst, src []byte) []byte { return decodeWith(dst, src, korean.EUCKR) }},
	{"$)A", false, func(dst, src []byte) []byte { return decodeWith(dst, src, simplifiedchinese.GBK) }},
	{"-A", false, latin(charmap.ISO8859_1)}, {"-B", false, latin(charmap.ISO8859_2)}, {"-C", false, latin(charmap.ISO8859_3)},
	{"-D", false, latin(charmap.ISO8859_4)}, {"-L", false, latin(charmap.ISO8859_5)}, {"-G", false, latin(charmap.ISO8859_6)},
	{"-F", false, latin(charmap.ISO8859_7)}, {"-H", false, latin(charmap.ISO8859_8)}, {"-M", false, latin(charmap.ISO8859_9)},
}

func latin(m *charmap.Charmap) func(dst, src []byte) []byte {
	return func(dst, src []byte) []byte { return decodeSingle(dst, src, m) }
}

// raised sets the high bit of all bytes above the blank; with a prefix it is put before each pair.
func raised(src []byte, prefix byte) []byte {
	out := make([]byte, 0, len(src)+len(src)/2+1)
	for i, c := range src {
		if prefix != 0 && i%2 == 0 {
			out = append(out, prefix)
		}
		if c > ' ' && c < 0x7f {
			c |= 0x80
		}
		out = append(out, c)
	}
	return out
}

// shiftAt gives the escape sequence at b, which begins with ESC; nil if it is none we know.
func shiftAt(b []byte) *shift {
	for i := range shifts {
		if s := &shifts[i]; len(b) > len(s.sequence) && string(b[1:1+len(s.sequence)]) == s.sequence {
			return s
		}
	}
	return nil
}

// skipShifted skips over text in a two-byte set up to the sequence that ends
// it: such text may hold delimiter bytes. A sender must be back in ASCII
// before a delimiter (HL7 v2.9 §2.7.2).
func skipShifted(b []byte) int {
	if b[0] != 0x1b {
		return 1
	}
	s := shiftAt(b)
	if s == nil || !s.two {
		return 1
	}
	for i := 1 + len(s.sequence); i < len(b); i++ {
		switch b[i] {
		case '\r', '\n':
			return i
		case 0x1b:
			if s := shiftAt(b[i:]); s != nil && !s.two {
				return i + 1 + len(s.sequence)
			}
		}
	}
	return len(b)
}

// decodeShifted decodes text with ISO 2022 escape sequences that begins in character set c.
func decodeShifted(dst, src []byte, c *charset) []byte {
	set := c.decode
	from := 0
	for i := 0; i < len(src); i++ {
		if src[i] != 0x1b {
			continue
		}
		if s := shiftAt(src[i:]); s != nil {
			dst = set(dst, src[from:i])
			set = s.set
			i += len(s.sequence)
			from = i + 1
		}
	}
	return set(dst, src[from:])
}
