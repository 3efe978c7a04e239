package facility

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/vitalgate/vitalgate/record/cosign"
	"github.com/vitalgate/vitalgate/record/enrolment"
)

func (d Dir) CosignerKey() string { return d.at("keys", "cosigner.key") } // made at the first run
func (d Dir) Witness() string     { return d.at("witness") }              // what this peer has cosigned; never to be put back

// Cosigner is what this peer cosigns with: its keys, which are made where there are none, and its card.
func (d Dir) Cosigner(c *Config) (*cosign.Secret, *cosign.Card, error) {
	b, err := readSecret(d.CosignerKey())
	if errors.Is(err, fs.ErrNotExist) {
		s, err := cosign.Generate(cosign.Name(c.Facility, c.Name))
		if err != nil {
			return nil, nil, err
		}
		b = []byte(s.Text())
		if err := put(d.CosignerKey(), 0o600, b); err != nil {
			return nil, nil, err
		}
	} else if err != nil {
		return nil, nil, err
	}
	s, err := cosign.ParseSecret(string(b))
	if err != nil {
		return nil, nil, fmt.Errorf("cannot use %s: %w", d.CosignerKey(), err)
	}
	if s.Name != cosign.Name(c.Facility, c.Name) {
		return nil, nil, fmt.Errorf("cannot use %s: it is the key of %s", d.CosignerKey(), s.Name)
	}
	key, chain, err := d.Voice()
	if err != nil {
		return nil, nil, err
	}
	card, err := cosign.NewCard(c.Facility, c.Name, s.Public, encode("CERTIFICATE", chain[0].Raw), key)
	return s, card, err
}

// Voice is what this peer vouches with: the key of its certificate, the certificate, and that of the authority.
func (d Dir) Voice() (crypto.Signer, []*x509.Certificate, error) {
	b, err := readSecret(d.Key())
	if err != nil {
		return nil, nil, err
	}
	key, err := parsePrivate(b)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot use %s: %w", d.Key(), err)
	}
	text, err := os.ReadFile(d.Certificate())
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read the peer's certificate: %w", err)
	}
	cert, err := enrolment.ParseCertificate(string(text))
	if err != nil {
		return nil, nil, fmt.Errorf("cannot use %s: %w", d.Certificate(), err)
	}
	authority, err := d.Authority()
	if err != nil {
		return nil, nil, err
	}
	return key, []*x509.Certificate{cert, authority}, nil
}

// Authority is the certificate of the facility's authority.
func (d Dir) Authority() (*x509.Certificate, error) {
	b, err := os.ReadFile(d.CA())
	if err != nil {
		return nil, fmt.Errorf("cannot read the facility's certificate: %w", err)
	}
	cert, err := enrolment.ParseCertificate(string(b))
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", d.CA(), err)
	}
	return cert, nil
}
