package maintain_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/firmware/maintain"
	"github.com/vitalgate/vitalgate/provision/protocol"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/enrolment"
	"github.com/vitalgate/vitalgate/tpm/attestation"
)

const patience = time.Minute

// facility is an authority as peers have one, with which a test makes grants and tools.
type facility struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  string
}

func newFacility(t *testing.T) *facility {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f := &facility{key: key}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "f1"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	f.cert = c
	f.pem, f.cert = f.sign(t, c, key.Public())
	return f
}

func (f *facility) sign(t *testing.T, c *x509.Certificate, key any) (string, *x509.Certificate) {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, f.cert, key, f.key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), parsed
}

// tool is a certificate of a field tool; change may spoil it.
func (f *facility) tool(t *testing.T, change func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "anna"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, URIs: []*url.URL{protocol.ToolURI("f1", "anna")}}
	if change != nil {
		change(c)
	}
	_, cert := f.sign(t, c, key.Public())
	return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

func (f *facility) grant(t *testing.T, request []byte) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "request.json")
	if err := os.WriteFile(path, request, 0o600); err != nil {
		t.Fatal(err)
	}
	q, err := enrolment.ReadRequest(path)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := q.CertificateRequest()
	if err != nil {
		t.Fatal(err)
	}
	text, _ := f.sign(t, &x509.Certificate{SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: q.Box}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, csr.PublicKey)
	reader, err := record.GenerateReaderKey()
	if err != nil {
		t.Fatal(err)
	}
	g := &enrolment.Grant{Version: enrolment.Version, Box: q.Box, CA: f.pem, TLSCertificate: text, Leaves: []enrolment.Leaf{{Name: "hub", URL: "tls://127.0.0.1:4222"}},
		Readers: enrolment.Readers{Network: []string{reader.Public().String()}, Patient: []string{}}}
	if err := g.Sign(f.key); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(g)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func configOf(box string) string {
	return fmt.Sprintf("[box]\nid = %q\ndata = \"data\"\n[tpm]\nsource = \"software\"\n[network]\ngrant = \"grant.json\"\n[status]\nlisten = \"\"\n[[monitor]]\nname = \"bed-1\"\naddress = \"127.0.0.1:0\"\n", box)
}

// box is a running box of a test. Its work does nothing but say that it goes on.
type box struct {
	*maintain.Server
	dir     string
	end     func() // of Run
	working atomic.Int32
	works   atomic.Int32 // how often it began
}

func open(t *testing.T, change func(*maintain.Box)) *box {
	t.Helper()
	t.Setenv("PATH", "") // no swtpm: the keys are files
	b := &box{dir: filepath.Join(t.TempDir(), "box")}
	o := maintain.Box{Dir: b.dir, Listen: "127.0.0.1:0", Work: func(ctx context.Context, config string) error {
		if _, err := os.Stat(config); err != nil {
			return err
		}
		b.works.Add(1)
		b.working.Add(1)
		defer b.working.Add(-1)
		<-ctx.Done()
		return nil
	}}
	if change != nil {
		change(&o)
	}
	s, err := maintain.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	b.Server = s
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	b.end = sync.OnceFunc(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(b.end)
	return b
}

// as calls the box with a label and a tool.
func (b *box) as(l protocol.Label, tool *tls.Certificate) func(method, path string, body any) (int, []byte) {
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: protocol.ClientTLS(l, tool), DisableKeepAlives: true}, Timeout: patience}
	return func(method, path string, body any) (int, []byte) {
		text, ok := body.([]byte)
		if !ok {
			text, _ = json.Marshal(body)
		}
		req, err := http.NewRequest(method, "https://"+b.Addr()+path, bytes.NewReader(text))
		if err != nil {
			return 0, []byte(err.Error())
		}
		req.Header.Set("Authorization", protocol.ClaimScheme+" "+l.Claim)
		resp, err := client.Do(req)
		if err != nil {
			return 0, []byte(err.Error())
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			return 0, []byte(err.Error())
		}
		return resp.StatusCode, answer
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v, but not: %s", patience, what)
		}
	}
}

// enrolled makes the box f1/gw1 of the facility.
func (b *box) enrolled(t *testing.T, f *facility) {
	t.Helper()
	call := b.as(b.Label(), nil)
	status, request := call("POST", protocol.PathRequest, protocol.Ask{Box: "f1/gw1"})
	if status != 200 {
		t.Fatalf("%d %s", status, request)
	}
	status, answer := call("PUT", protocol.PathProvision, protocol.Provision{Grant: f.grant(t, request), Config: configOf("f1/gw1")})
	if status != 200 {
		t.Fatalf("%d %s", status, answer)
	}
	until(t, "the box works", func() bool { return b.working.Load() == 1 })
}

// TestLife is a box from the factory to the reset.
func TestLife(t *testing.T) {
	b, f := open(t, nil), newFacility(t)
	if b.Owned() {
		t.Fatal("a new box is owned")
	}
	status, known := b.as(b.Label(), nil)("GET", protocol.PathBox, nil)
	var is protocol.Box
	if err := json.Unmarshal(known, &is); err != nil || status != 200 || is.Owned || is.Name != b.Label().Name() {
		t.Fatalf("%d %s", status, known)
	}
	time.Sleep(10 * time.Millisecond)
	if b.works.Load() != 0 {
		t.Fatal("a box that is nobody's works")
	}
	b.enrolled(t, f)
	if !b.Owned() {
		t.Fatal("it is not owned")
	}
	anna := b.as(b.Label(), f.tool(t, nil))
	status, answer := anna("GET", protocol.PathAbout, nil)
	var about protocol.About
	if err := json.Unmarshal(answer, &about); err != nil || status != 200 || about.Box != "f1/gw1" || !about.Working || about.Config != configOf("f1/gw1") {
		t.Fatalf("%d %s", status, answer)
	}
	// A changed configuration begins the work anew.
	if status, answer := anna("PUT", protocol.PathProvision, protocol.Provision{Config: strings.Replace(configOf("f1/gw1"), "bed-1", "bed-2", 1)}); status != 200 {
		t.Fatalf("%d %s", status, answer)
	}
	until(t, "the work began anew", func() bool { return b.works.Load() == 2 && b.working.Load() == 1 })

	old := b.Label()
	if status, answer = anna("POST", protocol.PathReset, protocol.Reset{NewLabel: true}); status != 200 {
		t.Fatalf("%d %s", status, answer)
	}
	var done protocol.ResetDone
	if err := json.Unmarshal(answer, &done); err != nil {
		t.Fatal(err)
	}
	label, err := protocol.ParseLabel(done.Label)
	if err != nil || label != b.Label() || label.Key == old.Key || label.Claim == old.Claim {
		t.Fatalf("the new label is %q: %v", done.Label, err)
	}
	left, err := os.ReadDir(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if n := e.Name(); n != "claim" && n != "link.key" && n != "lock" {
			t.Errorf("the reset left %s", n)
		}
	}
	if b.Owned() || b.working.Load() != 0 {
		t.Error("a box that was reset is owned or works")
	}
	if status, answer := b.as(old, nil)("GET", protocol.PathBox, nil); status != 0 || !strings.Contains(string(answer), "not the box with this label") {
		t.Errorf("the old label still holds: %d %s", status, answer)
	}
	b.enrolled(t, newFacility(t)) // whoever has the new label may
}

// TestWhoIsLetIn tries every route as everybody who must not.
func TestWhoIsLetIn(t *testing.T) {
	b, f := open(t, nil), newFacility(t)
	paths := [][2]string{{"GET", protocol.PathAbout}, {"POST", protocol.PathRequest}, {"POST", protocol.PathChallenge}, {"PUT", protocol.PathProvision}, {"GET", protocol.PathStatus}, {"POST", protocol.PathTest},
		{"GET", protocol.PathNetwork}, {"PUT", protocol.PathNetwork}, {"POST", protocol.PathKeep}, {"PUT", protocol.PathUpdate}, {"POST", protocol.PathReset}}
	refused := func(who string, call func(string, string, any) (int, []byte)) {
		t.Helper()
		for _, p := range paths {
			if status, answer := call(p[0], p[1], map[string]any{}); status != 401 && status != 403 && status != 429 {
				t.Errorf("%s: %s %s gives %d %s", who, p[0], p[1], status, answer)
			}
		}
	}
	wrong := b.Label()
	wrong.Claim = protocol.NewClaim()
	refused("a wrong code", b.as(wrong, nil))
	if status, _ := b.as(b.Label(), nil)("GET", protocol.PathAbout, nil); status != 429 {
		t.Errorf("after %d wrong codes the right one is answered %d, not 429", len(paths), status)
	}

	b = open(t, nil)
	b.enrolled(t, f)
	refused("the claim code on an owned box", b.as(b.Label(), nil))
	for who, change := range map[string]func(*x509.Certificate){
		"a box or peer of the facility": func(c *x509.Certificate) { c.URIs = nil },
		"a tool of another facility":    func(c *x509.Certificate) { c.URIs = []*url.URL{protocol.ToolURI("f2", "anna")} },
		"a facility with a longer name": func(c *x509.Certificate) { c.URIs = []*url.URL{protocol.ToolURI("f12", "anna")} },
		"a tool without a name":         func(c *x509.Certificate) { c.URIs = []*url.URL{protocol.ToolURI("f1", "")} },
		"a tool that is over":           func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) },
		"a tool that is not yet":        func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) },
		"a server":                      func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} },
	} {
		refused(who, b.as(b.Label(), f.tool(t, change)))
	}
	refused("a tool of another authority", b.as(b.Label(), newFacility(t).tool(t, nil)))
	if status, answer := b.as(b.Label(), f.tool(t, nil))("GET", protocol.PathAbout, nil); status != 200 {
		t.Errorf("the owner's tool is refused: %d %s", status, answer)
	}
	// A man in the middle has another key.
	other := open(t, nil)
	if status, answer := other.as(b.Label(), nil)("GET", protocol.PathBox, nil); status != 0 || !strings.Contains(string(answer), "somebody may be in between") {
		t.Errorf("another box passes for this one: %d %s", status, answer)
	}
}

// TestDamageOpensNoBox says that an owned box whose files are damaged stays closed.
func TestDamageOpensNoBox(t *testing.T) {
	b, f := open(t, nil), newFacility(t)
	b.enrolled(t, f)
	b.end()
	for _, name := range []string{"grant.json", "config.toml"} {
		path := filepath.Join(b.dir, name)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := maintain.Open(maintain.Box{Dir: b.dir, Listen: "127.0.0.1:0", Work: func(ctx context.Context, config string) error { <-ctx.Done(); return nil }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		again := &box{Server: s}
		for who, tool := range map[string]*tls.Certificate{"the claim code": nil, "a tool": f.tool(t, nil)} {
			if status, answer := again.as(s.Label(), tool)("GET", protocol.PathAbout, nil); status != 403 {
				t.Errorf("with a damaged %s %s is let in: %d %s", name, who, status, answer)
			}
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// Two that work on one folder would differ over whose the box is: the second one is refused, and may only show the label.
func TestOneBoxForAFolder(t *testing.T) {
	b, f := open(t, nil), newFacility(t)
	idle := func(ctx context.Context, config string) error { <-ctx.Done(); return nil }
	for range 2 { // nobody's and owned
		if _, err := maintain.Open(maintain.Box{Dir: b.dir, Listen: "127.0.0.1:0", Work: idle}); err == nil || !strings.Contains(err.Error(), "another vitalgate works on it; stop that one first") {
			t.Errorf("a second box on one folder: %v", err)
		}
		if l, err := maintain.Label(b.dir); err != nil || l != b.Label() {
			t.Errorf("the label of a running box: %v, %v", l.Name(), err)
		}
		if !b.Owned() {
			b.enrolled(t, f)
		}
	}
	label := b.Label()
	b.end()
	s, err := maintain.Open(maintain.Box{Dir: b.dir, Listen: "127.0.0.1:0", Work: idle})
	if err != nil {
		t.Fatalf("the folder of a box that has ended: %v", err)
	}
	if s.Label() != label || !s.Owned() {
		t.Error("it is another box")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// Whose the box is stands in the folder at each request: a claim code that was good opens no box that has got an owner since.
func TestOwnershipIsReadFromTheFolder(t *testing.T) {
	b := open(t, nil)
	call := b.as(b.Label(), nil)
	if status, answer := call("GET", protocol.PathAbout, nil); status != 200 {
		t.Fatalf("%d %s", status, answer)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "config.toml"), []byte(configOf("f1/gw1")), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{protocol.PathReset, protocol.PathRequest} {
		if status, answer := call("POST", path, protocol.Ask{Box: "f1/gw1"}); status != 403 {
			t.Errorf("%s: %d %s", path, status, answer)
		}
	}
}

// TestWhatIsRefused says what a box does not become somebody's with.
func TestWhatIsRefused(t *testing.T) {
	b, f := open(t, nil), newFacility(t)
	call := b.as(b.Label(), nil)
	status, request := call("POST", protocol.PathRequest, protocol.Ask{Box: "f1/gw1"})
	if status != 200 {
		t.Fatalf("%d %s", status, request)
	}
	grant := f.grant(t, request)
	for _, c := range []struct {
		name string
		p    protocol.Provision
		want string
	}{
		{"no grant", protocol.Provision{Config: configOf("f1/gw1")}, "the grant is missing"},
		{"no configuration", protocol.Provision{Grant: grant}, "the configuration is missing"},
		{"another box", protocol.Provision{Grant: grant, Config: configOf("f1/gw2")}, "it is for box f1/gw1"},
		{"a changed grant", protocol.Provision{Grant: bytes.Replace(grant, []byte("127.0.0.1"), []byte("127.0.0.2"), 1), Config: configOf("f1/gw1")}, "signature"},
		{"an unknown key", protocol.Provision{Grant: grant, Config: configOf("f1/gw1") + "colour = \"red\"\n"}, `unknown key "monitor.colour"`},
		{"data elsewhere", protocol.Provision{Grant: grant, Config: strings.Replace(configOf("f1/gw1"), `"data"`, `"/tmp"`, 1)}, `box.data must be "data"`},
		{"grant elsewhere", protocol.Provision{Grant: grant, Config: strings.Replace(configOf("f1/gw1"), `"grant.json"`, `"/etc/passwd"`, 1)}, `network.grant must be "grant.json"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, answer := call("PUT", protocol.PathProvision, c.p)
			var fail protocol.Failure
			if json.Unmarshal(answer, &fail); status != 422 || !strings.Contains(fail.Error, c.want) {
				t.Errorf("%d %q does not say %q", status, fail.Error, c.want)
			}
			if b.Owned() {
				t.Fatal("the box is owned")
			}
		})
	}
	// The keys of another box.
	other := open(t, nil)
	status, foreign := other.as(other.Label(), nil)("POST", protocol.PathRequest, protocol.Ask{Box: "f1/gw1"})
	if status != 200 {
		t.Fatalf("%d %s", status, foreign)
	}
	if status, answer := call("PUT", protocol.PathProvision, protocol.Provision{Grant: f.grant(t, foreign), Config: configOf("f1/gw1")}); status != 422 || !strings.Contains(string(answer), "another TLS key") {
		t.Errorf("the grant of another box is taken: %d %s", status, answer)
	}
}

// A configuration is refused before the facility is asked for anything, and the check keeps nothing.
func TestAPlanIsChecked(t *testing.T) {
	b := open(t, nil)
	call := b.as(b.Label(), nil)
	good := configOf("f1/gw1")
	for want, p := range map[string]protocol.Plan{
		"":                                    {Box: "f1/gw1", Config: good},
		"is not an IANA time zone":            {Box: "f1/gw1", Config: good + "zone = \"Europe/Berln\"\n"},
		"is not host:port":                    {Box: "f1/gw1", Config: strings.Replace(good, "127.0.0.1:0", "127.0.0.1", 1)},
		`dialect`:                             {Box: "f1/gw1", Config: good + "dialect = \"ihe-pcd99\"\n"},
		"give facility/name":                  {Box: "gw1", Config: configOf("gw1")},
		"it is that of box f1/gw1":            {Box: "f1/gw2", Config: good},
		`box.data must be "data"`:             {Box: "f1/gw1", Config: strings.Replace(good, `"data"`, `"/tmp"`, 1)},
		"cannot use the configuration: confi": {Box: "f1/gw1", Config: "["},
	} {
		status, answer := call("POST", protocol.PathCheck, p)
		var fail protocol.Failure
		if err := json.Unmarshal(answer, &fail); err != nil || (want == "") != (status == 200) || !strings.Contains(fail.Error, want) {
			t.Errorf("%d %q does not say %q: %v", status, fail.Error, want, err)
		}
	}
	left, err := os.ReadDir(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if n := e.Name(); n != "link.key" && n != "claim" && n != "lock" {
			t.Errorf("the check left %s", n)
		}
	}
}

// TestStick provisions a box that has no network.
func TestStick(t *testing.T) {
	b, f := open(t, nil), newFacility(t)
	mount := t.TempDir()
	if did, err := b.Stick(t.Context(), mount); did != "" || err != nil {
		t.Fatalf("somebody's holiday pictures: %q %v", did, err)
	}
	stick := protocol.StickAt(mount)
	own := stick.Of(b.Label().Name())
	if err := os.Mkdir(string(stick), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Stick(t.Context(), mount); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(own.Label()); err != nil || strings.TrimSpace(string(text)) != b.Label().String() {
		t.Fatalf("%s %v", text, err)
	}
	if err := os.WriteFile(stick.Next(), []byte("f1/gw1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if did, err := b.Stick(t.Context(), mount); err != nil {
		t.Fatal(did, err)
	}
	request, err := os.ReadFile(own.Request())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(stick.Next()); err == nil {
		t.Error("the next box would take the same name")
	}
	if did, err := b.Stick(t.Context(), mount); err != nil || !strings.Contains(did, "waits for its grant") {
		t.Errorf("%q %v", did, err)
	}
	for text, want := range map[string]string{"[]": "cannot understand", `{"version":1,"box":"f1/gw1"}`: "another request", `{"version":1,"box":"gw1"}`: "facility"} {
		if err := os.WriteFile(own.Question(), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Stick(t.Context(), mount); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the question %s: %v", text, err)
		}
	}
	for path, text := range map[string]string{own.Grant(): string(f.grant(t, request)), own.Config(): configOf("f1/gw1")} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if did, err := b.Stick(t.Context(), mount); err != nil {
		t.Fatal(did, err)
	}
	until(t, "the box works", func() bool { return b.working.Load() == 1 })
	if result, err := os.ReadFile(own.Result()); err != nil || !strings.Contains(string(result), "begins to work") {
		t.Errorf("%s %v", result, err)
	}
	// The box is reset and comes back with the same stick: what is on it is for keys that are gone.
	if status, text := b.as(b.Label(), f.tool(t, nil))("POST", protocol.PathReset, protocol.Reset{}); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	if did, err := b.Stick(t.Context(), mount); err != nil || !strings.Contains(did, "new enrolment request as f1/gw1") {
		t.Fatalf("after a reset: %q %v", did, err)
	}
	for _, path := range []string{own.Grant(), own.Question()} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s of before the reset is still there", path)
		}
	}
	if did, err := b.Stick(t.Context(), mount); err != nil || !strings.Contains(did, "waits for its grant") {
		t.Errorf("%q %v", did, err)
	}
	if request, err = os.ReadFile(own.Request()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(own.Grant(), f.grant(t, request), 0o644); err != nil {
		t.Fatal(err)
	}
	if did, err := b.Stick(t.Context(), mount); err != nil || !strings.HasPrefix(did, protocol.StickTaken) {
		t.Errorf("%q %v", did, err)
	}
	if err := os.RemoveAll(string(own)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Stick(t.Context(), mount); !errors.Is(err, maintain.ErrOwned) {
		t.Errorf("an owned box serves sticks: %v", err)
	}
	if _, err := os.Stat(string(own)); err == nil {
		t.Error("an owned box writes its label on a stick")
	}
}

// set is a set of readers as the facility signs it.
func (f *facility) set(t *testing.T, number uint64) []byte {
	t.Helper()
	reader, err := record.GenerateReaderKey()
	if err != nil {
		t.Fatal(err)
	}
	set := enrolment.ReaderSet{Version: enrolment.Version, Facility: "f1", Number: number, Readers: enrolment.Readers{Network: []string{reader.Public().String()}, Patient: []string{}}, PerRecord: true}
	if err := set.Sign(f.key); err != nil {
		t.Fatal(err)
	}
	b, err := set.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestReaders gives a box new readers, over the link and by stick. What its facility has not signed, or what is older, changes nothing,
// stops no line and gets nothing written on the stick.
func TestReaders(t *testing.T) {
	b, f, stranger := open(t, nil), newFacility(t), newFacility(t)
	if status, text := b.as(b.Label(), nil)("PUT", protocol.PathReaders, f.set(t, 1)); status != 422 || !strings.Contains(string(text), "no owner") {
		t.Errorf("nobody's box: %d %s", status, text)
	}
	b.enrolled(t, f)
	call := b.as(b.Label(), f.tool(t, nil))
	has := func(want uint64) {
		t.Helper()
		var r protocol.Readers
		if status, text := call("GET", protocol.PathReaders, nil); status != 200 || json.Unmarshal(text, &r) != nil || r.Number != want || r.Network != 1 || r.PerRecord != (want > 0) {
			t.Errorf("the box seals for %d %s, want set %d", status, text, want)
		}
	}
	has(0)
	if status, _ := b.as(b.Label(), nil)("PUT", protocol.PathReaders, f.set(t, 1)); status != 403 {
		t.Errorf("without a tool of the facility: %d", status)
	}
	second := f.set(t, 2)
	begun := b.works.Load()
	if status, text := call("PUT", protocol.PathReaders, second); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	has(2)
	until(t, "the line begins anew", func() bool { return b.works.Load() == begun+1 && b.working.Load() == 1 })
	forged := bytes.Replace(f.set(t, 3), []byte(`"number": 3`), []byte(`"number": 4`), 1)
	for what, c := range map[string]struct {
		set []byte
		why string
	}{
		"an older one":          {f.set(t, 1), "takes only newer ones"},
		"another of the number": {f.set(t, 2), "takes only newer ones"},
		"the same":              {second, "has this very set already"},
		"another facility's":    {stranger.set(t, 3), "signature: it is not the authority's"},
		"a changed one":         {forged, "signature: it is not the authority's"},
		"something else":        {[]byte(`{"a":1}`), "it is not a whole reader set"},
	} {
		if status, text := call("PUT", protocol.PathReaders, c.set); status != 422 || !strings.Contains(string(text), c.why) || strings.Contains(string(text), b.dir) {
			t.Errorf("%s: %d %s", what, status, text)
		}
	}
	has(2)

	mount := t.TempDir()
	stick := protocol.StickAt(mount)
	own := stick.Of(b.Label().Name())
	plug := func(set []byte) (string, error) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(string(stick), 0o755), os.WriteFile(stick.Readers(), set, 0o644)); err != nil {
			t.Fatal(err)
		}
		return b.Stick(t.Context(), mount)
	}
	for _, set := range [][]byte{f.set(t, 1), stranger.set(t, 9), forged, nil} {
		if did, err := plug(set); err == nil || did != "" {
			t.Errorf("the stick with %.60q was taken: %s", set, did)
		}
	}
	if _, err := os.Stat(string(own)); err == nil {
		t.Error("an owned box writes on a stick that brings it nothing of its facility's")
	}
	if b.works.Load() != begun+1 {
		t.Errorf("the line began %d times more for what was refused", b.works.Load()-begun-1)
	}
	third := f.set(t, 3)
	for range 2 { // a stick may be plugged in again
		if did, err := plug(third); err != nil || !strings.HasPrefix(did, protocol.StickReaders) {
			t.Errorf("%q %v", did, err)
		}
	}
	has(3)
	if result, err := os.ReadFile(own.Result()); err != nil || !strings.Contains(string(result), protocol.StickReaders) {
		t.Errorf("result: %s %v", result, err)
	}
	if _, err := os.Stat(own.Label()); err == nil {
		t.Error("an owned box writes its label on a stick")
	}
}

// The TPM of a box without a network answers what the facility asks, on the stick.
func TestStickAsksTheTPM(t *testing.T) {
	if _, err := exec.LookPath("swtpm"); err != nil {
		t.Skip("swtpm is not installed")
	}
	path := os.Getenv("PATH")
	b := open(t, nil)
	t.Setenv("PATH", path)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(b.dir, "data", "tpm", "swtpm"), 0o700)) // a TPM without certificates, which is made sooner
	mount := t.TempDir()
	stick := protocol.StickAt(mount)
	own := stick.Of(b.Label().Name())
	must(os.Mkdir(string(stick), 0o755))
	must(os.WriteFile(stick.Next(), []byte("f1/gw1\n"), 0o644))
	_, err := b.Stick(t.Context(), mount)
	must(err)
	r, err := enrolment.ReadRequest(own.Request())
	must(err)
	var shown attestation.Presentation
	must(json.Unmarshal(r.TPM, &shown))
	lak, err := attestation.ParseLAK(shown.Areas.LAK)
	must(err)
	q := attestation.Question{Version: attestation.QuestionVersion, Box: r.Box, Nonce: []byte("of the facility"), Endorsement: shown.Endorsements[0].Area, PCRs: []uint{7, 11}}
	q.Request, err = r.Digest()
	must(err)
	var secret []byte
	q.Challenge, secret, err = shown.Endorsements[0].Challenge(lak)
	must(err)
	text, err := json.Marshal(q)
	must(err)
	must(os.WriteFile(own.Question(), text, 0o644))
	if did, err := b.Stick(t.Context(), mount); err != nil || !strings.Contains(did, "answered what the facility asks") {
		t.Fatalf("%q %v", did, err)
	}
	var a attestation.Answer
	must(enrolment.Read(own.Answer(), "answer", &a))
	if !bytes.Equal(a.Secret, secret) {
		t.Error("the TPM has read another secret")
	}
	if _, _, err := lak.Certified(a.Data, q.Binding(), shown.Areas.Data); err != nil {
		t.Error(err)
	}
	if did, err := b.Stick(t.Context(), mount); err != nil || !strings.Contains(did, "waits for its grant") {
		t.Errorf("asked again: %q %v", did, err)
	}
}

// cable is a network that can be changed: the box is reached by way of its address, and not by way of any other.
type cable struct {
	box string // where the box listens

	mu   sync.Mutex
	kept protocol.Network
	lis  net.Listener
	off  []string // interfaces from which everything was taken
}

func (c *cable) Settings() (protocol.Network, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kept, nil
}

func (c *cable) On(name string) protocol.Network {
	c.mu.Lock()
	defer c.mu.Unlock()
	if name != c.kept.Interface {
		return protocol.Network{Interface: name}
	}
	return c.kept
}

func (c *cable) Keep(n protocol.Network) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept = n
	return nil
}

func (c *cable) Apply(_ context.Context, n protocol.Network) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n.Method == "" {
		c.off = append(c.off, n.Interface)
		return nil
	}
	if c.lis != nil {
		c.lis.Close()
	}
	host, _, _ := strings.Cut(n.Address, "/")
	lis, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return err
	}
	c.lis = lis
	go func() {
		for {
			in, err := lis.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				out, err := net.Dial("tcp", c.box)
				if err != nil {
					return
				}
				defer out.Close()
				go io.Copy(out, in)
				io.Copy(in, out)
			}()
		}
	}()
	return nil
}

func (c *cable) addr() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lis.Addr().String()
}

// TestNetworkIsTried changes settings and comes back, keeps them, and loses the way.
func TestNetworkIsTried(t *testing.T) {
	c := &cable{kept: protocol.Network{Interface: "lo", Method: "static", Address: "127.0.0.1/8"}}
	b := open(t, func(o *maintain.Box) { o.Network, o.TrialTime = c, 3*time.Second })
	c.box = b.Addr()
	if err := c.Apply(t.Context(), c.kept); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.lis.Close() })
	call := func(method, path string, body any) (int, []byte) {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: protocol.ClientTLS(b.Label(), nil), DisableKeepAlives: true}, Timeout: patience}
		text, _ := json.Marshal(body)
		req, err := http.NewRequest(method, "https://"+c.addr()+path, bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", protocol.ClaimScheme+" "+b.Label().Claim)
		resp, err := client.Do(req)
		if err != nil {
			return 0, []byte(err.Error())
		}
		defer resp.Body.Close()
		answer, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, answer
	}
	try := func(name, address string) protocol.Trial {
		t.Helper()
		status, answer := call("PUT", protocol.PathNetwork, protocol.Network{Interface: name, Method: "static", Address: address})
		var trial protocol.Trial
		if err := json.Unmarshal(answer, &trial); err != nil || status != 200 {
			t.Fatalf("%d %s", status, answer)
		}
		return trial
	}
	at := func(host string) func() bool {
		return func() bool { return strings.HasPrefix(c.addr(), host+":") }
	}

	trial := try("lo", "127.0.0.2/8")
	until(t, "the new settings are in force", at("127.0.0.2"))
	if status, answer := call("POST", protocol.PathKeep, protocol.Keep{Token: "guess"}); status != 409 {
		t.Fatalf("%d %s", status, answer)
	}
	until(t, "the old settings are back", at("127.0.0.1"))
	if status, answer := call("POST", protocol.PathKeep, protocol.Keep{Token: trial.Token}); status != 409 {
		t.Fatalf("settings that are gone are kept: %d %s", status, answer)
	}

	trial = try("lo", "127.0.0.3/8")
	until(t, "the new settings are in force", at("127.0.0.3"))
	if status, answer := call("POST", protocol.PathKeep, protocol.Keep{Token: trial.Token}); status != 200 {
		t.Fatalf("%d %s", status, answer)
	}
	if n, _ := c.Settings(); n.Address != "127.0.0.3/8" {
		t.Errorf("kept: %+v", n)
	}

	// Another interface is tried: what it had, nothing, is back as well.
	try("eth1", "127.0.0.4/8")
	until(t, "the new settings are in force", at("127.0.0.4"))
	until(t, "the old settings are back", at("127.0.0.3"))
	c.mu.Lock()
	if len(c.off) != 1 || c.off[0] != "eth1" {
		t.Errorf("everything was taken off %q, not off eth1", c.off)
	}
	c.mu.Unlock()

	for n, want := range map[*protocol.Network]string{
		{Interface: "", Method: "dhcp"}:                                                    "name the interface",
		{Interface: "eth0", Method: "static", Address: "10.0.0.5"}:                         "prefix length",
		{Interface: "eth0", Method: "static", Address: "10.0.0.5/24", Gateway: "10.0.1.1"}: "gateway",
		{Interface: "eth0", Method: "dhcp", Address: "10.0.0.5/24"}:                        "leave them out",
		{Interface: "eth0", Method: "dhcp", VLAN: 5000}:                                    "VLAN",
		{Interface: "eth0", Method: "dhcp", DNS: []string{"ns.example"}}:                   "DNS",
		{Interface: "eth0", Method: "magic"}:                                               "dhcp or static",
	} {
		if status, answer := call("PUT", protocol.PathNetwork, n); status != 400 || !strings.Contains(string(answer), want) {
			t.Errorf("%+v: %d %s does not say %q", *n, status, answer, want)
		}
	}
}

// TestOperationsHaveTheBoxAlone says that the line does not run beside the hardware test, and runs again afterwards.
func TestOperationsHaveTheBoxAlone(t *testing.T) {
	var b *box
	f := newFacility(t)
	var beside atomic.Int32
	b = open(t, func(o *maintain.Box) {
		o.Test = func(context.Context, protocol.TestOptions) ([]byte, error) {
			beside.Add(b.working.Load())
			return []byte(`{"tested":true}`), nil
		}
	})
	b.enrolled(t, f)
	anna := b.as(b.Label(), f.tool(t, nil))
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if status, answer := anna("POST", protocol.PathTest, protocol.TestOptions{}); status != 200 || string(answer) != `{"tested":true}` {
				t.Errorf("%d %s", status, answer)
			}
		})
	}
	all.Wait()
	if beside.Load() != 0 {
		t.Error("the line ran beside the test")
	}
	until(t, "the line runs again", func() bool { return b.working.Load() == 1 })
}

// TestUpdateTellsItsProgress passes a bundle on, and what comes of it back.
func TestUpdateTellsItsProgress(t *testing.T) {
	b := open(t, func(o *maintain.Box) {
		o.Update = func(_ context.Context, bundle io.Reader, say func(string)) error {
			text, err := io.ReadAll(bundle)
			if err != nil {
				return err
			}
			say(fmt.Sprintf("%d bytes", len(text)))
			if string(text) != "good" {
				return errors.New("cannot use the bundle: it is not signed")
			}
			return nil
		}
	})
	call := b.as(b.Label(), nil)
	for bundle, want := range map[string]string{"good": "{\"say\":\"4 bytes\"}\n{\"done\":true}\n", "foul!": "{\"say\":\"5 bytes\"}\n{\"error\":\"cannot use the bundle: it is not signed\"}\n"} {
		if status, answer := call("PUT", protocol.PathUpdate, []byte(bundle)); status != 200 || string(answer) != want {
			t.Errorf("%d %q", status, answer)
		}
	}
}
