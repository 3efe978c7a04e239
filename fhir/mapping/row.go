package mapping

import (
	"strconv"
	"strings"

	"github.com/vitalgate/vitalgate/fhir"
	"github.com/vitalgate/vitalgate/hl7"
)

// row is one OBX.
type row struct {
	segment hl7.Segment
	as      rowKind
	patient int32
	device  int32
	metric  int32 // DeviceMetric, -1 none
	group   int32
	facets  int32 // how many rows after it are parts of the alert that it begins
	channel string
	code    ident
	loinc   [2]*loincCode
	when    stamp
	end     stamp

	demoted  bool // a measurement that must not be charted: test data, flagged invalid, no result
	standard bool // stands under its standard code
	status   string
	value    fhir.Value
	numeric  bool   // value is a plain number
	absent   string // data-absent-reason code
	unit     *unit
	unitText string
	unitBy   string // unitBasis code where the row does not state its unit
	unitKept bool   // OBX-6 stands beside the value as it was sent
	limits   fhir.ReferenceRange
	flags    [4]flag
	flagged  int
	security [2]fhir.Coding
	label    string    // of the identifier, as sent
	findings [4]string // event codes, for who reads the Bundle
	notes    [2]int32  // first and end of its NTE in Converter.notes

	performers []string         // references
	attached   *fhir.Attachment // the value, where it is a document

	alarmPriority, alarmType string // by the dialect

	gone       bool  // written elsewhere, or superseded
	panel      int32 // the panel that it is part of, -1 none
	isWave     bool
	calculated bool // OBX-17 says so
}

// ident is what OBX-3 names.
type ident struct {
	term     *term      // of ISO/IEEE 11073-10101, nil where not known or not trusted
	loinc    *loincCode // sent as LOINC, or set by the dialect
	number   int        // MDC number as sent, 0 none
	system   string     // local code system
	code     string     // local code, "" where it is no legal FHIR code
	display  string
	identity string // what makes two identifiers the same
	known    bool   // number and name agree
	origin   bool   // the local code says more than the standard one and is kept beside it
}

// readRow reads an OBX.
func (c *Converter) readRow(s hl7.Segment, patient, groupIndex int32) {
	g := &c.groups[groupIndex]
	r := row{segment: s, patient: patient, panel: -1, metric: -1, group: groupIndex, as: measurement}
	r.channel = c.text(s.Field(4))
	ruled := false
	for i := range c.d.rows {
		if rule := &c.d.rows[i]; rule.cond.holds(rule.cond.at.in(s).Raw()) {
			r.as, ruled = rule.as, true
			break
		}
	}
	switch {
	case c.kind == KindAlarm && !ruled:
		r.as = alarm
	case c.untyped:
		r.demoted = true
	case c.kind != KindAlarm && !c.results:
		r.as = max(r.as, setting)
	}
	r.device = c.equipment(s, r.channel, g)
	c.identify(&r)
	if s.Field(5).Empty() && c.containment(s, &r.code, r.channel, r.device) {
		return
	}
	if s.Field(5).Empty() && r.code.isBloodPressure() {
		return // the heading of a blood pressure: its parts follow (IHE DEV TF Vol. 2, MDC_PRESS_BLD_NONINV)
	}
	if r.as == measurement && (r.code.term != nil && r.code.term.setting || r.code.term == nil && isAttribute(r.code.display) && !oneOf(r.code.display, facetNames...)) {
		r.as = setting
	}
	if r.as == alarm && c.kind == KindAlarm && c.reportsAlert && r.code.isAmount() && facetOf(&r) == notFacet {
		r.as, r.demoted = measurement, true // a value that came along with an alert is none, and is not judged as a measurement either
		c.finding(&r, EventAlertValue, 3, "a value in the message of an alert: kept, not charted")
	}
	if c.untyped {
		c.finding(&r, EventMessageType, 3, "the message has no readable type (MSH-9): kept, not charted")
	}
	c.readMethod(&r)
	c.readPerformers(&r)
	r.when = c.when(s, g)
	if !r.when.own && g.has {
		r.end = g.end
	}
	r.notes = [2]int32{int32(len(c.notes)), int32(len(c.notes))}
	c.readUnit(&r)
	c.readValue(&r)
	c.readFlags(&r)
	c.readStatus(&r)
	c.keepUnit(&r)
	c.readLimits(&r)
	c.judge(&r)
	if r.as == alarm {
		c.judgeAlarm(&r)
	}
	c.rows = append(c.rows, r)
}

// finding records an event about the row, in the Result and in the Observation.
func (c *Converter) finding(r *row, code string, field int, what string) {
	for i, f := range r.findings {
		if f == code {
			break
		}
		if f == "" {
			r.findings[i] = code
			break
		}
	}
	c.event(code, r.segment, field, what)
}

// identify finds out what OBX-3 names: by its first triplet, else by its alternate one.
func (c *Converter) identify(r *row) {
	v := r.segment.Field(3).Rep(1)
	code, name, system := c.text(v.Comp(1)), c.text(v.Comp(2)), c.text(v.Comp(3))
	r.label = name
	id := &r.code
	id.system, id.display = c.localSystem(system), name
	id.identity = c.join(system, "\x00", code)
	if code == "" {
		id.identity = c.join(system, "\x00", name)
	}
	if isCode(code) {
		id.code = code
	}
	if r.label == "" {
		r.label = code
	}
	conflict := c.lookUp(r, code, name, system)
	if own := id.meaning(); !conflict && own != "" {
		if said := meaning(name); said != "" && !sameMeaning(said, own) {
			c.finding(r, EventCodeConflict, 3, "the code stands under the name of something else")
			conflict = true
		}
	}
	if !conflict && v.Comps() > 3 {
		first := *id
		if first.term != nil || first.loinc != nil {
			*id = ident{}
		}
		conflict = c.lookUp(r, c.text(v.Comp(4)), c.text(v.Comp(5)), c.text(v.Comp(6)))
		if first.term == nil && first.loinc == nil && (id.term != nil || id.loinc != nil) {
			id.origin = true // the first code of the row says more than the one that is known
		}
		if first.term != nil || first.loinc != nil {
			other := *id
			*id = first
			if !conflict && !first.same(&other) {
				c.finding(r, EventCodeConflict, 3, "the two codes of the row mean different things")
				conflict = true
			} else if id.term == nil && other.term != nil && !conflict { // LOINC and 11073 say the same: both stand
				id.term, id.number = other.term, other.number
			}
		}
	}
	if conflict {
		id.term, id.loinc, id.known = nil, nil, false
	}
	if id.term != nil {
		id.identity = id.term.coding.Code
	}
}

// isAmount says whether the code is known to name an amount.
func (id *ident) isAmount() bool {
	return id.loinc != nil || id.term != nil && len(id.term.dimensions) > 0
}

// isBloodPressure says whether the code names a blood pressure as a whole, and not one of its parts.
func (id *ident) isBloodPressure() bool {
	l := id.loinc
	if l == nil && id.term != nil && len(id.term.loinc) > 0 {
		l = id.term.loinc[0]
	}
	return l != nil && l.profile == profileBase+"bp" && l.part == notPart && (id.term == nil || id.term.part == notPart)
}

// isAttribute says whether a name of ISO/IEEE 11073-10101 is that of an attribute: it describes a device, the state of a pump, an alert or
// what somebody has entered, and nothing that was measured.
func isAttribute(name string) bool {
	for _, prefix := range [...]string{"MDC_ATTR_", "MDC_TIME_SYNC_", "MDC_ID_", "MDC_PUMP_", "MDC_SYRINGE_", "MDC_DRUG_", "MDC_INFUS_"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// lookUp resolves one triplet. It reports a conflict where number and name contradict each other.
func (c *Converter) lookUp(r *row, code, name, system string) (conflict bool) {
	id := &r.code
	c.key = append(append(append(c.key[:0], system...), 0), code...)
	local := c.d.codes[string(c.key)]
	if local != nil && (system == "MDC" || system == "") && strings.HasPrefix(name, "MDC_") && c.d.named(name) != local.term {
		local = nil // the name says something else than the dialect: judge the pair itself
	}
	if local != nil {
		if len(local.labels) > 0 && name != "" && !oneOf(name, local.labels...) {
			if local.needsLabel {
				c.finding(r, EventLabelDiffers, 3, "the code stands under a label that it is not known by: kept under its local code")
				return false
			}
			c.finding(r, EventLabelDiffers, 3, "the code stands under an unusual label: the code decides")
		}
		if local.needsLabel && name == "" {
			return false
		}
		id.term, id.known, id.origin = local.term, local.term != nil, system != "MDC"
		if local.term != nil {
			id.number = local.term.number
		}
		if local.loinc != nil && inChannels(r.channel, local.channels) {
			id.loinc, id.known = local.loinc, true
		}
		return false
	}
	switch system {
	case "MDIL":
		number, ok := mdil(code)
		if !ok {
			return false
		}
		id.number = number
		if number&0xffff < 0xf000 { // above: private to Philips
			id.term = c.d.numbered(number)
		}
		id.known, id.origin = id.term != nil, true
		if number&0xffff < 0xf000 && !id.known && number>>16 == 2 {
			c.finding(r, EventCodeUnknown, 3, "the number is not in the table")
		}
		return false
	case "LN", "LOINC":
		id.loinc = c.d.loincCode(code)
		id.known = id.loinc != nil
		return false
	case "MDC", "":
		number, isNumber := 0, false
		if n, ok := wholeNumber(code); ok {
			number, isNumber = n, true
		}
		if system == "" && !strings.HasPrefix(name, "MDC_") && !strings.HasPrefix(code, "MDC_") {
			return false
		}
		if !isNumber && strings.HasPrefix(code, "MDC_") { // a name where the number belongs
			id.term = c.d.named(code)
			id.known = id.term != nil
			if id.term == nil {
				c.finding(r, EventCodeUnknown, 3, "the name is not in the table")
			} else if strings.HasPrefix(name, "MDC_") && c.d.named(name) != id.term {
				c.finding(r, EventCodeConflict, 3, "two names disagree")
				return true
			}
			return false
		}
		id.number = number
		byNumber := c.d.numbered(number)
		isName := strings.HasPrefix(name, "MDC")
		byName := c.d.named(name)
		switch {
		case byNumber != nil && byNumber == byName, byNumber != nil && !isName:
			id.term = byNumber
		case byName != nil && (number == 0 && (isNumber || code == "")):
			id.term = byName
		case byNumber == nil && byName == nil:
			if !isObject(number, name) && !oneOf(name, facetNames...) { // neither are measurements
				c.finding(r, EventCodeUnknown, 3, "neither number nor name is in the table")
			}
		case isObject(number, name), oneOf(name, facetNames...):
		default:
			c.finding(r, EventCodeConflict, 3, "number and name are no known pair")
			return true
		}
		id.known = id.term != nil
	}
	return false
}

// Names of the rows that describe a waveform (see readSamples). Their numbers differ from version to version.
const (
	facetRate       = "MDC_ATTR_SAMP_RATE"
	facetResolution = "MDC_ATTR_NU_MSMT_RES"
	facetInvalid    = "MDC_EVT_INOP"
	facetRange      = "MDC_ATTR_DATA_RANGE"
)

var facetNames = []string{facetRate, facetResolution, facetInvalid, facetRange}

// inChannels says whether OBX-4 lies in one of the channels; no channels means all.
func inChannels(channel string, channels []string) bool {
	for _, p := range channels {
		if channel == p || (strings.HasPrefix(channel, p) && channel[len(p)] == '.') {
			return true
		}
	}
	return len(channels) == 0
}

// wholeNumber reads a code of ISO/IEEE 11073-10101. Only its plain form is one: no sign, no leading zero.
func wholeNumber(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 0 && n <= 1<<30 && (s[0] >= '1' || s == "0")
}

// mdil reads a Philips MDIL number, PPPP-CCCC hexadecimal: partition and term code.
func mdil(s string) (int, bool) {
	if len(s) != 9 || s[4] != '-' {
		return 0, false
	}
	partition, err := strconv.ParseUint(s[:4], 16, 16)
	if err != nil {
		return 0, false
	}
	code, err := strconv.ParseUint(s[5:], 16, 16)
	return int(partition<<16 | code), err == nil
}

// isCode says whether s may stand as a FHIR code: no white space but single blanks inside (datatypes.html#code).
func isCode(s string) bool {
	for i, r := range s {
		if r <= ' ' || r == 0x7f || r == '\u00a0' || r == '\ufeff' || (r >= '\u2000' && r <= '\u200f') || r == '\u2028' || r == '\u2029' || r == '\u202f' || r == '\u205f' || r == '\u3000' || r == '\u1680' || r == '\u0085' || r == '\ufffd' {
			if r != ' ' || i == 0 || i == len(s)-1 || s[i-1] == ' ' {
				return false
			}
		}
	}
	return s != ""
}

// localSystem gives the URI under which the message's own codes stand.
func (c *Converter) localSystem(system string) string {
	if system == "" {
		system = c.d.Name
	}
	start := len(c.arena)
	c.arena = append(c.arena, localSystem...)
	for i := 0; i < len(system) && i < 64; i++ {
		b := system[i]
		if b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '.' || b == '_' || b == '-' {
			c.arena = append(c.arena, b)
		} else {
			c.arena = append(c.arena, '-')
		}
	}
	return c.since(start)
}

// unitState says what is known of a unit field.
type unitState uint8

const (
	unitNone unitState = iota
	unitKnown
	unitForeign  // present, not in the table
	unitConflict // its parts contradict each other
)

// lookUpUnit resolves one triplet of OBX-6.
func lookUpUnit(code, name, system string) (*unit, unitState) {
	if code == "" && name == "" {
		return nil, unitNone
	}
	var byCode, byName *unit
	switch {
	case system == "MDIL":
		if n, ok := mdil(code); ok {
			byCode = unitByNumber[n]
		}
	case code != "":
		if n, ok := wholeNumber(code); ok && (system == "MDC" || system == "") {
			byCode = unitByNumber[n]
		} else if byCode = unitByName[code]; byCode == nil {
			byCode = unitByText[code]
		}
	}
	if name != "" {
		if byName = unitByName[name]; byName == nil {
			byName = unitByText[name]
		}
	}
	switch {
	case byCode != nil && byName != nil:
		if byCode.ucum != byName.ucum {
			return nil, unitConflict
		}
		return byCode, unitKnown
	case byCode != nil:
		if strings.HasPrefix(name, "MDC_") {
			return nil, unitConflict
		}
		return byCode, unitKnown
	case byName != nil:
		if code != "" && code != "0" {
			return nil, unitConflict // the number is none of that name
		}
		return byName, unitKnown
	}
	return nil, unitForeign
}

// readUnit reads OBX-6.
func (c *Converter) readUnit(r *row) {
	v := r.segment.Field(6).Rep(1)
	if v.Empty() || v.Null() {
		return
	}
	code, name, system := c.text(v.Comp(1)), c.text(v.Comp(2)), c.text(v.Comp(3))
	if r.unitText = name; name == "" {
		r.unitText = code
	}
	u, state := lookUpUnit(code, name, system)
	if v.Comps() > 3 {
		alternate, other := lookUpUnit(c.text(v.Comp(4)), c.text(v.Comp(5)), c.text(v.Comp(6)))
		switch {
		case other == unitKnown && state == unitKnown && alternate.ucum != u.ucum:
			state = unitConflict
		case other == unitKnown && (state == unitNone || state == unitForeign):
			u, state = alternate, other
		}
	}
	switch state {
	case unitKnown:
		r.unit = u
		if name == "" && unitByText[code] == nil { // a bare number: the UCUM code says it to people
			r.unitText = ""
		}
	case unitConflict:
		r.unitKept = true
		c.finding(r, EventUnitConflict, 6, "number and text of the unit disagree")
	case unitForeign:
		r.unitKept = v.Comps() > 1
		c.finding(r, EventUnitUnknown, 6, "the unit is not in the table")
	}
}

// keepUnit keeps OBX-6 beside a value that cannot carry it: text has no unit.
func (c *Converter) keepUnit(r *row) {
	if r.unitText != "" && r.value.String != "" {
		r.unitKept = true
	}
}

// readMethod reads the category of the metric in OBX-17 (IHE DEV TF Vol. 2, table B.8.6-2): what somebody or something has
// set is not measured.
func (c *Converter) readMethod(r *row) {
	f := r.segment.Field(17)
	for i := 1; i <= f.Reps() && i <= maxRepetitions; i++ {
		switch string(f.Rep(i).Comp(1).Raw()) {
		case "ASET", "MSET":
			if r.as == measurement {
				r.as = setting
			}
		case "ACALC", "MCALC":
			r.calculated = true
		}
	}
}

// quantity makes the quantity of a number in the row's unit: UCUM where the unit is known, else its text alone.
func (r *row) quantity(number, comparator string) fhir.Quantity {
	q := fhir.Quantity{Value: number, Comparator: comparator, Unit: r.unitText}
	if r.unit != nil {
		q.System, q.Code = fhir.SystemUCUM, r.unit.ucum
		if q.Unit == "" || strings.HasPrefix(q.Unit, "MDC_") { // for people: no nomenclature name
			q.Unit = r.unit.ucum
		}
	}
	return q
}

// readStatus reads OBX-11 (v2-to-FHIR IG, ObservationResultStatus; codes it leaves open by their meaning in HL7 table 0085).
func (c *Converter) readStatus(r *row) {
	switch string(r.segment.Field(11).Raw()) {
	case "F", "V", "U":
		r.status = "final"
	case "C":
		r.status = "corrected"
	case "A", "B":
		r.status = "amended"
	case "P", "R", "S": // R: entered, not verified - what a device sends by itself
		r.status = "preliminary"
	case "I":
		r.status = "registered"
	case "X", "N", "O":
		r.status = "cancelled"
	case "D", "W":
		r.status = "entered-in-error"
	default:
		r.status = "unknown"
	}
}

// isResult says whether OBX-11 lets the row be one (HL7 table 0085). A field that is not sent says nothing against it; a code
// that is none of the table is not known to say that it is.
func isResult(status []byte) bool {
	switch string(status) {
	case "", "F", "V", "U", "C", "A", "B", "P", "R", "S":
		return true
	}
	return false
}

// flag is one OBX-8 repetition as an interpretation: a code, or the field as it was sent.
type flag struct {
	coding fhir.Coding
	sent   hl7.Value
}

// systemMeasurementStatus is the code system of the PoCD IG for the bits of an 11073 measurement status.
const systemMeasurementStatus = "http://hl7.org/fhir/uv/pocd/CodeSystem/measurement-status"

var (
	labelTest        = fhir.Coding{System: fhir.SystemActReason, Code: "HTEST", Display: "test health data"}
	labelUnreliable  = fhir.Coding{System: fhir.SystemReliability, Code: "UNRELIABLE", Display: "unreliable"}
	labelUncertain   = fhir.Coding{System: fhir.SystemReliability, Code: "UNCERTREL", Display: "uncertain reliability"}
	labelReliable    = fhir.Coding{System: fhir.SystemReliability, Code: "HRELIABLE", Display: "highly reliable"}
	statusByFlag     = map[string]string{"QUES": "questionable", "CAL": "calibration-ongoing", "VAL": "validated-data", "EARLY": "early-indication", "BUSY": "msmt-ongoing", "ALACT": "in-alarm", "ALINH": "al-inhibited"}
	absentByFlag     = map[string]string{"NAV": "temp-unknown", "NI": "unknown", "OFF": "not-performed", "NA": "not-applicable", "MSK": "masked", "OTH": "unsupported", "NAN": "not-a-number", "PINF": "positive-infinity", "NINF": "negative-infinity"}
	abnormalityCodes = map[string]bool{"N": true, "L": true, "LL": true, "H": true, "HH": true, "A": true, "AA": true, "<": true, ">": true, "U": true, "D": true, "B": true, "W": true, "R": true, "I": true, "S": true, "POS": true, "NEG": true, "IND": true, "DET": true, "ND": true, "E": true}
)

// readFlags reads OBX-8 (uv-pocd mappingv2, "OBX-8 FHIR Encoding").
func (c *Converter) readFlags(r *row) {
	test := c.test
	f := r.segment.Field(8)
	for i := 1; i <= f.Reps() && i <= 8; i++ {
		s := c.text(f.Rep(i).Comp(1))
		switch s {
		case "", `""`:
			continue
		case "DEMO", "TEST":
			test = true
			continue
		case "INV":
			r.label0(labelUnreliable)
			if !r.hasValue() {
				r.absent = "error"
			} else {
				r.demoted = true
				c.finding(r, EventInvalid, 8, "the value is flagged as invalid: kept, not charted")
			}
			continue
		case "NAV", "NI", "OFF", "NA", "MSK", "OTH", "NAN", "PINF", "NINF":
			reason := absentByFlag[s]
			if !r.hasValue() {
				r.absent = reason
			} else {
				r.demoted = true
				c.finding(r, EventInvalid, 8, "the value is flagged as not available: kept, not charted")
			}
			continue
		case "QUES":
			r.label0(labelUncertain)
		case "CAL": // what a channel shows while it is calibrated is not the patient's
			r.label0(labelUnreliable)
			if r.hasValue() {
				r.demoted = true
				c.finding(r, EventInvalid, 8, "the channel is being calibrated: the value is kept, not charted")
			}
		case "VAL":
			r.label0(labelReliable)
		case "BUSY":
			if !r.hasValue() {
				r.absent = "temp-unknown"
			}
		}
		if r.flagged < len(r.flags) {
			k := fhir.Coding{Display: s}
			if code := statusByFlag[s]; code != "" {
				k = fhir.Coding{System: systemMeasurementStatus, Code: code}
			} else if abnormalityCodes[s] {
				k = fhir.Coding{System: fhir.SystemInterpretation, Code: s, Display: c.part(f.Rep(i).Comp(2)), Version: c.part(f.Rep(i).Comp(7))}
			}
			r.flags[r.flagged] = flag{k, f.Rep(i)}
			r.flagged++
		}
	}
	if test {
		r.label0(labelTest)
		if r.hasValue() {
			r.demoted = true
			c.finding(r, EventTest, 8, "test or demonstration data: kept, marked as test, not charted")
		}
	}
}

// label0 puts a security label into the first free place.
func (r *row) label0(k fhir.Coding) {
	for i := range r.security {
		if r.security[i] == (fhir.Coding{}) {
			r.security[i] = k
			return
		}
	}
}

var alarmLimits = fhir.Coding{System: "http://hl7.org/fhir/uv/pocd/CodeSystem/reference-range-type", Code: "alarm-limits", Display: "Alarm limits"}

// readLimits reads OBX-7: low-high, low^high, <high, >low (HL7 v2.9 §7.4.2.7; uv-pocd mappingv2, OBX-7). What cannot be read as
// limits without a guess stays text, and an Event says so. A number that means "no value" is no limit.
func (c *Converter) readLimits(r *row) {
	v := r.segment.Field(7)
	if v.Empty() || v.Null() || !r.hasValue() && r.absent == "" {
		return
	}
	r.limits.Text = c.text(v)
	var low, high string
	var ok bool
	if v.Reps() == 1 && v.Comps() == 2 {
		low, high, ok = c.text(v.Comp(1)), c.text(v.Comp(2)), true
	} else if v.Reps() == 1 && v.Comps() == 1 {
		low, high, ok = splitLimits(r.limits.Text)
	}
	lowest, ok1 := c.limit(r, low)
	highest, ok2 := c.limit(r, high)
	if !ok || !ok1 || !ok2 {
		if strings.ContainsAny(r.limits.Text, "0123456789") {
			c.finding(r, EventLimits, 7, "the limits cannot be read: kept as text")
		}
		return
	}
	if lowest != "" && highest != "" {
		x, _ := strconv.ParseFloat(lowest, 64) // both are decimals
		if y, _ := strconv.ParseFloat(highest, 64); x > y {
			c.finding(r, EventLimits, 7, "the low limit is above the high one: kept as text")
			return
		}
	}
	if lowest != "" {
		r.limits.Low = r.quantity(lowest, "")
	}
	if highest != "" {
		r.limits.High = r.quantity(highest, "")
	}
	if c.d.limits == "alarm" && lowest+highest != "" {
		r.limits.Type = c.concept("", alarmLimits)
	}
}

// limit reads one limit, "" where it is none. ok is false where it is neither a number nor a word for "none".
func (c *Converter) limit(r *row, s string) (number string, ok bool) {
	if s = strings.TrimSpace(s); s == "" || isMarks(s) {
		return "", true
	}
	number, _, ok = fhir.Decimal(s)
	if ok && c.sentinel(r, number) {
		return "", true
	}
	return number, ok
}

// splitLimits reads low-high, <high, <=high, >low, >=low. A dash after a digit parts two numbers, any other is a sign; a number that
// stands alone is no range.
func splitLimits(s string) (low, high string, ok bool) {
	switch {
	case strings.HasPrefix(s, "<"):
		return "", strings.TrimPrefix(s[1:], "="), len(s) > 1
	case strings.HasPrefix(s, ">"):
		return strings.TrimPrefix(s[1:], "="), "", len(s) > 1
	}
	for i := 1; i < len(s)-1; i++ {
		if before := strings.TrimRight(s[:i], " "); s[i] == '-' && before != "" && (before[len(before)-1] >= '0' && before[len(before)-1] <= '9' || before[len(before)-1] == '.') {
			return s[:i], s[i+1:], true
		}
	}
	return "", "", false
}

// hasValue says whether the row has a value, of whatever kind.
func (r *row) hasValue() bool { return !r.value.Empty() || r.attached != nil }

// judge decides whether the row stands under its standard code.
func (c *Converter) judge(r *row) {
	hasValue := r.hasValue()
	if r.as == setting && c.results && hasValue {
		c.finding(r, EventSetting, 3, "a setting, not a measurement")
	}
	if !hasValue && string(r.segment.Field(11).Raw()) == "N" { // v2-to-FHIR IG, OBX-11
		r.absent = "not-asked"
	}
	if hasValue && !isResult(r.segment.Field(11).Raw()) {
		c.finding(r, EventStatus, 11, "OBX-11 says that this is no result: the value is kept, not charted")
		r.demoted = true
	}
	if r.as == measurement && hasValue && r.segment.Broken() {
		c.finding(r, EventBroken, 5, "the line behind the row is no segment: a value may be cut, so it is kept, not charted")
		r.demoted = true
	}
	id := &r.code
	if r.as != measurement || r.demoted || !id.known || r.attached != nil {
		return
	}
	r.loinc[0] = id.loinc
	if id.loinc != nil && id.loinc.also != nil {
		r.loinc = [2]*loincCode{id.loinc.also, id.loinc}
	}
	if id.loinc == nil && id.term != nil {
		copy(r.loinc[:], id.term.loinc)
	}
	if !hasValue {
		r.standard = true
		return
	}
	if r.isWave {
		r.standard, r.loinc = id.term != nil, [2]*loincCode{}
		return
	}
	if id.isBloodPressure() { // FHIR R4 bp profile: the panel itself has no value
		c.finding(r, EventWhole, 3, "a value under the code of a whole blood pressure: which part it is was not said: kept, not charted")
		r.loinc = [2]*loincCode{}
		return
	}
	dims := id.term != nil && len(id.term.dimensions) > 0 || id.term == nil
	if !dims { // a term that is no amount: its text or code is the value
		amount := r.unit != nil && r.unit.dimension != "number" || r.unit == nil && r.unitText != "" || r.value.RangeLow.Value != "" || r.value.Numerator.Value != ""
		if r.standard = !amount; amount {
			c.finding(r, EventUnitMisfit, 6, "the code is not known to be an amount of that unit")
		}
		r.loinc = [2]*loincCode{}
		return
	}
	if r.value.Numerator.Value != "" { // a ratio has no unit
		if r.standard = id.term != nil && id.term.allows("number"); !r.standard {
			c.finding(r, EventUnitMisfit, 5, "the code wants no ratio")
		}
		r.loinc = [2]*loincCode{}
		return
	}
	if r.value.RangeLow.Value != "" {
		r.loinc = [2]*loincCode{}
		switch fits := id.term != nil && r.unit != nil && id.term.allows(r.unit.dimension); {
		case !fits:
			c.finding(r, EventUnitMisfit, 6, "the unit of the range does not fit the code")
		case !r.possible(r.value.RangeLow.Value) || !r.possible(r.value.RangeHigh.Value):
			c.finding(r, EventImplausible, 5, "physically impossible value: kept, not charted")
		default:
			r.standard = true
		}
		return
	}
	if !r.numeric {
		c.finding(r, EventNotANumber, 5, "text where the code wants a number: kept, not charted")
		return
	}
	if r.unit == nil {
		if r.unitText == "" && !c.implyUnit(r) {
			c.finding(r, EventUnitMissing, 6, "no unit was sent, and neither the dialect nor the monitor's configuration fixes it: kept, not charted")
		}
		if r.unit == nil {
			return
		}
	}
	fits := id.term != nil && id.term.allows(r.unit.dimension) || id.term == nil && id.loinc.dimension == r.unit.dimension
	if !fits {
		c.finding(r, EventUnitMisfit, 6, "the unit does not fit the code")
		return
	}
	if !r.possible(r.value.Quantity.Value) {
		c.finding(r, EventImplausible, 5, "physically impossible value: kept, not charted")
		return
	}
	r.standard = true
	for i, l := range r.loinc { // the profile fixes the units: kPa, say, stays under the MDC code alone
		if l != nil && len(l.units) > 0 && !oneOf(r.unit.ucum, l.units...) {
			r.loinc[i] = nil
		}
	}
	if r.loinc[0] == nil {
		r.loinc[1] = nil
		if id.term == nil {
			r.standard = false
			c.finding(r, EventUnitMisfit, 6, "the profile of the code does not allow this unit")
		}
	}
}

// possible says whether the number, in the row's unit, is physically possible for what the row names.
func (r *row) possible(number string) bool {
	x, err := strconv.ParseFloat(number, 64)
	amount := x*r.unit.factor + r.unit.offset
	return err == nil && (r.code.term == nil || r.code.term.limits.holds(amount)) &&
		(r.loinc[0] == nil || r.loinc[0].dimension != r.unit.dimension || r.loinc[0].limits.holds(amount))
}

// Codes of the unit-basis extension.
const (
	unitConfigured = "unit-configured" // a setting of the monitor, from its configuration
	unitOfDialect  = "unit-dialect"    // the family knows no other
)

// implyUnit sets the unit of a row that sent none: the monitor's setting, else the one that its dialect fixes (docs/adr/0012).
// Whose word it is stands in the Observation.
func (c *Converter) implyUnit(r *row) bool {
	dims := r.code.term
	var d dimension
	switch {
	case dims != nil && len(dims.dimensions) == 1:
		d = dims.dimensions[0]
	case dims == nil && r.code.loinc != nil:
		d = r.code.loinc.dimension
	default:
		return false
	}
	u, by := unitByText[c.at.Units.of(d)], unitConfigured
	if u == nil {
		u, by = c.d.units[d], unitOfDialect
	}
	if u == nil || u.dimension != d {
		return false
	}
	r.unit, r.unitBy = u, by
	r.value.Quantity = r.quantity(r.value.Quantity.Value, r.value.Quantity.Comparator)
	if r.limits.Low.Value != "" {
		r.limits.Low = r.quantity(r.limits.Low.Value, "")
	}
	if r.limits.High.Value != "" {
		r.limits.High = r.quantity(r.limits.High.Value, "")
	}
	return true
}
