package node

import (
	"github.com/vitalgate/vitalgate/peer/facility"
	"github.com/vitalgate/vitalgate/peer/registry"
)

// storeBytes is what all streams together may reserve; the limit that counts is that of each stream.
const storeBytes = 1 << 42

// FromFacility is the configuration of the peer whose data folder is d.
func FromFacility(d facility.Dir, c *facility.Config) (Config, error) {
	i, err := d.Identity()
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

// FromRegistry is who may connect: boxes that are not revoked, and the invited peers.
func FromRegistry(s registry.State) (boxes []Box, peers []Peer) {
	for _, r := range s.Boxes {
		if r.Revoked == nil {
			boxes = append(boxes, Box{ID: r.ID(), NKey: r.NKey, Pin: r.TLSKey})
		}
	}
	for _, p := range s.Peers {
		peers = append(peers, Peer{Name: p.Name, NKey: p.NKey, Pin: p.TLSKey})
	}
	return boxes, peers
}
