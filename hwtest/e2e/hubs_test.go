package e2e_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/hwtest/hospital"
)

// TestSeveralHubs: a ward whose line to the first hub is cut joins the second, through which the first gets everything too; and when
// both hubs are apart, the second has what the first gets later.
func TestSeveralHubs(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	addr := hospital.FreeAddr()
	h, err := hospital.New(ctx, hospital.Options{Bin: bin, Dir: t.TempDir(), TPM: "software", Hubs: 1, Monitors: monitorAt("bed-1", addr)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Stop() })
	if err := h.LetRead("hub2"); err != nil {
		t.Fatal(err)
	}
	if err := h.Start(ctx); err != nil {
		t.Fatal(err)
	}
	next := 0
	send := func(n int) {
		t.Helper()
		s := &hospital.Sender{Addr: addr, Bed: "bed-1", From: next, To: next + n, Acked: &hospital.Acknowledged{}, Unanswered: 60 * time.Second}
		if err := s.Run(ctx); err != nil {
			t.Fatal(err)
		}
		next += n
	}
	has := func(peer string) {
		t.Helper()
		if err := h.Wait(ctx, 3*time.Minute, fmt.Sprintf("%s has %d messages", peer, next), func() bool {
			seen := map[int]bool{}
			err := h.Tail(ctx, peer, false, func(r hospital.Record) { seen[hospital.NumberOf(r.Bundle)] = true })
			delete(seen, -1)
			return err == nil && len(seen) == next
		}); err != nil {
			t.Fatal(err)
		}
	}
	send(5)
	has("hub")
	has("hub2")
	h.PeerWire.Cut() // of the ward, to the first hub
	send(5)
	has("hub2")
	has("hub")
	apart := h.Peers[1].HubWires[0]
	apart.Cut()
	send(5)
	has("hub2")
	apart.Mend()
	has("hub")
}
