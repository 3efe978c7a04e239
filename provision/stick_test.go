package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vitalgate/vitalgate/provision/protocol"
)

// An answer that came too late does not stand in the way of a new question; one that the facility does not believe does.
func TestAStaleAnswerIsAskedForAgain(t *testing.T) {
	if _, err := exec.LookPath("/bin/sh"); err != nil {
		t.Skip("there is no /bin/sh to stand in for vitalpeer")
	}
	for reason, again := range map[string]bool{"not-asked": true, "expired": true, "other-question": true, "other-request": true, "wrong-secret": false, "quote": false} {
		t.Run(reason, func(t *testing.T) {
			dir := t.TempDir()
			own := protocol.StickAt(dir).Of("VG-1")
			if err := os.MkdirAll(string(own), 0o755); err != nil {
				t.Fatal(err)
			}
			config := filepath.Join(dir, "config.toml")
			for path, text := range map[string]string{config: "[[monitor]]\nname = \"bed-1\"\naddress = \"0.0.0.0:2575\"\n", own.Box(): "f1/gw1", own.Request(): "request", own.Question(): "first question", own.Answer(): "first answer"} {
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			hub := filepath.Join(dir, "vitalpeer") // box ask REQUEST -o QUESTION; box add refuses
			script := fmt.Sprintf("#!/bin/sh\n[ $2 = ask ] && { echo second question >$5; exit; }\necho 'cannot admit box f1/gw1 (%s): so' >&2; exit 1\n", reason)
			if err := os.WriteFile(hub, []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
			c := stickAnswerCmd{hubFlag: hubFlag{Hub: dir, Vitalpeer: hub}, binding: binding{Config: config}, Stick: dir, Name: "VG-1"}
			err := c.Run(t.Context())
			question, _ := os.ReadFile(own.Question())
			_, missing := os.Stat(own.Answer())
			if (err == nil) != again || (missing != nil) != again || strings.HasPrefix(string(question), "second") != again {
				t.Errorf("error %v, question %q, answer: %v", err, question, missing)
			}
		})
	}
}

// What no box can use is refused before the facility is asked for anything, and before a way to the box.
func TestTheStickTakesNoMistakes(t *testing.T) {
	dir := t.TempDir()
	own := protocol.StickAt(dir).Of("VG-1")
	if err := os.MkdirAll(string(own), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(own.Box(), []byte("f1/gw1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	const good = "name=bed-1 address=127.0.0.1:2575 zone=Europe/Berlin"
	for want, monitor := range map[string]string{
		"is not host:port":         "name=bed-1 address=127.0.0.1",
		"is not an IANA time zone": "name=bed-1 address=127.0.0.1:2575 zone=Nowhere/Land",
		"must be 1 to 64":          "name=bed/1 address=127.0.0.1:2575",
		"no-vitalpeer":             good, // the facility is asked
		"name the program":         "name=bed-1 kind=serial device=/dev/ttyUSB0",
	} {
		c := stickAnswerCmd{hubFlag: hubFlag{Hub: dir, Vitalpeer: filepath.Join(dir, "no-vitalpeer")}, binding: binding{Monitor: []string{monitor}}, Stick: dir, Name: "VG-1", OnTrust: true}
		if err := c.Run(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v does not say %q", monitor, err, want)
		}
	}
	about := `{"dialects": [{"name": "ihe-pcd01"}], "lines": ["/dev/ttyUSB0"]}` // as the box wrote it at its first visit
	if err := os.WriteFile(own.About(), []byte(about), 0o644); err != nil {
		t.Fatal(err)
	}
	for want, dialect := range map[string]string{`cannot use dialect "ihe-pcd": the box's firmware knows ihe-pcd01`: "ihe-pcd", "no-vitalpeer": "ihe-pcd01"} {
		c := stickAnswerCmd{hubFlag: hubFlag{Hub: dir, Vitalpeer: filepath.Join(dir, "no-vitalpeer")}, binding: binding{Monitor: []string{good + " dialect=" + dialect}}, Stick: dir, Name: "VG-1", OnTrust: true}
		if err := c.Run(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v does not say %q", dialect, err, want)
		}
	}
	for _, name := range []string{"gw3", "Ward 3/../etc"} {
		if err := (stickPrepareCmd{Stick: dir, Box: name}).Run(); err == nil || !strings.Contains(err.Error(), "give facility/name") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat(protocol.StickAt(dir).Next()); err == nil {
		t.Error("a wrong name is on the stick")
	}
}
