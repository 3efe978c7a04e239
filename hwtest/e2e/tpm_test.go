package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/hwtest/hospital"
)

// TestABoxStartsWithoutItsTPM breaks the TPM of an enrolled box before it starts, in each way a TPM can be broken. The box takes
// and answers readings, says in words what is wrong, and signs everything when the TPM is back.
func TestABoxStartsWithoutItsTPM(t *testing.T) {
	t.Parallel()
	swtpm, err := exec.LookPath("swtpm")
	if err != nil {
		t.Skip("swtpm is not installed")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(ctx, filepath.Join(bin, args[0]), args[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	do("vitalpeer", "init", "--facility", "f1", "--name", "hub", "--data", "hub", "--listen-boxes", hospital.FreeAddr(), "--listen-peers", hospital.FreeAddr(), "--page", hospital.FreeAddr())
	monitor, status := hospital.FreeAddr(), hospital.FreeAddr()
	must(os.WriteFile(at("config.toml"), fmt.Appendf(nil, "[box]\nid = \"f1/gw1\"\ndata = %q\n[network]\ngrant = %q\n[status]\nlisten = %q\n[tpm]\nsource = \"swtpm\"\n"+
		"[[monitor]]\nname = \"bed1\"\nkind = \"mllp-server\"\naddress = %q\ndialect = \"ihe-pcd01\"\nzone = \"UTC\"\nbed = \"1\"\n", at("gw1"), at("gw1.grant.json"), status, monitor), 0o600))
	must(os.MkdirAll(at("gw1/tpm/swtpm"), 0o700)) // a TPM without certificates, which is made sooner
	must(os.Chmod(at("gw1"), 0o700))
	do("vitalgate", "request", "-c", "config.toml", "-o", "gw1.request.json")
	do("vitalpeer", "box", "add", "gw1.request.json", "--data", "hub")

	// The box finds swtpm in a folder of its own, where the test can take it away.
	tools := at("tools")
	must(os.Mkdir(tools, 0o700))
	whole := func() {
		os.Remove(filepath.Join(tools, "swtpm"))
		must(os.Symlink(swtpm, filepath.Join(tools, "swtpm")))
	}
	ours, theirs := at("gw1/tpm/swtpm"), at("another-tpm")
	must(os.Mkdir(theirs, 0o700))
	swap := func() {
		must(os.Rename(ours, at("aside")))
		must(os.Rename(theirs, ours))
		must(os.Rename(at("aside"), theirs))
	}
	n := 0
	for _, c := range []struct {
		name   string
		broken func()
		says   string
		mended func()
	}{
		{"dead", func() { os.Remove(filepath.Join(tools, "swtpm")) }, "swtpm is not installed", whole},
		{"hung", func() {
			os.Remove(filepath.Join(tools, "swtpm"))
			must(os.WriteFile(filepath.Join(tools, "swtpm"), []byte("#!/bin/sh\nexec /bin/sleep 600\n"), 0o700))
		}, "did not answer within", whole},
		{"replaced", func() { whole(); swap() }, "not the one that this box was enrolled with", swap},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.broken()
			said, err := os.Create(at(c.name + ".log"))
			must(err)
			defer said.Close()
			cmd := exec.Command(filepath.Join(bin, "vitalgate"), "run", "-c", "config.toml")
			cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.Env = dir, said, said, append(os.Environ(), "PATH="+tools)
			must(cmd.Start())
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			defer cmd.Process.Kill()
			fail := func(format string, a ...any) {
				t.Helper()
				b, _ := os.ReadFile(said.Name())
				t.Fatalf(format+"\n%s", append(a, b[max(0, len(b)-3000):])...)
			}
			var r struct {
				Spool      struct{ Next, Signed uint64 }
				Conditions []struct{ Code, Sentence, Remedy string }
			}
			await := func(what string, ok func() bool) {
				t.Helper()
				for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(50 * time.Millisecond) {
					if resp, err := http.Get("http://" + status + "/status"); err == nil {
						err = json.NewDecoder(resp.Body).Decode(&r)
						resp.Body.Close()
						if err == nil && ok() {
							return
						}
					}
					select {
					case err := <-ended:
						fail("the box ended (%v) before %s", err, what)
					default:
					}
					if time.Now().After(deadline) {
						fail("not: %s; the box says %+v", what, r)
					}
				}
			}
			sentence := func() string {
				for _, c := range r.Conditions {
					if c.Code == "not-signed" && c.Remedy != "" {
						return c.Sentence
					}
				}
				return ""
			}
			await("it says that it does not sign", func() bool { return strings.Contains(sentence(), c.says) })
			before := r.Spool.Next
			n++
			must(os.WriteFile(at("message.hl7"), fmt.Appendf(nil, "MSH|^~\\&|M^0011223344556677^EUI-64|H|||20260101120000+0000||ORU^R01^ORU_R01|%d|P|2.6|||NE|AL\rPID|||1^^^H^PI\rPV1||I|1\r"+
				"OBR|1|a|b|182777000^monitoring^SCT|||20260101120000+0000\rOBX|1|NM|147842^MDC_ECG_HEART_RATE^MDC|1.7.4.147842|%d|264864^MDC_DIM_BEAT_PER_MIN^MDC|||||R|||20260101120000+0000\r", n, 60+n), 0o600))
			do("vitalgate", "replay", "--to", "tcp://"+monitor, "message.hl7") // fails without an AA
			await("the reading is kept", func() bool { return r.Spool.Next > before })
			if r.Spool.Signed == r.Spool.Next || !strings.Contains(sentence(), c.says) {
				fail("it is signed though there is no TPM: %+v", r)
			}
			c.mended()
			await("everything is signed again", func() bool { return sentence() == "" && r.Spool.Signed == r.Spool.Next })
			must(cmd.Process.Signal(os.Interrupt))
			select {
			case err := <-ended:
				if err != nil {
					fail("it did not stop in order: %v", err)
				}
			case <-time.After(90 * time.Second):
				fail("it does not stop")
			}
		})
	}
	do("vitalgate", "fsck", "gw1")
}
