// Package mapping turns one HL7 v2 message of a bedside monitor into one FHIR R4 Bundle.
//
// What a code, a unit, a flag or a time means is data: the tables in data/ (ISO/IEEE 11073-10101 numbers and names,
// LOINC, UCUM) and one folder per family of monitors in dialects/. The rule that the code keeps is this: a value
// stands under a standard code only if its number and its name are a known pair (or one is known and the other
// absent), its unit's dimension fits, and nothing in the row says that it is no measurement. Everything else is kept
// under a local code with its text, and an Event says why. Nothing is dropped, converted or guessed.
package mapping

import (
	"time"

	"github.com/vitalgate/vitalgate/fhir"
	"github.com/vitalgate/vitalgate/hl7"
)

// Kinds of message, as the record names them.
const (
	KindVitals   = "vitals"
	KindWaveform = "waveform"
	KindAlarm    = "alarm"
	KindADT      = "adt"
	KindOther    = "other"

	kindKeepAlive = "keepalive" // only in dialects: nothing to chart, still kept, as "other"
)

// Context is what the message itself does not say.
type Context struct {
	Box     string         // "f1/gw1"
	Monitor string         // configured name of the monitor
	Zone    *time.Location // of times without an offset; nil: not known, then only their date is used
	Arrived time.Time      // when the last byte was read; zero where a file is converted
	Bed     string         // configured bed, used where the message names none

	PatientSystem string // identifier system (URI) of patient numbers whose authority is not named by a universal id
	DeviceSystem  string // the same for devices

	Units Units

	// Association is what the line of the message has said of its patient: the Association of the Result before it. nil: unknown.
	Association *Association
}

// Units are the unit settings (UCUM) of a monitor that sends none. Empty: not known, then such values stand under
// local codes, unless the dialect fixes the unit ([units]): rates and percentages have no setting on a monitor.
type Units struct{ Pressure, Temperature, Length, Mass string }

func (u *Units) of(d dimension) string {
	switch d {
	case "pressure":
		return u.Pressure
	case "temperature":
		return u.Temperature
	case "length":
		return u.Length
	case "mass":
		return u.Mass
	}
	return ""
}

// Result is one message as FHIR, and what the box must know about it.
type Result struct {
	Bundle   []byte    // FHIR R4 JSON, valid until the next Convert
	Kind     string    // one of the Kind constants
	Patient  string    // association key of the one patient that the message names or that its line has named; "" unknown. Never to be logged
	Observed time.Time // earliest effective time; zero if none could be placed on the time line

	KeepAlive bool // the message says only that the monitor is there: it has a header of the class that the dialect names, and no more

	Charted int // observations (and panel parts) under a standard code with a value
	Local   int // under a local code
	Absent  int // without a value, with a dataAbsentReason

	Events []Event // data quality, in message order; the caller's to keep

	// Association is in force on the line of the message from now on: the Context's for its next message, and for no other line.
	Association *Association
}

// Event is a finding of data quality. It holds no value of the message.
type Event struct {
	Code  string // stable short code, see the Event constants
	Where string // "OBX[3]-5"
	What  string // one sentence for a person
}

// Codes of events.
const (
	EventCodeConflict    = "code-conflict"       // number and name are no known pair
	EventCodeUnknown     = "code-unknown"        // neither number nor name is known
	EventLabelDiffers    = "label-differs"       // a known number under an unusual label
	EventUnitConflict    = "unit-conflict"       // number and text of the unit disagree
	EventUnitUnknown     = "unit-unknown"        // unit not in the table
	EventUnitMissing     = "unit-missing"        // none sent, and neither dialect nor configuration fixes it
	EventUnitMisfit      = "unit-misfit"         // the unit's dimension does not fit the code
	EventImplausible     = "implausible"         // physically impossible value
	EventNotANumber      = "not-a-number"        // text where the code wants a number
	EventNumberBent      = "number-form"         // the number was brought into a legal form
	EventMessageType     = "message-type"        // MSH-9 does not say what the message is
	EventDocument        = "document-unreadable" // the data of an ED is not in the encoding that it names
	EventParts           = "value-parts"         // a value with components or repetitions that its type does not have
	EventTest            = "test-data"           // OBX-8 DEMO or TEST, or MSH-11 of debugging or training
	EventOrder           = "pressures-disorder"  // systolic, mean and diastolic pressure contradict each other
	EventWhole           = "pressure-whole"      // a value under the code of a blood pressure as a whole
	EventLimits          = "limits-unreadable"   // OBX-7 is not used as limits
	EventInvalid         = "flagged-invalid"     // OBX-8 INV beside a value
	EventBroken          = "segment-broken"      // the line behind the row is no segment: the row's last field may be cut
	EventStatus          = "result-status"       // OBX-11 says that this is no result, beside a value
	EventSetting         = "setting"             // a setting or configuration row
	EventAlertValue      = "value-in-alert"      // a measurement's code in the message of an alert
	EventSentinelDropped = "sentinel-beside"     // a "no value" row beside a good one of the same measurement
	EventSampleRate      = "samples-unreadable"  // samples without rate or in an unreadable form, kept as text
	EventTimeBad         = "time-unreadable"     // a time that cannot be read
	EventTimeMissing     = "time-missing"        // no time at all
	EventTimeMessage     = "time-of-message"     // MSH-7 taken as the time of observation
	EventTimeArrival     = "time-of-arrival"     // arrival taken as the time of observation
	EventZoneUnknown     = "zone-unknown"        // a time without offset, no zone configured: date only
	EventPatients        = "several-patients"    // more than one patient in the message
	EventPlaces          = "several-places"      // more than one bed in the message
	EventPatientField    = "patient-field"       // a PID field that cannot be used
	EventAssociation     = "association-ended"   // what the message says of the patient ends what the line said before
	EventTooMany         = "more-events"         // the list was cut
)

// maxEvents bounds the events of one message.
const maxEvents = 200

// extension URLs of our own; docs name them.
const (
	extensionBase    = "https://vitalgate.github.io/fhir/StructureDefinition/"
	extensionChannel = extensionBase + "channel"    // OBX-4 as sent
	extensionTime    = extensionBase + "time-basis" // how the effective time was found, where the row does not state it
	extensionFinding = extensionBase + "finding"    // code of an Event about the row
	extensionBasis   = extensionBase + "unit-basis" // who fixed the unit, where the row does not state it: a unitBasis constant
	// The value of R5 that R4 has no place for (v2-to-FHIR IG, OBX-5 of type ED or RP).
	extensionAttachment = "http://hl7.org/fhir/5.0/StructureDefinition/extension-Observation.valueAttachment"
	extensionUnit       = extensionBase + "unit" // OBX-6 as sent, where the value cannot carry it
)

// systemKind is the code system of Observation.category for rows that are no measurements.
const systemKind = "https://vitalgate.github.io/fhir/CodeSystem/observation-kind"

// local code systems: urn:vitalgate:codes:<coding system of the message, or dialect>.
const localSystem = "urn:vitalgate:codes:"

// AppendOutcome appends an OperationOutcome that says what is wrong with a message and where: details hold the code of HL7
// table 0357, the issue type is the FHIR one of the same meaning, the location is the v2 one, as OBX[3]-5.1.
func AppendOutcome(dst []byte, errs ...*hl7.Error) []byte {
	issues := make([]fhir.Issue, 0, len(errs)+1)
	for _, e := range errs {
		if e == nil {
			continue
		}
		s := fhir.Issue{Severity: "error", Code: issueType(e.Code), DetailsCode: conditionCode(e.Code), DetailsText: e.What, Diagnostics: e.Error(), Expression: e.Location()}
		if e.Code == hl7.CodeAccepted {
			s.Severity = "information"
		}
		if s.DetailsText == "" {
			s.DetailsText = "cannot use the message"
		}
		issues = append(issues, s)
	}
	if len(issues) == 0 { // an OperationOutcome has at least one issue
		issues = append(issues, fhir.Issue{Severity: "information", Code: "informational", DetailsText: "no error"})
	}
	return fhir.AppendOutcome(dst, issues)
}

// issueType gives the FHIR issue-type of an HL7 table 0357 code.
func issueType(code int) string {
	switch code {
	case hl7.CodeAccepted:
		return "informational"
	case hl7.CodeSegmentSequence, hl7.CodeDataType:
		return "structure"
	case hl7.CodeFieldMissing:
		return "required"
	case hl7.CodeTableValue:
		return "code-invalid"
	case hl7.CodeTooLong:
		return "too-long"
	case hl7.CodeCardinality:
		return "invalid"
	case hl7.CodeUnsupportedType, hl7.CodeUnsupportedEvent, hl7.CodeUnsupportedProcess, hl7.CodeUnsupportedVersion:
		return "not-supported"
	case hl7.CodeUnknownKey:
		return "not-found"
	case hl7.CodeDuplicateKey:
		return "duplicate"
	case hl7.CodeLocked:
		return "lock-error"
	case hl7.CodeInternal:
		return "exception"
	}
	return "processing"
}

func conditionCode(code int) string {
	if code == 0 {
		return "0"
	}
	if code < 100 || code > 999 {
		return ""
	}
	return string([]byte{byte('0' + code/100), byte('0' + code/10%10), byte('0' + code%10)})
}
