package replicate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/vitalgate/vitalgate/peer/registry"
	"github.com/vitalgate/vitalgate/record"
)

// pullEntries bounds one answer. An entry is at most 64 KiB, and a usual one is one.
const pullEntries = 256

// Registry spreads the registry: who has decided something tells all at once, who has missed something asks. No peer
// is believed: each entry is what the administrators have signed, or refused.
type Registry struct {
	Name    string
	Conn    *nats.Conn // in the peers' account
	Entries *registry.Log
	Take    func(entry []byte) error // takes an entry in and puts it into force
	Log     *slog.Logger
	Links   func() int // connections to other peers now

	mu     sync.Mutex
	asking map[string]bool   // peers that are asked now
	told   map[string]uint64 // how many entries each peer has shown to have
	behind map[string]uint64 // peers that have shown fewer than before, and how many fewer
}

// SetBack are the peers that have lost entries which they had shown before, as after a restored backup.
func (r *Registry) SetBack() (peers []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range r.behind {
		peers = append(peers, p)
	}
	return peers
}

// Run works until ctx ends.
func (r *Registry) Run(ctx context.Context) error {
	r.mu.Lock()
	r.asking, r.told, r.behind = map[string]bool{}, map[string]uint64{}, map[string]uint64{}
	r.mu.Unlock()
	start := r.last()
	says, err := r.Conn.SubscribeSync("peer.say.*.registry")
	if err != nil {
		return fmt.Errorf("cannot listen to the peers: %w", err)
	}
	defer says.Unsubscribe()
	asks, err := r.Conn.SubscribeSync("peer.ask." + r.Name + ".registry")
	if err != nil {
		return fmt.Errorf("cannot listen to the peers: %w", err)
	}
	defer asks.Unsubscribe()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return each(ctx, says, func(m *nats.Msg) { r.heard(ctx, g, m) }) })
	g.Go(func() error { return each(ctx, asks, r.serve) })
	g.Go(func() error { return r.announce(ctx, start) })
	return g.Wait()
}

// announce tells the peers the last entry. The first time it begins with the one that was the last at the start, so that they
// learn of a disk that was set back although they bring it up to date at once.
func (r *Registry) announce(ctx context.Context, start []byte) error {
	tick := time.NewTicker(settle)
	defer tick.Stop()
	said, links := time.Time{}, 0
	for {
		changed := r.Entries.Changed()
		if n := r.Links(); n != links { // who has just come hears of it at once, when it listens
			links, said = n, time.Now().Add(settle-announceEvery)
		}
		if time.Since(said) >= announceEvery {
			if links > 0 {
				r.say(start)
				start = nil
			}
			r.say(r.last())
			said = time.Now()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
			said = time.Time{}
		case <-tick.C:
		}
	}
}

func (r *Registry) last() []byte { return r.Entries.Entries(r.Entries.State().Size-1, 1)[0] }

func (r *Registry) say(entry []byte) {
	if entry == nil {
		return
	}
	if err := r.Conn.Publish("peer.say."+r.Name+".registry", entry); err != nil {
		r.Log.Warn("cannot announce the registry to the peers", "error", err)
	}
}

// Tell tells the peers an entry now, before what it decides cuts one of them off. Whoever misses it asks later.
func (r *Registry) Tell(entry []byte) {
	r.say(entry)
	if err := r.Conn.FlushTimeout(time.Second); err != nil {
		r.Log.Warn("cannot announce the registry to the peers", "error", err)
	}
}

// heard handles the last entry of another peer's registry.
func (r *Registry) heard(ctx context.Context, g *errgroup.Group, m *nats.Msg) {
	peer := strings.Split(m.Subject, ".")[2]
	if peer == r.Name || !(record.BoxID{Facility: "p", Name: peer}).Valid() {
		return
	}
	n, err := registry.Parse(m.Data)
	if err != nil {
		r.refused(peer, err)
		return
	}
	size := r.Entries.State().Size
	if n.Entry.Index > size { // some are missing before it
		r.ask(ctx, g, peer, size)
		return
	}
	if err := r.take(peer, m.Data); err != nil {
		if registry.ReasonOf(err) == registry.ReasonHistory { // its log and ours have parted somewhere
			r.ask(ctx, g, peer, 1)
		}
		return
	}
	shown := n.Entry.Index + 1
	r.mu.Lock()
	defer r.mu.Unlock()
	switch had := r.told[peer]; {
	case shown < had:
		if r.behind[peer] == 0 {
			r.Log.Error("a peer has lost entries of the registry that it had", "of", peer, "had", had, "has", shown)
		}
		r.behind[peer] = had - shown
	default:
		r.told[peer] = shown
		metrics.GetOrCreateGauge(fmt.Sprintf(`vitalpeer_registry_shown{peer=%q}`, peer), nil).Set(float64(shown))
		delete(r.behind, peer)
	}
}

// take takes one entry in, or says why not.
func (r *Registry) take(peer string, entry []byte) error {
	err := r.Take(entry)
	if registry.ReasonOf(err) == registry.ReasonFork {
		err = errors.Join(err, r.Entries.KeepFork(entry))
	}
	if err != nil {
		r.refused(peer, err)
	}
	return err
}

func (r *Registry) refused(peer string, err error) {
	reason := registry.ReasonOf(err)
	r.Log.Warn("refused an entry of the registry that a peer has sent", "from", peer, "reason", string(reason), "error", err)
	metrics.GetOrCreateCounter(fmt.Sprintf(`vitalpeer_registry_refused_total{reason=%q}`, reason)).Inc()
}

type entriesFrom struct {
	From uint64 `json:"from"`
}

// ask asks a peer for its entries from an index on, one request at a time. Those that are known here are compared: where two
// logs have parted, the first entry in which they differ is the evidence.
func (r *Registry) ask(ctx context.Context, g *errgroup.Group, peer string, from uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.asking[peer] {
		return
	}
	r.asking[peer] = true
	g.Go(func() error {
		defer func() {
			r.mu.Lock()
			delete(r.asking, peer)
			r.mu.Unlock()
		}()
		compared := from < r.Entries.State().Size
		for ctx.Err() == nil {
			n, err := r.pull(ctx, peer, from)
			if registry.ReasonOf(err) == registry.ReasonHistory && !compared {
				from, compared = 1, true
				continue
			}
			if err != nil && ctx.Err() == nil {
				r.Log.Debug("cannot pull the registry from a peer", "of", peer, "error", err)
				return nil
			}
			if n == 0 {
				return nil
			}
			from += n
		}
		return ctx.Err()
	})
}

// pull makes one request, and takes in what comes.
func (r *Registry) pull(ctx context.Context, peer string, from uint64) (n uint64, err error) {
	inbox := inbox(r.Name)
	sub, err := r.Conn.SubscribeSync(inbox)
	if err != nil {
		return n, err
	}
	defer sub.Unsubscribe()
	q, err := json.Marshal(entriesFrom{from})
	if err != nil {
		return n, err
	}
	if err := r.Conn.PublishRequest("peer.ask."+peer+".registry", inbox, q); err != nil {
		return n, err
	}
	for n <= pullEntries {
		wait, cancel := context.WithTimeout(ctx, answerTimeout)
		m, err := sub.NextMsgWithContext(wait)
		cancel()
		if err != nil {
			return n, err
		}
		if m.Header.Get(endHeader) != "" || len(m.Data) == 0 {
			return n, nil
		}
		if e, err := registry.Parse(m.Data); err != nil || e.Entry.Index != from+n {
			return n, errors.Join(errors.New("the peer sent something else than was asked for"), err)
		}
		if err := r.take(peer, m.Data); err != nil {
			return n, err
		}
		n++
	}
	return n, errors.New("the peer sent more than was asked for")
}

// serve answers a peer that asks for entries.
func (r *Registry) serve(m *nats.Msg) {
	var q entriesFrom
	d := json.NewDecoder(bytes.NewReader(m.Data))
	d.DisallowUnknownFields()
	if len(m.Data) > maxRequest || d.Decode(&q) != nil || !strings.HasPrefix(m.Reply, "_PEER.") {
		return
	}
	for _, e := range r.Entries.Entries(q.From, pullEntries) {
		if r.Conn.Publish(m.Reply, e) != nil {
			return
		}
	}
	end := nats.NewMsg(m.Reply)
	end.Header.Set(endHeader, "1")
	r.Conn.PublishMsg(end)
}
