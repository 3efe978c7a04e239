package hwtest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// testNetwork looks at each interface that is hardware, and measures the way to a sink.
func testNetwork(ctx context.Context, t *tester) {
	n := 0
	for _, dev := range t.glob("/sys/class/net/*/device") {
		n++
		dir := filepath.Dir(dev)
		name := filepath.Base(dir)
		if flags, err := strconv.ParseUint(t.read(dir+"/flags"), 0, 32); err == nil && flags&unix.IFF_UP == 0 {
			t.not(name, "Switch it on in the network settings, else the box does not use it.", "The interface is switched off, so that it shows no link.")
			continue
		}
		if t.read(dir+"/carrier") != "1" {
			t.fail(name, nil, "Plug in a cable, or try another cable and another port of the switch.", "There is no link.")
			continue
		}
		figures := map[string]float64{}
		if speed, ok := t.number(dir + "/speed"); ok && speed > 0 {
			figures["mbit_s"] = speed
		}
		var bad float64
		for _, c := range []string{"rx_errors", "tx_errors", "rx_crc_errors"} {
			v, _ := t.number(dir + "/statistics/" + c)
			bad += v
		}
		packets, _ := t.number(dir + "/statistics/rx_packets")
		figures["errors"], figures["received"] = bad, packets
		switch duplex := t.read(dir + "/duplex"); {
		case duplex == "half":
			t.fail(name, figures, "Set the port of the switch to automatic negotiation.", "The link is half duplex.")
		case bad > 10 && bad > packets/1000:
			t.fail(name, figures, "Try another cable and another port of the switch.", "The link makes errors.")
		default:
			t.pass(name, figures, "The link is up.")
		}
	}
	if n == 0 {
		t.not("", "", "The box has no network interface of its own.")
	}
	if t.Peer == "" {
		t.not("throughput", "Run vitalgate hwtest --sink :5201 on another machine, and the test with --peer HOST:5201.", "No machine to measure against was named.")
		return
	}
	mbit, err := throughput(ctx, t.Peer)
	switch {
	case err != nil:
		t.fail("throughput", nil, "Check the address, the cable and the sink.", "Nothing could be measured: %v.", err)
	case mbit < 10:
		t.fail("throughput", map[string]float64{"mbit_s": mbit}, "Try another cable and another port of the switch.", "The way to %s carries only %.1f Mbit/s.", t.Peer, mbit)
	default:
		t.pass("throughput", map[string]float64{"mbit_s": mbit}, "The way to %s carries enough.", t.Peer)
	}
}

// measureFor is how long bytes are sent.
const measureFor = 2 * time.Second

// throughput sends for a while and is told by the sink how much arrived.
func throughput(ctx context.Context, addr string) (mbit float64, err error) {
	c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	began := time.Now()
	c.SetDeadline(began.Add(measureFor + 20*time.Second))
	for b := make([]byte, 64<<10); time.Since(began) < measureFor && ctx.Err() == nil; {
		if _, err := c.Write(b); err != nil {
			return 0, err
		}
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return 0, err
	}
	var got [8]byte
	if _, err := io.ReadFull(c, got[:]); err != nil {
		return 0, fmt.Errorf("the sink did not say how much arrived: %w", err)
	}
	return float64(binary.BigEndian.Uint64(got[:])) * 8 / 1e6 / time.Since(began).Seconds(), nil
}

// Sink takes what throughput tests send, until ctx ends.
func Sink(ctx context.Context, lis net.Listener) error {
	stop := context.AfterFunc(ctx, func() { lis.Close() })
	defer stop()
	for {
		c, err := lis.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		go func() {
			defer c.Close()
			c.SetDeadline(time.Now().Add(time.Minute))
			n, err := io.Copy(io.Discard, c)
			if err == nil {
				c.Write(binary.BigEndian.AppendUint64(nil, uint64(n)))
			}
		}()
	}
}
