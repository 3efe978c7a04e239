package facility_test

import (
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vitalgate/vitalgate/peer/facility"
	"github.com/vitalgate/vitalgate/peer/peertest"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/enrolment"
)

func newHub(t *testing.T) (facility.Dir, *facility.Config) {
	t.Helper()
	d := facility.Dir(filepath.Join(t.TempDir(), "hub"))
	c := facility.Config{Facility: "f1", Name: "hub"}
	c.Boxes.Listen, c.Peers.Listen = "127.0.0.1:4222", "10.0.0.1:7422"
	if err := facility.Init(d, c, []string{"hub.example"}); err != nil {
		t.Fatal(err)
	}
	conf, err := d.Load()
	if err != nil {
		t.Fatal(err)
	}
	return d, conf
}

func TestSecretsAreForTheirOwnerOnly(t *testing.T) {
	d, c := newHub(t)
	if i, err := os.Stat(string(d)); err != nil || i.Mode().Perm() != 0o700 {
		t.Errorf("the data folder has mode %v (%v)", i.Mode(), err)
	}
	for _, path := range []string{d.CAKey(), d.Key(), d.Seed(), d.ReaderKey()} {
		if i, err := os.Stat(path); err != nil || i.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v (%v)", path, i.Mode(), err)
		}
		if err := os.Chmod(path, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Identity(c); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("keys that others can read are used: %v", err)
	}
	if _, err := d.Opener(); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a reader key that others can read is used: %v", err)
	}
}

func TestInitOverwritesNothing(t *testing.T) {
	d, c := newHub(t)
	before, err := os.ReadFile(d.CAKey())
	if err != nil {
		t.Fatal(err)
	}
	if err := facility.Init(d, *c, nil); err == nil {
		t.Error("a facility was made over another")
	}
	if after, err := os.ReadFile(d.CAKey()); err != nil || string(after) != string(before) {
		t.Error("the authority's key has changed")
	}
	used := facility.Dir(t.TempDir())
	if err := os.WriteFile(filepath.Join(string(used), "thesis.txt"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := facility.Init(used, *c, nil); err == nil {
		t.Error("a facility was made among other files")
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(string(used)), ".vitalpeer-*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestPeerCertificateNamesItsHosts(t *testing.T) {
	d, _ := newHub(t)
	text, err := os.ReadFile(d.Certificate())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := enrolment.ParseCertificate(string(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []string{"hub.example", "10.0.0.1", "127.0.0.1", "localhost"} {
		if err := cert.VerifyHostname(h); err != nil {
			t.Error(err)
		}
	}
}

// A box's certificate lets it in as a client and cannot serve: no box can stand in for a peer.
func TestGrantGivesTheBoxAClientCertificateOnly(t *testing.T) {
	d, c := newHub(t)
	b := peertest.NewBox(t, "f1/gw1")
	r, g, err := facility.Enrol(d, c, b.Request(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := enrolment.ParseCertificate(g.TLSCertificate)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(g.CA))
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err == nil {
		t.Error("the box's certificate can serve")
	}
	if !b.TLS.PublicKey.Equal(cert.PublicKey) || cert.IsCA {
		t.Error("the certificate is not for the box's TLS key alone")
	}
	if r.Claim != "software" || len(g.Leaves) != 1 || g.Leaves[0].URL != "tls://127.0.0.1:4222" {
		t.Errorf("registered as %q with leaves %v", r.Claim, g.Leaves)
	}
	if _, err := record.ParseReaderKey(g.Readers.Network[0]); err != nil {
		t.Error(err)
	}
	if _, _, err := facility.Enrol(d, c, peertest.NewBox(t, "f2/gw1").Request(), nil, nil); err == nil || !strings.Contains(err.Error(), "facility f1") {
		t.Errorf("a box of another facility: %v", err)
	}
}

func TestInvitationCarriesTheReaderKeyOnlyIfAsked(t *testing.T) {
	d, c := newHub(t)
	for _, mayRead := range []bool{false, true} {
		name := map[bool]string{false: "blind", true: "reader"}[mayRead]
		inv, let, err := facility.Invite(d, c, name, "ward.example:4222", nil, mayRead)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Enact(let); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "invitation")
		if err := inv.Write(file); err != nil {
			t.Fatal(err)
		}
		ward := facility.Dir(filepath.Join(t.TempDir(), "ward"))
		conf, err := facility.Join(ward, file, facility.Config{})
		if err != nil {
			t.Fatal(err)
		}
		if conf.Name != name || conf.Facility != "f1" || len(conf.Peers.Hubs) != 1 || conf.Peers.Hubs[0] != "tls://10.0.0.1:7422" {
			t.Errorf("joined as %+v", conf)
		}
		if conf.Boxes.Listen != "0.0.0.0:4222" {
			t.Errorf("boxes are told ward.example:4222, and it listens at %q", conf.Boxes.Listen)
		}
		if o, err := ward.Opener(); err != nil || (o != nil) != mayRead {
			t.Errorf("reader key: %v, %v", o != nil, err)
		}
		if _, err := os.Stat(ward.CAKey()); err == nil {
			t.Error("the ward got the facility's authority")
		}
		if err := d.Enact(let); err == nil || !strings.Contains(err.Error(), "invited before") {
			t.Errorf("invited twice: %v", err)
		}
		if _, _, err := facility.Enrol(ward, conf, peertest.NewBox(t, "f1/gw1").Request(), nil, nil); err == nil || !strings.Contains(err.Error(), "at the hub") {
			t.Errorf("a ward enrols: %v", err)
		}
	}
}

// Where boxes are told to go, somebody listens.
func TestWhoJoinsListensWhereBoxesGo(t *testing.T) {
	d, c := newHub(t)
	for i, x := range []struct{ told, asked, listens string }{
		{"", "", facility.LoopbackBoxes},
		{"", "10.0.1.5:5000", "10.0.1.5:5000"},
		{"10.0.1.5:4222", "", "10.0.1.5:4222"},
		{"10.0.1.5:4222", "10.0.1.5:4222", "10.0.1.5:4222"},
		{"10.0.1.5:4222", "0.0.0.0:4222", "0.0.0.0:4222"},
		{"ward.example:4222", "10.0.1.5:4222", "10.0.1.5:4222"},
		{"10.0.1.5:4222", "10.0.1.5:4999", ""},
		{"10.0.1.5:4222", "127.0.0.1:4222", ""},
		{"ward.example:4222", "10.0.1.5:4223", ""},
	} {
		inv, _, err := facility.Invite(d, c, fmt.Sprint("ward", i), x.told, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "invitation")
		if err := inv.Write(file); err != nil {
			t.Fatal(err)
		}
		var asked facility.Config
		asked.Boxes.Listen = x.asked
		conf, err := facility.Join(facility.Dir(filepath.Join(t.TempDir(), "ward")), file, asked)
		switch {
		case x.listens == "" && (err == nil || !strings.Contains(err.Error(), "would find nobody")):
			t.Errorf("told %s, asked %s: %v", x.told, x.asked, err)
		case x.listens != "" && (err != nil || conf.Boxes.Listen != x.listens):
			t.Errorf("told %q, asked %q: %+v %v, want %s", x.told, x.asked, conf, err, x.listens)
		}
	}
}

func TestConfigIsStrict(t *testing.T) {
	d, _ := newHub(t)
	text, err := os.ReadFile(d.Config())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ from, to, want string }{
		{"[page]\nlisten", "[page]\nlisten_on", "listen_on"},
		{"stream_mib = 1024", "stream_mib = 1", "stream_mib"},
		{"stream_mib = 1024", "stream_mib = 'many'", "stream_mib"},
		{"hubs   = []", "hubs   = ['http://x:1']", "peers.hubs"},
		{"'127.0.0.1:4222'", "'127.0.0.1'", "boxes.listen"},
		{"facility = 'f1'", "facility = 'F1'", "facility"},
	} {
		changed := strings.Replace(string(text), c.from, c.to, 1)
		if changed == string(text) {
			t.Fatalf("the file has no %q:\n%s", c.from, text)
		}
		if err := os.WriteFile(d.Config(), []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Load(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q in place of %q: %v, want an error that names %s", c.to, c.from, err, c.want)
		}
	}
}

// After a rotation a new box seals for the new reader, and a new ward that may read opens what it seals and what was sealed before.
func TestNewBoxesAndWardsFollowARotation(t *testing.T) {
	d, c := newHub(t)
	granted := func(box string) []string {
		t.Helper()
		_, g, err := facility.Enrol(d, c, peertest.NewBox(t, box).Request(), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return g.Readers.Network
	}
	first := granted("f1/gw1")
	var sets [][]string
	for range 2 {
		set, _, err := facility.Rotate(d, c, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		sets = append(sets, set.Readers.Network)
	}
	if now := granted("f1/gw2"); !slices.Equal(now, sets[1]) || slices.Equal(now, first) {
		t.Errorf("a box that is enrolled after the rotation seals for %v, the set says %v", now, sets[1])
	}
	inv, _, err := facility.Invite(d, c, "reader", "ward.example:4222", nil, true)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "invitation")
	if err := inv.Write(file); err != nil {
		t.Fatal(err)
	}
	ward := facility.Dir(filepath.Join(t.TempDir(), "ward"))
	if _, err := facility.Join(ward, file, facility.Config{}); err != nil {
		t.Fatal(err)
	}
	for i, readers := range append([][]string{first}, sets...) {
		path := ward.ReaderKey()
		if i > 0 {
			path = filepath.Join(filepath.Dir(path), fmt.Sprintf("reader-%06d.key", i))
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		k, err := record.ParseReaderSecret(strings.TrimSpace(string(b)))
		if err != nil || k.Public().String() != readers[0] {
			t.Errorf("the ward's key of set %d is another: %v", i, err)
		}
	}
	if o, err := ward.Opener(); err != nil || o == nil {
		t.Errorf("the ward cannot read: %v", err)
	}
	blind, _, err := facility.Invite(d, c, "blind", "ward.example:4222", nil, false)
	if err != nil || blind.Rotated != nil {
		t.Errorf("a ward that may not read is given keys: %v", err)
	}
}
