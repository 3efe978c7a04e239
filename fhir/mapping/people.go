package mapping

import (
	"github.com/vitalgate/vitalgate/fhir"
	"github.com/vitalgate/vitalgate/hl7"
)

// maxPeople bounds the people and organizations of one message, of each kind.
const maxPeople = 64

// Code systems of what people do.
const (
	systemParticipation    = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
	systemPractitionerRole = "http://terminology.hl7.org/CodeSystem/practitioner-role"
	systemParticipationV2  = "http://terminology.hl7.org/CodeSystem/v2-0912"
)

// participating are the fields of PV1 that name people of a stay (v2-to-FHIR IG, PV1[Encounter]).
var participating = [...]struct {
	field               int
	code, display, text string
}{
	{7, "ATND", "attender", ""}, {8, "REF", "", "referrer"}, {9, "CON", "", "consultant"}, {17, "ADM", "", "admitter"}, {52, "PART", "", "Participation"},
}

// participants reads the people of a PV1.
func (c *Converter) participants(s hl7.Segment) []fhir.Participant {
	first := len(c.participant)
	for _, p := range participating {
		f := s.Field(p.field)
		for i := 1; i <= f.Reps() && i <= maxRepetitions; i++ {
			if who := c.practitioner(s, p.field, f.Rep(i)); who != "" {
				c.participant = append(c.participant, fhir.Participant{Type: fhir.Coding{System: systemParticipation, Code: p.code, Display: p.display}, Text: p.text, Individual: who})
			}
		}
	}
	return c.participant[first:len(c.participant):len(c.participant)]
}

// readPerformers reads who observed or answers for a row (v2-to-FHIR IG, OBX-16, OBX-23 to OBX-25).
func (c *Converter) readPerformers(r *row) {
	s := r.segment
	if s.Field(16).Empty() && s.Field(23).Empty() && s.Field(25).Empty() {
		return
	}
	first := len(c.performers)
	f := s.Field(16)
	for i := 1; i <= f.Reps() && i <= maxRepetitions; i++ {
		if who := c.practitioner(s, 16, f.Rep(i)); who != "" {
			c.performers = append(c.performers, c.role(who, "", fhir.Coding{System: systemPractitionerRole, Code: "responsibleObserver"}))
		}
	}
	organization := c.organization(s)
	if director := c.practitioner(s, 25, s.Field(25).Rep(1)); director != "" {
		c.performers = append(c.performers, c.role(director, organization, fhir.Coding{System: systemParticipationV2, Code: "MDIR"}))
	} else if organization != "" {
		c.performers = append(c.performers, organization)
	}
	r.performers = c.performers[first:len(c.performers):len(c.performers)]
}

// practitioner reads an XCN (v2-to-FHIR IG, XCN[Practitioner]) and gives the reference to its resource, "" where it names nobody.
func (c *Converter) practitioner(s hl7.Segment, field int, v hl7.Value) string {
	if v.Empty() || v.Null() {
		return ""
	}
	var p fhir.Practitioner
	first := len(c.ids)
	if number := c.part(v.Comp(1)); number != "" {
		authority := v.Comp(9)
		id := fhir.Identifier{Value: number, Assigner: c.part(authority.Sub(1)), System: c.universal(c.text(authority.Sub(2)), c.text(authority.Sub(3)))}
		if code := c.text(v.Comp(13)); isCode(code) {
			id.TypeCode = code
		}
		c.ids = append(c.ids, id)
	}
	p.Identifier = c.ids[first:len(c.ids):len(c.ids)]
	name := fhir.HumanName{
		Family: c.part(v.Comp(2).Sub(1)), Given: c.part(v.Comp(3)), Middle: c.part(v.Comp(4)), Suffix: c.part(v.Comp(5)),
		Prefix: c.part(v.Comp(6)), Degree: c.part(v.Comp(7)), Professional: c.part(v.Comp(21)),
	}
	if name != (fhir.HumanName{}) {
		name.Use = nameUse(v.Comp(10))
		name.Period = c.validity(s, field, v.Comp(17).Sub(1), v.Comp(17).Sub(2))
		if !v.Comp(19).Empty() || !v.Comp(20).Empty() {
			name.Period = c.validity(s, field, v.Comp(19), v.Comp(20))
		}
		first = len(c.names)
		c.names = append(c.names, name)
		p.Name = c.names[first:len(c.names):len(c.names)]
	}
	switch {
	case len(p.Identifier) > 0 && p.Identifier[0].System == "" && p.Identifier[0].Assigner == "": // another ward gives out the same number
		p.ID = c.uuid("practitioner of monitor", c.at.Box, c.at.Monitor, string(v.Raw()))
	case len(p.Identifier) > 0:
		id := &p.Identifier[0]
		p.ID = c.uuid("practitioner", id.System, id.Assigner, id.TypeCode, id.Value)
	case len(p.Name) > 0: // nobody can say that he is the same as another of that name
		p.ID = c.uuid("practitioner of message", string(c.m.Raw()), string(v.Raw()))
	default:
		return ""
	}
	for i := range c.practitioners {
		if c.practitioners[i].ID == p.ID {
			return c.urn(p.ID)
		}
	}
	if len(c.practitioners) == maxPeople {
		return ""
	}
	c.practitioners = append(c.practitioners, p)
	return c.urn(p.ID)
}

// validity reads the time for which a name holds.
func (c *Converter) validity(s hl7.Segment, field int, from, to hl7.Value) (p fhir.Period) {
	start, began := c.stampOf(from, s, field)
	if began {
		p.Start = start.text
	}
	if end, ended := c.stampOf(to, s, field); ended && (!began || !end.before(start)) {
		p.End = end.text
	}
	return p
}

// role gives the reference to what a practitioner acts as.
func (c *Converter) role(who, organization string, code fhir.Coding) string {
	r := fhir.PractitionerRole{ID: c.uuid("role", who, organization, code.System, code.Code), Practitioner: who, Organization: organization, Code: code}
	for i := range c.roles {
		if c.roles[i].ID == r.ID {
			return c.urn(r.ID)
		}
	}
	c.roles = append(c.roles, r)
	return c.urn(r.ID)
}

// organization reads OBX-23 and OBX-24 (v2-to-FHIR IG, XON[Organization]), "" where they name none.
func (c *Converter) organization(s hl7.Segment) string {
	v := s.Field(23).Rep(1)
	o := fhir.Organization{Name: c.part(v.Comp(1))}
	number := c.part(v.Comp(10))
	if number == "" {
		number = c.part(v.Comp(3))
	}
	if o.Name == "" && number == "" {
		return ""
	}
	if number != "" {
		authority := v.Comp(6)
		id := fhir.Identifier{Value: number, Assigner: c.part(authority.Sub(1)), System: c.universal(c.text(authority.Sub(2)), c.text(authority.Sub(3)))}
		if code := c.text(v.Comp(7)); isCode(code) {
			id.TypeCode = code
		}
		first := len(c.ids)
		c.ids = append(c.ids, id)
		o.Identifier = c.ids[first:len(c.ids):len(c.ids)]
	}
	o.Address = c.addresses(s, 24)
	if len(o.Identifier) > 0 && (o.Identifier[0].System != "" || o.Identifier[0].Assigner != "") {
		o.ID = c.uuid("organization", string(v.Raw()), string(s.Field(24).Raw()))
	} else { // "Laboratory 2" is another one elsewhere
		o.ID = c.uuid("organization of box", c.at.Box, string(v.Raw()), string(s.Field(24).Raw()))
	}
	for i := range c.organizations {
		if c.organizations[i].ID == o.ID {
			return c.urn(o.ID)
		}
	}
	if len(c.organizations) == maxPeople {
		return ""
	}
	c.organizations = append(c.organizations, o)
	return c.urn(o.ID)
}

// readRelated reads an NK1 of a known patient (v2-to-FHIR IG, NK1[RelatedPerson]).
func (c *Converter) readRelated(s hl7.Segment, patient int32) {
	if patient < 0 || len(c.related) == maxPeople {
		return
	}
	p := fhir.RelatedPerson{Patient: c.urn(c.patients[patient].id)}
	first := len(c.names)
	for _, field := range [...]int{2, 30} {
		for f, i := s.Field(field), 1; i <= f.Reps() && i <= maxRepetitions; i++ {
			if n, ok := c.nameXPN(s, field, f.Rep(i)); ok {
				c.names = append(c.names, n)
			}
		}
	}
	p.Name = c.names[first:len(c.names):len(c.names)]
	first = len(c.ids)
	for _, field := range [...]int{12, 33} {
		for f, i := s.Field(field), 1; i <= f.Reps() && i <= maxIdentifiers; i++ {
			if id, ok := c.identifierOf(s, field, f.Rep(i), ""); ok {
				c.ids = append(c.ids, id)
			}
		}
	}
	if number := c.part(s.Field(37)); number != "" {
		c.ids = append(c.ids, fhir.Identifier{System: "http://hl7.org/fhir/sid/us-ssn", Value: number, TypeCode: "SS"})
	}
	p.Identifier = c.ids[first:len(c.ids):len(c.ids)]
	first = len(c.concepts)
	for _, field := range [...]int{3, 7} {
		if f := s.Field(field); !f.Empty() && !f.Null() {
			if k := c.coded(f.Rep(1)); len(k.Coding) > 0 || k.Text != "" {
				c.concepts = append(c.concepts, k)
			}
		}
	}
	p.Relationship = c.concepts[first:len(c.concepts):len(c.concepts)]
	p.Telecom = c.telecoms(s, 5, 6, 31, 40, 41)
	p.Address = c.addresses(s, 4, 32)
	if len(p.Name)+len(p.Identifier)+len(p.Telecom)+len(p.Address) == 0 {
		return
	}
	p.Gender = gender(c.text(s.Field(15).Comp(1)))
	if f := s.Field(16).Comp(1); !f.Empty() && !f.Null() {
		p.BirthDate, _ = c.birthDate(f)
	}
	p.Period = c.validity(s, 8, s.Field(8), s.Field(9))
	p.ID = c.uuid("related person", p.Patient, string(s.Raw()))
	for i := range c.related {
		if c.related[i].ID == p.ID {
			return
		}
	}
	c.related = append(c.related, p)
}

// writePeople writes who takes part.
func (c *Converter) writePeople() {
	for i := range c.related {
		c.entry(c.related[i].ID)
		c.out = fhir.EndEntry(c.related[i].Append(c.out))
	}
	for i := range c.practitioners {
		c.entry(c.practitioners[i].ID)
		c.out = fhir.EndEntry(c.practitioners[i].Append(c.out))
	}
	for i := range c.organizations {
		c.entry(c.organizations[i].ID)
		c.out = fhir.EndEntry(c.organizations[i].Append(c.out))
	}
	for i := range c.roles {
		c.entry(c.roles[i].ID)
		c.out = fhir.EndEntry(c.roles[i].Append(c.out))
	}
}
