package view

import (
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/fhir/mapping"
	"github.com/vitalgate/vitalgate/hl7"
)

// Whatever real monitors sent, the page shows it: no message brings it down, and no alarm stands among measurements.
func TestCorpus(t *testing.T) {
	dir := os.Getenv("VITALGATE_CORPUS")
	if dir == "" {
		t.Skip("set VITALGATE_CORPUS to the folder of the message corpus to run this test")
	}
	v := New(Options{})
	v.now = func() time.Time { return time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC) }
	converters := map[string]*mapping.Converter{}
	index := uint64(0)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for len(data) > 0 {
			advance, token, err := hl7.SplitMessages(data, true)
			if err != nil || advance == 0 {
				break
			}
			data = data[advance:]
			index++
			e := &entry{ref: ref{"f1", "gw1", index}, monitor: filepath.Base(path), raw: token, arrived: v.now(), protection: "software"}
			m, err := hl7.Parse(token)
			if err != nil {
				e.kind, e.reason = "raw", err.Error()
				v.add(e)
				continue
			}
			dialect, _, _ := mapping.Detect(m)
			c := converters[dialect.Name]
			if c == nil {
				c = mapping.NewConverter(dialect)
				converters[dialect.Name] = c
			}
			r, err := c.Convert(m, mapping.Context{Box: "f1/gw1", Monitor: e.monitor, Zone: time.UTC, Arrived: v.now()})
			if err != nil {
				e.kind, e.reason = "raw", err.Error()
			} else {
				e.kind, e.bundle, e.observed = r.Kind, append([]byte(nil), r.Bundle...), r.Observed
			}
			v.add(e)
			if got, why := readContents(e); testing.Verbose() && strings.Contains(path, "/devices/") {
				t.Logf("%s %s place=%q device=%q %s", filepath.Base(path), e.kind, got.place, got.device, why)
				for _, o := range got.readings {
					t.Logf("   %-40q %-22q %-8q std=%v demo=%v absent=%q flags=%q patient=%q | %s", o.name, o.text, o.unit, o.standard, o.demo, o.absent, o.flags, o.patient.name, o.codes)
				}
				for _, a := range got.alarms {
					t.Logf("   ALARM %q %q", a.text, a.detail)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	h := v.Handler()
	if code, _ := get(h, "/"); code != http.StatusOK {
		t.Fatalf("overview answers %d", code)
	}
	for id := range v.state.beds {
		if code, body := get(h, "/bed/"+id); code != http.StatusOK || strings.Contains(body, "<script>") {
			t.Errorf("bed page answers %d", code)
		}
	}
	for _, e := range v.state.queue {
		if code, _ := get(h, e.Path()); code != http.StatusOK {
			t.Errorf("record page %s answers %d", e.ref, code)
		}
	}
	t.Logf("%d messages, %d beds, %d series", index, len(v.state.beds), v.state.series)
}
