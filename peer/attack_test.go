package main

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/vitalgate/vitalgate/peer/node"
	"github.com/vitalgate/vitalgate/peer/peertest"
	"github.com/vitalgate/vitalgate/record"
)

// cable is a TCP connection that can be cut.
type cable struct {
	net.Listener
	to string

	mu    sync.Mutex
	cut   bool
	conns []net.Conn
}

func newCable(t *testing.T) *cable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{Listener: l}
	t.Cleanup(func() { l.Close(); c.set(true) })
	go func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			c.mu.Lock()
			b, err := net.Dial("tcp", c.to)
			if err != nil || c.cut {
				a.Close()
				if err == nil {
					b.Close()
				}
				c.mu.Unlock()
				continue
			}
			c.conns = append(c.conns, a, b)
			c.mu.Unlock()
			for _, p := range [][2]net.Conn{{a, b}, {b, a}} {
				go func() {
					io.Copy(p[0], p[1])
					p[0].Close()
					p[1].Close()
				}()
			}
		}
	}()
	return c
}

// leadTo says where the cable ends.
func (c *cable) leadTo(address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.to = address
}

func (c *cable) set(cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = cut
	if cut {
		for _, n := range c.conns {
			n.Close()
		}
		c.conns = nil
	}
}

// The ward's link to the hub is cut, the ward is killed, the hub is killed, all while the box publishes. In the end both
// hold everything once.
func TestCutsAndKillsLoseNothing(t *testing.T) {
	t.Parallel()
	link := newCable(t)
	hub := newHub(t, "tls://"+link.Addr().String())
	link.leadTo(hub.conf.Peers.Listen)
	ward := hub.ward("ward1")
	box := peertest.NewBox(t, "f1/gw1")
	hub.enrol(box, ward)
	hub.start()
	ward.start()
	ward.send(box, box.Record(300))
	hub.has(box)

	link.set(true)
	ward.send(box, box.Record(300))
	ward.has(box)
	ward.kill()
	ward.start()
	ward.send(box, box.Record(300))
	ward.kill() // at once: what the box had acknowledged is in the stream at least
	ward.start()
	ward.has(box)
	link.set(false)
	hub.has(box)

	ward.send(box, box.Record(2000))
	hub.kill() // in the middle of pulling, or before
	hub.start()
	hub.has(box)
	hub.same(box)
	ward.same(box)
}

func TestPeerThatLostItsStoreIsWholeAgain(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	ward := hub.ward("ward1")
	box := peertest.NewBox(t, "f1/gw1")
	hub.enrol(box, ward)
	hub.start()
	ward.start()
	for range 5 {
		ward.send(box, box.Record(700))
	}
	hub.has(box)
	for _, victim := range []*site{hub, ward} {
		victim.kill()
		for _, dir := range []string{victim.dir.Store(), victim.dir.Nats(), victim.dir.Cursors()} {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
		victim.start()
		victim.has(box)
		victim.same(box)
	}
	hub.until("no condition remains", func() bool { return len(hub.says().Conditions) == 0 })
}

// notes are the quarantine's or the evidence's notes on a box, by reason.
func notes(t *testing.T, dir string, b *peertest.Box) map[string]int {
	t.Helper()
	found := map[string]int{}
	paths, err := filepath.Glob(filepath.Join(dir, b.ID.Facility, b.ID.Name, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		var n struct{ Reason, What, From, Box string }
		if err := json.Unmarshal(text, &n); err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		if n.What == "" || n.From == "" || n.Box != b.ID.String() {
			t.Errorf("%s does not say what, from where and of which box: %+v", p, n)
		}
		found[n.Reason]++
	}
	return found
}

// Whatever a thief sends with a box's credentials is set aside with its reason, and the honest records go on.
func TestWhatDoesNotVerifyIsSetAsideWithItsReason(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	box, other := peertest.NewBox(t, "f1/gw1"), peertest.NewBox(t, "f1/gw2")
	hub.enrol(box)
	hub.enrol(other)
	hub.start()
	nc := hub.connect(box)
	hub.publish(box, nc, box.Record(10))

	encode := func(p record.Published) []byte {
		b, err := p.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	next := box.Record(5) // honest, sent last
	flip := func(change func(p *record.Published)) []byte {
		p, err := record.ParsePublished(encode(next[0]))
		if err != nil {
			t.Fatal(err)
		}
		change(&p)
		return encode(p)
	}
	forger := peertest.NewBox(t, "f1/gw1") // the same name, another key
	forger.Granted(box.Grant())
	foreign := other.Record(3)

	box.Send(nc,
		[]byte("no record at all"),
		nil,
		flip(func(p *record.Published) { p.Leaf[len(p.Leaf)-1] ^= 1 }),
		flip(func(p *record.Published) { p.Leaf[40] ^= 1 }),
		flip(func(p *record.Published) { p.Path[0][0] ^= 1 }),
		flip(func(p *record.Published) { p.Checkpoint[len(p.Checkpoint)-10] ^= 1 }),
		flip(func(p *record.Published) { p.Index++ }),
		flip(func(p *record.Published) { p.Index = 999 }),
		encode(foreign[0]),
		encode(forger.Record(1)[0]),
	)
	box.Publish(nc, next)
	hub.has(box)
	hub.same(box)
	got := notes(t, hub.dir.Quarantine(), box)
	total := 0
	for reason, n := range got {
		total += n
		if reason == "" {
			t.Errorf("%d messages are set aside without a reason", n)
		}
	}
	if total != 10 || got["malformed"] != 2 || got["proof"] != 4 || got["origin"] != 1 || got["size"] != 1 || got["checkpoint"]+got["signature"] != 2 {
		t.Errorf("set aside by reason: %v, want 10: malformed 2, proof 4, origin 1, size 1, checkpoint or signature 2", got)
	}
	if len(hub.tail("--box", "f1/gw2")) != 0 {
		t.Error("a record of another box got in under this one's credentials")
	}
	a, err := http.Get("http://" + hub.conf.Page.Listen + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(text, []byte(`vitalpeer_refused_total{box="f1/gw1",reason="signature"} `)) || bytes.Contains(text, []byte("patient-1")) {
		t.Errorf("the metrics do not count what was refused, or tell too much:\n%s", text)
	}
}

// A box whose disk was restored or copied signs a second history: it is refused, and both checkpoints are kept.
func TestTwoHistoriesOfOneBoxAreEvidence(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	ward := hub.ward("ward1")
	box := peertest.NewBox(t, "f1/gw1")
	hub.enrol(box, ward)
	hub.start()
	ward.start()
	nc := hub.connect(box)
	hub.publish(box, nc, box.Record(20))
	hub.has(box)
	ward.has(box)

	clone := box.Fork(10)
	fork := clone.Record(30)
	hub.publish(box, nc, fork)
	after := box.Record(5)
	hub.publish(box, nc, after)
	hub.has(box)
	ward.has(box)
	hub.same(box)
	ward.same(box)
	if got := notes(t, hub.dir.Quarantine(), box); got["fork"] < 10 { // those at and below the end of the log
		t.Errorf("set aside %v, want the forks up to the end of the log", got)
	}
	if got := notes(t, hub.dir.Evidence(), box); got["clone"] == 0 {
		t.Errorf("evidence %v, want that of a copy: the box has not started again", got)
	}
	file, err := filepath.Glob(filepath.Join(hub.dir.Evidence(), "f1", "gw1", "*.evidence"))
	if err != nil || len(file) == 0 {
		t.Fatalf("evidence files: %v %v", file, err)
	}
	key := filepath.Join(t.TempDir(), "box.pem")
	if err := os.WriteFile(key, []byte(box.Request().DataKey), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, flags := range [][]string{nil, {"--key", key}, {"--data", string(ward.dir)}} {
		if out := program(t, append([]string{"evidence", "verify", file[0]}, flags...)...); !strings.Contains(out, "clone") || !strings.Contains(out, "f1/gw1") {
			t.Errorf("evidence verify %v: %s", flags, out)
		}
	}
	if out := program(t, "evidence", "list", "--data", string(hub.dir)); !strings.Contains(out, file[0]) {
		t.Errorf("evidence list: %s", out)
	}
	found := false
	for _, c := range hub.status().Conditions {
		found = found || c.Code == "fork" && c.About == "f1/gw1" && c.Severity == "critical" && strings.Contains(c.Remedy, "vitalpeer box revoke")
	}
	if !found {
		t.Errorf("the status does not say whose history it is and what to do: %+v", hub.status().Conditions)
	}
	a, err := http.Get("http://" + hub.conf.Page.Listen + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	a.Body.Close()
	if a.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("readyz answers %s while readings of a bed are set aside", a.Status)
	}
}

func TestRevokedBoxIsCutOffAndNothingOfItIsTaken(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	ward := hub.ward("ward1")
	box := peertest.NewBox(t, "f1/gw1")
	hub.enrol(box, ward)
	hub.start()
	ward.start()
	nc := hub.connect(box)
	hub.publish(box, nc, box.Record(20))
	hub.has(box)
	ward.has(box)
	accepted := len(box.Log)
	if out := program(t, "box", "revoke", "f1/gw1", "--reason", "stolen", "--data", string(hub.dir)); !strings.Contains(out, "In force here") {
		t.Errorf("revoke says %q", out)
	}
	hub.until("the box is cut off", nc.IsClosed)
	hub.until("the box does not come back", func() bool {
		nc, err := nats.Connect(hub.url(), box.Options()...)
		if err == nil {
			nc.Close()
		}
		return err != nil
	})
	// The thief goes to the ward: it has heard of it.
	ward.until("the ward has heard of it", func() bool { return strings.Contains(program(t, "box", "list", "--data", string(ward.dir)), "revoked") })
	if nc, err := nats.Connect(ward.url(), box.Options()...); err == nil {
		nc.Close()
		t.Error("the ward lets a revoked box in")
	}
	for _, peer := range []*site{hub, ward} {
		if n, err := (socketSource{peer.dir}).Size(box.ID); err != nil || n != uint64(accepted) {
			t.Errorf("%s holds %d records (%v), want the %d from before the revocation", peer.conf.Name, n, err, accepted)
		}
	}
	if out, err := tryProgram("box", "revoke", "f1/gw1", "--data", string(hub.dir)); err == nil {
		t.Errorf("revoked twice: %s", out)
	}
}

// A box that is granted vital signs only: another kind of record is set aside and shown to nobody, and the log goes on.
func TestKindsBeyondTheGrantAreShownToNobody(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	box := peertest.NewBox(t, "f1/gw1")
	hub.enrolWith(box, "--kinds", "vitals")
	hub.start()
	nc := hub.connect(box)
	hub.publish(box, nc, box.Record(2))
	hub.publish(box, nc, box.Readings(record.Reading{Kind: record.KindAlarm, Patient: "patient-1", Content: record.Content{Bundle: peertest.Bundle(1)}}))
	hub.publish(box, nc, box.Record(2))
	hub.has(box)
	hub.same(box)
	if got := notes(t, hub.dir.Quarantine(), box); got["kind"] != 1 {
		t.Errorf("set aside %v, want one by kind", got)
	}
	for _, l := range hub.tail() {
		if l.Kind != record.KindVitals {
			t.Errorf("tail shows a record of kind %s", l.Kind)
		}
	}
}

// A record that arrives before its predecessors waits in the stream, until another peer brings those.
func TestGapIsFilledByAnotherPeer(t *testing.T) {
	t.Parallel()
	link := newCable(t)
	hub := newHub(t, "tls://"+link.Addr().String())
	link.leadTo(hub.conf.Peers.Listen)
	link.set(true)
	ward := hub.ward("ward1")
	box := peertest.NewBox(t, "f1/gw1")
	hub.enrol(box, ward)
	hub.start()
	ward.start()
	ward.send(box, box.Record(50)) // the box's first leaf node, which the hub cannot reach
	ward.has(box)
	hub.send(box, box.Record(50)) // then it goes to the hub
	if n, err := (socketSource{hub.dir}).Size(box.ID); err != nil || n != 0 {
		t.Errorf("the hub holds %d records behind a gap (%v)", n, err)
	}
	link.set(false)
	hub.has(box)
	ward.has(box)
	hub.same(box)
	ward.same(box)
}

// A peer that lies: it offers a true checkpoint and answers with records that are changed, foreign, out of order or
// missing, and asks for answers in places where they would do harm. The hub takes nothing of it, and takes all as soon as
// it tells the truth.
func TestLyingPeerIsNotBelieved(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	ward := hub.ward("liar") // its keys, without its program
	box, other := peertest.NewBox(t, "f1/gw1"), peertest.NewBox(t, "f1/gw2")
	hub.enrol(box)
	hub.enrol(other)
	hub.start()
	conf, err := node.FromFacility(ward.dir, ward.conf)
	if err != nil {
		t.Fatal(err)
	}
	n, err := node.Start(conf, node.Members{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer n.Stop()
	nc, err := n.Peers()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()

	records, foreign := box.Record(20), other.Record(20)
	encode := func(p record.Published) []byte {
		b, err := p.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	changed := func(i int) []byte {
		b := encode(records[i])
		b[len(b)-1] ^= 1
		return b
	}
	lies := [][][]byte{
		{changed(0), changed(1)},
		{encode(foreign[0]), encode(foreign[1])},
		{encode(records[3]), encode(records[2])},
		{[]byte("x"), bytes.Repeat([]byte("y"), 100_000)},
		{},
	}
	truth := make([][]byte, len(records))
	for i, p := range records {
		truth[i] = encode(p)
	}
	asked := make(chan int, 100)
	round := 0
	var honest atomic.Bool
	_, err = nc.Subscribe("peer.ask.liar.pull.f1.gw1", func(m *nats.Msg) {
		answers := truth
		if !honest.Load() {
			answers = lies[min(round, len(lies)-1)]
		}
		for _, b := range answers {
			nc.Publish(m.Reply, b)
		}
		end := nats.NewMsg(m.Reply)
		end.Header.Set("Vitalgate-End", "1")
		nc.PublishMsg(end)
		select {
		case asked <- round:
		default: // nobody looks any more
		}
		round++
	})
	if err != nil {
		t.Fatal(err)
	}
	const says = "peer.say.liar.head.f1.gw1"
	head := []byte(records[0].Checkpoint)
	size := func() uint64 {
		s, err := socketSource{hub.dir}.Size(box.ID)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for r := range lies {
		for _, garbage := range []string{"", "{", "x\n\n", strings.Repeat("z", 70_000)} {
			for _, subject := range []string{says, "peer.say.liar.registry", "peer.say.hub.head.f1.gw1", "peer.say.hub.registry", "peer.say.ward9.registry"} {
				if err := nc.Publish(subject, []byte(garbage)); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, reply := range []string{"peer.say.liar.head.f1.gw2", "peer.ask.hub.pull.f1.gw1", "peer.ask.hub.registry", "_PEER.hub.x"} {
			for _, ask := range []string{"", "{}", `{"from":18446744073709551615,"max":-1}`, `{"from":0,"max":1000000000}`} {
				if err := nc.PublishRequest("peer.ask.hub.pull.f1.gw1", reply, []byte(ask)); err != nil {
					t.Fatal(err)
				}
			}
		}
		got := -1
		hub.until("the hub asks for what was announced", func() bool {
			if err := nc.Publish(says, head); err != nil {
				t.Fatal(err)
			}
			select {
			case got = <-asked:
			default:
			}
			return got >= r
		})
		if size() != 0 {
			t.Fatalf("the hub holds %d records after lie %d", size(), got)
		}
	}
	honest.Store(true)
	hub.until("the hub takes the truth", func() bool {
		if err := nc.Publish(says, head); err != nil {
			t.Fatal(err)
		}
		return size() == uint64(len(records))
	})
	hub.same(box)
	got := notes(t, hub.dir.Quarantine(), box)
	if got["proof"] == 0 || got["origin"] == 0 || got["malformed"] == 0 {
		t.Errorf("set aside %v, want proof, origin and malformed", got)
	}
	if len(hub.tail("--box", "f1/gw2")) != 0 {
		t.Error("foreign records got in")
	}
}

// Exported records verify with openssl alone.
func TestExportVerifiesWithOpenSSL(t *testing.T) {
	t.Parallel()
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	hub := newHub(t, "")
	box := peertest.NewBox(t, "f1/gw1")
	hub.enrol(box)
	hub.start()
	hub.send(box, box.Record(9))
	hub.has(box)
	out := filepath.Join(t.TempDir(), "export")
	program(t, "export", "f1/gw1", "--from", "2", "--to", "6", "-o", out, "--data", string(hub.dir))
	leaves, err := filepath.Glob(filepath.Join(out, "*.leaf"))
	if err != nil || len(leaves) != 5 {
		t.Fatalf("exported %v (%v), want four records and the beginning of their epoch", leaves, err)
	}
	if got := program(t, "open", out, "2", "--reader", hub.dir.ReaderKey()); got != string(peertest.Bundle(61)) {
		t.Errorf("record 2 of the export says %q", got)
	}
	for _, l := range leaves {
		leaf, err := os.ReadFile(l)
		if err != nil {
			t.Fatal(err)
		}
		proof, err := os.ReadFile(strings.TrimSuffix(l, ".leaf") + ".tlog-proof")
		if err != nil {
			t.Fatal(err)
		}
		p, err := record.ParseProof(leaf, proof)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := record.Verify(p, box.ID, &box.Data.PublicKey); err != nil {
			t.Error(err)
		}
	}
	// The commands are those of the README in the export.
	readme, err := os.ReadFile(filepath.Join(out, "README"))
	if err != nil {
		t.Fatal(err)
	}
	begin := strings.Index(string(readme), "  f=0")
	if begin < 0 {
		t.Fatalf("the README shows no commands:\n%s", readme)
	}
	script, _, _ := strings.Cut(string(readme[begin:]), "\n\n")
	if python, err := exec.LookPath("python3"); err == nil {
		_, loop, _ := strings.Cut(string(readme), "  for f in")
		loop, _, _ = strings.Cut(loop, "\n")
		all := exec.Command("sh", "-ec", "for f in"+strings.ReplaceAll(loop, "python3 ", python+" "))
		all.Dir = out
		if said, err := all.CombinedOutput(); err != nil || bytes.Contains(said, []byte("BAD")) || bytes.Count(said, []byte("OK: ")) != len(leaves) {
			t.Errorf("verify.py says: %s %v", said, err)
		}
	}
	sh := exec.Command("sh", "-ec", strings.ReplaceAll(script, "openssl ", openssl+" "))
	sh.Dir = out
	said, err := sh.CombinedOutput()
	if err != nil || !bytes.Contains(said, []byte("Verified OK")) {
		t.Errorf("openssl says: %s %v", said, err)
	}
}

func TestTailFollowsAcrossNewBoxes(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	first, second := peertest.NewBox(t, "f1/gw1"), peertest.NewBox(t, "f1/gw2")
	hub.enrol(first)
	hub.start()
	cmd := exec.Command(vitalpeer, "tail", "--follow", "--data", string(hub.dir))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	api, err := http.Get("http://" + hub.conf.Page.Listen + "/api/records?follow=1")
	if err != nil {
		t.Fatal(err)
	}
	defer api.Body.Close()
	hub.send(first, first.Record(3))
	hub.enrol(second)
	hub.send(second, second.Record(3))
	for what, r := range map[string]io.Reader{"tail --follow": out, "/api/records": api.Body} {
		d := json.NewDecoder(r)
		got := map[string]int{}
		for got["f1/gw1"]+got["f1/gw2"] < 6 {
			var l line
			if err := d.Decode(&l); err != nil {
				t.Fatalf("%s: %v after %v", what, err, got)
			}
			if l.Bundle == nil {
				t.Errorf("%s shows a line without its Bundle: %+v", what, l)
			}
			got[l.Box]++
		}
	}
}

// The page holds patient data: only this machine may call it, and under no name that a stranger's page can take.
func TestRecordsAPIRefusesRebinding(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	hub.start()
	q, err := http.NewRequest(http.MethodGet, "http://"+hub.conf.Page.Listen+"/api/records", nil)
	if err != nil {
		t.Fatal(err)
	}
	q.Host = "evil.example"
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	a.Body.Close()
	if a.StatusCode != http.StatusForbidden {
		t.Errorf("answered %s", a.Status)
	}
}

// Each mistake of an administrator names the thing and the remedy.
func TestMistakesNameTheRemedy(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	box := peertest.NewBox(t, "f1/gw1")
	hub.enrol(box)
	d := string(hub.dir)
	refused := func(want string, args ...string) {
		t.Helper()
		out, err := tryProgram(args...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("vitalpeer %s: %v (printed %q), want an error that says %q", strings.Join(args, " "), err, out, want)
		}
	}
	refused("there is one already", "init", "--facility", "f1", "--name", "hub", "--data", d)
	refused("vitalpeer init", "status", "--data", t.TempDir())
	refused("a-z, 0-9", "init", "--facility", "F 1", "--name", "hub", "--data", filepath.Join(t.TempDir(), "x"))
	refused("not registered here", "get", "f1/gw9", "0", "--data", d)
	refused("not stored here", "get", "f1/gw1", "0", "--data", d)

	l, err := net.Listen("tcp", hub.conf.Boxes.Listen)
	if err != nil {
		t.Fatal(err)
	}
	refused(hub.conf.Boxes.Listen, "run", "--data", d)
	l.Close()
	if err := os.Chmod(hub.dir.Key(), 0o644); err != nil {
		t.Fatal(err)
	}
	refused("chmod 600", "run", "--data", d)
	if err := os.Chmod(hub.dir.Key(), 0o600); err != nil {
		t.Fatal(err)
	}
	edit(t, hub.dir.Config(), "[page]\n", "listen", "lisen")
	refused("lisen", "run", "--data", d)
	edit(t, hub.dir.Config(), "[page]\n", "lisen", "listen")

	edit(t, hub.dir.Config(), "", "'hub'", "'ward1'")
	refused("right folder", "run", "--data", d)
	edit(t, hub.dir.Config(), "", "'ward1'", "'hub'")

	hub.start()
	refused("stop it first", "run", "--data", d)
}
