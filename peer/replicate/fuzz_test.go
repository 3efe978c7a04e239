package replicate

import (
	"bytes"
	"path/filepath"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/peer/peertest"
	"github.com/vitalgate/vitalgate/peer/registry"
	"github.com/vitalgate/vitalgate/peer/store"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/enrolment"
)

// known is a box with three signed records, and the store of a peer that has the first of them.
func known(t testing.TB) (*peertest.Box, *store.Box) {
	t.Helper()
	b := peertest.NewBox(t, "f1/gw1")
	reader, err := record.GenerateReaderKey()
	if err != nil {
		t.Fatal(err)
	}
	b.Granted(&enrolment.Grant{Readers: enrolment.Readers{Network: []string{reader.Public().String()}}})
	key, err := enrolment.FormatKey(&b.Data.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := store.New(store.Options{Dir: filepath.Join(dir, "store"), Quarantine: filepath.Join(dir, "quarantine"), Evidence: filepath.Join(dir, "evidence")})
	t.Cleanup(func() { s.Close() })
	box, err := s.Box(&registry.Registration{Version: registry.Version, Box: "f1/gw1", DataKey: key, Claim: "software", Kinds: registry.AllKinds, Registered: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	var messages []store.Message
	for _, p := range b.Record(2) {
		data, err := p.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, store.Message{Data: data, Label: "x"})
	}
	if _, err := box.Add("test", messages); err != nil {
		t.Fatal(err)
	}
	b.Record(1)
	return b, box
}

// Whatever a peer announces: it names a peer, fits its bound, and no size is believed that the box has not signed.
func FuzzHead(f *testing.F) {
	b, box := known(f)
	signed := map[uint64]bool{}
	for _, p := range b.Log {
		c, err := p.Checkpoint.Unverified()
		if err != nil {
			f.Fatal(err)
		}
		signed[c.Size] = true
		f.Add("peer.say.ward1.head.f1.gw1", []byte(p.Checkpoint))
	}
	f.Add("peer.say.../x.head.f1.gw1", []byte("AAAA"))
	f.Add("peer.say.ward1.head", []byte(nil))
	f.Add("peer.say", []byte(``))
	stored := box.Size()
	f.Fuzz(func(t *testing.T, subject string, data []byte) {
		peer, _, ok := said(subject, data)
		if !ok {
			return
		}
		if len(data) > maxRequest || peer == "" || len(peer) > 32 || bytes.ContainsAny([]byte(peer), "./*> \n") {
			t.Fatalf("a head of %d bytes of peer %q is taken", len(data), peer)
		}
		if size, err := box.Head("peer "+peer, data); err == nil && !signed[size] {
			t.Fatalf("size %d is believed, which the box never signed", size)
		}
		if box.Size() != stored {
			t.Fatal("a head has changed the store")
		}
	})
}

// Whatever a peer asks for: it gets no more than the bound, and nothing at all or what it asked for.
func FuzzPull(f *testing.F) {
	_, box := known(f)
	for _, s := range []string{`{"from":0,"max":1000}`, `{"from":18446744073709551615,"max":-1}`, `{"from":1,"max":9223372036854775807}`, `{"from":-1}`,
		`{"from":1e3,"max":1}`, `{"from":0,"max":1,"more":true}`, `{"from":0}{"from":1}`, `[]`, ``} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		q, ok := parsePull(data)
		if !ok {
			return
		}
		if len(data) > maxRequest || q.Max < 0 || q.Max > pullRecords {
			t.Fatalf("%d records are to be answered, at most %d are", q.Max, pullRecords)
		}
		r := box.Reader(q.From)
		defer r.Close()
		group, err := r.Next()
		if q.From < box.Size() != (err == nil) || err == nil && group[0].Index != q.From {
			t.Fatalf("from %d of %d: %v", q.From, box.Size(), err)
		}
	})
}
