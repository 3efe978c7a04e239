package mapping_test

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vitalgate/vitalgate/fhir/mapping"
)

// Whatever fields meet in one row, what stands under a LOINC code has earned it. The rules here are written down anew from the standards,
// so that they judge the conversion and do not repeat it.
func TestNothingWrongIsCharted(t *testing.T) {
	codes := []string{"$HR", "$SPO2", "$RESP", "$SYS", "$DIA", "$BODY", "$TEMP", "147842^SpO2^MDC", "150456^MDC_ECG_HEART_RATE^MDC", "147842", "^MDC_ECG_HEART_RATE^MDC", "MDC_PULS_OXIM_SAT_O2",
		"8867-4^Heart rate^LN", "2708-6^SpO2^LN", "8310-5^Temp^LN", "8310-5^Temp^LN^150364^MDC_TEMP_BODY^MDC", "8867-4^Heart rate^LN^150456^MDC_PULS_OXIM_SAT_O2^MDC", "101^HR", "1^x^99L", "0002-4182^HR^MDIL", "0002-4bb8^HR^MDIL"}
	units := []string{"$BPM", "$RPM", "$PCT", "$MMHG", "$KPA", "$CEL", "$FAHR", "", "/min", "%", "bpm", "mmHg", "Cel", "furlong", "264864^MDC_DIM_PERCENT^MDC", "268224^MDC_DIM_FAHR^MDC", "0004-0aa0^bpm^MDIL", "0004-0aa0^%^MDIL", "262656^MDC_DIM_DIMLESS^MDC", `""`}
	values := []string{"72", "97.0", "36.60", "98.6", "120", "0", "-1", "-100", "900", "0.97", "8388607", "-999", "", `""`, "72^1", "72~73", "72&1", "seventy", "<50", "1e3", "+72", "072", "7２", "---", "32767", "101"}
	types := []string{"NM", "NM", "NM", "SN", "ST", "", "CWE", "TX", "NA", "ED"}
	flags := []string{"", "", "", "N", "H", "INV", "QUES", "CAL", "DEMO", "TEST", "NAV", "OFF", "H~INV", "N~DEMO", "L~TEST", "NAN"}
	statuses := []string{"F", "F", "R", "P", "C", "", "X", "D", "W", "N", "O", "I", "Z", "f"}
	modes := []string{"P", "P", "P", "D", "T"}
	methods := []string{"", "", "AMEAS^auto-measurement^MDC", "MSET^manual-setting^MDC", "ASET", "X~MSET"}
	pick := func(r *rand.Rand, of []string) string { return of[r.IntN(len(of))] }
	limits := map[string][2]float64{"8867-4": {0, 400}, "9279-1": {0, 250}, "2708-6": {1, 100}, "8310-5": {10, 47}, "8480-6": {0, 500}, "8462-4": {0, 500}, "8478-0": {0, 500}}
	allowed := map[string][]string{"8867-4": {"/min"}, "9279-1": {"/min"}, "2708-6": {"%"}, "8310-5": {"Cel", "[degF]"}, "8480-6": {"mm[Hg]"}, "8462-4": {"mm[Hg]"}, "8478-0": {"mm[Hg]"}}
	charted, r := 0, rand.New(rand.NewPCG(1, 2))
	dialects := mapping.Dialects()
	converters := map[string]*mapping.Converter{}
	fixed := map[string]bool{} // whose units are not sent
	for _, d := range dialects {
		converters[d.Name] = mapping.NewConverter(d)
		words, err := os.ReadFile("dialects/" + d.Name + "/dialect.toml")
		if err != nil {
			t.Fatal(err)
		}
		fixed[d.Name] = strings.Contains(string(words), "\n[units]\n")
	}
	rounds := 12000
	if testing.Short() {
		rounds = 2000
	}
	good := [][3]string{{"$HR", "$BPM", "72"}, {"$SPO2", "$PCT", "97.0"}, {"$RESP", "$RPM", "12"}, {"$SYS", "$MMHG", "120"}, {"$BODY", "$CEL", "36.60"}, {"$BODY", "$FAHR", "98.6"}, {"8867-4^Heart rate^LN", "/min", "72"}, {"101^HR", "", "72"}}
	for range rounds {
		d := dialects[r.IntN(len(dialects))]
		g := good[r.IntN(len(good))]
		code, unit, value, typ, flag, status, mode, method := g[0], g[1], g[2], "NM", "", "F", "P", ""
		for range r.IntN(4) { // a good row, and up to three things that are not
			switch r.IntN(8) {
			case 0:
				code = pick(r, codes)
			case 1:
				unit = pick(r, units)
			case 2:
				value = pick(r, values)
			case 3:
				typ = pick(r, types)
			case 4:
				flag = pick(r, flags)
			case 5:
				status = pick(r, statuses)
			case 6:
				mode = pick(r, modes)
			case 7:
				method = pick(r, methods)
			}
		}
		row := shorthand.Replace("OBX|1|" + typ + "|" + code + "|1.1.1.1|" + value + "|" + unit + "||" + flag + "|||" + status + "||||||" + method)
		text := strings.Replace(header, "|P|", "|"+mode+"|", 1) + row + "\n"
		res, err := converters[d.Name].Convert(parse(t, text), mapping.Context{})
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range observationsOf(t, res.Bundle) {
			q, isQuantity := o["valueQuantity"].(any1)
			loinc := ""
			for _, k := range items(o["code"].(any1)["coding"]) {
				if k["system"] == "http://loinc.org" && loinc == "" {
					loinc = k["code"].(string)
				}
			}
			if loinc == "" || o["dataAbsentReason"] != nil {
				continue
			}
			charted++
			fault := ""
			switch {
			case !isQuantity:
				fault = "has no amount"
			case !slices.Contains([]string{"F", "R", "P", "C", ""}, status):
				fault = "is no result by OBX-11"
			case slices.ContainsFunc(strings.Split(flag, "~"), func(s string) bool {
				return slices.Contains([]string{"INV", "CAL", "DEMO", "TEST", "NAV", "OFF", "NAN"}, s)
			}):
				fault = "is no measurement by OBX-8"
			case mode != "P":
				fault = "is a test by MSH-11"
			case strings.Contains(method, "SET"):
				fault = "is a setting by OBX-17"
			case !slices.Contains(allowed[loinc], q["code"].(string)):
				fault = "has a unit that its profile does not allow"
			case (unit == "" || unit == `""`) && !fixed[d.Name]:
				fault = "has a unit that nobody sent"
			case unit == "furlong", unit == "264864^MDC_DIM_PERCENT^MDC", unit == "268224^MDC_DIM_FAHR^MDC", unit == "0004-0aa0^%^MDIL":
				fault = "has a unit that contradicts itself"
			case code == "147842^SpO2^MDC", code == "150456^MDC_ECG_HEART_RATE^MDC", code == "0002-4bb8^HR^MDIL", code == "8867-4^Heart rate^LN^150456^MDC_PULS_OXIM_SAT_O2^MDC":
				fault = "has a code that contradicts itself"
			}
			if fault == "" {
				x, err := strconv.ParseFloat(string(q["value"].(json.Number)), 64)
				if q["code"] == "[degF]" {
					x = (x - 32) / 1.8
				}
				if bounds := limits[loinc]; err != nil || x < bounds[0] || x > bounds[1] {
					fault = "is physically impossible"
				}
				if sent := strings.TrimLeft(strings.TrimLeft(value, "+<>="), "0"); !strings.HasSuffix("0"+string(q["value"].(json.Number)), sent) {
					fault = "is not what was sent"
				}
			}
			if fault != "" {
				t.Fatalf("%s: what is charted as %s %s:\n%s", d.Name, loinc, fault, row)
			}
		}
	}
	if charted < rounds/10 {
		t.Errorf("only %d of %d rows were charted: this test sees too little", charted, rounds)
	}
	t.Logf("%d of %d rows were charted", charted, rounds)
}
