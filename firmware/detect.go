package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/vitalgate/vitalgate/fhir/mapping"
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
		in := io.Reader(os.Stdin)
		if name != "-" {
			f, err := os.Open(name)
			if err != nil {
				return fmt.Errorf("cannot read: %w", err)
			}
			defer f.Close()
			in = f
		}
		sc := bufio.NewScanner(in)
		sc.Buffer(nil, longestMessage)
		sc.Split(hl7.SplitMessages)
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
