package maintain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/vitalgate/vitalgate/firmware/enrol"
	"github.com/vitalgate/vitalgate/provision/protocol"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/durable"
	"github.com/vitalgate/vitalgate/record/enrolment"
)

// getReaders tells whom the box seals for.
func (s *Server) getReaders(http.ResponseWriter, *http.Request) (any, error) {
	id, err := s.whose()
	if err != nil {
		return nil, err
	}
	set, err := enrol.Readers(s.folder.grant(), id, s.folder.data())
	if err != nil {
		return nil, err
	}
	return told(set), nil
}

// putReaders takes a set of readers that the facility has signed.
func (s *Server) putReaders(w http.ResponseWriter, req *http.Request) (any, error) {
	var text json.RawMessage
	if err := read(w, req, &text); err != nil {
		return nil, err
	}
	set, err := s.takeReaders(req.Context(), text)
	if err != nil {
		return nil, err
	}
	return told(set), nil
}

func told(set *enrolment.ReaderSet) protocol.Readers {
	return protocol.Readers{Number: set.Number, Network: len(set.Readers.Network), Patient: len(set.Readers.Patient), PerRecord: set.PerRecord}
}

// whose is the name of an owned box.
func (s *Server) whose() (record.BoxID, error) {
	o, err := s.folder.owner()
	if err != nil || o == nil {
		return record.BoxID{}, errors.Join(errors.New("cannot tell whom this box seals for: it has no owner, or its files do not say who; provision it first"), err)
	}
	return o.id, nil
}

// takeReaders takes a set of readers. The line begins anew with it: a set that does not hold stops no line, and on the image the line runs
// as another user, to whom its files are handed when it begins.
func (s *Server) takeReaders(ctx context.Context, text []byte) (set *enrolment.ReaderSet, err error) {
	id, err := s.whose()
	if err != nil {
		return nil, err
	}
	trial, err := os.MkdirTemp(string(s.folder), "trial-")
	if err != nil {
		return nil, fmt.Errorf("cannot check the reader set: %w", err)
	}
	defer os.RemoveAll(trial)
	file := filepath.Join(trial, "readers.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, fmt.Errorf("cannot check the reader set: %w", err)
	}
	if _, err := enrol.NewReaders(file, s.folder.grant(), id, s.folder.data()); errors.Is(err, enrol.ErrSameReaders) {
		return nil, err
	} else if err != nil {
		return nil, without(err, folder(trial))
	}
	err = s.alone(ctx, func() error {
		set, err = enrol.TakeReaders(file, s.folder.grant(), id, s.folder.data())
		return without(err, folder(trial))
	})
	if err == nil {
		s.box.Log.Info("sealing for a new set of readers", "number", set.Number)
	}
	return set, err
}

// ownersStick takes a set of readers from a stick. Nothing is written on a stick that has none, or one of somebody else.
func (s *Server) ownersStick(ctx context.Context, stick protocol.Stick) (string, error) {
	text, err := fromStick(stick.Readers())
	if err != nil {
		return "", err
	}
	if text == nil {
		return "", ErrOwned
	}
	set, err := s.takeReaders(ctx, text)
	did := ""
	switch {
	case err == nil:
		did = fmt.Sprintf("%s %d", protocol.StickReaders, set.Number)
	case errors.Is(err, enrol.ErrSameReaders):
		did = protocol.StickReaders + " as before"
	default:
		return "", err
	}
	own := stick.Of(s.Label().Name())
	err = os.MkdirAll(string(own), 0o755)
	if err == nil {
		err = durable.WriteFile(own.Result(), fmt.Appendf(nil, "%s %s\n", time.Now().UTC().Format(time.RFC3339), did))
	}
	if err != nil {
		err = fmt.Errorf("cannot write to the stick: %w", err)
	}
	return did, err
}
