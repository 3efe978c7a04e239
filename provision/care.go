package main

import (
	"bufio"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/vitalgate/vitalgate/provision/protocol"
	"github.com/vitalgate/vitalgate/record/enrolment"
)

type networkCmd struct {
	at
	Interface string        `placeholder:"eth0" help:"Which interface; without it the settings in force are shown."`
	Method    string        `default:"dhcp" enum:"dhcp,static" help:"How it gets its address: ${enum}."`
	IP        string        `placeholder:"10.0.0.5/24" help:"Static address with prefix length."`
	Gateway   string        `help:"Static gateway."`
	DNS       []string      `help:"Name servers."`
	NTP       []string      `help:"Time servers."`
	VLAN      int           `name:"vlan" help:"IEEE 802.1Q tag; 0 for none."`
	Then      string        `placeholder:"HOST" help:"Where the box is then (default: the static address; with dhcp, where it is now)."`
	Wait      time.Duration `default:"50s" help:"How long to look for the box over the new settings."`
}

func (c networkCmd) Run(ctx context.Context) error {
	b, err := c.open()
	if err != nil {
		return err
	}
	if c.Interface == "" {
		var n protocol.Network
		if err := b.call(ctx, "GET", protocol.PathNetwork, nil, &n); err != nil {
			return err
		}
		return printJSON(n)
	}
	var t protocol.Trial
	n := protocol.Network{Interface: c.Interface, Method: c.Method, Address: c.IP, Gateway: c.Gateway, DNS: c.DNS, NTP: c.NTP, VLAN: c.VLAN}
	if err := b.call(ctx, "PUT", protocol.PathNetwork, n, &t); err != nil {
		return err
	}
	then := c.Then
	if host, _, ok := strings.Cut(c.IP, "/"); ok && then == "" {
		then = host
	}
	if then != "" && !strings.Contains(then, ":") && strings.Contains(b.address, ":") {
		then += b.address[strings.LastIndexByte(b.address, ':'):] // the same port
	}
	after := *b
	if then != "" {
		after.address = newBox(then, b.label, nil).address
	}
	say("The box tries the settings for %d s; it is looked for at %s …", t.Seconds, after.address)
	time.Sleep(time.Second) // the box changes half a second after its answer
	wait, cancel := context.WithTimeout(ctx, c.Wait)
	defer cancel()
	for {
		one, stop := context.WithTimeout(wait, 5*time.Second)
		err = after.call(one, "POST", protocol.PathKeep, protocol.Keep{Token: t.Token}, &n)
		stop()
		if err == nil {
			fmt.Printf("The box answers at %s and keeps the settings.\n", after.address)
			return nil
		}
		select {
		case <-wait.Done():
			return fmt.Errorf("the box was not found over the new settings, so it goes back to the old ones by itself: %w", err)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

type updateCmd struct {
	at
	Bundle string `arg:"" type:"existingfile" help:"The signed update bundle."`
}

func (c updateCmd) Run(ctx context.Context) error {
	b, err := c.open()
	if err != nil {
		return err
	}
	f, err := os.Open(c.Bundle)
	if err != nil {
		return fmt.Errorf("cannot read the bundle: %w", err)
	}
	defer f.Close()
	resp, err := b.send(ctx, "PUT", protocol.PathUpdate, f)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := json.NewDecoder(resp.Body)
	for {
		var p protocol.Progress
		if err := lines.Decode(&p); err != nil {
			return fmt.Errorf("cannot tell how the update went: the box broke off (%w); vitalprov probe shows which version it runs", err)
		}
		switch {
		case p.Error != "":
			return fmt.Errorf("the box says: %s", p.Error)
		case p.Done:
			fmt.Println("The box has the update and tries it; if it is not well within minutes it goes back by itself. vitalprov probe shows the version.")
			return nil
		}
		say("%s", p.Say)
	}
}

type hwtestCmd struct {
	Run_   hwtestRunCmd    `cmd:"" name:"run" help:"Have a box test its hardware; its work is interrupted for it."`
	Verify hwtestVerifyCmd `cmd:"" help:"Verify a report, and show it."`
}

type hwtestRunCmd struct {
	at
	Factory bool   `help:"All tests, also those that need loopback plugs."`
	Out     string `short:"o" placeholder:"FILE" help:"Where to keep the signed report."`
	JSON    bool   `help:"Show the report as JSON."`
}

func (c hwtestRunCmd) Run(ctx context.Context) error {
	b, err := c.open()
	if err != nil {
		return err
	}
	if c.Out != "" { // before the box is interrupted
		if err := writeNew(c.Out, nil, 0o644); err != nil {
			return err
		}
	}
	text, err := c.test(ctx, b)
	if c.Out != "" && err != nil {
		return errors.Join(err, os.Remove(c.Out))
	}
	if err != nil {
		return err
	}
	if c.Out != "" {
		if err := os.WriteFile(c.Out, text, 0o644); err != nil {
			return fmt.Errorf("cannot keep the report: %w", err)
		}
	}
	return show(text, "", c.JSON)
}

func (c hwtestRunCmd) test(ctx context.Context, b *box) (text []byte, err error) {
	if c.Factory {
		please("put a loopback plug on each serial line that is to be tested")
	}
	say("The box tests its hardware, which takes up to a minute …")
	return text, b.call(ctx, "POST", protocol.PathTest, protocol.TestOptions{Factory: c.Factory}, &text)
}

type hwtestVerifyCmd struct {
	File string `arg:"" type:"existingfile" help:"The signed report."`
	Key  string `placeholder:"FILE" type:"existingfile" help:"The box's key: a PEM file (box.pem of an export) or its enrolment request. Without it, any key that the report names is believed."`
	JSON bool   `help:"Show the report as JSON."`
}

func (c hwtestVerifyCmd) Run() error {
	text, err := os.ReadFile(c.File)
	if err != nil {
		return fmt.Errorf("cannot read the report: %w", err)
	}
	return show(text, c.Key, c.JSON)
}

// show verifies a report and prints it, the verdict first.
func show(text []byte, keyFile string, asJSON bool) error {
	r, err := openReport(text, keyFile)
	if err != nil && !errors.Is(err, protocol.ErrUnsigned) {
		return err
	}
	if asJSON {
		if err := printJSON(r); err != nil {
			return err
		}
	} else {
		r.Print(os.Stdout)
	}
	switch {
	case err != nil:
		say("WARNING: nobody signed this report; anybody may have written it.")
	case keyFile == "":
		say("Signed by the key that the report itself names; give --key to be sure whose that is.")
	default:
		say("Signed by the key in %s.", keyFile)
	}
	if !r.Good || err != nil {
		return errSaid
	}
	return nil
}

func openReport(text []byte, keyFile string) (*protocol.Report, error) {
	if keyFile == "" {
		return protocol.OpenReport(text, nil)
	}
	b, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read the key: %w", err)
	}
	if block, _ := pem.Decode(b); block == nil {
		q, err := enrolment.ReadRequest(keyFile)
		if err != nil {
			return nil, err
		}
		b = []byte(q.DataKey)
	}
	key, err := enrolment.ParseKey(string(b))
	if err != nil {
		return nil, fmt.Errorf("cannot use the key %s: it %w", keyFile, err)
	}
	return protocol.OpenReport(text, key)
}

type revokeCmd struct {
	hubFlag
	Box    string `arg:"" help:"The box, facility/name."`
	Reason string `required:"" help:"Why; it stands in the registry for ever."`
}

func (c revokeCmd) Run(ctx context.Context) error {
	if c.Hub == "" {
		return errors.New("cannot revoke without the facility: give --hub DIR, or run vitalpeer box revoke at the hub")
	}
	out, err := c.peer(ctx, "box", "revoke", c.Box, "--reason", c.Reason)
	fmt.Printf("%s", out)
	return err
}

type resetCmd struct {
	at
	NewLabel bool   `help:"Make the label that is on the box void; the new one is printed."`
	Yes      string `placeholder:"NAME" help:"Do not ask: the name of the box (VG-…), to be sure which one."`
}

func (c resetCmd) Run(ctx context.Context) error {
	b, err := c.open()
	if err != nil {
		return err
	}
	var k protocol.Box
	if err := b.call(ctx, "GET", protocol.PathBox, nil, &k); err != nil {
		return err
	}
	name := c.Yes
	if name == "" {
		say("Everything on box %s is wiped: its keys, and records that no peer has yet. Revoke it at the facility too.", k.Name)
		please("type the name of the box to go on")
		name = line(bufio.NewScanner(os.Stdin))
	}
	if !strings.EqualFold(name, k.Name) {
		return fmt.Errorf("nothing was done: the box is %s, not %q", k.Name, name)
	}
	var done protocol.ResetDone
	if err := b.call(ctx, "POST", protocol.PathReset, protocol.Reset{NewLabel: c.NewLabel}, &done); err != nil {
		return err
	}
	if done.Note != "" {
		say("%s", done.Note)
	}
	fmt.Println("The box is nobody's now.")
	if done.Label != "" {
		fmt.Println(done.Label)
		please("print the new label (vitalprov label) and put it over the old one")
	}
	return nil
}

func line(in *bufio.Scanner) string {
	if !in.Scan() {
		return ""
	}
	return strings.TrimSpace(in.Text())
}
