package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/vitalgate/vitalgate/hwtest/hospital"
	"github.com/vitalgate/vitalgate/peer/facility"
	"github.com/vitalgate/vitalgate/peer/peertest"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/enrolment"
)

// vitalpeer is the program as it is built for use. The tests run its commands, hundreds of them, which would take minutes under the
// race detector; peers that run are the test binary itself, so that the detector sees them.
var vitalpeer string

// The test binary is the program too, so that a test can kill it as a power cut would.
func TestMain(m *testing.M) {
	if os.Getenv("VITALPEER_MAIN") != "" {
		main()
		os.Exit(0)
	}
	// The tests are about programs that wait for each other: more of them may wait at once than there are cores.
	flag.Set("test.parallel", "4")
	dir, err := os.MkdirTemp("", "vitalpeer-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "vitalpeer"), ".")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "cannot build vitalpeer:", err)
		os.Exit(1)
	}
	vitalpeer = filepath.Join(dir, "vitalpeer")
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// program runs a command to its end and returns what it prints.
func program(t testing.TB, args ...string) string {
	t.Helper()
	out, err := tryProgram(args...)
	if err != nil {
		t.Fatalf("vitalpeer %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func tryProgram(args ...string) (string, error) {
	cmd := exec.Command(vitalpeer, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, stderr.Bytes())
	}
	return string(out), err
}

// site is one peer of the hospital under test.
type site struct {
	t     testing.TB
	dir   facility.Dir
	conf  *facility.Config
	run   *exec.Cmd
	log   *syncBuffer
	ended chan struct{}
	flags []string // of run, beside the usual
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// newHub makes a hub; url, if not empty, is how wards are told to reach it.
func newHub(t testing.TB, url string) *site {
	t.Helper()
	d := filepath.Join(t.TempDir(), "hub")
	program(t, "init", "--facility", "f1", "--name", "hub", "--data", d, "--listen-boxes", hospital.FreeAddr(), "--listen-peers", hospital.FreeAddr(), "--page", hospital.FreeAddr())
	if url != "" {
		edit(t, filepath.Join(d, "peer.toml"), "[peers]\n", "url    = ''", "url    = '"+url+"'")
	}
	return newSite(t, d)
}

// edit replaces text after a mark in a file.
func edit(t testing.TB, path, mark, from, to string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, after, ok := strings.Cut(string(b), mark) // "" stands at the beginning
	if !ok || !strings.Contains(after, from) {
		t.Fatalf("%s has no %q after %q", path, from, mark)
	}
	if err := os.WriteFile(path, []byte(before+mark+strings.Replace(after, from, to, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
}

func newSite(t testing.TB, dir string) *site {
	t.Helper()
	s := &site{t: t, dir: facility.Dir(dir)}
	var err error
	if s.conf, err = s.dir.Load(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.kill()
		if t.Failed() && s.log != nil { // what fails at one peer is often due to another
			text := s.log.String()
			t.Logf("the last words of %s:\n%s", s.conf.Name, text[max(0, len(text)-5000):])
		}
	})
	return s
}

// ward joins a ward peer to the hub.
func (s *site) ward(name string, flags ...string) *site {
	s.t.Helper()
	dir := s.t.TempDir()
	inv, boxes := filepath.Join(dir, "invitation"), hospital.FreeAddr()
	program(s.t, append([]string{"invite", name, "--data", string(s.dir), "-o", inv, "--boxes", boxes}, flags...)...)
	d := filepath.Join(dir, name)
	program(s.t, "init", "--join", inv, "--data", d, "--listen-boxes", boxes, "--page", hospital.FreeAddr())
	if _, err := tryProgram("init", "--join", inv, "--data", d+"-again"); err == nil {
		s.t.Error("an invitation makes two peers of one name")
	}
	return newSite(s.t, d)
}

// enrol enrols a box at this hub and makes it known to the others.
func (s *site) enrol(b *peertest.Box, others ...*site) {
	s.t.Helper()
	s.enrolWith(b)
	for _, o := range others {
		program(s.t, "registry", "submit", s.dir.Registry().Log, "--data", string(o.dir))
	}
}

func (s *site) enrolWith(b *peertest.Box, flags ...string) {
	s.t.Helper()
	dir := s.t.TempDir()
	request, grant := filepath.Join(dir, "request"), filepath.Join(dir, "grant")
	if err := enrolment.Write(request, b.Request()); err != nil {
		s.t.Fatal(err)
	}
	program(s.t, append([]string{"box", "add", request, "--data", string(s.dir), "-o", grant}, flags...)...)
	g, err := enrolment.ReadGrant(grant)
	if err != nil {
		s.t.Fatal(err)
	}
	b.Granted(g)
}

// start runs the peer and waits until it serves.
func (s *site) start() {
	s.t.Helper()
	s.log = &syncBuffer{}
	s.run = exec.Command(os.Args[0], append([]string{"run", "--data", string(s.dir), "--debug"}, s.flags...)...)
	s.run.Env = append(os.Environ(), "VITALPEER_MAIN=1")
	s.run.Stderr = s.log
	if err := s.run.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.ended = make(chan struct{})
	go func(run *exec.Cmd, ended chan struct{}) {
		run.Wait()
		close(ended)
	}(s.run, s.ended)
	s.until("the peer serves", func() bool {
		a, err := http.Get("http://" + s.conf.Page.Listen + "/healthz")
		if err != nil {
			return false
		}
		a.Body.Close()
		return a.StatusCode == http.StatusOK
	})
}

// until waits for something that must come true.
func (s *site) until(what string, ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(5 * time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
		select {
		case <-s.ended:
			s.t.Fatalf("%s ended before %s:\n%s", s.conf.Name, what, s.log)
		default:
		}
	}
	s.t.Fatalf("%s: never came true: %s\n%s", s.conf.Name, what, s.log)
}

// kill ends the peer as a power cut would.
func (s *site) kill() {
	if s.run != nil {
		s.run.Process.Kill()
		<-s.ended
		s.run = nil
		if text := s.log.String(); strings.Contains(text, "DATA RACE") || strings.Contains(text, "panic: ") {
			s.t.Errorf("%s:\n%s", s.conf.Name, text)
		}
	}
}

// stop ends the peer as an administrator would.
func (s *site) stop() {
	s.t.Helper()
	began := time.Now()
	s.run.Process.Signal(syscall.SIGTERM)
	<-s.ended
	if !s.run.ProcessState.Success() {
		s.t.Errorf("%s did not stop well: %v\n%s", s.conf.Name, s.run.ProcessState, s.log)
	}
	s.t.Logf("%s stopped in %v", s.conf.Name, time.Since(began).Round(time.Millisecond))
	s.run = nil
}

func (s *site) url() string { return "tls://" + s.conf.Boxes.Listen }

// says is what the running peer says of itself, as the command status prints it, without the start of a program.
func (s *site) says() *status {
	s.t.Helper()
	st, err := socketSource{s.dir}.status(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return st
}

// status is what the command prints.
func (s *site) status() status {
	s.t.Helper()
	var st status
	out, err := exec.Command(vitalpeer, "status", "--json", "--data", string(s.dir)).Output()
	if e := json.Unmarshal(out, &st); e != nil {
		s.t.Fatal(e, err)
	}
	if st.Ready != (err == nil) {
		s.t.Errorf("ready is %v, but the exit status says %v", st.Ready, err)
	}
	return st
}

// has waits until the peer holds all that the box has signed.
func (s *site) has(b *peertest.Box) {
	s.t.Helper()
	src := socketSource{s.dir}
	s.until(fmt.Sprintf("%d records of %s are stored", len(b.Log), b.ID), func() bool {
		n, err := src.Size(b.ID)
		return err == nil && n == uint64(len(b.Log))
	})
}

// same checks that what the peer holds of the box is what the box has signed: no more, no less, no other.
func (s *site) same(b *peertest.Box) {
	s.t.Helper()
	src, err := openSource(s.dir)
	if err != nil {
		s.t.Fatal(err)
	}
	defer src.Close()
	n := 0
	err = src.Records(context.Background(), b.ID, 0, false, func(p record.Published) error {
		if _, err := record.Verify(p, b.ID, &b.Data.PublicKey); err != nil {
			return err
		}
		if p.Index != uint64(n) || !bytes.Equal(p.Leaf, b.Log[n].Leaf) {
			return fmt.Errorf("record %d is another at %s", n, s.conf.Name)
		}
		n++
		return nil
	})
	if err != nil {
		s.t.Error(err)
	}
	if n != len(b.Log) {
		s.t.Errorf("%s holds %d records of %s, the box has signed %d", s.conf.Name, n, b.ID, len(b.Log))
	}
}

func (s *site) tail(flags ...string) (lines []line) {
	s.t.Helper()
	d := json.NewDecoder(strings.NewReader(program(s.t, append([]string{"tail", "--data", string(s.dir)}, flags...)...)))
	for {
		var l line
		if err := d.Decode(&l); err == io.EOF {
			return lines
		} else if err != nil {
			s.t.Fatal(err)
		}
		lines = append(lines, l)
	}
}

// connect connects the box when the peer has taken in its registration.
func (s *site) connect(b *peertest.Box) *nats.Conn {
	s.t.Helper()
	var nc *nats.Conn
	s.until(b.ID.String()+" may connect", func() (ok bool) {
		var err error
		nc, err = nats.Connect(s.url(), b.Options()...)
		return err == nil
	})
	s.t.Cleanup(nc.Close)
	return nc
}

// publish publishes as the firmware does: again, until it is acknowledged.
func (s *site) publish(b *peertest.Box, nc *nats.Conn, records []record.Published) {
	s.t.Helper()
	s.until("the stream of "+b.ID.String()+" is there", func() bool {
		// No stream has this many messages, so nothing is stored.
		probe := &nats.Msg{Subject: b.ID.Subject(), Header: nats.Header{"Nats-Expected-Last-Sequence": {"4611686018427387904"}}}
		_, err := nc.RequestMsg(probe, 2*time.Second)
		return !errors.Is(err, nats.ErrNoResponders)
	})
	b.Publish(nc, records)
}

// send connects, publishes and goes.
func (s *site) send(b *peertest.Box, records []record.Published) {
	s.t.Helper()
	nc := s.connect(b)
	defer nc.Close()
	s.publish(b, nc, records)
}

func TestRecordsReachTheHubThroughTheWard(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	ward := hub.ward("ward1")
	box := peertest.NewBox(t, "f1/gw1")
	hub.start()
	ward.start()
	hub.enrol(box, ward) // both are running
	nc := ward.connect(box)
	ward.publish(box, nc, box.Record(1200))
	hub.has(box)
	hub.same(box)
	ward.same(box)

	lines := hub.tail("--box", "f1/gw1")
	if len(lines) != 1200 {
		t.Fatalf("tail at the hub prints %d records, want 1200", len(lines))
	}
	l := lines[0]
	if l.Box != "f1/gw1" || l.Kind != "vitals" || l.Monitor != "bed-1" || l.Protection != "software" || l.Checkpoint.Size != uint64(len(box.Log)) ||
		!bytes.Contains(l.Bundle, []byte(`"value":60`)) || l.Sealed != "" || l.Observed == nil || l.Arrived == nil {
		t.Errorf("the first line is %+v", l)
	}
	for _, l := range ward.tail() {
		if l.Bundle != nil || l.Raw != nil || l.Monitor != "" || l.Sealed == "" || l.Commitment == "" {
			t.Fatalf("a ward without the reader key shows %+v", l)
		}
	}
	if got := hub.tail("--from", "1000"); len(got) != len(box.Log)-1000 || got[0].Bundle == nil {
		t.Errorf("tail --from 1000 prints %d records, want %d with their Bundles", len(got), len(box.Log)-1000)
	}
	hub.until("the page shows the bed", func() bool {
		a, err := http.Get("http://" + hub.conf.Page.Listen + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		text, err := io.ReadAll(a.Body)
		return err == nil && bytes.Contains(text, []byte("bed-1"))
	})
	if out := program(t, "get", "f1/gw1", "5", "--bundle", "--data", string(hub.dir)); out != string(peertest.Bundle(64)) {
		t.Errorf("get --bundle printed %q", out)
	}
	if out := program(t, "verify", "--data", string(hub.dir)); !strings.Contains(out, fmt.Sprintf("%d records", len(box.Log))) {
		t.Errorf("verify says %q", out)
	}
	if out := program(t, "validate", "--data", string(hub.dir)); !strings.Contains(out, "1200 Bundles checked, 0 not valid") {
		t.Errorf("validate says %q", out)
	}
	fsck := func() {
		t.Helper()
		if out := program(t, "fsck", "--data", string(hub.dir)); !strings.Contains(out, "f1/gw1: clean") {
			t.Errorf("fsck says %q", out)
		}
	}
	fsck()
	ward.stop()
	hub.stop()
	fsck()
	hub.same(box) // the same from the files of a stopped peer
	if strings.Contains(hub.log.String()+ward.log.String(), "patient-1") {
		t.Error("a log line holds an identifier of a patient")
	}
}
