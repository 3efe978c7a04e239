package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/vitalgate/vitalgate/fhir/mapping"
	"github.com/vitalgate/vitalgate/firmware/config"
	"github.com/vitalgate/vitalgate/firmware/detect"
	"github.com/vitalgate/vitalgate/firmware/version"
	"github.com/vitalgate/vitalgate/hl7"
)

type dialectsCmd struct{}

func (dialectsCmd) Run() error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DIALECT\tFRAMING\tROLE\tACKNOWLEDGEMENT\tMONITORS")
	for _, d := range mapping.Dialects() {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", d.Name, d.Framing, d.Role, d.Ack, d.Title)
	}
	return w.Flush()
}

type detectCmd struct {
	For      time.Duration `default:"5m" help:"Lines: listen for so long at most."`
	Messages int           `default:"5" help:"Lines: stop when so many messages were read."`
	Ask      bool          `help:"tcp:// only: send the query that Mindray bedside monitors wait for. Without it nothing is sent."`
	Sources  []string      `arg:"" name:"file|line" help:"Files of HL7 v2 messages (- is standard input), or lines: tcp://host:port to connect to a monitor, listen://host:port to let it connect, serial:/dev/ttyUSB0 to try the settings that are usual, serial:/dev/ttyUSB0?baud=19200&parity=even to try those."`
}

func (c detectCmd) Run(ctx context.Context) error {
	if err := there(slices.DeleteFunc(slices.Clone(c.Sources), detect.Line)); err != nil {
		return err
	}
	for _, name := range c.Sources {
		if !detect.Line(name) {
			if err := detectFile(name); err != nil {
				return err
			}
			continue
		}
		found, err := detect.Run(ctx, detect.Options{At: name, For: c.For, Messages: c.Messages, Ask: c.Ask})
		if err != nil && !errors.Is(err, detect.ErrNothing) {
			return err
		}
		if found.Report(os.Stdout); err != nil {
			return err
		}
	}
	return nil
}

// there says which of the files is not there.
func there(files []string) error {
	for _, name := range files {
		if name == "-" {
			continue
		}
		if st, err := os.Stat(name); err != nil {
			return fmt.Errorf("cannot read %s: %w; name a file of HL7 v2 messages, or - for standard input", name, errors.Unwrap(err))
		} else if st.IsDir() {
			return fmt.Errorf("cannot read %s: it is a folder; name the files in it", name)
		}
	}
	return nil
}

func detectFile(name string) error {
	sc, done, err := messagesOf(name)
	if err != nil {
		return fmt.Errorf("cannot read: %w", err)
	}
	defer done()
	readable := 0
	for n := 1; sc.Scan(); n++ {
		m, err := hl7.Parse(sc.Bytes())
		if err != nil {
			fmt.Printf("%s: message %d: not readable: %v\n", name, n, err)
			continue
		}
		readable++
		d, score, why := mapping.Detect(m)
		fmt.Printf("%s: message %d: %s (score %d: %s)\n", name, n, d.Name, score, why)
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("cannot read %s: %w", name, err)
	}
	if readable == 0 {
		return fmt.Errorf("cannot say what %s looks like: there is no HL7 v2 message in it that can be read (one begins with MSH)", name)
	}
	return nil
}

type codesCmd struct {
	Dialect string `help:"With the codes of this dialect; without it, the general table."`
	Codes   string `placeholder:"FILE" help:"With the site's own codes (fhir.codes of the configuration)."`
	Fhir    bool   `default:"true" negatable:"" hidden:"" help:"As a FHIR ConceptMap, the only form there is."`
}

func (c codesCmd) Run() error {
	if c.Dialect == "" && c.Codes != "" {
		c.Dialect = "ihe-pcd01"
	}
	var d *mapping.Dialect
	if c.Dialect != "" {
		found, err := siteDialect(c.Dialect, c.Codes)
		if err != nil {
			return err
		}
		d = found
	}
	_, err := fmt.Printf("%s\n", mapping.AppendConceptMap(nil, d))
	return err
}

// siteDialect is a dialect with the site's own codes, if codes names a file of them.
func siteDialect(name, codes string) (*mapping.Dialect, error) {
	d, err := config.Dialect(name)
	if err != nil || codes == "" {
		return d, err
	}
	f, err := os.Open(codes)
	if err != nil {
		return nil, fmt.Errorf("cannot read the site's codes: %w", err)
	}
	defer f.Close()
	o, err := mapping.LoadOverrides(f)
	if err != nil {
		return nil, fmt.Errorf("cannot use the site's codes %s: %w", codes, err)
	}
	return d.With(o)
}

type capabilityCmd struct{}

func (capabilityCmd) Run() error {
	_, err := fmt.Printf("%s\n", mapping.AppendCapabilityStatement(nil, version.Version))
	return err
}
