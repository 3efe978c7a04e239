package mapping_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/fhir/mapping"
	"github.com/vitalgate/vitalgate/hl7"
)

// cdcThreshold is the share, in percent, of the fields that the v2-to-FHIR IG and vitalgate's scope have in common which
// must be equal to what CDC ReportStream makes of them.
const cdcThreshold = 95.0

// cdcReason is a line of testdata/cdc-reasons.tsv: why a field that CDC's converter writes is not the same here.
type cdcReason struct {
	file, field *regexp.Regexp
	class       string // "scope": not vitalgate's to map; "cdc": CDC departs from the IG, HL7 or FHIR; "rule": vitalgate departs from the IG on purpose
	why         string
}

func cdcReasons(t *testing.T) (all []cdcReason) {
	t.Helper()
	data, err := os.ReadFile("testdata/cdc-reasons.tsv")
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		if strings.HasPrefix(line, "#") || i == 0 {
			continue
		}
		f := strings.Split(line, "\t")
		if len(f) != 4 || (f[2] != "scope" && f[2] != "cdc" && f[2] != "rule") || f[3] == "" {
			t.Fatalf("cdc-reasons.tsv line %d: want file, field, class (scope, cdc, rule), why", i+1)
		}
		all = append(all, cdcReason{regexp.MustCompile("^(?:" + f[0] + ")$"), regexp.MustCompile("^(?:" + f[1] + ")$"), f[2], f[3]})
	}
	return all
}

// The messages that CDC publishes with the FHIR that its own converter makes of them (CC0): what the IG and our scope share
// is the same.
func TestCDC(t *testing.T) {
	dir := os.Getenv("VITALGATE_CORPUS")
	if dir == "" {
		t.Skip("VITALGATE_CORPUS does not name a folder of messages")
	}
	files, _ := filepath.Glob(filepath.Join(dir, "CDC_reportstream_golden", "map_*.hl7"))
	if len(files) == 0 {
		t.Skip("the corpus does not hold CDC_reportstream_golden")
	}
	reasons := cdcReasons(t)
	used := make([]int, len(reasons))
	pairs, fields, equal, zones := 0, 0, 0, 0
	classes := map[string]int{}
	var unexplained []string
	for _, file := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "map_"), ".hl7")
		golden, err := os.ReadFile(strings.TrimSuffix(file, ".hl7") + ".expected.json")
		if err != nil {
			continue
		}
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		m, err := hl7.Parse(named(raw))
		if err != nil {
			t.Logf("%s: %v", name, err)
			continue
		}
		d, err := mapping.LookupDialect("loinc")
		if err != nil {
			t.Fatal(err)
		}
		r, err := mapping.NewConverter(d).Convert(m, mapping.Context{Zone: time.UTC})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		mustBeFHIR(t, name, r.Bundle)
		want, got := leaves(t, golden), leaves(t, r.Bundle)
		pairs++
		for _, k := range sortedKeys(want) {
			fields++
			if got[k] == want[k] {
				equal++
				continue
			}
			if w, g := want[k], got[k]; len(w) > 19 && len(g) > 19 && strings.HasSuffix(w, "Z") && w[:19] == g[:19] {
				zones++ // see below
				continue
			}
			found := false
			for i, why := range reasons {
				if found = why.file.MatchString(name) && why.field.MatchString(k+" = "+want[k]); found {
					used[i]++
					classes[why.class]++
					break
				}
			}
			if !found {
				unexplained = append(unexplained, fmt.Sprintf("%s: %s: CDC %q, vitalgate %q", name, k, want[k], got[k]))
			}
		}
	}
	shared := equal + len(unexplained)
	percent := 100 * float64(equal) / float64(shared)
	t.Logf("%d pairs, %d fields of the resources compared in CDC's output", pairs, fields)
	t.Logf("equal: %d of %d shared fields: %.1f %% (%.1f %% if the rules below are counted as shared)", equal, shared, percent, 100*float64(equal)/float64(shared+classes["rule"]))
	t.Logf("different without a reason: %d", len(unexplained))
	t.Logf("not shared: %d out of scope, %d where CDC departs from the IG, HL7 or FHIR, %d by a rule of ours", classes["scope"], classes["cdc"]+zones, classes["rule"])
	t.Logf("  %4d  cdc: the same time of day, but UTC where MSH-7 gives the offset for the whole message (HL7 v2.9 §2.14.9.7)", zones)
	for i, why := range reasons {
		t.Logf("  %4d  %s: %s", used[i], why.class, why.why)
		if used[i] == 0 {
			t.Errorf("cdc-reasons.tsv: %s %s explains nothing: take it out", why.file, why.field)
		}
	}
	for _, s := range unexplained {
		t.Log(s)
	}
	if percent < cdcThreshold {
		t.Errorf("%.1f %% of the shared fields are equal, want %.1f %%", percent, cdcThreshold)
	}
}

// named gives a PID without number and name a name: such a patient is unknown here and has no Patient, but his other fields can
// be compared.
func named(raw []byte) []byte {
	lines := bytes.FieldsFunc(raw, func(r rune) bool { return r == '\r' || r == '\n' })
	for i, line := range lines {
		if f := bytes.Split(line, []byte("|")); string(f[0]) == "PID" {
			for len(f) < 6 {
				f = append(f, nil)
			}
			if len(f[3])+len(f[5]) == 0 {
				f[5] = []byte("NAMED BY THE TEST")
			}
			lines[i] = bytes.Join(f, []byte("|"))
		}
	}
	return bytes.Join(lines, []byte("\r"))
}

// leaves gives the elements of the resources of a Bundle that are made of people, stays, observations and devices as "Observation[1].status", without
// extensions but the time of birth; of references only that they are there.
func leaves(t *testing.T, bundle []byte) map[string]string {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(bundle))
	d.UseNumber()
	var b struct {
		Entry []struct{ Resource any1 }
	}
	if err := d.Decode(&b); err != nil {
		t.Fatal(err)
	}
	all, seen := map[string]string{}, map[string]int{}
	var walk func(at string, v any)
	walk = func(at string, v any) {
		switch v := v.(type) {
		case any1:
			for k, x := range v {
				switch {
				case k == "extension" || k == "meta" || k == "id" || k == "resourceType" || k == "modifierExtension":
				case k == "_birthDate":
					for _, e := range items(x.(any1)["extension"]) {
						if e["url"] == "http://hl7.org/fhir/StructureDefinition/patient-birthTime" {
							walk(at+".birthTime", e["valueDateTime"])
						}
					}
				case k[0] == '_':
				case k == "reference":
					all[at] = "a reference"
				default:
					walk(at+"."+k, x)
				}
			}
		case []any:
			for i, x := range v {
				walk(fmt.Sprintf("%s[%d]", at, i), x)
			}
		default:
			all[at] = fmt.Sprint(v)
		}
	}
	for _, e := range b.Entry {
		switch kind, _ := e.Resource["resourceType"].(string); kind {
		case "Patient", "Encounter", "Observation", "Device", "RelatedPerson", "Practitioner", "PractitionerRole":
			if names := items(e.Resource["name"]); kind == "Practitioner" && len(names) > 0 { // CDC makes one for each time that he is named
				kind += fmt.Sprint(" ", names[0]["family"])
			}
			if codes := items(e.Resource["code"]); kind == "PractitionerRole" && len(codes) > 0 {
				kind += fmt.Sprint(" ", items(codes[0]["coding"])[0]["code"])
			}
			if ids := items(e.Resource["identifier"]); kind == "Device" && len(ids) > 0 {
				kind += fmt.Sprint(" ", ids[0]["value"])
			}
			if code, ok := e.Resource["code"].(any1); ok { // the order of Observations is not the message's
				for _, k := range items(code["coding"]) {
					kind += fmt.Sprint(" ", k["code"])
					break
				}
			}
			if strings.HasPrefix(kind, "Practitioner") { // CDC makes one for each place that names him: the same one counts once
				walk("same", e.Resource)
				same := kind
				for _, k := range sortedKeys(all) {
					if strings.HasPrefix(k, "same") {
						same += "\n" + k + all[k]
						delete(all, k)
					}
				}
				if seen[same]++; seen[same] > 1 {
					continue
				}
			}
			walk(fmt.Sprintf("%s[%d]", kind, seen[kind]), e.Resource)
			seen[kind]++
		}
	}
	return all
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
