package main

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/adapters/mllp"
	"github.com/vitalgate/vitalgate/adapters/pds"
	"github.com/vitalgate/vitalgate/adapters/serial"
	"github.com/vitalgate/vitalgate/fhir/mapping"
	"github.com/vitalgate/vitalgate/firmware/config"
	"github.com/vitalgate/vitalgate/firmware/enrol"
	"github.com/vitalgate/vitalgate/firmware/health"
	"github.com/vitalgate/vitalgate/firmware/link"
	"github.com/vitalgate/vitalgate/firmware/measured"
	"github.com/vitalgate/vitalgate/firmware/pipeline"
	"github.com/vitalgate/vitalgate/firmware/spool"
	"github.com/vitalgate/vitalgate/firmware/status"
	"github.com/vitalgate/vitalgate/firmware/version"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/enrolment"
	"github.com/vitalgate/vitalgate/tpm"
)

type runCmd struct {
	Config string `short:"c" default:"/etc/vitalgate/config.toml" help:"Configuration file."`
	Debug  bool   `help:"Log more."`
}

func (c runCmd) Run(ctx context.Context) error {
	level := slog.LevelInfo
	if c.Debug {
		level = slog.LevelDebug
	}
	if err := forget(); err != nil {
		return err
	}
	return run(ctx, c.Config, newLog(level))
}

// forget begins this program again under a runtime that overwrites what it frees (GODEBUG=clobberfree=1, which is read at the
// start only). Otherwise messages and keys would stand in the box's memory as garbage for as long as nothing needs the room.
func forget() error {
	const setting = "clobberfree=1"
	have := os.Getenv("GODEBUG")
	if strings.Contains(have, "clobberfree=") {
		return nil
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot begin again with memory that forgets: %w", err)
	}
	if have != "" {
		have += ","
	}
	return again(program, append(os.Environ(), "GODEBUG="+have+setting))
}

// run is the box from start to stop.
func run(ctx context.Context, configPath string, log *slog.Logger) (err error) {
	cfg, err := config.Load(configPath)
	if err != nil {
		return err
	}
	box, err := record.ParseBoxID(cfg.Box.ID)
	if err != nil {
		return err
	}
	dirs, err := openData(cfg.Box.Data)
	if err != nil {
		return err
	}
	board := &health.Board{}

	firmware, err := measured.Firmware()
	if err != nil {
		return err
	}
	chip, err := tpm.Open(ctx, tpm.Options{Source: cfg.TPM.Source, Dir: dirs.tpm, Firmware: firmware, Tolerant: true, Log: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, chip.Close()) }()
	if chip.Class() != tpm.Hardware {
		board.Set(health.Condition{Code: "no-hardware-tpm", Sentence: "The signing key is held by: " + chip.Label() + "."})
	}

	sp, err := spool.Open(dirs.log, spool.Options{Quota: int64(cfg.Spool.Quota), SegmentBytes: int64(cfg.Spool.Segment),
		Begun: filepath.Join(dirs.root, "log-begun"), Log: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sp.Close()) }()

	if cfg.Network.Grant == "" {
		return errors.New("cannot run without a grant, because nobody could read the records: set network.grant to the file that the facility gave for this box (vitalgate request writes what it needs)")
	}
	network, err := enrol.Open(cfg.Network.Grant, box, chip, dirs.root)
	if err != nil {
		return err
	}
	readers, err := enrol.Readers(cfg.Network.Grant, box, dirs.root)
	if err != nil {
		return err
	}
	sealer, err := newSealer(box, readers)
	if err != nil {
		return err
	}
	up, err := newLink(cfg, box, network, sp, log)
	if err != nil {
		return err
	}
	monitors, err := openMonitors(cfg, box, log)
	if err != nil {
		return err
	}
	attestor, err := chip.Attestor()
	if err != nil && !errors.Is(err, tpm.ErrNoTPM) {
		return err
	}
	line := pipeline.New(pipeline.Config{
		Box: box, Monitors: monitors, Sealer: sealer, Spool: sp, Signer: chip, Attestor: attestor, Health: board, Log: log, Dir: dirs.root,
		Protection: string(chip.Class()), Software: version.String(),
	})

	started := time.Now()
	report := func() status.Report {
		r := status.Report{Box: box.String(), Version: version.String(), Protection: chip.Label(), Key: keyOf(chip.Data()), System: status.System(), Spool: sp.Stats(), Network: up.Status(), Started: started, Now: time.Now()}
		for i, m := range monitors {
			r.Monitors = append(r.Monitors, status.Monitor{Line: m.Adapter.Status(), Dialect: m.Dialect.Name, Counters: line.Counters(i)})
		}
		r.Conditions, r.Ready, r.Verdict = board.Conditions(), board.Ready(), board.Verdict()
		return r
	}
	g, gctx := errgroup.WithContext(ctx)
	if cfg.Status.Listen != "" {
		g.Go(func() error { return showStatus(gctx, cfg.Status.Listen, report, board, log) })
	}
	g.Go(func() error { return watch(gctx, board, report, log) })
	g.Go(func() error { return tell(gctx, report, line.Pulse, log) })
	log.Info("running", "box", box.String(), "version", version.String(), "key", chip.Label(), "next", sp.Next(), "monitors", len(monitors))
	// The link outlives the line by a moment, so that what the line kept last is published before the box stops.
	lctx, stopLink := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLink()
	g.Go(func() error {
		defer time.AfterFunc(lastWords, stopLink)
		return line.Run(gctx)
	})
	g.Go(func() error { return up.Run(lctx) })
	g.Go(func() error {
		return followReaders(gctx, cfg.Network.Grant, box, dirs.root, readers.Number, line.SetReaders, log)
	})
	err = g.Wait()
	log.Info("stopped", "next", sp.Next(), "signed", sp.Stats().Signed)
	return err
}

// keyOf is the hex SHA-256 of the SubjectPublicKeyInfo of a key.
func keyOf(key crypto.Signer) string {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// showStatus keeps the status page open. A page that cannot be shown is a condition, not the end of the readings.
func showStatus(ctx context.Context, addr string, report func() status.Report, board *health.Board, log *slog.Logger) error {
	for {
		window, err := status.Listen(addr, report)
		if err == nil {
			board.Clear("status-page", "")
			log.Info("status page", "address", "http://"+window.Addr()+"/")
			err = window.Run(ctx)
		}
		if ctx.Err() != nil {
			return nil
		}
		board.Set(health.Condition{Code: "status-page", Sentence: "The status page is not shown: " + err.Error()})
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(5 * time.Second):
		}
	}
}

// lastWords is how long the link may still publish after the line has stopped.
const lastWords = 500 * time.Millisecond

func newLink(cfg *config.Config, box record.BoxID, n *enrol.Network, sp *spool.Spool, log *slog.Logger) (*link.Link, error) {
	leaves := make([]link.Leaf, len(n.Leaves))
	for i, l := range n.Leaves {
		leaves[i] = link.Leaf{Name: l.Name, URL: l.URL}
	}
	return link.New(link.Config{
		Box: box, Leaves: leaves, TLS: n.TLS, NKey: n.NKey, Sign: n.Sign,
		BatchRecords: cfg.Network.BatchRecords, AckTimeout: time.Duration(cfg.Network.AckTimeout),
	}, sp, log)
}

func newSealer(box record.BoxID, set *enrolment.ReaderSet) (*record.Sealer, error) {
	network, patient, err := set.Readers.Keys()
	if err != nil {
		return nil, err
	}
	s, err := record.NewSealer(box, network, patient)
	if err == nil {
		err = s.SetReaders(network, patient, set.PerRecord)
	}
	return s, err
}

func openMonitors(cfg *config.Config, box record.BoxID, log *slog.Logger) ([]pipeline.Monitor, error) {
	all := make([]pipeline.Monitor, 0, len(cfg.Monitors))
	for i := range cfg.Monitors {
		m := &cfg.Monitors[i]
		d, err := siteDialect(m.Dialect, cfg.FHIR.Codes)
		if err != nil {
			return nil, err
		}
		framing := adapters.Framing(m.Framing)
		if framing == "" {
			framing = adapters.Framing(d.Framing)
		}
		var a adapters.Adapter
		switch m.Kind {
		case "serial":
			a, err = serial.New(serial.Config{Monitor: m.Name, Device: m.Device, Baud: m.Baud, DataBits: m.DataBits, Parity: m.Parity, StopBits: m.StopBits,
				Flow: m.Flow, DTR: m.DTR, RTS: m.RTS, Framing: framing, MaxMessage: int(m.MaxMessage), IdleEnd: time.Duration(m.IdleEnd)}, log)
		case "mindray-pds":
			a, err = pds.New(pds.Config{Monitor: m.Name, Address: m.Address, Beacon: m.Beacon, IDs: m.Asked(d), Again: m.QueryAgain == "keep-alive",
				Interval: time.Duration(m.QueryInterval), Silence: time.Duration(m.ReadIdle), MaxMessage: int(m.MaxMessage)}, log)
		default:
			a, err = mllp.New(mllp.Config{Monitor: m.Name, Role: strings.TrimPrefix(m.Kind, "mllp-"), Address: m.Address, Framing: framing, MaxMessage: int(m.MaxMessage),
				MaxConnections: m.MaxConnections, ReadIdle: time.Duration(m.ReadIdle), IdleEnd: time.Duration(m.IdleEnd)}, log)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot open monitor %s: %w", m.Name, err)
		}
		zone, err := m.Location()
		if err != nil {
			return nil, err
		}
		all = append(all, pipeline.Monitor{Name: m.Name, Adapter: a, Dialect: d, AssociationAge: time.Duration(m.AssociationAge), Context: mapping.Context{
			Box: box.String(), Monitor: m.Name, Zone: zone, Bed: m.Bed, PatientSystem: cfg.FHIR.PatientSystem, DeviceSystem: cfg.FHIR.DeviceSystem,
			Units: mapping.Units{Pressure: m.Pressure, Temperature: m.Temperature, Length: m.Length, Mass: m.Mass}}})
	}
	return all, nil
}

// data is the box's folder: every file on disk is below one of these.
type data struct {
	root string // NATS user key
	log  string // segments, cursors
	tpm  string // key blobs, emulator state
}

func openData(root string) (data, error) {
	d := data{root: root, log: root + "/log", tpm: root + "/tpm"}
	for _, dir := range []string{d.root, d.log, d.tpm} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return d, fmt.Errorf("cannot make the data folder: %w; set box.data to a folder that this user may write", err)
		}
	}
	st, err := os.Stat(root)
	if err != nil {
		return d, fmt.Errorf("cannot use the data folder: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return d, fmt.Errorf("cannot use the data folder %s: others may read it (mode %v); run: chmod 700 %s", root, st.Mode().Perm(), root)
	}
	return d, nil
}
