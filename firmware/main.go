// Command vitalgate is the box beside a bedside monitor: it reads the monitor's HL7 v2, converts every reading to FHIR
// R4, seals it for its readers, signs it with a key that never leaves the TPM, and publishes it write-only.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // the box has no zone files

	"github.com/alecthomas/kong"

	"github.com/vitalgate/vitalgate/commandline"
	"github.com/vitalgate/vitalgate/firmware/appliance"
	"github.com/vitalgate/vitalgate/firmware/version"
)

// program is the command line.
type program struct {
	Run      runCmd      `cmd:"" help:"Read the monitors, keep, sign and publish. This is what the box does."`
	Maintain maintainCmd `cmd:"" help:"Let the field tool (vitalprov) provision this box, and run once it is provisioned."`
	Request  requestCmd  `cmd:"" help:"Write the enrolment request of this box for the facility."`
	Answer   answerCmd   `cmd:"" help:"Answer what a facility asks about this box's TPM, so that it knows what holds the keys."`
	Readers  readersCmd  `cmd:"" help:"Take a new set of readers from the facility, to seal for."`
	Config   configCmd   `cmd:"" help:"Check, describe or write a configuration file."`
	Convert  convertCmd  `cmd:"" help:"Convert HL7 v2 messages to FHIR R4, one JSON document per message."`
	Replay   replayCmd   `cmd:"" help:"Send messages from files as a monitor would, and show the acknowledgements."`
	Detect   detectCmd   `cmd:"" help:"Say which dialect the messages of a file, or of a line that is listened to, look like."`
	Dialects dialectsCmd `cmd:"" help:"List the monitor dialects that are known."`
	Codes    codesCmd    `cmd:"" help:"Write the code tables in use as a FHIR ConceptMap."`

	Capability capabilityCmd `cmd:"" help:"Write what is converted as a FHIR CapabilityStatement."`

	Verify  verifyCmd  `cmd:"" help:"Verify exported records: signature, inclusion in the log, form."`
	Fsck    fsckCmd    `cmd:"" help:"Check every byte of the box's log on disk."`
	Status  statusCmd  `cmd:"" help:"Ask a running box how it is."`
	Hwtest  hwtestCmd  `cmd:"" help:"Test the hardware of this box; the verdict comes first, and what to do."`
	Service serviceCmd `cmd:"" help:"Install, start, stop, remove or query the system service."`
	Version versionCmd `cmd:"" help:"Print the version."`
}

// errSaid is returned by a command that has already told the person what is wrong.
var errSaid = errors.New("")

func main() {
	if appliance.IsFirstProcess() {
		appliance.Main(newLog(slog.LevelInfo))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var p program
	k, err := commandline.Parse(&p, os.Args[1:], kong.Name("vitalgate"), kong.Description("Firmware of the box beside a bedside monitor: HL7 v2 in, sealed and signed FHIR R4 out, write-only."),
		kong.BindTo(ctx, (*context.Context)(nil)))
	if err == nil {
		err = k.Run()
	}
	if err != nil {
		if !errors.Is(err, errSaid) {
			fmt.Fprintln(os.Stderr, "vitalgate:", err)
		}
		os.Exit(1)
	}
}

// newLog is the log of a long-running command: JSON lines on stderr, no patient data.
func newLog(level slog.Level) *slog.Logger {
	return slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

type versionCmd struct{}

func (versionCmd) Run() error {
	fmt.Println("vitalgate", version.String())
	return nil
}
