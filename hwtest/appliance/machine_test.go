package appliance_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// machine is a box of hardware in QEMU: arm64 with UEFI firmware, a TPM, a disk, a network interface, one serial line on the bus and
// one on USB, a watchdog. It can lose its power at any moment.
type machine struct {
	t    *testing.T
	dir  string // TPM, firmware variables, disk
	link string // the provisioning link on this side
	pci  string // the other ends of the serial lines
	usb  string

	board string   // QEMU's machine
	rtc   string   // what its clock says when it is switched on; "": the time
	more  []string // of QEMU's arguments

	console *console
	qemu    *exec.Cmd
	tpm     *exec.Cmd
	monitor *monitor
	sticks  int
	sockets string
}

const firmwareCode, firmwareVars = "/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"

// newMachine is fresh from the factory but for the disk, which was written with the image.
func newMachine(t *testing.T, dir, image string) *machine {
	t.Helper()
	m := &machine{t: t, board: "virt", dir: dir, link: freeAddr(t), pci: freeAddr(t), usb: freeAddr(t), console: &console{path: filepath.Join(dir, "console.log")}}
	for _, d := range []string{dir, filepath.Join(dir, "tpm")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "swtpm_setup", "--tpm2", "--tpmstate", filepath.Join(dir, "tpm"), "--create-ek-cert", "--create-platform-cert", "--pcr-banks", "sha256")
	copyFile(t, firmwareVars, filepath.Join(dir, "vars.fd"))
	copyFile(t, image, m.disk())
	if err := os.Truncate(m.disk(), 2<<30); err != nil { // a larger disk than the image
		t.Fatal(err)
	}
	t.Cleanup(m.off)
	return m
}

func (m *machine) disk() string { return filepath.Join(m.dir, "disk.img") }

// on gives the machine its power.
func (m *machine) on() {
	m.t.Helper()
	m.qemu = exec.Command("qemu-system-aarch64", m.parts()...)
	m.qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	m.qemu.Stderr = &said
	if err := m.qemu.Start(); err != nil {
		m.t.Fatal(err)
	}
	defer func() {
		if m.monitor == nil {
			m.t.Logf("QEMU says: %s", said.String())
		}
	}()
	await(m.t, "QEMU", patience, func() bool {
		var err error
		m.monitor, err = dialMonitor(filepath.Join(m.sockets, "qmp"))
		return err == nil
	})
}

// parts starts the TPM and gives what QEMU must be told to build the machine.
func (m *machine) parts() []string {
	m.t.Helper()
	sockets, err := os.MkdirTemp("", "vg") // a socket's path has at most 107 bytes
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { os.RemoveAll(sockets) })
	m.sockets = sockets
	at := func(name string) string { return filepath.Join(sockets, name) }
	m.tpm = exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+filepath.Join(m.dir, "tpm"), "--ctrl", "type=unixio,path="+at("tpm"), "--flags", "not-need-init")
	m.tpm.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := m.tpm.Start(); err != nil {
		m.t.Fatal(err)
	}
	await(m.t, "swtpm", patience, func() bool { _, err := os.Stat(at("tpm")); return err == nil })
	_, port, err := net.SplitHostPort(m.link)
	if err != nil {
		m.t.Fatal(err)
	}
	tcp := func(id, addr string) string {
		host, port, _ := net.SplitHostPort(addr)
		return fmt.Sprintf("socket,id=%s,host=%s,port=%s,server=on,wait=off", id, host, port)
	}
	args := []string{"-M", m.board, "-cpu", "cortex-a53", "-smp", "2", "-m", "512", "-nodefaults", "-display", "none",
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file=" + firmwareCode,
		"-drive", "if=pflash,format=raw,unit=1,file=" + filepath.Join(m.dir, "vars.fd"),
		"-chardev", "socket,id=chrtpm,path=" + at("tpm"), "-tpmdev", "emulator,id=tpm0,chardev=chrtpm", "-device", "tpm-tis-device,tpmdev=tpm0",
		"-chardev", "file,id=con,append=on,path=" + m.console.path, "-serial", "chardev:con",
		"-chardev", tcp("pci", m.pci), "-device", "pci-serial,chardev=pci",
		"-device", "qemu-xhci,id=xhci", "-chardev", tcp("usb", m.usb), "-device", "usb-serial,chardev=usb,always-plugged=on",
		"-netdev", "user,id=n0,hostfwd=tcp:127.0.0.1:" + port + "-:8471", "-device", "virtio-net-pci,netdev=n0,romfile=",
		"-drive", "if=none,id=hd0,format=raw,cache=writeback,file=" + m.disk(), "-device", "virtio-blk-pci,drive=hd0",
		"-device", "i6300esb", "-action", "watchdog=reset",
		"-qmp", "unix:" + at("qmp") + ",server=on,wait=off",
		"-chardev", "socket,id=gdb,server=on,wait=off,path=" + at("gdb"), "-gdb", "chardev:gdb",
	}
	if m.rtc != "" {
		args = append(args, "-rtc", "base="+m.rtc)
	}
	return append(args, m.more...)
}

// off is a power cut.
func (m *machine) off() {
	for _, c := range []*exec.Cmd{m.qemu, m.tpm} {
		if c != nil && c.Process != nil {
			c.Process.Kill()
			c.Wait()
		}
	}
	if m.monitor != nil {
		m.monitor.conn.Close()
	}
	m.qemu, m.tpm, m.monitor = nil, nil, nil
}

// plug puts a stick into the machine; the function pulls it.
func (m *machine) plug(image string) (pull func()) {
	m.t.Helper()
	m.sticks++
	node, device := fmt.Sprintf("stick%d", m.sticks), fmt.Sprintf("usbstick%d", m.sticks)
	m.do("blockdev-add", map[string]any{"driver": "raw", "node-name": node, "file": map[string]any{"driver": "file", "filename": image}})
	m.do("device_add", map[string]any{"driver": "usb-storage", "id": device, "drive": node, "bus": "xhci.0", "removable": true})
	return func() {
		m.t.Helper()
		m.do("device_del", map[string]any{"id": device})
		await(m.t, "the stick to be out", patience, func() bool {
			return m.monitor.call("blockdev-del", map[string]any{"node-name": node}) == nil
		})
	}
}

// label has a stick take the label of the box.
func (m *machine) label(path string) string {
	m.t.Helper()
	s := newStick(m.t, path)
	pull := m.plug(s.path)
	m.says("the stick may be pulled")
	pull()
	return strings.TrimSpace(s.get("VG-*/label.txt"))
}

func (m *machine) do(command string, arguments map[string]any) {
	m.t.Helper()
	if err := m.monitor.call(command, arguments); err != nil {
		m.t.Fatalf("%s: %v", command, err)
	}
}

// monitor is QEMU's own control (QMP).
type monitor struct {
	conn net.Conn
	in   *json.Decoder
}

func dialMonitor(path string) (*monitor, error) {
	c, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	m := &monitor{c, json.NewDecoder(c)}
	var greeting json.RawMessage
	err = m.in.Decode(&greeting)
	if err == nil {
		err = m.call("qmp_capabilities", map[string]any{})
	}
	if err != nil {
		c.Close()
	}
	return m, err
}

func (m *monitor) call(command string, arguments map[string]any) error {
	if err := json.NewEncoder(m.conn).Encode(map[string]any{"execute": command, "arguments": arguments}); err != nil {
		return err
	}
	for {
		var answer struct {
			Return json.RawMessage
			Error  *struct{ Desc string }
		}
		if err := m.in.Decode(&answer); err != nil {
			return err
		}
		if answer.Error != nil {
			return errors.New(answer.Error.Desc)
		}
		if answer.Return != nil {
			return nil
		}
	}
}

// console is what the box says. Reading goes on where it ended.
type console struct {
	path string
	at   int64
	rest []byte
}

// line is a line of the box's log; of others only Text is set.
type line struct {
	Text   string
	Fields map[string]any
}

func (l line) msg() string {
	s, _ := l.Fields["msg"].(string)
	return s
}

func (l line) field(name string) string { return fmt.Sprint(l.Fields[name]) }

// next gives the next line that is there.
func (c *console) next() (l line, ok bool) {
	i := bytes.IndexByte(c.rest, '\n')
	if i < 0 {
		f, err := os.Open(c.path)
		if err != nil {
			return l, false
		}
		defer f.Close()
		b, err := io.ReadAll(io.NewSectionReader(f, c.at, 1<<30))
		if err != nil {
			return l, false
		}
		c.at += int64(len(b))
		c.rest = append(c.rest, b...)
		if i = bytes.IndexByte(c.rest, '\n'); i < 0 {
			return l, false
		}
	}
	l.Text = strings.TrimSpace(string(c.rest[:i]))
	c.rest = c.rest[i+1:]
	if j := strings.IndexByte(l.Text, '{'); j >= 0 {
		json.Unmarshal([]byte(l.Text[j:]), &l.Fields)
	}
	return l, true
}

// patience is for a machine that is emulated on a computer that does much else.
const patience = 8 * time.Minute

// says waits until the box says one of these, and gives the line.
func (m *machine) says(messages ...string) line {
	m.t.Helper()
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		l, ok := m.console.next()
		if !ok {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		for _, want := range messages {
			if l.msg() == want || l.Fields == nil && strings.Contains(l.Text, want) {
				return l
			}
		}
		if l.msg() == "the box is locked" { // nobody waits for that but who said so
			m.t.Fatalf("the box is locked: %s", l.Text)
		}
	}
	m.t.Fatalf("the box did not say %q within %v; the end of its console:\n%s", messages, patience, m.console.tail())
	return line{}
}

func (c *console) tail() string {
	b, _ := os.ReadFile(c.path)
	return string(b[max(0, len(b)-6000):])
}

func await(t *testing.T, what string, most time.Duration, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(most); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", most, what)
		}
	}
}

func run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// stick is an image of a USB stick, FAT32, as a person makes it.
type stick struct {
	t    *testing.T
	path string
}

func newStick(t *testing.T, path string) stick {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 96<<20); err != nil {
		t.Fatal(err)
	}
	run(t, "mformat", "-i", path, "-F", "-v", "STICK", "::")
	run(t, "mmd", "-i", path, "::/vitalgate")
	return stick{t, path}
}

func (s stick) put(file, name string) {
	s.t.Helper()
	run(s.t, "mcopy", "-o", "-i", s.path, file, "::/vitalgate/"+name)
}

// get reads a file whose path may have wildcards.
func (s stick) get(name string) string {
	s.t.Helper()
	out, err := exec.Command("mtype", "-i", s.path, "::/vitalgate/"+name).Output()
	if err != nil {
		s.t.Fatalf("the stick has no %s: %v", name, err)
	}
	return string(out)
}
