package main

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/firmware/mdns"
	"github.com/vitalgate/vitalgate/provision/dnssd/dnssdtest"
)

// A box is found by the name on its label, with the address of its link, and the search ends as soon as it is.
func TestABoxIsFoundByItsLabel(t *testing.T) {
	dnssdtest.Loopback(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	box := mdns.Responder{Listen: "127.0.0.1:8476", Log: slog.New(slog.DiscardHandler), Box: func() (string, bool) { return aLabel().Name(), false }}
	go func() { ended <- box.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	want := found{aLabel().Name(), "127.0.0.1:8476", false}
	all, err := look(t.Context(), 2*time.Minute, func(f found) bool { return f == want })
	if err != nil || !slices.Contains(all, want) {
		t.Errorf("found %+v %v", all, err)
	}
}
