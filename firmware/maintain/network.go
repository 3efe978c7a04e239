package maintain

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"

	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/vitalgate/vitalgate/provision/protocol"
)

// trial is a change of settings that is being tried: whoever cut himself off has the old ones back in a minute. A tool must reach the
// box over the new ones within that time.
type trial struct {
	mu     sync.Mutex
	token  string // "": none
	now    protocol.Network
	revert *time.Timer
}

func (s *Server) getNetwork(http.ResponseWriter, *http.Request) (any, error) {
	if s.box.Network == nil {
		return nil, errNetwork
	}
	n, err := s.box.Network.Settings()
	return n, err
}

var errNetwork = errors.New("cannot see to the network settings: they are the operating system's here; change them there")

func (s *Server) putNetwork(w http.ResponseWriter, req *http.Request) (any, error) {
	if s.box.Network == nil {
		return nil, errNetwork
	}
	var n protocol.Network
	if err := read(w, req, &n); err != nil {
		return nil, err
	}
	if err := checkNetwork(n); err != nil {
		return nil, refusal{http.StatusBadRequest, err}
	}
	s.trial.mu.Lock()
	defer s.trial.mu.Unlock()
	if s.trial.token != "" {
		return nil, refuse(http.StatusConflict, "cannot try these settings: others are being tried; wait a minute")
	}
	first, err := s.box.Network.Settings()
	if err != nil {
		return nil, err
	}
	old := []protocol.Network{s.box.Network.On(n.Interface)}
	if first.Interface != n.Interface { // the gateway of the one may have taken the place of the other's
		old = append(old, first)
	}
	t := protocol.Trial{Token: rand.Text(), Seconds: int(s.box.TrialTime / time.Second)}
	s.trial.token, s.trial.now = t.Token, n
	// The settings change when the answer is on its way: it goes over the old ones.
	ctx := context.WithoutCancel(req.Context())
	time.AfterFunc(500*time.Millisecond, func() {
		s.box.Log.Info("network settings are being tried", "interface", n.Interface, "method", n.Method, "address", n.Address)
		if err := s.box.Network.Apply(ctx, n); err != nil {
			s.box.Log.Error("network settings could not be applied", "error", err.Error())
			s.back(ctx, t.Token, old)
		}
	})
	s.trial.revert = time.AfterFunc(s.box.TrialTime, func() { s.back(ctx, t.Token, old) })
	return t, nil
}

// back puts the old settings in force, unless the new ones were kept.
func (s *Server) back(ctx context.Context, token string, old []protocol.Network) {
	s.trial.mu.Lock()
	defer s.trial.mu.Unlock()
	if s.trial.token != token {
		return
	}
	s.trial.token = ""
	s.trial.revert.Stop()
	var failed []error
	for _, n := range old {
		failed = append(failed, s.box.Network.Apply(ctx, n))
	}
	if err := errors.Join(failed...); err != nil {
		s.box.Log.Error("the network settings of before could not be applied; a restart brings them back", "error", err.Error())
		return
	}
	s.box.Log.Warn("the network settings that were tried are gone, those of before are back")
}

func (s *Server) postKeep(w http.ResponseWriter, req *http.Request) (any, error) {
	if s.box.Network == nil {
		return nil, errNetwork
	}
	var k protocol.Keep
	if err := read(w, req, &k); err != nil {
		return nil, err
	}
	s.trial.mu.Lock()
	defer s.trial.mu.Unlock()
	if s.trial.token == "" || subtle.ConstantTimeCompare([]byte(k.Token), []byte(s.trial.token)) != 1 {
		return nil, refuse(http.StatusConflict, "cannot keep the settings: they are not being tried any more, and those of before are back")
	}
	if err := s.box.Network.Keep(s.trial.now); err != nil {
		return nil, err
	}
	s.trial.revert.Stop()
	s.trial.token = ""
	return s.trial.now, nil
}

func checkNetwork(n protocol.Network) error {
	if n.Interface == "" || len(n.Interface) > 15 { // IFNAMSIZ
		return errors.New("cannot use the settings: name the interface, such as eth0")
	}
	if n.VLAN < 0 || n.VLAN > 4094 { // IEEE 802.1Q-2022 §9.6
		return errors.New("cannot use the settings: the VLAN must be 1 to 4094, or 0 for none")
	}
	for _, d := range n.DNS {
		if _, err := netip.ParseAddr(d); err != nil {
			return errors.New("cannot use the settings: a DNS server must be an IP address")
		}
	}
	for _, h := range n.NTP {
		if h == "" || len(h) > 253 {
			return errors.New("cannot use the settings: an NTP server must be a host name or an IP address")
		}
	}
	switch n.Method {
	case "dhcp":
		if n.Address != "" || n.Gateway != "" {
			return errors.New("cannot use the settings: with dhcp the network gives address and gateway; leave them out, or use static")
		}
	case "static":
		p, err := netip.ParsePrefix(n.Address)
		if err != nil {
			return errors.New("cannot use the settings: the address must have its prefix length, such as 10.0.0.5/24")
		}
		if n.Gateway != "" {
			if g, err := netip.ParseAddr(n.Gateway); err != nil || !p.Contains(g) {
				return errors.New("cannot use the settings: the gateway must be an IP address within the address's network")
			}
		}
	default:
		return errors.New("cannot use the settings: the method must be dhcp or static")
	}
	return nil
}
