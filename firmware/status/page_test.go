package status_test

import (
	"context"
	"encoding/json"
	"fmt"
	"image/png"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/firmware/health"
	"github.com/vitalgate/vitalgate/firmware/link"
	"github.com/vitalgate/vitalgate/firmware/pipeline"
	"github.com/vitalgate/vitalgate/firmware/spool"
	"github.com/vitalgate/vitalgate/firmware/status"
)

var noon = time.Date(2026, 3, 9, 12, 0, 0, 0, time.UTC)

// report is a box at which all sorts of things are so.
func report(board *health.Board) status.Report {
	r := status.Report{
		Box: "f1/gw1", Version: "1.4.0 go1.26", Protection: "TPM 2.0 at /dev/tpmrm0", Key: strings.Repeat("0123456789abcdef", 4), System: map[string]string{"slot": "b", "release": "1.4.0"},
		Started: noon.Add(-50 * time.Hour), Now: noon,
		Spool:   spool.Stats{Next: 48213, Signed: 48213, Acked: 48200, Depth: 13, OldestAge: 4 * time.Second, Bytes: 700 << 20, Quota: 4 << 30, FsyncP99: 3100 * time.Microsecond},
		Network: link.Status{Leaf: "ward1", State: "Publishing to ward1.", LastAck: noon.Add(-2 * time.Second), Records: 48200, Connects: 3},
		Monitors: []status.Monitor{
			{Dialect: "philips-iic", Counters: pipeline.Snapshot{Messages: 24100, Charted: 192800, Local: 311, Absent: 40, Events: 12}, Line: adapters.Status{Monitor: "bed-12", Kind: "mllp-server",
				Address: "0.0.0.0:2575", State: adapters.StateConnected, Connections: 1, Frames: 24100, Replies: 24100, LastFrame: noon.Add(-3 * time.Second)}},
			{Dialect: "mindray-pcd01", Counters: pipeline.Snapshot{Messages: 19, Raw: 1, Repeated: 2}, Line: adapters.Status{Monitor: "bed-13-with-a-rather-long-name-that-somebody-chose", Kind: "serial",
				Address: "/dev/serial/by-path/platform-fd500000.pcie-pci-0000:01:00.0-usb-0:1.3:1.0-port0", State: adapters.StateWaiting, Detail: "Lost /dev/ttyUSB0: input/output error. It is opened again when it is back; check that it is plugged in.", LastFrame: noon.Add(-3 * time.Hour),
				Line: &adapters.LineStatus{Counted: true, Parity: 3, Modem: true, DSR: true}}},
		},
	}
	r.Conditions, r.Ready, r.Verdict = board.Conditions(), board.Ready(), board.Verdict()
	return r
}

func serve(t *testing.T, board *health.Board) string {
	t.Helper()
	s, err := status.Listen("127.0.0.1:0", func() status.Report { return report(board) })
	if err != nil {
		t.Fatal(err)
	}
	for i := range 150 { // minutes of a night in which the network was away for a while
		r := report(board)
		r.Monitors[0].Counters.Messages, r.Spool.Depth = uint64(22600+i*10+i%7), 0
		if i > 60 && i < 90 {
			r.Spool.Depth = uint64(i-60) * 10
		}
		s.Sample(r)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return "http://" + s.Addr()
}

func get(t *testing.T, url, host string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if host != "" {
		req.Host = host
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

// Nobody takes what the page says of a box for something about a patient, or about the monitor itself.
func TestThePageAlarmsNobody(t *testing.T) {
	for _, k := range health.Kinds() {
		var board health.Board
		board.Set(health.Condition{Code: k.Code, About: "bed-13", Sentence: k.Means})
		_, body := get(t, serve(t, &board)+"/", "")
		text := regexp.MustCompile(`(?s)<style>.*</style>|<[^>]*>`).ReplaceAllString(body, " ")
		if strings.Contains(strings.ToLower(text), "critical") || !strings.Contains(text, strings.TrimSpace(", "+k.About)+" bed-13: ") {
			t.Errorf("%s: %s", k.Code, text)
		}
		if calm := strings.Contains(text, "The monitors show and alarm as before."); calm != (k.Severity > health.Note) {
			t.Errorf("%s, %v: said that the monitors go on: %v", k.Code, k.Severity, calm)
		}
	}
}

func TestThePage(t *testing.T) {
	var board health.Board
	board.Set(health.Condition{Code: "monitor-away", About: "bed-13", Sentence: "No line to the monitor: <b>it</b> is not there."})
	url := serve(t, &board)
	resp, body := get(t, url+"/", "")
	if resp.StatusCode != 200 {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	for _, want := range []string{"Working, but needs attention: No line to the monitor", "Check that the monitor is on", "monitor-away", "bed-12", "philips-iic", "24100", "3 s ago", "DSR on", "DCD off",
		"4.0 GiB", "messages a minute: ", "records not yet at a leaf node: ", "at most 290", "ward1", "01234567 89abcdef", "vitalgate-box:f1/gw1", "2 days ago", "2026-03-09 12:00:00", "slot", "No patient data", "To be mended, monitor bed-13: No line", "1 of 2 connected"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	for _, never := range []string{"<script", "<b>it", " style=", "http://", "https://", "javascript:"} {
		if strings.Contains(body, never) {
			t.Errorf("the page has %q", never)
		}
	}
	policy := resp.Header.Get("Content-Security-Policy")
	if !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") || !strings.Contains(policy, "frame-ancestors 'none'") {
		t.Errorf("the policy is %q", policy)
	}
	if at, end := strings.Index(body, "<p class=\"verdict"), strings.Index(body, "<h2>"); at < 0 || at > end {
		t.Error("the verdict does not come first")
	}
	if resp, _ := get(t, url+"/", ""); resp.Header.Get("Cache-Control") != "no-store" {
		t.Error("the page may be kept")
	}
}

// TestOnlyItsOwnName says that a page elsewhere, whose name points to this box, is told nothing.
func TestOnlyItsOwnName(t *testing.T) {
	url := serve(t, &health.Board{})
	for host, want := range map[string]int{"evil.example": 421, "evil.example:8100": 421, "127.0.0.1.evil.example": 421, "localhost:1": 200, "127.0.0.1": 200, "[::1]:8100": 200, "10.0.0.7:8100": 200} {
		for _, path := range []string{"/", "/status", "/metrics", "/readyz", "/healthz"} {
			if resp, body := get(t, url+path, host); resp.StatusCode != want {
				t.Errorf("%s as %s: %d %s", path, host, resp.StatusCode, body)
			}
		}
	}
	for _, method := range []string{"POST", "PUT", "DELETE"} {
		req, _ := http.NewRequest(method, url+"/", strings.NewReader("x"))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s: %d", method, resp.StatusCode)
		}
	}
}

// TestOneListFeedsAll says that page, readiness, metrics and JSON tell the same conditions.
func TestOneListFeedsAll(t *testing.T) {
	var board health.Board
	url := serve(t, &board)
	if resp, _ := get(t, url+"/readyz", ""); resp.StatusCode != 200 {
		t.Errorf("ready is answered %d", resp.StatusCode)
	}
	for _, k := range health.Kinds() {
		board.Set(health.Condition{Code: k.Code, About: "x", Sentence: "Sentence of " + k.Code + "."})
		_, page := get(t, url+"/", "")
		resp, ready := get(t, url+"/readyz", "")
		_, metrics := get(t, url+"/metrics", "")
		_, text := get(t, url+"/status", "")
		var r status.Report
		if err := json.Unmarshal([]byte(text), &r); err != nil || len(r.Conditions) != 1 || r.Conditions[0].Severity != k.Severity || r.Conditions[0].Remedy != k.Remedy {
			t.Errorf("%s: /status says %+v %v", k.Code, r.Conditions, err)
		}
		if (resp.StatusCode == 503) != (k.Severity == health.Critical) {
			t.Errorf("%s: /readyz answers %d", k.Code, resp.StatusCode)
		}
		for name, body := range map[string]string{"the page": page, "/readyz": ready} {
			if !strings.Contains(body, "Sentence of "+k.Code) || !strings.Contains(body, strings.ReplaceAll(k.Remedy, "'", "&#39;")) && !strings.Contains(body, k.Remedy) {
				t.Errorf("%s: not on %s: %s", k.Code, name, body)
			}
		}
		if want := fmt.Sprintf("vitalgate_condition{code=%q,about=\"x\",severity=%q} 1", k.Code, k.Severity); !strings.Contains(metrics, want) {
			t.Errorf("no %s", want)
		}
		board.Clear(k.Code, "x")
	}
}

func TestFactsOfTheImage(t *testing.T) {
	if got := status.System(); got != nil {
		t.Errorf("outside of an image: %v", got)
	}
	path := filepath.Join(t.TempDir(), "system.json")
	t.Setenv(status.SystemVariable, path)
	if got := status.System(); got != nil {
		t.Errorf("before anything is told: %v", got)
	}
	for _, update := range []string{"release 2: kept; \"good\" = yes", "under way: 40 % written"} { // each report reads it anew
		if err := status.WriteSystem(path, map[string]string{"slot": "b", "update": update}); err != nil {
			t.Fatal(err)
		}
		if got := status.System(); got["slot"] != "b" || got["update"] != update {
			t.Errorf("told %v", got)
		}
	}
}

var colour = regexp.MustCompile(`--(good|warning|critical):#([0-9a-f]{6})`)

// Each severity can be read by day and at night (WCAG 2.2 §1.4.3), on the white and on the near black that browsers give a page which
// leaves the ground to them.
func TestSeveritiesCanBeRead(t *testing.T) {
	style, err := os.ReadFile("page.css")
	if err != nil {
		t.Fatal(err)
	}
	// luminance and contrast are WCAG's (relative luminance, contrast ratio).
	luminance := func(rgb string) float64 {
		v, err := strconv.ParseUint(rgb, 16, 32)
		if err != nil {
			t.Fatal(err)
		}
		of := func(c uint64) float64 {
			x := float64(c&0xff) / 255
			if x <= 0.04045 {
				return x / 12.92
			}
			return math.Pow((x+0.055)/1.055, 2.4)
		}
		return 0.2126*of(v>>16) + 0.7152*of(v>>8) + 0.0722*of(v)
	}
	day, night, ok := strings.Cut(string(style), "prefers-color-scheme:dark")
	if !ok {
		t.Fatal("the page has no colours for the night")
	}
	for ground, text := range map[string]string{"ffffff": day, "121212": night} {
		seen := map[string]bool{}
		for _, m := range colour.FindAllStringSubmatch(text, -1) {
			a, b := luminance(ground)+0.05, luminance(m[2])+0.05
			if contrast := max(a, b) / min(a, b); contrast < 4.5 {
				t.Errorf("%s #%s on #%s: contrast %.2f, and not 4.5", m[1], m[2], ground, contrast)
			}
			seen[m[1]] = true
		}
		if len(seen) != 3 {
			t.Errorf("on #%s only %v have a colour", ground, seen)
		}
	}
}

var width = regexp.MustCompile(`data-width="(\d+)"`)

// TestOnAPhone shows the page in a real browser, 360 CSS pixels wide: nothing may stick out to the right. Where
// VITALGATE_SCREENSHOTS names a folder, pictures are left there.
func TestOnAPhone(t *testing.T) {
	if testing.Short() {
		t.Skip("short: the page was not shown in a browser, which takes minutes on a busy machine; run without -short")
	}
	browser := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			browser = p
			break
		}
	}
	if browser == "" {
		t.Skip("chromium is missing: the page was not shown in a browser")
	}
	var board health.Board
	board.Set(health.Condition{Code: "monitor-away", About: "bed-13-with-a-rather-long-name-that-somebody-chose", Sentence: "No line to the monitor: Lost /dev/ttyUSB0: input/output error. It is opened again when it is back; check that it is plugged in."})
	page := serve(t, &board)
	_, body := get(t, page+"/", "")
	bodies := []string{body}
	for _, monitors := range []int{1, 4, 32} {
		for _, code := range []string{"", "monitor-away", "not-signed"} {
			var board health.Board
			if code != "" {
				board.Set(health.Condition{Code: code, About: "bed-1", Sentence: "As it is at bed 1 with-a-rather-long-word-that-goes-on-and-on-and-on."})
			}
			r := report(&board)
			r.System["update"] = "under way: 40 % written"
			for len(r.Monitors) < monitors {
				m := r.Monitors[len(r.Monitors)%2]
				m.Line.Monitor = fmt.Sprintf("bed-%d", len(r.Monitors))
				r.Monitors = append(r.Monitors, m)
			}
			r.Monitors = r.Monitors[:monitors]
			s, err := status.Listen("127.0.0.1:0", func() status.Report { return r })
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- s.Run(ctx) }()
			_, body := get(t, "http://"+s.Addr()+"/", "")
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if !strings.Contains(body, "40 % written") {
				t.Errorf("%d monitors, %s: no update is under way", monitors, code)
			}
			bodies = append(bodies, body)
		}
	}
	mux := http.NewServeMux()
	frames := ""
	for i, body := range bodies {
		mux.HandleFunc(fmt.Sprintf("/copy/%d", i), func(w http.ResponseWriter, r *http.Request) { // without the policy, which forbids to be measured in a frame
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			io.WriteString(w, body)
		})
		frames += fmt.Sprintf(`<iframe src="/copy/%d" width="360" height="800" onload="this.dataset.width=this.contentDocument.documentElement.scrollWidth"></iframe>`, i)
	}
	mux.HandleFunc("/measure", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		io.WriteString(w, "<!doctype html>"+frames)
	})
	frame := httptest.NewServer(mux)
	defer frame.Close()
	run := func(args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, browser, append([]string{"--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
			"--user-data-dir=" + t.TempDir(), "--virtual-time-budget=2000"}, args...)...)
		cmd.WaitDelay = time.Second
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		return string(out)
	}
	var wide [][]string
	for range 5 { // on a slow machine the browser may be asked before the last frame is drawn
		if wide = width.FindAllStringSubmatch(run("--dump-dom", frame.URL+"/measure"), -1); len(wide) == len(bodies) {
			break
		}
	}
	if len(wide) != len(bodies) {
		t.Errorf("%d of %d pages were measured", len(wide), len(bodies))
	}
	for i, m := range wide {
		if m[1] != "360" {
			t.Errorf("on a screen of 360 px page %d is %s wide", i, m[1])
		}
	}
	dir := os.Getenv("VITALGATE_SCREENSHOTS")
	if dir == "" {
		dir = t.TempDir()
	}
	for name, as := range map[string][]string{"status-phone.png": {"--window-size=420,2660"}, "status-desk.png": {"--window-size=1100,1200"},
		"status-dark.png": {"--window-size=420,2660", "--blink-settings=preferredColorScheme=0"}} {
		path := filepath.Join(dir, name)
		run(append(as, "--screenshot="+path, page+"/")...)
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		img, err := png.Decode(f)
		f.Close()
		if err != nil || img.Bounds().Dx() < 360 {
			t.Errorf("%s: %v", name, err)
		}
	}
}
