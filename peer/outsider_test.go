package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vitalgate/vitalgate/peer/peertest"
)

// Whoever has a copy of the registry's log and the public keys of those who began it verifies it all, with vitalpeer or with Python and
// openssl alone, on a machine that has nothing else of the facility.
func TestOutsidersVerifyTheRegistry(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	do := func(args ...string) { // in this process, which is quicker
		t.Helper()
		if err := command(t.Context(), args); err != nil {
			t.Fatalf("vitalpeer %v: %v", args, err)
		}
	}
	for _, name := range []string{"alice", "bob", "carol"} {
		do("registry", "keygen", at(name))
	}
	openssl, err := exec.LookPath("openssl")
	if err == nil { // a token signs with P-256
		for _, args := range [][]string{{"genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", at("bob")}, {"pkey", "-in", at("bob"), "-pubout", "-out", at("bob.pub")}} {
			if out, err := exec.Command(openssl, args...).CombinedOutput(); err != nil {
				t.Fatalf("openssl %v: %v\n%s", args, err, out)
			}
		}
	}
	signed := func(path string, by ...string) {
		t.Helper()
		for _, name := range by {
			do("registry", "sign", path, "--name", name, "--key", at(name))
		}
	}
	do("registry", "init", "--facility", "f1", "--threshold", "2", "--administrator", "alice="+at("alice.pub"), "--administrator", "bob="+at("bob.pub"), "-o", at("genesis"))
	signed(at("genesis"), "alice", "bob")
	hub := at("hub")
	do("init", "--facility", "f1", "--name", "hub", "--genesis", at("genesis"), "--data", hub)
	steps := 0
	decide := func(args ...string) {
		t.Helper()
		steps++
		path := at("step" + string(rune('a'+steps)))
		do(append(args, "--propose", path, "--data", hub)...)
		signed(path, "alice", "bob")
		do("registry", "submit", path, "--data", hub)
	}
	box := peertest.NewBox(t, "f1/gw1")
	decide("box", "add", shows(t, box, newChip(t)), "-o", at("grant"))
	do("box", "suspend", "f1/gw1", "--reason", "lost", "--administrator-key", at("alice"), "--data", hub) // one alone
	decide("registry", "administrators", "--threshold", "2", "--administrator", "alice="+at("alice.pub"), "--administrator", "carol="+at("carol.pub"))
	do("registry", "propose", "revoke", `{"box":"f1/gw1","until":12,"reason":"stolen"}`, "-o", at("last"), "--data", hub)
	signed(at("last"), "alice", "carol")
	do("registry", "submit", at("last"), "--data", hub)

	whole, err := os.ReadFile(filepath.Join(hub, "registry", "log"))
	if err != nil {
		t.Fatal(err)
	}
	pin, err := os.ReadFile(filepath.Join(hub, "keys", "registry.genesis"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(hub, "registry"), at("copy")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(hub); err != nil {
		t.Fatal(err)
	}
	roots := []string{"--root-key", at("alice.pub"), "--root-key", at("bob.pub")}
	says := "Registry of facility f1: 5 entries verified"
	for _, args := range [][]string{append(roots, at("copy")), append(roots, at("copy/log")), {"--pin", strings.TrimSpace(string(pin)), at("copy/log")}} {
		if out := program(t, append([]string{"registry", "verify"}, args...)...); !strings.HasPrefix(out, says) || !strings.Contains(out, "box f1/gw1: revoked, records from 0 to 12") {
			t.Errorf("%v: %s", args, out)
		}
	}
	for what, c := range map[string]struct {
		args []string
		why  string
	}{
		"another's key":       {[]string{"--root-key", at("alice.pub"), "--root-key", at("carol.pub"), at("copy")}, "(genesis)"},
		"one key too few":     {[]string{"--root-key", at("alice.pub"), at("copy")}, "(genesis)"},
		"one key too many":    {append([]string{"--root-key", at("carol.pub")}, append(roots, at("copy"))...), "(genesis)"},
		"another pin":         {[]string{"--pin", strings.Repeat("0", 64), at("copy")}, "(genesis)"},
		"nothing to begin at": {[]string{at("copy")}, "--root-key PEM"},
	} {
		if err := command(t.Context(), append([]string{"registry", "verify"}, c.args...)); err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v", what, err)
		}
	}

	var forged [][]byte
	for i := 3; i < len(whole); i += len(whole) / 12 {
		bad := bytes.Clone(whole)
		bad[i] ^= 4
		forged = append(forged, bad)
	}
	notes := bytes.SplitAfter(whole, []byte("\n\n")) // text, signatures, text, …
	forged = append(forged, whole[:len(whole)-30], bytes.Join(append(notes[:4:4], notes[6:]...), nil), append(bytes.Clone(whole), '\n'))
	for i, log := range forged {
		if err := command(t.Context(), append([]string{"registry", "verify", put(t, at("forged"), log)}, roots...)); err == nil {
			t.Errorf("forgery %d is accepted", i)
		}
	}
	byHand(t, dir, at("copy/log"), at("bob.pub"))
	py := python(t, "hashlib")
	if out, ok := judge(t, py, "registry.py", at("copy/log"), at("alice.pub"), at("bob.pub")); !ok || !strings.Contains(out, "5 entries of vitalgate/f1/_registry") {
		t.Errorf("the outside verifier refuses: %s", out)
	}
	if out, ok := judge(t, py, "registry.py", at("copy/log"), at("alice.pub"), at("carol.pub")); ok {
		t.Errorf("with another key: %s", out)
	}
	for i, log := range forged {
		if i%3 != 0 {
			continue // Python and openssl take their time
		}
		if out, ok := judge(t, py, "registry.py", put(t, at("forged"), log), at("alice.pub"), at("bob.pub")); ok {
			t.Errorf("the outside verifier accepts forgery %d: %s", i, out)
		}
	}
}

// byHand runs the recipe of docs/registry.md for the genesis, whose second signature is of an ECDSA key.
func byHand(t *testing.T, dir, log, key string) {
	t.Helper()
	doc, err := os.ReadFile(filepath.Join("..", "docs", "registry.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, recipe, ok := strings.Cut(string(doc), "    awk ")
	recipe, _, ended := strings.Cut("    awk "+recipe, "\n\n")
	if !ok || !ended {
		t.Fatal("docs/registry.md has no recipe")
	}
	recipe = strings.NewReplacer("registry/log", log, "root.pem", key, "sed 1q", "sed -n 2p").Replace(recipe)
	for _, tool := range []string{"sh", "awk", "sed", "base64", "openssl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	cmd := exec.Command("sh", "-ec", recipe)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "Verified OK") {
		t.Errorf("the recipe of docs/registry.md: %v: %s", err, out)
	}
}
