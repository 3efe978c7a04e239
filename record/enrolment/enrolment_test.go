package enrolment_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/record/enrolment"
)

// facility is an authority and a certificate that it has given a box.
func facility(t *testing.T) (key *ecdsa.PrivateKey, ca, box string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "f1/gw1"}, NotAfter: time.Now().Add(time.Hour)}
	text := func(c *x509.Certificate) string {
		der, err := x509.CreateCertificate(rand.Reader, c, root, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	return key, text(root), text(leaf)
}

func grant(t *testing.T) (*enrolment.Grant, *ecdsa.PrivateKey) {
	t.Helper()
	key, ca, box := facility(t)
	g := &enrolment.Grant{Version: enrolment.Version, Box: "f1/gw1", CA: ca, TLSCertificate: box,
		Leaves: []enrolment.Leaf{{Name: "ward1", URL: "tls://127.0.0.1:4222"}}, Readers: enrolment.Readers{Network: []string{"vgreader1-hospital"}}}
	if err := g.Sign(key); err != nil {
		t.Fatal(err)
	}
	return g, key
}

func readBack(t *testing.T, g *enrolment.Grant) error {
	t.Helper()
	path := filepath.Join(t.TempDir(), "grant.json")
	if err := enrolment.Write(path, g); err != nil {
		t.Fatal(err)
	}
	_, err := enrolment.ReadGrant(path)
	return err
}

func TestAGrantIsReadAsItWasGiven(t *testing.T) {
	g, _ := grant(t)
	if err := readBack(t, g); err != nil {
		t.Fatal(err)
	}
}

func TestNobodyChangesAGrantOnItsWay(t *testing.T) {
	for name, change := range map[string]func(*enrolment.Grant){
		"a reader is added":    func(g *enrolment.Grant) { g.Readers.Network = append(g.Readers.Network, "vgreader1-thief") },
		"a reader is replaced": func(g *enrolment.Grant) { g.Readers.Network[0] = "vgreader1-thief" },
		"a leaf is added": func(g *enrolment.Grant) {
			g.Leaves = append(g.Leaves, enrolment.Leaf{Name: "x", URL: "tls://127.0.0.1:1"})
		},
		"it is for another":   func(g *enrolment.Grant) { g.Box = "f1/gw2" },
		"it has no signature": func(g *enrolment.Grant) { g.Signature = nil },
		"another authority":   func(g *enrolment.Grant) { other, _ := grant(t); g.CA = other.CA },
	} {
		t.Run(name, func(t *testing.T) {
			g, _ := grant(t)
			change(g)
			if err := readBack(t, g); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestAWrongFileIsCalledSo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.json")
	if err := os.WriteFile(path, []byte(`{"version":1,"box":"f1/gw1","data_key":"…"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := enrolment.ReadGrant(path); err == nil || !strings.Contains(err.Error(), "not a whole grant") {
		t.Errorf("a request in place of a grant: %v", err)
	}
}
