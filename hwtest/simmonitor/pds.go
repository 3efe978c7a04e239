package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/adapters/framing"
	"github.com/vitalgate/vitalgate/hl7"
)

// pdsLine is the patient data share interface as a Mindray bedside monitor has it: it announces itself by UDP, says nothing but
// keep-alives until it is asked, and leaves a box whose keep-alives have stopped.
type pdsLine struct {
	beat    time.Duration // between keep-alives, and between beacons
	silence time.Duration // without a keep-alive of the box
	forgets bool          // as uMEC12: a query before the monitor's first keep-alive is forgotten

	queries, deserted, wrong atomic.Int64
	stop                     func() // ends the beacon
}

// openPDS opens the port of pds://host:port, and announces it to ?beacon=host:port. ?beat= and ?silence= are times, ?forgets=yes.
func openPDS(ctx context.Context, to string, m *monitor) (*pdsLine, net.Listener, error) {
	u, err := url.Parse(to)
	if err != nil {
		return nil, nil, err
	}
	q := u.Query()
	p := &pdsLine{beat: time.Second, silence: 5 * time.Second, forgets: q.Get("forgets") == "yes", stop: func() {}}
	for key, v := range map[string]*time.Duration{"beat": &p.beat, "silence": &p.silence} {
		if q.Has(key) {
			if *v, err = time.ParseDuration(q.Get(key)); err != nil || *v <= 0 {
				return nil, nil, fmt.Errorf("%s must be a time such as 1s: %w", key, err)
			}
		}
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", u.Host)
	if err != nil {
		return nil, nil, err
	}
	if q.Get("beacon") == "" {
		return p, ln, nil
	}
	at := ln.Addr().(*net.TCPAddr)
	from := &net.UDPAddr{IP: at.IP}
	conn, err := (&net.Dialer{LocalAddr: from}).DialContext(ctx, "udp", q.Get("beacon"))
	if err != nil {
		ln.Close()
		return nil, nil, fmt.Errorf("cannot announce the monitor: %w", err)
	}
	w := &writer{Builder: hl7.NewBuilder(), scenario: m.scenario, monitor: m.name}
	datagram := framing.Append(nil, adapters.MLLP, pdsOnline(w, conn.LocalAddr().(*net.UDPAddr).IP, at.Port))
	bctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var announcing sync.WaitGroup
	announcing.Go(func() {
		defer conn.Close()
		t := time.NewTicker(p.beat)
		defer t.Stop()
		for {
			conn.Write(datagram) // nobody may be there
			select {
			case <-t.C:
			case <-bctx.Done():
				return
			}
		}
	})
	p.stop = func() { cancel(); announcing.Wait() }
	return p, ln, nil
}

// serve returns when the box has asked. Reading from the link gives nothing: the box says only queries and keep-alives.
func (p *pdsLine) serve(ctx context.Context, conn net.Conn) (*pdsLink, error) {
	l := &pdsLink{Conn: conn, pds: p, asked: make(chan struct{}), ended: make(chan struct{})}
	l.heard.Store(time.Now().UnixNano())
	l.working.Go(l.listen)
	l.working.Go(l.beat)
	select {
	case <-l.asked:
		return l, nil
	case <-l.ended:
		l.Close()
		return nil, errors.New("the box has gone without asking")
	case <-ctx.Done():
		l.Close()
		return nil, ctx.Err()
	}
}

// pdsLink is one connection.
type pdsLink struct {
	net.Conn
	pds     *pdsLine
	heard   atomic.Int64 // the box's last keep-alive, Unix ns
	alive   atomic.Bool  // the monitor's first keep-alive has left
	asked   chan struct{}
	once    sync.Once
	ended   chan struct{}
	working sync.WaitGroup
}

// Read waits for the end of the link.
func (l *pdsLink) Read([]byte) (int, error) {
	<-l.ended
	return 0, io.EOF
}

// Close ends the link.
func (l *pdsLink) Close() error {
	err := l.Conn.Close()
	l.working.Wait()
	return err
}

func (l *pdsLink) listen() {
	defer close(l.ended)
	dec, err := framing.NewDecoder(adapters.MLLP, 1<<16)
	if err != nil {
		return // never: the framing is one, and the limit is large
	}
	buf := make([]byte, 4096)
	for {
		n, err := l.Conn.Read(buf)
		dec.Write(buf[:n], func(m framing.Message) {
			switch controlID(m.Data) {
			case "106":
				l.heard.Store(time.Now().UnixNano())
			case "1203":
				l.pds.queries.Add(1)
				if l.alive.Load() || !l.pds.forgets {
					l.once.Do(func() { close(l.asked) })
				}
			default:
				l.pds.wrong.Add(1)
			}
		})
		if err != nil {
			return
		}
	}
}

// beat sends keep-alives, and leaves a box that sends none.
func (l *pdsLink) beat() {
	t := time.NewTicker(l.pds.beat)
	defer t.Stop()
	echo := framing.Append(nil, adapters.MLLP, pdsKeepAlive)
	for {
		select {
		case <-t.C:
		case <-l.ended:
			return
		}
		if time.Since(time.Unix(0, l.heard.Load())) > l.pds.silence {
			l.pds.deserted.Add(1)
			l.Conn.Close()
			return
		}
		l.SetWriteDeadline(time.Now().Add(l.pds.silence))
		l.alive.Store(true) // before it leaves: the box may be quick
		if _, err := l.Write(echo); err != nil {
			l.Conn.Close()
			return
		}
	}
}

// pdsOnline is class 101: where the monitor is.
func pdsOnline(w *writer, ip net.IP, port int) []byte {
	p := w.scenario.Patient
	number := ""
	if v4 := ip.To4(); v4 != nil {
		number = strconv.FormatUint(uint64(binary.BigEndian.Uint32(v4)), 10)
	}
	w.begin()
	w.Segment("MSH", "", "", "", "", "", "", "ADT^A01", "101", "P", "2.3.1")
	w.Segment("EVN", "", "00000000")
	w.Segment("PID", "", "", hl7.Text(p.ID), "", w.name())
	w.Segment("PV1", "", "I", hl7.Components("", "", hl7.Subcomponents(hl7.Text(p.Ward), "1", hl7.Encoded(number), hl7.Encoded(strconv.Itoa(port)), "", "1")))
	w.bare(obx{kind: "ST", code: "2304^MonitorName", value: hl7.Text(w.monitor), status: "F"})
	w.bare(obx{kind: "ST", code: "2308^BedNoStr", value: hl7.Text(p.Bed), status: "F"})
	return w.Bytes()
}
