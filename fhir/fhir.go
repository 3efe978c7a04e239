// Package fhir holds the FHIR R4 (4.0.1) resources that vitalgate emits and writes their JSON.
//
// The resources are plain structs; each has an Append method that adds its JSON to a byte slice and, given
// enough capacity, allocates nothing. Only elements that vitalgate fills exist here. The package does no I/O
// and knows nothing about HL7 v2: which value stands where is decided in package mapping.
//
// Append methods leave out every element whose value is empty, so that no "" string, no empty array and no
// empty object is ever written (FHIR R4 json.html: "Properties can never be empty"). Decimals are text and are
// written digit by digit as the monitor sent them: 72.50 stays 72.50 (FHIR R4 datatypes.html#decimal, "the
// precision of the decimal value has significance").
package fhir

// Systems and extensions used by more than one resource.
const (
	SystemLOINC          = "http://loinc.org"
	SystemMDC            = "urn:iso:std:iso:11073:10101" // ISO/IEEE 11073-10101, number as code (uv-pocd terminology)
	SystemUCUM           = "http://unitsofmeasure.org"
	SystemURI            = "urn:ietf:rfc:3986"
	SystemDataAbsent     = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
	SystemCategory       = "http://terminology.hl7.org/CodeSystem/observation-category"
	SystemInterpretation = "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation"
	SystemActReason      = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
	SystemReliability    = "http://terminology.hl7.org/CodeSystem/v3-ObservationValue"
	SystemIdentifierType = "http://terminology.hl7.org/CodeSystem/v2-0203"
	ExtensionDataAbsent  = "http://hl7.org/fhir/StructureDefinition/data-absent-reason"
)

// Coding is one code of one code system. Any field may be empty.
type Coding struct{ System, Code, Display, Version string }

// CodeableConcept is one meaning in several codings and words.
type CodeableConcept struct {
	Coding []Coding
	Text   string
}

// Identifier names a thing in a namespace. TypeCode is a code of HL7 table 0203.
type Identifier struct {
	Use, TypeCode, TypeText, System, Value, Assigner string
	Period                                           Period
}

// Quantity is a measured amount. Value is a JSON number as text (see Decimal). Code is UCUM if System is.
type Quantity struct{ Value, Comparator, Unit, System, Code string }

// Period is a span of time; either end may be empty.
type Period struct{ Start, End string }

// Reference points to another resource. Absent, if set, says by a data-absent-reason code why there is none.
type Reference struct{ Reference, Display, Absent string }

// Extension is a simple extension; exactly one of the values is set.
type Extension struct {
	URL, Code, String, DateTime string
	Attachment                  *Attachment
}

// Attachment is a document, or the place of one. Data is base64.
type Attachment struct{ ContentType, Data, URL string }

// SampledData is a row of samples. Data holds decimals, "E", "U" and "L", separated by single blanks.
type SampledData struct {
	Origin     Quantity
	Period     string // milliseconds between samples, decimal
	Factor     string // decimal; "" is 1
	Data       string
	Dimensions string // a positive integer, usually "1"
}

// ReferenceRange is Observation.referenceRange; Type says what kind of range it is (alarm limits, normal …).
type ReferenceRange struct {
	Low, High Quantity
	Type      CodeableConcept
	Text      string
}

// Value is Observation.value[x]: the field that is set decides. All empty means no value.
type Value struct {
	Quantity  Quantity
	Concept   CodeableConcept
	String    string
	Sampled   *SampledData
	RangeLow  Quantity
	RangeHigh Quantity
	Numerator Quantity
	Denomin   Quantity
	Time      string
	DateTime  string
	Period    Period
}

// Component is Observation.component: one part of a measurement that is made and judged as a whole.
type Component struct {
	Code           CodeableConcept
	Value          Value
	Absent         string // data-absent-reason code
	Interpretation []CodeableConcept
	Range          ReferenceRange
}

// Observation is one measurement or statement about a subject (FHIR R4 observation.html).
type Observation struct {
	ID              string
	Profile         string
	Security        []Coding // meta.security
	Extension       []Extension
	Identifier      Identifier
	Status          string
	Category        Coding
	Code            CodeableConcept
	Subject         Reference
	Encounter       Reference
	Effective       string // dateTime
	EffectivePeriod Period
	EffectiveAbsent string // data-absent-reason code where there is no time
	EffectiveRaw    string // what the monitor sent, where no more than its date could be used
	Value           Value
	Absent          string // data-absent-reason code; never beside a value (obs-6)
	Interpretation  []CodeableConcept
	Performer       []string // references
	Note            []string
	BodySite        CodeableConcept
	Method          CodeableConcept
	Device          Reference
	Range           ReferenceRange
	Component       []Component
}

// HumanName is a person's name as it was sent. Degree and Professional are further suffixes.
type HumanName struct {
	Use, Text, Family, Given, Middle, Prefix, Suffix, Degree, Professional string
	Period                                                                 Period
}

// Address is a postal address as it was sent.
type Address struct {
	Use, Type                                  string
	Line                                       [5]string
	City, District, State, PostalCode, Country string
	Period                                     Period
}

// ContactPoint is a way to reach a person. System is a code of contact-point-system; SystemAbsent, if set, says by a
// data-absent-reason code why there is none (cpt-2).
type ContactPoint struct{ System, SystemAbsent, Value, Use string }

// Link says how two Patient resources belong together. Type is a code of link-type.
type Link struct{ Other, Type string }

// Patient is the person a message speaks of. Gender is a code of administrative-gender.
type Patient struct {
	ID         string
	Identifier []Identifier
	Inactive   bool // the record was merged into another
	Name       []HumanName
	Telecom    []ContactPoint
	Gender     string
	BirthDate  string
	BirthTime  string // dateTime, "" not sent
	Deceased   string // "true", "false" or a dateTime
	Address    []Address
	Link       Link
}

// Encounter is the patient's stay. Status is a code of encounter-status; a Class without Code is said to be unknown.
type Encounter struct {
	ID          string
	Identifier  []Identifier
	Status      string
	Class       Coding
	Subject     string // reference
	Participant []Participant
	Period      Period
	Location    [2]EncounterLocation
}

// Participant is a person of a stay: what part of it, and a reference.
type Participant struct {
	Type             Coding
	Text, Individual string
}

// Practitioner is a person who cares for the patient.
type Practitioner struct {
	ID         string
	Identifier []Identifier
	Name       []HumanName
}

// PractitionerRole says as what a person acts. Practitioner and Organization are references, either may be empty.
type PractitionerRole struct {
	ID, Practitioner, Organization string
	Code                           Coding
}

// Organization is an institution.
type Organization struct {
	ID         string
	Identifier []Identifier
	Name       string
	Address    []Address
}

// RelatedPerson is one of the patient's own people. Patient is a reference.
type RelatedPerson struct {
	ID           string
	Identifier   []Identifier
	Patient      string
	Relationship []CodeableConcept
	Name         []HumanName
	Telecom      []ContactPoint
	Gender       string
	BirthDate    string
	Address      []Address
	Period       Period
}

// EncounterLocation is where a patient is or was during a stay.
type EncounterLocation struct{ Location, Status string }

// Device is a medical device, or a part of one (VMD, channel), with Parent set.
type Device struct {
	ID           string
	Identifier   []Identifier
	Manufacturer string
	Serial       string
	Name         string // deviceName of type user-friendly-name
	Type         CodeableConcept
	Location     Reference
	Parent       Reference
}

// DeviceMetric is what one channel of a device measures (uv-pocd: Observation.device points here).
type DeviceMetric struct {
	ID       string
	Type     CodeableConcept
	Unit     CodeableConcept
	Source   Reference
	Parent   Reference
	Category string // measurement | setting | calculation | unspecified
	Range    ReferenceRange
}

// Location is the bed. Physical is a code of location-physical-type ("bd") or "".
type Location struct {
	ID, Name, Physical, Description string
	Identifier                      Identifier
}

// Provenance says from which message the resources were made, when and by what.
type Provenance struct {
	ID             string
	Target         []string // references
	Recorded       string   // instant
	RecordedAbsent string
	Agent          string // display of the assembler
	Entity         string // URI of the source message (RFC 6920)
	EntityText     string // what the source message was
}

// Issue is one finding of an OperationOutcome.
type Issue struct{ Severity, Code, DetailsCode, DetailsText, Diagnostics, Expression string }
