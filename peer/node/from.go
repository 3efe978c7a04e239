package node

import (
	"github.com/vitalgate/vitalgate/peer/facility"
	"github.com/vitalgate/vitalgate/peer/registry"
)

// storeBytes is what all streams together may reserve; the limit that counts is that of each stream.
const storeBytes = 1 << 42

// FromFacility is the configuration of the peer whose data folder is d.
func FromFacility(d facility.Dir, c *facility.Config) (Config, error) {
	i, err := d.Identity(c)
	if err != nil {
		return Config{}, err
	}
	return Config{
		Facility: c.Facility, Name: c.Name, Dir: d.Nats(),
		ListenBoxes: c.Boxes.Listen, ListenPeers: c.Peers.Listen, Hubs: c.Peers.Hubs,
		Certificate: d.Certificate(), Key: d.Key(), CA: d.CA(), Pin: i.Pin, Seed: i.Seed,
		StreamBytes: c.Boxes.StreamMiB << 20, StoreBytes: storeBytes,
	}, nil
}

// FromRegistry is who may connect: boxes that are neither revoked nor suspended, the invited peers and the operators.
func FromRegistry(s registry.State) (m Members) {
	for _, r := range s.Boxes {
		if r.Cut() == "" {
			m.Boxes = append(m.Boxes, Box{ID: r.ID(), NKey: r.NKey, Pin: r.TLSKey})
		}
	}
	for _, p := range s.Peers {
		m.Peers = append(m.Peers, Peer{Name: p.Name, NKey: p.NKey, Pin: p.TLSKey})
	}
	for _, o := range s.Operators {
		m.Operators = append(m.Operators, Operator{Name: o.Name, NKey: o.NKey, Pin: o.TLSKey})
	}
	return m
}
