package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vitalgate/vitalgate/peer/proof"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/enrolment"
)

type provenanceCmd struct {
	data
	Box   string `arg:"" help:"facility/name"`
	Index uint64 `arg:"" help:"Index of the record."`
}

func (c *provenanceCmd) Run(ctx context.Context) error {
	return c.proving().make(ctx, func(s proof.Signer, rd *reader, v record.Verified) ([]byte, error) {
		if rd.opener == nil {
			return nil, errors.New("cannot make a Provenance: this peer has no reader key, and so no Bundle to sign; vitalpeer receipt needs none")
		}
		content, err := rd.open(ctx, v)
		if err != nil {
			return nil, err
		}
		if len(content.Bundle) == 0 {
			return nil, fmt.Errorf("cannot make a Provenance: record %d has no Bundle", c.Index)
		}
		b, err := s.Provenance(v, content.Bundle, time.Now())
		return append(b, '\n'), err
	})
}

type receiptCmd struct {
	data
	Box   string `arg:"" help:"facility/name"`
	Index uint64 `arg:"" help:"Index of the record."`
}

func (c *receiptCmd) Run(ctx context.Context) error {
	return c.proving().make(ctx, func(s proof.Signer, _ *reader, v record.Verified) ([]byte, error) { return s.Receipt(v, time.Now()) })
}

func (c *provenanceCmd) proving() proving { return proving{c.data, c.Box, c.Index} }
func (c *receiptCmd) proving() proving    { return proving{c.data, c.Box, c.Index} }

// proving is a record that something is to be made of, in this peer's word.
type proving struct {
	data
	box   string
	index uint64
}

// make prints what is made of the record.
func (p proving) make(ctx context.Context, form func(proof.Signer, *reader, record.Verified) ([]byte, error)) error {
	conf, err := p.dir().Load()
	if err != nil {
		return err
	}
	key, chain, err := p.dir().Voice()
	if err != nil {
		return err
	}
	s := proof.Signer{Name: conf.Facility + " peer " + conf.Name, Key: key, Chain: chain}
	found := false
	err = each(ctx, p.dir(), p.box, p.index, p.index+1, func(rd *reader, v record.Verified) error {
		found = true
		if why, err := rd.refuses(ctx, v.Header()); err != nil {
			return err
		} else if why != "" {
			return errors.New("cannot vouch for the record: " + why)
		}
		out, err := form(s, rd, v)
		if err != nil {
			return err
		}
		_, err = os.Stdout.Write(out)
		return err
	})
	if err == nil && !found {
		return fmt.Errorf("cannot find record %d of box %s: it is not stored here (yet)", p.index, p.box)
	}
	return err
}

// openCmd opens an exported record with keys at hand, without any peer.
type openCmd struct {
	Folder string   `arg:"" help:"Folder of an export, with the record and the epoch leaf that it names."`
	Index  uint64   `arg:"" help:"Index of the record."`
	Reader []string `required:"" placeholder:"FILE" type:"existingfile" help:"File with a private reader key (VGREADER-SECRET-1…). Where records are sealed to both sides, one of the network side and one of the patient side."`
	Key    string   `placeholder:"PEM" help:"Public key of the box's log from a source that you trust (default: box.pem of the export)."`
	Raw    bool     `help:"The monitor's message, exactly as it came, instead of the Bundle."`
}

func (c *openCmd) Run() error {
	var secrets []record.ReaderSecret
	for _, path := range c.Reader {
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("cannot read the reader key: %w", err)
		}
		s, err := record.ParseReaderSecret(string(text))
		if err != nil {
			return fmt.Errorf("cannot use %s: %w", path, err)
		}
		secrets = append(secrets, s)
	}
	path := c.Key
	if path == "" {
		path = filepath.Join(c.Folder, "box.pem")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("cannot read the public key of the box: %w", err)
	}
	key, err := enrolment.ParseKey(string(text))
	if err != nil {
		return fmt.Errorf("cannot use %s: %w", path, err)
	}
	exported := func(index uint64) (record.Verified, error) {
		name := filepath.Join(c.Folder, fmt.Sprintf("%012d", index))
		leaf, err := os.ReadFile(name + ".leaf")
		if err != nil {
			return record.Verified{}, err
		}
		text, err := os.ReadFile(name + ".tlog-proof")
		if err != nil {
			return record.Verified{}, err
		}
		p, err := record.ParseProof(leaf, text)
		if err != nil {
			return record.Verified{}, err
		}
		sc, err := p.Checkpoint.Unverified()
		if err != nil {
			return record.Verified{}, err
		}
		box, err := record.ParseOrigin(sc.Origin)
		if err != nil {
			return record.Verified{}, err
		}
		return record.Verify(p, box, key)
	}
	v, err := exported(c.Index)
	if err != nil {
		return fmt.Errorf("cannot open record %d: %w", c.Index, err)
	}
	h := v.Header()
	if h.Kind.Control() {
		return fmt.Errorf("cannot open record %d: it is the log's own entry (%s), which is not sealed; read it with any editor", c.Index, h.Kind)
	}
	o := record.NewOpener(secrets...)
	epoch, err := exported(h.Epoch)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot open record %d: its key is sealed in record %d, the beginning of its epoch, which is not in %s; export that too (vitalpeer export --from %d)", c.Index, h.Epoch, c.Folder, h.Epoch)
	}
	if err != nil {
		return fmt.Errorf("cannot open the epoch at %d: %w", h.Epoch, err)
	}
	if _, err := o.Open(epoch); err != nil && !errors.Is(err, record.ErrNoContent) {
		return err
	}
	content, err := o.Open(v)
	if err != nil {
		return err
	}
	out := content.Bundle
	if c.Raw {
		out = content.Raw
	} else if len(out) == 0 {
		return fmt.Errorf("record %d has no Bundle (%s); --raw gives the message", c.Index, strings.TrimSpace(content.Reason))
	}
	_, err = os.Stdout.Write(out)
	return err
}
