package e2e_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/hwtest/hospital"
)

// TestEnrolByEvidence follows the README: request, question, answer, grant as files between two programs that share nothing else.
// What a lying carrier does on the way is refused, and said in words.
func TestEnrolByEvidence(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"swtpm", "swtpm_setup", "swtpm_localca", "certtool"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, filepath.Join(bin, args[0]), args[1:]...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	do := func(args ...string) string {
		t.Helper()
		out, err := run(args...)
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return out
	}
	refused := func(why string, args ...string) {
		t.Helper()
		if out, err := run(args...); err == nil || !strings.Contains(out, why) {
			t.Errorf("%v: want a refusal for %q, got %v\n%s", args, why, err, out)
		}
	}
	do("vitalpeer", "init", "--facility", "f1", "--name", "hub", "--data", "hub", "--listen-boxes", hospital.FreeAddr(), "--listen-peers", hospital.FreeAddr(), "--page", hospital.FreeAddr())
	for _, name := range []string{"gw1", "gw2"} {
		config := "[box]\nid = \"f1/" + name + "\"\ndata = \"" + at(name) + "\"\n[tpm]\nsource = \"swtpm\"\n[[monitor]]\nname = \"bed1\"\nkind = \"mllp-server\"\naddress = \"127.0.0.1:0\"\ndialect = \"ihe-pcd01\"\nzone = \"UTC\"\nbed = \"1\"\n"
		if err := os.WriteFile(at(name+".toml"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		do("vitalgate", "request", "-c", name+".toml", "-o", name+".request.json")
	}

	// trusted makes the facility believe the authority that the emulator in a folder has made for itself.
	trusted := func(ca, name string) {
		t.Helper()
		for from, to := range map[string]string{"swtpm-localca-rootca-cert.pem": "emulators/", "issuercert.pem": "intermediates/"} {
			pem, err := os.ReadFile(filepath.Join(ca, from))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(at("hub/trust/"+to), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(at("hub/trust/"+to+name+".pem"), pem, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	refused("unknown-maker", "vitalpeer", "box", "ask", "gw1.request.json", "--data", "hub")
	trusted(at("gw1/tpm/swtpm/ca"), "swtpm")
	do("vitalpeer", "box", "ask", "gw1.request.json", "--data", "hub")
	refused("for box f1/gw1", "vitalgate", "answer", "gw1.question.json", "-c", "gw2.toml", "-o", "x.answer.json")
	do("vitalgate", "answer", "gw1.question.json", "-c", "gw1.toml", "-o", "gw1.answer.json")
	refused("not-asked", "vitalpeer", "box", "add", "gw2.request.json", "--answer", "gw1.answer.json", "--data", "hub")
	if out := do("vitalpeer", "box", "add", "gw1.request.json", "--answer", "gw1.answer.json", "--data", "hub"); !strings.Contains(out, "emulated") || !strings.Contains(out, "vouched for by swtpm") {
		t.Errorf("said: %s", out)
	}
	refused("not-asked", "vitalpeer", "box", "add", "gw1.request.json", "--answer", "gw1.answer.json", "--data", "hub", "-o", "again.json")
	if out := do("vitalpeer", "box", "list", "--data", "hub"); !strings.Contains(out, "f1/gw1\temulated") && !strings.Contains(out, "f1/gw1  emulated") {
		t.Errorf("list: %s", out)
	}
	var reg struct {
		Chip     string
		Attested struct {
			Class, Maker string
			LAK          []byte
		}
	}
	if err := json.Unmarshal([]byte(do("vitalpeer", "box", "registration", "f1/gw1", "--data", "hub")), &reg); err != nil {
		t.Fatal(err)
	}
	if reg.Attested.Class != "emulated" || reg.Attested.Maker != "swtpm" || len(reg.Attested.LAK) == 0 || len(reg.Chip) != 64 {
		t.Errorf("the registry says %+v", reg)
	}

	// The box runs: its TPM attests the start, and the peer believes that.
	config, err := os.ReadFile(at("gw1.toml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("gw1.toml"), append([]byte("[network]\ngrant = \""+at("gw1.grant.json")+"\"\n"), config...), 0o600); err != nil {
		t.Fatal(err)
	}
	running := func(args ...string) (stop func()) {
		t.Helper()
		cmd := exec.CommandContext(ctx, filepath.Join(bin, args[0]), args[1:]...)
		cmd.Dir, cmd.Stderr = dir, t.Output()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return sync.OnceFunc(func() {
			cmd.Process.Signal(os.Interrupt)
			cmd.Wait()
		})
	}
	stopHub := running("vitalpeer", "run", "--data", "hub")
	defer stopHub()
	stopBox := running("vitalgate", "run", "-c", "gw1.toml")
	defer stopBox()
	for {
		var st struct{ Boxes []struct{ Box, Start string } }
		out, _ := run("vitalpeer", "status", "--json", "--data", "hub") // not yet, or not well
		if json.Unmarshal([]byte(out), &st) == nil && len(st.Boxes) == 1 && st.Boxes[0].Start == "attested" {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the start is not attested: %s", out)
		case <-time.After(100 * time.Millisecond):
		}
	}
	stopBox()
	if out := do("vitalpeer", "verify", "--data", "hub"); !strings.Contains(out, "1 starts: 1 attested by the TPM, 0 claimed") {
		t.Errorf("verify, of a running peer: %s", out)
	}
	stopHub()
	if out := do("vitalpeer", "verify", "--data", "hub"); !strings.Contains(out, "1 starts: 1 attested by the TPM, 0 claimed") {
		t.Errorf("verify: %s", out)
	}
	do("vitalpeer", "export", "f1/gw1", "--data", "hub", "-o", "proof")
	if python, err := exec.LookPath("python3"); err == nil {
		leaf := at("proof/000000000000")
		cmd := exec.CommandContext(ctx, python, at("proof/verify.py"), at("proof/box.pem"), leaf+".leaf", leaf+".tlog-proof", "f1/gw1", at("proof/lak.pem"))
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "the TPM attests its start: counter ") {
			t.Errorf("verify.py: %v %s", err, out)
		}
	}

	// The chip is named: it can be denied, and it is nobody else's.
	do("vitalgate", "request", "-c", "gw1.toml", "-o", "again.request.json")
	refused("unknown-maker", "vitalpeer", "box", "ask", "gw2.request.json", "--data", "hub") // another emulator, of another authority
	do("vitalpeer", "registry", "deny-chip", reg.Chip, "--reason", "stolen", "--data", "hub")
	if out := do("vitalpeer", "box", "list", "--data", "hub"); !strings.Contains(out, "stolen") {
		t.Errorf("the box of a denied chip goes on: %s", out)
	}

	// The same on the wire: the field tool carries the question to the box, over the provisioning link.
	address := hospital.FreeAddr()
	label := strings.TrimSpace(do("vitalgate", "maintain", "--dir", "gw3", "--label"))
	background := exec.Command(filepath.Join(bin, "vitalgate"), "maintain", "--dir", "gw3", "--listen", address)
	background.Dir = dir
	if err := background.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		background.Process.Signal(os.Interrupt)
		background.Wait()
	}()
	for {
		if _, err := run("vitalprov", "probe", address, "--label", label); err == nil {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatal("the box is not there")
		case <-time.After(50 * time.Millisecond):
		}
	}
	do("vitalprov", "request", address, "--label", label, "--box", "f1/gw3", "-o", "gw3.request.json")
	trusted(at("gw3/data/tpm/swtpm/ca"), "swtpm3")
	do("vitalpeer", "box", "ask", "gw3.request.json", "--data", "hub")
	refused("cannot answer the question", "vitalprov", "answer", address, "--label", label, "--question", "gw1.question.json", "-o", "x.answer.json")
	do("vitalprov", "answer", address, "--label", label, "--question", "gw3.question.json", "-o", "gw3.answer.json")
	if out := do("vitalpeer", "box", "add", "gw3.request.json", "--answer", "gw3.answer.json", "--data", "hub"); !strings.Contains(out, "vouched for by swtpm3") {
		t.Errorf("said: %s", out)
	}
}
