package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"golang.org/x/net/ipv4"

	"github.com/vitalgate/vitalgate/provision/dnssd"
)

type findCmd struct {
	For  time.Duration `default:"4s" help:"How long to look."`
	JSON bool          `help:"As JSON."`
}

// found is a box that answered. That it is the one with this name only its label proves, which every other command asks for.
type found struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Owned   bool   `json:"owned"`
}

func (c findCmd) Run(ctx context.Context) error {
	all, err := look(ctx, c.For, nil)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(append([]found{}, all...))
	}
	if len(all) == 0 {
		fmt.Println(nobodyAnswers)
		return errSaid
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, f := range all {
		whose := "nobody's: it waits to be enrolled"
		if f.Owned {
			whose = "it has an owner"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", f.Name, f.Address, whose)
	}
	return w.Flush()
}

const nobodyAnswers = "No box answers on the networks of this laptop. Check that the box has power and its network cable, and that this laptop is in the same network (its firewall must let multicast DNS through); " +
	"else ask whoever runs the network which address it gave to the box."

// look asks for boxes on every network of this machine (RFC 6762 §5.1), until enough says so or the time is over.
func look(ctx context.Context, patience time.Duration, enough func(found) bool) ([]found, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("cannot look for boxes: %w; give the box's address", err)
	}
	var mu sync.Mutex
	boxes := map[string]found{}
	var asking sync.WaitGroup
	asked := false
	for _, i := range all {
		if i.Flags&net.FlagUp == 0 {
			continue
		}
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err != nil || !p.Addr().Is4() {
				continue
			}
			c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.Addr(), 0)))
			if err != nil {
				continue
			}
			if ipv4.NewPacketConn(c).SetMulticastInterface(&i) != nil {
				c.Close()
				continue
			}
			asked = true
			asking.Go(func() {
				defer c.Close()
				ask(ctx, c, p, func(f found) {
					mu.Lock()
					defer mu.Unlock()
					boxes[f.Name+" "+f.Address] = f
					if enough != nil && enough(f) {
						cancel()
					}
				})
			})
		}
	}
	asking.Wait()
	if !asked {
		return nil, errors.New("cannot look for boxes: this machine has no network; plug its cable in, or give the box's address")
	}
	return slices.SortedFunc(maps.Values(boxes), func(a, b found) int { return strings.Compare(a.Name+a.Address, b.Name+b.Address) }), nil
}

// ask asks on one network until ctx ends, anew now and then: a question or an answer may be lost.
func ask(ctx context.Context, c *net.UDPConn, own netip.Prefix, tell func(found)) {
	stop := context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Now()) })
	defer stop()
	id := uint16(rand.N(1 << 16))
	question, err := dnssd.Question(id)
	if err != nil {
		return
	}
	buf := make([]byte, 1<<14)
	for wait := time.Second; ctx.Err() == nil; wait *= 2 {
		c.WriteToUDPAddrPort(question, dnssd.Group)
		next := time.Now().Add(wait)
		for c.SetReadDeadline(next); ctx.Err() == nil; {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				break // most likely the time is over
			}
			for _, b := range dnssd.Boxes(buf[:n], id) {
				if at := from.Addr().Unmap(); own.Contains(at) { // it answers from where it is
					tell(found{b.Name, net.JoinHostPort(at.String(), strconv.Itoa(int(b.Port))), b.Owned})
				}
			}
		}
		if d := time.Until(next); d > 0 { // the socket failed early
			select {
			case <-ctx.Done():
			case <-time.After(d):
			}
		}
	}
}
