package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vitalgate/vitalgate/provision/protocol"
	"github.com/vitalgate/vitalgate/tpm"
)

// printed is what a command writes to its output.
func printed(t *testing.T, run func() error) (string, error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	was := os.Stdout
	os.Stdout = w
	said := make(chan string)
	go func() {
		b, _ := io.ReadAll(r)
		said <- string(b)
	}()
	err = run()
	os.Stdout = was
	w.Close()
	return <-said, err
}

// A log that lost records says so after its repair too, and that nothing at the box brings them back.
func TestRepairSaysWhatIsLostForGood(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	from := filepath.Join("..", "record", "logfile", "testdata", "v2", "log")
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	if out, err := printed(t, fsckCmd{Dir: dir, Repair: true}.Run); err != nil || strings.Contains(out, "for good") {
		t.Fatalf("a whole log: %v\n%s", err, out)
	}
	path := filepath.Join(dir, "00000000000000000006.log")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[bytes.Index(b, []byte("vitalgate/record/v1"))] ^= 1 // in its first leaf
	if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, b, 0o600)); err != nil {
		t.Fatal(err)
	}
	if out, err := printed(t, fsckCmd{Dir: dir}.Run); !errors.Is(err, errSaid) || !strings.Contains(out, "DAMAGED") || strings.Contains(out, "for good") {
		t.Errorf("before the repair: %v\n%s", err, out)
	}
	for range 2 {
		if out, err := printed(t, fsckCmd{Dir: dir, Repair: true}.Run); !errors.Is(err, errSaid) || !strings.Contains(out, "MISSING") || !strings.Contains(out, "lost at this box for good") {
			t.Errorf("after it: %v\n%s", err, out)
		}
	}
}

// A report that no key could sign is written, and that is an error: here a running box holds its key.
func TestAnUnsignedReportIsAnError(t *testing.T) {
	t.Setenv("PATH", "") // no swtpm: the keys are files
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	test := func(out string) error {
		_, err := printed(t, func() error {
			return hwtestCmd{Dir: dir, Only: []string{"memory"}, Out: filepath.Join(dir, out)}.Run(t.Context())
		})
		return err
	}
	if err := test("signed.json"); err != nil {
		t.Fatal(err)
	}
	running, err := tpm.Open(t.Context(), tpm.Options{Source: "auto", Dir: filepath.Join(dir, "tpm"), Log: newLog(0)})
	if err != nil {
		t.Fatal(err)
	}
	defer running.Close()
	if err := test("unsigned.json"); !errors.Is(err, errSaid) {
		t.Errorf("%v", err)
	}
	for name, want := range map[string]error{"signed.json": nil, "unsigned.json": protocol.ErrUnsigned} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := protocol.OpenReport(b, nil); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
