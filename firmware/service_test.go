package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// systemd's own checker reads the units as they are installed.
func TestTheUnitIsAUnit(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is missing: the unit was not checked by systemd")
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ user, data, want string }{
		"root": {"", "/var/lib/vitalgate", "TimeoutStopSec=15"},
		"own":  {"daemon", "/var/lib/vitalgate", "StateDirectory=vitalgate\n"},
		"else": {"daemon", "/srv/with blank", "ReadWritePaths=\"/srv/with blank\"\n"},
	} {
		unit := systemdUnit(c.user, []string{"tty"}, c.data)
		if !strings.Contains(unit, c.want) || strings.Contains(unit, "User=") != (c.user != "") {
			t.Errorf("%s:\n%s", name, unit)
		}
		unit = strings.NewReplacer("{{Description}}", "x", "{{Path | cmdEscape}}", program, "{{range Arguments}} {{. | cmd}}{{end}}", " service run").Replace(unit)
		path := filepath.Join(t.TempDir(), "vitalgate.service")
		if err := os.WriteFile(path, []byte(unit), 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", "--generators=no", path).CombinedOutput()
		if err != nil || strings.Contains(string(out), "Unknown") || strings.Contains(string(out), "Failed to parse") {
			t.Errorf("%s: %v\n%s\n%s", name, err, out, unit)
		}
	}
}
