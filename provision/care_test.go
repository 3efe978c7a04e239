package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A report that could not be kept is no reason to interrupt a box; nor does a test that failed leave a file.
func TestTheReportsPlaceIsCheckedFirst(t *testing.T) {
	dir := t.TempDir()
	c := hwtestRunCmd{at: at{Address: "box.invalid", Label: aLabel().String(), toolFlag: toolFlag{Identity: dir}}}
	there := filepath.Join(dir, "there.json")
	if err := os.WriteFile(there, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	fresh := filepath.Join(dir, "fresh.json")
	for path, want := range map[string]string{there: "remove the old file", filepath.Join(dir, "no", "x.json"): "make the folder first", fresh: "cannot reach the box"} {
		c.Out = path
		if err := c.Run(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v does not say %q", path, err, want)
		}
	}
	if _, err := os.Stat(fresh); err == nil {
		t.Error("an empty report stays behind")
	}
	if text, err := os.ReadFile(there); err != nil || string(text) != "old" {
		t.Errorf("%q %v", text, err)
	}
}
