package link

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/vitalgate/vitalgate/firmware/spool"
	"github.com/vitalgate/vitalgate/leaktest"
	"github.com/vitalgate/vitalgate/record"
)

var box = record.BoxID{Facility: "f1", Name: "gw1"}

const serverEnv = "LINK_TEST_NATS_CONFIG"

// TestMain is also the program of the leaf nodes, so that they can be killed with -9.
func TestMain(m *testing.M) {
	if conf := os.Getenv(serverEnv); conf != "" {
		if err := serve(conf); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	leaktest.Main(m)
}

func serve(conf string) error {
	o, err := server.ProcessConfigFile(conf)
	if err != nil {
		return err
	}
	o.NoSigs = true
	s, err := server.NewServer(o)
	if err != nil {
		return err
	}
	s.Start()
	go func() { // ends with the test, however that ends
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	s.WaitForShutdown()
	return nil
}

// identity is a NATS user key.
type identity struct {
	nkeys.KeyPair
	public string
}

func newIdentity(t testing.TB) identity {
	t.Helper()
	kp, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return identity{kp, pub}
}

// leafServer is a real nats-server in its own process, configured as a ward peer configures it for box f1/gw1.
type leafServer struct {
	t       testing.TB
	dir     string
	address string
	peer    identity    // of the peer itself, account INGEST
	tls     *tls.Config // of the peer itself; nil without TLS
	cmd     *exec.Cmd
	alive   io.Closer
}

const serverConfig = `
server_name: ward1
listen: %q
max_payload: 8MB
ping_interval: "5s"
ping_max: 2
no_system_account: true
%s
jetstream { store_dir: %q, sync_interval: always, max_memory_store: 16MB, max_file_store: 1GB }
accounts {
  INGEST {
    jetstream: enabled
    users: [ {nkey: %s} ]
    exports: [ {service: "obs.f1.gw1", accounts: [BOX_f1_gw1]} ]
  }
  BOX_f1_gw1 {
    imports: [ {service: {account: INGEST, subject: "obs.f1.gw1"}} ]
    limits { max_connections: 4, max_subscriptions: 8, max_payload: 8MB }
    users: [ {
      nkey: %s
      allowed_connection_types: ["STANDARD"]
      permissions { publish { allow: ["obs.f1.gw1"] }, subscribe { allow: ["_ACK.gw1.>"] } }
    } ]
  }
}
`

// newLeafServer configures a leaf node for the box and starts it with an empty stream. tlsBlock is "" or the tls{} of the
// configuration.
func newLeafServer(t testing.TB, boxKey identity, tlsBlock string, peerTLS *tls.Config) *leafServer {
	t.Helper()
	s := &leafServer{t: t, dir: t.TempDir(), peer: newIdentity(t), tls: peerTLS}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = l.Addr().String()
	l.Close()
	conf := fmt.Sprintf(serverConfig, s.address, tlsBlock, s.store(), s.peer.public, boxKey.public)
	if err := os.WriteFile(s.config(), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.kill)
	s.start()
	return s
}

func (s *leafServer) store() string  { return filepath.Join(s.dir, "js") }
func (s *leafServer) config() string { return filepath.Join(s.dir, "nats.conf") }

func (s *leafServer) start() {
	s.t.Helper()
	s.startWithoutStream()
	s.withPeer(func(js jetstream.JetStream) {
		if _, err := js.CreateOrUpdateStream(context.Background(), jetstream.StreamConfig{
			Name: "OBS_f1_gw1", Subjects: []string{"obs.f1.gw1"}, Storage: jetstream.FileStorage, Replicas: 1,
			AllowAtomicPublish: true, DenyDelete: true, DenyPurge: true, Discard: jetstream.DiscardNew}); err != nil {
			s.t.Fatal(err)
		}
	})
}

func (s *leafServer) startWithoutStream() {
	s.t.Helper()
	s.cmd = exec.Command(os.Args[0], "-test.run=^$")
	s.cmd.Env = append(os.Environ(), serverEnv+"="+s.config())
	in, err := s.cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	s.alive = in
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	eventually(s.t, "the leaf node listens", func() bool {
		c, err := net.Dial("tcp", s.address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// kill is kill -9.
func (s *leafServer) kill() {
	if s.cmd != nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
		s.alive.Close()
		s.cmd = nil
	}
}

func (s *leafServer) url() string {
	if s.tls != nil {
		return "tls://" + s.address
	}
	return "nats://" + s.address
}

// withPeer lends the connection of the peer itself.
func (s *leafServer) withPeer(use func(jetstream.JetStream)) {
	s.t.Helper()
	opts := []nats.Option{nats.Nkey(s.peer.public, s.peer.Sign), nats.MaxReconnects(0)}
	if s.tls != nil {
		opts = append(opts, nats.Secure(s.tls), nats.TLSHandshakeFirst())
	}
	var nc *nats.Conn
	eventually(s.t, "the peer can connect", func() bool {
		var err error
		nc, err = nats.Connect(s.url(), opts...)
		return err == nil
	})
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		s.t.Fatal(err)
	}
	use(js)
}

// messages reads the whole stream.
func (s *leafServer) messages() (all [][]byte) {
	s.t.Helper()
	s.withPeer(func(js jetstream.JetStream) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		stream, err := js.Stream(ctx, "OBS_f1_gw1")
		if err != nil {
			s.t.Fatal(err)
		}
		n := int(stream.CachedInfo().State.Msgs)
		c, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
		if err != nil {
			s.t.Fatal(err)
		}
		for len(all) < n {
			batch, err := c.Fetch(min(n-len(all), 500), jetstream.FetchMaxWait(5*time.Second))
			if err != nil {
				s.t.Fatal(err)
			}
			for m := range batch.Messages() {
				all = append(all, m.Data())
			}
			if batch.Error() != nil {
				s.t.Fatal(batch.Error())
			}
		}
	})
	return all
}

// stored gives the indexes of the stream's records in their order, each record verified with the box's key.
func (s *leafServer) stored(key *ecdsa.PublicKey) (indexes []uint64) {
	s.t.Helper()
	verifier := record.NewVerifier(box, key)
	for _, m := range s.messages() {
		p, err := record.ParsePublished(m)
		if err != nil {
			s.t.Fatal(err)
		}
		if _, err := verifier.Verify(p); err != nil {
			s.t.Fatal(err)
		}
		indexes = append(indexes, p.Index)
	}
	return indexes
}

// length is the number of messages of the stream.
func (s *leafServer) length() (n uint64) {
	s.t.Helper()
	s.withPeer(func(js jetstream.JetStream) {
		stream, err := js.Stream(context.Background(), "OBS_f1_gw1")
		if err != nil {
			s.t.Fatal(err)
		}
		n = stream.CachedInfo().State.LastSeq
	})
	return n
}

// bedside is the box up to its spool: it keeps and signs records.
type bedside struct {
	t      testing.TB
	spool  *spool.Spool
	dir    string
	key    *ecdsa.PrivateKey
	nkey   identity
	sealer *record.Sealer
	body   []byte // of the records; nil makes short control leaves
}

func newBedside(t testing.TB, o spool.Options) *bedside {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := record.GenerateReaderKey()
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := record.NewSealer(box, []record.ReaderKey{secret.Public()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &bedside{t: t, dir: t.TempDir(), key: key, nkey: newIdentity(t), sealer: sealer}
	b.open(o)
	return b
}

// open opens the spool and starts its committer.
func (b *bedside) open(o spool.Options) {
	b.t.Helper()
	sp, err := spool.Open(b.dir, o)
	if err != nil {
		b.t.Fatal(err)
	}
	b.spool = sp
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- sp.Run(ctx) }()
	b.t.Cleanup(func() {
		stop()
		<-done
		sp.Close()
	})
}

// keep makes n records durable and signs them, under one checkpoint.
func (b *bedside) keep(n int) {
	b.t.Helper()
	done := make(chan error, n)
	for range n {
		leaf := b.leaf(b.spool.Next())
		if err := b.spool.Append([]record.Leaf{leaf}, func(err error) { done <- err }); err != nil {
			b.t.Fatal(err)
		}
	}
	for range n {
		if err := <-done; err != nil {
			b.t.Fatal(err)
		}
	}
	for {
		tree, ok := b.spool.Unsigned()
		if !ok {
			return
		}
		c := record.Checkpoint{Origin: box.Origin(), Size: tree.Size(), Root: tree.Root(), Protection: "software"}
		sc, err := c.Sign(b.key)
		if err != nil {
			b.t.Fatal(err)
		}
		if err := b.spool.AddCheckpoint(sc, c); err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *bedside) leaf(index uint64) record.Leaf {
	b.t.Helper()
	if b.body != nil && index > 0 {
		h := record.Header{Box: box, Index: index, Kind: record.KindVitals, Commit: [32]byte{1}, Arrived: time.Now()}
		return append(h.AppendText(nil), b.body...)
	}
	leaf, err := b.sealer.Boot(index, record.Boot{Protection: "software", Software: "test"})
	if err != nil {
		b.t.Fatal(err)
	}
	return leaf
}

// config is that of a box that returns soon to a better leaf node.
func (b *bedside) config(leaves ...Leaf) Config {
	return Config{Box: box, Leaves: leaves, NKey: b.nkey.public, Sign: b.nkey.Sign, AckTimeout: 10 * time.Second, Overlap: -1, Return: 100 * time.Millisecond}
}

// publish starts a link; stop ends it.
func (b *bedside) publish(cfg Config) (l *Link, stop func()) {
	b.t.Helper()
	l, err := New(cfg, b.spool, slog.New(slog.NewTextHandler(testWriter{b.t}, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("link ended with %v", err)
		}
		eventually(b.t, "no goroutine of the link is left", func() bool {
			stacks := make([]byte, 1<<20)
			stacks = stacks[:runtime.Stack(stacks, true)]
			return !bytes.Contains(stacks, []byte("link.(*session)")) && !bytes.Contains(stacks, []byte("link.(*Link)"))
		})
	})
	b.t.Cleanup(stop)
	return l, stop
}

// testWriter shows the link's log with the test that fails.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	if t, ok := w.t.(*testing.T); ok {
		t.Logf("%s", b)
	}
	return len(b), nil
}

// drained waits until all that is signed is acknowledged.
func (b *bedside) drained() {
	b.t.Helper()
	eventually(b.t, "all is acknowledged", func() bool { return b.spool.Acked() == b.spool.Signed() })
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within two minutes", what)
		}
	}
}

// wantRun wants the indexes from from on, each once and in order.
func wantRun(t testing.TB, got []uint64, from, to uint64) {
	t.Helper()
	if uint64(len(got)) != to-from {
		t.Errorf("%d records are stored, want those from %d to %d", len(got), from, to)
	}
	for i, x := range got {
		if x != from+uint64(i) {
			t.Fatalf("record %d stands where %d should", x, from+uint64(i))
		}
	}
}

func (l *Link) has(code string) bool {
	for _, c := range l.Status().Conditions {
		if c.Code == code {
			return c.Sentence != "" && c.Remedy != ""
		}
	}
	return false
}

// wire is a TCP line to a leaf node that can be cut and can swallow what it carries.
type wire struct {
	t        testing.TB
	listener net.Listener
	to       string

	mu       sync.Mutex
	conns    map[net.Conn]bool
	down     bool // refuses connections
	eatUp    bool // swallows what the box sends
	eatDown  bool // swallows what the leaf node sends
	hold     bool // keeps what the box sends, for release, even when the box has given up the connection
	held     []byte
	heldFor  net.Conn
	accepted int
}

func newWire(t testing.TB, to string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{t: t, listener: l, to: to, conns: map[net.Conn]bool{}}
	go w.serve()
	t.Cleanup(func() {
		l.Close()
		w.cut()
	})
	return w
}

func (w *wire) url(s *leafServer) string {
	return strings.Replace(s.url(), s.address, w.listener.Addr().String(), 1)
}

func (w *wire) serve() {
	for {
		a, err := w.listener.Accept()
		if err != nil {
			return
		}
		w.mu.Lock()
		down := w.down
		w.accepted++
		w.mu.Unlock()
		if down {
			a.Close()
			continue
		}
		b, err := net.Dial("tcp", w.to)
		if err != nil {
			a.Close()
			continue
		}
		w.mu.Lock()
		w.conns[a], w.conns[b] = true, true
		w.mu.Unlock()
		go w.carry(b, a, &w.eatUp)
		go w.carry(a, b, &w.eatDown)
	}
}

func (w *wire) carry(to, from net.Conn, eat *bool) {
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, c := range []net.Conn{to, from} {
			if c != w.heldFor {
				c.Close()
				delete(w.conns, c)
			}
		}
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		w.mu.Lock()
		swallow := *eat
		if w.hold && eat == &w.eatUp && n > 0 {
			w.held, w.heldFor = append(w.held, buf[:n]...), to
			swallow = true
		}
		w.mu.Unlock()
		if n > 0 && !swallow {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// release delivers what was held.
func (w *wire) release() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.held) == 0 {
		w.t.Fatal("nothing was held")
	}
	if _, err := w.heldFor.Write(w.held); err != nil {
		w.t.Fatal(err)
	}
}

func (w *wire) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// cut breaks all connections, but for the far half of one that holds something back.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		if c != w.heldFor {
			c.Close()
		}
	}
}

// authority is the facility's CA, which has made certificates for the leaf node and for the box.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	a.cert, a.key = a.issue(t, "ca")
	a.pool = x509.NewCertPool()
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) issue(t testing.TB, name string) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	parent, signer := a.cert, a.key
	if parent == nil {
		tpl.IsCA, tpl.BasicConstraintsValid, tpl.KeyUsage, tpl.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
		parent, signer = tpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		os.WriteFile(a.file(name+".pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(a.file(name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600)); err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// client is the TLS side of whoever holds the certificate.
func (a *authority) client(cert *x509.Certificate, key *ecdsa.PrivateKey) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: a.pool, Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}}
}

// server is the tls{} of the leaf node's configuration, which lets in the holders of these certificates alone.
func (a *authority) server(allowed ...*x509.Certificate) string {
	var pins []string
	for _, c := range allowed {
		sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
		pins = append(pins, fmt.Sprintf("%q", hex.EncodeToString(sum[:])))
	}
	return fmt.Sprintf(`tls { cert_file: %q, key_file: %q, ca_file: %q, verify: true, handshake_first: true, timeout: 3, min_version: "1.3", pinned_certs: [%s] }`,
		a.file("ward1.pem"), a.file("ward1.key"), a.file("ca.pem"), strings.Join(pins, ","))
}
