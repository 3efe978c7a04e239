package node_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/vitalgate/vitalgate/hwtest/hospital"
	"github.com/vitalgate/vitalgate/peer/facility"
	"github.com/vitalgate/vitalgate/peer/node"
	"github.com/vitalgate/vitalgate/peer/peertest"
	"github.com/vitalgate/vitalgate/peer/registry"
	"github.com/vitalgate/vitalgate/record"
)

// a facility for tests: a hub's folder, and what its node needs.
type hub struct {
	t    *testing.T
	dir  facility.Dir
	conf *facility.Config
	node *node.Node
	js   jetstream.JetStream
}

func newHub(t *testing.T) *hub {
	t.Helper()
	d := facility.Dir(filepath.Join(t.TempDir(), "hub"))
	c := facility.Config{Facility: "f1", Name: "hub"}
	c.Boxes.Listen, c.Peers.Listen = "127.0.0.1:0", hospital.FreeAddr()
	if err := facility.Init(d, c, nil); err != nil {
		t.Fatal(err)
	}
	conf, err := d.Load()
	if err != nil {
		t.Fatal(err)
	}
	return &hub{t: t, dir: d, conf: conf}
}

func (h *hub) enrol(boxes ...*peertest.Box) {
	h.t.Helper()
	for _, b := range boxes {
		r, g, err := facility.Enrol(h.dir, h.conf, b.Request(), nil, nil)
		if err != nil {
			h.t.Fatal(err)
		}
		if err := h.dir.Enact(r); err != nil {
			h.t.Fatal(err)
		}
		b.Granted(g)
	}
}

func start(t *testing.T, d facility.Dir, c *facility.Config) (*node.Node, jetstream.JetStream) {
	t.Helper()
	s, err := d.Registry().Load()
	if err != nil {
		t.Fatal(err)
	}
	nc, err := node.FromFacility(d, c)
	if err != nil {
		t.Fatal(err)
	}
	m := node.FromRegistry(s)
	n, err := node.Start(nc, m, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Stop)
	in, err := n.Ingest()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(in.Close)
	js, err := jetstream.New(in)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range m.Boxes {
		if _, err := n.Stream(context.Background(), js, b.ID); err != nil {
			t.Fatal(err)
		}
	}
	return n, js
}

func (h *hub) start() {
	h.t.Helper()
	h.node, h.js = start(h.t, h.dir, h.conf)
}

func (h *hub) url() string { return "tls://" + h.node.BoxAddress().String() }

func (h *hub) update() {
	h.t.Helper()
	s, err := h.dir.Registry().Load()
	if err != nil {
		h.t.Fatal(err)
	}
	m := node.FromRegistry(s)
	if err := h.node.Update(m); err != nil {
		h.t.Fatal(err)
	}
}

func TestBoxPublishesItsRecordsInAtomicBatches(t *testing.T) {
	h := newHub(t)
	b := peertest.NewBox(t, "f1/gw1")
	h.enrol(b)
	h.start()
	nc := b.Connect(h.url())
	b.Publish(nc, b.Record(2500))
	s, err := h.js.Stream(context.Background(), "OBS_f1_gw1")
	if err != nil {
		t.Fatal(err)
	}
	i, err := s.Info(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if i.State.LastSeq != uint64(len(b.Log)) || i.State.Msgs != i.State.LastSeq {
		t.Errorf("the stream holds %d messages up to %d, the box sent %d", i.State.Msgs, i.State.LastSeq, len(b.Log))
	}
}

// The whole of what a captured box could try with its credentials: nothing is delivered to it and nothing of it arrives
// outside its own subject. docs/nats-recipes.md shows the same with the nats program.
func TestBoxCredentialsReadNothingAndWriteNowhereElse(t *testing.T) {
	h := newHub(t)
	b, other := peertest.NewBox(t, "f1/gw1"), peertest.NewBox(t, "f1/gw2")
	h.enrol(b, other)
	h.start()

	for _, subject := range []string{">", "*", "obs.>", "obs.f1.gw1", "obs.f1.gw2", "$JS.>", "$JS.API.>", "$SYS.>", "$SYS.REQ.>",
		"peer.>", "peer.head.>", "_INBOX.>", "_PEER.>", "_ACK.>", "_ACK.gw2.>", "_ACK.*", "_R_.>", "$KV.>", "$G.>"} {
		t.Run("subscribe "+subject, func(t *testing.T) {
			if err := violation(t, b, h.url(), func(nc *nats.Conn) error {
				_, err := nc.SubscribeSync(subject)
				return err
			}); err == nil {
				t.Errorf("a box may subscribe to %q", subject)
			}
			if err := violation(t, b, h.url(), func(nc *nats.Conn) error {
				_, err := nc.QueueSubscribeSync(subject, "q")
				return err
			}); err == nil {
				t.Errorf("a box may join a queue on %q", subject)
			}
		})
	}
	all, err := h.node.Ingest()
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	seen, err := all.SubscribeSync(">")
	if err != nil {
		t.Fatal(err)
	}
	if err := all.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{"obs.f1.gw2", "obs.f1.gw1.x", "obs.f1", "peer.head.f1.gw1", "peer.ask.hub.pull.f1.gw1", "_PEER.hub.x",
		"$JS.API.STREAM.PURGE.OBS_f1_gw1", "$JS.API.STREAM.DELETE.OBS_f1_gw1", "$JS.API.STREAM.MSG.GET.OBS_f1_gw1",
		"$JS.API.DIRECT.GET.OBS_f1_gw1", "$JS.API.STREAM.LIST", "$JS.API.CONSUMER.CREATE.OBS_f1_gw1", "$JS.ACK.OBS_f1_gw1.c.1.1.1.1.1",
		"$SYS.REQ.USER.INFO", "$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.ACCOUNT.PING.CONNZ", "_INBOX.x", "_ACK.gw1.x"} {
		t.Run("publish "+subject, func(t *testing.T) {
			if err := violation(t, b, h.url(), func(nc *nats.Conn) error { return nc.Publish(subject, []byte("{}")) }); err == nil {
				t.Errorf("a box may publish to %q", subject)
			}
		})
	}
	// A reply subject makes the server send its acknowledgement there: it must stay in the box's own account.
	nc := b.Connect(h.url())
	for _, reply := range []string{"obs.f1.gw2", "$JS.API.STREAM.PURGE.OBS_f1_gw2", "peer.head.f1.gw2"} {
		if err := nc.PublishRequest("obs.f1.gw1", reply, []byte("not a record")); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	b.Publish(nc, b.Record(1)) // answered after them, so they have been handled
	if err := all.Flush(); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := seen.NextMsg(50 * time.Millisecond)
		if errors.Is(err, nats.ErrTimeout) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if m.Subject != "obs.f1.gw1" && !strings.HasPrefix(m.Subject, "_R_.") && !strings.HasPrefix(m.Subject, "$JS.EVENT.") {
			t.Errorf("%q reached the streams' account", m.Subject)
		}
	}
	s, err := h.js.Stream(context.Background(), "OBS_f1_gw2")
	if err != nil {
		t.Fatal(err)
	}
	if n := s.CachedInfo().State.LastSeq; n != 0 {
		t.Errorf("the stream of the other box holds %d messages that it never sent", n)
	}
}

// A stream that nobody empties: the box is refused, so that it keeps its records, and what it was told is stored stays. A
// batch that does not fit leaves nothing behind. Room that is made is used again, and the count of the stream goes on.
func TestFullStreamRefusesAndKeepsWhatItAcknowledged(t *testing.T) {
	h := newHub(t)
	h.conf.Boxes.StreamMiB = 1
	b := peertest.NewBox(t, "f1/gw1")
	h.enrol(b)
	h.start()
	nc := b.Connect(h.url())
	stream := func() *jetstream.StreamInfo {
		t.Helper()
		s, err := h.js.Stream(t.Context(), "OBS_f1_gw1")
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo()
	}
	acknowledged := uint64(0)
	var refused []record.Published
	for range 100 {
		batch := b.Record(100)
		err := b.TryPublish(nc, batch)
		var no *peertest.Refusal
		if errors.As(err, &no) {
			if no.Code != 10077 {
				t.Errorf("the box is refused with %v, want code 10077, on which it keeps its records and tries again", no)
			}
			refused = batch
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		acknowledged += uint64(len(batch))
	}
	if refused == nil {
		t.Fatal("the box is never refused")
	}
	if s := stream().State; s.FirstSeq != 1 || s.Msgs != acknowledged || s.LastSeq != acknowledged {
		t.Fatalf("%d records are acknowledged; the stream holds %d, %d to %d", acknowledged, s.Msgs, s.FirstSeq, s.LastSeq)
	}
	// The question of a box where the stream ends is still answered.
	probe := &nats.Msg{Subject: b.ID.Subject(), Header: nats.Header{"Nats-Expected-Last-Sequence": {"4611686018427387904"}}}
	a, err := nc.RequestMsg(probe, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("wrong last sequence: %d", acknowledged); !strings.Contains(string(a.Data), want) {
		t.Errorf("the full stream answers %s, want %q", a.Data, want)
	}
	for _, subject := range []string{"$JS.API.STREAM.PURGE.OBS_f1_gw1", "$JS.API.STREAM.MSG.DELETE.OBS_f1_gw1", "$JS.API.STREAM.DELETE.OBS_f1_gw1", "$JS.API.STREAM.UPDATE.OBS_f1_gw1"} {
		if err := violation(t, b, h.url(), func(nc *nats.Conn) error { return nc.PublishRequest(subject, "_ACK.gw1.x", []byte("{}")) }); err == nil {
			t.Errorf("a box may publish to %q", subject)
		}
	}

	h.node.Stop() // a lower limit is not met by removing the oldest
	h.conf.Boxes.StreamMiB = 0
	h.start()
	if s := stream().State; s.FirstSeq != 1 || s.LastSeq != acknowledged {
		t.Fatalf("after a lower limit the stream holds %d to %d, want 1 to %d", s.FirstSeq, s.LastSeq, acknowledged)
	}
	h.node.Stop()
	h.conf.Boxes.StreamMiB = 1
	h.start()
	s, err := h.js.Stream(t.Context(), "OBS_f1_gw1")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Purge(t.Context(), jetstream.WithPurgeSequence(acknowledged)); err != nil {
		t.Fatal(err)
	}
	b.Publish(b.Connect(h.url()), refused)
	if s := stream().State; s.FirstSeq != acknowledged || s.LastSeq != acknowledged+uint64(len(refused)) {
		t.Errorf("after room was made the stream holds %d to %d, want %d to %d", s.FirstSeq, s.LastSeq, acknowledged, acknowledged+uint64(len(refused)))
	}
}

// violation connects as the box, does try and returns what the server said against it.
func violation(t *testing.T, b *peertest.Box, url string, try func(*nats.Conn) error) error {
	t.Helper()
	nc, err := nats.Connect(url, b.Options()...)
	for end := time.Now().Add(time.Minute); errors.Is(err, nats.ErrMaxAccountConnectionsExceeded) && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond) // the server still counts the connection before, which was closed here
		nc, err = nats.Connect(url, b.Options()...)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := try(nc); err != nil {
		return err
	}
	if err := nc.Flush(); err != nil {
		return err
	}
	err = nc.LastError() // sent before the answer to Flush
	if err != nil && !errors.Is(err, nats.ErrPermissionViolation) {
		t.Errorf("the server said %v, not a permissions violation", err)
	}
	return err
}

func TestStrangersGetNothing(t *testing.T) {
	h := newHub(t)
	b, unknown := peertest.NewBox(t, "f1/gw1"), peertest.NewBox(t, "f1/gw9")
	h.enrol(b)
	// A certificate of the facility whose box was never put into the registry.
	_, g, err := facility.Enrol(h.dir, h.conf, unknown.Request(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	unknown.Granted(g)
	h.start()

	t.Run("no TLS", func(t *testing.T) {
		for _, address := range []string{h.node.BoxAddress().String(), h.conf.Peers.Listen} {
			c, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			if n, _ := c.Read(make([]byte, 1)); n != 0 {
				t.Errorf("the server speaks first to a stranger at %s", address)
			}
		}
	})
	t.Run("a certificate that is not registered", func(t *testing.T) {
		if nc, err := nats.Connect(h.url(), unknown.Options()...); err == nil {
			nc.Close()
			t.Error("connected")
		}
	})
	t.Run("the nkey of one box with the certificate of another", func(t *testing.T) {
		thief := *unknown
		thief.NKey = b.NKey
		if nc, err := nats.Connect(h.url(), thief.Options()...); err == nil {
			nc.Close()
			t.Error("connected")
		}
	})
	t.Run("a registered certificate with another nkey", func(t *testing.T) {
		thief := *b
		thief.NKey = unknown.NKey
		if nc, err := nats.Connect(h.url(), thief.Options()...); err == nil {
			nc.Close()
			t.Error("connected")
		}
	})
	t.Run("a box at the door of the peers", func(t *testing.T) {
		if nc, err := nats.Connect("tls://"+h.conf.Peers.Listen, b.Options()...); err == nil {
			nc.Close()
			t.Error("connected")
		}
	})
}

func TestRegistryChangesTakeEffectWhileRunning(t *testing.T) {
	h := newHub(t)
	first, second := peertest.NewBox(t, "f1/gw1"), peertest.NewBox(t, "f1/gw2")
	h.enrol(first)
	h.start()
	nc := first.Connect(h.url())
	closed := make(chan struct{})
	nc.SetClosedHandler(func(*nats.Conn) { close(closed) })

	h.enrol(second)
	h.update()
	if _, err := h.node.Stream(context.Background(), h.js, second.ID); err != nil {
		t.Fatal(err)
	}
	second.Publish(second.Connect(h.url()), second.Record(3))
	first.Publish(nc, first.Record(3)) // the one that was there is not disturbed

	if err := h.dir.Enact(&registry.Revoke{Box: first.ID.String(), Until: uint64(len(first.Log)), Reason: "stolen"}); err != nil {
		t.Fatal(err)
	}
	h.update()
	<-closed // a revoked box is cut off
	if nc, err := nats.Connect(h.url(), first.Options()...); err == nil {
		nc.Close()
		t.Error("a revoked box came back")
	}
	second.Publish(second.Connect(h.url()), second.Record(3))
}

// A ward talks to the hub about peer.> and hears the answers to its own requests, and nothing of the boxes' account.
func TestWardJoinsThePeersOnly(t *testing.T) {
	h := newHub(t)
	b := peertest.NewBox(t, "f1/gw1")
	h.enrol(b)
	inv, let, err := facility.Invite(h.dir, h.conf, "ward1", "127.0.0.1:4999", nil, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.dir.Enact(let); err != nil {
		t.Fatal(err)
	}
	h.start()
	file := filepath.Join(t.TempDir(), "ward1.json")
	if err := inv.Write(file); err != nil {
		t.Fatal(err)
	}
	wd := facility.Dir(filepath.Join(t.TempDir(), "ward"))
	wc, err := facility.Join(wd, file, facility.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ward, _ := start(t, wd, wc)
	hubConn, err := h.node.Peers()
	if err != nil {
		t.Fatal(err)
	}
	defer hubConn.Close()
	wardConn, err := ward.Peers()
	if err != nil {
		t.Fatal(err)
	}
	defer wardConn.Close()
	if _, err := hubConn.Subscribe("peer.ask.hub.>", func(m *nats.Msg) { m.Respond([]byte("from hub")) }); err != nil {
		t.Fatal(err)
	}
	if _, err := wardConn.Subscribe("peer.ask.ward1.>", func(m *nats.Msg) { m.Respond([]byte("from ward")) }); err != nil {
		t.Fatal(err)
	}
	other, err := wardConn.SubscribeSync("obs.>")
	if err != nil {
		t.Fatal(err)
	}
	ask := func(nc *nats.Conn, subject, want string) {
		t.Helper()
		var m *nats.Msg
		var err error
		for range 100 { // until the link is up
			if m, err = nc.Request(subject, nil, time.Second); err == nil {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		if err != nil {
			t.Fatalf("no answer on %s: %v", subject, err)
		}
		if string(m.Data) != want {
			t.Errorf("%s answered %q, want %q", subject, m.Data, want)
		}
	}
	ask(wardConn, "peer.ask.hub.pull.f1.gw1", "from hub")
	ask(hubConn, "peer.ask.ward1.pull.f1.gw1", "from ward")
	b.Publish(b.Connect(h.url()), b.Record(3))
	ask(wardConn, "peer.ask.hub.pull.f1.gw1", "from hub") // after it, what could leak would have leaked
	if n, _, _ := other.Pending(); n != 0 {
		t.Errorf("a ward heard %d records of a box at the hub", n)
	}
	if _, err := wardConn.Request("$JS.API.STREAM.LIST", nil, 200*time.Millisecond); err == nil {
		t.Error("a ward reaches the hub's streams")
	}
	var info struct{ Data any }
	if m, err := wardConn.Request("$SYS.REQ.SERVER.PING", nil, 200*time.Millisecond); err == nil {
		json.Unmarshal(m.Data, &info)
		t.Errorf("a ward reaches the hub's system account: %v", info)
	}
}

func TestPortInUseNamesTheRemedy(t *testing.T) {
	h := newHub(t)
	l, err := net.Listen("tcp", h.conf.Peers.Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := node.FromFacility(h.dir, h.conf)
	if err != nil {
		t.Fatal(err)
	}
	_, err = node.Start(c, node.Members{}, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), h.conf.Peers.Listen) || !strings.Contains(err.Error(), "peer.toml") {
		t.Errorf("got %v, want an error that names the address and the file", fmt.Sprint(err))
	}
}
