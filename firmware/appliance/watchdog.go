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

// watchdog feeds the hardware's timer as long as alive says so. Without one the box works, but nobody restarts it when it hangs.
func watchdog(ctx context.Context, alive func() bool, log *slog.Logger) {
	f, err := os.OpenFile("/dev/watchdog0", os.O_WRONLY, 0)
	if err != nil {
		log.Warn("there is no hardware watchdog: a box that hangs stays so until somebody restarts it", "why", err.Error())
		return
	}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.WDIOC_SETTIMEOUT, watchdogSeconds); err != nil {
		log.Warn("the watchdog keeps its own time", "why", err.Error())
	}
	silent := false
	for tick := time.NewTicker(watchdogSeconds * time.Second / 6); ; {
		if alive() {
			silent = false
			if _, err := f.Write([]byte{0}); err != nil {
				log.Error("the watchdog does not take its food", "error", err.Error())
			}
		} else if !silent {
			silent = true
			log.Error(fmt.Sprintf("the box makes no progress; the watchdog restarts it within %d s", watchdogSeconds))
		}
		select {
		case <-ctx.Done():
			return // without the magic close: a restart that hangs is ended too
		case <-tick.C:
		}
	}
}
