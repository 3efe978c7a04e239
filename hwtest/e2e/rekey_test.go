package e2e_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/hwtest/hospital"
)

// TestABoxGetsANewChip replaces the chip of a box that works: new keys, a new request, the facility's decision, the new grant. The log goes
// on under the same name, and all of it is verified, each part with the key of its time.
func TestABoxGetsANewChip(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	monitor := hospital.FreeAddr()
	h, err := hospital.New(ctx, hospital.Options{Bin: bin, Dir: t.TempDir(), TPM: "software", Monitors: monitorAt("bed-1", monitor)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Stop() })
	if err := h.Start(ctx); err != nil {
		t.Fatal(err)
	}
	acked := &hospital.Acknowledged{}
	sent := func(from, to int) {
		t.Helper()
		if err := (&hospital.Sender{Addr: monitor, Bed: "bed-1", From: from, To: to, Acked: acked, Unanswered: 30 * time.Second}).Run(ctx); err != nil {
			t.Fatal(err)
		}
		if err := h.Wait(ctx, 2*time.Minute, "the readings at the hub", func() bool {
			got := 0
			err := h.Tail(ctx, "hub", false, func(r hospital.Record) {
				if hospital.NumberOf(r.Bundle) >= 0 {
					got++
				}
			})
			return err == nil && got == to
		}); err != nil {
			t.Fatal(err)
		}
	}
	run := func(program string, args ...string) string {
		t.Helper()
		out, err := h.Run(ctx, program, args...)
		if err != nil {
			t.Fatalf("%s %v: %v: %s", program, args, err, out)
		}
		return string(out)
	}
	sent(0, 10)
	if err := h.Gateway.Stop(time.Minute); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(h.ConfigPath())
	chip, old := filepath.Join(dir, "data", "tpm"), filepath.Join(dir, "data", "old-chip")
	if err := os.Rename(chip, old); err != nil {
		t.Fatal(err)
	}
	request, grant := filepath.Join(dir, "new.request.json"), filepath.Join(dir, "new.grant.json")
	run("vitalgate", "request", "-c", h.ConfigPath(), "-o", request)
	rekey := []string{"box", "rekey", request, "-o", grant, "--data", h.Data("hub")}
	for _, p := range h.Peers {
		if p.BoxWire != nil {
			rekey = append(rekey, "--leaf", p.Name+"=tls://"+p.BoxWire.Addr())
		}
	}
	run("vitalpeer", rekey...)
	if err := os.Rename(grant, filepath.Join(dir, "gw1.grant.json")); err != nil {
		t.Fatal(err)
	}
	if err := h.Gateway.Start(); err != nil {
		t.Fatal(err)
	}
	sent(10, 20)
	if out := run("vitalpeer", "box", "registration", hospital.Box, "--data", h.Data("hub")); strings.Count(out, "BEGIN PUBLIC KEY") != 2 {
		t.Errorf("the registration has not the keys of both chips: %s", out)
	}
	run("vitalgate", "fsck", filepath.Join(dir, "data"))
	if err := h.Stop(); err != nil {
		t.Error(err)
	}
	run("vitalpeer", "verify", "--data", h.Data("hub"))
}
