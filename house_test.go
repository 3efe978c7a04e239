// Package vitalgate_test holds the rules of the house: which room may know which (docs/ARCHITECTURE.md).
package vitalgate_test

import (
	"bytes"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

const module = "github.com/vitalgate/vitalgate/"

// rules say what a package that matches `of` must not reach, and why. `not` is matched against the rooms of this module and against
// "ext:path" of others, both directly or by way of other rooms, and against "own:path" of what the package itself imports.
var rules = []struct{ of, not, why string }{
	{`^adapters`, `^(hl7|fhir|record|tpm|firmware|peer)`, "adapters bring bytes; what they mean is decided later"},
	{`^hl7`, `^(adapters|fhir|record|tpm|firmware|peer)`, "hl7 knows only HL7"},
	{`^fhir`, `^(adapters|record|tpm|firmware|peer)`, "the conversion knows messages and resources only"},
	{`^(hl7|fhir)(/|$)`, `^own:(os|os/exec|net|net/http|syscall)$`, "hl7 and fhir do no I/O"},
	{`^record/durable`, `^(record|own:(net|net/http|os/exec)$)`, "durable is its syscalls, and knows no file's meaning"},
	{`^record`, `^(adapters|hl7|fhir|tpm|firmware|peer)`, "record is the format box and peers share; it knows neither"},
	{`^tpm`, `^(adapters|hl7|fhir|record|firmware|peer)`, "tpm knows keys, not what they sign"},
	{`^peer`, `^(adapters|tpm$|firmware)`, "a peer verifies boxes, it never is one: of the TPM it knows what is attested"},
	{`^tpm/attestation`, `^(tpm$|own:(os|os/exec|net|syscall)$)`, "what a TPM says is checked anywhere, without one"},
	{`^firmware`, `^peer`, "a box knows no peer's code"},
	{`^(firmware)(/|$)`, `^ext:github.com/nats-io/nats-server`, "the box is a plain client and runs no server"},
	{`^(firmware|adapters|hl7|record|tpm)(/|$)`, `^ext:github.com/google/fhir`, "the schema authority is for tests and peers, not for the box"},
	{`^(adapters|hl7|fhir|tpm|record|firmware/(pipeline|spool|config|health))(/|$)`, `^own:github.com/nats-io/nats.go`, "only link knows NATS on the box"},
	{`^(adapters|hl7|fhir|record|peer|firmware/(pipeline|spool|link|enrol))(/|$)`, `^own:github.com/google/go-tpm`, "only tpm knows the TPM"},
	{`^firmware/(pipeline|spool|link|config|health|status|enrol|maintain|update|notify|measured)`, `^firmware/appliance`, "only the program starts the box"},
	{`^firmware/(pipeline|spool|link|config|health|status)`, `^(firmware/update|image)`, "the line does not know slots"},
	{`^image/(cpio|efi|disk|release)`, `^(adapters|hl7|fhir|record|firmware|peer|hwtest|image$)`, "formats of the image know only themselves"},
	{`^image$`, `^(adapters|hl7|fhir|record|firmware|peer|hwtest)`, "the image tool takes the program as a file"},
	{`^(peer|adapters|hl7|fhir|record|tpm)(/|$)`, `^image`, "only the box's first process and its update know the image"},
	{`^provision`, `^(adapters|hl7|fhir|tpm|firmware|peer)`, "the field tool knows the box and the peer by what they say, and runs where there is no TPM"},
	{`^provision/dnssd$`, `^(record|provision/protocol|own:(os|os/exec|net|net/http|syscall)$)`, "what a box tells on the wire is messages, without sockets"},
	{`^(firmware/(pipeline|spool|link|config|health|status|enrol|update)|peer)`, `^(firmware/mdns|provision/dnssd)`, "only the provisioning link is found on the wire"},
	{`^provision/protocol`, `^(record|own:(os|os/exec|net/http)$)`, "the protocol is what both ends share: no files, no connections"},
	{`^(adapters|hl7|fhir|record|tpm|peer|provision|firmware/)`, `^hwtest$`, "the hardware test is a command, and nothing rests on it"},
	{`^commandline`, `^(adapters|hl7|fhir|record|tpm|firmware|peer|provision|image|hwtest)`, "a command line is read alike in each program"},
	{`^(adapters|hl7|fhir|record|tpm)`, `^commandline`, "only programs have a command line"},
	{`^`, `^leaktest$`, "only tests ask what is left over"},
	{`^leaktest`, `^(adapters|hl7|fhir|record|tpm|firmware|peer|provision|image|hwtest)`, "what is left over is looked for in any room"},
	{`^(adapters|hl7|fhir|record|tpm)`, `^provision`, "only the ends of the provisioning link know it"},
	{`^(adapters|hl7|fhir|record|tpm|peer|firmware|provision|image)(/|$)`, `^hwtest/(simmonitor|demo|e2e|hospital|appliance|chaos|soak|powercut|callfault)`, "nothing of the product rests on its simulators"},
}

// The schema authority may be imported by tests and by the peer's validation only, so fhir itself must be free of it.
func TestNoRoomKnowsWhatItMustNot(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}|{{join .Imports " "}}`, "./...").Output()
	if err != nil {
		t.Fatalf("cannot list the packages: %v", err)
	}
	imports := map[string][]string{}
	for line := range strings.Lines(string(bytes.TrimSpace(out))) {
		name, list, _ := strings.Cut(strings.TrimSpace(line), "|")
		imports[name] = strings.Fields(list)
	}
	if len(imports) < 10 {
		t.Fatalf("found only %d packages, so this test would see nothing", len(imports))
	}
	// reach is everything a package imports, with the packages of this module followed.
	var reach func(pkg string, seen map[string]string, from string)
	reach = func(pkg string, seen map[string]string, from string) {
		for _, i := range imports[pkg] {
			if _, ok := seen[i]; ok {
				continue
			}
			seen[i] = from
			if strings.HasPrefix(i, module) {
				reach(i, seen, strings.TrimPrefix(i, module))
			}
		}
	}
	used := make([]bool, len(rules))
	for pkg := range imports {
		room := strings.TrimPrefix(pkg, module)
		seen := map[string]string{}
		reach(pkg, seen, room)
		for n, r := range rules {
			if !regexp.MustCompile(r.of).MatchString(room) {
				continue
			}
			used[n] = true
			not := regexp.MustCompile(r.not)
			for i, from := range seen {
				if not.MatchString(kind(i)) {
					t.Errorf("%s reaches %s (by way of %s): %s", room, i, from, r.why)
				}
			}
			for _, i := range imports[pkg] {
				if not.MatchString("own:" + i) {
					t.Errorf("%s imports %s: %s", room, i, r.why)
				}
			}
		}
	}
	for n, ok := range used {
		if !ok {
			t.Errorf("rule %d (%s) matches no package: mend the rule", n, rules[n].of)
		}
	}
}

// kind is the room of a package of this module, "ext:path" of anything else.
func kind(path string) string {
	if room, ok := strings.CutPrefix(path, module); ok {
		return room
	}
	return "ext:" + path
}
