package mapping_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vitalgate/vitalgate/fhir/mapping"
	"github.com/vitalgate/vitalgate/hl7"
)

var update = flag.Bool("update", false, "write the golden .json files anew")

// Each testdata/<dialect>/<name>.hl7 stands beside a .want, written by hand from what the message must mean to a
// clinician and how it must be acknowledged (firmware/pipeline reads those lines), and a .json with the whole Bundle.
func TestFixtures(t *testing.T) {
	files, err := filepath.Glob("testdata/*/*.hl7")
	if err != nil || len(files) == 0 {
		t.Fatal("no fixtures", err)
	}
	sources, err := os.ReadFile("testdata/SOURCES.tsv")
	if err != nil {
		t.Fatal(err)
	}
	covered := map[string]bool{}
	for _, file := range files {
		dialect := filepath.Base(filepath.Dir(file))
		covered[dialect] = true
		name := strings.TrimSuffix(strings.TrimPrefix(file, "testdata/"), ".hl7")
		if !strings.Contains(string(sources), "\n"+name+"\t") {
			t.Errorf("SOURCES.tsv does not say where %s comes from", name)
		}
		t.Run(name, func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			stem := strings.TrimSuffix(file, ".hl7")
			r := wanted(t, dialect, raw, stem+".want")
			var pretty bytes.Buffer
			if err := json.Indent(&pretty, r.Bundle, "", " "); err != nil {
				t.Fatal(err)
			}
			pretty.WriteByte('\n')
			if *update {
				if err := os.WriteFile(stem+".json", pretty.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			golden, err := os.ReadFile(stem + ".json")
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(golden, pretty.Bytes()) {
				t.Errorf("%s.json differs; if the change is meant, run the test with -update and review the difference", stem)
			}
		})
	}
	for _, d := range mapping.Dialects() {
		if !covered[d.Name] {
			t.Errorf("dialect %s has no fixture", d.Name)
		}
	}
}

// The published messages of monitors that may not be shipped with vitalgate: what each must mean stands in testdata/corpus, by the
// dialect that it is of and the name that it has in the corpus.
func TestPublishedMessages(t *testing.T) {
	dir := os.Getenv("VITALGATE_CORPUS")
	if dir == "" {
		t.Skip("VITALGATE_CORPUS does not name a folder of messages")
	}
	files := hl7Files(t, filepath.Join(dir, "devices"))
	for _, file := range files {
		name, _ := filepath.Rel(filepath.Join(dir, "devices"), file)
		name = strings.TrimSuffix(name, ".hl7")
		t.Run(name, func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			m, err := hl7.Parse(raw)
			if err != nil {
				if _, err := os.Stat("testdata/corpus/refused/" + name); err != nil {
					t.Errorf("the message is refused: %v", err)
				}
				return
			}
			detected, _, _ := mapping.Detect(m)
			want := filepath.Join("testdata/corpus", detected.Name, name+".want")
			wanted(t, detected.Name, raw, want)
		})
	}
}

// wanted converts a message as the dialect, and holds the result to the .want file: lines of settings, of the acknowledgement, and
// of the summary.
func wanted(t *testing.T, dialect string, raw []byte, file string) mapping.Result {
	t.Helper()
	m, err := hl7.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if d, _, why := mapping.Detect(m); d.Name != dialect {
		t.Errorf("detected as %s (%s)", d.Name, why)
	}
	d, err := mapping.LookupDialect(dialect)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Error(err)
	}
	at := context()
	var lines []string
	for _, line := range strings.Split(strings.TrimSpace(string(want)), "\n") {
		switch {
		case line == "zone: none":
			at.Zone = nil
		case line == "units: mm[Hg]":
			at.Units.Pressure = "mm[Hg]"
		case strings.HasPrefix(line, "ack: "), strings.HasPrefix(line, "# "):
		default:
			lines = append(lines, line)
		}
	}
	r, err := mapping.NewConverter(d).Convert(m, at)
	if err != nil {
		t.Fatal(err)
	}
	mustBeFHIR(t, file, r.Bundle)
	if got, want := summary(t, r), strings.Join(lines, "\n"); got != want {
		t.Errorf("got\n%s\n\nwant\n%s", got, want)
	}
	return r
}

type any1 = map[string]any

// summary says what a Bundle charts, in the words of the .want files.
func summary(t *testing.T, r mapping.Result) string {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(r.Bundle))
	d.UseNumber()
	var b struct {
		Entry []struct{ Resource any1 }
	}
	if err := d.Decode(&b); err != nil {
		t.Fatal(err)
	}
	lines := []string{fmt.Sprintf("%s %d charted %d local %d absent", r.Kind, r.Charted, r.Local, r.Absent)}
	for _, e := range b.Entry {
		switch o := e.Resource; o["resourceType"] {
		case "Patient":
			gender := map[any]string{"male": "M", "female": "F", nil: "-"}[o["gender"]]
			birth, _ := o["birthDate"].(string)
			if birth == "" {
				birth = "-"
			}
			line := "Patient " + gender + " " + birth
			for _, id := range items(o["identifier"]) {
				line += " " + id["value"].(string)
			}
			lines = append(lines, line)
		case "Location":
			lines = append(lines, "Location "+o["name"].(string))
		case "Observation":
			lines = append(lines, observation(o))
		}
	}
	for _, e := range r.Events {
		lines = append(lines, "! "+e.Code+" "+e.Where)
	}
	return strings.Join(lines, "\n")
}

func items(v any) []any1 {
	var l []any1
	list, _ := v.([]any)
	for _, x := range list {
		l = append(l, x.(any1))
	}
	return l
}

func observation(o any1) string {
	value := valueText(o)
	if c := items(o["component"]); c != nil {
		var parts []string
		for _, p := range c {
			parts = append(parts, codeText(p["code"].(any1))+" "+valueText(p))
		}
		if value != "?" { // an alert and what is said of it
			parts = append([]string{value}, parts...)
		}
		value = strings.Join(parts, " + ")
	}
	when, _ := o["effectiveDateTime"].(string)
	if p, ok := o["effectivePeriod"].(any1); ok {
		when = p["start"].(string) + "/" + p["end"].(string)
	}
	line := codeText(o["code"].(any1)) + " | " + value + " | " + when
	for _, c := range items(o["category"]) {
		if k := items(c["coding"])[0]["code"].(string); k != "vital-signs" {
			line = k + ": " + line
		}
	}
	for _, x := range items(o["extension"]) {
		if strings.HasSuffix(x["url"].(string), "/time-basis") && x["valueCode"] != "zone-configured" {
			line += " " + x["valueCode"].(string)
		}
	}
	if m, ok := o["meta"].(any1); ok {
		for _, s := range items(m["security"]) {
			line += " " + s["code"].(string)
		}
	}
	return line
}

func codeText(c any1) string {
	var codes []string
	local := ""
	for _, k := range items(c["coding"]) {
		system, code := k["system"].(string), k["code"]
		if name, ok := strings.CutPrefix(system, "urn:vitalgate:codes:"); ok {
			if local == "" {
				local = fmt.Sprintf("local %s %v", name, code)
			}
			continue
		}
		codes = append(codes, code.(string))
	}
	if len(codes) == 0 {
		return local
	}
	return strings.Join(codes, " ")
}

func quantityText(q any1) string {
	s := ""
	if c, ok := q["comparator"].(string); ok {
		s = c
	}
	s += string(q["value"].(json.Number))
	if code, ok := q["code"].(string); ok {
		s += " " + code
	} else if unit, ok := q["unit"].(string); ok {
		s += " (" + unit + ")"
	}
	return s
}

func valueText(o any1) string {
	if q, ok := o["valueQuantity"].(any1); ok {
		return quantityText(q)
	}
	if s, ok := o["valueString"].(string); ok {
		return `"` + s + `"`
	}
	if c, ok := o["valueCodeableConcept"].(any1); ok {
		for _, k := range items(c["coding"]) {
			code, _ := k["code"].(string)
			display, _ := k["display"].(string)
			return strings.TrimSpace(code + " " + display)
		}
		return fmt.Sprint(c["text"])
	}
	if r, ok := o["valueRatio"].(any1); ok {
		return "ratio " + quantityText(r["numerator"].(any1)) + " : " + quantityText(r["denominator"].(any1))
	}
	if r, ok := o["valueRange"].(any1); ok {
		return "range " + quantityText(r["low"].(any1)) + " - " + quantityText(r["high"].(any1))
	}
	if s, ok := o["valueSampledData"].(any1); ok {
		data := strings.Fields(s["data"].(string))
		factor, _ := s["factor"].(json.Number)
		if factor == "" {
			factor = "1"
		}
		return fmt.Sprintf("%d samples %s …, %s ms, factor %s %v", len(data), strings.Join(data[:min(len(data), 10)], " "), s["period"], factor, s["origin"].(any1)["code"])
	}
	for _, k := range []string{"valueDateTime", "valueTime"} {
		if s, ok := o[k].(string); ok {
			return s
		}
	}
	if d, ok := o["dataAbsentReason"].(any1); ok {
		return "absent " + items(d["coding"])[0]["code"].(string)
	}
	return "?"
}
