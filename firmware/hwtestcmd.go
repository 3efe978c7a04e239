package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vitalgate/vitalgate/adapters/serial"
	"github.com/vitalgate/vitalgate/firmware/config"
	"github.com/vitalgate/vitalgate/firmware/measured"
	"github.com/vitalgate/vitalgate/firmware/version"
	"github.com/vitalgate/vitalgate/hwtest"
	"github.com/vitalgate/vitalgate/provision/protocol"
	"github.com/vitalgate/vitalgate/tpm"
)

type hwtestCmd struct {
	Config  string   `short:"c" placeholder:"FILE" type:"existingfile" help:"Configuration of the box, for its data folder and its TPM."`
	Dir     string   `default:"/var/lib/vitalgate" help:"Data folder, without a configuration: its disk is tested, and its tpm folder has the key that signs the report."`
	Factory bool     `help:"Also what takes long: every setting of the serial lines, a quarter of the memory."`
	Only    []string `placeholder:"TEST" help:"Only these tests: tpm, serial, storage, memory, network, rtc, watchdog, gpio, led, temperature."`
	Line    []string `placeholder:"DEVICE" help:"Serial lines to test (default: all)."`
	Peer    string   `placeholder:"HOST:PORT" help:"Measure the throughput to a machine that runs vitalgate hwtest --sink."`
	Sink    string   `placeholder:"ADDRESS" help:"Be the other end of throughput tests, such as :5201, and test nothing."`

	FireWatchdog bool   `help:"Let the watchdog restart the machine; run the test once more afterwards."`
	JSON         bool   `help:"The report as JSON."`
	Out          string `short:"o" placeholder:"FILE" help:"Write the signed report; vitalprov hwtest verify and vitalpeer box report check it."`
}

func (c hwtestCmd) Run(ctx context.Context) (err error) {
	if c.Sink != "" {
		lis, err := net.Listen("tcp", c.Sink)
		if err != nil {
			return fmt.Errorf("cannot be a sink: %w", err)
		}
		fmt.Fprintf(os.Stderr, "sink at %s; end with Ctrl-C\n", lis.Addr())
		return hwtest.Sink(ctx, lis)
	}
	for _, name := range c.Only {
		if !slices.Contains(hwtest.Tests(), name) {
			return fmt.Errorf("cannot test %q: the tests are %s", name, strings.Join(hwtest.Tests(), ", "))
		}
	}
	o := hwtest.Options{Only: c.Only, Factory: c.Factory, Dir: c.Dir, Lines: c.Line, Peer: c.Peer, Watchdog: c.FireWatchdog}
	source := "auto"
	if c.Config != "" {
		cfg, err := config.Load(c.Config)
		if err != nil {
			return err
		}
		o.Dir, source = cfg.Box.Data, cfg.TPM.Source
	}
	if len(o.Lines) == 0 {
		o.Lines = serial.Lines()
	}
	dirs, err := openData(o.Dir)
	if err != nil {
		return err
	}
	report, signed, err := testHardware(ctx, o, tpm.Options{Source: source, Dir: dirs.tpm, Log: newLog(0)})
	if err != nil {
		return err
	}
	if c.Out != "" {
		if err := os.WriteFile(c.Out, signed, 0o644); err != nil {
			return fmt.Errorf("cannot write the report: %w", err)
		}
	}
	if _, unsigned := protocol.OpenReport(signed, nil); c.Out != "" && errors.Is(unsigned, protocol.ErrUnsigned) {
		defer func() {
			fmt.Fprintf(os.Stderr, "WARNING: the report in %s is not signed, so it proves nothing: the box's key could not be used. "+
				"If the box works, have it test itself (vitalprov hwtest run), or end its work and test again.\n", c.Out)
			err = cmp.Or(err, errSaid)
		}()
	}
	if c.JSON {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		err = e.Encode(report)
	} else {
		report.Print(os.Stdout)
	}
	if err == nil && !report.Good {
		return errSaid
	}
	return err
}

// testHardware makes the tests and signs what was found with the box's key, if it has one that works.
func testHardware(ctx context.Context, o hwtest.Options, keys tpm.Options) (r *protocol.Report, signed []byte, err error) {
	o.Software = version.String()
	if keys.Firmware, err = measured.Firmware(); err != nil {
		return nil, nil, err
	}
	chip, err := tpm.Open(ctx, keys)
	if err != nil {
		o.TPMError = err
		if errors.Is(err, unix.EWOULDBLOCK) {
			o.TPMError = fmt.Errorf("%w: %w", hwtest.ErrInUse, err)
		}
	} else {
		defer func() { err = errors.Join(err, chip.Close()) }()
		o.TPM = chip
	}
	report := hwtest.Run(ctx, o)
	if o.TPM != nil {
		if signed, err = report.Sign(chip.Data()); err == nil {
			return &report, signed, nil
		}
	}
	signed, err = report.Unsigned()
	return &report, signed, err
}
