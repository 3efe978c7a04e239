package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vitalgate/vitalgate/provision/protocol"
)

// wizardCmd asks for what enrol and readings need, one question at a time, and shows the flags that would do the same.
type wizardCmd struct {
	hubFlag
	toolFlag
	Address string `placeholder:"HOST[:PORT]" help:"Address of the box (default: it is looked for on the networks of this laptop, by its label; then asked for)."`
	Status  string `placeholder:"HOST:PORT" help:"Where the box shows its status page (default 127.0.0.1:8100, which only the box itself sees)."`
}

func (c wizardCmd) Run(ctx context.Context) error { return c.run(ctx, os.Stdin, os.Stdout) }

// asker asks a person.
type asker struct {
	in  *bufio.Scanner
	out io.Writer
}

// ask repeats the question until the answer is accepted; an empty answer takes the default, if there is one.
func (a asker) ask(question, otherwise string, accept func(string) error) (string, error) {
	for {
		if otherwise != "" {
			fmt.Fprintf(a.out, "%s [%s]: ", question, otherwise)
		} else {
			fmt.Fprintf(a.out, "%s: ", question)
		}
		if !a.in.Scan() {
			return "", fmt.Errorf("nobody answered %q: nothing was changed since the last step", question)
		}
		answer := strings.TrimSpace(a.in.Text())
		if answer == "" {
			answer = otherwise
		}
		err := accept(answer)
		if err == nil {
			return answer, nil
		}
		fmt.Fprintln(a.out, " ", err)
	}
}

func something(s string) error {
	if s == "" {
		return fmt.Errorf("an answer is needed")
	}
	return nil
}

func anything(string) error { return nil }

// choose gives one of a numbered list.
func (a asker) choose(question string, list []string) (int, error) {
	for i, s := range list {
		fmt.Fprintf(a.out, "  %d  %s\n", i+1, s)
	}
	n := 0
	_, err := a.ask(question, "", func(s string) (err error) {
		if n, err = strconv.Atoi(s); err != nil || n < 1 || n > len(list) {
			return fmt.Errorf("a number from 1 to %d", len(list))
		}
		return nil
	})
	return n - 1, err
}

func (c wizardCmd) run(ctx context.Context, in io.Reader, out io.Writer) error {
	a := asker{bufio.NewScanner(in), out}
	please("mount the box, plug in network and power, and wait until its lamp blinks slowly")
	b, about, err := c.find(ctx, a)
	if err != nil {
		return err
	}
	printAbout(about)
	if about.Owned {
		fmt.Fprintln(out, "This box has an owner already. vitalprov bind changes its monitors, vitalprov reset makes it nobody's.")
		return nil
	}
	hub := c.hubFlag
	if hub.Hub == "" {
		if hub.Hub, err = a.ask("Data folder of the facility's hub on this machine", "", something); err != nil {
			return err
		}
	}
	name, err := a.ask("Name of the box, facility/name", "", boxName)
	if err != nil {
		return err
	}
	var bind binding
	bind.Status = c.Status
	var monitors []string
	for {
		text, monitor, err := a.monitor(about, len(bind.Monitor)+1, func(m string) error {
			config, err := binding{Monitor: append(slices.Clone(bind.Monitor), m), Status: bind.Status}.text(name)
			if err != nil {
				return err
			}
			return b.check(ctx, name, config)
		})
		if err != nil {
			return err
		}
		bind.Monitor, monitors = append(bind.Monitor, text), append(monitors, monitor)
		more, err := a.ask("Another monitor at this box? yes/no", "no", anything)
		if err != nil {
			return err
		}
		if !strings.HasPrefix(strings.ToLower(more), "y") {
			break
		}
	}
	fmt.Fprintf(out, "The same with flags: vitalprov enrol %s --label … --hub %s --box %s", b.address, hub.Hub, name)
	for _, m := range bind.Monitor {
		fmt.Fprintf(out, " --monitor %q", m)
	}
	fmt.Fprintln(out)
	if _, err := a.ask("Enrol the box now? yes", "", func(s string) error {
		if s != "yes" {
			return fmt.Errorf("yes, or end with Ctrl-C; nothing was changed so far")
		}
		return nil
	}); err != nil {
		return err
	}
	config, err := bind.text(name)
	if err != nil {
		return err
	}
	if err := b.check(ctx, name, config); err != nil {
		return err
	}
	var request []byte
	if err := b.call(ctx, "POST", protocol.PathRequest, protocol.Ask{Box: name}, &request); err != nil {
		return err
	}
	grant, err := hub.grant(ctx, b, request, nil)
	if err != nil {
		return err
	}
	if err := start(ctx, b, protocol.Provision{Grant: grant, Config: config}, 2*time.Minute); err != nil {
		return err
	}
	r := readingsCmd{hubFlag: hub, Box: name, Monitor: monitors, Timeout: 15 * time.Minute}
	// The box was nobody's until now, so that all of its readings are new.
	if err := r.confirm(ctx, 0, a.in, out); err != nil {
		return err
	}
	fmt.Fprintf(out, "Done: box %s works, and its first readings are confirmed.\n", name)
	please("note the box's name in the inventory, and tell the ward whom to call about it")
	return nil
}

// lookFor is how long the wizard looks for a box on the wire.
const lookFor = 8 * time.Second

// find asks for the box until it answers. Its label says which it is, and most often the wire where.
func (c wizardCmd) find(ctx context.Context, a asker) (b *box, about protocol.About, err error) {
	id, err := c.identity()
	if err != nil {
		return nil, about, err
	}
	address := c.Address
	for first := true; ; first = false {
		var l protocol.Label
		if _, err := a.ask("Label of the box (scan the QR code, or type key and code)", "", func(s string) (err error) {
			l, err = protocol.ParseLabel(s)
			return err
		}); err != nil {
			return nil, about, err
		}
		if address == "" {
			address = search(ctx, l.Name())
		}
		if address == "" || !first {
			if address, err = a.ask("Address of the box", address, something); err != nil {
				return nil, about, err
			}
		}
		b = newBox(address, l, id)
		err := b.call(ctx, "GET", protocol.PathAbout, nil, &about)
		if err == nil || ctx.Err() != nil {
			return b, about, err
		}
		fmt.Fprintln(a.out, " ", err)
	}
}

// search looks for the box with the name on the wire; "" where it does not answer.
func search(ctx context.Context, name string) string {
	say("Looking for box %s on the networks of this laptop …", name)
	all, err := look(ctx, lookFor, func(f found) bool { return f.Name == name })
	if err != nil {
		say("%v", err)
		return ""
	}
	others := []string{}
	for _, f := range all {
		if f.Name == name {
			say("It answers at %s.", f.Address)
			return f.Address
		}
		others = append(others, f.Name+" at "+f.Address)
	}
	say("It does not answer. Check that it has power and its network cable, and that this laptop is in the same network; or ask whoever runs the network which address it gave to the box.")
	if len(others) > 0 {
		say("Other boxes answer: %s.", strings.Join(others, ", "))
	}
	return ""
}

// monitor asks for one monitor and gives its --monitor flag and its name. Try says whether the box could use a flag.
func (a asker) monitor(about protocol.About, n int, try func(flag string) error) (flag, name string, err error) {
	fmt.Fprintf(a.out, "Monitor %d. What is it? The name on its front helps.\n", n)
	families := make([]string, len(about.Dialects))
	for i, d := range about.Dialects {
		families[i] = d.Name + ": " + d.Title
	}
	i, err := a.choose("Number", families)
	if err != nil {
		return "", "", err
	}
	d := about.Dialects[i]
	plain := func(s string) error {
		if s == "" || strings.ContainsAny(s, " =") {
			return fmt.Errorf("one word without = is needed")
		}
		return nil
	}
	// with gives what accepts an answer that the box could use after what was answered before.
	with := func(before string) func(string) error {
		return func(s string) error {
			if err := plain(s); err != nil {
				return err
			}
			return try(before + s)
		}
	}
	name, err = a.ask("A name for it in records and on pages", fmt.Sprintf("bed-%d", n), with("address=0.0.0.0:0 name="))
	if err != nil {
		return "", "", err
	}
	kinds := []string{"network: the monitor connects to the box", "network: the box connects to the monitor"}
	for _, l := range about.Lines {
		kinds = append(kinds, "serial line "+l)
	}
	k, err := a.choose("How is it connected? Number", kinds)
	if err != nil {
		return "", "", err
	}
	flag = "name=" + name + " dialect=" + d.Name
	switch k {
	case 0:
		place, err := a.ask("Port that the monitor sends to, with the box's address before it (0.0.0.0 is any)", "0.0.0.0:2575", with(flag+" kind=mllp-server address="))
		if err != nil {
			return "", "", err
		}
		please("set the monitor's HL7 export (often \"EMR\" or \"HL7\" in its service menu) to the box's address and port %s", place[strings.LastIndexByte(place, ':')+1:])
		flag += " kind=mllp-server address=" + place
	case 1:
		kind := "mllp-client"
		if d.Name == "mindray-pds" {
			kind = d.Name
		}
		place, err := a.ask("Address of the monitor, host:port", "", with(flag+" kind="+kind+" address="))
		if err != nil {
			return "", "", err
		}
		flag += " kind=" + kind + " address=" + place
	default:
		please("plug the monitor's serial cable into the socket %s of the box", about.Lines[k-2])
		baud, err := a.ask("Baud rate, as the monitor is set", "9600", with(flag+" kind=serial device="+about.Lines[k-2]+" baud="))
		if err != nil {
			return "", "", err
		}
		flag += " kind=serial device=" + about.Lines[k-2] + " baud=" + baud
	}
	for _, q := range []struct{ question, key, otherwise string }{{"Time zone of the monitor's clock, such as Europe/Berlin", "zone", ""}, {"Bed, as the ward calls it (for messages that name none; where the monitor names its bed, that one counts)", "bed", name}} {
		v, err := a.ask(q.question, q.otherwise, with(flag+" "+q.key+"="))
		if err != nil {
			return "", "", err
		}
		flag += " " + q.key + "=" + v
	}
	return flag, name, nil
}
