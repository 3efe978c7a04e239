package view

import "math"

// The words of the page: names in place of codes.

var nan = math.NaN()

const (
	rankOther = 1000
	rankCuff  = 40 // to 43: blood pressure by a cuff, or by who knows what
	rankBody  = 90 // weight and height
)

type vital struct {
	rank int // order on the page
	name string
}

// vitals names and orders the LOINC codes of the FHIR vital-signs profiles and of what a bedside monitor adds to them.
var vitals = map[string]vital{
	"8867-4":  {10, "Heart rate"},
	"8889-8":  {14, "Heart rate (pulse oximeter)"},
	"2708-6":  {20, "Oxygen saturation"},
	"59408-5": {20, "SpO₂"},
	"9279-1":  {30, "Respiratory rate"},
	"85354-9": {rankCuff, "Blood pressure"},
	"8480-6":  {rankCuff + 1, "Systolic pressure"},
	"8462-4":  {rankCuff + 2, "Diastolic pressure"},
	"8478-0":  {rankCuff + 3, "Mean pressure"},
	"8310-5":  {50, "Body temperature"},
	"19889-5": {60, "CO₂ end-tidal"},
	"8328-7":  {51, "Axillary temperature"},
	"8329-5":  {51, "Core temperature"},
	"8332-1":  {51, "Rectal temperature"},
	"8331-1":  {51, "Oral temperature"},
	"3151-8":  {80, "Oxygen flow"},
	"29463-7": {rankBody, "Body weight"},
	"8302-2":  {rankBody + 1, "Body height"},
	"39156-5": {rankBody + 2, "Body mass index"},
}

// vitalsMDC does the same for terms of ISO/IEEE 11073-10101, which say more: where a pulse or a temperature was taken.
var vitalsMDC = map[string]vital{
	"147842": {10, "Heart rate"},
	"149514": {12, "Pulse rate"},
	"149522": {13, "Pulse rate (arterial line)"},
	"149530": {12, "Pulse rate (oximeter)"},
	"149538": {12, "Pulse rate (pleth)"},
	"149546": {14, "Pulse rate (cuff)"},
	"148065": {70, "Ventricular beats"},
	"148066": {70, "Ventricular beats"},
	"150456": {20, "SpO₂"},
	"150448": {25, "Perfusion (pleth)"},
	"150488": {25, "Perfusion index"},
	"151552": {30, "Respiration"},
	"151562": {30, "Respiratory rate"},
	"151570": {31, "Respiratory rate (airway)"},
	"151578": {31, "Respiratory rate (impedance)"},
	"151594": {31, "Respiratory rate (CO₂)"},
	"151658": {32, "Respiratory rate (pleth)"},
	"150020": {rankCuff, "Blood pressure (cuff)"},
	"150300": {rankCuff, "Blood pressure (cuff)"},
	"150021": {rankCuff + 1, "Systolic pressure (cuff)"},
	"150022": {rankCuff + 2, "Diastolic pressure (cuff)"},
	"150023": {rankCuff + 3, "Mean pressure (cuff)"},
	"150301": {rankCuff + 1, "Systolic pressure (cuff)"},
	"150302": {rankCuff + 2, "Diastolic pressure (cuff)"},
	"150303": {rankCuff + 3, "Mean pressure (cuff)"},
	"150016": {44, "Blood pressure (line)"},
	"150017": {44, "Systolic pressure (line)"},
	"150018": {44, "Diastolic pressure (line)"},
	"150019": {44, "Mean pressure (line)"},
	"150032": {44, "Arterial pressure"},
	"150036": {44, "Arterial pressure"},
	"150033": {45, "Arterial systolic"},
	"150034": {46, "Arterial diastolic"},
	"150035": {47, "Arterial mean"},
	"150037": {45, "Arterial systolic"},
	"150038": {46, "Arterial diastolic"},
	"150039": {47, "Arterial mean"},
	"150087": {48, "Central venous pressure, mean"},
	"150044": {48, "Pulmonary artery pressure"},
	"150045": {48, "Pulmonary artery systolic"},
	"150046": {48, "Pulmonary artery diastolic"},
	"150047": {48, "Pulmonary artery mean"},
	"153608": {49, "Intracranial pressure"},
	"153611": {49, "Intracranial pressure, mean"},
	"150344": {50, "Temperature"},
	"150364": {50, "Body temperature"},
	"150368": {51, "Core temperature"},
	"150372": {51, "Oesophageal temperature"},
	"150388": {53, "Skin temperature"},
	"150392": {52, "Ear temperature"},
	"188420": {52, "Rectal temperature"},
	"188424": {52, "Oral temperature"},
	"188436": {51, "Blood temperature"},
	"188440": {54, "Temperature difference"},
	"188496": {52, "Axillary temperature"},
	"151708": {60, "CO₂ end-tidal"},
	"151728": {60, "CO₂ end-tidal"},
	"151716": {61, "CO₂ inspired"},
	"151738": {61, "CO₂ inspired, least"},
	"152196": {62, "O₂ inspired"},
	"160920": {62, "O₂ inspired"},
	"151804": {65, "PEEP"},
	"151868": {65, "Tidal volume"},
	"151880": {65, "Minute volume"},
	"188736": {rankBody, "Body weight"},
	"188740": {rankBody + 1, "Body height"},
}

// units are the UCUM codes that people write in another way.
var units = map[string]string{
	"/min": "/min", "{beats}/min": "/min", "{breaths}/min": "/min", "%": "%", "mm[Hg]": "mmHg", "cm[H2O]": "cmH₂O",
	"Cel": "°C", "[degF]": "°F", "kPa": "kPa", "1": "", "uV": "µV", "mV": "mV", "L/min": "L/min", "mL": "mL",
	"ug/min": "µg/min",
}

// absentReasons: http://terminology.hl7.org/CodeSystem/data-absent-reason in plain words.
var absentReasons = map[string]string{
	"unknown":           "the monitor sent no value",
	"asked-unknown":     "not known at the source",
	"temp-unknown":      "not available for the time being",
	"not-asked":         "not measured",
	"asked-declined":    "declined",
	"masked":            "withheld",
	"not-applicable":    "not applicable",
	"unsupported":       "the monitor cannot give it",
	"as-text":           "sent as text only",
	"error":             "the monitor reports an error",
	"not-a-number":      "what the monitor sent is not a number",
	"negative-infinity": "below the range of the monitor",
	"positive-infinity": "above the range of the monitor",
	"not-performed":     "not measured",
	"not-permitted":     "not permitted",
}

// interpretations: HL7 v3 ObservationInterpretation and the measurement status of uv-pocd.
var interpretations = map[string]string{
	"N": "", "L": "low", "LL": "critically low", "H": "high", "HH": "critically high", "A": "abnormal", "AA": "critically abnormal",
	"<": "below the scale", ">": "above the scale",
	"validated-data": "", "questionable": "questionable", "calibration-ongoing": "calibrating", "early-indication": "early",
	"msmt-ongoing": "measuring", "in-alarm": "in alarm", "al-inhibited": "alarm off",
}

// reliability: HL7 v3 ObservationValue, as a security label.
var reliability = map[string]string{"UNRELIABLE": "unreliable", "UNCERTREL": "uncertain"}

// findings of data quality about one value, and how its time and unit were found; "" is nothing worth a word here.
var findings = map[string]string{
	"code-conflict":       "number and name of the code disagree",
	"code-unknown":        "the code is not known",
	"label-differs":       "known code under an unusual label",
	"unit-conflict":       "number and name of the unit disagree",
	"unit-unknown":        "the unit is not known",
	"unit-missing":        "no unit was sent",
	"unit-misfit":         "the unit does not fit the code",
	"implausible":         "physically impossible",
	"not-a-number":        "text in place of a number",
	"number-form":         "",
	"value-parts":         "a value of several parts",
	"test-data":           "test data",
	"flagged-invalid":     "flagged as invalid by the monitor",
	"result-status":       "no result, says the monitor",
	"setting":             "a setting, not a measurement",
	"sentinel-beside":     "",
	"message-type":        "in a message of no readable type",
	"document-unreadable": "a document that cannot be read",
	"value-in-alert":      "came along with an alert",
	"several-places":      "",
	"samples-unreadable":  "samples that cannot be drawn",
	"pressure-whole":      "is a blood pressure, of which part is not said",
	"pressures-disorder":  "systolic, mean and diastolic contradict each other",
	"limits-unreadable":   "",
	"time-unreadable":     "its time cannot be read",
	"time-missing":        "no time was sent",
	"time-of-message":     "time of the message",
	"message-time":        "time of the message",
	"time-of-arrival":     "time of arrival",
	"arrival":             "time of arrival",
	"zone-configured":     "zone as configured",
	"zone-utc":            "zone UTC by rule",
	"zone-unknown":        "time zone unknown",
	"zone-ambiguous":      "hour that exists twice",
	"unit-configured":     "unit as configured",
	"unit-dialect":        "unit by rule",
}

// protectionWords says how a box keeps its key, in the words every page uses. Anything unknown is not taken for hardware.
func protectionWords(class string) (words string, hardware bool) {
	switch class {
	case "hardware", "hardware TPM":
		return "hardware TPM", true
	case "emulated", "emulated TPM", "emulated TPM (swtpm)":
		return "emulated TPM", false
	case "software", "NOT A TPM", "NOT A TPM (software key)":
		return "NOT A TPM", false
	case "unproven hardware":
		return "hardware TPM, not proven", false
	case "", "unknown":
		return "protection unknown", false
	}
	return "protection unknown (" + clean(class) + ")", false
}
