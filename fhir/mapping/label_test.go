package mapping

import (
	"strings"
	"testing"

	"github.com/vitalgate/vitalgate/hl7"
)

// A number, its name and its alternate must say one thing (DIALECTS §11); what contradicts itself is kept under a local code.
func TestACodeUnderTheNameOfSomethingElseIsNotCharted(t *testing.T) {
	for _, c := range []struct {
		obx3    string
		charted bool
	}{
		{"147842^MDC_ECG_HEART_RATE^MDC", true},
		{"147842^HR^MDC", true},
		{"147842^Herzfrequenz^MDC", true},
		{"147842^SpO2^MDC", false},
		{"147842^Resp^MDC", false},
		{"147842^MDC_ECG_HEART_RATE^MDC^8867-4^Heart rate^LN", true},
		{"147842^MDC_ECG_HEART_RATE^MDC^X1^own name^99LOCAL", true},
		{"147842^MDC_ECG_HEART_RATE^MDC^150344^MDC_TEMP^MDC", false},
		{"147842^MDC_ECG_HEART_RATE^MDC^2708-6^Oxygen saturation^LN", false},
		{"8867-4^Heart rate^LN", true},
		{"8867-4^Body weight^LN", false},
		{"8867-4^Heart rate^LN^150344^MDC_TEMP^MDC", false},
		{"X1^own name^99LOCAL^147842^MDC_ECG_HEART_RATE^MDC", true},
	} {
		t.Run(c.obx3, func(t *testing.T) {
			d, err := LookupDialect("ihe-pcd01")
			if err != nil {
				t.Fatal(err)
			}
			m, err := hl7.Parse([]byte("MSH|^~\\&|SIM||||20260101000001+0000||ORU^R01^ORU_R01|A1|P|2.6\rOBR|1|||69952^MDC_DEV_MON_PT_PHYSIO_MULTI_PARAM^MDC|||20260101000001+0000\r" +
				"OBX|1|NM|" + c.obx3 + "|1.7.4.1|72|264864^MDC_DIM_BEAT_PER_MIN^MDC|||||F\r"))
			if err != nil {
				t.Fatal(err)
			}
			res, err := NewConverter(d).Convert(m, Context{})
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(string(res.Bundle), `"system":"http://loinc.org","code":"8867-4"`); got != c.charted {
				t.Errorf("charted %v, want %v: %+v", got, c.charted, res.Events)
			}
			if !c.charted && len(res.Events) == 0 {
				t.Error("nobody is told")
			}
			if !strings.Contains(string(res.Bundle), `"value":72`) {
				t.Error("the value is lost")
			}
		})
	}
}
