package hwtest_test

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vitalgate/vitalgate/adapters/serial/pty"
	"github.com/vitalgate/vitalgate/hwtest"
	"github.com/vitalgate/vitalgate/provision/protocol"
	"github.com/vitalgate/vitalgate/tpm"
)

// plugged is a pseudo terminal with a plug: what is sent comes back, as spoil makes it.
func plugged(t *testing.T, spoil func([]byte) []byte) string {
	t.Helper()
	p, err := pty.Open("")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 4096)
		for {
			n, err := p.Read(b)
			if err != nil {
				return
			}
			if _, err := p.Write(spoil(b[:n])); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { p.Close(); <-done })
	return p.Name
}

func of(r protocol.Report, test, subject string) (found protocol.Result) {
	for _, x := range r.Results {
		if x.Test == test && strings.Contains(x.Subject, subject) {
			return x
		}
	}
	return protocol.Result{Sentence: "there is no such result"}
}

// TestSerialLines has a line with a plug, one with a broken plug, one without, one at which somebody speaks, and none at all.
func TestSerialLines(t *testing.T) {
	good := plugged(t, func(b []byte) []byte { return b })
	broken := plugged(t, func(b []byte) []byte {
		for i := range b {
			if b[i] == 0xF7 { // which the probe has not
				b[i] = 0xF6
			}
		}
		return b
	})
	open, err := pty.Open("")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	speaks, err := pty.Open("")
	if err != nil {
		t.Fatal(err)
	}
	defer speaks.Close()
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		for ctx.Err() == nil {
			io.WriteString(speaks, "MSH|")
		}
	}()
	defer stop()
	r := hwtest.Run(t.Context(), hwtest.Options{Only: []string{"serial"}, Factory: true, Dir: t.TempDir(), Lines: []string{good, broken, open.Name, speaks.Name, "/dev/ttyNONE9"}})
	for _, c := range []struct {
		line     string
		outcome  protocol.Outcome
		sentence string
	}{
		{good, protocol.Pass, "came back, by a plug"},
		{broken, protocol.Fail, "not as they were sent"},
		{open.Name, protocol.NotTested, "there is no loopback"},
		{speaks.Name, protocol.NotTested, "Somebody speaks"},
		{"/dev/ttyNONE9", protocol.Fail, "cannot be opened"},
	} {
		if x := of(r, "serial", c.line); x.Outcome != c.outcome || !strings.Contains(x.Sentence, c.sentence) || x.Outcome != protocol.Pass && x.Remedy == "" {
			t.Errorf("%s: %+v", c.line, x)
		}
	}
	if x := of(r, "serial", good); x.Figures["settings"] < 9 {
		t.Errorf("with %v settings", x.Figures["settings"])
	}
	if r.Good || !strings.HasPrefix(r.Verdict, "Not good: ") || !strings.Contains(r.Verdict, broken) {
		t.Errorf("the verdict is %q", r.Verdict)
	}
}

// TestTheChip tests a swtpm, and what stands for none.
func TestTheChip(t *testing.T) {
	r := hwtest.Run(t.Context(), hwtest.Options{Only: []string{"tpm"}, Dir: t.TempDir(), TPMError: os.ErrNotExist})
	if x := of(r, "tpm", ""); x.Outcome != protocol.Fail || x.Remedy == "" {
		t.Errorf("no TPM: %+v", x)
	}
	r = hwtest.Run(t.Context(), hwtest.Options{Only: []string{"tpm"}, Dir: t.TempDir(), TPMError: hwtest.ErrInUse})
	if x := of(r, "tpm", ""); x.Outcome != protocol.NotTested {
		t.Errorf("a TPM in use: %+v", x)
	}
	if _, err := exec.LookPath("swtpm"); err != nil {
		t.Skip("swtpm is missing")
	}
	chip, err := tpm.Open(t.Context(), tpm.Options{Source: "swtpm", Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer chip.Close()
	r = hwtest.Run(t.Context(), hwtest.Options{Only: []string{"tpm"}, Dir: t.TempDir(), TPM: chip})
	for _, subject := range []string{"self-test", "signing", "endorsement", "counter", "clock"} {
		if x := of(r, "tpm", subject); x.Outcome != protocol.Pass {
			t.Errorf("%s: %+v", subject, x)
		}
	}
	if r.Held != chip.Label() {
		t.Errorf("held by %q", r.Held)
	}
	text, err := r.Sign(chip.Data())
	if err != nil {
		t.Fatal(err)
	}
	if back, err := protocol.OpenReport(text, nil); err != nil || back.Verdict != r.Verdict || len(back.Results) != len(r.Results) {
		t.Errorf("%+v %v", back, err)
	}
}

// TestThisMachine makes the checks that need nothing but a machine.
func TestThisMachine(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- hwtest.Sink(ctx, lis) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	dir := t.TempDir()
	r := hwtest.Run(t.Context(), hwtest.Options{Dir: dir, TPMError: hwtest.ErrInUse, Peer: lis.Addr().String(), Software: "v1"})
	for test, subject := range map[string]string{"storage": "fsync", "memory": "", "network": "throughput"} {
		if x := of(r, test, subject); x.Outcome != protocol.Pass || len(x.Figures) == 0 {
			t.Errorf("%s %s: %+v", test, subject, x)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("the test left %v", left)
	}
	seen := map[string]bool{}
	for _, x := range r.Results {
		seen[x.Test] = true
		if x.Sentence == "" || x.Outcome == protocol.Fail && x.Remedy == "" {
			t.Errorf("without a sentence or a remedy: %+v", x)
		}
	}
	for _, test := range hwtest.Tests() {
		if !seen[test] {
			t.Errorf("the report is silent about %s", test)
		}
	}
}

// TestBoard reads a board whose files are as Linux writes them: hot, worn, half duplex, with a lamp.
func TestBoard(t *testing.T) {
	root := t.TempDir()
	for path, text := range map[string]string{
		"sys/class/thermal/thermal_zone0/temp": "91000\n", "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
		"sys/class/hwmon/hwmon0/temp1_input": "41500\n", "sys/class/hwmon/hwmon0/name": "nvme\n",
		"sys/class/leds/status/brightness": "0\n", "sys/class/leds/status/max_brightness": "1\n", "sys/class/leds/status/trigger": "none [heartbeat] timer\n",
		"sys/class/net/eth0/device/x": "", "sys/class/net/eth0/carrier": "1\n", "sys/class/net/eth0/speed": "100\n", "sys/class/net/eth0/duplex": "half\n",
		"sys/class/net/eth1/device/x": "", "sys/class/net/eth1/carrier": "0\n", "sys/class/net/eth1/flags": "0x1003\n",
		"sys/class/net/eth2/device/x": "", "sys/class/net/eth2/flags": "0x1002\n",
		"sys/devices/system/edac/mc/mc0/ue_count": "3\n",
		"proc/meminfo":                 "MemTotal:         496328 kB\nMemAvailable:     200000 kB\n",
		"sys/class/tty/console/active": "tty0 ttyS0\n",
		"proc/device-tree/model":       "Raspberry Pi Compute Module 4 Rev 1.1\x00",
	} {
		p := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := hwtest.Run(t.Context(), hwtest.Options{Root: root, Dir: t.TempDir(), Lines: []string{"/dev/ttyS0"}})
	for _, c := range []struct {
		test, subject string
		outcome       protocol.Outcome
	}{{"temperature", "cpu-thermal", protocol.Fail}, {"temperature", "nvme", protocol.Pass}, {"led", "status", protocol.Pass}, {"network", "eth0", protocol.Fail},
		{"network", "eth1", protocol.Fail}, {"network", "eth2", protocol.NotTested}, {"memory", "", protocol.Fail}, {"rtc", "", protocol.NotTested}, {"watchdog", "", protocol.NotTested}, {"gpio", "", protocol.NotTested},
		{"serial", "/dev/ttyS0", protocol.NotTested}} {
		if x := of(r, c.test, c.subject); x.Outcome != c.outcome {
			t.Errorf("%s %s: %+v", c.test, c.subject, x)
		}
	}
	if r.Machine != "Raspberry Pi Compute Module 4 Rev 1.1" {
		t.Errorf("the machine is %q", r.Machine)
	}
	if b, _ := os.ReadFile(filepath.Join(root, "sys/class/leds/status/trigger")); string(b) != "heartbeat" {
		t.Errorf("the lamp's trigger is left as %q", b)
	}
}

// TestTheWatchdogFired is the run after the restart.
func TestTheWatchdogFired(t *testing.T) {
	for boot, want := range map[string]protocol.Outcome{"before": protocol.Pass, "now": protocol.Fail} {
		dir, root := t.TempDir(), t.TempDir()
		for path, text := range map[string]string{filepath.Join(dir, "watchdog-test"): boot, filepath.Join(root, "proc/sys/kernel/random/boot_id"): "now\n"} {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if x := of(hwtest.Run(t.Context(), hwtest.Options{Only: []string{"watchdog"}, Dir: dir, Root: root}), "watchdog", "fires"); x.Outcome != want {
			t.Errorf("marked %s: %+v", boot, x)
		}
		if _, err := os.Stat(filepath.Join(dir, "watchdog-test")); err == nil {
			t.Error("the mark stays")
		}
	}
}
