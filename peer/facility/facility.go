// Package facility makes and keeps what a peer is: the facility's certificate authority, this peer's certificate and
// keys, the reader key, the configuration file, and the files by which boxes and ward peers are let in. Nothing that
// exists is ever overwritten; a secret that others can read is refused.
package facility

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/vitalgate/vitalgate/peer/registry"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/cosign"
	"github.com/vitalgate/vitalgate/record/durable"
	"github.com/vitalgate/vitalgate/record/enrolment"
)

// Dir is a peer's data folder. Every file in it has its name here.
type Dir string

func (d Dir) at(name ...string) string {
	return filepath.Join(append([]string{string(d)}, name...)...)
}

func (d Dir) Config() string           { return d.at("peer.toml") }
func (d Dir) CA() string               { return d.at("keys", "ca.pem") }
func (d Dir) CAKey() string            { return d.at("keys", "ca.key") } // hub only
func (d Dir) Certificate() string      { return d.at("keys", "peer.pem") }
func (d Dir) Key() string              { return d.at("keys", "peer.key") }
func (d Dir) Seed() string             { return d.at("keys", "peer.nkey") }
func (d Dir) ReaderKey() string        { return d.at("keys", "reader.key") } // absent where this peer may not read
func (d Dir) Reader() string           { return d.at("keys", "reader.pub") }
func (d Dir) AdministratorKey() string { return d.at("keys", "administrator.key") } // only where one administrator decides alone
func (d Dir) Registry() registry.Registry {
	return registry.Registry{Log: d.at("registry", "log"), Pin: d.at("keys", "registry.genesis"), Head: d.at("registry.head"), Evidence: d.at("evidence", "_registry")}
}
func (d Dir) Store() string      { return d.at("store") }
func (d Dir) Cursors() string    { return d.at("cursors") }
func (d Dir) Quarantine() string { return d.at("quarantine") }
func (d Dir) Evidence() string   { return d.at("evidence") }
func (d Dir) Starts() string     { return d.at("starts") }
func (d Dir) Nats() string       { return d.at("streams") }
func (d Dir) Trust() string      { return d.at("trust") }     // whose word for a TPM is believed, beside the makers of chips
func (d Dir) Questions() string  { return d.at("questions") } // to boxes that want to be enrolled
func (d Dir) Lock() string       { return d.at("lock") }
func (d Dir) Socket() string     { return d.at(SocketName) } // for commands beside a running peer

// SocketName is the file name of the running peer's socket.
const SocketName = "peer.sock"

// authorityYears and certificateYears are long because a box must never stop delivering by calendar; what ends a
// certificate is the registry.
const (
	authorityYears   = 30
	certificateYears = 15
)

// Init makes the data folder of a hub: a new facility with its authority, and with a registry that one administrator
// decides alone, whose key is in the folder.
func Init(d Dir, c Config, hosts []string) error { return InitWith(d, c, hosts, nil) }

// InitWith is Init with a registry that several administrators have begun: its genesis, signed by them.
func InitWith(d Dir, c Config, hosts []string, genesis []byte) error {
	return create(d, func(d Dir) error {
		if err := c.check(); err != nil {
			return err
		}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		t := template("vitalgate facility "+c.Facility, authorityYears)
		t.IsCA, t.BasicConstraintsValid, t.MaxPathLenZero = true, true, true
		t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
		der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
		if err != nil {
			return err
		}
		ca := authority{key: key, pem: encode("CERTIFICATE", der)}
		if ca.cert, err = x509.ParseCertificate(der); err != nil {
			return err
		}
		reader, err := record.GenerateReaderKey()
		if err != nil {
			return err
		}
		m, err := ca.member(c.Facility, c.Name, append(hosts, c.hosts()...))
		if err != nil {
			return err
		}
		keyPEM, err := encodeKey(key)
		if err != nil {
			return err
		}
		if err := m.write(d); err != nil {
			return err
		}
		return errors.Join(
			put(d.CAKey(), 0o600, keyPEM),
			put(d.Reader(), 0o644, []byte(reader.Public().String()+"\n")),
			put(d.ReaderKey(), 0o600, []byte(reader.Text()+"\n")),
			put(d.Config(), 0o644, c.text()),
			d.found(&c, genesis),
		)
	})
}

// create fills a data folder beside its final place and moves it there, so that it exists whole or not at all.
func create(d Dir, fill func(Dir) error) error {
	if entries, err := os.ReadDir(string(d)); err == nil && len(entries) > 0 {
		if _, err := os.Stat(d.Config()); err == nil {
			return fmt.Errorf("cannot make a peer in %s: there is one already (peer.toml); name another folder with --data", d)
		}
		return fmt.Errorf("cannot make a peer in %s: the folder is not empty; name another with --data", d)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot make a peer: %w", err)
	}
	parent := filepath.Dir(filepath.Clean(string(d)))
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return fmt.Errorf("cannot make a peer: %w", err)
	}
	tmp, err := os.MkdirTemp(parent, ".vitalpeer-*") // mode 0700
	if err != nil {
		return fmt.Errorf("cannot make a peer: %w", err)
	}
	defer os.RemoveAll(tmp)
	for _, sub := range []string{"keys", "registry"} {
		if err := os.Mkdir(filepath.Join(tmp, sub), 0o700); err != nil {
			return err
		}
	}
	if err := fill(Dir(tmp)); err != nil {
		return err
	}
	if err := os.Rename(tmp, string(d)); err != nil {
		return fmt.Errorf("cannot make a peer in %s: %w", d, err)
	}
	return durable.SyncDir(parent)
}

// authority is the facility's certificate authority.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func (d Dir) authority() (*authority, error) {
	b, err := readSecret(d.CAKey())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot sign: the facility's authority is not in %s, because this peer joined as a ward; do it at the hub: what is decided there comes here by itself", d)
	}
	if err != nil {
		return nil, err
	}
	k, err := parsePrivate(b)
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", d.CAKey(), err)
	}
	text, err := os.ReadFile(d.CA())
	if err != nil {
		return nil, fmt.Errorf("cannot read the facility's certificate: %w", err)
	}
	cert, err := enrolment.ParseCertificate(string(text))
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", d.CA(), err)
	}
	return &authority{cert: cert, key: k, pem: string(text)}, nil
}

func (a *authority) sign(t *x509.Certificate, pub any) (string, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, pub, a.key)
	if err != nil {
		return "", fmt.Errorf("cannot sign the certificate: %w", err)
	}
	return encode("CERTIFICATE", der), nil
}

// member is what makes a peer part of a facility.
type member struct {
	ca, cert, key, seed, nkey string
}

// member makes the keys and certificate of a peer. It is a server to boxes and wards and a client to its hub.
func (a *authority) member(facility, name string, hosts []string) (*member, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := template(memberName(facility, name), certificateYears)
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	seen := map[string]bool{}
	for _, h := range append(hosts, "127.0.0.1", "::1", "localhost") {
		ip := net.ParseIP(h)
		switch {
		case h == "" || seen[h] || ip != nil && ip.IsUnspecified():
		case ip != nil:
			t.IPAddresses = append(t.IPAddresses, ip)
		default:
			t.DNSNames = append(t.DNSNames, h)
		}
		seen[h] = true
	}
	m := &member{ca: a.pem}
	if m.cert, err = a.sign(t, key.Public()); err != nil {
		return nil, err
	}
	b, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	m.key = string(b)
	user, err := nkeys.CreateUser()
	if err != nil {
		return nil, err
	}
	seed, err := user.Seed()
	if err != nil {
		return nil, err
	}
	m.seed = string(seed)
	m.nkey, err = user.PublicKey()
	return m, err
}

func memberName(facility, name string) string { return cosign.CertificateName(facility, name) }

func (m *member) write(d Dir) error {
	return errors.Join(
		put(d.CA(), 0o644, []byte(m.ca)),
		put(d.Certificate(), 0o644, []byte(m.cert)),
		put(d.Key(), 0o600, []byte(m.key)),
		put(d.Seed(), 0o600, []byte(m.seed+"\n")),
	)
}

// Identity is what the peer shows to the network.
type Identity struct {
	Seed string // nkey user seed
	Pin  string // of its certificate
}

// Identity reads the peer's keys. It refuses them where others could have read them too, and where they are of another
// peer than the configuration says.
func (d Dir) Identity(c *Config) (Identity, error) {
	if _, err := readSecret(d.Key()); err != nil {
		return Identity{}, err
	}
	seed, err := readSecret(d.Seed())
	if err != nil {
		return Identity{}, err
	}
	b, err := os.ReadFile(d.Certificate())
	if err != nil {
		return Identity{}, fmt.Errorf("cannot read the peer's certificate: %w", err)
	}
	cert, err := enrolment.ParseCertificate(string(b))
	if err != nil {
		return Identity{}, fmt.Errorf("cannot use %s: %w", d.Certificate(), err)
	}
	if want := memberName(c.Facility, c.Name); cert.Subject.CommonName != want {
		return Identity{}, fmt.Errorf("cannot use the data folder %s: its keys are of %q, its peer.toml says %q; name the right folder with --data, or mend peer.toml", d, cert.Subject.CommonName, want)
	}
	return Identity{Seed: string(bytes.TrimSpace(seed)), Pin: pin(cert)}, nil
}

// Pin is the hex SHA-256 of the SubjectPublicKeyInfo of a PEM certificate, the form that the NATS server pins.
func Pin(certificate string) (string, error) {
	c, err := enrolment.ParseCertificate(certificate)
	if err != nil {
		return "", err
	}
	return pin(c), nil
}

func pin(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

func template(name string, years int) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	return &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)),
		Subject:      pkix.Name{CommonName: name, Organization: []string{"vitalgate"}},
		NotBefore:    time.Now().Add(-24 * time.Hour), // a box's clock may be behind
		NotAfter:     time.Now().AddDate(years, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
}

func encode(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func encodeKey(k *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	return []byte(encode("PRIVATE KEY", der)), err
}

func parsePrivate(b []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("is not one PEM block \"PRIVATE KEY\"")
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	e, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("is not an ECDSA key")
	}
	return e, nil
}

// put makes a file that did not exist, durably.
func put(path string, mode fs.FileMode, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("cannot write %s: it exists; remove it or name another", path)
	}
	if err != nil {
		return fmt.Errorf("cannot write: %w", err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(path)
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}

// readSecret reads a file that only its owner may read.
func readSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the key file: %w", err)
	}
	defer f.Close()
	i, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot read the key file: %w", err)
	}
	if i.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("cannot use the key file %s: others may read it (mode %04o), so it may be known; if it is not, set it right with: chmod 600 %s", path, i.Mode().Perm(), path)
	}
	b, err := io.ReadAll(io.LimitReader(f, 1<<26))
	if err != nil {
		return nil, fmt.Errorf("cannot read the key file: %w", err)
	}
	return b, nil
}
