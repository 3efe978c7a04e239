package mapping

import "strings"

const longestLabel = 32

// meanings of the labels that people read, by which a number under somebody else's label is found out (DIALECTS: number,
// name, unit and label). A label that is not here says nothing. A meaning may be one of a more general one: a cuff's pressure is
// a pressure, a central venous one is none of a cuff's.
var meanings = map[string]string{
	"hr": "heart", "heart rate": "heart", "pulse": "heart", "pulse rate": "heart", "pr": "heart",
	"pvc": "ectopy", "pvcs": "ectopy", "pvc/min": "ectopy",
	"spo2": "saturation", "spo₂": "saturation", "sao2": "saturation", "svo2": "saturation", "oxygen saturation": "saturation", "o2 saturation": "saturation", "saturation": "saturation",
	"rr": "breath", "resp": "breath", "resp rate": "breath", "respiration": "breath", "respiration rate": "breath", "respiratory rate": "breath", "awrr": "breath",
	"temp": "temperature", "temperature": "temperature", "body temperature": "temperature", "t1": "temperature", "t2": "temperature",
	"weight": "mass", "body weight": "mass", "height": "length", "body height": "length",
	"bp": "pressure", "blood pressure": "pressure", "systolic": "pressure", "diastolic": "pressure",
	"systolic blood pressure": "pressure", "diastolic blood pressure": "pressure", "mean blood pressure": "pressure",
	"nbp": "pressure/cuff", "nibp": "pressure/cuff", "abp": "pressure/artery", "art": "pressure/artery",
	"cvp": "pressure/vein", "icp": "pressure/skull", "pap": "pressure/lung",
	"co2": "co2", "etco2": "co2",
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

// sameMeaning says whether two meanings may be one: they are the same, or one is the more general.
func sameMeaning(a, b string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	return strings.HasPrefix(b, a) && (len(a) == len(b) || b[len(a)] == '/')
}

// meaning of a code, "" where labels could not tell it from others.
func (id *ident) meaning() string {
	if id.term != nil {
		return id.term.about
	}
	if id.loinc != nil {
		return id.loinc.about
	}
	return ""
}

// meaning of a number, as it stands in term.about.
func (t *term) meaning() string {
	if strings.Contains(t.coding.Display, "_CO2") && !strings.Contains(t.coding.Display, "RESP_RATE") {
		return "co2"
	}
	if len(t.dimensions) != 1 {
		return ""
	}
	return meaningOf(t.dimensions[0], t.coding.Display)
}

// meaning of a LOINC code, as it stands in loincCode.about.
func (l *loincCode) meaning() string {
	if l.dimension == "rate" && l.coding.Code == "9279-1" {
		return "breath"
	}
	return meaningOf(l.dimension, "")
}

// meaningOf gives the meaning of an amount of dimension d; refid is "" of the LOINC codes in use, which are vital signs.
func meaningOf(d dimension, refid string) string {
	switch d {
	case "percent":
		if strings.Contains(refid, "_SAT_O2") || refid == "" {
			return "saturation"
		}
	case "rate":
		switch {
		case strings.Contains(refid, "RESP"):
			return "breath"
		case strings.Contains(refid, "_V_P_C"):
			return "ectopy"
		case refid == "", strings.Contains(refid, "HEART"), strings.Contains(refid, "PULS"), strings.Contains(refid, "CARD_BEAT"):
			return "heart"
		}
	case "pressure":
		switch {
		case strings.Contains(refid, "NONINV"), strings.Contains(refid, "CUFF"):
			return "pressure/cuff"
		case strings.Contains(refid, "PULM"):
			return "pressure/lung"
		case strings.Contains(refid, "BLD_ART"):
			return "pressure/artery"
		case strings.Contains(refid, "BLD_VEN"), strings.Contains(refid, "ATR_RIGHT"):
			return "pressure/vein"
		case strings.Contains(refid, "CRAN"):
			return "pressure/skull"
		case strings.Contains(refid, "AORT"):
			return "pressure/aorta"
		case refid != "" && !strings.Contains(refid, "PRESS_BLD"):
			return "pressure/other"
		}
		return string(d)
	case "temperature", "mass", "length":
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
