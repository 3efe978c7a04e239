package hl7

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

var seeds = []string{
	header + "\rPID|1||A^B&C~D\rOBX|1|NM|a^b^c||\\X41\\\\S\\\r",
	header + "\nPID|1\r\nOBX|1|TX|||a\nb\r",
	"\xef\xbb\xbfMSH!@%*$#!A\rOBX!*F*\r",
	"MSH^~|\\&^A\r", `MSH|^~\\&|A`, `MSH|^~&|A`, "MSH|^|", "MSH|",
	header + "||||||SHIFT-JIS\rOBX|\x83\x5c\x83|\x81\r",
	header + "||||||ASCII~ISO IR87\rOBX|\x1b$B!A!|\x1b(B|\x1b$\r",
	header + "||||||GB 18030-2000\rOBX|\x81\x30\x81|\\M2442\\|\\C28\\\r",
	"FHS|^~\\&\rBHS|^~\\&\r" + header + "\rBTS|1\r\x1c\r",
	header + "\rADD|x\rDSC|1\r",
}

func FuzzParse(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		before := bytes.Clone(raw)
		var m Message
		err := m.Reset(raw, Limits{Bytes: 1 << 16, Segments: 100, Fields: 1000})
		if !bytes.Equal(raw, before) {
			t.Fatal("the message was changed")
		}
		if err != nil {
			e, ok := errors.AsType[*Error](err)
			if !ok || !strings.HasPrefix(e.What, "cannot ") || m.Len() != 0 {
				t.Fatalf("refused with %#v", err)
			}
			return
		}
		if m.Len() > 100 || len(m.bars) > 1000+8 {
			t.Fatal("the limits do not hold")
		}
		checkMessage(t, &m)
		if _, err := Join(nil, &m); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzParseTime(f *testing.F) {
	for _, s := range []string{"2026", "20261121060102.1234+0100", "20260124124738000+0800", "2026-01-24T12:47:38Z", "00000000", `""`, "20260329023000^S", "20261121 060160"} {
		f.Add(s)
	}
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, zone := range []*time.Location{nil, berlin} {
			got, err := ParseTime(s, zone)
			if err != nil {
				if _, ok := errors.AsType[*Error](err); !ok && !errors.Is(err, ErrNoTime) {
					t.Fatalf("%q is refused with %v", s, err)
				}
				continue
			}
			if y := got.Time.UTC().Year(); y < 0 || y > 10000 || got.Precision == NoPrecision || got.Precision > Fraction {
				t.Fatalf("%q reads %v, precision %d", s, got.Time, got.Precision)
			}
			if got.ZoneGiven && zone != nil {
				if other, _ := ParseTime(s, nil); !other.Time.Equal(got.Time) {
					t.Fatalf("%q has its own zone and still depends on ours", s)
				}
			}
			// What was read, written in full, is the same instant.
			full := got.Time.Format("20060102150405.000000000-0700")
			again, err := ParseTime(full, zone)
			if _, offset := got.Time.Zone(); offset%60 == 0 && got.Time.Year() > 0 && got.Time.Year() < 10000 && (err != nil || !again.Time.Equal(got.Time)) {
				if !errors.Is(err, ErrNoTime) {
					t.Fatalf("%q reads %v, but %q reads %v (%v)", s, got.Time, full, again.Time, err)
				}
			}
		}
	})
}

func FuzzSplitMessages(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s), 1)
		f.Add([]byte("\x0b"+s+"\x1c\r\x0b"+s), 3)
	}
	f.Fuzz(func(t *testing.T, data []byte, size int) {
		whole := split(t, bytes.NewReader(data))
		parts := split(t, &slowReader{data, max(1, size%64)})
		if strings.Join(whole, "\x00") != strings.Join(parts, "\x00") {
			t.Fatalf("tokens depend on how the bytes arrive:\n%q\n%q", whole, parts)
		}
		// Nothing is lost but blanks, framing and batch lines.
		rest := data
		for len(rest) > 0 {
			advance, token, err := SplitMessages(rest, true)
			if err != nil || advance == 0 {
				t.Fatalf("stuck at %q: %v", rest, err)
			}
			if token == nil {
				break
			}
			at := cap(rest) - cap(token)
			checkSkipped(t, rest[:at])
			checkSkipped(t, rest[at+len(token):advance])
			rest = rest[advance:]
		}
		checkSkipped(t, rest)
	})
}

// checkSkipped holds that b has nothing but blanks, framing and batch lines.
func checkSkipped(t *testing.T, b []byte) {
	for _, line := range bytes.FieldsFunc(b, func(r rune) bool { return strings.ContainsRune("\r\n\x0b\x1c", r) }) {
		if line = bytes.TrimLeft(line, " \t\x00"); len(line) > 0 && !isEnvelope(line, 0) {
			t.Fatalf("%q was lost", line)
		}
	}
}

type slowReader struct {
	data []byte
	size int
}

func (r *slowReader) Read(p []byte) (int, error) {
	n := copy(p, r.data[:min(r.size, len(r.data))])
	r.data = r.data[n:]
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func FuzzUnescape(f *testing.F) {
	for _, s := range []string{`\F\\S\`, `\X41\`, `\.sp99\`, `\M2442\` + ";3" + `\C2842\`, `\Z1\F\`, `a\`, "\xe9\x83\x5c", "\x1b$B;3\x1b(B"} {
		for _, set := range []string{"", "8859/1", "SHIFT-JIS", "GB 18030-2000", "ISO IR87", "UNICODE UTF-8"} {
			f.Add(s, set)
		}
	}
	f.Fuzz(func(t *testing.T, raw, set string) {
		if strings.ContainsAny(raw+set, "\r\n|") || len(raw) > 1<<12 {
			return
		}
		m, err := Parse([]byte(header + "||||||" + set + "\rOBX|" + raw + "\r"))
		if err != nil {
			return
		}
		for i := range m.Len() {
			v := m.Segment(i).Field(1)
			text := v.String()
			if !utf8.ValidString(text) {
				t.Fatalf("%q in %q reads %q, which is not UTF-8", raw, set, text)
			}
			if len(text) > 4*maxSkip*(len(v.Raw())+1) {
				t.Fatalf("%d bytes became %d", len(v.Raw()), len(text))
			}
			if got := string(v.AppendText([]byte("x"))); got != "x"+text {
				t.Fatalf("appended %q, want %q", got, text)
			}
		}
	})
}

func charsetOf(m *Message) string { name, _ := m.Charset(); return name }

func FuzzAck(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s), "1", "cannot read", 3)
	}
	f.Fuzz(func(t *testing.T, raw []byte, id, what string, place int) {
		m, err := Parse(raw)
		if err != nil {
			nak := AppendNak(nil, AR, when, id, err.(*Error))
			if a, err := Parse(nak); err != nil || a.Len() != 3 || !a.Segment(1).Field(2).Empty() || a.ControlID() != strings.ToValidUTF8(a.ControlID(), "") {
				t.Fatalf("the answer %q cannot be read: %v", nak, err)
			}
			return
		}
		e := &Error{Code: place, Segment: "OBX", Sequence: place, Field: place, Component: place, What: what}
		for _, code := range []AckCode{AA, AE, CR} {
			ack := AppendAck(nil, m, code, when, id, e)
			a, err := Parse(ack)
			if err != nil {
				t.Fatalf("the answer %q cannot be read: %v", ack, err)
			}
			if bytes.IndexByte(m.Header().Raw(), '\n') >= 0 || bytes.IndexByte(m.Header().Raw(), 0x1b) >= 0 {
				continue // a line feed in a header field may end a segment in the answer
			}
			if was, _ := m.Charset(); was != charsetOf(a) {
				continue // the characters of the sender's header swallow the field that names their set, and so the answer names none
			}
			msa, ok := a.First("MSA")
			if !ok || a.Len() != 3 || !bytes.Equal(msa.Field(2).Raw(), m.Header().Field(10).Raw()) || string(msa.Field(1).Raw()) != string(code) {
				t.Fatalf("the answer %q does not answer %q", ack, raw)
			}
			if !bytes.Equal(a.Header().Field(5).Raw(), m.Header().Field(3).Raw()) || !bytes.Equal(a.Header().Field(12).Raw(), m.Header().Field(12).Raw()) {
				t.Fatalf("the answer %q goes elsewhere than to the sender of %q", ack, raw)
			}
		}
	})
}
