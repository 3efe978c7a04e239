package pds

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// beacon hears what a monitor announces by UDP. Anybody on the network can send such a thing, so it never leads anywhere: it
// counts only if it was sent from the configured address and does not name another one. It gives the port where none is
// configured, and ends the wait for a monitor that was switched off.
type beacon struct {
	monitor netip.Addr
	wake    chan struct{}
	port    atomic.Uint32          // 0: not announced yet
	said    atomic.Pointer[string] // a sentence for the status
	foreign atomic.Uint64          // beacons of the monitor that named another address
}

// target is the address to dial, "" while it is not known.
func (b *beacon) target() string {
	port := b.port.Load()
	if port == 0 {
		return ""
	}
	return netip.AddrPortFrom(b.monitor, uint16(port)).String()
}

func (b *beacon) say(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	b.said.Store(&s)
}

const (
	maxDatagram = 4096            // bytes; a beacon has less than 1500
	absent      = 3 * time.Second // a monitor announces itself each second; after so long it was away
	retry       = 5 * time.Second
)

// listen hears beacons until ctx ends. A port that cannot be had is tried again: the beacon is a help only.
func (b *beacon) listen(ctx context.Context, address string, log *slog.Logger) {
	for {
		conn, err := (&net.ListenConfig{Control: shared}).ListenPacket(ctx, "udp", address)
		if err == nil {
			err = b.hear(ctx, conn)
		}
		if ctx.Err() != nil {
			return
		}
		b.say("Its beacon cannot be heard at %s: %v.", address, err)
		log.Warn("cannot hear beacons, trying again", "address", address, "error", err)
		select {
		case <-time.After(retry):
		case <-ctx.Done():
			return
		}
	}
}

func (b *beacon) hear(ctx context.Context, conn net.PacketConn) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	buf := make([]byte, maxDatagram)
	var last time.Time
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		udp, ok := from.(*net.UDPAddr)
		if !ok {
			return errors.New("this is no UDP address")
		}
		if !b.take(buf[:n], udp.AddrPort().Addr().Unmap()) {
			continue
		}
		if now := time.Now(); now.Sub(last) >= absent {
			select {
			case b.wake <- struct{}{}:
			default:
			}
		}
		last = time.Now()
	}
}

// take judges one datagram, and says whether the monitor is there.
func (b *beacon) take(datagram []byte, from netip.Addr) bool {
	if from != b.monitor {
		return false
	}
	ip, port, ok := announced(datagram)
	if !ok {
		return false
	}
	if ip.IsValid() && ip != b.monitor {
		b.foreign.Add(1)
		b.say("Its beacon names another address, %v, which is not followed: check the address in the configuration and in the monitor.", ip)
		return false
	}
	b.port.Store(uint32(port))
	b.say("It announces itself at port %d.", port)
	return true
}

// announced reads a beacon: an ADT^A01 of class 101 whose PV1-3.3 holds, as subcomponents 3 and 4, the IPv4 address as one
// number (none: not given) and the TCP port.
func announced(datagram []byte) (ip netip.Addr, port uint16, ok bool) {
	text := strings.Trim(string(datagram), "\x00\x0b\x1c\r\n")
	if class([]byte(text)) != "101" {
		return ip, 0, false
	}
	bar, comp, sub := text[3:4], text[4:5], text[7:8]
	for segment := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == '\r' || r == '\n' }) {
		if !strings.HasPrefix(segment, "PV1"+bar) {
			continue
		}
		place := strings.Split(part(part(segment, bar, 3), comp, 2), sub)
		if len(place) < 4 {
			return ip, 0, false
		}
		p, err := strconv.ParseUint(place[3], 10, 16)
		if err != nil || p == 0 {
			return ip, 0, false
		}
		if place[2] != "" && place[2] != "0" {
			n, err := strconv.ParseUint(place[2], 10, 32)
			if err != nil {
				return ip, 0, false
			}
			var b [4]byte
			binary.BigEndian.PutUint32(b[:], uint32(n))
			ip = netip.AddrFrom4(b)
		}
		return ip, uint16(p), true
	}
	return ip, 0, false
}

// part is the nth part of s, from 0, "" if there are fewer.
func part(s, sep string, n int) string {
	for range n {
		_, rest, ok := strings.Cut(s, sep)
		if !ok {
			return ""
		}
		s = rest
	}
	s, _, _ = strings.Cut(s, sep)
	return s
}

// class is MSH-10 of a message, "" if that cannot be read.
func class(message []byte) string {
	head, _, _ := strings.Cut(string(message[:min(len(message), 256)]), "\r")
	if len(head) < 9 || head[:3] != "MSH" {
		return ""
	}
	return part(head, head[3:4], 9)
}
