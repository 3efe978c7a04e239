package mdns

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/provision/dnssd"
	"github.com/vitalgate/vitalgate/provision/dnssd/dnssdtest"
)

// A box whose link is on the loopback answers there, names the port of the link, and says who owns it when that has changed.
func TestTheBoxIsFound(t *testing.T) {
	dnssdtest.Loopback(t)
	ctx, cancel := context.WithCancel(t.Context())
	owned := make(chan bool, 1)
	owned <- false
	r := Responder{Listen: "127.0.0.1:8475", Log: slog.New(slog.DiscardHandler), Box: func() (string, bool) {
		is := <-owned
		owned <- is
		return "VG-78RS-QP7F", is
	}}
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	want := dnssd.Box{Name: "VG-78RS-QP7F", Port: 8475, Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}
	for _, want.Owned = range []bool{false, true} {
		<-owned
		owned <- want.Owned
		await(t, want)
	}
}

// await asks until the box answers so: a question or an answer may be lost.
func await(t *testing.T, want dnssd.Box) {
	t.Helper()
	var got []dnssd.Box
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); {
		c := socket(t)
		q, err := dnssd.Question(99)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.WriteToUDPAddrPort(q, dnssd.Group); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 1<<14)
		c.SetReadDeadline(time.Now().Add(2 * time.Second))
		n, _, err := c.ReadFromUDPAddrPort(buf)
		c.Close()
		if err != nil {
			continue
		}
		if got = dnssd.Boxes(buf[:n], 99); reflect.DeepEqual(got, []dnssd.Box{want}) {
			return
		}
	}
	t.Fatalf("found %+v, want %+v", got, want)
}

// socket sends on the loopback, because it has an address of it.
func socket(t *testing.T) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
