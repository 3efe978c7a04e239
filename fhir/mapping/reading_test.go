package mapping_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/fhir/mapping"
	"github.com/vitalgate/vitalgate/hl7"
)

// A number without a unit is charted only where the dialect or the monitor's configuration fixes its unit, and the Observation then says
// whose word that is (docs/adr/0012).
func TestValuesWithoutUnit(t *testing.T) {
	units := mapping.Units{Pressure: "mm[Hg]", Temperature: "[degF]"}
	for _, c := range []struct {
		dialect, code, value string
		units                mapping.Units
		want                 string // UCUM code and basis, "" not charted
	}{
		{"ihe-pcd01", "147842^MDC_ECG_HEART_RATE^MDC", "72", mapping.Units{}, ""},
		{"ihe-pcd01", "147842^MDC_ECG_HEART_RATE^MDC", "72", units, ""}, // nobody fixed a rate
		{"ihe-pcd01", "150456^MDC_PULS_OXIM_SAT_O2^MDC", "97", mapping.Units{}, ""},
		{"ihe-pcd01", "150021^MDC_PRESS_BLD_NONINV_SYS^MDC", "120", mapping.Units{}, ""},
		{"ihe-pcd01", "150021^MDC_PRESS_BLD_NONINV_SYS^MDC", "120", units, "mm[Hg] unit-configured"},
		{"ihe-pcd01", "150364^MDC_TEMP_BODY^MDC", "98.6", units, "[degF] unit-configured"},
		{"ihe-pcd01", "150364^MDC_TEMP_BODY^MDC", "37.0", units, ""}, // 37 degF is no body's
		{"loinc", "8867-4^Heart rate^LN", "72", mapping.Units{}, ""},
		{"loinc", "8480-6^Systolic blood pressure^LN", "120", units, "mm[Hg] unit-configured"},
		{"philips-iic", "0002-4182^HR^MDIL", "72", mapping.Units{}, ""},
		{"ge-bseries", "147842^MDC_ECG_HEART_RATE^MDC", "72", mapping.Units{}, ""},
		{"comen", "147842^MDC_ECG_HEART_RATE^MDC", "72", mapping.Units{}, ""},
		{"xh80x", "147842^MDC_ECG_HEART_RATE^MDC", "72", mapping.Units{}, ""},
		{"mindray-pds", "101^HR", "72", mapping.Units{}, "/min unit-dialect"},
		{"mindray-pds", "151^RR", "15", mapping.Units{}, "/min unit-dialect"},
		{"mindray-pds", "160^SpO2", "97", mapping.Units{}, "% unit-dialect"},
		{"mindray-pds", "170^Sys", "120", mapping.Units{}, ""}, // mmHg or kPa is a setting of the monitor
		{"mindray-pds", "170^Sys", "120", units, "mm[Hg] unit-configured"},
		{"mindray-pds", "200^T1", "37.0", mapping.Units{}, ""},
		{"mindray-pds", "51^Weight", "70", mapping.Units{}, ""},
		{"mindray-pds", "51^Weight", "70", mapping.Units{Mass: "kg"}, "kg unit-configured"},
		{"ge-vc150", "MDC_PULS_OXIM_PULS_RATE", "72", mapping.Units{}, "/min unit-dialect"},
		{"ge-vc150", "MDC_PULS_OXIM_SAT_O2", "97", mapping.Units{}, "% unit-dialect"},
		{"ge-vc150", "MDC_TEMP", "37", mapping.Units{}, ""},
	} {
		at := context()
		at.Units = c.units
		r := convert(t, c.dialect, header+"OBX|1|NM|"+c.code+"|1.1.1.1|"+c.value+"||||||F\n", at)
		what := fmt.Sprintf("%s %s %s with %+v", c.dialect, c.code, c.value, c.units)
		ucum, basis, charted := strings.Cut(c.want, " ")
		if charted != (r.Charted == 1) {
			t.Errorf("%s: charted %v, want %v", what, r.Charted == 1, charted)
		}
		if !bytes.Contains(r.Bundle, []byte(`"value":`+c.value)) {
			t.Errorf("%s: the value is lost", what)
		}
		if !charted {
			if len(r.Events) == 0 || bytes.Contains(r.Bundle, []byte("/unit-basis")) && c.value != "37.0" {
				t.Errorf("%s: kept in silence, or with a unit that nobody sent", what)
			}
			continue
		}
		if !bytes.Contains(r.Bundle, []byte(`"code":"`+ucum+`"`)) || !bytes.Contains(r.Bundle, []byte(`/unit-basis","valueCode":"`+basis+`"`)) {
			t.Errorf("%s: want %s: %s", what, c.want, r.Bundle)
		}
	}
}

// observationsOf gives the Observations of a Bundle by their ids.
func observationsOf(t *testing.T, bundle []byte) map[string]any1 {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(bundle))
	d.UseNumber()
	var b struct {
		Entry []struct{ Resource any1 }
	}
	if err := d.Decode(&b); err != nil {
		t.Fatal(err)
	}
	all := map[string]any1{}
	for _, e := range b.Entry {
		if e.Resource["resourceType"] == "Observation" {
			id := e.Resource["id"].(string)
			if all[id] != nil {
				t.Errorf("two Observations have the id %s", id)
			}
			all[id] = e.Resource
		}
	}
	return all
}

// A reading that is sent again is recognised by its id; what is not the same reading never has it (docs/adr/0013).
func TestIdsNameTheReading(t *testing.T) {
	row := "OBX|1|NM|150301^MDC_PRESS_CUFF_SYS^MDC|1.1.9.150301|166|266016^MDC_DIM_MMHG^MDC|||||R|||20251105111508+0000|||^APERIODIC\n"
	idOf := func(text string, at mapping.Context) string {
		t.Helper()
		for id := range observationsOf(t, convert(t, "mindray-pcd01", text, at).Bundle) {
			return id
		}
		t.Fatal("no Observation")
		return ""
	}
	at := context()
	later := at
	later.Arrived = at.Arrived.Add(time.Minute)
	first := idOf(header+row, at)
	for what, text := range map[string]string{
		"a later message":   strings.Replace(header, "115958", "120958", 1) + row,
		"another status":    header + strings.Replace(row, "|R|", "|F|", 1),
		"another set id":    header + strings.Replace(row, "OBX|1", "OBX|7", 1),
		"new limits":        header + strings.Replace(row, "MMHG^MDC|", "MMHG^MDC|90-180", 1),
		"the name comes in": strings.Replace(header, "A1", "A1||Roe^Ann", 1) + row,
	} {
		if idOf(text, later) != first {
			t.Errorf("%s: the repeated pressure got another id", what)
		}
	}
	for what, text := range map[string]string{
		"time":          header + strings.Replace(row, "111508", "111608", 1),
		"channel":       header + strings.Replace(row, "1.1.9.150301", "1.1.8.150301", 1),
		"code":          header + strings.Replace(row, "150301^MDC_PRESS_CUFF_SYS", "150021^MDC_PRESS_BLD_NONINV_SYS", 1),
		"device":        strings.Replace(header, "0012210000000001", "0012210000000002", 1) + row,
		"patient":       strings.Replace(header, "A1", "A2", 1) + row,
		"no patient":    strings.Replace(header, "A1", "", 1) + row,
		"name, no id":   strings.Replace(header, "A1", "||Roe^Ann", 1) + row,
		"value":         header + strings.Replace(row, "|166|", "|167|", 1),
		"bed":           strings.Replace(header, "OBR|", "PV1||I|ICU^1^7\nOBR|", 1) + row,
		"split channel": header + strings.Replace(row, "1.1.9.150301|166", "1.1.9.15030|1166", 1),
	} {
		if idOf(text, at) == first {
			t.Errorf("another %s has the same id", what)
		}
	}
	other := at
	if other.Monitor = "icu-3-bed-13"; idOf(header+row, other) == first {
		t.Error("another monitor has the same id")
	}
	numbered := strings.Replace(row, "^APERIODIC", "^APERIODIC||||R-4711", 1)
	if idOf(header+numbered, at) == idOf(header+strings.Replace(numbered, "R-4711", "R-4712", 1), at) {
		t.Error("two numbered readings share an id")
	}
	// Without a time of its own a reading is named by its message: two may come in at once.
	const untimed = "MSH|^~\\&|||||||ORU^R01|204|P|2.3.1|\nOBX||NM|101^HR|2101|60||||||F\nOBX||NM|151^RR|2101|%||||||F\n"
	a, b := idsOf(t, "mindray-pds", strings.Replace(untimed, "%", "15", 1), at), idsOf(t, "mindray-pds", strings.Replace(untimed, "%", "16", 1), at)
	for id := range a {
		if b[id] != nil {
			t.Error("two messages that came in at once share a reading")
		}
	}
	// Rows that agree in all but the value keep their ids in whatever order they come; equal rows are two readings.
	pair := func(x, y string) map[string]any1 {
		return idsOf(t, "mindray-pcd01", header+strings.Replace(row, "|166|", "|"+x+"|", 1)+strings.Replace(row, "|166|", "|"+y+"|", 1), at)
	}
	for id := range pair("120", "130") {
		if pair("130", "120")[id] == nil {
			t.Error("the order of two rows changes their ids")
		}
	}
	if len(pair("120", "120")) != 2 {
		t.Error("two equal rows are one")
	}
}

func idsOf(t *testing.T, dialect, text string, at mapping.Context) map[string]any1 {
	t.Helper()
	return observationsOf(t, convert(t, dialect, text, at).Bundle)
}

// Over the whole corpus, converted as one stream that came in at one moment: no id names two readings, and no Bundle holds one twice.
func TestIdsOverTheCorpus(t *testing.T) {
	dir := os.Getenv("VITALGATE_CORPUS")
	if dir == "" {
		t.Skip("VITALGATE_CORPUS does not name a folder of messages")
	}
	seen := map[string]string{}
	again := 0
	for _, file := range hl7Files(t, dir) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for len(data) > 0 {
			n, token, err := hl7.SplitMessages(data, true)
			if err != nil || n == 0 {
				break
			}
			data = data[n:]
			m, err := hl7.Parse(token)
			if err != nil {
				continue
			}
			d, _, _ := mapping.Detect(m)
			r, err := mapping.NewConverter(d).Convert(m, context())
			if err != nil {
				t.Fatal(err)
			}
			for id, o := range observationsOf(t, r.Bundle) {
				about := fmt.Sprint(o["code"], o["effectiveDateTime"], o["effectivePeriod"], o["device"])
				for _, k := range slices.Sorted(maps.Keys(o)) {
					if strings.HasPrefix(k, "value") {
						about += fmt.Sprint(k, o[k])
					}
				}
				for _, p := range items(o["component"]) {
					about += fmt.Sprint(p["code"], p["valueQuantity"], p["valueString"])
				}
				if was, ok := seen[id]; ok && was != about {
					t.Errorf("%s: an id names two readings:\n%s\n%s", file, was, about)
				} else if ok {
					again++
				}
				seen[id] = about
			}
		}
	}
	t.Logf("%d readings, %d of them sent more than once", len(seen), again)
}

func hl7Files(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() && strings.HasSuffix(path, ".hl7") {
			all = append(all, path)
		}
		return err
	})
	if err != nil || len(all) == 0 {
		t.Fatal("the corpus holds no message", err)
	}
	return all
}
