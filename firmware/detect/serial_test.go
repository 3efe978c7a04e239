//go:build linux

package detect_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/adapters/framing"
	"github.com/vitalgate/vitalgate/adapters/serial/pty"
	"github.com/vitalgate/vitalgate/firmware/detect"
)

// uart plays a monitor on a serial line that is set to baud: who has set his end otherwise reads noise. A pseudo terminal has no rate
// of its own, but both ends see the same setting. (Parity it has not at all: the kernel clears the flag.)
func uart(t *testing.T, p *pty.Pair, baud uint32, data []byte) func(context.Context) {
	noise := bytes.Map(func(r rune) rune { return rune(0x80 | byte(r)*7&0x7f) }, data)
	for i := range noise {
		noise[i] |= 0x80
	}
	return func(ctx context.Context) {
		for ctx.Err() == nil {
			raw, err := p.SyscallConn()
			if err != nil {
				t.Error(err)
				return
			}
			right := false
			raw.Control(func(fd uintptr) {
				s, err := unix.IoctlGetTermios(int(fd), unix.TCGETS)
				right = err == nil && s.Cflag&unix.CBAUD == baud
			})
			if right {
				p.Write(data)
			} else {
				p.Write(noise[:200])
			}
			select {
			case <-ctx.Done():
			case <-time.After(250 * time.Millisecond):
			}
		}
	}
}

func TestTheSettingsOfASerialLineAreFound(t *testing.T) {
	p, err := pty.Open("")
	if err != nil {
		t.Skipf("there is no pseudo terminal here: %v", err)
	}
	defer p.Close()
	raw := framing.Append(nil, adapters.HLLP, goldens(t)["ihe-pcd01"])
	found, err := listenTo(t, detect.Options{At: "serial:" + p.Name, Pause: 10 * time.Millisecond, Messages: 2}, uart(t, p, unix.B4800, raw))
	var b strings.Builder
	found.Report(&b)
	if err != nil || *found.Serial != (detect.Settings{Baud: 4800, Bits: 8, Parity: "none", Stop: 1}) || found.Framing != adapters.HLLP || found.Dialects[0].Dialect.Name != "ihe-pcd01" {
		t.Fatalf("%v\n%s", err, b.String())
	}
	for _, want := range []string{"9600 baud, 8N1: nothing readable", "115200 baud, 8N1: nothing readable", "4800 baud, 8N1: readable", "baud    = 4800", "device  = \"" + p.Name + "\""} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the report has no %q:\n%s", want, b.String())
		}
	}
}

// On a line that is silent no setting is better than another: none is given up.
func TestASilentSerialLine(t *testing.T) {
	p, err := pty.Open("")
	if err != nil {
		t.Skipf("there is no pseudo terminal here: %v", err)
	}
	defer p.Close()
	f, err := detect.Run(t.Context(), detect.Options{At: "serial:" + p.Name, For: time.Second, Messages: 1, Pause: 10 * time.Millisecond})
	var b strings.Builder
	if f.Report(&b); !errors.Is(err, detect.ErrNothing) || len(f.Tried) != 1 || !strings.Contains(b.String(), "check the cable") {
		t.Errorf("%v, tried %v: %s", err, f.Tried, b.String())
	}
}
