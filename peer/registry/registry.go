// Package registry keeps what this peer knows of boxes and of other peers: whose key may write which kinds, from which
// index to which. One JSON file stands for each; a running peer follows the folder, so a change is in force within
// about a second. Every peer has its own registry and believes no other.
package registry

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/enrolment"
)

// Version of the files.
const Version = 1

// maxFile bounds what is read of one file, in bytes.
const maxFile = 1 << 20

// Registration says what one box may do.
type Registration struct {
	Version    int           `json:"version"`
	Box        string        `json:"box"`                  // facility/name
	DataKey    string        `json:"data_key"`             // PEM SubjectPublicKeyInfo, P-256
	TLSKey     string        `json:"tls_key"`              // hex SHA-256 of the SubjectPublicKeyInfo of its TLS certificate
	NKey       string        `json:"nkey"`                 // public NATS user key
	Claim      string        `json:"claim"`                // what the box said holds its keys
	Software   string        `json:"software"`             // firmware that asked for enrolment
	Kinds      []record.Kind `json:"kinds"`                // what it may write; control leaves need no grant
	From       uint64        `json:"from"`                 // first index that is accepted
	Until      *uint64       `json:"until,omitempty"`      // first index that is no longer accepted; absent: no end
	Registered time.Time     `json:"registered"`           //
	Revoked    *Revocation   `json:"revocation,omitempty"` // absent: in force
}

// Revocation ends a registration: the box is cut off and nothing from Until on is accepted.
type Revocation struct {
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
}

// AllKinds are the kinds that a grant may name.
var AllKinds = []record.Kind{record.KindVitals, record.KindWaveform, record.KindAlarm, record.KindADT, record.KindOther, record.KindRaw}

// ID is the box that the registration is for.
func (r *Registration) ID() record.BoxID {
	id, _ := record.ParseBoxID(r.Box) // checked when it was read
	return id
}

// Key verifies the box's checkpoints.
func (r *Registration) Key() *ecdsa.PublicKey {
	k, _ := enrolment.ParseKey(r.DataKey) // checked when it was read
	return k
}

// Refuses says why a record with this header is outside the grant: "kind" or "index"; "" where it is inside.
func (r *Registration) Refuses(h record.Header) string {
	switch {
	case h.Index < r.From, r.Until != nil && h.Index >= *r.Until:
		return "index"
	case !h.Kind.Control() && !slices.Contains(r.Kinds, h.Kind):
		return "kind"
	}
	return ""
}

// Protection is the class of the box's key as this peer judges it, never as the box words it. Hardware needs a
// certificate chain from the chip's maker, which this version cannot check yet, so a claim of it stays unproven.
func (r *Registration) Protection() string {
	switch r.Claim {
	case "hardware":
		return "unproven hardware"
	case "emulated", "software":
		return r.Claim
	}
	return "unknown"
}

// Check says whether the registration is well formed.
func (r *Registration) Check() error {
	if r.Version != Version {
		return fmt.Errorf("version is %d, this program knows %d", r.Version, Version)
	}
	if _, err := record.ParseBoxID(r.Box); err != nil {
		return err
	}
	if _, err := enrolment.ParseKey(r.DataKey); err != nil {
		return fmt.Errorf("data_key: %w", err)
	}
	if err := checkPin(r.TLSKey); err != nil {
		return fmt.Errorf("tls_key: %w", err)
	}
	if !nkeys.IsValidPublicUserKey(r.NKey) {
		return errors.New("nkey: is not a public NATS user key (U…)")
	}
	if len(r.Kinds) == 0 {
		return fmt.Errorf("kinds: there is none; name some of %v", AllKinds)
	}
	for _, k := range r.Kinds {
		if !slices.Contains(AllKinds, k) {
			return fmt.Errorf("kinds: %q is none of %v", k, AllKinds)
		}
	}
	if r.Until != nil && *r.Until < r.From {
		return errors.New("until: is before from")
	}
	if r.Revoked != nil && r.Until == nil {
		return errors.New("revocation: needs until, the first index that is no longer accepted")
	}
	return nil
}

func checkPin(s string) error {
	if b, err := hex.DecodeString(s); err != nil || len(b) != 32 || strings.ToLower(s) != s {
		return errors.New("is not 64 lower-case hex digits")
	}
	return nil
}

// Peer is a ward peer that was invited.
type Peer struct {
	Version int       `json:"version"`
	Name    string    `json:"name"`
	NKey    string    `json:"nkey"`    // public NATS user key
	TLSKey  string    `json:"tls_key"` // hex SHA-256 of the SubjectPublicKeyInfo of its certificate
	Boxes   string    `json:"boxes"`   // URL at which boxes reach it, tls://host:port; "" not told
	Invited time.Time `json:"invited"`
}

// Check says whether the entry is well formed.
func (p *Peer) Check() error { return checkMember(p.Version, p.Name, p.NKey, p.TLSKey) }

// Operator is a person who may look at the streams, and at nothing in them, with the nats program.
type Operator struct {
	Version int       `json:"version"`
	Name    string    `json:"name"`
	NKey    string    `json:"nkey"`
	TLSKey  string    `json:"tls_key"`
	Added   time.Time `json:"added"`
}

// Check says whether the entry is well formed.
func (o *Operator) Check() error { return checkMember(o.Version, o.Name, o.NKey, o.TLSKey) }

func checkMember(version int, name, nkey, pin string) error {
	if version != Version {
		return fmt.Errorf("version is %d, this program knows %d", version, Version)
	}
	if !(record.BoxID{Facility: "f", Name: name}).Valid() {
		return fmt.Errorf("name: %q is not 1 to 32 of a-z, 0-9 and -", name)
	}
	if !nkeys.IsValidPublicUserKey(nkey) {
		return errors.New("nkey: is not a public NATS user key (U…)")
	}
	if err := checkPin(pin); err != nil {
		return fmt.Errorf("tls_key: %w", err)
	}
	return nil
}

// Registry is the folder: boxes/<facility>/<name>.json, peers/<name>.json and operators/<name>.json.
type Registry struct{ dir string }

// At is the registry in dir, which need not exist yet.
func At(dir string) Registry { return Registry{dir} }

func (g Registry) boxPath(id record.BoxID) string {
	return filepath.Join(g.dir, "boxes", id.Facility, id.Name+".json")
}

func (g Registry) peerPath(name string) string { return filepath.Join(g.dir, "peers", name+".json") }

func (g Registry) operatorPath(name string) string {
	return filepath.Join(g.dir, "operators", name+".json")
}

// State is what the registry holds.
type State struct {
	Boxes     []*Registration // by id
	Peers     []*Peer         // by name
	Operators []*Operator     // by name
}

// Box is the registration of id, or nil.
func (s *State) Box(id record.BoxID) *Registration {
	for _, r := range s.Boxes {
		if r.ID() == id {
			return r
		}
	}
	return nil
}

// Load reads everything. A file that cannot be used is left out, so that it stops nobody but its own box, and is named in err.
func (g Registry) Load() (s State, err error) {
	var bad []error
	keys := map[string]string{} // nkey or TLS key -> whose
	claim := func(path, who string, names ...string) bool {
		for _, n := range names {
			if other, taken := keys[n]; taken {
				bad = append(bad, fmt.Errorf("cannot use %s: it has a key of %s; each needs its own", path, other))
				return false
			}
		}
		for _, n := range names {
			keys[n] = who
		}
		return true
	}
	err = walk(filepath.Join(g.dir, "boxes"), func(path string) {
		var r Registration
		if err := read(path, &r); err != nil {
			bad = append(bad, err)
		} else if err := r.Check(); err != nil {
			bad = append(bad, fmt.Errorf("cannot use the registration %s: %w", path, err))
		} else if path != g.boxPath(r.ID()) {
			bad = append(bad, fmt.Errorf("cannot use the registration %s: it is of box %s", path, r.Box))
		} else if claim(path, "box "+r.Box, r.NKey, r.TLSKey, r.DataKey) {
			s.Boxes = append(s.Boxes, &r)
		}
	})
	bad = append(bad, err)
	err = walk(filepath.Join(g.dir, "peers"), func(path string) {
		var p Peer
		if err := read(path, &p); err != nil {
			bad = append(bad, err)
		} else if err := p.Check(); err != nil {
			bad = append(bad, fmt.Errorf("cannot use the peer entry %s: %w", path, err))
		} else if path != g.peerPath(p.Name) {
			bad = append(bad, fmt.Errorf("cannot use the peer entry %s: it is of peer %s", path, p.Name))
		} else if claim(path, "peer "+p.Name, p.NKey, p.TLSKey) {
			s.Peers = append(s.Peers, &p)
		}
	})
	bad = append(bad, err)
	err = walk(filepath.Join(g.dir, "operators"), func(path string) {
		var o Operator
		if err := read(path, &o); err != nil {
			bad = append(bad, err)
		} else if err := o.Check(); err != nil {
			bad = append(bad, fmt.Errorf("cannot use the operator entry %s: %w", path, err))
		} else if path != g.operatorPath(o.Name) {
			bad = append(bad, fmt.Errorf("cannot use the operator entry %s: it is of operator %s", path, o.Name))
		} else if claim(path, "operator "+o.Name, o.NKey, o.TLSKey) {
			s.Operators = append(s.Operators, &o)
		}
	})
	return s, errors.Join(append(bad, err)...)
}

// Mark changes whenever a file of the registry does.
func (g Registry) Mark() string {
	var b strings.Builder
	for _, dir := range []string{"boxes", "peers", "operators"} {
		walk(filepath.Join(g.dir, dir), func(path string) {
			if i, err := os.Stat(path); err == nil {
				fmt.Fprintf(&b, "%s %d %d\n", path, i.Size(), i.ModTime().UnixNano())
			}
		})
	}
	return b.String()
}

// Put writes a registration. One that is there is replaced only by one with the same keys: a box with new keys is a
// new box to every peer.
func (g Registry) Put(r *Registration) error {
	if err := r.Check(); err != nil {
		return fmt.Errorf("cannot register box %q: %w", r.Box, err)
	}
	s, err := g.Load()
	if err != nil {
		return fmt.Errorf("cannot register box %s before the registry is whole: %w", r.Box, err)
	}
	for _, o := range s.Boxes {
		same := o.Box == r.Box
		keys := []bool{o.DataKey == r.DataKey, o.NKey == r.NKey, o.TLSKey == r.TLSKey}
		if same && slices.Contains(keys, false) {
			return fmt.Errorf("cannot register box %s: it is registered with other keys; revoke it and enrol the new one under a new name", r.Box)
		}
		if !same && slices.Contains(keys, true) {
			return fmt.Errorf("cannot register box %s: it has a key of box %s, so one is a copy of the other", r.Box, o.Box)
		}
		if same && o.Revoked != nil && r.Revoked == nil {
			return fmt.Errorf("cannot register box %s: it was revoked; enrol it with new keys under a new name", r.Box)
		}
	}
	return write(g.boxPath(r.ID()), r)
}

// PutPeer adds a peer; it replaces none.
func (g Registry) PutPeer(p *Peer) error {
	if err := p.Check(); err != nil {
		return fmt.Errorf("cannot invite peer %q: %w", p.Name, err)
	}
	if _, err := os.Stat(g.peerPath(p.Name)); err == nil {
		return fmt.Errorf("cannot invite peer %s: it was invited before; choose another name, or remove it first (vitalpeer peer remove %s)", p.Name, p.Name)
	}
	return write(g.peerPath(p.Name), p)
}

// RemovePeer takes back an invitation.
func (g Registry) RemovePeer(name string) error {
	err := os.Remove(g.peerPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove peer %q: there is none of that name; vitalpeer peer list shows all", name)
	}
	return err
}

// PutOperator adds an operator; it replaces none.
func (g Registry) PutOperator(o *Operator) error {
	if err := o.Check(); err != nil {
		return fmt.Errorf("cannot add operator %q: %w", o.Name, err)
	}
	if _, err := os.Stat(g.operatorPath(o.Name)); err == nil {
		return fmt.Errorf("cannot add operator %s: there is one of that name; choose another, or remove it first (vitalpeer operator remove %s)", o.Name, o.Name)
	}
	return write(g.operatorPath(o.Name), o)
}

// RemoveOperator takes back what PutOperator gave.
func (g Registry) RemoveOperator(name string) error {
	err := os.Remove(g.operatorPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove operator %q: there is none of that name", name)
	}
	return err
}

// ReadRegistration reads and checks one registration file, such as one that came from another peer.
func ReadRegistration(path string) (*Registration, error) {
	var r Registration
	if err := read(path, &r); err != nil {
		return nil, err
	}
	if err := r.Check(); err != nil {
		return nil, fmt.Errorf("cannot use the registration %s: %w", path, err)
	}
	return &r, nil
}

// walk calls do for every .json file below dir, in order. A folder that does not exist is empty.
func walk(dir string, do func(path string)) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return fmt.Errorf("cannot read the registry: %w", err)
		case !d.IsDir() && strings.HasSuffix(path, ".json"):
			do(path)
		}
		return nil
	})
}

func read(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot read: %w", err)
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
		return fmt.Errorf("cannot use %s: %w", path, err)
	}
	if d.More() {
		return fmt.Errorf("cannot use %s: text after the JSON document", path)
	}
	return nil
}

// write stores v at path, whole or not at all, and durably.
func write(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("cannot write the registry: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("cannot write the registry: %w", err)
	}
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("cannot write the registry: %w", err)
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
