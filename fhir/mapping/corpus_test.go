package mapping_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/fhir/go/fhirversion"
	"github.com/google/fhir/go/jsonformat"

	"github.com/vitalgate/vitalgate/fhir/check"
	"github.com/vitalgate/vitalgate/fhir/mapping"
	"github.com/vitalgate/vitalgate/hl7"
)

// oracle is google/fhir, the schema authority: it validates what it reads.
var oracle = sync.OnceValue(func() *jsonformat.Unmarshaller {
	u, err := jsonformat.NewUnmarshaller("UTC", fhirversion.R4)
	if err != nil {
		panic(err)
	}
	return u
})

// mustBeFHIR fails the test unless both checks accept the JSON.
func mustBeFHIR(t *testing.T, what string, data []byte) {
	t.Helper()
	if _, err := oracle().Unmarshal(data); err != nil {
		t.Errorf("%s: google/fhir refuses it: %v\n%s", what, err, clip(data))
	}
	findings := check.Bundle
	if bytes.HasPrefix(data, []byte(`{"resourceType":"OperationOutcome"`)) {
		findings = check.Outcome
	}
	for _, f := range findings(data) {
		t.Errorf("%s: %s\n%s", what, f, clip(data))
	}
}

func clip(b []byte) []byte {
	if len(b) > 3000 {
		return b[:3000]
	}
	return b
}

var berlin = time.FixedZone("", 3600)

func context() mapping.Context {
	return mapping.Context{Box: "f1/gw1", Monitor: "icu-3-bed-12", Zone: berlin, Arrived: time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)}
}

// The whole corpus: no message makes the converter panic; each becomes a Bundle or an *hl7.Error, and every Bundle
// passes both checks; a fresh converter gives the same bytes.
func TestCorpus(t *testing.T) {
	dir := os.Getenv("VITALGATE_CORPUS")
	if dir == "" {
		t.Skip("VITALGATE_CORPUS does not name a folder of messages")
	}
	files, bundles, refused := 0, 0, 0
	charted, local, absent := 0, 0, 0
	kinds, events, byDialect := map[string]int{}, map[string]int{}, map[string]int{}
	converters := map[*mapping.Dialect]*mapping.Converter{}
	contexts := []mapping.Context{context(), {}}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, ".hl7") {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		name, _ := filepath.Rel(dir, path)
		for len(data) > 0 {
			n, token, err := hl7.SplitMessages(data, true)
			if err != nil || n == 0 {
				break
			}
			data = data[n:]
			if token == nil {
				continue
			}
			m, err := hl7.Parse(token)
			if err != nil {
				var e *hl7.Error
				if !errors.As(err, &e) {
					t.Errorf("%s: not an *hl7.Error: %v", name, err)
				}
				refused++
				mustBeFHIR(t, name, mapping.AppendOutcome(nil, e))
				continue
			}
			d, _, _ := mapping.Detect(m)
			c := converters[d]
			if c == nil {
				c = mapping.NewConverter(d)
				converters[d] = c
			}
			for i, at := range contexts {
				r, err := c.Convert(m, at)
				if err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
				mustBeFHIR(t, name, r.Bundle)
				fresh, err := mapping.NewConverter(d).Convert(m, at)
				if err != nil || !bytes.Equal(fresh.Bundle, r.Bundle) {
					t.Errorf("%s: a fresh converter gives other bytes", name)
				}
				if i > 0 {
					continue
				}
				bundles++
				charted += r.Charted
				local += r.Local
				absent += r.Absent
				kinds[r.Kind]++
				byDialect[d.Name]++
				for _, e := range r.Events {
					events[e.Code]++
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if bundles == 0 {
		t.Fatal("the corpus holds no message")
	}
	t.Logf("%d files: %d Bundles, %d refused; observations: %d charted, %d local, %d absent", files, bundles, refused, charted, local, absent)
	t.Logf("kinds:    %s", counts(kinds))
	t.Logf("dialects: %s", counts(byDialect))
	t.Logf("events:   %s", counts(events))
}

func counts(m map[string]int) string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	var b strings.Builder
	for _, k := range keys {
		fmt.Fprintf(&b, "%s %d  ", k, m[k])
	}
	return b.String()
}
