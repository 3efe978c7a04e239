package enrolment

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vitalgate/vitalgate/record"
)

// Only what the authority of the facility has signed is a set of readers: nobody adds himself, or takes somebody out.
func TestReaderSet(t *testing.T) {
	authority := func() (*ecdsa.PrivateKey, *x509.Certificate) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		tpl := &x509.Certificate{SerialNumber: big.NewInt(1)}
		der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, k.Public(), k)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return k, c
	}
	key, cert := authority()
	_, other := authority()
	reader := func() string {
		s, err := record.GenerateReaderKey()
		if err != nil {
			t.Fatal(err)
		}
		return s.Public().String()
	}
	path := filepath.Join(t.TempDir(), "set")
	set := ReaderSet{Version: Version, Facility: "f1", Number: 2, Readers: Readers{Network: []string{reader()}, Patient: []string{reader()}}}
	if err := set.Sign(key); err != nil {
		t.Fatal(err)
	}
	try := func(s ReaderSet, facility string, ca *x509.Certificate) error {
		if err := s.Replace(path); err != nil {
			t.Fatal(err)
		}
		_, err := ReadReaderSet(path, facility, ca)
		return err
	}
	if err := try(set, "f1", cert); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		bend  func(*ReaderSet)
		again bool // signed by the authority after that
		want  string
	}{
		"a reader more":      {func(s *ReaderSet) { s.Readers.Network = append(s.Readers.Network[:1:1], reader()) }, false, "signature"},
		"one side less":      {func(s *ReaderSet) { s.Readers.Patient = []string{} }, false, "signature"},
		"another number":     {func(s *ReaderSet) { s.Number++ }, false, "signature"},
		"another mode":       {func(s *ReaderSet) { s.PerRecord = true }, false, "signature"},
		"not signed":         {func(s *ReaderSet) { s.Signature = nil }, false, "signature"},
		"another version":    {func(s *ReaderSet) { s.Version++ }, true, "version"},
		"another facility":   {func(s *ReaderSet) { s.Facility = "f2" }, true, "facility"},
		"no number":          {func(s *ReaderSet) { s.Number = 0 }, true, "number"},
		"no reader":          {func(s *ReaderSet) { s.Readers.Network = nil }, true, "no network reader"},
		"a key that is none": {func(s *ReaderSet) { s.Readers.Patient = []string{"vgreader1AAAA"} }, true, "patient side"},
	} {
		s := set
		c.bend(&s)
		if c.again {
			if err := s.Sign(key); err != nil {
				t.Fatal(err)
			}
		}
		if err := try(s, "f1", cert); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if err := try(set, "f1", other); err == nil || !strings.Contains(err.Error(), "signature") {
		t.Errorf("of another authority: %v", err)
	}
	if err := os.WriteFile(path, []byte("{}{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadReaderSet(path, "f1", cert); err == nil {
		t.Error("a file that is no set: taken")
	}
}
