package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/vitalgate/vitalgate/peer/facility"
	"github.com/vitalgate/vitalgate/peer/peertest"
	"github.com/vitalgate/vitalgate/peer/registry"
	"github.com/vitalgate/vitalgate/peer/store"
)

const marker = "CAPTURED" // in everything that the thief sends

// thief has all that a captured box has: its keys, its certificate, its grant, and the NATS protocol by hand.
type thief struct {
	t     *testing.T
	box   *peertest.Box
	hub   *site
	roots *x509.CertPool
	cert  tls.Certificate

	learned map[string]int // bytes received, by what they are
	odd     []string       // what is none of what it may learn
}

func newThief(t *testing.T, hub *site, box *peertest.Box) *thief {
	t.Helper()
	th := &thief{t: t, box: box, hub: hub, roots: x509.NewCertPool(), learned: map[string]int{}}
	th.roots.AppendCertsFromPEM([]byte(box.Grant().CA))
	block, _ := pem.Decode([]byte(box.Grant().TLSCertificate))
	th.cert = tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: box.TLS}
	return th
}

// wire is a connection whose bytes are counted below TLS, too.
type wire struct {
	net.Conn
	in int
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	w.in += n
	return n, err
}

// dial opens a TLS connection as the box.
func (th *thief) dial(address string, change func(*tls.Config)) (*tls.Conn, *wire, error) {
	raw, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		return nil, nil, err
	}
	w := &wire{Conn: raw}
	c := &tls.Config{RootCAs: th.roots, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{th.cert}}
	if change != nil {
		change(c)
	}
	conn := tls.Client(w, c)
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if err := conn.Handshake(); err != nil {
		raw.Close()
		return nil, w, err
	}
	return conn, w, nil
}

// login is the CONNECT of the box, with fields changed. INFO is read for its nonce.
func (th *thief) login(conn net.Conn, r *bufio.Reader, change func(map[string]any)) error {
	line, err := r.ReadString('\n')
	if err != nil {
		return err
	}
	th.take([]byte(line))
	var info struct{ Nonce string }
	if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "INFO ")), &info); err != nil {
		return err
	}
	sig, err := th.box.NKey.Sign([]byte(info.Nonce))
	if err != nil {
		return err
	}
	public, err := th.box.NKey.PublicKey()
	if err != nil {
		return err
	}
	fields := map[string]any{"verbose": false, "pedantic": false, "headers": true, "no_responders": true, "protocol": 1, "lang": "go", "version": "1",
		"nkey": public, "sig": base64.RawURLEncoding.EncodeToString(sig)}
	if change != nil {
		change(fields)
	}
	b, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(conn, "CONNECT %s\r\n", b)
	return err
}

// attack logs in, listens for acknowledgements as a box does, sends, and takes what comes until the answer to its PING, the end
// of the connection, or patience.
func (th *thief) attack(send string, change func(map[string]any), patience time.Duration) string {
	th.t.Helper()
	conn, _, err := th.dial(th.hub.conf.Boxes.Listen, nil)
	if err != nil {
		th.t.Fatalf("the captured box cannot connect: %v", err)
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	if err := th.login(conn, r, change); err != nil {
		th.t.Fatal(err)
	}
	fmt.Fprintf(conn, "SUB _ACK.%s.> 1\r\nPING\r\n%s\r\nPING\r\n", th.box.ID.Name, send)
	conn.SetReadDeadline(time.Now().Add(patience))
	var got bytes.Buffer
	for pongs := 0; pongs < 2; {
		line, err := r.ReadBytes('\n')
		got.Write(line)
		if err != nil {
			break
		}
		if bytes.HasPrefix(line, []byte("PONG")) {
			pongs++
		}
		if bytes.HasPrefix(line, []byte("PING")) {
			fmt.Fprint(conn, "PONG\r\n")
		}
	}
	// What is still on its way, such as an acknowledgement of JetStream, comes within a moment.
	conn.SetReadDeadline(time.Now().Add(25 * time.Millisecond))
	io.Copy(&got, io.LimitReader(r, 1<<20))
	th.take(got.Bytes())
	return got.String()
}

// take sorts what was learned.
func (th *thief) take(b []byte) {
	for len(b) > 0 {
		line, rest, _ := bytes.Cut(b, []byte("\r\n"))
		word, _, _ := bytes.Cut(line, []byte(" "))
		n := len(line) + 2
		kind := ""
		switch string(word) {
		case "INFO":
			kind = "handshake"
			if bytes.Contains(line, []byte("connect_urls")) || bytes.Contains(line, []byte("honest")) || bytes.Contains(line, []byte("leafnode_urls")) {
				kind = ""
			}
		case "PING", "PONG":
			kind = "keep-alive"
		case "+OK":
			kind = "handshake"
		case "-ERR":
			kind = "refusal"
		case "MSG", "HMSG":
			f := strings.Fields(string(line))
			var size int
			if _, err := fmt.Sscan(f[len(f)-1], &size); err == nil && size+2 <= len(rest) {
				body := rest[:size]
				rest = rest[size+2:]
				n += size + 2
				if strings.HasPrefix(f[1], "_ACK."+th.box.ID.Name+".") && th.isAck(body) {
					kind = "own acknowledgement"
				}
				line = append(bytes.Clone(line), append([]byte(" | "), body...)...)
			}
		}
		if kind == "" {
			kind = "ELSE"
			th.odd = append(th.odd, string(line[:min(len(line), 300)]))
		}
		th.learned[kind] += min(n, len(b))
		b = rest
	}
}

// isAck says whether a message is what the box's own stream answers to the box, or that nobody does.
func (th *thief) isAck(body []byte) bool {
	if bytes.HasPrefix(body, []byte("NATS/1.0 503")) {
		return true
	}
	if i := bytes.Index(body, []byte("{")); i > 0 && bytes.HasPrefix(body, []byte("NATS/1.0")) {
		body = body[i:]
	}
	var ack struct {
		Stream, Domain string
		Error          *struct{ Description string }
	}
	if json.Unmarshal(body, &ack) != nil || bytes.Contains(body, []byte("honest")) {
		return false
	}
	return ack.Stream == "OBS_f1_"+th.box.ID.Name || ack.Error != nil
}

// world is all that somebody might write to: every message of every stream, what passes in the accounts of the records and of
// the peers, the verified stores, the registry.
type world struct {
	t      *testing.T
	p      *peer
	ingest *nats.Conn
	mu     sync.Mutex
	heard  []string
	seen   int
}

func watch(t *testing.T, p *peer, own string) *world {
	t.Helper()
	w := &world{t: t, p: p}
	for account, connect := range map[string]func() (*nats.Conn, error){"INGEST": p.node.Ingest, "PEERS": p.node.Peers} {
		nc, err := connect()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		if account == "INGEST" {
			w.ingest = nc
		}
		if _, err := nc.Subscribe(">", func(m *nats.Msg) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.seen++
			text := m.Subject + " " + m.Reply + " " + fmt.Sprint(m.Header) + " " + string(m.Data)
			if strings.Contains(text, marker) && !(account == "INGEST" && (m.Subject == own || strings.HasPrefix(m.Subject, "_INBOX."))) {
				w.heard = append(w.heard, account+": "+text[:min(len(text), 300)])
			}
		}); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// state is everything, by name, but for what is the captured box's own.
func (w *world) state(own string) map[string]string {
	w.t.Helper()
	ctx := w.t.Context()
	all := map[string]string{}
	names := w.p.js.StreamNames(ctx)
	for name := range names.Name() {
		s, err := w.p.js.Stream(ctx, name)
		if err != nil {
			w.t.Fatal(err)
		}
		i := s.CachedInfo()
		config, err := json.Marshal(i.Config)
		if err != nil {
			w.t.Fatal(err)
		}
		all["config of "+name] = string(config)
		all["number of consumers of "+name] = fmt.Sprint(i.State.Consumers)
		sum := sha256.New()
		for seq := i.State.FirstSeq; seq <= i.State.LastSeq; seq++ {
			// Not by a direct get, which tells subject and sequence in headers that a sender can forge.
			a, err := w.ingest.Request("$JS.API.STREAM.MSG.GET."+name, fmt.Appendf(nil, `{"seq":%d}`, seq), 20*time.Second)
			if err != nil {
				w.t.Fatal(err)
			}
			var got struct {
				Message *struct {
					Subject    string
					Hdrs, Data []byte
				}
			}
			if err := json.Unmarshal(a.Data, &got); err != nil {
				w.t.Fatal(err)
			}
			if got.Message == nil { // removed, or never there
				continue
			}
			fmt.Fprintf(sum, "%d %+v\n", seq, *got.Message)
			if got.Message.Subject != strings.ReplaceAll(strings.Replace(name, "OBS_", "obs_", 1), "_", ".") {
				w.t.Errorf("stream %s holds a message of %s", name, got.Message.Subject)
			}
		}
		if name != own {
			all["messages of "+name] = fmt.Sprintf("%d %x", i.State.Msgs, sum.Sum(nil))
		}
	}
	if err := names.Err(); err != nil {
		w.t.Fatal(err)
	}
	for _, b := range w.p.store.Boxes() {
		sc, _ := b.Checkpoint()
		all["verified log of "+b.ID.String()] = fmt.Sprintf("%d %x", b.Size(), sha256.Sum256(sc))
	}
	log, err := os.ReadFile(w.p.dir.Registry().Log)
	if err != nil {
		w.t.Fatal(err)
	}
	all["registry"] = fmt.Sprintf("%x", sha256.Sum256(log))
	filepath.WalkDir(w.p.dir.Evidence(), func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			all["evidence "+path] = "there"
		}
		return nil
	})
	return all
}

// TestCapturedBox attacks with the credentials, the disk and the raw protocol of a captured box. It learns what the handshake
// says, refusals and its own acknowledgements, and nothing is changed but its own stream, whose junk nobody believes.
func TestCapturedBox(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	captured, honest := peertest.NewBox(t, "f1/captured"), peertest.NewBox(t, "f1/honest")
	hub.enrol(captured)
	hub.enrol(honest)
	hub.ward("ward1")
	program(t, "operator", "add", "olga", "-o", filepath.Join(t.TempDir(), "olga"), "--data", string(hub.dir))
	ctx, stop := context.WithCancel(t.Context())
	var log syncBuffer
	up, ended := make(chan *peer, 1), make(chan error, 1)
	go func() {
		ended <- run(ctx, hub.dir, slog.New(slog.NewJSONHandler(&log, nil)), store.DefaultPatience, time.Hour, func(p *peer) { up <- p })
	}()
	var p *peer
	select {
	case p = <-up:
	case err := <-ended:
		t.Fatal(err)
	}
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	hub.ended = make(chan struct{}) // it runs in this process
	hub.publish(honest, hub.connect(honest), honest.Record(20))
	nc := hub.connect(captured)
	hub.publish(captured, nc, captured.Record(5))
	nc.Close()
	stored := func(b *peertest.Box) bool {
		s := p.store.Find(b.ID)
		return s != nil && s.Size() == uint64(len(b.Log))
	}
	hub.until("both are stored", func() bool { return stored(honest) && stored(captured) })
	const own = "obs.f1.captured"
	w := watch(t, p, own)
	before := w.state("OBS_f1_captured")
	th := newThief(t, hub, captured)
	attacks := 0
	var answers strings.Builder
	try := func(what, send string, change func(map[string]any), patience time.Duration) {
		attacks++
		answer := th.attack(send, change, patience)
		var said []string
		for l := range strings.SplitSeq(answer, "\r\n") {
			if l != "" && l != "PONG" && !strings.HasPrefix(l, "INFO ") {
				said = append(said, l[:min(len(l), 100)])
			}
		}
		fmt.Fprintf(&answers, "%-60.60s %.200s\n", what, strings.Join(said, " | "))
	}
	const usual, short = 15 * time.Second, 200 * time.Millisecond

	// 1. Listen.
	for _, subject := range []string{">", "*", "*.>", "*.*.*", "obs.>", "obs.*.*", "obs.f1.>", "obs.f1.*", "obs.f1.captured", "obs.f1.honest", "obs.f2.>",
		"peer.>", "peer.say.>", "peer.say.hub.registry", "peer.say.*.head.f1.honest", "peer.ask.>", "peer.ask.hub.>", "peer.ask.hub.registry", "_PEER.>", "_PEER.hub.>",
		"_INBOX.>", "_INBOX.*", "_ACK.>", "_ACK.*.>", "_ACK.honest.>", "_ACK.captured", "_ACK.*", "_ACK.capture.>", "_ACK.captured2.>", "_OPERATOR.>", "_OPERATOR.olga.>",
		"$JS.>", "$JS.API.>", "$JS.ACK.>", "$JS.EVENT.>", "$JS.EVENT.ADVISORY.>", "$JS.EVENT.METRIC.>", "$JS.FC.>", "$JS.S.>", "$JSC.>", "$SYS.>", "$SYS.ACCOUNT.>",
		"$SYS.ACCOUNT.*.CONNECT", "$SYS.SERVER.>", "$SYS.REQ.>", "$SYS._INBOX.>", "$KV.>", "$O.>", "$OBJ.>", "$SRV.>", "$NRG.>", "$LDS.>", "$GR.>", "$GNR.>", "_R_.>", "_GR_.>", "$MQTT.>",
		"_STAN.>", "secret.patient.12345", strings.Repeat("a.", 300) + ">", "\u00e4.>", "OBS.F1.HONEST"} {
		try("SUB "+subject, "SUB "+subject+" 9", nil, usual)
	}
	for _, subject := range []string{">", "obs.f1.honest", "peer.say.hub.registry", "$JS.API.>", "_ACK.honest.>"} {
		try("SUB in a queue group "+subject, "SUB "+subject+" workers 9", nil, usual)
	}
	try("SUB own acknowledgements in a queue group", "SUB _ACK.captured.> vitalpeer 9", nil, usual)
	try("more subscriptions than allowed", strings.Repeat("SUB _ACK.captured.x 1\r\n", 1)+subs(30), nil, usual)

	// 2. Speak where it may not.
	body := marker
	pub := func(subject string) string {
		return fmt.Sprintf("PUB %s _ACK.captured.r %d\r\n%s", subject, len(body), body)
	}
	for _, subject := range []string{"obs.f1.honest", "obs.f2.captured", "obs.f1.captured.x", "obs.f1", "obs.f1.*", "obs.f1.>", "obs.f1.captured ", "Obs.f1.captured",
		"peer.say.hub.registry", "peer.say.captured.registry", "peer.say.ward1.head.f1.honest", "peer.ask.hub.registry", "peer.ask.hub.pull.f1.honest", "_PEER.hub.x", "_ACK.honest.x", "_ACK.captured.x",
		"_INBOX.x", "_OPERATOR.olga.x", "$JS.API.INFO", "$JS.API.STREAM.CREATE.X", "$JS.API.STREAM.UPDATE.OBS_f1_honest", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST",
		"$JS.API.STREAM.INFO.OBS_f1_captured", "$JS.API.STREAM.INFO.OBS_f1_honest", "$JS.API.STREAM.DELETE.OBS_f1_honest", "$JS.API.STREAM.DELETE.OBS_f1_captured", "$JS.API.STREAM.PURGE.OBS_f1_honest",
		"$JS.API.STREAM.PURGE.OBS_f1_captured", "$JS.API.STREAM.MSG.GET.OBS_f1_captured", "$JS.API.STREAM.MSG.GET.OBS_f1_honest", "$JS.API.STREAM.MSG.DELETE.OBS_f1_honest", "$JS.API.STREAM.SNAPSHOT.OBS_f1_honest",
		"$JS.API.STREAM.RESTORE.OBS_f1_honest", "$JS.API.STREAM.LEADER.STEPDOWN.OBS_f1_honest", "$JS.API.DIRECT.GET.OBS_f1_captured", "$JS.API.DIRECT.GET.OBS_f1_honest", "$JS.API.DIRECT.GET.OBS_f1_honest.obs.f1.honest",
		"$JS.API.CONSUMER.CREATE.OBS_f1_honest", "$JS.API.CONSUMER.CREATE.OBS_f1_captured.x", "$JS.API.CONSUMER.DURABLE.CREATE.OBS_f1_honest.x", "$JS.API.CONSUMER.NAMES.OBS_f1_honest", "$JS.API.CONSUMER.DELETE.OBS_f1_honest.x",
		"$JS.API.CONSUMER.MSG.NEXT.OBS_f1_honest.x", "$JS.API.CONSUMER.PAUSE.OBS_f1_honest.x", "$JS.API.META.LEADER.STEPDOWN", "$JS.API.ACCOUNT.PURGE.INGEST", "$JS.hub.API.INFO",
		"$JS.ACK.OBS_f1_honest.x.1.1.1.1.0", "$JS.ACK.OBS_f1_captured.x.1.1.1.1.0", "$JS.FC.OBS_f1_honest.x.y", "$JSC.R.x", "$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER.PING.VARZ", "$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.USER.INFO",
		"$SYS.REQ.ACCOUNT.PING.CONNZ", "$SYS.REQ.ACCOUNT.PING.STATZ", "$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.CLAIMS.LIST", "$SYS.ACCOUNT.INGEST.CONNECT", "$SYS.REQ.SERVER.X.RELOAD", "$SYS.REQ.SERVER.X.KICK", "$SYS.REQ.SERVER.X.LDM",
		"$SRV.PING", "$KV.x.y", "$O.x", "_R_.x", "_GR_.x.y.z", "$GNR.x", "$NRG.x", "$MQTT.x", "$LDS.x", strings.Repeat("a", 4000)} {
		try("PUB "+subject, pub(subject), nil, usual)
	}

	// 3. Have others speak: replies to its own publishes.
	for _, reply := range []string{"obs.f1.honest", "obs.f1.captured", "$JS.API.STREAM.PURGE.OBS_f1_honest", "$JS.API.STREAM.PURGE.OBS_f1_captured", "$JS.API.STREAM.MSG.DELETE.OBS_f1_honest", "$JS.API.STREAM.DELETE.OBS_f1_honest",
		"$JS.API.CONSUMER.CREATE.OBS_f1_honest", "$JS.ACK.OBS_f1_honest.x.1.1.1.1.0", "peer.say.hub.registry", "peer.ask.hub.registry", "_PEER.hub.x", "_INBOX.x", "_ACK.honest.x", "_R_.x", "_GR_.x.y.z",
		"$SYS.REQ.SERVER.PING", "$SYS.REQ.CLAIMS.UPDATE", ">", "*", "a b"} {
		try("PUB with the reply "+reply, fmt.Sprintf("PUB %s %s %d\r\n%s", own, reply, len(body), body), nil, usual)
	}

	// 4. Headers on its own subject.
	hpub := func(headers ...string) string {
		h := "NATS/1.0\r\n" + strings.Join(headers, "\r\n") + "\r\n\r\n"
		return fmt.Sprintf("HPUB %s _ACK.captured.h %d %d\r\n%s%s", own, len(h), len(h)+len(body), h, body)
	}
	for _, h := range [][]string{{"Nats-Trace-Dest: obs.f1.honest"}, {"Nats-Trace-Dest: _ACK.captured.trace"}, {"Nats-Trace-Dest: $SYS.REQ.SERVER.PING"}, {"Nats-Trace-Dest: peer.say.hub.registry"},
		{"Nats-Trace-Dest: _ACK.captured.trace", "Nats-Trace-Only: true"}, {"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
		{"Nats-Msg-Id: f1/honest-21"}, {"Nats-Msg-Id: 21"}, {"Nats-Rollup: all"}, {"Nats-Rollup: sub"}, {"Nats-TTL: 1s"}, {"Nats-TTL: never"}, {"Nats-Incr: 1"},
		{"Nats-Schedule: @at 2026-01-01T00:00:00Z", "Nats-Schedule-Target: obs.f1.honest"}, {"Nats-Schedule: @every 1s", "Nats-Schedule-Target: peer.say.hub.registry"},
		{"Nats-Expected-Stream: OBS_f1_honest"}, {"Nats-Expected-Last-Sequence: 20"}, {"Nats-Expected-Last-Sequence: 18446744073709551615"}, {"Nats-Expected-Last-Msg-Id: x"},
		{"Nats-Expected-Last-Subject-Sequence: 1"}, {"Nats-Expected-Last-Subject-Sequence: 1", "Nats-Expected-Last-Subject-Sequence-Subject: obs.f1.honest"},
		{"Nats-Batch-Id: x", "Nats-Batch-Sequence: 0"}, {"Nats-Batch-Id: x", "Nats-Batch-Sequence: 2", "Nats-Batch-Commit: 1"}, {"Nats-Batch-Id: " + strings.Repeat("x", 100), "Nats-Batch-Sequence: 1"},
		{"Nats-Batch-Id: y", "Nats-Batch-Sequence: 99999999"}, {"Nats-Batch-Id: z", "Nats-Batch-Sequence: 1", "Nats-Batch-Commit: eob"}, {"Nats-Required-Api-Level: 99"},
		{"Nats-Marker-Reason: Purge"}, {"Nats-Stream: OBS_f1_honest", "Nats-Sequence: 1", "Nats-Subject: obs.f1.honest"}, {"Nats-Stream-Source: OBS_f1_honest 1"},
		{`Nats-Request-Info: {"acc":"INGEST","user":"hub"}`}, {"Nats-Response-Type: x"}, {"Status: 503"}, {"Description: x"}, {"Content-Encoding: gzip"}, {"X: " + strings.Repeat("y", 60000)}} {
		try("header "+strings.Join(h, ", "), hpub(h...), nil, usual)
	}

	// 5. The protocol of others, and broken protocol.
	for what, send := range map[string]string{
		"LS+ >": "LS+ >", "LS+ with a queue": "LS+ obs.f1.honest workers 1000000", "LS-": "LS- >", "LMSG": "LMSG obs.f1.honest 8\r\n" + marker, "RS+": "RS+ INGEST > x 1", "RS-": "RS- INGEST >",
		"RMSG": "RMSG INGEST obs.f1.honest 8\r\n" + marker, "A+": "A+ INGEST", "A-": "A- INGEST", "INFO": `INFO {"server_id":"x","nonce":"y"}`, "MSG": "MSG obs.f1.honest 1 8\r\n" + marker,
		"HMSG": "HMSG obs.f1.honest 1 12 20\r\nNATS/1.0\r\n\r\n" + marker, "UNSUB of what is not there": "UNSUB 999", "+OK": "+OK", "-ERR": "-ERR 'x'", "PONG unasked": strings.Repeat("PONG\r\n", 50),
		"a negative size": "PUB " + own + " -1", "a size beyond the limit": "PUB " + own + " 99999999", "a size beyond all": "PUB " + own + " 99999999999999999999", "no size": "PUB " + own,
		"headers longer than the message": "HPUB " + own + " 50 12\r\nNATS/1.0\r\n\r\n", "HPUB without headers": "HPUB " + own + " 0 8\r\n" + marker, "SUB without an id": "SUB >", "SUB with four words": "SUB > a b c",
		"a long control line": "SUB " + strings.Repeat("x", 5000) + " 1", "NUL bytes": "SUB \x00> 9", "a tab": "SUB\t>\t9", "lower case": "sub > 9", "bare line feeds": "SUB > 9\nSUB obs.> 10\n",
		"a CR in a subject": "SUB obs.\r> 9", "HTTP": "GET /varz HTTP/1.1\r\nHost: x\r\n\r\n", "PROXY": "PROXY TCP4 127.0.0.1 127.0.0.1 1 2", "bytes": "\xff\xfe\xfd", "PING flood": strings.Repeat("PING\r\n", 200),
	} {
		try(what, send, nil, short)
	}

	// 6. Another CONNECT.
	public, err := honest.NKey.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(map[string]any){
		"is_hub":                        func(f map[string]any) { f["is_hub"] = true },
		"remote_account":                func(f map[string]any) { f["remote_account"] = "INGEST" },
		"account INGEST":                func(f map[string]any) { f["account"] = "INGEST"; f["new_account"] = true },
		"account PEERS":                 func(f map[string]any) { f["account"] = "PEERS" },
		"account $SYS":                  func(f map[string]any) { f["account"] = "$SYS" },
		"cluster and server of the hub": func(f map[string]any) { f["cluster"], f["name"], f["server_id"] = "HOSP", "f1-hub", "x" },
		"a domain":                      func(f map[string]any) { f["domain"], f["jetstream"] = "hub", true },
		"permissions of its own": func(f map[string]any) {
			f["permissions"] = map[string]any{"subscribe": ">"}
			f["deny_pub"] = []string{}
		},
		"verbose":                        func(f map[string]any) { f["verbose"] = true },
		"protocol 99":                    func(f map[string]any) { f["protocol"] = 99 },
		"compression":                    func(f map[string]any) { f["compression"] = "s2_fast" },
		"as a user":                      func(f map[string]any) { f["user"], f["pass"] = "admin", "admin" },
		"with a token":                   func(f map[string]any) { f["auth_token"] = "x" },
		"with a JWT":                     func(f map[string]any) { f["jwt"] = "eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ.e30.x" },
		"another box's nkey":             func(f map[string]any) { f["nkey"] = public },
		"no signature":                   func(f map[string]any) { delete(f, "sig") },
		"a signature of something else":  func(f map[string]any) { f["sig"] = base64.RawURLEncoding.EncodeToString(make([]byte, 64)) },
		"nothing":                        func(f map[string]any) { clear(f) },
		"a user of the system's account": func(f map[string]any) { clear(f); f["user"], f["pass"] = "sys", "" },
	} {
		try("CONNECT "+what, "SUB > 9\r\n"+pub("$JS.API.STREAM.LIST"), change, short)
	}
	try("a second CONNECT", `CONNECT {"account":"INGEST","nkey":"`+public+`"}`+"\r\nSUB > 9", nil, short)

	// 7. Other doors, with what the box has and without.
	_, foreign, err := facility.Enrol(hub.dir, hub.conf, peertest.NewBox(t, "f1/never").Request(), nil, nil) // of the authority, in no registry
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(foreign.TLSCertificate))
	self := selfSigned(t)
	stolen, _ := pem.Decode([]byte(honest.Grant().TLSCertificate))
	for what, change := range map[string]func(*tls.Config){
		"no certificate":                        func(c *tls.Config) { c.Certificates = nil },
		"a certificate that it has signed":      func(c *tls.Config) { c.Certificates = []tls.Certificate{self} },
		"the authority's certificate, unpinned": func(c *tls.Config) { c.Certificates[0].Certificate = [][]byte{block.Bytes} },
		"another box's certificate":             func(c *tls.Config) { c.Certificates[0].Certificate = [][]byte{stolen.Bytes} },
		"TLS 1.2":                               func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 },
	} {
		attacks++
		th.closed(what+" at the boxes' door", hub.conf.Boxes.Listen, change)
		attacks++
		th.closed(what+" at the peers' door", hub.conf.Peers.Listen, change)
	}
	attacks++
	th.closed("the box's own certificate at the peers' door", hub.conf.Peers.Listen, nil)
	for _, address := range []string{hub.conf.Boxes.Listen, hub.conf.Peers.Listen} {
		for what, send := range map[string]string{"CONNECT without TLS": "CONNECT {}\r\nPING\r\n", "HTTP": "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "a websocket": "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
			"MQTT": "\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04test", "LS+": "LS+ >\r\n", "nothing": ""} {
			attacks++
			th.mute(what+" at "+address, address, send)
		}
	}
	attacks++
	replayed(t, th)

	// 8. The page, from wherever it is reached.
	for what, q := range map[string]func() *http.Request{
		"the page by a foreign Host": func() *http.Request { q := get(hub, "GET", "/"); q.Host = "evil.example"; return q },
		"a record by a foreign Host": func() *http.Request { q := get(hub, "GET", "/record/f1/honest/1"); q.Host = "evil.example"; return q },
		"a foreign Host":             func() *http.Request { q := get(hub, "GET", "/api/records"); q.Host = "evil.example"; return q },
		"a rebound name": func() *http.Request {
			q := get(hub, "GET", "/api/records")
			q.Host = "hub.localhost.evil.example"
			return q
		},
		"a name that begins as an address": func() *http.Request {
			q := get(hub, "GET", "/api/records")
			q.Host = "127.0.0.1.evil.example:80"
			return q
		},
		"a decision":         func() *http.Request { return get(hub, "POST", "/registry") },
		"sealed records":     func() *http.Request { return get(hub, "GET", "/records?box=f1/honest&from=0") },
		"a path":             func() *http.Request { return get(hub, "GET", "/..%2f..%2fkeys/ca.key") },
		"another path":       func() *http.Request { return get(hub, "GET", "/keys/ca.key") },
		"varz":               func() *http.Request { return get(hub, "GET", "/varz") },
		"connz":              func() *http.Request { return get(hub, "GET", "/connz?subs=1") },
		"jsz":                func() *http.Request { return get(hub, "GET", "/jsz?accounts=1") },
		"pprof":              func() *http.Request { return get(hub, "GET", "/debug/pprof/heap") },
		"expvar":             func() *http.Request { return get(hub, "GET", "/debug/vars") },
		"DELETE of a record": func() *http.Request { return get(hub, "DELETE", "/record/f1/honest/1") },
		"CONNECT as a proxy": func() *http.Request { return get(hub, "POST", "http://169.254.169.254/latest/meta-data") },
		"status of the peer": func() *http.Request { return get(hub, "GET", "/status") },
		"shutdown":           func() *http.Request { return get(hub, "POST", "/shutdown") },
	} {
		attacks++
		a, err := (&http.Transport{}).RoundTrip(q())
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		text, _ := io.ReadAll(io.LimitReader(a.Body, 1<<16))
		a.Body.Close()
		if a.StatusCode < 400 || bytes.Contains(text, []byte("PRIVATE KEY")) {
			t.Errorf("the page answers %s to %s: %.200s", a.Status, what, text)
		}
	}

	// 9. Junk in its own name: kept aside with its reason, believed by nobody. Then it is revoked while it floods.
	junk := hub.connect(captured)
	for i := range 50 {
		attacks++
		junk.Publish(own, fmt.Appendf(nil, "%s %d", marker, i))
	}
	junk.Flush()
	hub.until("the junk has been looked at", func() bool {
		i, err := p.js.Stream(ctx, "OBS_f1_captured")
		return err == nil && p.works()[captured.ID].State().Cursor >= i.CachedInfo().State.LastSeq
	})

	after := w.state("OBS_f1_captured")
	for what, is := range after {
		if before[what] != is {
			t.Errorf("%s was %.200q and is %.200q", what, before[what], is)
		}
	}
	for what := range before {
		if _, there := after[what]; !there {
			t.Errorf("%s is gone", what)
		}
	}
	w.mu.Lock()
	if len(w.heard) > 0 || w.seen == 0 {
		t.Errorf("heard elsewhere (of %d messages): %s", w.seen, strings.Join(w.heard, "\n"))
	}
	w.mu.Unlock()
	if len(th.odd) > 0 {
		t.Errorf("the captured box has learned: %s", strings.Join(th.odd, "\n"))
	}
	if strings.Contains(log.String(), "panic") {
		t.Error(log.String())
	}
	if attacks < 200 {
		t.Errorf("only %d attacks were made", attacks)
	}
	honest.Publish(hub.connect(honest), honest.Record(5)) // and the honest box goes on
	hub.until("the honest box's records are stored", func() bool { return stored(honest) })
	hub.decide(&registry.Revoke{Box: "f1/captured", Until: uint64(len(captured.Log)), Reason: "captured"})
	if !junk.IsClosed() {
		hub.until("the captured box is cut off", junk.IsClosed)
	}
	total := 0
	for _, n := range th.learned {
		total += n
	}
	w.mu.Lock()
	seen := w.seen
	w.mu.Unlock()
	t.Logf("%d attacks; learned %d bytes: %s; written elsewhere: nothing (%d parts of the peer's state compared, %d messages heard)", attacks, total, counted(th.learned), len(after), seen)
	t.Logf("answers:\n%s", answers.String())
}

func subs(n int) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("SUB _ACK.captured.s%d %d", i, 100+i))
	}
	return strings.Join(all, "\r\n")
}

func counted(m map[string]int) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		all = append(all, fmt.Sprintf("%s %d", k, m[k]))
	}
	return strings.Join(all, ", ")
}

func get(hub *site, method, path string) *http.Request {
	q, err := http.NewRequest(method, "http://"+hub.conf.Page.Listen+"/", nil)
	if err != nil {
		panic(err)
	}
	q.Host = hub.conf.Page.Listen
	q.URL.Opaque = path // as it is, in the request line
	return q
}

// closed checks that a door does not open: the handshake fails, or it ends without a byte of the server's protocol.
func (th *thief) closed(what, address string, change func(*tls.Config)) {
	th.t.Helper()
	conn, w, err := th.dial(address, change)
	if err == nil {
		defer conn.Close()
		fmt.Fprintf(conn, "CONNECT {}\r\nPING\r\n")
		b, _ := io.ReadAll(io.LimitReader(conn, 1<<16))
		if len(b) > 0 {
			th.t.Errorf("%s: the server says %.100q", what, b)
		}
	}
	if w != nil {
		th.learned["refused handshake (TLS)"] += w.in
	}
}

// mute checks that a door says nothing but TLS to who does not speak TLS.
func (th *thief) mute(what, address, send string) {
	th.t.Helper()
	conn, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		th.t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(4 * time.Second)) // the server ends it after 3
	io.WriteString(conn, send)
	if send == "" {
		conn.SetDeadline(time.Now().Add(100 * time.Millisecond))
	}
	b, _ := io.ReadAll(io.LimitReader(conn, 1<<16))
	th.learned["refused handshake (TLS)"] += len(b)
	if len(b) > 0 && b[0] != 0x15 { // a TLS alert
		th.t.Errorf("%s: the server says %.100q", what, b)
	}
}

// replayed checks that the signature of one connection's nonce opens no other.
func replayed(t *testing.T, th *thief) {
	t.Helper()
	var first string
	for i := range 2 {
		conn, _, err := th.dial(th.hub.conf.Boxes.Listen, nil)
		if err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(conn)
		if err := th.login(conn, r, func(f map[string]any) {
			if i == 0 {
				first = f["sig"].(string)
			} else {
				f["sig"] = first
			}
		}); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, "PING\r\n")
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		line, _ := r.ReadString('\n')
		th.take([]byte(line))
		if ok := strings.HasPrefix(line, "PONG"); ok != (i == 0) {
			t.Errorf("login %d is answered %q", i, line)
		}
		conn.Close()
	}
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key := peertest.Key(t)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "vitalgate box f1/captured"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(nil, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
