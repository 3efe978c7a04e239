package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/vitalgate/vitalgate/peer/admission"
	"github.com/vitalgate/vitalgate/peer/peertest"
	"github.com/vitalgate/vitalgate/peer/registry"
	"github.com/vitalgate/vitalgate/record/enrolment"
	"github.com/vitalgate/vitalgate/tpm/attestation"
)

// shows is a request of the box that shows a chip, as a box does that is let in on trust.
func shows(t *testing.T, b *peertest.Box, chip attestation.EndorsementKey) (path string) {
	t.Helper()
	r := b.Request()
	var err error
	if r.TPM, err = json.Marshal(attestation.Presentation{Endorsements: []attestation.EndorsementKey{newChip(t), chip}}); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "request.json")
	if err := enrolment.Write(path, r); err != nil {
		t.Fatal(err)
	}
	return path
}

// newChip is the endorsement key of a chip that nobody vouches for.
func newChip(t *testing.T) attestation.EndorsementKey {
	t.Helper()
	point, err := peertest.Key(t).PublicKey.Bytes() // 04, X, Y
	if err != nil {
		t.Fatal(err)
	}
	area := tpm2.ECCEKTemplate
	area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]}})
	return attestation.EndorsementKey{Area: tpm2.Marshal(area)}
}

// A box that is registered and lost its grant gets it again for the same keys, without a new decision; other keys do not get it.
func TestARegisteredBoxIsTakenUpAgain(t *testing.T) {
	hub := newHub(t, "")
	box := peertest.NewBox(t, "f1/gw1")
	request := shows(t, box, newChip(t))
	add := func(request string, more ...string) (grant, said string, err error) {
		grant = filepath.Join(t.TempDir(), "grant.json")
		said, err = tryProgram(append([]string{"box", "add", request, "-o", grant, "--data", string(hub.dir)}, more...)...)
		return grant, said, err
	}
	if _, _, err := add(request); err != nil {
		t.Fatal(err)
	}
	decided := program(t, "registry", "log", "--data", string(hub.dir))
	path, said, err := add(request)
	if err != nil || !strings.Contains(said, "only its grant is written anew") {
		t.Fatalf("%v %s", err, said)
	}
	g, err := enrolment.ReadGrant(path)
	if err != nil || g.Box != "f1/gw1" {
		t.Errorf("%+v %v", g, err)
	}
	if after := program(t, "registry", "log", "--data", string(hub.dir)); after != decided {
		t.Errorf("something was decided:\n%s", after)
	}
	if _, _, err := add(request, "--monitors", "bed-1"); err == nil || !strings.Contains(err.Error(), "vitalpeer box grant") {
		t.Errorf("what the box may write was changed: %v", err)
	}
	box.Rekey()
	if _, _, err := add(shows(t, box, newChip(t))); err == nil || !strings.Contains(err.Error(), "is registered") {
		t.Errorf("other keys are taken for the box: %v", err)
	}
	program(t, "box", "revoke", "f1/gw1", "--last", "0", "--data", string(hub.dir))
	if _, _, err := add(request); err == nil || !strings.Contains(err.Error(), "was revoked") {
		t.Errorf("a revoked box is taken up again: %v", err)
	}
}

// A chip that is denied, or that another box has, is refused at every door: with an answer and on trust, in a new box and in new keys.
func TestAChipIsRefusedOnTrustToo(t *testing.T) {
	hub := newHub(t, "")
	denied, others, own := newChip(t), newChip(t), newChip(t)
	name := func(ek attestation.EndorsementKey) string {
		t.Helper()
		s, err := ek.Fingerprint()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	program(t, "registry", "deny-chip", name(denied), "--reason", "stolen batch", "--data", string(hub.dir))
	box, other := peertest.NewBox(t, "f1/gw1"), peertest.NewBox(t, "f1/gw2")
	program(t, "box", "add", shows(t, box, own), "-o", filepath.Join(t.TempDir(), "grant"), "--data", string(hub.dir))
	hub.enrol(other)
	key, err := enrolment.FormatKey(&peertest.Key(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	s, err := hub.dir.Registry().Load() // the other box has proven its chip
	if err != nil {
		t.Fatal(err)
	}
	r := s.Box(other.ID)
	fresh := peertest.NewBox(t, "f1/gw2")
	nkey, err := fresh.NKey.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := hub.dir.Enact(&registry.Rekey{Box: r.Box, DataKey: key, TLSKey: strings.Repeat("5", 64), NKey: nkey, Claim: "hardware", Software: "1.0", Chip: name(others),
		Attested: &registry.Attested{Class: "hardware", Maker: "test", LAK: []byte("public area")}, From: 0}); err != nil {
		t.Fatal(err)
	}

	box.Rekey()
	stranger := peertest.NewBox(t, "f1/gw3")
	for what, c := range map[string]struct {
		command string
		request string
		why     string
	}{
		"a new box with a denied chip":         {"add", shows(t, stranger, denied), "its chip is denied: stolen batch"},
		"a new box with another's chip":        {"add", shows(t, stranger, others), "its chip is that of box f1/gw2"},
		"a box is re-keyed to a denied chip":   {"rekey", shows(t, box, denied), "its chip is denied: stolen batch"},
		"a box is re-keyed to another's chip":  {"rekey", shows(t, box, others), "its chip is that of box f1/gw2"},
		"a denied chip is not asked":           {"ask", shows(t, stranger, denied), "its chip is denied: stolen batch"},
		"a chip that cannot be told is no one": {"add", shows(t, stranger, attestation.EndorsementKey{Area: []byte("?")}), "(" + string(admission.NotEndorsement) + ")"},
	} {
		t.Run(what, func(t *testing.T) {
			_, err := tryProgram("box", c.command, c.request, "-o", filepath.Join(t.TempDir(), "out"), "--data", string(hub.dir))
			if err == nil || !strings.Contains(err.Error(), c.why) {
				t.Errorf("want a refusal for %q, got %v", c.why, err)
			}
		})
	}
	program(t, "box", "rekey", shows(t, box, own), "-o", filepath.Join(t.TempDir(), "grant"), "--data", string(hub.dir))
	program(t, "box", "add", shows(t, stranger, newChip(t)), "-o", filepath.Join(t.TempDir(), "grant"), "--data", string(hub.dir))
}
