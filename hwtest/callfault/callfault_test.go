//go:build linux && amd64

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestMain makes this binary the program itself where it is asked to.
func TestMain(m *testing.M) {
	if os.Getenv("CALLFAULT") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// callfault runs a script of the shell in a folder that is watched.
func callfault(t *testing.T, script string, args ...string) (dir string, status int, said string) {
	t.Helper()
	dir = t.TempDir()
	cmd := exec.Command("/proc/self/exe", append(append([]string{"--in", dir}, args...), "--", "sh", "-c", script)...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CALLFAULT=1")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if strings.Contains(out.String(), "may not allow ptrace") {
		t.Skip(out.String())
	}
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return dir, cmd.ProcessState.ExitCode(), out.String()
}

func content(t *testing.T, path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "none"
	}
	return string(b)
}

// Each fault happens at the call that was asked for, once, with its effect or without, and the program sees what it should.
func TestAFaultAtACall(t *testing.T) {
	const script = `echo one >a; if echo two >b; then echo said >>a; else echo failed >>a; fi; mv b c; mkdir d; (echo four >d/1234567890)`
	for _, c := range []struct {
		what, args string
		status     int
		a, c, last string
		hit        string
	}{
		{"nothing", "", 0, "one\nsaid\n", "two\n", "four\n", "none"},
		{"killed before", "--call=write:b --nth=1", 137, "one\n", "none", "none", "write b"},
		{"killed after", "--call=write:b --nth=1 --done", 137, "one\n", "none", "none", "write b"},
		{"EIO", "--call=write:b --nth=1 --fault=EIO", 0, "one\nfailed\n", "", "four\n", "write b"},
		{"EIO, done", "--call=write:b --nth=1 --fault=EIO --done", 0, "one\nfailed\n", "two\n", "four\n", "write b"},
		{"ENOSPC at a thread of its own", "--call=openat:d/# --nth=1 --fault=ENOSPC", 2, "one\nsaid\n", "two\n", "none", "openat d/#"},
		{"the third call of all", "--nth=3 --fault=ENOSPC", 0, "one\nfailed\n", "none", "four\n", "openat b"},
		{"a call that does not come", "--call=write:b --nth=2", 0, "one\nsaid\n", "two\n", "four\n", "none"},
	} {
		var args []string
		for _, a := range strings.Fields(c.args) {
			args = append(args, strings.Replace(a, ":", " ", 1))
		}
		hit := filepath.Join(t.TempDir(), "hit")
		dir, status, said := callfault(t, script, append(args, "--hit", hit)...)
		at := func(name string) string { return content(t, filepath.Join(dir, name)) }
		if status != c.status || at("a") != c.a || at("c") != c.c || at("d/1234567890") != c.last || content(t, hit) != c.hit {
			t.Errorf("%s: status %d, a %q, c %q, d/… %q, at %q\n%s", c.what, status, at("a"), at("c"), at("d/1234567890"), content(t, hit), said)
		}
		if c.what == "killed after" && at("b") != "two\n" || c.what == "killed before" && at("b") != "" {
			t.Errorf("%s: b is %q", c.what, at("b"))
		}
	}
}

func TestCallsAreListed(t *testing.T) {
	list := filepath.Join(t.TempDir(), "list")
	dir, status, said := callfault(t, `echo x >a; mkdir d; mv a d/12345; rm d/12345; cat /dev/null >../elsewhere; sync -d .`, "--list", list)
	want := "openat a\nwrite a\nmkdir d\nrenameat2 d/#\nunlinkat d/#\nfdatasync .\n"
	if got := content(t, list); status != 0 || strings.ReplaceAll(got, "rename ", "renameat2 ") != want {
		t.Errorf("%s: status %d, listed\n%s\n%s", dir, status, got, said)
	}
}
