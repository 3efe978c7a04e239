package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/vitalgate/vitalgate/hwtest/hospital"
	"github.com/vitalgate/vitalgate/peer/node"
	"github.com/vitalgate/vitalgate/peer/peertest"
	"github.com/vitalgate/vitalgate/peer/registry"
	"github.com/vitalgate/vitalgate/peer/store"
	"github.com/vitalgate/vitalgate/record/enrolment"
)

// entries is how far the registry of a peer goes.
func (s *site) entries() uint64 {
	s.t.Helper()
	state, err := s.dir.Registry().Load()
	if err != nil {
		s.t.Fatal(err)
	}
	return state.Size
}

// decide decides at this peer, in this process, and hands the entry to the running peer.
func (s *site) decide(d registry.Decision) {
	s.t.Helper()
	n, enough, err := s.dir.Decide(d, "")
	if err != nil || !enough {
		s.t.Fatalf("cannot decide: %v", err)
	}
	if err := submit(s.t.Context(), s.dir, [][]byte{n.Bytes()}); err != nil {
		s.t.Fatal(err)
	}
}

// knows waits until a peer has as much of the registry as another.
func (s *site) knows(other *site) {
	s.t.Helper()
	want := other.entries()
	s.until(fmt.Sprintf("%d entries of the registry are in force", want), func() bool {
		st, err := socketSource{s.dir}.status(s.t.Context())
		return err == nil && st.Registry >= want
	})
}

// A revocation that is decided at the hub cuts the box off at the hub and at the ward, in that order of the log: whatever
// either accepts later is accepted from others. How long it took is printed.
func TestARevocationCutsAtOnceEverywhere(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	ward := hub.ward("ward1")
	hub.start()
	ward.start()
	honest := peertest.NewBox(t, "f1/honest")
	hub.enrol(honest)
	var atHub, atWard []time.Duration
	for i := range 5 {
		box := peertest.NewBox(t, fmt.Sprintf("f1/gw%d", i))
		hub.enrol(box)
		ward.knows(hub)
		one, two := hub.connect(box), ward.connect(box)
		hub.publish(box, one, box.Record(5))
		ward.has(box)
		closed := [2]chan time.Time{make(chan time.Time, 1), make(chan time.Time, 1)}
		one.SetClosedHandler(func(*nats.Conn) { closed[0] <- time.Now() })
		two.SetClosedHandler(func(*nats.Conn) { closed[1] <- time.Now() })
		began := time.Now()
		hub.decide(&registry.Revoke{Box: box.ID.String(), Until: uint64(len(box.Log)), Reason: "stolen"})
		if !one.IsClosed() { // the decision is in force; the socket's end travels to this process
			hub.until("the revoked box is cut off", one.IsClosed)
		}
		ward.until("the ward cuts it off too", two.IsClosed)
		atHub, atWard = append(atHub, (<-closed[0]).Sub(began)), append(atWard, (<-closed[1]).Sub(began))
		for _, peer := range []*site{hub, ward} {
			if nc, err := nats.Connect(peer.url(), box.Options()...); err == nil {
				nc.Close()
				t.Errorf("a revoked box comes back at %s", peer.conf.Name)
			}
			if n, err := (socketSource{peer.dir}).Size(box.ID); err != nil || n != uint64(len(box.Log)) {
				t.Errorf("%s holds %d records of the revoked box (%v), want %d", peer.conf.Name, n, err, len(box.Log))
			}
		}
	}
	ward.send(honest, honest.Record(3))
	hub.has(honest)
	slices.Sort(atHub)
	slices.Sort(atWard)
	t.Logf("from the decision to the closed connection: hub %v, ward %v", atHub, atWard)
}

// What a revoked box has signed before its last granted index is believed whenever it comes, and nothing after it, at every
// peer and whoever brings it.
func TestNothingAfterTheLastGrantedIndex(t *testing.T) {
	t.Parallel()
	link := newCable(t)
	hub := newHub(t, "tls://"+link.Addr().String())
	link.leadTo(hub.conf.Peers.Listen)
	ward := hub.ward("ward1")
	box := peertest.NewBox(t, "f1/gw1")
	hub.enrol(box, ward)
	hub.start()
	ward.start()
	ward.send(box, box.Record(20))
	hub.has(box)
	granted := uint64(len(box.Log))
	link.set(true)
	ward.send(box, box.Record(20)) // the ward knows nothing of the revocation, and believes it
	ward.has(box)
	hub.decide(&registry.Revoke{Box: "f1/gw1", Until: granted, Reason: "stolen"})
	link.set(false)
	ward.knows(hub)
	hub.until("the hub refuses what the ward has believed", func() bool { return notes(t, hub.dir.Quarantine(), box)["range"] > 0 })
	if n, err := (socketSource{hub.dir}).Size(box.ID); err != nil || n != granted {
		t.Errorf("the hub holds %d records (%v), granted are %d", n, err, granted)
	}
	for _, peer := range []*site{hub, ward} { // the ward has them in its log, and shows them to nobody any more
		for _, l := range peer.tail("--box", "f1/gw1", "--all") {
			if l.Index >= granted {
				t.Fatalf("%s shows record %d of a box that was revoked at %d", peer.conf.Name, l.Index, granted)
			}
		}
	}
}

// A suspended box is cut off and nothing of it is taken, nor set aside; resumed, its log goes on without a gap.
func TestASuspendedBoxGoesOnWhenItIsResumed(t *testing.T) {
	t.Parallel()
	link := newCable(t)
	hub := newHub(t, "tls://"+link.Addr().String())
	link.leadTo(hub.conf.Peers.Listen)
	ward := hub.ward("ward1")
	box := peertest.NewBox(t, "f1/gw1")
	hub.enrol(box, ward)
	hub.start()
	ward.start()
	ward.send(box, box.Record(10))
	hub.has(box)
	before := uint64(len(box.Log))
	link.set(true)
	ward.send(box, box.Record(10))
	ward.has(box)
	if out := program(t, "box", "suspend", "f1/gw1", "--reason", "under repair", "--data", string(hub.dir)); !strings.Contains(out, "In force here") {
		t.Errorf("suspend says %q", out)
	}
	if nc, err := nats.Connect(hub.url(), box.Options()...); err == nil {
		nc.Close()
		t.Error("a suspended box connects")
	}
	link.set(false)
	ward.knows(hub)
	if nc, err := nats.Connect(ward.url(), box.Options()...); err == nil {
		nc.Close()
		t.Error("a suspended box connects to the ward")
	}
	if n, err := (socketSource{hub.dir}).Size(box.ID); err != nil || n != before {
		t.Errorf("the hub has taken %d records of a suspended box (%v), want %d", n, err, before)
	}
	for _, s := range []*site{hub, ward} {
		if got := s.conditionsOf(box); !slices.Contains(got, "suspended") {
			t.Errorf("%s says %v of a suspended box", s.conf.Name, got)
		}
	}
	program(t, "box", "resume", "f1/gw1", "--data", string(hub.dir))
	hub.has(box)
	ward.knows(hub)
	if got := ward.conditionsOf(box); slices.Contains(got, "suspended") {
		t.Errorf("the ward says %v of a box that was resumed", got)
	}
	ward.send(box, box.Record(10))
	hub.has(box)
	hub.same(box)
	ward.same(box)
	if got := notes(t, hub.dir.Quarantine(), box); len(got) != 0 {
		t.Errorf("set aside %v", got)
	}
}

// A box whose chip was changed gets new keys and goes on with its log; the old chip's signature is worth nothing from there on.
func TestARekeyedBoxGoesOnWithItsLog(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	ward := hub.ward("ward1")
	box := peertest.NewBox(t, "f1/gw1")
	hub.enrol(box, ward)
	hub.start()
	ward.start()
	ward.send(box, box.Record(10))
	hub.has(box)
	old := box.Fork(len(box.Log))
	box.Rekey()
	dir := t.TempDir()
	request, grant := filepath.Join(dir, "request"), filepath.Join(dir, "grant")
	if err := enrolment.Write(request, box.Request()); err != nil {
		t.Fatal(err)
	}
	program(t, "box", "rekey", request, "-o", grant, "--data", string(hub.dir))
	g, err := enrolment.ReadGrant(grant)
	if err != nil {
		t.Fatal(err)
	}
	box.Granted(g)
	ward.knows(hub)
	for _, peer := range []*site{hub, ward} {
		if nc, err := nats.Connect(peer.url(), old.Options()...); err == nil {
			nc.Close()
			t.Errorf("the old keys connect to %s", peer.conf.Name)
		}
	}
	forged := old.Record(1)
	nc := hub.connect(box)
	hub.publish(box, nc, forged) // the thief of the old chip has the new credentials too
	hub.publish(box, nc, box.Record(10))
	hub.has(box)
	ward.has(box)
	if got := notes(t, hub.dir.Quarantine(), box); got["signature"] == 0 {
		t.Errorf("what the old chip has signed is set aside as %v, want signature", got)
	}
	for _, peer := range []*site{hub, ward} {
		lines := peer.tail("--all")
		if len(lines) != len(box.Log) {
			t.Errorf("%s shows %d records, the box has signed %d", peer.conf.Name, len(lines), len(box.Log))
		}
		if out := program(t, "verify", "--data", string(peer.dir)); !strings.Contains(out, fmt.Sprintf("%d records", len(box.Log))) {
			t.Errorf("verify at %s says %q", peer.conf.Name, out)
		}
	}
	if out := program(t, "fsck", "--data", string(hub.dir)); !strings.Contains(out, "f1/gw1: clean") {
		t.Errorf("fsck says %q", out)
	}
	ward.kill()
	if err := os.RemoveAll(ward.dir.Store()); err != nil {
		t.Fatal(err)
	}
	ward.start()
	ward.has(box)
}

// Several administrators decide through files, with software keys and with openssl as the token.
func TestAdministratorsDecideThroughFiles(t *testing.T) {
	t.Parallel()
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	ssl := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(openssl, args...).CombinedOutput(); err != nil {
			t.Fatalf("openssl %v: %v\n%s", args, err, out)
		}
	}
	program(t, "registry", "keygen", at("alice.key"))
	program(t, "registry", "keygen", at("carol.key"))
	ssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", at("bob.pem"))
	ssl("pkey", "-in", at("bob.pem"), "-pubout", "-out", at("bob.pub"))
	alice := func(file string) { program(t, "registry", "sign", file, "--name", "alice", "--key", at("alice.key")) }
	bob := func(file string) {
		t.Helper()
		text := program(t, "registry", "text", file)
		if err := os.WriteFile(at("text"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		ssl("dgst", "-sha256", "-sign", at("bob.pem"), "-out", at("sig"), at("text"))
		program(t, "registry", "sign", file, "--name", "bob", "--signature", at("sig"), "--public", at("bob.pub"))
	}
	program(t, "registry", "init", "--facility", "f1", "--threshold", "2", "--administrator", "alice="+at("alice.key.pub"),
		"--administrator", "bob="+at("bob.pub"), "--administrator", "carol="+at("carol.key.pub"), "-o", at("genesis"))
	initHub := []string{"init", "--facility", "f1", "--name", "hub", "--data", at("hub"), "--genesis", at("genesis"),
		"--listen-boxes", hospital.FreeAddr(), "--listen-peers", hospital.FreeAddr(), "--page", hospital.FreeAddr()}
	alice(at("genesis"))
	if _, err := tryProgram(initHub...); err == nil || !strings.Contains(err.Error(), "threshold") {
		t.Errorf("one signature begins the registry of three: %v", err)
	}
	bob(at("genesis"))
	program(t, initHub...)
	hub := newSite(t, at("hub"))
	hub.start()
	box := peertest.NewBox(t, "f1/gw1")
	if err := enrolment.Write(at("request"), box.Request()); err != nil {
		t.Fatal(err)
	}
	if _, err := tryProgram("box", "add", at("request"), "--data", at("hub"), "-o", at("grant")); err == nil || !strings.Contains(err.Error(), "--propose") {
		t.Errorf("a box is added without administrators: %v", err)
	}
	if _, err := os.Stat(at("grant")); err == nil {
		t.Error("a grant was written without a decision")
	}
	if out := program(t, "box", "add", at("request"), "--data", at("hub"), "-o", at("grant"), "--propose", at("enrol")); !strings.Contains(out, "NOT YET IN FORCE") {
		t.Errorf("a proposal says %q", out)
	}
	submitted := func(file string) (string, error) {
		return tryProgram("registry", "submit", file, "--data", at("hub"))
	}
	bob(at("enrol"))
	if _, err := submitted(at("enrol")); err == nil || !strings.Contains(err.Error(), "threshold") {
		t.Errorf("one of two signatures: %v", err)
	}
	if _, err := tryProgram("registry", "sign", at("enrol"), "--name", "bob", "--signature", at("sig"), "--public", at("bob.pub")); err == nil {
		t.Error("bob signs twice")
	}
	alice(at("enrol"))
	if out, err := submitted(at("enrol")); err != nil {
		t.Fatal(out, err)
	}
	g, err := enrolment.ReadGrant(at("grant"))
	if err != nil {
		t.Fatal(err)
	}
	box.Granted(g)
	hub.send(box, box.Record(3))
	hub.has(box)

	// One alone suspends at once; two resume; a proposal that came too late says so and is no fork.
	program(t, "box", "suspend", "f1/gw1", "--administrator-key", at("carol.key"), "--data", at("hub"))
	program(t, "box", "resume", "f1/gw1", "--propose", at("resume"), "--data", at("hub"))
	program(t, "registry", "propose", "revoke", `{"box":"f1/gw1","until":3,"reason":"stolen"}`, "-o", at("revoke"), "--data", at("hub"))
	for _, f := range []string{at("resume"), at("revoke")} {
		alice(f)
		bob(f)
	}
	if out, err := submitted(at("resume")); err != nil {
		t.Fatal(out, err)
	}
	if _, err := submitted(at("revoke")); err == nil || !strings.Contains(err.Error(), "propose the second one anew") {
		t.Errorf("two decisions for one place: %v", err)
	}
	if st := hub.status(); slices.ContainsFunc(st.Conditions, func(c condition) bool { return c.Code == "registry-fork" }) {
		t.Errorf("a late proposal at this peer counts as a fork: %+v", st.Conditions)
	}
	log := program(t, "registry", "log", "--data", at("hub"))
	for _, want := range []string{"genesis", "alice,bob", "enrol box f1/gw1", "carol", "resume box f1/gw1"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log does not say %q:\n%s", want, log)
		}
	}
	if out := program(t, "registry", "verify", "--data", at("hub")); !strings.Contains(out, "4 entries verified") {
		t.Errorf("verify says %q", out)
	}
}

// rogue is a ward peer whose keys somebody has: it speaks NATS itself, in the hub's account of peers.
func rogue(t *testing.T, ward *site) (*node.Node, *nats.Conn) {
	t.Helper()
	conf, err := node.FromFacility(ward.dir, ward.conf)
	if err != nil {
		t.Fatal(err)
	}
	n, err := node.Start(conf, node.Members{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Stop)
	nc, err := n.Peers()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return n, nc
}

// A rogue ward tells old news and invented ones, in its own name, in the hub's and in 300 others, answers in their place, and
// claims a long registry that it does not give. It hides no revocation from another ward and nobody believes it anything.
func TestARogueWardHidesNoRevocation(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	ward, bad := hub.ward("ward1"), hub.ward("rogue")
	box := peertest.NewBox(t, "f1/gw1")
	hub.enrol(box)
	hub.start()
	ward.start()
	ward.knows(hub)
	log, err := hub.dir.Registry().Open()
	if err != nil {
		t.Fatal(err)
	}
	old := log.Entries(0, 100)
	n, nc := rogue(t, bad)
	hub.until("the rogue is connected", func() bool { return n.Leaves() > 0 })
	heard, err := nc.SubscribeSync("peer.say.*.registry")
	if err != nil {
		t.Fatal(err)
	}
	hub.until("it hears the others", func() bool { _, err := heard.NextMsg(10 * time.Millisecond); return err == nil })

	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	fake, err := registry.NewAdministrator("administrator", key.Public())
	if err != nil {
		t.Fatal(err)
	}
	forged := func(index uint64, d registry.Decision) []byte {
		s := log.State()
		note, err := registry.Propose(registry.Entry{Facility: "f1", Index: index, Before: s.Root, Time: time.Now().UTC().Truncate(time.Second), Decision: d})
		if err != nil {
			t.Fatal(err)
		}
		if err := note.Sign(fake, key); err != nil {
			t.Fatal(err)
		}
		return note.Bytes()
	}
	size := log.State().Size
	news := append(slices.Clone(old), forged(size, &registry.Resume{Box: "f1/gw1"}), forged(size-1, &registry.Resume{Box: "f1/gw1"}),
		forged(1_000_000, &registry.Revoke{Box: "f1/gw1", Until: 1, Reason: "x"}), []byte("x"), nil, bytes.Repeat([]byte("y"), 70_000))
	names := []string{"rogue", "hub", "ward1"}
	for i := range 300 {
		names = append(names, fmt.Sprintf("peer%d", i))
	}
	replies := []string{"_PEER.ward1.x", "_PEER.hub.x", "peer.say.hub.registry", "$JS.API.STREAM.LIST", "_PEER.>"}
	lie := func() {
		for _, name := range names {
			for _, e := range news {
				nc.Publish("peer.say."+name+".registry", e)
			}
			nc.Publish("peer.say."+name+".head.f1.gw1", []byte("x"))
		}
		for _, reply := range replies {
			nc.PublishRequest("peer.ask.hub.registry", reply, []byte(`{"from":0}`))
			nc.PublishRequest("peer.ask.ward1.registry", reply, []byte(`{"from":0}`))
			nc.PublishRequest("peer.ask.ward1.registry", reply, []byte(`{"from":18446744073709551615}`))
			nc.PublishRequest("peer.ask.hub.registry", reply, nil)
		}
		nc.Flush()
	}
	var answered sync.Map // where the rogue itself publishes: it hears that in its own account
	if _, err := nc.Subscribe("peer.ask.rogue.registry", func(m *nats.Msg) {
		answered.Store(m.Reply, true)
		for _, e := range news {
			nc.Publish(m.Reply, e)
		}
	}); err != nil {
		t.Fatal(err)
	}
	// Nobody is allowed to hear what is said to others.
	spy, err := nc.SubscribeSync("peer.ask.ward1.>")
	if err != nil {
		t.Fatal(err)
	}
	inboxes, err := nc.SubscribeSync("_PEER.>")
	if err != nil {
		t.Fatal(err)
	}
	lie()
	hub.decide(&registry.Revoke{Box: "f1/gw1", Until: 1, Reason: "stolen"})
	lie()
	ward.knows(hub)
	state, err := ward.dir.Registry().Load()
	if err != nil {
		t.Fatal(err)
	}
	if state.Boxes[0].Revoked == nil || state.Size != hub.entries() || len(state.Boxes) != 1 {
		t.Errorf("the ward has %+v", state)
	}
	for what, s := range map[string]*nats.Subscription{"what another is asked": spy, "answers to another": inboxes} {
		for {
			m, err := s.NextMsg(50 * time.Millisecond)
			if err != nil {
				break
			}
			if _, own := answered.Load(m.Subject); !own && !slices.Contains(replies, m.Reply) {
				t.Errorf("the rogue hears %s: %s", what, m.Subject)
			}
		}
	}
	for _, peer := range []*site{hub, ward} {
		for _, c := range peer.says().Conditions {
			if c.Severity == "critical" {
				t.Errorf("the rogue has brought about a critical condition at %s: %+v", peer.conf.Name, c)
			}
		}
		if strings.Contains(peer.log.String(), "panic") {
			t.Error(peer.log)
		}
	}
	// A removed peer's card is dead: its connection is cut, it does not come back, and its keys are nobody's any more.
	program(t, "peer", "remove", "rogue", "--data", string(hub.dir))
	hub.until("the removed peer is cut off", func() bool { return n.Leaves() == 0 })
	hub.decide(&registry.DenyFirmware{Firmware: "0.1", Reason: "x"}) // news after it
	ward.knows(hub)
	for {
		m, err := heard.NextMsg(50 * time.Millisecond)
		if err != nil {
			break
		}
		if e, err := registry.Parse(m.Data); err == nil && e.Entry.Decision.Kind() == "deny-firmware" {
			t.Error("a removed peer hears what is decided after it")
		}
	}
	if n.Leaves() != 0 {
		t.Error("a removed peer has come back")
	}
}

// A ward that was removed is cut off, and the person in front of it is told why. The boxes that were stopped are named on the page.
func TestARemovedWardSaysSo(t *testing.T) {
	hub := newHub(t, "")
	ward := hub.ward("ward1")
	box := peertest.NewBox(t, "f1/gw1")
	hub.enrol(box, ward)
	hub.start()
	ward.start()
	codes := func() (all []string) {
		for _, c := range ward.status().Conditions {
			all = append(all, c.Code)
		}
		return all
	}
	ward.send(box, box.Record(3))
	hub.has(box)
	if got := codes(); slices.Contains(got, "removed") {
		t.Errorf("before: %v", got)
	}
	hub.decide(&registry.Suspend{Box: "f1/gw1", Reason: "left in the lift"})
	ward.knows(hub)
	hub.decide(&registry.RemovePeer{Name: "ward1"})
	ward.until("it says that it was removed", func() bool { return slices.Contains(codes(), "removed") })
	for _, s := range []*site{hub, ward} {
		s.until("the page names the stopped box", func() bool {
			resp, err := http.Get("http://" + s.conf.Page.Listen + "/")
			if err != nil {
				return false
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			return err == nil && bytes.Contains(b, []byte("left in the lift"))
		})
	}
}

// A hub whose registry is damaged, cut short, set back or gone does not run, and does not begin another one. It says what to do,
// and that works.
func TestAPeerThatHasLostItsRegistryRefuses(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	ward := hub.ward("ward1")
	box := peertest.NewBox(t, "f1/gw1")
	hub.enrol(box, ward)
	program(t, "box", "revoke", "f1/gw1", "--last", "3", "--data", string(hub.dir))
	g := hub.dir.Registry()
	log, err := os.ReadFile(g.Log)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := registry.Split(log)
	if err != nil {
		t.Fatal(err)
	}
	set := func(b []byte) func() error { return func() error { return os.WriteFile(g.Log, b, 0o600) } }
	whole := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(whole, log, 0o600); err != nil {
		t.Fatal(err)
	}
	for what, damage := range map[string]func() error{
		"the revocation is cut off":     set(bytes.Join(entries[:len(entries)-1], []byte("\n"))),
		"the revocation is taken out":   set(bytes.Replace(log, []byte("v1 revoke"), []byte("v1 resume"), 1)),
		"the file is cut in the middle": set(log[:len(log)/2]),
		"the file is empty":             set(nil),
		"the file is gone":              func() error { return os.Remove(g.Log) },
		"the head is gone":              func() error { return os.Remove(g.Head) },
	} {
		head, err := os.ReadFile(g.Head)
		if err != nil {
			t.Fatal(err)
		}
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if out, err := tryProgram("run", "--data", string(hub.dir)); err == nil || !strings.Contains(err.Error(), "registry") {
			t.Errorf("%s: runs, or does not say why not: %v %s", what, err, out)
		}
		if _, err := tryProgram("box", "resume", "f1/gw1", "--data", string(hub.dir)); err == nil {
			t.Errorf("%s: decides", what)
		}
		if out, err := tryProgram("status", "--data", string(hub.dir)); err == nil || !strings.Contains(out, "registry-broken") {
			t.Errorf("%s: status says %q, %v", what, out, err)
		}
		program(t, "registry", "restore", whole, "--data", string(hub.dir))
		if now, err := os.ReadFile(g.Head); err != nil || !bytes.Equal(now, head) {
			t.Errorf("%s: restored to %q, %v", what, now, err)
		}
	}
	pin, err := os.ReadFile(g.Pin)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(g.Pin); err != nil {
		t.Fatal(err)
	}
	if _, err := tryProgram("run", "--data", string(hub.dir)); err == nil || !strings.Contains(err.Error(), "genesis") {
		t.Errorf("a hub that has lost its genesis runs: %v", err)
	}
	if _, err := tryProgram("registry", "restore", whole, "--data", string(hub.dir)); err == nil {
		t.Error("a registry is restored without a pin")
	}
	if err := os.WriteFile(g.Pin, pin, 0o600); err != nil {
		t.Fatal(err)
	}
	other := newHub(t, "")
	if _, err := tryProgram("registry", "restore", other.dir.Registry().Log, "--data", string(hub.dir)); err == nil || !strings.Contains(err.Error(), "genesis") {
		t.Errorf("restored from another facility's registry: %v", err)
	}
	hub.start()
}

// Two peers whose administrators' key has signed two histories: each keeps its own, both keep the evidence and say so.
func TestAForkBetweenPeersIsShown(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	ward := hub.ward("ward1")
	box := peertest.NewBox(t, "f1/gw1")
	hub.enrol(box, ward)
	key, err := os.ReadFile(hub.dir.AdministratorKey())
	if err != nil {
		t.Fatal(err)
	}
	stolen := filepath.Join(t.TempDir(), "stolen.key")
	if err := os.WriteFile(stolen, key, 0o600); err != nil {
		t.Fatal(err)
	}
	// The thief of the key hides the revocation from the ward under a decision of his own.
	program(t, "registry", "deny-firmware", "0.1", "--reason", "x", "--administrator-key", stolen, "--data", string(ward.dir))
	program(t, "registry", "deny-firmware", "0.2", "--reason", "x", "--administrator-key", stolen, "--data", string(ward.dir))
	program(t, "box", "revoke", "f1/gw1", "--last", "3", "--data", string(hub.dir))
	hub.start()
	ward.start()
	for _, peer := range []*site{hub, ward} {
		peer.until("the fork is shown", func() bool {
			st, err := socketSource{peer.dir}.status(t.Context())
			return err == nil && slices.ContainsFunc(st.Conditions, func(c condition) bool { return c.Code == "registry-fork" && c.Severity == "critical" })
		})
	}
	a, err := http.Get("http://" + hub.conf.Page.Listen + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	a.Body.Close()
	if a.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("readyz answers %s while peers enforce different decisions", a.Status)
	}
	state, err := hub.dir.Registry().Load()
	if err != nil || state.Boxes[0].Revoked == nil {
		t.Errorf("the revocation is gone at the hub: %v", err)
	}
}

// A peer whose disk was set back is told so by the others, and has everything again at once.
func TestAPeerThatWasSetBackIsBroughtUpToDate(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	ward := hub.ward("ward1")
	box := peertest.NewBox(t, "f1/gw1")
	hub.enrol(box, ward)
	g := ward.dir.Registry()
	backup := map[string][]byte{g.Log: nil, g.Head: nil}
	for f := range backup {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		backup[f] = b
	}
	hub.start()
	ward.start()
	hub.decide(&registry.Revoke{Box: "f1/gw1", Until: 3, Reason: "stolen"})
	ward.knows(hub)
	hub.until("the hub has heard the ward", func() bool { // else it cannot know that the ward had it
		return strings.Contains(hub.metric(t, "vitalpeer_registry_shown"), "ward1")
	})
	ward.kill()
	for f, b := range backup {
		if err := os.WriteFile(f, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ward.start()
	ward.knows(hub)
	hub.until("the hub has noticed", func() bool {
		return strings.Contains(hub.log.String(), "a peer has lost entries of the registry that it had")
	})
	if nc, err := nats.Connect(ward.url(), box.Options()...); err == nil {
		nc.Close()
		t.Error("a revoked box connects")
	}
}

// metric is the lines of /metrics that begin so.
func (s *site) metric(t *testing.T, name string) string {
	t.Helper()
	a, err := http.Get("http://" + s.conf.Page.Listen + "/metrics")
	if err != nil {
		return ""
	}
	defer a.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(a.Body); err != nil {
		return ""
	}
	var all []string
	for l := range strings.Lines(b.String()) {
		if strings.HasPrefix(l, name) {
			all = append(all, l)
		}
	}
	return strings.Join(all, "")
}

// A decision that is made while another command makes one is made after it, and neither is lost.
func TestDecisionsAtOnceAreMadeInTurn(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	hub.start()
	const n = 6
	done := make(chan error, n)
	for i := range n {
		go func() {
			_, err := tryProgram("registry", "deny-firmware", fmt.Sprintf("0.%d", i), "--reason", "x", "--data", string(hub.dir))
			done <- err
		}()
	}
	for range n {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	state, err := hub.dir.Registry().Load()
	if err != nil || len(state.Firmware) != n || state.Size != n+1 {
		t.Errorf("%d entries, %v denied, %v", state.Size, state.Firmware, err)
	}
}

// A box that says it runs a denied firmware is named; an operator who was removed is cut off.
func TestDeniedFirmwareIsNamedAndARemovedOperatorIsCutOff(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	box := peertest.NewBox(t, "f1/gw1")
	hub.enrol(box)
	hub.start()
	boot := box.Restart()
	nc := hub.connect(box)
	hub.publish(box, nc, boot)
	hub.publish(box, nc, box.Record(2))
	hub.has(box)
	denied := func() bool {
		return slices.ContainsFunc(hub.says().Conditions, func(c condition) bool { return c.Code == "firmware-denied" && c.About == "f1/gw1" })
	}
	if denied() {
		t.Error("the firmware is denied before anybody has")
	}
	program(t, "registry", "deny-firmware", "test", "--reason", "loses readings", "--data", string(hub.dir))
	hub.until("the box is named", denied)
	if nc.IsClosed() {
		t.Error("the box is cut off")
	}

	olga := filepath.Join(t.TempDir(), "olga")
	program(t, "operator", "add", "olga", "-o", olga, "--data", string(hub.dir))
	one, _, err := dial(t, olga)
	if err != nil {
		t.Fatal(err)
	}
	program(t, "operator", "remove", "olga", "--data", string(hub.dir))
	hub.until("the operator is cut off", one.IsClosed)
	if again, _, err := dial(t, olga); err == nil {
		again.Close()
		t.Error("a removed operator comes back")
	}
}

// What of the registry could not be put into force is tried again without a new decision.
func TestWhatIsNotInForceIsTriedAgain(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	hub.enrol(peertest.NewBox(t, "f1/gw1"))
	ctx, stop := context.WithCancel(t.Context())
	up, ended := make(chan *peer, 1), make(chan error, 1)
	go func() {
		ended <- run(ctx, hub.dir, slog.New(slog.DiscardHandler), store.DefaultPatience, time.Hour, func(p *peer) { up <- p })
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
	hub.ended, hub.log = make(chan struct{}), &syncBuffer{} // it runs in this process
	p.mu.Lock()
	p.state, p.broken = &registry.State{}, errors.New("as if the NATS server had refused")
	p.mu.Unlock()
	hub.until("the registry is in force", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.broken == nil && p.state == p.registry.State()
	})
}
