package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/vitalgate/vitalgate/hl7"
)

// A dialect writes what a monitor of one family sends. The families and their peculiarities are those of the real ones; the
// patients are not.
type dialect struct {
	about string
	// ack is the acknowledgement that the monitor wants, "" for none.
	ack hl7.AckCode
	// constantID: MSH-10 is the same in all messages.
	constantID bool
	// keepAlive is sent each second and echoed by the other side; nil for none.
	keepAlive []byte
	// hello is sent first on each connection; nil for none.
	hello func(w *writer) []byte
	// vitals is one message of vitals. It ends with the marker.
	vitals func(w *writer, s *sample) []byte
	// also is a further message for the same moment, or nil if there is none then.
	also func(w *writer, s *sample) []byte
}

var dialects = map[string]dialect{
	"philips-iic":   {about: "Philips Information Center: HL7 2.3, MDIL codes, Latin-1, AA", ack: hl7.AA, vitals: philipsIIC},
	"mindray-pcd01": {about: "Mindray VS900, IHE PCD-01: HL7 2.6, stale cuff pressures, CA", ack: hl7.CA, vitals: mindrayPCD01},
	"ge-bseries":    {about: "GE B105, IHE PCD-01: HL7 2.6, constant MSH-10, device rows, AA", ack: hl7.AA, constantID: true, vitals: geBSeries},
	"comen":         {about: "Comen NC: HL7 2.6 without framing, 8388607 for no value, AA", ack: hl7.AA, vitals: comen},
	"mindray-pds":   {about: "Mindray bedside (PDS): HL7 2.3.1, classes in MSH-10, no acknowledgement", keepAlive: pdsKeepAlive, hello: pdsPatient, vitals: pdsPeriodic, also: pdsAperiodic},
	"ihe-pcd01":     {about: "any IHE PCD-01 device: HL7 2.6, full containment, CO2, AA", ack: hl7.AA, vitals: ihePCD01},

	"philips-iicix":   {about: "Philips Information Center iX, IHE PCD-01: HL7 2.6, CA", ack: hl7.CA, vitals: philipsIICiX.vitals},
	"philips-efficia": {about: "Philips Efficia CM: HL7 2.4, MDIL codes, AA", ack: hl7.AA, vitals: philipsEfficia.vitals},
	"draeger-pcd04":   {about: "Draeger: HL7 2.6, CA; values only, its alarms (PCD-04) are not played", ack: hl7.CA, vitals: draeger.vitals},
	"masimo-psn":      {about: "Masimo Patient SafetyNet: HL7 2.6, CA; values only, its alarms (PCD-04) are not played", ack: hl7.CA, vitals: masimo.vitals},
	"xh80x":           {about: "XH80X, TR8: HL7 2.4, channel only for temperatures, -1 for no value, AA", ack: hl7.AA, vitals: xh80x.vitals},
	"northern":        {about: "Northern Aquarius: HL7 2.4, a wrong number for the systolic pressure, -100 for no value, AA", ack: hl7.AA, vitals: northern.vitals},
	"ge-vc150":        {about: "GE VC150: HL7 2.6, names without numbers or units, no bed, AA", ack: hl7.AA, vitals: geVC150.vitals},
	"loinc":           {about: "a sender of LOINC codes: HL7 2.4, AA", ack: hl7.AA, vitals: loinc.vitals},
}

func dialectNames() []string {
	var all []string
	for name := range dialects {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// writer writes the messages of one monitor.
type writer struct {
	*hl7.Builder
	scenario *Scenario
	monitor  string
	id       string // marker of the message, unique over all monitors and runs
	set      int    // OBX-1
}

// markerSystem is the coding system of the row that makes each message of vitals unique: it can be found again in the Bundle, as
// an observation with a local code, and in the raw message.
const markerSystem = "99VITALSIM"

func (w *writer) marker() *writer {
	return w.row(obx{kind: "ST", code: "SEQ^vitalsim message^" + markerSystem, value: hl7.Encoded(w.id), status: "F"})
}

// obx is one OBX segment.
type obx struct {
	kind, code, sub, value, unit, limits, flags, status, mode, time, method, device hl7.Encoded
}

// row appends o, with a set id in OBX-1.
func (w *writer) row(o obx) *writer {
	w.set++
	return w.segment(hl7.Encoded(strconv.Itoa(w.set)), o)
}

// bare appends o without a set id.
func (w *writer) bare(o obx) *writer { return w.segment("", o) }

func (w *writer) segment(set hl7.Encoded, o obx) *writer {
	w.Segment("OBX", set, o.kind, o.code, o.sub, o.value, o.unit, o.limits, o.flags, "", "", o.status, "", o.mode, o.time, "", "", o.method, o.device)
	return w
}

func (w *writer) begin() { w.Reset(); w.set = 0 }

func (w *writer) name() hl7.Encoded {
	return hl7.Components(hl7.Text(w.scenario.Patient.Family), hl7.Text(w.scenario.Patient.Given))
}

// local is the clock of the monitor without its offset; with milliseconds where two messages come within a second.
func (w *writer) local(t time.Time) hl7.Encoded {
	t = t.In(w.scenario.zone)
	if time.Duration(w.scenario.Every) < time.Second {
		return hl7.Encoded(t.Format("20060102150405.000"))
	}
	return hl7.Encoded(t.Format("20060102150405"))
}

func (w *writer) zoned(t time.Time, layout string) hl7.Encoded {
	return hl7.Encoded(t.In(w.scenario.zone).Format(layout))
}

// exact is a time with milliseconds and offset.
func (w *writer) exact(t time.Time) hl7.Encoded { return w.zoned(t, "20060102150405.000-0700") }

func whole(v float64) hl7.Encoded { return hl7.Encoded(strconv.Itoa(int(math.Round(v)))) }

func decimal(v float64, digits int) hl7.Encoded {
	return hl7.Encoded(strconv.FormatFloat(v, 'f', digits, 64))
}

// Units of ISO/IEEE 11073-10101.
const (
	perMin  = "264864^MDC_DIM_BEAT_PER_MIN^MDC"
	breaths = "264928^MDC_DIM_RESP_PER_MIN^MDC"
	percent = "262688^MDC_DIM_PERCENT^MDC"
	mmHg    = "266016^MDC_DIM_MMHG^MDC"
	degC    = "268192^MDC_DIM_DEGC^MDC"
)

// philipsIIC writes as an Information Center exports: no set ids, codes and units in hexadecimal, alarm limits in OBX-7, settings
// and alerts among the measurements, the time in OBR-7.
func philipsIIC(w *writer, s *sample) []byte {
	const bpm, pct, mm, celsius, rpm = "0004-0aa0^bpm^MDIL", "0004-0220^%^MDIL", "0004-0f20^mmHg^MDIL", "0004-17a0^°C^MDIL", "0004-0ae0^rpm^MDIL"
	p := w.scenario.Patient
	w.begin()
	w.Segment("MSH", "", "", "", "", "", "", "ORU^R01", hl7.Text("HP"+w.id), "P", "2.3", "", "", "", "", "", "8859/1")
	w.Segment("PID", "", "", hl7.Text(p.ID), "", w.name(), "", hl7.Text(p.Birth), hl7.Text(p.Sex))
	w.Segment("PV1", "", "I", hl7.Components(hl7.Text(p.Ward), "", hl7.Subcomponents(hl7.Text(p.Bed), "0", "0")))
	w.Segment("OBR", "", "", "", "", "", "", w.local(s.at))
	number := func(code string, v, unit, limits hl7.Encoded) {
		w.bare(obx{kind: "NM", code: hl7.Encoded(code), sub: "0", value: v, unit: unit, limits: limits, status: "F"})
	}
	w.bare(obx{kind: "ST", code: "0402-f8f5^sMode^MDIL", sub: "0", value: "MONITORING", status: "F", mode: "SETTING"})
	for i, e := range s.events {
		w.bare(obx{kind: "TX", code: hl7.Encoded(strconv.Itoa(i+1) + "^" + philipsAlarms[e.Kind][0] + "^MDIL-ALERT"), value: hl7.Encoded(philipsAlarms[e.Kind][1]), status: "F"})
	}
	number("0002-4182^HR^MDIL", whole(s.value[hr]), bpm, "50-120")
	number("0002-4261^PVC^MDIL", hl7.Encoded(strconv.Itoa(s.pvcs)), bpm, "")
	number("0002-500a^RR^MDIL", whole(s.value[rr]), rpm, "8-30")
	if !s.probeOff {
		number("0002-4bb8^SpO₂^MDIL", whole(s.value[spo2]), pct, "90-100")
		number("0002-4822^Pulse^MDIL", whole(s.value[hr]), bpm, "")
		number("0002-4bb0^Perf^MDIL", decimal(s.value[perfusion], 1), "", "")
	}
	if w.scenario.Vitals.Arterial {
		number("0002-4a15^ABPs^MDIL", whole(s.value[sys]), mm, "90-160")
		number("0002-4a16^ABPd^MDIL", whole(s.value[dia]), mm, "")
		number("0002-4a17^ABPm^MDIL", whole(mean(s.value[sys], s.value[dia])), mm, "")
	}
	number("0002-4b48^Temp^MDIL", decimal(s.value[temp], 1), celsius, "")
	if !s.cuff.at.IsZero() {
		for i, v := range []float64{s.cuff.sys, s.cuff.dia, s.cuff.mean} {
			w.bare(obx{kind: "NM", code: []hl7.Encoded{"0002-4a05^NBPs^MDIL", "0002-4a06^NBPd^MDIL", "0002-4a07^NBPm^MDIL"}[i], sub: "0", value: whole(v), unit: mm, status: "F", time: w.local(s.cuff.at)})
		}
	}
	w.bare(obx{kind: "ST", code: "SEQ^vitalsim message^" + markerSystem, value: hl7.Encoded(w.id), status: "F"})
	return latin1(w.Bytes())
}

var philipsAlarms = map[string][2]string{
	"desaturation": {"YellowAlarm", "** SpO2 LOW"},
	"tachycardia":  {"RedAlarm", "*** TACHY"},
	"hypotension":  {"YellowAlarm", "** NBPs LOW"},
	"apnea":        {"RedAlarm", "*** APNEA"},
	"probe-off":    {"HardInop", "SpO2 NO PULSE"},
}

// latin1 is text in ISO 8859-1, as MSH-18 says; what that lacks becomes what the monitor shows instead.
func latin1(utf8 []byte) []byte {
	var out []byte
	for _, r := range string(utf8) {
		switch {
		case r < 0x100:
			out = append(out, byte(r))
		case r == '₂':
			out = append(out, '2')
		default:
			out = append(out, '?')
		}
	}
	return out
}

// mindrayPCD01 writes as a VS900 does: each message repeats the last cuff pressure with its own, older time.
func mindrayPCD01(w *writer, s *sample) []byte {
	p := w.scenario.Patient
	eui := w.eui("00A03700")
	app := "MINDRAY_VS900^" + eui + "^EUI-64"
	w.begin()
	w.Segment("MSH", app, "MINDRAY", "", "", w.zoned(s.at, "20060102150405.0000-0700"), "", "ORU^R01^ORU_R01", hl7.Text(w.id), "P", "2.6", "", "", "AL", "NE", "", "UNICODE UTF-8", "", "",
		"IHE_PCD_001^IHE PCD^1.3.6.1.4.1.19376.1.6.1.1.1^ISO")
	w.Segment("PID", "", "", hl7.Components(hl7.Text(p.ID), "", "", "Hospital", "PI"), "", hl7.Components(w.name(), "", "", "", "", "L"), "", hl7.Text(p.Birth), hl7.Text(p.Sex), "", "unknownrace")
	w.Segment("PV1", "", "I", hl7.Components(hl7.Text(p.Ward), "", hl7.Text(p.Bed)))
	order := hl7.Components(hl7.Text(w.id), "MINDRAY_VS900", eui, "EUI-64")
	w.Segment("OBR", "1", order, order, "182777000^monitoring of patient^SCT", "", "", w.exact(s.at))
	number := func(code, sub string, v, unit hl7.Encoded, valid bool) {
		o := obx{kind: "NM", code: hl7.Encoded(code), sub: hl7.Encoded(sub), value: v, unit: unit, status: "R", time: w.exact(s.at)}
		if !valid {
			o.value, o.status = "", "X"
		}
		w.row(o)
	}
	number("150456^MDC_PULS_OXIM_SAT_O2^MDC", "1.3.1.150456", whole(s.value[spo2]), percent, !s.probeOff)
	number("149530^MDC_PULS_OXIM_PULS_RATE^MDC", "1.3.1.149530", whole(s.value[hr]), perMin, !s.probeOff)
	number("150488^MDC_BLD_PERF_INDEX^MDC", "1.3.1.150488", decimal(s.value[perfusion], 2), percent, !s.probeOff)
	number("151562^MDC_RESP_RATE^MDC", "1.7.5.151562", whole(s.value[rr]), breaths, true)
	number("150344^MDC_TEMP^MDC", "1.2.1.150344", decimal(s.value[temp], 1), degC, true)
	if !s.cuff.at.IsZero() {
		for i, v := range []float64{s.cuff.sys, s.cuff.mean, s.cuff.dia} {
			code := []string{"150301^MDC_PRESS_CUFF_SYS^MDC", "150303^MDC_PRESS_CUFF_MEAN^MDC", "150302^MDC_PRESS_CUFF_DIA^MDC"}[i]
			w.row(obx{kind: "NM", code: hl7.Encoded(code), sub: hl7.Encoded("1.1.9." + code[:6]), value: whole(v), unit: mmHg, status: "R", time: w.exact(s.cuff.at), method: "^APERIODIC"})
		}
	}
	return w.marker().Bytes()
}

// eui is an EUI-64 that belongs to the monitor's name.
func (w *writer) eui(prefix string) hl7.Encoded {
	return hl7.Encoded(fmt.Sprintf("%s%08X", prefix, uint32(seed(w.monitor))))
}

// geBSeries writes as a B105 does: rows for device, VMD and channel without a value, MSH-10 the same for ever.
func geBSeries(w *writer, s *sample) []byte {
	p := w.scenario.Patient
	eui := w.eui("080019FF")
	w.begin()
	w.Segment("MSH", "VSP^"+eui+"^EUI-64", "GE Healthcare", "", "", w.zoned(s.at, "20060102150405-0700"), "", "ORU^R01^ORU_R01", eui, "P", "2.6", "", "", "NE", "AL", "", "UNICODE UTF-8", "", "",
		"PCD_DEC_001^IHE PCD^1.3.6.1.4.1.19376.1.6.1.1.1^ISO")
	w.Segment("PID", "", "", hl7.Components(hl7.Text(p.ID), "", "", "PID", "MR"), "", hl7.Components(w.name(), "", "", "", "", "L"), "", hl7.Text(p.Birth), hl7.Text(p.Sex))
	w.Segment("PV1", "", "E", hl7.Components(hl7.Text(p.Ward), "", hl7.Text(p.Bed)))
	order := hl7.Components(hl7.Text(w.id), "VSP", eui, "EUI-64")
	w.Segment("OBR", "1", order, order, "182777000^monitoring of patient^SCT", "", "", w.exact(s.at))
	w.holder("69965^MDC_DEV_MON_PHYSIO_MULTI_PARAM_MDS^MDC", "1.0.0.0")
	number := func(code, sub string, v, unit hl7.Encoded, valid bool) {
		o := obx{kind: "NM", code: hl7.Encoded(code), sub: hl7.Encoded(sub), value: v, unit: unit, status: "R", device: eui + "^B1X5_GE"}
		if !valid {
			o.value, o.status = "", "X"
		}
		w.row(o)
	}
	if w.scenario.Vitals.Arterial {
		w.holder("69854^MDC_DEV_METER_PRESS_BLD_VMD^MDC", "1.13.0.0")
		w.holder("69855^MDC_DEV_METER_PRESS_BLD_CHAN^MDC", "1.13.1.0")
		number("150033^MDC_PRESS_BLD_ART_SYS^MDC", "1.13.1.1", whole(s.value[sys]), mmHg, true)
		number("150034^MDC_PRESS_BLD_ART_DIA^MDC", "1.13.1.2", whole(s.value[dia]), mmHg, true)
		number("150035^MDC_PRESS_BLD_ART_MEAN^MDC", "1.13.1.3", whole(mean(s.value[sys], s.value[dia])), mmHg, true)
		number("149522^MDC_BLD_PULS_RATE_INV^MDC", "1.13.1.4", whole(s.value[hr]), perMin, true)
	}
	w.holder("69798^MDC_DEV_ECG_VMD^MDC", "1.5.0.0")
	number("147842^MDC_ECG_HEART_RATE^MDC", "1.5.1.1", whole(s.value[hr]), perMin, true)
	number("148066^MDC_ECG_V_P_C_RATE^MDC", "1.5.1.2", hl7.Encoded(strconv.Itoa(s.pvcs)), perMin, true)
	w.holder("69642^MDC_DEV_ANALY_SAT_O2_VMD^MDC", "1.3.0.0")
	number("150456^MDC_PULS_OXIM_SAT_O2^MDC", "1.3.1.1", whole(s.value[spo2]), percent, !s.probeOff)
	number("149530^MDC_PULS_OXIM_PULS_RATE^MDC", "1.3.1.2", whole(s.value[hr]), perMin, !s.probeOff)
	w.holder("69902^MDC_DEV_METER_TEMP_VMD^MDC", "1.26.0.0")
	w.holder("69903^MDC_DEV_METER_TEMP_CHAN^MDC", "1.26.1.0")
	number("150344^MDC_TEMP^MDC", "1.26.1.1", decimal(s.value[temp], 1), degC, true)
	return w.marker().Bytes()
}

// holder appends the row of a device, VMD or channel, which carries no value.
func (w *writer) holder(code, sub hl7.Encoded) { w.row(obx{code: code, sub: sub, status: "X"}) }

// comen writes as an NC monitor does: no set ids, the serial number in MSH-4, 8388607 where there is no value.
func comen(w *writer, s *sample) []byte {
	p := w.scenario.Patient
	const layout = "20060102150405-0700"
	at := w.zoned(s.at, layout)
	if time.Duration(w.scenario.Every) < time.Second {
		at = w.exact(s.at)
	}
	w.begin()
	w.Segment("MSH", "NC_Monitor", hl7.Encoded(fmt.Sprintf("KC%09dG", seed(w.monitor)%1_000_000_000)), "", "", at, "", "ORU^R01^ORU_R01", hl7.Text(w.id), "P", "2.6", "", "", "", "", "", "UNICODE UTF-8")
	w.Segment("PID", "", "", hl7.Text(p.ID), "", w.name(), "", hl7.Text(p.Birth), hl7.Text(p.Sex), "", "Unknown")
	w.Segment("PV1", "", "I", hl7.Components("", "", hl7.Subcomponents("", hl7.Text(p.Bed))), "R")
	w.Segment("OBR", "", "", "", "1^MON_PARAM^99COMEN", "", "", at)
	number := func(code, sub string, v, unit hl7.Encoded, limits hl7.Encoded, valid bool) {
		if !valid {
			v = "8388607"
		}
		w.bare(obx{kind: "NM", code: hl7.Encoded(code), sub: hl7.Encoded(sub), value: v, unit: unit, limits: limits, status: "F", time: at})
	}
	number("147842^MDC_ECG_HEART_RATE^MDC", "1.7.4.147842", whole(s.value[hr]), perMin, "50^120", true)
	number("150456^MDC_PULS_OXIM_SAT_O2^MDC", "1.3.1.150456", whole(s.value[spo2]), percent, "90^100", !s.probeOff)
	number("149530^MDC_PULS_OXIM_PULS_RATE^MDC", "1.3.1.149530", whole(s.value[hr]), perMin, "", !s.probeOff)
	number("151562^MDC_RESP_RATE^MDC", "1.14.1.151562", whole(s.value[rr]), breaths, "8^30", true)
	number("150344^MDC_TEMP^MDC", "1.2.1.150344", decimal(s.value[temp], 1), degC, "", true)
	if s.cuff.fresh {
		number("150021^MDC_PRESS_BLD_NONINV_SYS^MDC", "1.1.9.150021", whole(s.cuff.sys), mmHg, "90^160", true)
		number("150022^MDC_PRESS_BLD_NONINV_DIA^MDC", "1.1.9.150022", whole(s.cuff.dia), mmHg, "50^90", true)
		number("150023^MDC_PRESS_BLD_NONINV_MEAN^MDC", "1.1.9.150023", whole(s.cuff.mean), mmHg, "60^110", true)
	}
	w.bare(obx{kind: "CNE", code: "2453^COMEN_POS_BODY^99COMEN", sub: "1.1.9.2453", value: "2820^COMEN_POS_LYING^99COMEN", status: "F", time: at})
	w.bare(obx{kind: "ST", code: "SEQ^vitalsim message^" + markerSystem, value: hl7.Encoded(w.id), status: "F"})
	return w.Bytes()
}

// pdsKeepAlive is class 106 of the patient data share interface, which both sides send each second.
var pdsKeepAlive = []byte("MSH|^~\\&|||||||ORU^R01|106|P|2.3.1|\r")

// pdsPatient is class 103: who lies in the bed, which the messages of vitals do not say.
func pdsPatient(w *writer) []byte {
	p := w.scenario.Patient
	w.begin()
	w.Segment("MSH", "", "", "", "", "", "", "ORU^R01", "103", "P", "2.3.1")
	w.Segment("PID", "", "", hl7.Text(p.ID), "", w.name(), "", hl7.Text(p.Birth), hl7.Text(p.Sex))
	w.Segment("PV1", "", "I", hl7.Components("", "", hl7.Subcomponents(hl7.Text(p.Ward), "1", "3232237756", "4601", "", "1")))
	w.Segment("OBR", "", "", "", "Mindray Monitor", "", "", "0")
	w.bare(obx{kind: "NM", code: "52^", value: "172.0", status: "F"})
	w.bare(obx{kind: "NM", code: "51^", value: "74.0", status: "F"})
	w.bare(obx{kind: "CE", code: "2302^Blood", value: "0^N", status: "F"})
	w.bare(obx{kind: "ST", code: "2308^BedNoStr", value: hl7.Text(p.Bed), status: "F"})
	return w.Bytes()
}

// pdsPeriodic is class 204: no patient, no time, no units, -100 where there is no value.
func pdsPeriodic(w *writer, s *sample) []byte {
	w.begin()
	w.Segment("MSH", "", "", "", "", "", "", "ORU^R01", "204", "P", "2.3.1")
	number := func(code, module string, v hl7.Encoded, valid bool) {
		if !valid {
			v = "-100"
		}
		w.bare(obx{kind: "NM", code: hl7.Encoded(code), sub: hl7.Encoded(module), value: v, status: "F"})
	}
	number("101^HR", "2101", whole(s.value[hr]), true)
	number("102^PVCs", "2101", hl7.Encoded(strconv.Itoa(s.pvcs)), true)
	number("105^I", "2101", "-100.00", true)
	number("106^II", "2101", "-100.00", true)
	number("151^RR", "2102", whole(s.value[rr]), true)
	number("160^SpO2", "2103", whole(s.value[spo2]), !s.probeOff)
	number("161^PR", "2103", whole(s.value[hr]), !s.probeOff)
	number("162^PI", "2103", decimal(s.value[perfusion], 2), !s.probeOff)
	number("200^T1", "2104", decimal(s.value[temp], 1), true)
	if w.scenario.Vitals.Arterial { // an invasive triple runs systolic, mean, diastolic
		number("500^ART-Sys", "2106", whole(s.value[sys]), true)
		number("501^ART-Mean", "2106", whole(mean(s.value[sys], s.value[dia])), true)
		number("502^ART-Dia", "2106", whole(s.value[dia]), true)
	}
	w.bare(obx{kind: "ST", code: "SEQ^vitalsim message^" + markerSystem, value: hl7.Encoded(w.id), status: "F"})
	return w.Bytes()
}

// pdsAperiodic is class 503: a cuff pressure, with a row without a value behind each good one; and classes 54 and 56: alarms of the
// patient and of the technology.
func pdsAperiodic(w *writer, s *sample) []byte {
	switch {
	case s.cuff.fresh:
		w.begin()
		w.Segment("MSH", "", "", "", "", "", "", "ORU^R01", "503", "P", "2.3.1")
		at := w.local(s.cuff.at)
		for i, v := range []float64{s.cuff.sys, s.cuff.dia, s.cuff.mean} { // a cuff triple runs systolic, diastolic, mean
			code := []hl7.Encoded{"170^Sys", "171^Dia", "172^Mean"}[i]
			w.bare(obx{kind: "NM", code: code, sub: "2105", value: whole(v), status: "F", time: at})
			w.bare(obx{kind: "NM", code: code, sub: "2105", value: "-100", status: "F", time: "00000000000000"})
		}
		return w.Bytes()
	case len(s.began) == 1 && s.began[0].Kind == "probe-off":
		w.begin()
		w.Segment("MSH", "", "", "", "", "", "", "ORU^R01", "56", "P", "2.3.1")
		w.bare(obx{kind: "CE", code: "4", value: "205^SpO2 Sensor Off", status: "F"})
		return w.Bytes()
	case len(s.began) > 0:
		w.begin()
		w.Segment("MSH", "", "", "", "", "", "", "ORU^R01", "54", "P", "2.3.1")
		for _, e := range s.began {
			if alarm, ok := pdsAlarms[e.Kind]; ok {
				w.bare(obx{kind: "CE", code: "2", sub: "1", value: hl7.Encoded(alarm), status: "F", time: w.local(s.at)})
			}
		}
		return w.Bytes()
	}
	return nil
}

var pdsAlarms = map[string]string{
	"desaturation": "10034^**SpO2 TOO LOW",
	"tachycardia":  "10001^**HR TOO HIGH",
	"hypotension":  "10171^**Art-Sys TOO LOW",
	"apnea":        "10050^***APNEA",
}

// ihePCD01 writes as IHE DEV TF Vol. 2 has it: the containment tree of the device, then each metric under its channel.
func ihePCD01(w *writer, s *sample) []byte {
	p := w.scenario.Patient
	eui := w.eui("ACDE4800")
	w.begin()
	w.Segment("MSH", "VITALSIM^"+eui+"^EUI-64", "", "", "", w.exact(s.at), "", "ORU^R01^ORU_R01", hl7.Text(w.id), "P", "2.6", "", "", "NE", "AL", "", "UNICODE UTF-8", "", "",
		"IHE_PCD_001^IHE PCD^1.3.6.1.4.1.19376.1.6.1.1.1^ISO")
	w.Segment("PID", "", "", hl7.Components(hl7.Text(p.ID), "", "", "SIM", "MR"), "", hl7.Components(w.name(), "", "", "", "", "L"), "", hl7.Text(p.Birth), hl7.Text(p.Sex))
	w.Segment("PV1", "", "I", hl7.Components(hl7.Text(p.Ward), "", hl7.Text(p.Bed)))
	order := hl7.Components(hl7.Text(w.id), "VITALSIM", eui, "EUI-64")
	w.Segment("OBR", "1", order, order, "69965^MDC_DEV_MON_PHYSIO_MULTI_PARAM_MDS^MDC", "", "", w.exact(s.at))
	number := func(code, sub string, v, unit, limits hl7.Encoded, valid bool) {
		o := obx{kind: "NM", code: hl7.Encoded(code), sub: hl7.Encoded(sub), value: v, unit: unit, limits: limits, status: "R"}
		if !valid {
			o.value, o.status = "", "X"
		}
		w.row(o)
	}
	w.row(obx{code: "69965^MDC_DEV_MON_PHYSIO_MULTI_PARAM_MDS^MDC", sub: "1.0.0.0", status: "X", device: eui + "^^" + eui + "^EUI-64"})
	w.holder("69798^MDC_DEV_ECG_VMD^MDC", "1.1.0.0")
	w.holder("69799^MDC_DEV_ECG_CHAN^MDC", "1.1.1.0")
	number("147842^MDC_ECG_HEART_RATE^MDC", "1.1.1.147842", whole(s.value[hr]), perMin, "50-120", true)
	number("151562^MDC_RESP_RATE^MDC", "1.1.1.151562", whole(s.value[rr]), breaths, "8-30", true)
	w.holder("69642^MDC_DEV_ANALY_SAT_O2_VMD^MDC", "1.2.0.0")
	w.holder("69643^MDC_DEV_ANALY_SAT_O2_CHAN^MDC", "1.2.1.0")
	number("150456^MDC_PULS_OXIM_SAT_O2^MDC", "1.2.1.150456", whole(s.value[spo2]), percent, "90-100", !s.probeOff)
	number("149530^MDC_PULS_OXIM_PULS_RATE^MDC", "1.2.1.149530", whole(s.value[hr]), perMin, "", !s.probeOff)
	if w.scenario.Vitals.EtCO2 > 0 {
		number("151708^MDC_CONC_AWAY_CO2_ET^MDC", "1.4.1.151708", whole(s.value[etco2]), mmHg, "30-50", true)
		number("151594^MDC_CO2_RESP_RATE^MDC", "1.4.1.151594", whole(s.value[rr]), breaths, "", true)
	}
	if w.scenario.Vitals.Arterial {
		number("150033^MDC_PRESS_BLD_ART_SYS^MDC", "1.5.1.150033", whole(s.value[sys]), mmHg, "90-160", true)
		number("150034^MDC_PRESS_BLD_ART_DIA^MDC", "1.5.1.150034", whole(s.value[dia]), mmHg, "", true)
		number("150035^MDC_PRESS_BLD_ART_MEAN^MDC", "1.5.1.150035", whole(mean(s.value[sys], s.value[dia])), mmHg, "", true)
	}
	number("150344^MDC_TEMP^MDC", "1.6.1.150344", decimal(s.value[temp], 2), degC, "", true)
	if s.cuff.fresh { // episodic: OBX-14 is its own time (B.8.8)
		for i, v := range []float64{s.cuff.sys, s.cuff.dia, s.cuff.mean} {
			code := []string{"150021^MDC_PRESS_BLD_NONINV_SYS^MDC", "150022^MDC_PRESS_BLD_NONINV_DIA^MDC", "150023^MDC_PRESS_BLD_NONINV_MEAN^MDC"}[i]
			w.row(obx{kind: "NM", code: hl7.Encoded(code), sub: hl7.Encoded("1.3.1." + code[:6]), value: whole(v), unit: mmHg, status: "R", time: w.exact(s.cuff.at)})
		}
	}
	return w.marker().Bytes()
}
