// Command demo is a hospital on one machine, made of the real programs: a hub peer, a ward leaf peer, one box, and monitors of
// different dialects. It prints verified readings as they arrive at the hub, and at the end what became of every message.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/vitalgate/vitalgate/hwtest/hospital"
)

type command struct {
	Bin  string        `default:"dist" help:"Folder of vitalgate, vitalpeer and vitalsim."`
	For  time.Duration `help:"Stop after this time and print the summary; without it, run until Ctrl-C."`
	Rate float64       `default:"1" help:"Messages a second of each monitor."`
	TPM  string        `help:"tpm.source of the box; without it swtpm if it is installed, else a software key, and never this machine's own TPM."`
	Page string        `default:"127.0.0.1:8080" help:"Address of the hub's page; a free one is taken if it is in use."`
	Keep string        `placeholder:"DIR" help:"Keep data and logs in this new folder."`
}

func main() {
	var c command
	kong.Parse(&c, kong.Name("demo"), kong.Description("A hospital on this machine, of real processes. The patients are synthetic."))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := c.run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// run plays the demo. ok says that nothing was lost, doubled or unverified.
func (c *command) run(ctx context.Context) (ok bool, err error) {
	dir, remove, err := hospital.Folder("demo", c.Keep)
	if err != nil {
		return false, err
	}
	defer remove()
	tpm := c.TPM
	if tpm == "" {
		tpm = "swtpm"
		for _, program := range []string{"swtpm", "swtpm_setup"} {
			if _, err := exec.LookPath(program); err != nil {
				tpm = "software"
			}
		}
	}
	philips, mindray, ge := hospital.FreeAddr(), hospital.FreeAddr(), hospital.FreeAddr()
	line := filepath.Join(dir, "ttyMonitor")
	h, err := hospital.New(ctx, hospital.Options{Bin: c.Bin, Dir: dir, TPM: tpm, HubPage: free(c.Page), Monitors: fmt.Sprintf(`
[[monitor]]
name = "icu-philips"
address = %q
dialect = "philips-iic"
zone = "UTC"
[[monitor]]
name = "ward-mindray"
address = %q
dialect = "mindray-pcd01"
zone = "UTC"
[[monitor]]
name = "theatre-ge"
kind = "mllp-client"
address = %q
dialect = "ge-bseries"
zone = "UTC"
[[monitor]]
name = "recovery-comen"
kind = "serial"
device = %q
dialect = "comen"
zone = "UTC"
`, philips, mindray, ge, line)})
	if err != nil {
		return false, err
	}
	fmt.Println("starting: hub peer, ward leaf peer, box", hospital.Box)
	if err := h.Start(ctx); err != nil {
		return false, err
	}
	defer func() {
		if e := h.Stop(); e != nil {
			err = errors.Join(err, e)
		}
	}()
	label, err := h.Label()
	if err != nil {
		return false, err
	}
	fmt.Printf("the box's key: %s\n", label)
	fmt.Printf("beds, trends and the provenance of every value: http://%s/\nstatus of the box: http://%s/\n\n", h.Page, h.Status)

	play := ctx
	if c.For > 0 {
		var cancel context.CancelFunc
		play, cancel = context.WithTimeout(ctx, c.For)
		defer cancel()
	}
	seen := &arrivals{at: map[string][]time.Duration{}}
	tctx, stopTail := context.WithCancel(context.WithoutCancel(ctx))
	defer stopTail()
	tail := make(chan error, 1)
	go func() { tail <- h.Tail(tctx, "hub", true, seen.take) }()

	reports, err := c.simulate(play, dir, "philips-iic@tcp://"+philips, "mindray-vs900@tcp://"+mindray, "ge-b105@listen://"+ge, "comen-nc@pty:"+line)
	if err != nil {
		return false, err
	}
	// What was acknowledged last may still be under way.
	for patience := time.Now().Add(15 * time.Second); len(seen.missing(reports)) > 0 && time.Now().Before(patience); {
		time.Sleep(50 * time.Millisecond)
	}
	stopTail()
	if err := <-tail; err != nil {
		return false, err
	}
	quarantined, err := h.Quarantined("hub")
	if err != nil {
		return false, err
	}
	more, err := h.Quarantined("ward1")
	if err != nil {
		return false, err
	}
	return seen.summary(reports, quarantined+more), nil
}

// report is what vitalsim says of one monitor.
type report struct {
	Monitor      string   `json:"monitor"`
	Dialect      string   `json:"dialect"`
	Sent         int      `json:"sent"`
	Acknowledged int      `json:"acknowledged"`
	Rejected     int      `json:"rejected"`
	Resent       int      `json:"resent"`
	AckIDs       []string `json:"acknowledged_ids"`
	Ack          struct {
		P50 float64 `json:"p50"`
		P99 float64 `json:"p99"`
	} `json:"ack_ms"`
}

// simulate runs the monitors until ctx ends and reads their report.
func (c *command) simulate(ctx context.Context, dir string, monitors ...string) ([]report, error) {
	path := filepath.Join(dir, "report.json")
	args := append([]string{"run", "--rate", fmt.Sprint(c.Rate), "--report", path}, monitors...)
	cmd := exec.CommandContext(ctx, filepath.Join(c.Bin, "vitalsim"), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	said, err := cmd.CombinedOutput()
	if err != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("vitalsim: %w: %s", err, said)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("vitalsim left no report: %w: %s", err, said)
	}
	var all struct {
		Monitors []report `json:"monitors"`
	}
	return all.Monitors, json.Unmarshal(b, &all)
}

// arrivals is what has arrived at the hub.
type arrivals struct {
	mu       sync.Mutex
	at       map[string][]time.Duration // by message id: from the message's last byte at the box to the hub's verdict
	records  int
	readings int
}

// take prints a verified record and remembers which message it is.
func (a *arrivals) take(r hospital.Record) {
	text, id, charted := summarize(r.Bundle)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.records++
	a.readings += charted
	latency := time.Duration(0)
	if r.Arrived != nil {
		latency = r.Seen.Sub(*r.Arrived)
	}
	if id != "" {
		a.at[id] = append(a.at[id], latency)
	}
	fmt.Printf("%s  %-15s %s  [%s #%d, verified, %s, %d ms]\n", r.Seen.Format("15:04:05.0"), r.Monitor, text, r.Box, r.Index, cmp.Or(protection[r.Protection], r.Protection), latency.Milliseconds())
}

// summarize names the charted values of a Bundle and finds the marker that vitalsim puts into each message.
func summarize(bundle json.RawMessage) (text, id string, charted int) {
	type quantity struct {
		Value json.Number `json:"value"`
		Unit  string      `json:"unit"`
		Code  string      `json:"code"`
	}
	type concept struct {
		Text   string `json:"text"`
		Coding []struct {
			System, Code, Display string
		} `json:"coding"`
	}
	type observation struct {
		ResourceType string
		Code         concept
		Value        *quantity `json:"valueQuantity"`
		Text         string    `json:"valueString"`
		Component    []struct {
			Code  concept
			Value *quantity `json:"valueQuantity"`
		}
	}
	var b struct {
		Entry []struct{ Resource observation }
	}
	if json.Unmarshal(bundle, &b) != nil {
		return "kept as raw bytes", "", 0
	}
	loinc := func(c concept) string {
		for _, x := range c.Coding {
			if x.System == "http://loinc.org" {
				return cmp.Or(names[x.Code], x.Display, x.Code)
			}
		}
		return ""
	}
	var parts []string
	for _, e := range b.Entry {
		o := e.Resource
		if o.ResourceType != "Observation" {
			continue
		}
		if slices.ContainsFunc(o.Code.Coding, func(x struct{ System, Code, Display string }) bool { return x.Code == "SEQ" }) {
			id = o.Text
		}
		name := loinc(o.Code)
		if name == "" {
			continue
		}
		var values []string
		unit := ""
		if o.Value != nil {
			values, unit = append(values, o.Value.Value.String()), o.Value.Code
		}
		for _, c := range o.Component {
			if c.Value != nil {
				values, unit = append(values, c.Value.Value.String()), c.Value.Code
			}
		}
		if len(values) > 0 {
			parts = append(parts, name+" "+strings.Join(values, "/")+" "+unit)
			charted += len(values)
		}
	}
	return strings.Join(parts, ", "), id, charted
}

// protection is what holds the box's key, as the hub judges it.
var protection = map[string]string{"emulated": "emulated TPM", "software": "NOT A TPM"}

// names are short ones for the terminal.
var names = map[string]string{"8867-4": "HR", "2708-6": "SpO2", "9279-1": "RR", "85354-9": "BP", "8310-5": "Temp"}

// missing lists acknowledged messages that are not at the hub.
func (a *arrivals) missing(reports []report) (ids []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range reports {
		for _, id := range r.AckIDs {
			if len(a.at[id]) == 0 {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// summary prints what became of every message and says whether all is well.
func (a *arrivals) summary(reports []report, quarantined int) bool {
	lost := a.missing(reports)
	a.mu.Lock()
	defer a.mu.Unlock()
	sent, acknowledged, rejected, doubled := 0, 0, 0, 0
	fmt.Println("\nmonitor            dialect          sent  acknowledged  rejected  sent again  acknowledged after p50/p99")
	for _, r := range reports {
		fmt.Printf("%-18s %-15s %5d  %12d  %8d  %10d  %.1f / %.1f ms\n", r.Monitor, r.Dialect, r.Sent, r.Acknowledged, r.Rejected, r.Resent, r.Ack.P50, r.Ack.P99)
		sent, acknowledged, rejected = sent+r.Sent, acknowledged+r.Acknowledged, rejected+r.Rejected
	}
	var latency []time.Duration
	for _, l := range a.at {
		latency = append(latency, l[0])
		if len(l) > 1 {
			doubled++
		}
	}
	slices.Sort(latency)
	quantile := func(q float64) time.Duration {
		if len(latency) == 0 {
			return 0
		}
		return latency[int(q*float64(len(latency)-1))].Round(time.Millisecond)
	}
	fmt.Printf("\nsent %d, acknowledged %d, rejected %d, verified at the hub %d (%d charted values), lost %d, doubled %d, unverified %d\n",
		sent, acknowledged, rejected, a.records, a.readings, len(lost), doubled, quarantined)
	fmt.Printf("latency from the monitor's last byte to the hub's verdict: p50 %v, p99 %v\n", quantile(0.50), quantile(0.99))
	return sent > 0 && acknowledged > 0 && rejected == 0 && len(lost) == 0 && doubled == 0 && quarantined == 0
}

// free is addr, or a free loopback address if addr is taken.
func free(addr string) string {
	lis, err := net.Listen("tcp", addr)
	if err != nil {
		return hospital.FreeAddr()
	}
	lis.Close()
	return addr
}
