package registry_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/peer/peertest"
	"github.com/vitalgate/vitalgate/peer/registry"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/enrolment"
)

func registration(t testing.TB, b *peertest.Box, pin string) *registry.Registration {
	t.Helper()
	key, err := enrolment.FormatKey(&b.Data.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	nkey, err := b.NKey.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return &registry.Registration{Version: registry.Version, Box: b.ID.String(), DataKey: key, NKey: nkey, TLSKey: strings.Repeat(pin, 64),
		Claim: "emulated", Kinds: registry.AllKinds, Registered: time.Now().UTC().Truncate(time.Second)}
}

func TestRegistryRefusesWhatWouldConfuseTwoBoxes(t *testing.T) {
	g := registry.At(t.TempDir())
	one, two := peertest.NewBox(t, "f1/gw1"), peertest.NewBox(t, "f1/gw2")
	if err := g.Put(registration(t, one, "a")); err != nil {
		t.Fatal(err)
	}
	refused := func(r *registry.Registration, want string) {
		t.Helper()
		if err := g.Put(r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error that says %q", err, want)
		}
	}
	other := registration(t, one, "a")
	other.NKey = registration(t, two, "b").NKey
	refused(other, "other keys")
	copied := registration(t, two, "b")
	copied.DataKey = registration(t, one, "a").DataKey
	refused(copied, "copy of the other")
	bad := registration(t, two, "b")
	bad.Kinds = []record.Kind{record.KindBoot}
	refused(bad, "kinds")

	r := registration(t, one, "a")
	until := uint64(7)
	r.Until, r.Revoked = &until, &registry.Revocation{At: time.Now(), Reason: "lost"}
	if err := g.Put(r); err != nil {
		t.Fatal(err)
	}
	refused(registration(t, one, "a"), "revoked") // a revocation is not undone
}

// A file that somebody has damaged stops nobody but its own box.
func TestDamagedEntryStopsOnlyItself(t *testing.T) {
	dir := t.TempDir()
	g := registry.At(dir)
	one, two := peertest.NewBox(t, "f1/gw1"), peertest.NewBox(t, "f1/gw2")
	for r, pin := range map[*peertest.Box]string{one: "a", two: "b"} {
		if err := g.Put(registration(t, r, pin)); err != nil {
			t.Fatal(err)
		}
	}
	mark := g.Mark()
	path := filepath.Join(dir, "boxes", "f1", "gw1.json")
	if err := os.WriteFile(path, []byte(`{"version":1,`), 0o600); err != nil {
		t.Fatal(err)
	}
	if g.Mark() == mark {
		t.Error("the change is not noticed")
	}
	s, err := g.Load()
	if err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want an error that names %s", err, path)
	}
	if s.Box(one.ID) != nil || s.Box(two.ID) == nil {
		t.Errorf("loaded %d boxes, want the whole one", len(s.Boxes))
	}
}

func TestGrantDecidesByKindAndIndex(t *testing.T) {
	r := registration(t, peertest.NewBox(t, "f1/gw1"), "a")
	until := uint64(20)
	r.Kinds, r.From, r.Until = []record.Kind{record.KindVitals}, 10, &until
	for _, c := range []struct {
		kind  record.Kind
		index uint64
		want  string
	}{
		{record.KindVitals, 10, ""}, {record.KindVitals, 19, ""}, {record.KindEpoch, 12, ""}, {record.KindBoot, 12, ""},
		{record.KindVitals, 9, "index"}, {record.KindVitals, 20, "index"}, {record.KindBoot, 20, "index"},
		{record.KindAlarm, 12, "kind"},
	} {
		if got := r.Refuses(record.Header{Kind: c.kind, Index: c.index}); got != c.want {
			t.Errorf("%s at %d: refused as %q, want %q", c.kind, c.index, got, c.want)
		}
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

// Whatever stands in a file, it is refused or well formed; never a panic.
func FuzzRegistration(f *testing.F) {
	b, err := json.Marshal(registration(f, peertest.NewBox(f, "f1/gw1"), "a"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"version":1,"box":"f1/gw1","revocation":{}}`))
	f.Add([]byte(`[]`))
	path := filepath.Join(f.TempDir(), "r.json")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := registry.ReadRegistration(path)
		if err == nil && (r.Key() == nil || !r.ID().Valid() || r.Check() != nil) {
			t.Errorf("taken, but not well formed: %+v", r)
		}
	})
}
