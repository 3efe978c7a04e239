package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vitalgate/vitalgate/peer/peertest"
	"github.com/vitalgate/vitalgate/peer/store"
)

// A block of a running peer's store rots. The peer finds it by itself, says so, and gets the records back from another peer.
func TestDamagedStoreIsMendedFromAnotherPeer(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	ward := hub.ward("ward1")
	box := peertest.NewBox(t, "f1/gw1")
	hub.enrol(box, ward)
	hub.flags = []string{"--scrub", "300ms"}
	hub.start()
	ward.start()
	for range 10 {
		ward.send(box, box.Record(20))
	}
	hub.has(box)
	ward.has(box)
	files, err := filepath.Glob(filepath.Join(store.LogDir(hub.dir.Store(), box.ID), "*.log"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	f, err := os.OpenFile(files[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 4096), info.Size()/2); err != nil {
		t.Fatal(err)
	}
	hub.until("the damage is found", func() bool { return strings.Contains(hub.log.String(), "records are missing") })
	hub.until("it is mended", func() bool { return strings.Contains(hub.log.String(), "missing records have been filled in") })
	hub.until("the peer is well", func() bool { return len(hub.says().Conditions) == 0 })
	ward.send(box, box.Record(20))
	hub.has(box)
	hub.same(box)
	program(t, "verify", "--data", string(hub.dir))
	hub.stop()
	program(t, "fsck", "--data", string(hub.dir))
}

// Records that nobody has do not hold up those behind them for ever: the peer goes on without them and says which they are. When
// another peer comes that has them, they are filled in.
func TestMissingRecordsAreLeftOutAndFilledInLater(t *testing.T) {
	t.Parallel()
	link := newCable(t)
	hub := newHub(t, "tls://"+link.Addr().String())
	link.leadTo(hub.conf.Peers.Listen)
	link.set(true)
	ward := hub.ward("ward1")
	box := peertest.NewBox(t, "f1/gw1")
	hub.enrol(box, ward)
	hub.flags = []string{"--patience", "1s"}
	hub.start()
	ward.start()
	first, lost, later := box.Record(50), box.Record(30), box.Record(50)
	ward.send(box, append(append(first[:len(first):len(first)], lost...), later...))
	hub.send(box, append(first[:len(first):len(first)], later...))
	hub.has(box) // its size: what is behind the gap is there
	hub.until("it says what is missing", func() bool {
		for _, c := range hub.says().Conditions {
			if c.Code == "records-missing" && strings.Contains(c.Sentence, "Records 5") {
				return true
			}
		}
		return false
	})
	ward.until("the ward says that it has no hub", func() bool {
		return slices.ContainsFunc(ward.says().Conditions, func(c condition) bool { return c.Code == "hub-away" })
	})
	if out, err := tryProgram("verify", "--data", string(hub.dir)); err == nil || !strings.Contains(out+err.Error(), "are missing here") {
		t.Errorf("verify says %v: %s", err, out)
	}
	link.set(false)
	hub.until("it is filled in", func() bool { return len(hub.says().Conditions) == 0 })
	hub.same(box)
	ward.same(box)
	program(t, "verify", "--data", string(hub.dir))
	hub.stop()
	program(t, "fsck", "--data", string(hub.dir))
}

// A peer that never scrubs is no peer that scrubs all the time.
func TestNoScrub(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	s := store.New(store.Options{Dir: filepath.Join(dir, "store"), Quarantine: filepath.Join(dir, "quarantine"), Evidence: filepath.Join(dir, "evidence")})
	defer s.Close()
	if err := (&peer{store: s}).scrub(over, 0); err != nil {
		t.Errorf("it began: %v", err)
	}
}
