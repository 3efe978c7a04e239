package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/vitalgate/vitalgate/peer/peertest"
)

// The disk of the streams is full while boxes publish: nobody is told that a record is safe which is not. When there is room again,
// the peer takes records again, without anybody's doing and without a restart.
func TestStreamsGoOnAfterAFullDisk(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	box := peertest.NewBox(t, "f1/gw1")
	hub.enrol(box)
	folder := string(hub.dir.Nats())
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("vitalpeer-test", folder, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("needs the right to mount a small disk: %v", err)
	}
	t.Cleanup(func() { hub.kill(); syscall.Unmount(folder, syscall.MNT_DETACH) })
	hub.start()
	hub.send(box, box.Record(10))
	hub.has(box)
	filler := filepath.Join(folder, "filler")
	if err := os.WriteFile(filler, make([]byte, 8<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	more := box.Record(100)
	nc := hub.connect(box)
	taken := 0 // a few may still fit
	for taken < len(more) {
		data, err := more[taken].AppendBinary(nil) // alone, as the box sends one that nothing follows: not as a batch
		if err != nil {
			t.Fatal(err)
		}
		m := &nats.Msg{Subject: box.ID.Subject(), Data: data, Header: nats.Header{"Nats-Expected-Last-Sequence": {fmt.Sprint(more[taken].Index)}}}
		answer, err := nc.RequestMsg(m, 3*time.Second)
		if err == nil && strings.Contains(string(answer.Data), `"error"`) {
			err = errors.New(string(answer.Data))
		}
		if err != nil {
			t.Logf("with a full disk, after %d: %v", taken, err)
			break
		}
		taken++
	}
	if taken == len(more) {
		t.Fatal("the disk was not full")
	}
	more = more[taken:]
	nc.Close()
	hub.until("the peer says that its streams stand still", func() bool {
		return slices.ContainsFunc(hub.says().Conditions, func(c condition) bool { return c.Code == "streams-stopped" })
	})
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	hub.until("the server starts anew", func() bool { return strings.Contains(hub.log.String(), "starting anew") })
	hub.until("records are taken again", func() bool {
		nc := hub.connect(box)
		defer nc.Close()
		return box.TryPublish(nc, more) == nil
	})
	hub.has(box)
	hub.same(box)
}
