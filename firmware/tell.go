package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"time"

	"github.com/vitalgate/vitalgate/firmware/notify"
	"github.com/vitalgate/vitalgate/firmware/status"
)

// tell says to whoever started this program how it is, until ctx ends. It says that it is alive only if a pulse has gone through the
// line, and every part has given its state, since it last said so: a part that hangs silences it, and the other side acts.
func tell(ctx context.Context, report func() status.Report, pulse func(context.Context) error, log *slog.Logger) error {
	if err := notify.Send(notify.Ready + "=1"); err != nil {
		log.Warn("nobody hears how this program is", "why", err)
	}
	every := signOfLife()
	tick := time.NewTicker(every)
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
		fields := []string{notify.Status + "=" + r.Verdict, fmt.Sprintf("%s=%d", notify.Kept, kept), fmt.Sprintf("%s=%d", notify.Through, done)}
		beating, enough := context.WithTimeout(ctx, every)
		if err := pulse(beating); err == nil {
			fields = append(fields, notify.Watchdog+"=1")
		} else if ctx.Err() == nil {
			log.Warn("the line does not move: no sign of life is given", "within", every.String())
		}
		enough()
		notify.Send(fields...)
	}
}

// signOfLife is how often: every two seconds, or as often as the service manager's watchdog needs it (sd_watchdog_enabled(3): half
// of what it waits; a third leaves room for a pulse that takes its time).
func signOfLife() time.Duration {
	if us, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64); err == nil && us > 0 {
		return max(min(2*time.Second, time.Duration(us)*time.Microsecond/3), 10*time.Millisecond)
	}
	return 2 * time.Second
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
