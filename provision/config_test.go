package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
)

// full is a configuration with settings that a person made by hand.
const full = `# Ward ICU 2, set up by Anna.
[box]
id = "f1/gw1" # as on the inventory
data = "data"

[network]
grant = "grant.json"
ack_timeout = "3s"

# The numbers of our own hospital.
[fhir]
patient_system = "urn:oid:1.2.276.0.76.3.1.1"
codes = "codes.tsv"

# The bay at the window; its monitor has an odd parity.
[[monitor]]
name = "bed-1"
kind = "serial" # [[monitor]] is no header here
device = "/dev/serial/by-path/usb-1"
parity = "odd"
baud = 19200

[[monitor]]
name = "bed-2"
address = "0.0.0.0:2575"

# Large, for the long week-ends.
[spool]
quota = "32GiB"

[status]
# seen on the ward
listen = "0.0.0.0:8100"

[tpm]
source = "/dev/tpmrm0"
# the end
`

const bed1 = "name=bed-1 kind=serial device=/dev/serial/by-path/usb-1 parity=odd baud=19200"

// outside is a configuration without its monitors.
func outside(t *testing.T, text string) (rest map[string]any, monitors []any) {
	t.Helper()
	if err := toml.Unmarshal([]byte(text), &rest); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	monitors, _ = rest["monitor"].([]any)
	delete(rest, "monitor")
	return rest, monitors
}

func TestBindingChangesNothingElse(t *testing.T) {
	got, err := binding{Monitor: []string{"name=bed-3 address=0.0.0.0:2576 max_connections=2", bed1}}.over(full)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(got, "\n\n\n") || strings.Contains(got, "\"\n[") || strings.Contains(got, "'\n[") {
		t.Errorf("the tables stand too near or too far:\n%s", got)
	}
	bed2 := full[strings.Index(full, "[[monitor]]\nname = \"bed-2\""):strings.Index(full, "# Large")]
	for line := range strings.Lines(strings.Replace(full, bed2, "", 1)) {
		if !strings.Contains(got, line) {
			t.Errorf("lost %q", line)
		}
	}
	if strings.Contains(got, "bed-2") {
		t.Error("bed-2 is still there")
	}
	for _, order := range [][2]string{{"codes.tsv", "bed-3"}, {"bed-3", "# The bay at the window"}, {"baud = 19200", "# Large"}, {"# Large", "[spool]"}} {
		if strings.Index(got, order[0]) > strings.Index(got, order[1]) {
			t.Errorf("%q stands behind %q", order[0], order[1])
		}
	}
	if _, monitors := outside(t, got); len(monitors) != 2 {
		t.Errorf("%v", monitors)
	}
	if again, err := (binding{Monitor: []string{"name=bed-3 address=0.0.0.0:2576 max_connections=2", bed1}}).over(got); err != nil || again != got {
		t.Errorf("the same once more gives something else: %v\n%s", err, again)
	}
}

func TestBindingTheStatusPage(t *testing.T) {
	got, err := binding{Status: "127.0.0.1:9000"}.over(full)
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Replace(full, "0.0.0.0:8100", "127.0.0.1:9000", 1); got != want {
		t.Errorf("%s", got)
	}
	for _, text := range []string{strings.Replace(full, `listen = "0.0.0.0:8100"`, "", 1), full[:strings.Index(full, "[status]")]} {
		got, err := binding{Status: "127.0.0.1:9000"}.over(text)
		if err != nil {
			t.Fatal(err)
		}
		if rest, monitors := outside(t, got); rest["status"].(map[string]any)["listen"] != "127.0.0.1:9000" || len(monitors) != 2 {
			t.Errorf("%s", got)
		}
	}
}

// What lines cannot be changed without a risk for the rest is said, and not tried.
func TestBindingWhatCannotBeCut(t *testing.T) {
	head := full[:strings.Index(full, "# The bay")]
	for name, text := range map[string]string{
		"monitors in one line":     "monitor = [{name = \"bed-2\", address = \"0.0.0.0:2575\"}]\n" + head,
		"a table in a long string": head + "[tpm]\nsource = \"\"\"\n[[monitor]]\n\"\"\"\n",
		"no TOML":                  head + "[tpm\n",
	} {
		if got, err := (binding{Monitor: []string{bed1}}).over(text); err == nil || !strings.Contains(err.Error(), "--config FILE") {
			t.Errorf("%s: %v\n%s", name, err, got)
		}
	}
	if _, err := (binding{}).over(full); err == nil || !strings.Contains(err.Error(), "to nothing") {
		t.Errorf("bound to nothing: %v", err)
	}
}

// FuzzBinding says that a change is right or refused, whatever stands in the configuration.
func FuzzBinding(f *testing.F) {
	f.Add(full)
	f.Add("a = '''\n[[monitor]]\n'''\n[[monitor]]\n#x\n[status]")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := binding{Monitor: []string{bed1}, Status: "a:1"}.over(text)
		if err != nil {
			return
		}
		if _, monitors := outside(t, got); len(monitors) != 1 || !slices.ContainsFunc(monitors, func(m any) bool { return m.(map[string]any)["name"] == "bed-1" }) {
			t.Errorf("%s", got)
		}
	})
}
