package record

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
	"unsafe"
)

// clock is the time of a test.
type clock struct{ now time.Time }

func (c *clock) set(s *Sealer) {
	c.now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s.Now = func() time.Time { return c.now }
}

// feed seals a reading, checks the indices and returns how many leaves it took.
func feed(t testing.TB, s *Sealer, log *[]Leaf, r Reading) int {
	t.Helper()
	leaves, err := s.Seal(uint64(len(*log)), r)
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range leaves {
		h, _, err := ParseLeaf(l)
		if err != nil {
			t.Fatal(err)
		}
		if h.Index != uint64(len(*log)+i) || h.Box != testBox || (h.Kind == KindEpoch) != (i < len(leaves)-1) {
			t.Fatalf("leaf %d of %d: %+v", i, len(leaves), h)
		}
	}
	*log = append(*log, leaves...)
	return len(leaves)
}

func headers(t testing.TB, log []Leaf) (out []Header) {
	t.Helper()
	for _, l := range log {
		h, _, err := ParseLeaf(l)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, h)
	}
	return out
}

// An epoch ends after 15 minutes, after 4096 records, and after two minutes of silence; the pseudonym stays.
func TestEpochEnds(t *testing.T) {
	s := newSealer(t, []ReaderKey{newReader(t).Public()}, nil)
	var c clock
	c.set(s)
	var log []Leaf
	expect := func(what string, want int) {
		t.Helper()
		if got := feed(t, s, &log, reading("A", 0)); got != want {
			t.Fatalf("%s: %d leaves, want %d", what, got, want)
		}
	}
	expect("the first", 2)
	for range 14 {
		c.now = c.now.Add(time.Minute)
		expect("within the epoch", 1)
	}
	c.now = c.now.Add(time.Minute)
	expect("after 15 minutes", 2)
	c.now = c.now.Add(EpochIdle)
	expect("after silence", 2)
	for i := 1; i < EpochRecords; i++ {
		expect("within the epoch", 1)
	}
	expect("after 4096 records", 2)
	c.now = c.now.Add(-time.Hour)
	expect("after the clock went back", 2)
	s.End()
	expect("after End", 2)
	hs := headers(t, log)
	for _, h := range hs {
		if h.Patient != hs[0].Patient || len(h.Patient) != 32 {
			t.Fatal("the pseudonym changed")
		}
	}
	c.now = c.now.Add(pseudonymIdle)
	expect("a day later", 2)
	if h := headers(t, log)[len(log)-1]; h.Patient == hs[0].Patient {
		t.Error("after a day the pseudonym is still the same")
	}
}

// No key is used for two patients, none for two beds whose patient is unknown, and readings that alternate do not make new epochs.
func TestOneKeyOnePatient(t *testing.T) {
	s := newSealer(t, []ReaderKey{newReader(t).Public()}, nil)
	var log []Leaf
	who := map[uint64]string{}
	for i := range 60 {
		r := reading([]string{"A", "B", "", ""}[i%4], 1)
		r.Content.Monitor = []string{"m1", "m1", "m1", "m2"}[i%4]
		feed(t, s, &log, r)
		h := headers(t, log)[len(log)-1]
		name := r.Patient + "/" + r.Content.Monitor
		if was, ok := who[h.Epoch]; ok && was != name {
			t.Fatalf("epoch %d seals %s and %s", h.Epoch, was, name)
		}
		who[h.Epoch] = name
		if (h.Patient == "") != (r.Patient == "") {
			t.Fatalf("patient %q of reading of %q", h.Patient, r.Patient)
		}
	}
	if len(who) != 4 || len(log) != 64 {
		t.Errorf("%d epochs and %d leaves for 4 associations and 60 readings", len(who), len(log))
	}
	if hs := headers(t, log); hs[1].Patient == hs[3].Patient {
		t.Error("two patients have one pseudonym")
	}
	again := newSealer(t, s.network, nil)
	var log2 []Leaf
	feed(t, again, &log2, reading("A", 1))
	if headers(t, log2)[0].Patient == headers(t, log)[0].Patient {
		t.Error("the pseudonym is the same after a restart: it is derived from the patient")
	}
}

// The number of open epochs and of remembered patients is bounded, whatever the monitors send.
func TestSealerIsBounded(t *testing.T) {
	s := newSealer(t, []ReaderKey{newReader(t).Public()}, nil)
	var c clock
	c.set(s)
	var log []Leaf
	for i := range maxEpochs + 50 {
		c.now = c.now.Add(time.Millisecond)
		feed(t, s, &log, reading(fmt.Sprint("P", i), 0))
	}
	if len(s.epochs) != maxEpochs {
		t.Errorf("%d epochs are open", len(s.epochs))
	}
	if n := feed(t, s, &log, reading(fmt.Sprint("P", maxEpochs+49), 0)); n != 1 {
		t.Error("the youngest epoch was ended instead of the oldest")
	}
	if n := feed(t, s, &log, reading("P0", 0)); n != 2 {
		t.Error("the oldest epoch was not ended")
	}
}

// When leaves could not be appended, their indices come again under new keys: one key never seals two records at one index.
func TestLostLeavesGetNewKeys(t *testing.T) {
	s := newSealer(t, []ReaderKey{newReader(t).Public()}, nil)
	var log []Leaf
	feed(t, s, &log, reading("A", 1))
	feed(t, s, &log, reading("A", 1))
	lost, err := s.Seal(3, reading("A", 1))
	if err != nil || len(lost) != 1 {
		t.Fatal(err)
	}
	if n := feed(t, s, &log, reading("A", 1)); n != 2 {
		t.Fatalf("index 3 was sealed again in %d leaves, want a new epoch", n)
	}
	// The same for the epoch leaf itself and for a boot leaf.
	lost, err = s.Seal(uint64(len(log)), reading("B", 1))
	if err != nil || len(lost) != 2 {
		t.Fatal(err)
	}
	if _, err := s.Boot(uint64(len(log)), Boot{Protection: "p", Software: "s"}); err != nil {
		t.Fatal(err)
	}
	if len(s.epochs) != 0 {
		t.Error("after lost leaves old keys are still in use")
	}
}

// After its epoch a key is overwritten, and so is the clear text of a reading.
func TestKeyIsWiped(t *testing.T) {
	s := newSealer(t, []ReaderKey{newReader(t).Public()}, nil)
	var log []Leaf
	feed(t, s, &log, reading("A", 1))
	var e *epoch
	for _, e = range s.epochs {
	}
	h, body, err := ParseLeaf(log[1])
	if err != nil {
		t.Fatal(err)
	}
	aad := log[1][:len(log[1])-len(body)]
	if _, err := e.key.Open(nil, nonce(h.Index), body, aad); err != nil {
		t.Fatal("the key does not open its record while the epoch is open")
	}
	v := reflect.ValueOf(e.key)
	schedule := unsafe.Slice((*byte)(v.UnsafePointer()), v.Elem().Type().Size())
	if len(schedule) < 240 || bytes.Count(schedule, []byte{0}) == len(schedule) {
		t.Fatalf("the key schedule is not where it is looked for: %d bytes", len(schedule))
	}
	s.End()
	if bytes.Count(schedule, []byte{0}) != len(schedule) {
		t.Error("the key is still in memory after its epoch")
	}
	for _, b := range [][]byte{s.plain[:cap(s.plain)], s.packed[:cap(s.packed)]} {
		if bytes.Contains(b, []byte("MONITOR")) || bytes.Contains(b, []byte("72.50")) {
			t.Error("a buffer still holds clear text")
		}
	}
}

// Where a site asks for it, network and patient are needed together, and any reader of a side will do.
func TestTwoSides(t *testing.T) {
	key := newKey(t)
	n1, n2, p1, p2 := newReader(t), newReader(t), newReader(t), newReader(t)
	s := newSealer(t, []ReaderKey{n1.Public(), n2.Public()}, []ReaderKey{p1.Public(), p2.Public()})
	var log []Leaf
	feed(t, s, &log, reading("A", 3))
	vs := publish(t, key, Tree{}, log)
	for _, c := range []struct {
		opens bool
		keys  []ReaderSecret
	}{
		{true, []ReaderSecret{n1, p1}}, {true, []ReaderSecret{n2, p1}}, {true, []ReaderSecret{p2, n1}}, {true, []ReaderSecret{n1, n2, p1, p2}},
		{false, nil}, {false, []ReaderSecret{n1, n2}}, {false, []ReaderSecret{p1, p2}}, {false, []ReaderSecret{n1, newReader(t)}},
	} {
		o := NewOpener(c.keys...)
		_, err := o.Open(vs[0])
		if c.opens != errors.Is(err, ErrNoContent) || !c.opens && !errors.Is(err, ErrNoKey) {
			t.Errorf("%d keys, epoch: %v", len(c.keys), err)
		}
		got, err := o.Open(vs[1])
		if c.opens != (err == nil) || c.opens && !sameContent(got, reading("A", 3).Content) {
			t.Errorf("%d keys, record: %v", len(c.keys), err)
		}
	}
	if _, err := NewOpener(n1, p1).Open(vs[1]); !errors.Is(err, ErrUnknownEpoch) {
		t.Errorf("a record before its epoch: %v", err)
	}
}

// A box that signs wrong contents is found out by the reader, although every signature holds.
func TestOpenerDoesNotTrustTheBox(t *testing.T) {
	key, reader := newKey(t), newReader(t)
	seal := func(spoil func(h *Header, plain []byte) []byte) error {
		s := newSealer(t, []ReaderKey{reader.Public()}, nil)
		e, epochLeaf, err := s.begin(0, strings.Repeat("ab", 16), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		plain, err := s.encode(reading("A", 1).Content)
		if err != nil {
			t.Fatal(err)
		}
		h := Header{Box: testBox, Index: 1, Kind: KindVitals, Epoch: 0, Patient: e.patient, Commit: commitment(plain[:saltSize], plain[saltSize+1:])}
		plain = spoil(&h, plain)
		leaf := Leaf(h.AppendText(nil))
		leaf = e.key.Seal(leaf, nonce(1), plain, leaf)
		vs := publish(t, key, Tree{}, []Leaf{epochLeaf, leaf})
		o := NewOpener(reader)
		o.Open(vs[0])
		_, err = o.Open(vs[1])
		return err
	}
	if err := seal(func(_ *Header, p []byte) []byte { return p }); err != nil {
		t.Fatal(err)
	}
	bomb := newCompressor().EncodeAll(make([]byte, MaxContent+1), nil)
	for name, spoil := range map[string]func(h *Header, p []byte) []byte{
		"another content":  func(_ *Header, p []byte) []byte { p[len(p)-3] ^= 1; return p },
		"another salt":     func(_ *Header, p []byte) []byte { p[0] ^= 1; return p },
		"another patient":  func(h *Header, p []byte) []byte { h.Patient = strings.Repeat("cd", 16); return p },
		"no patient":       func(h *Header, p []byte) []byte { h.Patient = ""; return p },
		"unknown encoding": func(_ *Header, p []byte) []byte { p[saltSize] = 9; return p },
		"no zstd":          func(_ *Header, p []byte) []byte { p[saltSize] = encodingZstd; return p },
		"zstd bomb":        func(_ *Header, p []byte) []byte { return append(append(p[:saltSize:saltSize], encodingZstd), bomb...) },
		"empty":            func(*Header, []byte) []byte { return nil },
	} {
		if err := seal(spoil); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

// A reading that is too large is refused before anything changes; one with a compressible Bundle of many megabytes fits.
func TestTooLarge(t *testing.T) {
	s := newSealer(t, []ReaderKey{newReader(t).Public()}, nil)
	noise := make([]byte, MaxLeaf)
	rand.Read(noise)
	for _, r := range []Reading{
		{Kind: KindRaw, Content: Content{Raw: noise}},
		{Kind: KindRaw, Content: Content{Raw: make([]byte, MaxContent)}},
		{Kind: KindRaw, Content: Content{Monitor: strings.Repeat("m", 20000)}},
	} {
		if _, err := s.Seal(0, r); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%v", err)
		}
	}
	var log []Leaf
	if n := feed(t, s, &log, reading("A", 100_000)); n != 2 {
		t.Fatal(n)
	}
	if _, err := s.Seal(2, Reading{Kind: KindEpoch}); err == nil {
		t.Error("a control leaf was sealed as a reading")
	}
}

func TestNewSealerRefuses(t *testing.T) {
	k := newReader(t).Public()
	many := make([]ReaderKey, maxReaders)
	for i := range many {
		many[i] = k
	}
	for name, f := range map[string]func() (*Sealer, error){
		"no reader":  func() (*Sealer, error) { return NewSealer(testBox, nil, []ReaderKey{k}) },
		"no box":     func() (*Sealer, error) { return NewSealer(BoxID{}, []ReaderKey{k}, nil) },
		"empty key":  func() (*Sealer, error) { return NewSealer(testBox, []ReaderKey{{}}, nil) },
		"65 readers": func() (*Sealer, error) { return NewSealer(testBox, many, []ReaderKey{k}) },
	} {
		if _, err := f(); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestReaderKeyText(t *testing.T) {
	k := newReader(t)
	pub, secret := k.Public().String(), k.Text()
	if !strings.HasPrefix(pub, "vgreader1") || !strings.HasPrefix(secret, "VGREADER-SECRET-1") {
		t.Fatalf("%.20s %.20s", pub, secret)
	}
	p, err := ParseReaderKey(" " + pub + "\n")
	if err != nil || p.ID() != k.Public().ID() || p.String() != pub {
		t.Fatal(err)
	}
	s, err := ParseReaderSecret(secret + "\n")
	if err != nil || s.Public().String() != pub || s.Text() != secret {
		t.Fatal(err)
	}
	if out := fmt.Sprintf("%v %+v %#v %s", k, k, k, k); strings.Contains(out, secret[20:40]) {
		t.Error("printing a private key shows it")
	}
	if _, err := ParseReaderKey(secret); err == nil || !strings.Contains(err.Error(), "private") {
		t.Errorf("a private key where a public one belongs: %v", err)
	}
	for i := 0; i < len(pub); i += 7 {
		if _, err := ParseReaderKey(pub[:i] + string(pub[i]^1) + pub[i+1:]); err == nil {
			t.Errorf("a typing error at %d: taken", i)
		}
	}
	for i := range secret {
		if _, err := ParseReaderSecret(secret[:i] + string(secret[i]^1) + secret[i+1:]); err == nil {
			t.Errorf("a typing error at %d: taken", i)
		}
	}
}

func TestBootLeaf(t *testing.T) {
	s := newSealer(t, []ReaderKey{newReader(t).Public()}, nil)
	b := Boot{Resets: 4, Restarts: 1, Counter: 99, Protection: "emulated TPM (swtpm)", Software: "vitalgate 0.1.0", LastSize: 12, LastRoot: Hash{9}}
	leaf, err := s.Boot(12, b)
	if err != nil {
		t.Fatal(err)
	}
	h, body, err := ParseLeaf(leaf)
	if err != nil || h.Kind != KindBoot || h.Index != 12 {
		t.Fatalf("%+v %v", h, err)
	}
	if got, err := ParseBoot(body); err != nil || got != b {
		t.Fatalf("%+v %v", got, err)
	}
	for _, bad := range []Boot{{}, {Protection: "p"}, {Protection: "p", Software: "a\nb"}} {
		if _, err := s.Boot(13, bad); err == nil {
			t.Errorf("%+v: taken", bad)
		}
	}
	if _, err := ParseBoot(append(body, 'x')); err == nil {
		t.Error("a boot leaf with more: taken")
	}
}

func TestContentRoundTrip(t *testing.T) {
	for _, c := range []Content{
		{}, {Raw: []byte{}}, {Bundle: []byte("{}")}, {Monitor: "a", Via: "b c", Reason: "d: e", Notes: []string{"x", "y"}, Bundle: []byte("\n\nbundle 3"), Raw: []byte("\n\n")},
		{Monitor: "Überwachung 3", Reason: "bundle 9"},
	} {
		b, err := c.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseContent(b)
		if err != nil || !sameContent(got, c) {
			t.Errorf("%q: %+v, %v", b, got, err)
		}
	}
	got, err := ParseContent(must(Content{Monitor: "a\nraw 7", Via: "\xff\x00", Notes: []string{"", "a\nb"}, Raw: []byte("r")}.AppendBinary(nil)))
	if err != nil || got.Monitor != "a raw 7" || got.Via != "\ufffd " || len(got.Notes) != 1 || string(got.Raw) != "r" {
		t.Errorf("%+v, %v", got, err)
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}
