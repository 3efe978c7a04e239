//go:build linux

package serial_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/adapters/adapterstest"
	"github.com/vitalgate/vitalgate/adapters/serial"
	"github.com/vitalgate/vitalgate/adapters/serial/pty"
)

func newAdapter(t *testing.T, cfg serial.Config) adapters.Adapter {
	t.Helper()
	cfg.Monitor = "bed-2"
	a, err := serial.New(cfg, adapterstest.Log(t))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func plug(t *testing.T, device string) *pty.Pair {
	t.Helper()
	p, err := pty.Open(device)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// The line is a pseudo terminal; unplugging it is a hang-up, and plugging it in again gives another device under the same name,
// as with a USB adapter.
func TestSerial(t *testing.T) {
	adapterstest.Run(t, func(t *testing.T) adapterstest.Rig {
		device := filepath.Join(t.TempDir(), "ttyUSB0")
		return adapterstest.Rig{
			Adapter: newAdapter(t, serial.Config{Device: device}), Via: "serial " + device,
			Plug: func(t *testing.T) io.ReadWriteCloser { return plug(t, device) },
		}
	})
}

// Every byte value must come through, the 11 and 13 of XON/XOFF and the FF of PARMRK among them, in both directions.
func TestAllBytes(t *testing.T) {
	var all []byte
	for b := range 256 {
		if b != 0x0B && b != 0x1C {
			all = append(all, byte(b))
		}
	}
	all = append(all, 0xFF, 0xFF, 0xFF, 0, 0xFF, 'x')
	device := filepath.Join(t.TempDir(), "ttyUSB0")
	m := plug(t, device)
	r := adapterstest.Start(t, newAdapter(t, serial.Config{Device: device}))
	r.Await(t, "open", func(s adapters.Status) bool { return s.Connections == 1 })
	m.Write(adapterstest.MLLP(string(all)))
	f := r.Next(t)
	if !bytes.Equal(f.Data, all) || f.Notes != nil {
		t.Fatalf("it came as %q %v", f.Data, f.Notes)
	}
	f.Reply(all)
	got := make([]byte, len(all)+3)
	if _, err := io.ReadFull(m, got); err != nil || !bytes.Equal(got, adapterstest.MLLP(string(all))) {
		t.Fatalf("the monitor got %q, %v", got, err)
	}
}

func TestUnframed(t *testing.T) {
	device := filepath.Join(t.TempDir(), "ttyUSB0")
	m := plug(t, device)
	r := adapterstest.Start(t, newAdapter(t, serial.Config{Device: device, Framing: adapters.Unframed, IdleEnd: 50 * time.Millisecond}))
	io.WriteString(m, adapterstest.Message(1)+adapterstest.Message(2))
	for i, notes := range [][]string{nil, {adapters.NoteIdleEnded}} {
		f := r.Next(t)
		if string(f.Data) != adapterstest.Message(i+1) || !slices.Equal(f.Notes, notes) {
			t.Fatalf("it came as %q %v", f.Data, f.Notes)
		}
		f.Reply(nil)
	}
}

func TestHLLP(t *testing.T) {
	device := filepath.Join(t.TempDir(), "ttyUSB0")
	m := plug(t, device)
	r := adapterstest.Start(t, newAdapter(t, serial.Config{Device: device, Framing: adapters.HLLP}))
	io.WriteString(m, "\vD21\rB00006004\x1c\r\vD21\rB00006003\x1c\r")
	f := r.Next(t)
	if string(f.Data) != "B" {
		t.Fatalf("it came as %q", f.Data)
	}
	f.Reply([]byte("1"))
	want := "\vN23\rX00006017\x1c\r" + "\vD23\r100006114\x1c\r"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(m, got); err != nil || string(got) != want {
		t.Fatalf("the monitor got %q, %v, want %q", got, err, want)
	}
}

// A device that is not there is waited for, with the remedy on the status.
func TestMissingDevice(t *testing.T) {
	device := filepath.Join(t.TempDir(), "ttyUSB0")
	r := adapterstest.Start(t, newAdapter(t, serial.Config{Device: device}))
	s := r.Await(t, "missing", func(s adapters.Status) bool { return strings.Contains(s.Detail, "no such device") })
	if s.State != adapters.StateFailed || !strings.Contains(s.Detail, device) || s.Kind != "serial" || s.Line == nil {
		t.Fatalf("status: %+v", s)
	}
	m := plug(t, device)
	m.Write(adapterstest.MLLP(adapterstest.Message(1)))
	r.Next(t).Reply(nil)
}

// Two monitors of one configuration cannot share a device, and the second one says why.
func TestDeviceInUse(t *testing.T) {
	device := filepath.Join(t.TempDir(), "ttyUSB0")
	plug(t, device)
	first := adapterstest.Start(t, newAdapter(t, serial.Config{Device: device}))
	first.Await(t, "open", func(s adapters.Status) bool { return s.Connections == 1 })
	second := adapterstest.Start(t, newAdapter(t, serial.Config{Device: device}))
	s := second.Await(t, "in use", func(s adapters.Status) bool { return strings.Contains(s.Detail, "has it") })
	if s.State != adapters.StateFailed {
		t.Fatalf("status: %+v", s)
	}
	first.Stop()
	second.Await(t, "open once the first has gone", func(s adapters.Status) bool { return s.Connections == 1 })
}

func TestNoSerialDevice(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := adapterstest.Start(t, newAdapter(t, serial.Config{Device: file}))
	r.Await(t, "no device", func(s adapters.Status) bool { return strings.Contains(s.Detail, "no serial device") })
}

// A pseudo terminal has no error counters and no modem lines: the status says so instead of showing zeros as if counted.
func TestStatusWithoutCounters(t *testing.T) {
	device := filepath.Join(t.TempDir(), "ttyUSB0")
	m := plug(t, device)
	r := adapterstest.Start(t, newAdapter(t, serial.Config{Device: device, Flow: "rtscts"}))
	m.Write(adapterstest.MLLP(adapterstest.Message(1)))
	r.Next(t).Reply(nil)
	if s := r.Status(); s.Line == nil || s.Line.Counted || s.Line.Modem {
		t.Fatalf("line status: %+v", s.Line)
	}
}

// The settings reach the device, and it is taken for this program alone.
func TestSettings(t *testing.T) {
	for _, c := range []struct {
		cfg                serial.Config
		cflag, iflag       uint32
		notCflag, notIflag uint32
	}{
		{serial.Config{}, unix.CS8, unix.PARMRK | unix.INPCK, unix.PARENB | unix.CSTOPB | unix.CRTSCTS, unix.IGNPAR | unix.IXON | unix.IXOFF | unix.ICRNL},
		{serial.Config{Baud: 19200, DataBits: 8, StopBits: 2, Flow: "rtscts"}, unix.CS8 | unix.CSTOPB | unix.CRTSCTS, 0, 0, 0},
		{serial.Config{Flow: "xonxoff"}, 0, unix.IXON | unix.IXOFF, unix.CRTSCTS, 0},
	} {
		c.cfg.Device = filepath.Join(t.TempDir(), "ttyUSB0")
		m := plug(t, c.cfg.Device)
		r := adapterstest.Start(t, newAdapter(t, c.cfg))
		r.Await(t, "open", func(s adapters.Status) bool { return s.Connections == 1 })
		got, err := unix.IoctlGetTermios(int(m.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		if got.Cflag&c.cflag != c.cflag || got.Iflag&c.iflag != c.iflag || got.Cflag&c.notCflag != 0 || got.Iflag&c.notIflag != 0 {
			t.Errorf("%+v: cflag %o, iflag %o", c.cfg, got.Cflag, got.Iflag)
		}
		if got.Cc[unix.VMIN] != 0 || got.Cc[unix.VTIME] == 0 {
			t.Errorf("%+v: a read of a silent line does not end", c.cfg)
		}
		r.Stop()
	}
}

func TestNewRefuses(t *testing.T) {
	for _, c := range []struct {
		cfg  serial.Config
		want string
	}{
		{serial.Config{}, "device"},
		{serial.Config{Device: "x", Baud: 9601}, "9601"},
		{serial.Config{Device: "x", DataBits: 9}, "9"},
		{serial.Config{Device: "x", Parity: "mark"}, "mark"},
		{serial.Config{Device: "x", StopBits: 3}, "3"},
		{serial.Config{Device: "x", Flow: "dtr"}, "dtr"},
		{serial.Config{Device: "x", Framing: "astm"}, "astm"},
	} {
		c.cfg.Monitor = "bed-9"
		if _, err := serial.New(c.cfg, adapterstest.Log(t)); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "bed-9") {
			t.Errorf("%+v: %v, want it to say %s", c.cfg, err, c.want)
		}
	}
}

// What a line can do to the bytes on it never gives a wrong value that looks like a good one.
func TestHostileStreams(t *testing.T) {
	adapterstest.RunHostile(t, func(t *testing.T, f adapters.Framing) adapterstest.Rig {
		device := filepath.Join(t.TempDir(), "ttyUSB0")
		return adapterstest.Rig{
			Adapter: newAdapter(t, serial.Config{Device: device, Framing: f, IdleEnd: time.Hour}),
			Plug:    func(t *testing.T) io.ReadWriteCloser { return plug(t, device) },
		}
	})
}
