package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/vitalgate/vitalgate/peer/facility"
	"github.com/vitalgate/vitalgate/peer/registry"
	"github.com/vitalgate/vitalgate/peer/store"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/enrolment"
	"github.com/vitalgate/vitalgate/record/evidence"
)

type evidenceCmd struct {
	Verify evidenceVerifyCmd `cmd:"" help:"Check a file of evidence, offline and on any machine, and say what it shows."`
	List   evidenceListCmd   `cmd:"" help:"List the evidence that this peer has found."`
	Gap    evidenceGapCmd    `cmd:"" help:"Make evidence of signed records that neither this peer nor a box delivers."`
}

type evidenceVerifyCmd struct {
	File      string `arg:"" help:"The file."`
	Key       string `placeholder:"PEM" help:"Public key that the box is known by: the evidence must be against this one."`
	Data      string `placeholder:"DIR" help:"A peer's data folder: the evidence must be against the key that is registered there."`
	Authority string `placeholder:"PEM" help:"Certificate of the facility whose peers speak in it (of a gap)."`
}

func (c *evidenceVerifyCmd) Run() error {
	f, err := readEvidence(c.File)
	if err != nil {
		return err
	}
	var authority *x509.Certificate
	switch {
	case c.Authority != "":
		text, err := os.ReadFile(c.Authority)
		if err != nil {
			return fmt.Errorf("cannot read the certificate of the facility: %w", err)
		}
		if authority, err = enrolment.ParseCertificate(string(text)); err != nil {
			return fmt.Errorf("cannot use %s: %w", c.Authority, err)
		}
	case c.Data != "":
		if authority, err = facility.Dir(c.Data).Authority(); err != nil {
			return err
		}
	}
	found, err := f.Verify(authority)
	if err != nil {
		if evidence.ReasonOf(err) == evidence.ReasonAuthority {
			return fmt.Errorf("%w: --authority ca.pem, or --data of one of its peers", err)
		}
		return err
	}
	known := ""
	switch {
	case c.Key != "":
		text, err := os.ReadFile(c.Key)
		if err != nil {
			return fmt.Errorf("cannot read the key: %w", err)
		}
		key, err := enrolment.ParseKey(string(text))
		if err != nil {
			return fmt.Errorf("cannot use %s: %w", c.Key, err)
		}
		if !key.Equal(found.Key) {
			return errOtherKey
		}
		known = "That is the key in " + c.Key + "."
	case c.Data != "":
		r, err := find(facility.Dir(c.Data), f.Box)
		if err != nil {
			return err
		}
		if !had(r, found.Key) {
			return errOtherKey
		}
		known = "That is the key which is registered for " + r.Box + "."
	default:
		known = "Anyone can make a key: whether it is the one of " + f.Box + ", the registry of its facility says (--data DIR, or --key PEM)."
	}
	fmt.Printf("%s of box %s, by key SHA-256 %s:\n%s\n%s\n", found.Kind, found.Box, found.Fingerprint(), found.Sentence, known)
	return nil
}

var errOtherKey = &evidence.Refusal{Reason: evidence.ReasonKey, What: "it is against another key than the one that the box is known by; it says nothing of that box"}

// had says whether a key is or was that of a registered box.
func had(r *registry.Registration, key *ecdsa.PublicKey) bool {
	for _, e := range r.Earlier {
		if e.Until > 0 && r.KeyAt(e.Until-1).Equal(key) {
			return true
		}
	}
	return r.Key().Equal(key)
}

func readEvidence(path string) (*evidence.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the evidence: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 2<<20))
	if err != nil {
		return nil, fmt.Errorf("cannot read the evidence: %w", err)
	}
	return evidence.Parse(b)
}

type evidenceListCmd struct{ data }

func (c *evidenceListCmd) Run() error {
	d := c.dir()
	if _, err := d.Load(); err != nil {
		return err
	}
	paths, err := filepath.Glob(filepath.Join(d.Evidence(), "*", "*", "*.evidence"))
	if err != nil {
		return err
	}
	authority, err := d.Authority()
	if err != nil {
		return err
	}
	for _, path := range paths {
		var found evidence.Finding
		f, err := readEvidence(path)
		if err == nil {
			found, err = f.Verify(authority)
		}
		if err != nil {
			fmt.Printf("%s: %v\n", path, err)
			continue
		}
		fmt.Printf("%s: %s of box %s. %s\n", path, found.Kind, found.Box, found.Sentence)
	}
	if len(paths) == 0 {
		fmt.Println("There is none.")
	}
	return nil
}

type evidenceGapCmd struct {
	data
	Box    string  `arg:"" help:"facility/name"`
	Record *uint64 `help:"Where several runs of records are missing: a record of the one that is meant (default the first)."`
	Add    string  `placeholder:"FILE" help:"Evidence that another peer made of the gap: this peer adds its word to it, if it has not got those records either."`
	Out    string  `short:"o" required:"" placeholder:"FILE" help:"A new file."`
}

func (c *evidenceGapCmd) Run(ctx context.Context) error {
	r, err := find(c.dir(), c.Box)
	if err != nil {
		return err
	}
	src, err := openSource(c.dir())
	if err != nil {
		return err
	}
	defer src.Close()
	s, ok := src.(socketSource)
	if !ok {
		return errors.New("cannot say what is missing: this peer does not run, so it cannot know whether the records would still come; start it (vitalpeer run)")
	}
	var others []byte // none: this peer begins the evidence
	if c.Add != "" {
		f, err := readEvidence(c.Add)
		if err != nil {
			return err
		}
		if others, err = f.Bytes(); err != nil {
			return err
		}
	}
	which := url.Values{"box": {r.Box}}
	if c.Record != nil {
		which.Set("record", strconv.FormatUint(*c.Record, 10))
	}
	a, err := s.do(ctx, http.MethodPost, "/gap?"+which.Encode(), bytes.NewReader(others))
	if errors.As(err, &unknownBox{}) {
		return fmt.Errorf("cannot make evidence: no record of box %s is missing here, as far as this peer has heard", r.Box)
	}
	if err != nil {
		return err
	}
	defer a.Body.Close()
	b, err := io.ReadAll(io.LimitReader(a.Body, 2<<20))
	if err != nil {
		return err
	}
	if _, err := evidence.Parse(b); err != nil {
		return err
	}
	f, err := os.OpenFile(c.Out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("cannot write the evidence: %w; name a new file with -o", err)
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

// serveGap answers /gap on the socket: evidence of what is missing here of a box, in this peer's word.
func (p *peer) serveGap(w http.ResponseWriter, q *http.Request) {
	id, err := record.ParseBoxID(q.URL.Query().Get("box"))
	box, work := p.store.Find(id), p.works()[id]
	if err != nil || box == nil || work == nil {
		http.NotFound(w, q)
		return
	}
	var f *evidence.File
	others, err := io.ReadAll(io.LimitReader(q.Body, 2<<20))
	if len(others) > 0 {
		f, err = p.sameGap(box, others)
	} else if err == nil {
		gaps := box.Gaps()
		if g := work.State().Gap; g != nil {
			gaps = append(gaps, store.Gap{From: g.From, To: g.To})
		}
		f, err = missing(box, gaps, q.URL.Query().Get("record"))
	}
	if err == nil && f == nil {
		http.NotFound(w, q)
		return
	}
	var b []byte
	if err == nil {
		if err = f.Say(*p.witness.Card, p.secret, time.Now()); err == nil {
			b, err = f.Bytes()
		}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	w.Write(b)
}

// missing begins the evidence of the first gap, or of the one in which a record is missing.
func missing(box *store.Box, gaps []store.Gap, which string) (*evidence.File, error) {
	slices.SortFunc(gaps, func(a, b store.Gap) int { return cmp.Compare(a.From, b.From) })
	for _, g := range gaps {
		if which != "" {
			n, err := strconv.ParseUint(which, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("cannot make evidence of record %q: it is no index", which)
			}
			if n < g.From || n >= g.To {
				continue
			}
		}
		if f, err := box.Missing(g.From, g.To); f != nil || err != nil {
			return f, err
		}
	}
	return nil, nil
}

// sameGap reads another peer's evidence of a gap that this peer has too.
func (p *peer) sameGap(box *store.Box, text []byte) (*evidence.File, error) {
	f, err := evidence.Parse(text)
	if err != nil {
		return nil, err
	}
	found, err := f.Verify(p.witness.Authority)
	if err != nil {
		return nil, err
	}
	if found.Kind != evidence.Gap || found.Box != box.ID || !had(box.Registration(), found.Key) {
		return nil, errOtherKey
	}
	held, err := box.Holds(f.From, f.To)
	if held {
		err = fmt.Errorf("cannot add a word to the evidence: this peer has records between %d and %d", f.From, f.To-1)
	}
	return f, err
}
