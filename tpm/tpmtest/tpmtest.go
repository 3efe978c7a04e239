// Package tpmtest gives a test a real TPM of its own: a fresh swtpm.
package tpmtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/vitalgate/vitalgate/tpm"
)

// Open starts a fresh emulated TPM that ends with the test. It skips the test where swtpm is not installed.
func Open(t testing.TB) *tpm.TPM {
	t.Helper()
	x, err := tpm.Open(t.Context(), tpm.Options{Source: "swtpm", Dir: Dir(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
	return x
}

// Dir is a state directory for tpm.Options with Source "swtpm", for tests that open, close and kill by themselves. The
// TPM in it is new but has no endorsement certificates, which take a second to make. It skips the test where swtpm is not installed.
func Dir(t testing.TB) string {
	t.Helper()
	if _, err := exec.LookPath("swtpm"); err != nil {
		t.Skip("swtpm is not installed: tests of the emulated TPM are left out")
	}
	dir := filepath.Join(t.TempDir(), "tpm")
	if err := os.MkdirAll(filepath.Join(dir, "swtpm"), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Manufactured is an emulated TPM as a maker delivers it: with endorsement keys and certificates of an authority of its
// own. It ends with the test. The folder holds what a facility must trust to believe it (admission.LoadTrust). It skips the
// test where the tools of swtpm are not installed.
func Manufactured(t testing.TB) (x *tpm.TPM, trust string) {
	t.Helper()
	for _, tool := range []string{"swtpm", "swtpm_setup", "swtpm_localca", "certtool"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed: tests of endorsement certificates are left out", tool)
		}
	}
	dir := filepath.Join(t.TempDir(), "tpm")
	x, err := tpm.Open(t.Context(), tpm.Options{Source: "swtpm", Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	trust = t.TempDir()
	for from, to := range map[string]string{"swtpm-localca-rootca-cert.pem": "emulators/swtpm.pem", "issuercert.pem": "intermediates/swtpm.pem"} {
		pem, err := os.ReadFile(filepath.Join(dir, "swtpm", "ca", from))
		if err != nil {
			t.Fatal(err)
		}
		to = filepath.Join(trust, to)
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, pem, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return x, trust
}
