package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vitalgate/vitalgate/peer/facility"
	"github.com/vitalgate/vitalgate/peer/peertest"
)

// A peer is backed up while it works, its machine burns, and the backup is put on another one: it is the same peer, it verifies, and
// what came after the backup it gets from the others. So it does when the same backup is put back a second time.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	ward := hub.ward("ward1")
	box := peertest.NewBox(t, "f1/gw1")
	hub.enrol(box, ward)
	hub.start()
	ward.start()
	ward.send(box, box.Record(300))
	ward.has(box)
	backup := filepath.Join(t.TempDir(), "backup")
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		ward.send(box, box.Record(300))
	}()
	if out := program(t, "backup", "--data", string(ward.dir), "-o", backup); !strings.Contains(out, "f1/gw1: records 0 to") {
		t.Errorf("backup says %s", out)
	}
	<-sent
	for _, left := range []string{facility.Dir(backup).Nats(), facility.Dir(backup).Witness(), facility.Dir(backup).CosignerKey()} {
		if _, err := os.Stat(left); err == nil {
			t.Errorf("%s is in the backup", left)
		}
	}
	cosigner := cosignerKey(t, ward)
	// A backup that an earlier version made holds what was cosigned: it is not put back either.
	if err := os.WriteFile(facility.Dir(backup).CosignerKey(), cosigner, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := tryProgram("backup", "--data", string(ward.dir), "-o", backup); err == nil {
		t.Errorf("a backup is overwritten: %s", out)
	}
	inside := filepath.Join(string(ward.dir), "store", "backup")
	if out, err := tryProgram("backup", "--data", string(ward.dir), "-o", inside); err == nil || !strings.Contains(err.Error(), "is inside") {
		t.Errorf("a backup inside what it backs up: %s %v", out, err)
	}
	if out, err := tryProgram("restore", backup, "--data", string(ward.dir)); err == nil {
		t.Errorf("a peer is overwritten: %s", out)
	}
	hub.has(box)
	for range 2 {
		ward.kill()
		if err := os.RemoveAll(string(ward.dir)); err != nil {
			t.Fatal(err)
		}
		program(t, "restore", backup, "--data", string(ward.dir))
		program(t, "verify", "--data", string(ward.dir))
		ward.start()
		if again := cosignerKey(t, ward); bytes.Equal(again, cosigner) {
			t.Error("the restored peer cosigns with the key of the one that was backed up")
		}
		ward.until("the restored peer cosigns too", func() bool { return cosignedBy(ward, 2) })
		ward.has(box)
		ward.same(box)
		hub.same(box)
	}
}

func cosignerKey(t *testing.T, s *site) []byte {
	t.Helper()
	b, err := os.ReadFile(s.dir.CosignerKey())
	if err != nil {
		t.Fatal(err)
	}
	return b
}
