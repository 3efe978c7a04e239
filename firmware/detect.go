package main

import (
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/vitalgate/vitalgate/fhir/mapping"
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
	Files []string `arg:"" name:"file" help:"Files of HL7 v2 messages; - is standard input."`
}

func (c detectCmd) Run() error {
	for _, name := range c.Files {
		sc, done, err := messagesOf(name)
		if err != nil {
			return fmt.Errorf("cannot read: %w", err)
		}
		defer done()
		for n := 1; sc.Scan(); n++ {
			m, err := hl7.Parse(sc.Bytes())
			if err != nil {
				fmt.Printf("%s: message %d: not readable: %v\n", name, n, err)
				continue
			}
			d, score, why := mapping.Detect(m)
			fmt.Printf("%s: message %d: %s (score %d: %s)\n", name, n, d.Name, score, why)
		}
		if err := sc.Err(); err != nil {
			return fmt.Errorf("cannot read %s: %w", name, err)
		}
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
	d, err := mapping.LookupDialect(name)
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
