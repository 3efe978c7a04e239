package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/vitalgate/vitalgate/provision/protocol"
)

type probeCmd struct {
	at
	JSON bool `help:"As JSON."`
}

func (c probeCmd) Run(ctx context.Context) error {
	b, err := c.open()
	if err != nil {
		return err
	}
	var known protocol.Box
	if err := b.call(ctx, "GET", protocol.PathBox, nil, &known); err != nil {
		return err
	}
	var a protocol.About
	if err := b.call(ctx, "GET", protocol.PathAbout, nil, &a); err != nil {
		if known.Owned {
			fmt.Printf("Box %s has an owner, who does not let this tool in.\n", known.Name)
		}
		return err
	}
	if c.JSON {
		return printJSON(a)
	}
	printAbout(a)
	return nil
}

func printAbout(a protocol.About) {
	whose := "nobody's: it waits to be enrolled"
	if a.Owned {
		whose = a.Box
	}
	fmt.Printf("box %s is %s\nsoftware %s\n", a.Name, whose, a.Software)
	switch {
	case a.Working:
		fmt.Println("it works; vitalprov status shows how well")
	case a.Trouble != "":
		fmt.Println("it does not work:", a.Trouble)
	}
	for _, i := range a.Interfaces {
		up := "no cable"
		if i.Up {
			up = strings.Join(i.Addresses, ", ")
		}
		fmt.Printf("network %s: %s\n", i.Name, up)
	}
	for _, l := range a.Lines {
		fmt.Println("serial line", l)
	}
	for k, v := range a.System {
		fmt.Println(k, v)
	}
	if skew := time.Since(a.Time).Abs(); skew > time.Minute {
		fmt.Printf("its clock differs from this machine's by %v\n", skew.Round(time.Second))
	}
}

func printJSON(v any) error {
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

type enrolCmd struct {
	at
	hubFlag
	binding
	Box     string        `required:"" placeholder:"FACILITY/NAME" help:"The name that the box is to have."`
	Leaf    []string      `placeholder:"NAME=tls://HOST:PORT" help:"Leaf nodes for the box, in place of those the facility knows."`
	Timeout time.Duration `default:"2m" help:"How long the box may take to work."`
}

func (c enrolCmd) Run(ctx context.Context) error {
	if c.Hub == "" {
		return errors.New("cannot enrol without the facility: give --hub DIR where its hub is on this machine; else use vitalprov request, vitalpeer box add at the hub, and vitalprov provision")
	}
	b, err := c.open()
	if err != nil {
		return err
	}
	config, err := c.binding.text(c.Box)
	if err != nil {
		return err
	}
	if err := known(ctx, b, c.Box, c.Monitor); err != nil {
		return err
	}
	if err := b.check(ctx, c.Box, config); err != nil {
		return err
	}
	say("The box makes its keys and asks to be enrolled …")
	var request []byte
	if err := b.call(ctx, "POST", protocol.PathRequest, protocol.Ask{Box: c.Box}, &request); err != nil {
		return err
	}
	say("The facility lets it in …")
	grant, err := c.grant(ctx, b, request, c.Leaf)
	if err != nil {
		return err
	}
	return start(ctx, b, protocol.Provision{Grant: grant, Config: config}, c.Timeout)
}

// known says whether the box knows what is wished for, before anything is changed.
func known(ctx context.Context, b *box, name string, monitors []string) error {
	var a protocol.About
	if err := b.call(ctx, "GET", protocol.PathAbout, nil, &a); err != nil {
		return err
	}
	if a.Owned && a.Box != name {
		return fmt.Errorf("cannot enrol the box as %s: it is %s already; vitalprov bind changes its monitors, vitalprov reset makes it nobody's", name, a.Box)
	}
	for _, m := range monitors {
		keys, err := parseMonitor(m)
		if err != nil {
			return err
		}
		if d, ok := keys["dialect"].(string); ok {
			if err := speaks(a, d); err != nil {
				return err
			}
		}
	}
	return nil
}

// speaks says whether a box knows the dialect.
func speaks(a protocol.About, dialect string) error {
	names := make([]string, len(a.Dialects))
	for i, k := range a.Dialects {
		if names[i] = k.Name; k.Name == dialect {
			return nil
		}
	}
	return fmt.Errorf("cannot use dialect %q: the box's firmware knows %s", dialect, strings.Join(names, ", "))
}

// check asks the box whether it could work with the configuration, before the facility is asked for anything.
func (b *box) check(ctx context.Context, name, config string) error {
	err := b.call(ctx, "POST", protocol.PathCheck, protocol.Plan{Box: name, Config: config}, nil)
	if unknown(err) {
		say("The firmware of this box is older than vitalprov and cannot check a configuration beforehand: it will when it is given it.")
		return nil
	}
	return err
}

// settle is how long a box that has just begun may say that it does not work, or a monitor's line that it waits, before it is believed.
const settle = 10 * time.Second

// start gives the box what it needs and waits until it works.
func start(ctx context.Context, b *box, p protocol.Provision, patience time.Duration) error {
	var st protocol.Status
	if err := b.call(ctx, "PUT", protocol.PathProvision, p, &st); err != nil {
		return err
	}
	say("The box has its grant and its configuration, and begins to work …")
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	began := time.Now()
	for {
		err := b.call(ctx, "GET", protocol.PathStatus, nil, &st)
		var r report
		if err == nil && st.Report != nil {
			if err := json.Unmarshal(st.Report, &r); err != nil {
				return fmt.Errorf("cannot read the box's status: %w", err)
			}
			if r.Ready && r.heard() || time.Since(began) > min(settle, patience/2) {
				fmt.Printf("box %s: %s\nkey: %s\n", r.Box, r.Verdict, r.Protection)
				r.printConditions()
				if !r.Ready {
					return errSaid
				}
				return nil
			}
		}
		// An owned box lets only certified tools in: one that enrols with the claim code alone has done its work here.
		if err != nil && strings.Contains(err.Error(), "vitalpeer tool add") {
			fmt.Println("The box is provisioned. It has an owner now and lets this tool in no more; its readings, and vitalprov readings, show whether it works.")
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the box has everything but does not work within %v: %s", patience, errors.Join(err, errors.New(st.Trouble)))
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// report is what is shown of the box's status report.
type report struct {
	Box        string `json:"box"`
	Verdict    string `json:"verdict"`
	Protection string `json:"protection"`
	Ready      bool   `json:"ready"`
	Conditions []struct {
		Severity string `json:"severity"`
		Code     string `json:"code"`
		About    string `json:"about"`
		Sentence string `json:"sentence"`
		Remedy   string `json:"remedy"`
	} `json:"conditions"`
	Monitors []struct {
		Line struct{ State string } `json:"line"`
	} `json:"monitors"`
}

// heard says whether the line of each monitor is open. What is not opened in time is no box's fault, and said.
func (r report) heard() bool {
	for _, m := range r.Monitors {
		if m.Line.State != "listening" && m.Line.State != "connected" {
			return false
		}
	}
	return true
}

func (r report) printConditions() {
	for _, k := range r.Conditions {
		fmt.Printf("%s %s %s\n  %s\n  %s\n", strings.ToUpper(k.Severity), k.Code, k.About, k.Sentence, k.Remedy)
	}
}

type requestCmd struct {
	at
	Box string `required:"" placeholder:"FACILITY/NAME" help:"The name that the box is to have."`
	Out string `short:"o" required:"" placeholder:"FILE" help:"File to write, such as gw1.request.json."`
}

func (c requestCmd) Run(ctx context.Context) error {
	b, err := c.open()
	if err != nil {
		return err
	}
	var request []byte
	if err := b.call(ctx, "POST", protocol.PathRequest, protocol.Ask{Box: c.Box}, &request); err != nil {
		return err
	}
	if err := writeNew(c.Out, request, 0o644); err != nil {
		return err
	}
	fmt.Printf("%s: enrolment request of box %s.\nAt the facility's hub: vitalpeer box add %s --data DIR; then here: vitalprov provision %s --label … --grant FILE --monitor …\n", c.Out, c.Box, c.Out, c.Address)
	return nil
}

type answerCmd struct {
	at
	Question string `required:"" type:"existingfile" placeholder:"FILE" help:"What the facility asks about the box's TPM (vitalpeer box ask)."`
	Out      string `short:"o" required:"" placeholder:"FILE" help:"File to write, such as gw1.answer.json."`
}

func (c answerCmd) Run(ctx context.Context) error {
	b, err := c.open()
	if err != nil {
		return err
	}
	if err := b.answer(ctx, c.Question, c.Out); err != nil {
		return err
	}
	fmt.Printf("%s: what the box's TPM says of its keys. At the facility's hub: vitalpeer box add REQUEST --answer %s --data DIR\n", c.Out, c.Out)
	return nil
}

type provisionCmd struct {
	at
	binding
	Grant   string        `required:"" type:"existingfile" placeholder:"FILE" help:"What the facility answered (vitalpeer box add)."`
	Timeout time.Duration `default:"2m" help:"How long the box may take to work."`
}

func (c provisionCmd) Run(ctx context.Context) error {
	b, err := c.open()
	if err != nil {
		return err
	}
	grant, err := os.ReadFile(c.Grant)
	if err != nil {
		return fmt.Errorf("cannot read the grant: %w", err)
	}
	var g struct {
		Box string `json:"box"`
	}
	if err := json.Unmarshal(grant, &g); err != nil {
		return fmt.Errorf("cannot use %s: it is no grant: %w", c.Grant, err)
	}
	var a protocol.About
	if err := b.call(ctx, "GET", protocol.PathAbout, nil, &a); err != nil {
		return err
	}
	var config string
	switch {
	case !a.Owned:
		config, err = c.binding.text(g.Box)
	case len(c.Monitor) > 0 || c.Config != "" || c.Status != "":
		config, err = c.binding.over(a.Config)
	}
	if err != nil {
		return err
	}
	return start(ctx, b, protocol.Provision{Grant: grant, Config: config}, c.Timeout)
}

type bindCmd struct {
	at
	binding
	Show    bool          `help:"Print the configuration in force and change nothing."`
	Timeout time.Duration `default:"2m" help:"How long the box may take to work again."`
}

func (c bindCmd) Run(ctx context.Context) error {
	b, err := c.open()
	if err != nil {
		return err
	}
	var a protocol.About
	if err := b.call(ctx, "GET", protocol.PathAbout, nil, &a); err != nil {
		return err
	}
	if c.Show {
		fmt.Print(a.Config)
		return nil
	}
	if !a.Owned {
		return errors.New("cannot bind a box that is nobody's: vitalprov enrol does both")
	}
	config, err := c.binding.over(a.Config)
	if err != nil {
		return err
	}
	if err := known(ctx, b, a.Box, c.Monitor); err != nil {
		return err
	}
	return start(ctx, b, protocol.Provision{Config: config}, c.Timeout)
}

type statusCmd struct {
	at
	JSON bool `help:"The whole report as JSON."`
}

func (c statusCmd) Run(ctx context.Context) error {
	b, err := c.open()
	if err != nil {
		return err
	}
	var st protocol.Status
	if err := b.call(ctx, "GET", protocol.PathStatus, nil, &st); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(st)
	}
	if st.Report == nil {
		var known protocol.Box
		if err := b.call(ctx, "GET", protocol.PathBox, nil, &known); err == nil && !known.Owned {
			fmt.Println("The box is nobody's and does nothing yet: vitalprov enrol, or vitalprov wizard, makes it part of a facility.")
			return errSaid
		}
		fmt.Println(strings.TrimSpace("The box does not work. " + cmp.Or(st.Trouble, "It is about to begin, or an operation has it for itself; ask again in a minute.")))
		return errSaid
	}
	var r report
	if err := json.Unmarshal(st.Report, &r); err != nil {
		return fmt.Errorf("cannot read the box's status: %w", err)
	}
	fmt.Printf("%s\nbox %s, key: %s\n", r.Verdict, r.Box, r.Protection)
	r.printConditions()
	if !r.Ready {
		return errSaid
	}
	return nil
}
