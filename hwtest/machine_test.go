package hwtest_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vitalgate/vitalgate/hwtest"
	"github.com/vitalgate/vitalgate/image/cpio"
	"github.com/vitalgate/vitalgate/provision/protocol"
)

// What the first process of the virtual machine says on its console.
const (
	reportMark  = "HWTEST-REPORT "
	signedMark  = "HWTEST-SIGNED "
	cardMark    = "HWTEST-CARD "
	firedMark   = "HWTEST-FIRED "
	troubleMark = "HWTEST-TROUBLE "

	simLines = 12
	signed   = "/data/report.json"
)

// TestMain is the first process of the virtual machine too: it prepares what a box's own first process prepares, runs the command,
// and has it let the watchdog fire; after the restart it runs the command once more.
func TestMain(m *testing.M) {
	if os.Getpid() != 1 {
		os.Exit(m.Run())
	}
	for _, fs := range [][3]string{{"devtmpfs", "devtmpfs", "/dev"}, {"proc", "proc", "/proc"}, {"sysfs", "sysfs", "/sys"}, {"configfs", "configfs", "/sys/kernel/config"},
		{"/dev/nvme0n1", "ext4", "/data"}, {"/dev/mmcblk0", "ext4", "/card"}} {
		os.MkdirAll(fs[2], 0o755)
		if err := unix.Mount(fs[0], fs[2], fs[1], 0, ""); err != nil && err != unix.EBUSY {
			fmt.Println("cannot mount", fs[2], err)
		}
	}
	os.Chmod("/data", 0o700)
	os.Chmod("/card", 0o700)
	simulateGPIO()
	if err := raise("eth0"); err != nil {
		fmt.Println("cannot raise eth0:", err)
	}
	command := func(mark, dir string, args ...string) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "/vitalgate", append([]string{"hwtest", "--dir", dir, "--json"}, args...)...)
		cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGQUIT) } // it says where it hangs
		cmd.Stderr = os.Stdout
		out, err := cmd.Output() // its status says whether all is good
		var line bytes.Buffer
		if json.Compact(&line, out) != nil {
			fmt.Printf("\n%svitalgate hwtest %v: %v: %s\n", troubleMark, args, err, out)
			return
		}
		fmt.Printf("\n%s%s\n", mark, line.Bytes())
	}
	if _, err := os.Stat("/data/watchdog-test"); err == nil { // the start after the watchdog
		command(firedMark, "/data", "--only", "watchdog")
	} else {
		command(reportMark, "/data", "--factory", "--out", signed, "--peer", os.Getenv("VG_PEER"))
		if text, err := os.ReadFile(signed); err == nil {
			fmt.Printf("\n%s%s\n", signedMark, text)
		}
		command(cardMark, "/card", "--only", "storage")
		command(firedMark, "/data", "--only", "watchdog", "--fire-watchdog") // says something only if it does not fire
	}
	for { // the host ends the machine
		time.Sleep(time.Second)
	}
}

// simulateGPIO makes a chip with simLines lines (Linux, Documentation/admin-guide/gpio/gpio-sim.rst).
func simulateGPIO() {
	const chip = "/sys/kernel/config/gpio-sim/box"
	if err := errors.Join(os.MkdirAll(chip+"/bank", 0o755), os.WriteFile(chip+"/bank/num_lines", fmt.Append(nil, simLines), 0),
		os.WriteFile(chip+"/live", []byte("1"), 0)); err != nil {
		fmt.Println("cannot simulate GPIO:", err)
	}
}

// raise gives an interface its address and waits for its link.
func raise(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	q, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := q.SetInet4Addr([]byte{10, 0, 2, 15}); err != nil { // as QEMU's network has it
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFADDR, q); err != nil {
		return err
	}
	q.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, q); err != nil {
		return err
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if b, _ := os.ReadFile("/sys/class/net/" + name + "/carrier"); strings.TrimSpace(string(b)) == "1" {
			return nil
		}
	}
	return fmt.Errorf("no link in a minute")
}

// TestInAMachine tests a virtual arm64 box with the command: a UART that has a loop inside, a watchdog that fires, an NVMe disk, a
// card, a clock, a TPM, GPIO, two network interfaces of which one is off. VITALGATE_QEMU_KERNEL names its kernel (docs/image.md says
// how ours is built).
func TestInAMachine(t *testing.T) {
	kernel := os.Getenv("VITALGATE_QEMU_KERNEL")
	if kernel == "" {
		t.Skip("VITALGATE_QEMU_KERNEL names no arm64 kernel")
	}
	for _, tool := range []string{"qemu-system-aarch64", "mke2fs", "swtpm", "swtpm_setup"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	dir, err := os.MkdirTemp("", "vg") // a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	at := func(name string) string { return filepath.Join(dir, name) }
	run := func(name string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm64")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
	}
	run("go", "test", "-c", "-o", at("init"), ".")
	run("go", "build", "-o", at("vitalgate"), "github.com/vitalgate/vitalgate/firmware")
	if err := os.WriteFile(at("initrd"), ramDisk(t, at("init"), at("vitalgate")), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, disk := range []string{"disk", "card"} {
		run("mke2fs", "-q", "-t", "ext4", at(disk), "128M")
	}
	if err := os.Mkdir(at("tpm"), 0o700); err != nil {
		t.Fatal(err)
	}
	run("swtpm_setup", "--tpm2", "--tpmstate", at("tpm"), "--create-ek-cert", "--pcr-banks", "sha256")
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Minute) // an emulated machine on a computer that does much else
	defer cancel()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go hwtest.Sink(ctx, lis)
	_, sink, _ := net.SplitHostPort(lis.Addr().String())
	chip := exec.CommandContext(ctx, "swtpm", "socket", "--tpm2", "--tpmstate", "dir="+at("tpm"), "--ctrl", "type=unixio,path="+at("chip"), "--flags", "not-need-init")
	if err := chip.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { chip.Process.Kill(); chip.Wait() }()
	for {
		if _, err := os.Stat(at("chip")); err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatal("swtpm does not start")
		}
		time.Sleep(10 * time.Millisecond)
	}
	qemu := exec.CommandContext(ctx, "qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a53", "-m", "256", "-nodefaults", "-display", "none", "-no-user-config",
		"-kernel", kernel, "-initrd", at("initrd"), "-append", "console=ttyAMA0 rdinit=/init quiet panic=-1 VG_PEER=10.0.2.2:"+sink, "-serial", "stdio",
		"-chardev", "null,id=line", "-device", "pci-serial,chardev=line", "-device", "virtio-rng-pci",
		"-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0,romfile=", "-netdev", "user,id=n1", "-device", "virtio-net-pci,netdev=n1,romfile=",
		"-drive", "if=none,id=hd0,format=raw,file="+at("disk"), "-device", "nvme,serial=1,drive=hd0", "-device", "i6300esb", "-action", "watchdog=reset",
		"-drive", "if=none,id=sd0,format=raw,file="+at("card"), "-device", "sdhci-pci", "-device", "sd-card,drive=sd0",
		"-chardev", "socket,id=chip,path="+at("chip"), "-tpmdev", "emulator,id=tpm0,chardev=chip", "-device", "tpm-tis-device,tpmdev=tpm0")
	var trouble bytes.Buffer
	qemu.Stderr = &trouble
	out, err := qemu.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := qemu.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { qemu.Process.Kill(); qemu.Wait() }()
	var report, card, fired protocol.Report
	var envelope []byte
	var said []string
	in := bufio.NewScanner(out)
	in.Buffer(nil, 1<<20)
	for fired.Verdict == "" && in.Scan() {
		l := strings.TrimRight(in.Text(), "\r")
		said = append(said, l)
		if strings.HasPrefix(l, troubleMark) {
			break
		}
		if text, ok := strings.CutPrefix(l, signedMark); ok {
			envelope = []byte(text)
		}
		for mark, r := range map[string]*protocol.Report{reportMark: &report, cardMark: &card, firedMark: &fired} {
			if text, ok := strings.CutPrefix(l, mark); ok {
				if err := json.Unmarshal([]byte(text), r); err != nil {
					t.Fatalf("%v\n%s", err, strings.Join(said, "\n"))
				}
			}
		}
	}
	if fired.Verdict == "" {
		qemu.Process.Kill()
		qemu.Wait()
		t.Fatalf("the machine ended: %v %s\n%s", ctx.Err(), trouble.String(), strings.Join(said, "\n"))
	}
	var shown strings.Builder
	for _, r := range []protocol.Report{report, card, fired} {
		r.Print(&shown)
	}
	t.Log(shown.String())

	// How quick the machine is says nothing of the code: what is measured may be too slow, and must have been measured.
	const pass, not, measured = protocol.Pass, protocol.NotTested, ""
	slow := []string{"signing", "fsync", "throughput"}
	for _, x := range slices.Concat(report.Results, card.Results) {
		if x.Outcome == protocol.Fail && !slices.Contains(slow, x.Subject) {
			t.Errorf("%+v", x)
		}
	}
	for _, c := range []struct {
		report        protocol.Report
		test, subject string
		outcome       protocol.Outcome
		sentence      string
	}{
		{report, "tpm", "self-test", pass, ""}, {report, "tpm", "signing", measured, ""}, {report, "tpm", "endorsement", pass, ""},
		{report, "tpm", "counter", pass, ""}, {report, "tpm", "clock", pass, ""},
		{report, "serial", "ttyS0", pass, "with 30 settings came back, by the loop inside the UART; plug and cable were not tested. It does not take 230400 8N1."},
		{report, "serial", "ttyS0 modem lines", pass, "CTS follows RTS"}, {report, "serial", "ttyAMA0", not, "console"}, {report, "serial", "ttyS1", not, "no UART"},
		{report, "storage", "room", pass, ""}, {report, "storage", "fsync", measured, ""}, {report, "storage", "wear nvme0n1", pass, "lived 0 %"},
		{card, "storage", "fsync", measured, ""}, {card, "storage", "wear mmcblk0", not, "does not say how worn it is"}, {report, "memory", "", pass, ""},
		{report, "network", "eth0", pass, ""}, {report, "network", "eth1", not, "switched off"}, {report, "network", "throughput", measured, "The way to 10.0.2.2"},
		{report, "rtc", "", pass, "goes"}, {report, "watchdog", "i6300ESB", pass, ""}, {report, "watchdog", "fires", not, "was not tried"},
		{fired, "watchdog", "fires", pass, "restarted the machine"}, {report, "gpio", "gpiochip0", pass, "pl061"}, {report, "gpio", "gpiochip1", pass, "gpio-sim"},
		{report, "led", "mmc0", pass, "only a person sees"}, {report, "temperature", "nvme", pass, ""},
	} {
		x := of(c.report, c.test, c.subject)
		if c.outcome == measured && x.Figures == nil || c.outcome != measured && x.Outcome != c.outcome || !strings.Contains(x.Sentence, c.sentence) {
			t.Errorf("%s %s: %+v, and not %s %q", c.test, c.subject, x, c.outcome, c.sentence)
		}
	}
	if x := of(report, "gpio", "gpiochip1"); x.Figures["lines"] != simLines {
		t.Errorf("the simulated GPIO chip has %v lines", x.Figures["lines"])
	}
	if report.Held == "" || fired.Verdict != "Good: 1 tests passed, 0 could not be made." {
		t.Errorf("held by %q; %s", report.Held, fired.Verdict)
	}
	r, err := protocol.OpenReport(envelope, nil)
	if err != nil || r.Verdict != report.Verdict || !r.Factory {
		t.Errorf("the signed report: %v, %+v", err, r)
	}
	var e protocol.Envelope
	if err := json.Unmarshal(envelope, &e); err != nil {
		t.Fatal(err)
	}
	e.Payload = bytes.Replace(e.Payload, []byte("does not take"), []byte("does now take"), 1)
	if changed, err := json.Marshal(e); err != nil {
		t.Error(err)
	} else if _, err := protocol.OpenReport(changed, nil); err == nil || errors.Is(err, protocol.ErrUnsigned) {
		t.Errorf("a report that was changed afterwards: %v", err)
	}
}

// ramDisk has the first process and the command.
func ramDisk(t *testing.T, init, command string) []byte {
	t.Helper()
	entries := cpio.Devices()
	for name, path := range map[string]string{"init": init, "vitalgate": command} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, cpio.File(name, true, text))
	}
	return cpio.Archive(entries)
}
