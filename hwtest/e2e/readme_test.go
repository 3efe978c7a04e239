package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/hwtest/hospital"
)

// TestAttachARealMonitor follows the README: the facility runs, then a ward peer is invited, then a box is enrolled, all live;
// then the box is revoked.
func TestAttachARealMonitor(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	do := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(ctx, filepath.Join(bin, args[0]), args[1:]...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	background := func(args ...string) *os.File {
		t.Helper()
		log, err := os.CreateTemp(dir, "log-")
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(filepath.Join(bin, args[0]), args[1:]...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			cmd.Process.Signal(os.Interrupt)
			cmd.Wait()
		})
		return log
	}
	await := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) || ctx.Err() != nil {
				logs, _ := filepath.Glob(at("log-*"))
				said := ""
				for _, l := range logs {
					b, _ := os.ReadFile(l)
					said += l + ":\n" + string(b[max(0, len(b)-1500):]) + "\n"
				}
				t.Fatalf("not: %s\n%s", what, said)
			}
		}
	}
	listens := func(addr string) func() bool {
		return func() bool {
			c, err := net.DialTimeout("tcp", addr, time.Second)
			if err != nil {
				return false
			}
			c.Close()
			return true
		}
	}
	hubBoxes, hubPeers, hubPage, wardBoxes, wardPage, monitor, status := hospital.FreeAddr(), hospital.FreeAddr(), hospital.FreeAddr(), hospital.FreeAddr(), hospital.FreeAddr(), hospital.FreeAddr(), hospital.FreeAddr()

	do("vitalpeer", "init", "--facility", "f1", "--name", "hub", "--data", "hub", "--listen-boxes", hubBoxes, "--listen-peers", hubPeers, "--page", hubPage)
	background("vitalpeer", "run", "--data", "hub")
	await("the hub listens", listens(hubPage))
	do("vitalpeer", "invite", "ward1", "--data", "hub", "--boxes", wardBoxes, "--reader")
	do("vitalpeer", "init", "--join", "ward1.invitation.json", "--data", "ward1", "--listen-boxes", wardBoxes, "--page", wardPage)
	background("vitalpeer", "run", "--data", "ward1")
	await("the ward peer has joined", func() bool {
		cmd := exec.CommandContext(ctx, filepath.Join(bin, "vitalpeer"), "status", "--data", "ward1")
		cmd.Dir = dir
		out, _ := cmd.CombinedOutput()
		return strings.Contains(string(out), "1 link")
	})

	config := fmt.Sprintf("[box]\nid = \"f1/gw1\"\ndata = \"gw1\"\n[tpm]\nsource = \"software\"\n[network]\ngrant = \"gw1.grant.json\"\n[status]\nlisten = %q\n%s", status, monitorAt("bed-1", monitor))
	if err := os.WriteFile(at("config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	do("vitalgate", "config", "check", "-c", "config.toml")
	do("vitalgate", "request", "-c", "config.toml", "-o", "gw1.request.json")
	do("vitalpeer", "box", "add", "gw1.request.json", "--data", "hub", "-o", "gw1.grant.json")
	background("vitalgate", "run", "-c", "config.toml")
	await("the box listens", listens(monitor))

	s := &hospital.Sender{Bed: "bed-1"}
	if err := os.WriteFile(at("one.hl7"), s.Message(1), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := do("vitalgate", "replay", "--to", "tcp://"+monitor, "one.hl7"); !strings.Contains(out, "AA") {
		t.Errorf("replay says %s", out)
	}
	for _, peer := range []string{"ward1", "hub"} {
		await("the reading is at "+peer, func() bool { return strings.Contains(do("vitalpeer", "tail", "--data", peer), "E2E-000001") })
	}
	if out := do("vitalgate", "status", "-c", "config.toml"); !strings.Contains(out, "NOT A TPM") || !strings.Contains(out, "bed-1") {
		t.Errorf("status says %s", out)
	}
	var report struct{ Ready bool }
	if err := json.Unmarshal([]byte(do("vitalgate", "status", "-c", "config.toml", "--json")), &report); err != nil || !report.Ready {
		t.Errorf("status --json: %v, %+v", err, report)
	}

	do("vitalpeer", "export", "f1/gw1", "--data", "hub", "-o", "proof")
	if out := do("vitalgate", "verify", "--box", "f1/gw1", "--key", "proof/box.pem", "proof"); !strings.Contains(out, "0 bad") {
		t.Errorf("verify says %s", out)
	}

	do("vitalpeer", "box", "revoke", "f1/gw1", "--data", "hub")
	await("the ward has heard of it", func() bool { return strings.Contains(do("vitalpeer", "box", "list", "--data", "ward1"), "revoked") })
	before := do("vitalpeer", "tail", "--data", "hub")
	if err := os.WriteFile(at("two.hl7"), s.Message(2), 0o600); err != nil {
		t.Fatal(err)
	}
	do("vitalgate", "replay", "--to", "tcp://"+monitor, "two.hl7") // kept by the box, believed by nobody
	await("the box says that nobody accepts it", func() bool {
		out, _ := exec.CommandContext(ctx, filepath.Join(bin, "vitalgate"), "status", "-c", at("config.toml")).CombinedOutput()
		return strings.Contains(string(out), "unauthorised") || strings.Contains(string(out), "does not accept")
	})
	if after := do("vitalpeer", "tail", "--data", "hub"); after != before {
		t.Errorf("a revoked box is still believed: %s", after)
	}
}
