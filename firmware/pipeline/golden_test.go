package pipeline

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/fhir/mapping"
	"github.com/vitalgate/vitalgate/hl7"
)

// The messages that the conversion is held to say also how they must be acknowledged once they are on disk: a line "ack: AA", "ack: CA",
// "ack: CA, AA" or "ack: none" of their .want file.
func TestGoldenAcknowledgements(t *testing.T) {
	const folder = "../../fhir/mapping/testdata"
	files, err := filepath.Glob(folder + "/*/*.hl7")
	if err != nil || len(files) < 30 {
		t.Fatalf("%d messages, %v: this test would see too little", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimPrefix(file, folder+"/")
		t.Run(name, func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(strings.TrimSuffix(file, ".hl7") + ".want")
			if err != nil {
				t.Fatal(err)
			}
			m, err := hl7.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			d, err := mapping.LookupDialect(filepath.Base(filepath.Dir(file)))
			if err != nil {
				t.Fatal(err)
			}
			got := "none"
			for i, b := range (answer{verdict: kept, at: time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC), id: "A1"}).to(m, d) {
				a, err := hl7.Parse(b)
				if err != nil {
					t.Fatal(err)
				}
				msa, _ := a.First("MSA")
				if string(msa.Field(2).Raw()) != string(m.Header().Field(10).Raw()) {
					t.Errorf("MSA-2 is %q", msa.Field(2).Raw())
				}
				if string(a.Header().Field(12).Raw()) != string(m.Header().Field(12).Raw()) {
					t.Errorf("MSH-12 is %q", a.Header().Field(12).Raw())
				}
				if code := string(msa.Field(1).Raw()); i == 0 {
					got = code
				} else {
					got += ", " + code
				}
			}
			if line := "ack: " + got + "\n"; !strings.HasPrefix(string(want), line) {
				t.Errorf("it is acknowledged by %q, which the .want file does not say", got)
			}
		})
	}
}
