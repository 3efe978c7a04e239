package makers

import (
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/tpm/attestation"
)

func certificates(t *testing.T, data []byte) (all []*x509.Certificate) {
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return all
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatalf("certificate %d: %v", len(all), err)
		}
		all = append(all, c)
	}
}

func TestEveryRootIsPinnedOnce(t *testing.T) {
	known := Known()
	names := map[string]bool{}
	for _, m := range known.Makers {
		if names[m.Name] || m.Class != attestation.Hardware || len(m.IDs) == 0 {
			t.Errorf("the rows of %s do not stand together, or it is not named in certificates", m.Name)
		}
		names[m.Name] = true
	}
	for _, name := range []string{"Infineon", "STMicroelectronics", "Nuvoton", "AMD", "Intel"} {
		if !names[name] {
			t.Errorf("there is no root of %s", name)
		}
	}
	all := certificates(t, roots)
	for _, c := range all {
		if !c.IsCA {
			t.Errorf("%s is no authority", c.Subject)
		}
		vouching := 0
		for _, m := range known.Makers {
			if _, err := c.Verify(x509.VerifyOptions{Roots: m.Roots, CurrentTime: today, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
				vouching++
			}
		}
		if vouching != 1 {
			t.Errorf("%s is pinned for %d makers", c.Subject, vouching)
		}
	}
}

// An intermediate authority that leads to no pinned root would only be weight.
func TestEveryIntermediateLeadsToARoot(t *testing.T) {
	known := Known()
	for _, c := range certificates(t, intermediates) {
		ok, why := false, error(nil)
		for _, m := range known.Makers {
			_, err := c.Verify(x509.VerifyOptions{Roots: m.Roots, Intermediates: known.Intermediates, CurrentTime: today, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
			if ok = ok || err == nil; err != nil && m.Name == "STMicroelectronics" {
				why = err
			}
		}
		if !ok {
			t.Errorf("%s leads to no pinned root: %v", c.Subject, why)
		}
	}
}

// today is the day the certificates were collected: what the test holds does not change as they end.
var today = time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)

// What one caller adds to the makers is not seen by another.
func TestKnownIsTheCallersOwn(t *testing.T) {
	a, b := Known(), Known()
	name := a.Makers[0].Name
	a.Makers[0].Name = "another"
	a = Known()
	if b.Makers[0].Name != name || a.Makers[0].Name != name {
		t.Errorf("the makers that are known change to %s", a.Makers[0].Name)
	}
}
