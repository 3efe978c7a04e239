package mapping

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/vitalgate/vitalgate/fhir"
	"github.com/vitalgate/vitalgate/hl7"
)

// facet is what a row says about an alert (IHE DEV TF Vol. 2, table B.8.5-1).
type facet uint8

const (
	notFacet facet = iota
	facetEvent
	facetSource
	facetPhase
	facetState
	facetInactivation
	facetPriority
	facetType
	facetText
)

// facetByName names the facets that have an identifier of their own. The numbers differ between senders; the names do not.
var facetByName = map[string]facet{
	"MDC_ATTR_ALERT_SOURCE":             facetSource,
	"MDC_ATTR_EVENT_PHASE":              facetPhase,
	"MDC_ATTR_ALARM_STATE":              facetState,
	"MDC_ATTR_ALERT_STATE":              facetState,
	"MDC_ATTR_ALARM_INACTIVATION_STATE": facetInactivation,
	"MDC_ATTR_ALARM_PRIORITY":           facetPriority,
	"MDC_ATTR_ALERT_TYPE":               facetType,
	"MDC_ATTR_ALERT_TEXT":               facetText,
}

// facetOf says which facet of an alert a row is, by its identifier, else by the fifth number of its OBX-4.
func facetOf(r *row) facet {
	if r.as != alarm {
		return notFacet
	}
	if f := facetByName[r.code.display]; f != notFacet {
		return f
	}
	if r.code.term != nil {
		if f := facetByName[r.code.term.coding.Display]; f != notFacet {
			return f
		}
	}
	if strings.Count(r.channel, ".") == 4 {
		switch r.channel[strings.LastIndexByte(r.channel, '.')+1:] {
		case "1":
			return facetEvent
		case "2":
			return facetSource
		}
	}
	return notFacet
}

// joinAlerts makes one alert of an event and the rows of its order that follow it and say something about it.
func (c *Converter) joinAlerts() {
	for i := 0; i < len(c.rows); i++ {
		lead := &c.rows[i]
		if facetOf(lead) != facetEvent {
			continue
		}
		seen := [facetText + 1]bool{facetEvent: true}
		for i+1 < len(c.rows) {
			r := &c.rows[i+1]
			f := facetOf(r)
			if f == notFacet || seen[f] || r.group != lead.group || r.patient != lead.patient {
				break
			}
			seen[f], r.gone = true, true
			i++
			lead.facets++
		}
	}
}

// alertOf adds to o, the Observation of the event row at i, what the rows after it and its own OBX-8 say about the alert:
// source, phase, state, inactivation, priority and type are components.
func (c *Converter) alertOf(o *fhir.Observation, i int32) {
	r := &c.rows[i]
	c.components = c.components[:0]
	seen := [facetText + 1]bool{}
	for k := i + 1; k <= i+r.facets; k++ {
		p := &c.rows[k]
		seen[facetOf(p)] = true
		code := c.code(p)
		if !o.Value.Empty() && p.code.identity == r.code.identity { // a component is not what the whole is (obs-7)
			o.Code = c.concept(r.label, fhir.Coding{System: c.localSystem("MDC"), Code: "196616", Display: "MDC_EVT_ALARM"})
		}
		part := fhir.Component{Code: code, Value: p.value, Absent: p.absent, Interpretation: c.interpretation(p), Range: p.limits}
		if !part.Value.Empty() {
			part.Absent = ""
		}
		c.components = append(c.components, part)
	}
	priority, kind := r.alarmPriority, r.alarmType
	for _, f := range r.flags[:r.flagged] {
		switch s := f.coding.Display; s { // tables B.8.5-8 and B.8.5-9
		case "PN", "PL", "PM", "PH":
			priority = s
		case "SP", "ST", "SA":
			kind = s
		}
	}
	if priority != "" && !seen[facetPriority] {
		c.said(68484, "MDC_ATTR_ALARM_PRIORITY", priority)
	}
	if kind != "" && !seen[facetType] {
		c.said(68485, "MDC_ATTR_ALERT_TYPE", kind)
	}
	o.Component = c.components
	if id := c.groups[r.group].alert; id.Value != "" && o.Identifier.Value == "" {
		o.Identifier = id
	}
	o.Note = c.notesOf(i, i+r.facets)
}

// said adds a component of which only a word is known.
func (c *Converter) said(number int, name, word string) {
	c.components = append(c.components, fhir.Component{
		Code:  c.concept("", fhir.Coding{System: c.localSystem("MDC"), Code: strconv.Itoa(number), Display: name}),
		Value: fhir.Value{String: word},
	})
}

// notesOf gives the notes of the rows from first to last.
func (c *Converter) notesOf(first, last int32) []string {
	start := len(c.notes)
	for k := first; k <= last; k++ {
		r := &c.rows[k]
		c.notes = append(c.notes, c.notes[r.notes[0]:r.notes[1]]...)
	}
	return c.notes[start:len(c.notes):len(c.notes)]
}

// alertInstance gives the number of the alert that an order speaks of: OBR-29.2 where it refers to the message that began the
// alert, else OBR-3 (IHE DEV TF Vol. 2 §B.7.1).
func (c *Converter) alertInstance(s hl7.Segment) fhir.Identifier {
	if v := s.Field(29).Comp(2); !v.Sub(1).Empty() {
		return fhir.Identifier{TypeCode: "FILL", Value: c.part(v.Sub(1)), Assigner: c.part(v.Sub(2)), System: c.universal(c.text(v.Sub(3)), c.text(v.Sub(4)))}
	}
	v := s.Field(3)
	return fhir.Identifier{TypeCode: "FILL", Value: c.part(v.Comp(1)), Assigner: c.part(v.Comp(2)), System: c.universal(c.text(v.Comp(3)), c.text(v.Comp(4)))}
}

// alarmRule says how urgent the alarm rows are of which its condition holds.
type alarmRule struct {
	cond           condition
	priority, kind string
}

type alarmRuleFile struct {
	conditionFile
	Priority string `toml:"priority"`
	Type     string `toml:"type"`
}

func (d *Dialect) readAlarmRules(all []alarmRuleFile) (err error) {
	for _, f := range all {
		r := alarmRule{priority: f.Priority, kind: f.Type}
		if r.cond, err = f.condition(); err != nil {
			return err
		}
		if !oneOf(f.Priority, "", "PN", "PL", "PM", "PH") || !oneOf(f.Type, "", "SP", "ST", "SA") || f.Priority+f.Type == "" {
			return fmt.Errorf("alarm rule on %s has priority %q and type %q: want PN, PL, PM or PH and SP, ST or SA", f.Field, f.Priority, f.Type)
		}
		d.alarms = append(d.alarms, r)
	}
	return nil
}

// judgeAlarm finds out by the dialect how urgent an alarm row is.
func (c *Converter) judgeAlarm(r *row) {
	for i := range c.d.alarms {
		rule := &c.d.alarms[i]
		if !rule.cond.holds(rule.cond.at.in(r.segment).Raw()) {
			continue
		}
		if r.alarmPriority == "" {
			r.alarmPriority = rule.priority
		}
		if r.alarmType == "" {
			r.alarmType = rule.kind
		}
	}
}
