package hl7

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// split scans r with SplitMessages.
func split(t testing.TB, r io.Reader) []string {
	t.Helper()
	s := bufio.NewScanner(r)
	s.Buffer(nil, 4<<20)
	s.Split(new(Splitter).Split)
	var list []string
	for s.Scan() {
		list = append(list, s.Text())
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	return list
}

func TestFilesAreCutIntoMessages(t *testing.T) {
	const a, b = `MSH|^~\&|A` + "\rPID|1", `MSH|^~\&|B` + "\rPID|2"
	lf := strings.NewReplacer("\r", "\n")
	crlf := strings.NewReplacer("\r", "\r\n")
	for _, c := range []struct {
		name, file string
		want       []string
	}{
		{"empty", "", nil},
		{"only blanks", " \r\n\x00\x1c\r", nil},
		{"one", a, []string{a}},
		{"two", a + "\r" + b + "\r", []string{a, b}},
		{"LF", lf.Replace(a + "\r" + b + "\r"), []string{lf.Replace(a), lf.Replace(b)}},
		{"CR LF", crlf.Replace(a + "\r" + b + "\r"), []string{crlf.Replace(a), crlf.Replace(b)}},
		{"blank lines between", a + "\r\n\r\n\r\n" + b, []string{a, b}},
		{"MLLP", "\x0b" + a + "\r\x1c\r\x0b" + b + "\r\x1c\r", []string{a, b}},
		{"MLLP without last CR", "\x0b" + a + "\r\x1c\x0b" + b + "\r\x1c", []string{a, b}},
		{"MLLP without end", "\x0b" + a + "\r\x0b" + b, []string{"\x0b" + a, "\x0b" + b}},
		{"MLLP doubled", "\x0b\x0b" + a + "\r\x1c\x1c\r\r\x0b\x0b" + b + "\x1c\x1c\r\r", []string{a, b}},
		{"MLLP padded with NUL", "\x0b" + a + "\r\x1c\r\x00\x00\x00\x0b" + b + "\r\x1c\r\x00", []string{a, b}},
		{"two messages in one MLLP block", "\x0b" + a + "\r" + b + "\r\x1c\r", []string{a, b}},
		{"bare, then MLLP", a + "\r\x0b" + b + "\r\x1c\r", []string{a, b}},
		{"batch", "FHS|^~\\&|F\rBHS|^~\\&|B\r" + a + "\r" + b + "\rBTS|2\rFTS|1\r", []string{a, b}},
		{"batch with LF", lf.Replace("BHS|^~\\&|B\r" + a + "\rBTS|2"), []string{lf.Replace(a)}},
		{"batch in MLLP", "\x0bFHS|^~\\&\r" + a + "\rFTS|1\r\x1c\r", []string{a}},
		{"batch header directly after another", "FHS|^~\\&\rFTS|0\rFHS|^~\\&\r" + a, []string{a}},
		{"byte order marks", "\xef\xbb\xbf" + a + "\r\n\xef\xbb\xbf" + b, []string{"\xef\xbb\xbf" + a, "\xef\xbb\xbf" + b}},
		{"line separators", "\u2028" + a + "\r\n\u2028" + b, []string{"\u2028" + a, "\u2028" + b}},
		{"junk before", "# exported\r\n" + a, []string{"# exported", a}},
		{"junk between blocks", "\x0b" + a + "\r\x1c\rnoise\x0b" + b + "\r\x1c\r", []string{a, "noise", b}},
		{"junk at the end of a block", "\x0b" + a + "\r\x1c\rnoise", []string{a, "noise"}},
		{"segments without header", "OBX|1\rOBX|2\r" + a, []string{"OBX|1\rOBX|2", a}},
		{"after a batch", "BHS|^~\\&\r" + a + "\rBTS|1\rnoise\r" + b, []string{a, "noise", b}},
		{"MSH inside a field", a + "\rNTE|1||MSH|^~ is the header\r" + b, []string{a + "\rNTE|1||MSH|^~ is the header", b}},
		{"other delimiters", "MSH!@%*$!A\rPID!1\rMSH#@%*$#B\r", []string{"MSH!@%*$!A\rPID!1", "MSH#@%*$#B"}},
		{"words that begin like a header", a + "\rMSHA\rBTS\r", []string{a + "\rMSHA\rBTS"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := split(t, strings.NewReader(c.file)); !slices.Equal(got, c.want) {
				t.Errorf("\n got %q\nwant %q", got, c.want)
			}
			if got := split(t, iotest.OneByteReader(strings.NewReader(c.file))); !slices.Equal(got, c.want) {
				t.Errorf("byte by byte\n got %q\nwant %q", got, c.want)
			}
			if got := split(t, iotest.HalfReader(strings.NewReader(c.file))); !slices.Equal(got, c.want) {
				t.Errorf("in halves\n got %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestMessagesOfAFrame(t *testing.T) { // §2.10.3
	const a, b = `MSH|^~\&|A` + "\rPID|1\r", `MSH|^~\&|B` + "\rPID|2\r"
	lf := strings.NewReplacer("\r", "\n")
	for _, c := range []struct {
		name  string
		parts []string // of which the frame is made
	}{
		{"one", []string{a}},
		{"none", []string{"FHS|^~\\&\rFTS|0\r"}},
		{"nothing", []string{""}},
		{"two", []string{a, b}},
		{"three with LF", []string{lf.Replace(a), lf.Replace(b), lf.Replace(a)}},
		{"blank lines between", []string{a + "\r\n\r\n", b}},
		{"framing bytes between", []string{a + "\x1c\r\v", b}},
		{"a batch", []string{"FHS|^~\\&|F\rBHS|^~\\&|B\r" + a, b + "BTS|2\rFTS|1\r"}},
		{"a batch that ends without its trailer", []string{"BHS|^~\\&|B\r" + a, b}},
		{"two batches", []string{"BHS|^~\\&|B\r" + a + "BTS|1\r", "BHS|^~\\&|B\r" + b + "BTS|1\r"}},
		{"a batch without a message before one", []string{"BHS|^~\\&\rBTS|0\rBHS|^~\\&\r" + a, b}},
		{"junk first", []string{"# exported\r" + a, b}},
		{"junk between", []string{a + "noise\r", b}},
		{"byte order marks", []string{"\xef\xbb\xbf" + a, "\xef\xbb\xbf" + b}},
		{"MSH in a text", []string{a + "NTE|1||MSH|^~ is the header\r", b}},
		{"MSH in a text of the only one", []string{a + "NTE|1||see MSH|\r"}},
		{"the end lost", []string{`MSH|^~\&|A` + "\rOBX|1|NM|||12" + b}}, // Parse refuses it
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, p := range Messages([]byte(strings.Join(c.parts, ""))) {
				got = append(got, string(p))
			}
			if !slices.Equal(got, c.parts) {
				t.Errorf("\n got %q\nwant %q", got, c.parts)
			}
		})
	}
}

// Two messages that have grown together are the wrong patient's values: nothing is read from them.
func TestMessagesThatHaveGrownTogetherAreRefused(t *testing.T) {
	for _, c := range []string{
		header + "\rOBX|1|NM|a||12" + header + "\rOBX|1|NM|a||80\r",
		header + "\rOBX|1|NM|a||12\v" + header + "\r",
		header + "\r" + header + "\r",
		"MSH!@%*$!A\rOBX!1!NM!a!!12MSH!@%*$!B\r",
	} {
		_, err := Parse([]byte(c))
		if e, ok := errors.AsType[*Error](err); !ok || e.Location() != "MSH[2]" || e.Offset == 0 {
			t.Errorf("%q: %v", c, err)
		}
	}
	parse(t, header+"\rNTE|1||MSH\\F\\^~\\E\\& is how a message begins\r")
}

func TestContinuedMessagesAreJoined(t *testing.T) { // §2.10.2
	one := parse(t, `MSH|^~\&|A||||||ORU^R01|1|P|2.5`+"\rOBR|1\rOBX|1|FT|a||This is the first \rDSC|K7|F\r")
	two := parse(t, `MSH|^~\&|A||||||ORU^R01|2|P|2.5||K7`+"\rADD|and this the second\rADD| part|||||F\rOBX|2|NM|b||1\r")
	raw, err := Join(nil, one, two)
	if err != nil {
		t.Fatal(err)
	}
	m := parse(t, string(raw))
	if names(m) != "MSH OBR OBX OBX" {
		t.Fatalf("got %s", names(m))
	}
	if got := m.Segment(2); got.Field(5).String() != "This is the first and this the second part" || got.Field(10).String() != "F" {
		t.Errorf("got %q", got.Raw())
	}
	if !has(one, FindingContinuation) || !has(two, FindingContinuation) || has(m, FindingContinuation) {
		t.Error("parts must say that they are parts, the whole must not")
	}
	for name, parts := range map[string][]*Message{
		"wrong order":       {two, one},
		"pointer elsewhere": {one, parse(t, `MSH|^~\&|A||||||ORU^R01|2|P|2.5||K8`+"\r")},
		"other delimiters":  {one, parse(t, "MSH!^~\\&!A\r")},
	} {
		if _, err := Join(nil, parts...); err == nil {
			t.Errorf("%s: joined", name)
		} else if _, ok := errors.AsType[*Error](err); !ok {
			t.Errorf("%s: the error is a %T", name, err)
		}
	}
	if raw, err := Join(nil); len(raw) != 0 || err != nil {
		t.Errorf("nothing joined gives %q, %v", raw, err)
	}
}

// A joiner gives the whole with the last part, and never a part as if it were whole.
func TestAJoinerTakesPartsAsTheyCome(t *testing.T) { // §2.10.2
	part := func(from, to, rest string) *Message {
		raw := `MSH|^~\&|A||||||ORU^R01|1|P|2.5||` + from + "\r" + rest
		if to != "" {
			raw += "DSC|" + to + "|F\r"
		}
		return parse(t, raw)
	}
	alone, first := part("", "", "OBX|1|NM|a||7\r"), part("", "K1", "OBX|1|NM|a||12\r")
	second, last := part("K1", "K2", "ADD|0\r"), part("K2", "", "ADD||||||F\r")
	take := func(j *Joiner, m *Message) string {
		whole, waiting, err := j.Take(m)
		switch {
		case err != nil && (whole != nil || waiting), whole != nil && waiting, waiting != j.Waiting():
			t.Fatalf("%q, waiting %v (%v), %v", whole, waiting, j.Waiting(), err)
		case err != nil:
			return "error"
		case waiting:
			return "waiting"
		case whole != nil:
			return parse(t, string(whole)).Segment(1).Field(5).String()
		}
		return "alone"
	}
	for _, c := range []struct {
		name  string
		parts []*Message
		want  string
	}{
		{"three parts", []*Message{first, second, last}, "waiting waiting 120"},
		{"alone", []*Message{alone, alone}, "alone alone"},
		{"begun and not finished", []*Message{first, alone, second}, "waiting alone error"},
		{"begun again", []*Message{first, first, second, last}, "waiting waiting waiting 120"},
		{"a part is missing", []*Message{first, last, alone}, "waiting error alone"},
		{"the beginning is missing", []*Message{last, first, second, last}, "error waiting waiting 120"},
		{"a pointer that nothing continues", []*Message{part("K9", "", "OBX|1|NM|a||7\r")}, "alone"},
		{"its own continuation", []*Message{part("", "", "OBX|1|NM|a||1\rADD|2\r")}, "12"},
		{"an empty pointer", []*Message{parse(t, header+"\rOBX|1|NM|a||7\rDSC||F\r")}, "alone"},
	} {
		var j Joiner
		var got []string
		for _, m := range c.parts {
			got = append(got, take(&j, m))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, want %s", c.name, got, c.want)
		}
	}
	var j Joiner
	long := part("K1", "K1", "NTE|1||"+strings.Repeat("x", 300_000)+"\r")
	if got := take(&j, first) + take(&j, long) + take(&j, long) + take(&j, long) + take(&j, long); got != "waitingwaitingwaitingwaitingerror" {
		t.Errorf("parts without end: %s", got)
	}
}

func TestBuiltMessagesAreRead(t *testing.T) {
	b := NewBuilder()
	raw := b.Segment("MSH", "SIM", "ICU", "", "", "20261121060102+0100", "", "ORU^R01^ORU_R01", Text("a|b"), "P", "2.6", "", "").
		Segment("PID", "", "", Repetitions(Components(Text("T^1"), "", "", Subcomponents("HOSP", Text("1&2"))), "X")).
		Segment("OBX", "1", "TX", "", "", Text("one\rtwo"), "", "").Bytes()
	want := `MSH|^~\&|SIM|ICU|||20261121060102+0100||ORU^R01^ORU_R01|a\F\b|P|2.6` + "\r" +
		`PID|||T\S\1^^^HOSP&1\T\2~X` + "\r" + `OBX|1|TX|||one\X0D\two` + "\r"
	if string(raw) != want {
		t.Fatalf("\n got %q\nwant %q", raw, want)
	}
	m := parse(t, string(raw))
	f := m.Segment(1).Field(3)
	if m.ControlID() != "a|b" || f.Comp(1).String() != "T^1" || f.Comp(4).Sub(2).String() != "1&2" || m.Segment(2).Field(5).String() != "one\rtwo" {
		t.Error("what was built reads otherwise")
	}
	if !bytes.Equal(m.Append(nil), raw) || len(m.Findings()) > 0 {
		t.Errorf("what was built is not canonical: %v", m.Findings())
	}
	if b.Reset(); len(b.Bytes()) != 0 {
		t.Error("Reset keeps bytes")
	}
}
