package appliance

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// watchdogSeconds is how long the box may be silent before the hardware restarts it.
const watchdogSeconds = 30

// watchdog is the hardware's timer; nil where there is none.
type watchdog struct {
	f   *os.File
	log *slog.Logger
}

// openWatchdog starts it. Without one the box works, but nobody restarts it when it hangs.
func openWatchdog(log *slog.Logger) *watchdog {
	f, err := os.OpenFile("/dev/watchdog0", os.O_WRONLY, 0)
	if err != nil {
		log.Warn("there is no hardware watchdog: a box that hangs stays so until somebody restarts it", "why", err.Error())
		return nil
	}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.WDIOC_SETTIMEOUT, watchdogSeconds); err != nil {
		log.Warn("the watchdog keeps its own time", "why", err.Error())
	}
	return &watchdog{f, log}
}

// fired says whether this start is the watchdog's doing (Linux, Documentation/watchdog/watchdog-api.rst). Not every driver tells.
func (w *watchdog) fired() bool {
	if w == nil {
		return false
	}
	why, err := unix.IoctlGetInt(int(w.f.Fd()), unix.WDIOC_GETBOOTSTATUS)
	return err == nil && why&unix.WDIOF_CARDRESET != 0
}

// feed feeds it as long as alive says so.
func (w *watchdog) feed(ctx context.Context, alive func() bool) {
	if w == nil {
		return
	}
	silent := false
	for tick := time.NewTicker(watchdogSeconds * time.Second / 6); ; {
		if alive() {
			silent = false
			if _, err := w.f.Write([]byte{0}); err != nil {
				w.log.Error("the watchdog does not take its food", "error", err.Error())
			}
		} else if !silent {
			silent = true
			w.log.Error(fmt.Sprintf("the box makes no progress; the watchdog restarts it within %d s", watchdogSeconds))
		}
		select {
		case <-ctx.Done():
			return // without the magic close: a restart that hangs is ended too
		case <-tick.C:
		}
	}
}
