package mapping_test

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/fhir/check"
	"github.com/vitalgate/vitalgate/fhir/mapping"
	"github.com/vitalgate/vitalgate/hl7"
)

const (
	pdsHead     = "MSH|^~\\&|||||||ORU^R01|"
	pdsPatientA = pdsHead + "103|P|2.3.1|\nPID|||4711||MUSTER^ERIKA||19700101|F\nPV1||I|^^ICU&1&3232237756&4601&&1\nOBX||NM|52^||189.0||||||F\n"
	pdsPatientB = pdsHead + "103|P|2.3.1|\nPID|||4712||BEISPIEL^MAX||19600101|M\nPV1||I|^^ICU&1&3232237756&4601&&1\n"
	pdsNobody   = pdsHead + "103|P|2.3.1|\nPID|||||\nPV1||I|^^ICU&1&3232237756&4601&&1\n"
	pdsVitals   = pdsHead + "204|P|2.3.1|\nOBX||NM|101^HR|2101|60||||||F\n"
	pdsAlarm    = pdsHead + "54|P|2.3.1|\nOBX||CE|2|1|10033^**SpO2 TOO HIGH||||||F|||20070106193145|\n"
	pdsAlive    = pdsHead + "106|P|2.3.1|\n"
)

// line converts the messages of one connection in order, as a box does.
func line(t *testing.T, dialect string, messages ...string) (all []mapping.Result) {
	t.Helper()
	at := mapping.Context{Box: "f1/gw1", Monitor: "bed-1", Bed: "ICU-9"}
	for i, m := range messages {
		at.Arrived = time.Date(2026, 1, 1, 0, 0, i, 0, time.UTC)
		r := convert(t, dialect, m, at)
		all, at.Association = append(all, r), r.Association
	}
	return all
}

// about says whom a Bundle is about, by the names in it.
func about(r mapping.Result) string {
	var who []string
	for _, name := range []string{"MUSTER", "BEISPIEL"} {
		if bytes.Contains(r.Bundle, []byte(`"family":"`+name+`"`)) {
			who = append(who, name)
		}
	}
	if bytes.Contains(r.Bundle, []byte("unknown patient")) {
		who = append(who, "unknown")
	}
	return strings.Join(who, "+")
}

// Whom a message is about follows from what its own line has said, and from nothing else.
func TestAssociation(t *testing.T) {
	const comen = "MSH|^~\\&||KC575235977G|||20260723224831+0800||"
	for _, c := range []struct {
		name, dialect string
		messages      []string
		want          []string // about
	}{
		{"nothing said", "mindray-pds", []string{pdsVitals, pdsAlarm}, []string{"unknown", "unknown"}},
		{"begun", "mindray-pds", []string{pdsVitals, pdsPatientA, pdsVitals, pdsAlarm, pdsVitals}, []string{"unknown", "MUSTER", "MUSTER", "MUSTER", "MUSTER"}},
		{"another patient", "mindray-pds", []string{pdsPatientA, pdsVitals, pdsPatientB, pdsVitals}, []string{"MUSTER", "MUSTER", "BEISPIEL", "BEISPIEL"}},
		{"nobody", "mindray-pds", []string{pdsPatientA, pdsNobody, pdsVitals}, []string{"MUSTER", "", "unknown"}},
		{"no PID at all", "mindray-pds", []string{pdsPatientA, pdsHead + "103|P|2.3.1|\nPV1||I|^^ICU\n", pdsVitals}, []string{"MUSTER", "", "unknown"}},
		{"null PID", "mindray-pds", []string{pdsPatientA, pdsHead + "103|P|2.3.1|\nPID|||\"\"||\"\"\n", pdsVitals}, []string{"MUSTER", "", "unknown"}},
		{"a stand-in for an unknown patient", "mindray-pds", []string{pdsHead + "103|P|2.3.1|\nPID|||4711||MUSTER||||||||||||||||||||||||||Y\n", pdsVitals}, []string{"", "unknown"}},
		{"two patients", "mindray-pds", []string{pdsPatientA, pdsHead + "103|P|2.3.1|\nPID|||4711||MUSTER\nPID|||4712||BEISPIEL\n", pdsVitals}, []string{"MUSTER", "MUSTER+BEISPIEL", "unknown"}},
		{"vitals of another patient", "mindray-pds", []string{pdsPatientA, pdsHead + "204|P|2.3.1|\nPID|||4712||BEISPIEL\nOBX||NM|101^HR|2101|60||||||F\n", pdsVitals}, []string{"MUSTER", "BEISPIEL", "unknown"}},
		{"vitals of the same patient", "mindray-pds", []string{pdsPatientA, pdsHead + "204|P|2.3.1|\nPID|||4711||MUSTER\nOBX||NM|101^HR|2101|60||||||F\n", pdsVitals}, []string{"MUSTER", "MUSTER", "MUSTER"}},
		{"vitals with an empty PID", "mindray-pds", []string{pdsPatientA, pdsHead + "204|P|2.3.1|\nPID|||\nOBX||NM|101^HR|2101|60||||||F\n", pdsVitals}, []string{"MUSTER", "unknown", "unknown"}},
		{"vitals of another place", "mindray-pds", []string{pdsPatientA, pdsHead + "204|P|2.3.1|\nPV1||I|^^OR\nOBX||NM|101^HR|2101|60||||||F\n", pdsVitals}, []string{"MUSTER", "unknown", "MUSTER"}},
		{"online", "mindray-pds", []string{"MSH|^~\\&|||||||ADT^A01|101|P|2.3.1|\nPID|||4711||MUSTER\n", pdsVitals}, []string{"MUSTER", "unknown"}},
		{"keep-alive", "mindray-pds", []string{pdsPatientA, pdsAlive, pdsVitals}, []string{"MUSTER", "", "MUSTER"}},
		{"a dialect without associations", "ihe-pcd01", []string{pdsPatientA, pdsVitals}, []string{"MUSTER", "unknown"}},
		{"bed confirmed", "comen", []string{comen + "ADT^A08|1|P|2.6\nPID|||4711||MUSTER\nPV1||I|^^&24|0\n", comen + "ORU^R01|2|P|2.6\nOBX||NM|147842^MDC_ECG_HEART_RATE^MDC|1.7.4.147842|72|264864^MDC_DIM_BEAT_PER_MIN^MDC|||||F\n"}, []string{"MUSTER", "MUSTER"}},
		{"a patient and nobody", "mindray-pds", []string{pdsHead + "103|P|2.3.1|\nPID|||4711||MUSTER\nPID|||||\n", pdsVitals}, []string{"MUSTER", "unknown"}},
		{"another monitor on the line", "comen", []string{comen + "ADT^A08|1|P|2.6\nPID|||4711||MUSTER\n", strings.Replace(comen, "KC575235977G", "KC575235978G", 1) + "ORU^R01|3|P|2.6\nOBX||NM|147842^MDC_ECG_HEART_RATE^MDC|1.7.4.147842|72|264864^MDC_DIM_BEAT_PER_MIN^MDC|||||F\n"}, []string{"MUSTER", "unknown"}},
		{"discharged", "comen", []string{comen + "ADT^A08|1|P|2.6\nPID|||4711||MUSTER\n", comen + "ADT^A03|2|P|2.6\nPID|||4711||MUSTER\n", comen + "ORU^R01|3|P|2.6\nOBX||NM|147842^MDC_ECG_HEART_RATE^MDC|1.7.4.147842|72|264864^MDC_DIM_BEAT_PER_MIN^MDC|||||F\n"}, []string{"MUSTER", "MUSTER", "unknown"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i, r := range line(t, c.dialect, c.messages...) {
				if got := about(r); got != c.want[i] {
					t.Errorf("message %d is about %q, want %q", i+1, got, c.want[i])
				}
				if known := c.want[i] == "MUSTER" || c.want[i] == "BEISPIEL"; known != (r.Patient != "") {
					t.Errorf("message %d: association key %v", i+1, r.Patient != "")
				}
			}
		})
	}
}

// The reading says where its patient comes from, and both the patient and his bed are the ones of that message.
func TestAssociationIsTraced(t *testing.T) {
	all := line(t, "mindray-pds", pdsPatientA, pdsVitals, pdsNobody, pdsVitals)
	source := regexpSource.FindSubmatch(all[0].Bundle)
	if source == nil || !bytes.Contains(all[1].Bundle, append([]byte("patient and bed from message "), source[1]...)) {
		t.Errorf("the provenance does not name message 103 (%s):\n%s", source, all[1].Bundle)
	}
	if all[1].Patient != all[0].Patient {
		t.Error("message 103 and the vitals after it have different association keys")
	}
	if id := patientID(t, all[0]); id == "" || id != patientID(t, all[1]) {
		t.Error("message 103 and the vitals after it have different patients")
	}
	for _, i := range []int{1, 3} {
		if !bytes.Contains(all[i].Bundle, []byte(`"name":"ICU 1"`)) {
			t.Errorf("message %d does not stand at the bed that 103 named", i+1)
		}
	}
	if all[3].Association.Patient() || !all[1].Association.Patient() {
		t.Error("whether an association names a patient is said wrongly")
	}
}

// Two people of the same name and no number are not made one.
func TestAssociationWithoutNumber(t *testing.T) {
	nameless := pdsHead + "103|P|2.3.1|\nPID|||||MUSTER^ERIKA\n"
	all := line(t, "mindray-pds", nameless, pdsVitals, nameless, pdsVitals, pdsNobody, nameless, pdsVitals)
	if all[0].Patient == "" || all[0].Patient != all[1].Patient || all[1].Patient != all[3].Patient {
		t.Error("the patient is not the same for as long as the association lasts")
	}
	if all[6].Patient == all[1].Patient || patientID(t, all[6]) == patientID(t, all[1]) {
		t.Error("a later patient of the same name is taken for the first")
	}
	other := convert(t, "mindray-pds", nameless, mapping.Context{Box: "f1/gw1", Monitor: "bed-2", Arrived: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)})
	if other.Patient == all[0].Patient {
		t.Error("two monitors share a patient by his name")
	}
}

// An association outlives the buffers it was read from.
func TestAssociationOwnsItsBytes(t *testing.T) {
	d, err := mapping.LookupDialect("mindray-pds")
	if err != nil {
		t.Fatal(err)
	}
	c := mapping.NewConverter(d)
	raw := []byte(strings.ReplaceAll(pdsPatientA, "\n", "\r"))
	var m hl7.Message
	if err := m.Reset(raw, hl7.DefaultLimits); err != nil {
		t.Fatal(err)
	}
	r, err := c.Convert(&m, mapping.Context{})
	if err != nil {
		t.Fatal(err)
	}
	a := r.Association
	copy(raw, bytes.Repeat([]byte{'X'}, len(raw)))
	for range 3 {
		r, err = c.Convert(parse(t, pdsVitals), mapping.Context{Association: a})
		if err != nil || about(r) != "MUSTER" {
			t.Fatalf("%v, about %q", err, about(r))
		}
	}
}

// A keep-alive that carries anything is a message like others.
func TestKeepAlive(t *testing.T) {
	for _, c := range []struct {
		message string
		want    bool
	}{{pdsAlive, true}, {pdsAlive + "OBX||NM|101^HR|2101|60||||||F\n", false}, {pdsVitals, false}, {pdsHead + "204|P|2.3.1|\n", false}} {
		if r := line(t, "mindray-pds", c.message)[0]; r.KeepAlive != c.want {
			t.Errorf("%q: keep-alive is %v", c.message, r.KeepAlive)
		}
	}
}

// A giant does not stay in memory.
func TestAssociationIsBounded(t *testing.T) {
	all := line(t, "mindray-pds", pdsPatientA+"NTE|1||"+strings.Repeat("x", 20<<10)+"\n", pdsVitals)
	if all[0].Association != nil || about(all[1]) != "unknown" {
		t.Errorf("about %q", about(all[1]))
	}
}

var (
	regexpSource  = regexp.MustCompile(`"value":"(nih:sha-256;[0-9a-f]+)"`)
	regexpPatient = regexp.MustCompile(`"resourceType":"Patient","id":"([^"]+)"`)
)

func patientID(t *testing.T, r mapping.Result) string {
	t.Helper()
	m := regexpPatient.FindSubmatch(r.Bundle)
	if m == nil {
		t.Fatalf("no patient in %s", r.Bundle)
	}
	return string(m[1])
}

// Whatever two messages follow one another: the Bundles are FHIR, and who is in the second is in one of the two messages.
func FuzzAssociation(f *testing.F) {
	all := []string{pdsPatientA, pdsPatientB, pdsNobody, pdsVitals, pdsAlarm, pdsAlive, pdsHead + "103|P|2.3.1|\nPID|||||MUSTER^ERIKA\n"}
	for _, first := range all {
		for _, second := range all {
			f.Add([]byte(strings.ReplaceAll(first, "\n", "\r")), []byte(strings.ReplaceAll(second, "\n", "\r")))
		}
	}
	d, err := mapping.LookupDialect("mindray-pds")
	if err != nil {
		f.Fatal(err)
	}
	c := mapping.NewConverter(d)
	f.Fuzz(func(t *testing.T, first, second []byte) {
		at := context()
		for _, raw := range [][]byte{first, second, second} {
			m, err := hl7.Parse(raw)
			if err != nil {
				return
			}
			r, err := c.Convert(m, at)
			if err != nil {
				t.Fatal(err)
			}
			if findings := check.Bundle(r.Bundle); len(findings) > 0 {
				t.Fatalf("%q\n%s", findings, r.Bundle)
			}
			if _, err := oracle().Unmarshal(r.Bundle); err != nil {
				t.Fatalf("%v\n%s", err, r.Bundle)
			}
			_, names := m.First("PID")
			if !names && r.Patient != "" && !at.Association.Patient() {
				t.Fatal("a patient without a message that names him")
			}
			at.Association = r.Association
		}
	})
}
