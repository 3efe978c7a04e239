package mllp_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/adapters/adapterstest"
	"github.com/vitalgate/vitalgate/adapters/mllp"
)

func newAdapter(t testing.TB, cfg mllp.Config) adapters.Adapter {
	t.Helper()
	if cfg.Monitor == "" {
		cfg.Monitor = "bed-1"
	}
	if cfg.Role == "" {
		cfg.Role, cfg.Address = "server", "127.0.0.1:0"
	}
	var a adapters.Adapter
	var err error
	if tt, ok := t.(*testing.T); ok {
		a, err = mllp.New(cfg, adapterstest.Log(tt))
	} else {
		a, err = mllp.New(cfg, slog.New(slog.DiscardHandler))
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// dial connects to a server adapter that runs.
func dial(t testing.TB, a adapters.Adapter) net.Conn {
	t.Helper()
	for end := time.Now().Add(adapterstest.Patience); ; time.Sleep(time.Millisecond) {
		if s := a.Status(); s.State == adapters.StateListening || s.State == adapters.StateConnected {
			conn, err := net.Dial("tcp", s.Address)
			if err != nil {
				t.Fatal(err)
			}
			return conn
		}
		if time.Now().After(end) {
			t.Fatalf("the server does not listen: %+v", a.Status())
		}
	}
}

func server(cfg mllp.Config, wrap func(net.Conn) io.ReadWriteCloser) func(t *testing.T) adapterstest.Rig {
	return func(t *testing.T) adapterstest.Rig {
		a := newAdapter(t, cfg)
		return adapterstest.Rig{Adapter: a, Via: "tcp 127.0.0.1:", Plug: func(t *testing.T) io.ReadWriteCloser { return wrap(dial(t, a)) }}
	}
}

func client(cfg mllp.Config, wrap func(net.Conn) io.ReadWriteCloser) func(t *testing.T) adapterstest.Rig {
	return func(t *testing.T) adapterstest.Rig {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		cfg.Role, cfg.Address = "client", ln.Addr().String()
		return adapterstest.Rig{Adapter: newAdapter(t, cfg), Via: "tcp " + cfg.Address, Plug: func(t *testing.T) io.ReadWriteCloser {
			ln.(*net.TCPListener).SetDeadline(time.Now().Add(adapterstest.Patience))
			conn, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			return wrap(conn)
		}}
	}
}

func plain(c net.Conn) io.ReadWriteCloser { return c }

func TestServer(t *testing.T) { adapterstest.Run(t, server(mllp.Config{}, plain)) }

func TestClient(t *testing.T) { adapterstest.Run(t, client(mllp.Config{}, plain)) }

func TestTLS(t *testing.T) {
	cert, pool := certificate(t)
	serverTLS := &tls.Config{Certificates: []tls.Certificate{cert}}
	clientTLS := &tls.Config{RootCAs: pool}
	t.Run("Server", func(t *testing.T) {
		adapterstest.Run(t, server(mllp.Config{TLS: serverTLS}, func(c net.Conn) io.ReadWriteCloser {
			return tls.Client(c, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"})
		}))
	})
	t.Run("Client", func(t *testing.T) {
		adapterstest.Run(t, client(mllp.Config{TLS: clientTLS}, func(c net.Conn) io.ReadWriteCloser { return tls.Server(c, serverTLS) }))
	})
	t.Run("plain text is refused", func(t *testing.T) {
		r := adapterstest.Start(t, newAdapter(t, mllp.Config{TLS: serverTLS}))
		conn := dial(t, r)
		defer conn.Close()
		conn.Write(adapterstest.MLLP(adapterstest.Message(1)))
		io.ReadAll(conn) // until it is closed
		if s := r.Await(t, "disconnected", func(s adapters.Status) bool { return s.Connections == 0 }); s.Frames != 0 {
			t.Fatalf("a message came in plain text: %+v", s)
		}
	})
}

func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// Two monitors on one port do not mix, and each gets its own answers.
func TestTwoConnections(t *testing.T) {
	r := adapterstest.Start(t, newAdapter(t, mllp.Config{}))
	a, b := dial(t, r), dial(t, r)
	defer a.Close()
	defer b.Close()
	half := len(adapterstest.MLLP(adapterstest.Message(1))) / 2
	a.Write(adapterstest.MLLP(adapterstest.Message(1))[:half])
	b.Write(adapterstest.MLLP(adapterstest.Message(2)))
	f2 := r.Next(t)
	a.Write(adapterstest.MLLP(adapterstest.Message(1))[half:])
	f1 := r.Next(t)
	if string(f1.Data) != adapterstest.Message(1) || string(f2.Data) != adapterstest.Message(2) || f1.Via != "tcp "+a.LocalAddr().String() || f2.Via != "tcp "+b.LocalAddr().String() {
		t.Fatalf("they came as %q over %s and %q over %s", f1.Data, f1.Via, f2.Data, f2.Via)
	}
	f1.Reply([]byte("one"))
	f2.Reply([]byte("two"))
	if got := adapterstest.Acks(t, a, 1)[0]; got != "one" {
		t.Fatalf("a got %q", got)
	}
	if got := adapterstest.Acks(t, b, 1)[0]; got != "two" {
		t.Fatalf("b got %q", got)
	}
}

// A monitor that closes its sending side after the message still gets the answer.
func TestHalfClose(t *testing.T) {
	r := adapterstest.Start(t, newAdapter(t, mllp.Config{}))
	conn := dial(t, r)
	defer conn.Close()
	conn.Write(adapterstest.MLLP(adapterstest.Message(1)))
	conn.(*net.TCPConn).CloseWrite()
	f := r.Next(t)
	time.Sleep(20 * time.Millisecond) // the adapter has seen the end by now
	if err := f.Reply([]byte("yes")); err != nil {
		t.Fatal(err)
	}
	if got := adapterstest.Acks(t, conn, 1)[0]; got != "yes" {
		t.Fatalf("the monitor got %q", got)
	}
}

// A bare message ends at once when the monitor says that it sends nothing more, however long silence would have to be; the
// answer still goes out.
func TestHalfCloseUnframed(t *testing.T) {
	r := adapterstest.Start(t, newAdapter(t, mllp.Config{Framing: adapters.Unframed, IdleEnd: time.Hour}))
	conn := dial(t, r)
	defer conn.Close()
	io.WriteString(conn, adapterstest.Message(1))
	conn.(*net.TCPConn).CloseWrite()
	f := r.Next(t)
	if string(f.Data) != adapterstest.Message(1) || adapters.Partial(f.Notes) {
		t.Fatalf("it came as %q %v", f.Data, f.Notes)
	}
	if err := f.Reply([]byte("yes")); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(adapterstest.Patience))
	if got, err := io.ReadAll(conn); err != nil || string(got) != "yes" {
		t.Fatalf("the monitor got %q, %v", got, err)
	}
}

// Too many connections are refused; those that are open stay.
func TestConnectionLimit(t *testing.T) {
	r := adapterstest.Start(t, newAdapter(t, mllp.Config{MaxConnections: 2}))
	a, b := dial(t, r), dial(t, r)
	defer b.Close()
	r.Await(t, "two connections", func(s adapters.Status) bool { return s.Connections == 2 })
	c := dial(t, r)
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(adapterstest.Patience))
	if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Fatalf("the third connection stays open: %v", err)
	}
	if s := r.Status(); s.Connections != 2 || s.Refused != 1 {
		t.Fatalf("status: %+v", s)
	}
	a.Close()
	r.Await(t, "a free place", func(s adapters.Status) bool { return s.Connections == 1 })
	d := dial(t, r)
	defer d.Close()
	d.Write(adapterstest.MLLP(adapterstest.Message(4)))
	r.Next(t).Reply(nil)
}

// Connections that say nothing, or only garbage, do not keep a monitor out; those that have spoken stay.
func TestSilentConnectionsGiveWay(t *testing.T) {
	r := adapterstest.Start(t, newAdapter(t, mllp.Config{MaxConnections: 3, FirstFrame: 20 * time.Millisecond}))
	monitor := dial(t, r)
	defer monitor.Close()
	monitor.Write(adapterstest.MLLP(adapterstest.Message(1)))
	r.Next(t).Reply(nil)
	for range 2 {
		conn := dial(t, r)
		defer conn.Close()
		io.WriteString(conn, "\vgarbage")
	}
	all := uint64(len(adapterstest.MLLP(adapterstest.Message(1))) + 2*len("\vgarbage"))
	r.Await(t, "full, all read", func(s adapters.Status) bool { return s.Connections == 3 && s.Bytes == all })
	time.Sleep(30 * time.Millisecond)
	second := dial(t, r)
	defer second.Close()
	second.Write(adapterstest.MLLP(adapterstest.Message(2)))
	for want := map[string]bool{adapterstest.Message(2): true, "garbage": true}; len(want) > 0; { // what the other had begun is kept too
		f := r.Next(t)
		if !want[string(f.Data)] {
			t.Fatalf("it came as %q", f.Data)
		}
		delete(want, string(f.Data))
		f.Reply(nil)
	}
	monitor.Write(adapterstest.MLLP(adapterstest.Message(3)))
	if f := r.Next(t); string(f.Data) != adapterstest.Message(3) {
		t.Fatalf("it came as %q", f.Data)
	}
	if s := r.Status(); s.Connections != 3 || s.Refused != 0 {
		t.Fatalf("status: %+v", s)
	}
}

func isTimeout(err error) bool {
	e, ok := err.(net.Error)
	return ok && e.Timeout()
}

// A sender that never ends its message does not hold a connection for ever, and what it sent is kept.
func TestSlowSender(t *testing.T) {
	r := adapterstest.Start(t, newAdapter(t, mllp.Config{FrameTimeout: 50 * time.Millisecond}))
	conn := dial(t, r)
	defer conn.Close()
	conn.Write([]byte("\vMSH|^~\\&|slow"))
	go func() {
		for {
			if _, err := conn.Write([]byte("x")); err != nil {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	f := r.Next(t)
	if !strings.HasPrefix(string(f.Data), "MSH|^~\\&|slow") || !slices.Contains(f.Notes, adapters.NoteIncomplete) {
		t.Fatalf("it came as %q %v", f.Data, f.Notes)
	}
	f.Reply(nil)
	r.Await(t, "disconnected", func(s adapters.Status) bool { return s.Connections == 0 })
}

// A monitor that takes its time between messages, but not within one, is not slow.
func TestSlowBetween(t *testing.T) {
	r := adapterstest.Start(t, newAdapter(t, mllp.Config{FrameTimeout: 100 * time.Millisecond}))
	conn := dial(t, r)
	defer conn.Close()
	for i := range 3 {
		conn.Write(adapterstest.MLLP(adapterstest.Message(i)))
		f := r.Next(t)
		if f.Notes != nil {
			t.Fatalf("message %d has notes %v", i, f.Notes)
		}
		time.Sleep(120 * time.Millisecond)
		f.Reply(nil)
	}
	if s := r.Status(); s.Connections != 1 {
		t.Fatalf("status: %+v", s)
	}
}

func TestReadIdle(t *testing.T) {
	r := adapterstest.Start(t, newAdapter(t, mllp.Config{ReadIdle: 30 * time.Millisecond}))
	conn := dial(t, r)
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(adapterstest.Patience))
	if _, err := conn.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Fatalf("a silent connection stays open: %v", err)
	}
}

// Bare messages end where the next one begins, at silence and at the close.
func TestUnframed(t *testing.T) {
	r := adapterstest.Start(t, newAdapter(t, mllp.Config{Framing: adapters.Unframed, IdleEnd: 50 * time.Millisecond}))
	conn := dial(t, r)
	io.WriteString(conn, adapterstest.Message(1)+adapterstest.Message(2))
	for i, notes := range [][]string{nil, {adapters.NoteIdleEnded}} {
		f := r.Next(t)
		if string(f.Data) != adapterstest.Message(i+1) || !slices.Equal(f.Notes, notes) {
			t.Fatalf("it came as %q %v", f.Data, f.Notes)
		}
		f.Reply([]byte("MSA|AA|bare\r"))
	}
	got := make([]byte, 24)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "MSA|AA|bare\rMSA|AA|bare\r" {
		t.Fatalf("the monitor got %q, %v", got, err)
	}
	io.WriteString(conn, adapterstest.Message(3)+"OBX|2|NM|x||12")
	conn.Close()
	if f := r.Next(t); string(f.Data) != adapterstest.Message(3)+"OBX|2|NM|x||12" || !slices.Equal(f.Notes, []string{adapters.NoteUnterminated}) {
		t.Fatalf("it came as %q %v", f.Data, f.Notes)
	}
}

// A monitor that leaves out the last 0D and waits for its answer gets one, even if nothing more comes.
func TestNoTrailingCR(t *testing.T) {
	r := adapterstest.Start(t, newAdapter(t, mllp.Config{IdleEnd: 20 * time.Millisecond}))
	conn := dial(t, r)
	defer conn.Close()
	io.WriteString(conn, "\v"+adapterstest.Message(1)+"\x1c")
	f := r.Next(t)
	if string(f.Data) != adapterstest.Message(1) || !slices.Equal(f.Notes, []string{adapters.NoteNoTrailingCR}) {
		t.Fatalf("it came as %q %v", f.Data, f.Notes)
	}
	f.Reply([]byte("yes"))
	if got := adapterstest.Acks(t, conn, 1)[0]; got != "yes" {
		t.Fatalf("the monitor got %q", got)
	}
}

// A flood of connections, with garbage or nothing in them, costs no memory and no place: a monitor that is connected goes on, and
// another finds room afterwards.
func TestFlood(t *testing.T) {
	adapterstest.Goroutines(t)
	r := adapterstest.Start(t, newAdapter(t, mllp.Config{MaxConnections: 4}))
	good := dial(t, r)
	defer good.Close()
	r.Await(t, "the monitor", func(s adapters.Status) bool { return s.Connections == 1 })
	var flood []net.Conn
	for i := range 300 {
		conn, err := net.Dial("tcp", r.Status().Address)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\n%d\x00\xff", i)
		flood = append(flood, conn)
	}
	for n := range 3 {
		good.Write(adapterstest.MLLP(adapterstest.Message(n)))
		f := r.Next(t)
		if string(f.Data) != adapterstest.Message(n) {
			t.Fatalf("it came as %q", f.Data)
		}
		f.Reply([]byte("yes"))
		adapterstest.Acks(t, good, 1)
	}
	s := r.Await(t, "most refused", func(s adapters.Status) bool { return s.Refused == 297 })
	if s.Connections > 4 || s.Frames != 3 {
		t.Fatalf("status: %+v", s)
	}
	for _, conn := range flood {
		conn.Close()
	}
	r.Await(t, "room", func(s adapters.Status) bool { return s.Connections == 1 })
	another := dial(t, r)
	defer another.Close()
	another.Write(adapterstest.MLLP(adapterstest.Message(9)))
	r.Next(t).Reply(nil)
}

// HLLP refuses a damaged block in its place among the answers, and sends its own last block again when that was damaged.
func TestHLLP(t *testing.T) {
	r := adapterstest.Start(t, newAdapter(t, mllp.Config{Framing: adapters.HLLP}))
	conn := dial(t, r)
	defer conn.Close()
	const good = "\vD21\rB00006003\x1c\r"
	io.WriteString(conn, good+"\vD21\rB00006004\x1c\r"+good)
	f1, f2 := r.Next(t), r.Next(t)
	if string(f1.Data) != "B" || string(f2.Data) != "B" {
		t.Fatalf("it came as %q and %q", f1.Data, f2.Data)
	}
	f2.Reply([]byte("2"))
	f1.Reply([]byte("1"))
	// 0B^44^32^33^0D = 43, ^31 = 72 = 114; 0B^4E^32^33^0D = 49, ^58 = 11 = 017.
	want := "\vD23\r100006114\x1c\r" + "\vN23\rX00006017\x1c\r" + "\vD23\r200006113\x1c\r"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		t.Fatalf("the monitor got %q, %v, want %q", got, err, want)
	}
	io.WriteString(conn, "\vN23\rX00006017\x1c\r")
	again := make([]byte, len("\vD23\r200006113\x1c\r"))
	if _, err := io.ReadFull(conn, again); err != nil || string(again) != "\vD23\r200006113\x1c\r" {
		t.Fatalf("the monitor got %q, %v", again, err)
	}
}

// A monitor that takes no answers is let go, and what it sent is kept: it does not hold the box.
func TestMonitorThatTakesNoAnswers(t *testing.T) {
	r := adapterstest.Start(t, newAdapter(t, mllp.Config{WriteTimeout: 50 * time.Millisecond}))
	conn := dial(t, r)
	defer conn.Close()
	conn.(*net.TCPConn).SetReadBuffer(4096)
	go func() {
		for i := range 1000 {
			if _, err := conn.Write(adapterstest.MLLP(adapterstest.Message(i))); err != nil {
				return
			}
		}
	}()
	long := bytes.Repeat([]byte("x"), 1<<20)
	for gone := false; !gone; {
		select {
		case f := <-r.Out:
			f.Reply(long)
		case <-time.After(time.Millisecond):
			gone = r.Status().Connections == 0 && r.Status().Frames > 0
		}
	}
}

// An answer for a monitor that has gone is an error, and no more than that.
func TestMonitorGone(t *testing.T) {
	r := adapterstest.Start(t, newAdapter(t, mllp.Config{}))
	conn := dial(t, r)
	conn.Write(adapterstest.MLLP(adapterstest.Message(1)))
	f := r.Next(t)
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
	r.Await(t, "disconnected", func(s adapters.Status) bool { return s.Connections == 0 })
	if err := f.Reply([]byte("late")); err == nil {
		t.Fatal("an answer to nobody is no error")
	}
}

func TestPortInUse(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a := newAdapter(t, mllp.Config{Role: "server", Address: ln.Addr().String()})
	ctx, cancel := context.WithTimeout(context.Background(), adapterstest.Patience)
	defer cancel()
	err = a.Run(ctx, nil)
	if err == nil {
		t.Fatal("two servers on one port")
	}
	for _, want := range []string{"cannot listen on " + ln.Addr().String(), "bed-1", "choose another"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	if s := a.Status(); s.State != adapters.StateFailed || !strings.Contains(s.Detail, "choose another") {
		t.Errorf("status: %+v", s)
	}
}

// A wrong framing setting is seen on the status, without a look at the data.
func TestWrongFramingIsSaid(t *testing.T) {
	r := adapterstest.Start(t, newAdapter(t, mllp.Config{}))
	conn := dial(t, r)
	defer conn.Close()
	io.WriteString(conn, adapterstest.Message(1))
	s := r.Await(t, "dropped bytes", func(s adapters.Status) bool { return s.Dropped > 0 })
	if !strings.Contains(s.Detail, "framing") {
		t.Fatalf("status: %+v", s)
	}
}

func TestUnreachableIsSaid(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	r := adapterstest.Start(t, newAdapter(t, mllp.Config{Role: "client", Address: ln.Addr().String()}))
	s := r.Await(t, "an attempt", func(s adapters.Status) bool { return strings.Contains(s.Detail, "refused") })
	if s.State != adapters.StateWaiting || !strings.Contains(s.Detail, ln.Addr().String()) {
		t.Fatalf("status: %+v", s)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, c := range []struct {
		cfg  mllp.Config
		want string
	}{
		{mllp.Config{Role: "sever", Address: ":1"}, `"sever"`},
		{mllp.Config{Role: "server", Address: "2575"}, "host:port"},
		{mllp.Config{Role: "client", Address: ":2575"}, "host"},
		{mllp.Config{Role: "server", Address: ":1", Framing: "mlp"}, `"mlp"`},
		{mllp.Config{Role: "server", Address: ":1", MaxMessage: 2}, "2 bytes"},
		{mllp.Config{Role: "server", Address: ":1", ReadIdle: -1}, "negative"},
		{mllp.Config{Role: "server", Address: ":1", TLS: &tls.Config{}}, "certificate"},
	} {
		c.cfg.Monitor = "bed-9"
		_, err := mllp.New(c.cfg, adapterstest.Log(t))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "bed-9") {
			t.Errorf("%+v: %v, want it to say %s", c.cfg, err, c.want)
		}
	}
}

// BenchmarkReceiveReply is one message over loopback, and its answer; 16 are outstanding.
func BenchmarkReceiveReply(b *testing.B) {
	ctx, cancel := context.WithCancel(context.Background())
	out, done := make(chan *adapters.Frame, 64), make(chan error, 1)
	a := newAdapter(b, mllp.Config{})
	go func() { done <- a.Run(ctx, out) }()
	go func() {
		for f := range out {
			f.Reply([]byte("MSH|^~\\&|||||||ACK|1|P|2.6\rMSA|AA|1\r"))
		}
	}()
	conn := dial(b, a)
	const batch = 16
	in := adapterstest.MLLP(slices.Repeat([]string{adapterstest.Message(1)}, batch)...)
	ack := make([]byte, batch*len("\vMSH|^~\\&|||||||ACK|1|P|2.6\rMSA|AA|1\r\x1c\r"))
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if n++; n%batch != 0 {
			continue
		}
		if _, err := conn.Write(in); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(conn, ack); err != nil {
			b.Fatal(err)
		}
	}
	conn.Close()
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	close(out)
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "messages/s")
}

// What a network, or who is on it, can do to the bytes never gives a wrong value that looks like a good one.
func TestHostileStreams(t *testing.T) {
	adapterstest.RunHostile(t, func(t *testing.T, f adapters.Framing) adapterstest.Rig {
		a := newAdapter(t, mllp.Config{Framing: f, IdleEnd: time.Hour, FrameTimeout: time.Hour})
		return adapterstest.Rig{Adapter: a, Plug: func(t *testing.T) io.ReadWriteCloser { return dial(t, a) }}
	})
}
