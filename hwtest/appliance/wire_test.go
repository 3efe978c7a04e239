package appliance_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// wire is the cable at a second network interface of the machine; the test is at its other end (QEMU's "socket" network: each frame
// behind its length).
type wire struct {
	lis    net.Listener
	frames chan []byte

	mu   sync.Mutex
	conn net.Conn
}

func newWire(t *testing.T) *wire {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lis.Close() })
	w := &wire{lis: lis, frames: make(chan []byte, 1024)}
	go w.read()
	return w
}

// arguments plug it in.
func (w *wire) arguments() []string {
	return []string{"-netdev", "socket,id=n1,connect=" + w.lis.Addr().String(), "-device", "virtio-net-pci,netdev=n1,romfile="}
}

func (w *wire) read() {
	for {
		c, err := w.lis.Accept()
		if err != nil {
			return
		}
		w.mu.Lock()
		w.conn = c
		w.mu.Unlock()
		for {
			var size [4]byte
			if _, err := io.ReadFull(c, size[:]); err != nil {
				break // the machine is off
			}
			f := make([]byte, binary.BigEndian.Uint32(size[:]))
			if _, err := io.ReadFull(c, f); err != nil {
				break
			}
			select {
			case w.frames <- f:
			default: // nobody looks
			}
		}
		c.Close()
	}
}

func (w *wire) send(frame []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn != nil {
		w.conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)) // lost while the machine is off
	}
}

// Parts of a frame: the tag of IEEE 802.1Q-2022 §9.3, and ARP (RFC 826).
var (
	testers  = []byte{0x52, 0x54, 0, 0, 0, 0x99} // address of the test's end
	tagged   = []byte{0x81, 0x00}
	arp      = []byte{0x08, 0x06}
	arpAsk   = []byte{0, 1, 8, 0, 6, 4, 0, 1}
	arpReply = []byte{0, 1, 8, 0, 6, 4, 0, 2}
)

func ask(who net.IP, tag uint16) []byte {
	f := append(bytes.Repeat([]byte{0xff}, 6), testers...)
	if tag != 0 {
		f = binary.BigEndian.AppendUint16(append(f, tagged...), tag)
	}
	f = append(append(f, arp...), arpAsk...)
	f = append(append(f, testers...), 10, 9, 0, 1)
	f = append(append(f, make([]byte, 6)...), who.To4()...)
	return append(f, make([]byte, 60-min(len(f), 60))...)
}

// answeredOn asks who has an address, without a tag, with others and with this one, until there is an answer; it gives the tag of
// that.
func (w *wire) answeredOn(t *testing.T, who string, tag uint16) uint16 {
	t.Helper()
	for len(w.frames) > 0 {
		<-w.frames
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		for _, tag := range []uint16{0, tag - 1, tag + 1, tag} {
			w.send(ask(net.ParseIP(who), tag))
		}
		for again := time.After(time.Second); again != nil; {
			select {
			case f := <-w.frames:
				head, on := 12, uint16(0)
				if len(f) > 18 && bytes.HasPrefix(f[12:], tagged) {
					head, on = 16, binary.BigEndian.Uint16(f[14:])&0xfff
				}
				if len(f) >= head+10 && bytes.HasPrefix(f[head:], arp) && bytes.HasPrefix(f[head+2:], arpReply) {
					return on
				}
			case <-again:
				again = nil
			}
		}
	}
	t.Fatalf("nobody says that he has %s", who)
	return 0
}

// timeServer answers as an NTP server does (RFC 5905 §7.3), with this computer's time.
func timeServer(t *testing.T) (port string, stop func()) {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stamp := func() []byte {
		now := time.Now()
		b := binary.BigEndian.AppendUint32(nil, uint32(now.Unix()+2208988800))
		return binary.BigEndian.AppendUint32(b, uint32(uint64(now.Nanosecond())<<32/1e9))
	}
	go func() {
		for b := make([]byte, 512); ; {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			if n < 48 {
				continue
			}
			const version4, server, stratum1, precision = 4 << 3, 4, 1, 0xec // 2^-20 s
			answer := append([]byte{version4 | server, stratum1, b[2], precision}, make([]byte, 8)...)
			answer = append(append(answer, "TEST"...), stamp()...) // who, and when its clock was last set
			answer = append(answer, b[40:48]...)                   // when the question was sent
			answer = append(append(answer, stamp()...), stamp()...)
			c.WriteTo(answer, from)
		}
	}()
	t.Cleanup(func() { c.Close() })
	_, port, _ = net.SplitHostPort(c.LocalAddr().String())
	return port, func() { c.Close() }
}

// nameLine gives a line of the machine's GPIO chip a name in its device tree (Devicetree Specification 0.4 §5), as the maker of a
// board with a reset button does.
func nameLine(t *testing.T, tree []byte, node string, line int, name string) []byte {
	t.Helper()
	be := binary.BigEndian
	const totalSize, structure, texts, textsSize, structureSize = 4, 8, 12, 32, 36
	field := func(at int) int { return int(be.Uint32(tree[at:])) }
	s, x := tree[field(structure):][:field(structureSize)], tree[field(texts):][:field(textsSize)]
	i := bytes.Index(s, append([]byte{0, 0, 0, 1}, node+"\x00"...))
	if i < 0 {
		t.Fatalf("the machine has no %s", node)
	}
	i += 4 + (len(node)+1+3)/4*4
	value := strings.Repeat("\x00", line) + name + "\x00"
	property := be.AppendUint32(be.AppendUint32(be.AppendUint32(nil, 3), uint32(len(value))), uint32(len(x)))
	property = append(property, value...)
	property = append(property, make([]byte, (4-len(property)%4)%4)...)
	s = bytes.Join([][]byte{s[:i], property, s[i:]}, nil)
	x = append(bytes.Clone(x), "gpio-line-names\x00"...)
	out := bytes.Join([][]byte{tree[:field(structure)], s, x}, nil)
	for at, v := range map[int]int{totalSize: len(out), texts: field(structure) + len(s), textsSize: len(x), structureSize: len(s)} {
		be.PutUint32(out[at:], uint32(v))
	}
	return out
}
