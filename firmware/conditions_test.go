package main

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/firmware/health"
	"github.com/vitalgate/vitalgate/firmware/link"
	"github.com/vitalgate/vitalgate/firmware/status"
)

// TestEveryConditionHasAKind reads the source of the box: each code that is set must be in the table of package health, and each
// kind of the table must be set somewhere.
func TestEveryConditionHasAKind(t *testing.T) {
	used := map[string]bool{}
	for _, code := range ofLink {
		used[code] = true
	}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			lit, ok := n.(*ast.CompositeLit)
			if !ok {
				return true
			}
			sel, ok := lit.Type.(*ast.SelectorExpr)
			if !ok || sel.Sel.Name != "Condition" {
				return true
			}
			if pkg, ok := sel.X.(*ast.Ident); !ok || pkg.Name != "health" {
				return true
			}
			for _, e := range lit.Elts {
				kv, ok := e.(*ast.KeyValueExpr)
				if !ok {
					continue
				}
				if key, ok := kv.Key.(*ast.Ident); !ok || key.Name != "Code" {
					continue
				}
				if code, ok := kv.Value.(*ast.BasicLit); ok {
					text, _ := strconv.Unquote(code.Value)
					used[text] = true
					if _, ok := health.Lookup(text); !ok {
						t.Errorf("%s sets the condition %q, which the table in firmware/health does not know: add it there, with what a person should do", path, text)
					}
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range health.Kinds() {
		if !used[k.Code] {
			t.Errorf("nothing sets the condition %q of the table", k.Code)
		}
	}
}

// raisedBy is, for each kind of condition, the test in which the real part comes into it.
var raisedBy = map[string][2]string{
	"spool-refuses":      {"pipeline/pipeline_test.go", "TestAFullSpoolSaysSo"},
	"monitor-line":       {"pipeline/supervision_test.go", "TestOneLineIsBegunAgainWithoutTheOthers"},
	"not-signed":         {"pipeline/sign_test.go", "TestTroubleIsToldApart"},
	"log-unreadable":     {"pipeline/pipeline_test.go", "TestADamagedOldSegmentStopsNoReading"},
	"log-damaged":        {"link/link_test.go", "TestDamagedRecordsAreLeftOutAndNamed"},
	"log-rolled-back":    {"link/link_test.go", "TestLogThatWasSetBackIsNotPublishedOn"},
	"foreign-writer":     {"link/link_test.go", "TestForeignWriterStopsPublishing"},
	"untrusted-leaf":     {"link/link_test.go", "TestStrangersAreTurnedAway"},
	"offline":            {"link/link_test.go", "TestKilledLeafNodeLosesAndDoublesNothing"},
	"unauthorised":       {"link/link_test.go", "TestStrangersAreTurnedAway"},
	"network-lost-data":  {"link/link_test.go", "TestNetworkThatLostDataIsGivenItAgain"},
	"monitor-away":       {"conditions_test.go", "TestMonitorsConditions"},
	"monitor-silent":     {"conditions_test.go", "TestMonitorsConditions"},
	"no-hardware-tpm":    {"../hwtest/e2e/hostile_test.go", "TestHostileMonitors"},
	"start-not-attested": {"pipeline/attest_test.go", "TestAStartThatIsNotAttestedIsSaid"},
	"status-page":        {"conditions_test.go", "TestAStatusPageThatCannotBeShown"},
}

// TestEveryConditionIsRaised: no kind is in the table that no test has seen on the real part.
func TestEveryConditionIsRaised(t *testing.T) {
	for _, k := range health.Kinds() {
		by, ok := raisedBy[k.Code]
		if !ok {
			t.Errorf("no test raises %s: write one, and name it here", k.Code)
			continue
		}
		body := functionIn(t, by[0], by[1])
		constant := "" // as package link names it
		for _, word := range strings.Split(k.Code, "-") {
			constant += strings.ToUpper(word[:1]) + word[1:]
		}
		if !strings.Contains(body, k.Code) && !strings.Contains(body, constant) {
			t.Errorf("%s of %s does not raise %s", by[1], by[0], k.Code)
		}
	}
	if len(raisedBy) != len(health.Kinds()) {
		t.Errorf("%d kinds are raised and %d are in the table", len(raisedBy), len(health.Kinds()))
	}
}

// functionIn is the source of a function.
func functionIn(t *testing.T, path, name string) string {
	t.Helper()
	source, err := os.ReadFile(filepath.FromSlash(path))
	if err != nil {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, source, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Name.Name == name {
			return string(source[set.Position(f.Pos()).Offset:set.Position(f.End()).Offset])
		}
	}
	t.Errorf("%s has no %s", path, name)
	return ""
}

// TestEveryConditionShows: page, readiness, metrics and JSON read the one list, so each condition stands in all of them, a critical one
// makes the box not ready, and what is over shows nowhere.
func TestEveryConditionShows(t *testing.T) {
	var b health.Board
	s, err := status.Listen("127.0.0.1:0", func() status.Report {
		return status.Report{Now: time.Now(), Ready: b.Ready(), Verdict: b.Verdict(), Conditions: b.Conditions()}
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	defer func() { end(); <-ended }()
	get := func(path string) (int, string) {
		r, err := http.Get("http://" + s.Addr() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, string(body)
	}
	for _, k := range health.Kinds() {
		about := ""
		if k.About != "" {
			about = "thing-1"
		}
		b.Set(health.Condition{Code: k.Code, About: about, Sentence: "It is so."})
		for path, want := range map[string]string{"/": "It is so.", "/readyz": k.Severity.String() + " " + k.Code, "/status": k.Code,
			"/metrics": "vitalgate_condition{code=" + strconv.Quote(k.Code) + ",about=" + strconv.Quote(about) + ",severity=" + strconv.Quote(k.Severity.String()) + "} 1\n"} {
			if code, body := get(path); !strings.Contains(body, want) {
				t.Errorf("%s does not stand in %s (%d)", k.Code, path, code)
			}
		}
		if code, _ := get("/readyz"); (code == http.StatusOK) != (k.Severity < health.Critical) {
			t.Errorf("with %s, %s, /readyz answers %d", k.Code, k.Severity, code)
		}
		b.Clear(k.Code, about)
		for _, path := range []string{"/", "/readyz", "/status", "/metrics"} {
			if _, body := get(path); strings.Contains(body, "It is so.") || strings.Contains(body, "code="+strconv.Quote(k.Code)) {
				t.Errorf("%s is over and stands in %s", k.Code, path)
			}
		}
	}
}

// TestMonitorsConditions: what an adapter says of itself becomes a condition, and ceases to be one.
func TestMonitorsConditions(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		line adapters.Status
		want string
	}{
		{adapters.Status{State: adapters.StateWaiting, Detail: "Not started."}, "monitor-away"},
		{adapters.Status{State: adapters.StateFailed, Detail: "Cannot open /dev/ttyUSB0: there is no such device."}, "monitor-line"},
		{adapters.Status{State: adapters.StateConnected, LastFrame: now.Add(-2 * silence)}, "monitor-silent"},
		{adapters.Status{State: adapters.StateConnected, LastFrame: now.Add(-silence / 2)}, ""},
		{adapters.Status{State: adapters.StateConnected}, ""}, // nothing has come yet
		{adapters.Status{State: adapters.StateListening, LastFrame: now.Add(-2 * silence)}, ""},
	} {
		var b health.Board
		c.line.Monitor = "bed-1"
		judge(&b, status.Report{Now: now, Monitors: []status.Monitor{{Line: c.line}}})
		all := b.Conditions()
		if c.want == "" && len(all) != 0 || c.want != "" && (len(all) != 1 || all[0].Code != c.want || all[0].About != "bed-1") {
			t.Errorf("%+v is %+v, want %q", c.line, all, c.want)
		}
		c.line.State, c.line.LastFrame = adapters.StateConnected, now
		judge(&b, status.Report{Now: now, Monitors: []status.Monitor{{Line: c.line}}})
		if all := b.Conditions(); len(all) != 0 {
			t.Errorf("what was %q is over, but %+v", c.want, all)
		}
	}
}

// TestTheLinksConditions: each of them reaches the board, and leaves it when the link does not name it any more.
func TestTheLinksConditions(t *testing.T) {
	for _, code := range ofLink {
		var b health.Board
		judge(&b, status.Report{Network: link.Status{Conditions: []link.Condition{{Code: code, Leaf: "ward1", Sentence: "It is so."}}}})
		if all := b.Conditions(); len(all) != 1 || all[0].Code != code || all[0].About != "ward1" || all[0].Remedy == "" {
			t.Errorf("%s is %+v", code, all)
		}
		if judge(&b, status.Report{}); len(b.Conditions()) != 0 {
			t.Errorf("%s does not end", code)
		}
	}
}

// TestAStatusPageThatCannotBeShown: another program has its port, and then lets it go.
func TestAStatusPageThatCannotBeShown(t *testing.T) {
	squatter, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer squatter.Close()
	var b health.Board
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- showStatus(ctx, squatter.Addr().String(), func() status.Report { return status.Report{} }, &b, slog.New(slog.DiscardHandler))
	}()
	defer func() { end(); <-ended }()
	until := func(what string, ok func([]health.Condition) bool) {
		t.Helper()
		for end := time.Now().Add(2 * time.Minute); !ok(b.Conditions()); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("not: %s; %+v", what, b.Conditions())
			}
		}
	}
	until("the condition is there", func(c []health.Condition) bool { return len(c) == 1 && c[0].Code == "status-page" })
	squatter.Close()
	until("the condition is over", func(c []health.Condition) bool { return len(c) == 0 })
}
