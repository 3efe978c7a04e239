package mapping

import (
	"encoding/binary"
	"slices"
	"strconv"
	"strings"

	"github.com/vitalgate/vitalgate/fhir"
)

// panel is one blood pressure measurement: rows of the same device, channel and time.
type panel struct {
	base      *term // nil where the parts came as LOINC
	container string
	device    int32
	patient   int32
	when      string
	parts     [4]int32 // by part; -1 none
}

// recentPanels bounds how far back the rest of a blood pressure is looked for.
const recentPanels = 16

// settle looks at the rows together: samples and their facets, "no value" rows beside good ones, blood pressures,
// device metrics.
func (c *Converter) settle() {
	for i := range c.rows {
		if c.rows[i].isWave && c.rows[i].value.String != "" {
			c.readSamples(i)
			r := &c.rows[i]
			if s := r.value.Sampled; r.standard && s != nil && !r.scaled(s) {
				r.standard = false
				c.finding(r, EventUnitMisfit, 6, "the samples have no scale of a unit that fits the code: kept, not charted")
			}
			r.standard = r.standard && r.value.Sampled != nil
		}
	}
	c.joinAlerts()
	c.dropSentinels()
	for i := range c.rows {
		c.joinPanel(int32(i))
	}
	for i := range c.panels {
		p := &c.panels[i]
		if !c.ordered(p) || p.parts[systolic] < 0 || p.parts[diastolic] < 0 || !c.isBloodPressure(p) {
			continue
		}
		for _, k := range p.parts {
			if k >= 0 {
				c.rows[k].panel = int32(i)
				c.rows[k].gone = k != p.parts[systolic]
			}
		}
	}
	clear(c.byKey)
	for i := range c.rows {
		if !c.rows[i].gone {
			c.rows[i].metric = c.metricOf(int32(i))
		}
	}
}

// scaled says whether samples are more than counts: they have a unit of what the code measures, or the code measures nothing that has one.
func (r *row) scaled(s *fhir.SampledData) bool {
	u := unitByText[s.Origin.Code]
	if len(r.code.term.dimensions) == 0 {
		return s.Factor != "" || u != nil
	}
	return u != nil && r.code.term.allows(u.dimension)
}

// dropSentinels removes a row without value where another row of the message gives the same measurement a value: some
// monitors send both, and the last must not win.
func (c *Converter) dropSentinels() {
	clear(c.byKey)
	absent := false
	for i := range c.rows {
		r := &c.rows[i]
		if !r.hasValue() {
			absent = true
		} else if !r.gone {
			c.byKey[c.sameness(r)] = int32(i)
		}
	}
	if !absent {
		return
	}
	for i := range c.rows {
		r := &c.rows[i]
		if r.hasValue() || r.gone {
			continue
		}
		if k, ok := c.byKey[c.sameness(r)]; ok {
			if good := &c.rows[k]; !r.when.own || r.when.text == good.when.text {
				r.gone = true
				c.finding(r, EventSentinelDropped, 5, "a row without value stands beside a good one of the same measurement: the good one is kept")
			}
		}
	}
}

// sameness is the same for rows that speak of the same measurement of the same patient.
func (c *Converter) sameness(r *row) uint64 {
	var place [2]byte
	place[0], place[1] = byte(r.device), byte(r.patient+1)
	return hash(string(place[:]), r.code.identity, r.channel)
}

// part says which part of a pressure the row is.
func (r *row) part() part {
	switch {
	case r.code.term != nil && r.code.term.part != notPart:
		return r.code.term.part
	case r.loinc[0] != nil:
		return r.loinc[0].part
	}
	return notPart
}

// joinPanel puts a row into its blood pressure (FHIR R4 bp profile): same device, patient, channel and time.
func (c *Converter) joinPanel(i int32) {
	r := &c.rows[i]
	slot := r.part()
	if r.gone || !r.standard || !r.numeric || slot == notPart {
		return
	}
	container := r.channel
	if dot := strings.LastIndexByte(container, '.'); dot >= 0 {
		container = container[:dot]
	}
	var base *term
	if r.code.term != nil {
		base = r.code.term.panel
	}
	for k := len(c.panels) - 1; k >= 0 && k >= len(c.panels)-recentPanels; k-- {
		p := &c.panels[k]
		if p.base != base || p.device != r.device || p.patient != r.patient || p.when != r.when.text || p.container != container {
			continue
		}
		if p.parts[slot] >= 0 {
			break // a further measurement of the same channel begins
		}
		p.parts[slot] = i
		return
	}
	p := panel{base: base, container: container, device: r.device, patient: r.patient, when: r.when.text, parts: [4]int32{-1, -1, -1, -1}}
	p.parts[slot] = i
	c.panels = append(c.panels, p)
}

// isBloodPressure says whether all parts of p are those of the bp profile.
func (c *Converter) isBloodPressure(p *panel) bool {
	for slot, k := range p.parts {
		if k >= 0 && (c.rows[k].loinc[0] == nil || c.rows[k].loinc[0].part != part(slot)) {
			return false
		}
	}
	return true
}

// ordered says whether systolic, mean and diastolic pressure can be those of one measurement: each is at least the next. Where they
// contradict each other, none of them can be trusted to be what its code says.
func (c *Converter) ordered(p *panel) bool {
	above, bound := int32(-1), 0.0
	for _, slot := range [...]part{systolic, mean, diastolic} {
		k := p.parts[slot]
		if k < 0 {
			continue
		}
		r := &c.rows[k]
		x, _ := strconv.ParseFloat(r.value.Quantity.Value, 64) // judged before
		x = x*r.unit.factor + r.unit.offset
		if above >= 0 && x > bound {
			for _, k := range p.parts {
				if k >= 0 {
					c.rows[k].standard = false
					c.finding(&c.rows[k], EventOrder, 5, "systolic, mean and diastolic pressure contradict each other: kept, not charted")
				}
			}
			return false
		}
		above, bound = k, x
	}
	return true
}

// codeOf makes the CodeableConcept of a row's or part's identifier under its standard code where it is known.
func (c *Converter) codeOf(id *ident) fhir.CodeableConcept {
	if id.term != nil && id.known {
		return c.concept("", id.term.coding)
	}
	return c.localCode(id, "")
}

func (c *Converter) localCode(id *ident, label string) fhir.CodeableConcept {
	if id.code == "" && id.display == "" {
		if label == "" {
			label = "no identifier"
		}
		return fhir.CodeableConcept{Text: label}
	}
	return c.concept(label, fhir.Coding{System: id.system, Code: id.code, Display: id.display})
}

// code makes the Observation.code of a row.
func (c *Converter) code(r *row) fhir.CodeableConcept {
	if !r.standard {
		return c.sentCode(r)
	}
	first := len(c.codings)
	for _, l := range r.loinc {
		if l != nil {
			c.codings = append(c.codings, l.coding)
		}
	}
	if r.code.term != nil {
		c.codings = append(c.codings, r.code.term.coding)
	}
	if r.code.origin && r.code.code != "" {
		c.codings = append(c.codings, fhir.Coding{System: r.code.system, Code: r.code.code, Display: r.code.display})
	}
	return fhir.CodeableConcept{Coding: c.codings[first:len(c.codings):len(c.codings)], Text: r.label}
}

// sentCode makes the CodeableConcept of OBX-3 as it was sent, every triplet under its local system: what is not judged to be
// a measurement of that name must not look like one.
func (c *Converter) sentCode(r *row) fhir.CodeableConcept {
	v := r.segment.Field(3).Rep(1)
	if v.Comps() <= 3 {
		return c.localCode(&r.code, r.label)
	}
	k := c.localCode(&r.code, r.label)
	first := len(c.codings)
	for i, at := range [...]int{1, 4, 10} {
		code, display := c.part(v.Comp(at)), c.part(v.Comp(at+1))
		if code == "" && display == "" {
			continue
		}
		x := fhir.Coding{System: c.localSystem(c.text(v.Comp(at + 2))), Display: display, Version: c.part(v.Comp([...]int{7, 8, 13}[i]))}
		if isCode(code) {
			x.Code = code
		} else if display == "" {
			x.Display = code
		}
		c.codings = append(c.codings, x)
	}
	if first < len(c.codings) {
		k.Coding = c.codings[first:len(c.codings):len(c.codings)]
	}
	if s := c.part(v.Comp(9)); s != "" {
		k.Text = s
	}
	return k
}

var vitalSigns = fhir.Coding{System: fhir.SystemCategory, Code: "vital-signs", Display: "Vital Signs"}

// writeRow writes the Observation of a row, or of the panel that it leads.
func (c *Converter) writeRow(i int32) {
	r := &c.rows[i]
	if r.gone {
		return
	}
	o := &c.observe
	ext := o.Extension[:0]
	*o = fhir.Observation{Status: r.status, Subject: c.subject(r.patient)}
	if r.channel != "" {
		ext = append(ext, fhir.Extension{URL: extensionChannel, String: r.channel})
	}
	for _, b := range r.when.basis {
		if b != "" {
			ext = append(ext, fhir.Extension{URL: extensionTime, Code: b})
		}
	}
	ext = c.remarks(ext, r)
	if r.panel >= 0 {
		for _, k := range c.panels[r.panel].parts {
			if k >= 0 && k != i {
				ext = c.remarks(ext, &c.rows[k])
			}
		}
	}
	o.Extension = ext
	switch {
	case r.standard && r.loinc[0] != nil && !r.loinc[0].site:
		o.Category, o.Profile = vitalSigns, r.loinc[0].profile
	case r.as == alarm:
		o.Category = fhir.Coding{System: systemKind, Code: "alarm", Display: "Alarm"}
	case r.as == setting:
		o.Category = fhir.Coding{System: systemKind, Code: "setting", Display: "Setting or entry"}
	}
	o.Code = c.code(r)
	c.effective(o, r)
	for k := range r.security {
		if r.security[k] == (fhir.Coding{}) {
			o.Security = r.security[:k]
			break
		}
		o.Security = r.security[:k+1]
	}
	if m := r.metric; m >= 0 {
		o.Device.Reference = c.urn(c.metrics[m].id)
	} else {
		o.Device.Reference = c.devices[r.device].urn
	}
	if f := r.segment.Field(17); !f.Empty() {
		o.Method = c.coded(f.Rep(1))
	}
	if f := r.segment.Field(20); !f.Empty() {
		o.BodySite = c.coded(f.Rep(1))
	}
	if f := r.segment.Field(21); !f.Empty() { // v2-to-FHIR IG, OBX-21
		o.Identifier = fhir.Identifier{TypeCode: "FILL", Value: c.part(f.Comp(1)), System: c.universal(c.text(f.Comp(3)), c.text(f.Comp(4))), Assigner: c.part(f.Comp(2))}
	}
	o.Note, o.Performer = c.notes[r.notes[0]:r.notes[1]], r.performers
	if c.encounter.ID != "" && r.patient == c.stays {
		o.Encounter.Reference = c.urn(c.encounter.ID)
	}
	identity := r.code.identity
	if r.panel >= 0 {
		c.panelOf(o, &c.panels[r.panel])
		identity = c.join("panel ", identity)
		first := len(c.notes)
		for _, k := range c.panels[r.panel].parts {
			if k >= 0 {
				c.notes = append(c.notes, c.notes[c.rows[k].notes[0]:c.rows[k].notes[1]]...)
			}
		}
		o.Note = c.notes[first:len(c.notes):len(c.notes)]
	} else {
		o.Value, o.Absent = r.value, r.absent
		if r.hasValue() {
			o.Absent = "" // obs-6
		}
		o.Interpretation = c.interpretation(r)
		o.Range = r.limits
		c.count(r)
	}
	if r.as == alarm {
		c.alertOf(o, i)
	}
	o.ID = c.observationID(i, identity)
	c.entry(o.ID)
	c.out = fhir.EndEntry(o.Append(c.out))
	c.targets = append(c.targets, c.urn(o.ID))
	c.seen(r.when.at)
}

func (c *Converter) count(r *row) {
	switch {
	case !r.hasValue():
		c.r.Absent++
	case r.standard:
		c.r.Charted++
	default:
		c.r.Local++
	}
}

// effective sets the time of o.
func (c *Converter) effective(o *fhir.Observation, r *row) {
	switch {
	case r.isWave && r.end.text != "" && r.when.text != "":
		o.EffectivePeriod = fhir.Period{Start: r.when.text, End: r.end.text}
	case r.when.text != "":
		o.Effective, o.EffectiveRaw = r.when.text, r.when.raw
	default:
		o.EffectiveAbsent, o.EffectiveRaw = r.when.absent, r.when.raw
	}
}

// panelOf makes o the blood pressure of its parts (FHIR R4 bp profile; mean as a further component, as the PoCD and PHD
// IG examples have it).
func (c *Converter) panelOf(o *fhir.Observation, p *panel) {
	l := loincByCode["85354-9"]
	first := len(c.codings)
	c.codings = append(c.codings, l.coding)
	if p.base != nil {
		c.codings = append(c.codings, p.base.coding)
	}
	o.Code = fhir.CodeableConcept{Coding: c.codings[first:len(c.codings):len(c.codings)]}
	o.Profile = l.profile
	n := 0
	for _, k := range p.parts {
		if k < 0 {
			continue
		}
		r := &c.rows[k]
		c.component[n] = fhir.Component{Code: c.code(r), Value: r.value, Interpretation: c.interpretation(r), Range: r.limits}
		n++
		c.count(r)
		if r.status != o.Status { // the least sure of the parts speaks for the whole
			o.Status = lessSure(o.Status, r.status)
		}
	}
	o.Component = c.component[:n]
}

// lessSure gives the status of the two that promises less.
func lessSure(a, b string) string {
	for _, s := range [...]string{"unknown", "registered", "preliminary", "amended", "corrected", "final"} {
		if a == s || b == s {
			return s
		}
	}
	return a
}

func (c *Converter) interpretation(r *row) []fhir.CodeableConcept {
	first := len(c.concepts)
	for _, f := range r.flags[:r.flagged] {
		if r.as == alarm && oneOf(f.coding.Display, "PN", "PL", "PM", "PH", "SP", "ST", "SA") && facetOf(r) == facetEvent {
			continue // components of the alert
		}
		if f.coding.Code == "" && f.sent.Comps() > 1 {
			c.concepts = append(c.concepts, c.coded(f.sent))
		} else if f.coding.Code == "" {
			c.concepts = append(c.concepts, fhir.CodeableConcept{Text: f.coding.Display})
		} else {
			c.concepts = append(c.concepts, c.concept("", f.coding))
		}
	}
	return c.concepts[first:len(c.concepts):len(c.concepts)]
}

// remarks adds what was found of a row and of its unit, each thing once.
func (c *Converter) remarks(ext []fhir.Extension, r *row) []fhir.Extension {
	for _, f := range r.findings {
		if x := (fhir.Extension{URL: extensionFinding, Code: f}); f != "" && !slices.Contains(ext, x) {
			ext = append(ext, x)
		}
	}
	if x := (fhir.Extension{URL: extensionBasis, Code: r.unitBy}); r.unitBy != "" && !slices.Contains(ext, x) {
		ext = append(ext, x)
	}
	if r.attached != nil {
		ext = append(ext, fhir.Extension{URL: extensionAttachment, Attachment: r.attached})
	}
	if r.unitKept {
		ext = append(ext, fhir.Extension{URL: extensionUnit, String: c.text(r.segment.Field(6))})
	}
	return ext
}

// observationID names the reading (docs/adr/0013): whose it is, where and when it was taken, by what, and what was read. It is the same
// whenever the reading is sent again, in whatever message, and no other reading has it. A corrected value is a reading of its own; where
// the sender numbers its readings, their identifier (OBX-21) says which one it corrects.
func (c *Converter) observationID(i int32, identity string) string {
	r := &c.rows[i]
	when := r.when.text
	if r.when.raw != "" {
		when = r.when.raw
	}
	source := ""
	if when == "" || r.when.basis[0] == basisArrival {
		source = c.bundle // several messages may come in at once
	}
	start := len(c.arena)
	c.arena = append(append(c.arena, r.segment.Field(21).Raw()...), 0)
	c.arena = c.appendValues(c.arena, i)
	value := c.since(start)
	who := ""
	if r.patient >= 0 {
		who = c.patients[r.patient].mark
	}
	h := c.sum("observation", c.at.Box, c.at.Monitor, c.devices[r.device].id, who, c.location.Name, identity, r.channel, when, source, value)
	key := binary.LittleEndian.Uint64(h[:])
	n := c.byKey[key]
	if c.byKey[key] = n + 1; n > 0 {
		h = c.sum("observation again", string(h[:]), strconv.Itoa(int(n)))
	}
	return c.uuidOf(h)
}

// appendValues appends what was read: OBX-5 of the row, and of the rows that are parts of its Observation.
func (c *Converter) appendValues(b []byte, i int32) []byte {
	r := &c.rows[i]
	if r.panel >= 0 {
		for _, k := range c.panels[r.panel].parts {
			if k >= 0 {
				b = append(append(b, c.rows[k].segment.Field(5).Raw()...), 0)
			}
		}
		return b
	}
	for k := i; k <= i+r.facets; k++ {
		b = append(append(b, c.rows[k].segment.Field(5).Raw()...), 0)
	}
	return b
}
