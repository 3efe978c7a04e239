package mapping_test

import (
	"regexp"
	"strings"
	"testing"
)

var regexpObservation = regexp.MustCompile(`"resourceType":"Observation","id":"[^"]*"`)

// An alert is one record with all that is said of it; nothing in it is a measurement.
func TestAlerts(t *testing.T) {
	const head = "MSH|^~\\&|X|Y|||20260301093000+0000||ORU^R40^ORU_R40|1|P|2.6\nPID|||4711\nOBR|1||7^GW|196616^MDC_EVT_ALARM^MDC|||20260301090000\n"
	const event = "OBX|1|CWE|196616^MDC_EVT_ALARM^MDC|1.7.4.147842.1|196652^MDC_EVT_HI_GT_LIM^MDC|||H~PH~SP|||R\n"
	const source = "OBX|2|NM|147842^MDC_ECG_HEART_RATE^MDC|1.7.4.147842.2|155|264864^MDC_DIM_BEAT_PER_MIN^MDC|50-120||||R\n"
	phase := func(s string) string {
		return "OBX|3|ST|68481^MDC_ATTR_EVENT_PHASE^MDC|1.7.4.147842.3|" + s + "||||||R\n"
	}
	ids := map[string]bool{}
	for _, p := range []string{"start", "end"} {
		r := convert(t, "ihe-pcd01", head+event+source+phase(p), context())
		got := leaves(t, r.Bundle)
		if r.Kind != "alarm" || r.Charted != 0 || r.Local != 1 {
			t.Errorf("kind %s, %d charted, %d local", r.Kind, r.Charted, r.Local)
		}
		for path, want := range map[string]string{
			"Observation 196616[0].category[0].coding[0].code":         "alarm",
			"Observation 196616[0].component[0].valueQuantity.value":   "155",
			"Observation 196616[0].component[0].code.coding[0].system": "urn:vitalgate:codes:MDC",
			"Observation 196616[0].component[1].valueString":           p,
			"Observation 196616[0].component[2].valueString":           "PH",
			"Observation 196616[0].component[3].valueString":           "SP",
			"Observation 196616[0].identifier[0].value":                "7",
		} {
			if got[path] != want {
				t.Errorf("%s is %q, want %q", path, got[path], want)
			}
		}
		if strings.Contains(string(r.Bundle), "vital-signs") || strings.Contains(string(r.Bundle), "8867-4") {
			t.Error("the alert looks like a vital sign")
		}
		ids[string(regexpObservation.Find(r.Bundle))] = true
	}
	if len(ids) != 2 {
		t.Error("the begin and the end of an alert are one and the same record")
	}
	for name, c := range map[string]struct {
		rows    string
		records int
	}{
		"two alerts of one order":             {event + phase("start") + strings.ReplaceAll(event+phase("end"), "1.7.4.", "1.8.4."), 2},
		"a phase said twice":                  {event + phase("start") + phase("end"), 2},
		"the next order":                      {event + "OBR|2||8^GW|196616^MDC_EVT_ALARM^MDC|||20260301090000\n" + phase("start"), 2},
		"a facet without an event":            {phase("start") + source, 2},
		"a row that is none of the alert":     {event + "OBX|2|ST|1^x^L||y||||||R\n" + phase("start"), 3},
		"an event named as its source is":     {strings.Replace(event, "196616^MDC_EVT_ALARM", "147842^MDC_ECG_HEART_RATE", 1) + source, 1},
		"a message with a weight in an alarm": {"OBX|1|NM|29463-7^Body weight^LN||72.4|kg|||||F\n", 1},
	} {
		r := convert(t, "ihe-pcd01", head+c.rows, context())
		if n := strings.Count(string(r.Bundle), `"resourceType":"Observation"`); n != c.records {
			t.Errorf("%s: %d records, want %d", name, n, c.records)
		}
		if r.Charted != 0 {
			t.Errorf("%s: %d charted", name, r.Charted)
		}
	}
}

// The notes of all parts of a blood pressure stand at the whole.
func TestNotesOfAPanel(t *testing.T) {
	r := convert(t, "ihe-pcd01", "MSH|^~\\&|X|Y|||20260301093000+0000||ORU^R01|1|P|2.6\nPID|||4711\nOBR|1|||1^x^L|||20260301090000\n"+
		"OBX|1|NM|150021^MDC_PRESS_BLD_NONINV_SYS^MDC|1.1.9.150021|120|266016^MDC_DIM_MMHG^MDC|||||F\nNTE|1||left arm\n"+
		"OBX|2|NM|150022^MDC_PRESS_BLD_NONINV_DIA^MDC|1.1.9.150022|80|266016^MDC_DIM_MMHG^MDC|||||F\nNTE|1||sitting\n", context())
	got := leaves(t, r.Bundle)
	if got["Observation 85354-9[0].note[0].text"] != "left arm" || got["Observation 85354-9[0].note[1].text"] != "sitting" {
		t.Error("a note is lost or stands in another place")
	}
}
