package main

import (
	"time"

	"github.com/vitalgate/vitalgate/hl7"
)

// A sheet is a dialect whose messages differ from those of others in words and codes only.
type sheet struct {
	app, facility, kind, version, accept, application, profile hl7.Encoded

	prefix  string // of MSH-10
	zoned   bool   // times have milliseconds and an offset
	bed     bool   // PV1 names the bed
	service hl7.Encoded
	values  hl7.Encoded // OBX-2
	status  hl7.Encoded // OBX-11 of a value
	none    hl7.Encoded // stands for a value that is not there; "" leaves the row out
	rows    []metric
}

// A metric is a row of a sheet: what it shows, and under which code, channel and unit.
type metric struct {
	of              channel
	code, sub, unit hl7.Encoded
}

// vitals writes the sheet's rows, then the marker.
func (t *sheet) vitals(w *writer, s *sample) []byte {
	p := w.scenario.Patient
	at := w.local(s.at)
	if t.zoned {
		at = w.exact(s.at)
	}
	w.begin()
	w.Segment("MSH", t.app, t.facility, "", "", at, "", t.kind, hl7.Text(t.prefix+w.id), "P", t.version, "", "", t.accept, t.application, "", "UNICODE UTF-8", "", "", t.profile)
	w.Segment("PID", "", "", hl7.Components(hl7.Text(p.ID), "", "", "SIM", "MR"), "", w.name(), "", hl7.Text(p.Birth), hl7.Text(p.Sex))
	if t.bed {
		w.Segment("PV1", "", "I", hl7.Components(hl7.Text(p.Ward), "", hl7.Text(p.Bed)))
	}
	w.Segment("OBR", "1", "", hl7.Text(w.id), t.service, "", "", at)
	for _, m := range t.rows {
		o := obx{kind: t.values, code: m.code, sub: m.sub, unit: m.unit, status: t.status, time: at}
		switch valid, cuff := !s.probeOff || m.of != spo2 && m.of != pulse, m.of == sys || m.of == dia; {
		case cuff && s.cuff.at.IsZero(), !valid && t.none == "":
			continue
		case !valid:
			o.value = t.none
		case m.of == sys:
			o.value, o.time = whole(s.cuff.sys), w.stamp(s.cuff.at, t.zoned)
		case m.of == dia:
			o.value, o.time = whole(s.cuff.dia), w.stamp(s.cuff.at, t.zoned)
		case m.of == pulse:
			o.value = whole(s.value[hr])
		case m.of == temp:
			o.value = decimal(s.value[temp], 1)
		default:
			o.value = whole(s.value[m.of])
		}
		w.row(o)
	}
	return w.marker().Bytes()
}

func (w *writer) stamp(t time.Time, zoned bool) hl7.Encoded {
	if zoned {
		return w.exact(t)
	}
	return w.local(t)
}

// pulse is the rate that the pulse oximeter counts: the heart's, while the probe is on.
const pulse = channels

const pcd01 = "IHE_PCD_001^IHE PCD^1.3.6.1.4.1.19376.1.6.1.1.1^ISO"

// mdc are the rows of monitors that use the codes of ISO/IEEE 11073-10101 as they stand.
var mdc = []metric{
	{hr, "147842^MDC_ECG_HEART_RATE^MDC", "1.1.1.1", perMin},
	{rr, "151562^MDC_RESP_RATE^MDC", "1.1.1.2", breaths},
	{spo2, "150456^MDC_PULS_OXIM_SAT_O2^MDC", "1.3.1.1", percent},
	{pulse, "149530^MDC_PULS_OXIM_PULS_RATE^MDC", "1.3.1.2", perMin},
	{temp, "150344^MDC_TEMP^MDC", "1.2.1.1", degC},
	{sys, "150021^MDC_PRESS_BLD_NONINV_SYS^MDC", "1.4.1.1", mmHg},
	{dia, "150022^MDC_PRESS_BLD_NONINV_DIA^MDC", "1.4.1.2", mmHg},
}

const monitoring = "69965^MDC_DEV_MON_PHYSIO_MULTI_PARAM_MDS^MDC"

var (
	philipsIICiX = sheet{app: "PIIC_iX^0009FBFFFF059322^EUI-64", facility: "Philips", kind: "ORU^R01^ORU_R01", version: "2.6", accept: "AL", application: "NE", profile: pcd01,
		prefix: "HP", zoned: true, bed: true, service: monitoring, values: "NM", status: "R", rows: mdc}
	draeger = sheet{app: "0030E60000000001^0030E60000000001^EUI-64", facility: "Draeger", kind: "ORU^R01^ORU_R01", version: "2.6", accept: "AL", application: "NE", profile: pcd01,
		zoned: true, bed: true, service: monitoring, values: "NM", status: "R", rows: mdc}
	masimo = sheet{app: "MASIMO_PSN^00145EFFFE000001^EUI-64", facility: "Masimo", kind: "ORU^R01^ORU_R01", version: "2.6", accept: "AL", application: "NE", profile: pcd01,
		zoned: true, bed: true, service: monitoring, values: "NM", status: "R", rows: mdc}
	xh80x = sheet{app: "TR8", facility: "FAC", kind: "ORU^R01", version: "2.4", bed: true, service: "182777000^monitoring of patient^SCT", values: "NM", none: "-1", rows: []metric{
		{hr, "147842^MDC_ECG_HEART_RATE^MDC", "", perMin},
		{rr, "151562^MDC_RESP_RATE^MDC", "", breaths},
		{spo2, "150456^MDC_PULS_OXIM_SAT_O2^MDC", "", percent},
		{pulse, "149530^MDC_PULS_OXIM_PULS_RATE^MDC", "", perMin},
		{temp, "150344^MDC_TEMP^MDC", "1.2.5.150344", degC},
		{sys, "150301^MDC_PRESS_CUFF_SYS^MDC", "", mmHg},
		{dia, "150302^MDC_PRESS_CUFF_DIA^MDC", "", mmHg},
	}}
	northern = sheet{app: "Northern", facility: "Aquarius", kind: "ORU^R01", version: "2.4", values: "NM", status: "F", none: "-100", rows: []metric{
		{hr, "147842^MDC_ECG_HEART_RATE^MDC", "1.1.1.1", perMin},
		{rr, "151562^MDC_RESP_RATE^MDC", "1.1.1.2", breaths},
		{spo2, "150456^MDC_PULS_OXIM_SAT_O2^MDC", "1.3.1.2", percent},
		{pulse, "149530^MDC_PULS_OXIM_PULS_RATE^MDC", "1.3.1.1", perMin},
		{temp, "150344^MDC_TEMP^MDC", "1.2.2.1", degC},
		{sys, "150031^MDC_PRESS_CUFF_SYS^MDC", "1.1.9.1", mmHg}, // the number of the aortic mean, as it sends it
		{dia, "150302^MDC_PRESS_CUFF_DIA^MDC", "1.1.9.2", mmHg},
	}}
	geVC150 = sheet{app: "VC150", facility: "84:2F:75:00:24:AB", kind: "ORU^R01^ORU_R01", version: "2.6", accept: "NE", application: "AL", profile: pcd01,
		zoned: true, service: "VITALS^Vital Signs^VSM", values: "ST", status: "F", rows: []metric{
			{rr, "RESPRate", "1.1.1.1", ""},
			{spo2, "MDC_PULS_OXIM_SAT_O2", "1.1.1.1", ""},
			{pulse, "MDC_PULS_OXIM_PULS_RATE", "1.1.1.1", ""},
			{sys, "MDC_PRESS_BLD_NONINV_SYS", "1.1.1.1", ""},
			{dia, "MDC_PRESS_BLD_NONINV_DIA", "1.1.1.1", ""},
			{temp, "MDC_TEMP", "1.1.1.1", ""},
		}}
	loinc = sheet{app: "SIM", facility: "WARD", kind: "ORU^R01", version: "2.4", values: "NM", status: "F", rows: []metric{
		{hr, "8867-4^Heart Rate^LN", "", "/min"},
		{rr, "9279-1^Respiratory rate^LN", "", "/min"},
		{spo2, "59408-5^SpO2^LN", "", "%"},
		{temp, "8310-5^Temperature^LN", "", "Cel"},
		{sys, "8480-6^NBP Systolic^LN", "", "mmHg"},
		{dia, "8462-4^NBP Diastolic^LN", "", "mmHg"},
	}}
	philipsEfficia = sheet{app: "^EfficiaCM", kind: "ORU^R01^ORU_R01", version: "2.4", bed: true, service: "VITALS", values: "NM", status: "F", rows: []metric{
		{hr, "0002-4182^HR^MDIL", "0", "0004-0aa0^bpm^MDIL"},
		{rr, "0002-5000^Resp^MDIL", "0", "0004-0ae0^rpm^MDIL"},
		{spo2, "0002-4bb8^SpO2^MDIL", "0", "0004-0220^%^MDIL"},
		{pulse, "0002-4822^Pulse^MDIL", "0", "0004-0aa0^bpm^MDIL"},
		{temp, "0002-4b60^Tcore^MDIL", "0", "0004-17a0^°C^MDIL"},
		{sys, "0002-4a05^NBPs^MDIL", "0", "0004-0f20^mmHg^MDIL"},
		{dia, "0002-4a06^NBPd^MDIL", "0", "0004-0f20^mmHg^MDIL"},
	}}
)
