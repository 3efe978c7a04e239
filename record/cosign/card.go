package cosign

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/vitalgate/vitalgate/record"
)

// Card says which cosigning keys a peer has, signed with the key of its certificate, which the facility's authority signed.
// So nobody but that peer can speak with its name, and it with no other.
type Card struct {
	Facility    string   `json:"facility"`
	Peer        string   `json:"peer"`
	Keys        []string `json:"keys"`        // C2SP verifier keys
	Certificate string   `json:"certificate"` // PEM
	Signature   []byte   `json:"signature"`   // ECDSA with SHA-256, ASN.1 DER
}

// CertificateName is the subject of a peer's certificate.
func CertificateName(facility, peer string) string { return facility + " peer " + peer }

func (c *Card) digest() []byte {
	h := sha256.New()
	fmt.Fprintf(h, "vitalgate/card/v1\n%s\n%s\n", c.Facility, c.Peer)
	for _, k := range c.Keys {
		fmt.Fprintln(h, k)
	}
	return h.Sum(nil)
}

// NewCard makes the card of a peer.
func NewCard(facility, peer string, keys Public, certificate string, key crypto.Signer) (*Card, error) {
	c := &Card{Facility: facility, Peer: peer, Keys: keys.Keys(), Certificate: certificate}
	var err error
	if c.Signature, err = key.Sign(rand.Reader, c.digest(), crypto.SHA256); err != nil {
		return nil, fmt.Errorf("cannot sign the card of peer %s: %w", peer, err)
	}
	return c, nil
}

// Open checks a card against the certificate of the facility's authority and returns the keys, and the certificate that
// vouches for them. Whether the peer is still one of the facility is for the registry to say.
func (c *Card) Open(authority *x509.Certificate) (Public, *x509.Certificate, error) {
	bad := func(what string) (Public, *x509.Certificate, error) {
		return Public{}, nil, errors.New("cannot accept the card of a peer: " + what)
	}
	if !(record.BoxID{Facility: c.Facility, Name: c.Peer}).Valid() {
		return bad("its name is not one of a peer")
	}
	block, _ := pem.Decode([]byte(c.Certificate))
	if block == nil || block.Type != "CERTIFICATE" || string(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})) != c.Certificate {
		return bad("it does not hold one certificate in the one form of PEM") // a decoder overlooks unused bits and text around it
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return bad("its certificate cannot be read")
	}
	roots := x509.NewCertPool()
	roots.AddCert(authority)
	// A certificate is ended by the registry, not by the calendar; the time of its making is one at which it was good.
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: cert.NotBefore.Add(time.Second), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		return bad("its certificate is not of the facility's authority")
	}
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || cert.Subject.CommonName != CertificateName(c.Facility, c.Peer) {
		return bad("its certificate is of somebody else")
	}
	if !ecdsa.VerifyASN1(key, c.digest(), c.Signature) {
		return bad("it is not signed with the key of its certificate")
	}
	p, err := ParseKeys(c.Keys)
	if err != nil {
		return Public{}, nil, err
	}
	if p.Name != Name(c.Facility, c.Peer) {
		return bad("its keys are of another name")
	}
	return p, cert, nil
}
