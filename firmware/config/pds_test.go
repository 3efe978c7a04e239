package config_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/fhir/mapping"
	"github.com/vitalgate/vitalgate/firmware/config"
)

const bedside = `
[box]
id = "f1/gw1"
[network]
grant = "gw1.grant.json"
[[monitor]]
name = "bed-5"
kind = "mindray-pds"
dialect = "mindray-pds"
address = "192.0.2.7:4601"
beacon = "0.0.0.0:4600"
`

func TestAMindrayBedsideMonitor(t *testing.T) {
	d, err := mapping.LookupDialect("mindray-pds")
	if err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string][]string{"": nil, "query = \"all\"\n": nil, "query = \"101  160\"\n": {"101", "160"}, "query = \"known\"\n": d.Numbers()} {
		c, err := config.Parse([]byte(bedside + query))
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Monitors[0].Asked(d); !slices.Equal(got, want) {
			t.Errorf("%q asks for %q", query, got)
		}
	}
	c, err := config.Parse([]byte(strings.Replace(bedside, ":4601", ":0", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if m := c.Monitors[0]; m.QueryAgain != "keep-alive" || m.QueryInterval != 0 || m.AssociationAge != config.Duration(24*time.Hour) {
		t.Errorf("defaults: %+v", m)
	}
}

func TestMistakesOfAMindrayBedsideMonitor(t *testing.T) {
	for _, c := range []struct{ name, from, to, want string }{
		{"dialect with acknowledgements", `dialect = "mindray-pds"`, "", "wants dialect"},
		{"framing", "kind =", "framing = \"none\"\nkind =", "speaks mllp"},
		{"no port, no beacon", "192.0.2.7:4601\"\nbeacon = \"0.0.0.0:4600\"", "192.0.2.7:0\"", "4601"},
		{"name and beacon", "192.0.2.7", "monitor.example", "IP address"},
		{"beacon", "0.0.0.0:4600", "4600", "0.0.0.0:4600"},
		{"query", "kind =", "query = \"101 1^1\"\nkind =", `"1^1"`},
		{"empty query", "kind =", "query = \" \"\nkind =", "asks for nothing"},
		{"query again", "kind =", "query_again = \"often\"\nkind =", "query_again"},
		{"query interval", "kind =", "query_interval = \"10ms\"\nkind =", "query_interval"},
		{"read idle", "kind =", "read_idle = \"1s\"\nkind =", "keep-alive comes each second"},
		{"association age", "kind =", "association_age = \"1s\"\nkind =", "association_age"},
		{"beacon of another kind", `kind = "mindray-pds"`, `kind = "mllp-client"`, "beacon: is for mindray-pds"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(bedside, c.from, c.to, 1)
			if text == bedside {
				t.Fatal("the mistake was not made")
			}
			if _, err := config.Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v\ndoes not say %q", err, c.want)
			}
		})
	}
}
