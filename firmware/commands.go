package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/vitalgate/vitalgate/firmware/config"
	"github.com/vitalgate/vitalgate/firmware/enrol"
	"github.com/vitalgate/vitalgate/firmware/measured"
	"github.com/vitalgate/vitalgate/firmware/replay"
	"github.com/vitalgate/vitalgate/firmware/status"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/enrolment"
	"github.com/vitalgate/vitalgate/record/logfile"
	"github.com/vitalgate/vitalgate/tpm"
	"github.com/vitalgate/vitalgate/tpm/attestation"
)

// openOwn opens the keys of the configured box and its data folder. The box must not run: it holds them.
func openOwn(ctx context.Context, configPath string) (box record.BoxID, dir string, chip *tpm.TPM, err error) {
	cfg, err := config.Load(configPath)
	if err != nil {
		return box, "", nil, err
	}
	if box, err = record.ParseBoxID(cfg.Box.ID); err != nil {
		return box, "", nil, err
	}
	dirs, err := openData(cfg.Box.Data)
	if err != nil {
		return box, "", nil, err
	}
	firmware, err := measured.Firmware()
	if err != nil {
		return box, "", nil, err
	}
	chip, err = tpm.Open(ctx, tpm.Options{Source: cfg.TPM.Source, Dir: dirs.tpm, Firmware: firmware, Log: newLog(0)})
	return box, dirs.root, chip, err
}

// requestCmd writes what the facility needs to enrol this box.
type requestCmd struct {
	Config string `short:"c" default:"/etc/vitalgate/config.toml" help:"Configuration file."`
	Out    string `short:"o" required:"" help:"File to write, such as gw1.request.json."`
}

func (c requestCmd) Run(ctx context.Context) (err error) {
	box, dir, chip, err := openOwn(ctx, c.Config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, chip.Close()) }()
	// First: the facility's question is about the last request, so one that cannot be given away must not take its place.
	if err := canMake(c.Out); err != nil {
		return err
	}
	r, err := enrol.Request(ctx, box, chip, dir)
	if err != nil {
		return err
	}
	if err := enrolment.Write(c.Out, r); err != nil {
		return err
	}
	fmt.Printf("%s: enrolment request of box %s, key held by: %s\nGive it to the facility (vitalpeer box add %s) and put the grant it answers where network.grant points to.\n", c.Out, box, chip.Label(), c.Out)
	return nil
}

// canMake says why there can be no new file at path.
func canMake(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("cannot write %s: it exists; move it away, or give another name", path)
	}
	if _, err := os.Stat(filepath.Dir(path)); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}

// answerCmd proves to the facility, by the TPM, what the request has said.
type answerCmd struct {
	Config   string `short:"c" default:"/etc/vitalgate/config.toml" help:"Configuration file."`
	Question string `arg:"" type:"existingfile" help:"What the facility asks, such as gw1.question.json (vitalpeer box ask)."`
	Out      string `short:"o" required:"" help:"File to write, such as gw1.answer.json."`
}

func (c answerCmd) Run(ctx context.Context) (err error) {
	var q attestation.Question
	if err := enrolment.Read(c.Question, "question (vitalpeer box ask)", &q); err != nil {
		return err
	}
	box, dir, chip, err := openOwn(ctx, c.Config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, chip.Close()) }()
	a, err := enrol.Answer(ctx, q, box, chip, dir)
	if err != nil {
		return err
	}
	if err := enrolment.Write(c.Out, a); err != nil {
		return err
	}
	fmt.Printf("%s: what the TPM says of the keys of box %s.\nGive it to the facility (vitalpeer box add REQUEST --answer %s).\n", c.Out, box, c.Out)
	return nil
}

// replayCmd sends files as a monitor would.
type replayCmd struct {
	To      string        `required:"" placeholder:"tcp://host:port|serial:/dev/…" help:"Where to send; serial:/dev/ttyUSB0?baud=9600."`
	Framing string        `default:"mllp" enum:"mllp,none,hllp" help:"Framing: ${enum}."`
	Speed   float64       `default:"0" help:"Messages a second; 0 waits for each acknowledgement and sends the next at once."`
	Timeout time.Duration `default:"5s" help:"How long to wait for an acknowledgement."`
	NoAck   bool          `help:"The receiver does not acknowledge (Mindray PDS)."`
	Paths   []string      `arg:"" name:"path" help:"Files, or folders of .hl7 files."`
}

func (c replayCmd) Run(ctx context.Context) error {
	sum, err := replay.Run(ctx, replay.Options{To: c.To, Framing: c.Framing, Speed: c.Speed, Timeout: c.Timeout, NoAck: c.NoAck}, c.Paths, os.Stdout)
	fmt.Fprintf(os.Stderr, "%d sent, %d accepted, %d refused, %d without an answer\n", sum.Sent, sum.Accepted, sum.Refused, sum.Unanswered)
	return err
}

// verifyCmd checks exported records offline.
type verifyCmd struct {
	Box   string   `required:"" help:"The box that must have signed, facility/name."`
	Key   string   `required:"" help:"PEM public key of the box's log (box.pem of an export)."`
	Paths []string `arg:"" name:"path" help:"Folders of an export, or .leaf files with the .tlog-proof beside them."`
}

func (c verifyCmd) Run() error {
	box, err := record.ParseBoxID(c.Box)
	if err != nil {
		return err
	}
	pem, err := os.ReadFile(c.Key)
	if err != nil {
		return fmt.Errorf("cannot read the key: %w", err)
	}
	key, err := enrolment.ParseKey(string(pem))
	if err != nil {
		return fmt.Errorf("cannot use the key %s: %w", c.Key, err)
	}
	var leaves []string
	for _, p := range c.Paths {
		st, err := os.Stat(p)
		if err != nil {
			return fmt.Errorf("cannot read: %w", err)
		}
		if !st.IsDir() {
			leaves = append(leaves, p)
			continue
		}
		found, err := filepath.Glob(filepath.Join(p, "*.leaf"))
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return fmt.Errorf("there is no .leaf file in %s; name the folder of an export", p)
		}
		leaves = append(leaves, found...)
	}
	bad := 0
	for _, path := range leaves {
		leaf, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("cannot read: %w", err)
		}
		proof, err := os.ReadFile(strings.TrimSuffix(path, ".leaf") + ".tlog-proof")
		if err != nil {
			return fmt.Errorf("cannot read the proof of %s: %w", path, err)
		}
		var v record.Verified
		p, err := record.ParseProof(leaf, proof)
		if err == nil {
			v, err = record.Verify(p, box, key)
		}
		if err != nil {
			bad++
			fmt.Printf("BAD %s: %v\n", path, err)
			continue
		}
		fmt.Printf("ok  %s: record %d of %d, %s, the box says its key is held by: %s\n", path, v.Header().Index, v.Checkpoint().Size, v.Header().Kind, v.Checkpoint().Protection)
	}
	fmt.Fprintf(os.Stderr, "%d records, %d bad\n", len(leaves), bad)
	if bad > 0 {
		return errSaid
	}
	return nil
}

// fsckCmd checks the log on disk.
type fsckCmd struct {
	Dir    string `arg:"" help:"Data folder of the box (box.data), or its log folder."`
	Repair bool   `help:"Take out what is damaged, so that the files are whole; what was damaged is kept in the folder log/damaged."`
}

func (c fsckCmd) Run() error {
	dir := c.Dir
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("cannot check %s: %w; name the box's data folder (box.data of its configuration)", dir, errors.Unwrap(err))
	}
	if _, err := os.Stat(filepath.Join(dir, "log")); err == nil {
		dir = filepath.Join(dir, "log")
	}
	if c.Repair {
		replaced, err := logfile.Repair(dir, nil)
		for _, name := range replaced {
			fmt.Println("REPAIRED", name)
		}
		if err != nil {
			return err
		}
	}
	rep, err := logfile.Check(dir, logfile.CheckOptions{})
	if err != nil {
		return err
	}
	fmt.Printf("%s: %d segments, %d bytes, records %d to %d, %d signed by %d checkpoints\n", dir, rep.Segments, rep.Bytes, rep.First, rep.Next, rep.Signed, rep.Checkpoints)
	if rep.Torn > 0 && !rep.Live {
		fmt.Printf("%d bytes at the end were being written when the box stopped; the next start cuts them off, no acknowledged reading is among them\n", rep.Torn)
	}
	for _, p := range rep.Problems {
		fmt.Println("DAMAGED", p)
	}
	for _, m := range rep.Missing {
		fmt.Printf("MISSING records %d to %d: %v\n", m.From, m.To-1, m.Cause)
	}
	if c.Repair && len(rep.Missing) > 0 {
		fmt.Println("What is missing is lost at this box for good: no repair brings it back. What a leaf node had acknowledged is at the peers (vitalpeer export there shows it);\n" +
			"the rest is lost to all, and the peers show the gap. The bytes that were damaged are kept in the folder damaged, beside the log.")
	}
	if len(rep.Problems) > 0 || len(rep.Missing) > 0 {
		return errSaid
	}
	return nil
}

// statusCmd asks a running box.
type statusCmd struct {
	Config  string `short:"c" default:"/etc/vitalgate/config.toml" help:"Configuration file, for the status address."`
	Address string `help:"Status address, instead of the one in the configuration."`
	JSON    bool   `help:"The whole report as JSON."`
}

func (c statusCmd) Run(ctx context.Context) error {
	addr, box := c.Address, ""
	if addr == "" {
		cfg, err := config.Load(c.Config)
		if err != nil {
			return err
		}
		if addr, box = cfg.Status.Listen, cfg.Box.ID; addr == "" {
			return errors.New("cannot ask: the configuration has no status.listen")
		}
	}
	r, body, err := status.Ask(ctx, addr, box)
	if err != nil {
		return err
	}
	if c.JSON {
		os.Stdout.Write(body)
	} else {
		printStatus(os.Stdout, r)
	}
	if !r.Ready {
		return errSaid
	}
	return nil
}

func printStatus(out io.Writer, r status.Report) {
	fmt.Fprintf(out, "%s\n\nbox %s, %s, key: %s\n", r.Verdict, r.Box, r.Version, r.Protection)
	for _, c := range r.Conditions {
		fmt.Fprintf(out, "%s %s %s\n  %s\n  %s\n", strings.ToUpper(c.Severity.String()), c.Code, c.About, c.Sentence, c.Remedy)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\nMONITOR\tSTATE\tDIALECT\tMESSAGES\tCHARTED\tLOCAL\tABSENT\tRAW\n")
	for _, m := range r.Monitors {
		fmt.Fprintf(w, "%s\t%s %s\t%s\t%d\t%d\t%d\t%d\t%d\n", m.Line.Monitor, m.Line.State, m.Line.Address, m.Dialect,
			m.Counters.Messages, m.Counters.Charted, m.Counters.Local, m.Counters.Absent, m.Counters.Raw)
	}
	w.Flush()
	fmt.Fprintf(out, "\nlog: %d records, %d signed, %d not yet at a leaf node\nnetwork: %s\n", r.Spool.Next, r.Spool.Signed, r.Spool.Depth, r.Network.State)
}
