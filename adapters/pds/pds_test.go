package pds

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/adapters/adapterstest"
	"github.com/vitalgate/vitalgate/adapters/framing"
)

const long = time.Minute

// bedside is the monitor's end: what the box says by itself is in asked, what it answers can be read.
type bedside struct {
	net.Conn
	answers *io.PipeReader
	said    chan string // the class and, of a query, the message
}

func (b *bedside) Read(p []byte) (int, error) { return b.answers.Read(p) }

func (b *bedside) Close() error {
	err := b.Conn.Close()
	for range b.said { // until the reading has ended
	}
	return err
}

func plug(t *testing.T, ln net.Listener) *bedside {
	t.Helper()
	ln.(*net.TCPListener).SetDeadline(time.Now().Add(adapterstest.Patience))
	conn, err := ln.Accept()
	if err != nil {
		t.Fatalf("the box does not connect: %v", err)
	}
	r, w := io.Pipe()
	b := &bedside{Conn: conn, answers: r, said: make(chan string, 1000)}
	go func() {
		defer close(b.said)
		dec, err := framing.NewDecoder(adapters.MLLP, 1<<20)
		if err != nil {
			t.Error(err)
			return
		}
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			dec.Write(buf[:n], func(m framing.Message) {
				switch class(m.Data) {
				case "106":
					b.said <- "106"
				case "1203":
					b.said <- string(m.Data)
				default:
					w.Write(framing.Append(nil, adapters.MLLP, m.Data))
				}
			})
			if err != nil {
				w.CloseWithError(err)
				return
			}
		}
	}()
	t.Cleanup(func() { b.answers.Close(); b.Conn.Close() })
	return b
}

// next is what the box says next by itself.
func (b *bedside) next(t *testing.T) string {
	t.Helper()
	select {
	case s, ok := <-b.said:
		if !ok {
			t.Fatal("the box has hung up")
		}
		return s
	case <-time.After(adapterstest.Patience):
		t.Fatal("the box says nothing")
		return ""
	}
}

func (b *bedside) send(t *testing.T, messages ...string) {
	t.Helper()
	if _, err := b.Write(adapterstest.MLLP(messages...)); err != nil {
		t.Fatal(err)
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func start(t *testing.T, cfg Config) *adapterstest.Running {
	t.Helper()
	cfg.Monitor = "bed-7"
	a, err := New(cfg, adapterstest.Log(t))
	if err != nil {
		t.Fatal(err)
	}
	return adapterstest.Start(t, a)
}

func TestContract(t *testing.T) {
	adapterstest.Run(t, func(t *testing.T) adapterstest.Rig {
		ln := listen(t)
		a, err := New(Config{Monitor: "bed-7", Address: ln.Addr().String(), KeepAlive: 20 * time.Millisecond, Silence: long}, adapterstest.Log(t))
		if err != nil {
			t.Fatal(err)
		}
		return adapterstest.Rig{Adapter: a, Via: "tcp 127.0.0.1:", Plug: func(t *testing.T) io.ReadWriteCloser { return plug(t, ln) }}
	})
}

// The monitor says nothing until it is asked, so the query comes first, and the keep-alives go on.
func TestAsksAndKeepsAlive(t *testing.T) {
	adapterstest.Goroutines(t)
	ln := listen(t)
	start(t, Config{Address: ln.Addr().String(), KeepAlive: 5 * time.Millisecond, Silence: long})
	m := plug(t, ln)
	query := m.next(t)
	for _, want := range []string{"MSH|^~\\&|||||||QRY^R02|1203|P|2.3.1\rQRD|2", "|R|I|Q", "\rQRF|MON||||0&0^1^1^1^\rQRF|MON||||0&0^3^1^1^\rQRF|MON||||0&0^4^1^1^\r"} {
		if !strings.Contains(query, want) {
			t.Errorf("the query is %q, it should hold %q", query, want)
		}
	}
	for range 5 {
		if s := m.next(t); s != "106" {
			t.Fatalf("the box says %q, want a keep-alive", s)
		}
	}
}

// uMEC12 takes fewer than five parameters at once, and forgets what it was asked before its first keep-alive.
func TestAsksForSomeAgain(t *testing.T) {
	ln := listen(t)
	r := start(t, Config{Address: ln.Addr().String(), KeepAlive: long, Silence: long, Again: true, IDs: []string{"101", "151", "160", "161", "162", "170"}})
	m := plug(t, ln)
	const want = "\rQRF|MON||||0&0^1^1^0^101&151&160&161\rQRF|MON||||0&0^1^1^0^162&170\rQRF|MON||||0&0^3^1^1^\rQRF|MON||||0&0^4^1^1^\r"
	if q := m.next(t); !strings.HasSuffix(q, want) {
		t.Errorf("the query is %q", q)
	}
	for range 3 {
		m.send(t, echo)
		f := r.Next(t)
		if string(f.Data) != echo {
			t.Fatalf("it came as %q", f.Data)
		}
		f.Reply()
	}
	if q := m.next(t); !strings.HasSuffix(q, want) {
		t.Errorf("the second query is %q", q)
	}
	select {
	case s := <-m.said:
		t.Errorf("the box says %q too", s)
	case <-time.After(50 * time.Millisecond):
	}
}

func TestAsksAgainInTime(t *testing.T) {
	ln := listen(t)
	start(t, Config{Address: ln.Addr().String(), KeepAlive: long, Silence: long, Interval: 5 * time.Millisecond})
	m := plug(t, ln)
	for range 3 {
		if q := m.next(t); class([]byte(q)) != "1203" {
			t.Fatalf("the box says %q", q)
		}
	}
}

// A monitor that has fallen silent is left, and taken up again when it answers.
func TestASilentMonitorIsLeft(t *testing.T) {
	adapterstest.Goroutines(t)
	ln := listen(t)
	r := start(t, Config{Address: ln.Addr().String(), KeepAlive: 5 * time.Millisecond, Silence: 200 * time.Millisecond})
	var lines []uint64
	for range 2 {
		m := plug(t, ln)
		m.next(t)
		for range 3 {
			m.send(t, echo)
			f := r.Next(t)
			lines = append(lines, f.Line)
			f.Reply()
		}
		for range m.said { // until the box hangs up
		}
	}
	if lines = slices.Compact(lines); len(lines) != 2 || lines[0] == lines[1] {
		t.Errorf("the connections are %v: what was said on the first must not hold on the second", lines)
	}
}

const online = "MSH|^~\\&|||||||ADT^A01|101|P|2.3.1|\rEVN||00000000|\rPID|||14140f00||rep^wet|\rPV1||I|^^icu&222&ADDRESS&PORT&&1|||||||||||||||U|4294967040||\r"

func announce(t *testing.T, to string, ip, port string) {
	t.Helper()
	conn, err := net.Dial("udp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(adapterstest.MLLP(strings.NewReplacer("ADDRESS", ip, "PORT", port).Replace(online))); err != nil {
		t.Fatal(err)
	}
}

func udpPort(t *testing.T) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.LocalAddr().String()
}

// A beacon of the monitor gives the port; one that names another address leads nowhere.
func TestBeacon(t *testing.T) {
	adapterstest.Goroutines(t)
	ln, foreign := listen(t), listen(t)
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	_, trap, _ := net.SplitHostPort(foreign.Addr().String())
	at := udpPort(t)
	r := start(t, Config{Address: "127.0.0.1:0", Beacon: at, KeepAlive: 10 * time.Millisecond, Silence: long})
	r.Await(t, "the foreign address is seen", func(s adapters.Status) bool {
		announce(t, at, "3232237756", trap) // 192.168.8.188
		return s.State == adapters.StateWaiting && strings.Contains(s.Detail, "192.168.8.188")
	})
	connected := make(chan struct{})
	var announcing sync.WaitGroup
	announcing.Go(func() {
		for n := 0; ; n++ {
			announce(t, at, []string{"", "2130706433"}[n%2], port) // not given, or 127.0.0.1
			select {
			case <-connected:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	m := plug(t, ln)
	close(connected)
	announcing.Wait()
	m.next(t)
	foreign.(*net.TCPListener).SetDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := foreign.Accept(); err == nil {
		t.Error("the box went where a foreign beacon led")
	}
	if s := r.Status(); s.State != adapters.StateConnected || s.Kind != "mindray-pds" {
		t.Errorf("status %+v", s)
	}
}

func TestBeaconIsBelievedFromTheMonitorOnly(t *testing.T) {
	b := &beacon{monitor: netip.MustParseAddr("192.168.8.188"), wake: make(chan struct{}, 1)}
	datagram := func(ip, port string) []byte {
		return []byte("\v" + strings.NewReplacer("ADDRESS", ip, "PORT", port).Replace(online) + "\x1c\r")
	}
	for _, c := range []struct {
		from, ip, port string
		want           bool
		target         string
	}{
		{"192.168.8.189", "3232237756", "4601", false, ""},
		{"192.168.8.188", "3232237757", "4601", false, ""},
		{"192.168.8.188", "99999999999", "4601", false, ""},
		{"192.168.8.188", "3232237756", "70000", false, ""},
		{"192.168.8.188", "3232237756", "0", false, ""},
		{"192.168.8.188", "3232237756", "4601", true, "192.168.8.188:4601"},
		{"192.168.8.188", "", "4602", true, "192.168.8.188:4602"},
		{"192.168.8.188", "3232237757", "4603", false, "192.168.8.188:4602"},
	} {
		if got := b.take(datagram(c.ip, c.port), netip.MustParseAddr(c.from)); got != c.want || b.target() != c.target {
			t.Errorf("%+v: taken %v, target %q", c, got, b.target())
		}
	}
	if b.take(bytes.Replace(datagram("3232237756", "4604"), []byte("|101|"), []byte("|103|"), 1), b.monitor) {
		t.Error("a message of another class passes for a beacon")
	}
}

// Two monitors of a box hear the same broadcasts.
func TestTwoHearOnePort(t *testing.T) {
	_, port, _ := net.SplitHostPort(udpPort(t))
	var both []*adapterstest.Running
	for range 2 {
		both = append(both, start(t, Config{Address: "127.0.0.1:0", Beacon: "0.0.0.0:" + port, Silence: long}))
	}
	for _, r := range both {
		r.Await(t, "the beacon is heard", func(s adapters.Status) bool {
			announce(t, "127.255.255.255:"+port, "3232237756", "4601")
			return strings.Contains(s.Detail, "192.168.8.188")
		})
	}
}

func TestNewRefuses(t *testing.T) {
	for want, cfg := range map[string]Config{
		"host:port":   {Address: "192.0.2.7"},
		"port":        {Address: "192.0.2.7:0"},
		"IP address":  {Address: "monitor.example:4601", Beacon: "0.0.0.0:4600"},
		"beacon":      {Address: "192.0.2.7:4601", Beacon: "4600"},
		"no number":   {Address: "192.0.2.7:4601", IDs: []string{"101", "1^1"}},
		"asked for":   {Address: "192.0.2.7:4601", IDs: make([]string, maxIDs+1)},
		"negative":    {Address: "192.0.2.7:4601", Silence: -1},
		"cannot limi": {Address: "192.0.2.7:4601", MaxMessage: 3},
	} {
		if _, err := New(cfg, adapterstest.Log(t)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want it to say %q", cfg, err, want)
		}
	}
}

func FuzzAnnounced(f *testing.F) {
	f.Add([]byte("\v" + strings.NewReplacer("ADDRESS", "3232237756", "PORT", "4601").Replace(online) + "\x1c\r"))
	f.Add([]byte("MSH|^~\\&|||||||ADT^A01|101\rPV1||I|^^&&&1"))
	f.Add([]byte("MSH\r\r\r\r\r\r\r\r\r\r"))
	f.Fuzz(func(t *testing.T, datagram []byte) {
		ip, port, ok := announced(datagram)
		if ok && port == 0 || !ok && (port != 0) || ip.IsValid() && !ip.Is4() {
			t.Errorf("address %v, port %d, %v", ip, port, ok)
		}
	})
}
