package mapping

import "strings"

const longestLabel = 32

// meanings of the labels that people read, by which a number under somebody else's label is found out (DIALECTS: number,
// name, unit and label). A label that is not here says nothing.
var meanings = map[string]string{
	"hr": "heart", "heart rate": "heart", "pulse": "heart", "pulse rate": "heart", "pr": "heart",
	"spo2": "saturation", "sao2": "saturation", "oxygen saturation": "saturation", "o2 saturation": "saturation", "saturation": "saturation",
	"rr": "breath", "resp": "breath", "resp rate": "breath", "respiration": "breath", "respiration rate": "breath", "respiratory rate": "breath",
	"temp": "temperature", "temperature": "temperature", "body temperature": "temperature",
	"weight": "mass", "body weight": "mass", "height": "length", "body height": "length",
	"bp": "pressure", "nbp": "pressure", "nibp": "pressure", "abp": "pressure", "art": "pressure", "blood pressure": "pressure",
	"systolic": "pressure", "diastolic": "pressure", "systolic blood pressure": "pressure", "diastolic blood pressure": "pressure", "mean blood pressure": "pressure",
}

// meaning of a label, "" where it has none that is sure.
func meaning(label string) string {
	var lower [longestLabel]byte
	if len(label) > len(lower) {
		return ""
	}
	for i := range len(label) {
		c := label[i]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		lower[i] = c
	}
	return meanings[string(lower[:len(label)])]
}

// meaning of a code, "" where labels could not tell it from others.
func (id *ident) meaning() string {
	var d dimension
	var refid, loinc string
	switch {
	case id.term != nil && len(id.term.dimensions) == 1:
		d, refid = id.term.dimensions[0], id.term.coding.Display
	case id.term == nil && id.loinc != nil:
		d, loinc = id.loinc.dimension, id.loinc.coding.Code
	}
	switch d {
	case "percent":
		return "saturation"
	case "rate":
		if strings.Contains(refid, "RESP") || loinc == "9279-1" {
			return "breath"
		}
		return "heart"
	case "temperature", "mass", "length", "pressure":
		return string(d)
	}
	return ""
}

// same says whether two codes may stand for one thing.
func (id *ident) same(other *ident) bool {
	switch {
	case id.term != nil && other.term != nil:
		if id.term == other.term {
			return true
		}
		return len(id.term.loinc) > 0 && len(other.term.loinc) > 0 && id.term.loinc[0] == other.term.loinc[0]
	case id.term != nil && other.loinc != nil:
		return id.term.hasLOINC(other.loinc)
	case id.loinc != nil && other.term != nil:
		return other.term.hasLOINC(id.loinc)
	case id.loinc != nil && other.loinc != nil:
		return id.loinc == other.loinc || id.loinc.also == other.loinc || other.loinc.also == id.loinc
	}
	return true // one of them says nothing
}

func (t *term) hasLOINC(l *loincCode) bool {
	for _, own := range t.loinc {
		if own == l || own.also == l || l.also == own {
			return true
		}
	}
	return len(t.loinc) == 0 && t.allows(l.dimension) // not known which it is: the dimension must do
}
