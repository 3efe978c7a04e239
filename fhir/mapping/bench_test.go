package mapping_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/vitalgate/vitalgate/fhir/mapping"
	"github.com/vitalgate/vitalgate/hl7"
)

// vitals20 is an IHE PCD-01 message with twenty numeric OBX rows.
func vitals20() []byte {
	var b strings.Builder
	b.WriteString("MSH|^~\\&|GATE^0012210000000001^EUI-64|HOSP|||20251105120000+0000||ORU^R01^ORU_R01|m1|P|2.6|||AL|NE||UNICODE UTF-8|||IHE_PCD_ORU_R01^IHE PCD^1.3.6.1.4.1.19376.1.6.1.1.1^ISO\r" +
		"PID|||A1^^^&1.2.3.4.5&ISO^MR||Roe^Ann^^^^^L||19700213|F\rPV1||I|ICU^3^12\r" +
		"OBR|1|1^GATE^0012210000000001^EUI-64|1^GATE^0012210000000001^EUI-64|182777000^monitoring of patient^SCT|||20251105115958+0000\r")
	rows := []string{
		"147842^MDC_ECG_HEART_RATE^MDC|1.1.1.%d|72|264864^MDC_DIM_BEAT_PER_MIN^MDC|50-120",
		"150456^MDC_PULS_OXIM_SAT_O2^MDC|1.1.2.%d|97|262688^MDC_DIM_PERCENT^MDC|90-100",
		"149530^MDC_PULS_OXIM_PULS_RATE^MDC|1.1.2.%d|71|264864^MDC_DIM_BEAT_PER_MIN^MDC|",
		"151562^MDC_RESP_RATE^MDC|1.1.3.%d|15|264928^MDC_DIM_RESP_PER_MIN^MDC|",
		"150364^MDC_TEMP_BODY^MDC|1.1.4.%d|37.40|268192^MDC_DIM_DEGC^MDC|",
		"150033^MDC_PRESS_BLD_ART_SYS^MDC|1.1.5.%d|121|266016^MDC_DIM_MMHG^MDC|",
		"150034^MDC_PRESS_BLD_ART_DIA^MDC|1.1.5.%d|64|266016^MDC_DIM_MMHG^MDC|",
		"150035^MDC_PRESS_BLD_ART_MEAN^MDC|1.1.5.%d|83|266016^MDC_DIM_MMHG^MDC|",
		"150087^MDC_PRESS_BLD_VEN_CENT_MEAN^MDC|1.1.6.%d|8|266016^MDC_DIM_MMHG^MDC|",
		"151708^MDC_CONC_AWAY_CO2_ET^MDC|1.1.7.%d|38|266016^MDC_DIM_MMHG^MDC|",
	}
	for i := range 20 {
		fmt.Fprintf(&b, "OBX|%d|NM|%s||||R\r", i+1, fmt.Sprintf(rows[i%len(rows)], i+1))
	}
	return []byte(b.String())
}

func BenchmarkConvert(b *testing.B) {
	raw := vitals20()
	d, _ := mapping.LookupDialect("ihe-pcd01")
	c := mapping.NewConverter(d)
	at := context()
	var m hl7.Message
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if err := m.Reset(raw, hl7.DefaultLimits); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Convert(&m, at); err != nil {
			b.Fatal(err)
		}
	}
}

// A steady stream must not make garbage: the box converts for years.
func TestConvertAllocations(t *testing.T) {
	raw := vitals20()
	d, _ := mapping.LookupDialect("ihe-pcd01")
	c := mapping.NewConverter(d)
	at := context()
	var m hl7.Message
	n := testing.AllocsPerRun(100, func() {
		if err := m.Reset(raw, hl7.DefaultLimits); err != nil {
			t.Fatal(err)
		}
		if r, err := c.Convert(&m, at); err != nil || r.Charted != 20 {
			t.Fatal(r.Charted, err)
		}
	})
	if n > 8 {
		t.Errorf("%v allocations for each message, want at most 8", n)
	}
}
