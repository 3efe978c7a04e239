package mapping_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/fhir/mapping"
)

// with gives a dialect with the overrides of a text.
func with(t *testing.T, dialect, text string) (*mapping.Dialect, *mapping.Overrides) {
	t.Helper()
	o, err := mapping.LoadOverrides(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	d, err := mapping.LookupDialect(dialect)
	if err != nil {
		t.Fatal(err)
	}
	if d, err = d.With(o); err != nil {
		t.Fatal(err)
	}
	return d, o
}

const (
	siteTable = "# codes of the ICU\n" +
		"system\tcode\tlabel\tmdc\tname\tloinc\tdisplay\tunits\tmin\tmax\tchannel\n" +
		"99ACME\tHR1\tPulse|HR\t147842\tMDC_ECG_HEART_RATE\t\t\t\t\t\t\n" +
		"99ACME\tETX\t\t999001\tMDC_SITE_PRESSURE\t19889-5\tSite pressure\tmm[Hg]|kPa\t0\t200\t\n" +
		"\t7\t\t150456\t\t\t\t\t\t\t1.2\n" +
		"99ACME\tECG\t\t147842\t\t76282-3\tHeart rate.beat-to-beat by EKG\t/min\t\t\t\n" +
		"99ACME\tONLY\t\t\t\t8867-4\t\t\t\t\t\n"
	ieeeTable = "\"LOINC_NUM\",\"LOINC_LONG_COMMON_NAME\",\"IEEE_CF_CODE10\",\"IEEE_REFID\",\"equivalence\"\n" +
		"\"60985-9\",\"Central venous pressure (CVP)\",\"150087\",\"MDC_PRESS_BLD_VEN_CENT_MEAN\",\"equivalent\"\n" +
		"\"8867-4\",\"Heart rate\",\"147842\",\"MDC_ECG_HEART_RATE\",\"wider\"\n" +
		"\"8867-4\",\"Heart rate\",\"147842\",\"MDC_SOMETHING_ELSE\",\"equivalent\"\n" +
		"\"2708-6\",\"Oxygen saturation\",\"150456\",\"MDC_PULS_OXIM_SAT_O2\",\"narrower\"\n" +
		"\"19889-5\",\"Unknown to the tables\",\"999002\",\"MDC_UNKNOWN\",\"equivalent\"\n"
)

// A site's codes are charted by the same rules as those of the tables.
func TestOverrides(t *testing.T) {
	const head = "MSH|^~\\&|X|Y|||20260301093000+0000||ORU^R01|1|P|2.6\nPID|||4711\nOBR|1|||1^x^L|||20260301090000\n"
	for _, c := range []struct{ name, table, row, want string }{
		{"a local code", siteTable, "OBX|1|NM|HR1^Pulse^99ACME||72|264864^MDC_DIM_BEAT_PER_MIN^MDC|||||F", "8867-4 147842 | 72 /min"},
		{"under another label", siteTable, "OBX|1|NM|HR1^Resp^99ACME||72|264864^MDC_DIM_BEAT_PER_MIN^MDC|||||F", "local 99ACME HR1 | 72 /min"},
		{"a unit that does not fit", siteTable, "OBX|1|NM|HR1^Pulse^99ACME||72|266016^MDC_DIM_MMHG^MDC|||||F", "local 99ACME HR1 | 72 mm[Hg]"},
		{"a new number", siteTable, "OBX|1|NM|999001^MDC_SITE_PRESSURE^MDC|1.1.1.1|12|266016^MDC_DIM_MMHG^MDC|||||F", "999001 | 12 mm[Hg]"},
		{"a new number by its local code", siteTable, "OBX|1|NM|ETX^^99ACME||12|266016^MDC_DIM_MMHG^MDC|||||F", "19889-5 999001 | 12 mm[Hg]"},
		{"a new number under another name", siteTable, "OBX|1|NM|999001^MDC_ECG_HEART_RATE^MDC|1.1.1.1|12|266016^MDC_DIM_MMHG^MDC|||||F", "local MDC 999001 | 12 mm[Hg]"},
		{"an impossible value", siteTable, "OBX|1|NM|ETX^^99ACME||900|266016^MDC_DIM_MMHG^MDC|||||F", "local 99ACME ETX | 900 mm[Hg]"},
		{"without a coding system", siteTable, "OBX|1|NM|7||97|262688^MDC_DIM_PERCENT^MDC|||||F", "2708-6 59408-5 150456 | 97 %"},
		{"LOINC beside the profile's", siteTable, "OBX|1|NM|ECG^^99ACME||72|264864^MDC_DIM_BEAT_PER_MIN^MDC|||||F", "8867-4 76282-3 147842 | 72 /min"},
		{"LOINC alone", siteTable, "OBX|1|NM|ONLY^^99ACME||72|264864^MDC_DIM_BEAT_PER_MIN^MDC|||||F", "8867-4 | 72 /min"},
		{"LOINC's table", ieeeTable, "OBX|1|NM|150087^MDC_PRESS_BLD_VEN_CENT_MEAN^MDC|1.1.1.1|7|266016^MDC_DIM_MMHG^MDC|||||F", "60985-9 150087 | 7 mm[Hg]"},
		{"LOINC's table, a profile's code", ieeeTable, "OBX|1|NM|147842^MDC_ECG_HEART_RATE^MDC|1.1.1.1|72|264864^MDC_DIM_BEAT_PER_MIN^MDC|||||F", "8867-4 147842 | 72 /min"},
		{"LOINC's table, not known here", ieeeTable, "OBX|1|NM|999002^MDC_UNKNOWN^MDC|1.1.1.1|7|266016^MDC_DIM_MMHG^MDC|||||F", "local MDC 999002 | 7 mm[Hg]"},
	} {
		d, _ := with(t, "ihe-pcd01", c.table)
		r, err := mapping.NewConverter(d).Convert(parse(t, head+c.row+"\n"), mapping.Context{Zone: time.UTC})
		if err != nil {
			t.Fatal(err)
		}
		mustBeFHIR(t, c.name, r.Bundle)
		got := summary(t, r)
		if !strings.Contains(got, "\n"+c.want+" |") {
			t.Errorf("%s: got\n%s\nwant %s", c.name, got, c.want)
		}
	}
	_, o := with(t, "ihe-pcd01", ieeeTable)
	if o.Codes != 1 || len(o.Skipped) != 4 { // what goes from LOINC to IEEE as wider or narrower does not hold the other way
		t.Errorf("of LOINC's table %d taken, skipped %q", o.Codes, o.Skipped)
	}
	// The dialect itself is as it was.
	r := convert(t, "ihe-pcd01", head+"OBX|1|NM|HR1^Pulse^99ACME||72|264864^MDC_DIM_BEAT_PER_MIN^MDC|||||F\n", context())
	if r.Charted != 0 {
		t.Error("the overrides of one site reach another")
	}
}

// What AppendConceptMap writes is read again, with what a row depends on.
func TestOverridesAsConceptMap(t *testing.T) {
	for _, name := range []string{"mindray-pds", "mindray-pcd01", "philips-iic", "comen"} {
		d, err := mapping.LookupDialect(name)
		if err != nil {
			t.Fatal(err)
		}
		first := mapping.AppendConceptMap(nil, d)
		again, o := with(t, name, string(first))
		if o.Codes == 0 || len(o.Skipped) > 0 {
			t.Errorf("%s: %d codes, skipped %q", name, o.Codes, o.Skipped)
		}
		second := mapping.AppendConceptMap(nil, again)
		if strings.Count(string(first), `"dependsOn"`) > strings.Count(string(second), `"dependsOn"`) {
			t.Errorf("%s: conditions were lost", name)
		}
	}
	d, _ := with(t, "ihe-pcd01", siteTable)
	out := mapping.AppendConceptMap(nil, d)
	if _, err := oracle().Unmarshal(out); err != nil {
		t.Errorf("google/fhir refuses it: %v", err)
	}
	for _, code := range []string{"999001", "HR1", "ONLY"} {
		if !bytes.Contains(out, []byte(`"code":"`+code+`"`)) {
			t.Errorf("the ConceptMap does not hold %s", code)
		}
	}
}

// What contradicts the tables is refused, and the line is named.
func TestOverridesAreRefused(t *testing.T) {
	const head = "system\tcode\tmdc\tname\tloinc\tdisplay\tunits\tmin\tmax\n"
	for name, text := range map[string]string{
		"nothing":                           "",
		"an unknown column":                 "system\tcode\twhatever\n",
		"no code":                           head + "L\t\t147842\n",
		"neither number nor LOINC":          head + "L\tx\n",
		"a pair that is none":               head + "L\tx\t147842\tMDC_PULS_OXIM_SAT_O2\n",
		"a new number without a name":       head + "L\tx\t999001\t\t\t\tmm[Hg]\n",
		"a new number without units":        head + "L\tx\t999001\tMDC_SITE\n",
		"a unit that is none":               head + "L\tx\t999001\tMDC_SITE\t\t\tmmHg\n",
		"a LOINC check digit":               head + "L\tx\t147842\t\t8867-5\tx\t/min\n",
		"a LOINC code of other units":       head + "L\tx\t147842\t\t8310-5\n",
		"a number that means another":       head + "MDC\t147842\t150456\n",
		"a number that is LOINC alone":      head + "MDC\t147842\t\t\t9279-1\n",
		"an MDIL code of another":           head + "MDIL\t0002-4182\t150456\n",
		"a LOINC code that is another":      head + "LN\t8867-4\t150456\n",
		"a rate under another's LOINC":      head + "L\tx\t147842\t\t9279-1\n",
		"the same code twice":               head + "L\tx\t147842\nL\tx\t147842\n",
		"bounds without units":              head + "L\tx\t147842\t\t\t\t\t1\t2\n",
		"another resource":                  `{"resourceType":"Patient"}`,
		"no JSON":                           `{"resourceType":`,
		"a source that is not a site's":     `{"resourceType":"ConceptMap","group":[{"source":"http://snomed.info/sct","target":"http://loinc.org","element":[]}]}`,
		"an equivalence that does not hold": `{"resourceType":"ConceptMap","group":[{"source":"urn:vitalgate:codes:L","target":"http://loinc.org","element":[{"code":"x","target":[{"code":"8867-4","equivalence":"narrower"}]}]}]}`,
		"a condition that is not known":     `{"resourceType":"ConceptMap","group":[{"source":"urn:vitalgate:codes:L","target":"http://loinc.org","element":[{"code":"x","target":[{"code":"8867-4","equivalence":"equal","dependsOn":[{"property":"p","value":"v"}]}]}]}]}`,
		"too much":                          strings.Repeat("#\n", 9<<20),
	} {
		if o, err := mapping.LoadOverrides(strings.NewReader(text)); err == nil {
			t.Errorf("%s: taken, %d codes", name, o.Codes)
		} else if !strings.HasPrefix(err.Error(), "cannot ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	o, err := mapping.LoadOverrides(strings.NewReader(head + "\t101\t150456\n"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := mapping.LookupDialect("mindray-pds")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.With(o); err == nil {
		t.Error("a site may turn a heart rate of its monitor's family into a saturation")
	}
	if o, err = mapping.LoadOverrides(strings.NewReader(head + "\t101\t\t\t9279-1\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.With(o); err == nil {
		t.Error("a site may turn a heart rate of its monitor's family into a respiratory rate")
	}
}

func FuzzLoadOverrides(f *testing.F) {
	f.Add([]byte(siteTable))
	f.Add([]byte(ieeeTable))
	d, err := mapping.LookupDialect("comen")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(mapping.AppendConceptMap(nil, d)[:2000])
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := mapping.LoadOverrides(bytes.NewReader(data))
		if err != nil {
			return
		}
		with, err := d.With(o)
		if err != nil {
			return
		}
		mapping.AppendConceptMap(nil, with)
	})
}
