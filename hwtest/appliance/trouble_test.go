package appliance_test

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/provision/protocol"
)

// TestABoxInTrouble is what happens to a box that is not of every day: its clock is wrong, the network is tagged, somebody cuts
// himself off, the disk hangs, the whole machine hangs, the button is held.
func TestABoxInTrouble(t *testing.T) {
	kernel := needs(t)
	began := time.Now()
	dir := t.TempDir()
	phase := func(format string, a ...any) {
		t.Helper()
		t.Logf("%5.0f s  %s", time.Since(began).Seconds(), fmt.Sprintf(format, a...))
	}
	f := newFactory(t, dir, kernel)
	image := f.release("1.0.0", 1, "../../firmware", "keys")
	w := newWard(t, dir)
	m := newMachine(t, filepath.Join(dir, "box"), filepath.Join(image, "disk.img"))
	cable := newWire(t)
	m.more = cable.arguments()
	m.rtc = "2020-01-01T00:00:00"
	m.button("vitalgate-reset")
	phase("image and hub are there")
	m.on()
	m.says("the box restarts")
	m.says("this box is nobody's: it waits for the field tool and does nothing else")
	label := m.label(filepath.Join(dir, "stick.img"))
	settings := func(more ...string) []string {
		return append([]string{"vitalprov", "network", m.link, "--label", label, "--then", "127.0.0.1"}, more...)
	}

	// The clock stands at 2020, and a time server is named.
	ntp, stop := timeServer(t)
	w.do(settings("--interface", "eth0", "--method", "dhcp", "--ntp", "10.0.2.2:"+ntp)...)
	l := m.says("the time is that of a server")
	offset, err := time.ParseDuration(l.field("offset"))
	if at, e := time.Parse(time.RFC3339Nano, l.field("time")); err != nil || e != nil || offset < 6*365*24*time.Hour || time.Since(at).Abs() > patience {
		t.Errorf("the clock was not set by the time server: %s", l.Text)
	}
	phase("NTP: the clock was wrong by %v, and is right", offset.Round(time.Second))
	w.enrol(m, label)
	w.reading(m.pci)
	w.seen("bed-1")
	phase("enrolled, a reading is verified at the hub")

	report := filepath.Join(dir, "hwtest.json")
	text, _ := w.command("vitalprov", "hwtest", "run", m.link, "--label", label, "--out", report).CombinedOutput() // slow is not good
	out := string(text)
	if !strings.Contains(out, "What was sent with 3 settings came back") || !strings.Contains(out, "Signed by the key") {
		t.Errorf("hwtest says %s", out)
	}
	for l := range strings.Lines(out) {
		if strings.HasPrefix(l, "FAIL") && !strings.Contains(l, "tpm signing") && !strings.Contains(l, "storage fsync") { // how quick the machine is says nothing of the box
			t.Error(l)
		}
	}
	signed, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	found, err := protocol.OpenReport(signed, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range found.Results { // which the kernel set when the time became good
		if x.Test == "rtc" && (x.Outcome != protocol.Pass || math.Abs(x.Figures["offset_s"]) > patience.Seconds()) {
			t.Errorf("%+v", x)
		}
	}
	phase("hardware test over the link, and the real time clock is right\n%s", out)

	// Without the time server and with the wrong clock again, the time does not go back behind what is known.
	stop()
	last := time.Now()
	m.off()
	m.on()
	l = m.says("the clock was behind what is known and is put forward")
	if to, err := time.Parse(time.RFC3339Nano, l.field("to")); err != nil || last.Sub(to) > patience || to.After(time.Now()) {
		t.Errorf("at %v: %s", last, l.Text)
	}
	w.reading(m.pci)
	m.says("a reading came through: kept, signed, acknowledged by a leaf node")
	phase("wrong clock and no time server: the clock goes on from what is known")

	// A tagged network at the second interface; it is there after a restart too, as the end of this test sees.
	w.do(settings("--interface", "eth1", "--method", "static", "--ip", "10.9.0.5/24", "--vlan", "42")...)
	if tag := cable.answeredOn(t, "10.9.0.5", 42); tag != 42 {
		t.Errorf("the box answers for its address in VLAN 42 with tag %d", tag)
	}
	phase("VLAN: the box answers frames with tag 42, and others not")

	// Settings over which the box cannot be reached are gone by themselves.
	w.refused("goes back to the old ones by itself", settings("--interface", "eth0", "--method", "static", "--ip", "10.0.2.99/24", "--wait", "20s")...)
	m.says("the network settings that were tried are gone, those of before are back")
	await(t, "the box at its old address", patience, func() bool { return w.command("vitalprov", "probe", m.link, "--label", label).Run() == nil })
	phase("network: tried and reverted")

	if !testing.Short() {
		// Writes do not end any more: the line hangs in the kernel, where nobody can end it.
		m.slowDisk(1)
		message := w.message()
		for range 3 { // without something to write nobody sees that the disk hangs; nor is there an acknowledgement
			w.command("vitalgate", "replay", "--to", "tcp://"+m.pci, "--timeout", "3s", message).Run()
		}
		m.says("the line from monitor to network says nothing any more and is ended")
		m.says("the box makes no progress; the watchdog restarts it within 30 s")
		m.says("UEFI firmware")
		m.slowDisk(0)
		m.says("the watchdog restarted the box, because it hung")
		w.reading(m.pci)
		m.says("a reading came through: kept, signed, acknowledged by a leaf node")
		phase("a disk that hangs: the watchdog restarts the box, and it says so")
	}

	m.hang()
	m.says("the watchdog restarted the box, because it hung")
	m.says("running")
	if out := w.do("vitalprov", "probe", m.link, "--label", label); !strings.Contains(out, "by the watchdog, because the box hung") {
		t.Errorf("probe says %s", out)
	}
	if tag := cable.answeredOn(t, "10.9.0.5", 42); tag != 42 {
		t.Errorf("after restarts the box answers for its address in VLAN 42 with tag %d", tag)
	}
	phase("a machine that hangs, its kernel too: the watchdog restarts it, and it says so")

	// The line is high, which is released, only while QEMU is told so; from then on the button is held.
	for range 40 {
		m.do("system_powerdown", map[string]any{})
		time.Sleep(50 * time.Millisecond)
	}
	m.says("the reset button was held: the box is wiped")
	m.says("the box was wiped")
	if l := m.says("the data is open"); l.field("new") != "true" {
		t.Errorf("after the reset the data is not new: %s", l.Text)
	}
	m.says("this box is nobody's: it waits for the field tool and does nothing else")
	phase("the button was held for ten seconds: wiped, and new")
}

// button gives the machine a device tree in place of ACPI tables, in which the GPIO line that QEMU moves (system_powerdown: high for
// a tenth of a second) has this name.
func (m *machine) button(name string) {
	m.t.Helper()
	tree := filepath.Join(m.dir, "tree")
	m.board = "virt,acpi=off"
	run(m.t, append([]string{"qemu-system-aarch64", "-M", "dumpdtb=" + tree}, m.parts()...)...)
	m.off()
	b, err := os.ReadFile(tree)
	if err == nil {
		err = os.WriteFile(tree, nameLine(m.t, b, "pl061@9030000", 3, name), 0o600)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	m.more = append(m.more, "-dtb", tree)
}

// slowDisk lets no more than so many bytes be written a second; 0 is no limit.
func (m *machine) slowDisk(bytes int) {
	m.t.Helper()
	m.do("block_set_io_throttle", map[string]any{"device": "hd0", "bps": 0, "bps_rd": 0, "bps_wr": bytes, "iops": 0, "iops_rd": 0, "iops_wr": 0})
}

// hang has every processor go round in the kernel for ever, deaf to interrupts, by QEMU's stub for debuggers (GDB Remote Serial
// Protocol; registers as in features/aarch64-core.xml of GDB).
func (m *machine) hang() {
	m.t.Helper()
	const pc, cpsr = "20", "21"
	const kernel, deaf = 5, 0x3c0 // PSTATE: EL1h; D, A, I, F masked
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		g := debug(m.t, filepath.Join(m.sockets, "gdb")) // which stops the machine
		g.do("qXfer:features:read:target.xml:0,fff")     // without which it knows no single registers
		at := ""
		for _, cpu := range []string{"1", "2"} {
			g.do("Hg" + cpu)
			if state, err := hex.DecodeString(g.do("p" + cpsr)); err == nil && len(state) == 4 && binary.LittleEndian.Uint32(state)&0x1f == kernel {
				at = g.do("p" + pc)
			}
		}
		if at != "" {
			address, err := hex.DecodeString(at)
			if err != nil || len(address) != 8 {
				m.t.Fatalf("the processor is at %q", at)
			}
			g.do(fmt.Sprintf("M%x,4:00000014", binary.LittleEndian.Uint64(address))) // B . (Arm ARM C6.2)
			for _, cpu := range []string{"1", "2"} {
				g.do("Hg" + cpu)
				g.do("P" + pc + "=" + at)
				g.do(fmt.Sprintf("P%s=%x", cpsr, binary.LittleEndian.AppendUint32(nil, kernel|deaf)))
			}
		}
		g.do("D")
		g.conn.Close()
		if at != "" {
			return
		}
	}
	m.t.Fatal("no processor was ever found in the kernel")
}

type debugger struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func debug(t *testing.T, path string) debugger {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return debugger{t, c, bufio.NewReader(c)}
}

// do sends a packet and gives the answer.
func (g debugger) do(command string) string {
	g.t.Helper()
	sum := byte(0)
	for i := range len(command) {
		sum += command[i]
	}
	g.conn.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintf(g.conn, "+$%s#%02x", command, sum); err != nil {
		g.t.Fatal(err)
	}
	answer := "T"
	for strings.HasPrefix(answer, "T") { // says that the machine stopped
		if _, err := g.in.ReadString('$'); err != nil {
			g.t.Fatal(err)
		}
		text, err := g.in.ReadString('#')
		if err != nil {
			g.t.Fatal(err)
		}
		g.in.Discard(2) // the sum
		answer = strings.TrimSuffix(text, "#")
	}
	if strings.HasPrefix(answer, "E") || answer == "" {
		g.t.Fatalf("the debugger's %q: %q", command, answer)
	}
	return answer
}
