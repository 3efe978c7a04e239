package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vitalgate/vitalgate/peer/facility"
	"github.com/vitalgate/vitalgate/peer/registry"
	"github.com/vitalgate/vitalgate/peer/starts"
	"github.com/vitalgate/vitalgate/record"
)

// line is one verified record as a person or a program reads it.
type line struct {
	Box        string          `json:"box"`
	Index      uint64          `json:"index"`
	Kind       record.Kind     `json:"kind"`
	Checkpoint checkpointLine  `json:"checkpoint"`
	Protection string          `json:"protection"` // as this peer judges it
	Patient    string          `json:"patient,omitempty"`
	Observed   *time.Time      `json:"observed,omitempty"`
	Arrived    *time.Time      `json:"arrived,omitempty"`
	Monitor    string          `json:"monitor,omitempty"`
	Notes      []string        `json:"notes,omitempty"`
	Reason     string          `json:"reason,omitempty"` // why there is no Bundle
	Bundle     json.RawMessage `json:"bundle,omitempty"`
	Raw        []byte          `json:"raw,omitempty"`        // base64, where there is no Bundle
	Commitment string          `json:"commitment,omitempty"` // base64, of a sealed record
	Sealed     string          `json:"sealed,omitempty"`     // why the content is not shown
	Start      *starts.Start   `json:"start,omitempty"`      // what a boot leaf is taken for
}

type checkpointLine struct {
	Size    uint64 `json:"size"`
	Root    string `json:"root"` // base64
	Boot    uint32 `json:"boot"`
	Clock   uint64 `json:"clock"` // ms, of the box's TPM
	Counter uint64 `json:"counter"`
	Claim   string `json:"claim"` // protection in the box's own word
}

// reader verifies the records of one box and opens them.
type reader struct {
	source   source
	reg      *registry.Registration
	verifier *registry.Verifier
	opener   *record.Opener // nil: sealed
	keys     facility.Dir   // where keys come to while it reads; "": nowhere
	mark     string         // of keys, when they were last read
	starts   []starts.Start // of the box, as far as was asked
	asked    time.Time
}

func newReader(src source, r *registry.Registration, opener *record.Opener) *reader {
	return &reader{source: src, reg: r, verifier: r.Verifier(), opener: opener}
}

// refuses says why no reader gets a record with this header; "" where they do. Records must come in their order.
func (r *reader) refuses(ctx context.Context, h record.Header) (string, error) {
	if reason := r.reg.Refuses(h); reason != "" {
		return "the registry does not grant it to the box (" + reason + ")", nil
	}
	// A start may be judged anew: a gap before it was mended. A box may write boot leaves without end.
	if time.Since(r.asked) >= time.Second || h.Kind == record.KindBoot && (len(r.starts) == 0 || h.Index > r.starts[len(r.starts)-1].Index) {
		all, err := r.source.Starts(ctx, r.reg.ID())
		if err != nil {
			return "", err
		}
		r.starts, r.asked = all, time.Now()
	}
	if s := starts.Withheld(r.starts, h.Index); s != nil && !h.Kind.Control() {
		return fmt.Sprintf("the TPM of the box has not said what the box tells of its start at record %d (%s)", s.Index, s.Verdict), nil
	}
	return "", nil
}

// open is the content of a record. Where none of the keys fits, keys that have come since are taken up.
func (r *reader) open(ctx context.Context, v record.Verified) (record.Content, error) {
	c, err := r.openWith(ctx, v)
	if !errors.Is(err, record.ErrNoKey) || r.keys == "" {
		return c, err
	}
	mark := r.keys.ReaderMark() // before the keys: one that comes meanwhile is read the next time
	if mark == r.mark {
		return c, err
	}
	opener, fault := r.keys.Opener()
	if fault != nil || opener == nil {
		return c, errors.Join(err, fault)
	}
	r.opener, r.mark = opener, mark
	return r.openWith(ctx, v)
}

// openWith opens with the keys at hand. Where the epoch's leaf was not seen yet, it is fetched from the store.
func (r *reader) openWith(ctx context.Context, v record.Verified) (record.Content, error) {
	c, err := r.opener.Open(v)
	if !errors.Is(err, record.ErrUnknownEpoch) {
		return c, err
	}
	found := errors.New("found")
	err = r.source.Records(ctx, r.reg.ID(), v.Header().Epoch, false, func(p record.Published) error {
		e, err := record.Verify(p, r.reg.ID(), r.reg.KeyAt(p.Index))
		if err != nil {
			return err
		}
		if _, err := r.opener.Open(e); !errors.Is(err, record.ErrNoContent) {
			return err
		}
		return found
	})
	if err != found {
		return record.Content{}, err
	}
	return r.opener.Open(v)
}

// stored is a record of the box, verified; ok is false where it is not here.
func (r *reader) stored(ctx context.Context, index uint64) (v record.Verified, ok bool) {
	r.source.Records(ctx, r.reg.ID(), index, false, func(p record.Published) (err error) {
		if p.Index == index {
			v, err = record.Verify(p, r.reg.ID(), r.reg.KeyAt(index))
			ok = err == nil
		}
		return errEnough
	})
	return v, ok
}

// line verifies one record and says what it holds. ok is false for what no reader gets: control leaves, unless all is
// wanted, and what the registry does not grant.
func (r *reader) line(ctx context.Context, p record.Published, all bool) (l line, ok bool, err error) {
	v, err := r.verifier.Verify(p)
	if err != nil {
		return l, false, fmt.Errorf("record %d of box %s in the store does not verify: %w; see vitalpeer verify and fsck", p.Index, r.reg.Box, err)
	}
	h, c := v.Header(), v.Checkpoint()
	if why, err := r.refuses(ctx, h); err != nil || why != "" {
		return l, false, err
	}
	l = line{Box: h.Box.String(), Index: h.Index, Kind: h.Kind, Protection: r.reg.Protection(), Patient: h.Patient,
		Observed: timeOrNil(h.Observed), Arrived: timeOrNil(h.Arrived),
		Checkpoint: checkpointLine{c.Size, base64.StdEncoding.EncodeToString(c.Root[:]), c.Boot, c.Clock, c.Counter, c.Protection}}
	if h.Kind.Control() {
		if r.opener != nil && h.Kind == record.KindEpoch {
			r.opener.Open(v) // learns the epoch, or that there is no key for it
		}
		if h.Kind == record.KindBoot {
			if s := starts.At(r.starts, h.Index); s != nil && s.Index == h.Index {
				l.Start = s
			}
		}
		return l, all, nil
	}
	l.Commitment = base64.StdEncoding.EncodeToString(h.Commit[:])
	if r.opener == nil {
		l.Sealed = "this peer has no reader key, or --sealed was given"
		return l, true, nil
	}
	content, err := r.open(ctx, v)
	if err != nil {
		if ctx.Err() != nil {
			return l, false, ctx.Err()
		}
		l.Sealed = err.Error()
		return l, true, nil
	}
	if r.reg.RefusesMonitor(h.Index, content.Monitor) {
		return l, false, nil
	}
	l.Commitment = "" // it was checked
	l.Monitor, l.Notes, l.Reason = content.Monitor, content.Notes, content.Reason
	if json.Valid(content.Bundle) {
		l.Bundle = content.Bundle
	} else {
		l.Raw = content.Raw
	}
	return l, true, nil
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// tail writes the records of boxes as NDJSON. Without box it is all registered ones; following, also those that are
// registered meanwhile.
type tail struct {
	dir    facility.Dir
	source source
	box    string
	from   uint64
	follow bool
	sealed bool
	all    bool
	flush  func() error

	mu  sync.Mutex
	out *bufio.Writer
}

func (t *tail) run(ctx context.Context, w io.Writer) error {
	t.out = bufio.NewWriterSize(w, 64<<10)
	defer t.out.Flush()
	g, ctx := errgroup.WithContext(ctx)
	started := map[string]bool{}
	mark := "none yet"
	for {
		if now := t.dir.Registry().Mark(); now != mark {
			mark = now
			s, err := t.dir.Registry().Load()
			if err != nil && len(s.Boxes) == 0 {
				return err
			}
			found := false
			for _, r := range s.Boxes {
				if t.box != "" && r.Box != t.box {
					continue
				}
				found = true
				if started[r.Box] {
					continue
				}
				started[r.Box] = true
				if !t.follow {
					if err := t.one(ctx, r); err != nil {
						return err
					}
					continue
				}
				g.Go(func() error { return t.one(ctx, r) })
			}
			if t.box != "" && !found {
				return fmt.Errorf("cannot find box %q: it is not registered here; vitalpeer box list --data %s shows all", t.box, t.dir)
			}
		}
		if !t.follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return g.Wait()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// takenIn is how long a running peer may take until it knows what has just been registered.
const takenIn = 3 * time.Second

func (t *tail) one(ctx context.Context, r *registry.Registration) error {
	var opener *record.Opener
	if !t.sealed {
		var err error
		if opener, err = t.dir.Opener(); err != nil {
			return err
		}
	}
	rd := newReader(t.source, r, opener)
	rd.keys = t.dir
	begun := time.Now()
	for {
		err := t.source.Records(ctx, r.ID(), t.from, t.follow, func(p record.Published) error {
			l, ok, err := rd.line(ctx, p, t.all)
			if err != nil || !ok {
				return err
			}
			return t.write(&l)
		})
		var unknown unknownBox
		if !errors.As(err, &unknown) || !t.follow && time.Since(begun) > takenIn {
			return err
		}
		select { // the running peer has not yet taken in the registration
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(300 * time.Millisecond):
		}
	}
}

func (t *tail) write(l *line) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := json.NewEncoder(t.out)
	e.SetEscapeHTML(false)
	if err := e.Encode(l); err != nil {
		return err
	}
	if !t.follow {
		return nil
	}
	if err := t.out.Flush(); err != nil || t.flush == nil {
		return err
	}
	return t.flush()
}

type tailCmd struct {
	data
	Box    string `placeholder:"F1/GW1" help:"Only this box."`
	From   uint64 `help:"Index of the first record."`
	Follow bool   `short:"f" help:"Go on as records arrive."`
	Sealed bool   `help:"Do not open: headers and commitments only."`
	All    bool   `help:"Also the log's own entries (boot, epoch)."`
}

func (c *tailCmd) Run(ctx context.Context) error {
	src, err := openSource(c.dir())
	if err != nil {
		return err
	}
	defer src.Close()
	t := tail{dir: c.dir(), source: src, box: c.Box, from: c.From, follow: c.Follow, sealed: c.Sealed, all: c.All}
	return t.run(ctx, os.Stdout)
}
