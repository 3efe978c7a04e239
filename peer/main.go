// Command vitalpeer is a peer of the hospital network: the facility's hub or a ward's leaf node. It takes the records of
// boxes, verifies each one itself, stores them, keeps the other peers' stores equal to its own, and shows them.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/vitalgate/vitalgate/commandline"
	"github.com/vitalgate/vitalgate/peer/facility"
)

// Version is set by the linker (build.sh).
var Version = "unversioned"

type cli struct {
	Init       initCmd          `cmd:"" help:"Make a hub with a new facility, or with --join a ward peer of one."`
	Invite     inviteCmd        `cmd:"" help:"Write an invitation for a ward peer."`
	Run        runCmd           `cmd:"" help:"Run the peer."`
	Box        boxCmd           `cmd:"" help:"Enrol, list, suspend and revoke boxes."`
	Registry   registryCmd      `cmd:"" help:"The signed log of all decisions: who may do what."`
	Peer       peerCmd          `cmd:"" help:"List and remove invited peers."`
	Tool       toolCmd          `cmd:"" help:"Certify field tools (vitalprov), which boxes of this facility then let in."`
	Operator   operatorCmd      `cmd:"" help:"Let a person look at the streams with the nats program."`
	Tail       tailCmd          `cmd:"" help:"Print verified Bundles as NDJSON, one line per record."`
	Get        getCmd           `cmd:"" help:"Print one verified record."`
	Open       openCmd          `cmd:"" help:"Open an exported record with private reader keys, on any machine."`
	Provenance provenanceCmd    `cmd:"" help:"Print a FHIR Provenance of a record's Bundle, with this peer's JWS over its exact bytes."`
	Receipt    receiptCmd       `cmd:"" help:"Write a COSE receipt (RFC 9942) that the log of the box holds a record, in this peer's word."`
	Export     exportCmd        `cmd:"" help:"Write records with their proofs, for verification with other tools."`
	Verify     verifyCmd        `cmd:"" help:"Verify the whole store again. A peer that runs asks the others for what cannot be read."`
	Validate   validateCmd      `cmd:"" help:"Check stored Bundles against the FHIR R4 schema."`
	Evidence   evidenceCmd      `cmd:"" help:"List and verify evidence against boxes whose log was bent."`
	Fsck       fsckCmd          `cmd:"" help:"Check the files of the store, also while the peer runs."`
	Backup     backupCmd        `cmd:"" help:"Copy what the peer must not lose, also while it runs. What the copy holds is checked."`
	Restore    restoreBackupCmd `cmd:"" help:"Make the peer again from a backup."`
	Status     statusCmd        `cmd:"" help:"Say what the peer holds and how it is."`
	Version    versionCmd       `cmd:"" help:"Print the version."`
	Readers    readersCmd       `cmd:"" help:"Rotate the keys of those who may read."`
}

// data is the flag that nearly all commands share.
type data struct {
	Data string `required:"" placeholder:"DIR" help:"The peer's data folder."`
}

func (d data) dir() facility.Dir { return facility.Dir(d.Data) }

type versionCmd struct{}

func (versionCmd) Run() error {
	fmt.Println("vitalpeer", Version, runtime.Version())
	return nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vitalpeer:", err)
		os.Exit(1)
	}
}

// command runs one command line.
func command(ctx context.Context, args []string) error {
	var c cli
	k, err := commandline.Parse(&c, args, kong.Name("vitalpeer"), kong.Description("A peer of the network: takes, verifies, stores, replicates and shows the records of boxes."),
		kong.BindTo(ctx, (*context.Context)(nil)))
	if err != nil {
		return err
	}
	if err := k.Run(); err != nil && !(errors.Is(err, context.Canceled) && ctx.Err() != nil) {
		return err
	}
	return nil
}

func newLog(debug bool) *slog.Logger {
	level := slog.LevelInfo
	if debug {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}
