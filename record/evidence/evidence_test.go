package evidence_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"flag"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/cosign"
	"github.com/vitalgate/vitalgate/record/enrolment"
	"github.com/vitalgate/vitalgate/record/evidence"
)

var update = flag.Bool("update", false, "write the kept files anew; only before a version is released")

var gw1 = record.BoxID{Facility: "f1", Name: "gw1"}

func key(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// box is a box with its log in memory, and a chip whose counters a test may turn.
type box struct {
	t      testing.TB
	id     record.BoxID
	key    *ecdsa.PrivateKey
	tree   record.Tree
	leaves []record.Leaf
	last   record.Checkpoint
	start  uint64 // as the chip counts
	clock  uint64
}

func newBox(t testing.TB, id record.BoxID) *box { return &box{t: t, id: id, key: key(t), start: 7} }

func (b *box) sealer() *record.Sealer {
	b.t.Helper()
	reader, err := record.GenerateReaderKey()
	if err != nil {
		b.t.Fatal(err)
	}
	s, err := record.NewSealer(b.id, []record.ReaderKey{reader.Public()}, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// boot appends a boot leaf.
func (b *box) boot() *box {
	b.t.Helper()
	leaf, err := b.sealer().Boot(b.tree.Size(), record.Boot{Resets: uint32(b.start), Counter: b.start, Protection: "software", Software: "test", LastSize: b.last.Size, LastRoot: b.last.Root})
	if err != nil {
		b.t.Fatal(err)
	}
	b.add(leaf)
	return b
}

// record appends readings, each in an epoch of its own.
func (b *box) record(n int) *box {
	b.t.Helper()
	for range n {
		leaves, err := b.sealer().Seal(b.tree.Size(), record.Reading{Kind: record.KindVitals, Patient: "p", Arrived: time.Now(), Content: record.Content{Monitor: "m", Raw: []byte("x")}})
		if err != nil {
			b.t.Fatal(err)
		}
		b.add(leaves...)
	}
	return b
}

func (b *box) add(leaves ...record.Leaf) {
	for _, l := range leaves {
		b.tree.Append(l)
		b.leaves = append(b.leaves, l)
	}
}

// sign signs the log and gives its records.
func (b *box) sign() []record.Verified {
	b.t.Helper()
	b.clock += 100
	b.last = record.Checkpoint{Origin: b.id.Origin(), Size: b.tree.Size(), Root: b.tree.Root(), Boot: uint32(b.start), Clock: b.clock, Counter: b.start, Protection: "software"}
	sc, err := b.last.Sign(b.key)
	if err != nil {
		b.t.Fatal(err)
	}
	ps, err := record.Prove(record.Tree{}, b.leaves, sc)
	if err != nil {
		b.t.Fatal(err)
	}
	out := make([]record.Verified, len(ps))
	for i, p := range ps {
		if out[i], err = record.Verify(p, b.id, &b.key.PublicKey); err != nil {
			b.t.Fatal(err)
		}
	}
	return out
}

// image is the box as an image of its disk would bring it back; its chip, which is no part of the disk, goes on.
func (b *box) image() *box {
	c := *b
	c.leaves = append([]record.Leaf(nil), b.leaves...)
	return &c
}

func last(vs []record.Verified) record.Verified { return vs[len(vs)-1] }

// facility is an authority and its peers.
type facility struct {
	t    testing.TB
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newFacility(t testing.TB) *facility {
	t.Helper()
	f := &facility{t: t, key: key(t)}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "facility"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
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

type peer struct {
	card   *cosign.Card
	secret *cosign.Secret
}

func (f *facility) peer(name string) peer {
	f.t.Helper()
	k := key(f.t)
	tpl := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: cosign.CertificateName("f1", name)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tpl, f.cert, k.Public(), f.key)
	if err != nil {
		f.t.Fatal(err)
	}
	s, err := cosign.Generate(cosign.Name("f1", name))
	if err != nil {
		f.t.Fatal(err)
	}
	c, err := cosign.NewCard("f1", name, s.Public, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), k)
	if err != nil {
		f.t.Fatal(err)
	}
	return peer{c, s}
}

func must(t testing.TB) func(*evidence.File, error) *evidence.File {
	return func(f *evidence.File, err error) *evidence.File {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
}

// every makes one piece of evidence of each sort, from logs that were bent that way.
func every(t testing.TB, fac *facility) map[string]*evidence.File {
	t.Helper()
	ok := must(t)
	out := map[string]*evidence.File{}
	pub := func(b *box) *ecdsa.PublicKey { return &b.key.PublicKey }

	b := newBox(t, gw1).boot().record(2)
	image := b.image()
	mine := last(b.record(3).sign())
	image.start++ // the restored box starts again, with the same chip
	theirs := last(image.boot().record(4).sign())
	n := min(mine.Checkpoint().Size, theirs.Checkpoint().Size)
	out["fork"] = ok(evidence.Diverged(gw1, pub(b), prefixAt(t, b, n), prefixAt(t, image, n)))

	b = newBox(t, gw1).boot().record(2)
	b.sign()
	image = b.image()
	mine = last(b.record(2).sign())
	image.start++
	boots := image.boot().sign()
	out["rollback-disk"] = ok(evidence.Confessed(gw1, pub(b), mine.After(), last(boots)))

	b = newBox(t, gw1).boot().record(2)
	image = b.image()
	b.record(3).sign()
	image.record(4).sign()
	n = min(b.last.Size, image.last.Size)
	out["clone"] = ok(evidence.Diverged(gw1, pub(b), prefixAt(t, b, n), prefixAt(t, image, n)))

	b = newBox(t, gw1).boot().record(2)
	first := last(b.sign()).After()
	b.start--
	out["rollback-chip"] = ok(evidence.SetBack(gw1, pub(b), first, b.record(1).sign()[first.Size].Before()))

	b = newBox(t, gw1).boot().record(4)
	gap := ok(evidence.Missing(gw1, pub(b), last(b.sign()).After(), 3, 6))
	for _, name := range []string{"hub", "ward1"} {
		p := fac.peer(name)
		if err := gap.Say(*p.card, p.secret, time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)); err != nil {
			t.Fatal(err)
		}
	}
	out["gap"] = gap
	return out
}

// prefixAt is the log of b up to n records under its last checkpoint.
func prefixAt(t testing.TB, b *box, n uint64) record.Prefix {
	t.Helper()
	return b.sign()[n-1].After()
}

var kinds = map[string]evidence.Kind{"fork": evidence.Fork, "clone": evidence.Clone, "rollback-disk": evidence.Rollback, "rollback-chip": evidence.Rollback, "gap": evidence.Gap}

func read(t testing.TB, f *evidence.File) *evidence.File {
	t.Helper()
	b, err := f.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	again, err := evidence.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

func TestEvidence(t *testing.T) {
	fac := newFacility(t)
	for name, f := range every(t, fac) {
		found, err := read(t, f).Verify(fac.cert)
		if err != nil || found.Kind != kinds[name] || found.Box != gw1 || len(found.Fingerprint()) != 64 || found.Sentence == "" {
			t.Errorf("%s: %+v %v", name, found, err)
		}
		t.Logf("%-13s %s", name, found.Sentence)
		if _, err := f.Verify(nil); (name == "gap") != (evidence.ReasonOf(err) == evidence.ReasonAuthority) {
			t.Errorf("%s without an authority: %v", name, err)
		}
	}
}

// Nobody can be accused of what he did not do: whatever is put together from what honest boxes have signed, and whatever is
// changed in true evidence, is refused.
func TestForgedEvidence(t *testing.T) {
	fac, other := newFacility(t), newFacility(t)
	all := every(t, fac)
	honest := newBox(t, gw1).boot().record(2)
	early := last(honest.sign()).After()
	honest.start++ // an honest restart
	boots := honest.boot().sign()
	late := last(honest.record(2).sign())
	newChip := newBox(t, gw1) // the box with a new chip: its counters begin anew, and so does its key
	newChip.start = 1
	fresh := last(newChip.boot().record(3).sign())
	gw2 := newBox(t, record.BoxID{Facility: "f1", Name: "gw2"})
	elsewhere := last(gw2.boot().record(2).sign())
	pub, chip := &honest.key.PublicKey, &newChip.key.PublicKey
	makes := func(f *evidence.File, err error) error {
		if err == nil {
			_, err = f.Verify(fac.cert)
		}
		return err
	}
	for name, c := range map[string]struct {
		err  error
		want evidence.Reason
	}{
		"an honest log at two sizes, as a fork":                  {makes(evidence.Diverged(gw1, pub, early, late.After())), evidence.ReasonNothing},
		"an honest log under two checkpoints, as a fork":         {makes(evidence.Diverged(gw1, pub, early, prefixAt(t, honest, early.Size))), evidence.ReasonNothing},
		"an honest log under one checkpoint, as a fork":          {makes(evidence.Diverged(gw1, pub, late.After(), late.After())), evidence.ReasonNothing},
		"an honest log as a chip set back":                       {makes(evidence.SetBack(gw1, pub, early, prefixAt(t, honest, early.Size))), evidence.ReasonNothing},
		"an honest log backwards as a chip set back":             {makes(evidence.SetBack(gw1, pub, prefixAt(t, honest, early.Size), early)), evidence.ReasonNothing},
		"an honest restart as a disk set back":                   {makes(evidence.Confessed(gw1, pub, early, last(boots))), evidence.ReasonNothing},
		"an honest start with what was signed after it":          {makes(evidence.Confessed(gw1, pub, late.After(), last(boots))), evidence.ReasonNothing},
		"a record that is no boot leaf":                          {makes(evidence.Confessed(gw1, pub, early, late)), evidence.ReasonNothing},
		"a new chip, accused as a clone, by the old key":         {makes(evidence.Diverged(gw1, pub, early, fresh.After())), ""},
		"a new chip, accused as a clone, by the new key":         {makes(evidence.Diverged(gw1, chip, early, fresh.After())), ""},
		"a new chip, accused of being set back":                  {makes(evidence.SetBack(gw1, pub, early, fresh.After())), evidence.ReasonSignature},
		"the start of a new chip, as a disk set back":            {makes(evidence.Confessed(gw1, pub, early, fresh)), evidence.ReasonSignature},
		"another box's log":                                      {makes(evidence.SetBack(gw1, pub, early, elsewhere.After())), evidence.ReasonSignature},
		"a stranger's fork under the name of the box, old words": {func() error { f := *all["fork"]; f.Second = all["clone"].Second; return makes(&f, nil) }(), evidence.ReasonSignature},
	} {
		if got := evidence.ReasonOf(c.err); c.err == nil || got != c.want {
			t.Errorf("%s: %v", name, c.err)
		}
	}
	voice := func(name string, by *facility) evidence.Voice {
		p, f := by.peer(name), *all["gap"]
		f.Voices = nil
		if err := f.Say(*p.card, p.secret, time.Now()); err != nil {
			t.Fatal(err)
		}
		return f.Voices[0]
	}
	stolen := voice("ward2", fac)
	stolen.Card = all["gap"].Voices[1].Card
	renamed := voice("ward2", fac)
	renamed.Card.Peer = "ward3"
	elsewhen := voice("ward2", fac)
	elsewhen.At = elsewhen.At.Add(time.Hour)
	local := voice("ward2", fac)
	local.At = local.At.In(time.FixedZone("", 3600))
	for name, v := range map[string]evidence.Voice{"an invented peer": voice("ward2", other), "a peer twice": voice("ward1", fac), "another's card": stolen,
		"another name on a card": renamed, "another time": elsewhen, "a time in another zone": local} {
		f := *all["gap"]
		f.Voices = append(f.Voices[:2:2], v)
		if _, err := f.Verify(fac.cert); evidence.ReasonOf(err) != evidence.ReasonVoices {
			t.Errorf("a gap with %s: %v", name, err)
		}
	}
	if _, err := all["gap"].Verify(other.cert); evidence.ReasonOf(err) != evidence.ReasonVoices {
		t.Errorf("a gap for another facility: %v", err)
	}
	for name, c := range map[string]struct {
		bend func(*evidence.File)
		of   string
		want evidence.Reason
	}{
		"a wider gap":            {func(f *evidence.File) { f.From-- }, "gap", evidence.ReasonVoices},
		"a gap to the end":       {func(f *evidence.File) { f.To++ }, "gap", evidence.ReasonVoices},
		"a gap beyond the log":   {func(f *evidence.File) { f.To = 1000 }, "gap", evidence.ReasonProof},
		"an empty gap":           {func(f *evidence.File) { f.From = f.To }, "gap", evidence.ReasonProof},
		"a gap without voices":   {func(f *evidence.File) { f.Voices = nil }, "gap", evidence.ReasonMalformed},
		"a gap with a second":    {func(f *evidence.File) { f.Second = f.First }, "gap", evidence.ReasonMalformed},
		"a fork with voices":     {func(f *evidence.File) { f.Voices = all["gap"].Voices }, "fork", evidence.ReasonMalformed},
		"a fork called a clone":  {func(f *evidence.File) { f.Kind = evidence.Clone }, "fork", evidence.ReasonKind},
		"a clone called a fork":  {func(f *evidence.File) { f.Kind = evidence.Fork }, "clone", evidence.ReasonKind},
		"a fork called a gap":    {func(f *evidence.File) { f.Kind = evidence.Gap }, "fork", evidence.ReasonMalformed},
		"an unknown kind":        {func(f *evidence.File) { f.Kind = "theft" }, "fork", evidence.ReasonKind},
		"another box":            {func(f *evidence.File) { f.Box = "f1/gw2" }, "fork", evidence.ReasonSignature},
		"no box":                 {func(f *evidence.File) { f.Box = "gw1" }, "fork", evidence.ReasonMalformed},
		"another key":            {func(f *evidence.File) { f.Key = all["clone"].Key }, "fork", evidence.ReasonSignature},
		"no key":                 {func(f *evidence.File) { f.Key = "" }, "fork", evidence.ReasonMalformed},
		"no first":               {func(f *evidence.File) { f.First = nil }, "fork", evidence.ReasonMalformed},
		"no second":              {func(f *evidence.File) { f.Second = nil }, "fork", evidence.ReasonMalformed},
		"a second and a start":   {func(f *evidence.File) { f.Start = all["rollback-disk"].Start }, "fork", evidence.ReasonMalformed},
		"the first twice":        {func(f *evidence.File) { f.Second = f.First }, "fork", evidence.ReasonNothing},
		"another size":           {func(f *evidence.File) { f.First.Size-- }, "fork", evidence.ReasonProof},
		"an invented root":       {func(f *evidence.File) { f.First.Root = f.Second.Root }, "fork", evidence.ReasonProof},
		"a short root":           {func(f *evidence.File) { f.First.Root = "AAAA" }, "fork", evidence.ReasonMalformed},
		"an invented proof":      {func(f *evidence.File) { f.First.Proof = append([]string{f.First.Root}, f.First.Proof...) }, "clone", evidence.ReasonProof},
		"an unsigned checkpoint": {func(f *evidence.File) { f.First.Checkpoint = strings.SplitAfter(f.First.Checkpoint, "\n\n")[0] }, "fork", evidence.ReasonMalformed},
		"a higher counter": {func(f *evidence.File) {
			f.First.Checkpoint = strings.Replace(f.First.Checkpoint, "counter 7", "counter 9", 1)
		}, "fork", evidence.ReasonSignature},
		"no start":                {func(f *evidence.File) { f.Start = nil }, "rollback-disk", evidence.ReasonMalformed},
		"a changed start":         {func(f *evidence.File) { f.Start.Leaf[len(f.Start.Leaf)-70] ^= 1 }, "rollback-disk", evidence.ReasonProof},
		"a start without a proof": {func(f *evidence.File) { f.Start.Proof = "" }, "rollback-disk", evidence.ReasonMalformed},
	} {
		f := read(t, all[c.of])
		c.bend(f)
		if _, err := f.Verify(fac.cert); evidence.ReasonOf(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Each byte of the files matters: one bit changed anywhere is refused.
func TestEvidenceBitByBit(t *testing.T) {
	fac := newFacility(t)
	for name, f := range every(t, fac) {
		whole, err := f.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		// Every byte of one, of the larger ones each so many; a last character of base64 has bits that a lax decoder overlooks.
		step := 1 + len(whole)/400
		var places []int
		for at := range whole {
			if at%step == 0 || at+1 < len(whole) && whole[at] != '=' && (whole[at+1] == '=' || bytes.HasPrefix(whole[at+1:], []byte(`\n-----END`))) {
				places = append(places, at)
			}
		}
		for _, at := range places {
			bent := bytes.Clone(whole)
			bent[at] ^= 1
			g, err := evidence.Parse(bent)
			if err == nil {
				_, err = g.Verify(fac.cert)
			}
			if evidence.ReasonOf(err) == "" {
				t.Fatalf("%s: byte %d changed (%q): %v", name, at, whole[max(0, at-20):min(len(whole), at+20)], err)
			}
		}
	}
	for name, b := range map[string]string{"nothing": "", "no object": "[]", "a longer file": "{} {}", "a later version": `{"version":2}`, "an unknown part": `{"version":1,"x":1}`} {
		if _, err := evidence.Parse([]byte(b)); evidence.ReasonOf(err) != evidence.ReasonMalformed {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := evidence.Parse(bytes.Repeat([]byte(" "), 2<<20)); evidence.ReasonOf(err) != evidence.ReasonMalformed {
		t.Error(err)
	}
}

// What version 1 has written is evidence for ever.
func TestEvidenceVectors(t *testing.T) {
	const dir = "testdata/v1"
	if *update {
		fac := newFacility(t)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		put := func(name string, b []byte) {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		put("authority.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: fac.cert.Raw}))
		for name, f := range every(t, fac) {
			b, err := f.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			put(name+".evidence", b)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "authority.pem"))
	if err != nil {
		t.Fatal(err)
	}
	authority, err := enrolment.ParseCertificate(string(text))
	if err != nil {
		t.Fatal(err)
	}
	for name, kind := range kinds {
		b, err := os.ReadFile(filepath.Join(dir, name+".evidence"))
		if err != nil {
			t.Fatal(err)
		}
		f, err := evidence.Parse(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if found, err := f.Verify(authority); err != nil || found.Kind != kind {
			t.Errorf("%s: %v %v", name, found.Kind, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for name := range kinds {
		if b, err := os.ReadFile(filepath.Join("testdata/v1", name+".evidence")); err == nil {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := evidence.Parse(b)
		if err != nil {
			return
		}
		if _, err := e.Verify(nil); err == nil {
			known := false
			for name := range kinds {
				kept, _ := os.ReadFile(filepath.Join("testdata/v1", name+".evidence"))
				known = known || bytes.Equal(kept, b)
			}
			if !known {
				t.Fatalf("evidence that nobody has made: %s", base64.StdEncoding.EncodeToString(b))
			}
		}
	})
}
