// Package replicate keeps the verified stores of the peers equal. Each peer announces how far the log of each box
// reaches, with the box's signed checkpoint, and pulls what it lacks from whoever has it. Nothing that comes from a peer
// is believed: heads and records pass the same verification as those from a box.
//
// A peer speaks under its own name only, which the hub holds it to, and asks others under theirs:
//
//	peer.say.<self>.head.<facility>.<box>   the box's checkpoint: after a store has grown, and every few seconds
//	                                        it is cosigned by the peer where it can
//	peer.say.<self>.card                    the peer's cosigning keys: every few seconds
//	peer.ask.<other>.pull.<facility>.<box>  {"from","max"}: answered by up to max messages, one published record each,
//	                                        in order, and an empty one with the header Vitalgate-End
//	peer.say.<self>.registry                the last entry of the registry: when it has changed, and every few seconds
//	peer.ask.<other>.registry               {"from"}: answered likewise, one entry each
//	peer.say.<self>.run                     which run of the peer this is, so that two of one name are noticed (Twins)
package replicate

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/vitalgate/vitalgate/peer/store"
	"github.com/vitalgate/vitalgate/peer/witness"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/logfile"
)

const (
	announceEvery = 3 * time.Second
	cosignEvery   = time.Second           // a cosignature costs a sync and 0.4 ms; what is between two is vouched for by the later one
	announceSoon  = 20 * time.Millisecond // after growth, so that a busy box announces fifty times a second at most
	settle        = 300 * time.Millisecond
	answerTimeout = 5 * time.Second
	pullRecords   = 1000
	pullBytes     = 8 << 20
	maxRequest    = 1 << 16 // bytes of a head or a request
	pullers       = 4       // boxes that are pulled at once
	servers       = 4       // pulls that are answered at once
	endHeader     = "Vitalgate-End"
)

type pull struct {
	From uint64 `json:"from"`
	Max  int    `json:"max"`
}

// said takes apart peer.say.<peer>.head.<facility>.<box>. The checkpoint is not verified yet.
func said(subject string, data []byte) (peer string, id record.BoxID, ok bool) {
	part := strings.Split(subject, ".")
	if len(part) != 6 || len(data) > maxRequest || !(record.BoxID{Facility: "p", Name: part[2]}).Valid() {
		return "", id, false
	}
	return part[2], record.BoxID{Facility: part[4], Name: part[5]}, true
}

// parsePull reads what another peer asks for. Max is within what is answered.
func parsePull(data []byte) (q pull, ok bool) {
	if len(data) > maxRequest {
		return pull{}, false
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if d.Decode(&q) != nil {
		return pull{}, false
	}
	q.Max = min(max(q.Max, 0), pullRecords)
	return q, true
}

// Replicator works for one peer.
type Replicator struct {
	Name  string
	Conn  *nats.Conn // in the peers' account
	Store *store.Store
	Log   *slog.Logger
	Links func() int // connections to other peers now

	Witness *witness.Witness

	mu      sync.Mutex
	wanted  map[record.BoxID]map[string]uint64 // who has more of a box than we have, and how much
	wake    map[record.BoxID]chan struct{}
	served  map[record.BoxID]*serving
	limit   chan struct{}
	serving chan struct{}
}

// serving is where a peer that pulls a log from end to end will go on.
type serving struct {
	reader *logfile.Reader
	rest   []record.Published
	next   uint64
}

// Run works until ctx ends.
func (r *Replicator) Run(ctx context.Context) error {
	r.wanted, r.wake = map[record.BoxID]map[string]uint64{}, map[record.BoxID]chan struct{}{}
	r.served = map[record.BoxID]*serving{}
	r.limit, r.serving = make(chan struct{}, pullers), make(chan struct{}, servers)
	defer func() {
		for _, s := range r.served {
			s.reader.Close()
		}
	}()
	g, ctx := errgroup.WithContext(ctx)
	heads, err := r.Conn.SubscribeSync("peer.say.*.head.*.*")
	if err != nil {
		return fmt.Errorf("cannot listen to the peers: %w", err)
	}
	defer heads.Unsubscribe()
	pulls, err := r.Conn.SubscribeSync("peer.ask." + r.Name + ".pull.*.*")
	if err != nil {
		return fmt.Errorf("cannot listen to the peers: %w", err)
	}
	defer pulls.Unsubscribe()
	cards, err := r.Conn.SubscribeSync("peer.say.*.card")
	if err != nil {
		return fmt.Errorf("cannot listen to the peers: %w", err)
	}
	defer cards.Unsubscribe()
	g.Go(func() error { return each(ctx, cards, r.met) })
	g.Go(func() error { return each(ctx, heads, func(m *nats.Msg) { r.heard(ctx, g, m) }) })
	g.Go(func() error {
		return each(ctx, pulls, func(m *nats.Msg) {
			select {
			case r.serving <- struct{}{}:
			case <-ctx.Done():
				return
			}
			g.Go(func() error {
				defer func() { <-r.serving }()
				r.serve(m)
				return nil
			})
		})
	})
	g.Go(func() error { return r.announce(ctx) })
	g.Go(func() error { return r.mend(ctx) })
	return g.Wait()
}

// each handles the messages of a subscription in turn.
func each(ctx context.Context, s *nats.Subscription, do func(*nats.Msg)) error {
	for {
		m, err := s.NextMsgWithContext(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, nats.ErrSlowConsumer):
			continue // some were dropped; heads and requests come again
		case err != nil:
			return fmt.Errorf("cannot listen to the peers: %w", err)
		}
		do(m)
	}
}

// announce tells the peers how far the logs reach.
func (r *Replicator) announce(ctx context.Context) error {
	type told struct {
		size     uint64
		at       time.Time
		cosigned time.Time
	}
	last := map[record.BoxID]told{}
	links := 0
	card, err := json.Marshal(r.Witness.Card)
	if err != nil {
		return err
	}
	var carded time.Time
	tick := time.NewTicker(announceSoon)
	defer tick.Stop()
	for {
		now := time.Now()
		if n := r.Links(); n != links { // who has just come hears of everything at once, when it listens
			links = n
			for id := range last {
				last[id] = told{last[id].size, now.Add(settle - announceEvery), last[id].cosigned}
			}
			carded = now.Add(settle - announceEvery)
		}
		if now.Sub(carded) >= announceEvery {
			if err := r.Conn.Publish("peer.say."+r.Name+".card", card); err != nil {
				r.Log.Warn("cannot announce to the peers", "error", err)
			}
			carded = now
		}
		for _, b := range r.Store.Boxes() {
			size, t := b.Size(), last[b.ID]
			if size == 0 || size == t.size && now.Sub(t.at) < announceEvery {
				continue
			}
			sc, _ := b.Checkpoint()
			if now.Sub(t.cosigned) >= cosignEvery {
				note, err := r.Witness.Cosign(b.ID, b, now)
				switch {
				case err == nil:
					sc = note
				case !errors.Is(err, witness.ErrBehind):
					r.Log.Warn("cannot cosign", "box", b.ID.String(), "error", err)
				}
				t.cosigned = now
			}
			if err := r.Conn.Publish("peer.say."+r.Name+".head."+b.ID.Facility+"."+b.ID.Name, sc); err != nil {
				r.Log.Warn("cannot announce to the peers", "error", err)
				break
			}
			last[b.ID] = told{size, now, t.cosigned}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// met takes another peer's card.
func (r *Replicator) met(m *nats.Msg) {
	if len(m.Data) > maxRequest || r.Witness.Meet(m.Data) != nil {
		metrics.GetOrCreateCounter(`vitalpeer_cards_refused_total`).Inc()
	}
}

// heard handles what another peer says of its store.
func (r *Replicator) heard(ctx context.Context, g *errgroup.Group, m *nats.Msg) {
	peer, id, ok := said(m.Subject, m.Data)
	b := r.Store.Find(id)
	if b == nil || !ok || peer == r.Name {
		return
	}
	size, err := b.Head("peer "+peer, m.Data)
	if err != nil {
		metrics.GetOrCreateCounter(fmt.Sprintf(`vitalpeer_heads_refused_total{box=%q,reason=%q}`, id, record.ReasonOf(err))).Inc()
		return
	}
	if err := r.Witness.Hear(id, m.Data); err != nil {
		metrics.GetOrCreateCounter(fmt.Sprintf(`vitalpeer_cosignatures_refused_total{box=%q}`, id)).Inc()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	peers := r.wanted[id]
	if peers == nil {
		peers = map[string]uint64{}
		r.wanted[id] = peers
		wake := make(chan struct{}, 1)
		r.wake[id] = wake
		g.Go(func() error { return r.follow(ctx, b, wake) })
	}
	peers[peer] = size // there is one name per peer that the registry lets in
	if size > b.Size() {
		select {
		case r.wake[id] <- struct{}{}:
		default:
		}
	}
}

// follow pulls what others have of the box and we have not, for as long as somebody has.
func (r *Replicator) follow(ctx context.Context, b *store.Box, wake chan struct{}) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wake:
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case r.limit <- struct{}{}:
		}
		for _, peer := range r.ahead(b) {
			if err := r.pullAll(ctx, b, peer); err != nil && ctx.Err() == nil {
				r.Log.Debug("cannot pull records from a peer", "box", b.ID.String(), "peer", peer, "error", err)
			}
		}
		<-r.limit
	}
}

// ahead are the peers that have more than we have, in any order.
func (r *Replicator) ahead(b *store.Box) (peers []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p, size := range r.wanted[b.ID] {
		if size > b.Size() {
			peers = append(peers, p)
		}
	}
	return peers
}

// pullAll pulls from one peer until that has no more for us.
func (r *Replicator) pullAll(ctx context.Context, b *store.Box, peer string) error {
	for ctx.Err() == nil {
		r.mu.Lock()
		more := r.wanted[b.ID][peer] > b.Size()
		r.mu.Unlock()
		if !more {
			return nil
		}
		before := b.Lacks()
		if err := r.pull(ctx, b, peer, before); err != nil {
			return err
		}
		if b.Lacks() == before {
			return errors.New("the peer sent nothing that continues the log")
		}
	}
	return ctx.Err()
}

// inbox is where the answers to one request come in. A peer that was asked before cannot guess it, so it cannot answer in
// another's place.
func inbox(name string) string { return "_PEER." + name + "." + rand.Text() }

// pull makes one request and stores what comes.
func (r *Replicator) pull(ctx context.Context, b *store.Box, peer string, from uint64) error {
	var messages []store.Message
	size, n := 0, uint64(0)
	flush := func() error {
		early, err := b.Add("peer "+peer, messages)
		if err == nil && early.Count > 0 {
			err = errors.New("the peer left out records")
		}
		messages, size = nil, 0
		return err
	}
	var refusal error
	err := r.ask(ctx, b.ID, peer, from, pullRecords, func(data []byte) bool {
		messages = append(messages, store.Message{Data: data, Label: fmt.Sprintf("pull-%s-%d", peer, from+n)})
		n++
		if size += len(data); size > pullBytes {
			refusal = flush()
		}
		return refusal == nil
	})
	if refusal != nil {
		return refusal
	}
	return errors.Join(err, flush())
}

// ask asks a peer for so many records of a box at most, from an index on, and gives each answer to take, until it says no.
func (r *Replicator) ask(ctx context.Context, id record.BoxID, peer string, from, most uint64, take func(data []byte) bool) error {
	inbox := inbox(r.Name)
	sub, err := r.Conn.SubscribeSync(inbox)
	if err != nil {
		return err
	}
	defer sub.Unsubscribe()
	ask, err := json.Marshal(pull{from, int(min(most, pullRecords))})
	if err != nil {
		return err
	}
	if err := r.Conn.PublishRequest("peer.ask."+peer+".pull."+id.Facility+"."+id.Name, inbox, ask); err != nil {
		return err
	}
	for range pullRecords + 1 {
		wait, cancel := context.WithTimeout(ctx, answerTimeout)
		m, err := sub.NextMsgWithContext(wait)
		cancel()
		switch {
		case err != nil:
			return err
		case m.Header.Get(endHeader) != "":
			return nil
		case len(m.Data) == 0: // no responders
			return errors.New("the peer does not answer")
		case !take(m.Data):
			return nil
		}
	}
	return errors.New("the peer sent more than was asked for")
}

// The other peers are asked for what is missing here at once, and a peer that has not got it ever more seldom.
const (
	mendEvery = 3 * time.Second
	mendPause = time.Minute
)

// lack is what one peer was asked for.
type lack struct {
	box  record.BoxID
	from uint64
	peer string
}

// pause is until when a peer is not asked again.
type pause struct {
	until time.Time
	next  time.Duration
}

// mend fills what is missing in the logs here with what other peers have.
func (r *Replicator) mend(ctx context.Context) error {
	tick := time.NewTicker(mendEvery)
	defer tick.Stop()
	pauses := map[lack]pause{}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		maps.DeleteFunc(pauses, func(_ lack, p pause) bool { return time.Since(p.until) > mendPause }) // of gaps that are no more
		for _, b := range r.Store.Boxes() {
			for _, gap := range b.Gaps() {
				r.fill(ctx, b, gap, pauses)
			}
		}
	}
}

// fill asks one peer after another for what a gap lacks.
func (r *Replicator) fill(ctx context.Context, b *store.Box, gap store.Gap, pauses map[lack]pause) {
	r.mu.Lock()
	peers := slices.Sorted(maps.Keys(r.wanted[b.ID]))
	r.mu.Unlock()
	for _, peer := range peers {
		asked := lack{b.ID, gap.From, peer}
		if time.Now().Before(pauses[asked].until) {
			continue
		}
		err := b.Mend(gap, func(from, most uint64, take func([]byte) bool) error { return r.ask(ctx, b.ID, peer, from, most, take) })
		if err == nil {
			r.Log.Info("missing records have been filled in", "box", b.ID.String(), "from", gap.From, "to", gap.To, "peer", peer)
			delete(pauses, asked)
			return
		}
		if ctx.Err() != nil {
			return
		}
		length := min(max(pauses[asked].next, mendEvery), mendPause)
		pauses[asked] = pause{time.Now().Add(length), 2 * length}
		r.Log.Debug("cannot fill in missing records", "box", b.ID.String(), "from", gap.From, "peer", peer, "error", err)
	}
}

// serve answers a pull.
func (r *Replicator) serve(m *nats.Msg) {
	part := strings.Split(m.Subject, ".")
	b := r.Store.Find(record.BoxID{Facility: part[4], Name: part[5]})
	q, ok := parsePull(m.Data)
	if !ok || !strings.HasPrefix(m.Reply, "_PEER.") {
		return
	}
	sent, bytes := 0, 0
	defer func() {
		end := nats.NewMsg(m.Reply)
		end.Header.Set(endHeader, fmt.Sprint(sent))
		r.Conn.PublishMsg(end)
	}()
	if b == nil {
		return
	}
	s := r.resume(b, q.From)
	var data []byte // the connection takes a copy
	for sent < q.Max && bytes < pullBytes {
		if len(s.rest) == 0 {
			var err error
			if s.rest, err = s.reader.Next(); err != nil {
				if m := (*logfile.Missing)(nil); errors.As(err, &m) {
					s.next = m.To
					continue // who asks sees what is left out by its index
				}
				if err != io.EOF {
					r.Log.Error("cannot read the verified store", "box", b.ID.String(), "error", err)
					s.reader.Close()
					return
				}
				break
			}
		}
		var err error
		if data, err = s.rest[0].AppendBinary(data[:0]); err != nil || r.Conn.Publish(m.Reply, data) != nil {
			s.reader.Close()
			return
		}
		s.next = s.rest[0].Index + 1
		s.rest = s.rest[1:]
		sent++
		bytes += len(data)
	}
	r.keep(b, s)
}

// resume takes the reader that stopped at from, or makes one.
func (r *Replicator) resume(b *store.Box, from uint64) *serving {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.served[b.ID]; s != nil && s.next == from {
		delete(r.served, b.ID)
		return s
	}
	return &serving{reader: b.Reader(from), next: from}
}

func (r *Replicator) keep(b *store.Box, s *serving) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.served[b.ID]; old != nil {
		old.reader.Close()
	}
	r.served[b.ID] = s
}
