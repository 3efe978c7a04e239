package health_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/vitalgate/vitalgate/firmware/health"
)

var update = flag.Bool("update", false, "write docs/field/troubleshooting.md and docs/alerts.yml anew")

func TestEveryKindSaysWhatToDo(t *testing.T) {
	seen := map[string]bool{}
	last := health.Critical
	for _, k := range health.Kinds() {
		if seen[k.Code] || !regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`).MatchString(k.Code) {
			t.Errorf("code %q is no code, or there twice", k.Code)
		}
		seen[k.Code] = true
		if k.Severity > last {
			t.Errorf("%s stands behind less grave ones", k.Code)
		}
		last = k.Severity
		for _, s := range []string{k.Means, k.Remedy} {
			if len(s) < 20 || !strings.HasSuffix(s, ".") || strings.ToUpper(s[:1]) != s[:1] && !strings.HasPrefix(s, "vitalgate") {
				t.Errorf("%s: %q is no sentence", k.Code, s)
			}
		}
	}
}

// TestSetTakesTheKind says that severity and remedy come from the table, and that a condition may know a better remedy.
func TestSetTakesTheKind(t *testing.T) {
	var b health.Board
	b.Set(health.Condition{Code: "offline", Severity: health.Critical, Sentence: "x"})
	k, _ := health.Lookup("offline")
	if c := b.Conditions()[0]; c.Severity != health.Warning || c.Remedy != k.Remedy {
		t.Errorf("%+v", c)
	}
	b.Set(health.Condition{Code: "offline", Sentence: "x", Remedy: "Plug it in."})
	if c := b.Conditions()[0]; c.Remedy != "Plug it in." {
		t.Errorf("%+v", c)
	}
}

func troubleshooting() string {
	var b strings.Builder
	b.WriteString("# Troubleshooting by code\n\n" +
		"Made from the table in firmware/health (`go test ./firmware/health -update`). The status page, `vitalgate status`, `/readyz` and the metric `vitalgate_condition` name these codes.\n" +
		"*Critical*: readings are not taken, not kept or not trusted; somebody should come now. *Warning*: the box works, but something must be mended.\n")
	for _, k := range health.Kinds() {
		about := ""
		if k.About != "" {
			about = ", of one " + k.About
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s%s. %s\n\n**What to do:** %s\n", k.Code, strings.ToUpper(k.Severity.String()[:1])+k.Severity.String()[1:], about, k.Means, k.Remedy)
	}
	return b.String()
}

func alerts() string {
	var b strings.Builder
	b.WriteString("# Prometheus alert rules for boxes, made from the table in firmware/health (go test ./firmware/health -update).\n" +
		"# Scrape each box's status address (/metrics) under the job name vitalgate.\n" +
		"groups:\n  - name: vitalgate\n    rules:\n" +
		"      - alert: VitalgateBoxUnreachable\n        expr: up{job=\"vitalgate\"} == 0\n        for: 2m\n        labels:\n          severity: critical\n        annotations:\n" +
		"          summary: \"Box {{ $labels.instance }} does not answer.\"\n          description: \"Look at its lamp and its network cable; what it keeps is not lost.\"\n" +
		"      - alert: VitalgateUnsent\n        expr: vitalgate_spool_oldest_unsent_seconds > 600\n        for: 5m\n        labels:\n          severity: warning\n        annotations:\n" +
		"          summary: \"Box {{ $labels.instance }} has readings of more than ten minutes ago that no peer has.\"\n          description: \"Look at the network and at the ward's peer.\"\n" +
		"      - alert: VitalgateSpoolFilling\n        expr: vitalgate_spool_unsent_records > 0 and vitalgate_spool_bytes / vitalgate_spool_quota_bytes > 0.8\n        for: 15m\n        labels:\n          severity: warning\n        annotations:\n" +
		"          summary: \"The log of box {{ $labels.instance }} is four fifths full.\"\n          description: \"When it is full, monitors are refused: bring the network back.\"\n")
	for _, k := range health.Kinds() {
		name, wait := "", "1m"
		for _, w := range strings.Split(k.Code, "-") {
			name += strings.ToUpper(w[:1]) + w[1:]
		}
		if k.Severity < health.Critical {
			wait = "5m"
		}
		about := ""
		if k.About != "" {
			about = " ({{ $labels.about }})"
		}
		fmt.Fprintf(&b, "      - alert: Vitalgate%s\n        expr: vitalgate_condition{code=%q} == 1\n        for: %s\n        labels:\n          severity: %s\n        annotations:\n          summary: %q\n          description: %q\n",
			name, k.Code, wait, k.Severity, "Box {{ $labels.instance }}"+about+": "+k.Means, k.Remedy)
	}
	return b.String()
}

// TestDocsAreMadeFromTheTable fails when the table and the pages differ.
func TestDocsAreMadeFromTheTable(t *testing.T) {
	for name, text := range map[string]string{"docs/field/troubleshooting.md": troubleshooting(), "docs/alerts.yml": alerts()} {
		path := filepath.Join("..", "..", filepath.FromSlash(name))
		if *update {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != text {
			t.Errorf("%s is not what the table says (%v); run: go test ./firmware/health -update", name, err)
		}
	}
}

// TestAlertsAreRules has Prometheus' own checker read them.
func TestAlertsAreRules(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool (package prometheus) is missing: the alert rules were not checked by it")
	}
	if out, err := exec.Command(promtool, "check", "rules", filepath.Join("..", "..", "docs", "alerts.yml")).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
