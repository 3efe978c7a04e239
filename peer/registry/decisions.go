package registry

import (
	"cmp"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nkeys"

	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/enrolment"
)

// kinds are all decisions that this version knows. A peer that meets another one stops following the registry and says
// so: to skip a decision that it does not understand could be to skip a revocation.
var kinds = map[string]func() Decision{
	"genesis":         func() Decision { return &Genesis{} },
	"administrators":  func() Decision { return &Administrators{} },
	"enrol":           func() Decision { return &Enrol{} },
	"grant":           func() Decision { return &Grant{} },
	"suspend":         func() Decision { return &Suspend{} },
	"resume":          func() Decision { return &Resume{} },
	"revoke":          func() Decision { return &Revoke{} },
	"decommission":    func() Decision { return &Decommission{} },
	"rekey":           func() Decision { return &Rekey{} },
	"deny-chip":       func() Decision { return &DenyChip{} },
	"deny-firmware":   func() Decision { return &DenyFirmware{} },
	"peer":            func() Decision { return &AddPeer{} },
	"peer-remove":     func() Decision { return &RemovePeer{} },
	"operator":        func() Decision { return &AddOperator{} },
	"operator-remove": func() Decision { return &RemoveOperator{} },
}

// Kinds are the names of all kinds of decisions.
func Kinds() (all []string) {
	for k := range kinds {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}

// Blank is an empty decision of a kind, nil for one that is not known.
func Blank(kind string) Decision {
	if blank, known := kinds[kind]; known {
		return blank()
	}
	return nil
}

// Genesis begins a registry. Its hash is what peers pin.
type Genesis struct {
	Administrators []Administrator `json:"administrators"`
	Threshold      int             `json:"threshold"`
}

func (*Genesis) Kind() string { return "genesis" }

func (d *Genesis) Summary() string {
	return "begin a registry that " + council(d.Administrators, d.Threshold) + " may change"
}

func council(all []Administrator, threshold int) string {
	names := make([]string, len(all))
	for i, a := range all {
		names[i] = a.Name
	}
	return fmt.Sprintf("%d of %d administrators (%s)", threshold, len(all), strings.Join(names, ", "))
}

func (d *Genesis) check() error { return checkCouncil(d.Administrators, d.Threshold) }

func checkCouncil(all []Administrator, threshold int) error {
	if len(all) == 0 || len(all) > maxSignatures {
		return fmt.Errorf("administrators: there are %d, must be 1 to %d", len(all), maxSignatures)
	}
	if threshold < 1 || threshold > len(all) {
		return fmt.Errorf("threshold: is %d, must be 1 to %d, the number of administrators", threshold, len(all))
	}
	seen := map[string]bool{}
	for _, a := range all {
		if err := a.check(); err != nil {
			return err
		}
		key, err := a.public()
		if err != nil {
			return err
		}
		spki, err := x509.MarshalPKIXPublicKey(key) // one key has many texts
		if err != nil {
			return fmt.Errorf("key of %s: %w", a.Name, err)
		}
		if seen[a.Name] || seen[string(spki)] {
			return fmt.Errorf("administrators: name or key of %s stands there twice", a.Name)
		}
		seen[a.Name], seen[string(spki)] = true, true
	}
	return nil
}

func (d *Genesis) apply(s *State, at Entry) error {
	if at.Index != 0 || at.Before != (record.Tree{}).Root() {
		return refuse(ReasonRule, "a registry begins once, at its first entry")
	}
	*s = State{Facility: at.Facility, Administrators: d.Administrators, Threshold: d.Threshold,
		Chips: map[string]string{}, Firmware: map[string]string{}, keys: map[string]string{}}
	return nil
}

// Administrators replaces the administrators and how many of them must sign. The old ones sign it.
type Administrators struct {
	Administrators []Administrator `json:"administrators"`
	Threshold      int             `json:"threshold"`
}

func (*Administrators) Kind() string { return "administrators" }

func (d *Administrators) Summary() string {
	return "from now on " + council(d.Administrators, d.Threshold) + " decide"
}

func (d *Administrators) check() error { return checkCouncil(d.Administrators, d.Threshold) }

func (d *Administrators) apply(s *State, _ Entry) error {
	s.Administrators, s.Threshold = d.Administrators, d.Threshold
	return nil
}

// Enrol registers a box.
type Enrol struct {
	Box      string        `json:"box"`
	DataKey  string        `json:"data_key"`
	TLSKey   string        `json:"tls_key"`
	NKey     string        `json:"nkey"`
	Claim    string        `json:"claim"`
	Software string        `json:"software"`
	Chip     string        `json:"chip,omitempty"`
	Attested *Attested     `json:"attested,omitempty"`
	Kinds    []record.Kind `json:"kinds"`
	Monitors []string      `json:"monitors,omitempty"`
	From     uint64        `json:"from"`
}

func (*Enrol) Kind() string { return "enrol" }

func (d *Enrol) Summary() string {
	return fmt.Sprintf("enrol box %s (%s) for %v", d.Box, proof(d.Claim, d.Attested), d.Kinds)
}

func (d *Enrol) check() error {
	if err := checkKeys(d.Box, d.DataKey, d.TLSKey, d.NKey, d.Chip); err != nil {
		return err
	}
	return errors.Join(d.Attested.check(d.Chip), checkKinds(d.Kinds))
}

// proof is what an administrator who signs must know of the keys: what the chip has proven, or what the box only claims.
func proof(claim string, a *Attested) string {
	if a == nil {
		return "on trust, claims " + claim
	}
	return fmt.Sprintf("proven %s of %s", a.Class, a.Maker)
}

func checkKeys(box, data, tls, nkey, chip string) error {
	if _, err := record.ParseBoxID(box); err != nil {
		return err
	}
	if k, err := enrolment.ParseKey(data); err != nil {
		return fmt.Errorf("data_key: %w", err)
	} else if again, err := enrolment.FormatKey(k); err != nil || again != data {
		return errors.New("data_key: is not in its canonical form")
	}
	if err := checkDigest(tls); err != nil {
		return fmt.Errorf("tls_key: %w", err)
	}
	if chip != "" {
		if err := checkDigest(chip); err != nil {
			return fmt.Errorf("chip: %w", err)
		}
	}
	if !nkeys.IsValidPublicUserKey(nkey) {
		return errors.New("nkey: is not a public NATS user key (U…)")
	}
	return nil
}

func checkDigest(s string) error {
	if b, err := hex.DecodeString(s); err != nil || len(b) != 32 || strings.ToLower(s) != s {
		return errors.New("is not 64 lower-case hex digits")
	}
	return nil
}

func checkKinds(all []record.Kind) error {
	if len(all) == 0 {
		return fmt.Errorf("kinds: there is none; name some of %v", AllKinds)
	}
	for _, k := range all {
		if !slices.Contains(AllKinds, k) {
			return fmt.Errorf("kinds: %q is none of %v", k, AllKinds)
		}
	}
	return nil
}

func (d *Enrol) apply(s *State, at Entry) error {
	id, err := record.ParseBoxID(d.Box)
	if err != nil {
		return err
	}
	if id.Facility != s.Facility {
		return refuse(ReasonRule, "box %s is of another facility than %s", d.Box, s.Facility)
	}
	if old := s.Box(id); old != nil {
		if old.Revoked != nil {
			return refuse(ReasonRule, "box %s was revoked; enrol it with new keys under a new name", d.Box)
		}
		return refuse(ReasonRule, "box %s is registered, with these or other keys; revoke it and enrol the new one under a new name, or re-key it", d.Box)
	}
	if err := s.Admits(d.Box, d.Software, d.Chip); err != nil {
		return err
	}
	if err := s.claim("box "+d.Box, d.DataKey, d.NKey, d.TLSKey); err != nil {
		return err
	}
	r := &Registration{Version: Version, Box: d.Box, DataKey: d.DataKey, TLSKey: d.TLSKey, NKey: d.NKey, Claim: d.Claim, Software: d.Software,
		Chip: d.Chip, Attested: d.Attested, Kinds: d.Kinds, Monitors: d.Monitors, From: d.From, Registered: at.Time}
	s.Boxes = insert(s.Boxes, r, func(r *Registration) string { return r.Box })
	return nil
}

// Admits refuses a firmware or a chip that stands on a deny-list, and a chip that another box has. An empty chip is one that is not known.
func (s *State) Admits(box, firmware string, chips ...string) error {
	for _, chip := range chips {
		if err := s.denied(chip, firmware); err != nil {
			return err
		}
		for _, o := range s.Boxes {
			if chip != "" && o.Box != box && o.Chip == chip && o.Revoked == nil {
				return refuse(ReasonRule, "its chip is that of box %s; revoke or decommission that one first", o.Box)
			}
		}
	}
	return s.denied("", firmware)
}

// denied refuses a chip or a firmware that stands on a deny-list.
func (s *State) denied(chip, firmware string) error {
	if why, ok := s.Firmware[firmware]; ok {
		return refuse(ReasonRule, "its firmware %q is denied: %s", firmware, why)
	}
	if why, ok := s.Chips[chip]; ok && chip != "" {
		return refuse(ReasonRule, "its chip is denied: %s", why)
	}
	return nil
}

// advise refuses what shall be decided no more, though entries that did are in force and stay so: apply and check take them, at every peer
// and of whatever version of this program, or a registry that was believed yesterday would be refused today.
func (s *State) advise(d Decision) error {
	switch d := d.(type) {
	case *Rekey:
		return s.Admits(d.Box, d.Software, d.Chip)
	case *DenyFirmware:
		if _, ok := MeasuredFirmware(d.Firmware); !ok && strings.HasPrefix(d.Firmware, measured) {
			return refuse(ReasonRule, "after pcr11: stand 64 lower-case hex digits")
		}
	}
	return nil
}

func insert[T any](all []T, one T, name func(T) string) []T {
	i, _ := slices.BinarySearchFunc(all, name(one), func(a T, want string) int { return cmp.Compare(name(a), want) })
	return slices.Insert(all, i, one)
}

// Grant says anew what a box may write, from an index on.
type Grant struct {
	Box      string        `json:"box"`
	Kinds    []record.Kind `json:"kinds"`
	Monitors []string      `json:"monitors,omitempty"` // absent: all
	From     uint64        `json:"from"`
	Until    *uint64       `json:"until,omitempty"` // first index without this grant
}

func (*Grant) Kind() string { return "grant" }

func (d *Grant) Summary() string {
	return fmt.Sprintf("grant box %s %v of monitors %v from record %d on", d.Box, d.Kinds, d.Monitors, d.From)
}

func (d *Grant) check() error {
	if d.Until != nil && *d.Until < d.From {
		return errors.New("until: is before from")
	}
	return errors.Join(checkBox(d.Box), checkKinds(d.Kinds))
}

func checkBox(s string) error { _, err := record.ParseBoxID(s); return err }

func (d *Grant) apply(s *State, _ Entry) error {
	return s.change(d.Box, func(r *Registration) error {
		if r.Revoked != nil {
			return refuse(ReasonRule, "box %s is revoked", d.Box)
		}
		if n := len(r.Grants); n > 0 && d.From < r.Grants[n-1].From || d.From < r.From {
			return refuse(ReasonRule, "the grant begins before an earlier one; what was granted is not rewritten")
		}
		r.Grants = append(slices.Clone(r.Grants), *d)
		return nil
	})
}

// Suspend stops a box until it is resumed. One administrator may do it alone.
type Suspend struct {
	Box    string `json:"box"`
	Reason string `json:"reason"`
}

func (*Suspend) Kind() string { return "suspend" }

func (d *Suspend) Summary() string { return "suspend box " + d.Box + ": " + d.Reason }

func (d *Suspend) check() error { return errors.Join(checkBox(d.Box), checkReason(d.Reason)) }

func checkReason(s string) error {
	if strings.TrimSpace(s) == "" || len(s) > 500 {
		return errors.New("reason: give one, of at most 500 characters")
	}
	return nil
}

func (d *Suspend) apply(s *State, at Entry) error {
	return s.change(d.Box, func(r *Registration) error {
		if why := r.Cut(); why != "" {
			return refuse(ReasonRule, "box %s is %s already", d.Box, why)
		}
		r.Suspended = &Suspension{At: at.Time, Reason: d.Reason}
		return nil
	})
}

// Resume ends a suspension.
type Resume struct {
	Box string `json:"box"`
}

func (*Resume) Kind() string { return "resume" }

func (d *Resume) Summary() string { return "resume box " + d.Box }

func (d *Resume) check() error { return checkBox(d.Box) }

func (d *Resume) apply(s *State, _ Entry) error {
	return s.change(d.Box, func(r *Registration) error {
		switch {
		case r.Revoked != nil || r.Suspended == nil:
			return refuse(ReasonRule, "box %s is not suspended", d.Box)
		case r.Suspended.Denied:
			return refuse(ReasonRule, "the chip of box %s is denied; it needs another one (rekey)", d.Box)
		}
		r.Suspended = nil
		return nil
	})
}

// Revoke cuts a box off for good. Its records before Until stay believed.
type Revoke struct {
	Box    string `json:"box"`
	Until  uint64 `json:"until"` // first index that is not believed
	Reason string `json:"reason"`
}

func (*Revoke) Kind() string { return "revoke" }

func (d *Revoke) Summary() string {
	return fmt.Sprintf("revoke box %s for good, believing its records before %d: %s", d.Box, d.Until, d.Reason)
}

func (d *Revoke) check() error { return errors.Join(checkBox(d.Box), checkReason(d.Reason)) }

func (d *Revoke) apply(s *State, at Entry) error {
	return s.end(d.Box, d.Until, Revocation{At: at.Time, Reason: d.Reason})
}

// end ends a registration. A second end may only take back more of what was believed.
func (s *State) end(box string, until uint64, e Revocation) error {
	return s.change(box, func(r *Registration) error {
		if r.Until != nil && (until >= *r.Until || e.Decommissioned) {
			return refuse(ReasonRule, "box %s was revoked on %s, at record %d; only an earlier record can end it again", box, r.Revoked.At.Format("2006-01-02"), *r.Until)
		}
		r.Until, r.Revoked = &until, &e
		return nil
	})
}

// Decommission ends a box in good order, with all its records up to Until.
type Decommission struct {
	Box   string `json:"box"`
	Until uint64 `json:"until"`
}

func (*Decommission) Kind() string { return "decommission" }

func (d *Decommission) Summary() string {
	return fmt.Sprintf("decommission box %s, in good order up to record %d", d.Box, d.Until)
}

func (d *Decommission) check() error { return checkBox(d.Box) }

func (d *Decommission) apply(s *State, at Entry) error {
	return s.end(d.Box, d.Until, Revocation{At: at.Time, Reason: "decommissioned", Decommissioned: true})
}

// Rekey gives a box new keys from an index on, as after the change of its chip. Its log goes on.
type Rekey struct {
	Box      string    `json:"box"`
	DataKey  string    `json:"data_key"`
	TLSKey   string    `json:"tls_key"`
	NKey     string    `json:"nkey"`
	Claim    string    `json:"claim"`
	Software string    `json:"software"`
	Chip     string    `json:"chip,omitempty"`
	Attested *Attested `json:"attested,omitempty"`
	From     uint64    `json:"from"` // first index under the new data key
}

func (*Rekey) Kind() string { return "rekey" }

func (d *Rekey) Summary() string {
	return fmt.Sprintf("give box %s new keys (%s) from record %d on", d.Box, proof(d.Claim, d.Attested), d.From)
}

func (d *Rekey) check() error {
	return errors.Join(checkKeys(d.Box, d.DataKey, d.TLSKey, d.NKey, d.Chip), d.Attested.check(d.Chip))
}

func (d *Rekey) apply(s *State, _ Entry) error {
	if err := s.denied(d.Chip, d.Software); err != nil {
		return err
	}
	return s.change(d.Box, func(r *Registration) error {
		if r.Revoked != nil {
			return refuse(ReasonRule, "box %s is revoked; enrol it with new keys under a new name", d.Box)
		}
		if n := len(r.Earlier); d.From < r.From || n > 0 && d.From < r.Earlier[n-1].Until {
			return refuse(ReasonRule, "the new keys begin before the present ones")
		}
		if err := s.claim("box "+d.Box, d.DataKey, d.NKey, d.TLSKey); err != nil {
			return err
		}
		r.Earlier = append(slices.Clone(r.Earlier), KeyPeriod{r.DataKey, r.Attested, d.From})
		r.DataKey, r.TLSKey, r.NKey, r.Claim, r.Software, r.Chip, r.Attested = d.DataKey, d.TLSKey, d.NKey, d.Claim, d.Software, d.Chip, d.Attested
		if r.Suspended != nil && r.Suspended.Denied {
			r.Suspended = nil
		}
		return nil
	})
}

// DenyChip stops every box with that chip and lets none in with it.
type DenyChip struct {
	Chip   string `json:"chip"` // hex SHA-256 of the SubjectPublicKeyInfo of its EK
	Reason string `json:"reason"`
}

func (*DenyChip) Kind() string { return "deny-chip" }

func (d *DenyChip) Summary() string { return "deny the chip " + d.Chip + ": " + d.Reason }

func (d *DenyChip) check() error { return errors.Join(checkDigest(d.Chip), checkReason(d.Reason)) }

func (d *DenyChip) apply(s *State, at Entry) error {
	if _, ok := s.Chips[d.Chip]; ok {
		return refuse(ReasonRule, "the chip is denied already")
	}
	s.Chips[d.Chip] = d.Reason
	for i, r := range s.Boxes {
		if r.Chip == d.Chip && r.Revoked == nil {
			c := *r
			c.Suspended = &Suspension{At: at.Time, Reason: "its chip is denied: " + d.Reason, Denied: true}
			s.Boxes[i] = &c
		}
	}
	return nil
}

// DenyFirmware lets no box in with that firmware, and names those that run it.
type DenyFirmware struct {
	Firmware string `json:"firmware"` // its version, as boxes tell it, or its measurement ([MeasuredFirmware])
	Reason   string `json:"reason"`
}

func (*DenyFirmware) Kind() string { return "deny-firmware" }

func (d *DenyFirmware) Summary() string { return "deny firmware " + d.Firmware + ": " + d.Reason }

func (d *DenyFirmware) check() error {
	if d.Firmware == "" || len(d.Firmware) > 200 {
		return errors.New("firmware: give its version, of at most 200 characters")
	}
	return checkReason(d.Reason)
}

const measured = "pcr11:"

// MeasuredFirmware is the value of PCR 11 that a deny-list names, as "pcr11:" and hex: what a release measures itself to, or what a box
// quotes that runs it.
func MeasuredFirmware(name string) (value []byte, ok bool) {
	digits, ok := strings.CutPrefix(name, measured)
	if !ok || checkDigest(digits) != nil {
		return nil, false
	}
	value, err := hex.DecodeString(digits)
	return value, err == nil
}

func (d *DenyFirmware) apply(s *State, _ Entry) error {
	if _, ok := s.Firmware[d.Firmware]; ok {
		return refuse(ReasonRule, "firmware %q is denied already", d.Firmware)
	}
	s.Firmware[d.Firmware] = d.Reason
	return nil
}

// AddPeer lets a peer in.
type AddPeer struct {
	Name   string `json:"name"`
	NKey   string `json:"nkey"`
	TLSKey string `json:"tls_key"`
	Boxes  string `json:"boxes"`
}

func (*AddPeer) Kind() string { return "peer" }

func (d *AddPeer) Summary() string { return "let peer " + d.Name + " in" }

func (d *AddPeer) check() error { return checkMember(d.Name, d.NKey, d.TLSKey) }

func checkMember(name, nkey, pin string) error {
	if !validName(name) {
		return fmt.Errorf("name: %q is not 1 to 32 of a-z, 0-9 and -", name)
	}
	if !nkeys.IsValidPublicUserKey(nkey) {
		return errors.New("nkey: is not a public NATS user key (U…)")
	}
	if err := checkDigest(pin); err != nil {
		return fmt.Errorf("tls_key: %w", err)
	}
	return nil
}

func (d *AddPeer) apply(s *State, at Entry) error {
	if s.Peer(d.Name) != nil {
		return refuse(ReasonRule, "peer %s was invited before; choose another name, or remove it first (vitalpeer peer remove %s)", d.Name, d.Name)
	}
	if err := s.claim("peer "+d.Name, d.NKey, d.TLSKey); err != nil {
		return err
	}
	p := &Peer{Version: Version, Name: d.Name, NKey: d.NKey, TLSKey: d.TLSKey, Boxes: d.Boxes, Invited: at.Time}
	s.Peers = insert(s.Peers, p, func(p *Peer) string { return p.Name })
	return nil
}

// RemovePeer cuts a peer off. Its keys never come back.
type RemovePeer struct {
	Name string `json:"name"`
}

func (*RemovePeer) Kind() string { return "peer-remove" }

func (d *RemovePeer) Summary() string { return "cut peer " + d.Name + " off" }

func (d *RemovePeer) check() error { return nil }

func (d *RemovePeer) apply(s *State, _ Entry) error {
	if s.Peer(d.Name) == nil {
		return refuse(ReasonRule, "there is no peer %q; vitalpeer peer list shows all", d.Name)
	}
	s.Peers = slices.DeleteFunc(s.Peers, func(p *Peer) bool { return p.Name == d.Name })
	return nil
}

// AddOperator lets a person look at the streams.
type AddOperator struct {
	Name   string `json:"name"`
	NKey   string `json:"nkey"`
	TLSKey string `json:"tls_key"`
}

func (*AddOperator) Kind() string { return "operator" }

func (d *AddOperator) Summary() string { return "let operator " + d.Name + " look at the streams" }

func (d *AddOperator) check() error { return checkMember(d.Name, d.NKey, d.TLSKey) }

func (d *AddOperator) apply(s *State, at Entry) error {
	for _, o := range s.Operators {
		if o.Name == d.Name {
			return refuse(ReasonRule, "there is an operator %s; choose another name, or remove it first (vitalpeer operator remove %s)", d.Name, d.Name)
		}
	}
	if err := s.claim("operator "+d.Name, d.NKey, d.TLSKey); err != nil {
		return err
	}
	o := &Operator{Version: Version, Name: d.Name, NKey: d.NKey, TLSKey: d.TLSKey, Added: at.Time}
	s.Operators = insert(s.Operators, o, func(o *Operator) string { return o.Name })
	return nil
}

// RemoveOperator takes back what AddOperator gave.
type RemoveOperator struct {
	Name string `json:"name"`
}

func (*RemoveOperator) Kind() string { return "operator-remove" }

func (d *RemoveOperator) Summary() string { return "cut operator " + d.Name + " off" }

func (d *RemoveOperator) check() error { return nil }

func (d *RemoveOperator) apply(s *State, _ Entry) error {
	n := len(s.Operators)
	s.Operators = slices.DeleteFunc(s.Operators, func(o *Operator) bool { return o.Name == d.Name })
	if len(s.Operators) == n {
		return refuse(ReasonRule, "there is no operator %q", d.Name)
	}
	return nil
}
