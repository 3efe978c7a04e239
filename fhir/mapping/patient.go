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
	mark    string // what tells his readings from those of others on the same device
	ids     []fhir.Identifier
	names   []fhir.HumanName
	telecom []fhir.ContactPoint
	address []fhir.Address
	gender  string
	birth   string
	born    string // dateTime of birth where the hour was sent
	dead    string
	prior   int32 // merged patient that this one replaces, -1 none
	segment hl7.Segment
}

// Bounds of how many numbers of one patient, and how many patients, are taken. Rows of further patients stand for unknown ones.
const (
	maxIdentifiers = 16
	maxPatients    = 64
	maxRepetitions = 8 // of names, addresses, telephone numbers
)

// readPatient reads a PID (v2-to-FHIR IG, PID[Patient]) and gives its place in c.patients, -1 where the segment names
// nobody: a PID of empty fields is an unknown patient and stays one.
func (c *Converter) readPatient(s hl7.Segment) int32 {
	if string(s.Field(31).Raw()) == "Y" { // identity unknown: whatever stands in the other fields is a stand-in
		return -1
	}
	p := patient{segment: s, prior: -1}
	p.ids = c.identifiers(s, 3, 2, 4) // PID-2 and PID-4 are the withdrawn forms of PID-3; beside it they hold set ids and worse
	firstName := len(c.names)
	for _, field := range [...]int{5, 9} {
		for f, r := s.Field(field), 1; r <= f.Reps() && r <= maxRepetitions; r++ {
			if n, ok := c.nameXPN(s, field, f.Rep(r)); ok {
				c.names = append(c.names, n)
			}
		}
	}
	p.names = c.names[firstName:len(c.names):len(c.names)]
	if len(p.ids) == 0 && len(p.names) == 0 {
		return -1
	}
	if sex := c.text(s.Field(8).Comp(1)); sex != "" && sex != `""` {
		if p.gender = gender(sex); p.gender == "" {
			c.event(EventPatientField, s, 8, "the administrative sex is not in HL7 table 0001")
		}
	}
	if f := s.Field(7).Comp(1); !f.Empty() && !f.Null() {
		p.birth, p.born = c.birthDate(f)
		if p.birth == "" {
			c.event(EventPatientField, s, 7, "the date of birth cannot be read")
		}
	}
	p.dead = c.deceased(s)
	p.telecom = c.telecoms(s, 13, 14, 40)
	p.address = c.addresses(s, 11)
	if f := s.Field(11); f.Reps() == 1 && len(p.address) == 1 && p.address[0].District == "" {
		p.address[0].District = c.part(s.Field(12).Comp(1)) // v2-to-FHIR IG, PID-12
	}
	if len(p.ids) > 0 {
		id := p.ids[0]
		p.key = c.join(id.System, "|", id.Assigner, "|", id.Value)
		p.id, p.mark = c.uuid("patient", p.key), p.key
	} else {
		p.id, p.key = c.unnumbered(s)
		p.mark = c.join("name|", c.text(s.Field(5)), "|", c.text(s.Field(7)))
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

// identifiers reads the CX of the first of the fields that holds any.
func (c *Converter) identifiers(s hl7.Segment, fields ...int) []fhir.Identifier {
	first := len(c.ids)
	for _, field := range fields {
		f := s.Field(field)
		for r := 1; r <= f.Reps() && r <= maxIdentifiers; r++ {
			if id, ok := c.identifierCX(s, field, f.Rep(r)); ok && !contains(c.ids[first:], id) {
				c.ids = append(c.ids, id)
			}
		}
		if len(c.ids) > first {
			break
		}
	}
	return c.ids[first:len(c.ids):len(c.ids)]
}

func contains(ids []fhir.Identifier, id fhir.Identifier) bool {
	for _, x := range ids {
		if x.Value == id.Value && x.System == id.System {
			return true
		}
	}
	return false
}

// identifierCX reads v, a CX of the patient in that field.
func (c *Converter) identifierCX(s hl7.Segment, field int, v hl7.Value) (fhir.Identifier, bool) {
	return c.identifierOf(s, field, v, c.at.PatientSystem)
}

// identifierOf reads v, a CX (v2-to-FHIR IG, CX[Identifier]); system is that of a number whose authority has no universal id.
func (c *Converter) identifierOf(s hl7.Segment, field int, v hl7.Value, system string) (fhir.Identifier, bool) {
	value := c.text(v.Comp(1))
	if value == "" || value == `""` {
		return fhir.Identifier{}, false
	}
	id := fhir.Identifier{Value: value}
	authority := v.Comp(4)
	id.Assigner = c.text(authority.Sub(1))
	id.System = c.universal(c.text(authority.Sub(2)), c.text(authority.Sub(3)))
	if id.System == "" {
		id.System = system
	}
	if code := c.text(v.Comp(5)); isCode(code) {
		id.TypeCode = code
	}
	from, began := c.stampOf(v.Comp(7), s, field)
	if began {
		id.Period.Start = from.text
	}
	if to, ended := c.stampOf(v.Comp(8), s, field); ended && (!began || !to.before(from)) {
		id.Period.End = to.text
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
func (c *Converter) nameXPN(s hl7.Segment, field int, v hl7.Value) (fhir.HumanName, bool) {
	if v.Empty() || v.Null() {
		return fhir.HumanName{}, false
	}
	n := fhir.HumanName{
		Family: c.part(v.Comp(1).Sub(1)),
		Given:  c.part(v.Comp(2)),
		Middle: c.part(v.Comp(3)),
		Suffix: c.part(v.Comp(4)),
		Prefix: c.part(v.Comp(5)),
		Degree: c.part(v.Comp(6)), Professional: c.part(v.Comp(14)),
	}
	if n == (fhir.HumanName{}) {
		return n, false
	}
	n.Use = nameUse(v.Comp(7))
	n.Period = c.validity(s, field, v.Comp(10).Sub(1), v.Comp(10).Sub(2))
	if !v.Comp(12).Empty() || !v.Comp(13).Empty() {
		n.Period = c.validity(s, field, v.Comp(12), v.Comp(13))
	}
	return n, true
}

// nameUse maps HL7 table 0200 (v2-to-FHIR IG, NameType).
func nameUse(v hl7.Value) string {
	switch string(v.Raw()) {
	case "L", "R":
		return "official"
	case "D":
		return "usual"
	case "MSK":
		return "anonymous"
	case "N":
		return "nickname"
	case "M":
		return "maiden"
	case "TEMP", "NAV":
		return "temp"
	case "BAD":
		return "old"
	}
	return ""
}

// addresses reads the XAD of some fields (v2-to-FHIR IG, XAD[Address]).
func (c *Converter) addresses(s hl7.Segment, fields ...int) []fhir.Address {
	first := len(c.address)
	for _, field := range fields {
		f := s.Field(field)
		for r := 1; r <= f.Reps() && r <= maxRepetitions; r++ {
			c.addressXAD(s, field, f.Rep(r))
		}
	}
	return c.address[first:len(c.address):len(c.address)]
}

func (c *Converter) addressXAD(s hl7.Segment, field int, v hl7.Value) {
	a := fhir.Address{City: c.part(v.Comp(3)), State: c.part(v.Comp(4)), PostalCode: c.part(v.Comp(5)), Country: c.part(v.Comp(6)), District: c.part(v.Comp(9).Sub(1))}
	for i := 1; i <= 3; i++ {
		a.Line[i-1] = c.part(v.Comp(1).Sub(i))
	}
	a.Line[3], a.Line[4] = c.part(v.Comp(2)), c.part(v.Comp(19))
	if a == (fhir.Address{}) {
		return
	}
	a.Period = c.validity(s, field, v.Comp(12).Sub(1), v.Comp(12).Sub(2))
	if !v.Comp(13).Empty() || !v.Comp(14).Empty() {
		a.Period = c.validity(s, field, v.Comp(13), v.Comp(14))
	}
	switch string(v.Comp(7).Raw()) { // HL7 table 0190 (v2-to-FHIR IG, AddressType)
	case "BA":
		a.Use = "old"
	case "BI":
		a.Use = "billing"
	case "C":
		a.Use = "temp"
	case "B", "O":
		a.Use = "work"
	case "H":
		a.Use = "home"
	case "M", "SH":
		a.Type = "postal"
	}
	c.address = append(c.address, a)
}

// part gives the text of v, "" for the null value.
func (c *Converter) part(v hl7.Value) string {
	if v.Null() {
		return ""
	}
	return c.text(v)
}

// telecoms reads the XTN of some fields (v2-to-FHIR IG, XTN[ContactPoint]): the first are of the home, the second of the work, unless
// they say otherwise.
func (c *Converter) telecoms(s hl7.Segment, fields ...int) []fhir.ContactPoint {
	first := len(c.telecom)
	for i, field := range fields {
		f := s.Field(field)
		for r := 1; r <= f.Reps() && r <= maxRepetitions; r++ {
			v := f.Rep(r)
			t := fhir.ContactPoint{}
			email := false
			switch string(v.Comp(3).Raw()) { // HL7 table 0202
			case "PH":
				t.System = "phone"
			case "CP": // R4 has no system "mobile"
				t.System, t.Use = "phone", "mobile"
			case "FX":
				t.System = "fax"
			case "BP":
				t.System = "pager"
			case "Internet", "X.400":
				t.System, email = "email", true
			case "MD", "SAT", "TDD", "TTY":
				t.System = "other"
			case "":
				if email = !v.Comp(4).Empty(); email {
					t.System = "email"
				}
			}
			if email {
				t.Value = c.part(v.Comp(4))
			} else {
				t.Value = c.telephone(v)
			}
			if t.Value == "" {
				continue
			}
			if t.System == "" {
				t.SystemAbsent = "unknown"
			}
			switch use := string(v.Comp(2).Raw()); { // HL7 table 0201
			case use == "PRN", use == "" && i == 0 && t.Use == "":
				t.Use = "home"
			case use == "WPN", use == "" && i == 1 && t.Use == "":
				t.Use = "work"
			case use == "PRS":
				t.Use = "mobile"
			}
			c.telecom = append(c.telecom, t)
		}
	}
	return c.telecom[first:len(c.telecom):len(c.telecom)]
}

// telephone gives XTN.12, else the parts in XTN.5 to XTN.8, else XTN.1.
func (c *Converter) telephone(v hl7.Value) string {
	if s := c.part(v.Comp(12)); s != "" {
		return s
	}
	country, area, local, extension := c.part(v.Comp(5)), c.part(v.Comp(6)), c.part(v.Comp(7)), c.part(v.Comp(8))
	if local == "" {
		return c.part(v.Comp(1))
	}
	start := len(c.arena)
	if country != "" {
		c.arena = append(append(append(c.arena, '+'), country...), ' ')
	}
	if area != "" {
		c.arena = append(append(c.arena, area...), ' ')
	}
	c.arena = append(c.arena, local...)
	if extension != "" {
		c.arena = append(append(c.arena, " X"...), extension...)
	}
	return c.since(start)
}

// deceased reads PID-29 and, where it is empty, PID-30.
func (c *Converter) deceased(s hl7.Segment) string {
	if f := s.Field(29).Comp(1); !f.Empty() && !f.Null() {
		if st, ok := c.stampOf(f, s, 29); ok {
			return st.text
		}
	}
	switch string(s.Field(30).Raw()) {
	case "Y":
		return "true"
	case "N":
		return "false"
	}
	return ""
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

// birthDate reads PID-7 as a FHIR date, "" where it says none or nonsense, and as a dateTime where it states the hour
// (v2-to-FHIR IG, PID-7). Midnight to the second is what programs write for "no time".
func (c *Converter) birthDate(v hl7.Value) (date, born string) {
	t, err := v.Time(c.zone.loc)
	if err != nil {
		return "", ""
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
	date = c.since(start)
	if t.Precision > hl7.Day && (t.ZoneGiven || c.zone.loc != nil) && !(t.Hour() == 0 && t.Minute() == 0 && t.Second() == 0) {
		start = len(c.arena)
		c.arena = appendDateTime(c.arena, t)
		born = c.since(start)
	}
	return date, born
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
	r := fhir.Patient{
		ID: p.id, Identifier: p.ids, Name: p.names, Telecom: p.telecom, Gender: p.gender,
		BirthDate: p.birth, BirthTime: p.born, Deceased: p.dead, Address: p.address,
	}
	if p.prior >= 0 {
		r.Link = fhir.Link{Other: c.urn(c.merged[p.prior].id), Type: "replaces"}
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
	if c.d.noBed || c.places {
		return
	}
	pl := s.Field(3)
	bed := c.text(pl.Comp(3).Sub(1))
	if c.d.bed.segment != "" {
		bed = c.text(c.d.bed.in(s))
	}
	ward := false
	if c.d.bedNumber.segment != "" && bed != "" {
		if number := c.text(c.d.bedNumber.in(s)); number != "" && number != `""` {
			bed = c.join(bed, " ", number)
		} else {
			ward = true
		}
	}
	l := c.place(pl, bed)
	if ward {
		l.Physical = ""
	}
	if c.d.bedID.segment != "" && l.Name != "" {
		l.Identifier.Value = c.part(c.d.bedID.in(s))
	}
	if c.location.Name != "" && l.Name != "" && (l.Name != c.location.Name || l.Identifier.Value != c.location.Identifier.Value) {
		c.event(EventPlaces, s, 3, "the message names more than one bed: its devices are said to be at none")
		c.location, c.places = fhir.Location{}, true
		return
	}
	if l.Name != "" {
		c.location = l
	}
}

// place makes the Location of a PL whose bed is called so.
func (c *Converter) place(pl hl7.Value, bed string) (l fhir.Location) {
	care, room := c.text(pl.Comp(1).Sub(1)), c.text(pl.Comp(2).Sub(1))
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
		return l
	}
	l.Name = c.since(start)
	if bed != "" {
		l.Physical = "bd"
	}
	return l
}

// readEncounter reads the stay of a known patient (v2-to-FHIR IG, PV1[Encounter]) where the message is about stays or says
// which one it is, by a visit number or its begin: a class alone names none. trigger is the event of an ADT message, "" of any other.
func (c *Converter) readEncounter(s hl7.Segment, patient int32, trigger string) {
	if patient < 0 || c.encounter.ID != "" {
		return
	}
	class := c.part(s.Field(2).Comp(1))
	first := len(c.ids)
	visit := len(c.identifiers(s, 19))
	c.identifiers(s, 50)
	ids := c.ids[first:len(c.ids):len(c.ids)]
	from, began := c.stampOf(s.Field(44).Comp(1), s, 44)
	to, ended := c.stampOf(s.Field(45).Comp(1), s, 45)
	if trigger == "" && visit == 0 && !began {
		return
	}
	e := fhir.Encounter{Identifier: ids, Subject: c.urn(c.patients[patient].id), Status: "in-progress"}
	for i := range ids[:visit] {
		ids[i].TypeCode, ids[i].TypeText = "VN", "visit number"
	}
	switch class { // HL7 table 0004 (v2-to-FHIR IG, PatientClass)
	case "E":
		e.Class = fhir.Coding{System: systemActCode, Code: "EMER", Display: "emergency"}
	case "I":
		e.Class = fhir.Coding{System: systemActCode, Code: "IMP", Display: "inpatient encounter"}
	case "O":
		e.Class = fhir.Coding{System: systemActCode, Code: "AMB", Display: "ambulatory"}
	case "P":
		e.Class = fhir.Coding{System: systemActCode, Code: "PRENC", Display: "pre-admission"}
		e.Status = "planned"
	case "U":
		e.Status = "unknown"
		e.Class = fhir.Coding{System: systemPatientClass, Code: class}
	default:
		if isCode(class) {
			e.Class = fhir.Coding{System: systemPatientClass, Code: class}
		}
	}
	if began {
		e.Period.Start = from.text
	}
	if ended && (!began || !to.before(from)) {
		e.Period.End = to.text
	}
	place := "active"
	if e.Status == "planned" {
		place = "planned"
	}
	if ended || trigger == "A03" {
		e.Status, place = "finished", "completed"
	}
	e.Location[0].Status = place
	e.Participant = c.participants(s)
	if trigger != "" {
		c.prior = c.place(s.Field(6), c.text(s.Field(6).Comp(3).Sub(1)))
	}
	switch {
	case len(ids) > 0 && ids[0].System == "" && ids[0].Assigner == "": // another hospital gives out the same number
		e.ID = c.uuid("encounter of box", c.at.Box, ids[0].Value)
	case len(ids) > 0:
		e.ID = c.uuid("encounter", ids[0].System, ids[0].Assigner, ids[0].Value)
	default:
		e.ID = c.uuid("encounter of", c.patients[patient].id, e.Class.Code, e.Period.Start)
	}
	c.encounter, c.stays = e, patient
}

// Code systems of Encounter.class.
const (
	systemActCode      = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
	systemPatientClass = "http://terminology.hl7.org/CodeSystem/v2-0004"
)

// readMerge reads MRG-1 of an ADT^A40 (v2-to-FHIR IG, MRG[Patient]): the numbers under which the patient of the PID before it
// is no longer kept.
func (c *Converter) readMerge(s hl7.Segment, into int32) {
	if into < 0 || len(c.merged) == maxPatients {
		return
	}
	p := patient{segment: s, prior: -1, ids: c.identifiers(s, 1, 4)}
	if len(p.ids) == 0 {
		return
	}
	p.id = c.uuid("patient", c.join(p.ids[0].System, "|", p.ids[0].Assigner, "|", p.ids[0].Value))
	if p.id == c.patients[into].id || c.patients[into].prior >= 0 {
		return
	}
	for i := range c.merged {
		if c.merged[i].id == p.id {
			return
		}
	}
	for i := range c.patients {
		if c.patients[i].id == p.id {
			return
		}
	}
	p.prior = into
	c.patients[into].prior = int32(len(c.merged))
	c.merged = append(c.merged, p)
}

// writeMerged writes the records that were merged into others.
func (c *Converter) writeMerged() {
	for i := range c.merged {
		p := &c.merged[i]
		r := fhir.Patient{ID: p.id, Identifier: p.ids, Inactive: true, Link: fhir.Link{Other: c.urn(c.patients[p.prior].id), Type: "replaced-by"}}
		c.entry(p.id)
		c.out = fhir.EndEntry(r.Append(c.out))
	}
}

// writeEncounter writes the stay and, where it has one, the place before the present one.
func (c *Converter) writeEncounter() {
	e := &c.encounter
	if e.ID == "" {
		return
	}
	if c.location.Name != "" {
		e.Location[0].Location = c.urn(c.location.ID)
	}
	if c.prior.Name != "" && c.prior.Name != c.location.Name {
		c.prior.ID = c.uuid("location", c.at.Box, c.prior.Name)
		c.entry(c.prior.ID)
		c.out = fhir.EndEntry(c.prior.Append(c.out))
		before := fhir.EncounterLocation{Location: c.urn(c.prior.ID), Status: "completed"}
		if e.Location[0].Location == "" {
			e.Location[0] = before
		} else {
			e.Location[1] = before
		}
	}
	c.entry(e.ID)
	c.out = fhir.EndEntry(e.Append(c.out))
}
