package hl7

import (
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestEscapeSequences(t *testing.T) { // §2.7
	for _, c := range []struct{ section, raw, want string }{
		{"2.7.4", `\F\\S\\T\\R\\E\`, `|^&~\`},
		{"2.7.4", `2.73x10\S\-7`, "2.73x10^-7"},
		{"2.7.4 truncation", `a\P\b`, "a#b"},
		{"2.7.3 highlighting", `\H\high\N\ normal`, "high normal"},
		{"2.7.6 line break", `one\.br\two`, "one\ntwo"},
		{"2.7.6 vertical space", `one\.sp\two\.sp3\three\.sp+2\four`, "one\ntwo\n\n\nthree\n\nfour"},
		{"2.7.6 horizontal space", `a\.sk3\b`, "a   b"},
		{"2.7.6 centre", `a\.ce\b`, "a\nb"},
		{"2.7.6 no text", `\.fi\a\.nf\b\.in+4\c\.ti-2\d`, "abcd"},
		{"2.7.6 bounded", `\.sp999999999\`, strings.Repeat("\n", maxSkip)},
		{"2.7.5 hexadecimal", `\X41\\X0d0A\b`, "A\r\nb"},
		{"2.7.5 hexadecimal in the message's character set", `\XC2B0\C`, "°C"},
		{"2.7.5 not in the character set", `\XB0\C`, "\ufffdC"},
		{"2.7.7 local", `a\Z12ab\b`, `a\Z12ab\b`},
		{"2.7.7 local, then another", `\Z1\\F\`, `\Z1\|`},
		{"unknown stays", `a\Q\b`, `a\Q\b`},
		{"unknown stays, the next is read", `C:\FOO\F\`, `C:\FOO|`},
		{"unknown formatting stays", `a\.xx\b\.spx\c`, `a\.xx\b\.spx\c`},
		{"odd hexadecimal stays", `a\X4\b\X4G\c\X\d`, `a\X4\b\X4G\c\X\d`},
		{"empty stays", `a\\b`, `a\\b`},
		{"open end stays", `a\Fb`, `a\Fb`},
		{"last byte", `a\`, `a\`},
		{"formatting without name", `a\.\b`, `a\.\b`},
		{"2.7.2 to Latin 1", `\C2D41\` + "caf\xe9", "café"},
		{"2.7.2 to Kanji and back", `\M2442\` + ";3ED" + `\C2842\A`, "山田A"},
		{"2.7.2 to Kanji, supplementary", `\M242844\` + "0!" + `\C2842\A`, "丂A"},
	} {
		t.Run(c.section, func(t *testing.T) {
			m := parse(t, header+"||||||UNICODE UTF-8\rOBX|1|ST|a||"+c.raw+"\r")
			if strings.IndexByte(c.raw, 0xe9) >= 0 {
				m = parse(t, header+"||||||8859/1\rOBX|1|ST|a||"+c.raw+"\r")
			}
			v := m.Segment(1).Field(5)
			if got := v.String(); got != c.want {
				t.Errorf("%q reads %q, want %q", c.raw, got, c.want)
			}
			if got := string(v.AppendText([]byte("before "))); got != "before "+c.want {
				t.Errorf("appended it is %q", got)
			}
		})
	}
}

func TestEscapesFollowTheMessagesDelimiters(t *testing.T) {
	m := parse(t, "MSH!@%*$!A\rOBX!1!ST!*F**S**T**R**E*!\\F\\\r")
	if got := m.Segment(1).Field(3).String(); got != "!@$%*" {
		t.Errorf("got %q", got)
	}
	if got := m.Segment(1).Field(4).String(); got != `\F\` {
		t.Errorf("got %q", got)
	}
	m = parse(t, "MSH|^~\\&#|A\rOBX|\\P\\\r")
	if got := m.Segment(1).Field(1).String(); got != "#" {
		t.Errorf("got %q", got)
	}
}

func TestWhatIsEscapedReadsAsItWas(t *testing.T) {
	sets := []Delimiters{StandardDelimiters, {'|', '^', '~', '\\', '&', '#'}, {'!', '@', '%', '*', '$', 0}, {'^', '~', '|', '\\', '&', 0}}
	rnd := rand.New(rand.NewPCG(1, 2))
	const alphabet = "|^~\\&#!@%*$FSTREXZ.br0019 \r\n\t\x00\x0b\x1c°é山ab\x7f"
	letters := []rune(alphabet)
	for range 2000 {
		var b strings.Builder
		for range rnd.IntN(20) {
			b.WriteRune(letters[rnd.IntN(len(letters))])
		}
		text := b.String()
		for _, d := range sets {
			raw := []byte("MSH" + string(d.Field) + string([]byte{d.Component, d.Repetition, d.Escape, d.Subcomponent}))
			if d.Truncation != 0 {
				raw = append(raw, d.Truncation)
			}
			raw = append(raw, "\rOBX"...)
			raw = d.AppendEscaped(append(raw, d.Field), text)
			m := parse(t, string(raw)+"\r")
			v := m.Segment(1).Field(1)
			if m.Len() != 2 || v.Reps() > 1 || v.Comps() > 1 || v.Subs() > 1 {
				t.Fatalf("%q does not stay one field: %q", text, raw)
			}
			if got := v.String(); got != text {
				t.Fatalf("%q comes back as %q from %q", text, got, raw)
			}
		}
	}
}

func TestWithoutEscapeCharacterDelimitersBecomeBlanks(t *testing.T) {
	d := Delimiters{'|', '^', '~', 0, '&', 0}
	if got := string(d.AppendEscaped(nil, "a|b^c\rd\x00e")); got != "a b c d e" {
		t.Errorf("got %q", got)
	}
}

func TestCharacterSets(t *testing.T) { // §2.14.9.18, table 0211
	for _, c := range []struct {
		name, declared, raw, text, charset string
		assumed                            bool
		finding                            string
	}{
		{"UTF-8", "UNICODE UTF-8", "36 °C", "36 °C", "UTF-8", false, ""},
		{"UTF-8 without UNICODE", "UTF-8", "36 °C", "36 °C", "UTF-8", false, ""},
		{"bare UNICODE", "UNICODE", "36 °C", "36 °C", "UTF-8", false, ""},
		{"ASCII", "ASCII", "36", "36", "US-ASCII", false, ""},
		{"ASCII that is not", "ASCII", "36 \xb0C", "36 °C", "windows-1252", true, FindingCharsetMismatch},
		{"ASCII that is UTF-8", "ASCII", "36 °C", "36 °C", "UTF-8", true, FindingCharsetMismatch},
		{"UTF-8 that is not", "UNICODE UTF-8", "36 \xb0C", "36 °C", "windows-1252", true, FindingCharsetMismatch},
		{"none, ASCII", "", "36", "36", "UTF-8", false, ""},
		{"none, UTF-8", "", "36 °C", "36 °C", "UTF-8", true, FindingCharsetAssumed},
		{"none, not UTF-8", "", "36 \xb0C \x80", "36 °C €", "windows-1252", true, FindingCharsetAssumed},
		{"unknown", "CAN", "36 \xb0C", "36 °C", "windows-1252", true, FindingCharsetUnknown},
		{"null", `""`, "36 \xb0C", "36 °C", "windows-1252", true, ""},
		{"Latin 1", "8859/1", "36 \xb0C", "36 °C", "ISO-8859-1", false, ""},
		{"Latin 1 in blanks", "   8859/1", "36 \xb0C", "36 °C", "ISO-8859-1", false, ""},
		{"Latin 1 by another name", "iso-8859-1", "36 \xb0C", "36 °C", "ISO-8859-1", false, ""},
		{"Latin 1 that reads as UTF-8", "8859/1", "36 °C", "36 Â°C", "ISO-8859-1", false, FindingCharsetDoubtful},
		{"Latin 2", "8859/2", "\xb1", "ą", "ISO-8859-2", false, ""},
		{"Cyrillic", "8859/5", "\xbf\xe3\xdb\xec\xe1", "Пульс", "ISO-8859-5", false, ""},
		{"Greek", "8859/7", "\xe1", "α", "ISO-8859-7", false, ""},
		{"Latin 9", "8859/15", "\xa4", "€", "ISO-8859-15", false, ""},
		{"GB 18030", "GB 18030-2000", "\xc2\xf6\xb2\xab", "脉搏", "GB18030", false, ""},
		{"GBK", "GBK", "\xc2\xf6\xb2\xab", "脉搏", "GBK", false, ""},
		{"Big 5", "BIG-5", "\xaf\xdf\xb7i", "脈搏", "Big5", false, ""},
		{"Korean", "KS X 1001", "\xb8\xc6\xb9\xda", "맥박", "EUC-KR", false, ""},
		{"Shift JIS", "SHIFT-JIS", "\x96\xac\x94\x8f", "脈拍", "Shift_JIS", false, ""},
		{"ISO 2022 JP", "ASCII~ISO IR87", "\x1b$B;3ED\x1b(B A", "山田 A", "ISO-2022-JP", false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := parse(t, header+"||||||"+c.declared+"\rOBX|1|ST|a^"+c.raw+"^L||1\r")
			name, assumed := m.Charset()
			if name != c.charset || assumed != c.assumed {
				t.Errorf("character set is %s (assumed %v), want %s (%v)", name, assumed, c.charset, c.assumed)
			}
			if got := m.Segment(1).Field(3).Comp(2).String(); got != c.text {
				t.Errorf("text is %q, want %q", got, c.text)
			}
			if m.Segment(1).Field(5).String() != "1" {
				t.Error("the fields after the text are out of place")
			}
			if c.finding != "" && !has(m, c.finding) {
				t.Errorf("findings %v do not say %s", m.Findings(), c.finding)
			}
			if c.finding == "" && c.declared != `""` && len(m.Findings()) > 0 {
				t.Errorf("unasked findings %v", m.Findings())
			}
			checkMessage(t, m)
		})
	}
}

// In these character sets the second byte of a character may be | ^ ~ & or \.
func TestCharactersThatHoldDelimiterBytes(t *testing.T) {
	for _, c := range []struct{ declared, raw, text string }{
		{"SHIFT-JIS", "\x83\x5c\x81\x7c\x83\x7e", "ソ－ミ"},
		{"BIG-5", "\xa5\x5c\xa4\x7c\xa4\x5e", "功弋乞"},
		{"GB 18030-2000", "\x95\x5c\x81\x7c\x81\x30\x89\x38", "昞亅ß"},
		{"GBK", "\x81\x5e\x81\x7e\x81\x26", ""},
		{"ASCII~ISO IR87", "\x1b$B!A!|%\\\x1b(B", ""},
	} {
		t.Run(c.declared, func(t *testing.T) {
			m := parse(t, header+"||||||"+c.declared+"\rOBX|1|ST|a^"+c.raw+"^L~r2||1&2\r")
			f := m.Segment(1).Field(3)
			if f.Reps() != 2 || f.Comps() != 3 || f.Comp(3).String() != "L" || m.Segment(1).Field(5).Sub(2).String() != "2" {
				t.Fatalf("cut inside a character: %d repetitions, %d components", f.Reps(), f.Comps())
			}
			got := f.Comp(2).String()
			if !utf8.ValidString(got) {
				t.Fatalf("text %q is not UTF-8", got)
			}
			if c.text != "" && got != c.text {
				t.Errorf("text is %q, want %q", got, c.text)
			}
		})
	}
}
