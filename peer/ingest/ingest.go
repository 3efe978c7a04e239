// Package ingest takes the records of one box from its stream in the embedded NATS server into the verified store. It
// keeps its own cursor in the stream, and frees the stream of what lies before it; the stream keeps what lies beyond a gap
// until another peer has filled it.
package ingest

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/vitalgate/vitalgate/peer/store"
)

// What one fsync covers and one request brings into memory: so many records, fewer where records are large.
const (
	batch      = 2048
	batchBytes = 16 << 20
)

// keep is the part of its limit, as a divisor, up to which a stream keeps what has been taken in: enough to begin a lost
// store with, and room for the box while nothing can be taken in.
const keep = 2

// cursor says how far a stream has been taken in. The digest of that message tells whether the stream is still the one
// that was read: a damaged one numbers anew.
type cursor struct {
	Sequence uint64   `json:"sequence"`
	Digest   [32]byte `json:"digest"`
	Size     uint64   `json:"size"` // of the store then
}

// Ingest is the work for one box.
type Ingest struct {
	Stream func(context.Context) (jetstream.Stream, error) // creates it where it is missing
	Box    *store.Box
	Dir    string // of the cursors
	Log    *slog.Logger

	mu     sync.Mutex
	state  State
	stream jetstream.Stream // as last opened
}

// State is how the work stands.
type State struct {
	Cursor uint64    // message of the stream up to which all is stored or set aside
	Last   uint64    // message of the stream, as last seen
	Bytes  uint64    // that the stream holds, as last seen
	Limit  int64     // of Bytes
	Gap    *Gap      // what is missing, if anything
	Behind time.Time // since when the cursor stands before something; zero if it does not
	Err    error     // what keeps the work from going on, nil if nothing does
	Since  time.Time // of Err
}

// Gap is a range of records that neither the stream nor the store has, From up to (not including) To.
type Gap struct {
	From, To uint64
	Since    time.Time
}

// State says how the work stands.
func (g *Ingest) State() State {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.state
	if s.Gap != nil {
		if g.Box.Next() >= s.Gap.To {
			s.Gap = nil
		} else {
			s.Gap = &Gap{max(s.Gap.From, g.Box.Next()), s.Gap.To, s.Gap.Since}
		}
	}
	return s
}

// failed notes what keeps the work from going on; nil that it does.
func (g *Ingest) failed(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state.Err == nil {
		g.state.Since = time.Now()
	}
	g.state.Err = err
}

// at notes where the work is.
func (g *Ingest) at(at *position) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if at.Sequence != g.state.Cursor || at.Sequence >= g.state.Last {
		g.state.Behind = time.Time{}
	}
	g.state.Cursor, g.state.Err = at.Sequence, nil
	switch old := g.state.Gap; {
	case !at.early:
		g.state.Gap = nil
	case old == nil || old.To != at.gap:
		since := time.Now()
		if old != nil {
			since = old.Since
		}
		g.state.Gap = &Gap{g.Box.Next(), at.gap, since}
	}
}

const watchEvery = 2 * time.Second

// watch looks at the stream from time to time, whatever the work does.
func (g *Ingest) watch(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		g.mu.Lock()
		s := g.stream
		g.mu.Unlock()
		if s == nil {
			continue
		}
		ask, cancel := context.WithTimeout(ctx, watchEvery)
		i, err := s.Info(ask)
		cancel()
		if err != nil {
			continue // the work meets it too
		}
		g.mu.Lock()
		g.state.Last, g.state.Bytes, g.state.Limit = i.State.LastSeq, i.State.Bytes, i.Config.MaxBytes
		switch {
		case g.state.Cursor >= i.State.LastSeq:
			g.state.Behind = time.Time{}
		case g.state.Behind.IsZero():
			g.state.Behind = time.Now()
		}
		g.mu.Unlock()
	}
}

// position is where the work is.
type position struct {
	cursor
	looked time.Time // when the size of the stream was last seen
	taken  int64     // about how many bytes were taken in since then
	seen   uint64    // the last message that came
	large  int       // bytes of the largest message of the last group
	gap    uint64    // lowest index that was met beyond a gap; the cursor stays before it
	early  bool      // there is such a gap
}

var errRewind = errors.New("the stream is to be read again from the cursor")

// Run takes in the stream until ctx ends. It returns no error but that of ctx: everything else is tried again.
func (g *Ingest) Run(ctx context.Context) error {
	var watch sync.WaitGroup
	watch.Go(func() { g.watch(ctx) })
	defer watch.Wait()
	said, last := time.Time{}, ""
	for {
		err := g.read(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == errRewind {
			continue
		}
		g.failed(err)
		if text := err.Error(); text != last || time.Since(said) > time.Minute {
			g.Log.Warn("cannot take in the stream of a box, trying again", "box", g.Box.ID.String(), "error", err)
			said, last = time.Now(), text
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func (g *Ingest) read(ctx context.Context) error {
	s, err := g.Stream(ctx)
	if err != nil {
		return err
	}
	var at position
	if at.cursor, err = g.start(ctx, s); err != nil {
		return err
	}
	at.seen = at.Sequence
	g.mu.Lock()
	g.stream = s
	g.mu.Unlock()
	c, err := s.CreateConsumer(ctx, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: at.Sequence + 1,
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, InactiveThreshold: time.Minute,
	})
	if err != nil {
		return fmt.Errorf("cannot read the stream: %w", err)
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		s.DeleteConsumer(end, c.CachedInfo().Name) // it ends by itself otherwise
	}()
	for ctx.Err() == nil {
		if err := g.fetch(ctx, s, c, &at); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// free makes room in the stream when it is more than half full, by removing what is before the cursor: that is stored, or
// set aside. The message at the cursor stays, and with it the count of the stream and the proof that it is the same stream.
func (g *Ingest) free(ctx context.Context, s jetstream.Stream, at *position) error {
	limit := s.CachedInfo().Config.MaxBytes
	if limit <= 0 || at.Sequence <= 1 {
		return nil
	}
	if !at.looked.IsZero() && (at.taken == 0 || at.taken < limit/(4*keep) && time.Since(at.looked) < time.Second) {
		return nil // it has hardly grown
	}
	i, err := s.Info(ctx)
	if err != nil {
		return fmt.Errorf("cannot look at the stream: %w", err)
	}
	at.looked, at.taken = time.Now(), 0
	if i.State.Bytes <= uint64(limit/keep) || i.State.FirstSeq >= at.Sequence {
		return nil
	}
	if err := s.Purge(ctx, jetstream.WithPurgeSequence(at.Sequence)); err != nil {
		return fmt.Errorf("cannot free the stream of what is stored: %w", err)
	}
	return nil
}

// fetch takes in what one request to the stream brings.
func (g *Ingest) fetch(ctx context.Context, s jetstream.Stream, c jetstream.Consumer, at *position) error {
	if err := g.free(ctx, s, at); err != nil {
		return err
	}
	ask, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	batch := max(1, min(batch, batchBytes/max(1, at.large)))
	got, err := c.Fetch(batch, jetstream.FetchContext(ask))
	if err != nil {
		return fmt.Errorf("cannot read the stream: %w", err)
	}
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for open := true; open; {
		var grown <-chan struct{}
		if at.early {
			grown = g.Box.Grown()
			if g.Box.Next() >= at.gap || g.Box.Overdue() {
				return errRewind
			}
		}
		var group []jetstream.Msg
		select {
		case <-grown:
			continue
		case <-look.C:
			if err := g.free(ctx, s, at); err != nil {
				return err
			}
			continue
		case m, ok := <-got.Messages():
			if open = ok; ok {
				group = append(group, m)
			}
		}
		for open && len(group) < batch { // what has come meanwhile shares the fsync
			var m jetstream.Msg
			select {
			case m, open = <-got.Messages():
			default:
			}
			if m == nil {
				break
			}
			group = append(group, m)
		}
		if len(group) > 0 {
			if err := g.take(ctx, s, group, at); err != nil {
				return err
			}
			g.at(at)
			if err := g.free(ctx, s, at); err != nil {
				return err
			}
		}
	}
	if err := got.Error(); err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, jetstream.ErrMsgIteratorClosed) {
		return fmt.Errorf("cannot read the stream: %w", err)
	}
	g.at(at)
	return nil
}

// take offers messages to the store. The cursor stays before the first that lies beyond a gap; when the gap is filled,
// the stream is read again from there.
func (g *Ingest) take(ctx context.Context, stream jetstream.Stream, group []jetstream.Msg, at *position) error {
	messages := make([]store.Message, len(group))
	sequences := make([]uint64, len(group))
	for i, m := range group {
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("cannot read the stream: %w", err)
		}
		sequences[i] = meta.Sequence.Stream
		if sequences[i] != at.seen+1 {
			// What the server has sent when a request is given up is lost to this consumer, and stands in the stream.
			switch _, err := stream.GetMsg(ctx, sequences[i]-1); {
			case err == nil:
				g.Log.Info("messages of a stream did not come through; they are read again", "box", g.Box.ID.String(), "from", at.seen+1, "to", sequences[i])
				return errRewind
			case !errors.Is(err, jetstream.ErrMsgNotFound):
				return fmt.Errorf("cannot read the stream: %w", err)
			}
		}
		at.seen = sequences[i]
		messages[i] = store.Message{Data: m.Data(), Label: fmt.Sprintf("seq-%d", sequences[i])}
	}
	early, err := g.Box.Add("stream", messages)
	if err != nil {
		return err
	}
	at.large = 0
	for _, m := range messages {
		at.taken += int64(len(m.Data)) + 256
		at.large = max(at.large, len(m.Data))
	}
	done := len(messages)
	if early.Count > 0 {
		if !at.early {
			g.Log.Warn("records are missing before those in the stream; waiting for another peer or the box to bring them",
				"box", g.Box.ID.String(), "from", g.Box.Next(), "to", early.Gap)
			at.gap = early.Gap
		}
		at.gap = min(at.gap, early.Gap)
		done = early.First
	}
	if !at.early && done > 0 && g.Box.Pending() == 0 {
		at.cursor = cursor{sequences[done-1], sha256.Sum256(messages[done-1].Data), g.Box.Size()}
		if err := g.save(at.cursor); err != nil {
			return err
		}
	}
	at.early = at.early || early.Count > 0
	return nil
}

// start is where to begin: the cursor that was kept, if the stream and the store are still those that it was kept of,
// else the beginning of the stream. What is known already is dropped by the store.
func (g *Ingest) start(ctx context.Context, s jetstream.Stream) (cursor, error) {
	b, err := os.ReadFile(g.path())
	if errors.Is(err, os.ErrNotExist) {
		return cursor{}, nil
	}
	if err != nil {
		return cursor{}, fmt.Errorf("cannot read the cursor: %w", err)
	}
	var c cursor
	if json.Unmarshal(b, &c) != nil || c.Size > g.Box.Size() {
		return cursor{}, nil
	}
	m, err := s.GetMsg(ctx, c.Sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return cursor{}, nil
	}
	if err != nil {
		return cursor{}, fmt.Errorf("cannot read the stream: %w", err)
	}
	if sha256.Sum256(m.Data) != c.Digest {
		return cursor{}, nil
	}
	return c, nil
}

func (g *Ingest) path() string {
	return filepath.Join(g.Dir, g.Box.ID.Facility, g.Box.ID.Name+".json")
}

// save keeps the cursor, whole or not at all. It is no more than a short cut, so it is not synced.
func (g *Ingest) save(c cursor) error {
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	path := g.path()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("cannot keep the cursor: %w", err)
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return fmt.Errorf("cannot keep the cursor: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("cannot keep the cursor: %w", err)
	}
	return nil
}
