package record

import (
	"errors"
	"testing"
)

// Readers change while the box runs: what comes from then on is sealed for the new ones, and the keys of before are gone.
func TestSetReaders(t *testing.T) {
	key, before, after, patient := newKey(t), newReader(t), newReader(t), newReader(t)
	s := newSealer(t, []ReaderKey{before.Public()}, nil)
	var leaves []Leaf
	seal := func() {
		t.Helper()
		ls, err := s.Seal(uint64(len(leaves)), reading("P1", 2))
		if err != nil {
			t.Fatal(err)
		}
		leaves = append(leaves, ls...)
	}
	seal()
	seal()
	if err := s.SetReaders([]ReaderKey{after.Public()}, []ReaderKey{patient.Public()}, false); err != nil {
		t.Fatal(err)
	}
	if len(s.epochs) != 0 {
		t.Error("an epoch for the readers of before goes on")
	}
	seal()
	if err := s.SetReaders([]ReaderKey{after.Public()}, []ReaderKey{patient.Public()}, true); err != nil {
		t.Fatal(err)
	}
	seal()
	seal()
	if len(s.epochs) != 0 {
		t.Error("with a key for each record a key is kept")
	}
	kinds := ""
	records := publish(t, key, Tree{}, leaves)
	for _, v := range records {
		kinds += string(v.Header().Kind[0])
	}
	if kinds != "evvevevev" { // epoch, vitals, …
		t.Errorf("leaves %s", kinds)
	}
	for name, c := range map[string]struct {
		secrets []ReaderSecret
		opens   map[int]bool
	}{
		"the readers of before": {[]ReaderSecret{before}, map[int]bool{1: true, 2: true}},
		"the readers now":       {[]ReaderSecret{after, patient}, map[int]bool{4: true, 6: true, 8: true}},
		"one side of them":      {[]ReaderSecret{after}, nil},
	} {
		o := NewOpener(c.secrets...)
		for i, v := range records {
			_, err := o.Open(v)
			if v.Header().Kind.Control() {
				continue
			}
			if c.opens[i] != (err == nil) || err != nil && !errors.Is(err, ErrNoKey) {
				t.Errorf("%s, record %d: %v", name, i, err)
			}
		}
	}
	for _, bad := range [][]ReaderKey{nil, {{}}, make([]ReaderKey, 65)} {
		if err := s.SetReaders(bad, nil, false); err == nil {
			t.Errorf("%d readers, none of them a key: taken", len(bad))
		}
	}
	seal() // goes on for those of before
}
