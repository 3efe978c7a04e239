package mapping_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/vitalgate/vitalgate/fhir/mapping"
)

// What the guide shows is true: its folder is a dialect, and its message means what it says. No Go code is needed for it.
func TestGuide(t *testing.T) {
	guide, err := os.ReadFile("../../docs/adding-a-dialect.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := map[string]string{}
	for _, m := range regexp.MustCompile("(?s)\n```([a-z0-9]+)\n(.*?)\n```\n").FindAllStringSubmatch(string(guide), -1) {
		blocks[m[1]] = m[2]
	}
	files := fstest.MapFS{
		"etc/acme-care/dialect.toml": {Data: []byte(blocks["toml"])},
		"etc/acme-care/codes.tsv":    {Data: []byte(blocks["tsv"])},
	}
	d, err := mapping.LoadDialect(files, "etc/acme-care")
	if err != nil {
		t.Fatal(err)
	}
	if d.Name != "acme-care" || d.Ack != "original" || d.Framing != "mllp" {
		t.Errorf("%+v", d)
	}
	r, err := mapping.NewConverter(d).Convert(parse(t, blocks["hl7"]), context())
	if err != nil {
		t.Fatal(err)
	}
	mustBeFHIR(t, "guide", r.Bundle)
	if got := summary(t, r); got != blocks["want"] {
		t.Errorf("got\n%s\n\nthe guide says\n%s", got, blocks["want"])
	}
	if b := mapping.AppendConceptMap(nil, d); !strings.Contains(string(b), `"urn:vitalgate:codes:acme-care"`) {
		t.Error("its codes are not exported")
	}
}

// A folder that is no dialect is refused with what is wrong and where.
func TestLoadDialect(t *testing.T) {
	const good = "title = \"x\"\nsource = \"y\"\n[transport]\nframing = \"mllp\"\nrole = \"server\"\nack = \"message\"\n[time]\nzone = \"site\"\n[values]\nlimits = \"alarm\"\n"
	const columns = "system\tcode\tlabels\tneeds_label\tmdc\tloinc\tchannels\n"
	for _, c := range []struct{ folder, toml, codes, want string }{
		{"acme", good, "", ""},
		{"acme", good, columns + "\t1\tHR\t\t147842\t\t\n", ""},
		{"mindray-pds", good, "", "vitalgate brings one of that name"},
		{"Acme Care", good, "", "small letters and digits"},
		{"acme", "", "", "no such file|does not exist"},
		{"acme", good + "colour = \"red\"\n", "", "colour"},
		{"acme", strings.Replace(good, "mllp", "smoke", 1), "", `framing is "smoke"`},
		{"acme", strings.Replace(good, "source", "#", 1), "", "source"},
		{"acme", good + "[units]\nrate = \"bpm\"\n", "", `units.rate is "bpm"`},
		{"acme", good + "[units]\nrate = \"kg\"\n", "", "measures a rate"},
		{"acme", good + "[bed]\nfield = \"OBX-3\"\n", "", "want a PV1 field"},
		{"acme", good + "[[row]]\nfield = \"OBX-3.1\"\nas = \"setting\"\n", "", "asks for nothing"},
		{"acme", good, columns + "\t1\tHR\t\t4711\t\t\n", "line 2: number 4711 is not in"},
		{"acme", good, columns + "\t1\tHR\t\t147842\n", "line 2: 5 columns, want 7"},
		{"acme", good, columns + "\t1\tHR\t\t147842\t\t\n\t1\tHR\t\t147842\t\t\n", "line 3: code 1 stands twice"},
	} {
		files := fstest.MapFS{}
		if c.toml != "" {
			files[c.folder+"/dialect.toml"] = &fstest.MapFile{Data: []byte(c.toml)}
		}
		if c.codes != "" {
			files[c.folder+"/codes.tsv"] = &fstest.MapFile{Data: []byte(c.codes)}
		}
		_, err := mapping.LoadDialect(files, c.folder)
		if err == nil && c.want != "" || err != nil && (c.want == "" || !regexp.MustCompile(c.want).MatchString(err.Error())) {
			t.Errorf("%s: %v, want %q", c.folder, err, c.want)
		}
	}
}
