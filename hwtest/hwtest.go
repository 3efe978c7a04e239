// Package hwtest checks the hardware of a box: what it stands on, and not what it does. The factory uses it, and a biomedical
// engineer who wonders whether it is the box. Each check says what was found, in figures, what to do about it, and plainly where it
// could not be made: what was not tested is never called good.
//
// Only `vitalgate hwtest` and the provisioning link use it. Nothing that is not the test's own is changed: it writes a file of its
// own in the box's folder, and to serial lines that no program has open.
package hwtest

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vitalgate/vitalgate/provision/protocol"
	"github.com/vitalgate/vitalgate/tpm"
)

// Options choose what is tested.
type Options struct {
	Only     []string // of Tests; none: all
	Factory  bool     // also what takes long: all settings of serial lines, a quarter of the memory
	Dir      string   // the box's data folder: its disk is tested
	Lines    []string // serial devices
	TPM      *tpm.TPM // nil: none could be opened, for the reason of TPMError
	TPMError error
	Peer     string // host:port of a throughput sink (vitalgate hwtest --sink); "": not tested
	Watchdog bool   // let the watchdog fire: the machine restarts, the next run says whether it did
	Software string // version, for the report
	Root     string // of /sys, /proc and /dev; "" is "/". For tests
}

// check is one kind of test; it may find several things.
type check struct {
	name string
	run  func(context.Context, *tester)
}

var checks = []check{
	{"tpm", testTPM}, {"serial", testSerial}, {"storage", testStorage}, {"memory", testMemory}, {"network", testNetwork},
	{"rtc", testClock}, {"watchdog", testWatchdog}, {"gpio", testGPIO}, {"led", testLEDs}, {"temperature", testTemperature},
}

// Tests are the names of the checks.
func Tests() (names []string) {
	for _, c := range checks {
		names = append(names, c.name)
	}
	return names
}

// tester collects what is found.
type tester struct {
	Options
	check   string
	results []protocol.Result
}

func (t *tester) path(p string) string { return filepath.Join("/", t.Root, p) }

func (t *tester) pass(subject string, figures map[string]float64, format string, a ...any) {
	t.results = append(t.results, protocol.Result{Test: t.check, Subject: subject, Outcome: protocol.Pass, Sentence: fmt.Sprintf(format, a...), Figures: figures})
}

func (t *tester) fail(subject string, figures map[string]float64, remedy, format string, a ...any) {
	t.results = append(t.results, protocol.Result{Test: t.check, Subject: subject, Outcome: protocol.Fail, Sentence: fmt.Sprintf(format, a...), Remedy: remedy, Figures: figures})
}

func (t *tester) not(subject, remedy, format string, a ...any) {
	t.results = append(t.results, protocol.Result{Test: t.check, Subject: subject, Outcome: protocol.NotTested, Sentence: fmt.Sprintf(format, a...), Remedy: remedy})
}

// Run makes the checks, one after the other.
func Run(ctx context.Context, o Options) protocol.Report {
	t := &tester{Options: o}
	for _, c := range checks {
		if ctx.Err() != nil {
			break
		}
		if len(o.Only) > 0 && !slices.Contains(o.Only, c.name) {
			continue
		}
		t.check = c.name
		c.run(ctx, t)
	}
	r := protocol.Report{Version: 1, Machine: machine(t), Software: o.Software, Factory: o.Factory, Time: time.Now().UTC().Truncate(time.Second), Results: t.results}
	if o.TPM != nil {
		r.Held = o.TPM.Label()
	}
	r.Verdict, r.Good = verdict(ctx, t.results)
	return r
}

// verdict is one sentence on the whole.
func verdict(ctx context.Context, results []protocol.Result) (string, bool) {
	count := map[protocol.Outcome]int{}
	var failed []string
	for _, r := range results {
		if count[r.Outcome]++; r.Outcome == protocol.Fail {
			failed = append(failed, strings.TrimSpace(r.Test+" "+r.Subject))
		}
	}
	switch {
	case ctx.Err() != nil:
		return "Not finished: the test was stopped.", false
	case len(failed) > 0:
		return fmt.Sprintf("Not good: %s (%d passed, %d failed, %d not tested).", strings.Join(failed, ", "), count[protocol.Pass], count[protocol.Fail], count[protocol.NotTested]), false
	case count[protocol.Pass] == 0:
		return "Nothing could be tested.", false
	}
	return fmt.Sprintf("Good: %d tests passed, %d could not be made.", count[protocol.Pass], count[protocol.NotTested]), true
}

// machine is what the firmware calls itself, without serial numbers.
func machine(t *tester) string {
	for _, p := range []string{"/proc/device-tree/model", "/sys/class/dmi/id/product_name"} {
		if s := t.read(p); s != "" {
			return s
		}
	}
	return "unknown machine"
}
