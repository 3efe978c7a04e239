package maintain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/vitalgate/vitalgate/firmware/enrol"
	"github.com/vitalgate/vitalgate/provision/protocol"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/durable"
	"github.com/vitalgate/vitalgate/record/enrolment"
	"github.com/vitalgate/vitalgate/tpm"
	"github.com/vitalgate/vitalgate/tpm/attestation"
)

// ErrOwned says that a box with an owner takes nothing from a stick but readers.
var ErrOwned = errors.New("this box has an owner and takes nothing from a stick but a set of readers, and there is none")

// Stick serves a USB stick that is mounted at the place, if it has the folder of the field tool: it writes the label and the
// enrolment request of this box, or takes its grant and configuration; of one that has an owner it takes a set of readers. What it did is returned and stands on the stick as well.
func (s *Server) Stick(ctx context.Context, mount string) (did string, err error) {
	stick := protocol.StickAt(mount)
	if st, err := os.Lstat(string(stick)); err != nil || !st.IsDir() {
		return "", nil
	}
	if s.Owned() {
		return s.ownersStick(ctx, stick)
	}
	l := s.Label()
	own := stick.Of(l.Name())
	if err := os.MkdirAll(string(own), 0o755); err != nil {
		return "", fmt.Errorf("cannot write to the stick: %w", err)
	}
	about, err := s.about()
	if err != nil {
		return "", err
	}
	text, err := json.MarshalIndent(about, "", "  ")
	if err != nil {
		return "", err
	}
	if err := errors.Join(durable.WriteFile(own.Label(), []byte(l.String()+"\n")), durable.WriteFile(own.About(), append(text, '\n'))); err != nil {
		return "", fmt.Errorf("cannot write to the stick: %w", err)
	}
	did, err = s.serveStick(ctx, stick, own)
	result := did
	if err != nil {
		result = err.Error()
	}
	s.box.Log.Info("a stick was here", "did", result)
	return did, errors.Join(err, durable.WriteFile(own.Result(), fmt.Appendf(nil, "%s %s\n", time.Now().UTC().Format(time.RFC3339), result)))
}

func (s *Server) serveStick(ctx context.Context, stick protocol.Stick, own protocol.StickBox) (string, error) {
	grant, err := fromStick(own.Grant())
	if err != nil {
		return "", err
	}
	config, err := fromStick(own.Config())
	if err != nil {
		return "", err
	}
	old, err := s.oldRequest(own)
	if err != nil {
		return "", err
	}
	if grant != nil && config != nil {
		if err := s.provision(ctx, protocol.Provision{Grant: grant, Config: string(config)}); err == nil || !old {
			return protocol.StickTaken + " and begins to work", err
		}
	}
	if old {
		for _, path := range []string{own.Grant(), own.Answer(), own.Question(), own.Request()} {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return "", fmt.Errorf("cannot write to the stick: %w", err)
			}
		}
	}
	name, err := fromStick(own.Box())
	if err != nil {
		return "", err
	}
	next := false
	if name == nil {
		if name, err = fromStick(stick.Next()); err != nil {
			return "", err
		}
		next = true
	}
	if name == nil {
		return "the box wrote its label", nil
	}
	id, err := record.ParseBoxID(strings.TrimSpace(string(name)))
	if err != nil {
		return "", err
	}
	question, err := fromStick(own.Question())
	if err != nil {
		return "", err
	}
	if _, err := os.Lstat(own.Answer()); question != nil && errors.Is(err, fs.ErrNotExist) {
		return s.answerStick(ctx, question, own)
	}
	if _, err := os.Lstat(own.Request()); err == nil {
		return "the box waits for its grant and its configuration", nil
	}
	var q *enrolment.Request
	err = s.alone(ctx, func() error {
		return s.folder.withChip(ctx, s.tpmSource(), s.box.Log, func(chip *tpm.TPM) (err error) {
			q, err = enrol.Request(ctx, id, chip, s.folder.data())
			return err
		})
	})
	if err != nil {
		return "", err
	}
	text, err := json.MarshalIndent(q, "", "  ")
	if err != nil {
		return "", err
	}
	if err := errors.Join(durable.WriteFile(own.Box(), []byte(id.String()+"\n")), durable.WriteFile(own.Request(), append(text, '\n'))); err != nil {
		return "", fmt.Errorf("cannot write to the stick: %w", err)
	}
	if next {
		if err := os.Remove(stick.Next()); err != nil {
			return "", fmt.Errorf("cannot write to the stick: %w", err)
		}
	}
	if old {
		return "the request on the stick was of keys that this box has no more; the box wrote a new enrolment request as " + id.String(), nil
	}
	return "the box wrote its enrolment request as " + id.String(), nil
}

// oldRequest says whether the request on the stick is another than the last one of this box.
func (s *Server) oldRequest(own protocol.StickBox) (bool, error) {
	text, err := fromStick(own.Request())
	if text == nil || err != nil {
		return false, err
	}
	var q enrolment.Request
	if err := json.Unmarshal(text, &q); err != nil {
		return true, nil // a visit that was cut short
	}
	last, err := enrol.IsLast(&q, s.folder.data())
	return !last, err
}

// answerStick lets the TPM answer what the facility asks.
func (s *Server) answerStick(ctx context.Context, text []byte, own protocol.StickBox) (string, error) {
	var q attestation.Question
	if err := json.Unmarshal(text, &q); err != nil {
		return "", fmt.Errorf("cannot understand the question on the stick: %w", err)
	}
	a, err := s.answer(ctx, q)
	if err != nil {
		return "", err
	}
	out, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return "", err
	}
	if err := durable.WriteFile(own.Answer(), append(out, '\n')); err != nil {
		return "", fmt.Errorf("cannot write to the stick: %w", err)
	}
	return "the box answered what the facility asks about its TPM", nil
}

// fromStick reads a small regular file; nil where there is none.
func fromStick(path string) ([]byte, error) {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the stick: %w", err)
	}
	if !st.Mode().IsRegular() || st.Size() > mostJSON {
		return nil, fmt.Errorf("cannot use %s of the stick: it is no file of at most %d bytes", st.Name(), mostJSON)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the stick: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, mostJSON))
	if err != nil {
		return nil, fmt.Errorf("cannot read the stick: %w", err)
	}
	return b, nil
}
