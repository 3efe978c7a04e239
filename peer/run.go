package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"sort"
	"strconv"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/vitalgate/vitalgate/peer/facility"
	"github.com/vitalgate/vitalgate/peer/ingest"
	"github.com/vitalgate/vitalgate/peer/node"
	"github.com/vitalgate/vitalgate/peer/registry"
	"github.com/vitalgate/vitalgate/peer/replicate"
	"github.com/vitalgate/vitalgate/peer/store"
	"github.com/vitalgate/vitalgate/peer/view"
	"github.com/vitalgate/vitalgate/peer/witness"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/cosign"
)

type runCmd struct {
	data
	Debug    bool          `help:"Log more."`
	Patience time.Duration `default:"10m" help:"How long missing records may be on their way before later ones are taken without them."`
	Scrub    time.Duration `default:"6h" help:"How often the whole store is read and verified again; what is damaged is asked of other peers; 0: never."`
}

func (c *runCmd) Run(ctx context.Context) error {
	log := newLog(c.Debug)
	for {
		err := run(ctx, c.dir(), log, c.Patience, c.Scrub, nil)
		if !errors.Is(err, errStreams) {
			return err
		}
		log.Warn("starting anew", "why", err)
	}
}

// peer is a running peer.
type peer struct {
	dir   facility.Dir
	conf  *facility.Config
	log   *slog.Logger
	store *store.Store
	node  *node.Node
	js    jetstream.JetStream
	view  *view.View
	page  net.Listener

	registry *registry.Log
	spread   *replicate.Registry
	twins    *replicate.Twins
	enforce  sync.Mutex // one change of the registry is put into force at a time

	witness *witness.Witness
	secret  *cosign.Secret

	mu       sync.Mutex
	state    *registry.State // what is in force
	broken   error           // what of the registry is not in force, and why
	lastLink time.Time
	work     map[record.BoxID]*ingest.Ingest
	untaken  map[string]error // boxes whose store does not open
	damaged  map[record.BoxID]damage
	unread   map[record.BoxID]error  // boxes whose store could not be scrubbed
	keyless  map[record.BoxID]uint64 // boxes whose last records this peer has no reader key for, and the first of them
}

// critical is what a person at the page must know.
func (p *peer) critical() [][2]string {
	if p.node == nil {
		return nil
	}
	return p.status().critical()
}

// stopped says for the page why a box may write no more.
func (p *peer) stopped(id record.BoxID) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.state.Box(id); r != nil {
		return stopped(r)
	}
	return ""
}

// lockPatience is how long run waits for a command to leave the data folder: one that reads a great store takes its time.
const lockPatience = time.Minute

// run runs the peer until ctx ends. started, if not nil, is called when it takes connections.
func run(ctx context.Context, d facility.Dir, log *slog.Logger, patience, scrubEvery time.Duration, started func(*peer)) error {
	conf, err := d.Load()
	if err != nil {
		return err
	}
	unlock, err := lock(d)
	if errors.Is(err, errRunning) {
		log.Info("another vitalpeer works on the data folder; waiting for it", "at most", lockPatience.String())
	}
	for patience := time.Now().Add(lockPatience); errors.Is(err, errRunning) && time.Now().Before(patience) && ctx.Err() == nil; {
		if _, err := (socketSource{d}).status(ctx); err == nil {
			break // it is a running peer
		}
		time.Sleep(50 * time.Millisecond) // a command that reads the files of a stopped peer ends soon
		unlock, err = lock(d)
	}
	if errors.Is(err, errRunning) {
		return fmt.Errorf("cannot run on %s: another vitalpeer works on it; stop it first", d)
	}
	if err != nil {
		return err
	}
	defer unlock()
	p := &peer{dir: d, conf: conf, log: log.With("peer", conf.Facility+"/"+conf.Name), lastLink: time.Now(),
		work: map[record.BoxID]*ingest.Ingest{}, untaken: map[string]error{}, damaged: map[record.BoxID]damage{}, unread: map[record.BoxID]error{}, keyless: map[record.BoxID]uint64{}}
	p.store = store.New(store.Options{Dir: d.Store(), Quarantine: d.Quarantine(), Evidence: d.Evidence(), Starts: d.Starts(), Patience: patience})
	defer p.store.Close()
	opener, err := d.Opener() // a fault of the key file shows at once
	if err != nil {
		return err
	}
	if opener == nil {
		p.log.Info("this peer has no reader key: it verifies and keeps records and shows no content")
	}
	p.view = view.New(view.Options{Title: conf.Facility + " " + conf.Name, Record: p.record, Conditions: p.critical, Stopped: p.stopped})
	defer p.view.Close()

	if conf.Page.Listen != "" {
		if p.page, err = listen(conf.Page.Listen); err != nil {
			return err
		}
		defer p.page.Close()
	}
	nc, err := node.FromFacility(d, conf)
	if err != nil {
		return err
	}
	secret, card, err := d.Cosigner(conf)
	if err != nil {
		return err
	}
	authority, err := d.Authority()
	if err != nil {
		return err
	}
	p.secret = secret
	p.witness = witness.New(witness.Config{Dir: d.Witness(), Secret: secret, Card: card, Authority: authority, Member: p.member})
	if p.registry, err = d.Registry().Open(); err != nil {
		return err
	}
	state := p.registry.State()
	p.state = state
	if state.Facility != conf.Facility {
		return fmt.Errorf("cannot run on %s: its registry is of facility %s, its peer.toml says %s", d, state.Facility, conf.Facility)
	}
	if p.node, err = node.Start(nc, node.FromRegistry(*state), p.log); err != nil {
		return err
	}
	defer p.node.Stop()
	in, err := p.node.Ingest()
	if err != nil {
		return err
	}
	defer in.Close()
	if p.js, err = jetstream.New(in); err != nil {
		return err
	}
	between, err := p.node.Peers()
	if err != nil {
		return err
	}
	defer between.Close()

	g, ctx := errgroup.WithContext(ctx)
	for _, r := range state.Boxes {
		p.take(ctx, g, r)
	}
	take := func(entry []byte) error { return p.decided(ctx, g, entry) }
	p.spread = &replicate.Registry{Name: conf.Name, Conn: between, Entries: p.registry, Take: take, Log: p.log, Links: p.node.Leaves}
	p.twins = &replicate.Twins{Name: conf.Name, Conn: between, Log: p.log, Links: p.node.Leaves}
	g.Go(func() error { return p.spread.Run(ctx) })
	g.Go(func() error { return p.twins.Run(ctx) })
	g.Go(func() error { return p.enforceAgain(ctx, g) })
	g.Go(func() error { return p.followLinks(ctx) })
	g.Go(func() error {
		return (&replicate.Replicator{Name: conf.Name, Conn: between, Store: p.store, Log: p.log, Links: p.node.Leaves, Witness: p.witness}).Run(ctx)
	})
	g.Go(func() error { return p.scrub(ctx, scrubEvery) })
	g.Go(func() error { return p.watchStreams(ctx) })
	socket, err := p.listenSocket()
	if err != nil {
		return err
	}
	defer os.Remove(d.Socket())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /records", p.serveRecords)
	mux.HandleFunc("GET /status", p.serveStatus)
	mux.HandleFunc("GET /starts", p.serveStarts)
	mux.HandleFunc("POST /registry", func(w http.ResponseWriter, q *http.Request) { p.serveDecision(w, q, take) })
	mux.HandleFunc("GET /cosigned", p.serveCosigned)
	mux.HandleFunc("POST /gap", p.serveGap)
	serve(ctx, g, socket, mux, nil)
	if p.page != nil {
		serve(ctx, g, p.page, p.pages(), p.view.Close)
	}
	p.log.Info("running", "boxes", addrText(p.node.BoxAddress()), "peers", conf.Peers.Listen, "hubs", conf.Peers.Hubs, "page", addrText(p.pageAddress()), "registered", len(state.Boxes))
	if started != nil {
		started(p)
	}
	err = g.Wait()
	if errors.Is(err, context.Canceled) {
		p.log.Info("stopped")
		return nil
	}
	return err
}

func (p *peer) pageAddress() net.Addr {
	if p.page == nil {
		return nil
	}
	return p.page.Addr()
}

func addrText(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.String()
}

func listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s for the page: %w; name another address as page.listen in peer.toml", address, err)
	}
	return l, nil
}

// serve serves HTTP until ctx ends, and then waits a second for answers that are under way.
func serve(ctx context.Context, g *errgroup.Group, l net.Listener, h http.Handler, onShutdown func()) {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 1 << 16,
		BaseContext: func(net.Listener) context.Context { return ctx }, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	if onShutdown != nil {
		s.RegisterOnShutdown(onShutdown)
	}
	g.Go(func() error {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("cannot serve %s: %w", l.Addr(), err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if s.Shutdown(end) != nil {
			s.Close()
		}
		return ctx.Err()
	})
}

// take begins to work for a registered box, or takes in what has changed in its registration. The other boxes do not
// suffer if it cannot.
func (p *peer) take(ctx context.Context, g *errgroup.Group, r *registry.Registration) {
	known := p.store.Find(r.ID()) != nil
	b, err := p.store.Box(r)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.log.Error("cannot take a box", "box", r.Box, "error", err)
		p.untaken[r.Box] = err
		return
	}
	delete(p.untaken, r.Box)
	if known {
		return
	}
	work := &ingest.Ingest{Box: b, Dir: p.dir.Cursors(), Log: p.log,
		Stream: func(ctx context.Context) (jetstream.Stream, error) { return p.node.Stream(ctx, p.js, b.ID) }}
	p.work[b.ID] = work
	g.Go(func() error { return work.Run(ctx) })
	g.Go(func() error { return p.show(ctx, b) })
}

// member says whether a peer may be heard as a cosigner: it is registered, or it is one that no decision ever let in, which is
// the hub that made the facility. One that was removed has had its key registered.
func (p *peer) member(name, pin string) bool {
	s := p.registry.State()
	if q := s.Peer(name); q != nil {
		return q.TLSKey == pin
	}
	return s.Holder(pin) == ""
}

// decided takes an entry into the registry and puts what it comes to into force: when it returns, a box that is no longer
// let in is cut off. An entry that is known is no error.
func (p *peer) decided(ctx context.Context, g *errgroup.Group, entry []byte) error {
	p.enforce.Lock()
	defer p.enforce.Unlock()
	before := p.registry.State()
	if err := p.registry.Append(entry); err != nil {
		return err
	}
	s := p.registry.State()
	if s == before && p.notInForce() == nil {
		return nil
	}
	if len(s.Peers) < len(before.Peers) { // who is removed hears why, if he listens, before he is cut off
		p.spread.Tell(entry)
	}
	return p.follow(ctx, g)
}

// notInForce is what of the registry is not in force, and why.
func (p *peer) notInForce() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.broken
}

// enforceAgain tries again what could not be put into force, until it is: nobody may decide anything for days.
func (p *peer) enforceAgain(ctx context.Context, g *errgroup.Group) error {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		p.enforce.Lock()
		if p.notInForce() != nil {
			p.follow(ctx, g) // it has said what fails
		}
		p.enforce.Unlock()
	}
}

// follow puts the registry into force as it is now. It is called under p.enforce.
func (p *peer) follow(ctx context.Context, g *errgroup.Group) error {
	s := p.registry.State()
	for _, r := range s.Boxes { // what stops a box stops it in the store first
		if b := p.store.Find(r.ID()); b != nil {
			p.take(ctx, g, r)
		}
	}
	m := node.FromRegistry(*s)
	began := time.Now()
	broken := p.node.Update(m)
	cut := time.Since(began)
	if broken != nil {
		p.log.Error("cannot follow the registry", "error", broken)
	}
	for _, r := range s.Boxes {
		if p.store.Find(r.ID()) == nil {
			p.take(ctx, g, r)
		}
	}
	p.mu.Lock()
	p.state, p.broken = s, broken
	p.mu.Unlock()
	p.log.Info("the registry has changed", "entries", s.Size, "boxes", len(m.Boxes), "peers", len(m.Peers), "operators", len(m.Operators), "in_force_after", cut.String())
	return broken
}

// followLinks notes when a hub was last connected.
func (p *peer) followLinks(ctx context.Context) error {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if p.node.Leaves() > 0 || len(p.conf.Peers.Hubs) == 0 {
			p.mu.Lock()
			p.lastLink = time.Now()
			p.mu.Unlock()
		}
	}
}

// errStreams ends a peer whose NATS server has given up its streams, so that it starts anew.
var errStreams = errors.New("the NATS server had given up its streams, and there is room on the disk again")

// watchStreams ends the peer when its streams are dead and could live again.
func (p *peer) watchStreams(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if !p.node.Streams() && room(p.dir.Nats()) {
			return errStreams
		}
	}
}

// room says whether something can be written in a folder.
func room(dir string) bool {
	f, err := os.CreateTemp(dir, ".room-")
	if err != nil {
		return false
	}
	defer os.Remove(f.Name())
	_, err = f.Write(make([]byte, 1<<20))
	return errors.Join(err, f.Sync(), f.Close()) == nil
}

// scrub reads the whole store from time to time, and names what is damaged; the replicator mends it from other peers. It does not
// where every is no time.
func (p *peer) scrub(ctx context.Context, every time.Duration) error {
	if every <= 0 {
		return nil
	}
	for wait := min(time.Minute, every); ; wait = every {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		for _, b := range p.store.Boxes() {
			err := b.Scrub(ctx)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			p.mu.Lock()
			if delete(p.unread, b.ID); err != nil {
				p.unread[b.ID] = err
				p.log.Error("cannot scrub", "error", err)
			}
			p.mu.Unlock()
			for _, gap := range b.Gaps() {
				p.log.Warn("records are missing", "box", b.ID.String(), "from", gap.From, "to", gap.To, "why", gap.Why)
			}
		}
	}
}

// damage is a range of records in the store that cannot be read: first up to (not including) end.
type damage struct {
	first, end uint64
	err        error
}

// readable is the first index from which the log can be read: from itself where the fault has passed, the beginning of the
// next file where one is damaged, and from again where nothing after it can be read now.
func readable(b *store.Box, from uint64) uint64 {
	n := int(b.Size() - from)
	i := sort.Search(n, func(i int) bool {
		r := b.Reader(from + uint64(i))
		defer r.Close()
		_, err := r.Next()
		return err == nil
	})
	if i == n {
		return from
	}
	return from + uint64(i)
}

// record finds a stored record for its page.
func (p *peer) record(ctx context.Context, id record.BoxID, index uint64) (v record.Verified, c record.Content, protection string, err error) {
	b := p.store.Find(id)
	if b == nil {
		return v, c, "", unknownBox{id.String()}
	}
	if v, err = b.Get(index); err != nil {
		return v, c, "", err
	}
	reg := b.Registration()
	rd := newReader(storeSource{p.store}, reg, nil)
	if why, err := rd.refuses(ctx, v.Header()); err != nil {
		return record.Verified{}, c, "", err
	} else if why != "" {
		return record.Verified{}, c, "", errors.New("cannot show the record: " + why)
	}
	opener, err := p.dir.Opener()
	if err != nil {
		return v, c, "", err
	}
	if opener != nil {
		rd.opener = opener
		c, err = rd.open(ctx, v)
		if err != nil && !errors.Is(err, record.ErrNoContent) && !errors.Is(err, record.ErrNoKey) {
			return v, c, "", err
		}
		if err == nil && reg.RefusesMonitor(index, c.Monitor) {
			return record.Verified{}, record.Content{}, "", errors.New("the registry does not grant this record to its box")
		}
	}
	return v, c, reg.Protection(), nil
}

// pages is what the page's address serves.
func (p *peer) pages() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", unbound(p.conf.Page.Listen, p.view.Handler()))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", p.serveReady)
	mux.HandleFunc("GET /metrics", p.serveMetrics)
	mux.HandleFunc("GET /api/records", p.serveAPI)
	return mux
}

func (p *peer) serveReady(w http.ResponseWriter, _ *http.Request) { p.status().serveReady(w) }

func (p *peer) serveStatus(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(p.status())
}

func (p *peer) serveMetrics(w http.ResponseWriter, _ *http.Request) {
	var b bytes.Buffer
	metrics.WritePrometheus(&b, true)
	for _, box := range p.store.Boxes() {
		fmt.Fprintf(&b, "vitalpeer_store_records{box=%q} %d\nvitalpeer_store_pending{box=%q} %d\n", box.ID, box.Size(), box.ID, box.Pending())
	}
	for id, w := range p.works() {
		at := w.State()
		missing := uint64(0)
		if at.Gap != nil {
			missing = at.Gap.To - at.Gap.From
		}
		fmt.Fprintf(&b, "vitalpeer_stream_waiting{box=%q} %d\nvitalpeer_stream_bytes{box=%q} %d\nvitalpeer_gap_records{box=%q} %d\n",
			id, max(at.Last, at.Cursor)-at.Cursor, id, at.Bytes, id, missing)
	}
	p.status().writeMetrics(&b)
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	w.Write(b.Bytes())
}

// serveAPI answers /api/records?box=f1/gw1&from=0&follow=1 with NDJSON, as tail prints it.
func (p *peer) serveAPI(w http.ResponseWriter, q *http.Request) {
	if !local(q) {
		http.Error(w, "this address is served to this machine only", http.StatusForbidden)
		return
	}
	t := tail{dir: p.dir, source: storeSource{p.store}, box: q.FormValue("box"), follow: q.FormValue("follow") != "",
		sealed: q.FormValue("sealed") != "", all: q.FormValue("all") != "", flush: http.NewResponseController(w).Flush}
	if s := q.FormValue("from"); s != "" {
		var err error
		if t.from, err = strconv.ParseUint(s, 10, 64); err != nil {
			http.Error(w, "from is not an index", http.StatusBadRequest)
			return
		}
	}
	if t.box != "" {
		id, err := record.ParseBoxID(t.box)
		if err != nil || p.store.Find(id) == nil {
			http.Error(w, "the box is not registered here", http.StatusNotFound)
			return
		}
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	t.flush()
	if err := t.run(q.Context(), w); err != nil && q.Context().Err() == nil {
		p.log.Error("cannot read the verified store", "error", err)
		panic(http.ErrAbortHandler) // the reader must not take it for the whole
	}
}

func (p *peer) works() map[record.BoxID]*ingest.Ingest {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.work)
}

// local says whether a request came in on a loopback address and under a name that no stranger's page can take, because
// the answer holds patient data.
func local(q *http.Request) bool {
	a, ok := q.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && a.IP.IsLoopback() && own(q, "")
}

// own says whether a request calls this address by a number, as localhost, or by the name that it listens on. A stranger's
// web page can have a name of its own point here (DNS rebinding), and then read the answers.
func own(q *http.Request, listen string) bool {
	name := func(s string) string {
		if h, _, err := net.SplitHostPort(s); err == nil {
			return h
		}
		return s
	}
	host := name(q.Host)
	return host == "localhost" || net.ParseIP(host) != nil || host != "" && host == name(listen)
}

// unbound refuses requests under foreign names.
func unbound(listen string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if !own(q, listen) {
			http.Error(w, "call this page by its address, or by the name in page.listen of peer.toml", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, q)
	})
}

// listenSocket opens the socket for commands on this machine; the folder's mode keeps others out.
func (p *peer) listenSocket() (net.Listener, error) {
	os.Remove(p.dir.Socket()) // of a peer that was killed; we hold the lock
	name, done, err := socketName(p.dir)
	if err != nil {
		return nil, err
	}
	defer done()
	l, err := net.Listen("unix", name)
	if err != nil {
		return nil, fmt.Errorf("cannot open the socket for commands: %w", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	return l, os.Chmod(p.dir.Socket(), 0o600)
}
