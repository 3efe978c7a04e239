// Package spec_test holds the tables of this folder to the code: what they call supported is there and is tested.
package spec_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../../"

// Each table names, by section of a standard: the requirement, Yes, Partial or No, the place in the code ("file function",
// several with "; "), the test ("folder Test") and, for Partial and No, what is missing or why.
func TestTables(t *testing.T) {
	tables, err := filepath.Glob("*.tsv")
	if err != nil || len(tables) < 4 {
		t.Fatalf("%d tables, %v: this test would see too little", len(tables), err)
	}
	for _, name := range tables {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		rows := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
		if rows[0] != "section\trequirement\tsupport\twhere\ttest\tremark" {
			t.Errorf("%s: the columns are %q", name, rows[0])
		}
		for i, row := range rows[1:] {
			at := name + ": " + row
			f := strings.Split(row, "\t")
			if len(f) != 6 || f[0] == "" || f[1] == "" {
				t.Errorf("%s line %d has %d cells, or an empty first one", name, i+2, len(f))
				continue
			}
			where, test, remark := f[3], f[4], f[5]
			switch f[2] {
			case "Yes", "Partial":
				if f[2] == "Partial" && remark == "" {
					t.Errorf("%s: does not say what is missing", at)
				}
				for _, place := range strings.Split(where, "; ") {
					checkPlace(t, at, place)
				}
				checkTest(t, at, test)
			case "No":
				if where != "" || test != "" || remark == "" {
					t.Errorf("%s: is not supported, so it has no place and no test but a reason", at)
				}
			default:
				t.Errorf("%s: support is %q", at, f[2])
			}
		}
	}
}

func checkPlace(t *testing.T, at, place string) {
	t.Helper()
	file, function, _ := strings.Cut(place, " ")
	code, err := os.ReadFile(root + file)
	if err != nil || file == "" {
		t.Errorf("%s: there is no file %q", at, file)
		return
	}
	if strings.HasSuffix(file, ".go") && !regexp.MustCompile(`(?m)^func (\([^)]*\) )?`+regexp.QuoteMeta(function)+`[(\[]`).Match(code) {
		t.Errorf("%s: %s has no function %q", at, file, function)
	}
}

func checkTest(t *testing.T, at, test string) {
	t.Helper()
	folder, name, _ := strings.Cut(test, " ")
	files, _ := filepath.Glob(root + folder + "/*_test.go")
	for _, file := range files {
		if code, err := os.ReadFile(file); err == nil && strings.Contains(string(code), "\nfunc "+name+"(t *testing.T)") && name != "" {
			return
		}
	}
	t.Errorf("%s: there is no test %q in %q", at, name, folder)
}
