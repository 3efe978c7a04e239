package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vitalgate/vitalgate/adapters/serial/pty"
	"github.com/vitalgate/vitalgate/firmware/replay"
	"github.com/vitalgate/vitalgate/hl7"
)

// Report says what a monitor sent and what it was told. A demo holds it against what came out at the other end: every id of
// Acknowledged must be there, no id of Sent may be there twice.
type Report struct {
	Monitor  string `json:"monitor"`
	Scenario string `json:"scenario"`
	Dialect  string `json:"dialect"`
	Line     string `json:"line"`
	Expects  string `json:"expects"` // the acknowledgement this dialect wants, "" for none

	Sent         int `json:"sent"`         // messages of vitals, each counted once
	Acknowledged int `json:"acknowledged"` // with the code this dialect expects, and its own MSH-10
	Rejected     int `json:"rejected"`     // AE AR CE CR
	Unanswered   int `json:"unanswered"`   // given up after the last resend
	Resent       int `json:"resent"`
	Wrong        int `json:"wrong"`      // answers that were none, of another message, or with another code
	Others       int `json:"others"`     // messages besides: keep-alive, patient, cuff and alarm messages of PDS
	Reconnects   int `json:"reconnects"` // connections after the first
	Queries      int `json:"queries"`    // pds: of the box
	Deserted     int `json:"deserted"`   // pds: connections that the monitor left because the box's keep-alives had stopped

	Latency         Latency  `json:"ack_ms"`
	IDs             []string `json:"ids"`              // of the messages sent: the value of the row 99VITALSIM, which is MSH-10 too where the dialect has it
	AcknowledgedIDs []string `json:"acknowledged_ids"` // of these
}

// Latency of acknowledgements, from the first sending of a message, in milliseconds.
type Latency struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// monitor plays one scenario over one line.
type monitor struct {
	name     string
	run      string // makes ids unique over runs
	scenario *Scenario
	dialect  dialect
	limits   limits
	log      *slog.Logger

	conn    *replay.Conn
	pair    *pty.Pair    // pty: the line
	ln      net.Listener // listen, pds: the port
	pds     *pdsLine     // pds: the line
	opened  int
	latency []time.Duration
	report  Report
}

// limits end a run.
type limits struct {
	count int     // messages; 0 is no limit
	rate  float64 // messages a second instead of the scenario's every; 0 is the scenario's
}

func newMonitor(name, run string, s *Scenario, l limits, log *slog.Logger) *monitor {
	d := dialects[s.Dialect]
	if l.rate > 0 {
		s.Every = Duration(float64(time.Second) / l.rate)
	}
	return &monitor{
		name: name, run: run, scenario: s, dialect: d, limits: l, log: log.With("monitor", name),
		report: Report{Monitor: name, Scenario: s.Title, Dialect: s.Dialect, Line: s.Line.To, Expects: string(d.ack), IDs: []string{}, AcknowledgedIDs: []string{}},
	}
}

// open makes ready what outlives a connection: the port or the pseudo terminal. announce is told the name of a pseudo terminal.
func (m *monitor) open(ctx context.Context, announce func(string)) (err error) {
	kind, rest, _ := strings.Cut(m.scenario.Line.To, ":")
	switch kind {
	case "listen":
		m.ln, err = (&net.ListenConfig{}).Listen(ctx, "tcp", strings.TrimPrefix(rest, "//"))
	case "pty":
		if m.pair, err = pty.Open(rest); err == nil {
			announce(m.pair.Name)
		}
	case "pds":
		m.pds, m.ln, err = openPDS(ctx, m.scenario.Line.To, m)
	case "tcp", "serial":
	case "":
		return fmt.Errorf("cannot play %s: it has no line; give one as SCENARIO@tcp://host:port", m.name)
	default:
		return fmt.Errorf("cannot play %s on %q: the line must be tcp://host:port, listen://host:port, serial:/dev/…, pds://host:port or pty:LINK", m.name, m.scenario.Line.To)
	}
	if err != nil {
		return fmt.Errorf("cannot open the line of %s: %w", m.name, err)
	}
	return nil
}

func (m *monitor) close() {
	m.disconnect()
	if m.ln != nil {
		m.ln.Close()
	}
	if m.pair != nil {
		m.pair.Close()
	}
	if m.pds != nil {
		m.pds.stop()
	}
}

// play sends until ctx ends or count messages are sent. When ctx ends, the message that is under way gets its acknowledgement
// still, for as long as the line's timeout.
func (m *monitor) play(ctx context.Context) Report {
	defer m.close()
	p := newPatient(m.scenario, seed(m.name))
	w := &writer{Builder: hl7.NewBuilder(), scenario: m.scenario, monitor: m.name}
	began := time.Now()
	next := began
	for n := 1; ctx.Err() == nil && (m.limits.count == 0 || n <= m.limits.count); n++ {
		if !m.until(ctx, w, next) {
			break
		}
		if next = next.Add(time.Duration(m.scenario.Every)); next.Before(time.Now()) {
			next = time.Now() // a monitor does not catch up
		}
		w.id = fmt.Sprintf("%s.%s.%06d", m.name, m.run, n)
		s := p.sample(time.Since(began), time.Now())
		message := slices.Clone(m.dialect.vitals(w, &s))
		if !m.connected(ctx, w) {
			break
		}
		m.report.Sent++
		m.report.IDs = append(m.report.IDs, w.id)
		m.deliver(ctx, w, message)
		if m.dialect.also != nil {
			if more := m.dialect.also(w, &s); more != nil {
				m.extra(more)
			}
		}
	}
	m.report.Latency = summarise(m.latency)
	if m.pds != nil {
		m.disconnect()
		m.report.Queries, m.report.Deserted = int(m.pds.queries.Load()), int(m.pds.deserted.Load())
		m.report.Wrong += int(m.pds.wrong.Load())
	}
	return m.report
}

// until waits for a time, with keep-alives where the dialect has them. It says whether ctx lives.
func (m *monitor) until(ctx context.Context, w *writer, t time.Time) bool {
	for {
		wait := time.Until(t)
		if m.dialect.keepAlive != nil && m.pds == nil {
			wait = min(wait, time.Second)
		}
		timer := time.NewTimer(max(wait, 0))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return false
		}
		if !time.Now().Before(t) {
			return true
		}
		if m.conn != nil && m.pds == nil {
			m.extra(m.dialect.keepAlive)
		}
	}
}

// connected opens the line, or waits for the other side to, for as long as ctx lives.
func (m *monitor) connected(ctx context.Context, w *writer) bool {
	for said := false; m.conn == nil; {
		conn, err := m.connect(ctx)
		if err == nil {
			m.conn = conn
			if m.opened++; m.opened > 1 {
				m.report.Reconnects++
			}
			if m.dialect.hello != nil {
				m.extra(m.dialect.hello(w))
			}
			continue
		}
		if ctx.Err() != nil {
			return false
		}
		if !said {
			said = true
			m.log.Warn("no line, trying again", "line", m.scenario.Line.To, "error", err)
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return false
		}
	}
	return true
}

func (m *monitor) connect(ctx context.Context) (*replay.Conn, error) {
	f := m.scenario.Line.Framing
	switch {
	case m.pair != nil:
		return replay.NewConn(keepOpen{m.pair}, f, false)
	case m.ln != nil:
		stop := context.AfterFunc(ctx, func() { m.ln.(*net.TCPListener).SetDeadline(time.Unix(1, 0)) })
		defer stop()
		conn, err := m.ln.Accept()
		if err != nil {
			return nil, err
		}
		if m.pds != nil {
			link, err := m.pds.serve(ctx, conn)
			if err != nil {
				return nil, err
			}
			return replay.NewConn(link, f, false)
		}
		return replay.NewConn(conn, f, false)
	}
	return replay.Dial(ctx, m.scenario.Line.To, f)
}

// keepOpen is a pseudo terminal whose Close ends the reading but leaves it there.
type keepOpen struct{ *pty.Pair }

func (k keepOpen) Close() error { return k.SetReadDeadline(time.Unix(1, 0)) }

func (m *monitor) disconnect() {
	if m.conn != nil {
		m.conn.Close()
		m.conn = nil
	}
	if m.pair != nil {
		m.pair.SetReadDeadline(time.Time{})
	}
}

// deliver sends a message until it is answered, the resends are used up, or ctx ends. A lost line is no silence of the receiver:
// the message goes out again when there is one, and that does not use up a resend.
func (m *monitor) deliver(ctx context.Context, w *writer, message []byte) {
	first := time.Now()
	id := controlID(message)
	for silences := 0; m.connected(ctx, w); m.report.Resent++ {
		err := m.conn.Send(message)
		if err == nil {
			if m.dialect.ack == "" {
				return
			}
			var answered bool
			if answered, err = m.answer(ctx, w, id, first); answered {
				return
			}
		}
		switch {
		case ctx.Err() != nil:
		case err != nil:
			m.log.Warn("lost the line", "error", err)
			m.disconnect()
			continue
		case silences < m.scenario.Line.Resend:
			silences++
			if m.dialect.constantID {
				m.disconnect() // or a late answer would pass for that of the next message
			}
			if m.pair != nil {
				m.pair.Discard() // a line has no memory: what nobody read is gone
			}
			continue
		}
		break
	}
	m.report.Unanswered++
}

// answer waits for the acknowledgement of the message with that control id. answered is false without an error if none came in
// time.
func (m *monitor) answer(ctx context.Context, w *writer, id string, first time.Time) (answered bool, err error) {
	// The end of a run does not end the wait for an answer that is on its way.
	until := time.Now().Add(time.Duration(m.scenario.Line.Timeout))
	for {
		raw, err := m.conn.Receive(context.WithoutCancel(ctx), until)
		if errors.Is(err, replay.ErrNoAnswer) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		ack, err := replay.ReadAck(raw)
		switch {
		case err != nil, ack.ID != id:
			m.report.Wrong++
			m.log.Warn("an answer that does not belong to the message", "answer", ack.Code)
		case ack.Code == m.dialect.ack:
			m.report.Acknowledged++
			m.report.AcknowledgedIDs = append(m.report.AcknowledgedIDs, w.id)
			m.latency = append(m.latency, time.Since(first))
			return true, nil
		case ack.Accepted():
			m.report.Wrong++
			m.log.Warn("an acknowledgement of another kind than the monitor takes", "answer", ack.Code, "wanted", m.dialect.ack)
		default:
			m.report.Rejected++
			m.log.Warn("rejected", "answer", ack.String())
			return true, nil
		}
	}
}

// extra sends a message that nobody acknowledges, and takes what has come.
func (m *monitor) extra(message []byte) {
	if m.conn == nil {
		return
	}
	if err := m.conn.Send(message); err != nil {
		m.disconnect()
		return
	}
	m.report.Others++
	for {
		if _, err := m.conn.Receive(context.Background(), time.Now()); err != nil {
			if !errors.Is(err, replay.ErrNoAnswer) {
				m.disconnect()
			}
			return
		}
	}
}

func controlID(message []byte) string {
	m, err := hl7.Parse(message)
	if err != nil {
		return ""
	}
	return string(m.Header().Field(10).Raw())
}

func summarise(all []time.Duration) Latency {
	if len(all) == 0 {
		return Latency{}
	}
	slices.Sort(all)
	at := func(q float64) float64 {
		i := min(int(q*float64(len(all))), len(all)-1)
		return float64(all[i].Microseconds()) / 1000
	}
	return Latency{P50: at(0.50), P99: at(0.99), Max: at(1)}
}

// playAll plays all monitors and gives their reports in the same order.
func playAll(ctx context.Context, monitors []*monitor) []Report {
	reports := make([]Report, len(monitors))
	var wg sync.WaitGroup
	for i, m := range monitors {
		wg.Go(func() { reports[i] = m.play(ctx) })
	}
	wg.Wait()
	return reports
}
