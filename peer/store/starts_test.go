package store

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/vitalgate/vitalgate/peer/peertest"
	"github.com/vitalgate/vitalgate/peer/registry"
	"github.com/vitalgate/vitalgate/peer/starts"
	"github.com/vitalgate/vitalgate/record"
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
