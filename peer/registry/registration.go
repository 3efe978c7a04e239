package registry

import (
	"cmp"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/enrolment"
)

// Registration is what the registry says of one box.
type Registration struct {
	Version    int           `json:"version"`
	Box        string        `json:"box"`                  // facility/name
	DataKey    string        `json:"data_key"`             // PEM SubjectPublicKeyInfo, P-256
	TLSKey     string        `json:"tls_key"`              // hex SHA-256 of the SubjectPublicKeyInfo of its TLS certificate
	NKey       string        `json:"nkey"`                 // public NATS user key
	Claim      string        `json:"claim"`                // what the box said holds its keys
	Software   string        `json:"software"`             // firmware that asked for enrolment
	Chip       string        `json:"chip,omitempty"`       // hex SHA-256 of the SubjectPublicKeyInfo of the chip's EK; absent: it was not shown
	Attested   *Attested     `json:"attested,omitempty"`   // what the chip has proven; absent: nothing
	Kinds      []record.Kind `json:"kinds"`                // what it may write; control leaves need no grant
	Monitors   []string      `json:"monitors,omitempty"`   // which monitors it may speak for; absent: all. They are sealed, so only readers can hold it to them
	From       uint64        `json:"from"`                 // first index that is accepted
	Grants     []Grant       `json:"grants,omitempty"`     // later grants; from its index on, a later one stands in the place of what was before
	Earlier    []KeyPeriod   `json:"earlier,omitempty"`    // data keys before this one
	Until      *uint64       `json:"until,omitempty"`      // first index that is no longer accepted; absent: no end
	Registered time.Time     `json:"registered"`           //
	Suspended  *Suspension   `json:"suspension,omitempty"` // absent: not suspended
	Revoked    *Revocation   `json:"revocation,omitempty"` // absent: in force
}

// Attested is what a facility has found of the keys of a box, from what its chip and the makers of chips say (package
// admission).
type Attested struct {
	Class        string `json:"class"`              // hardware or emulated, by whose root vouches
	Maker        string `json:"maker"`              // the name of that root here
	Manufacturer string `json:"manufacturer"`       // as the certificate names it, such as id:49465800
	Model        string `json:"model"`              //
	Version      string `json:"version"`            //
	LAK          []byte `json:"lak"`                // TPMT_PUBLIC of the attestation key: what the chip says later is checked by it
	Policy       string `json:"policy,omitempty"`   // hex digest of what the keys are bound to; absent: they sign under any firmware
	Firmware     uint64 `json:"firmware,omitempty"` // of the chip
}

func (a *Attested) check(chip string) error {
	switch {
	case a == nil:
		return nil
	case a.Class != "hardware" && a.Class != "emulated":
		return fmt.Errorf("attested: the class %q is neither hardware nor emulated", a.Class)
	case chip == "":
		return errors.New("attested: the chip is not named")
	case len(a.LAK) == 0 || len(a.LAK) > 1024 || len(a.Maker)+len(a.Manufacturer)+len(a.Model)+len(a.Version) > 1024:
		return errors.New("attested: it lacks the attestation key, or says too much")
	case a.Policy != "":
		if err := checkDigest(a.Policy); err != nil {
			return fmt.Errorf("attested: policy: %w", err)
		}
	}
	return nil
}

// KeyPeriod is a data key that signed the records up to (not including) Until.
type KeyPeriod struct {
	DataKey  string    `json:"data_key"`
	Attested *Attested `json:"attested,omitempty"` // what its chip had proven
	Until    uint64    `json:"until"`
}

// Suspension stops a box until it is resumed: what it has signed meanwhile is taken then.
type Suspension struct {
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
	Denied bool      `json:"denied"` // by the deny-list of chips: it cannot be resumed
}

// Revocation ends a registration: the box is cut off and nothing from Until on is accepted.
type Revocation struct {
	At             time.Time `json:"at"`
	Reason         string    `json:"reason"`
	Decommissioned bool      `json:"decommissioned"` // in good order
}

// AllKinds are the kinds that a grant may name.
var AllKinds = []record.Kind{record.KindVitals, record.KindWaveform, record.KindAlarm, record.KindADT, record.KindOther, record.KindRaw}

// ID is the box that the registration is for.
func (r *Registration) ID() record.BoxID {
	id, _ := record.ParseBoxID(r.Box) // checked when it was decided
	return id
}

// Key verifies the box's checkpoints now.
func (r *Registration) Key() *ecdsa.PublicKey {
	k, _ := enrolment.ParseKey(r.DataKey) // checked when it was decided
	return k
}

// KeyAt verifies the checkpoints of records at and after an index, until the next index at which the key changed.
func (r *Registration) KeyAt(index uint64) *ecdsa.PublicKey {
	for _, e := range r.Earlier {
		if index < e.Until {
			k, _ := enrolment.ParseKey(e.DataKey) // checked when it was decided
			return k
		}
	}
	return r.Key()
}

// ChipAt is the chip that signed at an index: the public area of its attestation key, nil where nothing was proven of it, and the
// first index that it signed.
func (r *Registration) ChipAt(index uint64) (lak []byte, since uint64) {
	a := r.Attested
	for _, e := range r.Earlier {
		if index < e.Until {
			a = e.Attested
			break
		}
		since = e.Until
	}
	if a != nil {
		lak = a.LAK
	}
	return lak, since
}

// Cut says why the box may not connect: "revoked" or "suspended"; "" where it may.
func (r *Registration) Cut() string {
	switch {
	case r.Revoked != nil:
		return "revoked"
	case r.Suspended != nil:
		return "suspended"
	}
	return ""
}

// grant is the one that decides at an index.
func (r *Registration) grant(index uint64) Grant {
	for _, g := range slices.Backward(r.Grants) {
		if index >= g.From {
			return g
		}
	}
	return Grant{Box: r.Box, Kinds: r.Kinds, Monitors: r.Monitors, From: r.From}
}

// Refuses says why a record with this header is outside the grant: "kind" or "index"; "" where it is inside.
func (r *Registration) Refuses(h record.Header) string {
	if h.Index < r.From || r.Until != nil && h.Index >= *r.Until {
		return "index"
	}
	if h.Kind.Control() {
		return ""
	}
	switch g := r.grant(h.Index); {
	case g.Until != nil && h.Index >= *g.Until:
		return "index"
	case !slices.Contains(g.Kinds, h.Kind):
		return "kind"
	}
	return ""
}

// RefusesMonitor says whether the grant at an index is for other monitors than this one. Only who has opened the record
// knows its monitor.
func (r *Registration) RefusesMonitor(index uint64, monitor string) bool {
	g := r.grant(index)
	return len(g.Monitors) > 0 && !slices.Contains(g.Monitors, monitor)
}

// Protection is the class of the box's key as the facility has found it, never as the box words it: a claim of hardware
// that no chip has proven stays unproven.
func (r *Registration) Protection() string {
	if r.Attested != nil {
		return r.Attested.Class
	}
	switch r.Claim {
	case "hardware":
		return "unproven hardware"
	case "emulated", "software":
		return r.Claim
	}
	return "unknown"
}

// Verifier verifies the records of a box, each with the key that was the box's at its index.
type Verifier struct {
	of        *Registration
	verifiers map[string]*record.Verifier
}

// Verifier makes one. It is for one goroutine.
func (r *Registration) Verifier() *Verifier { return &Verifier{r, map[string]*record.Verifier{}} }

// Follow takes in what has changed in the registration.
func (v *Verifier) Follow(r *Registration) { v.of = r }

// Verify is record.Verify with the right key.
func (v *Verifier) Verify(p record.Published) (record.Verified, error) {
	name := v.of.DataKey
	for _, e := range v.of.Earlier {
		if p.Index < e.Until {
			name = cmp.Or(e.DataKey, name)
			break
		}
	}
	one := v.verifiers[name]
	if one == nil {
		key, err := enrolment.ParseKey(name)
		if err != nil {
			return record.Verified{}, err
		}
		one = record.NewVerifier(v.of.ID(), key)
		v.verifiers[name] = one
	}
	return one.Verify(p)
}

// Peer is a peer that was let in.
type Peer struct {
	Version int       `json:"version"`
	Name    string    `json:"name"`
	NKey    string    `json:"nkey"`    // public NATS user key
	TLSKey  string    `json:"tls_key"` // hex SHA-256 of the SubjectPublicKeyInfo of its certificate
	Boxes   string    `json:"boxes"`   // URL at which boxes reach it, tls://host:port; "" not told
	Invited time.Time `json:"invited"`
}

// Operator is a person who may look at the streams, and at nothing in them, with the nats program.
type Operator struct {
	Version int       `json:"version"`
	Name    string    `json:"name"`
	NKey    string    `json:"nkey"`
	TLSKey  string    `json:"tls_key"`
	Added   time.Time `json:"added"`
}
