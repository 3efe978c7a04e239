package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/vitalgate/vitalgate/provision/protocol"
	"github.com/vitalgate/vitalgate/record/enrolment"
)

type readersCmd struct {
	at
	Set string `placeholder:"FILE" type:"existingfile" help:"The set, as the facility signed it (vitalpeer readers rotate, or readers show); without it the box only tells which it has."`
}

func (c readersCmd) Run(ctx context.Context) error {
	b, err := c.open()
	if err != nil {
		return err
	}
	var r protocol.Readers
	if c.Set == "" {
		err = b.call(ctx, "GET", protocol.PathReaders, nil, &r)
	} else {
		var text json.RawMessage
		if _, text, err = readReaders(c.Set); err != nil {
			return err
		}
		err = b.call(ctx, "PUT", protocol.PathReaders, text, &r)
	}
	if err != nil {
		return err
	}
	which := fmt.Sprintf("reader set %d", r.Number)
	if r.Number == 0 {
		which = "the readers of its grant"
	}
	each := ""
	if r.PerRecord {
		each = ", with a key for each record"
	}
	fmt.Printf("The box seals for %s: %d of the network side, %d of the patient side%s.\n", which, r.Network, r.Patient, each)
	return nil
}

// readReaders reads a set. Whether the facility has signed it is the box's to check: it knows the facility.
func readReaders(path string) (set enrolment.ReaderSet, text []byte, err error) {
	if err := enrolment.Read(path, "reader set (vitalpeer readers rotate)", &set); err != nil {
		return set, nil, err
	}
	if text, err = os.ReadFile(path); err != nil {
		return set, nil, fmt.Errorf("cannot read the reader set: %w", err)
	}
	return set, text, nil
}
