package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/vitalgate/vitalgate/firmware/config"
	"github.com/vitalgate/vitalgate/firmware/enrol"
	"github.com/vitalgate/vitalgate/firmware/pipeline"
	"github.com/vitalgate/vitalgate/record"
)

// readersCmd takes a new set of readers.
type readersCmd struct {
	Config string `short:"c" default:"/etc/vitalgate/config.toml" help:"Configuration file."`
	File   string `arg:"" type:"existingfile" help:"The set, as the facility wrote it (vitalpeer readers rotate)."`
}

func (c readersCmd) Run() error {
	cfg, err := config.Load(c.Config)
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
	set, err := enrol.TakeReaders(c.File, cfg.Network.Grant, box, dirs.root)
	if err != nil {
		return err
	}
	fmt.Printf("From now on box %s seals for the readers of set %d: %d of the network side, %d of the patient side. A running vitalgate takes them within seconds.\n",
		box, set.Number, len(set.Readers.Network), len(set.Readers.Patient))
	return nil
}

// followReaders gives the line a new set of readers when the box has taken another than that of the number it began with.
func followReaders(ctx context.Context, grant string, box record.BoxID, dir string, number uint64, give func(context.Context, pipeline.Readers), log *slog.Logger) error {
	const every = 2 * time.Second
	var seen time.Time
	said := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(every):
		}
		st, err := os.Stat(enrol.ReadersFile(dir))
		if err != nil || st.ModTime().Equal(seen) {
			continue
		}
		set, err := enrol.Readers(grant, box, dir)
		var network, patient []record.ReaderKey
		if err == nil {
			network, patient, err = set.Readers.Keys()
		}
		if err != nil { // it is tried again, and said once
			if err.Error() != said {
				log.Error("cannot take the new readers; sealing goes on for those before", "error", err)
			}
			said = err.Error()
			continue
		}
		seen, said = st.ModTime(), ""
		if set.Number == number {
			continue
		}
		number = set.Number
		give(ctx, pipeline.Readers{Network: network, Patient: patient, PerRecord: set.PerRecord})
		log.Info("sealing for a new set of readers", "number", set.Number)
	}
}
