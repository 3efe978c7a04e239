package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/firmware/maintain"
	"github.com/vitalgate/vitalgate/hwtest/hospital"
	"github.com/vitalgate/vitalgate/provision/protocol"
)

// TestSetUpABox is what a biomedical engineer does: a new box, its label, enrolment, first readings, another bed, reset; then
// another box with the wizard and the readings confirmed by a person.
func TestSetUpABox(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	command := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, filepath.Join(bin, args[0]), args[1:]...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+bin, "VITALPROV_IDENTITY="+at("tool"), "VITALPROV_HUB="+at("hub")) // no swtpm there: keys are files
		return cmd
	}
	var said session
	do := func(args ...string) string {
		t.Helper()
		out, err := command(args...).CombinedOutput()
		said.add(args, out)
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	refused := func(want string, args ...string) {
		t.Helper()
		out, err := command(args...).CombinedOutput()
		said.add(args, out)
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("%v: %v\n%s\ndoes not say %q", args, err, out, want)
		}
	}
	background := func(args ...string) {
		t.Helper()
		cmd := command(args...)
		log, err := os.CreateTemp(dir, "log-")
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			cmd.Process.Signal(os.Interrupt)
			cmd.Wait()
			if t.Failed() {
				text, _ := os.ReadFile(log.Name())
				t.Logf("%v:\n%s", args, text[max(0, len(text)-1500):])
			}
		})
	}
	listens := func(addr string) {
		t.Helper()
		for {
			c, err := net.DialTimeout("tcp", addr, time.Second)
			if err == nil {
				c.Close()
				return
			}
			select {
			case <-ctx.Done():
				t.Fatalf("nobody listens at %s: %v", addr, err)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	send := func(n int, monitor string) {
		t.Helper()
		listens(monitor)
		if err := os.WriteFile(at("one.hl7"), (&hospital.Sender{Bed: "bed-1"}).Message(n), 0o600); err != nil {
			t.Fatal(err)
		}
		if out := do("vitalgate", "replay", "--to", "tcp://"+monitor, "one.hl7"); !strings.Contains(out, "AA") {
			t.Errorf("replay says %s", out)
		}
	}
	// box starts a new box and gives its address and label.
	box := func(name string) (address, label string) {
		address = hospital.FreeAddr()
		label = strings.TrimSpace(do("vitalgate", "maintain", "--dir", name, "--label"))
		background("vitalgate", "maintain", "--dir", name, "--listen", address)
		listens(address)
		return address, label
	}

	hubBoxes, hubPeers, hubPage := hospital.FreeAddr(), hospital.FreeAddr(), hospital.FreeAddr()
	do("vitalpeer", "init", "--facility", "f1", "--name", "hub", "--data", "hub", "--listen-boxes", hubBoxes, "--listen-peers", hubPeers, "--page", hubPage)
	background("vitalpeer", "run", "--data", "hub")

	address, label := box("box1")
	refused("--label", "vitalprov", "probe", address)
	wrong, err := protocol.ParseLabel(label)
	if err != nil {
		t.Fatal(err)
	}
	wrong.Claim = protocol.NewClaim()
	refused("the code is not that of this box's label", "vitalprov", "probe", address, "--label", wrong.String())
	if out := do("vitalprov", "probe", address, "--label", label); !strings.Contains(out, "nobody's") {
		t.Errorf("probe says %s", out)
	}
	do("vitalprov", "label", label, "-o", "label.pdf")

	monitor, status := hospital.FreeAddr(), hospital.FreeAddr()
	bed := "name=bed-1 address=" + monitor + " dialect=ihe-pcd01 zone=UTC bed=ICU-1"
	enrol := []string{"vitalprov", "enrol", address, "--label", label, "--box", "f1/gw1", "--status", status, "--monitor"}
	refused(`cannot use dialect "ihe-pcd99"`, append(enrol, strings.Replace(bed, "pcd01", "pcd99", 1))...)
	// The first tool of a facility is certified before its first box, so that it is let in afterwards.
	do("vitalprov", "tool", "request", "anna")
	do("vitalpeer", "tool", "add", "anna", "anna.tool.csr", "--data", "hub")
	do("vitalprov", "tool", "install", "anna.tool.pem")
	if out := do(append(enrol, bed)...); !strings.Contains(out, "Working") || !strings.Contains(out, "NOT A TPM") {
		t.Errorf("enrol says %s", out)
	}
	send(1, monitor)
	if out := do("vitalprov", "readings", "f1/gw1", "--yes", "--earlier", "--monitor", "bed-1"); !strings.Contains(out, "I see heart rate 51 per minute from ICU / bed-1.") {
		t.Errorf("readings says %s", out)
	}
	refused("no new charted reading came", "vitalprov", "readings", "f1/gw1", "--yes", "--monitor", "bed-1", "--timeout", "3s") // that one is of before
	refused("cannot find box \"f1/gw9\"", "vitalprov", "readings", "f1/gw9", "--yes")
	if out := do("vitalprov", "status", address, "--label", label); !strings.Contains(out, "f1/gw1") {
		t.Errorf("status says %s", out)
	}
	refused("its facility gives tools their certificates", "vitalprov", "status", address, "--label", label, "--identity", at("nobody"))

	refused("This box has no TPM", "vitalprov", "hwtest", "run", address, "--label", label, "-o", "hwtest.json")
	refused("Signed by the key that the report itself names", "vitalprov", "hwtest", "verify", "hwtest.json")
	if out := do("vitalpeer", "box", "report", "f1/gw1", "hwtest.json", "--data", "hub"); !strings.Contains(out, "Not good") || !strings.Contains(out, "signed by box f1/gw1") {
		t.Errorf("box report says %s", out)
	}

	// The monitor moves to another port; a mistake changes nothing.
	other := hospital.FreeAddr()
	refused("cannot use the configuration", "vitalprov", "bind", address, "--label", label, "--monitor", "name=bed-1 addres="+other)
	do("vitalprov", "bind", address, "--label", label, "--status", status, "--monitor", strings.Replace(bed, monitor, other, 1))
	send(2, other)
	if out := do("vitalprov", "bind", address, "--label", label, "--show"); !strings.Contains(out, other) {
		t.Errorf("bind --show says %s", out)
	}
	// The facility gives all boxes new readers: what is sealed from then on opens with the new key, which the hub has.
	do("vitalpeer", "readers", "rotate", "-o", "set.json", "--data", "hub")
	if out := do("vitalprov", "readers", address, "--label", label); !strings.Contains(out, "the readers of its grant: 1 of the network side") {
		t.Errorf("readers says %s", out)
	}
	if out := do("vitalprov", "readers", address, "--label", label, "--set", "set.json"); !strings.Contains(out, "reader set 1: 1 of the network side") {
		t.Errorf("readers says %s", out)
	}
	refused("has this very set already", "vitalprov", "readers", address, "--label", label, "--set", "set.json")
	send(4, other)
	for !strings.Contains(do("vitalpeer", "tail", "--box", "f1/gw1", "--data", "hub"), `"value":54`) {
		select {
		case <-ctx.Done():
			t.Fatal("no reading that was sealed for the new readers is shown")
		case <-time.After(200 * time.Millisecond):
		}
	}
	refused("nothing was done", "vitalprov", "reset", address, "--label", label, "--yes", "VG-0000-0000")
	refused("operating system's", "vitalprov", "network", address, "--label", label)
	image, imageLabel, port := imageBox(t)
	do("vitalprov", "network", image, "--label", imageLabel, "--interface", "eth0", "--method", "static", "--ip", "127.0.0.2/8")
	refused("so it goes back to the old ones", "vitalprov", "network", "127.0.0.2:"+port, "--label", imageLabel, "--interface", "eth0", "--then", "nowhere.invalid", "--wait", "3s")
	do("vitalprov", "revoke", "f1/gw1", "--reason", "out of use")
	do("vitalprov", "reset", address, "--label", label, "--yes", wrong.Name())
	if out := do("vitalprov", "probe", address, "--label", label); !strings.Contains(out, "nobody's") {
		t.Errorf("probe says %s", out)
	}

	names := map[string]string{address: "192.0.2.10", label: "@label.txt", wrong.String(): "@another.txt", wrong.Name(): "VG-4K7M-Q2PX",
		monitor: "0.0.0.0:2575", other: "0.0.0.0:2576", status: "127.0.0.1:8100", at("nobody"): "nobody", dir + "/": "", bin + "/": "",
		image: "192.0.2.30", imageLabel: "@image-label.txt", "127.0.0.2/8": "192.0.2.31/24", "127.0.0.2:" + port: "192.0.2.31", "nowhere.invalid:" + port: "nowhere.example", "nowhere.invalid": "nowhere.example"}

	// The same with the wizard, by a person who answers.
	address, label = box("box2")
	monitor = hospital.FreeAddr()
	var about protocol.About
	readJSON(t, do("vitalprov", "probe", address, "--label", label, "--json"), &about)
	// What the box cannot use is refused before the facility has let it in; and a box that was let in, and got no further, goes on.
	mistaken := "name=bed-2 address=" + monitor + " dialect=ihe-pcd01 zone=Europe/Berln"
	refused("is not an IANA time zone", "vitalprov", "enrol", address, "--label", label, "--box", "f1/gw2", "--monitor", mistaken)
	if out := do("vitalpeer", "box", "list", "--data", "hub"); strings.Contains(out, "f1/gw2") {
		t.Errorf("the facility let the box in: %s", out)
	}
	do("vitalprov", "request", address, "--label", label, "--box", "f1/gw2", "-o", "gw2.request.json")
	do("vitalpeer", "box", "add", "gw2.request.json", "-o", "lost.grant.json", "--data", "hub")
	family := 0
	for i, d := range about.Dialects {
		if d.Name == "ihe-pcd01" {
			family = i + 1
		}
	}
	status = hospital.FreeAddr()
	wizard := []string{"vitalprov", "wizard", "--status", status, "--address", address}
	answers := [][2]string{{"Label of the box", "not a label"}, {"Label of the box", wrong.String()}, {"Label of the box", label}, {"Address of the box", ""}, {"Name of the box", "gw2"}, {"Name of the box", "f1/gw2"},
		{"Number", "99"}, {"Number", fmt.Sprint(family)}, {"A name for it", "bed/2"}, {"A name for it", "bed-2"}, {"How is it connected?", "1"}, {"Port that the monitor sends to", "127.0.0.1"},
		{"Port that the monitor sends to", monitor}, {"Time zone", "Nowhere/Land"}, {"Time zone", "UTC"}, {"Bed", "ICU-2"}, {"Another monitor", "no"}, {"Enrol the box now?", "yes"}, {"Is that so?", "perhaps"}, {"Is that so?", "yes"}}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for ctx.Err() == nil {
			if c, err := net.DialTimeout("tcp", monitor, time.Second); err == nil {
				c.Close()
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	done := make(chan struct{})
	var told string
	var failed error
	go func() {
		defer close(done)
		told, failed = converse(command(wizard...), answers)
	}()
	<-sent
	send(3, monitor)
	<-done
	said.add(wizard, []byte(told))
	names[address], names[label], names[monitor], names[status] = "192.0.2.11", "@other-label.txt", "0.0.0.0:2575", "127.0.0.1:8100"
	said.compare(t, names)
	if failed != nil || !strings.Contains(told, "I see heart rate 53 per minute from ICU / bed-1.") || !strings.Contains(told, "Done: box f1/gw2 works") {
		t.Errorf("the wizard: %v\n%s", failed, told)
	}

	// Later the same question is about a reading of now.
	var now []byte
	done = make(chan struct{})
	go func() {
		defer close(done)
		now, failed = command("vitalprov", "readings", "f1/gw2", "--yes", "--monitor", "bed-2").CombinedOutput()
	}()
	for n, asking := 5, true; asking; n++ {
		send(n, monitor)
		select {
		case <-done:
			asking = false
		case <-time.After(200 * time.Millisecond):
		}
	}
	if failed != nil || !strings.Contains(string(now), "I see heart rate") || strings.Contains(string(now), "I see heart rate 53 ") {
		t.Errorf("readings: %v\n%s", failed, now)
	}

	// What does not work is no success, and a box is enrolled once.
	taken := "name=bed-2 address=" + hubPage + " dialect=ihe-pcd01 zone=UTC"
	refused("Not working: Cannot listen on "+hubPage, "vitalprov", "bind", address, "--label", label, "--monitor", taken)
	refused("it is f1/gw2 already", "vitalprov", "enrol", address, "--label", label, "--box", "f1/gw3", "--monitor", taken)
}

// imageBox is a box that sees to its network itself: here all addresses of the loopback are its own, whatever is set.
func imageBox(t *testing.T) (address, label, port string) {
	t.Helper()
	s, err := maintain.Open(maintain.Box{Dir: filepath.Join(t.TempDir(), "box"), Listen: "0.0.0.0:0", Network: &loopback{}, Work: func(context.Context, string) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, off := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		off()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	_, port, err = net.SplitHostPort(s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	return "127.0.0.1:" + port, s.Label().String(), port
}

type loopback struct{ kept protocol.Network }

func (l *loopback) Settings() (protocol.Network, error)           { return l.kept, nil }
func (l *loopback) On(string) protocol.Network                    { return l.kept }
func (l *loopback) Apply(context.Context, protocol.Network) error { return nil }
func (l *loopback) Keep(n protocol.Network) error                 { l.kept = n; return nil }

// converse gives each answer when its question has come, and what then stood on the screen.
func converse(cmd *exec.Cmd, answers [][2]string) (screen string, err error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		return "", err
	}
	buf, seen := make([]byte, 1<<12), 0
	for {
		n, err := r.Read(buf)
		screen += string(buf[:n])
		if err != nil {
			break
		}
		for len(answers) > 0 && strings.Contains(screen[seen:], answers[0][0]) && (strings.HasSuffix(screen, ": ") || strings.HasSuffix(screen, "[yes/no] ")) {
			screen += answers[0][1] + "\n"
			seen = len(screen)
			fmt.Fprintln(in, answers[0][1])
			answers = answers[1:]
		}
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		return screen, err
	}
	if len(answers) > 0 {
		return screen, fmt.Errorf("%q was not asked", answers[0][0])
	}
	return screen, nil
}

func readJSON(t *testing.T, text string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
}

// session is what a person types and sees.
type session struct{ text strings.Builder }

func (s *session) add(args []string, out []byte) {
	if args[0] == "vitalgate" && args[1] == "maintain" { // as it comes out of the carton
		return
	}
	s.text.WriteString("$ " + args[0])
	for _, a := range args[1:] {
		if strings.Contains(a, " ") {
			a = fmt.Sprintf("%q", a)
		}
		s.text.WriteString(" " + a)
	}
	fmt.Fprintf(&s.text, "\n%s\n", out)
}

// changing is what differs from day to day and from machine to machine.
var changing = []struct {
	is *regexp.Regexp
	as string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`), "2026-01-31 12:00:00"},
	{regexp.MustCompile(`(?m)^Record \d+`), "Record 7"},
	{regexp.MustCompile(`(?m)^software .*`), "software 1.0.0"},
	{regexp.MustCompile(`(Working)\b.*`), "$1 …"},
	{regexp.MustCompile(`(it goes back to the old ones by itself): .*`), "$1 …"},
}

// compare says whether the transcript in docs/field still is what a person sees: each of its lines comes, in its order. Lines of its
// machine and of its moment are left out there, and it says so by "…". Where VITALGATE_TRANSCRIPT names a file, all is written there.
func (s *session) compare(t *testing.T, names map[string]string) {
	t.Helper()
	var pairs []string
	for _, from := range slices.SortedFunc(maps.Keys(names), func(a, b string) int { return len(b) - len(a) }) {
		pairs = append(pairs, from, names[from])
	}
	text := strings.NewReplacer(pairs...).Replace(s.text.String())
	for _, c := range changing {
		text = c.is.ReplaceAllString(text, c.as)
	}
	if path := os.Getenv("VITALGATE_TRANSCRIPT"); path != "" {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "field", "transcript.md"))
	if err != nil {
		t.Fatal(err)
	}
	seen := slices.Collect(strings.Lines(text))
	compared := 0
	for n, line := range strings.Split(string(b), "\n") {
		code, ok := strings.CutPrefix(line, "    ")
		if !ok || code == "…" {
			continue
		}
		at := slices.IndexFunc(seen, func(l string) bool { return strings.TrimSpace(l) == strings.TrimSpace(code) })
		if at < 0 {
			t.Errorf("docs/field/transcript.md:%d says %q, which does not come (there)", n+1, code)
			continue
		}
		seen = seen[at+1:]
		compared++
	}
	if compared < 35 {
		t.Errorf("only %d lines of docs/field/transcript.md were compared", compared)
	}
}
