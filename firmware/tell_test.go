package main

import (
	"testing"

	"github.com/vitalgate/vitalgate/firmware/pipeline"
	"github.com/vitalgate/vitalgate/firmware/spool"
	"github.com/vitalgate/vitalgate/firmware/status"
)

// A release is kept by what this says, so it must not say it too early.
func TestAReadingHasComeThroughWhenALeafNodeHasIt(t *testing.T) {
	var p passage
	for i, c := range []struct {
		messages, next, acked uint64
		ready, want           bool
	}{
		{0, 5, 5, true, false}, // a boot record is no reading
		{1, 5, 5, true, false}, // taken, not yet in the log
		{1, 7, 5, true, false}, // in the log
		{1, 7, 6, true, false},
		{1, 7, 7, false, false}, // something is critical
		{2, 8, 7, true, true},
	} {
		r := status.Report{Ready: c.ready, Spool: spool.Stats{Next: c.next, Acked: c.acked}, Monitors: []status.Monitor{{Counters: pipeline.Snapshot{Messages: c.messages}}}}
		if _, got := p.see(r); got != c.want {
			t.Errorf("look %d: %v", i, got)
		}
	}
}
