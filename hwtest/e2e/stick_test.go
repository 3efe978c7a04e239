package e2e_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/firmware/maintain"
	"github.com/vitalgate/vitalgate/hwtest/hospital"
	"github.com/vitalgate/vitalgate/provision/protocol"
)

// onFoot is a facility, a new box to which no network leads, and a stick, which is a folder. The box's end is that of the image,
// which serves each stick that is plugged in; its line is the program.
type onFoot struct {
	t     *testing.T
	ctx   context.Context
	dir   string
	box   *maintain.Server
	stick string
	own   protocol.StickBox
}

func newOnFoot(t *testing.T) *onFoot {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	t.Cleanup(cancel)
	f := &onFoot{t: t, ctx: ctx, dir: t.TempDir(), stick: t.TempDir()}
	boxes, peers, page := hospital.FreeAddr(), hospital.FreeAddr(), hospital.FreeAddr()
	f.says("", "vitalpeer", "init", "--facility", "f1", "--name", "hub", "--data", "hub", "--listen-boxes", boxes, "--listen-peers", peers, "--page", page)
	box, err := maintain.Open(maintain.Box{Dir: f.at("box"), Listen: "127.0.0.1:0", Work: func(ctx context.Context, config string) error {
		cmd := exec.CommandContext(ctx, filepath.Join(bin, "vitalgate"), "run", "-c", config)
		cmd.Cancel, cmd.WaitDelay = func() error { return cmd.Process.Signal(os.Interrupt) }, time.Minute
		return cmd.Run()
	}})
	if err != nil {
		t.Fatal(err)
	}
	f.box, f.own = box, protocol.StickAt(f.stick).Of(box.Label().Name())
	bctx, off := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- box.Run(bctx) }()
	t.Cleanup(func() {
		off()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return f
}

func (f *onFoot) at(name string) string { return filepath.Join(f.dir, name) }

func (f *onFoot) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(f.ctx, filepath.Join(bin, args[0]), args[1:]...)
	cmd.Dir = f.dir
	return cmd
}

func (f *onFoot) says(want string, args ...string) {
	f.t.Helper()
	if out, err := f.command(args...).CombinedOutput(); err != nil || !strings.Contains(string(out), want) {
		f.t.Fatalf("%v: %v\n%s\ndoes not say %q", args, err, out, want)
	}
}

func (f *onFoot) refuses(want string, args ...string) {
	f.t.Helper()
	if out, err := f.command(args...).CombinedOutput(); err == nil || !strings.Contains(string(out), want) {
		f.t.Errorf("%v: %v\n%s\ndoes not say %q", args, err, out, want)
	}
}

// visit plugs the stick into the box; vitalprov tells afterwards what came of it.
func (f *onFoot) visit(want string) {
	f.t.Helper()
	did, err := f.box.Stick(f.ctx, f.stick)
	if err != nil {
		did = err.Error()
	}
	if !strings.Contains(did, want) {
		f.t.Fatalf("the box says %q and not %q", did, want)
	}
	f.says(want, "vitalprov", "stick", "show", f.stick)
	f.says(f.box.Label().Name()+"  ", "vitalprov", "stick", "show", f.stick)
	f.says(f.box.Label().String(), "vitalprov", "stick", "show", f.stick)
}

func (f *onFoot) answer(monitor string, more ...string) []string {
	bed := "name=bed-1 address=" + monitor + " dialect=ihe-pcd01 zone=UTC bed=ICU-1"
	return append([]string{"vitalprov", "stick", "answer", f.stick, strings.ToLower(f.box.Label().Name()), "--hub", "hub", "--vitalpeer", filepath.Join(bin, "vitalpeer"),
		"--status", hospital.FreeAddr(), "--monitor", bed}, more...)
}

// TestAStickOnTrust carries a box without a TPM into a facility by a stick, with what goes wrong at a bedside, until its readings
// are at the hub.
func TestAStickOnTrust(t *testing.T) {
	t.Setenv("PATH", bin) // no swtpm: the keys are files
	f := newOnFoot(t)
	hub := f.command("vitalpeer", "run", "--data", "hub")
	if err := hub.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { hub.Process.Signal(os.Interrupt); hub.Wait() }()
	monitor := hospital.FreeAddr()

	f.refuses("this is no stick for boxes", "vitalprov", "stick", "show", f.stick)
	if did, err := f.box.Stick(f.ctx, f.stick); did != "" || err != nil {
		t.Errorf("with a stick that nobody prepared the box did %q %v", did, err)
	}
	f.says("please plug the stick into the box", "vitalprov", "stick", "prepare", f.stick)
	f.refuses("there is no request of that box", f.answer(monitor, "--on-trust")...)
	f.visit("the box wrote its label")
	f.refuses("there is no request of that box", f.answer(monitor, "--on-trust")...) // nobody gave it a name
	f.says("please plug the stick into the box", "vitalprov", "stick", "prepare", f.stick, "--box", "f1/gw1")
	f.visit("the box wrote its enrolment request as f1/gw1")
	if _, err := os.Stat(protocol.StickAt(f.stick).Next()); err == nil {
		t.Error("the next box takes the same name")
	}

	f.refuses("cannot answer without the facility", "vitalprov", "stick", "answer", f.stick, f.box.Label().Name(), "--monitor", "name=bed-1")
	f.refuses("can be let in --on-trust", f.answer(monitor)...)
	f.visit("the box waits for its grant")
	// A configuration that the box refuses: the answer is given again.
	f.says("once more; result.txt", f.answer(monitor, "--on-trust", "--monitor", "name=bed-2 address=127.0.0.1:1 addres=127.0.0.1:1")...)
	f.visit("addres")
	f.says("next: plug the stick into the box, which takes", "vitalprov", "stick", "show", f.stick)
	f.says("only the configuration is written anew", f.answer(monitor, "--on-trust")...)
	f.visit("begins to work")
	f.says("done: the box needs the stick no more", "vitalprov", "stick", "show", f.stick)

	for c := (net.Conn)(nil); c == nil; time.Sleep(20 * time.Millisecond) {
		var err error
		if c, err = net.DialTimeout("tcp", monitor, time.Second); err == nil {
			c.Close()
		} else if f.ctx.Err() != nil {
			t.Fatalf("the box does not listen to its monitor: %v", err)
		}
	}
	if err := os.WriteFile(f.at("one.hl7"), (&hospital.Sender{Bed: "bed-1"}).Message(1), 0o600); err != nil {
		t.Fatal(err)
	}
	f.says("AA", "vitalgate", "replay", "--to", "tcp://"+monitor, "one.hl7")
	f.says("I see heart rate 51 per minute from ICU / bed-1", "vitalprov", "readings", "f1/gw1", "--yes", "--earlier", "--monitor", "bed-1", "--hub", "hub")
	if _, err := f.box.Stick(f.ctx, f.stick); err == nil || !strings.Contains(err.Error(), "has an owner") {
		t.Errorf("an owned box serves sticks: %v", err)
	}
}

// TestAStickByEvidence has the facility ask the TPM of the box, with the stick between them.
func TestAStickByEvidence(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"swtpm", "swtpm_setup", "swtpm_localca", "certtool"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	f := newOnFoot(t)
	monitor := hospital.FreeAddr()
	f.says("please plug the stick into the box", "vitalprov", "stick", "prepare", f.stick, "--box", "f1/gw1")
	f.visit("the box wrote its enrolment request as f1/gw1")
	f.refuses("unknown-maker", f.answer(monitor)...)
	for from, to := range map[string]string{"swtpm-localca-rootca-cert.pem": "emulators", "issuercert.pem": "intermediates"} {
		pem, err := os.ReadFile(filepath.Join(f.at("box/data/tpm/swtpm/ca"), from))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(f.at("hub/trust"), to), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(f.at("hub/trust"), to, "swtpm.pem"), pem, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f.says("so that its TPM answers", f.answer(monitor)...)
	f.refuses("has not answered what the facility asks", f.answer(monitor)...)
	f.visit("the box answered what the facility asks about its TPM")
	f.says("once more; result.txt", f.answer(monitor)...)
	f.visit("begins to work")
	f.says("emulated", "vitalpeer", "box", "list", "--data", "hub")
}
