package hl7

import (
	"strings"
	"testing"
)

var wrongNumber = &Error{Code: CodeDataType, Segment: "OBX", Sequence: 3, Field: 5, Repetition: 1, Component: 2, Offset: 120, What: "cannot read a number", Remedy: "send NM"}

func TestAcknowledgements(t *testing.T) { // §2.9.2, §2.9.3, §2.14.5, §2.14.8
	for _, c := range []struct {
		name, raw string
		code      AckCode
		errs      []*Error
		want      string
	}{
		{"accepted", header, AA, nil,
			`MSH|^~\&|GW|WARD|MON^0011223344556677^EUI-64|ICU|20261121060102+0100||ACK^R01^ACK|A1|P|2.6` + "\rMSA|AA|ID7\r"},
		{"committed", header + "|||AL|NE", CA, nil,
			`MSH|^~\&|GW|WARD|MON^0011223344556677^EUI-64|ICU|20261121060102+0100||ACK^R01^ACK|A1|P|2.6` + "\rMSA|CA|ID7\r"},
		{"error from v2.5 on", `MSH|^~\&|A|B|C|D|||ORU^R01^ORU_R01|7|T^A|2.5`, AE, []*Error{wrongNumber},
			`MSH|^~\&|C|D|A|B|20261121060102+0100||ACK^R01^ACK|A1|T^A|2.5` + "\rMSA|AE|7\r" +
				"ERR||OBX^3^5^1^2|102^Data type error^HL70357|E|||byte 120|cannot read a number; send NM\r"},
		{"errors up to v2.4", `MSH|^~\&|A|B|C|D|||ORU^R01|7|P|2.4`, AR, []*Error{wrongNumber, {Code: CodeFieldMissing, Segment: "PID", What: "cannot do without a patient"}},
			`MSH|^~\&|C|D|A|B|20261121060102+0100||ACK^R01^ACK|A1|P|2.4` + "\rMSA|AR|7|cannot read a number\r" +
				"ERR|OBX^3^5^102&Data type error&HL70357\rERR|PID^^^101&Required field missing&HL70357\r"},
		{"v2.3.1 has no structure", `MSH|^~\&|A|B|C|D|||ORU^R01|7|P|2.3.1`, AA, nil,
			`MSH|^~\&|C|D|A|B|20261121060102+0100||ACK^R01|A1|P|2.3.1` + "\rMSA|AA|7\r"},
		{"v2.2 has no event", `MSH|^~\&|A|B|C|D|||ORU^R01|7|P|2.2`, AA, nil,
			`MSH|^~\&|C|D|A|B|20261121060102+0100||ACK|A1|P|2.2` + "\rMSA|AA|7\r"},
		{"version with country is echoed", `MSH|^~\&|A|B|C|D|||ORU^R01|7|P|2.5^FRA^2.5`, AA, nil,
			`MSH|^~\&|C|D|A|B|20261121060102+0100||ACK^R01^ACK|A1|P|2.5^FRA^2.5` + "\rMSA|AA|7\r"},
		{"id is echoed byte for byte", `MSH|^~\&|A|B|C|D|||ORU^R01| ` + "\xe9" + `7\T\8^x~y |P|2.6||||||8859/1`, AA, nil,
			`MSH|^~\&|C|D|A|B|20261121060102+0100||ACK^R01^ACK|A1|P|2.6||||||8859/1` + "\rMSA|AA| \xe97\\T\\8^x~y \r"},
		{"sender's delimiters", `MSH!@%*$!A!B!C!D!!!ORU@R01!7!P!2.6`, AE, []*Error{{Code: CodeOther, Segment: "PID", Sequence: 1, Field: 3, What: "cannot read 100%"}},
			`MSH!@%*$!C!D!A!B!20261121060102+0100!!ACK@R01@ACK!A1!P!2.6` + "\rMSA!AE!7\r" +
				"ERR!!PID@1@3!199@Other HL7 Error@HL70357!E!!!!cannot read 100*R*\r"},
		{"nothing known", `MSH|^~\&|`, AR, []*Error{{Code: CodeFieldMissing, Segment: "MSH", Sequence: 1, Field: 9, What: "cannot do without a type"}},
			`MSH|^~\&|||||20261121060102+0100||ACK|A1||` + "\rMSA|AR|\r" +
				"ERR||MSH^1^9|101^Required field missing^HL70357|E||||cannot do without a type\r"},
		{"accepted with a warning", `MSH|^~\&|A|B|C|D|||ORU^R01|7|P|2.6`, AA, []*Error{nil, {Code: CodeTableValue, What: "cannot name the unit"}},
			`MSH|^~\&|C|D|A|B|20261121060102+0100||ACK^R01^ACK|A1|P|2.6` + "\rMSA|AA|7\r" +
				"ERR|||103^Table value not found^HL70357|W||||cannot name the unit\r"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := parse(t, c.raw+"\r")
			got := string(AppendAck([]byte("before "), m, c.code, when, "A1", c.errs...))
			if got != "before "+c.want {
				t.Errorf("\n got %q\nwant %q", got, "before "+c.want)
			}
			ack := parse(t, c.want)
			if id := ack.Segment(1).Field(2).Raw(); string(id) != string(m.Header().Field(10).Raw()) {
				t.Errorf("MSA-2 is %q", id)
			}
		})
	}
}

func TestUnreadableBytesGetAnAnswer(t *testing.T) {
	_, err := Parse([]byte("PID|1\r"))
	got := string(AppendNak(nil, AR, when, "A|1", err.(*Error)))
	want := `MSH|^~\&|||||20261121060102+0100||ACK|A\F\1|P|2.5` + "\rMSA|AR|\r" +
		"ERR||MSH|100^Segment sequence error^HL70357|E||||cannot find the message header; a message must begin with MSH and its delimiters\r"
	if got != want {
		t.Errorf("\n got %q\nwant %q", got, want)
	}
	parse(t, got)
	for _, none := range []*Message{nil, {}} {
		if again := string(AppendAck(nil, none, AR, when, "A|1", err.(*Error))); again != want {
			t.Errorf("without a message\n got %q\nwant %q", again, want)
		}
	}
	if got := string(AppendNak(nil, CR, when, "1", nil)); !strings.HasSuffix(got, "\rMSA|CR|\r") {
		t.Errorf("got %q", got)
	}
}

func TestAcknowledgementMode(t *testing.T) { // table 0155
	for raw, want := range map[string][2]string{
		header:                  {"", ""},
		header + "|||AL|NE":     {"AL", "NE"},
		header + "|||NE|AL":     {"NE", "AL"},
		header + "|||ER|SU":     {"ER", "SU"},
		header + "||||AL":       {"", "AL"},
		header + "|||never|":    {"never", ""},
		header + "|||AL^Always": {"AL", ""},
	} {
		accept, application := AckMode(parse(t, raw+"\r"))
		if got := [2]string{accept, application}; got != want {
			t.Errorf("%q gives %q, want %q", raw, got, want)
		}
	}
}

func TestEveryConditionHasAName(t *testing.T) { // table 0357
	seen := map[string]bool{}
	for _, code := range []int{0, 100, 101, 102, 103, 104, 198, 199, 200, 201, 202, 203, 204, 205, 206, 207} {
		text := conditionText(code)
		if text == "" || seen[text] || strings.ContainsAny(text, `|^~\&`) {
			t.Errorf("condition %d is called %q", code, text)
		}
		seen[text] = true
	}
}
