// Package enrolment is the form of the two files that a box and a facility exchange once: the box's Request (its
// public keys) and the facility's Grant (whom to trust, where to publish, for whom to seal). Neither holds a secret, so
// they may travel by mail, USB stick or wire. That the request came from the box it names, who carries it vouches for; or
// the box proves it by its TPM, by a question and an answer between the two (package attestation).
package enrolment

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"

	"github.com/nats-io/nkeys"

	"github.com/vitalgate/vitalgate/record"
)

// Version of both files.
const Version = 1

// maxFile bounds what is read of either file, in bytes.
const maxFile = 1 << 20

// Request is what a box asks to be enrolled with.
type Request struct {
	Version    int    `json:"version"`
	Box        string `json:"box"`        // facility/name
	DataKey    string `json:"data_key"`   // PEM SubjectPublicKeyInfo, P-256: signs the checkpoints of the log
	TLSRequest string `json:"tls_csr"`    // PEM PKCS #10 request, signed by the key of the TLS client certificate
	NKey       string `json:"nkey"`       // public NATS user key, "U…"
	Protection string `json:"protection"` // hardware, emulated or software: what the box says holds its keys; a claim, the facility decides
	Software   string `json:"software"`   // version of the firmware that wrote it
	// TPM is what the box shows of its TPM (attestation.Presentation); absent where its keys are in a file. Whoever believes
	// it asks the box for proof first.
	TPM json.RawMessage `json:"tpm,omitempty"`
}

// Digest is SHA-256 of the request: what a question about it, and the answer, are bound to.
func (r *Request) Digest() ([]byte, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("cannot tell the request: %w", err)
	}
	sum := sha256.Sum256(append([]byte("vitalgate/request/v1\n"), b...))
	return sum[:], nil
}

// Grant is what the facility answers.
type Grant struct {
	Version        int     `json:"version"`
	Box            string  `json:"box"`
	CA             string  `json:"ca"`              // PEM certificate of the facility's authority
	TLSCertificate string  `json:"tls_certificate"` // PEM certificate for the key of the request's tls_csr
	Leaves         []Leaf  `json:"leaves"`          // NATS leaf nodes, in order of preference
	Readers        Readers `json:"readers"`
	Signature      []byte  `json:"signature"` // by the authority, ECDSA with SHA-256, ASN.1, over the grant without it: nobody adds a reader on the way
}

// signed is what the authority signs: the JSON form without a signature.
func (g Grant) signed() ([]byte, error) {
	g.Signature = nil
	b, err := json.Marshal(g)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(append([]byte("vitalgate/grant/v1\n"), b...))
	return sum[:], nil
}

// Sign puts the authority's signature on the grant. The key is that of the certificate in CA.
func (g *Grant) Sign(authority crypto.Signer) error {
	sum, err := g.signed()
	if err != nil {
		return err
	}
	g.Signature, err = authority.Sign(rand.Reader, sum, crypto.SHA256)
	return err
}

// Leaf is one NATS leaf node that takes the box's records.
type Leaf struct {
	Name string `json:"name"`
	URL  string `json:"url"` // tls://host:port
}

// Readers are the public keys to seal for, in the text form of package record. Where both sides are named, a reader
// needs a key of each.
type Readers struct {
	Network []string `json:"network"`
	Patient []string `json:"patient"`
}

// ReadRequest reads and checks a request file, the signature of its TLS request included.
func ReadRequest(path string) (*Request, error) {
	var r Request
	if err := Read(path, "enrolment request (vitalgate request)", &r); err != nil {
		return nil, err
	}
	if err := r.Check(); err != nil {
		return nil, fmt.Errorf("cannot use the enrolment request %s: %w", path, err)
	}
	return &r, nil
}

// Check says whether every part of the request is well formed.
func (r *Request) Check() error {
	if r.Version != Version {
		return fmt.Errorf("version is %d, this program knows %d", r.Version, Version)
	}
	if _, err := record.ParseBoxID(r.Box); err != nil {
		return fmt.Errorf("box: %w", err)
	}
	if _, err := ParseKey(r.DataKey); err != nil {
		return fmt.Errorf("data_key: %w", err)
	}
	if _, err := r.CertificateRequest(); err != nil {
		return err
	}
	if !nkeys.IsValidPublicUserKey(r.NKey) {
		return errors.New("nkey: is not a public NATS user key (U…)")
	}
	return nil
}

// CertificateRequest is the PKCS #10 request, its signature checked.
func (r *Request) CertificateRequest() (*x509.CertificateRequest, error) {
	b, err := decode(r.TLSRequest, "CERTIFICATE REQUEST")
	if err != nil {
		return nil, fmt.Errorf("tls_csr: %w", err)
	}
	csr, err := x509.ParseCertificateRequest(b)
	if err != nil {
		return nil, fmt.Errorf("tls_csr: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("tls_csr: %w", err)
	}
	return csr, nil
}

// ReadGrant reads and checks a grant file.
func ReadGrant(path string) (*Grant, error) {
	var g Grant
	if err := Read(path, "grant (vitalpeer box add)", &g); err != nil {
		return nil, err
	}
	if err := g.check(); err != nil {
		return nil, fmt.Errorf("cannot use the grant %s: %w", path, err)
	}
	return &g, nil
}

func (g *Grant) check() error {
	if g.Version != Version {
		return fmt.Errorf("version is %d, this program knows %d", g.Version, Version)
	}
	if _, err := record.ParseBoxID(g.Box); err != nil {
		return fmt.Errorf("box: %w", err)
	}
	ca, err := ParseCertificate(g.CA)
	if err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	own, err := ParseCertificate(g.TLSCertificate)
	if err != nil {
		return fmt.Errorf("tls_certificate: %w", err)
	}
	if err := own.CheckSignatureFrom(ca); err != nil {
		return fmt.Errorf("tls_certificate: it is not of the authority in ca: %w", err)
	}
	sum, err := g.signed()
	if err != nil {
		return err
	}
	if key, ok := ca.PublicKey.(*ecdsa.PublicKey); !ok || !ecdsa.VerifyASN1(key, sum, g.Signature) {
		return errors.New("signature: it is not the authority's; the grant was changed on its way, get it anew from the facility")
	}
	if len(g.Leaves) == 0 {
		return errors.New("leaves: there is none, so the box could publish nowhere")
	}
	seen := map[string]bool{}
	for _, l := range g.Leaves {
		u, err := url.Parse(l.URL)
		if err != nil || u.Scheme != "tls" || u.Port() == "" || l.Name == "" || seen[l.Name] {
			return fmt.Errorf("leaves: each needs a name of its own and a url tls://host:port, found %q %q", l.Name, l.URL)
		}
		seen[l.Name] = true
	}
	if len(g.Readers.Network) == 0 {
		return errors.New("readers: there is no network reader, so nobody could read the records")
	}
	return nil
}

// Write stores v (a Request, a Grant, or what goes between) at path, whole or not at all, and does not replace an existing file.
func Write(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("cannot write: %w; remove the old file or name another", err)
	}
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(path)
	}
	return err
}

// ParseKey reads a PEM P-256 public key.
func ParseKey(s string) (*ecdsa.PublicKey, error) {
	b, err := decode(s, "PUBLIC KEY")
	if err != nil {
		return nil, err
	}
	k, err := x509.ParsePKIXPublicKey(b)
	if err != nil {
		return nil, err
	}
	p, ok := k.(*ecdsa.PublicKey)
	if !ok || p.Curve != elliptic.P256() {
		return nil, errors.New("is not an ECDSA P-256 key")
	}
	return p, nil
}

// FormatKey is the PEM form of a public key.
func FormatKey(k *ecdsa.PublicKey) (string, error) {
	b, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: b})), nil
}

// ParseCertificate reads one PEM certificate.
func ParseCertificate(s string) (*x509.Certificate, error) {
	b, err := decode(s, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(b)
}

func decode(s, kind string) ([]byte, error) {
	b, rest := pem.Decode([]byte(s))
	if b == nil || b.Type != kind || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("is not one PEM block %q", kind)
	}
	return b.Bytes, nil
}

// Read reads a file of an enrolment that should be a `what`, strictly.
func Read(path, what string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot read the %s: %w", what, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", path, err)
	}
	if len(b) > maxFile {
		return fmt.Errorf("cannot use %s: it is larger than %d bytes", path, maxFile)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("cannot use %s: it is not a whole %s: %w", path, what, err)
	}
	if d.More() {
		return fmt.Errorf("cannot use %s: text after the JSON document", path)
	}
	return nil
}
