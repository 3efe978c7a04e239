package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"

	"github.com/vitalgate/vitalgate/provision/protocol"
	"github.com/vitalgate/vitalgate/record/durable"
)

// network holds the settings of the box's interfaces: by DHCP on the first wired one, until somebody sets others.
type network struct {
	path   string // where kept settings lie; "" while there is no data partition
	resolv string // where the name servers are told
	log    *slog.Logger

	mu       sync.Mutex
	inForce  map[string]protocol.Network // by interface
	stop     map[string]context.CancelFunc
	resolver map[string][]string
	servers  map[string][]string // NTP
}

func newNetwork(path string, log *slog.Logger) *network {
	return &network{path: path, resolv: resolverFile, log: log, inForce: map[string]protocol.Network{}, stop: map[string]context.CancelFunc{}, resolver: map[string][]string{}, servers: map[string][]string{}}
}

// begin puts the kept settings in force.
func (n *network) begin(ctx context.Context) error {
	if lo, err := netlink.LinkByName("lo"); err == nil {
		if err := netlink.LinkSetUp(lo); err != nil {
			return fmt.Errorf("cannot bring up lo: %w", err)
		}
	}
	// Who asks on one network is not told of an address on another (Linux, Documentation/networking/ip-sysctl.rst).
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/all/arp_ignore", []byte("1"), 0); err != nil {
		n.log.Error("addresses are told on every network", "error", err.Error())
	}
	all, err := n.kept()
	if err != nil {
		n.log.Error("the kept network settings cannot be used; the box takes an address by DHCP", "error", err.Error())
	}
	if len(all) == 0 {
		name, err := firstWired(10 * time.Second)
		if err != nil {
			return err
		}
		all = []protocol.Network{{Interface: name, Method: "dhcp"}}
	}
	for _, s := range all {
		if err := n.Apply(ctx, s); err != nil {
			n.log.Error("network settings could not be applied", "interface", s.Interface, "error", err.Error())
		}
	}
	return nil
}

func (n *network) kept() ([]protocol.Network, error) {
	if n.path == "" {
		return nil, nil
	}
	b, err := os.ReadFile(n.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []protocol.Network
	return all, json.Unmarshal(b, &all)
}

// firstWired is the Ethernet interface that the kernel has found first.
func firstWired(patience time.Duration) (string, error) {
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		links, err := netlink.LinkList()
		if err != nil {
			return "", fmt.Errorf("cannot list the network interfaces: %w", err)
		}
		for _, l := range links {
			if l.Type() == "device" && len(l.Attrs().HardwareAddr) == 6 && l.Attrs().Flags&net.FlagLoopback == 0 {
				return l.Attrs().Name, nil
			}
		}
		if time.Now().After(deadline) {
			return "", errors.New("cannot find a network interface; plug in a USB Ethernet adapter that this kernel knows")
		}
	}
}

// Settings are those of the first interface.
func (n *network) Settings() (protocol.Network, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, name := range n.names() {
		return n.inForce[name], nil
	}
	return protocol.Network{}, errors.New("no network interface has settings")
}

// On are the settings in force on an interface; without a method, none.
func (n *network) On(name string) protocol.Network {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s, ok := n.inForce[name]; ok {
		return s
	}
	return protocol.Network{Interface: name}
}

func (n *network) names() []string {
	var all []string
	for name := range n.inForce {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// Apply puts settings in force until the box restarts. What was on the interface before goes; with no method, nothing takes its place.
func (n *network) Apply(ctx context.Context, s protocol.Network) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if stop := n.stop[s.Interface]; stop != nil {
		stop()
	}
	link, err := netlink.LinkByName(s.Interface)
	if s.Method == "" {
		delete(n.inForce, s.Interface)
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			return n.writeResolver()
		}
	}
	if err != nil {
		return fmt.Errorf("cannot find the interface %s: %w", s.Interface, err)
	}
	if err := n.clean(link); err != nil {
		return err
	}
	if s.Method == "" {
		if err := netlink.LinkSetDown(link); err != nil { // with it go its routes
			return fmt.Errorf("cannot take down %s: %w", s.Interface, err)
		}
		return n.writeResolver()
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("cannot bring up %s: %w", s.Interface, err)
	}
	if s.VLAN > 0 {
		if link, err = tagged(link, s.VLAN); err != nil {
			return err
		}
	}
	n.inForce[s.Interface] = s
	n.resolver[s.Interface], n.servers[s.Interface] = s.DNS, s.NTP
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	n.stop[s.Interface] = cancel
	if s.Method == "dhcp" {
		go n.lease(ctx, link, s)
		return nil
	}
	address, err := netip.ParsePrefix(s.Address)
	if err != nil {
		return fmt.Errorf("cannot use the address %q: %w", s.Address, err)
	}
	var gateway net.IP
	if s.Gateway != "" {
		gateway = net.ParseIP(s.Gateway)
	}
	if err := assign(link, net.IPNet{IP: address.Addr().AsSlice(), Mask: net.CIDRMask(address.Bits(), address.Addr().BitLen())}, gateway); err != nil {
		return err
	}
	n.log.Info("network", "interface", link.Attrs().Name, "address", s.Address, "method", "static")
	return n.writeResolver()
}

// clean takes addresses and tagged interfaces off.
func (n *network) clean(link netlink.Link) error {
	all, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range all {
		if l.Type() == "vlan" && l.Attrs().ParentIndex == link.Attrs().Index {
			if err := netlink.LinkDel(l); err != nil {
				return fmt.Errorf("cannot remove %s: %w", l.Attrs().Name, err)
			}
		}
	}
	return flush(link, netlink.FAMILY_ALL)
}

// flush takes addresses off, but for those that IPv6 itself needs on a link (RFC 4291 §2.5.6).
func flush(link netlink.Link, family int) error {
	have, err := netlink.AddrList(link, family)
	if err != nil {
		return err
	}
	for _, a := range have {
		if a.IP.To4() == nil && a.IP.IsLinkLocalUnicast() {
			continue
		}
		if err := netlink.AddrDel(link, &a); err != nil {
			return fmt.Errorf("cannot remove the address %s: %w", a.IPNet, err)
		}
	}
	return nil
}

// tagged is the interface of an IEEE 802.1Q tag on link.
func tagged(link netlink.Link, tag int) (netlink.Link, error) {
	name := fmt.Sprintf("v%d.%d", link.Attrs().Index, tag) // IFNAMSIZ leaves no room for the name of the interface
	v := &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: name, ParentIndex: link.Attrs().Index}, VlanId: tag, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
	if err := netlink.LinkAdd(v); err != nil {
		return nil, fmt.Errorf("cannot make the interface of VLAN %d: %w", tag, err)
	}
	if err := netlink.LinkSetUp(v); err != nil {
		return nil, fmt.Errorf("cannot bring up VLAN %d: %w", tag, err)
	}
	return netlink.LinkByName(name)
}

func assign(link netlink.Link, address net.IPNet, gateway net.IP) error {
	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: &address}); err != nil {
		return fmt.Errorf("cannot set the address %s: %w", address.String(), err)
	}
	if gateway == nil {
		return nil
	}
	if err := netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway}); err != nil {
		return fmt.Errorf("cannot set the gateway %s: %w", gateway, err)
	}
	return nil
}

// Keep makes settings last.
func (n *network) Keep(s protocol.Network) error {
	if n.path == "" {
		return errors.New("cannot keep the settings: the box has no data partition yet")
	}
	all, err := n.kept()
	if err != nil {
		all = nil
	}
	all = append(slices.DeleteFunc(all, func(o protocol.Network) bool { return o.Interface == s.Interface }), s)
	b, err := json.Marshal(all)
	if err != nil {
		return err
	}
	return durable.WriteFile(n.path, b)
}

// lease takes an address by DHCP (RFC 2131) and renews it at half of its time, until ctx ends.
func (n *network) lease(ctx context.Context, link netlink.Link, s protocol.Network) {
	name := link.Attrs().Name
	wait := func(d time.Duration) {
		select {
		case <-ctx.Done():
		case <-time.After(d):
		}
	}
	for ctx.Err() == nil {
		c, err := nclient4.New(name, nclient4.WithTimeout(2*time.Second), nclient4.WithRetry(3))
		if err != nil {
			n.log.Warn("DHCP does not begin", "interface", name, "why", err.Error())
			wait(2 * time.Second)
			continue
		}
		l, err := c.Request(ctx, dhcpv4.WithOption(dhcpv4.OptHostName("vitalgate")))
		for err == nil {
			if err = n.take(ctx, link, s, l.ACK); err != nil {
				break
			}
			wait(max(l.ACK.IPAddressLeaseTime(time.Hour)/2, time.Minute))
			if ctx.Err() != nil {
				break
			}
			l, err = c.Renew(ctx, l)
		}
		c.Close()
		if err != nil && ctx.Err() == nil {
			n.log.Warn("no address by DHCP; it is asked for again", "interface", name, "why", err.Error())
			wait(2 * time.Second)
		}
	}
}

// take puts a lease in force, unless other settings were meanwhile.
func (n *network) take(ctx context.Context, link netlink.Link, s protocol.Network, ack *dhcpv4.DHCPv4) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	mask := ack.SubnetMask()
	if mask == nil {
		mask = ack.YourIPAddr.DefaultMask()
	}
	address := net.IPNet{IP: ack.YourIPAddr, Mask: mask}
	have, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, a := range have {
		if !a.IP.Equal(address.IP) {
			if err := flush(link, netlink.FAMILY_V4); err != nil {
				return err
			}
		}
	}
	var gateway net.IP
	if r := ack.Router(); len(r) > 0 {
		gateway = r[0]
	}
	if err := assign(link, address, gateway); err != nil {
		return err
	}
	if len(s.DNS) == 0 {
		n.resolver[s.Interface] = texts(ack.DNS())
	}
	if len(s.NTP) == 0 {
		n.servers[s.Interface] = texts(ack.NTPServers())
	}
	if len(have) == 0 {
		n.log.Info("network", "interface", link.Attrs().Name, "address", address.String(), "method", "dhcp")
	}
	return n.writeResolver()
}

func texts(all []net.IP) []string {
	var s []string
	for _, ip := range all {
		s = append(s, ip.String())
	}
	return s
}

// resolverFile is where /etc/resolv.conf points to.
const resolverFile = "/run/resolv.conf"

func (n *network) writeResolver() error {
	var b strings.Builder
	for _, name := range n.names() {
		for _, d := range n.resolver[name] {
			fmt.Fprintf(&b, "nameserver %s\n", d)
		}
	}
	if err := os.WriteFile(n.resolv, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("cannot set the name servers: %w", err)
	}
	return nil
}

// timeServers are those that settings or DHCP name.
func (n *network) timeServers() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []string
	for _, name := range n.names() {
		all = append(all, n.servers[name]...)
	}
	return all
}
