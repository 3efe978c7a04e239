package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/vitalgate/vitalgate/fhir/mapping"
	"github.com/vitalgate/vitalgate/hl7"
)

// What is read to a nurse is in her words, and of two pressures it says which is which.
func TestReadingsAreSpoken(t *testing.T) {
	const message = "MSH|^~\\&|X|Y|||20260101120000+0000||ORU^R01^ORU_R01|1|P|2.6|||||||||IHE_PCD_ORU_R01^IHE PCD^1.3.6.1.4.1.19376.1.6.1.1.1^ISO\r" +
		"PV1||I|ICU^^7\rOBR|1|||69965^MDC_DEV_MON_PHYSIO_MULTI_PARAM_MDS^MDC|||20260101120000+0000\r" +
		"OBX|1|NM|147842^MDC_ECG_HEART_RATE^MDC|1.1.1.1|105|264864^MDC_DIM_BEAT_PER_MIN^MDC|||||R\r" +
		"OBX|2|NM|149530^MDC_PULS_OXIM_PULS_RATE^MDC|1.1.2.1|104|264864^MDC_DIM_BEAT_PER_MIN^MDC|||||R\r" +
		"OBX|3|NM|150021^MDC_PRESS_BLD_NONINV_SYS^MDC|1.1.3.1|117|266016^MDC_DIM_MMHG^MDC|||||R\r" +
		"OBX|4|NM|150022^MDC_PRESS_BLD_NONINV_DIA^MDC|1.1.3.2|82|266016^MDC_DIM_MMHG^MDC|||||R\r" +
		"OBX|5|NM|150033^MDC_PRESS_BLD_ART_SYS^MDC|1.1.4.1|121|266016^MDC_DIM_MMHG^MDC|||||R\r" +
		"OBX|6|NM|150034^MDC_PRESS_BLD_ART_DIA^MDC|1.1.4.2|64|266016^MDC_DIM_MMHG^MDC|||||R\r" +
		"OBX|7|NM|151708^MDC_CONC_AWAY_CO2_ET^MDC|1.1.5.1|37|266016^MDC_DIM_MMHG^MDC|||||R\r" +
		"OBX|8|NM|151594^MDC_CO2_RESP_RATE^MDC|1.1.5.2|15|264928^MDC_DIM_RESP_PER_MIN^MDC|||||R\r"
	m, err := hl7.Parse([]byte(message))
	if err != nil {
		t.Fatal(err)
	}
	d, err := mapping.LookupDialect("ihe-pcd01")
	if err != nil {
		t.Fatal(err)
	}
	r, err := mapping.NewConverter(d).Convert(m, mapping.Context{})
	if err != nil {
		t.Fatal(err)
	}
	var b bundle
	if err := json.Unmarshal(r.Bundle, &b); err != nil {
		t.Fatal(err)
	}
	values, bed := b.seen()
	all := strings.Join(values, "; ")
	for _, want := range []string{"heart rate 105 per minute", "pulse rate by SpO2 sensor 104 per minute", "systolic blood pressure by cuff 117 mmHg", "diastolic blood pressure by cuff 82 mmHg",
		"systolic blood pressure by arterial line 121 mmHg", "diastolic blood pressure by arterial line 64 mmHg", "end-tidal CO2 37 mmHg", "respiratory rate by CO2 15 per minute"} {
		if !strings.Contains(all, want) {
			t.Errorf("nobody says %q: %s", want, all)
		}
	}
	if len(values) != 8 || !strings.Contains(bed, "7") {
		t.Errorf("%q of bed %q", values, bed)
	}
	if got := called("MDC_VENT_VOL_LEAK"); got != "vent vol leak" {
		t.Errorf("a measurement without an everyday name is %q", got)
	}
}
