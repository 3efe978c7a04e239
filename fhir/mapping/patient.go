package mapping

import (
	"strings"

	"github.com/vitalgate/vitalgate/fhir"
	"github.com/vitalgate/vitalgate/hl7"
)

// patient is one PID segment.
type patient struct {
	id      string // of the resource
	key     string // association key, "" where the message gives no number
	ids     []fhir.Identifier
	name    fhir.HumanName
	hasName bool
	gender  string
	birth   string
	segment hl7.Segment
}

// Bounds of how many numbers of one patient, and how many patients, are taken. Rows of further patients stand for unknown ones.
const (
	maxIdentifiers = 16
	maxPatients    = 64
)

// readPatient reads a PID (v2-to-FHIR IG, PID[Patient]) and gives its place in c.patients, -1 where the segment names
// nobody: a PID of empty fields is an unknown patient and stays one.
func (c *Converter) readPatient(s hl7.Segment) int32 {
	if string(s.Field(31).Raw()) == "Y" { // identity unknown: whatever stands in the other fields is a stand-in
		return -1
	}
	p := patient{segment: s}
	first := len(c.ids)
	for _, field := range [...]int{3, 2, 4} {
		if field != 3 && len(c.ids) > first { // PID-2 and PID-4 are the withdrawn forms of PID-3; beside it they hold set ids and worse
			break
		}
		f := s.Field(field)
		for r := 1; r <= f.Reps() && r <= maxIdentifiers; r++ {
			if id, ok := c.identifierCX(f.Rep(r)); ok && !contains(c.ids[first:], id) {
				c.ids = append(c.ids, id)
			}
		}
	}
	p.ids = c.ids[first:len(c.ids):len(c.ids)]
	p.name, p.hasName = c.nameXPN(s.Field(5).Rep(1))
	if sex := c.text(s.Field(8).Comp(1)); sex != "" && sex != `""` {
		if p.gender = gender(sex); p.gender == "" {
			c.event(EventPatientField, s, 8, "the administrative sex is not in HL7 table 0001")
		}
	}
	if f := s.Field(7).Comp(1); !f.Empty() && !f.Null() {
		p.birth = c.birthDate(f)
		if p.birth == "" {
			c.event(EventPatientField, s, 7, "the date of birth cannot be read")
		}
	}
	if len(p.ids) == 0 && !p.hasName {
		return -1
	}
	if len(p.ids) > 0 {
		id := p.ids[0]
		p.key = c.join(id.System, "|", id.Assigner, "|", id.Value)
		p.id = c.uuid("patient", p.key)
	} else {
		p.id, p.key = c.unnumbered(s)
	}
	for i := range c.patients {
		if c.patients[i].id == p.id {
			return int32(i)
		}
	}
	if len(c.patients) == 1 {
		c.event(EventPatients, s, 0, "the message speaks of more than one patient")
	}
	if len(c.patients) == maxPatients {
		return -1
	}
	c.patients = append(c.patients, p)
	return int32(len(c.patients) - 1)
}

func contains(ids []fhir.Identifier, id fhir.Identifier) bool {
	for _, x := range ids {
		if x.Value == id.Value && x.System == id.System {
			return true
		}
	}
	return false
}

// identifierCX reads a CX (v2-to-FHIR IG, CX[Identifier]).
func (c *Converter) identifierCX(v hl7.Value) (fhir.Identifier, bool) {
	value := c.text(v.Comp(1))
	if value == "" || value == `""` {
		return fhir.Identifier{}, false
	}
	id := fhir.Identifier{Value: value}
	authority := v.Comp(4)
	id.Assigner = c.text(authority.Sub(1))
	id.System = c.universal(c.text(authority.Sub(2)), c.text(authority.Sub(3)))
	if id.System == "" {
		id.System = c.at.PatientSystem
	}
	if code := c.text(v.Comp(5)); isCode(code) {
		id.TypeCode = code
	}
	return id, true
}

// universal gives the URI of a universal id (HD.2 and HD.3), "" where it has none.
func (c *Converter) universal(id, typ string) string {
	if id == "" || strings.ContainsAny(id, " \t\r\n") {
		return ""
	}
	switch typ {
	case "ISO":
		if isOID(id) {
			return c.join("urn:oid:", id)
		}
	case "URI":
		if strings.Contains(id, ":") {
			return id
		}
	case "UUID", "GUID":
		return c.join("urn:uuid:", strings.ToLower(id))
	}
	return ""
}

func isOID(s string) bool {
	dot := true
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '.':
			if dot {
				return false
			}
			dot = true
		case s[i] >= '0' && s[i] <= '9':
			dot = false
		default:
			return false
		}
	}
	return !dot && len(s) > 2 && s[0] <= '2' && s[1] == '.'
}

// nameXPN reads an XPN (v2-to-FHIR IG, XPN[HumanName]).
func (c *Converter) nameXPN(v hl7.Value) (fhir.HumanName, bool) {
	if v.Empty() || v.Null() {
		return fhir.HumanName{}, false
	}
	part := func(x hl7.Value) string {
		if x.Null() {
			return ""
		}
		return c.text(x)
	}
	n := fhir.HumanName{
		Family: part(v.Comp(1).Sub(1)),
		Given:  part(v.Comp(2)),
		Middle: part(v.Comp(3)),
		Suffix: part(v.Comp(4)),
		Prefix: part(v.Comp(5)),
	}
	if n == (fhir.HumanName{}) {
		return n, false
	}
	switch string(v.Comp(7).Raw()) { // HL7 table 0200
	case "L", "D":
		n.Use = "official"
		if string(v.Comp(7).Raw()) == "D" {
			n.Use = "usual"
		}
	case "A":
		n.Use = "anonymous"
	case "N":
		n.Use = "nickname"
	case "M":
		n.Use = "maiden"
	case "T":
		n.Use = "temp"
	}
	return n, true
}

// gender maps HL7 table 0001 (v2-to-FHIR IG, AdministrativeSex).
func gender(s string) string {
	switch s {
	case "F", "f":
		return "female"
	case "M", "m":
		return "male"
	case "O", "A", "N":
		return "other"
	case "U":
		return "unknown"
	}
	return ""
}

// birthDate reads PID-7 as a FHIR date, "" where it says none or nonsense.
func (c *Converter) birthDate(v hl7.Value) string {
	t, err := v.Time(nil)
	if err != nil {
		return ""
	}
	start := len(c.arena)
	switch t.Precision {
	case hl7.Year:
		c.arena = t.AppendFormat(c.arena, "2006")
	case hl7.Month:
		c.arena = t.AppendFormat(c.arena, "2006-01")
	default:
		c.arena = t.AppendFormat(c.arena, "2006-01-02")
	}
	return c.since(start)
}

// associationKey gives the key of the one patient of the message. Its string is kept from message to message, because
// it outlives the message.
func (c *Converter) associationKey() string {
	if len(c.patients) != 1 || c.patients[0].key == "" {
		return ""
	}
	if key := c.patients[0].key; key != c.patientKey {
		c.patientKey = strings.Clone(key)
	}
	return c.patientKey
}

func (c *Converter) writePatient(p *patient) {
	r := fhir.Patient{ID: p.id, Identifier: p.ids, Gender: p.gender, BirthDate: p.birth}
	if p.hasName {
		c.names = append(c.names[:0], p.name)
		r.Name = c.names
	}
	c.entry(p.id)
	c.out = fhir.EndEntry(r.Append(c.out))
}

// subject refers to the row's patient. An unknown patient is said to be unknown (data-absent-reason): the vital-signs
// profile wants a subject, and an invented Patient would be a lie.
func (c *Converter) subject(p int32) fhir.Reference {
	if p >= 0 {
		return fhir.Reference{Reference: c.urn(c.patients[p].id)}
	}
	r := fhir.Reference{Absent: "unknown", Display: "unknown patient"}
	if c.location.Name != "" {
		r.Display = c.join("unknown patient at ", c.location.Name)
	}
	return r
}

// readLocation reads PV1-3 (v2-to-FHIR IG, PL[Location]) as the bed's name: point of care, room, bed; or what the
// dialect says of it.
func (c *Converter) readLocation(s hl7.Segment) {
	if c.d.noBed || c.location.Name != "" {
		return
	}
	pl := s.Field(3)
	care, room, bed := c.text(pl.Comp(1).Sub(1)), c.text(pl.Comp(2).Sub(1)), c.text(pl.Comp(3).Sub(1))
	if c.d.bed.segment == "PV1" {
		bed = c.text(c.d.bed.in(s))
	}
	start := len(c.arena)
	for _, part := range [...]string{care, room, bed} {
		if part == "" || part == `""` {
			continue
		}
		if len(c.arena) > start {
			c.arena = append(c.arena, " / "...)
		}
		c.arena = append(c.arena, part...)
	}
	if len(c.arena) == start {
		return
	}
	c.location.Name = c.since(start)
	if bed != "" {
		c.location.Physical = "bd"
	}
}
