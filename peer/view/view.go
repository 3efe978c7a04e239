// Package view is the local web page of a peer: the latest vital signs of each bed with their trends, and for each
// value its provenance: what the monitor said, what was charted, and who vouches for it.
//
// It is for demonstration and audit, on the machine that the peer runs on. It is not a clinical alarm display, and
// says so. It keeps all of it in bounded memory and writes nothing to a disk. The server draws everything, so the page
// works without JavaScript; with it the page follows live.
//
// Rules that the tests hold:
//
//   - A late record never replaces a newer value; an absent value never shows an old number.
//   - Alarms never stand among measurements; values without a standard code never look like those that have one.
//   - The values of one patient never stand under another: a bed has a card for each patient it had.
//   - Whatever a monitor sends is text. Nothing on the page comes from another origin.
package view

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"sync"
	"time"

	"github.com/vitalgate/vitalgate/record"
)

// Options say what a View keeps and how it presents itself.
type Options struct {
	Retention time.Duration // how long a value stays; default 6 h
	Title     string        // default "vitalgate"

	// Hosts are further names (with or without port) by which browsers may call the page. Without any, only
	// "localhost" and IP addresses are taken, and only connections to a loopback address.
	Hosts []string

	// Conditions, if set, says what is critical about this peer now: sentence and remedy, without patient data.
	Conditions func() [][2]string

	// Stopped, if set, says since when and why a box may write no more, "" where it may.
	Stopped func(box record.BoxID) string

	// Record, if set, finds a record that the page no longer holds in memory, for its provenance page.
	Record func(ctx context.Context, box record.BoxID, index uint64) (v record.Verified, c record.Content, protection string, err error)
}

// View holds what the page shows. Its methods may be called from any number of goroutines.
type View struct {
	o   Options
	now func() time.Time

	mu    sync.RWMutex
	state *state

	stream stream
}

// New returns an empty View.
func New(o Options) *View {
	if o.Retention <= 0 {
		o.Retention = 6 * time.Hour
	}
	if o.Title == "" {
		o.Title = "vitalgate"
	}
	return &View{o: o, now: time.Now, state: newState(o.Retention)}
}

// Close ends the event streams, so that an http.Server can shut down (RegisterOnShutdown).
func (v *View) Close() { v.stream.close() }

// Add takes in one verified record and its opened content. protection is the class that this peer established for the
// box's key: "hardware", "emulated" or "software"; any other word is shown as unknown. A record without content (a
// control leaf) is welcome too. Add copies what it keeps; a record it already holds is ignored.
func (v *View) Add(r record.Verified, c record.Content, protection string) {
	v.add(entryOf(r, c, protection))
}

func (v *View) add(e *entry) {
	c, why := readContents(e)
	now := v.now()
	v.mu.Lock()
	v.state.add(e, c, why, now)
	v.mu.Unlock()
	v.stream.notify()
}

// readContents says what the entry's Bundle holds, or why it cannot be shown.
func readContents(e *entry) (c contents, why string) {
	if len(e.bundle) == 0 {
		if e.cut > 0 {
			return c, "its Bundle is too large for this page"
		}
		return c, ""
	}
	c, err := parseBundle(e.bundle, e.kind == string(record.KindAlarm))
	if err != nil {
		return c, "its Bundle cannot be shown: " + err.Error()
	}
	return c, ""
}

func entryOf(r record.Verified, c record.Content, protection string) *entry {
	h, k := r.Header(), r.Checkpoint()
	leaf := record.LeafHash(r.Leaf())
	e := &entry{
		ref:        ref{h.Box.Facility, h.Box.Name, h.Index},
		kind:       string(h.Kind),
		epoch:      h.Epoch,
		pseudonym:  h.Patient,
		observed:   h.Observed,
		arrived:    h.Arrived,
		commit:     hex.EncodeToString(h.Commit[:]),
		leaf:       hex.EncodeToString(leaf[:]),
		protection: protection,
		checkpoint: checkpoint{
			origin:  clean(k.Origin),
			size:    k.Size,
			root:    base64.StdEncoding.EncodeToString(k.Root[:]),
			boot:    k.Boot,
			clock:   time.Duration(min(k.Clock, 1<<53)) * time.Millisecond,
			counter: k.Counter,
			claims:  clean(k.Protection),
		},
		monitor: clean(c.Monitor),
		via:     clean(c.Via),
		reason:  clean(c.Reason),
	}
	for _, n := range c.Notes[:min(len(c.Notes), maxNotes)] {
		e.notes = append(e.notes, clean(n))
	}
	if h.Commit == [sha256.Size]byte{} {
		e.commit = ""
	}
	if len(c.Bundle)+len(c.Raw) <= maxRecordParts {
		e.bundle, e.raw = slices.Clone(c.Bundle), slices.Clone(c.Raw)
		return e
	}
	// Too much to keep: what matters is charted from the Bundle, the rest stays in the store.
	e.cut = len(c.Bundle) + len(c.Raw)
	if len(c.Bundle) <= maxRecordParts {
		e.bundle = slices.Clone(c.Bundle)
	} else if len(c.Raw) <= maxRecordParts {
		e.raw = slices.Clone(c.Raw)
	}
	return e
}
