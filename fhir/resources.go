package fhir

func begin(b []byte, resourceType, id string) []byte {
	b = append(b, `{"resourceType":"`...)
	b = append(b, resourceType...)
	b = append(b, '"')
	return text(b, "id", id)
}

// Append adds the Observation's JSON.
func (o *Observation) Append(b []byte) []byte {
	b = begin(b, "Observation", o.ID)
	if o.Profile != "" || len(o.Security) > 0 {
		b = open(b, "meta")
		if o.Profile != "" {
			b = append(key(b, "profile"), '[')
			b = append(AppendString(b, o.Profile), ']')
		}
		if len(o.Security) > 0 {
			b = append(key(b, "security"), '[')
			for i := range o.Security {
				b = o.Security[i].append(comma(b))
			}
			b = append(b, ']')
		}
		b = append(b, '}')
	}
	b = extensions(b, o.Extension)
	if o.Identifier.Value != "" {
		b = append(key(b, "identifier"), '[')
		b = append(o.Identifier.append(b), ']')
	}
	b = text(b, "status", o.Status)
	if !o.Category.empty() {
		b = append(key(b, "category"), '[', '{')
		b = append(key(b, "coding"), '[')
		b = append(o.Category.append(b), ']', '}', ']')
	}
	b = concept(b, "code", &o.Code)
	b = reference(b, "subject", &o.Subject)
	b = reference(b, "encounter", &o.Encounter)
	b = text(b, "effectiveDateTime", o.Effective)
	b = period(b, "effectivePeriod", o.EffectivePeriod)
	if o.EffectiveAbsent != "" || o.EffectiveRaw != "" {
		b = append(key(b, "_effectiveDateTime"), '{')
		b = append(key(b, "extension"), '[')
		if o.EffectiveAbsent != "" {
			b = (&Extension{URL: ExtensionDataAbsent, Code: o.EffectiveAbsent}).append(b)
		}
		if o.EffectiveRaw != "" {
			b = (&Extension{URL: ExtensionMonitorTime, String: o.EffectiveRaw}).append(comma(b))
		}
		b = append(b, ']', '}')
	}
	b = references(b, "performer", o.Performer)
	b = o.Value.append(b)
	b = absentReason(b, o.Absent)
	b = concepts(b, "interpretation", o.Interpretation)
	if len(o.Note) > 0 {
		b = append(key(b, "note"), '[')
		for _, n := range o.Note {
			b = append(comma(b), '{')
			b = append(text(b, "text", n), '}')
		}
		b = append(b, ']')
	}
	b = concept(b, "bodySite", &o.BodySite)
	b = concept(b, "method", &o.Method)
	b = reference(b, "device", &o.Device)
	b = referenceRange(b, &o.Range)
	if len(o.Component) > 0 {
		b = append(key(b, "component"), '[')
		for i := range o.Component {
			c := &o.Component[i]
			b = append(comma(b), '{')
			b = concept(b, "code", &c.Code)
			b = c.Value.append(b)
			b = absentReason(b, c.Absent)
			b = concepts(b, "interpretation", c.Interpretation)
			b = referenceRange(b, &c.Range)
			b = append(b, '}')
		}
		b = append(b, ']')
	}
	return append(b, '}')
}

// ExtensionMonitorTime keeps the digits of a time that could not be placed on the time line as they stood.
const ExtensionMonitorTime = "https://vitalgate.github.io/fhir/StructureDefinition/monitor-time"

// ExtensionBirthTime is the standard extension for the time of birth (v2-to-FHIR IG, PID-7).
const ExtensionBirthTime = "http://hl7.org/fhir/StructureDefinition/patient-birthTime"

// Append adds the Patient's JSON.
func (p *Patient) Append(b []byte) []byte {
	b = begin(b, "Patient", p.ID)
	b = identifiers(b, p.Identifier)
	if p.Inactive {
		b = append(key(b, "active"), "false"...)
	}
	b = names(b, p.Name)
	b = telecoms(b, p.Telecom)
	b = text(b, "gender", p.Gender)
	b = text(b, "birthDate", p.BirthDate)
	if p.BirthDate != "" && p.BirthTime != "" {
		b = append(key(b, "_birthDate"), '{')
		b = append(key(b, "extension"), '[')
		b = append((&Extension{URL: ExtensionBirthTime, DateTime: p.BirthTime}).append(b), ']', '}')
	}
	switch p.Deceased {
	case "true", "false":
		b = number(b, "deceasedBoolean", p.Deceased)
	default:
		b = text(b, "deceasedDateTime", p.Deceased)
	}
	b = addresses(b, p.Address)
	if p.Link.Other != "" {
		b = append(key(b, "link"), '[', '{')
		b = reference(b, "other", &Reference{Reference: p.Link.Other})
		b = append(text(b, "type", p.Link.Type), '}', ']')
	}
	return append(b, '}')
}

// words appends the member name with the given strings that are not empty as an array, unless all are.
func words(b []byte, name string, list ...string) []byte {
	first := true
	for _, s := range list {
		if s == "" {
			continue
		}
		if first {
			b = append(key(b, name), '[')
			first = false
		}
		b = AppendString(comma(b), s)
	}
	if first {
		return b
	}
	return append(b, ']')
}

// Append adds the Encounter's JSON.
func (e *Encounter) Append(b []byte) []byte {
	b = begin(b, "Encounter", e.ID)
	b = identifiers(b, e.Identifier)
	b = text(b, "status", e.Status)
	b = key(b, "class")
	if e.Class.Code != "" {
		b = e.Class.append(b)
	} else {
		b = append(absentExtension(append(b, '{'), "unknown"), '}')
	}
	b = reference(b, "subject", &Reference{Reference: e.Subject})
	if len(e.Participant) > 0 {
		b = append(key(b, "participant"), '[')
		for i := range e.Participant {
			p := &e.Participant[i]
			b = append(comma(b), '{')
			b = append(key(b, "type"), '[', '{')
			b = append(key(b, "coding"), '[')
			b = append(p.Type.append(b), ']')
			b = append(text(b, "text", p.Text), '}', ']')
			b = append(reference(b, "individual", &Reference{Reference: p.Individual}), '}')
		}
		b = append(b, ']')
	}
	b = period(b, "period", e.Period)
	if e.Location[0].Location != "" {
		b = append(key(b, "location"), '[')
		for _, l := range e.Location {
			if l.Location == "" {
				continue
			}
			b = append(comma(b), '{')
			b = reference(b, "location", &Reference{Reference: l.Location})
			b = append(text(b, "status", l.Status), '}')
		}
		b = append(b, ']')
	}
	return append(b, '}')
}

// Append adds the Practitioner's JSON.
func (p *Practitioner) Append(b []byte) []byte {
	b = begin(b, "Practitioner", p.ID)
	b = identifiers(b, p.Identifier)
	return append(names(b, p.Name), '}')
}

// Append adds the PractitionerRole's JSON.
func (r *PractitionerRole) Append(b []byte) []byte {
	b = begin(b, "PractitionerRole", r.ID)
	b = reference(b, "practitioner", &Reference{Reference: r.Practitioner})
	b = reference(b, "organization", &Reference{Reference: r.Organization})
	b = append(key(b, "code"), '[', '{')
	b = append(key(b, "coding"), '[')
	return append(r.Code.append(b), ']', '}', ']', '}')
}

// Append adds the Organization's JSON.
func (o *Organization) Append(b []byte) []byte {
	b = begin(b, "Organization", o.ID)
	b = identifiers(b, o.Identifier)
	b = text(b, "name", o.Name)
	return append(addresses(b, o.Address), '}')
}

// Append adds the RelatedPerson's JSON.
func (p *RelatedPerson) Append(b []byte) []byte {
	b = begin(b, "RelatedPerson", p.ID)
	b = identifiers(b, p.Identifier)
	b = reference(b, "patient", &Reference{Reference: p.Patient})
	b = concepts(b, "relationship", p.Relationship)
	b = names(b, p.Name)
	b = telecoms(b, p.Telecom)
	b = text(b, "gender", p.Gender)
	b = text(b, "birthDate", p.BirthDate)
	b = addresses(b, p.Address)
	return append(period(b, "period", p.Period), '}')
}

// Append adds the Device's JSON.
func (d *Device) Append(b []byte) []byte {
	b = begin(b, "Device", d.ID)
	b = identifiers(b, d.Identifier)
	b = text(b, "manufacturer", d.Manufacturer)
	b = text(b, "serialNumber", d.Serial)
	if d.Name != "" {
		b = append(key(b, "deviceName"), '[', '{')
		b = text(b, "name", d.Name)
		b = append(text(b, "type", "user-friendly-name"), '}', ']')
	}
	b = concept(b, "type", &d.Type)
	b = reference(b, "location", &d.Location)
	b = reference(b, "parent", &d.Parent)
	return append(b, '}')
}

// ExtensionReferenceRange is the PoCD IG's extension for the alarm limits that are set on a metric (uv-pocd mappingv2, OBX-7).
const ExtensionReferenceRange = "http://hl7.org/fhir/StructureDefinition/reference-range"

// Append adds the DeviceMetric's JSON.
func (d *DeviceMetric) Append(b []byte) []byte {
	b = begin(b, "DeviceMetric", d.ID)
	if r := &d.Range; !r.Type.empty() && !(r.Low.empty() && r.High.empty()) {
		b = append(key(b, "extension"), '[', '{')
		b = append(key(b, "extension"), '[', '{')
		b = append(concept(text(b, "url", "type"), "valueCodeableConcept", &r.Type), '}')
		if !r.Low.empty() {
			b = append(comma(b), '{')
			b = append(quantity(text(b, "url", "low"), "valueQuantity", &r.Low), '}')
		}
		if !r.High.empty() {
			b = append(comma(b), '{')
			b = append(quantity(text(b, "url", "high"), "valueQuantity", &r.High), '}')
		}
		b = append(b, ']')
		b = append(text(b, "url", ExtensionReferenceRange), '}', ']')
	}
	b = concept(b, "type", &d.Type)
	b = concept(b, "unit", &d.Unit)
	b = reference(b, "source", &d.Source)
	b = reference(b, "parent", &d.Parent)
	b = text(b, "category", d.Category)
	return append(b, '}')
}

// Append adds the Location's JSON.
func (l *Location) Append(b []byte) []byte {
	b = begin(b, "Location", l.ID)
	if l.Identifier.Value != "" {
		b = append(key(b, "identifier"), '[')
		b = append(l.Identifier.append(b), ']')
	}
	b = text(b, "name", l.Name)
	b = text(b, "description", l.Description)
	if l.Physical != "" {
		b = open(b, "physicalType")
		b = append(key(b, "coding"), '[')
		b = Coding{System: "http://terminology.hl7.org/CodeSystem/location-physical-type", Code: l.Physical}.append(b)
		b = append(b, ']', '}')
	}
	return append(b, '}')
}

// Append adds the Provenance's JSON.
func (p *Provenance) Append(b []byte) []byte {
	b = begin(b, "Provenance", p.ID)
	b = append(key(b, "target"), '[')
	for _, t := range p.Target {
		b = append(comma(b), '{')
		b = append(text(b, "reference", t), '}')
	}
	b = append(b, ']')
	b = text(b, "recorded", p.Recorded)
	if p.RecordedAbsent != "" {
		b = append(key(b, "_recorded"), '{')
		b = append(absentExtension(b, p.RecordedAbsent), '}')
	}
	b = append(key(b, "agent"), '[', '{')
	b = open(b, "type")
	b = append(key(b, "coding"), '[')
	b = Coding{System: "http://terminology.hl7.org/CodeSystem/provenance-participant-type", Code: "assembler"}.append(b)
	b = append(b, ']', '}')
	b = open(b, "who")
	b = append(text(b, "display", p.Agent), '}', '}', ']')
	if p.Entity != "" {
		b = append(key(b, "entity"), '[', '{')
		b = text(b, "role", "source")
		b = open(b, "what")
		b = append(key(b, "identifier"), '{')
		b = text(b, "system", SystemURI)
		b = append(text(b, "value", p.Entity), '}')
		b = text(b, "display", p.EntityText)
		b = append(b, '}', '}', ']')
	}
	return append(b, '}')
}

// BeginBundle opens a Bundle of type collection: call Entry before each resource's Append, EndBundle at the end.
// timestamp is an instant or "".
func BeginBundle(b []byte, id string, identifier Identifier, timestamp string) []byte {
	b = begin(b, "Bundle", id)
	if identifier.Value != "" {
		b = identifier.append(key(b, "identifier"))
	}
	b = text(b, "type", "collection")
	return text(b, "timestamp", timestamp)
}

// Entry opens the Bundle entry of the resource with this id (a UUID), the first one or a further one, and leaves
// the place where its JSON goes. EndEntry closes it.
func Entry(b []byte, first bool, id string) []byte {
	if first {
		b = append(b, `,"entry":[`...)
	} else {
		b = append(b, ',')
	}
	b = append(b, `{"fullUrl":"urn:uuid:`...)
	b = append(b, id...)
	return append(b, `","resource":`...)
}

// EndEntry closes what Entry opened.
func EndEntry(b []byte) []byte { return append(b, '}') }

// EndBundle closes the Bundle; entries says whether there was any.
func EndBundle(b []byte, entries bool) []byte {
	if entries {
		b = append(b, ']')
	}
	return append(b, '}')
}

// AppendOutcome adds the JSON of an OperationOutcome with the given issues (at least one, FHIR R4 operationoutcome.html).
func AppendOutcome(b []byte, issues []Issue) []byte {
	b = append(b, `{"resourceType":"OperationOutcome","issue":[`...)
	for i := range issues {
		s := &issues[i]
		b = append(comma(b), '{')
		b = text(b, "severity", s.Severity)
		b = text(b, "code", s.Code)
		if s.DetailsCode != "" || s.DetailsText != "" {
			b = open(b, "details")
			if s.DetailsCode != "" {
				b = append(key(b, "coding"), '[')
				b = Coding{System: "http://terminology.hl7.org/CodeSystem/v2-0357", Code: s.DetailsCode}.append(b)
				b = append(b, ']')
			}
			b = append(text(b, "text", s.DetailsText), '}')
		}
		b = text(b, "diagnostics", s.Diagnostics)
		if s.Expression != "" {
			b = append(key(b, "location"), '[')
			b = append(AppendString(b, s.Expression), ']')
		}
		b = append(b, '}')
	}
	return append(b, ']', '}')
}
