package detect

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/adapters/serial"
)

// Settings are those of a serial line.
type Settings struct {
	Baud, Bits int
	Parity     string
	Stop       int
}

func (s Settings) String() string {
	return fmt.Sprintf("%d baud, %d%c%d", s.Baud, s.Bits, s.Parity[0]&^0x20, s.Stop)
}

// usual are the settings to try, the most usual of monitors first.
func usual() (all []Settings) {
	for _, form := range []Settings{{0, 8, "none", 1}, {0, 8, "even", 1}, {0, 7, "even", 1}, {0, 8, "odd", 1}, {0, 7, "odd", 1}} {
		for _, baud := range []int{9600, 19200, 38400, 57600, 115200, 4800, 2400, 1200} {
			form.Baud = baud
			all = append(all, form)
		}
	}
	return all
}

// sweep tries settings until the line is readable. With wrong ones bytes come all the same, and are no message: silence says
// nothing, so a setting is left only when bytes came and what they were is known.
func (f *Found) sweep(ctx context.Context, device string) error {
	device, given, err := parseSettings(device)
	if err != nil {
		return err
	}
	trials := usual()
	if given != nil {
		trials = []Settings{*given}
	}
	for i := 0; ctx.Err() == nil; i++ {
		s := trials[i%len(trials)]
		f.Serial, f.Framing = &s, ""
		if i < len(trials) {
			f.Tried = append(f.Tried, s)
		}
		a, err := serial.New(serial.Config{Monitor: "detect", Device: device, Baud: s.Baud, DataBits: s.Bits, Parity: s.Parity, StopBits: s.Stop,
			Framing: adapters.Unframed, IdleEnd: f.Pause}, quiet())
		if err != nil {
			return err
		}
		var last uint64
		var first, latest time.Time // bytes
		messages := f.Messages
		readable, err := f.hear(ctx, a, func(st adapters.Status) bool {
			if st.Bytes != last {
				last, latest = st.Bytes, time.Now()
				if first.IsZero() {
					first = latest
				}
			}
			return st.Bytes > 0 && f.Messages == messages && (time.Since(latest) > 4*f.Pause || time.Since(first) > f.judged(s))
		})
		if err != nil {
			return err
		}
		if readable {
			f.Tried = f.Tried[:min(i+1, len(f.Tried))]
			return nil
		}
	}
	return nil
}

// judged is how long a line that does not pause is read with settings before they are given up: long enough for any message of
// a monitor to have come whole.
func (f *Found) judged(s Settings) time.Duration {
	const message, bits = 8 << 10, 10 // bytes; bits a byte
	return 6*f.Pause + time.Duration(message*bits/s.Baud)*time.Second
}

// parseSettings takes the settings that a person gave behind the device, nil if none.
func parseSettings(s string) (device string, given *Settings, err error) {
	device, query, some := strings.Cut(s, "?")
	if !some {
		return device, nil, nil
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return "", nil, err
	}
	given = &Settings{9600, 8, "none", 1}
	for key, v := range values {
		n, bad := strconv.Atoi(v[0])
		switch key {
		case "baud":
			given.Baud = n
		case "bits":
			given.Bits = n
		case "stop":
			given.Stop = n
		case "parity":
			given.Parity, bad = v[0], nil
		default:
			return "", nil, fmt.Errorf("there is no setting %q: baud, bits, parity and stop are", key)
		}
		if bad != nil {
			return "", nil, fmt.Errorf("%s=%q must be a number", key, v[0])
		}
	}
	return device, given, nil
}
