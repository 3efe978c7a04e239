package enrol

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nkeys"
)

// TestAClockThatIsBehind: a box whose clock has stopped (here it shows the year 2000) believes its leaf node all the same, and one that
// is not the facility's it does not.
func TestAClockThatIsBehind(t *testing.T) {
	made := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	issue := func() (tls.Certificate, *x509.Certificate) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"ward1"}, IsCA: true, BasicConstraintsValid: true,
			NotBefore: made.Add(-24 * time.Hour), NotAfter: made.AddDate(10, 0, 0)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, leaf
	}
	ward, root := issue()
	stranger, _ := issue()
	pool := x509.NewCertPool()
	pool.AddCert(root)
	shake := func(server tls.Certificate, at func() time.Time) error {
		box, leaf := net.Pipe()
		defer box.Close()
		go func() {
			defer leaf.Close()
			tls.Server(leaf, &tls.Config{Certificates: []tls.Certificate{server}}).Handshake()
		}()
		return tls.Client(box, &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: "ward1", Time: at}).Handshake()
	}
	synctest.Test(t, func(t *testing.T) {
		if err := shake(ward, nil); err == nil {
			t.Error("the certificate is not younger than the clock: the test shows nothing")
		}
		if err := shake(ward, clock(root)); err != nil {
			t.Errorf("the facility's leaf node is not believed: %v", err)
		}
		if err := shake(stranger, clock(root)); err == nil {
			t.Error("a stranger is believed")
		}
		time.Sleep(time.Until(made.AddDate(11, 0, 0))) // a clock that is right is asked
		if err := shake(ward, clock(root)); err == nil {
			t.Error("a certificate that has ended is believed")
		}
	})
}

// A box of before, which had one seed and no note of its chip, goes on with that seed though its disk takes no note, and makes it when there
// is room. A box without a seed is told.
func TestANoteThatCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	chip := func() crypto.PublicKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key.Public()
	}
	first, note := filepath.Join(dir, seedFile), filepath.Join(dir, seedFile+".of")
	obstacle := filepath.Join(note+".new", "x")
	if err := os.MkdirAll(obstacle, 0o700); err != nil {
		t.Fatal(err)
	}
	old := chip()
	if _, err := userKey(dir, old); err == nil {
		t.Fatal("a new box has a user key and no note of its chip")
	}
	kp, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := kp.Seed()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(first, seed, 0o600); err != nil {
		t.Fatal(err)
	}
	is := func(of crypto.PublicKey, same bool) {
		t.Helper()
		got, err := userKey(dir, of)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := got.Seed(); err != nil || bytes.Equal(s, seed) != same {
			t.Errorf("the seed is that of before: %v, want %v (%v)", !same, same, err)
		}
	}
	is(old, true)
	if _, err := os.Stat(note); err == nil {
		t.Fatal("the note is there: the test shows nothing")
	}
	if err := os.RemoveAll(filepath.Dir(obstacle)); err != nil {
		t.Fatal(err)
	}
	is(old, true)
	is(chip(), false)
	is(old, true)
}
