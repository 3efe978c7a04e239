package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// bundle is what a person is asked about, of FHIR R4 Bundles as boxes emit them.
type bundle struct {
	Entry []struct {
		Resource struct {
			Type      string     `json:"resourceType"`
			Name      flexible   `json:"name"` // of a Location
			Code      concept    `json:"code"`
			Value     *quantity  `json:"valueQuantity"`
			Component []measured `json:"component"`
		} `json:"resource"`
	} `json:"entry"`
}

type measured struct {
	Code  concept   `json:"code"`
	Value *quantity `json:"valueQuantity"`
}

type concept struct {
	Text   string `json:"text"`
	Coding []struct {
		System  string `json:"system"`
		Display string `json:"display"`
	} `json:"coding"`
}

type quantity struct {
	Value json.Number `json:"value"`
	Unit  string      `json:"unit"`
}

// flexible is a name where it is text; people have names of another form, which are nobody's business here.
type flexible string

func (f *flexible) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		*f = flexible(s)
	}
	return nil
}

// seen is what a person reads: "heart rate 72 per minute", "SpO2 97 %", and the bed.
func (b bundle) seen() (values []string, bed string) {
	add := func(m measured) {
		if name := m.Code.charted(); name != "" && m.Value != nil {
			values = append(values, name+" "+m.Value.spoken())
		}
	}
	for _, e := range b.Entry {
		switch r := e.Resource; r.Type {
		case "Location":
			bed = string(r.Name)
		case "Observation":
			add(measured{r.Code, r.Value})
			for _, c := range r.Component {
				add(c)
			}
		}
	}
	return values, bed
}

type readingsCmd struct {
	hubFlag
	Box     string        `arg:"" help:"facility/name of the box."`
	Yes     bool          `help:"Do not ask: the first charted reading of each monitor named is enough."`
	Earlier bool          `help:"The newest reading that is there already will do; without it only what comes to the peer after the command began counts."`
	Monitor []string      `help:"Wait for a reading of each of these monitors (default: any one)."`
	Timeout time.Duration `default:"5m" help:"How long to wait."`
	JSON    bool          `help:"One JSON line for each reading shown."`
}

func (c readingsCmd) Run(ctx context.Context) error {
	if c.Hub == "" {
		return errors.New("cannot see readings: give --hub DIR, the folder of a peer that may read")
	}
	ctx, cancel := c.patience(ctx)
	defer cancel()
	from, err := c.size(ctx, c.Box)
	if err != nil {
		return err
	}
	return c.confirm(ctx, from, bufio.NewScanner(os.Stdin), os.Stdout)
}

// lately is how many records back --earlier looks.
const lately = 10000

func (c readingsCmd) patience(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, c.Timeout, fmt.Errorf("waited %v and no new charted reading came: look at the box's status page and at the monitor's export settings; "+
		"vitalprov readings --earlier shows the newest of those that are there already", c.Timeout))
}

// confirm shows what a verifying peer has of the box from a record on and asks whether it is so. What it shows has gone the whole way:
// monitor, box, signature, network, verification, the facility's key.
func (c readingsCmd) confirm(ctx context.Context, from uint64, answers *bufio.Scanner, out io.Writer) error {
	ctx, cancel := c.patience(ctx)
	defer cancel()
	open := map[string]bool{}
	for _, m := range c.Monitor {
		open[m] = true
	}
	anyone := len(open) == 0
	var wrong error
	good := func(r record) bool {
		values, _ := r.Bundle.seen()
		return len(values) > 0 && (anyone || open[r.Monitor])
	}
	ask := func(r record) (more bool) {
		wrong = c.ask(r, answers, out)
		delete(open, r.Monitor)
		return wrong == nil && len(open) > 0
	}
	if c.Earlier {
		newest, last := map[string]record{}, ""
		if err := c.there(ctx, c.Box, from-min(from, lately), func(r record) {
			if good(r) {
				newest[r.Monitor], last = r, r.Monitor
			}
		}); err != nil {
			return err
		}
		monitors := c.Monitor
		if anyone {
			monitors = []string{last}
		}
		for _, m := range monitors {
			if r, found := newest[m]; found && !ask(r) {
				return wrong
			}
		}
	}
	please("let the monitor show values: attach the simulator, or wait for the patient's readings")
	err := c.tail(ctx, c.Box, from, func(r record) bool {
		if r.Sealed != "" {
			wrong = fmt.Errorf("the peer in %s has the records but may not open them: %s", c.Hub, r.Sealed)
			return false
		}
		return !good(r) || ask(r)
	})
	return errors.Join(wrong, err)
}

// ask shows a reading and asks whether the monitor shows the same; an error says that it does not, or that nobody answered.
func (c readingsCmd) ask(r record, answers *bufio.Scanner, out io.Writer) error {
	values, bed := r.Bundle.seen()
	switch {
	case bed == "":
		bed = "a bed that nobody named"
	case !strings.Contains(strings.ToLower(bed), "bed"):
		bed = "bed " + bed
	}
	if c.JSON {
		json.NewEncoder(out).Encode(map[string]any{"box": r.Box, "index": r.Index, "monitor": r.Monitor, "arrived": r.Arrived, "bed": bed, "values": values})
	} else {
		at := ""
		if r.Arrived != nil { // the box's clock; said in the time of who reads it
			at = " at " + r.Arrived.Local().Format(time.DateTime)
		}
		fmt.Fprintf(out, "Record %d of monitor %s came%s, and is verified.\nI see %s from %s.\n", r.Index, r.Monitor, at, strings.Join(values, ", "), bed)
	}
	if c.Yes {
		return nil
	}
	yes, err := agreed(answers, out)
	if err == nil && !yes {
		err = fmt.Errorf("the readings are not as the monitor shows them: take the monitor off the box (vitalprov bind) until it is known why; "+
			"note record %d, and compare what differs, number, unit or bed, with the table in docs/field/README.md", r.Index)
	}
	return err
}

// agreed asks until somebody says yes or no.
func agreed(answers *bufio.Scanner, out io.Writer) (bool, error) {
	please("look at the screen of the monitor")
	for {
		fmt.Fprint(out, "Is that so? [yes/no] ")
		if !answers.Scan() {
			return false, errors.New("nobody answered: the readings are not confirmed")
		}
		switch strings.ToLower(strings.TrimSpace(answers.Text())) {
		case "y", "yes":
			return true, nil
		case "n", "no":
			return false, nil
		}
		fmt.Fprintln(out, "Say yes if number, unit and bed are as on the screen, else no.")
	}
}
