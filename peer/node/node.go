// Package node runs the NATS server of a peer inside the peer's own process: the listener that boxes publish to, the
// leaf-node listener or remotes that join the peers, one account per box, and the streams. Nothing of it is written by
// hand: every account and permission follows from the registry.
//
// What the network can do at most (all allow-lists, held by tests):
//
//	a box       publishes obs.<facility>.<box>, receives its own acknowledgements under _ACK.<box>., nothing else
//	an operator asks for the state of streams and consumers, receives the answers, never a record
//	a ward peer speaks as itself (peer.say.<name>.>), asks others (peer.ask.>), hears what others say, what it is asked
//	            and the answers to its own requests, nothing else
//	a stranger  gets no byte: the TLS handshake comes first and needs a certificate that is pinned
package node

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/vitalgate/vitalgate/record"
)

// MaxPayload bounds one NATS message, in bytes: the largest published record with room for headers.
const MaxPayload = record.MaxPublished + 64<<10

// Config is what a node needs to know. Addresses are host:port; an empty one means that there is no such listener.
type Config struct {
	Facility string
	Name     string // of this peer, unique in the facility
	Dir      string // JetStream's folder

	ListenBoxes string
	ListenPeers string
	Hubs        []string // leaf-node URLs (tls://host:port) this peer joins

	Certificate string // PEM file, for both listeners and for the remotes
	Key         string // PEM file
	CA          string // PEM file of the facility's authority
	Pin         string // hex SHA-256 of the SubjectPublicKeyInfo of Certificate
	Seed        string // nkey user seed (SU…) for the remotes

	StreamBytes int64 // most bytes a box's stream holds; full, it refuses what the box sends
	StoreBytes  int64 // most bytes of all streams
}

// Box is a box that may publish.
type Box struct {
	ID   record.BoxID
	NKey string // public, U…
	Pin  string // hex SHA-256 of the SubjectPublicKeyInfo of its TLS certificate
}

// Peer is a peer that may join by leaf node.
type Peer struct {
	Name string
	NKey string
	Pin  string
}

// Operator is a person with the nats program.
type Operator struct {
	Name string
	NKey string
	Pin  string
}

// Members are all who may connect.
type Members struct {
	Boxes     []Box
	Peers     []Peer
	Operators []Operator
}

// Node is a running server.
type Node struct {
	config Config
	log    *slog.Logger
	ingest nkeys.KeyPair // of our own connections; they exist in this process only
	peers  nkeys.KeyPair

	mu       sync.Mutex            // guards reloads
	known    map[record.BoxID]bool // accounts that the server has made
	joined   []Peer                // peers that were let in at the last reload
	server   *server.Server
	leafPins atomic.Pointer[map[string]bool] // certificates of ward peers that are let in now
	unwell   atomic.Bool                     // a stream could not be written
}

// Start runs the server and returns once it takes connections.
func Start(c Config, m Members, log *slog.Logger) (*Node, error) {
	for _, a := range []string{c.ListenBoxes, c.ListenPeers} {
		if err := free(a); err != nil {
			return nil, err
		}
	}
	n := &Node{config: c, log: log, known: map[record.BoxID]bool{}, joined: m.Peers}
	for _, b := range m.Boxes {
		n.known[b.ID] = true
	}
	var err error
	if n.ingest, err = nkeys.CreateUser(); err != nil {
		return nil, fmt.Errorf("cannot make a key: %w", err)
	}
	if n.peers, err = nkeys.CreateUser(); err != nil {
		return nil, fmt.Errorf("cannot make a key: %w", err)
	}
	o, err := n.options(m)
	if err != nil {
		return nil, err
	}
	if n.server, err = server.NewServer(o); err != nil {
		return nil, fmt.Errorf("cannot set up the NATS server: %w", err)
	}
	n.server.SetLoggerV2(serverLog{log, &n.unwell}, false, false, false)
	n.server.Start()
	if !n.server.ReadyForConnections(20 * time.Second) {
		n.Stop()
		return nil, errors.New("cannot start the NATS server: it did not become ready; its log lines above say why")
	}
	return n, nil
}

// Update puts the registry's present state into force: accounts, permissions and pinned certificates. Connections
// of what is no longer registered are cut.
func (n *Node) Update(m Members) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	// For a new box twice, because nats-server 2.15.2 makes the account at the first reload and subscribes to its
	// service imports only where it finds the account already there: else the box gets "no responders".
	reloads, now := 1, make(map[record.BoxID]bool, len(m.Boxes))
	for _, b := range m.Boxes {
		now[b.ID] = true
		if !n.known[b.ID] {
			reloads = 2
		}
	}
	n.known = now
	for range reloads {
		o, err := n.options(m)
		if err != nil {
			return err
		}
		if err := n.server.ReloadOptions(o); err != nil {
			return fmt.Errorf("cannot put the registry's change into force in the NATS server: %w; restart vitalpeer", err)
		}
	}
	gone := slices.ContainsFunc(n.joined, func(p Peer) bool { return !slices.Contains(m.Peers, p) })
	n.joined = m.Peers
	if gone {
		return n.cutLeaves()
	}
	return nil
}

// cutLeaves ends the connections of all peers that have joined this one, because a reload of nats-server 2.15.2 leaves those of a
// removed peer as they are, and a connection's own name for itself proves nothing. Who may come back does, within a second or so.
func (n *Node) cutLeaves() error {
	all, err := n.server.Leafz(nil)
	if err != nil {
		return fmt.Errorf("cannot cut off a removed peer: %w; restart vitalpeer", err)
	}
	for _, l := range all.Leafs {
		if !l.IsSpoke {
			n.server.DisconnectClientByID(l.ID) // it may have gone by itself
		}
	}
	return nil
}

// Stop ends the server and waits for it.
func (n *Node) Stop() {
	n.server.Shutdown()
	n.server.WaitForShutdown()
}

// BoxAddress is where boxes connect, PeerAddress where peers do; nil where there is no such listener.
func (n *Node) BoxAddress() net.Addr {
	if n.config.ListenBoxes == "" {
		return nil
	}
	return n.server.Addr()
}

// Leaves is the number of leaf-node connections, in either direction.
func (n *Node) Leaves() int { return n.server.NumLeafNodes() }

// Streams says whether the streams work. The server gives them up when its disk is full, until it is started anew.
//
// nats-server 2.15.2 says of a stream whose disk was full for one write only in its log that it is dead: to who publishes it does not
// answer any more, also when there is room again, until the server starts anew.
func (n *Node) Streams() bool { return n.server.JetStreamEnabled() && !n.unwell.Load() }

// Ingest connects to the account that holds the streams.
func (n *Node) Ingest() (*nats.Conn, error) { return n.connect("ingest", n.ingest, "_INBOX") }

// Peers connects to the account that the peers share. Answers come to _PEER.<name>., which the hub lets through to
// this peer only.
func (n *Node) Peers() (*nats.Conn, error) {
	return n.connect("peers", n.peers, "_PEER."+n.config.Name)
}

func (n *Node) connect(what string, key nkeys.KeyPair, inbox string) (*nats.Conn, error) {
	pub, err := key.PublicKey()
	if err != nil {
		return nil, err
	}
	nc, err := nats.Connect("", nats.InProcessServer(n.server), nats.Nkey(pub, key.Sign), nats.CustomInboxPrefix(inbox),
		nats.Name(n.config.Name+" "+what), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond),
		nats.ErrorHandler(func(_ *nats.Conn, s *nats.Subscription, err error) {
			n.log.Warn("own connection to the NATS server", "account", what, "error", err)
		}))
	if err != nil {
		return nil, fmt.Errorf("cannot connect to the NATS server in this process: %w", err)
	}
	return nc, nil
}

// StreamName is the name of the box's stream.
func StreamName(id record.BoxID) string { return "OBS_" + id.Facility + "_" + id.Name }

// Stream creates or updates the box's stream. Called at every start, it also takes up the data of a stream whose
// description a power cut has destroyed.
//
// What the stream has acknowledged stays until whoever takes it in removes it: full, the stream refuses new messages. It
// denies no purge, because that is how they are removed; nobody but this process can send one (docs/adr/0010).
func (n *Node) Stream(ctx context.Context, js jetstream.JetStream, id record.BoxID) (jetstream.Stream, error) {
	limit := n.config.StreamBytes
	switch old, err := js.Stream(ctx, StreamName(id)); {
	case errors.Is(err, jetstream.ErrStreamNotFound):
	case err != nil:
		return nil, fmt.Errorf("cannot look at the stream of box %s: %w", id, err)
	case old.CachedInfo().Config.DenyPurge:
		return nil, fmt.Errorf("cannot use the stream of box %s: an earlier version of vitalpeer made it; run that version until vitalpeer status shows the records of the box, "+
			"then stop it and remove the folder %s; boxes bring again what they still keep", id, n.config.Dir)
	default: // The server meets a lower limit by removing the oldest, so that waits until there is room.
		if c := old.CachedInfo(); c.Config.MaxBytes > limit && c.State.Bytes > uint64(limit)/2 {
			limit = c.Config.MaxBytes
		}
	}
	s, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:               StreamName(id),
		Description:        "records of box " + id.String(),
		Subjects:           []string{id.Subject()},
		Storage:            jetstream.FileStorage,
		Retention:          jetstream.LimitsPolicy,
		Discard:            jetstream.DiscardNew,
		MaxBytes:           limit,
		MaxMsgSize:         int32(MaxPayload),
		Replicas:           1,
		DenyDelete:         true,
		AllowDirect:        true,
		AllowAtomicPublish: true,
	})
	if err != nil {
		return nil, fmt.Errorf("cannot make the stream of box %s: %w", id, err)
	}
	return s, nil
}

// free says whether the address can be listened on, because the server itself would end the process.
func free(address string) error {
	if address == "" {
		return nil
	}
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("cannot listen on %s: another program holds this port; stop it, or name another address in peer.toml", address)
	}
	if err != nil {
		return fmt.Errorf("cannot listen on %s: %w; name another address in peer.toml", address, err)
	}
	return l.Close()
}

func (n *Node) options(m Members) (*server.Options, error) {
	text, err := n.text(m)
	if err != nil {
		return nil, err
	}
	o := &server.Options{}
	if err := o.ProcessConfigString(text); err != nil {
		return nil, fmt.Errorf("cannot configure the NATS server: %w", err)
	}
	o.NoSigs, o.DisableJetStreamBanner = true, true
	o.DontListen = n.config.ListenBoxes == ""
	clients, leaves := map[string]bool{}, map[string]bool{n.config.Pin: true}
	for _, b := range m.Boxes {
		clients[b.Pin] = true
	}
	for _, o := range m.Operators {
		clients[o.Pin] = true
	}
	for _, p := range m.Peers {
		leaves[p.Pin] = true
	}
	if o.TLSConfig != nil {
		o.TLSConfig.VerifyConnection = pinned(clients)
	}
	if o.LeafNode.TLSConfig != nil {
		n.leafPins.Store(&leaves)
		o.LeafNode.TLSConfig.VerifyConnection = func(s tls.ConnectionState) error { return pinned(*n.leafPins.Load())(s) }
	}
	return o, nil
}

// pinned lets only registered certificates through the TLS handshake. The server's own pinned_certs would cut our in-process
// connections, which have no certificate, at every change of the registry, and cannot be changed for leaf nodes while it runs.
func pinned(pins map[string]bool) func(tls.ConnectionState) error {
	return func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 {
			return errors.New("no client certificate")
		}
		sum := sha256.Sum256(s.PeerCertificates[0].RawSubjectPublicKeyInfo)
		if !pins[hex.EncodeToString(sum[:])] {
			return errors.New("the client certificate is not registered")
		}
		return nil
	}
}

// text is the server's whole configuration. It holds this peer's seed, so it is never written or logged.
func (n *Node) text(m Members) (string, error) {
	c := &n.config
	ingest, err := n.ingest.PublicKey()
	if err != nil {
		return "", err
	}
	own, err := n.peers.PublicKey()
	if err != nil {
		return "", err
	}
	var t text
	t.line(`server_name: %s`, c.Facility+"-"+c.Name)
	host, port, err := hostPort(c.ListenBoxes)
	if err != nil {
		return "", err
	}
	t.line(`host: %s`, host)
	t.raw("port: " + port)
	t.raw(`max_payload: ` + fmt.Sprint(MaxPayload))
	t.raw(`max_control_line: 4096
ping_interval: "5s"
ping_max: 2
write_deadline: "5s"
lame_duck_duration: "30s"
lame_duck_grace_period: "1s"
logtime: false`)
	if c.ListenBoxes != "" {
		t.raw("tls {")
		t.tls(c)
		t.raw("verify: true\nhandshake_first: true\ntimeout: 20\n}") // the TPM of a box signs in it, which may take seconds
	}
	t.raw("jetstream {")
	t.line(`store_dir: %s`, filepath.Join(c.Dir, "nats"))
	t.raw(fmt.Sprintf("sync_interval: always\nmax_memory_store: %d\nmax_file_store: %d\n}", 64<<20, c.StoreBytes))

	if c.ListenPeers != "" || len(c.Hubs) > 0 {
		t.raw("leafnodes {\nreconnect: \"1s\"\nno_advertise: true\ncompression: off\nisolate_leafnode_interest: true")
		if c.ListenPeers != "" {
			host, port, err := hostPort(c.ListenPeers)
			if err != nil {
				return "", err
			}
			t.line(`host: %s`, host)
			t.raw("port: " + port + "\ntls {")
			t.tls(c)
			t.raw("verify: true\nhandshake_first: true\ntimeout: 3\n}")
		}
		if len(c.Hubs) > 0 {
			t.raw("remotes: [ {")
			t.list("urls", c.Hubs)
			t.line(`account: PEERS`)
			t.line(`nkey: %s`, c.Seed)
			t.raw("no_randomize: true\nignore_discovered_servers: true\ncompression: off\ndial_timeout: \"5s\"\nfirst_info_timeout: \"5s\"\ntls {")
			t.tls(c)
			t.raw("handshake_first: true\ntimeout: 3\n}\n} ]")
		}
		t.raw("}")
	}

	t.raw("accounts {\nINGEST {\njetstream: enabled\nusers: [ {")
	t.line(`nkey: %s`, ingest)
	t.raw("allowed_connection_types: [\"IN_PROCESS\"]\n}")
	for _, o := range m.Operators {
		t.line(`{ nkey: %s, allowed_connection_types: ["STANDARD"], permissions {`, o.NKey)
		t.raw("publish {")
		t.list("allow", []string{"$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.INFO.*", "$JS.API.CONSUMER.NAMES.*", "$JS.API.CONSUMER.LIST.*", "$JS.API.CONSUMER.INFO.*.*"})
		t.raw("}\nsubscribe {")
		t.list("allow", []string{"_OPERATOR." + o.Name + ".>"})
		t.raw("} } }")
	}
	t.raw("]\nexports: [")
	for _, b := range m.Boxes {
		t.line(`{ service: %s, accounts: [ %s ] }`, b.ID.Subject(), account(b.ID))
	}
	t.raw("]\n}\nPEERS {\nusers: [ {")
	t.line(`nkey: %s`, own)
	t.raw("allowed_connection_types: [\"IN_PROCESS\"]\n}")
	for _, p := range m.Peers {
		// What it says bears its name, so no peer speaks in another's.
		t.line(`{ nkey: %s, allowed_connection_types: ["LEAFNODE"], permissions {`, p.NKey)
		t.raw("publish {")
		t.list("allow", []string{"peer.say." + p.Name + ".>", "peer.ask.>", "_PEER.*.>"})
		t.raw("}\nsubscribe {")
		t.list("allow", []string{"peer.say.>", "peer.ask." + p.Name + ".>", "_PEER." + p.Name + ".>"})
		t.raw("} } }")
	}
	t.raw("]\n}")
	for _, b := range m.Boxes {
		t.line(`%s {`, account(b.ID))
		t.line(`imports: [ { service: { account: INGEST, subject: %s } } ]`, b.ID.Subject())
		// Two connections, because the server may not have noticed yet that the first one is dead.
		t.raw(fmt.Sprintf("limits { max_connections: 2, max_subscriptions: 8, max_leafnodes: 0, max_payload: %d }", MaxPayload))
		t.line(`users: [ { nkey: %s, allowed_connection_types: ["STANDARD"], permissions {`, b.NKey)
		t.raw("publish {")
		t.list("allow", []string{b.ID.Subject()})
		t.raw("}\nsubscribe {")
		t.list("allow", []string{"_ACK." + b.ID.Name + ".>"})
		t.raw("} } } ]\n}")
	}
	t.raw("}")
	return t.String(), nil
}

// account is the name of the box's account. Neither part holds "_", so no two boxes share one.
func account(id record.BoxID) string { return "BOX_" + id.Facility + "_" + id.Name }

// hostPort splits an address for the server, to which port -1 means any free one.
func hostPort(address string) (host, port string, err error) {
	if address == "" {
		return "127.0.0.1", "-1", nil
	}
	if host, port, err = net.SplitHostPort(address); err != nil {
		return "", "", fmt.Errorf("cannot listen on %q: write host:port", address)
	}
	if port == "0" {
		port = "-1"
	}
	return host, port, nil
}
