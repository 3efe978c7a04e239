package config_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/firmware/config"
)

const good = `
[box]
id = "f1/gw1"
[network]
grant = "gw1.grant.json"
[[monitor]]
name = "bed-12"
address = "127.0.0.1:2575"
zone = "Europe/Berlin"
[[monitor]]
name = "bed-13"
kind = "serial"
device = "/dev/ttyUSB0"
parity = "even"
baud = 19200
`

func TestDefaultsStandWhereAKeyIsAbsent(t *testing.T) {
	c, err := config.Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if c.Spool.Quota != 4<<30 || c.Network.AckTimeout != config.Duration(1500*time.Millisecond) || c.TPM.Source != "auto" {
		t.Errorf("defaults: %+v", c)
	}
	a, b := c.Monitors[0], c.Monitors[1]
	if a.Kind != "mllp-server" || a.Dialect != "ihe-pcd01" || a.Baud != 9600 || a.MaxMessage != 1<<20 {
		t.Errorf("first monitor: %+v", a)
	}
	if b.Parity != "even" || b.Baud != 19200 || b.DataBits != 8 || b.Kind != "serial" {
		t.Errorf("second monitor: %+v", b)
	}
}

func TestTheExampleIsRight(t *testing.T) {
	var b bytes.Buffer
	if err := config.Example(&b); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Parse(b.Bytes()); err != nil {
		t.Fatalf("%v\n%s", err, b.String())
	}
	// The same with every commented key switched on but those of a serial line.
	var all strings.Builder
	for line := range strings.Lines(b.String()) {
		if key, ok := strings.CutPrefix(line, "# "); ok && strings.Contains(key, " = ") && !strings.Contains(key, ". ") && !strings.HasPrefix(key, "device") {
			line = key
		}
		all.WriteString(line)
	}
	if _, err := config.Parse([]byte(all.String())); err != nil {
		t.Fatalf("%v\n%s", err, all.String())
	}
}

func TestEveryMistakeNamesTheKeyAndTheRemedy(t *testing.T) {
	for _, c := range []struct{ name, from, to, want string }{
		{"unknown key", `id = "f1/gw1"`, "id = \"f1/gw1\"\ndatta = \"x\"", `unknown key "box.datta"`},
		{"what was meant", `id = "f1/gw1"`, "id = \"f1/gw1\"\ndatta = \"x\"", `did you mean "data"?`},
		{"unknown key of a monitor", `parity = "even"`, `paritty = "even"`, "line 14"},
		{"wrong type", "baud = 19200", `baud = "fast"`, "monitor.baud"},
		{"bad duration", "[[monitor]]", "ack_timeout = \"3\"\n[[monitor]]", "500ms"},
		{"bad size", "[network]", "[spool]\nquota = \"4 gigs\"\n[network]", "8MiB"},
		{"box id", "f1/gw1", "F1/gw1", "box.id"},
		{"zone", "Europe/Berlin", "Europe/Atlantis", "IANA"},
		{"local zone", "Europe/Berlin", "Local", "IANA"},
		{"address", "127.0.0.1:2575", "2575", "host:port"},
		{"parity", `"even"`, `"sometimes"`, "parity"},
		{"two with one name", "bed-13", "bed-12", "names must differ"},
		{"dialect", `name = "bed-12"`, "name = \"bed-12\"\ndialect = \"klingon\"", "klingon"},
		{"no monitor", good[strings.Index(good, "[[monitor]]"):], "", "[[monitor]]"},
		{"broken TOML", "[box]", "[box", "line 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(good, c.from, c.to, 1)
			if text == good {
				t.Fatal("the mistake was not made")
			}
			_, err := config.Parse([]byte(text))
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v\ndoes not say %q", err, c.want)
			}
		})
	}
}

func TestAllMistakesAreReportedAtOnce(t *testing.T) {
	text := strings.NewReplacer("f1/gw1", "gw1", "127.0.0.1:2575", "nowhere", "19200", "7").Replace(good)
	_, err := config.Parse([]byte(text))
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"box.id", "address", "baud"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not name %s", err, want)
		}
	}
}

func TestDescribeNamesEveryKey(t *testing.T) {
	var b bytes.Buffer
	if err := config.Describe(&b); err != nil {
		t.Fatal(err)
	}
	for _, k := range config.Keys() {
		if k.Doc == "" || !strings.Contains(b.String(), k.Path) {
			t.Errorf("%s is not described", k.Path)
		}
	}
}
