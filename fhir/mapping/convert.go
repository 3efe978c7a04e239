package mapping

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/vitalgate/vitalgate/fhir"
	"github.com/vitalgate/vitalgate/hl7"
)

// Converter turns messages of one dialect into Bundles. It keeps its buffers from message to message, so a steady
// stream costs next to no allocation. It must not be used from several goroutines at once.
type Converter struct {
	d *Dialect

	// Of the message at hand. Strings in these point into arena and die at the next Convert.
	m             *hl7.Message
	at            *Context
	kind          string
	results       bool // the rows of the message may be measurements
	test          bool // MSH-11 says debugging or training
	untyped       bool // MSH-9 is no type
	reportsAlert  bool // the message reports alerts in rows of their own
	says          says // what the message is to its line's association
	inherits      bool // the message takes its patient from the line
	zone          zone
	arena         []byte
	key           []byte // scratch of table look-ups and of identities
	rows          []row
	groups        []group
	panels        []panel
	patients      []patient
	devices       []device
	nodes         []node
	scopes        []scope
	metrics       []metric
	location      fhir.Location
	prior         fhir.Location // PV1-6
	encounter     fhir.Encounter
	places        bool  // the message names several, so that none is the place of its devices
	stays         int32 // patient of the encounter
	merged        []patient
	related       []fhir.RelatedPerson
	practitioners []fhir.Practitioner
	roles         []fhir.PractitionerRole
	organizations []fhir.Organization
	participant   []fhir.Participant
	performers    []string
	notes         []string
	rowOpen       bool // the last OBX became a row
	byKey         map[uint64]int32
	codings       []fhir.Coding
	concepts      []fhir.CodeableConcept
	ids           []fhir.Identifier
	names         []fhir.HumanName
	telecom       []fhir.ContactPoint
	address       []fhir.Address
	targets       []string
	times         timeCache
	component     [3]fhir.Component
	components    []fhir.Component
	observe       fhir.Observation

	out    []byte
	any    bool // an entry was written
	r      Result
	bundle string
	// The last association key handed out: it outlives the message, so it is a string of its own.
	patientKey string
}

// NewConverter makes a Converter of dialect d.
func NewConverter(d *Dialect) *Converter {
	return &Converter{d: d, byKey: map[uint64]int32{}}
}

// text gives the decoded text of v without surrounding blanks, in the arena.
func (c *Converter) text(v hl7.Value) string {
	if v.Empty() {
		return ""
	}
	start := len(c.arena)
	c.arena = v.AppendText(c.arena)
	return strings.TrimSpace(c.since(start))
}

// since gives what was appended to the arena from start on, as a string. The bytes are not written again before the
// next Convert; a grown arena leaves the old bytes where they are.
func (c *Converter) since(start int) string {
	b := c.arena[start:]
	return unsafe.String(unsafe.SliceData(b), len(b))
}

func (c *Converter) join(parts ...string) string {
	start := len(c.arena)
	for _, s := range parts {
		c.arena = append(c.arena, s...)
	}
	return c.since(start)
}

// sum is the SHA-256 of the parts. Each part stands with its length: what is sent in one part cannot look like two.
func (c *Converter) sum(parts ...string) [sha256.Size]byte {
	c.key = c.key[:0]
	for _, s := range parts {
		c.key = binary.AppendUvarint(c.key, uint64(len(s)))
		c.key = append(c.key, s...)
	}
	return sha256.Sum256(c.key)
}

// uuid gives a UUID of version 8 (RFC 9562 §5.8) from the parts, so that the same thing has the same id in every message.
func (c *Converter) uuid(parts ...string) string { return c.uuidOf(c.sum(parts...)) }

func (c *Converter) uuidOf(h [sha256.Size]byte) string {
	h[6] = h[6]&0x0f | 0x80
	h[8] = h[8]&0x3f | 0x80
	start := len(c.arena)
	for i, n := 0, 0; i < 16; i += n {
		switch i {
		case 0:
			n = 4
		case 10:
			n = 6
		default:
			n = 2
		}
		if i > 0 {
			c.arena = append(c.arena, '-')
		}
		c.arena = hex.AppendEncode(c.arena, h[i:i+n])
	}
	return c.since(start)
}

func (c *Converter) urn(id string) string { return c.join("urn:uuid:", id) }

// event records a finding about a field of a segment.
func (c *Converter) event(code string, s hl7.Segment, field int, what string) {
	switch n := len(c.r.Events); {
	case n == maxEvents:
		c.r.Events = append(c.r.Events, Event{EventTooMany, "", "further findings of this message are not listed"})
		return
	case n > maxEvents:
		return
	}
	where := ""
	if name := s.Name(); name != "" {
		where = name + "[" + strconv.Itoa(s.Sequence()) + "]"
		if field > 0 {
			where += "-" + strconv.Itoa(field)
		}
	}
	c.r.Events = append(c.r.Events, Event{code, where, what})
}

// Convert makes the Bundle of one message. The same message and Context give the same bytes. What it cannot use is kept
// as text and named in Events; an error, always an *hl7.Error, means that there is no message to convert.
//
// The Result's Bundle is valid until the next call.
func (c *Converter) Convert(m *hl7.Message, at Context) (Result, error) {
	if m == nil || m.Len() == 0 {
		return Result{}, &hl7.Error{Code: hl7.CodeSegmentSequence, What: "cannot convert an empty message", Remedy: "the message must begin with MSH"}
	}
	c.reset(m, &at)
	typ, trigger, _ := m.Type()
	c.kind = c.kindOf(typ, trigger)
	// Rows of admissions, orders and the like are entries by people, not measurements.
	c.results = (typ == "ORU" || typ == "ORF" || typ == "OUL") && c.kind != KindADT && c.kind != KindOther
	c.untyped = !isMessageType(typ)
	c.reportsAlert = typ == "ORU" && trigger == "R40" // IHE PCD-04
	c.says = c.d.saysOf(m, typ, trigger)
	if typ == "ADT" {
		c.readSegments(trigger)
	} else {
		c.readSegments("")
	}
	c.settle()
	c.write(typ, trigger)
	c.r.Association = c.associate()
	c.m, c.at = nil, nil
	return c.r, nil
}

func (c *Converter) reset(m *hl7.Message, at *Context) {
	c.m, c.at = m, at
	c.arena, c.out = c.arena[:0], c.out[:0]
	c.rows, c.groups, c.panels, c.patients = c.rows[:0], c.groups[:0], c.panels[:0], c.patients[:0]
	c.devices, c.nodes, c.scopes, c.metrics = c.devices[:0], c.nodes[:0], c.scopes[:0], c.metrics[:0]
	c.codings, c.concepts, c.ids, c.names, c.targets = c.codings[:0], c.concepts[:0], c.ids[:0], c.names[:0], c.targets[:0]
	c.telecom, c.address = c.telecom[:0], c.address[:0]
	c.location, c.prior, c.encounter = fhir.Location{}, fhir.Location{}, fhir.Encounter{}
	c.merged, c.notes = c.merged[:0], c.notes[:0]
	c.related, c.practitioners, c.roles, c.organizations = c.related[:0], c.practitioners[:0], c.roles[:0], c.organizations[:0]
	c.participant, c.performers = c.participant[:0], c.performers[:0]
	c.places = false
	c.times.valid = false
	c.any = false
	c.r = Result{} // Events are the caller's
	c.test = false
	header := m.Header()
	switch raw := header.Field(11).Comp(1).Raw(); {
	case len(raw) == 1 && (raw[0] == 'D' || raw[0] == 'T'): // debugging, training (HL7 table 0103): of no patient
		c.test = true
	}
	c.zone = c.zoneOf(header.Field(7))
}

// isMessageType says whether s has the form of a code of HL7 table 0076.
func isMessageType(s string) bool {
	for i := range len(s) {
		if (s[i] < 'A' || s[i] > 'Z') && (s[i] < '0' || s[i] > '9') {
			return false
		}
	}
	return len(s) == 3
}

// kindOf names the kind of message: by the dialect's rules, else by its type.
func (c *Converter) kindOf(typ, trigger string) string {
	for i := range c.d.messages {
		r := &c.d.messages[i]
		if r.typ != "" {
			if isType(r.typ, typ, trigger) {
				return r.kind
			}
			continue
		}
		if r.cond.inMessage(c.m) {
			return r.kind
		}
	}
	switch {
	case typ == "ADT":
		return KindADT
	case typ == "ORU" && trigger == "R40":
		return KindAlarm
	case typ == "ORU" && trigger == "W01":
		return KindWaveform
	}
	return "" // by its rows
}

// readSegments reads the message once, from the first segment to the last. trigger is the event of an ADT message.
func (c *Converter) readSegments(trigger string) {
	currentPatient, currentGroup, before := c.inherit(), int32(-1), ""
	for i := 0; i < c.m.Len(); i++ {
		s := c.m.Segment(i)
		switch s.Name() {
		case "PID":
			currentPatient, currentGroup = c.readPatient(s), -1 // an order of the patient before is none of this one
		case "PV1":
			c.readLocation(s)
			c.readEncounter(s, currentPatient, trigger)
		case "NK1":
			c.readRelated(s, currentPatient)
		case "MRG":
			c.readMerge(s, currentPatient)
		case "NTE":
			c.readNote(s, before)
			continue
		case "OBR":
			currentGroup = c.readGroup(s)
		case "OBX":
			if currentGroup < 0 {
				currentGroup = c.readGroup(hl7.Segment{})
			}
			rows := len(c.rows)
			c.readRow(s, currentPatient, currentGroup)
			c.rowOpen = len(c.rows) > rows
		}
		before = s.Name()
	}
	if c.location.Name == "" && c.at.Bed != "" && !c.places {
		c.location = fhir.Location{Name: c.at.Bed, Physical: "bd"}
	}
	if c.location.Name != "" {
		c.location.ID = c.uuid("location", c.at.Box, c.location.Name, c.location.Identifier.Value)
	}
}

// write makes the Bundle.
func (c *Converter) write(typ, trigger string) {
	clear(c.byKey)
	digest := sha256.Sum256(c.m.Raw())
	start := len(c.arena)
	c.arena = append(c.arena, "nih:sha-256;"...) // RFC 6920 §7
	c.arena = hex.AppendEncode(c.arena, digest[:])
	source := c.since(start)
	c.bundle = c.uuid("bundle", c.at.Box, c.at.Monitor, source)
	arrived := ""
	if !c.at.Arrived.IsZero() {
		start := len(c.arena)
		c.arena = c.at.Arrived.UTC().AppendFormat(c.arena, "2006-01-02T15:04:05.000Z07:00")
		arrived = c.since(start)
	}
	c.out = fhir.BeginBundle(c.out, c.bundle, fhir.Identifier{System: fhir.SystemURI, Value: source}, arrived)

	for i := range c.patients {
		c.writePatient(&c.patients[i])
	}
	c.writeMerged()
	c.writePeople()
	c.writeDevices()
	c.writeEncounter()
	for i := range c.rows {
		c.writeRow(int32(i))
	}
	if len(c.targets) == 0 {
		for i := range c.patients {
			c.targets = append(c.targets, c.urn(c.patients[i].id))
		}
	}
	if len(c.targets) > 0 {
		p := fhir.Provenance{ID: c.uuid("provenance", c.bundle), Target: c.targets, Recorded: arrived, Agent: "vitalgate", Entity: source}
		if arrived == "" {
			p.RecordedAbsent = "unknown"
		}
		if c.at.Box != "" {
			p.Agent = c.join("vitalgate ", c.at.Box)
		}
		p.EntityText = c.join("HL7 v2 ", typ, "^", trigger, ", dialect ", c.d.Name)
		if c.inherits {
			p.EntityText = c.join(p.EntityText, ", patient and bed from message ", c.at.Association.source)
		}
		c.entry(p.ID)
		c.out = fhir.EndEntry(p.Append(c.out))
	}
	c.out = fhir.EndBundle(c.out, c.any)
	c.r.Bundle = c.out
	c.r.Kind = c.kind
	switch c.kind {
	case kindKeepAlive:
		c.r.Kind, c.r.KeepAlive = KindOther, c.m.Len() == 1
	case KindAlarm: // a watchdog is none
		if len(c.rows) > 0 && c.kindByRows() == KindOther {
			c.r.Kind = KindOther
		}
	case "":
		if c.r.Kind = c.kindByRows(); c.untyped {
			c.r.Kind = KindOther
		}
	}
	c.r.Patient = c.associationKey()
}

func (c *Converter) kindByRows() string {
	measured, waves, alarms := 0, 0, 0
	for i := range c.rows {
		switch r := &c.rows[i]; {
		case r.gone && r.panel < 0:
		case r.isWave:
			waves++
		case r.as == alarm:
			alarms++
		case r.as == measurement:
			measured++
		}
	}
	switch {
	case measured > 0:
		return KindVitals
	case waves > 0:
		return KindWaveform
	case alarms > 0:
		return KindAlarm
	}
	return KindOther
}

func (c *Converter) entry(id string) {
	c.out = fhir.Entry(c.out, !c.any, id)
	c.any = true
}

func (c *Converter) seen(t time.Time) {
	if !t.IsZero() && (c.r.Observed.IsZero() || t.Before(c.r.Observed)) {
		c.r.Observed = t
	}
}

// hash is FNV-1a over the parts, for look-ups inside one message only.
func hash(parts ...string) uint64 {
	h := uint64(14695981039346656037)
	for _, s := range parts {
		for i := 0; i < len(s); i++ {
			h = (h ^ uint64(s[i])) * 1099511628211
		}
		h = (h ^ 0xff) * 1099511628211
	}
	return h
}
