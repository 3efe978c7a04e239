package main

import "strings"

// everyday are units as a person says them who reads no UCUM.
var everyday = map[string]string{"/min": "per minute", "{beats}/min": "per minute", "{breaths}/min": "per minute", "mm[Hg]": "mmHg", "Cel": "°C", "[degF]": "°F", "cm[H2O]": "cmH₂O"}

// bedside are measurements as a nurse calls them, by their reference id (ISO/IEEE 11073-10101). How a value was measured is said where a
// monitor may show two of a kind.
var bedside = map[string]string{
	"MDC_ECG_HEART_RATE":             "heart rate",
	"MDC_ECG_CARD_BEAT_RATE_BTB":     "heart rate, beat to beat",
	"MDC_PULS_RATE":                  "pulse rate",
	"MDC_PULS_RATE_NON_INV":          "pulse rate by cuff",
	"MDC_BLD_PULS_RATE_INV":          "pulse rate by arterial line",
	"MDC_PULS_OXIM_PULS_RATE":        "pulse rate by SpO2 sensor",
	"MDC_PLETH_PULS_RATE":            "pulse rate by SpO2 sensor",
	"MDC_PULS_OXIM_SAT_O2":           "SpO2",
	"MDC_PULS_OXIM_SAT_O2_ART_LEFT":  "SpO2, left",
	"MDC_PULS_OXIM_SAT_O2_ART_RIGHT": "SpO2, right",
	"MDC_SAT_O2_ART":                 "oxygen saturation of arterial blood",
	"MDC_SAT_O2_VEN":                 "oxygen saturation of venous blood",
	"MDC_PULS_OXIM_PERF_REL":         "perfusion index",
	"MDC_BLD_PERF_INDEX":             "perfusion index",
	"MDC_RESP_RATE":                  "respiratory rate",
	"MDC_TTHOR_RESP_RATE":            "respiratory rate by ECG leads",
	"MDC_CO2_RESP_RATE":              "respiratory rate by CO2",
	"MDC_AWAY_RESP_RATE":             "respiratory rate at the airway",
	"MDC_PULS_OXIM_PLETH_RESP_RATE":  "respiratory rate by SpO2 sensor",
	"MDC_CONC_AWAY_CO2_ET":           "end-tidal CO2",
	"MDC_AWAY_CO2_ET":                "end-tidal CO2",
	"MDC_CONC_AWAY_CO2_INSP":         "inspired CO2",
	"MDC_CONC_AWAY_CO2_INSP_MIN":     "inspired CO2",
	"MDC_AWAY_CO2_INSP_MIN":          "inspired CO2",
	"MDC_CONC_AWAY_O2_ET":            "end-tidal O2",
	"MDC_CONC_AWAY_O2_INSP":          "inspired O2",
	"MDC_VENT_CONC_AWAY_O2_INSP":     "inspired O2",
	"MDC_CONC_AWAY_N2O_ET":           "end-tidal N2O",
	"MDC_CONC_AWAY_N2O_INSP":         "inspired N2O",
	"MDC_TEMP":                       "temperature",
	"MDC_TEMP_BODY":                  "body temperature",
	"MDC_TEMP_CORE":                  "core temperature",
	"MDC_TEMP_SKIN":                  "skin temperature",
	"MDC_TEMP_BLD":                   "blood temperature",
	"MDC_TEMP_ESOPH":                 "temperature in the oesophagus",
	"MDC_TEMP_NASOPH":                "temperature in the nose and throat",
	"MDC_TEMP_TYMP":                  "temperature in the ear",
	"MDC_TEMP_RECT":                  "rectal temperature",
	"MDC_TEMP_ORAL":                  "temperature in the mouth",
	"MDC_TEMP_AXIL":                  "temperature under the arm",
	"MDC_TEMP_DIFF":                  "difference of the temperatures",
	"MDC_OUTPUT_CARD":                "cardiac output",
	"MDC_OUTPUT_CARD_INDEX":          "cardiac index",
	"MDC_VOL_BLD_STROKE":             "stroke volume",
	"MDC_PRESS_CEREB_PERF":           "cerebral perfusion pressure",
	"MDC_PRESS_BLD_ART_PULM_WEDGE":   "wedge pressure",
	"MDC_ECG_V_P_C_RATE":             "ventricular extra beats",
	"MDC_VOL_AWAY_TIDAL":             "tidal volume",
	"MDC_VOL_MINUTE_AWAY":            "minute volume",
	"MDC_PRESS_AWAY_INSP_PEAK":       "peak airway pressure",
	"MDC_PRESS_AWAY_END_EXP_POS":     "PEEP",
	"MDC_MASS_BODY_ACTUAL":           "body weight",
	"MDC_LEN_BODY_ACTUAL":            "body height",
}

// sites are where a pressure is measured: its reference id is this, or this and a part.
var sites = map[string]string{
	"MDC_PRESS_BLD":           "blood pressure",
	"MDC_PRESS_BLD_NONINV":    "blood pressure by cuff",
	"MDC_PRESS_CUFF":          "blood pressure by cuff",
	"MDC_PRESS_BLD_ART":       "blood pressure by arterial line",
	"MDC_PRESS_BLD_ART_ABP":   "blood pressure by arterial line",
	"MDC_PRESS_BLD_ART_UMB":   "blood pressure by umbilical artery",
	"MDC_PRESS_BLD_AORT":      "pressure in the aorta",
	"MDC_PRESS_BLD_ART_PULM":  "pressure in the pulmonary artery",
	"MDC_PRESS_BLD_VEN_CENT":  "central venous pressure",
	"MDC_PRESS_BLD_VEN_UMB":   "pressure in the umbilical vein",
	"MDC_PRESS_BLD_ATR_LEFT":  "pressure in the left atrium",
	"MDC_PRESS_BLD_ATR_RIGHT": "pressure in the right atrium",
	"MDC_PRESS_INTRA_CRAN":    "intracranial pressure",
}

var parts = map[string]string{"_SYS": "systolic ", "_DIA": "diastolic ", "_MEAN": "mean "}

// called is what a nurse calls the measurement with the reference id. One that has no such name keeps the words of its own.
func called(refid string) string {
	if name, ok := bedside[refid]; ok {
		return name
	}
	if name, ok := sites[refid]; ok {
		return name
	}
	for end, part := range parts {
		site, ok := strings.CutSuffix(refid, end)
		if name, known := sites[site]; ok && known {
			return part + name
		}
	}
	return strings.ToLower(strings.NewReplacer("MDC_", "", "_", " ").Replace(refid))
}

// spoken is a quantity as it is read aloud, with the digits that the monitor sent.
func (q quantity) spoken() string {
	unit, ok := everyday[q.Unit]
	if !ok {
		unit = q.Unit
	}
	return strings.TrimSpace(q.Value.String() + " " + unit)
}

// charted is the everyday name of what has a standard code, "" for what has none. The code of the device is asked first: it says how a
// value was measured, which the general one does not.
func (c concept) charted() string {
	for _, k := range c.Coding {
		if k.System == "urn:iso:std:iso:11073:10101" && k.Display != "" {
			return called(k.Display)
		}
	}
	for _, k := range c.Coding {
		if k.System == "http://loinc.org" && k.Display != "" {
			return strings.ToLower(k.Display[:1]) + k.Display[1:]
		}
	}
	return ""
}
