package main

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vitalgate/vitalgate/peer/peertest"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/cosign"
	"github.com/vitalgate/vitalgate/record/enrolment"
)

// conditionsOf are the codes of the conditions about a box.
func (s *site) conditionsOf(b *peertest.Box) (codes []string) {
	for _, c := range s.says().Conditions {
		if c.About == b.ID.String() {
			codes = append(codes, c.Code)
		}
	}
	return codes
}

// A box shows the hub one history and the ward another, while they do not hear of each other. As soon as they do, both have
// the evidence, whoever of them has more.
func TestTwoHistoriesShownToTwoPeersAreEvidence(t *testing.T) {
	t.Parallel()
	link := newCable(t)
	hub := newHub(t, "tls://"+link.Addr().String())
	link.leadTo(hub.conf.Peers.Listen)
	ward := hub.ward("ward1")
	box := peertest.NewBox(t, "f1/gw1")
	hub.enrol(box, ward)
	hub.start()
	ward.start()
	ward.send(box, box.Record(10))
	hub.has(box)
	link.set(true)
	copied := box.Fork(len(box.Log))
	hub.send(box, box.Record(40)) // the hub's stream is another one, and takes the log from its beginning on
	ward.send(copied, copied.Record(25))
	hub.has(box)
	ward.has(copied)
	if got := append(hub.conditionsOf(box), ward.conditionsOf(box)...); slices.Contains(got, "fork") {
		t.Errorf("before they hear of each other: %v", got)
	}
	link.set(false)
	for _, s := range []*site{hub, ward} {
		s.until("the evidence", func() bool { return notes(t, s.dir.Evidence(), box)["clone"] > 0 })
		s.until("the condition", func() bool { return slices.Contains(s.conditionsOf(box), "fork") })
		if out := program(t, "evidence", "list", "--data", string(s.dir)); !strings.Contains(out, "clone of box f1/gw1. Within one start") {
			t.Errorf("evidence list: %s", out)
		}
	}
}

// cosignedBy says whether a peer knows that n peers hold what it holds of its only box.
func cosignedBy(s *site, n int) bool {
	boxes := s.says().Boxes
	return len(boxes) == 1 && boxes[0].Cosigned == n
}

// Each peer cosigns what it holds and hears that the others do too.
func TestPeersCosign(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	ward := hub.ward("ward1")
	box := peertest.NewBox(t, "f1/gw1")
	hub.enrol(box, ward)
	hub.start()
	ward.start()
	ward.send(box, box.Record(30))
	hub.has(box)
	all := func(s *site) func() bool { return func() bool { return cosignedBy(s, 2) } }
	hub.until("two cosignatures", all(hub))
	ward.until("two cosignatures", all(ward))
	ward.kill()
	ward.start()
	ward.send(box, box.Record(5))
	hub.has(box)
	ward.until("two cosignatures after a restart", all(ward))
	hub.until("two cosignatures after a restart", all(hub))

	// The cosigned checkpoint goes out with the records: whoever has the public keys of the peers can check it.
	out := filepath.Join(t.TempDir(), "export")
	program(t, "export", "f1/gw1", "-o", out, "--data", string(hub.dir))
	note, err := os.ReadFile(filepath.Join(out, "checkpoint.cosigned"))
	if err != nil {
		t.Fatal(err)
	}
	if c, err := record.OpenCheckpoint(note, box.ID, &box.Data.PublicKey); err != nil || int(c.Size) != len(box.Log) {
		t.Errorf("the cosigned checkpoint is of %d records: %v", c.Size, err)
	}
	keys, err := os.ReadFile(filepath.Join(out, "cosigners"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(keys))
	if len(lines) != 4 {
		t.Fatalf("cosigners: %d keys, want 4", len(lines))
	}
	for _, pair := range [][]string{lines[:2], lines[2:]} {
		p, err := cosign.ParseKeys(pair)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := p.Verify(note); err != nil {
			t.Errorf("%s: %v", p.Name, err)
		}
	}
	// A peer that was removed is not heard any more.
	program(t, "peer", "remove", "ward1", "--data", string(hub.dir))
	hub.until("the removal", func() bool { return cosignedBy(hub, 1) })
}

// Records are gone for good: each peer says so, and the file that they make is evidence anywhere.
func TestAGapIsEvidence(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	ward := hub.ward("ward1")
	box := peertest.NewBox(t, "f1/gw1")
	hub.enrol(box, ward)
	hub.start()
	ward.start()
	ward.send(box, box.Record(10))
	hub.has(box)
	box.Record(5) // never sent
	after := box.Record(5)
	ward.send(box, after)
	hub.send(box, after)
	dir := t.TempDir()
	one, both := filepath.Join(dir, "one"), filepath.Join(dir, "both")
	for _, s := range []*site{hub, ward} {
		s.until("the gap", func() bool {
			_, err := tryProgram("evidence", "gap", "f1/gw1", "-o", filepath.Join(dir, s.conf.Name), "--data", string(s.dir))
			return err == nil
		})
	}
	program(t, "evidence", "gap", "f1/gw1", "-o", one, "--data", string(ward.dir))
	program(t, "evidence", "gap", "f1/gw1", "--add", one, "-o", both, "--data", string(hub.dir))
	if _, err := tryProgram("evidence", "gap", "f1/gw1", "--add", both, "-o", filepath.Join(dir, "again"), "--data", string(hub.dir)); err == nil || !strings.Contains(err.Error(), "the word of peer hub stands in it already") {
		t.Errorf("the same word twice: %v", err)
	}
	if out, err := tryProgram("evidence", "verify", both); err == nil || !strings.Contains(err.Error(), "--authority") {
		t.Errorf("without the facility: %v %s", err, out)
	}
	out := program(t, "evidence", "verify", both, "--authority", hub.dir.CA())
	if !strings.Contains(out, "records; of these, 11 to 15 are with none of the peers ward1, hub of facility f1") {
		t.Errorf("evidence: %s", out)
	}
	stranger := newHub(t, "")
	if _, err := tryProgram("evidence", "verify", both, "--authority", stranger.dir.CA()); err == nil || !strings.Contains(err.Error(), "(voices)") {
		t.Errorf("for another facility: %v", err)
	}
	// When they come after all, nobody says so any more.
	ward.send(box, box.Log[11:16])
	ward.until("the rest", func() bool {
		_, err := tryProgram("evidence", "gap", "f1/gw1", "--add", one, "-o", filepath.Join(dir, "late"), "--data", string(ward.dir))
		return err != nil && strings.Contains(err.Error(), "this peer has records between 11 and 15")
	})
	if _, err := tryProgram("evidence", "verify", filepath.Join(dir, "nothing")); err == nil {
		t.Error("a file that is not there: taken")
	}
}

// Whatever a box can do to its log that a running peer sees becomes a file that an outsider can check: one who has this file, the public
// key of the box or the certificate of the facility, and nothing else.
func TestEvidenceOfEachKindIsCheckedByAnOutsider(t *testing.T) {
	hub := newHub(t, "")
	hub.flags = []string{"--patience", "1s"}
	boxes := map[string]*peertest.Box{}
	for _, kind := range []string{"fork", "clone", "disk", "chip", "gap"} {
		boxes[kind] = peertest.NewBox(t, "f1/"+kind)
		hub.enrol(boxes[kind])
	}
	hub.start()
	box := boxes["fork"] // the disk was put back, and what was on it is hidden: the boot leaf says nothing
	hub.send(box, box.Record(5))
	image := box.Fork(len(box.Log))
	hub.send(box, box.Record(5))
	image.Starts = 2
	hub.send(image, image.Record(5))

	box = boxes["clone"]
	hub.send(box, box.Record(5))
	image = box.Fork(len(box.Log))
	hub.send(box, box.Record(5))
	hub.send(image, image.Record(5))

	box = boxes["disk"]
	hub.send(box, box.Record(5))
	image = box.Fork(len(box.Log))
	hub.send(box, box.Record(5))
	hub.send(image, image.Restart())

	box = boxes["chip"]
	box.Record(1)
	box.Restart()
	hub.send(box, box.Log)
	box.Starts = 1
	hub.send(box, box.Record(2))

	box = boxes["gap"]
	hub.send(box, box.Record(5))
	lost := box.Record(5)
	hub.send(box, box.Record(5))
	hub.has(box) // the log has gone on without them
	outside := t.TempDir()
	at := func(name string) string { return filepath.Join(outside, name) }
	program(t, "evidence", "gap", "f1/gap", "--record", strconv.FormatUint(lost[0].Index, 10), "-o", at("gap"), "--data", string(hub.dir))
	if _, err := tryProgram("evidence", "gap", "f1/gap", "--record", "1", "-o", at("none"), "--data", string(hub.dir)); err == nil || !strings.Contains(err.Error(), "no record of box f1/gap is missing here") {
		t.Errorf("evidence of a record that is here: %v", err)
	}
	if err := os.Rename(hub.dir.CA(), at("ca.pem")); err != nil { // an outsider has no more than this of the facility
		t.Fatal(err)
	}
	for kind := range boxes {
		if kind != "gap" {
			var found []string
			hub.until("evidence of "+kind, func() bool {
				found, _ = filepath.Glob(filepath.Join(hub.dir.Evidence(), "f1", kind, "*.json")) // the note is written last
				return len(found) > 0
			})
			text, err := os.ReadFile(strings.TrimSuffix(found[0], ".json") + ".evidence")
			if err != nil {
				t.Fatal(err)
			}
			put(t, at(kind), text)
		}
		key, err := enrolment.FormatKey(&boxes[kind].Data.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		put(t, at(kind+".pem"), []byte(key))
	}
	hub.stop()
	if err := os.RemoveAll(string(hub.dir)); err != nil {
		t.Fatal(err)
	}
	for kind, says := range map[string]string{"fork": "fork of box", "clone": "clone of box", "disk": "rollback of box", "chip": "rollback of box", "gap": "gap of box"} {
		check := []string{"evidence", "verify", at(kind), "--key", at(kind + ".pem"), "--authority", at("ca.pem")}
		if out, err := tryProgram(check...); err != nil || !strings.HasPrefix(out, says) {
			t.Errorf("%s: the outsider is told %q, %v", kind, out, err)
		}
		check[4] = at("another.pem")
		key, err := enrolment.FormatKey(&peertest.Key(t).PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		put(t, check[4], []byte(key))
		if err := command(t.Context(), check); err == nil || !strings.Contains(err.Error(), "(key)") {
			t.Errorf("%s, against another key: %v", kind, err)
		}
	}
}
