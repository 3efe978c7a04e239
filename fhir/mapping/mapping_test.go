package mapping_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/fhir/check"
	"github.com/vitalgate/vitalgate/fhir/mapping"
	"github.com/vitalgate/vitalgate/hl7"
)

func parse(t *testing.T, text string) *hl7.Message {
	t.Helper()
	m, err := hl7.Parse([]byte(strings.ReplaceAll(text, "\n", "\r")))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func convert(t *testing.T, dialect, text string, at mapping.Context) mapping.Result {
	t.Helper()
	d, err := mapping.LookupDialect(dialect)
	if err != nil {
		t.Fatal(err)
	}
	r, err := mapping.NewConverter(d).Convert(parse(t, text), at)
	if err != nil {
		t.Fatal(err)
	}
	mustBeFHIR(t, dialect, r.Bundle)
	return r
}

const header = "MSH|^~\\&|GATE^0012210000000001^EUI-64|H|||20251105120000+0000||ORU^R01^ORU_R01|m1|P|2.6\nPID|||A1\nOBR|1||||||20251105115958+0000\n"

// The oracle itself must refuse what is no FHIR: else its silence would mean nothing.
func TestOracleIsStrict(t *testing.T) {
	good := convert(t, "ihe-pcd01", header+"OBX|1|NM|147842^MDC_ECG_HEART_RATE^MDC|1.1.1.1|72|264864^MDC_DIM_BEAT_PER_MIN^MDC|||||F\n", context()).Bundle
	for _, c := range [][2]string{
		{`"value":72`, `"value":"72"`},
		{`"value":72`, `"value":072`},
		{`"status":"final"`, `"status":"done"`},
		{`"status":"final",`, ``},
		{`"type":"collection"`, `"type":"pile"`},
		{`2025-11-05T11:59:58Z`, `2025-13-05T11:59:58Z`},
		{`2025-11-05T11:59:58Z`, `2025-11-05T11:59:58`},
		{`"effectiveDateTime"`, `"effectiveTime"`},
	} {
		bad := bytes.Replace(good, []byte(c[0]), []byte(c[1]), 1)
		if bytes.Equal(bad, good) {
			t.Fatalf("the Bundle does not hold %s", c[0])
		}
		if _, err := oracle().Unmarshal(bad); err == nil {
			t.Errorf("google/fhir takes %s", c[1])
		}
	}
}

// The digits of every number stand in the Bundle as the monitor sent them.
func TestDecimalsUntouched(t *testing.T) {
	for _, n := range []string{"72", "72.0", "72.50", "0.0", "-0.0", "1.2300", "36.80", "100.000000"} {
		r := convert(t, "ihe-pcd01", header+"OBX|1|NM|150488^MDC_BLD_PERF_INDEX^MDC|1.1.1.1|"+n+"|262688^MDC_DIM_PERCENT^MDC|||||F\n", context())
		if !bytes.Contains(r.Bundle, []byte(`"valueQuantity":{"value":`+n+`,`)) {
			t.Errorf("%s is not in the Bundle", n)
		}
	}
}

// The same message and context give the same bytes, from a fresh converter and from a used one.
func TestDeterministic(t *testing.T) {
	files, _ := filepath.Glob("testdata/*/*.hl7")
	used := map[string]*mapping.Converter{}
	for round := range 2 {
		for _, file := range files {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			m, err := hl7.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			name := filepath.Base(filepath.Dir(file))
			d, _ := mapping.LookupDialect(name)
			if used[name] == nil {
				used[name] = mapping.NewConverter(d)
			}
			a, err := used[name].Convert(m, context())
			if err != nil {
				t.Fatal(err)
			}
			b, err := mapping.NewConverter(d).Convert(m, context())
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(a.Bundle, b.Bundle) || a.Patient != b.Patient || !a.Observed.Equal(b.Observed) {
				t.Errorf("%s, round %d: a used converter gives something else", file, round)
			}
		}
	}
}

// The patient's key must survive the next Convert: it is kept by the caller.
func TestPatientKeyOutlivesTheMessage(t *testing.T) {
	d, _ := mapping.LookupDialect("ihe-pcd01")
	c := mapping.NewConverter(d)
	a, err := c.Convert(parse(t, header), context())
	if err != nil {
		t.Fatal(err)
	}
	key := strings.Clone(a.Patient)
	if _, err := c.Convert(parse(t, strings.Replace(header, "A1", "B2", 1)), context()); err != nil {
		t.Fatal(err)
	}
	if a.Patient != key || key == "" {
		t.Error("the key of the first patient changed")
	}
}

// An error of the parser becomes an OperationOutcome that says what and where, and quotes nothing of the message.
func TestOutcome(t *testing.T) {
	_, err := hl7.Parse([]byte("OBX|1|NM|secret"))
	var e *hl7.Error
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	for _, e := range []*hl7.Error{e, {Code: hl7.CodeFieldMissing, Segment: "OBX", Sequence: 3, Field: 5, Component: 1, What: "cannot find the value", Remedy: "send it"}, {Code: 7}} {
		b := mapping.AppendOutcome(nil, e)
		mustBeFHIR(t, "outcome", b)
		if bytes.Contains(b, []byte("secret")) {
			t.Error("the outcome quotes the message")
		}
	}
	mustBeFHIR(t, "no error", mapping.AppendOutcome(nil))
	b := mapping.AppendOutcome(nil, &hl7.Error{Code: hl7.CodeFieldMissing, Segment: "OBX", Sequence: 3, Field: 5, Component: 1, What: "cannot find the value"})
	for _, want := range []string{`"code":"required"`, `"code":"101"`, `OBX[3]-5.1`} {
		if !bytes.Contains(b, []byte(want)) {
			t.Errorf("%s is not in %s", want, b)
		}
	}
}

// Units of all kinds, and what they do to the code: a unit that is missing, foreign or contradicts itself never leads
// to a standard code that allows several.
func TestUnits(t *testing.T) {
	for _, c := range []struct {
		code, unit string
		charted    bool
		ucum       string
	}{
		{"150344^MDC_TEMP^MDC", "268192^MDC_DIM_DEGC^MDC", true, "Cel"},
		{"150344^MDC_TEMP^MDC", "^MDC_DIM_DEGC", true, "Cel"},
		{"150344^MDC_TEMP^MDC", "Cel^Cel^UCUM", true, "Cel"},
		{"150344^MDC_TEMP^MDC", "268192^°C^MDC", true, "Cel"},
		{"150344^MDC_TEMP^MDC", "268224^MDC_DIM_FAHR^MDC", false, ""},
		{"150344^MDC_TEMP^MDC", "268160^MDC_DIM_FAHR^MDC", false, ""},
		{"150344^MDC_TEMP^MDC", "268192^MDC_DIM_FAHR^MDC", false, ""},
		{"150344^MDC_TEMP^MDC", "", false, ""},
		{"150344^MDC_TEMP^MDC", "furlong", false, ""},
		{"150344^MDC_TEMP^MDC", "266016^MDC_DIM_MMHG^MDC", false, ""},
		{"150344^MDC_TEMP^MDC", "268192^MDC_DIM_DEGC^MDC^[degF]^^UCUM", false, ""},
		{"150344^MDC_TEMP^MDC", "268192^MDC_DIM_DEGC^MDC^Cel^^UCUM", true, "Cel"},
		{"151562^MDC_RESP_RATE^MDC", "", false, ""},
		{"151562^MDC_RESP_RATE^MDC", "{breath}/min^breaths per minute^UCUM", true, "/min"},
		{"151562^MDC_RESP_RATE^MDC", "262688^MDC_DIM_PERCENT^MDC", false, ""},
	} {
		r := convert(t, "ihe-pcd01", header+"OBX|1|NM|"+c.code+"|1.1.1.1|37|"+c.unit+"|||||F\n", context())
		if got := r.Charted == 1; got != c.charted {
			t.Errorf("%s in %q: charted %v, want %v", c.code, c.unit, got, c.charted)
		}
		if c.charted && !bytes.Contains(r.Bundle, []byte(`"system":"http://unitsofmeasure.org","code":"`+c.ucum+`"`)) {
			t.Errorf("%s in %q is not in %s", c.code, c.unit, c.ucum)
		}
		if !bytes.Contains(r.Bundle, []byte(`"value":37`)) {
			t.Errorf("%s in %q: the value is lost", c.code, c.unit)
		}
		if !c.charted && len(r.Events) == 0 {
			t.Errorf("%s in %q: kept silently", c.code, c.unit)
		}
	}
}

// Value types that are no plain number are kept without loss.
func TestValueTypes(t *testing.T) {
	for _, c := range []struct{ typ, value, want string }{
		{"SN", "^70", `"valueQuantity":{"value":70}`},
		{"SN", ">^100", `"valueQuantity":{"value":100,"comparator":">"}`},
		{"SN", "^1^:^128", `"valueRatio":{"numerator":{"value":1},"denominator":{"value":128}}`},
		{"SN", "^2^-^3", `"valueRange":{"low":{"value":2},"high":{"value":3}}`},
		{"SN", "^100^+", `"valueString":"^100^+"`},
		{"SN", "<>^5", `"valueString":"<>^5"`},
		{"ST", "Alert", `"valueString":"Alert"`},
		{"TX", "two~lines", `"valueString":"two~lines"`},
		{"CWE", "1^A^99X", `"valueCodeableConcept":{"coding":[{"system":"urn:vitalgate:codes:99X","code":"1","display":"A"}],"text":"A"}`},
		{"CE", "^^^", `"valueString":"^^^"`},
		{"DT", "20251105", `"valueDateTime":"2025-11-05"`},
		{"DTM", "20251105113000+0100", `"valueDateTime":"2025-11-05T11:30:00+01:00"`},
		{"TS", "rubbish", `"valueString":"rubbish"`},
		{"TM", "1130", `"valueTime":"11:30:00"`},
		{"TM", "2560", `"valueString":"2560"`},
		{"NA", "1^2^3", `"valueString":"1^2^3"`},
		{"ED", "^application^pdf^Base64^AAAA", `"valueAttachment":{"contentType":"application/pdf","data":"AAAA"}`},
		{"ED", "^AP^PDF^Base64^AAA=", `"valueAttachment":{"contentType":"application/pdf","data":"AAA="}`},
		{"ED", "LAB^IM^image/png^base64^AA\\.br\\AA", `"valueAttachment":{"contentType":"image/png","data":"AAAA"}`},
		{"ED", "^^^Base64^AAAA", `"valueAttachment":{"contentType":"application/octet-stream","data":"AAAA"}`},
		{"ED", "^IM^png^Hex^00ff", `"valueAttachment":{"contentType":"image/png","data":"AP8="}`},
		{"ED", "^TEXT^^A^a\\F\\b", `"valueAttachment":{"contentType":"text/plain; charset=utf-8","data":"YXxi"}`},
		{"ED", "^application^pdf^Base64^AAA", `"valueString":"^application^pdf^Base64^AAA"`},
		{"ED", "^application^pdf^Base64^A-_A", `"valueString":"^application^pdf^Base64^A-_A"`},
		{"ED", "^application^pdf^Rot13^AAAA", `"valueString":"^application^pdf^Rot13^AAAA"`},
		{"ED", "^application^pdf^Base64^", `"valueString":"^application^pdf^Base64^"`},
		{"ED", "^IM^png^Base64^AAAA~^IM^png^Base64^BBBB", `"valueString":"^IM^png^Base64^AAAA~^IM^png^Base64^BBBB"`},
		{"RP", "https://pacs.example/1?x=2^&1.2.840.1&ISO^IM^DICOM", `"valueAttachment":{"contentType":"image/dicom","url":"https://pacs.example/1?x=2"}`},
		{"RP", "1.2.840.113619.2.5", `"valueAttachment":{"url":"1.2.840.113619.2.5"}`},
		{"RP", "C:\\E\\my files\\E\\a.pdf^X", `"valueString":`},
		{"RP", "^APP", `"valueString":"^APP"`},
		{"NM", "36.4^99", `"valueString":"36.4^99"`},
		{"NM", "1~2", `"valueString":"1~2"`},
		{"ZZ", "a^b&c", `"valueString":"a^b&c"`},
	} {
		r := convert(t, "ihe-pcd01", header+"OBX|1|"+c.typ+"|1^x^99LOCAL|1|"+c.value+"||||||F\n", context())
		if !bytes.Contains(r.Bundle, []byte(c.want)) {
			t.Errorf("%s %s: want %s in %s", c.typ, c.value, c.want, r.Bundle)
		}
		if r.Charted != 0 {
			t.Errorf("%s %s: a local code is counted as charted", c.typ, c.value)
		}
	}
}

// What stands for "no value" is no value, and no number: not in any dialect, and not where a number is sent as text.
func TestNoValue(t *testing.T) {
	for _, v := range []string{"---", "-?-", "***", "--", "-999", "-100", "8388607", "", `""`, "  "} {
		for _, typ := range []string{"NM", "ST", ""} {
			r := convert(t, "ihe-pcd01", header+"OBX|1|"+typ+"|147842^MDC_ECG_HEART_RATE^MDC|1.1.1.1|"+v+"|264864^MDC_DIM_BEAT_PER_MIN^MDC|||||F\n", context())
			if r.Absent != 1 || r.Charted+r.Local != 0 {
				t.Errorf("%s %q: %d charted, %d local, %d absent", typ, v, r.Charted, r.Local, r.Absent)
			}
		}
	}
	// A number inside the code's range is a number, whatever it means elsewhere.
	r := convert(t, "xh80x", header+"OBX|1|NM|150087^MDC_PRESS_BLD_VEN_CENT_MEAN^MDC|1.1.1.1|-1|266016^MDC_DIM_MMHG^MDC|||||F\n", context())
	if r.Charted != 1 {
		t.Error("a venous pressure of -1 mmHg is lost")
	}
}

// Status and flags that say "no result" keep the value and take the standard code away.
func TestStatusAndFlags(t *testing.T) {
	for _, c := range []struct {
		flag, status string
		charted      bool
		want         string
	}{
		{"", "F", true, `"status":"final"`},
		{"", "R", true, `"status":"preliminary"`},
		{"", "C", true, `"status":"corrected"`},
		{"", "", true, `"status":"unknown"`},
		{"", "X", false, `"status":"cancelled"`},
		{"", "D", false, `"status":"entered-in-error"`},
		{"", "W", false, `"status":"entered-in-error"`},
		{"H", "F", true, `"code":"H"`},
		{"QUES", "R", true, `"code":"UNCERTREL"`},
		{"INV", "R", false, `"code":"UNRELIABLE"`},
		{"DEMO", "R", false, `"code":"HTEST"`},
		{"H~TEST", "R", false, `"code":"HTEST"`},
		{"NAV", "R", false, `"value":72`},
	} {
		r := convert(t, "ihe-pcd01", header+"OBX|1|NM|147842^MDC_ECG_HEART_RATE^MDC|1.1.1.1|72|264864^MDC_DIM_BEAT_PER_MIN^MDC||"+c.flag+"|||"+c.status+"\n", context())
		if (r.Charted == 1) != c.charted || !bytes.Contains(r.Bundle, []byte(c.want)) || !bytes.Contains(r.Bundle, []byte(`"value":72`)) {
			t.Errorf("flag %q status %q: charted %d, want %v with %s: %s", c.flag, c.status, r.Charted, c.charted, c.want, r.Bundle)
		}
	}
}

// A blood pressure is one panel only where its parts belong together.
func TestPanels(t *testing.T) {
	row := func(n, code, channel, value, time string) string {
		return "OBX|" + n + "|NM|" + code + "^MDC|" + channel + "|" + value + "|266016^MDC_DIM_MMHG^MDC|||||F|||" + time + "\n"
	}
	sys, dia := "150021^MDC_PRESS_BLD_NONINV_SYS", "150022^MDC_PRESS_BLD_NONINV_DIA"
	for what, c := range map[string]struct {
		rows   string
		panels int
	}{
		"together":        {row("1", sys, "1.1.9.1", "120", "") + row("2", dia, "1.1.9.2", "80", ""), 1},
		"other order":     {row("1", dia, "1.1.9.2", "80", "") + row("2", sys, "1.1.9.1", "120", ""), 1},
		"another time":    {row("1", sys, "1.1.9.1", "120", "20251105110000+0000") + row("2", dia, "1.1.9.2", "80", "20251105111000+0000"), 0},
		"another channel": {row("1", sys, "1.1.9.1", "120", "") + row("2", dia, "1.1.8.2", "80", ""), 0},
		"another line":    {row("1", sys, "1.1.9.1", "120", "") + row("2", "150034^MDC_PRESS_BLD_ART_DIA", "1.1.9.2", "80", ""), 0},
		"no diastolic":    {row("1", sys, "1.1.9.1", "120", "") + row("2", dia, "1.1.9.2", "-100", ""), 0},
		"impossible":      {row("1", sys, "1.1.9.1", "120", "") + row("2", dia, "1.1.9.2", "800", ""), 0},
		"pulmonary":       {row("1", "150045^MDC_PRESS_BLD_ART_PULM_SYS", "1.1.9.1", "25", "") + row("2", "150046^MDC_PRESS_BLD_ART_PULM_DIA", "1.1.9.2", "10", ""), 0},
		"two in a row":    {row("1", sys, "1.1.9.1", "120", "") + row("2", dia, "1.1.9.2", "80", "") + row("3", sys, "1.1.9.1", "121", "") + row("4", dia, "1.1.9.2", "81", ""), 2},
	} {
		r := convert(t, "ihe-pcd01", header+c.rows, context())
		if got := bytes.Count(r.Bundle, []byte(`"code":"85354-9"`)); got != c.panels {
			t.Errorf("%s: %d panels, want %d", what, got, c.panels)
		}
		if n := r.Charted + r.Local + r.Absent; n != strings.Count(c.rows, "OBX|") {
			t.Errorf("%s: %d of the rows are counted", what, n)
		}
	}
}

// Without a configured zone a local time is not guessed; with one, the assumption is recorded.
func TestZones(t *testing.T) {
	text := "MSH|^~\\&|G|H|||20251105120000||ORU^R01|z|P|2.6\nOBR|1||||||20251105115958\nOBX|1|NM|147842^MDC_ECG_HEART_RATE^MDC|1|72||||||F\n"
	at := context()
	at.Zone = nil
	r := convert(t, "ihe-pcd01", text, at)
	if !bytes.Contains(r.Bundle, []byte(`"effectiveDateTime":"2025-11-05"`)) || !bytes.Contains(r.Bundle, []byte(`"valueString":"20251105115958"`)) || !r.Observed.IsZero() {
		t.Errorf("no zone: %s", r.Bundle)
	}
	r = convert(t, "ihe-pcd01", text, context())
	if !bytes.Contains(r.Bundle, []byte(`"effectiveDateTime":"2025-11-05T11:59:58+01:00"`)) || !bytes.Contains(r.Bundle, []byte(`"valueCode":"zone-configured"`)) {
		t.Errorf("configured zone: %s", r.Bundle)
	}
	r = convert(t, "ihe-pcd01", strings.Replace(text, "120000", "120000-0500", 1), context())
	if !bytes.Contains(r.Bundle, []byte(`"effectiveDateTime":"2025-11-05T11:59:58-05:00"`)) || bytes.Contains(r.Bundle, []byte(`zone-configured`)) {
		t.Errorf("offset of the message: %s", r.Bundle)
	}
	at.Arrived = time.Time{}
	r = convert(t, "ihe-pcd01", "MSH|^~\\&|G|H|||||ORU^R01|z|P|2.6\nOBX|1|NM|147842^MDC_ECG_HEART_RATE^MDC|1|72||||||F\n", at)
	if !bytes.Contains(r.Bundle, []byte(`"_effectiveDateTime":{"extension":[{"url":"http://hl7.org/fhir/StructureDefinition/data-absent-reason","valueCode":"unknown"}]}`)) {
		t.Errorf("no time at all: %s", r.Bundle)
	}
}

// The configured bed stands in where the message names none; it never displaces what the message says.
func TestBed(t *testing.T) {
	at := context()
	at.Bed = "ICU 3 / bed 12"
	if r := convert(t, "ihe-pcd01", header, at); !bytes.Contains(r.Bundle, []byte(`"name":"ICU 3 / bed 12"`)) {
		t.Error("the configured bed is missing")
	}
	if r := convert(t, "ihe-pcd01", header+"PV1||I|ER^^4\n", at); !bytes.Contains(r.Bundle, []byte(`"name":"ER / 4"`)) || bytes.Contains(r.Bundle, []byte("bed 12")) {
		t.Error("the message's bed is displaced")
	}
}

func TestLookupDialect(t *testing.T) {
	if _, err := mapping.LookupDialect("nobody"); err == nil || !strings.Contains(err.Error(), "ge-bseries") {
		t.Errorf("an unknown dialect must be refused with the known ones: %v", err)
	}
	for _, d := range mapping.Dialects() {
		if d.Framing == "" || d.Role == "" || d.Ack == "" || d.Zone == "" || len(d.Dedup) == 0 {
			t.Errorf("%s does not say how it is connected", d.Name)
		}
	}
}

func FuzzConvert(f *testing.F) {
	files, _ := filepath.Glob("testdata/*/*.hl7")
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte("MSH|^~\\&|||||||ORU^R01|204\rOBX||NM|101^HR\x00|\"\"|\xff72|^^^^||INV~DEMO|||Q|||9999"))
	converters := map[string]*mapping.Converter{}
	for _, d := range mapping.Dialects() {
		converters[d.Name] = mapping.NewConverter(d)
	}
	at := context()
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := hl7.Parse(raw)
		if err != nil {
			return
		}
		d, _, _ := mapping.Detect(m)
		r, err := converters[d.Name].Convert(m, at)
		if err != nil {
			t.Fatal(err)
		}
		if findings := check.Bundle(r.Bundle); len(findings) > 0 {
			t.Fatalf("%q\n%s", findings, r.Bundle)
		}
		if _, err := oracle().Unmarshal(r.Bundle); err != nil {
			t.Fatalf("%v\n%s", err, r.Bundle)
		}
		bundle := bytes.Clone(r.Bundle)
		if again, err := mapping.NewConverter(d).Convert(m, at); err != nil || !bytes.Equal(again.Bundle, bundle) {
			t.Fatal("a fresh converter gives something else")
		}
	})
}

// Equipment named at a VMD holds for what lies below it and for nothing else; what a device does not name itself
// belongs to the sender.
func TestEquipmentByContainment(t *testing.T) {
	const tail = "|264864^MDC_DIM_BEAT_PER_MIN^MDC|||||R\n"
	r := convert(t, "ihe-pcd01", header+
		"OBX|1||69965^MDC_DEV_MON_PHYSIO_MULTI_PARAM_MDS^MDC|1.0.0.0|||||||X\n"+
		"OBX|2||70686^MDC_DEV_PRESS_BLD_NONINV_VMD^MDC|1.1.0.0|||||||X|||||||MODULE-A\n"+
		"OBX|3|NM|149546^MDC_PULS_RATE_NON_INV^MDC|1.1.1.1|61"+tail+
		"OBX|4|NM|147842^MDC_ECG_HEART_RATE^MDC|1.2.1.1|62"+tail, context())
	b := string(r.Bundle)
	device := func(identifier string) string {
		m := regexp.MustCompile(`"resourceType":"Device","id":"([^"]+)","identifier":\[\{[^]]*"value":"` + identifier + `"`).FindStringSubmatch(b)
		if m == nil {
			t.Fatalf("no device %s in %s", identifier, b)
		}
		return "urn:uuid:" + m[1]
	}
	module, sender := device("MODULE-A"), device("00-12-21-00-00-00-00-01")
	if !regexp.MustCompile(`"resourceType":"DeviceMetric".*?"code":"149546".*?"source":\{"reference":"` + module).MatchString(b) {
		t.Error("the pulse rate does not come from its module")
	}
	if !regexp.MustCompile(`"value":62,[^}]*\},"device":\{"reference":"` + sender).MatchString(b) {
		t.Error("the heart rate does not come from the sender")
	}
}

// The exported tables are FHIR, name every pair that is used, and are the same each time.
func TestConceptMap(t *testing.T) {
	for _, d := range append(mapping.Dialects(), nil) {
		b := mapping.AppendConceptMap(nil, d)
		if _, err := oracle().Unmarshal(b); err != nil {
			t.Errorf("%v\n%s", err, clip(b))
		}
		if !bytes.Equal(b, mapping.AppendConceptMap(nil, d)) {
			t.Error("the export differs from time to time")
		}
	}
	d, _ := mapping.LookupDialect("mindray-pcd01")
	b := mapping.AppendConceptMap(nil, d)
	for _, want := range []string{
		`{"code":"147842","display":"MDC_ECG_HEART_RATE","target":[{"code":"8867-4","display":"Heart rate","equivalence":"wider"}]}`,
		`{"code":"268192","display":"MDC_DIM_DEGC","target":[{"code":"Cel","equivalence":"equivalent"}]}`,
		`{"code":"150344","target":[{"code":"8310-5","display":"Body temperature","equivalence":"wider","comment":"only in the channels 1.2.5","dependsOn":[{"property":"https://vitalgate.github.io/fhir/property/obx-4","value":"1.2.5"}]}]}`,
	} {
		if !bytes.Contains(b, []byte(want)) {
			t.Errorf("%s is missing", want)
		}
	}
}
