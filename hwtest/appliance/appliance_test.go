// Package appliance_test boots the image that `./build.sh image` makes, in QEMU with UEFI firmware and a TPM, and takes a box through
// its life.
package appliance_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/hwtest/hospital"
)

func freeAddr(*testing.T) string { return hospital.FreeAddr() }

// needs says what is missing for this test, which takes minutes and is asked for by VITALGATE_APPLIANCE=1.
func needs(t *testing.T) (kernel string) {
	if os.Getenv("VITALGATE_APPLIANCE") == "" {
		t.Skip("set VITALGATE_APPLIANCE=1 to take a box through its life in QEMU; it takes minutes")
	}
	for _, p := range []string{"qemu-system-aarch64", "swtpm", "swtpm_setup", "mformat"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed", p)
		}
	}
	if _, err := os.Stat(firmwareCode); err != nil {
		t.Skip("the UEFI firmware for arm64 is not installed (qemu-efi-aarch64)")
	}
	if k := os.Getenv("VITALGATE_KERNEL"); k != "" { // a folder with Image and provenance.json, such as one that is being worked on
		return k
	}
	out, err := exec.Command("../../image/kernel/build", "--only-cached").Output()
	if err != nil {
		t.Skip("no kernel of this source and these options is cached; image/kernel/build makes it, in a quarter of an hour")
	}
	return strings.TrimSpace(string(out))
}

// factory makes releases.
type factory struct {
	t                  *testing.T
	dir, kernel, image string
}

func newFactory(t *testing.T, dir, kernel string) *factory {
	f := &factory{t, dir, kernel, filepath.Join(dir, "image-tool")}
	run(t, "go", "build", "-o", f.image, "../../image")
	for _, keys := range []string{"keys", "foreign"} {
		run(t, f.image, "keys", filepath.Join(dir, keys))
	}
	return f
}

// release builds a release of a program and gives its folder.
func (f *factory) release(version string, index int, program, keys string) string {
	f.t.Helper()
	binary, out := filepath.Join(f.dir, version+".arm64"), filepath.Join(f.dir, version)
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", binary,
		"-ldflags", "-s -w -buildid= -X github.com/vitalgate/vitalgate/firmware/version.Version="+version, program)
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm64", "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		f.t.Fatalf("%v\n%s", err, text)
	}
	run(f.t, f.image, "build", "--out", out, "--version", version, "--rollback-index", strconv.Itoa(index), "--kernel", f.kernel, "--program", binary, "--keys", filepath.Join(f.dir, keys))
	run(f.t, f.image, "verify", out, "--key", filepath.Join(f.dir, keys, "release.pub.pem"))
	return out
}

func bundle(release string) string { return filepath.Join(release, "update.vgu") }

// ward is the facility: a hub on this machine, the field tool, and what they say.
type ward struct {
	t        *testing.T
	dir, bin string
	boxes    string
	readings int
}

func newWard(t *testing.T, dir string) *ward {
	t.Helper()
	w := &ward{t: t, dir: dir, bin: filepath.Join(dir, "bin"), boxes: freeAddr(t)}
	if err := os.MkdirAll(w.bin, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, pkg := range map[string]string{"vitalgate": "firmware", "vitalpeer": "peer", "vitalprov": "provision"} {
		run(t, "go", "build", "-o", filepath.Join(w.bin, name), "../../"+pkg)
	}
	w.do("vitalpeer", "init", "--facility", "f1", "--name", "hub", "--data", "hub", "--listen-boxes", w.boxes, "--listen-peers", freeAddr(t),
		"--page", freeAddr(t), "--host", "10.0.2.2") // this machine, as QEMU's network shows it
	hub := w.program(context.Background(), "vitalpeer", "run", "--data", "hub") // as long as the test
	log, err := os.Create(filepath.Join(dir, "hub.log"))
	if err != nil {
		t.Fatal(err)
	}
	hub.Stdout, hub.Stderr = log, log
	hub.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := hub.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		hub.Process.Signal(os.Interrupt)
		hub.Wait()
	})
	await(t, "the hub", patience, func() bool {
		c, err := net.Dial("tcp", w.boxes)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	w.do("vitalprov", "tool", "request", "anna")
	w.do("vitalpeer", "tool", "add", "anna", "anna.tool.csr", "--data", "hub")
	w.do("vitalprov", "tool", "install", "anna.tool.pem")
	return w
}

// command is one that ends by itself.
func (w *ward) command(args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	w.t.Cleanup(cancel)
	return w.program(ctx, args...)
}

func (w *ward) program(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(w.bin, args[0]), args[1:]...)
	cmd.Dir = w.dir
	cmd.Env = append(os.Environ(), "PATH="+w.bin, "VITALPROV_IDENTITY="+filepath.Join(w.dir, "tool"), "VITALPROV_HUB="+filepath.Join(w.dir, "hub"))
	return cmd
}

func (w *ward) do(args ...string) string {
	w.t.Helper()
	out, err := w.answered("", args...)
	if err != nil {
		w.t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return out
}

func (w *ward) refused(want string, args ...string) {
	w.t.Helper()
	out, err := w.answered(want, args...)
	if err == nil || !strings.Contains(out, want) {
		w.t.Errorf("%v: %v\n%s\ndoes not say %q", args, err, out, want)
	}
}

// answered runs a command, and again while the box does not answer it: one that is emulated on a busy computer may need longer for
// its part of a handshake than a laptop waits.
func (w *ward) answered(want string, args ...string) (string, error) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Second) {
		text, err := w.command(args...).CombinedOutput()
		out := string(text)
		unreached := strings.Contains(out, "cannot reach the box") && (want == "" || !strings.Contains(out, want))
		if err == nil || !unreached || time.Now().After(deadline) {
			return out, err
		}
		w.t.Logf("once more, because the box did not answer: %v\n%s", args[:2], out)
	}
}

// enrol makes the machine the facility's, with a monitor at each serial line.
func (w *ward) enrol(m *machine, label string) {
	w.t.Helper()
	out := w.do("vitalprov", "enrol", m.link, "--label", label, "--box", "f1/gw1", "--leaf", "hub=tls://10.0.2.2:"+port(w.boxes), "--timeout", "8m",
		"--monitor", "name=bed-1 kind=serial device="+pciLine+" framing=mllp dialect=ihe-pcd01 zone=UTC bed=ICU-1",
		"--monitor", "name=bed-2 kind=serial device="+usbLine+" framing=mllp dialect=ihe-pcd01 zone=UTC bed=ICU-2")
	if !strings.Contains(out, "TPM") || strings.Contains(out, "NOT A TPM") {
		w.t.Errorf("enrol says %s", out)
	}
}

// message is a file with the next message of a monitor.
func (w *ward) message() string {
	w.t.Helper()
	w.readings++
	file := filepath.Join(w.dir, "one.hl7")
	if err := os.WriteFile(file, (&hospital.Sender{Bed: "bed-1"}).Message(w.readings), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return file
}

// reading has a monitor send one message over the serial line at addr; AA means that it is on the box's disk.
func (w *ward) reading(addr string) {
	w.t.Helper()
	file := w.message()
	var out []byte
	await(w.t, "an acknowledgement by the box: "+string(out), patience, func() bool {
		out, _ = w.command("vitalgate", "replay", "--to", "tcp://"+addr, "--timeout", "3s", file).CombinedOutput()
		return bytes.Contains(out, []byte("AA"))
	})
}

// seen waits until the hub has verified so many readings of the box.
func (w *ward) seen(monitor string) string {
	w.t.Helper()
	return w.do("vitalprov", "readings", "f1/gw1", "--yes", "--earlier", "--monitor", monitor, "--timeout", "8m")
}

// TestTheLifeOfABox is a box from the factory to its end.
func TestTheLifeOfABox(t *testing.T) {
	kernel := needs(t)
	began := time.Now()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	phase := func(format string, a ...any) {
		t.Helper()
		t.Logf("%5.0f s  %s", time.Since(began).Seconds(), fmt.Sprintf(format, a...))
	}

	f := newFactory(t, dir, kernel)
	v1 := f.release("1.0.0", 2, "../../firmware", "keys")
	v2 := f.release("2.0.0", 3, "../../firmware", "keys")
	sizes, err := os.ReadFile(filepath.Join(v1, "sizes.txt"))
	if err != nil {
		t.Fatal(err)
	}
	phase("two releases are built\n%s", sizes)
	w := newWard(t, dir)
	m := newMachine(t, at("box"), filepath.Join(v1, "disk.img"))
	phase("the hub runs")

	// First start: the firmware takes the image's keys, and from then on starts nothing else.
	m.on()
	m.says("the box restarts")
	if l := m.says("the data is open"); l.field("new") != "true" {
		t.Errorf("the data of a new box is not new: %s", l.Text)
	}
	m.says("this box is nobody's: it waits for the field tool and does nothing else")
	phase("first start: keys in the firmware, data made, nobody's box waits")

	// A stick shows the label to whoever stands at the box.
	label := m.label(at("stick.img"))
	phase("the label is on the stick")
	if out := w.do("vitalprov", "probe", m.link, "--label", label); !strings.Contains(out, "nobody's") {
		t.Errorf("probe says %s", out)
	}

	// Enrolment by the field tool; monitors at both serial lines.
	w.enrol(m, label)
	phase("enrolled")
	w.reading(m.pci)
	w.reading(m.usb)
	if out := w.seen("bed-1"); !strings.Contains(out, "I see heart rate") {
		t.Errorf("readings says %s", out)
	}
	w.seen("bed-2")
	m.says("a reading came through: kept, signed, acknowledged by a leaf node")
	phase("readings of both lines are verified at the hub")

	// The power goes; the box comes back by itself with data and identity.
	m.off()
	m.on()
	if l := m.says("the data is open"); l.field("new") != "false" {
		t.Errorf("the data is new after a power cut: %s", l.Text)
	}
	w.reading(m.pci)
	l := m.says("a reading came through: kept, signed, acknowledged by a leaf node")
	phase("after a power cut: kernel start to first published reading %s ms; in RAM: first process %s KiB, line %s KiB",
		l.field("since_kernel_start_ms"), l.field("rss_kib"), l.field("line_rss_kib"))

	// What is refused changes nothing.
	foreign := f.release("9.0.0", 9, "../../firmware", "foreign")
	w.refused("not of the release key", "vitalprov", "update", m.link, bundle(foreign), "--label", label)
	damaged := at("damaged.vgu")
	copyFile(t, bundle(v2), damaged)
	flip(t, damaged, 9<<20)
	w.refused("damaged", "vitalprov", "update", m.link, damaged, "--label", label)
	phase("a foreign and a damaged bundle are refused")

	// Power cuts while the other slot is written.
	cuts := 3
	if testing.Short() {
		cuts = 1
	}
	for range cuts {
		update := w.command("vitalprov", "update", m.link, bundle(v2), "--label", label)
		if err := update.Start(); err != nil {
			t.Fatal(err)
		}
		m.says("update: release 2.0.0 is genuine; writing it to slot b")
		time.Sleep(time.Duration(rand.IntN(1500)) * time.Millisecond)
		m.off()
		update.Wait()
		m.on()
		m.says("the data is open")
		m.says("running")
	}
	phase("%d power cuts while a slot was written: the box came back each time", cuts)

	// A good update is tried, and kept when a reading has come through. (A cut that came after the last write has it tried already.)
	start := time.Now()
	w.do("vitalprov", "update", m.link, bundle(v2), "--label", label)
	phase("update pushed, written and read back in %.1f s", time.Since(start).Seconds())
	m.says("this release is on trial")
	w.reading(m.pci)
	m.says("this release is kept")
	phase("a good update is kept")
	w.refused("rollback index", "vitalprov", "update", m.link, bundle(v1), "--label", label)
	phase("a downgrade is refused")
	m.off()
	m.on()
	if l := m.says("vitalgate starts"); l.field("version") != "2.0.0" {
		t.Errorf("after the update runs %s", l.Text)
	}
	m.says("running")

	// Bad updates: the box goes back by itself.
	dies := f.release("3.0.0-dies", 3, "./bad/dies", "keys")
	w.do("vitalprov", "update", m.link, bundle(dies), "--label", label)
	m.says("the update was rolled back")
	m.says("running")
	phase("a release whose kernel panics is rolled back")
	never := f.release("3.0.0-never", 3, "./bad/never", "keys")
	s := newStick(t, at("stick2.img"))
	s.put(bundle(never), "update.vgu")
	pull := m.plug(s.path)
	m.says("the update was rolled back")
	m.says("the stick has nothing new")
	pull()
	m.says("running")
	w.reading(m.pci)
	m.says("a reading came through: kept, signed, acknowledged by a leaf node")
	phase("a release from a stick whose line does not stay up is rolled back")

	// The disk in another box is of no use.
	m.off()
	other := newMachine(t, at("other"), m.disk())
	other.on()
	other.says("the box restarts") // its firmware takes the keys
	if l := other.says("the box is locked", "the data is open"); l.msg() != "the box is locked" || !strings.Contains(l.Text, "another TPM") {
		t.Errorf("in another box: %s", l.Text)
	}
	other.off()
	phase("the disk in another box stays locked")

	// Reset: first the wipe, then a new box with the label that is stuck to it.
	before := head(t, m.disk())
	m.on()
	m.says("running")
	out := w.do("vitalprov", "probe", m.link, "--label", label)
	name := regexp.MustCompile(`VG-\w{4}-\w{4}`).FindString(out)
	w.do("vitalprov", "reset", m.link, "--label", label, "--yes", name)
	m.says("the box was wiped")
	if l := m.says("the data is open"); l.field("new") != "true" {
		t.Errorf("after the reset the data is not new: %s", l.Text)
	}
	m.says("this box is nobody's: it waits for the field tool and does nothing else")
	if bytes.Equal(before, head(t, m.disk())) {
		t.Error("the sealed key of before is still on the disk")
	}
	if out := w.do("vitalprov", "probe", m.link, "--label", label); !strings.Contains(out, "nobody's") {
		t.Errorf("after the reset probe says %s", out)
	}
	phase("reset: wiped, and new")
}

// Where the serial lines of the machine are plugged in.
const (
	pciLine = "/dev/serial/by-path/0000:00:01.0"
	usbLine = "/dev/serial/by-path/0000:00:02.0-usb-1:1.0"
)

func port(addr string) string {
	_, p, _ := net.SplitHostPort(addr)
	return p
}

func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{b[0] ^ 1}, at); err != nil {
		t.Fatal(err)
	}
}

// head is the beginning of the data partition: the sealed key.
func head(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 4096)
	if _, err := f.ReadAt(b, 129<<20); err != nil {
		t.Fatal(err)
	}
	return b
}
