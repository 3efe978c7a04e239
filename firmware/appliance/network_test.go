package appliance

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vitalgate/vitalgate/provision/protocol"
)

// interfacesOfTheirOwn gives the test a network of its own, with two interfaces.
func interfacesOfTheirOwn(t *testing.T) *network {
	t.Helper()
	runtime.LockOSThread() // and not unlocked: the thread ends with the test, and its network with it
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("this test may not make a network of its own: %v", err)
	}
	for _, name := range []string{"e0", "e1"} {
		if err := netlink.LinkAdd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: name}}); err != nil {
			t.Skipf("this kernel makes no interfaces: %v", err)
		}
	}
	n := newNetwork("", slog.New(slog.DiscardHandler))
	n.resolv = filepath.Join(t.TempDir(), "resolv.conf")
	return n
}

func addresses(t *testing.T, name string) (all []string) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	have, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range have {
		if !a.IP.IsLinkLocalUnicast() {
			all = append(all, a.IPNet.String())
		}
	}
	return all
}

func TestSettingsGoWithoutATrace(t *testing.T) {
	n := interfacesOfTheirOwn(t)
	first := protocol.Network{Interface: "e0", Method: "static", Address: "10.1.0.5/24", Gateway: "10.1.0.1"}
	for _, s := range []protocol.Network{first,
		{Interface: "e1", Method: "static", Address: "fd00::5/64"},
		{Interface: "e1", Method: "static", Address: "10.2.0.5/24", Gateway: "10.2.0.1"}} {
		if err := n.Apply(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	if have := addresses(t, "e1"); !slices.Equal(have, []string{"10.2.0.5/24"}) {
		t.Errorf("e1 has %q, also of the settings of before", have)
	}
	if n.On("e1").Address != "10.2.0.5/24" || n.On("e2").Method != "" {
		t.Errorf("in force on e1: %+v, on e2: %+v", n.On("e1"), n.On("e2"))
	}
	for _, s := range []protocol.Network{{Interface: "e1"}, {Interface: "e2"}, first} {
		if err := n.Apply(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	if have := addresses(t, "e1"); len(have) > 0 || n.On("e1").Method != "" {
		t.Errorf("e1 has %q", have)
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	var gateways []string
	for _, r := range routes {
		if r.Gw != nil {
			gateways = append(gateways, r.Gw.String())
		}
	}
	if !slices.Equal(gateways, []string{"10.1.0.1"}) {
		t.Errorf("the gateways are %q", gateways)
	}
}

func TestALeaseThatEndsChangesNothing(t *testing.T) {
	n := interfacesOfTheirOwn(t)
	if err := n.Apply(t.Context(), protocol.Network{Interface: "e0", Method: "static", Address: "10.1.0.5/24"}); err != nil {
		t.Fatal(err)
	}
	link, err := netlink.LinkByName("e0")
	if err != nil {
		t.Fatal(err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	ack := &dhcpv4.DHCPv4{YourIPAddr: net.IPv4(10, 3, 0, 5)}
	if err := n.take(ended, link, protocol.Network{Interface: "e0", Method: "dhcp"}, ack); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if have := addresses(t, "e0"); !slices.Equal(have, []string{"10.1.0.5/24"}) {
		t.Errorf("e0 has %q", have)
	}
}
