package check_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/fhir/check"
	"github.com/vitalgate/vitalgate/fhir/mapping"
	"github.com/vitalgate/vitalgate/hl7"
)

// Whatever messages follow one another on a line: each Bundle passes our own checks, and is the same from a fresh converter. It stands here
// because a fuzzer that has to watch google/fhir too comes to a few inputs a second; FuzzConvert of the mapping asks that one as well.
func FuzzConverted(f *testing.F) {
	files, _ := filepath.Glob("../mapping/testdata/*/*.hl7")
	if len(files) == 0 {
		f.Fatal("no messages to begin with")
	}
	var all [][]byte
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		all = append(all, raw)
	}
	for i := range all {
		f.Add(all[i], all[(i+1)%len(all)])
	}
	converters := map[string]*mapping.Converter{}
	for _, d := range mapping.Dialects() {
		converters[d.Name] = mapping.NewConverter(d)
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		at := mapping.Context{Box: "f1/gw1", Monitor: "bed-1", Zone: time.UTC, Bed: "ICU 9", Arrived: time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)}
		for _, raw := range [][]byte{first, second} {
			m, err := hl7.Parse(raw)
			if err != nil {
				continue
			}
			d, _, _ := mapping.Detect(m)
			r, err := converters[d.Name].Convert(m, at)
			if err != nil {
				t.Fatal(err)
			}
			if findings := check.Bundle(r.Bundle); len(findings) > 0 {
				t.Fatalf("%q\n%s", findings, r.Bundle)
			}
			bundle := bytes.Clone(r.Bundle)
			if again, err := mapping.NewConverter(d).Convert(m, at); err != nil || !bytes.Equal(again.Bundle, bundle) {
				t.Fatal("a fresh converter gives something else")
			}
			at.Association = r.Association
		}
	})
}
