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
