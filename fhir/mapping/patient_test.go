package mapping_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/fhir/mapping"
)

// What an ADT message says of the person and the stay arrives whole, and a value that says nothing does not.
func TestAdmissionTransferDischargeMerge(t *testing.T) {
	const head = "MSH|^~\\&|HIS|H|||20260301093000||ADT^%^ADT_A01|1|P|2.6\nEVN||20260301093000\n"
	adt := func(event, rest string) string { return strings.Replace(head, "%", event, 1) + rest }
	const person = "PID|1||4711^^^HOSP&1.2.3&ISO^MR^^20200101^20300101~\"\"||MUSTER^ERIKA^M^JR^DR^MD^L~RIKA^^^^^^N||20260301081500+0100|F|||1 Main St&Rear^Apt 2^Ulm^BW^89073^DEU^H^^UL||^PRN^PH^^49^731^12345^9~^NET^Internet^e@example.org|555-1|||||||||||||||\"\"|N\n"
	for _, c := range []struct {
		name, message string
		want          []string // "path = value"
		not           []string // prefixes of paths
	}{
		{"admitted", adt("A01", person+"PV1|1|I|ICU^3^12||||||||||||||||99^^^HOSP&1.2.3&ISO|||||||||||||||||||||||||20260301090000\n"), []string{
			"Patient[0].identifier[0].system = urn:oid:1.2.3",
			"Patient[0].identifier[0].type.coding[0].code = MR",
			"Patient[0].identifier[0].assigner.display = HOSP",
			"Patient[0].identifier[0].period.start = 2020-01-01",
			"Patient[0].identifier[0].period.end = 2030-01-01",
			"Patient[0].name[0].family = MUSTER", "Patient[0].name[0].given[1] = M", "Patient[0].name[0].suffix[1] = MD", "Patient[0].name[0].use = official",
			"Patient[0].name[1].use = nickname",
			"Patient[0].birthDate = 2026-03-01", "Patient[0].birthTime = 2026-03-01T08:15:00+01:00", "Patient[0].gender = female",
			"Patient[0].address[0].line[0] = 1 Main St", "Patient[0].address[0].line[1] = Rear", "Patient[0].address[0].line[2] = Apt 2",
			"Patient[0].address[0].city = Ulm", "Patient[0].address[0].state = BW", "Patient[0].address[0].district = UL", "Patient[0].address[0].use = home",
			"Patient[0].telecom[0].value = +49 731 12345 X9", "Patient[0].telecom[0].use = home", "Patient[0].telecom[1].system = email",
			"Patient[0].telecom[2].value = 555-1", "Patient[0].telecom[2].use = work",
			"Patient[0].deceasedBoolean = false",
			"Encounter[0].status = in-progress", "Encounter[0].class.code = IMP", "Encounter[0].period.start = 2026-03-01T09:00:00+01:00",
			"Encounter[0].identifier[0].type.coding[0].code = VN", "Encounter[0].location[0].status = active", "Encounter[0].location[0].location = a reference",
		}, []string{"Patient[0].identifier[1]", "Patient[0].deceasedDateTime", "Patient[0].telecom[2].system", "Encounter[0].location[1]", "Observation"}},
		{"transferred", adt("A02", person+"PV1|1|I|ICU^3^12|||ER^1^4\n"), []string{
			"Encounter[0].location[0].status = active", "Encounter[0].location[1].status = completed", "Encounter[0].location[1].location = a reference",
		}, nil},
		{"discharged", adt("A03", person+"PV1|1|I|ICU^3^12||||||||||||||||||||||||||||||||||||||||||20260301120000\n"), []string{
			"Encounter[0].status = finished", "Encounter[0].period.end = 2026-03-01T12:00:00+01:00", "Encounter[0].location[0].status = completed",
		}, nil},
		{"class unknown", adt("A08", person+"PV1|1||ICU^3^12\n"), []string{"Encounter[0].status = in-progress"}, []string{"Encounter[0].class.code"}},
		{"nobody admitted", adt("A01", "PID|1\nPV1|1|I|ICU^3^12\n"), nil, []string{"Patient", "Encounter"}},
		{"merged", adt("A40", person+"MRG|4712^^^HOSP&1.2.3&ISO^MR\n"), []string{
			"Patient[0].link[0].type = replaces", "Patient[0].link[0].other = a reference",
			"Patient[1].identifier[0].value = 4712", "Patient[1].active = false", "Patient[1].link[0].type = replaced-by",
		}, []string{"Patient[2]"}},
		{"merged into itself", adt("A40", person+"MRG|4711^^^HOSP&1.2.3&ISO^MR\n"), nil, []string{"Patient[0].link", "Patient[1]"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := convert(t, "ihe-pcd01", c.message, context())
			mustBeFHIR(t, c.name, r.Bundle)
			got := leaves(t, r.Bundle)
			for _, w := range c.want {
				path, value, _ := strings.Cut(w, " = ")
				if got[path] != value {
					t.Errorf("%s is %q, want %q", path, got[path], value)
				}
			}
			for path := range got {
				for _, n := range c.not {
					if strings.HasPrefix(path, n) {
						t.Errorf("%s is %q, want nothing", path, got[path])
					}
				}
			}
			if known := !strings.Contains(c.message, "PID|1\n"); known != (r.Patient != "") {
				t.Errorf("association key %v", r.Patient != "")
			}
		})
	}
	// After a merge the messages of the surviving number speak of the same patient as the merge itself.
	merge := convert(t, "ihe-pcd01", adt("A40", person+"MRG|4712^^^HOSP&1.2.3&ISO^MR\n"), context())
	after := convert(t, "ihe-pcd01", adt("A08", person), context())
	if merge.Patient != after.Patient {
		t.Error("the association key of a merge is not that of the surviving patient")
	}
}

// Each type of value that the IG names is kept as what it is; what its type cannot hold stays text.
func TestTypesOfTheGuide(t *testing.T) {
	const head = "MSH|^~\\&|X|Y|||20260301093000+0000||ORU^R01|1|P|2.6\nOBR|1|||1^x^L|||20260301090000\n"
	for _, c := range []struct{ obx, path, want string }{
		{"NR|1^a^L||1^10", "valueRange.high.value", "10"},
		{"NR|1^a^L||1^x", "valueString", "1^x"},
		{"DR|1^a^L||20260301^20260302", "valuePeriod.end", "2026-03-02"},
		{"DR|1^a^L||20260302^20260301", "valueString", "20260302^20260301"},
		{"TM|1^a^L||223100.25", "valueTime", "22:31:00.25"},
		{"TM|1^a^L||2231.25", "valueString", "2231.25"},
		{"SN|1^a^L||^1^:^2", "valueRatio.denominator.value", "2"},
		{"SN|1^a^L||>=^5", "valueQuantity.comparator", ">="},
		{"CWE|1^a^L||8867-4^Heart rate^LN", "valueCodeableConcept.coding[0].system", "http://loinc.org"},
		{"CWE|1^a^L||8867-5^Heart rate^LN", "valueCodeableConcept.coding[0].system", "urn:vitalgate:codes:LN"},
		{"CWE|1^a^L||260415000^No^SCT^2^N^L^3^4^words", "valueCodeableConcept.coding[0].version", "3"},
		{"CWE|1^a^L||260415000^No^SCT^2^N^L^3^4^words", "valueCodeableConcept.text", "words"},
		{"ST|1^a^L^2^b^99X||t", "code.coding[1].code", "2"},
		{"ST|1^a^L||t|||9^odd^L~N^Normal", "interpretation[0].coding[0].display", "odd"},
		{"ST|1^a^L||t|||9^odd^L~N^Normal", "interpretation[1].coding[0].code", "N"},
		{"ST|1^a^L||||||||N", "dataAbsentReason.coding[0].code", "not-asked"},
		{"ST|1^a^L||t||||||F||||||||||77^^1.2.3^ISO", "identifier[0].system", "urn:oid:1.2.3"},
		{"ST|1^a^L||t||||||F\nNTE|1||first~second\nNTE|2||third", "note[2].text", "third"},
	} {
		r := convert(t, "ihe-pcd01", head+"OBX|1|"+c.obx+"\n", mapping.Context{Zone: time.UTC})
		mustBeFHIR(t, c.obx, r.Bundle)
		got := leaves(t, r.Bundle)
		if got["Observation 1[0]."+c.path] != c.want {
			t.Errorf("OBX|1|%s: %s is %q, want %q\n%v", c.obx, c.path, got["Observation 1[0]."+c.path], c.want, got)
		}
	}
}

// A note belongs to the row before it and to no other; one on the order is on none.
func TestNotes(t *testing.T) {
	r := convert(t, "ihe-pcd01", "MSH|^~\\&|X|Y|||20260301093000+0000||ORU^R01|1|P|2.6\nOBR|1|||1^x^L|||20260301090000\nNTE|1||order\n"+
		"OBX|1|ST|1^a^L||t\nOBX|2|ST|2^b^L||t\nNTE|1||of the second\nOBX|3|ST|3^c^L||t\n", mapping.Context{})
	got := leaves(t, r.Bundle)
	for path, v := range got {
		if strings.Contains(path, ".note") && (path != "Observation 2[0].note[0].text" || v != "of the second") {
			t.Errorf("%s is %q", path, v)
		}
	}
	if got["Observation 2[0].note[0].text"] == "" {
		t.Error("the note is lost")
	}
}

// Those who care for the patient, and his own people, stand as such (v2-to-FHIR IG, XCN and NK1); nobody is made of nothing.
func TestPeople(t *testing.T) {
	const person = "PID|1||4711^^^HOSP&1.2.3&ISO^MR||MUSTER^ERIKA\n"
	adt := "MSH|^~\\&|HIS|H|||20260301093000||ADT^A01^ADT_A01|1|P|2.6\nEVN||20260301093000\n"
	oru := "MSH|^~\\&|X|Y|||20260301093000+0000||ORU^R01|1|P|2.6\n" + person + "OBR|1||||||20260301090000\n"
	row := "OBX|1|NM|147842^MDC_ECG_HEART_RATE^MDC|1|72|264864^MDC_DIM_BEAT_PER_MIN^MDC|||||F|||||"
	const nurse = "77^Nightingale^Florence^^JR^DR^RN^^HOSP&1.2.3&ISO^L^^^EI"
	for _, c := range []struct {
		name, message string
		want, not     []string
	}{
		{"doctors of a stay", adt + person + "PV1|1|I|ICU^3^12||||1^Koch^Robert|" + nurse + "~" + nurse + "|^Virchow\n", []string{
			"Encounter[0].participant[0].type[0].coding[0].code = ATND", "Encounter[0].participant[0].individual = a reference",
			"Encounter[0].participant[1].type[0].coding[0].code = REF", "Encounter[0].participant[3].type[0].coding[0].code = CON",
			"Practitioner Koch[0].name[0].given[0] = Robert", "Practitioner Koch[0].identifier[0].value = 1",
			"Practitioner Nightingale[0].identifier[0].system = urn:oid:1.2.3", "Practitioner Nightingale[0].identifier[0].type.coding[0].code = EI",
			"Practitioner Nightingale[0].name[0].prefix[0] = DR", "Practitioner Nightingale[0].name[0].suffix[1] = RN", "Practitioner Nightingale[0].name[0].use = official",
			"Practitioner Virchow[0].name[0].family = Virchow",
		}, []string{"Practitioner Nightingale[1]", "Practitioner Virchow[0].identifier", "PractitionerRole"}},
		{"who observed", oru + row + nurse + "|||||||Ward 3^^^^^HOSP&1.2.3&ISO^XX^^^W3|1 Main St^^Ulm|" + "5^Charcot\n", []string{
			"Observation 8867-4[0].performer[0] = a reference", "Observation 8867-4[0].performer[1] = a reference",
			"PractitionerRole responsibleObserver[0].practitioner = a reference",
			"PractitionerRole MDIR[0].practitioner = a reference", "PractitionerRole MDIR[0].organization = a reference",
			"Practitioner Charcot[0].identifier[0].value = 5",
		}, []string{"PractitionerRole responsibleObserver[1]", "PractitionerRole MDIR[1]", "PractitionerRole responsibleObserver[0].organization"}},
		{"the ward alone", oru + row + "|||||||Ward 3\n", []string{"Observation 8867-4[0].performer[0] = a reference"}, []string{"PractitionerRole", "Practitioner"}},
		{"nobody", oru + row + "\"\"|||||||^^^\n", nil, []string{"Practitioner", "Organization", "Observation 8867-4[0].performer"}},
		{"the same nurse twice", oru + row + nurse + "\n" + strings.Replace(row, "OBX|1|", "OBX|2|", 1) + nurse + "\n", nil, []string{"Practitioner Nightingale[1]", "PractitionerRole responsibleObserver[1]"}},
		{"next of kin", adt + person + "NK1|1|MUSTER^MAX^^^^^L|SPO^Spouse^HL70063|1 Main St^^Ulm^^89073^DEU^H|^PRN^PH^^49^731^1|^WPN^PH^^49^731^2|EP^Emergency contact^HL70131|20200101|||||||M|19690101\n", []string{
			"RelatedPerson[0].patient = a reference", "RelatedPerson[0].name[0].family = MUSTER", "RelatedPerson[0].name[0].given[0] = MAX",
			"RelatedPerson[0].relationship[0].coding[0].code = SPO", "RelatedPerson[0].relationship[1].coding[0].code = EP",
			"RelatedPerson[0].address[0].city = Ulm", "RelatedPerson[0].telecom[0].value = +49 731 1", "RelatedPerson[0].telecom[1].use = work",
			"RelatedPerson[0].period.start = 2020-01-01", "RelatedPerson[0].gender = male", "RelatedPerson[0].birthDate = 1969-01-01",
		}, []string{"RelatedPerson[1]"}},
		{"an empty next of kin", adt + person + "NK1|1||SPO^Spouse^HL70063\n", nil, []string{"RelatedPerson"}},
		{"next of kin of nobody", adt + "PID|1\nNK1|1|MUSTER^MAX\n", nil, []string{"RelatedPerson"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := leaves(t, convert(t, "ihe-pcd01", c.message, context()).Bundle)
			for _, w := range c.want {
				path, value, _ := strings.Cut(w, " = ")
				if got[path] != value {
					t.Errorf("%s is %q, want %q", path, got[path], value)
				}
			}
			for _, prefix := range c.not {
				for path := range got {
					if strings.HasPrefix(path, prefix) {
						t.Errorf("%s is there: %q", path, got[path])
					}
				}
			}
		})
	}
}

// Two beds are never one: what names a bed and what only names its ward is the dialect's to say.
func TestBeds(t *testing.T) {
	row := "OBX|1|NM|147842^MDC_ECG_HEART_RATE^MDC|1|72|264864^MDC_DIM_BEAT_PER_MIN^MDC|||||F\n"
	for _, c := range []struct{ dialect, pv1, want string }{
		{"mindray-pds", "PV1||I|^^ICU&1&3232237756&4601&&1\n", `"name":"ICU 1","physicalType":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/location-physical-type","code":"bd"}]}`},
		{"mindray-pds", "PV1||I|^^ICU&2&3232237757&4601&&1\n", `"name":"ICU 2","physicalType"`},
		{"mindray-pds", "PV1||I|^^ICU&&3232237757&4601&&1\n", `"name":"ICU"}`}, // a ward
		{"philips-iic", "PV1||I|^^Doc1&5&1\n", `"identifier":[{"value":"5"}],"name":"Doc1","physicalType"`},
		{"comen", "PV1||I|^^&24|0\n", `"name":"24","physicalType"`},
		{"ihe-pcd01", "PV1||I|ICU^3^12\n", `"name":"ICU / 3 / 12","physicalType"`},
		{"ihe-pcd01", "PV1||I|ICU\n", `"name":"ICU"}`},
	} {
		r := convert(t, c.dialect, strings.Replace(header, "OBR|", c.pv1+"OBR|", 1)+row, context())
		if !bytes.Contains(r.Bundle, []byte(c.want)) {
			t.Errorf("%s %s: want %s in %s", c.dialect, c.pv1, c.want, r.Bundle)
		}
	}
	// Two beds in one message: the one device that they share stands at none.
	two := strings.Replace(header, "OBR|", "PV1||I|ICU^3^12\nOBR|", 1) + row + "PID|||A2\nPV1||I|ICU^3^13\n" + row
	r := convert(t, "ihe-pcd01", two, context())
	told := false
	for _, e := range r.Events {
		told = told || e.Code == mapping.EventPlaces
	}
	if bytes.Contains(r.Bundle, []byte(`"resourceType":"Location"`)) || !told {
		t.Errorf("a device of two beds stands at one, or nobody is told: %s %v", r.Bundle, r.Events)
	}
}

// A number that nobody answers for is one person's only at its own monitor, and under the same name.
func TestPractitionersNumberedByNobody(t *testing.T) {
	const message = header + "OBX|1|NM|147842^MDC_ECG_HEART_RATE^MDC|1|72|264864^MDC_DIM_BEAT_PER_MIN^MDC|||||F|||||"
	id := func(who, box, monitor string) string {
		at := context()
		at.Box, at.Monitor = box, monitor
		var b struct {
			Entry []struct {
				FullURL  string
				Resource struct{ ResourceType string }
			}
		}
		if err := json.Unmarshal(convert(t, "ihe-pcd01", message+who+"\n", at).Bundle, &b); err != nil {
			t.Fatal(err)
		}
		for _, e := range b.Entry {
			if e.Resource.ResourceType == "Practitioner" {
				return e.FullURL
			}
		}
		t.Fatalf("there is no practitioner of %s", who)
		return ""
	}
	here := id("7^Koch", "f1/gw1", "bed1")
	if again := id("7^Koch", "f1/gw1", "bed1"); again != here {
		t.Errorf("the same one is %s, and then %s", here, again)
	}
	for _, other := range []string{id("7^Virchow", "f1/gw1", "bed1"), id("7^Koch", "f1/gw2", "bed1"), id("7^Koch", "f1/gw1", "bed2")} {
		if other == here {
			t.Errorf("two people are %s", here)
		}
	}
	const numbered = "7^Koch^^^^^^^HOSP&1.2.3&ISO"
	if a, b := id(numbered, "f1/gw1", "bed1"), id(numbered, "f1/gw2", "bed2"); a != b {
		t.Errorf("the number of an authority is %s at one box, %s at another", a, b)
	}
}

// A visit and an organization whose number has no authority are the box's own: another hospital gives out the same.
func TestNumbersWithoutAnAuthorityAreTheBoxsOwn(t *testing.T) {
	const message = "MSH|^~\\&|||||20250102030405+0000||ORU^R01^ORU_R01|1|P|2.6\nPID|||P1^^^HOSP&1.2.3&ISO^MR||Doe^Jo\nPV1||I|ICU^^bed1||||||||||||||||%s\n" +
		"OBR|1|||1^x^MDC\nOBX|1|NM|147842^MDC_ECG_HEART_RATE^MDC|1|72|264864^MDC_DIM_BEAT_PER_MIN^MDC|||||R||||||||||||%s\n"
	ids := func(visit, organization, box string) map[string]string {
		t.Helper()
		var b struct {
			Entry []struct {
				FullURL  string
				Resource struct{ ResourceType string }
			}
		}
		at := mapping.Context{Box: box, Monitor: "bed1"}
		if err := json.Unmarshal(convert(t, "ihe-pcd01", fmt.Sprintf(message, visit, organization), at).Bundle, &b); err != nil {
			t.Fatal(err)
		}
		found := map[string]string{}
		for _, e := range b.Entry {
			found[e.Resource.ResourceType] = e.FullURL
		}
		for _, kind := range []string{"Encounter", "Organization"} {
			if found[kind] == "" {
				t.Fatalf("there is no %s for %s, %s", kind, visit, organization)
			}
		}
		return found
	}
	for _, c := range []struct {
		visit, organization string
		same                bool
	}{
		{"V7", "Laboratory^^7", false}, {"V7", "Laboratory", false},
		{"V7^^^HOSP&1.2.3&ISO", "Laboratory^^7^^^HOSP&1.2.3&ISO", true},
	} {
		here, again, there := ids(c.visit, c.organization, "f1/gw1"), ids(c.visit, c.organization, "f1/gw1"), ids(c.visit, c.organization, "f2/gw1")
		for _, kind := range []string{"Encounter", "Organization"} {
			if here[kind] != again[kind] || (here[kind] == there[kind]) != c.same {
				t.Errorf("%s of %s, %s: %s, then %s, at another box %s", kind, c.visit, c.organization, here[kind], again[kind], there[kind])
			}
		}
	}
}
