package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/peer/ingest"
	"github.com/vitalgate/vitalgate/peer/peertest"
	"github.com/vitalgate/vitalgate/peer/registry"
	"github.com/vitalgate/vitalgate/peer/store"
	"github.com/vitalgate/vitalgate/record/enrolment"
)

// Whoever looks at the peer learns that records of a bed stand still, since when, how many and what to do; and nothing of
// it while they flow, or for what passes by itself.
func TestRecordsThatStandStillAreSaid(t *testing.T) {
	box := peertest.NewBox(t, "f1/gw1")
	key, err := enrolment.FormatKey(&box.Data.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	s := store.New(store.Options{Dir: t.TempDir(), Quarantine: t.TempDir(), Evidence: t.TempDir()})
	defer s.Close()
	b, err := s.Box(&registry.Registration{Version: registry.Version, Box: "f1/gw1", DataKey: key, Claim: "software", Kinds: registry.AllKinds, Registered: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	long, short := now.Add(-time.Minute), now.Add(-time.Second)
	for name, c := range map[string]struct {
		at   ingest.State
		code string
		says []string
	}{
		"flows":                      {ingest.State{Cursor: 7, Last: 7}, "", nil},
		"behind for a moment":        {ingest.State{Cursor: 7, Last: 9, Behind: short}, "", nil},
		"behind":                     {ingest.State{Cursor: 7, Last: 9, Behind: long}, "ingest-behind", []string{"2 messages wait", long.UTC().Format(time.RFC3339)}},
		"an error that passes":       {ingest.State{Err: errors.New("no stream"), Since: short}, "", nil},
		"an error that stands":       {ingest.State{Err: errors.New("no stream"), Since: long}, "ingest-behind", []string{"no stream"}},
		"a gap that is being filled": {ingest.State{Cursor: 7, Last: 9, Gap: &ingest.Gap{From: 3, To: 6, Since: short}, Behind: short}, "", nil},
		"a gap":                      {ingest.State{Cursor: 7, Last: 9, Gap: &ingest.Gap{From: 3, To: 6, Since: long}, Behind: long}, "gap", []string{"records 3 to 5", long.UTC().Format(time.RFC3339)}},
	} {
		got := stands(b, c.at, "store", now)
		if c.code == "" {
			if len(got) != 0 {
				t.Errorf("%s: %+v", name, got)
			}
			continue
		}
		if len(got) != 1 || got[0].Code != c.code || got[0].Severity != "critical" || got[0].Remedy == "" {
			t.Errorf("%s: %+v, want %s", name, got, c.code)
			continue
		}
		for _, w := range c.says {
			if !strings.Contains(got[0].Sentence, w) {
				t.Errorf("%s: %q does not say %q", name, got[0].Sentence, w)
			}
		}
	}
}

// The disk of the verified store is full: the peer says so and is not ready, the stream goes on taking what the box sends,
// and when there is room again all of it is stored without anybody's doing.
func TestFullDiskIsSaidAndNothingIsLost(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	box := peertest.NewBox(t, "f1/gw1")
	hub.enrol(box)
	folder := string(hub.dir.Store())
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("vitalpeer-test", folder, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("needs the right to mount a small disk: %v", err)
	}
	t.Cleanup(func() { hub.kill(); syscall.Unmount(folder, syscall.MNT_DETACH) })
	hub.start()
	hub.send(box, box.Record(10))
	hub.has(box)
	filler := filepath.Join(folder, "filler")
	if err := os.WriteFile(filler, make([]byte, 2<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	hub.send(box, box.Record(100))
	ready := func() (ok bool, conditions []condition) {
		a, err := http.Get("http://" + hub.conf.Page.Listen + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		var said struct{ Conditions []condition }
		if err := json.NewDecoder(a.Body).Decode(&said); err != nil {
			t.Fatal(err)
		}
		return a.StatusCode == http.StatusOK, said.Conditions
	}
	hub.until("the peer says that its disk is full", func() bool {
		ok, said := ready()
		return !ok && len(said) == 1 && said[0].Code == "store-full" && said[0].About == "f1/gw1" && strings.Contains(said[0].Remedy, folder)
	})
	hub.send(box, box.Record(100))
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	hub.has(box)
	hub.same(box)
	hub.until("the peer is ready again", func() bool { ok, said := ready(); return ok && len(said) == 0 })
	if n := strings.Count(hub.log.String(), "cannot take in the stream"); n == 0 || n > 5 {
		t.Errorf("the log says %d times that the stream cannot be taken in, want once and again after a while", n)
	}
}
