// Package status is the box's local, read-only window: /healthz, /readyz, /metrics and one page. It shows no patient
// data, and nothing can be changed through it.
package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/firmware/health"
	"github.com/vitalgate/vitalgate/firmware/link"
	"github.com/vitalgate/vitalgate/firmware/pipeline"
	"github.com/vitalgate/vitalgate/firmware/spool"
)

// Report is everything the window shows, as JSON at /status.
type Report struct {
	Box        string             `json:"box"`
	Version    string             `json:"version"`
	Protection string             `json:"protection"`
	Key        string             `json:"key"`              // hex SHA-256 of the SubjectPublicKeyInfo of the key that signs
	System     map[string]string  `json:"system,omitempty"` // facts of the image: slot, release
	Verdict    string             `json:"verdict"`
	Ready      bool               `json:"ready"`
	Conditions []health.Condition `json:"conditions"`
	Monitors   []Monitor          `json:"monitors"`
	Spool      spool.Stats        `json:"spool"`
	Network    link.Status        `json:"network"`
	Started    time.Time          `json:"started"`
	Now        time.Time          `json:"now"`
}

// Monitor is one monitor's line and counters.
type Monitor struct {
	Line     adapters.Status   `json:"line"`
	Dialect  string            `json:"dialect"`
	Counters pipeline.Snapshot `json:"counters"`
}

// Server answers on one address.
type Server struct {
	server  *http.Server
	lis     net.Listener
	history history
	report  func() Report
}

// Listen opens addr; a port in use is an error here, before anything else starts.
func Listen(addr string, report func() Report) (*Server, error) {
	lis, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("cannot open the status address %s: %w; another program may use it: set status.listen to a free one", addr, err)
	}
	s := &Server{lis: lis, report: report}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "alive") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		rep := report()
		if !rep.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintln(w, rep.Verdict)
		for _, c := range rep.Conditions {
			fmt.Fprintf(w, "%s %s %s: %s %s\n", c.Severity, c.Code, c.About, c.Sentence, c.Remedy)
		}
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(report())
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		writeMetrics(w, report())
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { s.showPage(w, report()) })
	guarded := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !ownHost(r.Host, addr) {
			http.Error(w, "cannot answer for the host "+strconv.Quote(r.Host)+": name this box by its address, or set status.listen to the name", http.StatusMisdirectedRequest)
			return
		}
		mux.ServeHTTP(w, r)
	})
	s.server = &http.Server{Handler: guarded, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 1 << 14}
	return s, nil
}

// Addr is where the server listens.
func (s *Server) Addr() string { return s.lis.Addr().String() }

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.server.Close() })
	defer stop()
	hctx, end := context.WithCancel(ctx)
	sampled := make(chan struct{})
	go func() {
		defer close(sampled)
		s.history.run(hctx, s.report)
	}()
	defer func() { end(); <-sampled }()
	if err := s.server.Serve(s.lis); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("cannot serve the status page: %w", err)
	}
	return nil
}

// writeMetrics prints the report in the Prometheus text format. Labels are monitor names of the configuration.
func writeMetrics(w http.ResponseWriter, r Report) {
	gauge := func(name string, v any) { fmt.Fprintf(w, "vitalgate_%s %v\n", name, v) }
	ready := 0
	if r.Ready {
		ready = 1
	}
	gauge("ready", ready)
	gauge(fmt.Sprintf("info{version=%q,box=%q,protection=%q}", r.Version, r.Box, r.Protection), 1)
	gauge("log_next_index", r.Spool.Next)
	gauge("log_signed_size", r.Spool.Signed)
	gauge("spool_bytes", r.Spool.Bytes)
	gauge("spool_quota_bytes", r.Spool.Quota)
	gauge("spool_unsent_records", r.Spool.Depth)
	gauge("spool_oldest_unsent_seconds", r.Spool.OldestAge.Seconds())
	gauge("network_acknowledged_index", r.Network.Acked)
	for _, c := range r.Conditions {
		gauge(fmt.Sprintf("condition{code=%q,about=%q,severity=%q}", c.Code, c.About, c.Severity), 1)
	}
	for _, m := range r.Monitors {
		of := func(name string, v any) { gauge(fmt.Sprintf("monitor_%s{monitor=%q}", name, m.Line.Monitor), v) }
		of("connections", m.Line.Connections)
		of("frames_total", m.Line.Frames)
		of("bytes_total", m.Line.Bytes)
		of("replies_total", m.Line.Replies)
		of("dropped_bytes_total", m.Line.Dropped)
		of("undelivered_total", m.Line.Undelivered)
		c := m.Counters
		of("messages_total", c.Messages)
		of("raw_total", c.Raw)
		of("repeated_total", c.Repeated)
		of("refused_total", c.Refused)
		of("keep_alive_total", c.KeepAlive)
		of("charted_total", c.Charted)
		of("local_total", c.Local)
		of("absent_total", c.Absent)
		of("events_total", c.Events)
	}
	metrics.WriteProcessMetrics(w)
}
