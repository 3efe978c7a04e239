package cpio_test

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"

	"github.com/vitalgate/vitalgate/image/cpio"
)

// Another program reads the archive as it was meant.
func TestGNUReadsIt(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Skip("cpio is not installed")
	}
	archive := cpio.Archive(append(cpio.Devices(), cpio.Symlink("hosts", "/run/hosts"), cpio.File("note", false, []byte("12345")), cpio.File("init", true, []byte("go"))))
	list := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("cpio", append([]string{"--quiet"}, args...)...)
		cmd.Stdin = bytes.NewReader(archive)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	var seen []string
	for line := range strings.Lines(list("-itvn")) {
		f := strings.Fields(line) // mode, links, user, group, size or device, date (three), name
		if strings.HasPrefix(f[0], "c") {
			f = append(f[:4], append([]string{f[4] + f[5]}, f[6:]...)...)
		}
		seen = append(seen, strings.Join(append([]string{f[0], f[4]}, f[8:]...), " "))
	}
	want := []string{"drwxr-xr-x 0 dev", "crw------- 5,1 dev/console", "crw-rw-rw- 1,3 dev/null", "lrwxrwxrwx 10 hosts -> /run/hosts", "-r--r--r-- 5 note", "-r-xr-xr-x 2 init"}
	if got, want := strings.Join(seen, "\n"), strings.Join(want, "\n"); got != want {
		t.Errorf("cpio sees\n%s\nand not\n%s", got, want)
	}
	if got := list("-i", "--to-stdout", "note", "init"); got != "12345go" {
		t.Errorf("cpio finds %q in the files", got)
	}
}
