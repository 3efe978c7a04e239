package main

import (
	"fmt"
	"os"

	"github.com/vitalgate/vitalgate/peer/facility"
	"github.com/vitalgate/vitalgate/provision/protocol"
)

type toolCmd struct {
	Add toolAddCmd `cmd:"" help:"Certify a field tool by its request."`
}

type toolAddCmd struct {
	data
	Name    string `arg:"" help:"Of the tool, as boxes will log it: 1 to 32 of a-z, 0-9 and -."`
	Request string `arg:"" type:"existingfile" help:"What vitalprov tool request wrote."`
	Out     string `short:"o" placeholder:"FILE" help:"Where to write the certificate (default NAME.tool.pem)."`
	Days    int    `default:"30" help:"How long boxes let it in, 1 to 366 days: it cannot be taken back sooner, so keep it short."`
}

func (c *toolAddCmd) Run() error {
	conf, err := c.dir().Load()
	if err != nil {
		return err
	}
	if c.Out == "" {
		c.Out = c.Name + ".tool.pem"
	}
	if _, err := os.Stat(c.Out); err == nil {
		return fmt.Errorf("cannot write %s: it exists; remove it or name another with -o", c.Out)
	}
	certificate, err := facility.CertifyTool(c.dir(), conf, c.Name, c.Request, c.Days)
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.Out, []byte(certificate), 0o644); err != nil {
		return fmt.Errorf("cannot write the certificate: %w", err)
	}
	fmt.Printf("Boxes of facility %s let the tool %s in for %d days. Its certificate is in %s: there, vitalprov tool install %s\n", conf.Facility, c.Name, c.Days, c.Out, c.Out)
	return nil
}

type boxReportCmd struct {
	data
	Box    string `arg:"" help:"facility/name"`
	Report string `arg:"" type:"existingfile" help:"What vitalprov hwtest run or vitalgate hwtest wrote."`
}

func (c *boxReportCmd) Run() error {
	reg, err := find(c.dir(), c.Box)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(c.Report)
	if err != nil {
		return fmt.Errorf("cannot read the report: %w", err)
	}
	r, err := protocol.OpenReport(text, reg.Key())
	if err != nil {
		return err
	}
	r.Print(os.Stdout)
	fmt.Printf("The report is signed by box %s.\n", reg.Box)
	return nil
}
