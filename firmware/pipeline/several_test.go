package pipeline_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/record"
)

// acks gives the answers in s as "AA A1", in order.
func acks(s string) (all []string) {
	for line := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == '\r' || r == '\n' }) {
		if f := strings.Split(line, "|"); f[0] == "MSA" {
			all = append(all, f[1]+" "+f[2])
		}
	}
	return all
}

func wantAcks(t *testing.T, answer string, want ...string) {
	t.Helper()
	if got := acks(answer); strings.Join(got, ", ") != strings.Join(want, ", ") {
		t.Errorf("answered %q, want %q", got, want)
	}
}

func wantKinds(t *testing.T, b *box, want ...record.Kind) []record.Content {
	t.Helper()
	all, kinds := b.contents(t)
	if len(kinds) != len(want) {
		t.Fatalf("kept %v, want %v", kinds, want)
	}
	for i := range kinds {
		if kinds[i] != want[i] {
			t.Fatalf("kept %v, want %v", kinds, want)
		}
	}
	return all
}

// Each of several messages in one frame is a reading, and each is answered, in order, when all are on disk.
func TestSeveralMessagesInAFrame(t *testing.T) {
	for name, c := range map[string]struct{ before, between, after string }{
		"one after the other":                   {},
		"a batch":                               {"FHS|^~\\&|F\rBHS|^~\\&|B\r", "", "BTS|3\rFTS|1\r"},
		"a batch that ends without its trailer": {"BHS|^~\\&|B\r", "", ""},
		"framing bytes left between":            {"", "\x1c\r\v", ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, t.TempDir(), "ihe-pcd01", 1<<24)
			frame := c.before + heartRate("A1", 1, 71) + c.between + strings.Replace(heartRate("A2", 2, 72), `^~\&`, `^^\&`, 1) + c.between + heartRate("A3", 3, 73) + c.after
			wantAcks(t, wait(t, b.send(t, frame)), "AA A1", "AR ", "AA A3")
			var raw []byte
			for _, r := range wantKinds(t, b, record.KindVitals, record.KindRaw, record.KindVitals) {
				raw = append(raw, r.Raw...)
			}
			if string(raw) != frame {
				t.Errorf("of the frame\n%q\nthis is kept:\n%q", frame, raw)
			}
			if n := b.pipeline.Counters(0); n.Messages != 3 || n.Charted != 2 {
				t.Errorf("counted %+v", n)
			}
			// Sent again, all are answered again and kept once.
			wantAcks(t, wait(t, b.send(t, frame)), "AA A1", "AR ", "AA A3")
			wantKinds(t, b, record.KindVitals, record.KindRaw, record.KindVitals)
		})
	}
}

// What is not whole in a frame may be any of its messages.
func TestSeveralMessagesInABrokenFrame(t *testing.T) {
	b := start(t, t.TempDir(), "ihe-pcd01", 1<<24)
	wantAcks(t, wait(t, b.send(t, heartRate("A1", 1, 71)+heartRate("A2", 2, 120)[:230], adapters.NoteIncomplete)), "AE A1", "AE A2")
	wantKinds(t, b, record.KindRaw, record.KindRaw)
}

// The end of one frame and the start of the next were lost: what has grown together is nobody's reading.
func TestMessagesThatHaveGrownTogether(t *testing.T) {
	b := start(t, t.TempDir(), "ihe-pcd01", 1<<24)
	first, _, _ := strings.Cut(heartRate("A1", 1, 71), "71|264864")
	wantAcks(t, wait(t, b.send(t, first+"7"+heartRate("A2", 2, 120))), "AR ")
	if all := wantKinds(t, b, record.KindRaw); !strings.Contains(all[0].Reason, "two messages as one") {
		t.Errorf("the reason is %q", all[0].Reason)
	}
}

// A message in parts (HL7 v2.9 §2.10.2) is charted when its last part is there; each part is kept and answered when it comes, for
// the sender waits for that; and no part is read for itself: it may end within a value.
func TestAMessageInParts(t *testing.T) {
	whole := heartRate("A1", 1, 120)
	from, to, _ := strings.Cut(whole, "20|264864")
	first := from + "\rDSC|K7|F\r"
	second := strings.Replace(heartRate("A2", 2, 0)[:strings.Index(heartRate("A2", 2, 0), "\r")], "|P|2.6", "|P|2.6||K7", 1) + "\rADD|20|264864" + to
	if !strings.HasSuffix(from, "|1") || !strings.Contains(second, "||K7") {
		t.Fatalf("this test is of no use: %q %q", first, second)
	}
	t.Run("both", func(t *testing.T) {
		b := start(t, t.TempDir(), "ihe-pcd01", 1<<24)
		wantAcks(t, wait(t, b.send(t, first)), "AA A1")
		wantAcks(t, wait(t, b.send(t, second)), "AA A2")
		all := wantKinds(t, b, record.KindRaw, record.KindVitals)
		if !bytes.Contains(all[1].Bundle, []byte(`"value":120`)) || !strings.Contains(all[0].Reason, "part of a longer message") || string(all[0].Raw) != first {
			t.Errorf("kept %+v", all)
		}
	})
	t.Run("the first alone, then another message", func(t *testing.T) {
		b := start(t, t.TempDir(), "ihe-pcd01", 1<<24)
		wantAcks(t, wait(t, b.send(t, first)), "AA A1")
		wantAcks(t, wait(t, b.send(t, heartRate("A3", 3, 73))), "AA A3")
		wantAcks(t, wait(t, b.send(t, second)), "AE A2")
		wantKinds(t, b, record.KindRaw, record.KindVitals, record.KindRaw)
	})
	t.Run("the second over another connection", func(t *testing.T) {
		b := start(t, t.TempDir(), "ihe-pcd01", 1<<24)
		wantAcks(t, wait(t, b.over(t, 1, first)), "AA A1")
		wantAcks(t, wait(t, b.over(t, 2, second)), "AE A2")
		wantKinds(t, b, record.KindRaw, record.KindRaw)
	})
	t.Run("many that are never finished", func(t *testing.T) {
		b := start(t, t.TempDir(), "ihe-pcd01", 1<<24)
		for line := range uint64(20) {
			wantAcks(t, wait(t, b.over(t, line+1, first)), "AA A1")
		}
		wantAcks(t, wait(t, b.over(t, 20, second)), "AA A2") // the youngest are remembered
		wantAcks(t, wait(t, b.over(t, 1, second)), "AE A2")
	})
}
