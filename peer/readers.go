package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/vitalgate/vitalgate/peer/facility"
)

type readersCmd struct {
	Rotate readersRotateCmd `cmd:"" help:"Make a new reader key, and the set of readers that all boxes are to seal for from now on."`
	Show   readersShowCmd   `cmd:"" help:"Print the set of readers as boxes take it (vitalprov readers)."`
}

type readersRotateCmd struct {
	data
	Patient   []string `placeholder:"FILE" type:"existingfile" help:"Public reader key (vgreader1…) of the patient side. With one or more, a record opens only to a reader of each side together."`
	PerRecord bool     `help:"A key for each record instead of one for a patient's quarter of an hour: a box that is taken holds none, at 2.4 KB a record."`
	Out       string   `short:"o" required:"" placeholder:"FILE" help:"A new file: the set, for the boxes."`
}

func (c *readersRotateCmd) Run() error {
	conf, err := c.dir().Load()
	if err != nil {
		return err
	}
	var patient []string
	for _, path := range c.Patient {
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("cannot read the reader key: %w", err)
		}
		patient = append(patient, strings.TrimSpace(string(text)))
	}
	if _, err := os.Stat(c.Out); err == nil {
		return fmt.Errorf("cannot write %s: it exists; name a new file with -o", c.Out)
	}
	set, key, err := facility.Rotate(c.dir(), conf, patient, c.PerRecord)
	if err != nil {
		return err
	}
	b, err := set.Bytes()
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.Out, b, 0o644); err != nil {
		return fmt.Errorf("cannot write the reader set: %w; vitalpeer readers show prints it", err)
	}
	fmt.Printf("Reader set %d is in %s: give it to each box with vitalprov readers ADDRESS --label … --set %s (or vitalprov stick readers, or at the box vitalgate readers). Its private key is in %s; a ward peer that may read needs a copy of it in the same place (mode 0600), before the boxes take the set. Peers that run need no restart.\n", set.Number, c.Out, c.Out, key)
	return nil
}

type readersShowCmd struct{ data }

func (c *readersShowCmd) Run() error {
	if _, err := c.dir().Load(); err != nil {
		return err
	}
	b, err := os.ReadFile(c.dir().ReaderSet())
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("there is no reader set yet: boxes seal for the readers of their grants; vitalpeer readers rotate makes one")
	}
	if err != nil {
		return fmt.Errorf("cannot read the reader set: %w", err)
	}
	_, err = os.Stdout.Write(b)
	return err
}
