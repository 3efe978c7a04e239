package witness_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/peer/peertest"
	"github.com/vitalgate/vitalgate/peer/registry"
	"github.com/vitalgate/vitalgate/peer/store"
	"github.com/vitalgate/vitalgate/peer/witness"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/cosign"
	"github.com/vitalgate/vitalgate/record/enrolment"
	"github.com/vitalgate/vitalgate/record/evidence"
)

// facility is an authority.
type facility struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newFacility(t testing.TB) *facility {
	t.Helper()
	f := &facility{key: peertest.Key(t)}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, f.key.Public(), f.key)
	if err != nil {
		t.Fatal(err)
	}
	if f.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return f
}

// peer makes what a peer cosigns with: its certificate is of cn, its card names name.
func (f *facility) peer(t testing.TB, cn, name string) (*cosign.Secret, *cosign.Card) {
	t.Helper()
	k := peertest.Key(t)
	tpl := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: cosign.CertificateName("f1", cn)}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().AddDate(1, 0, 0), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tpl, f.cert, k.Public(), f.key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := cosign.Generate(cosign.Name("f1", name))
	if err != nil {
		t.Fatal(err)
	}
	c, err := cosign.NewCard("f1", name, s.Public, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), k)
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

func newWitness(t testing.TB, f *facility, dir, name string, member func(peer, pin string) bool) *witness.Witness {
	t.Helper()
	s, c := f.peer(t, name, name)
	return witness.New(witness.Config{Dir: filepath.Join(dir, "witness"), Secret: s, Card: c, Authority: f.cert, Member: member})
}

func everybody(string, string) bool { return true }

func newBox(t testing.TB) *peertest.Box {
	t.Helper()
	b := peertest.NewBox(t, "f1/gw1")
	reader, err := record.GenerateReaderKey()
	if err != nil {
		t.Fatal(err)
	}
	b.Granted(&enrolment.Grant{Readers: enrolment.Readers{Network: []string{reader.Public().String()}}})
	return b
}

// open opens the peer's store of the box in dir.
func open(t testing.TB, dir string, b *peertest.Box) *store.Box {
	t.Helper()
	s := store.New(store.Options{Dir: filepath.Join(dir, "store"), Quarantine: filepath.Join(dir, "quarantine"), Evidence: filepath.Join(dir, "evidence")})
	t.Cleanup(func() { s.Close() })
	key, err := enrolment.FormatKey(&b.Data.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	box, err := s.Box(&registry.Registration{Version: registry.Version, Box: b.ID.String(), DataKey: key, Claim: "software", Kinds: registry.AllKinds, Registered: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return box
}

func add(t testing.TB, b *store.Box, records ...record.Published) {
	t.Helper()
	var all []store.Message
	for _, p := range records {
		data, err := p.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, store.Message{Data: data, Label: "seq"})
	}
	if early, err := b.Add("test", all); err != nil || early.Count != 0 {
		t.Fatal(early, err)
	}
}

func cosigned(t testing.TB, w *witness.Witness, b *peertest.Box, log witness.Log) record.SignedCheckpoint {
	t.Helper()
	note, err := w.Cosign(b.ID, log, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := record.OpenCheckpoint(note, b.ID, &b.Data.PublicKey); err != nil {
		t.Fatal(err)
	}
	return note
}

func evidenceIn(t testing.TB, dir string) (kinds []evidence.Kind) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "evidence", "*", "*", "*.evidence"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		f, err := evidence.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		found, err := f.Verify(nil)
		if err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, found.Kind)
	}
	return kinds
}

// A peer cosigns what continues what it has cosigned, and nothing else, whatever has become of its store.
func TestOneHistoryOnly(t *testing.T) {
	f, dir, b := newFacility(t), t.TempDir(), newBox(t)
	w := newWitness(t, f, dir, "hub", everybody)
	box := open(t, dir, b)
	if _, err := w.Cosign(b.ID, box, time.Now()); err == nil {
		t.Error("an empty log: cosigned")
	}
	add(t, box, b.Record(3)...)
	first := cosigned(t, w, b, box)
	if again := cosigned(t, w, b, box); !bytes.Equal(first, again) {
		t.Error("the same checkpoint is cosigned anew each time")
	}
	image := b.Fork(len(b.Log))
	add(t, box, b.Record(5)...)
	cosigned(t, w, b, box)

	// The store of the peer is lost, and filled with the other history that the box has signed meanwhile.
	lost := t.TempDir()
	other := open(t, lost, b)
	w = newWitness(t, f, dir, "hub", everybody)
	image.Record(2)
	add(t, other, image.Log...)
	if _, err := w.Cosign(b.ID, other, time.Now()); !errors.Is(err, witness.ErrBehind) {
		t.Errorf("a log that is behind what was cosigned: %v", err)
	}
	add(t, other, image.Record(20)...)
	if _, err := w.Cosign(b.ID, other, time.Now()); !errors.Is(err, witness.ErrContradiction) {
		t.Errorf("another history: %v", err)
	}
	if got := evidenceIn(t, lost); len(got) != 1 || got[0] != evidence.Clone {
		t.Errorf("evidence %v", got)
	}
	if got := w.Cosigners(b.ID); len(got) != 0 {
		t.Errorf("cosigned by %v", got)
	}
	// With the first one back it goes on.
	cosigned(t, newWitness(t, f, dir, "hub", everybody), b, box)
	if got := evidenceIn(t, dir); len(got) != 0 {
		t.Errorf("evidence %v", got)
	}

	// What it has cosigned cannot be read any more: then it cosigns nothing, rather than everything.
	if err := os.WriteFile(filepath.Join(dir, "witness", "f1", "gw1.checkpoint"), first[:10], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := newWitness(t, f, dir, "hub", everybody).Cosign(b.ID, box, time.Now()); err == nil || !strings.Contains(err.Error(), "gw1.checkpoint") {
		t.Errorf("a damaged state: %v", err)
	}
}

// What is going to be cosigned is on the disk before it is: a peer that is killed in between signs nothing else afterwards.
func TestKilledBeforeSigning(t *testing.T) {
	const env = "VITALGATE_TEST_WITNESS_DIR"
	if dir := os.Getenv(env); dir != "" { // we are the peer that is killed
		f, b := newFacility(t), newBox(t)
		s, c := f.peer(t, "hub", "hub")
		box := open(t, dir, b)
		add(t, box, b.Record(3)...)
		image := b.Fork(len(b.Log))
		add(t, box, b.Record(5)...)
		image.Record(30)
		spki, err := x509.MarshalPKIXPublicKey(&b.Data.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		told, err := json.Marshal([][]byte{spki, image.Log[len(image.Log)-1].Checkpoint, b.Log[len(b.Log)-1].Checkpoint})
		if err != nil {
			t.Fatal(err)
		}
		os.Stdout.Write(append(append([]byte("TOLD "), told...), '\n'))
		w := witness.New(witness.Config{Dir: filepath.Join(dir, "witness"), Secret: deadly{s}, Card: c, Authority: f.cert, Member: everybody})
		w.Cosign(b.ID, box, time.Now())
		t.Fatal("not killed")
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledBeforeSigning$")
	cmd.Env = append(os.Environ(), env+"="+dir)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the peer was to be killed: %v\n%s", err, out)
	}
	var told [][]byte
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "TOLD "); ok {
			if err := json.Unmarshal([]byte(text), &told); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(told) != 3 {
		t.Fatalf("the peer said nothing: %s", out)
	}
	kept, err := os.ReadFile(filepath.Join(dir, "witness", "f1", "gw1.checkpoint"))
	if err != nil || !bytes.Equal(kept, told[2]) {
		t.Fatalf("killed while it signed, the peer does not know what: %v", err)
	}
	// The other history, longer, is refused by what was written down.
	s, c := newFacility(t).peer(t, "hub", "hub")
	w := witness.New(witness.Config{Dir: filepath.Join(dir, "witness"), Secret: s, Card: c, Member: everybody})
	other := second{told[1]}
	if _, err := w.Cosign(record.BoxID{Facility: "f1", Name: "gw1"}, other, time.Now()); !errors.Is(err, witness.ErrContradiction) {
		t.Errorf("the other history after the kill: %v", err)
	}
}

// deadly is killed by its first signature.
type deadly struct{ *cosign.Secret }

func (deadly) Cosign(record.SignedCheckpoint, time.Time) ([]record.Signature, error) {
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// second is a log of which no more than its checkpoint is at hand, and whose beginning is another.
type second struct{ sc record.SignedCheckpoint }

func (s second) Checkpoint() (record.SignedCheckpoint, record.Checkpoint) {
	c, _ := s.sc.Unverified()
	return s.sc, c
}
func (second) Prefix(size uint64) (record.Prefix, error)            { return record.Prefix{Size: size}, nil }
func (second) Head(string, record.SignedCheckpoint) (uint64, error) { return 0, nil }

func card(t testing.TB, c *cosign.Card) []byte {
	t.Helper()
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Peers hear each other's cosignatures, and put those of one checkpoint together.
func TestPeersHearEachOther(t *testing.T) {
	f, b := newFacility(t), newBox(t)
	names := []string{"hub", "ward1", "ward2"}
	var all []*witness.Witness
	var logs []*store.Box
	records := b.Record(4)
	for _, n := range names {
		dir := t.TempDir()
		all = append(all, newWitness(t, f, dir, n, everybody))
		logs = append(logs, open(t, dir, b))
		add(t, logs[len(logs)-1], records...)
	}
	for i, w := range all {
		for j, other := range all {
			if err := w.Meet(card(t, other.Card)); err != nil {
				t.Fatal(err)
			}
			if err := w.Hear(b.ID, cosigned(t, other, b, logs[j])); err != nil {
				t.Fatal(err)
			}
		}
		cosigned(t, w, b, logs[i])
		note := w.Note(b.ID)
		for _, other := range all {
			keys, err := cosign.ParseKeys(other.Card.Keys)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := keys.Verify(note); err != nil {
				t.Errorf("%s's note at %s: %v", other.Card.Peer, names[i], err)
			}
		}
		if got := w.Cosigners(b.ID); len(got) != 3 || got[0].Size != uint64(len(records)) {
			t.Errorf("cosigned by %v", got)
		}
	}
	if all[0].Note(record.BoxID{Facility: "f1", Name: "gw9"}) != nil || len(all[0].Cards()) != 3 {
		t.Error("a note of an unknown box, or cards are missing")
	}
}

// Nobody speaks with another's name, or with many, or after he was removed.
func TestFalseVoices(t *testing.T) {
	f, stranger, b := newFacility(t), newFacility(t), newBox(t)
	dir := t.TempDir()
	removed := map[string]bool{}
	w := newWitness(t, f, dir, "hub", func(peer, _ string) bool { return !removed[peer] })
	box := open(t, dir, b)
	add(t, box, b.Record(4)...)
	_, foreign := stranger.peer(t, "ward1", "ward1")
	_, renamed := f.peer(t, "ward1", "ward2")
	_, good := f.peer(t, "ward1", "ward1")
	exchanged, _ := f.peer(t, "ward1", "ward1")
	swapped := *good
	swapped.Keys = exchanged.Keys()
	other := *good
	other.Facility = "f2"
	_, gone := f.peer(t, "ward9", "ward9")
	removed["ward9"] = true
	for name, c := range map[string]*cosign.Card{"of another authority": foreign, "with another name than its certificate": renamed, "with other keys": &swapped, "of another facility": &other, "of a removed peer": gone} {
		if err := w.Meet(card(t, c)); err == nil {
			t.Errorf("a card %s: taken", name)
		}
	}
	for _, bad := range [][]byte{nil, []byte("{}"), []byte(`{"x":1}`), bytes.Repeat([]byte("["), 1000)} {
		if err := w.Meet(bad); err == nil {
			t.Errorf("%.20q: taken as a card", bad)
		}
	}
	// A certificate gives one name, so one rogue ward is one voice however often it speaks.
	rogue, c := f.peer(t, "ward1", "ward1")
	for range 300 {
		if err := w.Meet(card(t, c)); err != nil {
			t.Fatal(err)
		}
	}
	sc, _ := box.Checkpoint()
	lines, err := rogue.Cosign(sc, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	note, err := sc.Cosigned(lines...)
	if err != nil {
		t.Fatal(err)
	}
	cosigned(t, w, b, box)
	for range 3 {
		if err := w.Hear(b.ID, note); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.Cosigners(b.ID); len(got) != 2 {
		t.Errorf("cosigned by %v, want the hub and ward1", got)
	}
	lines[1].Bytes[100] ^= 1
	if bent, err := sc.Cosigned(lines...); err != nil || w.Hear(b.ID, bent) == nil {
		t.Error("a false cosignature: taken")
	}
	removed["ward1"] = true
	if got := w.Cosigners(b.ID); len(got) != 1 || got[0].Peer != "hub" {
		t.Errorf("after the removal cosigned by %v", got)
	}
}
