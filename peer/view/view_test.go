package view

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/record"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// newView has a clock that stands at noon until it is set.
func newView(t testing.TB, o Options) (*View, *time.Time) {
	t.Helper()
	v, now := New(o), noon
	v.now = func() time.Time { return now }
	return v, &now
}

// get asks the page as a browser on this machine does.
func get(h http.Handler, path string) (int, string) {
	r := httptest.NewRequest(http.MethodGet, "http://localhost"+path, nil)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func page(t *testing.T, v *View, path string) string {
	t.Helper()
	code, body := get(v.Handler(), path)
	if code != http.StatusOK {
		t.Fatalf("%s answers %d: %s", path, code, body)
	}
	return body
}

// text is what a person reads: no tags, white space folded.
func text(html string) string {
	html = regexp.MustCompile(`(?s)<svg.*?</svg>|<(title|style|script)[ >].*?</(title|style|script)>`).ReplaceAllString(html, " ")
	html = regexp.MustCompile(`<span class="mark old" hidden>stale</span>`).ReplaceAllString(html, " ")
	html = regexp.MustCompile(`<[^>]*>`).ReplaceAllString(html, " ")
	return strings.Join(strings.Fields(html), " ")
}

func want(t *testing.T, html string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(html, p) && !strings.Contains(text(html), p) {
			t.Errorf("the page does not say %q; it says\n%s", p, text(html))
		}
	}
}

func wantNot(t *testing.T, html string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if strings.Contains(html, p) || strings.Contains(text(html), p) {
			t.Errorf("the page says %q and must not:\n%s", p, text(html))
		}
	}
}

func bedPath(t *testing.T, v *View, name string) string {
	t.Helper()
	m := regexp.MustCompile(`<a href="(/bed/[0-9a-f]+)">` + regexp.QuoteMeta(name) + `</a>`).FindStringSubmatch(page(t, v, "/"))
	if m == nil {
		t.Fatalf("the overview has no bed %q", name)
	}
	return m[1]
}

const janeDoe = `{"fullUrl":"urn:uuid:p","resource":{"resourceType":"Patient","id":"p","identifier":[{"system":"urn:h","value":"12345"}],"name":[{"family":"Doe","given":["Jane"]}],"birthDate":"1960-01-01"}}`
const roe = `{"fullUrl":"urn:uuid:p","resource":{"resourceType":"Patient","id":"p","identifier":[{"system":"urn:h","value":"777"}],"name":[{"family":"Roe","given":["Rik"]}]}}`
const bed12 = `{"fullUrl":"urn:uuid:l","resource":{"resourceType":"Location","id":"l","name":"ICU / 12","physicalType":{"coding":[{"code":"bd"}]}}}`

func bundle(entries ...string) []byte {
	return []byte(`{"resourceType":"Bundle","type":"collection","entry":[` + strings.Join(entries, ",") + `]}`)
}

// observation has a code, a time (none if zero), further members, and the subject urn:uuid:p.
func observation(code string, at time.Time, members string) string {
	if !at.IsZero() {
		members += `,"effectiveDateTime":"` + at.Format(time.RFC3339Nano) + `"`
	}
	return `{"fullUrl":"urn:uuid:o","resource":{"resourceType":"Observation","status":"final","subject":{"reference":"urn:uuid:p"},"code":` + code + `,` + members + `}}`
}

const (
	codeHR    = `{"coding":[{"system":"http://loinc.org","code":"8867-4"},{"system":"urn:iso:std:iso:11073:10101","code":"147842","display":"MDC_ECG_HEART_RATE"}],"text":"HR"}`
	codeSpO2  = `{"coding":[{"system":"http://loinc.org","code":"2708-6"},{"system":"urn:iso:std:iso:11073:10101","code":"150456","display":"MDC_PULS_OXIM_SAT_O2"}]}`
	codeLocal = `{"coding":[{"system":"urn:vitalgate:codes:99XY","code":"F123","display":"Wonder index"}]}`
	notThere  = `"dataAbsentReason":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/data-absent-reason","code":"error"}]}`
	pressure  = `{"coding":[{"system":"http://loinc.org","code":"85354-9"},{"system":"urn:iso:std:iso:11073:10101","code":"150020","display":"MDC_PRESS_BLD_NONINV"}]}`
)

func quantity1(value, unit, code string) string {
	return fmt.Sprintf(`"valueQuantity":{"value":%s,"unit":%q,"system":"http://unitsofmeasure.org","code":%q}`, value, unit, code)
}

func heartRate(at time.Time, value string) string {
	return observation(codeHR, at, quantity1(value, "bpm", "/min"))
}

// say adds a record of box f1/gw1.
func say(v *View, index uint64, arrived time.Time, kind record.Kind, entries ...string) *entry {
	e := &entry{ref: ref{"f1", "gw1", index}, kind: string(kind), monitor: "icu-12", via: "tcp 10.0.0.7:51234",
		arrived: arrived, observed: arrived, protection: "emulated", bundle: bundle(entries...), raw: []byte("MSH|^~\\&|M\rOBX|1\r")}
	v.add(e)
	return e
}

// A nurse sees each value with number, unit, age and who vouches for it.
func TestOverviewSaysWhatWasMeasured(t *testing.T) {
	v, now := newView(t, Options{Title: "peer one"})
	at := noon.Add(-3 * time.Second)
	say(v, 7, at, record.KindVitals, janeDoe, bed12,
		observation(pressure, at, `"component":[
			{"code":{"coding":[{"system":"http://loinc.org","code":"8462-4"}]},`+quantity1("80", "mmHg", "mm[Hg]")+`},
			{"code":{"coding":[{"system":"http://loinc.org","code":"8480-6"}]},`+quantity1("120", "mmHg", "mm[Hg]")+`},
			{"code":{"coding":[{"system":"http://loinc.org","code":"8478-0"}]},`+quantity1("93", "mmHg", "mm[Hg]")+`}]`),
		heartRate(at, "72.50"),
		observation(codeSpO2, at, notThere),
		observation(codeLocal, at, quantity1("5", "", "")),
		observation(`{"coding":[{"system":"http://loinc.org","code":"8310-5"}]}`, at, quantity1("37.0", "degC", "Cel")))
	body := page(t, v, "/")
	want(t, body, "peer one", "ICU / 12", "Doe, Jane", "12345 · born 1960-01-01",
		"Heart rate 72.50 /min 3 s ago emulated TPM f1/gw1 7", // the digits of the monitor
		"SpO₂ absent the monitor reports an error",
		"Blood pressure (cuff) 120/80 (93) mmHg",
		"37.0 °C", `href="/record/f1/gw1/7"`,
		"Not every value is vouched for by a hardware TPM", "f1/gw1: emulated TPM",
		"Not a clinical alarm display", "1 under local codes")
	if strings.Index(body, "Heart rate") > strings.Index(body, "Blood pressure") {
		t.Error("heart rate stands below blood pressure")
	}
	bed := page(t, v, bedPath(t, v, "ICU / 12"))
	want(t, bed, "Under local codes", "Wonder index local code", "LOINC 8867-4 · MDC 147842 MDC_ECG_HEART_RATE")
	if strings.Index(bed, "Wonder index") < strings.Index(bed, "Under local codes") {
		t.Error("a local-coded value stands among the measurements")
	}
	// What gets old looks old, without anything new coming in.
	*now = noon.Add(10 * time.Minute)
	body = page(t, v, "/")
	want(t, body, "Heart rate 72.50 /min stale 10 min ago")
	wantNot(t, body, "120/80 (93) mmHg stale") // a cuff pressure of ten minutes ago is not old
	*now = noon.Add(7 * time.Hour)
	body = page(t, v, "/")
	wantNot(t, body, "72.50")
	want(t, body, "1 bed has no value of the last 6 h")
}

// Late records never replace newer values, whatever the order in which they come in.
func TestLateRecordsDoNotReplaceNewerValues(t *testing.T) {
	type r struct {
		index uint64
		at    time.Duration
		value string // "" absent
	}
	for name, c := range map[string]struct {
		records []r
		want    string
		wantNot []string
	}{
		"late":                  {[]r{{1, 0, "71"}, {3, 20, "73"}, {2, 10, "72"}}, "73", []string{"71", "72"}},
		"late absent":           {[]r{{3, 20, "73"}, {2, 10, ""}}, "73", []string{"absent"}},
		"absent is not a value": {[]r{{1, 0, "71"}, {2, 10, ""}}, "absent", []string{"71"}},
		"same time, by index":   {[]r{{5, 10, "75"}, {4, 10, "74"}}, "75", []string{"74"}},
		"again":                 {[]r{{1, 0, "71"}, {2, 10, "72"}, {1, 0, "71"}}, "72", []string{"71"}},
		"monitor's clock set back, arrival counts as limit": {[]r{{1, 3600, "71"}, {2, 100, "72"}}, "72", []string{"71"}},
	} {
		t.Run(name, func(t *testing.T) {
			v, now := newView(t, Options{})
			for _, r := range c.records {
				at := noon.Add(r.at * time.Second)
				arrived := at
				if r.at >= 3600 {
					arrived = noon
				}
				o := heartRate(at, r.value)
				if r.value == "" {
					o = observation(codeHR, at, notThere)
				}
				say(v, r.index, arrived, record.KindVitals, janeDoe, bed12, o)
			}
			*now = noon.Add(2 * time.Minute)
			body := page(t, v, "/")
			row := regexp.MustCompile(`(?s)<td class="value">.*?</td>`).FindString(body)
			want(t, row, c.want)
			wantNot(t, row, c.wantNot...)
		})
	}
}

// A box whose clock once ran years ahead must not freeze the page: its index decides.
func TestClockInTheFutureDoesNotFreezeThePage(t *testing.T) {
	v, _ := newView(t, Options{})
	future := noon.AddDate(12, 0, 0)
	say(v, 1, future, record.KindVitals, bed12, heartRate(future, "71"))
	want(t, page(t, v, "/"), "stale in the future")
	say(v, 2, noon, record.KindVitals, bed12, heartRate(noon, "72"))
	body := page(t, v, "/")
	want(t, body, "Heart rate 72 /min 0 s ago")
	wantNot(t, body, ">71<")
}

// One message may say the same thing twice: a value counts more than "no value", and two values are both told.
func TestSameMeasurementTwiceInOneMessage(t *testing.T) {
	v, _ := newView(t, Options{})
	say(v, 1, noon, record.KindVitals, bed12,
		heartRate(noon, "72"), observation(codeHR, noon, notThere),
		observation(codeSpO2, noon, notThere), observation(codeSpO2, noon, quantity1("97", "%", "%")), observation(codeSpO2, noon, quantity1("61", "%", "%")))
	body := page(t, v, "/")
	want(t, body, "Heart rate 72 /min", "97 %", "the same message also says 61 %")
	wantNot(t, body, "absent")
	if e := v.state.records[ref{"f1", "gw1", 1}]; e.pins != 2 {
		t.Errorf("two values are on show, the record is held by %d", e.pins)
	}
}

// The last cuff pressure stands in each message until the next: it is one value, vouched for by the newest record.
func TestRepeatedValueIsOneValue(t *testing.T) {
	v, now := newView(t, Options{})
	for i := range uint64(20) {
		say(v, i, noon.Add(time.Duration(i)*time.Second), record.KindVitals, bed12, heartRate(noon, "72"), observation(codeSpO2, noon.Add(time.Duration(i)*time.Second), quantity1("97", "%", "%")))
	}
	*now = noon.Add(20 * time.Second)
	bed := page(t, v, bedPath(t, v, "ICU / 12"))
	want(t, bed, "72 /min 20 s ago emulated TPM f1/gw1 19 Latest 1 ", "97 % 1 s ago emulated TPM f1/gw1 19 Latest 12")
	if e := v.state.records[ref{"f1", "gw1", 19}]; e.pins != 2 {
		t.Errorf("two values are on show, the record is held by %d", e.pins)
	}
	if e := v.state.records[ref{"f1", "gw1", 18}]; e.pins != 0 {
		t.Errorf("nothing of the record is on show, it is held by %d", e.pins)
	}
}

// Two channels with one code are two values; two monitors at one bed are never mixed.
func TestChannelsAndMonitorsAreKeptApart(t *testing.T) {
	v, _ := newView(t, Options{})
	channel := func(c, value string) string {
		return observation(`{"coding":[{"system":"urn:iso:std:iso:11073:10101","code":"150344","display":"MDC_TEMP"}]}`, noon,
			quantity1(value, "degC", "Cel")+`,"extension":[{"url":"https://vitalgate.github.io/fhir/StructureDefinition/channel","valueString":"`+c+`"}]`)
	}
	say(v, 1, noon, record.KindVitals, janeDoe, bed12, channel("1.2.1", "36.8"), channel("1.2.2", "36.1"), heartRate(noon, "72"))
	other := &entry{ref: ref{"f1", "gw2", 1}, kind: "vitals", monitor: "ventilator", arrived: noon, protection: "hardware", bundle: bundle(janeDoe, bed12, heartRate(noon, "75"))}
	v.add(other)
	body := page(t, v, "/")
	want(t, body, "36.8 °C", "36.1 °C", "72 /min", "75 /min", "f1/gw2 · ventilator", "hardware TPM")
	if n := strings.Count(body, `<section class="card"`); n != 1 {
		t.Errorf("one patient at one bed has %d cards", n)
	}
}

// The values of one patient never stand under the name of the next.
func TestPatientChange(t *testing.T) {
	v, now := newView(t, Options{})
	say(v, 1, noon, record.KindVitals, janeDoe, bed12, heartRate(noon, "71"))
	say(v, 2, noon.Add(time.Minute), record.KindVitals, roe, bed12, observation(codeSpO2, noon.Add(time.Minute), quantity1("98", "%", "%")))
	say(v, 3, noon.Add(time.Minute), record.KindVitals, janeDoe, bed12, heartRate(noon.Add(-time.Second), "70")) // late
	*now = noon.Add(time.Minute)
	body := page(t, v, "/")
	want(t, body, "Roe, Rik", "98 %")
	wantNot(t, body, "Doe, Jane", "71", "70 /min")
	bed := page(t, v, bedPath(t, v, "ICU / 12"))
	want(t, bed, "At this bed Roe, Rik", "Earlier at this bed Doe, Jane", "71 /min")
	// A message that names nobody belongs to nobody.
	say(v, 4, noon.Add(2*time.Minute), record.KindVitals, bed12, heartRate(noon.Add(2*time.Minute), "99"))
	*now = noon.Add(2 * time.Minute)
	want(t, page(t, v, "/"), "Patient unknown", "99 /min")
	wantNot(t, page(t, v, "/"), "Roe, Rik")
}

// A ward is not a bed: two monitors that only name the ward stand at two patients.
// The newest of a backlog is shown before the rest of it: who was at the bed before takes no place from who is there now, and what was
// known of a patient before does not replace what is known now.
func TestABacklogBehindItsNewestRecords(t *testing.T) {
	v, now := newView(t, Options{})
	patient := func(n int, name string) string {
		return fmt.Sprintf(`{"fullUrl":"urn:uuid:p","resource":{"resourceType":"Patient","id":"p","identifier":[{"system":"urn:h","value":"%d"}],"name":[{"family":%q}]}}`, n, name)
	}
	*now = noon
	say(v, 100, noon, record.KindVitals, patient(9, "Newman"), bed12, heartRate(noon, "99"))
	for i := range maxStays + 1 {
		at := noon.Add(time.Duration(i-20) * time.Minute)
		*now = noon.Add(time.Duration(i+1) * time.Second)
		say(v, uint64(10+i), at, record.KindVitals, patient(i, fmt.Sprint("Past", i)), bed12, heartRate(at, fmt.Sprint(60+i)))
	}
	say(v, 90, noon.Add(-time.Minute), record.KindVitals, patient(9, "Oldname"), bed12, heartRate(noon.Add(-time.Minute), "70"))
	say(v, 100, noon, record.KindVitals, patient(9, "Newman"), bed12, heartRate(noon, "99"))
	html := page(t, v, "/")
	want(t, html, "Newman", "99")
	wantNot(t, html, "Oldname", "Past4")
}

func TestWardIsNotABed(t *testing.T) {
	v, _ := newView(t, Options{})
	ward := `{"resource":{"resourceType":"Location","name":"ICU"}}`
	say(v, 1, noon, record.KindVitals, ward, heartRate(noon, "71"))
	v.add(&entry{ref: ref{"f1", "gw1", 2}, kind: "vitals", monitor: "icu-13", arrived: noon, protection: "hardware", bundle: bundle(ward, heartRate(noon, "81"))})
	want(t, page(t, v, "/"), "ICU · icu-12", "ICU · icu-13")
	wantNot(t, page(t, v, bedPath(t, v, "ICU · icu-12")), "81")
}

// Alarms are listed as alarms, with what belongs to them, and never among the measurements.
func TestAlarmsStandApart(t *testing.T) {
	v, _ := newView(t, Options{})
	mdc := func(code, name string) string {
		return fmt.Sprintf(`{"coding":[{"system":"urn:vitalgate:codes:MDC","code":%q,"display":%q}],"text":%q}`, code, name, name)
	}
	say(v, 1, noon, record.KindAlarm, janeDoe, bed12,
		observation(mdc("196670", "MDC_EVT_LO"), noon, `"valueString":"** SpO2 86 < 90"`),
		observation(mdc("68481", "MDC_ATTR_EVENT_PHASE"), noon, `"valueString":"start"`),
		observation(mdc("68482", "MDC_ATTR_ALARM_STATE"), noon, `"valueString":"active"`),
		observation(mdc("198200", "MDC_EVT_WATCHDOG"), noon, `"valueString":"continue"`))
	say(v, 2, noon, record.KindVitals, janeDoe, bed12, heartRate(noon, "72"),
		observation(`{"coding":[{"system":"urn:vitalgate:codes:MDIL-ALERT","code":"2","display":"HardInop"}]}`, noon, `"valueString":"ECG LEADS OFF"`))
	body := page(t, v, "/")
	want(t, body, "Alarms reported by the monitor", "** SpO2 86 &lt; 90 Evt lo · event phase: start · alarm state: active", "ECG LEADS OFF HardInop")
	wantNot(t, body, "continue")
	values := regexp.MustCompile(`(?s)<table class="values">.*?</table>`).FindString(body)
	wantNot(t, values, "SpO2 86", "LEADS OFF")
	want(t, values, "72 /min")
	if n := strings.Count(body, `<tr id="a`); n != 2 {
		t.Errorf("there are %d alarms, want 2", n)
	}
}

func TestDemoAndUnreliableDataAreMarked(t *testing.T) {
	v, _ := newView(t, Options{})
	o := strings.Replace(heartRate(noon, "72"), `"status"`, `"meta":{"security":[{"code":"HTEST"},{"code":"UNRELIABLE"}]},"status"`, 1)
	say(v, 1, noon, record.KindVitals, bed12, o)
	want(t, page(t, v, "/"), "72 /min DEMO", "unreliable")
	want(t, page(t, v, "/record/f1/gw1/1"), "DEMO")
}

func TestProtectionIsSaidInWords(t *testing.T) {
	for class, words := range map[string]string{"hardware": "hardware TPM", "emulated": "emulated TPM", "software": "NOT A TPM", "": "protection unknown", "hardware!": "protection unknown (hardware!)", "unproven hardware": "hardware TPM, not proven"} {
		v, _ := newView(t, Options{})
		e := &entry{ref: ref{"f1", "gw1", 1}, kind: "vitals", monitor: "m", arrived: noon, protection: class, bundle: bundle(heartRate(noon, "72"))}
		v.add(e)
		body := page(t, v, "/")
		want(t, body, "0 s ago "+words+" f1/gw1 1")
		if banner := strings.Contains(body, "Not every value"); banner == (class == "hardware") {
			t.Errorf("class %q: banner is %v", class, banner)
		}
	}
}

// A monitor may send anything as a name: it is text, everywhere.
func TestHostileTextIsText(t *testing.T) {
	v, _ := newView(t, Options{Title: "<script>t"})
	bad := `\"><script>alert(1)</script><img src=x onerror=alert(2)>' style='x' \u202e`
	e := say(v, 1, noon, record.KindVitals,
		`{"fullUrl":"urn:uuid:p","resource":{"resourceType":"Patient","name":[{"text":"`+bad+`"}],"gender":"`+bad+`"}}`,
		`{"resource":{"resourceType":"Location","name":"`+bad+`"}}`, `{"resource":{"resourceType":"Device","deviceName":[{"name":"`+bad+`"}]}}`,
		observation(`{"coding":[{"system":"http://loinc.org","code":"8867-4","display":"`+bad+`"}],"text":"`+bad+`"}`, noon,
			`"note":[{"text":"`+bad+`"}],"interpretation":[{"text":"`+bad+`"}],`+`"valueQuantity":{"value":72,"unit":"`+bad+`"}`),
		observation(`{"text":"`+bad+`"}`, noon, `"valueString":"`+bad+`"`),
		`{"resource":{"resourceType":"Communication","payload":[{"contentString":"`+bad+`"}]}}`)
	e2 := &entry{ref: ref{"f1", "gw1", 2}, kind: "raw", monitor: "<script>m", via: "<script>v", reason: "<script>r", notes: []string{"<script>n"}, raw: []byte("MSH|<script>alert(3)</script>\r\xff\x00\xe2\x80\xae")}
	v.add(e2)
	for _, path := range []string{"/", "/bed/" + firstBed(v), e.Path(), e2.Path(), "/nowhere"} {
		_, body := get(v.Handler(), path)
		for _, tag := range regexp.MustCompile(`<(script|img|style)\b[^>]*>|\son\w+=|\sstyle=`).FindAllString(regexp.MustCompile(`&[#0-9a-z]+;`).ReplaceAllString(body, "&"), -1) {
			if tag != `<script src="/assets/view.js" defer>` && !strings.Contains(body, "&lt;img src=x"+tag) && !strings.Contains(tag, "on") && !strings.Contains(tag, "style=") {
				t.Errorf("%s holds %q", path, tag)
			}
		}
		if strings.Contains(body, "<script>") || strings.Contains(body, "<img") || strings.Contains(body, "\u202e") {
			t.Errorf("%s lets hostile text through", path)
		}
	}
	want(t, page(t, v, e2.Path()), `\xff\x00\u202e`)
}

func firstBed(v *View) string {
	for id := range v.state.beds {
		return id
	}
	return ""
}

// The page loads nothing from elsewhere, runs no script but its own, and is not kept by the browser.
func TestPagesAreSelfContained(t *testing.T) {
	v, _ := newView(t, Options{})
	e := say(v, 1, noon, record.KindVitals, janeDoe, bed12, heartRate(noon, "72"))
	h := v.Handler()
	for _, path := range []string{"/", "/bed/" + firstBed(v), e.Path(), "/nowhere", "/assets/view.css", "/assets/view.js", "/assets/icon.svg"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "http://127.0.0.1:8944"+path, nil))
		if csp := w.Header().Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'self';") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s: policy %q", path, csp)
		}
		if w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %v", path, w.Header())
		}
		body := strings.ReplaceAll(w.Body.String(), `xmlns="http://www.w3.org/2000/svg"`, "")
		if regexp.MustCompile(`(href|src|url\(|@import|fetch\()\W{0,3}(https?:)?//`).MatchString(body) {
			t.Errorf("%s refers to another place", path)
		}
		if strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
			for part, n := range map[string]int{"<h1>": 1, `<html lang="en">`: 1, "<title>": -1, `name="viewport"`: 1, "<main": 1} {
				if got := strings.Count(body, part); got != n && (n >= 0 || got == 0) {
					t.Errorf("%s has %d times %s", path, got, part)
				}
			}
			ids := map[string]bool{}
			for _, m := range regexp.MustCompile(` id="([^"]+)"`).FindAllStringSubmatch(body, -1) {
				if ids[m[1]] {
					t.Errorf("%s: id %s stands twice", path, m[1])
				}
				ids[m[1]] = true
			}
		}
	}
}

// A monitor whose zone nobody knows states only the day: then the arrival is shown, and said to be the arrival.
func TestDayWithoutZone(t *testing.T) {
	v, _ := newView(t, Options{})
	day := func(date, value string) string {
		return strings.Replace(heartRate(time.Time{}, value), `"status"`, `"effectiveDateTime":"`+date+`","status"`, 1)
	}
	e := &entry{ref: ref{"f1", "gw1", 1}, kind: "vitals", monitor: "m", arrived: noon.Add(-5 * time.Second), protection: "hardware", bundle: bundle(bed12, day("2026-11-21", "72"))}
	v.add(e)
	want(t, page(t, v, "/"), "72 /min 5 s ago time of arrival")
	v, _ = newView(t, Options{Retention: 1000 * time.Hour})
	e = &entry{ref: ref{"f1", "gw1", 1}, kind: "vitals", monitor: "m", arrived: noon, protection: "hardware", bundle: bundle(bed12, day("2026-11-11", "72"))}
	v.add(e)
	want(t, page(t, v, "/"), "72 /min stale 10 d ago")
}

// What was found of a value's code, unit and time is said in words; a row that its category calls an alarm is one.
func TestFindingsAndCategories(t *testing.T) {
	v, _ := newView(t, Options{})
	extension := func(name, code string) string {
		return `{"url":"https://vitalgate.github.io/fhir/StructureDefinition/` + name + `","valueCode":"` + code + `"}`
	}
	say(v, 1, noon, record.KindVitals, bed12,
		observation(codeLocal, noon, quantity1("5", "", "")+`,"extension":[`+extension("finding", "unit-misfit")+`,`+extension("time-basis", "zone-configured")+`]`),
		observation(codeLocal, noon, `"valueString":"LEADS OFF","category":[{"coding":[{"system":"x","code":"alarm"}]}]`))
	want(t, page(t, v, bedPath(t, v, "ICU / 12")), "Wonder index local code F123 the unit does not fit the code zone as configured", "LEADS OFF Wonder index")
}

// A record that this peer may not open is counted, not shown as empty.
func TestSealedRecords(t *testing.T) {
	v, _ := newView(t, Options{})
	e := &entry{ref: ref{"f1", "gw1", 1}, kind: "vitals", arrived: noon, protection: "emulated"}
	v.add(e)
	want(t, page(t, v, "/"), "1 record is verified but sealed to other readers", "f1/gw1 emulated TPM")
	body := page(t, v, e.Path())
	want(t, body, "sealed to other readers", "Leaf hash")
	wantNot(t, body, "the content is the one")
}

// Only this machine's own browsers, by its own names, and only to read.
func TestWhoMayAsk(t *testing.T) {
	v, _ := newView(t, Options{})
	say(v, 1, noon, record.KindVitals, janeDoe, bed12, heartRate(noon, "72"))
	open, _ := newView(t, Options{Hosts: []string{"peer.hospital.example"}})
	for _, c := range []struct {
		v            *View
		method, host string
		local        string
		want         int
	}{
		{v, "GET", "localhost:8944", "127.0.0.1:8944", 200},
		{v, "HEAD", "127.0.0.1:8944", "127.0.0.1:8944", 200},
		{v, "GET", "[::1]:8944", "[::1]:8944", 200},
		{v, "GET", "evil.example:8944", "127.0.0.1:8944", 421},
		{v, "GET", "127.0.0.1.evil.example", "127.0.0.1:8944", 421},
		{v, "GET", "", "127.0.0.1:8944", 421},
		{v, "GET", "192.0.2.7:8944", "192.0.2.7:8944", 403},
		{v, "POST", "localhost", "127.0.0.1:8944", 405},
		{v, "DELETE", "localhost", "127.0.0.1:8944", 405},
		{open, "GET", "peer.hospital.example", "192.0.2.7:443", 200},
		{open, "GET", "other.example", "192.0.2.7:443", 421},
	} {
		r := httptest.NewRequest(c.method, "http://localhost/", nil)
		r.Host = c.host
		addr, err := net.ResolveTCPAddr("tcp", c.local)
		if err != nil {
			t.Fatal(err)
		}
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, addr))
		w := httptest.NewRecorder()
		c.v.Handler().ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("%s as %q at %s answers %d, want %d", c.method, c.host, c.local, w.Code, c.want)
		}
		if w.Code != 200 && strings.Contains(w.Body.String(), "Doe") {
			t.Errorf("%s as %q learns a patient's name", c.method, c.host)
		}
	}
}

func TestAddressesThatAreNot(t *testing.T) {
	v, _ := newView(t, Options{})
	for _, path := range []string{"/bed/none", "/record/f1/gw1/5", "/record/f1/gw1/x", "/record/F1/gw1/5", "/record/f1/gw1/99999999999999999999", "/assets/frame.html", "/assets/../view.go", "/x"} {
		r := httptest.NewRequest("GET", "http://localhost/", nil)
		r.URL.Path = path
		w := httptest.NewRecorder()
		v.Handler().ServeHTTP(w, r)
		if w.Code != http.StatusNotFound && w.Code/100 != 3 {
			t.Errorf("%s answers %d", path, w.Code)
		}
	}
}

// A record that came the whole way, from the box's sealer to the peer's opener, shows everything that vouches for it.
func TestProvenanceOfARealRecord(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	reader, err := record.GenerateReaderKey()
	if err != nil {
		t.Fatal(err)
	}
	box := record.BoxID{Facility: "f1", Name: "gw1"}
	sealer, err := record.NewSealer(box, []record.ReaderKey{reader.Public()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	leaves, err := sealer.Seal(0, record.Reading{Kind: record.KindVitals, Patient: "12345", Observed: noon, Arrived: noon, Content: record.Content{
		Monitor: "icu-12", Via: "serial /dev/ttyUSB0", Notes: []string{"no-trailing-cr"},
		Bundle: bundle(janeDoe, bed12, heartRate(noon, "72.50")), Raw: []byte("MSH|^~\\&|M\rPID|||12345\rOBX|1|NM|147842|\xfc|72.50\r"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	var tree record.Tree
	for _, l := range leaves {
		tree.Append(l)
	}
	root := tree.Root()
	signed, err := record.Checkpoint{Origin: box.Origin(), Size: tree.Size(), Root: root, Boot: 3, Clock: 61_000, Counter: 9, Protection: "hardware"}.Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	published, err := record.Prove(record.Tree{}, leaves, signed)
	if err != nil {
		t.Fatal(err)
	}
	v, _ := newView(t, Options{})
	opener := record.NewOpener(reader)
	var last record.Verified
	var content record.Content
	for _, p := range published {
		if last, err = record.Verify(p, box, &key.PublicKey); err != nil {
			t.Fatal(err)
		}
		content, err = opener.Open(last)
		if err != nil && !last.Header().Kind.Control() {
			t.Fatal(err)
		}
		v.Add(last, content, "software") // the peer does not believe the box's "hardware"
	}
	want(t, page(t, v, "/"), "72.50 /min", "NOT A TPM", "f1/gw1 1")
	path := "/record/f1/gw1/1"
	commit, leaf := last.Header().Commit, record.LeafHash(last.Leaf())
	parts := []string{"Record f1/gw1 1", "MSH", `|\xfc|72.50`, "no-trailing-cr", "serial /dev/ttyUSB0", "icu-12",
		"NOT A TPM the box itself says: hardware", last.Header().Patient, hex.EncodeToString(commit[:]), hex.EncodeToString(leaf[:]),
		strings.ReplaceAll(base64.StdEncoding.EncodeToString(root[:]), "+", "&#43;"), "vitalgate/f1/gw1, 2 records", "3, 1m1s, 9",
		`&#34;value&#34;: 72.50,`, "Doe, Jane", `<li value="3"><b>OBX</b>`}
	want(t, page(t, v, path), parts...)
	want(t, page(t, v, "/record/f1/gw1/0"), "control entry", "epoch")

	// A page that forgot it asks the peer's store.
	v2, _ := newView(t, Options{Record: func(ctx context.Context, b record.BoxID, index uint64) (record.Verified, record.Content, string, error) {
		if b != box || index != 1 {
			return record.Verified{}, record.Content{}, "", fmt.Errorf("cannot find record %d", index)
		}
		return last, content, "software", nil
	}})
	want(t, page(t, v2, path), parts...)
	if code, _ := get(v2.Handler(), "/record/f1/gw1/2"); code != http.StatusNotFound {
		t.Errorf("a record that nobody has answers %d", code)
	}
}

func TestRawRecordsAreListedWithTheirReason(t *testing.T) {
	v, _ := newView(t, Options{})
	v.add(&entry{ref: ref{"f1", "gw1", 1}, kind: "raw", monitor: "m1", reason: "MSH is missing", raw: []byte("garbage"), arrived: noon})
	v.add(&entry{ref: ref{"f1", "gw1", 2}, kind: "vitals", monitor: "m1", bundle: []byte(`{"resourceType":"Bundle","entry":[`), raw: []byte("x"), arrived: noon})
	v.add(&entry{ref: ref{"f1", "gw1", 3}, kind: "vitals", monitor: "m1", bundle: []byte(`[]`), arrived: noon})
	body := page(t, v, "/")
	want(t, body, "Kept, but not charted", "MSH is missing", "it is not a FHIR Bundle")
	want(t, page(t, v, "/record/f1/gw1/1"), "garbage", "Not charted: MSH is missing")
}

// One odd resource does not hide the others.
func TestOddResourcesAreCounted(t *testing.T) {
	v, _ := newView(t, Options{})
	e := say(v, 1, noon, record.KindVitals, bed12, `{"resource":7}`, `7`, `{"resource":{"resourceType":"Observation","code":{"coding":[{"code":5}]}}}`,
		`{"resource":{"resourceType":"Observation","component":{},"code":null}}`, `{"resource":{"resourceType":"Observation","status":{"text":"x"},"category":"x"}}`, heartRate(noon, "72"),
		observation(codeSpO2, noon, `"valueQuantity":{"value":1e999}`))
	want(t, page(t, v, "/"), "72 /min", "1e999")
	want(t, page(t, v, e.Path()), "4 resources of the Bundle could not be read")
}

// The page tells its open copies that something is new, at most once a second, and ends when it is told to.
func TestEvents(t *testing.T) {
	v := New(Options{})
	server := httptest.NewServer(v.Handler())
	defer server.Close()
	answer, err := http.Get(server.URL + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	lines := bufio.NewScanner(answer.Body)
	next := func() string {
		for lines.Scan() {
			if e, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
				return e
			}
		}
		return "end"
	}
	if e := next(); e != "beat" {
		t.Fatalf("first event is %q", e)
	}
	for i := range uint64(50) {
		say(v, i, noon, record.KindVitals, bed12, heartRate(noon, "72"))
	}
	if e := next(); e != "update" {
		t.Fatalf("after new records comes %q", e)
	}
	v.Close()
	for e := next(); e != "end"; e = next() {
	}
	if code, _ := get(v.Handler(), "/events"); code != http.StatusServiceUnavailable {
		t.Errorf("after Close the stream answers %d", code)
	}
}

func TestEventStreamsAreBounded(t *testing.T) {
	var s stream
	for range maxStreams {
		if c, _ := s.join(); c == nil {
			t.Fatal("a stream too few")
		}
	}
	c, _ := s.join()
	if c != nil {
		t.Fatal("a stream too many")
	}
	for c := range s.open {
		s.leave(c)
	}
	if c, done := s.join(); c == nil || done == nil {
		t.Fatal("what was left is not free again")
	}
}

// Whatever comes in, the page keeps a bounded amount, and its counts agree with what it holds.
func TestMemoryIsBounded(t *testing.T) {
	v, now := newView(t, Options{})
	index := uint64(0)
	var many []string
	for i := range 300 {
		many = append(many, observation(fmt.Sprintf(`{"text":"quantity %d"}`, i), noon, `"valueInteger":1`))
	}
	add := func(monitor string, entries ...string) {
		index++
		*now = now.Add(time.Millisecond)
		v.add(&entry{ref: ref{"f1", fmt.Sprintf("gw%d", index%700), index}, kind: "vitals", monitor: monitor, arrived: *now, protection: "software", bundle: bundle(entries...)})
	}
	for i := range 400 { // beds, boxes, series
		add(fmt.Sprintf("monitor %d", i), many[i%200:i%200+40]...)
	}
	add("one", append(many, heartRate(noon, "72"))...) // series of one patient
	for i := range 20 {                                // patients of one bed
		add("one", strings.Replace(janeDoe, "12345", fmt.Sprint(i), 1), bed12, heartRate(noon, "72"))
	}
	for i := range 100 { // alarms, raw records
		add("one", janeDoe, bed12, `{"resource":{"resourceType":"Communication","subject":{"reference":"urn:uuid:p"},"payload":[{"contentString":"a`+fmt.Sprint(i)+`"}]}}`)
		index++
		v.add(&entry{ref: ref{"f1", "gw1", index}, kind: "raw", reason: "no", raw: []byte("x")})
	}
	big := make([]byte, maxRecordParts)
	for i := range 100 { // large records
		index++
		v.add(&entry{ref: ref{"f1", "gw9", index}, kind: "vitals", monitor: "big", raw: big, arrived: *now, bundle: bundle(heartRate(noon.Add(time.Duration(i)*time.Second), "72"))})
	}
	check := func() {
		t.Helper()
		s := v.state
		series, held, pins := 0, 0, 0
		for _, b := range s.beds {
			if len(b.stays) > maxStays || len(b.stays) == 0 {
				t.Errorf("a bed has %d patients", len(b.stays))
			}
			for _, st := range b.stays {
				series += len(st.series)
				if len(st.series) > maxStaySeries || len(st.alarms) > maxAlarms || len(st.feeds) > maxFeeds {
					t.Errorf("a patient has %d series, %d alarms", len(st.series), len(st.alarms))
				}
				for _, sr := range st.series {
					if len(sr.recent) > maxRecent || len(sr.traces) > maxTraces || sr.recent[0].rec == nil {
						t.Errorf("a series has %d values", len(sr.recent))
					}
					pins++
				}
			}
		}
		for _, e := range s.queue {
			held += e.bytes()
			pins -= e.pins
			if s.records[e.ref] != e {
				t.Error("a record is in the queue alone")
			}
		}
		if series != s.series || series > maxSeries || len(s.beds) > maxBeds || len(s.sources) > maxSources || len(s.uncharted) > maxUncharted {
			t.Errorf("%d series counted as %d, %d beds, %d boxes, %d raw", series, s.series, len(s.beds), len(s.sources), len(s.uncharted))
		}
		if held != s.held || held > maxRecordBytes || len(s.records) != len(s.queue) || len(s.queue) > maxRecords {
			t.Errorf("%d bytes counted as %d, %d records", held, s.held, len(s.queue))
		}
		if pins < 0 {
			t.Errorf("%d pins too many", -pins)
		}
	}
	check()
	if code, body := get(v.Handler(), "/"); code != 200 || len(body) > 16<<20 {
		t.Errorf("the overview answers %d with %d bytes", code, len(body))
	}
	// A vital sign always finds room, whatever local codes came before it.
	wantStandard := false
	for _, b := range v.state.beds {
		for _, st := range b.stays {
			for _, sr := range st.series {
				wantStandard = wantStandard || b.name == "one" && sr.recent[0].standard
			}
		}
	}
	if !wantStandard {
		t.Error("local codes took the room of a heart rate")
	}
	*now = now.Add(7 * time.Hour)
	add("late", heartRate(*now, "72"))
	check()
	if len(v.state.beds) != 1 || v.state.series != 1 {
		t.Errorf("after the retention %d beds and %d series are left", len(v.state.beds), v.state.series)
	}
}

// Many may add and look at the same time.
func TestConcurrentUse(t *testing.T) {
	v := New(Options{})
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			for i := range uint64(60) {
				at := time.Now()
				v.add(&entry{ref: ref{"f1", fmt.Sprintf("gw%d", g), i}, kind: "vitals", monitor: "m", arrived: at, bundle: bundle(janeDoe, bed12, heartRate(at, "72")), raw: []byte("MSH|")})
			}
		})
		all.Go(func() {
			h := v.Handler()
			for i := range 30 {
				get(h, "/")
				get(h, "/bed/"+[]string{"x", "0"}[i%2])
				get(h, fmt.Sprintf("/record/f1/gw%d/%d", g, i))
			}
		})
	}
	all.Wait()
	v.Close()
}

// Whatever stands in a record, the page draws it, escaped, and stays bounded.
func FuzzAdd(f *testing.F) {
	f.Add(bundle(janeDoe, bed12, heartRate(noon, "72.50"), observation(codeSpO2, noon, notThere), observation(codeLocal, noon, quantity1("5", "", ""))), []byte("MSH|^~\\&|\rPID|\n"), false)
	f.Add(bundle(observation(pressure, noon, `"component":[{"code":{"coding":[{"system":"http://loinc.org","code":"8480-6"}]},"valueQuantity":{"value":120}}]`)), []byte{0xff, 0}, true)
	f.Add(bundle(observation(codeHR, noon, `"valueSampledData":{"origin":{"value":0},"period":4,"factor":0.01,"dimensions":1,"data":"1 2 E 3 L U"}`)), []byte("<script>"), false)
	f.Add(bundle(observation(codeHR, noon, `"valueQuantity":{"value":1e308}`), observation(codeHR, noon.Add(1), `"valueQuantity":{"value":-1e308}`)), []byte(nil), false)
	f.Add([]byte(`{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"Location","id":"a","partOf":{"reference":"Location/a"}}}]}`), []byte("x"), false)
	f.Add([]byte(strings.Repeat(`{"entry":[`, 50)), []byte("x"), false)
	f.Fuzz(func(t *testing.T, data, raw []byte, alarms bool) {
		v := New(Options{})
		v.now = func() time.Time { return noon }
		kind := "vitals"
		if alarms {
			kind = "alarm"
		}
		for i := range uint64(2) {
			v.add(&entry{ref: ref{"f1", "gw1", i}, kind: kind, monitor: clean(string(raw)), arrived: noon, bundle: data, raw: raw})
		}
		h := v.Handler()
		paths := []string{"/", "/record/f1/gw1/1"}
		for id := range v.state.beds {
			paths = append(paths, "/bed/"+id)
		}
		for _, p := range paths {
			code, body := get(h, p)
			if code != http.StatusOK {
				t.Fatalf("%s answers %d", p, code)
			}
			if strings.Contains(body, "<script>") || strings.Contains(body, "NaN,") || strings.Contains(body, "Inf,") {
				t.Fatalf("%s is not clean", p)
			}
		}
	})
}

func BenchmarkAdd(b *testing.B) {
	v := New(Options{})
	var entries []string
	for i := range 20 {
		entries = append(entries, observation(fmt.Sprintf(`{"coding":[{"system":"urn:iso:std:iso:11073:10101","code":"%d"}]}`, 150000+i), time.Time{}, quantity1("72.50", "x", "/min")))
	}
	data := bundle(append(entries, janeDoe, bed12)...)
	at := time.Now()
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	i := uint64(0)
	for b.Loop() {
		i++
		v.add(&entry{ref: ref{"f1", "gw1", i}, kind: "vitals", monitor: "m", arrived: at.Add(time.Duration(i) * time.Millisecond), bundle: data, raw: data})
	}
}

func BenchmarkOverview(b *testing.B) {
	v := New(Options{})
	at := time.Now().Add(-time.Hour)
	for i := range uint64(3600) {
		v.add(&entry{ref: ref{"f1", "gw1", i}, kind: "vitals", monitor: fmt.Sprint(i % 30), arrived: at.Add(time.Duration(i) * time.Second),
			bundle: bundle(heartRate(time.Time{}, fmt.Sprint(60+i%30)), observation(codeSpO2, time.Time{}, quantity1("97", "%", "%")))})
	}
	h := v.Handler()
	for b.Loop() {
		get(h, "/")
	}
}
