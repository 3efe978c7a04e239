package facility

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nkeys"

	"github.com/vitalgate/vitalgate/peer/registry"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/enrolment"
)

// Enrol makes the decision to register a box, from its request, and its grant. Leaves are the NATS leaf nodes for the box in
// order of preference; without any, those of the invited wards that told where boxes reach them, then this peer.
func Enrol(d Dir, c *Config, q *enrolment.Request, kinds []record.Kind, leaves []enrolment.Leaf) (*registry.Enrol, *enrolment.Grant, error) {
	ca, err := d.authority()
	if err != nil {
		return nil, nil, err
	}
	id, err := record.ParseBoxID(q.Box)
	if err != nil {
		return nil, nil, err
	}
	if id.Facility != c.Facility {
		return nil, nil, fmt.Errorf("cannot enrol box %s: this is facility %s; the box must be configured for it, or be enrolled at its own facility", id, c.Facility)
	}
	readers, _, err := d.readers(c, ca)
	if err != nil {
		return nil, nil, err
	}
	if len(leaves) == 0 {
		s, err := d.Registry().Load()
		if err != nil {
			return nil, nil, err
		}
		for _, p := range s.Peers {
			if p.Boxes != "" {
				leaves = append(leaves, enrolment.Leaf{Name: p.Name, URL: p.Boxes})
			}
		}
		if u := c.BoxURL(); u != "" {
			leaves = append(leaves, enrolment.Leaf{Name: c.Name, URL: u})
		}
	}
	if len(leaves) == 0 {
		return nil, nil, errors.New("cannot enrol a box that could publish nowhere: set boxes.listen in peer.toml, or name leaf nodes with --leaf NAME=tls://HOST:PORT")
	}
	csr, err := q.CertificateRequest()
	if err != nil {
		return nil, nil, err
	}
	t := template("vitalgate box "+id.String(), certificateYears)
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	cert, err := ca.sign(t, csr.PublicKey)
	if err != nil {
		return nil, nil, err
	}
	p, err := Pin(cert)
	if err != nil {
		return nil, nil, err
	}
	if len(kinds) == 0 {
		kinds = registry.AllKinds
	}
	r := &registry.Enrol{Box: q.Box, DataKey: q.DataKey, TLSKey: p, NKey: q.NKey, Claim: q.Protection, Software: q.Software, Kinds: kinds}
	g := &enrolment.Grant{Version: enrolment.Version, Box: q.Box, CA: ca.pem, TLSCertificate: cert, Leaves: leaves, Readers: readers}
	if err := g.Sign(ca.key); err != nil {
		return nil, nil, fmt.Errorf("cannot sign the grant: %w", err)
	}
	return r, g, nil
}

// Invitation lets one ward peer into the facility. It holds secrets: mode 0600, and gone once it has been used.
type Invitation struct {
	Version      int      `json:"version"`
	Facility     string   `json:"facility"`
	Name         string   `json:"name"`
	CA           string   `json:"ca"`                   // PEM
	Certificate  string   `json:"certificate"`          // PEM
	Key          string   `json:"key"`                  // PEM PKCS #8
	Seed         string   `json:"seed"`                 // nkey user seed
	Hubs         []string `json:"hubs"`                 // tls://host:port
	Genesis      string   `json:"genesis"`              // hash of the first entry of the facility's registry
	Registry     string   `json:"registry"`             // the log as it is now; the rest comes from other peers
	Boxes        string   `json:"boxes,omitempty"`      // tls://host:port, where boxes are told that they reach this peer
	Reader       string   `json:"reader"`               // public
	ReaderSecret string   `json:"reader_key,omitempty"` // only where this peer may read

	Rotated map[uint64]string `json:"rotated_reader_keys,omitempty"` // those of the reader sets, by number; only where this peer may read
}

// Invite makes an invitation and the decision to let its keys in. Boxes is where boxes will reach the ward, host:port, or "".
func Invite(d Dir, c *Config, name, boxes string, hosts []string, mayRead bool) (*Invitation, *registry.AddPeer, error) {
	ca, err := d.authority()
	if err != nil {
		return nil, nil, err
	}
	if c.PeerURL() == "" {
		return nil, nil, errors.New("cannot invite: this peer has no address for ward peers; set peers.listen in peer.toml")
	}
	if name == c.Name {
		return nil, nil, fmt.Errorf("cannot invite %q: that is the name of this peer", name)
	}
	if boxes != "" {
		boxes = "tls://" + strings.TrimPrefix(boxes, "tls://")
		u, err := url.Parse(boxes)
		if err != nil || !validURL(boxes) {
			return nil, nil, fmt.Errorf("cannot invite: --boxes %q is not host:port", boxes)
		}
		hosts = append(hosts, u.Hostname())
	}
	reader, err := os.ReadFile(d.Reader())
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read the facility's reader key: %w", err)
	}
	m, err := ca.member(c.Facility, name, hosts)
	if err != nil {
		return nil, nil, err
	}
	p, err := Pin(m.cert)
	if err != nil {
		return nil, nil, err
	}
	genesis, err := os.ReadFile(d.Registry().Pin)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read which registry the facility has: %w", err)
	}
	log, err := os.ReadFile(d.Registry().Log)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read the registry: %w", err)
	}
	inv := &Invitation{Version: 1, Genesis: string(bytes.TrimSpace(genesis)), Registry: string(log), Facility: c.Facility, Name: name, CA: m.ca, Certificate: m.cert, Key: m.key, Seed: m.seed,
		Hubs: []string{c.PeerURL()}, Boxes: boxes, Reader: string(bytes.TrimSpace(reader))}
	if mayRead {
		b, err := readSecret(d.ReaderKey())
		if err != nil {
			return nil, nil, fmt.Errorf("cannot hand on the reader key: %w", err)
		}
		inv.ReaderSecret = string(bytes.TrimSpace(b))
		_, last, err := d.readers(c, ca)
		if err != nil {
			return nil, nil, err
		}
		for set := uint64(1); set <= last; set++ { // all of them: records of before are read too
			b, err := readSecret(d.rotatedKey(set))
			if err != nil {
				return nil, nil, fmt.Errorf("cannot hand on the reader key of set %d: %w", set, err)
			}
			if inv.Rotated == nil {
				inv.Rotated = map[uint64]string{}
			}
			inv.Rotated[set] = string(bytes.TrimSpace(b))
		}
	}
	return inv, &registry.AddPeer{Name: name, NKey: m.nkey, TLSKey: p, Boxes: boxes}, nil
}

// Write stores the invitation at path, readable by its owner only, and replaces nothing.
func (i *Invitation) Write(path string) error {
	b, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return err
	}
	return put(path, 0o600, append(b, '\n'))
}

// LoopbackBoxes is where boxes connect to a peer of which nobody has said more: from its own machine only.
const LoopbackBoxes = "127.0.0.1:4222"

// listenBoxes is where this peer listens for boxes. What was asked for must be where boxes are told to go, or they would knock at a
// port that nobody opens.
func (i *Invitation) listenBoxes(asked string) (string, error) {
	if i.Boxes == "" {
		return cmp.Or(asked, LoopbackBoxes), nil
	}
	told, err := url.Parse(i.Boxes)
	if err != nil {
		return "", fmt.Errorf("where boxes reach this peer: %w", err)
	}
	ip := net.ParseIP(told.Hostname())
	if asked == "" && ip == nil { // a name, which may be of several addresses
		return net.JoinHostPort("0.0.0.0", told.Port()), nil
	}
	if asked == "" {
		return told.Host, nil
	}
	host, port, err := net.SplitHostPort(asked)
	if err != nil {
		return "", fmt.Errorf("--listen-boxes %q is not host:port", asked)
	}
	own := net.ParseIP(host)
	if port != told.Port() || ip != nil && own != nil && !own.IsUnspecified() && !own.Equal(ip) {
		return "", fmt.Errorf("boxes are told to go to %s, and would find nobody at --listen-boxes %s; leave it out, or have this peer invited with --boxes as they reach it "+
			"(where something between them changes the port, join without it and then set boxes.listen in peer.toml)", told.Host, asked)
	}
	return asked, nil
}

// Join makes the data folder of a ward peer from an invitation. Listen addresses come from c; where it names none for boxes, it is the
// one that the invitation names.
func Join(d Dir, invitation string, c Config) (*Config, error) {
	b, err := readSecret(invitation)
	if err != nil {
		return nil, err
	}
	var i Invitation
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&i); err != nil {
		return nil, fmt.Errorf("cannot use the invitation %s: %w", invitation, err)
	}
	if i.Version != 1 {
		return nil, fmt.Errorf("cannot use the invitation %s: version is %d, this program knows 1", invitation, i.Version)
	}
	if _, err := Pin(i.Certificate); err != nil {
		return nil, fmt.Errorf("cannot use the invitation %s: certificate: %w", invitation, err)
	}
	if _, err := nkeys.FromSeed([]byte(i.Seed)); err != nil {
		return nil, fmt.Errorf("cannot use the invitation %s: seed: %w", invitation, err)
	}
	if c.Facility != "" && c.Facility != i.Facility || c.Name != "" && c.Name != i.Name {
		return nil, fmt.Errorf("cannot join as %s/%s: the invitation is for %s/%s; leave out --facility and --name", c.Facility, c.Name, i.Facility, i.Name)
	}
	c.Facility, c.Name, c.Peers.Hubs = i.Facility, i.Name, i.Hubs
	if c.Boxes.Listen, err = i.listenBoxes(c.Boxes.Listen); err != nil {
		return nil, fmt.Errorf("cannot join: %w", err)
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	err = create(d, func(d Dir) error {
		m := member{ca: i.CA, cert: i.Certificate, key: i.Key, seed: i.Seed}
		if err := m.write(d); err != nil {
			return err
		}
		if i.ReaderSecret != "" {
			if err := put(d.ReaderKey(), 0o600, []byte(i.ReaderSecret+"\n")); err != nil {
				return err
			}
		}
		for set, secret := range i.Rotated {
			if err := put(d.rotatedKey(set), 0o600, []byte(secret+"\n")); err != nil {
				return err
			}
		}
		if err := d.Registry().Join(i.Genesis, []byte(i.Registry)); err != nil {
			return fmt.Errorf("cannot use the invitation %s: %w", invitation, err)
		}
		return errors.Join(put(d.Reader(), 0o644, []byte(i.Reader+"\n")), put(d.Config(), 0o644, c.text()))
	})
	return &c, err
}

// AddOperator makes the credentials with which the nats program may look at the streams of this peer, in a new folder,
// with a context file for it.
func AddOperator(d Dir, c *Config, name, out string) (*registry.AddOperator, error) {
	ca, err := d.authority()
	if err != nil {
		return nil, err
	}
	if c.BoxURL() == "" {
		return nil, errors.New("cannot add an operator: this peer has no address for NATS clients; set boxes.listen in peer.toml")
	}
	m, err := ca.member(c.Facility, "operator "+name, nil)
	if err != nil {
		return nil, err
	}
	p, err := Pin(m.cert)
	if err != nil {
		return nil, err
	}
	if err := credentials(out, c.BoxURL(), "_OPERATOR."+name, m); err != nil {
		return nil, err
	}
	return &registry.AddOperator{Name: name, NKey: m.nkey, TLSKey: p}, nil
}

// credentials writes what the nats program needs into a new folder, with its flags.
func credentials(out, url, inbox string, m *member) error {
	if err := os.Mkdir(out, 0o700); err != nil {
		return fmt.Errorf("cannot write credentials: %w; name a new folder with -o", err)
	}
	at := func(file string) string { return filepath.Join(out, file) }
	flags := fmt.Sprintf("--server %s --tlsfirst --tlsca %s --tlscert %s --tlskey %s --nkey %s --inbox-prefix %s\n",
		url, at("ca.pem"), at("tls.pem"), at("tls.key"), at("nkey"), inbox)
	return errors.Join(
		put(at("ca.pem"), 0o644, []byte(m.ca)),
		put(at("tls.pem"), 0o644, []byte(m.cert)),
		put(at("tls.key"), 0o600, []byte(m.key)),
		put(at("nkey"), 0o600, []byte(m.seed)),
		put(at("flags"), 0o644, []byte(flags)),
	)
}

// AddTrial makes the decision to register a box whose keys are files, for drills with the nats program: a real box's keys cannot be had.
func AddTrial(d Dir, c *Config, id record.BoxID, out string) (*registry.Enrol, error) {
	ca, err := d.authority()
	if err != nil {
		return nil, err
	}
	if c.BoxURL() == "" {
		return nil, errors.New("cannot add a box for trials: this peer has no address for boxes; set boxes.listen in peer.toml")
	}
	m, err := ca.member(c.Facility, "unused", nil) // for its nkey and its key file
	if err != nil {
		return nil, err
	}
	tls, err := parsePrivate([]byte(m.key))
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: id.String()}}, tls)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader) // its log is never written
	if err != nil {
		return nil, err
	}
	public, err := enrolment.FormatKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	r, g, err := Enrol(d, c, &enrolment.Request{Version: enrolment.Version, Box: id.String(), DataKey: public,
		TLSRequest: encode("CERTIFICATE REQUEST", csr), NKey: m.nkey, Protection: "software", Software: "vitalpeer box trial"}, nil, nil)
	if err != nil {
		return nil, err
	}
	m.cert = g.TLSCertificate
	if err := credentials(out, c.BoxURL(), "_ACK."+id.Name, m); err != nil {
		return nil, err
	}
	return r, nil
}
