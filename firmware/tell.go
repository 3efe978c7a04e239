package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/vitalgate/vitalgate/firmware/notify"
	"github.com/vitalgate/vitalgate/firmware/status"
)

// tell says to whoever started this program how it is, until ctx ends. Each time it asks every part for its state, so a part that
// hangs silences it, and the other side acts.
func tell(ctx context.Context, report func() status.Report, log *slog.Logger) error {
	if err := notify.Send(notify.Ready + "=1"); err != nil {
		log.Warn("nobody hears how this program is", "why", err)
	}
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	var through passage
	for {
		select {
		case <-ctx.Done():
			notify.Send(notify.Stopping + "=1")
			return nil
		case <-tick.C:
		}
		r := report()
		kept, ok := through.see(r)
		done := 0
		if ok {
			done = 1
		}
		notify.Send(notify.Watchdog+"=1", notify.Status+"="+r.Verdict, fmt.Sprintf("%s=%d", notify.Kept, kept), fmt.Sprintf("%s=%d", notify.Through, done))
	}
}

// passage finds out whether a reading of this run has come all the way through: kept, signed, and acknowledged by a leaf node.
type passage struct {
	taken  bool   // a message was there at the look before
	behind uint64 // an index behind the first reading of this run; 0 while there was none
}

// see is given the state every few seconds. A message that was counted at one look is in the log at the next, or something is
// critical: then it is not through.
func (p *passage) see(r status.Report) (kept uint64, through bool) {
	for _, m := range r.Monitors {
		kept += m.Counters.Messages
	}
	if p.taken && p.behind == 0 {
		p.behind = r.Spool.Next
	}
	p.taken = kept > 0
	return kept, r.Ready && p.behind > 0 && r.Spool.Acked >= p.behind
}
