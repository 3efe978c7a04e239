package docs_test

import (
	"encoding/xml"
	"errors"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/vitalgate/vitalgate/fhir/mapping"
	"github.com/vitalgate/vitalgate/firmware/health"
)

func page(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("field", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var (
	linked = regexp.MustCompile(`\]\(([^)#:]+)\)`)
	row    = regexp.MustCompile("(?m)^\\| `([a-z0-9-]+)` \\|")
)

// TestFieldPagesShowWhatIsThere says that each picture and page that is linked exists, is drawn as it should be, and is linked.
func TestFieldPagesShowWhatIsThere(t *testing.T) {
	shown := map[string]bool{"README.md": true}
	for _, name := range []string{"README.md", "cabling.md", "troubleshooting.md"} {
		for _, m := range linked.FindAllStringSubmatch(page(t, name), -1) {
			shown[m[1]] = true
			f, err := os.Open(filepath.Join("field", m[1]))
			if err != nil {
				t.Errorf("%s shows what is not there: %v", name, err)
				continue
			}
			switch filepath.Ext(m[1]) {
			case ".svg":
				d := xml.NewDecoder(f)
				titled := false
				for {
					token, err := d.Token()
					if errors.Is(err, io.EOF) {
						break
					}
					if err != nil {
						t.Errorf("%s: %v", m[1], err)
						break
					}
					if e, ok := token.(xml.StartElement); ok && e.Name.Local == "title" {
						titled = true
					}
				}
				if !titled {
					t.Errorf("%s has no title for those who do not see it", m[1])
				}
			case ".png":
				if _, err := png.Decode(f); err != nil {
					t.Errorf("%s: %v", m[1], err)
				}
			}
			f.Close()
		}
	}
	all, err := os.ReadDir("field")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if !shown[e.Name()] {
			t.Errorf("docs/field/%s is shown nowhere", e.Name())
		}
	}
}

// TestEveryFamilyHasItsCable says that the table of cables and the dialects name the same monitors.
func TestEveryFamilyHasItsCable(t *testing.T) {
	told := map[string]bool{}
	for _, m := range row.FindAllStringSubmatch(page(t, "cabling.md"), -1) {
		told[m[1]] = true
	}
	for _, d := range mapping.Dialects() {
		if !told[d.Name] {
			t.Errorf("docs/field/cabling.md says nothing of dialect %s", d.Name)
		}
		delete(told, d.Name)
	}
	for name := range told {
		t.Errorf("docs/field/cabling.md tells of %s, which is no dialect", name)
	}
}

// TestEveryCodeIsExplained says that a person finds each code that the box may show.
func TestEveryCodeIsExplained(t *testing.T) {
	text := page(t, "troubleshooting.md")
	for _, k := range health.Kinds() {
		if !strings.Contains(text, "\n## "+k.Code+"\n") {
			t.Errorf("troubleshooting.md has no %s", k.Code)
		}
	}
}
