// Package hospital runs a small hospital of real processes on this machine: a hub peer, a ward leaf peer and one box,
// joined by wires that can be cut. The demo and the end-to-end tests are made of it.
package hospital

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Box is the id of the hospital's box.
const Box = "f1/gw1"

// Options of a hospital.
type Options struct {
	Bin      string // folder of vitalgate, vitalpeer and vitalsim
	Dir      string // empty folder for data and logs
	TPM      string // tpm.source of the box; "" is auto
	Monitors string // [[monitor]] tables of the box's configuration
	HubPage  string // address of the hub's page; "" is a free port

	Wards, Hubs int      // further peers: wards, ward2 on, take the box too; hubs, hub2 on, take wards: each peer joins the first hub that it reaches
	Env         []string // of the box, beside this process's own
}

// Peer is one peer that has joined the hub.
type Peer struct {
	*Process
	BoxWire  *Wire   // from the box; nil for a hub
	HubWires []*Wire // to the hubs that it may join, in order
	page     string
}

// Hospital is the running whole.
type Hospital struct {
	Options
	Hub, Ward, Gateway *Process
	BoxWire, PeerWire  *Wire   // box to ward, ward to hub
	Page, Status       string  // addresses of the hub's page and of the box's status
	Peers              []*Peer // all that have joined the hub; the first is Ward with BoxWire and PeerWire
}

// ports are the loopback ports of this process: blocks of a hundred between 20000 and 32000, below those that the system gives to
// outgoing connections. A block is this process's as long as it listens on the block's first port, which it does to its end, so that
// programs that look for free ports at the same time never give out one twice.
var ports struct {
	sync.Mutex
	next, end int
	held      []net.Listener
}

// FreeAddr is a loopback address that nothing listens on; each call, in every process of this machine, gives another.
func FreeAddr() string {
	ports.Lock()
	defer ports.Unlock()
	for range 10_000 {
		if ports.next == ports.end {
			first := 20000 + 100*rand.IntN(120)
			lis, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first))
			if err != nil {
				continue // another's block
			}
			ports.held = append(ports.held, lis)
			ports.next, ports.end = first+1, first+100
		}
		addr := fmt.Sprintf("127.0.0.1:%d", ports.next)
		ports.next++
		if lis, err := net.Listen("tcp", addr); err == nil {
			lis.Close()
			return addr
		}
	}
	panic("hospital: no free port between 20000 and 32000")
}

// GiveBackPorts ends that the blocks of ports are this process's, when nothing that it has started listens on one any more.
func GiveBackPorts() {
	ports.Lock()
	defer ports.Unlock()
	for _, lis := range ports.held {
		lis.Close()
	}
	ports.held, ports.next, ports.end = nil, 0, 0
}

// Folder is where a program keeps its hospital: the new folder keep, or, where that is empty, one that remove takes away.
func Folder(program, keep string) (dir string, remove func(), err error) {
	if keep == "" {
		dir, err = os.MkdirTemp("", "vitalgate-"+program+"-")
		return dir, func() { os.RemoveAll(dir) }, err
	}
	if err := os.Mkdir(keep, 0o700); err != nil {
		return "", nil, fmt.Errorf("cannot keep the data: %w; name a new folder", err)
	}
	return keep, func() {}, nil
}

// Monitor is the configuration of a monitor as a Sender is one: it stands at the bed of its name, and zone is for times without one.
func Monitor(bed, addr, zone string) string {
	return fmt.Sprintf("[[monitor]]\nname = %q\naddress = %q\ndialect = \"ihe-pcd01\"\nzone = %q\nbed = %[1]q\n", bed, addr, zone)
}

// New lays everything out and enrols the box; Start begins it.
func New(ctx context.Context, o Options) (*Hospital, error) {
	h := &Hospital{Options: o}
	hubBoxes, hubPeers := FreeAddr(), FreeAddr()
	h.Status, h.Page = FreeAddr(), o.HubPage
	if h.Page == "" {
		h.Page = FreeAddr()
	}
	hub, box := h.path("hub"), h.path("gw1")
	if err := os.MkdirAll(box, 0o700); err != nil {
		return nil, err
	}
	if err := h.do(ctx, "vitalpeer", "init", "--facility", "f1", "--name", "hub", "--data", hub,
		"--listen-boxes", hubBoxes, "--listen-peers", hubPeers, "--page", h.Page); err != nil {
		return nil, err
	}
	hubs := []string{hubPeers}
	for range o.Hubs {
		hubs = append(hubs, FreeAddr())
	}
	for i := range 1 + o.Wards {
		if err := h.join(ctx, fmt.Sprintf("ward%d", i+1), hubs, ""); err != nil {
			return nil, err
		}
	}
	for i := 1; i < len(hubs); i++ { // each joins those before it only, so that the hubs never join in a circle
		if err := h.join(ctx, fmt.Sprintf("hub%d", i+1), hubs[:i], hubs[i]); err != nil {
			return nil, err
		}
	}
	h.BoxWire, h.PeerWire = h.Peers[0].BoxWire, h.Peers[0].HubWires[0]
	tpm := o.TPM
	if tpm == "" {
		tpm = "auto"
	}
	config := fmt.Sprintf("[box]\nid = %q\ndata = \"data\"\n[tpm]\nsource = %q\n[network]\ngrant = \"gw1.grant.json\"\n[status]\nlisten = %q\n%s", Box, tpm, h.Status, o.Monitors)
	if err := os.WriteFile(h.ConfigPath(), []byte(config), 0o600); err != nil {
		return nil, err
	}
	request := filepath.Join(box, "gw1.request.json")
	if err := h.do(ctx, "vitalgate", "request", "-c", h.ConfigPath(), "-o", request); err != nil {
		return nil, err
	}
	if err := h.enrol(ctx, request); err != nil {
		return nil, err
	}
	h.Ward = h.Peers[0].Process
	var err error
	if h.Hub, err = newProcess(h.Dir, "hub", h.bin("vitalpeer"), "run", "--data", hub); err != nil {
		return nil, err
	}
	if h.Gateway, err = newProcess(h.Dir, "gw1", h.bin("vitalgate"), "run", "-c", h.ConfigPath()); err != nil {
		return nil, err
	}
	h.Gateway.env = h.Env
	return h, nil
}

// join makes a peer that joins the hubs: a ward, or, with an address for wards, a further hub. It cannot open records; see LetRead.
func (h *Hospital) join(ctx context.Context, name string, hubs []string, wards string) error {
	p := &Peer{page: FreeAddr()}
	var cables []string
	for _, hub := range hubs {
		w, err := NewWire(ctx, hub)
		if err != nil {
			return err
		}
		p.HubWires, cables = append(p.HubWires, w), append(cables, "'tls://"+w.Addr()+"'")
	}
	listen := FreeAddr()
	invite, start := []string{"invite", name, "--data", h.path("hub")}, []string{"init", "--data", h.path(name), "--listen-boxes", listen, "--page", p.page}
	if wards != "" {
		invite, start = append(invite, "--host", "127.0.0.1"), append(start, "--listen-peers", wards)
	} else {
		var err error
		if p.BoxWire, err = NewWire(ctx, listen); err != nil {
			return err
		}
		invite = append(invite, "--boxes", listen)
	}
	invitation := h.path(name + ".invitation.json")
	if err := h.do(ctx, "vitalpeer", append(invite, "-o", invitation)...); err != nil {
		return err
	}
	if err := h.do(ctx, "vitalpeer", append(start, "--join", invitation)...); err != nil {
		return err
	}
	var err error
	if p.Process, err = newProcess(h.Dir, name, h.bin("vitalpeer"), "run", "--data", h.path(name)); err != nil {
		return err
	}
	h.Peers = append(h.Peers, p)
	return replaceIn(filepath.Join(h.path(name), "peer.toml"), "'tls://"+hubs[0]+"'", strings.Join(cables, ", ")) // the peer's cables
}

// enrol lets the box in: the hub, which has the facility's authority, decides; the other peers, which do not run yet, are
// given the registry as a file.
func (h *Hospital) enrol(ctx context.Context, request string) error {
	grant := filepath.Join(h.path("gw1"), "gw1.grant.json")
	add := []string{"box", "add", request, "--data", h.path("hub"), "-o", grant}
	for _, p := range h.Peers {
		if p.BoxWire != nil {
			add = append(add, "--leaf", p.Name+"=tls://"+p.BoxWire.Addr())
		}
	}
	if err := h.do(ctx, "vitalpeer", add...); err != nil {
		return err
	}
	for _, p := range h.Peers {
		if err := h.do(ctx, "vitalpeer", "registry", "submit", filepath.Join(h.path("hub"), "registry", "log"), "--data", h.path(p.Name)); err != nil {
			return err
		}
	}
	return nil
}

// replaceIn changes the one place in a file where old stands.
func replaceIn(path, old, text string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if n := bytes.Count(b, []byte(old)); n != 1 {
		return fmt.Errorf("%s names %s %d times, not once", path, old, n)
	}
	return os.WriteFile(path, bytes.Replace(b, []byte(old), []byte(text), 1), 0o600)
}

// Start runs the hub, the ward peer and the box, and waits until each is ready.
func (h *Hospital) Start(ctx context.Context) error {
	for _, p := range h.All() {
		if err := p.Start(); err != nil {
			return err
		}
	}
	return h.Wait(ctx, 3*time.Minute, "all answer", func() bool {
		for _, p := range h.Peers {
			if !answers("http://" + p.page + "/healthz") {
				return false
			}
		}
		return answers("http://"+h.Page+"/healthz") && answers("http://"+h.Status+"/healthz")
	})
}

// All are the processes, in the direction against the flow.
func (h *Hospital) All() []*Process {
	all := []*Process{h.Hub}
	for _, p := range h.Peers {
		all = append(all, p.Process)
	}
	return append(all, h.Gateway)
}

func answers(url string) bool {
	r, err := http.Get(url)
	if err != nil {
		return false
	}
	r.Body.Close()
	return r.StatusCode == http.StatusOK
}

// Metrics is where a program tells its figures ("/metrics").
func (h *Hospital) Metrics(of *Process) string {
	page := h.Page
	if of == h.Gateway {
		page = h.Status
	}
	for _, p := range h.Peers {
		if p.Process == of {
			page = p.page
		}
	}
	return "http://" + page + "/metrics"
}

// Figures are what a program tells there, by name and labels.
func (h *Hospital) Figures(ctx context.Context, of *Process) (map[string]float64, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, h.Metrics(of), nil)
	if err != nil {
		return nil, err
	}
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	figures := map[string]float64{}
	lines := bufio.NewScanner(r.Body)
	for lines.Scan() {
		at := strings.LastIndexByte(lines.Text(), ' ') // a label may hold one
		if at < 0 || strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		if figures[lines.Text()[:at]], err = strconv.ParseFloat(lines.Text()[at+1:], 64); err != nil {
			return nil, fmt.Errorf("cannot read the figures of %s: %w", of.Name, err)
		}
	}
	return figures, lines.Err()
}

// Wait tries until ok says so. It gives up after the patience, when ctx ends, or when a process has ended by itself.
func (h *Hospital) Wait(ctx context.Context, patience time.Duration, what string, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for !ok() {
		for _, p := range h.All() {
			if !p.Running() {
				return fmt.Errorf("%s has ended; its last words:\n%s", p.Name, p.Log(2000))
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %v, but not: %s\nbox: %s\nward: %s\nhub: %s", patience, what, h.Gateway.Log(1500), h.Ward.Log(1500), h.Hub.Log(1500))
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// Stop ends everything in the direction of the flow.
func (h *Hospital) Stop() error {
	var all []error
	for _, p := range slices.Backward(h.All()) {
		all = append(all, p.Stop(time.Minute))
	}
	return errors.Join(all...)
}

// Record is one line of vitalpeer tail.
type Record struct {
	Box        string          `json:"box"`
	Index      uint64          `json:"index"`
	Kind       string          `json:"kind"`
	Monitor    string          `json:"monitor"`
	Protection string          `json:"protection"`
	Observed   *time.Time      `json:"observed"`
	Arrived    *time.Time      `json:"arrived"`
	Bundle     json.RawMessage `json:"bundle"`
	Checkpoint struct {
		Size uint64 `json:"size"`
		Root string `json:"root"`
	} `json:"checkpoint"`
	Seen time.Time `json:"-"` // when this program read the line
}

// Tail reads the verified records of a peer ("hub" or "ward1"). With follow it goes on until ctx ends.
func (h *Hospital) Tail(ctx context.Context, peer string, follow bool, each func(Record)) error {
	args := []string{"tail", "--data", h.path(peer), "--from", "0"}
	if follow {
		args = append(args, "--follow")
	}
	cmd := exec.CommandContext(ctx, h.bin("vitalpeer"), args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 2 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	in := bufio.NewReaderSize(out, 1<<20)
	for {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			cmd.Wait()
			return err
		}
		r := Record{Seen: time.Now()}
		if err := json.Unmarshal(line, &r); err != nil {
			cmd.Wait()
			return fmt.Errorf("cannot read a line of tail: %w", err)
		}
		each(r)
	}
	if err := cmd.Wait(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("tail: %w: %s", err, said.String())
	}
	return nil
}

// Quarantined counts the records that a peer has refused.
func (h *Hospital) Quarantined(peer string) (n int, err error) {
	err = filepath.WalkDir(filepath.Join(h.path(peer), "quarantine"), func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(path, ".json") {
			n++
		}
		return nil
	})
	return n, err
}

// Label is what holds the box's key, in the box's own words.
func (h *Hospital) Label() (string, error) {
	resp, err := http.Get("http://" + h.Status + "/status")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var r struct {
		Protection string `json:"protection"`
	}
	return r.Protection, json.NewDecoder(resp.Body).Decode(&r)
}

// Spool is how far the box's log is.
type Spool struct {
	First, Next, Signed, Acked uint64
	Bytes                      int64
}

// Spool asks the box.
func (h *Hospital) Spool() (Spool, error) {
	resp, err := http.Get("http://" + h.Status + "/status")
	if err != nil {
		return Spool{}, err
	}
	defer resp.Body.Close()
	var r struct{ Spool Spool }
	return r.Spool, json.NewDecoder(resp.Body).Decode(&r)
}

// LetRead gives a peer the hub's reader key, so that a test can look at its copy.
func (h *Hospital) LetRead(peer string) error {
	const key = "keys/reader.key"
	b, err := os.ReadFile(filepath.Join(h.path("hub"), key))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(h.path(peer), key), b, 0o600)
}

// Run runs one of the hospital's programs to its end and gives its output.
func (h *Hospital) Run(ctx context.Context, program string, args ...string) ([]byte, error) {
	return command(ctx, h.bin(program), args...)
}

// Data is the data folder of a peer ("hub", "ward1") or of the box ("gw1/data").
func (h *Hospital) Data(name string) string { return h.path(name) }

// ConfigPath is the box's configuration file.
func (h *Hospital) ConfigPath() string { return filepath.Join(h.path("gw1"), "config.toml") }

func (h *Hospital) path(name string) string { return filepath.Join(h.Dir, name) }
func (h *Hospital) bin(name string) string  { return filepath.Join(h.Bin, name) }

func (h *Hospital) do(ctx context.Context, program string, args ...string) error {
	_, err := command(ctx, h.bin(program), args...)
	return err
}
