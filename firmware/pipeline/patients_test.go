package pipeline_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/record"
)

const (
	pdsHead  = "MSH|^~\\&|||||||ORU^R01|"
	erika    = pdsHead + "103|P|2.3.1|\rPID|||4711||MUSTER^ERIKA\rPV1||I|^^ICU&1&3232237756&4601&&1\r"
	max      = pdsHead + "103|P|2.3.1|\rPID|||4712||BEISPIEL^MAX\r"
	nobody   = pdsHead + "103|P|2.3.1|\rPID|||||\r"
	vitals   = pdsHead + "204|P|2.3.1|\rOBX||NM|101^HR|2101|60||||||F\r"
	alive    = pdsHead + "106|P|2.3.1|\r"
	unread   = "204|P|2.3.1|\rOBX||NM|101^HR"
	cutOff   = pdsHead + "103|P|2.3.1|\rPID|||47"
	unknown  = "unknown"
	isErika  = "MUSTER"
	isMax    = "BEISPIEL"
	noBundle = "raw"
)

// whom says whom a record is about, by its Bundle.
func whom(r kept) string {
	switch {
	case len(r.Bundle) == 0:
		return noBundle
	case bytes.Contains(r.Bundle, []byte(isErika)):
		return isErika
	case bytes.Contains(r.Bundle, []byte(isMax)):
		return isMax
	case bytes.Contains(r.Bundle, []byte("unknown patient")):
		return unknown
	}
	return ""
}

// What comes from a monitor that names its patient once is about him on that connection only, and only while nothing speaks
// against it.
func TestTheLastPatientIsNeverGuessed(t *testing.T) {
	type step struct {
		line    uint64
		message string
		want    string
		notes   []string
	}
	for name, steps := range map[string][]step{
		"unknown until named":            {{1, vitals, unknown, nil}, {1, erika, isErika, nil}, {1, vitals, isErika, nil}, {1, vitals, isErika, nil}},
		"another connection":             {{1, erika, isErika, nil}, {2, vitals, unknown, nil}, {1, vitals, isErika, nil}, {2, max, isMax, nil}, {1, vitals, isErika, nil}, {2, vitals, isMax, nil}},
		"reconnected":                    {{1, erika, isErika, nil}, {1, vitals, isErika, nil}, {2, vitals, unknown, nil}, {3, vitals, unknown, nil}, {3, erika, isErika, nil}, {3, vitals, isErika, nil}},
		"another patient":                {{1, erika, isErika, nil}, {1, max, isMax, nil}, {1, vitals, isMax, nil}},
		"nobody":                         {{1, erika, isErika, nil}, {1, nobody, "", nil}, {1, vitals, unknown, nil}},
		"a frame that cannot be read":    {{1, erika, isErika, nil}, {1, unread, noBundle, nil}, {1, vitals, unknown, nil}},
		"a frame that did not end":       {{1, erika, isErika, nil}, {1, cutOff, noBundle, []string{adapters.NoteIncomplete}}, {1, vitals, unknown, nil}},
		"a frame that looks whole":       {{1, erika, isErika, nil}, {1, max, noBundle, []string{adapters.NoteNoEnd}}, {1, vitals, unknown, nil}},
		"bytes between frames":           {{1, erika, isErika, nil}, {1, vitals, unknown, []string{adapters.NoteJunk}}, {1, vitals, unknown, nil}},
		"a refused block":                {{1, erika, isErika, nil}, {1, vitals, unknown, []string{adapters.NoteRefused}}, {1, vitals, unknown, nil}},
		"bytes lost on the line":         {{1, erika, isErika, nil}, {1, vitals, noBundle, []string{adapters.NoteLineError}}, {1, vitals, unknown, nil}},
		"named again after lost bytes":   {{1, erika, isErika, nil}, {1, erika, isErika, []string{adapters.NoteJunk}}, {1, vitals, isErika, nil}},
		"a connection without a number":  {{0, erika, isErika, nil}, {0, vitals, unknown, nil}},
		"a keep-alive changes nothing":   {{1, erika, isErika, nil}, {1, alive, "", nil}, {1, vitals, isErika, nil}},
		"an unusual frame that is whole": {{1, erika, isErika, nil}, {1, vitals, isErika, []string{adapters.NoteNulPadding}}},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, t.TempDir(), "mindray-pds", 1<<24)
			var want []string
			for _, s := range steps {
				wait(t, b.over(t, s.line, s.message, s.notes...))
				if s.message != alive {
					want = append(want, s.want)
				}
			}
			var got []string
			for _, r := range b.records(t) {
				got = append(got, whom(r))
				if w := whom(r); (w == isErika || w == isMax) != (r.Patient != "") {
					t.Errorf("a record about %q has the pseudonym %q", w, r.Patient)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("the records are about %q, want %q", got, want)
			}
		})
	}
}

// Two monitors of a box never share a patient, though the numbers of their connections were the same.
func TestTwoMonitorsNeverMix(t *testing.T) {
	b := start(t, t.TempDir(), "mindray-pds", 1<<24)
	wait(t, b.over(t, 1, erika))
	wait(t, b.other.over(t, 1, vitals))
	wait(t, b.other.over(t, 1, max))
	for range 20 {
		one, two := b.over(t, 1, vitals), b.other.over(t, 1, vitals)
		wait(t, one)
		wait(t, two)
	}
	n := map[string]int{}
	for _, r := range b.records(t) {
		n[r.Monitor+" "+whom(r)]++
	}
	if want := fmt.Sprint(map[string]int{"bed-1 " + isErika: 21, "bed-2 " + isMax: 21, "bed-2 " + unknown: 1}); fmt.Sprint(n) != want {
		t.Errorf("records %v, want %v", n, want)
	}
}

// A box that was killed does not know the patient of a connection until he is named again.
func TestAStartForgetsThePatient(t *testing.T) {
	dir := t.TempDir()
	b := start(t, dir, "mindray-pds", 1<<24)
	wait(t, b.over(t, 1, erika))
	b.stop()
	again := start(t, dir, "mindray-pds", 1<<24)
	wait(t, again.over(t, 1, vitals))
	var last record.Header
	if err := again.spool.Latest(1, func(l record.Leaf) { last, _, _ = record.ParseLeaf(l) }); err != nil {
		t.Fatal(err)
	}
	if last.Kind != record.KindVitals || last.Patient != "" {
		t.Errorf("the last record is of kind %s with the pseudonym %q", last.Kind, last.Patient)
	}
}

// Each patient's records lie under keys of their own: the reader's right to one patient gives nothing of the next in his bed.
func TestAChangeOfPatientBeginsAnEpoch(t *testing.T) {
	b := start(t, t.TempDir(), "mindray-pds", 1<<24)
	for _, m := range []string{vitals, erika, vitals, max, vitals, erika, vitals, nobody, vitals} {
		wait(t, b.over(t, 1, m))
	}
	epoch, pseudonym := map[string]uint64{}, map[string]string{}
	for _, r := range b.records(t) {
		w := strings.Replace(whom(r), unknown, "", 1)
		if e, ok := epoch[w]; ok && (e != r.Epoch || pseudonym[w] != r.Patient) {
			t.Errorf("the records of %q lie in the epochs %d and %d, pseudonyms %q and %q", w, e, r.Epoch, pseudonym[w], r.Patient)
		}
		epoch[w], pseudonym[w] = r.Epoch, r.Patient
	}
	if len(epoch) != 3 || epoch[isErika] == epoch[isMax] || epoch[isErika] == epoch[""] || epoch[isMax] == epoch[""] || pseudonym[isErika] == pseudonym[isMax] || pseudonym[""] != "" {
		t.Errorf("epochs %v, pseudonyms %v", epoch, pseudonym)
	}
}

// What a connection said long ago is not taken for true for ever.
func TestAnOldAssociationEnds(t *testing.T) {
	b := start(t, t.TempDir(), "mindray-pds", 1<<24)
	now := time.Now()
	for _, s := range []struct {
		after   time.Duration
		message string
	}{{0, erika}, {59 * time.Minute, vitals}, {59 * time.Minute, erika}, {118 * time.Minute, vitals}, {120 * time.Minute, vitals}, {121 * time.Minute, vitals}} {
		wait(t, b.at(t, now.Add(s.after), s.message))
	}
	var got []string
	for _, r := range b.records(t) {
		got = append(got, whom(r))
	}
	if want := []string{isErika, isErika, isErika, isErika, unknown, unknown}; !slices.Equal(got, want) {
		t.Errorf("the records are about %q, want %q", got, want)
	}
}

// A keep-alive is answered as its dialect says, counted, and takes no room in the log; one that carries anything is kept.
func TestAKeepAliveIsCountedAndNotKept(t *testing.T) {
	b := start(t, t.TempDir(), "mindray-pds", 1<<24)
	for range 5 {
		if a := wait(t, b.over(t, 1, alive)); a != "" {
			t.Errorf("answer %q", a)
		}
	}
	wait(t, b.over(t, 1, alive+"OBX||NM|101^HR|2101|60||||||F\r"))
	if n := len(b.records(t)); n != 1 {
		t.Errorf("%d records, want that of the one with a row", n)
	}
	if n := b.pipeline.Counters(0); n.KeepAlive != 5 || n.Messages != 6 {
		t.Errorf("counted %+v", n)
	}
}
