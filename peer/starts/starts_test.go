package starts_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/peer/registry"
	"github.com/vitalgate/vitalgate/peer/starts"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/enrolment"
	"github.com/vitalgate/vitalgate/tpm"
	"github.com/vitalgate/vitalgate/tpm/attestation"
	"github.com/vitalgate/vitalgate/tpm/tpmtest"
)

var id = record.BoxID{Facility: "f1", Name: "gw1"}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// box is a log whose starts a real TPM attests. Who holds its data key writes into it what he likes.
type box struct {
	t      *testing.T
	id     record.BoxID
	key    *ecdsa.PrivateKey
	sealer *record.Sealer
	dir    string // of the TPM
	chip   *tpm.TPM
	reg    *registry.Registration
	leaves []record.Leaf
	stored []record.Verified
	begun  []starts.Start
}

func newBox(t *testing.T, id record.BoxID) *box {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	reader, err := record.GenerateReaderKey()
	must(t, err)
	b := &box{t: t, id: id, key: key, dir: tpmtest.Dir(t)}
	b.sealer, err = record.NewSealer(id, []record.ReaderKey{reader.Public()}, nil)
	must(t, err)
	b.on()
	t.Cleanup(func() { b.chip.Close() })
	b.reg = &registry.Registration{Box: id.String(), Attested: &registry.Attested{Class: "emulated", LAK: b.attestor().Areas().LAK}}
	return b
}

// on powers the TPM on: one start more.
func (b *box) on() {
	b.t.Helper()
	if b.chip != nil {
		must(b.t, b.chip.Close())
	}
	x, err := tpm.Open(b.t.Context(), tpm.Options{Source: "swtpm", Dir: b.dir})
	must(b.t, err)
	b.chip = x
}

func (b *box) attestor() *tpm.Attestor {
	b.t.Helper()
	a, err := b.chip.Attestor()
	must(b.t, err)
	return a
}

// boot is an honest start, after the log as it is.
func (b *box) boot() record.Boot {
	b.t.Helper()
	size := uint64(len(b.leaves))
	l := record.Boot{Protection: "emulated", Software: "vitalgate 1.2.3", LastSize: size, LastRoot: record.Tree{}.Root()}
	if size > 0 {
		l.LastRoot = b.stored[size-1].After().Root
	}
	said, _, err := b.attestor().Start(b.t.Context(), func(run tpm.Boot) ([]byte, error) {
		l.Resets, l.Restarts, l.Counter = run.Resets, run.Restarts, run.Counter
		return l.Binding(b.id)
	})
	must(b.t, err)
	l.Evidence = &record.BootEvidence{Quote: record.Statement(said.Quote), Certify: record.Statement(said.Counter)}
	for _, n := range attestation.BootPCRs {
		l.Evidence.PCRs = append(l.Evidence.PCRs, record.PCR{Number: uint8(n), Value: [32]byte(said.PCRs[n])})
	}
	return l
}

// signed is the log with one leaf more, under a checkpoint with these counters.
func (b *box) signed(leaf record.Leaf, counter uint64, resets uint32) record.Verified {
	b.t.Helper()
	var tree, before record.Tree
	for _, l := range b.leaves {
		tree.Append(l)
	}
	before = tree
	tree.Append(leaf)
	sc, err := record.Checkpoint{Origin: b.id.Origin(), Size: tree.Size(), Root: tree.Root(), Boot: resets, Clock: 1, Counter: counter, Protection: "emulated"}.Sign(b.key)
	must(b.t, err)
	ps, err := record.Prove(before, []record.Leaf{leaf}, sc)
	must(b.t, err)
	v, err := record.Verify(ps[0], b.id, &b.key.PublicKey)
	must(b.t, err)
	return v
}

// judge is what a peer takes a boot leaf for, as the next record of the log.
func (b *box) judge(l record.Boot) starts.Start {
	b.t.Helper()
	leaf, err := b.sealer.Boot(uint64(len(b.leaves)), l)
	must(b.t, err)
	return b.judged(leaf, l)
}

func (b *box) judged(leaf record.Leaf, l record.Boot) starts.Start {
	b.t.Helper()
	return starts.Judge(b.signed(leaf, l.Counter, l.Resets), b.reg, b.begun, b.known)
}

func (b *box) known(index uint64) (v record.Verified, ok bool) {
	if index >= uint64(len(b.stored)) {
		return v, false
	}
	return b.stored[index], true
}

// add takes a boot leaf into the log.
func (b *box) add(l record.Boot) starts.Start {
	b.t.Helper()
	s := b.judge(l)
	leaf, err := b.sealer.Boot(uint64(len(b.leaves)), l)
	must(b.t, err)
	b.stored = append(b.stored, b.signed(leaf, l.Counter, l.Resets))
	b.leaves = append(b.leaves, leaf)
	b.begun = append(b.begun, s)
	return s
}

var update = flag.Bool("update", false, "write the test vectors anew; only before a version is released")

const vectors = "../../record/testdata/boot-v2"

// A boot leaf of form 2 that a TPM has once attested is believed for ever, here and by docs/verify.py with openssl; bent ones are not.
func TestVectors(t *testing.T) {
	file := func(name string) string { return filepath.Join(vectors, name) }
	if *update {
		b := newBox(t, id)
		b.add(b.boot())
		b.on()
		b.sealer.Now = func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC) }
		l := b.boot()
		leaf, err := b.sealer.Boot(1, l)
		must(t, err)
		must(t, os.MkdirAll(vectors, 0o755))
		p := b.signed(leaf, l.Counter, l.Resets).Published()
		key, err := enrolment.FormatKey(&b.key.PublicKey)
		must(t, err)
		lak, err := attestation.ParseLAK(b.reg.Attested.LAK)
		must(t, err)
		lakPEM, err := enrolment.FormatKey(lak.Public())
		must(t, err)
		for name, data := range map[string][]byte{"1.leaf": p.Leaf, "1.tlog-proof": p.Text(), "box.pem": []byte(key), "lak.pem": []byte(lakPEM), "lak.area": b.reg.Attested.LAK} {
			must(t, os.WriteFile(file(name), data, 0o644))
		}
	}
	read := func(name string) []byte {
		t.Helper()
		data, err := os.ReadFile(file(name))
		must(t, err)
		return data
	}
	key, err := enrolment.ParseKey(string(read("box.pem")))
	must(t, err)
	p, err := record.ParseProof(read("1.leaf"), read("1.tlog-proof"))
	must(t, err)
	v, err := record.Verify(p, id, key)
	must(t, err)
	reg := &registry.Registration{Box: id.String(), Attested: &registry.Attested{Class: "emulated", LAK: read("lak.area")}}
	nothing := func(uint64) (record.Verified, bool) { return record.Verified{}, false }
	s := starts.Judge(v, reg, nil, nothing)
	if s.Verdict != starts.Attested || s.Software != "vitalgate 1.2.3" || s.Counter == 0 || len(s.PCR11) != 64 {
		t.Errorf("the vector is taken for %+v", s)
	}
	boot, err := record.ParseBoot(v.Body())
	must(t, err)
	if again, err := boot.AppendText(nil); err != nil || !bytes.Equal(again, v.Body()) {
		t.Errorf("the vector is written differently: %v", err)
	}

	for _, tool := range []string{"python3", "openssl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed, so docs/verify.py is not tried", tool)
		}
	}
	// outside is what verify.py says of a boot leaf in a log that a key of ours has signed.
	ours, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	dir := t.TempDir()
	pem, err := enrolment.FormatKey(&ours.PublicKey)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "box.pem"), []byte(pem), 0o600))
	outside := func(l record.Boot) string {
		t.Helper()
		body, err := l.AppendText(nil)
		must(t, err)
		leaf := append(record.Header{Box: id, Kind: record.KindBoot}.AppendText(nil), body...)
		var tree record.Tree
		tree.Append(leaf)
		sc, err := record.Checkpoint{Origin: id.Origin(), Size: 1, Root: tree.Root(), Protection: "emulated"}.Sign(ours)
		must(t, err)
		ps, err := record.Prove(record.Tree{}, []record.Leaf{leaf}, sc)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, "leaf"), leaf, 0o600))
		must(t, os.WriteFile(filepath.Join(dir, "proof"), ps[0].Text(), 0o600))
		out, _ := exec.Command("python3", "../../docs/verify.py", filepath.Join(dir, "box.pem"), filepath.Join(dir, "leaf"), filepath.Join(dir, "proof"), id.String(), file("lak.pem")).CombinedOutput()
		return string(out)
	}
	if out, err := exec.Command("python3", "../../docs/verify.py", file("box.pem"), file("1.leaf"), file("1.tlog-proof"), id.String(), file("lak.pem")).CombinedOutput(); err != nil || !strings.Contains(string(out), "the TPM attests its start: counter ") {
		t.Errorf("verify.py: %v %s", err, out)
	}
	if out := outside(boot); !strings.HasPrefix(out, "OK: ") {
		t.Errorf("verify.py: %s", out)
	}
	claimed := boot
	claimed.Evidence = nil
	if out := outside(claimed); !strings.HasPrefix(out, "REFUSED: ") {
		t.Errorf("verify.py, form 1: %s", out)
	}
	for name, change := range map[string]func(*record.Boot){
		"resets": func(l *record.Boot) { l.Resets++ }, "counter": func(l *record.Boot) { l.Counter++ }, "software": func(l *record.Boot) { l.Software = "x" },
		"last-root": func(l *record.Boot) { l.LastRoot[3]++ }, "pcr": func(l *record.Boot) { l.Evidence.PCRs[8].Value[0]++ },
		"pcr left out": func(l *record.Boot) { l.Evidence.PCRs = l.Evidence.PCRs[1:] }, "quote": func(l *record.Boot) { l.Evidence.Quote.Attest[60]++ },
		"certify": func(l *record.Boot) { l.Evidence.Certify.Attest[60]++ }, "signature": func(l *record.Boot) { l.Evidence.Quote.Signature[40]++ },
		"exchanged": func(l *record.Boot) { l.Evidence.Quote, l.Evidence.Certify = l.Evidence.Certify, l.Evidence.Quote },
	} {
		bent, err := record.ParseBoot(v.Body())
		must(t, err)
		change(&bent)
		if out := outside(bent); !strings.HasPrefix(out, "REFUSED: ") {
			t.Errorf("verify.py with another %s: %s", name, out)
		}
	}
}

func TestHonestStarts(t *testing.T) {
	b := newBox(t, id)
	for n := range 3 {
		l := b.boot()
		if n == 1 { // of the release before, which knew form 1 only
			l.Evidence = nil
		}
		s := b.add(l)
		want := starts.Attested
		if n == 1 {
			want = starts.Claimed
		}
		if s.Verdict != want || s.Counter != b.chip.Boot().Counter || s.Software != "vitalgate 1.2.3" || (s.PCR11 == "") != (want == starts.Claimed) || (s.Why == "") != (want == starts.Attested) {
			t.Errorf("start %d is taken for %+v", n, s)
		}
		b.on()
	}
	l := b.boot()
	onTrust := *b.reg
	onTrust.Attested = nil
	leaf, err := b.sealer.Boot(uint64(len(b.leaves)), l)
	must(t, err)
	if s := starts.Judge(b.signed(leaf, l.Counter, l.Resets), &onTrust, nil, b.known); s.Verdict != starts.Claimed {
		t.Errorf("without an attestation key in the registry: %+v", s)
	}
	body, err := l.AppendText(nil)
	must(t, err)
	later := record.Leaf(strings.Replace(string(leaf), string(body), strings.Replace(string(body), "boot/v2", "boot/v9", 1), 1))
	if s := b.judged(later, l); s.Verdict != starts.Claimed {
		t.Errorf("a later form: %+v", s)
	}
	// Once the chip was changed, the new one counts anew.
	other := newBox(t, id)
	other.reg.Earlier = []registry.KeyPeriod{{Attested: b.reg.Attested, Until: uint64(len(b.leaves))}}
	other.leaves, other.begun, other.stored = b.leaves, b.begun, b.stored
	if s := other.judge(other.boot()); s.Verdict != starts.Attested {
		t.Errorf("the first start of a new chip: %+v", s)
	}
	// The old one attested a start and died before it could sign the leaf; the new one does.
	if s := other.judge(l); s.Verdict != starts.Claimed || s.Why == "" || s.PCR11 != "" {
		t.Errorf("a start of the old chip: %+v", s)
	}
	other.reg.Earlier[0].Until++ // the old one signs here still
	other.reg.Attested, other.reg.Earlier[0].Attested = other.reg.Earlier[0].Attested, other.reg.Attested
	if s := other.judge(l); s.Verdict != starts.Signature {
		t.Errorf("a start of a chip that the box has not yet: %+v", s)
	}
}

// Each field of a boot leaf is changed by who can sign the log: each change is found, for its own reason. The table is printed with -v.
func TestTamperingWithAStart(t *testing.T) {
	b, other := newBox(t, id), newBox(t, record.BoxID{Facility: "f1", Name: "gw2"})
	first := b.boot()
	b.add(first)
	b.on()
	second := b.boot()
	b.add(second)
	b.on()
	l := b.boot()
	if s := b.judge(l); s.Verdict != starts.Attested {
		t.Fatalf("the honest start: %+v", s)
	}
	n := 0
	want := func(what string, s starts.Start, verdict starts.Verdict) {
		t.Helper()
		n++
		t.Logf("%2d  %-44s %s", n, what, s.Verdict)
		if s.Verdict != verdict || s.Why == "" || !s.Verdict.Forged() {
			t.Errorf("%s: %+v, want %s", what, s, verdict)
		}
	}
	bent := func(change func(*record.Boot)) starts.Start {
		c, e := l, *l.Evidence
		e.PCRs = append([]record.PCR{}, e.PCRs...)
		c.Evidence = &e
		change(&c)
		return b.judge(c)
	}
	flip := func(p *[]byte, at int) {
		c := append([]byte{}, *p...)
		c[(at+len(c))%len(c)] ^= 1
		*p = c
	}
	want("resets", bent(func(l *record.Boot) { l.Resets++ }), starts.Binding)
	want("restarts", bent(func(l *record.Boot) { l.Restarts++ }), starts.Binding)
	want("counter", bent(func(l *record.Boot) { l.Counter++ }), starts.Binding)
	want("protection", bent(func(l *record.Boot) { l.Protection = "hardware" }), starts.Binding)
	want("software", bent(func(l *record.Boot) { l.Software = "vitalgate 9.9.9" }), starts.Binding)
	want("last-size", bent(func(l *record.Boot) { l.LastSize-- }), starts.Binding)
	want("last-root", bent(func(l *record.Boot) { l.LastRoot[0] ^= 1 }), starts.Binding)
	for i := range attestation.BootPCRs {
		want("a PCR", bent(func(l *record.Boot) { l.Evidence.PCRs[i].Value[7] ^= 1 }), starts.PCRs)
		want("a PCR left out", bent(func(l *record.Boot) { l.Evidence.PCRs = append(l.Evidence.PCRs[:i:i], l.Evidence.PCRs[i+1:]...) }), starts.PCRs)
	}
	want("a PCR more", bent(func(l *record.Boot) { l.Evidence.PCRs = append(l.Evidence.PCRs, record.PCR{Number: 12}) }), starts.PCRs)
	for _, at := range []int{0, 4, 8, 50, -1} {
		want("quote, one bit", bent(func(l *record.Boot) { flip(&l.Evidence.Quote.Attest, at) }), starts.Signature)
		want("certified counter, one bit", bent(func(l *record.Boot) { flip(&l.Evidence.Certify.Attest, at) }), starts.Signature)
	}
	want("signature of the quote", bent(func(l *record.Boot) { flip(&l.Evidence.Quote.Signature, -1) }), starts.Signature)
	want("signature of the counter", bent(func(l *record.Boot) { flip(&l.Evidence.Certify.Signature, -1) }), starts.Signature)
	want("quote and counter exchanged", bent(func(l *record.Boot) { e := l.Evidence; e.Quote, e.Certify = e.Certify, e.Quote }), starts.Statement)
	want("an older quote", bent(func(l *record.Boot) { l.Evidence.Quote = second.Evidence.Quote }), starts.Binding)
	want("an older counter", bent(func(l *record.Boot) { l.Evidence.Certify = second.Evidence.Certify }), starts.Binding)
	want("an older start, whole", b.judge(second), starts.Replayed)
	want("the oldest start, whole", b.judge(first), starts.Replayed)
	foreign := other.boot()
	want("evidence of another box", bent(func(l *record.Boot) { l.Evidence = foreign.Evidence }), starts.Signature)
	want("start of another box, whole", b.judge(foreign), starts.Signature)

	// The TPM itself is asked to vouch for something else: whoever has the line can do that.
	signs := func(nonceOf record.BoxID, leaf record.Boot) record.Boot {
		said, _, err := b.attestor().Start(t.Context(), func(run tpm.Boot) ([]byte, error) {
			leaf.Resets, leaf.Restarts, leaf.Counter = run.Resets, run.Restarts, run.Counter
			return leaf.Binding(nonceOf)
		})
		must(t, err)
		leaf.Evidence = &record.BootEvidence{Quote: record.Statement(said.Quote), Certify: record.Statement(said.Counter), PCRs: l.Evidence.PCRs}
		return leaf
	}
	want("made for another box", b.judge(signs(other.id, l)), starts.Binding)
	otherLog := l
	otherLog.LastRoot = record.Hash{1}
	want("made for another log", b.judge(signs(id, otherLog)), starts.OtherLog)
	longer := l
	longer.LastSize = 1000
	want("made for a longer log", b.judge(signs(id, longer)), starts.OtherLog)
	leaf, err := b.sealer.Boot(uint64(len(b.leaves)), l)
	must(t, err)
	want("a checkpoint that counts less", starts.Judge(b.signed(leaf, l.Counter-1, l.Resets), b.reg, b.begun, b.known), starts.Counters)
	want("a checkpoint of an earlier reset", starts.Judge(b.signed(leaf, l.Counter, l.Resets-1), b.reg, b.begun, b.known), starts.Counters)
	want("one line more", b.judged(append(leaf[:len(leaf):len(leaf)], "x 1\n"...), l), starts.Form)
	want("no lines", b.judged(leaf[:strings.Index(string(leaf), "\n\n")+2], l), starts.Form)

	// The state of the emulated TPM is put back.
	must(t, b.chip.Close())
	b.chip = nil
	old := copyOf(t, b.dir)
	b.on()
	b.on()
	b.add(b.boot())
	must(t, b.chip.Close())
	b.chip, b.dir = nil, old
	b.on()
	want("a TPM that was set back", b.judge(b.boot()), starts.Replayed)
	if n < 40 {
		t.Errorf("only %d changes", n)
	}
}

// copyOf is a copy of the folder of a TPM that is off.
func copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "tpm")
	must(t, os.CopyFS(to, os.DirFS(dir)))
	must(t, filepath.WalkDir(to, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return os.Chmod(path, 0o600)
	}))
	return to
}

func TestDeniedFirmware(t *testing.T) {
	quoted := strings.Repeat("ab", 32)
	s := starts.Start{Software: "vitalgate 1.0.0", PCR11: quoted}
	for name, want := range map[string]bool{
		"vitalgate 1.0.0": true, "vitalgate 1.0.1": false, "pcr11:" + quoted: true, "pcr11:" + strings.Repeat("ac", 32): false, "pcr11:" + quoted[2:]: false, quoted: false,
	} {
		if _, ok := registry.MeasuredFirmware(name); ok != (len(name) == 70) {
			t.Errorf("%s is taken for a measurement: %v", name, ok)
		}
		if got, why, yes := s.Firmware(map[string]string{name: "a hole"}); yes != want || yes && (got != name || why != "a hole") {
			t.Errorf("%s: %q %q %v", name, got, why, yes)
		}
	}
	if _, _, yes := (starts.Start{Software: "x"}).Firmware(map[string]string{"pcr11:" + strings.Repeat("00", 32): "a hole"}); yes {
		t.Error("a start without a quote is judged by one")
	}
}

func TestWhoseRecordsAreWithheld(t *testing.T) {
	all := []starts.Start{{Index: 3, Verdict: starts.Attested}, {Index: 10, Verdict: starts.Replayed}, {Index: 20, Verdict: starts.Claimed}}
	for index, want := range map[uint64]bool{0: false, 3: false, 9: false, 10: true, 19: true, 20: false, 99: false} {
		if s := starts.Withheld(all, index); (s != nil) != want {
			t.Errorf("record %d: %+v", index, s)
		}
	}
	if starts.At(all, 2) != nil || starts.At(nil, 2) != nil || starts.At(all, 15).Index != 10 {
		t.Error("a record is taken for one of another start")
	}
}

// A start that the TPM attested is written down only once the box has signed in a later run: it is no proof any more. That records which
// waited for the TPM are signed before the leaf, in its own run, is honest.
func TestAStartThatWasKeptBack(t *testing.T) {
	b := newBox(t, id)
	b.add(b.boot())
	b.on()
	kept := b.boot()
	waited := record.Boot{Protection: "emulated", Software: "vitalgate 1.2.3", Counter: kept.Counter, Resets: kept.Resets, Restarts: kept.Restarts}
	honest := *b
	honest.add(waited) // anything that a checkpoint of the run signs
	if s := honest.judge(kept); s.Verdict != starts.Attested {
		t.Errorf("behind records that waited for the TPM: %+v", s)
	}
	b.on()
	now := b.boot()
	if s := b.add(now); s.Verdict != starts.Attested {
		t.Fatalf("the start after: %+v", s)
	}
	if s := b.judge(kept); s.Verdict != starts.Replayed {
		t.Errorf("behind a later attested start: %+v", s)
	}
	b.begun[len(b.begun)-1].Verdict = starts.Claimed // as if its evidence were left out
	if s := b.judge(kept); s.Verdict != starts.Claimed || !strings.Contains(s.Why, "kept back") || s.PCR11 != "" {
		t.Errorf("behind what a later run has signed: %+v", s)
	}
}

// However many starts a box invents, few are kept; none that was forged is shown for it, and the TPM's last word stays.
func TestManyStartsAreThinned(t *testing.T) {
	var all []starts.Start
	thinned := false
	last := uint64(0)
	for i := range uint64(50_000) {
		s := starts.Start{Index: i, Verdict: starts.Claimed}
		switch {
		case i == 100, i == 3000:
			s.Verdict, last = starts.Attested, i
		case i >= 1000 && i < 2000, i > 10_000 && i%2 == 0:
			s.Verdict = starts.Signature
		}
		var done bool
		all, done = starts.Thin(append(all, s))
		thinned = thinned || done
		if len(all) > 4096 {
			t.Fatalf("%d starts are kept", len(all))
		}
		if i == 9999 {
			for index, want := range map[uint64]bool{0: false, 999: false, 1000: true, 1999: true, 2000: false, 9999: false} {
				if s := starts.Withheld(all, index); (s != nil) != want {
					t.Errorf("record %d: %+v", index, s)
				}
			}
		}
	}
	for i := uint64(10_002); i < 50_000; i += 2 {
		if starts.Withheld(all, i) == nil {
			t.Fatalf("record %d of a forged start is shown", i)
		}
	}
	if s := starts.At(all, last); !thinned || s.Index != last || s.Verdict != starts.Attested {
		t.Errorf("the last start that was attested became %+v", s)
	}
	if starts.Withheld(all, 1500) == nil || starts.Withheld(all, 49_999) != nil {
		t.Error("a forged start is shown, or the last one is not")
	}
}
