package view

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Limits of one Bundle. The sender is a verified box, but what the monitor behind it says is not trusted:
// whatever arrives costs at most this much.
const (
	maxBundle   = 8 << 20   // bytes of a Bundle that is still read
	maxResource = 256 << 10 // bytes of one resource in it
	maxEntries  = 4096      // resources in it
	maxObjects  = 1024      // objects and lists in one resource
	maxWave     = 4096      // samples of one waveform block
	maxFlags    = 8         // remarks about one value
	maxText     = 160       // runes of any text shown
)

// The few members of FHIR R4 resources that the page reads.
type (
	coding struct {
		System, Code, Display string
	}
	concept struct {
		Coding []coding
		Text   string
	}
	quantity struct {
		Value                          json.Number
		Comparator, Unit, System, Code string
	}
	identifier struct {
		System, Value string
		Assigner      reference
	}
	reference struct {
		Reference, Display string
	}
	humanName struct {
		Text, Family string
		Given        []string
	}
	sampledData struct {
		Origin                 quantity
		Period, Factor         json.Number
		LowerLimit, UpperLimit json.Number
		Dimensions             int
		Data                   string
	}
	value struct {
		ValueQuantity        *quantity
		ValueString          *string
		ValueInteger         *json.Number
		ValueBoolean         *bool
		ValueDateTime        *string
		ValueTime            *string
		ValueCodeableConcept *concept
		ValueSampledData     *sampledData
		ValueRange           *struct{ Low, High quantity }
		ValueRatio           *struct{ Numerator, Denominator quantity }
		ValuePeriod          *struct{ Start, End string }
		DataAbsentReason     *concept
	}
	component struct {
		Code concept
		value
	}
	extension struct {
		URL                    string
		ValueString, ValueCode *string
	}
	resource struct {
		ResourceType string
		ID           string
		Meta         struct {
			Tag, Security []coding
			Profile       []string
		}
		Status            json.RawMessage // a code, or a CodeableConcept in some resources
		Category          json.RawMessage // a list of CodeableConcept, or one
		Code              *concept
		Subject           *reference
		Device            *reference
		BodySite          *concept
		Method            *concept
		EffectiveDateTime string
		EffectiveInstant  string
		EffectivePeriod   *struct{ Start, End string }
		Interpretation    []concept
		Note              []struct{ Text string }
		Extension         []extension
		value
		Component []component

		Identifier []identifier
		Name       json.RawMessage // Patient: list of HumanName; Location: string
		BirthDate  string
		Gender     string

		PhysicalType *concept
		PartOf       *reference

		Manufacturer string
		ModelNumber  string
		DeviceName   []struct{ Name, Type string }
		Type         json.RawMessage

		Severity           string // DetectedIssue
		Detail             string
		IdentifiedDateTime string
		Priority           string // Communication
		Sent               string
		Payload            []struct{ ContentString string }
	}
)

// A reading is one Observation as the page shows it.
type reading struct {
	key      string // what makes two readings the same series
	name     string
	codes    string // "LOINC 8867-4 · MDC 147842"
	rank     int    // vital signs first
	standard bool   // charted under LOINC or ISO/IEEE 11073, and not flagged otherwise
	demo     bool
	flags    []string // what a person must know of this value, in words
	findings []string // what was found of its code, unit and time, in words
	patient  patient
	invasive bool // a pressure by a line in a vessel, which is measured all the time
	claimed  time.Time
	dateOnly bool   // claimed is a day
	text     string // the value with the digits of the monitor; empty when absent
	unit     string
	absent   string // why there is no value, in words
	traces   []trend
	wave     *wave
}

// A trend is one number of a reading: the value itself, or one component of a panel.
type trend struct {
	label string
	value float64
}

// A wave is one block of samples.
type wave struct {
	samples []float32 // NaN where the monitor gave none
	seconds float64
	unit    string
}

// An alarm is a monitor's alarm or alert. It is never a measurement.
type alarm struct {
	key     string
	patient patient
	text    string
	detail  string // priority, state, phase, as given
	claimed time.Time
	demo    bool

	dateOnly                    bool
	event, facet, mdc, watchdog bool // what its code is
	marks                       []string
}

// contents is what the page takes from one Bundle.
type contents struct {
	place      string // location, outermost first, "" if none
	atBed      bool   // the place is one bed, not a ward or a room
	device     string
	readings   []reading
	alarms     []alarm
	demo       bool
	unreadable int // resources that could not be read
	skipped    int // resources beyond the limits
}

// A patient as far as the Bundle tells.
type patient struct {
	key     string // "" unknown
	name    string
	details string // identifiers, birth date, gender
}

const unnamed = "Unnamed value"

var errNotBundle = errors.New("it is not a FHIR Bundle")

// parseBundle reads what the page shows out of a Bundle. It never fails on one odd resource: that one is counted.
// alarms says that the record as a whole is an alarm, so nothing in it may be taken for a measurement.
func parseBundle(data []byte, alarms bool) (contents, error) {
	var c contents
	if len(data) > maxBundle {
		return c, fmt.Errorf("it has %d bytes and this page reads at most %d", len(data), maxBundle)
	}
	entries, more, err := bundleEntries(data)
	if err != nil {
		return c, err
	}
	c.skipped = more
	resources := make([]*resource, 0, len(entries))
	byRef := make(map[string]*resource, len(entries))
	for _, e := range entries {
		r := e.Resource.resource
		switch {
		case e.Resource.large:
			c.skipped++
			continue
		case r == nil || r.ResourceType == "":
			c.unreadable++
			continue
		}
		if e.FullURL != "" {
			byRef[e.FullURL] = r
		}
		if r.ID != "" {
			byRef[r.ResourceType+"/"+r.ID] = r
		}
		resources = append(resources, r)
	}
	find := func(ref *reference) *resource {
		if ref == nil || ref.Reference == "" {
			return nil
		}
		return byRef[ref.Reference]
	}
	c.place, c.atBed = place(resources, find)
	for _, r := range resources {
		switch r.ResourceType {
		case "Device":
			if c.device == "" {
				c.device = deviceName(r)
			}
		case "Observation":
			if alarms || isAlarm(r) {
				c.addAlarm(alarmOf(r, find))
			} else {
				c.readings = append(c.readings, readingOf(r, find))
			}
		case "DetectedIssue", "Communication", "Flag":
			c.addAlarm(alarmOf(r, find))
		}
		if isDemo(r) {
			c.demo = true
		}
	}
	for i := range c.readings {
		c.readings[i].demo = c.readings[i].demo || c.demo
	}
	for i := range c.alarms {
		c.alarms[i].demo = c.alarms[i].demo || c.demo
	}
	return c, nil
}

type bundleEntry struct {
	FullURL  string
	Resource entryResource
}

// entryResource is a resource of which the size is looked at before anything is made of it; nil if it cannot be read.
type entryResource struct {
	*resource
	large bool
}

func (r *entryResource) UnmarshalJSON(b []byte) error {
	*r = entryResource{large: len(b) > maxResource || bytes.Count(b, []byte("{"))+bytes.Count(b, []byte("[")) > maxObjects}
	if r.large {
		return nil
	}
	var one resource
	if json.Unmarshal(b, &one) == nil {
		r.resource = &one
	}
	return nil
}

// bundleEntries walks the Bundle's entry list without building all of it; more counts the entries beyond maxEntries.
func bundleEntries(data []byte) (entries []bundleEntry, more int, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, 0, errNotBundle
	}
	kind := ""
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, 0, errNotBundle
		}
		switch name {
		case "resourceType":
			if err := d.Decode(&kind); err != nil {
				return nil, 0, errNotBundle
			}
		case "entry":
			if t, err := d.Token(); err != nil || t != json.Delim('[') {
				return nil, 0, errNotBundle
			}
			for d.More() {
				if len(entries) == maxEntries {
					var skip struct{}
					if err := d.Decode(&skip); err != nil {
						return nil, 0, errNotBundle
					}
					more++
					continue
				}
				var e bundleEntry
				if err := d.Decode(&e); err != nil {
					var wrong *json.UnmarshalTypeError
					if !errors.As(err, &wrong) {
						return nil, 0, errNotBundle
					}
					e = bundleEntry{} // read on: it counts as unreadable
				}
				entries = append(entries, e)
			}
			if _, err := d.Token(); err != nil {
				return nil, 0, errNotBundle
			}
		default:
			var skip struct{}
			var wrong *json.UnmarshalTypeError
			if err := d.Decode(&skip); err != nil && !errors.As(err, &wrong) {
				return nil, 0, errNotBundle
			}
		}
	}
	if t, err := d.Token(); err != nil || t != json.Delim('}') {
		return nil, 0, errNotBundle
	}
	if _, err := d.Token(); err != io.EOF || kind != "Bundle" {
		return nil, 0, errNotBundle
	}
	return entries, more, nil
}

// place names the bed: the innermost Location and those that it is part of, outermost first.
func place(all []*resource, find func(*reference) *resource) (name string, atBed bool) {
	var bed *resource
	parents := map[*resource]bool{}
	for _, r := range all {
		if r.ResourceType == "Location" {
			if p := find(r.PartOf); p != nil {
				parents[p] = true
			}
		}
	}
	for _, r := range all {
		if r.ResourceType != "Location" || parents[r] {
			continue
		}
		if bed == nil || hasCode(r.PhysicalType, "bd") && !hasCode(bed.PhysicalType, "bd") {
			bed = r
		}
	}
	var names []string
	for r, depth := bed, 0; r != nil && depth < 6; r, depth = find(r.PartOf), depth+1 {
		var name string
		json.Unmarshal(r.Name, &name)
		if name == "" && len(r.Identifier) > 0 {
			name = r.Identifier[0].Value
		}
		if name = clean(name); name != "" && (len(names) == 0 || names[len(names)-1] != name) {
			names = append(names, name)
		}
	}
	slices.Reverse(names)
	return strings.Join(names, " · "), bed != nil && hasCode(bed.PhysicalType, "bd")
}

// subject is the patient that a resource speaks of; whoever is not named by it is unknown.
func subject(r *resource, find func(*reference) *resource) patient {
	if p := find(r.Subject); p != nil && p.ResourceType == "Patient" {
		return patientOf(p)
	}
	return patient{}
}

func patientOf(r *resource) patient {
	var p patient
	var names []humanName
	json.Unmarshal(r.Name, &names)
	for _, n := range names {
		p.name = clean(n.Text)
		if p.name == "" {
			given := clean(strings.Join(n.Given, " "))
			p.name = clean(n.Family)
			if p.name != "" && given != "" {
				p.name += ", " + given
			} else {
				p.name += given
			}
		}
		if p.name != "" {
			break
		}
	}
	var ids, details []string
	for _, id := range r.Identifier {
		if v := clean(id.Value); v != "" {
			ids = append(ids, clean(id.System)+"|"+clean(id.Assigner.Display)+"|"+v)
			details = append(details, v)
		}
	}
	slices.Sort(ids)
	switch {
	case len(ids) > 0:
		p.key = "id " + strings.Join(ids, " ")
	case p.name != "":
		p.key = "name " + p.name + " " + clean(r.BirthDate)
	}
	if len(details) > 2 {
		details = details[:2]
	}
	if v := clean(r.BirthDate); v != "" {
		details = append(details, "born "+v)
	}
	if v := clean(r.Gender); v != "" && v != "unknown" {
		details = append(details, v)
	}
	p.details = strings.Join(details, " · ")
	return p
}

func deviceName(r *resource) string {
	var parts []string
	if v := clean(r.Manufacturer); v != "" {
		parts = append(parts, v)
	}
	name := ""
	if len(r.DeviceName) > 0 {
		name = clean(r.DeviceName[0].Name)
	}
	if name == "" {
		name = clean(r.ModelNumber)
	}
	if name != "" && !slices.Contains(parts, name) {
		parts = append(parts, name)
	}
	return strings.Join(parts, " ")
}

// ownExtension is where the extensions stand that the boxes write.
const ownExtension = "https://vitalgate.github.io/fhir/StructureDefinition/"

const (
	systemLOINC = "http://loinc.org"
	systemMDC   = "urn:iso:std:iso:11073:10101"
)

func readingOf(r *resource, find func(*reference) *resource) reading {
	o := reading{rank: rankOther, patient: subject(r, find), demo: isDemo(r)}
	o.claimed, o.dateOnly = effective(r)
	nameCode(&o, r.Code)
	o.invasive = strings.Contains(o.codes, "MDC_PRESS_BLD") && !strings.Contains(o.codes, "_NONINV")
	key := []string{o.key}
	if site := conceptText(r.BodySite); site != "" {
		o.name += ", " + site
		key = append(key, site)
	}
	if channel := channelOf(r); channel != "" {
		// Two channels of one monitor may send the same code: two temperatures are not one.
		key = append(key, channel)
		o.codes += " · channel " + channel
	}
	o.key = strings.Join(key, " @ ")

	switch status(r.Status) {
	case "", "final", "preliminary", "amended", "corrected":
		if s := status(r.Status); s == "amended" || s == "corrected" {
			o.flags = append(o.flags, s)
		}
	case "entered-in-error":
		o.absent = "withdrawn by the source"
	case "cancelled":
		o.absent = "no result was obtained"
		if r.DataAbsentReason != nil {
			o.absent += ": " + absentWords(r.DataAbsentReason)
		}
	default:
		o.flags = append(o.flags, "status "+status(r.Status))
	}
	if o.absent == "" {
		if len(r.Component) > 0 {
			panel(&o, r)
		} else {
			var v float64
			var ok bool
			o.text, o.unit, v, ok, o.absent, o.wave = valueOf(&r.value)
			if ok {
				o.traces = []trend{{label: "", value: v}}
			}
		}
	}
	for _, i := range r.Interpretation {
		if s := flagWords(&i); s != "" {
			o.flags = append(o.flags, s)
		}
	}
	for _, k := range r.Meta.Security {
		if words, ok := reliability[k.Code]; ok {
			o.flags = append(o.flags, words)
		}
	}
	for _, n := range r.Note {
		if s := clean(n.Text); s != "" {
			o.flags = append(o.flags, s)
		}
	}
	for _, e := range r.Extension {
		if e.ValueCode == nil || e.URL != ownExtension+"finding" && e.URL != ownExtension+"time-basis" && e.URL != ownExtension+"unit-basis" {
			continue
		}
		words, known := findings[*e.ValueCode]
		if !known {
			words = clean(*e.ValueCode)
		}
		if words != "" && !slices.Contains(o.findings, words) {
			o.findings = append(o.findings, words)
		}
	}
	o.flags, o.findings = o.flags[:min(len(o.flags), maxFlags)], o.findings[:min(len(o.findings), maxFlags)]
	return o
}

// nameCode names a reading and decides whether it stands under a standard code.
func nameCode(o *reading, c *concept) {
	if c == nil {
		o.name, o.key = unnamed, "?"
		return
	}
	var keys, codes []string
	display := ""
	specific := false // the term of ISO/IEEE 11073 names it
	for _, k := range c.Coding {
		code := clean(k.Code)
		if code == "" {
			continue
		}
		keys = append(keys, clean(k.System)+"|"+code)
		switch k.System {
		case systemLOINC:
			o.standard = true
			codes = append(codes, "LOINC "+code)
			if v, ok := vitals[code]; ok && !specific && v.rank < o.rank {
				o.rank, display = v.rank, v.name
			} else if display == "" {
				display = clean(k.Display)
			}
		case systemMDC:
			o.standard = true
			codes = append(codes, strings.TrimSpace("MDC "+code+" "+clean(k.Display)))
			if v, ok := vitalsMDC[code]; ok && !specific {
				o.rank, display, specific = v.rank, v.name, true
			}
		default:
			codes = append(codes, code)
		}
	}
	slices.Sort(keys)
	o.key = strings.Join(slices.Compact(keys), " ")
	o.codes = strings.Join(codes, " · ")
	o.name = display
	if o.name == "" {
		o.name = clean(c.Text)
	}
	for _, k := range c.Coding {
		if o.name == "" {
			o.name = clean(k.Display)
		}
	}
	if o.name == "" {
		o.name = unnamed
		if len(codes) > 0 {
			o.name = codes[0]
		}
	}
	if o.key == "" {
		o.key = o.name
	}
	if o.standard {
		o.name = plainTerm(o.name)
	}
}

// plainTerm makes MDC_VENT_VOL_MINUTE a line of words; the reference identifier itself stands among the codes.
func plainTerm(name string) string {
	rest, ok := strings.CutPrefix(name, "MDC_")
	if !ok || rest == "" {
		return name
	}
	words := strings.ToLower(strings.ReplaceAll(rest, "_", " "))
	return strings.ToUpper(words[:1]) + words[1:]
}

// valueOf gives a value's text, unit and number, or why it is absent.
func valueOf(v *value) (text, unit string, number float64, ok bool, absent string, w *wave) {
	switch {
	case v.DataAbsentReason != nil:
		return "", "", 0, false, absentWords(v.DataAbsentReason), nil
	case v.ValueQuantity != nil:
		text, unit, number, ok = quantityText(v.ValueQuantity)
		if text == "" {
			absent = "no number was sent"
		}
		return text, unit, number, ok, absent, nil
	case v.ValueSampledData != nil:
		w = waveOf(v.ValueSampledData)
		if w == nil {
			return "", "", 0, false, "the waveform block holds no samples", nil
		}
		return fmt.Sprintf("%d samples", len(w.samples)), "", 0, false, "", w
	case v.ValueInteger != nil:
		text = clean(v.ValueInteger.String())
		number, ok = finite(*v.ValueInteger)
		return text, "", number, ok, "", nil
	case v.ValueString != nil:
		text = clean(*v.ValueString)
	case v.ValueCodeableConcept != nil:
		text = conceptText(v.ValueCodeableConcept)
	case v.ValueBoolean != nil:
		text = map[bool]string{true: "yes", false: "no"}[*v.ValueBoolean]
	case v.ValueDateTime != nil:
		text = clean(*v.ValueDateTime)
	case v.ValueTime != nil:
		text = clean(*v.ValueTime)
	case v.ValueRange != nil:
		low, u, _, _ := quantityText(&v.ValueRange.Low)
		high, u2, _, _ := quantityText(&v.ValueRange.High)
		if u == "" {
			u = u2
		}
		if low != "" || high != "" {
			text, unit = or(low, "…")+" to "+or(high, "…"), u
		}
	case v.ValueRatio != nil:
		n, u, _, _ := quantityText(&v.ValueRatio.Numerator)
		d, u2, _, _ := quantityText(&v.ValueRatio.Denominator)
		if n != "" || d != "" {
			text = strings.TrimSpace(or(n, "?")+" "+u) + " : " + strings.TrimSpace(or(d, "?")+" "+u2)
		}
	case v.ValuePeriod != nil:
		text = clean(v.ValuePeriod.Start + " to " + v.ValuePeriod.End)
	}
	if text == "" {
		absent = "no value was sent"
	}
	return text, unit, 0, false, absent, nil
}

// panel shows an Observation with components: a blood pressure as 120/80 (93), anything else part by part.
func panel(o *reading, r *resource) {
	type part struct {
		role, name, text, unit, absent string
		number                         float64
		ok                             bool
	}
	var parts []part
	roles := map[string]int{}
	for _, c := range r.Component {
		var n reading
		nameCode(&n, &c.Code)
		p := part{role: pressureRole(&c.Code), name: n.name}
		p.text, p.unit, p.number, p.ok, p.absent, _ = valueOf(&c.value)
		if p.role != "" {
			if _, twice := roles[p.role]; !twice {
				roles[p.role] = len(parts)
			} else {
				p.role = ""
			}
		}
		parts = append(parts, p)
	}
	add := func(p part, label string) {
		if p.ok && len(o.traces) < maxTraces {
			o.traces = append(o.traces, trend{label: label, value: p.number})
		}
	}
	rest := parts
	_, sys := roles["systolic"]
	_, dia := roles["diastolic"]
	if sys || dia {
		var why string
		get := func(role string) (string, bool) {
			i, ok := roles[role]
			if !ok {
				return "", false
			}
			p := parts[i]
			add(p, role)
			if o.unit == "" {
				o.unit = p.unit
			} else if p.unit != "" && p.unit != o.unit && p.text != "" {
				p.text += " " + p.unit
			}
			if p.absent != "" {
				why = p.absent
			}
			return p.text, true
		}
		s, _ := get("systolic")
		d, _ := get("diastolic")
		m, hasMean := get("mean")
		if s == "" && d == "" && m == "" {
			o.absent = or(why, "no value was sent")
		} else {
			o.text = or(s, "–") + "/" + or(d, "–")
			if hasMean {
				o.text += " (" + or(m, "–") + ")"
			}
		}
		rest = nil
		for _, p := range parts {
			if p.role == "" {
				rest = append(rest, p)
			}
		}
		for _, p := range rest {
			if p.text != "" {
				o.flags = append(o.flags, strings.TrimSpace(p.name+" "+p.text+" "+p.unit))
			}
		}
		return
	}
	var texts []string
	var why string
	for _, p := range rest {
		if p.absent != "" {
			why = p.absent
			continue
		}
		add(p, p.name)
		texts = append(texts, strings.TrimSpace(p.name+" "+p.text+" "+p.unit))
	}
	o.text = clean(strings.Join(texts, ", "))
	if o.text == "" {
		o.absent = or(why, "no value was sent")
	}
}

// pressureRole tells systolic, diastolic and mean of any blood pressure: by LOINC, or by the last part of the
// ISO/IEEE 11073 reference identifier (MDC_PRESS_…_SYS).
func pressureRole(c *concept) string {
	for _, k := range c.Coding {
		switch {
		case k.System == systemLOINC && k.Code == "8480-6":
			return "systolic"
		case k.System == systemLOINC && k.Code == "8462-4":
			return "diastolic"
		case k.System == systemLOINC && k.Code == "8478-0":
			return "mean"
		case k.System == systemMDC && strings.HasPrefix(k.Display, "MDC_PRESS"):
			switch {
			case strings.HasSuffix(k.Display, "_SYS"):
				return "systolic"
			case strings.HasSuffix(k.Display, "_DIA"):
				return "diastolic"
			case strings.HasSuffix(k.Display, "_MEAN"):
				return "mean"
			}
		}
	}
	return ""
}

func quantityText(q *quantity) (text, unit string, v float64, ok bool) {
	text = clean(q.Value.String())
	if text == "" {
		return "", "", 0, false
	}
	v, ok = finite(q.Value)
	if c := clean(q.Comparator); c != "" {
		text = c + " " + text
		ok = false // "< 50" is no point on a curve
	}
	if words, known := units[q.Code]; known && q.System == "http://unitsofmeasure.org" {
		return text, words, v, ok
	}
	return text, or(clean(q.Unit), clean(q.Code)), v, ok
}

// waveOf reads SampledData: blank-separated decimals, E (error), L and U (beyond the limits); FHIR R4 §2.24.0.11.
func waveOf(s *sampledData) *wave {
	period, ok := finite(s.Period)
	if !ok || period <= 0 || s.Dimensions > 1 {
		return nil
	}
	origin, _ := finite(s.Origin.Value)
	factor, ok := finite(s.Factor)
	if !ok {
		factor = 1
	}
	w := &wave{unit: or(units[s.Origin.Code], clean(or(s.Origin.Unit, s.Origin.Code)))}
	for f := range strings.FieldsSeq(s.Data) {
		if len(w.samples) == maxWave {
			break
		}
		v, err := strconv.ParseFloat(f, 64)
		if err != nil || len(f) > 32 {
			v = nan
		}
		w.samples = append(w.samples, float32(origin+v*factor))
	}
	if len(w.samples) < 2 {
		return nil
	}
	w.seconds = float64(len(w.samples)) * period / 1000
	return w
}

// isAlarm: alerts and events stand among the Observations of a message. Their category or their code tells.
func isAlarm(r *resource) bool {
	for _, c := range categories(r.Category) {
		for _, k := range c.Coding {
			switch strings.ToLower(k.Code) {
			case "alarm", "alert", "device-alert", "event":
				return true
			}
		}
	}
	return isEvent(r.Code) || r.Code != nil && slices.ContainsFunc(r.Code.Coding, func(k coding) bool { return strings.HasSuffix(k.System, "-ALERT") })
}

// isEvent: the terms of ISO/IEEE 11073-10101 partition 3 are events, MDC_EVT_….
func isEvent(c *concept) bool {
	return c != nil && slices.ContainsFunc(c.Coding, func(k coding) bool {
		n, err := strconv.ParseUint(k.Code, 10, 32)
		return strings.HasPrefix(k.Display, "MDC_EVT_") || isMDC(k) && err == nil && n>>16 == 3
	})
}

// isMDC also takes what was sent as MDC but not charted as such.
func isMDC(k coding) bool { return k.System == systemMDC || strings.HasSuffix(k.System, ":MDC") }

// addAlarm puts the facets of an alarm (source, phase, state, priority; IHE PCD-04) to the alarm that they belong to.
func (c *contents) addAlarm(a alarm) {
	if a.watchdog {
		return // "I am still here" is nothing to list
	}
	if n := len(c.alarms); n > 0 && !a.event {
		head := &c.alarms[n-1]
		if head.patient.key == a.patient.key && (a.facet || head.event && a.mdc) {
			if a.detail == "" {
				return
			}
			head.detail = clean(strings.Trim(head.detail+" · "+strings.TrimSuffix(a.text+": "+a.detail, ": "), " ·"))
			head.demo = head.demo || a.demo
			return
		}
	}
	c.alarms = append(c.alarms, a)
}

func alarmOf(r *resource, find func(*reference) *resource) alarm {
	var named reading
	nameCode(&named, r.Code)
	a := alarm{key: named.key, patient: subject(r, find), text: named.name, demo: isDemo(r)}
	a.claimed, a.dateOnly = effective(r)
	var details []string
	add := func(s string) {
		if s = plainTerm(clean(s)); s != "" && s != a.text && !slices.Contains(details, s) && len(details) < 8 {
			details = append(details, s)
		}
	}
	text, unit, _, _, _, _ := valueOf(&r.value)
	add(strings.TrimSpace(text + " " + unit))
	for _, p := range r.Payload {
		add(p.ContentString)
	}
	add(r.Detail)
	add(r.Severity)
	add(r.Priority)
	for _, c := range r.Component {
		var n reading
		nameCode(&n, &c.Code)
		if t, u, _, _, _, _ := valueOf(&c.value); t != "" {
			add(n.name + ": " + strings.TrimSpace(t+" "+u))
		}
	}
	for _, i := range r.Interpretation {
		a.marks = append(a.marks, flagWords(&i))
	}
	for _, n := range r.Note {
		add(n.Text)
	}
	a.event = isEvent(r.Code)
	a.watchdog = hasCode(r.Code, "198200") && a.event
	if r.Code != nil {
		a.mdc = slices.ContainsFunc(r.Code.Coding, isMDC)
		a.facet = slices.ContainsFunc(r.Code.Coding, func(k coding) bool { return strings.HasPrefix(k.Display, "MDC_ATTR_") })
	}
	if a.facet {
		a.text = strings.TrimPrefix(a.text, "MDC_ATTR_")
		a.text = strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(a.text, "Attr "), "_", " "))
	} else {
		// The monitor's own words come first, where it has any.
		for i, d := range details {
			if strings.ContainsFunc(d, unicode.IsLetter) && (i == 0 && r.ValueQuantity == nil || a.text == unnamed) {
				a.text, details[i] = d, plainTerm(a.text)
				break
			}
		}
		for _, m := range a.marks {
			add(m)
		}
	}
	details = slices.DeleteFunc(details, func(d string) bool { return d == unnamed })
	a.detail = strings.Join(details, " · ")
	return a
}

// isDemo: the v3 ActReason HTEST tag marks test data, so does any tag or interpretation that says demo, test or simulated.
func isDemo(r *resource) bool {
	says := func(k coding) bool {
		switch strings.ToLower(k.Code) {
		case "htest", "demo", "test", "simulated", "subsetted-demo":
			return true
		}
		return false
	}
	if slices.ContainsFunc(r.Meta.Tag, says) || slices.ContainsFunc(r.Meta.Security, says) {
		return true
	}
	for _, i := range r.Interpretation {
		if slices.ContainsFunc(i.Coding, says) {
			return true
		}
	}
	return false
}

// effective is when it was observed; zero if the resource does not say. Of a monitor whose zone nobody knows, only the
// day is stated.
func effective(r *resource) (at time.Time, dateOnly bool) {
	texts := []string{r.EffectiveDateTime, r.EffectiveInstant, r.IdentifiedDateTime, r.Sent}
	if p := r.EffectivePeriod; p != nil {
		texts = append([]string{p.End, p.Start}, texts...)
	}
	for _, s := range texts {
		if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
			return t, false
		}
		if t, err := time.Parse(time.DateOnly, s); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

// channelOf is the channel of the monitor that the value came from (OBX-4), if it says so.
func channelOf(r *resource) string {
	for _, e := range r.Extension {
		if e.ValueString != nil && e.URL == ownExtension+"channel" {
			return clean(*e.ValueString)
		}
	}
	return ""
}

func categories(raw json.RawMessage) []concept {
	var many []concept
	if json.Unmarshal(raw, &many) == nil && many != nil {
		return many
	}
	var one concept
	json.Unmarshal(raw, &one)
	return []concept{one}
}

func status(raw json.RawMessage) string {
	var s string
	json.Unmarshal(raw, &s)
	return clean(s)
}

func hasCode(c *concept, code string) bool {
	return c != nil && slices.ContainsFunc(c.Coding, func(k coding) bool { return k.Code == code })
}

func conceptText(c *concept) string {
	if c == nil {
		return ""
	}
	if s := clean(c.Text); s != "" {
		return s
	}
	for _, k := range c.Coding {
		if s := clean(or(k.Display, k.Code)); s != "" {
			return s
		}
	}
	return ""
}

// flagWords says an interpretation in words; "normal" is not worth one.
func flagWords(c *concept) string {
	for _, k := range c.Coding {
		if words, ok := interpretations[k.Code]; ok {
			return words
		}
	}
	return conceptText(c)
}

func absentWords(c *concept) string {
	for _, k := range c.Coding {
		if words, ok := absentReasons[k.Code]; ok {
			if text := clean(c.Text); text != "" && text != words {
				return words + ": " + text
			}
			return words
		}
	}
	return or(conceptText(c), "no reason was given")
}

func finite(n json.Number) (float64, bool) {
	v, err := strconv.ParseFloat(n.String(), 64)
	if err != nil || v-v != 0 {
		return 0, false
	}
	return v, true
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// clean makes a text from a monitor fit for a line on a page: valid UTF-8, no control or direction-changing
// characters, white space folded, at most maxText runes. Escaping is html/template's work.
func clean(s string) string {
	if len(s) > 4*maxText {
		s = s[:4*maxText]
	}
	var b strings.Builder
	n, space := 0, false
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		s = s[size:]
		if unicode.IsSpace(r) {
			space = b.Len() > 0
			continue
		}
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || unicode.Is(unicode.Cf, r) {
			r = utf8.RuneError
		}
		if n++; n > maxText {
			b.WriteString("…")
			break
		}
		if space {
			b.WriteByte(' ')
			space = false
		}
		b.WriteRune(r)
	}
	return b.String()
}
