package maintain

import (
	"context"
	"crypto/subtle"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/vitalgate/vitalgate/adapters/serial"
	"github.com/vitalgate/vitalgate/fhir/mapping"
	"github.com/vitalgate/vitalgate/firmware/enrol"
	"github.com/vitalgate/vitalgate/firmware/health"
	"github.com/vitalgate/vitalgate/firmware/lamp"
	page "github.com/vitalgate/vitalgate/firmware/status"
	"github.com/vitalgate/vitalgate/firmware/version"
	"github.com/vitalgate/vitalgate/provision/protocol"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/enrolment"
	"github.com/vitalgate/vitalgate/tpm"
	"github.com/vitalgate/vitalgate/tpm/attestation"
)

// Bounds of bodies, in bytes.
const (
	mostJSON   = 2 << 20
	mostBundle = 256 << 20
)

// updateTime is how long a tool that was let in may take to send a bundle, and the box to write it.
const updateTime = time.Hour

// route is one operation: who may call it stands here, in one place.
type route struct {
	method, path string
	anybody      bool // without it: the claim code on nobody's box, a tool of the owner on an owned one
	do           func(s *Server, w http.ResponseWriter, r *http.Request) (any, error)
}

var routes = []route{
	{"GET", protocol.PathBox, true, (*Server).getBox},
	{"GET", protocol.PathAbout, false, (*Server).getAbout},
	{"POST", protocol.PathCheck, false, (*Server).postCheck},
	{"POST", protocol.PathRequest, false, (*Server).postRequest},
	{"POST", protocol.PathChallenge, false, (*Server).postChallenge},
	{"PUT", protocol.PathProvision, false, (*Server).putProvision},
	{"GET", protocol.PathStatus, false, (*Server).getStatus},
	{"GET", protocol.PathReaders, false, (*Server).getReaders},
	{"PUT", protocol.PathReaders, false, (*Server).putReaders},
	{"POST", protocol.PathTest, false, (*Server).postTest},
	{"GET", protocol.PathNetwork, false, (*Server).getNetwork},
	{"PUT", protocol.PathNetwork, false, (*Server).putNetwork},
	{"POST", protocol.PathKeep, false, (*Server).postKeep},
	{"PUT", protocol.PathUpdate, false, (*Server).putUpdate},
	{"POST", protocol.PathReset, false, (*Server).postReset},
}

// refusal is an error with the status that says whose it is.
type refusal struct {
	status int
	error
}

func refuse(status int, format string, a ...any) error {
	return refusal{status, fmt.Errorf(format, a...)}
}

func (s *Server) serve(ctx context.Context) error {
	mux := http.NewServeMux()
	for _, r := range routes {
		mux.HandleFunc(r.method+" "+r.path, func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Cache-Control", "no-store")
			var answer any
			err := s.admit(r, req)
			if err == nil {
				answer, err = r.do(s, w, req)
				s.note(req, err)
			}
			answerWith(w, answer, err)
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, req *http.Request) {
		answerWith(w, nil, refuse(http.StatusNotFound, "cannot answer %s %s: this box speaks version %d of the protocol", req.Method, req.URL.Path, protocol.Version))
	})
	// Whoever calls must send the whole of what he has to say in time, let in or not: connections are few (limit.go).
	timely := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.box.BodyTime))
		mux.ServeHTTP(w, req)
	})
	server := &http.Server{Handler: timely, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 1 << 13,
		BaseContext: func(net.Listener) context.Context { return ctx }, ErrorLog: log.New(io.Discard, "", 0)}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(s.lis); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("cannot serve the provisioning link: %w", err)
	}
	return nil
}

// admit says whether the caller may call the route.
func (s *Server) admit(r route, req *http.Request) error {
	if r.anybody {
		return nil
	}
	o, _ := s.folder.owner() // with an error nobody is admitted
	label := s.Label()
	host := hostOf(req.RemoteAddr)
	wait := s.tries.locked(host)
	if o == nil {
		if wait > 0 {
			return refuse(http.StatusTooManyRequests, "cannot let you in: too many wrong codes from your address; wait %v", wait.Round(time.Second))
		}
		scheme, code, _ := strings.Cut(req.Header.Get("Authorization"), " ")
		claim, _ := protocol.ParseClaim(code)
		if scheme != protocol.ClaimScheme || subtle.ConstantTimeCompare([]byte(claim), []byte(label.Claim)) != 1 {
			s.tries.failed(host)
			s.box.Log.Warn("a field tool came with a wrong code", "from", host)
			return refuse(http.StatusUnauthorized, "cannot let you in: the code is not that of this box's label; read it from the label again")
		}
		s.tries.succeeded(host)
		return nil
	}
	err := o.admits(req.TLS.PeerCertificates)
	if err != nil {
		s.tries.failed(host)
		if wait == 0 { // so that nobody fills the log
			s.box.Log.Warn("a field tool was refused", "from", host, "error", err.Error())
		}
		return refusal{http.StatusForbidden, err}
	}
	s.tries.succeeded(host)
	return nil
}

// admits says whether the tool with this certificate is one of the owner's.
func (o *owner) admits(shown []*x509.Certificate) error {
	if o.authority == nil {
		return errors.New("cannot let anybody in: the box has an owner, but its files do not say who any more; only a reset at the box opens it")
	}
	if len(shown) == 0 {
		return fmt.Errorf("cannot let you in: this box is %s's; its facility gives tools their certificates (vitalpeer tool add)", o.id)
	}
	return protocol.CheckTool(shown[0], o.authority, o.id.Facility, time.Now())
}

// tool is who calls, for the log.
func tool(req *http.Request) string {
	if c := req.TLS.PeerCertificates; len(c) > 0 {
		return c[0].Subject.CommonName
	}
	return "with the claim code"
}

// note logs what a tool that was let in did.
func (s *Server) note(req *http.Request, err error) {
	switch {
	case err != nil:
		s.box.Log.Info("not done", "method", req.Method, "path", req.URL.Path, "tool", tool(req), "error", err.Error())
	case req.Method != http.MethodGet:
		s.box.Log.Info("done", "method", req.Method, "path", req.URL.Path, "tool", tool(req))
	}
}

func answerWith(w http.ResponseWriter, v any, err error) {
	if err == nil && v == nil { // has been written
		return
	}
	status := http.StatusOK
	if err != nil {
		status, v = http.StatusUnprocessableEntity, protocol.Failure{Error: err.Error()}
		if r := (refusal{}); errors.As(err, &r) {
			status = r.status
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if raw, ok := v.(json.RawMessage); ok {
		w.Write(raw)
		return
	}
	json.NewEncoder(w).Encode(v)
}

func read(w http.ResponseWriter, req *http.Request, v any) error {
	b, err := io.ReadAll(io.LimitReader(req.Body, mostJSON+1))
	http.NewResponseController(w).SetReadDeadline(time.Time{}) // the rest may take its time; net/http would end it at the deadline
	if err != nil {
		return refuse(http.StatusBadRequest, "cannot read what you sent: %w", err)
	}
	if len(b) > mostJSON {
		return refuse(http.StatusRequestEntityTooLarge, "cannot take what you sent: it is larger than %d bytes", mostJSON)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return refuse(http.StatusBadRequest, "cannot understand what you sent: %w; use a vitalprov of the box's version (%s)", err, version.Version)
	}
	return nil
}

func (s *Server) getBox(http.ResponseWriter, *http.Request) (any, error) {
	return protocol.Box{Protocol: protocol.Version, Name: s.Label().Name(), Owned: s.Owned()}, nil
}

func (s *Server) getAbout(http.ResponseWriter, *http.Request) (any, error) {
	a, err := s.about()
	return a, err
}

// about is what a person must know to provision the box.
func (s *Server) about() (protocol.About, error) {
	a := protocol.About{Name: s.Label().Name(), Software: version.String(), Owned: s.Owned(), Lines: serial.Lines(), Interfaces: interfaces(), Can: []string{}, Time: time.Now()}
	a.Working, a.Trouble = s.work.state()
	for _, d := range mapping.Dialects() {
		a.Dialects = append(a.Dialects, protocol.Dialect{Name: d.Name, Title: d.Title, Framing: d.Framing, Role: d.Role})
	}
	if s.box.System != nil {
		a.System = s.box.System()
	}
	for name, can := range map[string]bool{"hwtest": s.box.Test != nil, "network": s.box.Network != nil, "update": s.box.Update != nil} {
		if can {
			a.Can = append(a.Can, name)
		}
	}
	slices.Sort(a.Can)
	if a.Owned {
		o, err := s.folder.owner()
		if err != nil || o == nil {
			return a, errors.Join(errors.New("cannot say whose this box is: its files changed just now; ask again"), err)
		}
		a.Box = o.id.String()
		text, err := s.folder.configText()
		if err != nil {
			return a, err
		}
		a.Config = text
	}
	return a, nil
}

func interfaces() []protocol.Interface {
	all := []protocol.Interface{}
	found, _ := net.Interfaces()
	for _, i := range found {
		if i.Flags&net.FlagLoopback != 0 {
			continue
		}
		p := protocol.Interface{Name: i.Name, Up: i.Flags&net.FlagRunning != 0, Addresses: []string{}}
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			p.Addresses = append(p.Addresses, a.String())
		}
		all = append(all, p)
	}
	return all
}

// postCheck says whether a configuration could be used.
func (s *Server) postCheck(w http.ResponseWriter, req *http.Request) (any, error) {
	var p protocol.Plan
	if err := read(w, req, &p); err != nil {
		return nil, err
	}
	id, err := record.ParseBoxID(p.Box)
	if err != nil {
		return nil, refusal{http.StatusBadRequest, err}
	}
	return struct{}{}, s.folder.checkPlan(id, p.Config)
}

func (s *Server) postRequest(w http.ResponseWriter, req *http.Request) (any, error) {
	var ask protocol.Ask
	if err := read(w, req, &ask); err != nil {
		return nil, err
	}
	id, err := record.ParseBoxID(ask.Box)
	if err != nil {
		return nil, refusal{http.StatusBadRequest, err}
	}
	if o, _ := s.folder.owner(); o != nil && o.id != id {
		return nil, fmt.Errorf("cannot ask to be enrolled as %s: this box is %s already; vitalprov reset makes it nobody's", id, o.id)
	}
	var q *enrolment.Request
	err = s.alone(req.Context(), func() error {
		return s.folder.withChip(req.Context(), s.tpmSource(), s.box.Log, func(chip *tpm.TPM) (err error) {
			q, err = enrol.Request(req.Context(), id, chip, s.folder.data())
			return err
		})
	})
	return q, err
}

// postChallenge answers the facility's question about the TPM of the box, between its request and its grant.
func (s *Server) postChallenge(w http.ResponseWriter, req *http.Request) (any, error) {
	var q attestation.Question
	if err := read(w, req, &q); err != nil {
		return nil, err
	}
	return s.answer(req.Context(), q)
}

func (s *Server) answer(ctx context.Context, q attestation.Question) (a *attestation.Answer, err error) {
	id, err := record.ParseBoxID(q.Box)
	if err != nil {
		return nil, refusal{http.StatusBadRequest, err}
	}
	err = s.alone(ctx, func() error {
		return s.folder.withChip(ctx, s.tpmSource(), s.box.Log, func(chip *tpm.TPM) (err error) {
			a, err = enrol.Answer(ctx, q, id, chip, s.folder.data())
			return err
		})
	})
	return a, err
}

// tpmSource is where the keys are: as configured, else as the first start finds them.
func (s *Server) tpmSource() string {
	if cfg, err := s.configuration(); err == nil {
		return cfg.TPM.Source
	}
	return "auto"
}

func (s *Server) putProvision(w http.ResponseWriter, req *http.Request) (any, error) {
	var p protocol.Provision
	if err := read(w, req, &p); err != nil {
		return nil, err
	}
	if err := s.provision(req.Context(), p); err != nil {
		return nil, err
	}
	return s.status(req.Context()), nil
}

func (s *Server) getStatus(_ http.ResponseWriter, req *http.Request) (any, error) {
	return s.status(req.Context()), nil
}

// State is how the box is, for its lamp.
func (s *Server) State(ctx context.Context) lamp.State {
	if !s.Owned() {
		return lamp.Nobodys
	}
	st := s.status(ctx)
	var r struct {
		Ready      bool `json:"ready"`
		Conditions []struct {
			Severity health.Severity `json:"severity"`
		} `json:"conditions"`
	}
	switch {
	case !st.Working, st.Report != nil && (json.Unmarshal(st.Report, &r) != nil || !r.Ready):
		return lamp.NotWorking
	case st.Report == nil && st.Trouble != "": // the page does not answer, or another box's does: nobody knows how this one is
		return lamp.Attention
	case st.Report == nil: // no status page is configured: the line runs, more is not known
		return lamp.Good
	case len(r.Conditions) > 0 && r.Conditions[0].Severity > health.Note:
		return lamp.Attention
	}
	return lamp.Good
}

// status asks the status page of the line, which shows no patient data.
func (s *Server) status(ctx context.Context) (st protocol.Status) {
	st.Working, st.Trouble = s.work.state()
	cfg, err := s.configuration()
	if err != nil || cfg.Status.Listen == "" || !st.Working {
		return st
	}
	_, text, err := page.Ask(ctx, cfg.Status.Listen, cfg.Box.ID)
	if err != nil && st.Trouble == "" {
		st.Trouble = "The line has just begun, or its status page does not answer: " + err.Error()
	}
	st.Report = text
	return st
}

func (s *Server) postTest(w http.ResponseWriter, req *http.Request) (any, error) {
	if s.box.Test == nil {
		return nil, errors.New("cannot test the hardware: this system has no test for it")
	}
	var o protocol.TestOptions
	if err := read(w, req, &o); err != nil {
		return nil, err
	}
	var report []byte
	err := s.alone(req.Context(), func() (err error) {
		report, err = s.box.Test(req.Context(), o)
		return err
	})
	return json.RawMessage(report), err
}

func (s *Server) putUpdate(w http.ResponseWriter, req *http.Request) (any, error) {
	if s.box.Update == nil {
		return nil, errors.New("cannot update: this box does not run from an image; update the program as it was installed")
	}
	// The line goes on while the other slot is written: readings are not held up by an update.
	out := json.NewEncoder(w)
	w.Header().Set("Content-Type", "application/x-ndjson")
	control := http.NewResponseController(w)
	control.SetReadDeadline(time.Now().Add(updateTime))
	say := func(p protocol.Progress) {
		out.Encode(p)
		control.Flush()
	}
	s.box.Log.Info("an update begins", "tool", tool(req))
	err := s.box.Update(req.Context(), http.MaxBytesReader(w, req.Body, mostBundle), func(text string) { say(protocol.Progress{Say: text}) })
	if err != nil {
		s.box.Log.Warn("the update was refused", "error", err.Error())
		say(protocol.Progress{Error: err.Error()})
		return nil, nil
	}
	say(protocol.Progress{Done: true})
	return nil, nil
}

func (s *Server) postReset(w http.ResponseWriter, req *http.Request) (any, error) {
	var r protocol.Reset
	if err := read(w, req, &r); err != nil {
		return nil, err
	}
	done, err := s.reset(req.Context(), r)
	if err != nil {
		return nil, err
	}
	if s.box.Wipe != nil { // after the answer, because it may end this process
		go func() {
			time.Sleep(time.Second)
			if err := s.box.Wipe(context.WithoutCancel(req.Context())); err != nil {
				s.box.Log.Error("the rest of the box was not wiped", "error", err.Error())
			}
		}()
	}
	return done, nil
}
