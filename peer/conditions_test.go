package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/peer/peertest"
	"github.com/vitalgate/vitalgate/peer/store"
)

var update = flag.Bool("update", false, "write docs/peer/troubleshooting.md and docs/alerts-peer.yml anew")

func TestEveryKindSaysWhatToDo(t *testing.T) {
	seen, last := map[string]bool{}, critical
	for _, k := range kinds {
		if seen[k.Code] || !regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`).MatchString(k.Code) {
			t.Errorf("code %q is no code, or there twice", k.Code)
		}
		seen[k.Code] = true
		if k.Severity != last && (last != critical || k.Severity != warning) {
			t.Errorf("%s, %q, stands behind less grave ones", k.Code, k.Severity)
		}
		last = k.Severity
		for _, s := range []string{k.Means, k.Remedy} {
			if len(s) < 15 || !strings.HasSuffix(s, ".") || strings.ToUpper(s[:1]) != s[:1] {
				t.Errorf("%s: %q is no sentence", k.Code, s)
			}
		}
	}
}

// TestEveryConditionHasAKind reads the source of the peer: each code that is said must be in the table, and each kind of the table must
// be said somewhere.
func TestEveryConditionHasAKind(t *testing.T) {
	said := map[string]bool{}
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.CompositeLit); ok {
				if name, ok := lit.Type.(*ast.Ident); ok && name.Name == "condition" && path != "conditions.go" {
					t.Errorf("%s makes a condition by itself: say it", path)
				}
			}
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			name := ""
			switch f := call.Fun.(type) {
			case *ast.Ident:
				name = f.Name
			case *ast.SelectorExpr:
				name = f.Sel.Name
			}
			lit, ok := call.Args[0].(*ast.BasicLit)
			if ok && (name == "say" || name == "of") {
				code, _ := strconv.Unquote(lit.Value)
				said[code] = true
				if rank(code) == len(kinds) {
					t.Errorf("%s says the condition %q, which the table does not know: add it there, with what a person should do", path, code)
				}
			}
			return true
		})
	}
	for _, k := range kinds {
		if !said[k.Code] {
			t.Errorf("nothing says the condition %q of the table", k.Code)
		}
	}
}

// raisedBy is, for each kind of condition, the test in which the real part comes into it.
var raisedBy = map[string][2]string{
	"start-forged":       {"starts_test.go", "TestAStartThatIsNotAttestedIsNamed"},
	"fork":               {"evidence_test.go", "TestTwoHistoriesShownToTwoPeersAreEvidence"},
	"registry-fork":      {"registry_test.go", "TestAForkBetweenPeersIsShown"},
	"rollback":           {"conditions_test.go", "TestWhatIsSetAsideIsSaid"},
	"firmware-denied":    {"registry_test.go", "TestDeniedFirmwareIsNamedAndARemovedOperatorIsCutOff"},
	"removed":            {"registry_test.go", "TestARemovedWardSaysSo"},
	"peer-twice":         {"twins_test.go", "TestACopiedInvitationIsNoticed"},
	"registry-broken":    {"registry_test.go", "TestAPeerThatHasLostItsRegistryRefuses"},
	"streams-stopped":    {"streams_test.go", "TestStreamsGoOnAfterAFullDisk"},
	"store-full":         {"status_test.go", "TestFullDiskIsSaidAndNothingIsLost"},
	"store-failed":       {"conditions_test.go", "TestAStoreThatDoesNotOpenIsSaid"},
	"store-damaged":      {"operate_test.go", "TestStoresAreMended"},
	"records-missing":    {"heal_test.go", "TestMissingRecordsAreLeftOutAndFilledInLater"},
	"gap":                {"status_test.go", "TestRecordsThatStandStillAreSaid"},
	"ingest-behind":      {"status_test.go", "TestRecordsThatStandStillAreSaid"},
	"quarantine-full":    {"conditions_test.go", "TestWhatIsSetAsideIsSaid"},
	"hub-away":           {"heal_test.go", "TestMissingRecordsAreLeftOutAndFilledInLater"},
	"start-unproven":     {"starts_test.go", "TestAStartThatIsNotAttestedIsNamed"},
	"quarantine":         {"conditions_test.go", "TestWhatIsSetAsideIsSaid"},
	"suspended":          {"registry_test.go", "TestASuspendedBoxGoesOnWhenItIsResumed"},
	"reader-key-missing": {"readers_test.go", "TestNewReadersWhileThePeerRuns"},
}

// passing are kinds that end by themselves before a test could see them in a running peer, and the test of what they come from.
var passing = map[string][2]string{
	"starts-behind":     {"store/starts_test.go", "Looking()"},
	"registry-set-back": {"registry_test.go", "a peer has lost entries of the registry that it had"},
}

// TestEveryConditionIsRaised: no kind is in the table that no test has seen on the real part.
func TestEveryConditionIsRaised(t *testing.T) {
	for _, k := range kinds {
		by, ok := raisedBy[k.Code]
		if p, passes := passing[k.Code]; passes {
			if b, err := os.ReadFile(p[0]); err != nil || !bytes.Contains(b, []byte(p[1])) {
				t.Errorf("%s: %s does not look at %s (%v)", k.Code, p[0], p[1], err)
			}
			continue
		}
		if !ok {
			t.Errorf("no test raises %s: write one, and name it here", k.Code)
			continue
		}
		b, err := os.ReadFile(by[0])
		if err != nil {
			t.Fatal(err)
		}
		_, body, found := strings.Cut(string(b), "\nfunc "+by[1]+"(")
		body, _, _ = strings.Cut(body, "\n}\n")
		if !found || !strings.Contains(body, k.Code) {
			t.Errorf("%s of %s does not raise %s", by[1], by[0], k.Code)
		}
	}
	if len(raisedBy)+len(passing) != len(kinds) {
		t.Errorf("%d kinds are raised, %d pass, and %d are in the table", len(raisedBy), len(passing), len(kinds))
	}
}

// TestEveryConditionShows: /readyz, metrics and the command read the one list, so each condition stands in all of them, a critical one
// also on the page, and it makes the peer not ready.
func TestEveryConditionShows(t *testing.T) {
	for _, k := range kinds {
		st := &status{}
		st.say(k.Code, "f1/gw1", "It is so.", "")
		st.say(k.Code, "f1/gw1", "It is so.", "") // of two gaps of one box
		st.finish()
		ready := httptest.NewRecorder()
		st.serveReady(ready)
		var text, samples bytes.Buffer
		if err := st.print(&text); err != nil {
			t.Fatal(err)
		}
		st.writeMetrics(&samples)
		for where, c := range map[string][2]string{
			"/readyz":     {ready.Body.String(), `"code":"` + k.Code + `"`},
			"the command": {text.String(), k.Severity + ": f1/gw1 " + k.Code + ": It is so. " + k.Remedy},
			"/metrics":    {samples.String(), fmt.Sprintf("vitalpeer_condition{code=%q,about=\"f1/gw1\",severity=%q} 1\n", k.Code, k.Severity)},
		} {
			if !strings.Contains(c[0], c[1]) {
				t.Errorf("%s does not stand in %s: %s", k.Code, where, c[0])
			}
		}
		if n := strings.Count(samples.String(), "vitalpeer_condition"); n != 1 {
			t.Errorf("%s is %d samples of one name", k.Code, n)
		}
		grave := k.Severity == critical
		if (ready.Code == http.StatusOK) == grave || (len(st.critical()) > 0) != grave || strings.Contains(samples.String(), "vitalpeer_ready 1") == grave {
			t.Errorf("%s, %s: /readyz answers %d, the page shows %d, %s", k.Code, k.Severity, ready.Code, len(st.critical()), samples.String())
		}
	}
}

// The gravest comes first, and what was said first of two that are as grave.
func TestTheGravestConditionIsTheFirst(t *testing.T) {
	st := &status{}
	for _, k := range slices.Backward(kinds) {
		st.say(k.Code, "", k.Code, "")
	}
	st.finish()
	for i, c := range st.Conditions {
		if c.Code != kinds[i].Code {
			t.Errorf("%d is %s, want %s", i, c.Code, kinds[i].Code)
		}
	}
}

func title(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

func troubleshooting() string {
	var b strings.Builder
	b.WriteString("# Conditions of a peer by code\n\n" +
		"Made from the table in peer/conditions.go (`go test ./peer -run MadeFromTheTable -update`). `vitalpeer status`, `/readyz` and the metric `vitalpeer_condition` name these codes; the\n" +
		"page shows the critical ones. *Critical*: records are not taken, not kept, not shown or not to be trusted; somebody should come now. *Warning*: the peer works, and something must be\n" +
		"mended. Each condition itself says more than stands here: which records, which folder. How to mend a store, back up and restore: [README.md](README.md).\n")
	for _, k := range kinds {
		about := ""
		if k.About != "" {
			about = ", of one " + k.About
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s%s. %s\n\n**What to do:** %s\n", k.Code, title(k.Severity), about, k.Means, k.Remedy)
	}
	return b.String()
}

func alerts() string {
	var b strings.Builder
	rule := func(name, expr, wait, severity, summary, description string) {
		fmt.Fprintf(&b, "      - alert: Vitalpeer%s\n        expr: %s\n        for: %s\n        labels:\n          severity: %s\n        annotations:\n          summary: %q\n          description: %q\n",
			name, expr, wait, severity, summary, description)
	}
	b.WriteString("# Prometheus alert rules for peers, made from the table in peer/conditions.go (go test ./peer -run MadeFromTheTable -update).\n" +
		"# Scrape each peer's page address (/metrics) under the job name vitalpeer.\n" +
		"groups:\n  - name: vitalpeer\n    rules:\n")
	rule("Unreachable", `up{job="vitalpeer"} == 0`, "2m", critical, "Peer {{ $labels.instance }} does not answer.",
		"See whether vitalpeer runs there. Boxes keep their records, or send them to another leaf node; what the peer holds is not lost.")
	rule("StreamWaits", "min_over_time(vitalpeer_stream_waiting[15m]) > 1000", "5m", warning,
		"Peer {{ $labels.instance }}: what box {{ $labels.box }} sends has not been taken in as fast as it comes for a quarter of an hour.", "Look at the processor and the disk of the peer.")
	for _, k := range kinds {
		name, wait, about := "", "1m", ""
		for _, w := range strings.Split(k.Code, "-") {
			name += title(w)
		}
		if k.Severity == warning {
			wait = "5m"
		}
		if k.About != "" {
			about = " ({{ $labels.about }})"
		}
		rule(name, fmt.Sprintf("vitalpeer_condition{code=%q} == 1", k.Code), wait, k.Severity, "Peer {{ $labels.instance }}"+about+": "+k.Means, k.Remedy)
	}
	return b.String()
}

// TestDocsAreMadeFromTheTable fails when the table and the pages differ, and has Prometheus' own checker read the rules.
func TestDocsAreMadeFromTheTable(t *testing.T) {
	for name, text := range map[string]string{"docs/peer/troubleshooting.md": troubleshooting(), "docs/alerts-peer.yml": alerts()} {
		path := filepath.Join("..", filepath.FromSlash(name))
		if *update {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != text {
			t.Errorf("%s is not what the table says (%v); run: go test ./peer -run MadeFromTheTable -update", name, err)
		}
	}
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool (package prometheus) is missing: the alert rules were not checked by it")
	}
	if out, err := exec.Command(promtool, "check", "rules", filepath.Join("..", "docs", "alerts-peer.yml")).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// The store of a box does not open: the peer runs for all others, and says which box's records wait, and why.
func TestAStoreThatDoesNotOpenIsSaid(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	box, other := peertest.NewBox(t, "f1/gw1"), peertest.NewBox(t, "f1/gw2")
	hub.enrol(box)
	hub.enrol(other)
	log := store.LogDir(hub.dir.Store(), box.ID)
	if err := os.MkdirAll(filepath.Dir(log), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(log, []byte("no folder"), 0o600); err != nil {
		t.Fatal(err)
	}
	hub.start()
	hub.send(other, other.Record(10))
	hub.has(other)
	if all := hub.says().Conditions; len(all) != 1 || all[0].Code != "store-failed" || all[0].About != "f1/gw1" || !strings.Contains(all[0].Sentence, "wait in its stream") {
		t.Errorf("it says %+v", all)
	}
	hub.stop()
	if err := os.Remove(log); err != nil {
		t.Fatal(err)
	}
	hub.start()
	hub.send(box, box.Record(10))
	hub.has(box)
	hub.same(box)
	if all := hub.says().Conditions; len(all) != 0 {
		t.Errorf("it says %+v of what is well", all)
	}
}

// What was refused is set aside, up to a limit, and a chip that was set back is evidence: as long as the files lie there a person is told.
func TestWhatIsSetAsideIsSaid(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	box := peertest.NewBox(t, "f1/gw1")
	hub.enrol(box)
	hub.start()
	hub.send(box, box.Record(10))
	refused := func() {
		nc := hub.connect(box)
		defer nc.Close()
		if _, err := nc.Request(box.ID.Subject(), []byte("no record"), time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	says := func(code string) func() bool {
		return func() bool { return slices.Contains(hub.conditionsOf(box), code) }
	}
	refused()
	hub.until("a message was set aside", says("quarantine"))
	if !hub.says().Ready {
		t.Error("one message that was refused makes the peer not ready")
	}
	evidence := filepath.Join(hub.dir.Evidence(), box.ID.String())
	if err := os.MkdirAll(evidence, 0o700); err != nil {
		t.Fatal(err)
	}
	note := filepath.Join(evidence, "0.rollback.evidence")
	if err := os.WriteFile(note, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	hub.until("a chip was set back", says("rollback"))
	if err := os.Remove(note); err != nil {
		t.Fatal(err)
	}
	hub.stop()
	large, err := os.Create(filepath.Join(hub.dir.Quarantine(), box.ID.String(), "large"))
	if err == nil {
		err = errors.Join(large.Truncate(256<<20), large.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	hub.start()
	refused()
	hub.until("no more is kept", says("quarantine-full"))
	if says("rollback")() {
		t.Error("evidence that was moved elsewhere is still said")
	}
	hub.send(box, box.Record(10))
	hub.has(box) // what verifies is taken all the same
}
