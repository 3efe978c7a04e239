package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/adapters/adapterstest"
	"github.com/vitalgate/vitalgate/adapters/mllp"
	"github.com/vitalgate/vitalgate/adapters/pds"
	"github.com/vitalgate/vitalgate/adapters/serial"
	"github.com/vitalgate/vitalgate/fhir/mapping"
	"github.com/vitalgate/vitalgate/hl7"
)

// box is the left end of a real box: a real adapter, and acknowledgements by the rules of each message.
type box struct {
	*adapterstest.Running
	mu     sync.Mutex
	frames []*adapters.Frame
	answer func(m *hl7.Message, n int) []byte // n counts from 1; nil is the rule of the message
	done   chan struct{}
}

func startBox(t *testing.T, a adapters.Adapter, err error, answer func(m *hl7.Message, n int) []byte) *box {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	b := &box{Running: adapterstest.Start(t, a), answer: answer, done: make(chan struct{})}
	go func() {
		defer close(b.done)
		for f := range b.Out {
			b.mu.Lock()
			b.frames = append(b.frames, f)
			n := len(b.frames)
			b.mu.Unlock()
			m, err := hl7.Parse(f.Data)
			switch {
			case err != nil:
				f.Reply(hl7.AppendNak(nil, hl7.AR, f.Arrived, "1", err.(*hl7.Error)))
			case b.answer != nil:
				f.Reply(b.answer(m, n))
			default:
				f.Reply(acknowledge(m))
			}
		}
	}()
	t.Cleanup(func() { b.Stop(); close(b.Out); <-b.done })
	return b
}

func acknowledge(m *hl7.Message) []byte {
	if id := m.ControlID(); m.Version() == "2.3.1" && len(id) <= 4 {
		return nil // PDS
	}
	code := hl7.AA
	if accept, _ := hl7.AckMode(m); accept == "AL" {
		code = hl7.CA
	}
	return hl7.AppendAck(nil, m, code, time.Unix(0, 0).UTC(), "1")
}

// received are the frames so far.
func (b *box) received() []*adapters.Frame {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.frames)
}

var marker = regexp.MustCompile(markerSystem + `\|[^|]*\|([^|]+)\|`)

// ids are the markers of the messages that came.
func (b *box) ids() (ids []string) {
	for _, f := range b.received() {
		if m := marker.FindSubmatch(f.Data); m != nil {
			ids = append(ids, string(m[1]))
		}
	}
	return ids
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// sim makes a monitor and opens its line.
func sim(t *testing.T, o options, arg string) *monitor {
	t.Helper()
	o.RunID = "t"
	if o.Resend == 0 {
		o.Resend = -1
	}
	all, err := o.monitors([]string{arg}, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := all[0].open(t.Context(), func(string) {}); err != nil {
		t.Fatal(err)
	}
	return all[0]
}

func listening(t *testing.T, b *box) string {
	t.Helper()
	return "tcp://" + b.Await(t, "listening", func(s adapters.Status) bool { return s.State != adapters.StateWaiting }).Address
}

// connectBox starts a box that suits the scenario's line, and gives the line for the monitor.
func connectBox(t *testing.T, s *Scenario) (*box, string) {
	t.Helper()
	kind, _, _ := strings.Cut(s.Line.To, ":")
	log := adapterstest.Log(t)
	const idle = 40 * time.Millisecond
	switch kind {
	case "tcp":
		a, err := mllp.New(mllp.Config{Monitor: "m", Role: "server", Address: "127.0.0.1:0", Framing: s.Line.Framing, IdleEnd: idle}, log)
		b := startBox(t, a, err, nil)
		return b, listening(t, b)
	case "pds":
		return pdsBox(t, pds.Config{}, "")
	case "listen":
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := ln.Addr().String()
		ln.Close()
		a, err := mllp.New(mllp.Config{Monitor: "m", Role: "client", Address: address, Framing: s.Line.Framing, IdleEnd: idle}, log)
		return startBox(t, a, err, nil), "listen://" + address
	}
	device := filepath.Join(t.TempDir(), "ttyUSB0")
	a, err := serial.New(serial.Config{Monitor: "m", Device: device, Framing: s.Line.Framing, IdleEnd: idle}, log)
	return startBox(t, a, err, nil), "pty:" + device
}

// Every scenario, over the line it is made for: each message arrives, is acknowledged as this monitor wants it, is taken for
// what it plays, and gives vitals under standard codes.
func TestScenarios(t *testing.T) {
	for _, name := range names() {
		t.Run(name, func(t *testing.T) {
			adapterstest.Goroutines(t)
			s, err := load(name)
			if err != nil {
				t.Fatal(err)
			}
			b, line := connectBox(t, s)
			const n = 5
			r := sim(t, options{Count: n, Rate: 50}, name+"@"+line).play(t.Context())
			if r.Sent != n || len(r.IDs) != n || r.Rejected+r.Unanswered+r.Wrong != 0 {
				t.Fatalf("report: %+v", r)
			}
			if r.Expects != "" && (r.Acknowledged != n || !slices.Equal(r.IDs, r.AcknowledgedIDs) || r.Latency.P50 <= 0 || r.Latency.P50 > r.Latency.P99) {
				t.Fatalf("report: %+v", r)
			}
			b.Await(t, "all received", func(adapters.Status) bool { return len(b.ids()) >= n })
			if got := b.ids(); !slices.Equal(got, r.IDs) {
				t.Fatalf("the box got %v, want %v", got, r.IDs)
			}
			d, err := mapping.LookupDialect(r.Dialect)
			if err != nil {
				t.Fatal(err)
			}
			convert := mapping.NewConverter(d)
			charted := 0
			for i, f := range b.received() {
				if adapters.Partial(f.Notes) {
					t.Fatalf("message %d has notes %v", i, f.Notes)
				}
				m, err := hl7.Parse(f.Data)
				if err != nil {
					t.Fatalf("message %d: %v\n%s", i, err, f.Data)
				}
				if !marker.Match(f.Data) {
					continue
				}
				if found, _, why := mapping.Detect(m); found != d {
					t.Errorf("message %d is taken for another monitor's: %s", i, why)
				}
				res, err := convert.Convert(m, mapping.Context{Box: "f1/gw1", Monitor: "m", Zone: time.UTC, Arrived: f.Arrived,
					Units: mapping.Units{Pressure: "mm[Hg]", Temperature: "Cel"}})
				if err != nil {
					t.Fatalf("message %d: %v", i, err)
				}
				if !bytes.Contains(res.Bundle, marker.FindSubmatch(f.Data)[1]) {
					t.Errorf("message %d: its marker is not in the Bundle", i)
				}
				charted += res.Charted
			}
			if charted < 5*n {
				t.Errorf("%d values are charted of %d messages: too few to be a monitor", charted, n)
			}
		})
	}
}

// A message that is not acknowledged is sent again, the same, and given up in the end.
func TestResend(t *testing.T) {
	t.Parallel()
	a, err := mllp.New(mllp.Config{Monitor: "m", Role: "server", Address: "127.0.0.1:0"}, adapterstest.Log(t))
	b := startBox(t, a, err, func(m *hl7.Message, n int) []byte {
		if n == 2 || n >= 4 { // 1 is answered, 2 not, its resend is, 4 and its resends are not
			return nil
		}
		return acknowledge(m)
	})
	for _, scenario := range []string{"philips-iic", "ge-b105"} {
		b.mu.Lock()
		b.frames = nil
		b.mu.Unlock()
		r := sim(t, options{Count: 3, Rate: 100, Resend: 2, Timeout: 3 * time.Second}, scenario+"@"+listening(t, b)).play(t.Context())
		if r.Sent != 3 || r.Acknowledged != 2 || r.Resent != 3 || r.Unanswered != 1 || r.Wrong != 0 {
			t.Fatalf("%s: %+v", scenario, r)
		}
		f := b.received()
		if len(f) != 6 || !bytes.Equal(f[1].Data, f[2].Data) || !bytes.Equal(f[3].Data, f[5].Data) || bytes.Equal(f[2].Data, f[3].Data) {
			t.Fatalf("%s: %d messages came, or the resends are not the same", scenario, len(f))
		}
	}
}

// Refusals, answers of another kind and answers to other messages are told apart from acknowledgements.
func TestWrongAnswers(t *testing.T) {
	t.Parallel()
	a, err := mllp.New(mllp.Config{Monitor: "m", Role: "server", Address: "127.0.0.1:0"}, adapterstest.Log(t))
	b := startBox(t, a, err, func(m *hl7.Message, n int) []byte {
		switch n {
		case 1:
			return hl7.AppendAck(nil, m, hl7.AE, time.Unix(0, 0).UTC(), "1", &hl7.Error{Code: hl7.CodeOther, Segment: "OBX", What: "cannot"})
		case 2:
			return hl7.AppendAck(nil, m, hl7.CA, time.Unix(0, 0).UTC(), "1") // a Philips wants AA
		case 3:
			other, _ := hl7.Parse([]byte(adapterstest.Message(99)))
			return hl7.AppendAck(nil, other, hl7.AA, time.Unix(0, 0).UTC(), "1")
		case 4:
			return []byte("hello")
		}
		return acknowledge(m)
	})
	r := sim(t, options{Count: 5, Rate: 100, Resend: 1, Timeout: 3 * time.Second}, "philips-iic@"+listening(t, b)).play(t.Context())
	// 1 refused; 2 wrong kind, then wrong message on the resend, given up; 3 wrong, then accepted; 4 and 5 accepted.
	if r.Rejected != 1 || r.Wrong != 3 || r.Unanswered != 1 || r.Acknowledged != 3 || len(r.AcknowledgedIDs) != 3 {
		t.Fatalf("%+v", r)
	}
}

// A line that breaks is made again, and the message that was under way goes out again.
func TestReconnect(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	got := make(chan string, 10)
	go func() {
		for n := 0; ; n++ {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 8192)
			k, _ := conn.Read(buf)
			raw := bytes.Trim(buf[:k], "\v\x1c\r")
			got <- string(marker.FindSubmatch(raw)[1])
			if n > 0 {
				m, err := hl7.Parse(raw)
				if err != nil {
					panic(err)
				}
				conn.Write(adapterstest.MLLP(string(acknowledge(m))))
				io.ReadAll(conn)
			}
			conn.Close()
		}
	}()
	r := sim(t, options{Count: 1, Rate: 100}, "ihe-transport@tcp://"+ln.Addr().String()).play(t.Context())
	if r.Acknowledged != 1 || r.Resent != 1 || r.Reconnects != 1 || r.Sent != 1 {
		t.Fatalf("%+v", r)
	}
	if a, b := <-got, <-got; a != b {
		t.Fatalf("%s came, and then %s", a, b)
	}
}

// Vitals are those of a person: in range, moving, but not jumping; the same seed gives the same person.
func TestVitals(t *testing.T) {
	for _, name := range names() {
		s, err := load(name)
		if err != nil {
			t.Fatal(err)
		}
		s.Events = nil
		one, two := newPatient(s, 7), newPatient(s, 7)
		at := time.Unix(1_800_000_000, 0)
		before := sample{}
		var moved [channels]bool
		cuffs := 0
		for i := range 3600 {
			d := time.Duration(i) * time.Second
			v, same := one.sample(d, at.Add(d)), two.sample(d, at.Add(d))
			if v.value != same.value {
				t.Fatalf("%s: one seed gives two people", name)
			}
			for c := range channels {
				if s.Vitals.mean(c) == 0 {
					continue
				}
				if v.value[c] < models[c].low || v.value[c] > models[c].high {
					t.Fatalf("%s: channel %d is %v", name, c, v.value[c])
				}
				if jump := v.value[c] - before.value[c]; i > 0 && (jump > 20 || jump < -20) {
					t.Fatalf("%s: channel %d jumps by %v within a second", name, c, jump)
				}
				moved[c] = moved[c] || i > 0 && v.value[c] != before.value[c]
			}
			if v.value[dia] >= v.value[sys] {
				t.Fatalf("%s: pressure %v over %v", name, v.value[sys], v.value[dia])
			}
			if v.cuff.fresh {
				cuffs++
			}
			before = v
		}
		if !moved[hr] || !moved[spo2] || !moved[rr] {
			t.Errorf("%s: the vitals stand still", name)
		}
		want := 0
		if s.NIBP.Every > 0 {
			want = int(time.Hour / time.Duration(s.NIBP.Every))
		}
		if cuffs != want {
			t.Errorf("%s: %d cuff pressures in an hour, want %d", name, cuffs, want)
		}
	}
}

func TestEvents(t *testing.T) {
	e := Event{Kind: "desaturation", At: Duration(20 * time.Second), For: Duration(10 * time.Second), Every: Duration(time.Minute)}
	for at, want := range map[time.Duration]bool{0: false, 19 * time.Second: false, 20 * time.Second: true, 29 * time.Second: true, 30 * time.Second: false, 80 * time.Second: true, 91 * time.Second: false} {
		if e.active(at) != want {
			t.Errorf("at %v: active is %v", at, !want)
		}
	}
	s, err := load("mindray-pds")
	if err != nil {
		t.Fatal(err)
	}
	w := &writer{Builder: hl7.NewBuilder(), scenario: s, monitor: "m", id: "x"}
	off := sample{at: time.Unix(0, 0), probeOff: true}
	if got := string(pdsPeriodic(w, &off)); !strings.Contains(got, "160^SpO2|2103|-100|") {
		t.Errorf("a probe that is off gives %q", got)
	}
	if got := string(comen(w, &off)); !strings.Contains(got, "|8388607|") {
		t.Errorf("a probe that is off gives %q", got)
	}
}

func TestLoadRefuses(t *testing.T) {
	dir := t.TempDir()
	const good = "title = \"x\"\ndialect = \"comen\"\nevery = \"1s\"\n"
	for content, want := range map[string]string{
		"dialect = \"comen\"":                 "every",
		good + "evry = \"1s\"":                "evry",
		"dialect = \"comem\"\nevery = \"1s\"": `"comem"`,
		good + "zone = \"Mars\"":              `"Mars"`,
		good + "[line]\nframing = \"mlp\"":    `"mlp"`,
		good + "[[event]]\nkind = \"x\"":      `"x"`,
		good + "[[event]]\nkind = \"apnea\"":  "event 1",
		good + "[patient]\nbed = 3":           "line 5",
		good + "[nibp]\nevery = \"often\"":    "often",
	} {
		file := filepath.Join(dir, "x.toml")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := load(file); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "x.toml") {
			t.Errorf("%q: %v, want it to say %s", content, err, want)
		}
	}
	if _, err := load("nobody"); err == nil || !strings.Contains(err.Error(), "philips-iic") {
		t.Errorf("an unknown scenario: %v, want the known ones named", err)
	}
}

func TestArguments(t *testing.T) {
	o := options{Resend: -1}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"comen-nc", "comen-nc"}, "two monitors"},
		{[]string{"nobody"}, "there is no scenario"},
	} {
		if _, err := o.monitors(c.args, discard()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v", c.args, err)
		}
	}
	all, err := o.monitors([]string{"a=comen-nc@tcp://h:1", "b=comen-nc@tcp://h:1"}, discard())
	if err != nil {
		t.Fatal(err)
	}
	if all[0].name != "a" || all[0].scenario.Line.To != "tcp://h:1" || all[0].scenario.Patient.ID == all[1].scenario.Patient.ID {
		t.Fatalf("%+v, %+v", all[0].scenario, all[1].scenario)
	}
	for _, line := range []string{"udp://h:1", ""} {
		all, err := o.monitors([]string{"comen-nc@" + line}, discard())
		if err != nil {
			t.Fatal(err)
		}
		if err := all[0].open(t.Context(), nil); err == nil {
			t.Errorf("the line %q was taken", line)
		}
	}
}

// The report is what a demo counts with.
func TestReport(t *testing.T) {
	file := filepath.Join(t.TempDir(), "report.json")
	o := options{Report: file}
	if err := o.write([]Report{{Monitor: "m", Sent: 2, IDs: []string{"a", "b"}, AcknowledgedIDs: []string{"a"}}}); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Monitors []struct {
			Monitor         string
			Sent            int
			IDs             []string                   `json:"ids"`
			AcknowledgedIDs []string                   `json:"acknowledged_ids"`
			AckMS           struct{ P50, P99 float64 } `json:"ack_ms"`
		}
	}
	if err := json.Unmarshal(raw, &got); err != nil || fmt.Sprint(got) != "{[{m 2 [a b] [a] {0 0}}]}" {
		t.Fatalf("%v, %v", got, err)
	}
}

// Every dialect that the box knows is played by a scenario.
func TestEveryDialectIsPlayed(t *testing.T) {
	played := map[string]bool{}
	for _, name := range names() {
		s, err := load(name)
		if err != nil {
			t.Fatal(err)
		}
		played[s.Dialect] = true
	}
	for _, d := range mapping.Dialects() {
		if !played[d.Name] {
			t.Errorf("no scenario plays %s", d.Name)
		}
	}
}
