// Command vitalprov is the field tool: with it a person at a bedside makes a box part of the hospital, sees that its readings
// arrive, and later changes, tests, updates or resets it. It runs on a laptop (Linux, macOS, Windows).
//
// Each command is also a step of the wizard. What a person must do with his hands is said in one line that begins with "please".
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	_ "time/tzdata" // Windows has no zone files

	"github.com/alecthomas/kong"

	"github.com/vitalgate/vitalgate/commandline"
)

// Version is set by the linker (build.sh).
var Version = "unversioned"

type cli struct {
	Wizard    wizardCmd    `cmd:"" help:"Provision a box step by step: asks what it needs."`
	Find      findCmd      `cmd:"" help:"Look for boxes on the networks of this laptop."`
	Probe     probeCmd     `cmd:"" help:"Ask what is at an address: which box, whose, and how it is."`
	Label     labelCmd     `cmd:"" help:"Draw the label of a box, with its QR code, as PDF or PNG."`
	Enrol     enrolCmd     `cmd:"" help:"Make a box part of a facility: request, grant, configuration, start."`
	Request   requestCmd   `cmd:"" help:"Fetch the enrolment request of a box, for a facility that is not within reach."`
	Answer    answerCmd    `cmd:"" help:"Have a box answer what the facility asks about its TPM."`
	Provision provisionCmd `cmd:"" help:"Give a box its grant and its configuration; one that has a configuration keeps it."`
	Bind      bindCmd      `cmd:"" help:"Change the beds, monitors and dialects of a box."`
	Readers   readersCmd   `cmd:"" help:"Give a box a new set of readers to seal for, or ask which it has."`
	Network   networkCmd   `cmd:"" help:"Show network settings, or try new ones: without success the old ones come back."`
	Readings  readingsCmd  `cmd:"" help:"See the first readings of a box at a peer, verified, and ask whether they are right."`
	Status    statusCmd    `cmd:"" help:"Ask a box how it is."`
	Hwtest    hwtestCmd    `cmd:"" help:"Have a box test its hardware, or verify a report."`
	Update    updateCmd    `cmd:"" help:"Give a box a new firmware."`
	Revoke    revokeCmd    `cmd:"" help:"Cut a box off from the facility for good."`
	Reset     resetCmd     `cmd:"" help:"Wipe a box: it is nobody's afterwards."`
	Tool      toolCmd      `cmd:"" help:"The identity of this tool: what lets it into boxes that have an owner."`
	Stick     stickCmd     `cmd:"" help:"Prepare, answer and read a USB stick, for boxes without a network."`
	Version   versionCmd   `cmd:"" help:"Print the version."`
}

type versionCmd struct{}

func (versionCmd) Run() error {
	fmt.Println("vitalprov", Version, runtime.Version())
	return nil
}

// errSaid is returned by a command that has already told the person what is wrong.
var errSaid = errors.New("")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var c cli
	k, err := commandline.Parse(&c, os.Args[1:], kong.Name("vitalprov"), kong.Description("The field tool: provision, check, update and reset the boxes beside bedside monitors."),
		kong.BindTo(ctx, (*context.Context)(nil)))
	if err == nil {
		err = k.Run()
	}
	if err != nil {
		if !errors.Is(err, errSaid) {
			fmt.Fprintln(os.Stderr, "vitalprov:", err)
		}
		os.Exit(1)
	}
}

// please asks a person for something that only hands can do.
func please(format string, a ...any) { fmt.Fprintf(os.Stderr, "please "+format+"\n", a...) }

// say tells how far it is.
func say(format string, a ...any) { fmt.Fprintf(os.Stderr, format+"\n", a...) }
