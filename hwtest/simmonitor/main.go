// Command vitalsim is simulated patient monitors: they play scenarios in the dialects of real ones, over TCP or a serial line,
// check the acknowledgements as a monitor does, and report what they sent.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/commandline"
)

type command struct {
	Run  runCmd  `cmd:"" help:"Play scenarios."`
	Pty  ptyCmd  `cmd:"" help:"Make a pseudo terminal, print its name for a box to open as its serial device, and play a scenario on it."`
	List listCmd `cmd:"" help:"List the scenarios and dialects."`
}

// options of a run.
type options struct {
	For     time.Duration `help:"End after this time."`
	Count   int           `help:"End after so many messages of each monitor."`
	Rate    float64       `help:"Messages a second of each monitor, instead of the scenario's own."`
	Resend  int           `default:"-1" help:"How often a message is sent again that was not acknowledged in time; -1 is the scenario's own."`
	Timeout time.Duration `help:"How long to wait for an acknowledgement, instead of the scenario's own."`
	Framing string        `help:"Framing instead of the scenario's own: mllp, hllp or none."`
	RunID   string        `name:"run" help:"Part of the message ids; the default is made from the time."`
	Report  string        `help:"Write the report to this file; - is standard output, where a summary stands otherwise." placeholder:"FILE.json"`
}

type runCmd struct {
	options
	Scenarios []string `arg:"" name:"scenario" help:"[NAME=]SCENARIO[@LINE]: a scenario of the list or a file (./x.toml); NAME names the monitor and gives it a patient of its own; LINE is tcp://host:port, listen://host:port, serial:/dev/…[?baud=9600], pty:[LINK] or pds://host:port[?beacon=host:port&forgets=yes]."`
}

type ptyCmd struct {
	options
	Link     string `help:"Make this symbolic link to the pseudo terminal, as a name that stays."`
	Scenario string `arg:"" optional:"" default:"comen-nc" help:"[NAME=]SCENARIO."`
}

type listCmd struct{}

func main() {
	var c command
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	k, err := commandline.Parse(&c, os.Args[1:], kong.Name("vitalsim"), kong.Description("Simulated patient monitors. The patients are synthetic."), kong.BindTo(ctx, (*context.Context)(nil)))
	if err == nil {
		err = k.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "vitalsim:", err)
		os.Exit(1)
	}
}

func (c *runCmd) Run(ctx context.Context) error { return c.play(ctx, c.Scenarios) }

func (c *ptyCmd) Run(ctx context.Context) error {
	return c.play(ctx, []string{c.Scenario + "@pty:" + c.Link})
}

func (listCmd) Run() error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SCENARIO\tDIALECT\tLINE\tWHAT")
	for _, name := range names() {
		s, err := load(name)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\t%s\t%s, %s\t%s\n", name, s.Dialect, s.Line.To, s.Line.Framing, s.Title)
	}
	fmt.Fprintln(w, "\nDIALECT\tWHAT\t\t")
	for _, name := range dialectNames() {
		fmt.Fprintf(w, "%s\t%s\t\t\n", name, dialects[name].about)
	}
	return w.Flush()
}

// monitors makes the monitors that the arguments name.
func (o *options) monitors(args []string, log *slog.Logger) ([]*monitor, error) {
	run := o.RunID
	if run == "" {
		run = strconv.FormatInt(time.Now().UnixMilli(), 36)
	}
	if o.Count < 0 || o.Rate < 0 || o.For < 0 || o.Timeout < 0 || o.Resend < -1 {
		return nil, fmt.Errorf("--for, --count, --rate, --timeout and --resend cannot be negative")
	}
	seen := map[string]bool{}
	var all []*monitor
	for _, arg := range args {
		spec, line, hasLine := strings.Cut(arg, "@")
		name, file, named := strings.Cut(spec, "=")
		if !named {
			file = spec
		}
		s, err := load(file)
		if err != nil {
			return nil, err
		}
		switch {
		case named:
			s.somebody(name)
		case s.Patient.Bed != "":
			name = strings.ToLower(s.Patient.Bed)
		default:
			name = strings.TrimSuffix(file[strings.LastIndexByte(file, '/')+1:], ".toml")
		}
		if seen[name] {
			return nil, fmt.Errorf("two monitors have the name %q: name them as NAME=SCENARIO", name)
		}
		seen[name] = true
		if hasLine {
			s.Line.To = line
		}
		if o.Resend >= 0 {
			s.Line.Resend = o.Resend
		}
		if o.Timeout > 0 {
			s.Line.Timeout = Duration(o.Timeout)
		}
		if o.Framing != "" {
			s.Line.Framing = adapters.Framing(o.Framing)
			if err := s.Line.Framing.Check(); err != nil {
				return nil, err
			}
		}
		all = append(all, newMonitor(name, run, s, limits{count: o.Count, rate: o.Rate}, log))
	}
	return all, nil
}

// play plays until the limits or ctx end, and writes the report.
func (o *options) play(ctx context.Context, args []string) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	monitors, err := o.monitors(args, log)
	if err != nil {
		return err
	}
	if o.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.For)
		defer cancel()
	}
	for i, m := range monitors {
		if err := m.open(ctx, func(device string) { fmt.Println(device) }); err != nil {
			for _, m := range monitors[:i] {
				m.close()
			}
			return err
		}
	}
	return o.write(playAll(ctx, monitors))
}

func (o *options) write(reports []Report) error {
	if o.Report == "" {
		w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "MONITOR\tDIALECT\tSENT\tACKNOWLEDGED\tREJECTED\tUNANSWERED\tRESENT\tACK P50\tACK P99")
		for _, r := range reports {
			acknowledged := strconv.Itoa(r.Acknowledged)
			if r.Expects == "" {
				acknowledged = "(none wanted)"
			}
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%d\t%d\t%d\t%.1f ms\t%.1f ms\n", r.Monitor, r.Dialect, r.Sent, acknowledged, r.Rejected, r.Unanswered, r.Resent, r.Latency.P50, r.Latency.P99)
		}
		return w.Flush()
	}
	b, err := json.MarshalIndent(struct {
		Monitors []Report `json:"monitors"`
	}{reports}, "", "  ")
	if err != nil {
		return err
	}
	b = append(b, '\n')
	if o.Report == "-" {
		_, err = os.Stdout.Write(b)
		return err
	}
	if err := os.WriteFile(o.Report, b, 0o600); err != nil {
		return fmt.Errorf("cannot write the report: %w", err)
	}
	return nil
}
