// Package qemu runs the TPM behind the kernel's driver: a virtual arm64 machine whose first process is the test program of
// package tpm. VITALGATE_QEMU_KERNEL names a kernel for it (docs/image.md says how ours is built).
package qemu

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/image/cpio"
)

// machine is a box: a TPM, a disk, and the program it starts with.
type machine struct {
	kernel, initrd, dir string
}

func newMachine(t *testing.T) machine {
	t.Helper()
	kernel := os.Getenv("VITALGATE_QEMU_KERNEL")
	if kernel == "" {
		t.Skip("VITALGATE_QEMU_KERNEL names no arm64 kernel")
	}
	for _, tool := range []string{"qemu-system-aarch64", "swtpm"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	m := machine{kernel: kernel, dir: t.TempDir()}
	program := filepath.Join(m.dir, "init")
	build := exec.Command("go", "test", "-c", "-o", program, "github.com/vitalgate/vitalgate/tpm")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm64")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the first process: %v\n%s", err, out)
	}
	text, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	m.initrd = filepath.Join(m.dir, "initrd")
	if err := os.WriteFile(m.initrd, cpio.Archive(append(cpio.Devices(), cpio.File("init", true, text))), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.dir, "disk"), make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(m.dir, "tpm"), 0o700); err != nil {
		t.Fatal(err)
	}
	return m
}

// boot powers the machine on and reads its console until a line says one of the words. Then the power is cut, whatever the
// machine is doing: the TPM is told nothing.
func (m machine) boot(t *testing.T, device, phase, release, keys string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	run, err := os.MkdirTemp("", "vm") // a path short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(run)
	sock := filepath.Join(run, "tpm")
	chip := exec.CommandContext(ctx, "swtpm", "socket", "--tpm2", "--tpmstate", "dir="+filepath.Join(m.dir, "tpm"), "--ctrl", "type=unixio,path="+sock, "--flags", "not-need-init")
	var said bytes.Buffer
	chip.Stdout, chip.Stderr = &said, &said
	if err := chip.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { chip.Process.Kill(); chip.Wait() }()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(sock); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("swtpm does not start: %s", said.String())
		}
	}
	qemu := exec.CommandContext(ctx, "qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a53", "-m", "256", "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-kernel", m.kernel, "-initrd", m.initrd, "-append", fmt.Sprintf("console=ttyAMA0 quiet panic=-1 VG_PHASE=%s VG_RELEASE=%s VG_KEYS=%s", phase, release, keys),
		"-chardev", "socket,id=chip,path="+sock, "-tpmdev", "emulator,id=tpm0,chardev=chip", "-device", device+",tpmdev=tpm0",
		"-drive", "if=none,id=disk,format=raw,cache=writethrough,file="+filepath.Join(m.dir, "disk"), "-device", "virtio-blk-pci,drive=disk,romfile=")
	out, err := qemu.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	qemu.Stderr = &said
	if err := qemu.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { qemu.Process.Kill(); qemu.Wait() }()
	var console strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		fmt.Fprintln(&console, line)
		if strings.HasPrefix(line, "VM FAILED") {
			t.Fatalf("%s under %s, phase %s:\n%s", release, keys, phase, console.String())
		}
		if rest, ok := strings.CutPrefix(line, "VM IDENTITY "); ok {
			if phase == "cut" {
				time.Sleep(50 * time.Millisecond) // signing goes on; the cut comes in the middle of it
			}
			return rest
		}
		if line == "VM DONE" {
			return console.String()
		}
	}
	t.Fatalf("the machine ended in phase %s: %v %s\n%s", phase, ctx.Err(), said.String(), console.String())
	return ""
}

// devices are the TPMs that this machine type knows.
func devices(t *testing.T) (all []string) {
	if os.Getenv("VITALGATE_QEMU_KERNEL") == "" {
		t.Skip("VITALGATE_QEMU_KERNEL names no arm64 kernel")
	}
	out, err := exec.Command("qemu-system-aarch64", "-device", "help").Output()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("qemu-system-aarch64 is not installed")
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"tpm-tis-device", "tpm-crb-device", "tpm-crb"} {
		if bytes.Contains(out, []byte("\""+d+"\"")) {
			all = append(all, d)
		}
	}
	if len(all) == 0 {
		t.Skip("this QEMU has no TPM for an arm64 machine")
	}
	return all
}

func TestTheKernelsTPM(t *testing.T) {
	for _, device := range devices(t) {
		t.Run(device, func(t *testing.T) {
			m := newMachine(t)
			t.Log(m.boot(t, device, "tests", "", ""))
		})
	}
}

// The life of a box: ten cuts of the power while it signs, an update, firmware that nobody has released, another secure boot
// state, and TPM2_Clear.
func TestTheLifeOfAnIdentity(t *testing.T) {
	device := devices(t)[0]
	m := newMachine(t)
	var who string
	var last uint64
	live := func(phase, release string) {
		t.Helper()
		var now string
		var counter uint64
		if _, err := fmt.Sscanf(m.boot(t, device, phase, release, "ours"), "%64s %d", &now, &counter); err != nil {
			t.Fatal(err)
		}
		if who == "" {
			who = now
		}
		if now != who || counter <= last {
			t.Fatalf("the identity is %s at boot %d, it was %s at %d", now, counter, who, last)
		}
		last = counter
	}
	for range 10 {
		live("cut", "one")
	}
	live("live", "two") // an update
	live("live", "one") // and back
	m.boot(t, device, "rogue", "one", "ours")
	m.boot(t, device, "rogue", "one", "none") // secure boot is off
	live("live", "two")
	m.boot(t, device, "clear", "two", "ours")
}
