package pipeline_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/hl7"
	"github.com/vitalgate/vitalgate/record"
)

// ackWords are what senders put into MSH-15 and MSH-16, by what it means: Omitted, Always, Never, on Error, on Success (table 0155).
var ackWords = map[string]byte{
	"": 'O', `""`: 'O', "AL": 'A', "al": 'A', "AL^Always": 'A', "XX": 'A', // a word that nobody knows: waiting in vain does more harm
	"NE": 'N', "ne": 'N', "ER": 'E', "er": 'E', "SU": 'S', "Su": 'S',
}

// wantedAcks are the answers by MSH-15 and MSH-16: to a message that is kept, to one that cannot be used and is kept raw, and to
// one that is not kept (HL7 v2.9 §2.9.2: original mode; §2.9.3: enhanced mode). Worked out by hand from the standard's text.
var wantedAcks = map[string][3]string{
	"OO": {"AA", "AE", "AE"}, "OA": {"AA", "AE", "AE"}, "ON": {"", "", ""}, "OE": {"", "AE", "AE"}, "OS": {"AA", "", ""},
	"AO": {"CA", "CA", "CE"}, "AA": {"CA AA", "CA AE", "CE"}, "AN": {"CA", "CA", "CE"}, "AE": {"CA", "CA AE", "CE"}, "AS": {"CA AA", "CA", "CE"},
	"NO": {"", "", ""}, "NA": {"AA", "AE", "AE"}, "NN": {"", "", ""}, "NE": {"", "AE", "AE"}, "NS": {"AA", "", ""},
	"EO": {"", "", "CE"}, "EA": {"AA", "AE", "CE"}, "EN": {"", "", "CE"}, "EE": {"", "AE", "CE"}, "ES": {"AA", "", "CE"},
	"SO": {"CA", "CA", ""}, "SA": {"CA AA", "CA AE", "AE"}, "SN": {"CA", "CA", ""}, "SE": {"CA", "CA AE", "AE"}, "SS": {"CA AA", "CA", ""},
}

// TestAcknowledgementModes sends every combination of MSH-15 and MSH-16, 144, through a running line.
func TestAcknowledgementModes(t *testing.T) {
	for fate, name := range []string{"kept", "odd", "refused"} {
		t.Run(name, func(t *testing.T) {
			quota := int64(1 << 24)
			b := start(t, t.TempDir(), "ihe-pcd01", quota)
			var notes []string
			switch name {
			case "odd":
				notes = []string{"line-error"}
			case "refused": // a network that takes nothing, until the ring is full
				b.stop()
				b = start(t, t.TempDir(), "ihe-pcd01", 1<<17)
				for i := 0; ; i++ {
					if a := wait(t, b.send(t, heartRate(fmt.Sprint("F", i), i, 70)+"NTE|1||"+strings.Repeat("x", 8<<10)+"\r")); strings.Contains(a, "MSA|AE|") {
						break
					}
					if i == 10_000 {
						t.Fatal("the spool never refuses")
					}
				}
			}
			i := 0
			for _, accept := range sorted(ackWords) {
				for _, application := range sorted(ackWords) {
					i++
					id := fmt.Sprint("M", i)
					m := strings.Replace(heartRate(id, i, 70), "|P|2.6\r", "|P|2.6|||"+accept+"|"+application+"\r", 1)
					if name == "refused" {
						m += "NTE|1||" + strings.Repeat("x", 8<<10) + "\r"
					}
					var got []string
					for _, a := range acks(wait(t, b.send(t, m, notes...))) {
						code, of, _ := strings.Cut(a, " ")
						if of != id {
							t.Errorf("the answer is to %q, not to %q", of, id)
						}
						got = append(got, code)
					}
					key := string([]byte{ackWords[accept], ackWords[application]})
					if want := wantedAcks[key][fate]; strings.Join(got, " ") != want {
						t.Errorf("MSH-15 %q, MSH-16 %q (%s): answered %q, want %q", accept, application, key, got, want)
					}
				}
			}
			if i != 144 {
				t.Errorf("%d combinations were tried", i)
			}
		})
	}
}

func sorted(m map[string]byte) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// What the families of monitors expect (docs: fhir/mapping/dialects), whatever else stands in their headers.
func TestEachFamilyGetsTheAnswerItExpects(t *testing.T) {
	for _, c := range []struct{ dialect, modes, want string }{
		{"ge-bseries", "|||NE|AL", "AA"}, // application acknowledgement only
		{"ge-vc150", "|||NE|AL", "AA"},
		{"mindray-pcd01", "|||AL|NE", "CA"}, // accept acknowledgement only
		{"draeger-pcd04", "|||AL|NE", "CA"},
		{"masimo-psn", "|||AL|AL", "CA AA"},
		{"ihe-pcd01", "|||AL|NE", "CA"}, // IHE PCD TF-2
		{"ihe-pcd01", "", "AA"},
		{"loinc", "|||NE|NE", ""},
		{"comen", "|||AL|AL", "AA"}, // knows the original mode only
		{"northern", "|||NE|NE", "AA"},
		{"philips-iic", "", "AA"},
		{"philips-efficia", "", "AA"},
		{"philips-iicix", "|||AL|NE", "CA"},
		{"xh80x", "", "AA"},
		{"mindray-pds", "|||AL|AL", ""}, // acknowledges nothing, and is not acknowledged
	} {
		b := start(t, t.TempDir(), c.dialect, 1<<24)
		m := strings.Replace(heartRate("D1", 1, 70), "|P|2.6\r", "|P|2.6"+c.modes+"\r", 1)
		var got []string
		for range 2 { // the second is the same message sent again
			got = nil
			for _, a := range acks(wait(t, b.send(t, m))) {
				got = append(got, strings.Fields(a)[0])
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("%s, %q: answered %q, want %q", c.dialect, c.modes, got, c.want)
			}
		}
		if all, _ := b.contents(t); len(all) != 1 {
			t.Errorf("%s: a message sent again is kept %d times", c.dialect, len(all))
		}
		b.stop()
	}
}

// An answer that is not positive says where and why by table 0357, in the form of the sender's version, and quotes nothing.
func TestWhyAndWhereIsAnswered(t *testing.T) {
	for _, c := range []struct{ version, want string }{
		{"2.2", "\rERR|^^^100&Segment sequence error&HL70357\r"},
		{"2.4", "\rERR|^^^100&Segment sequence error&HL70357\r"},
		{"2.5", "\rERR|||100^Segment sequence error^HL70357|E||||the message did not arrive whole (incomplete)"},
		{"2.9", "\rERR|||100^Segment sequence error^HL70357|E||||the message did not arrive whole (incomplete)"},
	} {
		b := start(t, t.TempDir(), "ihe-pcd01", 1<<24)
		a := wait(t, b.send(t, strings.Replace(heartRate("A1", 1, 70), "|P|2.6\r", "|P|"+c.version+"\r", 1), "incomplete"))
		if !strings.Contains(a, c.want) || !strings.Contains(strings.SplitN(a, "\r", 2)[0]+"\r", "|"+c.version+"\r") || strings.Contains(a, "Mustermann") {
			t.Errorf("v%s: answered %q", c.version, a)
		}
		b.stop()
	}
}

// hostileHeaders are first segments that are hard to answer: what they say must come back exactly, and nothing else.
func hostileHeaders() (all []string) {
	const rest = "|SIM|ICU|GW|WARD|" + "20261121060102||ORU^R01^ORU_R01|"
	ids := []string{
		"", "1", " ", " 7 ", `""`, "0", "a^b", "a&b", "a~b", "a^b&c~d", `\`, `\\`, `\F\`, `\S\\T\`, `\X0D\`, `\X0D4D5341\`, `\.br\`, `\E`, `\Z\`, `x\`,
		"\x00", "\x01\x02", "\t", "\x1b", "\x1b$B!!\x1b(B", "\x7f", "\xff", "\xe9", "é", "日本", "\xc3", "\x83\x5c", "\x81\x30\x81\x30",
		"<script>", "'; --", "%s%n", "${x}", "../..", strings.Repeat("9", 199), strings.Repeat("x", 5000), strings.Repeat("^", 300), strings.Repeat(`\T\`, 100),
		"MSA", "MSH", "ERR", "MSA^AA^1", "\u2028", "\ufeff", "🫀", "a\nb", "\nMSA", "\n", "12345678-1234-1234-1234-123456789012",
	}
	for _, id := range ids {
		all = append(all, `MSH|^~\&`+rest+id+"|P|2.6")
	}
	for _, d := range []string{`^~\&`, `^~\&#`, `^~\\&`, `^~&`, `^`, `^~`, `@%*$`, `!$%#`, `~^\&`, `&~\^`, `{}[]`, `,;:.`, `<>"'`} {
		sep := "|"
		header := "MSH" + sep + d + "|SIM|ICU|GW|WARD|20261121060102||ORU|7"
		all = append(all, header+"|P|2.5", header+"|P|2.3.1||||||8859/1", header)
	}
	for _, v := range []string{"", "2.1", "2.2", "2.3", "2.3.1", "2.4", "2.5.1^DEU", "2.7", "2.8.2", "2.9", "3.0", "2", "2.", "2.x", "v2.6", `""`, strings.Repeat("2.6", 50), "99999999999999999999"} {
		all = append(all, `MSH|^~\&`+rest+"V1|P|"+v)
	}
	for _, set := range []string{"UNICODE UTF-8", "UNICODE UTF-16", "8859/1", "8859/15", "GB 18030-2000", "SHIFT-JIS", "BIG-5", "ISO IR87", "ASCII~ISO IR87", "KS X 1001", "?", `""`, "~", "\xff"} {
		all = append(all, `MSH|^~\&`+rest+"C1|P|2.6||||||"+set, `MSH|^~\&|`+"\x83\x5c\xe9"+rest[4:]+"C2|P|2.6||||||"+set)
	}
	for _, n := range []string{"0", "-1", "1", "2", "99999999999999999999", "x", `""`} {
		all = append(all, `MSH|^~\&`+rest+"N1|P|2.6|"+n)
	}
	for _, sep := range []string{"!", "#", "^", "&", "~", `\`, "*", "{", "\"", "'"} {
		all = append(all, "MSH"+sep+"|;:%"+strings.ReplaceAll(rest+"S1|P|2.6", "|", sep))
	}
	for _, n := range []int{50, 400} {
		all = append(all, `MSH|^~\&`+strings.Repeat("|", n), `MSH|^~\&`+rest+"L1|P|2.6"+strings.Repeat("|x", n))
	}
	return append(all, "MSH|", `MSH|^~\&`, `MSH|^~\&|`, "MSH|^^^^|a", "MSH|ABCD|a", "MSH||a", "MSH", "msh|^~\\&|", "", "\x00", "MSA|AA|1", "\rMSH|^~\\&|", "PID|1\rMSH|^~\\&|A")
}

// Whatever stands in a header, the answer is one message of ours that can be read, to the sender, with his MSH-10 byte for byte.
func TestHostileHeadersAreAnswered(t *testing.T) {
	headers := hostileHeaders()
	if len(headers) < 100 {
		t.Fatalf("only %d headers", len(headers))
	}
	b := start(t, t.TempDir(), "ihe-pcd01", 1<<26)
	for i, h := range headers {
		raw := h + "\rOBX|1|NM|147842^MDC_ECG_HEART_RATE^MDC|1.7.4.147842|72|264864^MDC_DIM_BEAT_PER_MIN^MDC|||||R\r"
		a := wait(t, b.send(t, raw))
		if m, err := hl7.Parse([]byte(raw)); err == nil {
			if _, isAnswer := m.First("MSA"); isAnswer && a == "" {
				continue // an answer is not answered
			}
		}
		for _, ack := range hl7.Messages([]byte(a)) {
			answer, err := hl7.Parse(ack)
			if err != nil {
				t.Errorf("header %d %q: the answer %q cannot be read: %v", i, h, ack, err)
				continue
			}
			if len(ack) > 3*len(h)+2000 {
				t.Errorf("header %d %q: the answer has %d bytes", i, h, len(ack))
			}
			msa := 0
			for n := range answer.Len() {
				switch answer.Segment(n).Name() {
				case "MSA":
					msa++
				case "MSH", "ERR":
				default:
					if !strings.Contains(h, "\n") {
						t.Errorf("header %d %q: the answer has a line %q", i, h, answer.Segment(n).Raw())
					}
				}
			}
			if msa != 1 {
				t.Errorf("header %d %q: the answer has %d MSA segments: %q", i, h, msa, ack)
			}
			m, err := hl7.Parse([]byte(raw))
			if err != nil {
				continue // MSA-2 is empty
			}
			line, _, _ := bytes.Cut(ack[bytes.Index(ack, []byte("\rMSA"))+1:], []byte{'\r'})
			bar := string(m.Delimiters().Field)
			fields := strings.Split(string(line), bar)
			if want := string(m.Header().Field(10).Raw()); len(fields) < 3 || fields[2] != want && !strings.Contains(h, "\x83") && !strings.Contains(h, "\x81") {
				t.Errorf("header %d: MSA is %q, MSH-10 %q", i, line, want)
			}
		}
	}
	if all, _ := b.contents(t); len(all) == 0 {
		t.Error("nothing is kept")
	}
}

// The sequence number protocol (HL7 v2.9 §2.9.4): MSA-4 says what is expected; a gap is told to a sender that knows the protocol;
// no number keeps a reading from being kept.
func TestSequenceNumbers(t *testing.T) {
	b := start(t, t.TempDir(), "ihe-pcd01", 1<<24)
	at := 0
	numbered := func(app, n string) string {
		at++
		return strings.Replace(strings.Replace(heartRate(fmt.Sprint("N", at), at, 70), "|SIM|", "|"+app+"|", 1), "|P|2.6\r", "|P|2.6|"+n+"\r", 1)
	}
	begin := "MSH|^~\\&|KNOWS||||" + time.Now().UTC().Format("20060102150405") + "+0000||ORU^R01|B|P|2.6|0\r"
	msa := func(a string) string { // MSA-1 and MSA-4
		_, line, _ := strings.Cut(a, "\rMSA|")
		line, _, _ = strings.Cut(line, "\r")
		f := append(strings.Split(line, "|"), "", "", "")
		return f[0] + " " + f[3]
	}
	kept := 0
	for i, c := range []struct{ message, want string }{
		{numbered("PLAIN", ""), "AA "},    // does not count
		{numbered("PLAIN", "7"), "AA 8"},  // counts, and may not know the protocol
		{numbered("PLAIN", "9"), "AA 10"}, // so a gap is no error to it
		{begin, "AA -1"},                  // begin where you like
		{numbered("KNOWS", "41"), "AA 42"},
		{numbered("KNOWS", "42"), "AA 43"},
		{begin, "AA 43"},                   // the link begins anew: this is the next
		{numbered("KNOWS", "44"), "AE 43"}, // 43 is missing
		{numbered("KNOWS", "43"), "AA 44"},
		{numbered("KNOWS", "44"), "AA 45"},
		{numbered("KNOWS", "x"), "AA "},
		{numbered("KNOWS", "99999999999999999999"), "AA "},
		{numbered("OTHER", "1"), "AA 2"}, // each sender counts for itself
	} {
		if got := msa(wait(t, b.send(t, c.message))); got != c.want {
			t.Errorf("%d: answered %q, want %q", i, got, c.want)
		}
		if c.message != begin {
			kept++
		}
	}
	var readings int
	_, kinds := b.contents(t)
	for _, k := range kinds {
		if k == record.KindVitals {
			readings++
		}
	}
	if readings != kept {
		t.Errorf("%d of %d readings are kept", readings, kept)
	}
	again := numbered("KNOWS", "45")
	for range 2 {
		if got := msa(wait(t, b.send(t, again))); got != "AA 46" {
			t.Errorf("sent again it is answered %q", got)
		}
	}
}
