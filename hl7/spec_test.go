package hl7

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestSupportTable holds testdata/spec.tsv to the code: what it calls
// supported names a function and a test that are there.
func TestSupportTable(t *testing.T) {
	table, err := os.ReadFile("testdata/spec.tsv")
	if err != nil {
		t.Fatal(err)
	}
	var tests strings.Builder
	for _, name := range []string{"message", "value", "text", "time", "ack", "split"} {
		b, err := os.ReadFile(name + "_test.go")
		if err != nil {
			t.Fatal(err)
		}
		tests.Write(b)
	}
	rows := strings.Split(strings.TrimSuffix(string(table), "\n"), "\n")
	for _, row := range rows[1:] {
		cells := strings.Split(row, "\t")
		if len(cells) != 5 {
			t.Errorf("%q has %d cells", row, len(cells))
			continue
		}
		section, support, where, test := cells[0], cells[2], cells[3], cells[4]
		switch support {
		case "No":
			if where != "" || test != "" {
				t.Errorf("%s is not supported and has a place", section)
			}
			continue
		case "Yes", "Partial":
		default:
			t.Errorf("%s: support is %q", section, support)
		}
		file, function, _ := strings.Cut(where, " ")
		code, err := os.ReadFile(file)
		if err != nil {
			t.Errorf("%s: %v", section, err)
			continue
		}
		if !regexp.MustCompile(`func (\([^)]*\) )?` + regexp.QuoteMeta(function) + `[(\[]`).Match(code) {
			t.Errorf("%s: %s has no function %s", section, file, function)
		}
		if !strings.Contains(tests.String(), "func "+test+"(") {
			t.Errorf("%s: there is no test %s", section, test)
		}
	}
}
