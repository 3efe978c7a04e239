package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/hwtest/hospital"
	"github.com/vitalgate/vitalgate/peer/facility"
	"github.com/vitalgate/vitalgate/peer/peertest"
	"github.com/vitalgate/vitalgate/peer/store"
	"github.com/vitalgate/vitalgate/peer/view"
	"github.com/vitalgate/vitalgate/record"
)

// A block of an older file of a box's log is rotten: the page of the bed goes on with the first record that can be read, and
// with those that come, and the damage is named.
func TestPageGoesOnBeyondDamage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := facility.Dir(filepath.Join(dir, "hub"))
	c := facility.Config{Facility: "f1", Name: "hub"}
	c.Boxes.Listen = hospital.FreeAddr()
	if err := facility.Init(d, c, nil); err != nil {
		t.Fatal(err)
	}
	conf, err := d.Load()
	if err != nil {
		t.Fatal(err)
	}
	box := peertest.NewBox(t, "f1/gw1")
	reg, grant, err := facility.Enrol(d, conf, box.Request(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	box.Granted(grant)
	p := &peer{dir: d, conf: conf, log: slog.New(slog.DiscardHandler), damaged: map[record.BoxID]damage{}}
	p.store = store.New(store.Options{Dir: d.Store(), Quarantine: d.Quarantine(), Evidence: d.Evidence(), SegmentBytes: 8 << 10})
	defer p.store.Close()
	p.view = view.New(view.Options{Title: "test", Record: p.record})
	defer p.view.Close()
	if err := d.Enact(reg); err != nil {
		t.Fatal(err)
	}
	state, err := d.Registry().Load()
	if err != nil {
		t.Fatal(err)
	}
	b, err := p.store.Box(state.Box(box.ID))
	if err != nil {
		t.Fatal(err)
	}
	add := func(records []record.Published) {
		t.Helper()
		messages := make([]store.Message, len(records))
		for i, r := range records {
			if messages[i].Data, err = r.AppendBinary(nil); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := b.Add("test", messages); err != nil {
			t.Fatal(err)
		}
	}
	for range 40 {
		add(box.Record(3))
	}
	unread := func() uint64 { // a message that could not be mapped: the page lists it with its index
		r := box.Readings(record.Reading{Kind: record.KindRaw, Arrived: time.Now(), Content: record.Content{Monitor: "bed-1", Raw: []byte("x"), Reason: "no header"}})
		add(r)
		return r[len(r)-1].Index
	}
	before := unread()
	files, err := filepath.Glob(filepath.Join(store.LogDir(d.Store(), box.ID), "*"))
	if err != nil || len(files) < 5 {
		t.Fatalf("files of the log: %v (%v)", files, err)
	}
	rotten, err := os.ReadFile(files[1])
	if err != nil {
		t.Fatal(err)
	}
	copy(rotten[len(rotten)/2:], make([]byte, 4096)) // a block, so that records are among it
	if err := os.WriteFile(files[1], rotten, 0o600); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.show(ctx, b) }()
	defer func() { cancel(); <-done }()
	shown := func(index uint64) {
		t.Helper()
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			w := httptest.NewRecorder()
			p.view.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://localhost/", nil))
			if strings.Contains(w.Body.String(), fmt.Sprintf("/record/f1/gw1/%d", index)) {
				return
			}
		}
		t.Errorf("the page never shows record %d", index)
	}
	shown(before)
	shown(unread())
	p.mu.Lock()
	defer p.mu.Unlock()
	if got := p.damaged[box.ID]; got.end <= got.first || got.end > before || got.err == nil {
		t.Errorf("the damage is not named: %+v", got)
	}
}
