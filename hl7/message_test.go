package hl7

import (
	"bytes"
	"errors"
	"math"
	"os"
	"strings"
	"testing"
)

const header = `MSH|^~\&|MON^0011223344556677^EUI-64|ICU|GW|WARD|20261121060102+0100||ORU^R01^ORU_R01|ID7|P|2.6`

func parse(t testing.TB, raw string) *Message {
	t.Helper()
	m, err := Parse([]byte(raw))
	if err != nil {
		t.Fatalf("cannot parse %q: %v", raw, err)
	}
	return m
}

func has(m *Message, code string) bool {
	for _, f := range m.Findings() {
		if f.Code == code {
			return true
		}
	}
	return false
}

func names(m *Message) string {
	var list []string
	for i := range m.Len() {
		list = append(list, m.Segment(i).Name())
	}
	return strings.Join(list, " ")
}

func TestHeaderIsNumberedAsTheStandardDoes(t *testing.T) { // §2.14.9
	m := parse(t, header+"\r")
	h := m.Header()
	for n, want := range map[int]string{
		0: "", 1: "|", 2: `^~\&`, 3: `MON^0011223344556677^EUI-64`, 7: "20261121060102+0100", 10: "ID7", 12: "2.6", 13: "",
	} {
		if got := string(h.Field(n).Raw()); got != want {
			t.Errorf("MSH-%d is %q, want %q", n, got, want)
		}
	}
	if h.Fields() != 12 {
		t.Errorf("MSH has %d fields, want 12", h.Fields())
	}
	if n := h.Field(2).Comps(); n != 1 {
		t.Errorf("MSH-2 splits into %d components", n)
	}
	code, event, structure := m.Type()
	if code != "ORU" || event != "R01" || structure != "ORU_R01" || m.ControlID() != "ID7" || m.Version() != "2.6" {
		t.Errorf("got type %s %s %s, id %s, version %s", code, event, structure, m.ControlID(), m.Version())
	}
	if len(m.Findings()) != 0 {
		t.Errorf("a clean message has findings: %v", m.Findings())
	}
}

func TestSegmentsEndAsTheMessageDecides(t *testing.T) { // §2.5.2, and what files and gateways make of it
	for _, c := range []struct {
		name, raw, names, finding string
	}{
		{"CR", header + "\rPID|1\rOBX|1\r", "MSH PID OBX", ""},
		{"CR, last one missing", header + "\rPID|1\rOBX|1", "MSH PID OBX", ""},
		{"LF", header + "\nPID|1\nOBX|1\n", "MSH PID OBX", FindingLineFeed},
		{"LF, one CR at the end", header + "\nPID|1\nOBX|1\r", "MSH PID OBX", FindingLineFeed},
		{"LF, CR LF at the end", header + "\nPID|1\nOBX|1\r\n", "MSH PID OBX", FindingLineFeed},
		{"CR LF", header + "\r\nPID|1\r\nOBX|1\r\n", "MSH PID OBX", FindingCarriageLineFeed},
		{"LF CR", header + "\n\rPID|1\n\rOBX|1\n\r", "MSH PID OBX", ""},
		{"CR LF, CR, LF", header + "\r\nPID|1\rPV1|1\nOBX|1\r", "MSH PID PV1 OBX", FindingMixedTerminators},
		{"LF inside a field", header + "\rPID|1\rNTE|1||line one\nline two\rOBX|1\r", "MSH PID NTE OBX", FindingLineFeedInField},
		{"blank lines", header + "\r\r  \rPID|1\r\n\r\nOBX|1\r", "MSH PID OBX", ""},
		{"site segment after LF", header + "\rPID|1\nZX1|1\r", "MSH PID ZX1", FindingMixedTerminators},
		{"one segment", header, "MSH", ""},
		{"indented", header + "\r  PID|1\r", "MSH PID", FindingIndented},
		{"a line that is no segment", header + "\rPID|1\rgood morning\r", "MSH PID ", FindingOddSegment},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := parse(t, c.raw)
			if got := names(m); got != c.names {
				t.Errorf("segments are %q, want %q", got, c.names)
			}
			if c.finding != "" && !has(m, c.finding) {
				t.Errorf("findings %v do not say %s", m.Findings(), c.finding)
			}
			checkMessage(t, m)
		})
	}
	m := parse(t, header+"\rNTE|1||line one\nline two\r")
	if got := m.Segment(1).Field(3).String(); got != "line one\nline two" {
		t.Errorf("the line feed in a field was not kept: %q", got)
	}
}

func TestDelimitersAreTheMessagesOwn(t *testing.T) { // §2.5.4
	for _, c := range []struct {
		name, raw, finding string
		want               Delimiters
	}{
		{"standard", `MSH|^~\&|A`, "", Delimiters{'|', '^', '~', '\\', '&', 0}},
		{"with truncation", `MSH|^~\&#|A`, "", Delimiters{'|', '^', '~', '\\', '&', '#'}},
		{"all different", `MSH!@%*$!A`, FindingDelimiters, Delimiters{'!', '@', '%', '*', '$', 0}},
		{"caret separates fields", `MSH^~|\&^A`, FindingDelimiters, Delimiters{'^', '~', '|', '\\', '&', 0}},
		{"other order", `MSH|^&~\|A`, FindingDelimiters, Delimiters{'|', '^', '&', '~', '\\', 0}},
		{"escape doubled", `MSH|^~\\&|A`, FindingDoubledEscape, Delimiters{'|', '^', '~', '\\', '&', 0}},
		{"escape doubled, with truncation", `MSH|^~\\&#|A`, FindingDoubledEscape, Delimiters{'|', '^', '~', '\\', '&', '#'}},
		{"escape missing (GE VSP)", `MSH|^~&|A`, FindingShortDelimiters, Delimiters{'|', '^', '~', 0, '&', 0}},
		{"no subcomponents", `MSH|^~\|A`, FindingShortDelimiters, Delimiters{'|', '^', '~', '\\', 0, 0}},
		{"components only", `MSH|^|A`, FindingShortDelimiters, Delimiters{'|', '^', 0, 0, 0, 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := parse(t, c.raw+"\r")
			if got := m.Delimiters(); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			if c.finding != "" && !has(m, c.finding) {
				t.Errorf("findings %v do not say %s", m.Findings(), c.finding)
			}
			if got := m.Header().Field(3).String(); got != "A" {
				t.Errorf("MSH-3 is %q", got)
			}
			checkMessage(t, m)
		})
	}
}

func TestUnreadableHeadersAreRefusedWithAPlace(t *testing.T) {
	for _, c := range []struct {
		name, raw, at string
		code          int
	}{
		{"nothing", "", "MSH", CodeSegmentSequence},
		{"no header", "PID|1\r", "MSH", CodeSegmentSequence},
		{"header without separator", "MSH", "MSH", CodeSegmentSequence},
		{"letter as separator", "MSHA^~\\&A\r", "MSH", CodeSegmentSequence},
		{"no delimiters", "MSH||A\r", "MSH[1]-2", CodeDataType},
		{"two alike", `MSH|^~\^|A`, "MSH[1]-2", CodeDataType},
		{"separator missing after MSH-2", `MSH|^~\SendingApp|A`, "MSH[1]-2", CodeDataType},
		{"placeholder", `MSH|{0}|A`, "MSH[1]-2", CodeDataType},
		{"written for a web page", `MSH|^~&#92;&amp;|A`, "MSH[1]-2", CodeDataType},
		{"control byte as delimiter", "MSH|^\x01\\&|A", "MSH[1]-2", CodeDataType},
		{"two messages in one", header + "\rPID|1||A\r" + header + "\rPID|1||B\r", "MSH[2]", CodeSegmentSequence},
		{"UTF-16", "\xff\xfeM\x00S\x00H\x00|\x00", "", CodeSegmentSequence},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse([]byte(c.raw))
			e, ok := errors.AsType[*Error](err)
			if !ok {
				t.Fatalf("got %v, want an *Error", err)
			}
			if e.Code != c.code || e.Location() != c.at {
				t.Errorf("got %d at %q, want %d at %q", e.Code, e.Location(), c.code, c.at)
			}
			if !strings.HasPrefix(e.What, "cannot ") || e.Remedy == "" {
				t.Errorf("the error %q does not help a person", e)
			}
		})
	}
}

func TestBytesBeforeTheHeaderAreFindings(t *testing.T) {
	for _, c := range []struct{ name, before, finding string }{
		{"byte order mark", "\xef\xbb\xbf", FindingByteOrderMark},
		{"line separator U+2028", "\u2028", FindingByteOrderMark},
		{"MLLP start", "\x0b", FindingFramingBytes},
		{"torn MLLP", "\x1c\r\x0b\x0b", FindingFramingBytes},
		{"blank lines", "\r\n \r\n", FindingJunkBeforeMSH},
		{"NUL", "\x00\x00", FindingJunkBeforeMSH},
		{"words", "OK send MSH now\r\n", FindingJunkBeforeMSH},
		{"tail of another message", "72|bpm|||||F\r", FindingJunkBeforeMSH},
		{"batch", "FHS|^~\\&|A\rBHS|^~\\&|A\r", FindingBatchEnvelope},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := parse(t, c.before+header+"\rPID|1\r\x1c\r")
			if !has(m, c.finding) {
				t.Errorf("findings %v do not say %s", m.Findings(), c.finding)
			}
			if names(m) != "MSH PID" || m.ControlID() != "ID7" {
				t.Errorf("read %s with id %q", names(m), m.ControlID())
			}
			if got := string(m.Append(nil)); got != header+"\rPID|1\r" {
				t.Errorf("written again as %q", got)
			}
		})
	}
}

func TestLimitsHoldBeforeAllocation(t *testing.T) {
	many := header + "\r" + strings.Repeat("OBX|1\r", 50)
	for _, c := range []struct {
		name string
		lim  Limits
		ok   bool
	}{
		{"all fit", Limits{len(many), 51, 11 + 50}, true},
		{"one byte too many", Limits{len(many) - 1, 51, 61}, false},
		{"one segment too many", Limits{len(many), 50, 61}, false},
		{"one field too many", Limits{len(many), 51, 60}, false},
		{"zero means default", Limits{}, true},
	} {
		var m Message
		err := m.Reset([]byte(many), c.lim)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if e, is := errors.AsType[*Error](err); !c.ok && (!is || e.Code != CodeTooLong) {
			t.Errorf("%s: got %v, want code %d", c.name, err, CodeTooLong)
		}
		if !c.ok && m.Len() != 0 {
			t.Errorf("%s: the refused message is still there", c.name)
		}
	}
	var m Message
	bars := []byte(header + strings.Repeat("|", 1<<20-len(header)))
	if err := m.Reset(bars, DefaultLimits); err == nil {
		t.Error("a megabyte of separators was taken")
	}
	if cap(m.bars) > 2*DefaultLimits.Fields {
		t.Errorf("%d separators were stored before the limit held", cap(m.bars))
	}
}

func TestResetForgetsTheMessageBefore(t *testing.T) {
	var m Message
	if err := m.Reset([]byte("\xef\xbb\xbf"+header+"\rPID|1||X\r"), DefaultLimits); err != nil {
		t.Fatal(err)
	}
	if err := m.Reset([]byte("MSH|^~\\&|B\r"), DefaultLimits); err != nil {
		t.Fatal(err)
	}
	code, event, structure := m.Type()
	if m.Len() != 1 || code+event+structure+m.ControlID()+m.Version() != "" || has(&m, FindingByteOrderMark) {
		t.Error("something of the first message is left")
	}
	for _, f := range []string{FindingTypeMissing, FindingIDMissing, FindingVersionMissing} {
		if !has(&m, f) {
			t.Errorf("findings %v do not say %s", m.Findings(), f)
		}
	}
	for _, c := range [][2]string{ // the same bytes need not be the same text
		{`MSH|^~\&|||||||A\E\F\E\B|1|P|2.5`, `A\F\B`}, {`MSH|^~\&|||||||A\F\B|1|P|2.5`, "A|B"},
		{"MSH|^~\\&|||||||é|1|P|2.5||||||UNICODE UTF-8", "é"}, {"MSH|^~\\&|||||||é|1|P|2.5||||||8859/1", "Ã©"},
	} {
		if err := m.Reset([]byte(c[0]), DefaultLimits); err != nil {
			t.Fatal(err)
		}
		if code, _, _ := m.Type(); code != c[1] {
			t.Errorf("type is %q, want %q", code, c[1])
		}
	}
	if err := m.Reset([]byte("nothing"), DefaultLimits); err == nil || m.Len() != 0 || m.ControlID() != "" {
		t.Error("a refused message is not empty")
	}
}

func TestSteadyStreamAllocatesNothing(t *testing.T) {
	raw := vitals20(t)
	var m Message
	var ack []byte
	work := func() {
		if err := m.Reset(raw, DefaultLimits); err != nil {
			t.Fatal(err)
		}
		if rows, _ := readObservations(&m); rows != 20 {
			t.Fatalf("%d OBX, want 20", rows)
		}
		m.Type()
		m.Version()
		m.Charset()
		AckMode(&m)
		if _, err := m.Header().Field(7).Time(nil); err != nil {
			t.Fatal(err)
		}
		ack = AppendAck(ack[:0], &m, AA, when, "1")
	}
	work()
	if n := testing.AllocsPerRun(100, work); n != 0 {
		t.Errorf("%v allocations a message", n)
	}
}

func TestOccurrencesAreCountedByName(t *testing.T) {
	m := parse(t, header+"\rOBX|1\rNTE|1\rOBX|2\rZ99|1\rOBX|3\rNTE|2\rodd\r")
	want := []int{1, 1, 1, 2, 1, 3, 2, 1}
	for i, n := range want {
		if s := m.Segment(i); s.Sequence() != n {
			t.Errorf("segment %d (%s) is number %d of its name, want %d", i, s.Name(), s.Sequence(), n)
		}
	}
	if s, ok := m.First("NTE"); !ok || s.Index() != 2 {
		t.Errorf("the first NTE is segment %d", s.Index())
	}
	for _, name := range []string{"ZZZ", "", "obx", "OBXX"} {
		if _, ok := m.First(name); ok {
			t.Errorf("found %q", name)
		}
	}
}

func TestNothingIsOutOfRange(t *testing.T) {
	m := parse(t, header+"\rPID|1||A^B&C~D\r")
	for _, i := range []int{-1, 2, math.MaxInt} {
		s := m.Segment(i)
		if s.Raw() != nil || s.Name() != "" || s.Fields() != 0 || s.Sequence() != 0 || !s.Field(1).Empty() {
			t.Errorf("segment %d is not empty", i)
		}
	}
	for _, i := range []int{-1, 0, 99} {
		f := m.Segment(1).Field(3)
		for _, v := range []Value{m.Segment(1).Field(i), f.Rep(i), f.Comp(i), f.Sub(i), f.Rep(1).Comp(2).Sub(i), {}} {
			if !v.Empty() || v.Null() || v.Raw() != nil || v.String() != "" || v.AppendText(nil) != nil || v.Reps()+v.Comps()+v.Subs() != 0 ||
				!v.Rep(1).Empty() || !v.Comp(1).Empty() || !v.Sub(1).Empty() {
				t.Errorf("value %d is not empty: %q", i, v.Raw())
			}
			if _, err := v.Time(nil); !errors.Is(err, ErrNoTime) {
				t.Errorf("an empty value has a time: %v", err)
			}
		}
	}
	var empty Message
	if empty.Len() != 0 || empty.ControlID() != "" || empty.Version() != "" || len(empty.Append(nil)) != 0 {
		t.Error("the zero message is not empty")
	}
	if name, assumed := empty.Charset(); name != "UTF-8" || assumed {
		t.Error("the zero message has a character set")
	}
}

func TestErrorsNameThePlaceAndNeverTheValue(t *testing.T) {
	for _, c := range []struct {
		e    Error
		want string
	}{
		{Error{}, ""},
		{Error{Segment: "PID"}, "PID"},
		{Error{Segment: "OBX", Sequence: 3, Field: 5, Component: 1}, "OBX[3]-5.1"},
		{Error{Segment: "PID", Sequence: 1, Field: 3, Repetition: 2, Component: 4, Subcomponent: 2}, "PID[1]-3[2].4.2"},
	} {
		if got := c.e.Location(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
	e := &Error{Segment: "OBX", Sequence: 3, Field: 5, What: "cannot read a number", Remedy: "send NM"}
	if got := e.Error(); got != "OBX[3]-5: cannot read a number; send NM" {
		t.Errorf("got %q", got)
	}
}

func TestFixtureIsRead(t *testing.T) {
	raw, err := os.ReadFile("testdata/vitals20.hl7")
	if err != nil {
		t.Fatal(err)
	}
	m := parse(t, string(raw))
	checkMessage(t, m)
	if !bytes.Equal(m.Append(nil), raw) {
		t.Error("a canonical message is not written as it was")
	}
	obx := m.Segment(17)
	if obx.Field(3).Comp(2).String() != "MDC_TEMP" || obx.Field(5).String() != "36.80" || obx.Field(6).Comp(1).String() != "268192" {
		t.Errorf("read %q", obx.Raw())
	}
}

func TestASegmentThatIsCutByATerminatorSaysSo(t *testing.T) {
	m := parse(t, header+"\rOBX|1|NM|a||12\r0|u|||||F\rOBX|2|NM|a||72|u\rOBX|3|NM|a||73\r")
	for i, want := range []bool{false, true, false, false, false} {
		if got := m.Segment(i).Broken(); got != want {
			t.Errorf("segment %d %q: %v", i, m.Segment(i).Raw(), got)
		}
	}
	if (Segment{}).Broken() {
		t.Error("no segment is broken")
	}
}
