package main

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/peer/facility"
	"github.com/vitalgate/vitalgate/peer/peertest"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/enrolment"
)

// A running peer opens what is sealed for readers that were made, or whose key came, after it began; while it lacks a key, it says so.
func TestNewReadersWhileThePeerRuns(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	box := peertest.NewBox(t, "f1/gw1")
	hub.enrol(box)
	hub.start()
	hub.send(box, box.Record(1))
	hub.has(box)
	lacks := func() bool {
		return slices.Contains(hub.conditionsOf(box), "reader-key-missing")
	}
	page := func() string {
		a, err := http.Get("http://" + hub.conf.Page.Listen + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		b, err := io.ReadAll(a.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	rotate := func() (key string) {
		t.Helper()
		conf, err := hub.dir.Load()
		if err != nil {
			t.Fatal(err)
		}
		set, key, err := facility.Rotate(hub.dir, conf, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		sealed := *box.Grant()
		sealed.Readers = enrolment.Readers{Network: set.Readers.Network}
		box.Granted(&sealed)
		return key
	}

	rotate()
	hub.send(box, box.Readings(record.Reading{Kind: record.KindVitals, Patient: "patient-1", Observed: time.Now(), Arrived: time.Now(),
		Content: record.Content{Monitor: "new-line", Via: "test", Raw: []byte("MSH|"), Bundle: peertest.Bundle(70)}}))
	hub.until("the page shows a record for the new readers", func() bool { return strings.Contains(page(), "new-line") })
	if lacks() || strings.Contains(page(), "sealed to other readers") {
		t.Errorf("with the key at hand: %v\n%s", hub.says().Conditions, page())
	}

	key := rotate()
	away := filepath.Join(t.TempDir(), "key")
	if err := os.Rename(key, away); err != nil {
		t.Fatal(err)
	}
	hub.send(box, box.Record(2))
	hub.until("the missing key is a condition", lacks)
	if !strings.Contains(hub.log.String(), "sealed to readers whose key is not here") {
		t.Error("the log does not say that the key is missing")
	}
	b, err := os.ReadFile(away)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, b, 0o600); err != nil {
		t.Fatal(err)
	}
	hub.send(box, box.Record(1))
	hub.until("the key is taken up", func() bool { return !lacks() })
}
