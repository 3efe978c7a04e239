package mapping_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/vitalgate/vitalgate/fhir/mapping"
)

// verdict says what a reader of the Bundle takes each Observation for: a measurement under its standard codes, or a local row, a setting,
// an alarm; the value; what the security labels say. Times are not part of it.
func verdict(t *testing.T, bundle []byte) string {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(bundle))
	d.UseNumber()
	var b struct {
		Entry []struct{ Resource any1 }
	}
	if err := d.Decode(&b); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, e := range b.Entry {
		o := e.Resource
		if o["resourceType"] != "Observation" {
			continue
		}
		line := strings.Split(observation(o), " | ")[0] + " = " + strings.Split(observation(o), " | ")[1]
		if m, ok := o["meta"].(any1); ok {
			for _, s := range items(m["security"]) {
				line += " " + s["code"].(string)
			}
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// The shorthands of the rows below.
var shorthand = strings.NewReplacer(
	"$HR", "147842^MDC_ECG_HEART_RATE^MDC", "$SPO2", "150456^MDC_PULS_OXIM_SAT_O2^MDC", "$RESP", "151562^MDC_RESP_RATE^MDC",
	"$SYS", "150021^MDC_PRESS_BLD_NONINV_SYS^MDC", "$DIA", "150022^MDC_PRESS_BLD_NONINV_DIA^MDC", "$MEAN", "150023^MDC_PRESS_BLD_NONINV_MEAN^MDC",
	"$BODY", "150364^MDC_TEMP_BODY^MDC", "$TEMP", "150344^MDC_TEMP^MDC", "$DIFF", "188440^MDC_TEMP_DIFF^MDC",
	"$BPM", "264864^MDC_DIM_BEAT_PER_MIN^MDC", "$RPM", "264928^MDC_DIM_RESP_PER_MIN^MDC", "$PCT", "262688^MDC_DIM_PERCENT^MDC",
	"$MMHG", "266016^MDC_DIM_MMHG^MDC", "$KPA", "265987^MDC_DIM_KILO_PASCAL^MDC", "$CEL", "268192^MDC_DIM_DEGC^MDC", "$FAHR", "266560^MDC_DIM_FAHR^MDC",
)

// Rows that a monitor, a gateway or a careless programmer sends, and what they must become. Each expectation is reasoned from the standard
// or the dialect in its line, not taken from the output. A row is written from OBX-2 on.
func TestHostileRows(t *testing.T) {
	for _, c := range []struct {
		dialect, why string
		rows         []string
		want         string // lines of verdict
		event        string // that somebody must be told, "" none needed
	}{
		// Good rows, so that what follows is seen to be refused for its own reason.
		{"ihe-pcd01", "a plain heart rate is charted", []string{"NM|$HR|1.1.1.1|72|$BPM|||||R"}, "8867-4 147842 = 72 /min", ""},
		{"ihe-pcd01", "a saturation has both LOINC codes of the profile", []string{"NM|$SPO2|1.1.1.1|97|$PCT|||||R"}, "2708-6 59408-5 150456 = 97 %", ""},
		{"ihe-pcd01", "a body temperature in Fahrenheit keeps its unit (vital signs allow [degF]); nothing is converted", []string{"NM|$BODY|1.1.1.1|98.60|$FAHR|||||R"}, "8310-5 150364 = 98.60 [degF]", ""},

		// OBX-11 (HL7 table 0085): F P C A B V U R S and empty are results, I N O X D W are none, an unknown letter is not known to be one.
		{"ihe-pcd01", "final", []string{"NM|$HR|1|72|$BPM|||||F"}, "8867-4 147842 = 72 /min", ""},
		{"ihe-pcd01", "preliminary", []string{"NM|$HR|1|72|$BPM|||||P"}, "8867-4 147842 = 72 /min", ""},
		{"ihe-pcd01", "corrected", []string{"NM|$HR|1|72|$BPM|||||C"}, "8867-4 147842 = 72 /min", ""},
		{"ihe-pcd01", "partial", []string{"NM|$HR|1|72|$BPM|||||S"}, "8867-4 147842 = 72 /min", ""},
		{"ihe-pcd01", "final by a later status change", []string{"NM|$HR|1|72|$BPM|||||U"}, "8867-4 147842 = 72 /min", ""},
		{"ihe-pcd01", "not sent says nothing against the value", []string{"NM|$HR|1|72|$BPM|||||"}, "8867-4 147842 = 72 /min", ""},
		{"ihe-pcd01", "deleted", []string{"NM|$HR|1|72|$BPM|||||D"}, "local MDC 147842 = 72 /min", mapping.EventStatus},
		{"ihe-pcd01", "wrong patient", []string{"NM|$HR|1|72|$BPM|||||W"}, "local MDC 147842 = 72 /min", mapping.EventStatus},
		{"ihe-pcd01", "cannot be obtained, yet a value", []string{"NM|$HR|1|72|$BPM|||||X"}, "local MDC 147842 = 72 /min", mapping.EventStatus},
		{"ihe-pcd01", "not asked for, yet a value", []string{"NM|$HR|1|72|$BPM|||||N"}, "local MDC 147842 = 72 /min", mapping.EventStatus},
		{"ihe-pcd01", "order detail only, yet a value", []string{"NM|$HR|1|72|$BPM|||||O"}, "local MDC 147842 = 72 /min", mapping.EventStatus},
		{"ihe-pcd01", "result pending, yet a value", []string{"NM|$HR|1|72|$BPM|||||I"}, "local MDC 147842 = 72 /min", mapping.EventStatus},
		{"ihe-pcd01", "a letter of no table", []string{"NM|$HR|1|72|$BPM|||||Z"}, "local MDC 147842 = 72 /min", mapping.EventStatus},
		{"ihe-pcd01", "X without a value is simply no value", []string{"NM|$HR|1||$BPM|||||X"}, "8867-4 147842 = absent unknown", ""},

		// OBX-8 (IHE DEV TF Vol. 2, tables B.8.5-5 to B.8.5-7).
		{"ihe-pcd01", "high is an interpretation, not a reason to doubt", []string{"NM|$HR|1|152|$BPM||H|||R"}, "8867-4 147842 = 152 /min", ""},
		{"ihe-pcd01", "invalid", []string{"NM|$HR|1|72|$BPM||INV|||X"}, "local MDC 147842 = 72 /min UNRELIABLE", mapping.EventInvalid},
		{"ihe-pcd01", "invalid and high", []string{"NM|$HR|1|172|$BPM||H~INV|||R"}, "local MDC 147842 = 172 /min UNRELIABLE", mapping.EventInvalid},
		{"ihe-pcd01", "questionable is charted as uncertain", []string{"NM|$HR|1|72|$BPM||QUES|||R"}, "8867-4 147842 = 72 /min UNCERTREL", ""},
		{"ihe-pcd01", "calibration of a pressure line: 0 mmHg is not the patient's", []string{"NM|150037^MDC_PRESS_BLD_ART_ABP_SYS^MDC|1.1.2.1|0|$MMHG||CAL|||R"}, "local MDC 150037 = 0 mm[Hg] UNRELIABLE", mapping.EventInvalid},
		{"ihe-pcd01", "demonstration mode", []string{"NM|$HR|1|72|$BPM||DEMO|||R"}, "local MDC 147842 = 72 /min HTEST", mapping.EventTest},
		{"ihe-pcd01", "device self-test", []string{"NM|$HR|1|72|$BPM||TEST|||R"}, "local MDC 147842 = 72 /min HTEST", mapping.EventTest},
		{"ihe-pcd01", "demonstration as second repetition", []string{"NM|$SPO2|1|77|$PCT||L~DEMO|||R"}, "local MDC 150456 = 77 % HTEST", mapping.EventTest},
		{"ihe-pcd01", "switched off by the user", []string{"NM|$HR|1||$BPM||OFF|||X"}, "8867-4 147842 = absent not-performed", ""},
		{"ihe-pcd01", "not available, yet a value", []string{"NM|$HR|1|72|$BPM||NAV|||X"}, "local MDC 147842 = 72 /min", mapping.EventInvalid},
		{"ihe-pcd01", "not a number", []string{"NM|$HR|1||$BPM||NAN|||X"}, "8867-4 147842 = absent not-a-number", ""},
		{"ihe-pcd01", "masked", []string{"NM|$HR|1||$BPM||MSK|||X"}, "8867-4 147842 = absent masked", ""},
		{"ihe-pcd01", "a new measurement is under way", []string{"NM|$SYS|1.1.9.1||$MMHG||BUSY|||X"}, "8480-6 150021 = absent temp-unknown", ""},

		// Settings, entries, limits, room probes, differences.
		{"ihe-pcd01", "OBX-17 says automatic setting", []string{"NM|$RESP|1|12|$RPM|||||R||||||ASET^auto-setting^MDC"}, "setting: local MDC 151562 = 12 /min", mapping.EventSetting},
		{"ihe-pcd01", "OBX-17 says manual setting, as second repetition", []string{"NM|$RESP|1|12|$RPM|||||R||||||X^y^L~MSET^manual-setting^MDC"}, "setting: local MDC 151562 = 12 /min", mapping.EventSetting},
		{"ihe-pcd01", "OBX-17 says measured by hand: still a measurement", []string{"NM|$RESP|1|12|$RPM|||||R||||||MMEAS^manual-measurement^MDC"}, "9279-1 151562 = 12 /min", ""},
		{"ihe-pcd01", "a ventilator's set value by its name", []string{"NM|16929192^MDC_VENT_PRESS_AWAY_END_EXP_POS_SETTING^MDC|1|5|266048^MDC_DIM_CM_H2O^MDC|||||R"}, "setting: local MDC 16929192 = 5 cm[H2O]", mapping.EventSetting},
		{"philips-iic", "OBX-13 says setting", []string{"ST|0002-4182^HR^MDIL||60|0004-0aa0^bpm^MDIL|||||R||SETTING"}, "setting: local MDIL 0002-4182 = 60 /min", mapping.EventSetting},
		{"philips-iic", "OBX-13 says configuration", []string{"ST|0002-f8a1^Model^MDIL||M8007A||||||R||CONFIGURATION"}, `setting: local MDIL 0002-f8a1 = "M8007A"`, mapping.EventSetting},
		{"ihe-pcd01", "a temperature difference is no temperature of the body", []string{"NM|$DIFF|1|0.3|$CEL|||||R"}, "188440 = 0.3 Cel", ""},
		{"ihe-pcd01", "a difference of 5 degC under a body's code is impossible", []string{"NM|$BODY|1|5.0|$CEL|||||R"}, "local MDC 150364 = 5.0 Cel", mapping.EventImplausible},
		{"xh80x", "a free probe at 26 degC is a temperature, of nothing that is named", []string{"NM|$TEMP|1.2.1.150344|26.0|$CEL|||||F"}, "150344 = 26.0 Cel", ""},
		{"xh80x", "only channel 1.2.5 is the body's thermometer", []string{"NM|$TEMP|1.2.5.150344|36.5|$CEL|||||F"}, "8310-5 150344 = 36.5 Cel", ""},
		{"xh80x", "1.2.50 is not below 1.2.5", []string{"NM|$TEMP|1.2.50.150344|36.5|$CEL|||||F"}, "150344 = 36.5 Cel", ""},
		{"comen", "Comen's own codes are entries of the bed", []string{"NM|1^COMEN_AGE^99COMEN||126||||||F"}, "setting: local 99COMEN 1 = 126", mapping.EventSetting},
		{"comen", "a weight of 0 kg was not weighed", []string{"NM|188736^MDC_MASS_BODY_ACTUAL^MDC||0.0|263875^MDC_DIM_KILO_G^MDC|||||F"}, "local MDC 188736 = 0.0 kg", mapping.EventImplausible},

		// Sentinels and good rows beside them.
		{"ihe-pcd01", "-100 under a known code is no value", []string{"NM|$HR|1|-100|$BPM|||||R"}, "8867-4 147842 = absent unknown", ""},
		{"ihe-pcd01", "-100.00 is the same number", []string{"NM|$HR|1|-100.00|$BPM|||||R"}, "8867-4 147842 = absent unknown", ""},
		{"ihe-pcd01", "8388607 is the 24-bit NaN", []string{"NM|$SPO2|1|8388607|$PCT|||||R"}, "2708-6 59408-5 150456 = absent unknown", ""},
		{"ihe-pcd01", "-100 in an SN is no value either", []string{"SN|$HR|1|^-100|$BPM|||||R"}, "8867-4 147842 = absent unknown", ""},
		{"ihe-pcd01", "-1 is no sentinel here, and no heart rate", []string{"NM|$HR|1|-1|$BPM|||||R"}, "local MDC 147842 = -1 /min", mapping.EventImplausible},
		{"ihe-pcd01", "-5 of a venous pressure is a value", []string{"NM|150087^MDC_PRESS_BLD_VEN_CENT_MEAN^MDC|1|-5|$MMHG|||||R"}, "150087 = -5 mm[Hg]", ""},
		{"ihe-pcd01", "-100 of an unknown code may be a value", []string{"NM|X1^own^99L|1|-100|$MMHG|||||R"}, "local 99L X1 = -100 mm[Hg]", ""},
		{"ge-bseries", "-32767 of the DRI protocol", []string{"NM|$HR|1|-32767|$BPM|||||R"}, "8867-4 147842 = absent unknown", ""},
		{"philips-iic", "-?- is how Philips shows no value", []string{"NM|0002-4182^HR^MDIL||-?-|0004-0aa0^bpm^MDIL|||||R"}, "8867-4 147842 = absent unknown", ""},
		{"ihe-pcd01", "good, then none: the good one stays", []string{"NM|$HR|1.1.1.1|72|$BPM|||||R", "NM|$HR|1.1.1.1|-100|$BPM|||||R"}, "8867-4 147842 = 72 /min", mapping.EventSentinelDropped},
		{"ihe-pcd01", "none, then good: the good one stays", []string{"NM|$HR|1.1.1.1|-100|$BPM|||||R", "NM|$HR|1.1.1.1|72|$BPM|||||R"}, "8867-4 147842 = 72 /min", mapping.EventSentinelDropped},
		{"ihe-pcd01", "none of another channel is another measurement", []string{"NM|$HR|1.1.1.1|72|$BPM|||||R", "NM|$HR|1.1.2.1|-100|$BPM|||||R"}, "8867-4 147842 = 72 /min\n8867-4 147842 = absent unknown", ""},
		{"ihe-pcd01", "none of another time is another measurement", []string{"NM|$SYS|1.1.9.1|120|$MMHG|||||R|||20251105110000+0000", "NM|$SYS|1.1.9.1|-100|$MMHG|||||R|||20251105111500+0000"}, "8480-6 150021 = 120 mm[Hg]\n8480-6 150021 = absent unknown", ""},
		{"mindray-pds", "503: good row, then -100 without a time", []string{"NM|101^HR|2101|60||||||F|||20200418190201", "NM|101^HR|2101|-100||||||F|||00000000000000"}, "8867-4 147842 = 60 /min", mapping.EventSentinelDropped},

		// Physically impossible values.
		{"ihe-pcd01", "a heart does not beat 900 times", []string{"NM|$HR|1|900|$BPM|||||R"}, "local MDC 147842 = 900 /min", mapping.EventImplausible},
		{"ihe-pcd01", "more than all is saturated", []string{"NM|$SPO2|1|101|$PCT|||||R"}, "local MDC 150456 = 101 %", mapping.EventImplausible},
		{"ihe-pcd01", "a fraction in the place of a percentage", []string{"NM|$SPO2|1|0.97|$PCT|||||R"}, "local MDC 150456 = 0.97 %", mapping.EventImplausible},
		{"ihe-pcd01", "a Fahrenheit number labelled Celsius", []string{"NM|$BODY|1|98.6|$CEL|||||R"}, "local MDC 150364 = 98.6 Cel", mapping.EventImplausible},
		{"ihe-pcd01", "a Celsius number labelled Fahrenheit", []string{"NM|$BODY|1|37.0|$FAHR|||||R"}, "local MDC 150364 = 37.0 [degF]", mapping.EventImplausible},
		{"ihe-pcd01", "a range whose end is impossible", []string{"NR|$SPO2|1|95^105|$PCT|||||R"}, "local MDC 150456 = range 95 % - 105 %", mapping.EventImplausible},
		{"ihe-pcd01", "asystole is possible", []string{"NM|$HR|1|0|$BPM|||||R"}, "8867-4 147842 = 0 /min", ""},
		{"ihe-pcd01", "systolic below diastolic: one of them is not what it says", []string{"NM|$SYS|1.1.9.1|80|$MMHG|||||R", "NM|$DIA|1.1.9.2|120|$MMHG|||||R"}, "local MDC 150021 = 80 mm[Hg]\nlocal MDC 150022 = 120 mm[Hg]", mapping.EventOrder},
		{"philips-iic", "a number under the code of the whole blood pressure, whatever its label says", []string{"NM|0002-4a04^NBPd^MDIL||79|0004-0f20^mmHg^MDIL|||||F"}, "local MDIL 0002-4a04 = 79 mm[Hg]", mapping.EventWhole},
		{"loinc", "a number under the panel", []string{"NM|85354-9^BP^LN||120|mm[Hg]|||||F"}, "local LN 85354-9 = 120 mm[Hg]", mapping.EventWhole},
		{"ihe-pcd01", "a mean below the diastolic", []string{"NM|$SYS|1.1.9.1|120|$MMHG|||||R", "NM|$DIA|1.1.9.2|80|$MMHG|||||R", "NM|$MEAN|1.1.9.3|70|$MMHG|||||R"}, "local MDC 150021 = 120 mm[Hg]\nlocal MDC 150022 = 80 mm[Hg]\nlocal MDC 150023 = 70 mm[Hg]", mapping.EventOrder},
		{"ihe-pcd01", "pulmonary pressures in the order of the wrong table", []string{"NM|150045^MDC_PRESS_BLD_ART_PULM_SYS^MDC|1.1.3.1|10|$MMHG|||||R", "NM|150046^MDC_PRESS_BLD_ART_PULM_DIA^MDC|1.1.3.2|25|$MMHG|||||R"}, "local MDC 150045 = 10 mm[Hg]\nlocal MDC 150046 = 25 mm[Hg]", mapping.EventOrder},
		{"ihe-pcd01", "a flat line: all three the same", []string{"NM|$SYS|1.1.9.1|40|$MMHG|||||R", "NM|$DIA|1.1.9.2|40|$MMHG|||||R", "NM|$MEAN|1.1.9.3|40|$MMHG|||||R"}, "85354-9 150020 = 8480-6 150021 40 mm[Hg] + 8462-4 150022 40 mm[Hg] + 8478-0 150023 40 mm[Hg]", ""},

		// Units: kPa, Fahrenheit under wrong numbers, disagreement, spellings.
		{"ihe-pcd01", "kPa is no unit of the blood pressure profile: the 11073 code alone", []string{"NM|$SYS|1.1.9.1|16|$KPA|||||R"}, "150021 = 16 kPa", ""},
		{"loinc", "kPa under a LOINC code whose profile wants mm[Hg]", []string{"NM|8480-6^Systolic blood pressure^LN||16|kPa|||||F"}, "local LN 8480-6 = 16 kPa", mapping.EventUnitMisfit},
		{"ihe-pcd01", "268224 is not Fahrenheit", []string{"NM|$BODY|1|98.6|268224^MDC_DIM_FAHR^MDC|||||R"}, "local MDC 150364 = 98.6 (MDC_DIM_FAHR)", mapping.EventUnitConflict},
		{"ihe-pcd01", "268160 is not Fahrenheit", []string{"NM|$BODY|1|98.6|268160^MDC_DIM_FAHR^MDC|||||R"}, "local MDC 150364 = 98.6 (MDC_DIM_FAHR)", mapping.EventUnitConflict},
		{"ihe-pcd01", "the number of Celsius with the name of Fahrenheit", []string{"NM|$BODY|1|98.6|268192^MDC_DIM_FAHR^MDC|||||R"}, "local MDC 150364 = 98.6 (MDC_DIM_FAHR)", mapping.EventUnitConflict},
		{"ihe-pcd01", "a heart rate in percent", []string{"NM|$HR|1|72|$PCT|||||R"}, "local MDC 147842 = 72 %", mapping.EventUnitMisfit},
		{"ihe-pcd01", "a heart rate without a unit", []string{"NM|$HR|1|72||||||R"}, "local MDC 147842 = 72", mapping.EventUnitMissing},
		{"ihe-pcd01", "a unit that nobody knows", []string{"NM|$HR|1|72|furlong|||||R"}, "local MDC 147842 = 72 (furlong)", mapping.EventUnitUnknown},
		{"ihe-pcd01", "breaths in beats per minute are both per minute", []string{"NM|$RESP|1|14|$BPM|||||R"}, "9279-1 151562 = 14 /min", ""},
		{"ihe-pcd01", "a partial pressure in degrees", []string{"NM|159756^MDC_CONC_PO2_ART^MDC|1|90|$CEL|||||R"}, "local MDC 159756 = 90 Cel", mapping.EventUnitMisfit},
		{"ihe-pcd01", "an amount under a code that is none", []string{"NM|184327^MDC_ECG_STAT_RHY^MDC|1|72|$BPM|||||R"}, "local MDC 184327 = 72 /min", mapping.EventUnitMisfit},
		{"ihe-pcd01", "a unit's number with a leading zero is none", []string{"NM|$HR|1|72|0264864^MDC_DIM_BEAT_PER_MIN^MDC|||||R"}, "local MDC 147842 = 72 (MDC_DIM_BEAT_PER_MIN)", mapping.EventUnitConflict},

		// Number, name, label disagree (DIALECTS §11).
		{"ihe-pcd01", "the number of the heart rate with the name of the saturation", []string{"NM|147842^MDC_PULS_OXIM_SAT_O2^MDC|1|72|$BPM|||||R"}, "local MDC 147842 = 72 /min", mapping.EventCodeConflict},
		{"ge-bseries", "150457 is not a pulse rate", []string{"NM|150457^MDC_PULS_OXIM_PULS_RATE^MDC|1|72|$BPM|||||R"}, "local MDC 150457 = 72 /min", mapping.EventCodeConflict},
		{"ihe-pcd01", "the heart rate's number under the label of the saturation", []string{"NM|147842^SpO2^MDC|1|72|$BPM|||||R"}, "local MDC 147842 = 72 /min", mapping.EventCodeConflict},
		{"ihe-pcd01", "a number with a sign is no number of 11073", []string{"NM|+147842^HR^MDC|1|72|$BPM|||||R"}, "local MDC +147842 = 72 /min", ""},
		{"ihe-pcd01", "name alone, in the place of the number", []string{"NM|MDC_ECG_HEART_RATE|1|72|$BPM|||||R"}, "8867-4 147842 = 72 /min", ""},
		{"ihe-pcd01", "an invasive line's label on the cuff's code", []string{"NM|150021^ABP^MDC|1|120|$MMHG|||||R"}, "local MDC 150021 = 120 mm[Hg]", mapping.EventCodeConflict},
		{"ihe-pcd01", "ectopic beats are no heart rate", []string{"NM|147842^PVC^MDC|1|3|$BPM|||||R"}, "local MDC 147842 = 3 /min", mapping.EventCodeConflict},
		{"ihe-pcd01", "LOINC beside, that means another thing", []string{"NM|147842^MDC_ECG_HEART_RATE^MDC^9279-1^Respiratory rate^LN|1|72|$BPM|||||R"}, "local MDC 147842 = 72 /min", mapping.EventCodeConflict},
		{"ihe-pcd01", "a LOINC code with a wrong check digit", []string{"NM|8867-5^Heart rate^LN|1|72|$BPM|||||R"}, "local LN 8867-5 = 72 /min", ""},
		{"ihe-pcd01", "another system's number is not 11073's", []string{"NM|147842^Heart rate^99XYZ|1|72|$BPM|||||R"}, "local 99XYZ 147842 = 72 /min", ""},
		{"mindray-pds", "a terminator within the value", []string{"NM|101^HR|2101|12\r0||||||F"}, "local mindray-pds 101 = 12", mapping.EventBroken},
		{"ihe-pcd01", "a terminator behind the value: what follows may be its rest", []string{"NM|$HR|1|72|$BPM\r|||||R"}, "local MDC 147842 = 72 /min", mapping.EventBroken},
		{"mindray-pds", "PDS code 101 under the label of the saturation", []string{"NM|101^SpO2|2101|97||||||F"}, "local mindray-pds 101 = 97", mapping.EventCodeConflict},
		{"philips-iic", "hexadecimal in capitals is the same number", []string{"NM|0002-4BB8^SpO2^MDIL||97|0004-0220^%^MDIL|||||R"}, "2708-6 59408-5 150456 = 97 %", ""},
		{"philips-iic", "0002-5000 relabelled means something else", []string{"NM|0002-5000^SML^MDIL||12|0004-0ae0^rpm^MDIL|||||R"}, "local MDIL 0002-5000 = 12 /min", mapping.EventLabelDiffers},
		{"philips-iic", "the heart rate's MDIL number under the saturation's label", []string{"NM|0002-4182^SpO2^MDIL||97|0004-0aa0^bpm^MDIL|||||R"}, "local MDIL 0002-4182 = 97 /min", mapping.EventCodeConflict},
		{"philips-iic", "an invented MDIL number", []string{"NM|0002-4190^SpO2^MDIL||98|0004-0220^%^MDIL|||||R"}, "local MDIL 0002-4190 = 98 %", mapping.EventCodeUnknown},
		{"philips-iic", "MDIL unit: the number of bpm with the text of percent", []string{"NM|0002-4bb8^SpO2^MDIL||98|0004-0aa0^%^MDIL|||||R"}, "local MDIL 0002-4bb8 = 98 (%)", mapping.EventUnitConflict},
		{"philips-iic", "no hexadecimal at all", []string{"NM|0002-41G2^HR^MDIL||98|0004-0aa0^bpm^MDIL|||||R"}, "local MDIL 0002-41G2 = 98 /min", ""},
		{"northern", "150031 is the mean pressure of the aorta: under a cuff's label it is neither", []string{"NM|150031^NIBP^MDC||120|$MMHG|||||F"}, "local MDC 150031 = 120 mm[Hg]", mapping.EventCodeConflict},

		// Values of a form that their type does not have.
		{"ihe-pcd01", "a number with a comparator", []string{"SN|$HR|1|>^300|$BPM|||||R"}, "8867-4 147842 = >300 /min", ""},
		{"ihe-pcd01", "text in an NM", []string{"NM|$HR|1|Alert|$BPM|||||R"}, `local MDC 147842 = "Alert"`, mapping.EventNotANumber},
		{"ihe-pcd01", "components in an NM: which is the value?", []string{"NM|$BODY|1|36.4^99.9^|$CEL|||||R"}, `local MDC 150364 = "36.4^99.9^"`, mapping.EventParts},
		{"ihe-pcd01", "sub-components in an NM", []string{"NM|$BODY|1|36.4&99.9|$CEL|||||R"}, `local MDC 150364 = "36.4&99.9"`, mapping.EventNotANumber},
		{"ihe-pcd01", "repetitions in an NM", []string{"NM|$HR|1|72~75|$BPM|||||R"}, `local MDC 147842 = "72~75"`, mapping.EventParts},
		{"ihe-pcd01", "a decimal comma is not guessed", []string{"NM|$BODY|1|36,4|$CEL|||||R"}, `local MDC 150364 = "36,4"`, mapping.EventNotANumber},
		{"ihe-pcd01", "digits of another script are no NM", []string{"NM|$HR|1|７２|$BPM|||||R"}, `local MDC 147842 = "７２"`, mapping.EventNotANumber},
		{"ihe-pcd01", "a number with its unit in one", []string{"NM|$HR|1|72 bpm|$BPM|||||R"}, `local MDC 147842 = "72 bpm"`, mapping.EventNotANumber},
		{"ihe-pcd01", "a coded value where a number belongs", []string{"CWE|$HR|1|72^seventy-two^L|$BPM|||||R"}, "local MDC 147842 = 72 seventy-two", mapping.EventNotANumber},
		{"ihe-pcd01", "a number sent as text", []string{"ST|$HR|1|72|$BPM|||||R"}, "8867-4 147842 = 72 /min", ""},
		{"ihe-pcd01", "a number of no type", []string{"|$HR|1|72|$BPM|||||R"}, "8867-4 147842 = 72 /min", ""},
		{"ihe-pcd01", "multi-byte label and flag", []string{"NM|147842^Ритм ♥^MDC|1|72|$BPM||выше|||R"}, "8867-4 147842 = 72 /min", ""},
		{"ihe-pcd01", "a null", []string{`NM|$HR|1|""|$BPM|||||R`}, "8867-4 147842 = absent unknown", ""},

		// Alarms and inoperative states are no measurements.
		{"philips-iic", "an inoperative state beside measurements", []string{"TX|5^HardInop^MDIL-ALERT||SpO2 LEADS OFF||||||R"}, `alarm: local MDIL-ALERT 5 = "SpO2 LEADS OFF" + local MDC 68485 "ST"`, ""},
		{"mindray-pds", "two stars are of medium priority", []string{"CE|2|1|10076^**T1 Too Low||||||F"}, `alarm: local mindray-pds 2 = 10076 **T1 Too Low + local MDC 68484 "PM" + local MDC 68485 "SP"`, ""},
		{"ihe-pcd01", "a watchdog is no alarm", []string{"ST|198200^ MDC_EVT_WATCHDOG^MDC|1.0.0.1|continue|||N~ST~PL|||F"}, `setting: local MDC 198200 = "continue"`, mapping.EventSetting},
	} {
		t.Run(c.dialect+": "+c.why, func(t *testing.T) {
			text := header
			for _, row := range c.rows {
				text += "OBX||" + shorthand.Replace(row) + "\n"
			}
			r := convert(t, c.dialect, text, context())
			if got := verdict(t, r.Bundle); got != c.want {
				t.Errorf("%s\ngot\n%s\nwant\n%s", strings.Join(c.rows, "\n"), got, c.want)
			}
			told := c.event == ""
			for _, e := range r.Events {
				told = told || e.Code == c.event
				if c.event == "" && e.Code != mapping.EventCodeUnknown {
					t.Errorf("somebody is told of %s at %s: there is nothing to tell", e.Code, e.Where)
				}
			}
			if !told {
				t.Errorf("nobody is told of %s: %v", c.event, r.Events)
			}
		})
	}
}

// The limits of OBX-7 are used as limits only where they can be read without a guess; what was sent stands as text in any case.
func TestLimits(t *testing.T) {
	for _, c := range []struct{ sent, low, high, why string }{
		{"50-120", "50", "120", ""},
		{"50^120", "50", "120", ""},
		{"50 - 120", "50", "120", ""},
		{"36.0^39.0", "36.0", "39.0", "digits as sent"},
		{"-5-12", "-5", "12", "the first dash is a sign"},
		{"-10--5", "-10", "-5", "both are negative"},
		{"2.-6.", "2", "6", "points without digits after them"},
		{"<120", "", "120", ""},
		{"<=120", "", "120", ""},
		{">50", "50", "", ""},
		{">=50", "50", "", ""},
		{"50^", "50", "", "only a low one"},
		{"^120", "", "120", "only a high one"},
		{"0-0", "0", "0", "equal is not reversed"},
		{"---^---", "", "", "switched off"},
		{"-100^-100", "", "", "the sentinel for none"},
		{"-100^120", "", "120", "the sentinel beside a limit"},
		{"off", "", "", "a word"},
		{"120-50", "", "", "reversed"},
		{"120^50", "", "", "reversed"},
		{"120", "", "", "low or high?"},
		{"-120", "", "", "a negative limit, or a high one?"},
		{"50-", "", "", "no form of the standard"},
		{"50..120", "", "", "no form of the standard"},
		{"50-120 bpm", "", "", "more than two numbers"},
		{"50^120^x", "", "", "three components"},
		{"50-120~40-130", "", "", "two ranges"},
		{"5O-12O", "", "", "letters"},
		{"1-2-3", "", "", "three numbers"},
	} {
		r := convert(t, "ihe-pcd01", header+"OBX|1|NM|147842^MDC_ECG_HEART_RATE^MDC|1.1.1.1|72|264864^MDC_DIM_BEAT_PER_MIN^MDC|"+c.sent+"||||F\n", context())
		var o any1
		for _, o = range observationsOf(t, r.Bundle) {
		}
		limits := items(o["referenceRange"])[0]
		end := func(name string) string {
			q, ok := limits[name].(any1)
			if !ok {
				return ""
			}
			if q["code"] != "/min" {
				t.Errorf("%s: the limit has lost its unit", c.sent)
			}
			return string(q["value"].(json.Number))
		}
		if low, high := end("low"), end("high"); low != c.low || high != c.high {
			t.Errorf("%s (%s): low %q high %q, want %q and %q", c.sent, c.why, low, high, c.low, c.high)
		}
		if limits["text"] == nil {
			t.Errorf("%s: what was sent is lost", c.sent)
		}
		if r.Charted != 1 {
			t.Errorf("%s: the value suffers", c.sent)
		}
		told := false
		for _, e := range r.Events {
			told = told || e.Code == mapping.EventLimits && e.Where == "OBX[1]-7"
		}
		unreadable := c.low+c.high == "" && strings.ContainsAny(c.sent, "0123456789") && c.sent != "-100^-100"
		if told != unreadable {
			t.Errorf("%s (%s): told %v, want %v", c.sent, c.why, told, unreadable)
		}
		if (limits["type"] != nil) != (c.low+c.high != "") {
			t.Errorf("%s: text is called alarm limits, or limits are not", c.sent)
		}
	}
}
