package main

import (
	"context"
	"encoding/hex"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/peer/facility"
	"github.com/vitalgate/vitalgate/peer/peertest"
	"github.com/vitalgate/vitalgate/peer/registry"
	"github.com/vitalgate/vitalgate/peer/starts"
	"github.com/vitalgate/vitalgate/peer/store"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/enrolment"
	"github.com/vitalgate/vitalgate/tpm"
	"github.com/vitalgate/vitalgate/tpm/attestation"
	"github.com/vitalgate/vitalgate/tpm/tpmtest"
)

// A box whose TPM has attested a start goes on with one that it has not, and with a forged one: each is named, the records of the forged
// one are shown to nobody, and an honest start ends it.
func TestAStartThatIsNotAttestedIsNamed(t *testing.T) {
	x := tpmtest.Open(t)
	a, err := x.Attestor()
	if err != nil {
		t.Fatal(err)
	}
	box := peertest.NewBox(t, "f1/gw1")
	secret, err := record.GenerateReaderKey()
	if err != nil {
		t.Fatal(err)
	}
	box.Granted(&enrolment.Grant{Readers: enrolment.Readers{Network: []string{secret.Public().String()}}})
	box.Resets, box.Starts = x.Boot().Resets, x.Boot().Counter
	key, err := enrolment.FormatKey(&box.Data.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	reg := &registry.Registration{Version: registry.Version, Box: "f1/gw1", DataKey: key, Claim: "emulated", Kinds: registry.AllKinds,
		Attested: &registry.Attested{Class: "emulated", LAK: a.Areas().LAK}}
	dir := t.TempDir()
	s := store.New(store.Options{Dir: filepath.Join(dir, "store"), Quarantine: filepath.Join(dir, "quarantine"), Evidence: filepath.Join(dir, "evidence"), Starts: filepath.Join(dir, "starts")})
	defer s.Close()
	b, err := s.Box(reg)
	if err != nil {
		t.Fatal(err)
	}
	rd := newReader(storeSource{s}, reg, record.NewOpener(secret))
	// take stores records, and says how many of them a reader gets.
	take := func(ps []record.Published) (shown int) {
		t.Helper()
		var messages []store.Message
		for _, p := range ps {
			data, err := p.AppendBinary(nil)
			if err != nil {
				t.Fatal(err)
			}
			messages = append(messages, store.Message{Data: data, Label: "x"})
		}
		if _, err := b.Add("test", messages); err != nil || b.Size() != uint64(len(box.Log)) {
			t.Fatalf("%d of %d records are stored: %v", b.Size(), len(box.Log), err)
		}
		for _, p := range ps {
			if _, ok, err := rd.line(t.Context(), p, false); err != nil {
				t.Fatal(err)
			} else if ok {
				shown++
			}
		}
		return shown
	}
	denied := map[string]string{}
	says := func(verdict string, conditions ...string) {
		t.Helper()
		st := &status{Boxes: []boxStatus{{}}}
		st.starts(&registry.State{Firmware: denied}, reg, b)
		var codes []string
		for _, c := range st.Conditions {
			codes = append(codes, c.Code)
		}
		if st.Boxes[0].Start != verdict || !slices.Equal(codes, conditions) {
			t.Errorf("the start is %q, want %q; conditions %v, want %v: %+v", st.Boxes[0].Start, verdict, codes, conditions, st.Conditions)
		}
	}
	leaf := func(boot record.Boot) record.Leaf {
		t.Helper()
		index := uint64(len(box.Log))
		l, err := boot.AppendText(record.Header{Box: box.ID, Index: index, Kind: record.KindBoot, Epoch: index}.AppendText(nil))
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	attested := func() record.Boot {
		t.Helper()
		l := record.Boot{Protection: "emulated", Software: "test", LastRoot: record.Tree{}.Root()}
		said, _, err := a.Start(t.Context(), func(run tpm.Boot) ([]byte, error) {
			l.Resets, l.Restarts, l.Counter = run.Resets, run.Restarts, run.Counter
			return l.Binding(box.ID)
		})
		if err != nil {
			t.Fatal(err)
		}
		l.Evidence = &record.BootEvidence{Quote: record.Statement(said.Quote), Certify: record.Statement(said.Counter)}
		for _, n := range attestation.BootPCRs {
			l.Evidence.PCRs = append(l.Evidence.PCRs, record.PCR{Number: uint8(n), Value: [32]byte(said.PCRs[n])})
		}
		return l
	}

	honest := attested()
	take(box.Append(leaf(honest)))
	says("attested")
	if n := take(box.Record(2)); n != 2 {
		t.Errorf("%d of two records of an attested start are shown", n)
	}
	denied["pcr11:"+hex.EncodeToString(honest.Evidence.PCRs[8].Value[:])] = "a hole"
	says("attested", "firmware-denied")
	clear(denied)
	box.Starts++
	take(box.Record(1))
	says("attested", "start-unproven") // the box signs in a run of which the TPM has said nothing
	take(box.Restart())
	says("claimed", "start-unproven")
	if n := take(box.Record(2)); n != 2 {
		t.Errorf("%d of two records of a claimed start are shown", n)
	}
	take(box.Append(leaf(honest))) // an older start again
	says("start-replayed", "start-forged")
	if n := take(box.Record(2)); n != 0 {
		t.Errorf("%d of two records of a forged start are shown", n)
	}
	if set, _ := filepath.Glob(filepath.Join(dir, "quarantine", "f1", "gw1", "*.start-replayed.json")); len(set) != 1 {
		t.Errorf("set aside: %v", set)
	}
	now := attested() // the clock of the TPM went on
	now.Counter = honest.Counter
	take(box.Append(leaf(now)))
	if n := take(box.Record(2)); n != 2 || b.Starts()[len(b.Starts())-1].Verdict.Forged() {
		t.Errorf("%d of two records after an honest start are shown: %+v", n, b.Starts())
	}
}

// countingSource counts how often the starts are asked for.
type countingSource struct {
	source
	asked int
}

func (s *countingSource) Starts(ctx context.Context, id record.BoxID) ([]starts.Start, error) {
	s.asked++
	return s.source.Starts(ctx, id)
}

// A reader of a log with many starts asks for what is known of them once, and again for a start that is new to it.
func TestStartsAreAskedForOnce(t *testing.T) {
	box := peertest.NewBox(t, "f1/gw1")
	secret, err := record.GenerateReaderKey()
	if err != nil {
		t.Fatal(err)
	}
	box.Granted(&enrolment.Grant{Readers: enrolment.Readers{Network: []string{secret.Public().String()}}})
	key, err := enrolment.FormatKey(&box.Data.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	reg := &registry.Registration{Version: registry.Version, Box: "f1/gw1", DataKey: key, Claim: "emulated", Kinds: registry.AllKinds}
	dir := t.TempDir()
	s := store.New(store.Options{Dir: filepath.Join(dir, "store"), Quarantine: filepath.Join(dir, "quarantine"), Evidence: filepath.Join(dir, "evidence")})
	defer s.Close()
	b, err := s.Box(reg)
	if err != nil {
		t.Fatal(err)
	}
	add := func() {
		t.Helper()
		for range 50 {
			box.Restart()
		}
		var messages []store.Message
		for _, p := range box.Log[b.Size():] {
			data, err := p.AppendBinary(nil)
			if err != nil {
				t.Fatal(err)
			}
			messages = append(messages, store.Message{Data: data, Label: "x"})
		}
		if _, err := b.Add("test", messages); err != nil || len(b.Starts()) == 0 {
			t.Fatalf("%d starts: %v", len(b.Starts()), err)
		}
	}
	add()
	src := &countingSource{source: storeSource{s}}
	rd := newReader(src, reg, nil)
	read := func(want int) {
		t.Helper()
		for _, p := range box.Log {
			rd.asked = rd.asked.Add(time.Hour) // as if no time had passed
			if _, _, err := rd.line(t.Context(), p, true); err != nil {
				t.Fatal(err)
			}
		}
		if src.asked != want {
			t.Errorf("the starts were asked for %d times, want %d", src.asked, want)
		}
	}
	if _, _, err := rd.line(t.Context(), box.Log[0], true); err != nil {
		t.Fatal(err)
	}
	read(1)
	add()
	read(2)
	rd.asked = time.Time{} // a second has passed
	if _, _, err := rd.line(t.Context(), box.Log[0], true); err != nil || src.asked != 3 {
		t.Errorf("asked %d times: %v", src.asked, err)
	}
	if v, ok := rd.stored(t.Context(), 7); !ok || v.Header().Index != 7 {
		t.Errorf("record 7 is taken for %d, %v", v.Header().Index, ok)
	}
	if _, ok := rd.stored(t.Context(), b.Size()); ok {
		t.Error("a record behind the end is there")
	}
}

// A command of this release reads beside a running peer of the one before, which knows of no starts.
func TestAPeerThatKnowsOfNoStarts(t *testing.T) {
	d := facility.Dir(t.TempDir())
	l, err := net.Listen("unix", d.Socket())
	if err != nil {
		t.Skipf("cannot listen on %s: %v", d.Socket(), err) // its name may be too long here
	}
	server := &http.Server{Handler: http.NewServeMux()}
	defer server.Close()
	go server.Serve(l)
	if all, err := (socketSource{d}).Starts(t.Context(), record.BoxID{Facility: "f1", Name: "gw1"}); err != nil || len(all) > 0 {
		t.Errorf("starts %v: %v", all, err)
	}
}
