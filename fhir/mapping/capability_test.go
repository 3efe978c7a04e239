package mapping_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vitalgate/vitalgate/fhir/mapping"
)

// The statement is FHIR, and lists each type of resource and each profile that the golden Bundles hold.
func TestCapabilityStatement(t *testing.T) {
	out := mapping.AppendCapabilityStatement(nil, "1.2.3")
	if _, err := oracle().Unmarshal(out); err != nil {
		t.Fatalf("google/fhir refuses it: %v\n%s", err, out)
	}
	if !bytes.Equal(out, mapping.AppendCapabilityStatement(nil, "1.2.3")) {
		t.Error("the bytes differ from call to call")
	}
	var s struct {
		Software struct{ Version string }
		Rest     []struct {
			Resource []struct {
				Type             string
				SupportedProfile []string
			}
		}
	}
	if err := json.Unmarshal(out, &s); err != nil || s.Software.Version != "1.2.3" || len(s.Rest) != 1 {
		t.Fatalf("%v: %s", err, out)
	}
	types, profiles := []string{}, []string{}
	for _, r := range s.Rest[0].Resource {
		types = append(types, r.Type)
		profiles = append(profiles, r.SupportedProfile...)
	}
	files, _ := filepath.Glob("testdata/*/*.json")
	if len(files) == 0 {
		t.Fatal("no golden Bundles")
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var b struct {
			Entry []struct {
				Resource struct {
					ResourceType string
					Meta         struct{ Profile []string }
				}
			}
		}
		if err := json.Unmarshal(data, &b); err != nil {
			t.Fatal(err)
		}
		for _, e := range b.Entry {
			if !slices.Contains(types, e.Resource.ResourceType) {
				t.Errorf("%s holds a %s, which the statement does not list", file, e.Resource.ResourceType)
			}
			for _, p := range e.Resource.Meta.Profile {
				if !slices.Contains(profiles, p) {
					t.Errorf("%s claims %s, which the statement does not list", file, p)
				}
			}
		}
	}
}
