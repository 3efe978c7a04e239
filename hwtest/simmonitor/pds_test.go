package main

import (
	"bytes"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/adapters/adapterstest"
	"github.com/vitalgate/vitalgate/adapters/framing"
	"github.com/vitalgate/vitalgate/adapters/pds"
	"github.com/vitalgate/vitalgate/fhir/mapping"
	"github.com/vitalgate/vitalgate/hl7"
)

// pdsBox is a real box before a monitor that is not there yet, and the monitor's line.
func pdsBox(t *testing.T, cfg pds.Config, options string) (*box, string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Address == "" {
		cfg.Address = ln.Addr().String()
	}
	ln.Close()
	cfg.Monitor = "m"
	a, err := pds.New(cfg, adapterstest.Log(t))
	return startBox(t, a, err, nil), "pds://" + ln.Addr().String() + "?beat=10ms" + options
}

// classes are the MSH-10 of the messages so far, runs of one class as one.
func (b *box) classes() (all []string) {
	for _, f := range b.received() {
		all = append(all, controlID(f.Data))
	}
	return slices.Compact(slices.DeleteFunc(all, func(c string) bool { return c == "106" }))
}

// The monitor says nothing but that it is there, until it is asked.
func TestPDSWaitsForTheQuery(t *testing.T) {
	adapterstest.Goroutines(t)
	m := sim(t, options{Count: 3, Rate: 100}, "mindray-pds@pds://127.0.0.1:0?beat=5ms")
	done := make(chan Report, 1)
	go func() { done <- m.play(t.Context()) }()
	conn, err := net.Dial("tcp", m.ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var heard []string
	dec, err := framing.NewDecoder(adapters.MLLP, 1<<16)
	if err != nil {
		t.Fatal(err)
	}
	read := func(ok func() bool) {
		t.Helper()
		buf := make([]byte, 4096)
		conn.SetReadDeadline(time.Now().Add(adapterstest.Patience))
		for !ok() {
			n, err := conn.Read(buf)
			dec.Write(buf[:n], func(m framing.Message) { heard = append(heard, controlID(m.Data)) })
			if err != nil {
				t.Fatalf("after %q: %v", heard, err)
			}
		}
	}
	read(func() bool { return len(heard) >= 20 })
	if all := slices.Compact(slices.Clone(heard)); !slices.Equal(all, []string{"106"}) {
		t.Fatalf("before the query the monitor says %q", all)
	}
	if _, err := conn.Write(adapterstest.MLLP("MSH|^~\\&|||||||QRY^R02|1203|P|2.3.1\rQRD|20260101000000|R|I|Q1|||||RES\rQRF|MON||||0&0^1^1^1^\r")); err != nil {
		t.Fatal(err)
	}
	heard = nil
	read(func() bool { return slices.Contains(heard, "204") && slices.Contains(heard, "503") })
	if heard = slices.DeleteFunc(heard, func(c string) bool { return c == "106" }); heard[0] != "103" {
		t.Errorf("after the query the monitor says %q", heard)
	}
	if r := <-done; r.Queries != 1 || r.Sent != 3 || r.Wrong != 0 {
		t.Errorf("report %+v", r)
	}
}

// Box and monitor find each other, and the readings are about the patient whom the monitor has named on that connection.
func TestPDSWithABox(t *testing.T) {
	adapterstest.Goroutines(t)
	b, line := pdsBox(t, pds.Config{KeepAlive: 10 * time.Millisecond}, "")
	r := sim(t, options{Count: 5, Rate: 100}, "mindray-pds@"+line).play(t.Context())
	if r.Sent != 5 || r.Queries != 1 || r.Wrong+r.Deserted+r.Reconnects != 0 {
		t.Fatalf("report %+v", r)
	}
	b.Await(t, "all received", func(adapters.Status) bool { return len(b.ids()) == 5 })
	if got := b.classes(); got[0] != "103" || !slices.Contains(got, "503") {
		t.Errorf("the classes are %q", got)
	}
	d, err := mapping.LookupDialect("mindray-pds")
	if err != nil {
		t.Fatal(err)
	}
	c, at := mapping.NewConverter(d), mapping.Context{Box: "f1/gw1", Monitor: "m"}
	about := 0
	for _, f := range b.received() {
		m, err := hl7.Parse(f.Data)
		if err != nil {
			t.Fatal(err)
		}
		at.Arrived = f.Arrived
		res, err := c.Convert(m, at)
		if err != nil {
			t.Fatal(err)
		}
		at.Association = res.Association
		if m.ControlID() == "204" {
			if !bytes.Contains(res.Bundle, []byte("HORVAT")) || bytes.Contains(res.Bundle, []byte("unknown patient")) || res.Patient == "" {
				t.Errorf("vitals are not about the patient:\n%s", res.Bundle)
			}
			about++
		}
	}
	if about != 5 {
		t.Errorf("%d messages of vitals", about)
	}
}

// A monitor leaves a box whose keep-alives have stopped; the box comes back and asks again, and the patient is named again.
func TestPDSKeepAlivesStop(t *testing.T) {
	adapterstest.Goroutines(t)
	b, line := pdsBox(t, pds.Config{KeepAlive: time.Hour}, "&silence=150ms")
	r := sim(t, options{For: time.Minute, Count: 60, Rate: 100}, "mindray-pds@"+line).play(t.Context())
	if r.Deserted == 0 || r.Reconnects == 0 || r.Queries < 2 {
		t.Fatalf("report %+v", r)
	}
	named := map[uint64]bool{}
	for _, f := range b.received() {
		switch controlID(f.Data) {
		case "103":
			named[f.Line] = true
		case "204":
			if !named[f.Line] {
				t.Fatal("vitals came on a connection before its patient")
			}
		}
	}
	if len(named) < 2 {
		t.Errorf("the patient was named on %d connections", len(named))
	}
}

// With keep-alives both ways the link outlives the time after which a silent one is left.
func TestPDSKeepAlivesGoOn(t *testing.T) {
	t.Parallel()
	b, line := pdsBox(t, pds.Config{KeepAlive: 20 * time.Millisecond, Silence: 4 * time.Second}, "&silence=4s")
	r := sim(t, options{Count: 4, Rate: 0.5}, "mindray-pds@"+line).play(t.Context())
	if r.Deserted+r.Reconnects != 0 || r.Queries != 1 {
		t.Fatalf("report %+v", r)
	}
	alive := 0
	for _, f := range b.received() {
		if controlID(f.Data) == "106" {
			alive++
		}
	}
	if alive < 3 {
		t.Errorf("%d keep-alives of the monitor came", alive)
	}
}

// uMEC12 forgets what it was asked before its first keep-alive.
func TestPDSAsksAMonitorThatForgets(t *testing.T) {
	b, line := pdsBox(t, pds.Config{KeepAlive: 10 * time.Millisecond, Again: true}, "&forgets=yes")
	r := sim(t, options{Count: 2, Rate: 100}, "mindray-pds@"+line).play(t.Context())
	if r.Sent != 2 || r.Queries != 2 {
		t.Fatalf("report %+v", r)
	}
	b.Await(t, "all received", func(adapters.Status) bool { return len(b.ids()) == 2 })
}

// A box that knows only the IP address hears where the monitor is.
func TestPDSBeacon(t *testing.T) {
	adapterstest.Goroutines(t)
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := udp.LocalAddr().String()
	udp.Close()
	b, _ := pdsBox(t, pds.Config{Address: "127.0.0.1:0", Beacon: at, KeepAlive: 10 * time.Millisecond}, "")
	r := sim(t, options{Count: 2, Rate: 100}, "mindray-pds@pds://127.0.0.1:0?beat=10ms&beacon="+at).play(t.Context())
	if r.Sent != 2 || r.Wrong != 0 {
		t.Fatalf("report %+v", r)
	}
	b.Await(t, "all received", func(adapters.Status) bool { return len(b.ids()) == 2 })
}

func TestPDSRefuses(t *testing.T) {
	for _, line := range []string{"pds://127.0.0.1:0?beat=often", "pds://127.0.0.1:99999", "pds://127.0.0.1:0?beacon=nowhere"} {
		all, err := (&options{Resend: -1}).monitors([]string{"mindray-pds@" + line}, discard())
		if err != nil {
			t.Fatal(err)
		}
		if err := all[0].open(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "cannot open the line") {
			t.Errorf("%s: %v", line, err)
		}
	}
}
