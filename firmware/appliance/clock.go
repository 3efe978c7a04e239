package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/beevik/ntp"
	"golang.org/x/sys/unix"

	"github.com/vitalgate/vitalgate/record/durable"
)

// chipClock is the TPM's clock: it rises while the chip has power and no software sets it back.
type chipClock struct {
	Resets uint32 `json:"resets"`
	MS     uint64 `json:"ms"`
}

// clock keeps the time of the box. A box without a good RTC must not go back behind what it knows: the time it was last on, plus the
// time the TPM has counted since.
type clock struct {
	path string
	chip func(context.Context) (chipClock, error)
	log  *slog.Logger
}

// mark is what is remembered.
type mark struct {
	Wall time.Time `json:"wall"`
	Chip chipClock `json:"chip"`
}

// floor is the earliest time it can be now.
func (m mark) floor(now chipClock) time.Time {
	if now.MS < m.Chip.MS { // it may lose some at an unclean stop (TPM 2.0 Library, part 1 §36.3)
		return m.Wall
	}
	return m.Wall.Add(time.Duration(now.MS-m.Chip.MS) * time.Millisecond)
}

// begin raises the time to the floor. The kernel has set it from the RTC already.
func (c *clock) begin(ctx context.Context) {
	m, err := c.read()
	if err != nil {
		c.log.Warn("the last time is not known", "why", err.Error())
		return
	}
	now, err := c.chip(ctx)
	if err != nil {
		c.log.Warn("the TPM does not tell its clock", "why", err.Error())
	}
	if floor := m.floor(now); time.Now().Before(floor) {
		c.log.Warn("the clock was behind what is known and is put forward", "from", time.Now().UTC(), "to", floor.UTC())
		if err := setTime(floor); err != nil {
			c.log.Error("the clock cannot be set", "error", err.Error())
		}
	}
}

func (c *clock) read() (m mark, err error) {
	b, err := os.ReadFile(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return m, err
	}
	return m, json.Unmarshal(b, &m)
}

// remember notes the time of now.
func (c *clock) remember(ctx context.Context) {
	now, err := c.chip(ctx)
	if err != nil {
		return
	}
	b, err := json.Marshal(mark{time.Now(), now})
	if err == nil {
		err = durable.WriteFile(c.path, b)
	}
	if err != nil {
		c.log.Warn("the time cannot be remembered", "why", err.Error())
	}
}

const (
	askEvery    = 15 * time.Minute
	askAgain    = 20 * time.Second // while no server has answered
	stepAtLeast = 250 * time.Millisecond
)

// run asks the time servers (NTP, RFC 5905) until ctx ends. A small difference is slewed by the kernel, a large one is set: readings
// carry their arrival time, and the order of the log does not depend on it.
func (c *clock) run(ctx context.Context, servers func() []string) {
	good := false
	for {
		wait := askAgain
		for _, s := range servers() {
			r, err := ntp.QueryWithOptions(s, ntp.QueryOptions{Timeout: 3 * time.Second})
			if err == nil {
				err = r.Validate()
			}
			if err != nil {
				c.log.Warn("a time server does not answer", "server", s, "why", err.Error())
				continue
			}
			if err := adjust(r.ClockOffset); err != nil {
				c.log.Error("the clock cannot be set", "error", err.Error())
				continue
			}
			if !good || r.ClockOffset.Abs() >= stepAtLeast {
				c.log.Info("the time is that of a server", "server", s, "offset", r.ClockOffset.String())
			}
			good, wait = true, askEvery
			break
		}
		c.remember(ctx)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// adjust also tells the kernel that the time is good, so that it keeps the RTC (Linux, drivers/rtc, CONFIG_RTC_SYSTOHC).
func adjust(offset time.Duration) error {
	if offset.Abs() >= stepAtLeast {
		if err := setTime(time.Now().Add(offset)); err != nil {
			return err
		}
		offset = 0
	}
	t := unix.Timex{Modes: unix.ADJ_OFFSET | unix.ADJ_STATUS | unix.ADJ_MAXERROR | unix.ADJ_ESTERROR | unix.ADJ_NANO, Status: unix.STA_PLL}
	put(&t.Offset, offset.Nanoseconds())
	_, err := unix.Adjtimex(&t)
	return err
}

func setTime(t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	return unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
}

// put sets a field whose size depends on the machine.
func put[T int32 | int64](field *T, v int64) { *field = T(v) }
