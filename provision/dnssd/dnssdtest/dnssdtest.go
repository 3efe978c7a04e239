// Package dnssdtest says whether this machine can try multicast DNS.
package dnssdtest

import (
	"net"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/provision/dnssd"
)

// Loopback skips a test where the loopback carries no multicast, or nobody may listen at its port, as in some containers.
func Loopback(t *testing.T) {
	t.Helper()
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Skipf("there is no loopback by the name lo: %v", err)
	}
	c, err := net.ListenMulticastUDP("udp4", lo, net.UDPAddrFromAddrPort(dnssd.Group))
	if err != nil {
		t.Skipf("multicast cannot be heard here: %v", err)
	}
	defer c.Close()
	s, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}) // so it sends on the loopback
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	buf := make([]byte, 1<<14)
	for range 10 {
		if _, err := s.WriteToUDPAddrPort([]byte("is anybody there?"), dnssd.Group); err != nil {
			t.Skipf("multicast cannot be sent here: %v", err)
		}
		c.SetReadDeadline(time.Now().Add(time.Second))
		if _, _, err := c.ReadFromUDPAddrPort(buf); err == nil {
			return
		}
	}
	t.Skip("the loopback of this machine carries no multicast")
}
