package registry_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/peer/peertest"
	"github.com/vitalgate/vitalgate/peer/registry"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/enrolment"
)

// council is some administrators with their keys. Every second one has a P-256 key, as a token would.
type council struct {
	all  []registry.Administrator
	keys []crypto.Signer
}

func newCouncil(t testing.TB, names ...string) council {
	t.Helper()
	var c council
	for i, name := range names {
		var key crypto.Signer
		var err error
		if i%2 == 0 {
			_, key, err = ed25519.GenerateKey(rand.Reader)
		} else {
			key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		}
		if err != nil {
			t.Fatal(err)
		}
		a, err := registry.NewAdministrator(name, key.Public())
		if err != nil {
			t.Fatal(err)
		}
		c.all, c.keys = append(c.all, a), append(c.keys, key)
	}
	return c
}

// sign puts the signatures of the named members on a note.
func (c council) sign(t testing.TB, n *registry.Note, members ...int) []byte {
	t.Helper()
	for _, i := range members {
		if err := n.Sign(c.all[i], c.keys[i]); err != nil {
			t.Fatal(err)
		}
	}
	return n.Bytes()
}

func place(t testing.TB) registry.Registry {
	dir := t.TempDir()
	return registry.Registry{Log: filepath.Join(dir, "log"), Pin: filepath.Join(dir, "genesis"), Head: filepath.Join(dir, "head"), Evidence: filepath.Join(dir, "evidence")}
}

// found begins a registry that m of the council decide.
func found(t testing.TB, c council, m int) (registry.Registry, *registry.Log) {
	t.Helper()
	g := place(t)
	n, err := registry.Propose(registry.Entry{Facility: "f1", Before: (record.Tree{}).Root(), Time: time.Now().UTC().Truncate(time.Second),
		Decision: &registry.Genesis{Administrators: c.all, Threshold: m}})
	if err != nil {
		t.Fatal(err)
	}
	members := make([]int, m)
	for i := range members {
		members[i] = i
	}
	if err := g.Found(c.sign(t, n, members...)); err != nil {
		t.Fatal(err)
	}
	l, err := g.Open()
	if err != nil {
		t.Fatal(err)
	}
	return g, l
}

// decide takes a decision into the log.
func decide(t testing.TB, l *registry.Log, c council, d registry.Decision, members ...int) {
	t.Helper()
	n, err := l.Propose(d)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Append(c.sign(t, n, members...)); err != nil {
		t.Fatal(err)
	}
}

func digest(s string) string { return strings.Repeat(s, 64) }

func enrol(t testing.TB, id, pin string) *registry.Enrol {
	t.Helper()
	b := peertest.NewBox(t, id)
	key, err := enrolment.FormatKey(&b.Data.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	nkey, err := b.NKey.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return &registry.Enrol{Box: id, DataKey: key, NKey: nkey, TLSKey: digest(pin), Claim: "emulated", Software: "1.0", Kinds: registry.AllKinds}
}

func nkey(t testing.TB) string { return enrol(t, "f1/x", "0").NKey }

// everything is a registry with one decision of each kind, and those decisions in order.
func everything(t testing.TB) (registry.Registry, *registry.Log, council) {
	t.Helper()
	c := newCouncil(t, "alice", "bob", "carol")
	g, l := found(t, c, 2)
	until := uint64(900)
	one, two := enrol(t, "f1/gw1", "a"), enrol(t, "f1/gw2", "b")
	two.Chip, two.Monitors = digest("c"), []string{"bed-2"}
	two.Attested = &registry.Attested{Class: "emulated", Maker: "test", Manufacturer: "id:49424D00", Model: "swtpm", Version: "id:1", LAK: []byte("public area"), Policy: digest("e"), Firmware: 7}
	fresh := enrol(t, "f1/gw1", "d")
	for _, d := range []registry.Decision{
		&registry.AddPeer{Name: "ward1", NKey: nkey(t), TLSKey: digest("1"), Boxes: "tls://10.0.0.1:4222"},
		&registry.AddOperator{Name: "olga", NKey: nkey(t), TLSKey: digest("2")},
		one, two,
		&registry.Grant{Box: "f1/gw1", Kinds: []record.Kind{record.KindVitals}, Monitors: []string{"bed-1"}, From: 100, Until: &until},
		&registry.Suspend{Box: "f1/gw1", Reason: "under repair"},
		&registry.Resume{Box: "f1/gw1"},
		&registry.Rekey{Box: "f1/gw1", DataKey: fresh.DataKey, TLSKey: fresh.TLSKey, NKey: fresh.NKey, Claim: "emulated", Software: "1.0", From: 200},
		&registry.DenyChip{Chip: digest("c"), Reason: "its maker has lost keys"},
		&registry.DenyFirmware{Firmware: "0.9", Reason: "does not sync"},
		&registry.Revoke{Box: "f1/gw2", Until: 7, Reason: "stolen"},
		&registry.Decommission{Box: "f1/gw1", Until: 300},
		&registry.RemoveOperator{Name: "olga"},
		&registry.RemovePeer{Name: "ward1"},
		&registry.Administrators{Administrators: c.all[:2], Threshold: 2},
	} {
		decide(t, l, c, d, 0, 1)
	}
	return g, l, c
}

func TestEveryKindOfDecisionIsEnforcedAndReadAgain(t *testing.T) {
	g, l, c := everything(t)
	again, err := g.Open()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, b := range again.Entries(0, 100) {
		n, err := registry.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		seen[n.Entry.Decision.Kind()] = true
		if n.Entry.Decision.Summary() == "" {
			t.Errorf("a %s has no summary", n.Entry.Decision.Kind())
		}
	}
	for _, k := range registry.Kinds() {
		if !seen[k] {
			t.Errorf("kind %s is not in this test", k)
		}
	}
	s := again.State()
	if s.Size != l.State().Size || s.Root != l.State().Root || len(s.Peers) != 0 || len(s.Operators) != 0 || len(s.Administrators) != 2 || len(s.Boxes) != 2 {
		t.Errorf("read again: %+v", s)
	}
	one, two := s.Boxes[0], s.Boxes[1]
	if one.Cut() != "revoked" || !one.Revoked.Decommissioned || *one.Until != 300 || len(one.Earlier) != 1 || one.Suspended != nil {
		t.Errorf("gw1 is %+v", one)
	}
	if two.Cut() != "revoked" || two.Suspended == nil || !two.Suspended.Denied || *two.Until != 7 {
		t.Errorf("gw2 is %+v", two)
	}
	if k := one.KeyAt(199); k.Equal(one.KeyAt(200)) || !one.KeyAt(200).Equal(one.Key()) || !k.Equal(one.KeyAt(0)) {
		t.Error("the keys before and after the re-keying are not told apart")
	}
	n, err := l.Propose(&registry.DenyFirmware{Firmware: "0.8", Reason: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Append(c.sign(t, n, 0, 2)); registry.ReasonOf(err) != registry.ReasonSigner {
		t.Errorf("who is no administrator any more may still decide: %v", err)
	}
}

// Every version of the form of entries opens for ever. VITALGATE_VECTORS=1 writes those of this version where there are none yet.
func TestVectors(t *testing.T) {
	dir := filepath.Join("testdata", "v1")
	if _, err := os.Stat(dir); os.IsNotExist(err) && os.Getenv("VITALGATE_VECTORS") != "" {
		g, _, _ := everything(t)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for from, to := range map[string]string{g.Log: "log", g.Pin: "genesis", g.Head: "head"} {
			b, err := os.ReadFile(from)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, to), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	g := registry.Registry{Log: filepath.Join(dir, "log"), Pin: filepath.Join(dir, "genesis"), Head: filepath.Join(dir, "head")}
	s, err := g.Load()
	if err != nil {
		t.Fatal(err)
	}
	if s.Facility != "f1" || s.Size != 16 || len(s.Boxes) != 2 || *s.Boxes[0].Until != 300 || *s.Boxes[1].Until != 7 || s.Boxes[1].Suspended == nil ||
		len(s.Boxes[0].Grants) != 1 || len(s.Boxes[0].Earlier) != 1 || s.Firmware["0.9"] == "" || len(s.Administrators) != 2 || s.Boxes[1].Attested == nil || s.Boxes[1].Attested.Firmware != 7 {
		t.Errorf("the registry of version 1 is read as %+v", s)
	}
}

// What the state forbids is refused as it is proposed and, where administrators sign it all the same, as it is taken in.
func TestRules(t *testing.T) {
	c := newCouncil(t, "alice")
	_, l := found(t, c, 1)
	one, two := enrol(t, "f1/gw1", "a"), enrol(t, "f1/gw2", "b")
	one.Chip = digest("e")
	decide(t, l, c, one, 0)
	decide(t, l, c, two, 0)
	four := enrol(t, "f1/gw4", "c")
	four.Chip = digest("d")
	decide(t, l, c, four, 0)
	decide(t, l, c, &registry.AddPeer{Name: "ward1", NKey: nkey(t), TLSKey: digest("1")}, 0)
	decide(t, l, c, &registry.AddPeer{Name: "old", NKey: nkey(t), TLSKey: digest("9")}, 0)
	decide(t, l, c, &registry.RemovePeer{Name: "old"}, 0)
	decide(t, l, c, &registry.Revoke{Box: "f1/gw2", Until: 10, Reason: "stolen"}, 0)
	decide(t, l, c, &registry.DenyChip{Chip: digest("f"), Reason: "broken"}, 0)
	decide(t, l, c, &registry.DenyFirmware{Firmware: "0.1", Reason: "broken"}, 0)
	decide(t, l, c, &registry.DenyChip{Chip: digest("e"), Reason: "stolen batch"}, 0)
	with := func(id, pin string, change func(*registry.Enrol)) *registry.Enrol {
		e := enrol(t, id, pin)
		change(e)
		return e
	}
	rekey := func(e *registry.Enrol, from uint64) *registry.Rekey {
		return &registry.Rekey{Box: e.Box, DataKey: e.DataKey, TLSKey: e.TLSKey, NKey: e.NKey, Claim: e.Claim, Software: e.Software, Chip: e.Chip, From: from}
	}
	for what, d := range map[string]registry.Decision{
		"a box is enrolled twice":                enrol(t, "f1/gw1", "3"),
		"a revoked box is enrolled again":        enrol(t, "f1/gw2", "3"),
		"a box of another facility":              enrol(t, "f2/gw1", "3"),
		"a copied data key":                      with("f1/gw3", "3", func(e *registry.Enrol) { e.DataKey = one.DataKey }),
		"a copied nkey":                          with("f1/gw3", "3", func(e *registry.Enrol) { e.NKey = one.NKey }),
		"a copied TLS key":                       with("f1/gw3", "a", func(*registry.Enrol) {}),
		"the key of a revoked box":               with("f1/gw3", "3", func(e *registry.Enrol) { e.DataKey = two.DataKey }),
		"the card of a removed peer":             &registry.AddPeer{Name: "new", NKey: nkey(t), TLSKey: digest("9")},
		"the card of a removed peer, for a box":  enrol(t, "f1/gw3", "9"),
		"a denied chip":                          with("f1/gw3", "3", func(e *registry.Enrol) { e.Chip = digest("f") }),
		"a denied firmware":                      with("f1/gw3", "3", func(e *registry.Enrol) { e.Software = "0.1" }),
		"a box with a denied chip is resumed":    &registry.Resume{Box: "f1/gw1"},
		"a box is re-keyed to a denied chip":     rekey(with("f1/gw1", "3", func(e *registry.Enrol) { e.Chip = digest("f") }), 5),
		"a box comes with another's chip":        with("f1/gw3", "3", func(e *registry.Enrol) { e.Chip = digest("d") }),
		"a revoked box is re-keyed":              rekey(enrol(t, "f1/gw2", "3"), 5),
		"a revocation is moved later":            &registry.Revoke{Box: "f1/gw2", Until: 11, Reason: "x"},
		"a revocation becomes a decommissioning": &registry.Decommission{Box: "f1/gw2", Until: 3},
		"a revoked box is granted more":          &registry.Grant{Box: "f1/gw2", Kinds: registry.AllKinds, From: 20},
		"a revoked box is suspended":             &registry.Suspend{Box: "f1/gw2", Reason: "x"},
		"a revoked box is resumed":               &registry.Resume{Box: "f1/gw2"},
		"an unknown box is revoked":              &registry.Revoke{Box: "f1/gw9", Until: 1, Reason: "x"},
		"a peer is invited twice":                &registry.AddPeer{Name: "ward1", NKey: nkey(t), TLSKey: digest("3")},
		"a peer with the certificate of another": &registry.AddPeer{Name: "ward2", NKey: nkey(t), TLSKey: digest("1")},
		"an unknown peer is removed":             &registry.RemovePeer{Name: "ward9"},
		"an unknown operator is removed":         &registry.RemoveOperator{Name: "olga"},
		"a chip is denied twice":                 &registry.DenyChip{Chip: digest("f"), Reason: "x"},
		"a second genesis":                       &registry.Genesis{Administrators: c.all, Threshold: 1},
	} {
		t.Run(what, func(t *testing.T) {
			size := l.State().Size
			if _, err := l.Propose(d); registry.ReasonOf(err) != registry.ReasonRule {
				t.Errorf("proposed: %v, want a refusal by rule", err)
			}
			s := l.State()
			n, err := registry.Propose(registry.Entry{Facility: "f1", Index: s.Size, Before: s.Root, Time: time.Now().UTC().Truncate(time.Second), Decision: d})
			if err != nil {
				t.Fatal(err)
			}
			if err := l.Append(c.sign(t, n, 0)); registry.ReasonOf(err) != registry.ReasonRule {
				t.Errorf("taken in: %v, want a refusal by rule", err)
			}
			if l.State().Size != size {
				t.Error("the registry has grown")
			}
		})
	}
	decide(t, l, c, &registry.Revoke{Box: "f1/gw2", Until: 4, Reason: "it was stolen earlier"}, 0)
	if u := l.State().Box(record.BoxID{Facility: "f1", Name: "gw2"}).Until; *u != 4 {
		t.Errorf("a revocation cannot be moved back: until %d", *u)
	}
	decide(t, l, c, rekey(with("f1/gw4", "5", func(e *registry.Enrol) { e.Chip = digest("d") }), 5), 0) // new keys in its own chip
	decide(t, l, c, rekey(enrol(t, "f1/gw1", "4"), 5), 0)
	if l.State().Boxes[0].Cut() != "" {
		t.Error("a box whose denied chip was replaced stays suspended")
	}
}

// What an earlier version of this program let administrators decide stays in force, and they can go on; it is proposed no more.
func TestARuleThatCameLaterIsForNewDecisions(t *testing.T) {
	c := newCouncil(t, "alice")
	g, l := found(t, c, 1)
	one, two, fresh := enrol(t, "f1/gw1", "a"), enrol(t, "f1/gw2", "b"), enrol(t, "f1/gw1", "c")
	one.Chip, two.Chip = digest("e"), digest("f")
	decide(t, l, c, one, 0)
	decide(t, l, c, two, 0)
	for _, d := range []registry.Decision{
		&registry.Rekey{Box: "f1/gw1", DataKey: fresh.DataKey, TLSKey: fresh.TLSKey, NKey: fresh.NKey, Claim: "emulated", Software: "1.0", Chip: two.Chip, From: 5}, // boards were swapped
		&registry.DenyFirmware{Firmware: "pcr11:0", Reason: "x"},
	} {
		if _, err := l.Propose(d); registry.ReasonOf(err) != registry.ReasonRule {
			t.Errorf("%s is proposed: %v, want a refusal by rule", d.Summary(), err)
		}
		s := l.State()
		n, err := registry.Propose(registry.Entry{Facility: "f1", Index: s.Size, Before: s.Root, Time: time.Now().UTC().Truncate(time.Second), Decision: d})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Append(c.sign(t, n, 0)); err != nil {
			t.Errorf("%s, as an earlier version has it: %v", d.Summary(), err)
		}
	}
	decide(t, l, c, &registry.Revoke{Box: "f1/gw2", Until: 7, Reason: "stolen"}, 0)
	s, err := g.Load()
	if err != nil {
		t.Fatal(err)
	}
	if s.Boxes[0].Chip != two.Chip || s.Firmware["pcr11:0"] == "" || s.Boxes[1].Revoked == nil {
		t.Errorf("read again: %+v", s)
	}
}

func TestSoManyAdministratorsMustSign(t *testing.T) {
	c := newCouncil(t, "alice", "bob", "carol")
	stranger := newCouncil(t, "alice", "mallory")
	_, l := found(t, c, 2)
	decide(t, l, c, enrol(t, "f1/gw1", "a"), 0, 2)
	propose := func(d registry.Decision) *registry.Note {
		n, err := l.Propose(d)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	revoke := &registry.Revoke{Box: "f1/gw1", Until: 1, Reason: "x"}
	refused := func(what string, entry []byte, want registry.Reason) {
		t.Helper()
		if err := l.Append(entry); registry.ReasonOf(err) != want {
			t.Errorf("%s: %v, want a refusal by %s", what, err, want)
		}
	}
	refused("nobody has signed", propose(revoke).Bytes(), registry.ReasonThreshold)
	refused("one has signed", c.sign(t, propose(revoke), 1), registry.ReasonThreshold)
	refused("one and a stranger have signed", stranger.sign(t, mustParse(t, c.sign(t, propose(revoke), 1)), 1), registry.ReasonSigner)
	refused("a stranger signs in the name of one", stranger.sign(t, mustParse(t, c.sign(t, propose(revoke), 1)), 0), registry.ReasonSigner)
	twice := propose(revoke)
	c.sign(t, twice, 1)
	twice.Signatures = append(twice.Signatures, twice.Signatures[0])
	refused("one has signed twice", twice.Bytes(), registry.ReasonSigner)
	if err := twice.Sign(c.all[1], c.keys[1]); err == nil {
		t.Error("one may sign twice")
	}
	moved := propose(revoke)
	c.sign(t, moved, 0, 1)
	moved.Signatures[0].Bytes = moved.Signatures[1].Bytes
	refused("a signature of another", moved.Bytes(), registry.ReasonSignature)

	decide(t, l, c, &registry.Suspend{Box: "f1/gw1", Reason: "at once"}, 2) // one alone
	refused("one resumes alone", c.sign(t, propose(&registry.Resume{Box: "f1/gw1"}), 2), registry.ReasonThreshold)
	decide(t, l, c, &registry.Resume{Box: "f1/gw1"}, 0, 1)
	decide(t, l, c, &registry.Administrators{Administrators: c.all, Threshold: 3}, 0, 1)
	refused("two of three", c.sign(t, propose(revoke), 0, 1), registry.ReasonThreshold)
	decide(t, l, c, revoke, 2, 0, 1)
}

// One who stands in the council twice could decide alone what two must: the key counts, not how it is written.
func TestOneKeyIsOneAdministrator(t *testing.T) {
	c := newCouncil(t, "alice", "bob")
	twice := c.all[0]
	twice.Name, twice.Key = "carol", strings.Replace(twice.Key, "-----\n", "-----\n\n", 1)
	if twice.Key == c.all[0].Key {
		t.Fatal("the key is written the same way")
	}
	for _, d := range []registry.Decision{&registry.Genesis{Administrators: append(c.all, twice), Threshold: 2}, &registry.Administrators{Administrators: append(c.all, twice), Threshold: 2}} {
		_, err := registry.Propose(registry.Entry{Facility: "f1", Before: (record.Tree{}).Root(), Time: time.Now().UTC().Truncate(time.Second), Decision: d})
		if err == nil || !strings.Contains(err.Error(), "stands there twice") {
			t.Errorf("%s: %v", d.Kind(), err)
		}
	}
}

func mustParse(t testing.TB, b []byte) *registry.Note {
	t.Helper()
	n, err := registry.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Whatever somebody does to the log on a disk or on its way, it is refused, and the reason says what was done.
func TestTamperingIsFound(t *testing.T) {
	g, l, c := everything(t)
	log, err := os.ReadFile(g.Log)
	if err != nil {
		t.Fatal(err)
	}
	entries := l.Entries(0, 100)
	n := len(entries)
	join := func(e ...[]byte) []byte { return bytes.Join(e, []byte("\n")) }
	without := func(i int) []byte { return join(slices.Delete(slices.Clone(entries), i, i+1)...) }
	swapped := func(i, j int) []byte {
		e := slices.Clone(entries)
		e[i], e[j] = e[j], e[i]
		return join(e...)
	}
	edit := func(i int, from, to string) []byte {
		e := slices.Clone(entries)
		if e[i] = bytes.Replace(e[i], []byte(from), []byte(to), 1); bytes.Equal(e[i], entries[i]) {
			t.Fatalf("entry %d has no %q:\n%s", i, from, e[i])
		}
		return join(e...)
	}
	kind := func(k string) int {
		return slices.IndexFunc(entries, func(e []byte) bool { return bytes.Contains(e, []byte("\nv1 "+k+" ")) })
	}
	revoke, suspend := kind("revoke"), kind("suspend")
	unsigned := func(i int) []byte { return mustParse(t, entries[i]).Text }
	last := bytes.LastIndex(entries[revoke], []byte("— "))
	other, otherLog, _ := everything(t)
	_ = other
	for _, c := range []struct {
		what string
		log  []byte
		want registry.Reason
	}{
		{"nothing is left", nil, registry.ReasonGenesis},
		{"only the genesis is left", entries[0], registry.ReasonTruncated},
		{"the last entry is gone", join(entries[:n-1]...), registry.ReasonTruncated},
		{"the last ten entries are gone", join(entries[:n-10]...), registry.ReasonTruncated},
		{"the last bytes are gone", log[:len(log)-30], registry.ReasonMalformed},
		{"the last line end is gone", log[:len(log)-1], registry.ReasonMalformed},
		{"the signatures of the last entry are gone", join(append(slices.Clone(entries[:n-1]), append(unsigned(n-1), '\n'))...), registry.ReasonThreshold},
		{"the genesis is gone", without(0), registry.ReasonGenesis},
		{"a suspension is taken out", without(suspend), registry.ReasonGap},
		{"a revocation is taken out", without(revoke), registry.ReasonGap},
		{"two neighbours are swapped", swapped(suspend, suspend+1), registry.ReasonGap},
		{"two far ones are swapped", swapped(2, n-2), registry.ReasonGap},
		{"an entry stands there twice", join(slices.Insert(slices.Clone(entries), suspend, entries[suspend])...), registry.ReasonRepeated},
		{"an early entry is replayed at the end", join(append(slices.Clone(entries), entries[suspend])...), registry.ReasonRepeated},
		{"the order is turned round", join(reversed(entries)...), registry.ReasonGenesis},
		{"another reason for a revocation", edit(revoke, "stolen", "stolem"), registry.ReasonSignature},
		{"another index of a revocation", edit(revoke, `"until":7`, `"until":8`), registry.ReasonSignature},
		{"another box is revoked", edit(revoke, `"f1/gw2"`, `"f1/gw1"`), registry.ReasonSignature},
		{"another time", edit(revoke, "Z\n", "Y\n"), registry.ReasonMalformed},
		{"another kind", edit(suspend, "v1 suspend ", "v1 resume "), registry.ReasonMalformed},
		{"an unknown kind", edit(suspend, "v1 suspend ", "v1 pardon "), registry.ReasonKind},
		{"a later version", edit(suspend, "v1 suspend ", "v2 suspend "), registry.ReasonKind},
		{"another facility", edit(suspend, "vitalgate/f1/", "vitalgate/f2/"), registry.ReasonFacility},
		{"the log of a box", edit(suspend, "/_registry", "/gw1"), registry.ReasonMalformed},
		{"another index of the entry", edit(suspend, fmt.Sprintf("\n%d\n", suspend), fmt.Sprintf("\n%d\n", suspend+1)), registry.ReasonGap},
		{"an earlier index of the entry", edit(suspend, fmt.Sprintf("\n%d\n", suspend), fmt.Sprintf("\n%d\n", suspend-1)), registry.ReasonFork},
		{"an index with a zero in front", edit(suspend, fmt.Sprintf("\n%d\n", suspend), fmt.Sprintf("\n0%d\n", suspend)), registry.ReasonMalformed},
		{"a further field", edit(revoke, `{"box"`, `{"pardon":true,"box"`), registry.ReasonMalformed},
		{"a field twice", edit(revoke, `{"box"`, `{"box":"f1/gw1","box"`), registry.ReasonMalformed},
		{"a field in capitals", edit(revoke, `{"box"`, `{"Box"`), registry.ReasonMalformed},
		{"a space in the JSON", edit(revoke, `{"box"`, `{ "box"`), registry.ReasonMalformed},
		{"one signature is taken off", join(append(append(slices.Clone(entries[:revoke]), entries[revoke][:last]), entries[revoke+1:]...)...), registry.ReasonThreshold},
		{"a signature in another name", edit(revoke, "— alice", "— carol"), registry.ReasonSigner},
		{"a signature in the name of a stranger", edit(revoke, "— alice", "— mallory"), registry.ReasonSigner},
		{"the names of both are swapped", edit(revoke, "— alice", "— bob"), registry.ReasonSigner},
		{"another line end", edit(revoke, "}\n\n", "}\r\n\n"), registry.ReasonMalformed},
		{"text after the signatures", append(slices.Clone(log), "pardon\n"...), registry.ReasonMalformed},
		{"an empty line at the end", append(slices.Clone(log), '\n'), registry.ReasonMalformed},
		{"another registry of the same facility", join(otherLog.Entries(0, 100)...), registry.ReasonGenesis},
		{"the genesis of another registry", join(append([][]byte{otherLog.Entries(0, 1)[0]}, entries[1:]...)...), registry.ReasonGenesis},
		{"an entry of another registry", join(append(slices.Clone(entries[:n-1]), otherLog.Entries(uint64(n-1), 1)[0])...), registry.ReasonHistory},
	} {
		if err := os.WriteFile(g.Log, c.log, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := g.Load()
		if registry.ReasonOf(err) != c.want {
			t.Errorf("%s: %v, want a refusal by %q", c.what, err, c.want)
		}
		t.Logf("%-50s %v", c.what, registry.ReasonOf(err))
	}

	// A whole log of the same administrators that is another one than the enforced: only the head tells.
	fork, err := os.ReadFile(g.Head)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(g.Log, log, 0o600); err != nil {
		t.Fatal(err)
	}
	for what, head := range map[string]string{
		"another root":        strings.Replace(string(fork), " ", " A", 1)[:len(fork)-3] + "A=\n",
		"more was enforced":   strings.Replace(string(fork), fmt.Sprint(n), fmt.Sprint(n+1), 1),
		"the head is empty":   "",
		"the head is no head": "x y\n",
	} {
		if err := os.WriteFile(g.Head, []byte(head), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := g.Load(); registry.ReasonOf(err) == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := os.WriteFile(g.Head, fork, 0o600); err != nil {
		t.Fatal(err)
	}

	// Every bit of a small log, and of the large one here and there.
	small, sl := found(t, c, 2)
	decide(t, sl, c, enrol(t, "f1/gw1", "a"), 0, 1)
	decide(t, sl, c, &registry.Suspend{Box: "f1/gw1", Reason: "x"}, 1)
	flips, reasons, sparse := 0, map[registry.Reason]int{}, 1
	if testing.Short() {
		sparse = 13
	}
	for g, step := range map[registry.Registry]int{small: sparse, g: 211 * sparse} {
		log, err := os.ReadFile(g.Log)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < 8*len(log); i += step {
			log[i/8] ^= 1 << (i % 8)
			_, err := flipped(g, log)
			if err == nil {
				t.Fatalf("bit %d of byte %d is changed, and the log is believed", i%8, i/8)
			}
			log[i/8] ^= 1 << (i % 8)
			reasons[registry.ReasonOf(err)]++
			flips++
		}
	}
	if reasons[""] > 0 {
		t.Errorf("%d flips were refused without a reason", reasons[""])
	}
	t.Logf("%d bits changed, all found: %v", flips, reasons)
}

// flipped is whether a peer that is given this log would join by it. It writes nothing.
func flipped(g registry.Registry, log []byte) (*registry.State, error) {
	pin, err := os.ReadFile(g.Pin)
	if err != nil {
		return nil, err
	}
	return registry.Verify(string(pin), log)
}

func reversed(e [][]byte) [][]byte {
	e = slices.Clone(e)
	slices.Reverse(e)
	return e
}

// A peer that has lost a part of its registry refuses, and never founds another or goes on with less.
func TestALostRegistryIsNotBegunAnew(t *testing.T) {
	g, l, _ := everything(t)
	log := bytes.Join(l.Entries(0, 100), []byte("\n"))
	for what, file := range map[string]string{"the log": g.Log, "the pin": g.Pin, "the head": g.Head} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		_, err = g.Open()
		if err == nil || registry.ReasonOf(err) == "" {
			t.Errorf("%s is gone: %v", what, err)
		}
		if err := g.Found(l.Entries(0, 1)[0]); err == nil {
			t.Errorf("%s is gone, and a registry is founded in its place", what)
		}
		if file != g.Pin {
			if err := g.Restore(log); err != nil {
				t.Errorf("%s is gone and cannot be restored: %v", what, err)
			}
			if _, err := g.Load(); err != nil {
				t.Error(err)
			}
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	short := bytes.Join(l.Entries(0, 5), []byte("\n"))
	if err := g.Restore(short); registry.ReasonOf(err) != registry.ReasonTruncated {
		t.Errorf("restored with less than was enforced: %v", err)
	}
	if _, err := g.Load(); err != nil {
		t.Errorf("a refused restore has changed the registry: %v", err)
	}
	pin, err := os.ReadFile(g.Pin)
	if err != nil {
		t.Fatal(err)
	}
	fresh := place(t)
	if err := fresh.Join(string(pin), short); err != nil {
		t.Errorf("cannot join: %v", err)
	}
	_, other, _ := everything(t)
	if err := place(t).Join(string(pin), bytes.Join(other.Entries(0, 5), []byte("\n"))); registry.ReasonOf(err) != registry.ReasonGenesis {
		t.Errorf("joined another registry: %v", err)
	}
}

// Administrators who sign two entries for one place, as when two of them propose at once or a key is stolen, are found, and
// both entries are kept.
func TestAForkIsEvidence(t *testing.T) {
	c := newCouncil(t, "alice", "bob", "carol")
	g, l := found(t, c, 2)
	decide(t, l, c, enrol(t, "f1/gw1", "a"), 0, 1)
	harmless, err := l.Propose(&registry.DenyFirmware{Firmware: "0.1", Reason: "x"})
	if err != nil {
		t.Fatal(err)
	}
	revocation, err := l.Propose(&registry.Revoke{Box: "f1/gw1", Until: 3, Reason: "stolen"})
	if err != nil {
		t.Fatal(err)
	}
	again := *revocation
	if err := l.Append(c.sign(t, revocation, 0, 1)); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(c.sign(t, &again, 1, 2)); err != nil {
		t.Errorf("the same entry, signed by others, is a fork: %v", err)
	}
	if err := l.Append(c.sign(t, mustParse(t, harmless.Bytes()), 2)); registry.ReasonOf(err) != registry.ReasonThreshold {
		t.Errorf("one administrator alone makes a fork: %v", err)
	}
	fork := c.sign(t, harmless, 2, 1)
	if err := l.Append(fork); registry.ReasonOf(err) != registry.ReasonFork {
		t.Fatalf("a fork: %v", err)
	}
	if l.State().Boxes[0].Revoked == nil {
		t.Error("the revocation is gone")
	}
	for range 2 {
		if err := l.KeepFork(fork); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := filepath.Glob(filepath.Join(g.Evidence, "*.fork"))
	if err != nil || len(kept) != 1 {
		t.Fatalf("kept %v, %v", kept, err)
	}
	b, err := os.ReadFile(kept[0])
	if err != nil {
		t.Fatal(err)
	}
	both, err := registry.Split(b)
	if err != nil || len(both) != 2 || !bytes.Equal(both[0], l.Entries(2, 1)[0]) || !bytes.Equal(both[1], fork) {
		t.Errorf("the evidence is not both entries: %v\n%s", err, b)
	}
}

// A power cut between the two files leaves a registry that is read again and goes on.
func TestPowerCutBetweenLogAndHead(t *testing.T) {
	c := newCouncil(t, "alice")
	g, l := found(t, c, 1)
	decide(t, l, c, enrol(t, "f1/gw1", "a"), 0)
	head, err := os.ReadFile(g.Head)
	if err != nil {
		t.Fatal(err)
	}
	decide(t, l, c, &registry.Suspend{Box: "f1/gw1", Reason: "x"}, 0)
	if err := os.WriteFile(g.Head, head, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err = g.Open()
	if err != nil {
		t.Fatal(err)
	}
	decide(t, l, c, &registry.Resume{Box: "f1/gw1"}, 0)
	if s, err := g.Load(); err != nil || s.Size != 4 || s.Boxes[0].Cut() != "" {
		t.Errorf("%+v, %v", s, err)
	}
}

// openssl, or any token that it drives, signs entries over the bytes of Text.
func TestOpenSSLSigns(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	dir := t.TempDir()
	run := func(args ...string) {
		t.Helper()
		cmd := exec.Command(openssl, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("openssl %v: %v\n%s", args, err, out)
		}
	}
	run("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "token.pem")
	run("genpkey", "-algorithm", "ED25519", "-out", "soft.pem")
	var all []registry.Administrator
	for _, name := range []string{"token", "soft"} {
		run("pkey", "-in", name+".pem", "-pubout", "-out", name+".pub")
		b, err := os.ReadFile(filepath.Join(dir, name+".pub"))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, registry.Administrator{Name: name, Key: string(b)})
	}
	sign := func(n *registry.Note) []byte {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "text"), n.Text, 0o600); err != nil {
			t.Fatal(err)
		}
		run("dgst", "-sha256", "-sign", "token.pem", "-out", "token.sig", "text")
		run("pkeyutl", "-sign", "-rawin", "-inkey", "soft.pem", "-in", "text", "-out", "soft.sig")
		for _, a := range all {
			sig, err := os.ReadFile(filepath.Join(dir, a.Name+".sig"))
			if err != nil {
				t.Fatal(err)
			}
			if err := n.Add(a, sig); err != nil {
				t.Fatal(err)
			}
		}
		return n.Bytes()
	}
	g := place(t)
	n, err := registry.Propose(registry.Entry{Facility: "f1", Before: (record.Tree{}).Root(), Time: time.Now().UTC().Truncate(time.Second),
		Decision: &registry.Genesis{Administrators: all, Threshold: 2}})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Found(sign(n)); err != nil {
		t.Fatal(err)
	}
	l, err := g.Open()
	if err != nil {
		t.Fatal(err)
	}
	if n, err = l.Propose(enrol(t, "f1/gw1", "a")); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(sign(n)); err != nil {
		t.Fatal(err)
	}
}

// A key that never leaves a PKCS #11 token signs an entry as docs/registry.md says. SoftHSM is a token in software, through the same interface.
func TestATokenSigns(t *testing.T) {
	module := "/usr/lib/softhsm/libsofthsm2.so"
	_, err := os.Stat(module)
	for _, tool := range []string{"softhsm2-util", "pkcs11-tool", "openssl", "sh"} {
		if _, missing := exec.LookPath(tool); missing != nil || err != nil {
			t.Skip("softhsm2, opensc and openssl are not installed")
		}
	}
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(at("conf"), []byte("directories.tokendir = "+dir+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", at("conf"))
	run := func(script string) {
		t.Helper()
		cmd := exec.Command("sh", "-ec", script)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	run("softhsm2-util --init-token --free --label bob --pin 12345678 --so-pin 87654321\n" +
		"pkcs11-tool --module " + module + " --token-label bob --login --pin 12345678 --keypairgen --key-type EC:prime256v1 --id 01 --label administrator")
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "registry.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, recipe, ok := strings.Cut(string(doc), "    pkcs11-tool ")
	recipe, _, ended := strings.Cut("    pkcs11-tool "+recipe, "\n\n")
	if !ok || !ended {
		t.Fatal("docs/registry.md has no recipe for tokens")
	}
	recipe = strings.NewReplacer("MODULE", module, "--login", "--login --pin 12345678").Replace(recipe)
	public, sign, _ := strings.Cut(recipe, "\n")
	run(public)
	key, err := os.ReadFile(at("bob.pub"))
	if err != nil {
		t.Fatal(err)
	}
	bob := registry.Administrator{Name: "bob", Key: string(key)}
	n, err := registry.Propose(registry.Entry{Facility: "f1", Before: (record.Tree{}).Root(), Time: time.Now().UTC().Truncate(time.Second),
		Decision: &registry.Genesis{Administrators: []registry.Administrator{bob}, Threshold: 1}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("text"), n.Text, 0o600); err != nil {
		t.Fatal(err)
	}
	run(sign)
	sig, err := os.ReadFile(at("sig"))
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Add(bob, sig); err != nil {
		t.Fatal(err)
	}
	if err := place(t).Found(n.Bytes()); err != nil {
		t.Fatal(err)
	}
}

func TestGrantDecidesByKindAndIndex(t *testing.T) {
	until, end := uint64(20), uint64(40)
	r := &registry.Registration{Kinds: []record.Kind{record.KindVitals}, From: 10, Until: &end, Grants: []registry.Grant{
		{Kinds: []record.Kind{record.KindVitals, record.KindAlarm}, Monitors: []string{"bed-1"}, From: 15, Until: &until},
		{Kinds: []record.Kind{record.KindAlarm}, From: 30}}}
	for _, c := range []struct {
		kind  record.Kind
		index uint64
		want  string
	}{
		{record.KindVitals, 10, ""}, {record.KindVitals, 19, ""}, {record.KindEpoch, 12, ""}, {record.KindBoot, 12, ""},
		{record.KindVitals, 9, "index"}, {record.KindVitals, 20, "index"}, {record.KindVitals, 29, "index"}, {record.KindBoot, 25, ""},
		{record.KindAlarm, 12, "kind"}, {record.KindAlarm, 16, ""}, {record.KindAlarm, 30, ""}, {record.KindVitals, 30, "kind"},
		{record.KindAlarm, 40, "index"}, {record.KindBoot, 40, "index"}, {record.KindEpoch, 9, "index"},
	} {
		if got := r.Refuses(record.Header{Kind: c.kind, Index: c.index}); got != c.want {
			t.Errorf("%s at %d: refused as %q, want %q", c.kind, c.index, got, c.want)
		}
	}
	if r.RefusesMonitor(14, "bed-2") || r.RefusesMonitor(16, "bed-1") || !r.RefusesMonitor(16, "bed-2") || r.RefusesMonitor(31, "bed-2") {
		t.Error("the monitors of a grant do not decide in its range")
	}
}

// The box's own word never makes its key better protected than it was shown to be.
func TestProtectionIsNotTheBoxsWord(t *testing.T) {
	for claim, want := range map[string]string{"hardware": "unproven hardware", "emulated": "emulated", "software": "software",
		"": "unknown", "HARDWARE": "unknown", "hardware (proven)": "unknown"} {
		if got := (&registry.Registration{Claim: claim}).Protection(); got != want {
			t.Errorf("a claim of %q counts as %q, want %q", claim, got, want)
		}
	}
}

// Whatever comes as an entry, it is refused, or is written again exactly as it came; never a panic.
func FuzzEntry(f *testing.F) {
	_, l, _ := everything(f)
	for _, e := range l.Entries(0, 100) {
		f.Add(e)
	}
	f.Add([]byte("vitalgate/f1/_registry\n0\n\nv1 genesis \n{}\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := registry.Parse(data)
		if err != nil {
			if registry.ReasonOf(err) == "" {
				t.Fatalf("refused without a reason: %v", err)
			}
			return
		}
		if !bytes.Equal(n.Bytes(), data) {
			t.Fatalf("%q is written again as %q", data, n.Bytes())
		}
		size := l.State().Size
		if err := l.Append(data); err == nil && l.State().Size != size {
			t.Fatal("an entry that nobody signed was taken")
		}
	})
}
