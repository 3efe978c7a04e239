package mapping

import (
	"sort"

	"github.com/vitalgate/vitalgate/fhir"
)

// capabilityDate is when the statement was last changed.
const capabilityDate = "2026-11-29"

// emitted are the resource types of a Bundle, in the order of the statement.
var emitted = [...]struct{ typ, documentation string }{
	{"Bundle", "Type collection: one for each HL7 v2 message. Its identifier is the SHA-256 of the message's bytes (RFC 6920)."},
	{"Device", "The monitor and, by parent, its VMDs and channels (PoCD IG)."},
	{"DeviceMetric", "What a channel measures, and the alarm limits that are set on it (PoCD IG)."},
	{"Encounter", "The stay, of ADT messages and of messages that name a visit."},
	{"Location", "The bed, by point of care, room and bed."},
	{"Observation", "A measurement, a waveform, an alert or a setting. Only what is judged to be that measurement stands under a standard code; all else stands under a local one."},
	{"OperationOutcome", "Why a message could not be converted (HL7 table 0357)."},
	{"Organization", "Who performed a measurement, where OBX-23 names it."},
	{"Patient", "The person that a message names. An unknown patient is none."},
	{"Practitioner", "A person of a stay (PV1-7, 8, 9, 17, 52) or of a measurement (OBX-16, OBX-25)."},
	{"PractitionerRole", "As what a person observed or answers for a measurement."},
	{"Provenance", "From which message the resources were made, by which box and dialect, and when it arrived."},
	{"RelatedPerson", "The next of kin and others of NK1."},
}

// AppendCapabilityStatement appends a FHIR R4 CapabilityStatement: the resources that this version of vitalgate makes and the
// profiles that its Observations claim. There is no RESTful interface; the resources travel in signed records.
func AppendCapabilityStatement(dst []byte, version string) []byte {
	b := append(dst, `{"resourceType":"CapabilityStatement","url":"https://vitalgate.github.io/fhir/CapabilityStatement/vitalgate"`...)
	if version != "" {
		b = append(b, `,"version":`...)
		b = fhir.AppendString(b, version)
	}
	b = append(b, `,"name":"Vitalgate","title":"vitalgate, HL7 v2 of bedside monitors to FHIR","status":"active","date":"`+capabilityDate+`","kind":"capability","software":{"name":"vitalgate"`...)
	if version != "" {
		b = append(b, `,"version":`...)
		b = fhir.AppendString(b, version)
	}
	b = append(b, `},"fhirVersion":"4.0.1","format":["json"],"rest":[{"mode":"client","documentation":`...)
	b = fhir.AppendString(b, "Resources are made from HL7 v2 messages and are given as Bundles, by `vitalgate convert` and in signed records. There is no RESTful exchange, so no interaction is listed.")
	b = append(b, `,"resource":[`...)
	for i, e := range emitted {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"type":"`+e.typ+`","profile":"http://hl7.org/fhir/StructureDefinition/`+e.typ+`"`...)
		if e.typ == "Observation" {
			b = append(b, `,"supportedProfile":[`...)
			for k, p := range claimedProfiles() {
				if k > 0 {
					b = append(b, ',')
				}
				b = fhir.AppendString(b, p)
			}
			b = append(b, ']')
		}
		b = append(b, `,"documentation":`...)
		b = fhir.AppendString(b, e.documentation)
		b = append(b, '}')
	}
	return append(b, "]}]}"...)
}

// claimedProfiles lists the profiles that the tables name.
func claimedProfiles() (all []string) {
	seen := map[string]bool{}
	for _, l := range loincByCode {
		if l.profile != "" && !seen[l.profile] {
			seen[l.profile] = true
			all = append(all, l.profile)
		}
	}
	sort.Strings(all)
	return all
}
