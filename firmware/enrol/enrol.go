// Package enrol is the box's side of enrolment: it writes the request from the keys in the TPM, and turns the
// facility's grant into what the link needs to connect. The private keys of both the log and the TLS certificate stay in
// the TPM; the NATS user key is a file, which alone opens nothing.
package enrol

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/vitalgate/vitalgate/firmware/version"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/durable"
	"github.com/vitalgate/vitalgate/record/enrolment"
	"github.com/vitalgate/vitalgate/tpm"
	"github.com/vitalgate/vitalgate/tpm/attestation"
)

// Identity is what package tpm offers of the box's keys.
type Identity interface {
	Data() crypto.Signer
	TLS() crypto.Signer
	Class() tpm.Class
	Attestor() (*tpm.Attestor, error)
}

const (
	seedFile    = "nats.nk"
	requestFile = "request.sha256" // the digest of the last request: questions about another one are not answered
)

// Request makes the enrolment request of box from its keys, with what there is to show of its TPM. It makes the NATS user
// key in folder dir if there is none.
func Request(ctx context.Context, box record.BoxID, id Identity, dir string) (*enrolment.Request, error) {
	data, ok := id.Data().Public().(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("cannot request enrolment: the data key is not an ECDSA key")
	}
	dataPEM, err := enrolment.FormatKey(data)
	if err != nil {
		return nil, fmt.Errorf("cannot request enrolment: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: box.String()}, SignatureAlgorithm: x509.ECDSAWithSHA256,
	}, id.TLS())
	if err != nil {
		return nil, fmt.Errorf("cannot request enrolment: the TLS key does not sign: %w", err)
	}
	user, err := userKey(dir, id.TLS().Public())
	if err != nil {
		return nil, err
	}
	public, err := user.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("cannot request enrolment: %w", err)
	}
	r := &enrolment.Request{
		Version: enrolment.Version, Box: box.String(), DataKey: dataPEM,
		TLSRequest: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})),
		NKey:       public, Protection: string(id.Class()), Software: version.String(),
	}
	if r.TPM, err = present(ctx, id); err != nil {
		return nil, fmt.Errorf("cannot request enrolment: %w", err)
	}
	digest, err := r.Digest()
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, requestFile), []byte(hex.EncodeToString(digest)), 0o600); err != nil {
		return nil, fmt.Errorf("cannot keep which enrolment was requested: %w; check that the data folder is writable", err)
	}
	return r, nil
}

// IsLast says whether r is the last request that was made in folder dir. A grant for one from before a reset is for keys that are gone.
func IsLast(r *enrolment.Request, dir string) (bool, error) {
	digest, err := r.Digest()
	if err != nil {
		return false, err
	}
	last, err := os.ReadFile(filepath.Join(dir, requestFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("cannot read which enrolment was requested: %w", err)
	}
	return string(last) == hex.EncodeToString(digest), nil
}

// present is what the box shows of its TPM; nothing where it has none.
func present(ctx context.Context, id Identity) (json.RawMessage, error) {
	a, err := id.Attestor()
	if errors.Is(err, tpm.ErrNoTPM) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p, err := a.Present(ctx)
	if err != nil {
		return nil, err
	}
	return json.Marshal(p)
}

// Answer proves to the facility, by the TPM, what the request has said. A question about another request than the last
// one of this box is refused: it could bind this box's keys to what somebody else asks for.
func Answer(ctx context.Context, q attestation.Question, box record.BoxID, id Identity, dir string) (*attestation.Answer, error) {
	if q.Version != attestation.QuestionVersion {
		return nil, fmt.Errorf("cannot answer the question: its version is %d, this program knows %d", q.Version, attestation.QuestionVersion)
	}
	if q.Box != box.String() {
		return nil, fmt.Errorf("cannot answer the question: it is for box %s, this is %s", q.Box, box)
	}
	asked, err := os.ReadFile(filepath.Join(dir, requestFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot read which enrolment was requested: %w", err)
	}
	if string(asked) != hex.EncodeToString(q.Request) {
		return nil, errors.New("cannot answer the question: it is about another request than the last one of this box; make one (vitalgate request) and have it asked about")
	}
	a, err := id.Attestor()
	if err != nil {
		return nil, fmt.Errorf("cannot answer the question: %w; the facility can enrol such a box on trust only (vitalpeer box add)", err)
	}
	return a.Answer(ctx, q)
}

// seedPath is where the seed of the NATS user key is that goes with a TLS key. A box with a new chip has another one, because no key comes
// back in the registry, and still has the one before, should the old chip be put back. Which chip the first one went with stands beside it.
func seedPath(dir string, of crypto.PublicKey) (string, error) {
	spki, err := x509.MarshalPKIXPublicKey(of)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(spki)
	first, name := filepath.Join(dir, seedFile), hex.EncodeToString(sum[:])
	switch b, err := os.ReadFile(first + ".of"); {
	case errors.Is(err, fs.ErrNotExist):
		if err := durable.WriteFile(first+".of", []byte(name)); err != nil {
			if _, there := os.Stat(first); there == nil {
				return first, nil // a box whose disk is full must drain it; it is noted at a later start
			}
			return "", fmt.Errorf("cannot keep which chip the NATS user key goes with: %w; check that the data folder is writable", err)
		}
		return first, nil
	case err != nil:
		return "", fmt.Errorf("cannot read which chip the NATS user key goes with: %w", err)
	case string(b) == name:
		return first, nil
	}
	return first + "-" + name[:16], nil
}

// userKey reads the NATS user key that goes with a TLS key, or makes it.
func userKey(dir string, of crypto.PublicKey) (nkeys.KeyPair, error) {
	path, err := seedPath(dir, of)
	if err != nil {
		return nil, err
	}
	seed, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		kp, err := nkeys.CreateUser()
		if err != nil {
			return nil, err
		}
		if seed, err = kp.Seed(); err != nil {
			return nil, err
		}
		// The facility is told its public half: an empty file after a power cut would be the end of the enrolment.
		if err := durable.WriteFile(path, seed); err != nil {
			return nil, fmt.Errorf("cannot keep the NATS user key: %w; check that the data folder is writable", err)
		}
		return kp, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the NATS user key: %w", err)
	}
	kp, err := nkeys.FromSeed(bytes.TrimSpace(seed))
	if err != nil {
		return nil, fmt.Errorf("cannot use the NATS user key %s: %w; remove it and enrol the box anew", path, err)
	}
	return kp, nil
}

// Network is what the link connects with.
type Network struct {
	Leaves  []enrolment.Leaf
	TLS     *tls.Config
	NKey    string                       // public
	Sign    func([]byte) ([]byte, error) // answers the server's nonce
	Readers enrolment.Readers
}

// clock is the time at which certificates are judged. A clock that stands before the box was let in is wrong, as that of a board
// whose battery is empty, which begins in 1970: it must not keep readings from the network until somebody sets it.
func clock(own *x509.Certificate) func() time.Time {
	letIn := own.NotBefore.Add(24 * time.Hour) // the facility dates certificates back by a day
	return func() time.Time {
		if now := time.Now(); now.After(letIn) {
			return now
		}
		return letIn
	}
}

// Open reads the grant and checks that it is for this box and these keys.
func Open(grantPath string, box record.BoxID, id Identity, dir string) (*Network, error) {
	g, err := enrolment.ReadGrant(grantPath)
	if err != nil {
		return nil, err
	}
	if g.Box != box.String() {
		return nil, fmt.Errorf("cannot use the grant %s: it is for box %s, this is %s", grantPath, g.Box, box)
	}
	ca, err := enrolment.ParseCertificate(g.CA)
	if err != nil {
		return nil, err
	}
	own, err := enrolment.ParseCertificate(g.TLSCertificate)
	if err != nil {
		return nil, err
	}
	if k, ok := id.TLS().Public().(*ecdsa.PublicKey); !ok || !k.Equal(own.PublicKey) {
		return nil, fmt.Errorf("cannot use the grant %s: its certificate is for another TLS key than this TPM's; request enrolment again", grantPath)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	user, err := userKey(dir, id.TLS().Public())
	if err != nil {
		return nil, err
	}
	public, err := user.PublicKey()
	if err != nil {
		return nil, err
	}
	return &Network{
		Leaves: g.Leaves,
		TLS: &tls.Config{
			MinVersion: tls.VersionTLS13, RootCAs: pool, Time: clock(own),
			Certificates: []tls.Certificate{{Certificate: [][]byte{own.Raw}, PrivateKey: id.TLS(), Leaf: own}},
		},
		NKey: public, Sign: user.Sign, Readers: g.Readers,
	}, nil
}
