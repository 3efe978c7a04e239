// Package mdns answers whoever looks for boxes on the wires of this one, by multicast DNS (RFC 6762). What it says is package dnssd's;
// why it may is docs/adr/0043.
package mdns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vitalgate/vitalgate/provision/dnssd"
)

// look is how often it is looked whether interfaces, addresses or the owner have changed.
const look = 5 * time.Second

// pause is what each message of the wire costs its sender's flood: it is read no faster, and the system drops the rest. The box has
// better things to do.
const pause = time.Millisecond

// Responder answers for the provisioning link.
type Responder struct {
	Listen string // host:port of the link; a host that is an address is told on its own interface only
	Box    func() (name string, owned bool)
	Log    *slog.Logger
}

// wire is an interface on which the box is told.
type wire struct {
	net  net.Interface
	own  []netip.Prefix // of the interface
	told []netip.Addr   // where the link is
}

// Run answers until ctx ends. An interface on which nobody can be answered is left out: a box is reachable without this.
func (r *Responder) Run(ctx context.Context) error {
	host, port, err := net.SplitHostPort(r.Listen)
	if err != nil {
		return fmt.Errorf("cannot tell where the box is: %w", err)
	}
	at, err := net.LookupPort("tcp", port)
	if err != nil {
		return fmt.Errorf("cannot tell where the box is: %w", err)
	}
	only, _ := netip.ParseAddr(host)
	g, ctx := errgroup.WithContext(ctx)
	running := map[string]context.CancelFunc{} // by interface and what is told there: what changes is told anew
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		now := map[string]bool{}
		name, owned := r.Box()
		for _, w := range wires(only.Unmap()) {
			box := dnssd.Box{Name: name, Owned: owned, Port: uint16(at), Addresses: w.told}
			key := fmt.Sprint(w.net.Index, w.own, box)
			now[key] = true
			if running[key] != nil {
				continue
			}
			wctx, stop := context.WithCancel(ctx)
			running[key] = stop
			g.Go(func() error { return r.keep(wctx, w, box) })
		}
		for key, stop := range running {
			if !now[key] {
				stop()
				delete(running, key)
			}
		}
		select {
		case <-ctx.Done():
			for _, stop := range running {
				stop()
			}
			g.Wait()
			return nil
		case <-tick.C:
		}
	}
}

// keep answers on one wire, and tries again what fails there: a box is of use without it.
func (r *Responder) keep(ctx context.Context, w wire, box dnssd.Box) error {
	for said := false; ; said = true {
		err := serve(ctx, w, box)
		if err == nil {
			return nil
		}
		if !said {
			r.Log.Warn("the box cannot be found on this wire", "interface", w.net.Name, "error", err.Error())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(look):
		}
	}
}

// wires are the interfaces with an IPv4 address. The loopback is one only for a link that is bound to it.
func wires(only netip.Addr) (all []wire) {
	found, _ := net.Interfaces()
	for _, i := range found {
		w := wire{net: i}
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err != nil || !p.Addr().Is4() {
				continue
			}
			w.own = append(w.own, p)
			if any := !only.IsValid() || only.IsUnspecified(); any && i.Flags&net.FlagLoopback == 0 || p.Addr() == only {
				w.told = append(w.told, p.Addr())
			}
		}
		if i.Flags&net.FlagUp != 0 && len(w.told) > 0 {
			all = append(all, w)
		}
	}
	return all
}

// serve answers on one wire.
func serve(ctx context.Context, w wire, box dnssd.Box) error {
	c, err := net.ListenMulticastUDP("udp4", &w.net, net.UDPAddrFromAddrPort(dnssd.Group))
	if err != nil {
		return fmt.Errorf("cannot listen for multicast DNS: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Now()) })
	defer stop()
	defer c.Close()
	announce := func(farewell bool) {
		if m, err := box.Announcement(farewell); err == nil {
			c.WriteToUDPAddrPort(m, dnssd.Group)
		}
	}
	announce(false) // and once more a second later (RFC 6762 §8.3)
	again := time.AfterFunc(time.Second, func() { announce(false) })
	defer announce(true)
	defer again.Stop()
	buf := make([]byte, 1<<14)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot listen for multicast DNS: %w", err)
		}
		time.Sleep(pause)
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		// Only who is on this very wire is answered (RFC 6762 §11): the kernel gives a socket what comes on others too.
		if !slices.ContainsFunc(w.own, func(p netip.Prefix) bool { return p.Contains(from.Addr()) }) {
			continue
		}
		oneShot := from.Port() != dnssd.Group.Port()
		answer, err := box.Answer(buf[:n], oneShot)
		if err != nil {
			return err
		}
		if answer == nil {
			continue
		}
		// Many boxes are asked at once (RFC 6762 §6); and no more than a few answers a second leave, whoever asks.
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(20*time.Millisecond + rand.N(100*time.Millisecond)):
		}
		to := dnssd.Group
		if oneShot {
			to = from
		}
		if _, err := c.WriteToUDPAddrPort(answer, to); err != nil && errors.Is(err, net.ErrClosed) {
			return err
		}
	}
}
