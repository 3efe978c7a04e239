package store

import (
	"bytes"
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/peer/peertest"
	"github.com/vitalgate/vitalgate/peer/registry"
	"github.com/vitalgate/vitalgate/peer/starts"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/tpm"
	"github.com/vitalgate/vitalgate/tpm/attestation"
	"github.com/vitalgate/vitalgate/tpm/tpmtest"
)

// A start that the chip of the box has not attested is set aside, stays in the log, and is remembered; so is an honest one after it.
func TestStartsAreJudgedAndRemembered(t *testing.T) {
	a, err := tpmtest.Open(t).Attestor()
	if err != nil {
		t.Fatal(err)
	}
	b, dir := newBox(t, "f1/gw1"), t.TempDir()
	reg := registration(t, b)
	reg.Attested = &registry.Attested{Class: "emulated", LAK: a.Areas().LAK}
	noted := filepath.Join(dir, "starts")
	open := func(t *testing.T) (*Store, *Box) {
		t.Helper()
		s := New(Options{Dir: filepath.Join(dir, "store"), Quarantine: filepath.Join(dir, "quarantine"), Evidence: filepath.Join(dir, "evidence"), Starts: noted})
		box, err := s.Box(reg)
		if err != nil {
			t.Fatal(err)
		}
		return s, box
	}
	s, box := open(t)
	b.Record(3)
	forged := uint64(len(b.Log))
	b.Append(bootLeaf(t, b, record.Boot{Resets: 1, Counter: 1, Protection: "emulated", Software: "test", Evidence: &record.BootEvidence{
		PCRs: []record.PCR{{Number: 11}}, Quote: record.Statement{Attest: []byte{1}, Signature: []byte{2}}, Certify: record.Statement{Attest: []byte{3}, Signature: []byte{4}},
	}}))
	b.Record(3)
	claimed := uint64(len(b.Log))
	b.Restart()
	b.Record(3)
	add(t, box, messages(t, b.Log...)...)
	if box.Size() != uint64(len(b.Log)) {
		t.Fatalf("%d of %d records are stored", box.Size(), len(b.Log))
	}
	check := func(t *testing.T, box *Box) {
		t.Helper()
		all := box.Starts()
		if len(all) != 2 || all[0].Index != forged || all[0].Verdict != starts.Signature || all[1].Index != claimed || all[1].Verdict != starts.Claimed {
			t.Errorf("starts: %+v", all)
		}
	}
	check(t, box)
	if found, _ := filepath.Glob(filepath.Join(dir, "quarantine", "f1", "gw1", "*."+string(starts.Signature)+".json")); len(found) != 1 {
		t.Errorf("set aside: %v", found)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for name, lose := range map[string]func() error{
		"as they were noted": func() error { return nil },
		"not noted":          func() error { return os.RemoveAll(noted) },
		"damaged": func() error {
			return os.WriteFile(filepath.Join(noted, "f1", "gw1.json"), []byte(`{"size":`), 0o600)
		},
		"of a longer log": func() error {
			return os.WriteFile(filepath.Join(noted, "f1", "gw1.json"), []byte(`{"size":1000000,"starts":[]}`), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := lose(); err != nil {
				t.Fatal(err)
			}
			s, box := open(t)
			defer s.Close()
			check(t, box)
		})
	}
}

// bootLeaf is the next of the box's log.
func bootLeaf(t *testing.T, b *peertest.Box, boot record.Boot) record.Leaf {
	t.Helper()
	index := uint64(len(b.Log))
	leaf := record.Leaf(record.Header{Box: b.ID, Index: index, Kind: record.KindBoot, Epoch: index}.AppendText(nil))
	leaf, err := boot.AppendText(leaf)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// attestedBox is a box whose TPM can attest starts, the registration that says so, and where a store of it is.
func attestedBox(t *testing.T) (*peertest.Box, *registry.Registration, *tpm.Attestor, Options) {
	t.Helper()
	x := tpmtest.Open(t)
	a, err := x.Attestor()
	if err != nil {
		t.Fatal(err)
	}
	b := newBox(t, "f1/gw1")
	b.Resets, b.Starts = x.Boot().Resets, x.Boot().Counter
	reg := registration(t, b)
	reg.Attested = &registry.Attested{Class: "emulated", LAK: a.Areas().LAK}
	dir := t.TempDir()
	return b, reg, a, Options{Dir: filepath.Join(dir, "store"), Quarantine: filepath.Join(dir, "quarantine"), Evidence: filepath.Join(dir, "evidence"),
		Starts: filepath.Join(dir, "starts"), Patience: time.Nanosecond}
}

// opened is a store, and the box in it when its starts are known.
func opened(t *testing.T, o Options, reg *registry.Registration) (*Store, *Box) {
	t.Helper()
	s := New(o)
	t.Cleanup(func() { s.Close() })
	box, err := s.Box(reg)
	if err != nil {
		t.Fatal(err)
	}
	if err := box.Looked(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s, box
}

// forged is a start that no TPM has attested.
var forged = record.Boot{Resets: 1, Counter: 1, Protection: "emulated", Software: "test", Evidence: &record.BootEvidence{
	PCRs: []record.PCR{{Number: 11}}, Quote: record.Statement{Attest: []byte{1}, Signature: []byte{2}}, Certify: record.Statement{Attest: []byte{3}, Signature: []byte{4}},
}}

// verdicts are those of all starts known of the box.
func verdicts(b *Box) (all []starts.Verdict) {
	for _, s := range b.Starts() {
		all = append(all, s.Verdict)
	}
	return all
}

// A start that is judged together with what it names is judged as if that had come before it.
func TestAStartIsJudgedAlikeHoweverItComes(t *testing.T) {
	b, reg, a, _ := attestedBox(t)
	first := b.Record(3)
	l := record.Boot{Protection: "emulated", Software: "test", LastSize: uint64(len(b.Log)), LastRoot: record.Hash{1}} // not the root of this log
	said, _, err := a.Start(t.Context(), func(run tpm.Boot) ([]byte, error) {
		l.Resets, l.Restarts, l.Counter = run.Resets, run.Restarts, run.Counter
		return l.Binding(b.ID)
	})
	if err != nil {
		t.Fatal(err)
	}
	l.Evidence = &record.BootEvidence{Quote: record.Statement(said.Quote), Certify: record.Statement(said.Counter)}
	for _, n := range attestation.BootPCRs {
		l.Evidence.PCRs = append(l.Evidence.PCRs, record.PCR{Number: uint8(n), Value: [32]byte(said.PCRs[n])})
	}
	boot := b.Append(bootLeaf(t, b, l))
	for name, calls := range map[string][][]record.Published{"two calls": {first, boot}, "one call": {append(slices.Clip(first), boot...)}} {
		dir := t.TempDir()
		_, box := opened(t, Options{Dir: filepath.Join(dir, "store"), Quarantine: filepath.Join(dir, "quarantine"), Evidence: filepath.Join(dir, "evidence")}, reg)
		for _, c := range calls {
			add(t, box, messages(t, c...)...)
		}
		if got := verdicts(box); !slices.Equal(got, []starts.Verdict{starts.OtherLog}) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// Starts in a part of the log that was missing and is mended are judged, and those behind them anew.
func TestStartsInAMendedGapAreJudged(t *testing.T) {
	b, reg, _, o := attestedBox(t)
	s, box := opened(t, o, reg)
	b.Record(3)
	b.Append(bootLeaf(t, b, forged))
	b.Record(3)
	add(t, box, messages(t, b.Log...)...)
	b.Restart() // honest, and missing here
	b.Record(3)
	for range 2 {
		m := messages(t, b.Record(5)...)
		add(t, box, m...)
		add(t, box, m...)
	}
	b.Append(bootLeaf(t, b, forged))
	last := b.Record(1)
	add(t, box, messages(t, b.Log[last[0].Index-1:]...)...)
	check := func(when string, box *Box, want ...starts.Verdict) {
		t.Helper()
		if got := verdicts(box); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
		if !slices.IsSortedFunc(box.Starts(), func(a, b starts.Start) int { return cmp.Compare(a.Index, b.Index) }) {
			t.Errorf("%s the starts are out of order: %v", when, box.Starts())
		}
	}
	check("with the gap", box, starts.Signature, starts.Signature)
	s.Close()
	s, box = opened(t, o, reg)
	check("with the gap, opened again", box, starts.Signature, starts.Signature)
	if err := box.Scrub(t.Context()); err != nil || len(box.Gaps()) == 0 {
		t.Fatalf("gaps %v: %v", box.Gaps(), err)
	}
	for _, g := range box.Gaps() {
		if err := box.Mend(g, (&other{t: t, box: b}).ask); err != nil {
			t.Fatal(err)
		}
	}
	if len(box.Gaps()) > 0 {
		t.Fatalf("gaps after the mend: %v", box.Gaps())
	}
	check("mended", box, starts.Signature, starts.Claimed, starts.Signature)
	s.Close()
	s, box = opened(t, o, reg)
	check("mended, opened again", box, starts.Signature, starts.Claimed, starts.Signature)
	s.Close()
	if err := os.RemoveAll(o.Starts); err != nil {
		t.Fatal(err)
	}
	_, box = opened(t, o, reg)
	check("from the log", box, starts.Signature, starts.Claimed, starts.Signature)
}

// A long log of which nothing was noted is looked through beside all else, and what comes in meanwhile is judged, too; what another
// version has judged is judged again.
func TestALongLogIsLookedThroughBesideAllElse(t *testing.T) {
	b, reg, _, o := attestedBox(t)
	s, box := opened(t, o, reg)
	b.Append(bootLeaf(t, b, forged))
	for len(b.Log) < 2*noteEvery {
		b.Record(1000)
	}
	add(t, box, messages(t, b.Log...)...)
	s.Close()
	if err := os.RemoveAll(o.Starts); err != nil {
		t.Fatal(err)
	}
	s, box = opened(t, o, reg)
	if got := verdicts(box); !slices.Equal(got, []starts.Verdict{starts.Signature}) {
		t.Errorf("looked through: %v", got)
	}
	rest := box.look(noted{}) // and now as it is before that ends
	if _, yes := box.Looking(); !yes || s.Find(b.ID) != box {
		t.Error("the box was not to be had before its log was looked through")
	}
	b.Append(bootLeaf(t, b, forged))
	add(t, box, messages(t, b.Log[len(b.Log)-1:]...)...)
	if got := verdicts(box); !slices.Equal(got, []starts.Verdict{starts.Signature, starts.Signature}) {
		t.Errorf("while it is looked through: %v", got)
	}
	rest()
	if _, yes := box.Looking(); yes {
		t.Error("it does not end")
	}
	want := []starts.Verdict{starts.Signature, starts.Signature}
	if got := verdicts(box); !slices.Equal(got, want) {
		t.Errorf("looked through to the end: %v", got)
	}
	s.Close()
	file := filepath.Join(o.Starts, "f1", "gw1.json")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var n noted
	if err := json.Unmarshal(text, &n); err != nil || n.Judged != starts.Version || n.Size != uint64(len(b.Log)) || len(n.Starts) != 2 {
		t.Fatalf("noted: %v %s", err, text)
	}
	n.Starts[0].Verdict, n.Judged = starts.Claimed, starts.Version-1
	if text, err = json.Marshal(n); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	reading := o
	reading.Reading = true
	s, box = opened(t, reading, reg)
	if got := verdicts(box); !slices.Equal(got, want) {
		t.Errorf("judged by another version: %v", got)
	}
	s.Close()
	if after, err := os.ReadFile(file); err != nil || !bytes.Equal(after, text) {
		t.Errorf("who only reads has written what is noted: %v", err)
	}
}

// However many starts a box invents, few are kept in memory and in the file.
func TestInventedStartsAreBounded(t *testing.T) {
	b, reg, _, o := attestedBox(t)
	s, box := opened(t, o, reg)
	for range 10 {
		var leaves []record.Leaf
		for i := range 500 {
			index := uint64(len(b.Log) + i)
			leaf, err := record.Boot{Resets: 1, Counter: 1, Protection: "emulated", Software: "test"}.AppendText(
				record.Header{Box: b.ID, Index: index, Kind: record.KindBoot, Epoch: index}.AppendText(nil))
			if err != nil {
				t.Fatal(err)
			}
			leaves = append(leaves, leaf)
		}
		add(t, box, messages(t, b.Append(leaves...)...)...)
	}
	all := box.Starts()
	if len(all) >= 4096 || all[len(all)-1].Index != uint64(len(b.Log)-1) {
		t.Errorf("%d starts are kept", len(all))
	}
	s.Close()
	_, box = opened(t, o, reg)
	if again := box.Starts(); len(again) != len(all) {
		t.Errorf("%d starts after all were noted, before %d", len(again), len(all))
	}
}

// A start whose checkpoint a power cut has torn off is judged when that comes again.
func TestAStartWhoseCheckpointWasTornIsJudged(t *testing.T) {
	b, reg, _, o := attestedBox(t)
	s, box := opened(t, o, reg)
	b.Record(3)
	b.Append(bootLeaf(t, b, forged))
	all := messages(t, b.Log...)
	add(t, box, all...)
	s.Close()
	files, err := filepath.Glob(filepath.Join(LogDir(o.Dir, b.ID), "*"))
	if err != nil {
		t.Fatal(err)
	}
	cut := 0
	for _, f := range files {
		if st, err := os.Stat(f); err == nil && st.Size() > 64 {
			if err := os.Truncate(f, st.Size()-3); err != nil {
				t.Fatal(err)
			}
			cut++
		}
	}
	_, box = opened(t, o, reg)
	if cut != 1 || box.Size() != uint64(len(b.Log)-1) || box.Next() != uint64(len(b.Log)) || len(box.Starts()) > 0 {
		t.Fatalf("%d files were cut; %d records are signed, %d there; starts %v", cut, box.Size(), box.Next(), box.Starts())
	}
	add(t, box, all[len(all)-1])
	if got := verdicts(box); box.Size() != uint64(len(b.Log)) || !slices.Equal(got, []starts.Verdict{starts.Signature}) {
		t.Errorf("%d records are signed; starts %v", box.Size(), got)
	}
}
