package replicate

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/vitalgate/vitalgate/record"
)

// Twins notices that two processes run with the keys of one peer, as after an invitation or a data folder was copied. They throw each
// other off the network, and nobody can say which is the right one.
//
// Each run of a peer says its own random name: a peer that was restarted says another one, and never the one before again. Who hears
// one run, another, and the first again has heard two that are alive. It tells so, because the two rarely hear each other.
//
//	peer.say.<self>.run   {"run","twins"}: the run, and the peers that were heard twice: every few seconds
type Twins struct {
	Name  string
	Conn  *nats.Conn // in the peers' account
	Log   *slog.Logger
	Links func() int // connections to other peers now

	run string

	mu    sync.Mutex
	heard map[string]*voice
	own   time.Time // when somebody said that there are two of this peer
}

// voice is what was heard under the name of a peer.
type voice struct {
	run     string
	past    []string    // runs of before, the last ones
	returns []time.Time // when a run of before was heard again, the last times
}

// twice says whether there are two. A message that was late may let a run of before be heard once more, and never again.
func (v *voice) twice(now time.Time) bool {
	return len(v.returns) == enough && now.Sub(v.returns[0]) <= twinsFor
}

const (
	enough   = 3
	twinsFor = time.Minute // a twin that was not heard for so long is gone
	pastRuns = 8
)

// running is the message.
type running struct {
	Run   string   `json:"run"`
	Twins []string `json:"twins,omitempty"`
}

// Run works until ctx ends.
func (t *Twins) Run(ctx context.Context) error {
	t.mu.Lock()
	t.run, t.heard = rand.Text(), map[string]*voice{}
	t.mu.Unlock()
	says, err := t.Conn.SubscribeSync("peer.say.*.run")
	if err != nil {
		return fmt.Errorf("cannot listen to the peers: %w", err)
	}
	defer says.Unsubscribe()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return each(ctx, says, func(m *nats.Msg) { t.hear(strings.Split(m.Subject, ".")[2], m.Data, time.Now()) })
	})
	g.Go(func() error { return t.say(ctx) })
	return g.Wait()
}

// say tells the others this run: at once when one of them has come, and often while one of them has a twin, which hears little.
func (t *Twins) say(ctx context.Context) error {
	tick := time.NewTicker(settle)
	defer tick.Stop()
	said, links := time.Time{}, 0
	for {
		twins := t.of(time.Now())
		if n := t.Links(); n != links {
			links, said = n, time.Now().Add(settle-announceEvery) // who has just come hears of it when it listens
		}
		if time.Since(said) >= announceEvery || len(twins) > 0 {
			m, err := json.Marshal(running{t.run, twins})
			if err != nil {
				return err
			}
			if err := t.Conn.Publish("peer.say."+t.Name+".run", m); err != nil {
				t.Log.Warn("cannot announce to the peers", "error", err)
			}
			said = time.Now()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// hear takes what is said in the name of a peer.
func (t *Twins) hear(peer string, data []byte, now time.Time) {
	var said running
	if len(data) > 4096 || !(record.BoxID{Facility: "p", Name: peer}).Valid() || json.Unmarshal(data, &said) != nil || said.Run == "" {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if peer != t.Name && slices.Contains(said.Twins, t.Name) {
		t.own = now
	}
	v := t.heard[peer]
	switch {
	case v == nil && peer == t.Name:
		v = &voice{run: t.run} // what another run says under our name is of before, unless it is heard after this
		t.heard[peer] = v
	case v == nil:
		t.heard[peer] = &voice{run: said.Run}
		return
	}
	if v.run == said.Run {
		return
	}
	if slices.Contains(v.past, said.Run) {
		before := v.twice(now)
		v.returns = append(v.returns, now)
		v.returns = v.returns[max(0, len(v.returns)-enough):]
		if !before && v.twice(now) {
			t.Log.Error("two peers run with the keys of one", "peer", peer)
		}
	}
	v.past = append(v.past, v.run)
	v.past = v.past[max(0, len(v.past)-pastRuns):]
	v.run = said.Run
}

// Of are the peers that run twice, this one among them.
func (t *Twins) Of() []string { return t.of(time.Now()) }

func (t *Twins) of(now time.Time) (peers []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for p, v := range t.heard {
		if v.twice(now) {
			peers = append(peers, p)
		}
	}
	if !t.own.IsZero() && now.Sub(t.own) <= twinsFor && !slices.Contains(peers, t.Name) {
		peers = append(peers, t.Name)
	}
	slices.Sort(peers)
	return peers
}
