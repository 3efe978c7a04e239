package registry

import (
	"maps"
	"slices"

	"github.com/vitalgate/vitalgate/record"
)

// State is what all decisions up to Size come to. It is never changed once it is given out.
type State struct {
	Facility       string
	Size           uint64      // entries
	Root           record.Hash // of the tree over them
	Administrators []Administrator
	Threshold      int               // how many of them must sign
	Boxes          []*Registration   // by id
	Peers          []*Peer           // by name
	Operators      []*Operator       // by name
	Chips          map[string]string // denied chips -> reason
	Firmware       map[string]string // denied firmware -> reason

	keys map[string]string // every key that was ever registered -> whose, so that no key comes back as another's
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

// Peer is the peer of that name, or nil.
func (s *State) Peer(name string) *Peer {
	for _, p := range s.Peers {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// Holder is who has or had a key (an nkey, the digest of a TLS key, a data key), "" if it was never registered.
func (s *State) Holder(key string) string { return s.keys[key] }

// Administrator is the administrator of that name, or nil.
func (s *State) Administrator(name string) *Administrator {
	for i := range s.Administrators {
		if s.Administrators[i].Name == name {
			return &s.Administrators[i]
		}
	}
	return nil
}

// Needs is how many administrators must sign a decision now. One alone may suspend: stopping a box must not wait for the
// others, and what one has stopped the others resume (docs/adr/0021).
func (s *State) Needs(d Decision) int {
	switch d := d.(type) {
	case *Genesis:
		return d.Threshold
	case *Suspend:
		return 1
	}
	return s.Threshold
}

// clone is a State that apply may change. What the pointers lead to is replaced by apply, never changed.
func (s *State) clone() State {
	c := *s
	c.Administrators = slices.Clone(s.Administrators)
	c.Boxes, c.Peers, c.Operators = slices.Clone(s.Boxes), slices.Clone(s.Peers), slices.Clone(s.Operators)
	c.Chips, c.Firmware, c.keys = maps.Clone(s.Chips), maps.Clone(s.Firmware), maps.Clone(s.keys)
	return c
}

// claim takes keys for who. They must be new to the registry.
func (s *State) claim(who string, keys ...string) error {
	for i, k := range keys {
		if other, taken := s.keys[k]; taken {
			return refuse(ReasonRule, "%s has a key that %s has or had; each needs its own, so one is a copy of the other", who, other)
		}
		if slices.Contains(keys[:i], k) {
			return refuse(ReasonRule, "%s has one key twice", who)
		}
	}
	for _, k := range keys {
		s.keys[k] = who
	}
	return nil
}

// change replaces the registration of a box by a changed copy.
func (s *State) change(box string, change func(r *Registration) error) error {
	for i, r := range s.Boxes {
		if r.Box != box {
			continue
		}
		c := *r
		if err := change(&c); err != nil {
			return err
		}
		s.Boxes[i] = &c
		return nil
	}
	return refuse(ReasonRule, "box %s is not registered; vitalpeer box list shows all", box)
}
