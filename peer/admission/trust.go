package admission

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vitalgate/vitalgate/tpm/attestation"
	"github.com/vitalgate/vitalgate/tpm/makers"
)

// Trust is what the facility believes of TPMs and of firmware. The makers of chips are built in (package makers); the
// rest is in a folder, as PEM files:
//
//	makers/         roots of further makers of TPMs: what they vouch for counts as hardware
//	emulators/      roots of emulators, for trials
//	box-makers/     roots of makers of boxes, who certify initial attestation keys
//	intermediates/  authorities between those and a box, where the box does not show them
//	releases/       the keys that release firmware (PUBLIC KEY); NAME.pcr7 beside NAME.pem: the secure boot states that
//	                its boxes start in, a value of PCR 7 in hex a line
type Trust struct {
	Chips    attestation.Authorities
	Boxes    attestation.Authorities
	Releases []Release
}

// Release is a key that releases firmware.
type Release struct {
	Name       string
	Firmware   *attestation.Firmware
	SecureBoot [][]byte // values of PCR 7 that are accepted; none: any
}

// LoadTrust reads the folder; one that is not there adds nothing.
func LoadTrust(dir string) (Trust, error) {
	t := Trust{Chips: makers.Known()}
	if stray, err := filepath.Glob(filepath.Join(dir, "*.pem")); err != nil || len(stray) > 0 {
		return t, errors.Join(err, fmt.Errorf("cannot use %v: put each file into one of the folders makers, emulators, box-makers, intermediates and releases beside it", stray))
	}
	t.Boxes.Intermediates = x509.NewCertPool()
	for _, kind := range []struct {
		folder string
		into   *attestation.Authorities
		class  attestation.Class
	}{{"makers", &t.Chips, attestation.Hardware}, {"emulators", &t.Chips, attestation.Emulated}, {"box-makers", &t.Boxes, attestation.Hardware}} {
		err := pems(filepath.Join(dir, kind.folder), func(path string, data []byte) error {
			m := attestation.Maker{Name: strings.TrimSuffix(filepath.Base(path), ".pem"), Class: kind.class, Roots: x509.NewCertPool()}
			if !m.Roots.AppendCertsFromPEM(data) {
				return errors.New("there is no certificate in it")
			}
			kind.into.Makers = append(kind.into.Makers, m)
			return nil
		})
		if err != nil {
			return t, err
		}
	}
	err := pems(filepath.Join(dir, "intermediates"), func(path string, data []byte) error {
		if !t.Chips.Intermediates.AppendCertsFromPEM(data) || !t.Boxes.Intermediates.AppendCertsFromPEM(data) {
			return errors.New("there is no certificate in it")
		}
		return nil
	})
	if err != nil {
		return t, err
	}
	return t, pems(filepath.Join(dir, "releases"), func(path string, data []byte) error {
		f, err := attestation.ParseFirmware(data, nil)
		if err != nil {
			return err
		}
		r := Release{Name: strings.TrimSuffix(filepath.Base(path), ".pem"), Firmware: f}
		states, err := os.ReadFile(strings.TrimSuffix(path, ".pem") + ".pcr7")
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		for line := range strings.Lines(string(states)) {
			if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			v, err := hex.DecodeString(line)
			if err != nil || len(v) != 32 {
				return fmt.Errorf("%q beside it is not a value of PCR 7, 64 hex digits", line)
			}
			r.SecureBoot = append(r.SecureBoot, v)
		}
		t.Releases = append(t.Releases, r)
		return nil
	})
}

func pems(dir string, do func(path string, data []byte) error) error {
	paths, err := filepath.Glob(filepath.Join(dir, "*.pem"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err == nil {
			err = do(path, data)
		}
		if err != nil {
			return fmt.Errorf("cannot use %s as a trust: %w", path, err)
		}
	}
	return nil
}

// vouched is a TPM that somebody vouches for: its maker, or the maker of the box by way of its initial key.
type vouched struct {
	attestation.Chip
	initial *attestation.LAK
}

// endorsement is the endorsement key to challenge: the first one whose maker vouches for it. Where none does and a maker
// of boxes vouches for the initial key, any endorsement key will do: it tells the chip, and that the deny-list can name it.
func (t Trust) endorsement(p *attestation.Presentation, at time.Time) (attestation.EndorsementKey, vouched, error) {
	why := attestation.ErrNoCertificate
	a := attestation.Authorities{Makers: t.Chips.Makers, Intermediates: chain(t.Chips.Intermediates, p.Chain)}
	for _, ek := range p.Endorsements {
		chip, err := ek.Verify(a, at)
		if err == nil {
			return ek, vouched{Chip: chip}, nil
		}
		if errors.Is(why, attestation.ErrNoCertificate) { // what is found first tells most
			why = err
		}
	}
	if p.Initial != nil && len(p.Endorsements) > 0 {
		lak, chip, err := p.Initial.Verify(attestation.Authorities{Makers: t.Boxes.Makers, Intermediates: chain(t.Boxes.Intermediates, p.Chain)}, at)
		if err == nil {
			return p.Endorsements[0], vouched{chip, lak}, nil
		}
		why = fmt.Errorf("%w; nor is the initial key: %w", why, err)
	}
	if errors.Is(why, attestation.ErrNoCertificate) {
		why = fmt.Errorf("%w; some makers keep it for their chips (%s): fetch it there and give it with --certificate", why, strings.Join(makers.Services(), ", "))
	}
	return attestation.EndorsementKey{}, vouched{}, why
}

var (
	errSecureBoot = errors.New("the box was started in a secure boot state that its release does not name")
	errPolicy     = errors.New("the keys are not bound to firmware that is released here")
)

// policy compares what the keys are bound to with what this facility expects. Without any release the keys must be bound
// to nothing: what a policy that nobody here knows lets through cannot be said.
func (t Trust) policy(pcrs attestation.PCRs, keys ...[]byte) ([]byte, error) {
	for _, k := range keys[1:] {
		if !bytes.Equal(keys[0], k) {
			return nil, fmt.Errorf("%w: they are bound to different firmware", errPolicy)
		}
	}
	if len(t.Releases) == 0 {
		if len(keys[0]) > 0 {
			return nil, fmt.Errorf("%w: their policy is %x and no release key is known; put it into releases/ of the trust folder", errPolicy, keys[0])
		}
		return nil, nil
	}
	state := pcrs[attestation.SecureBootPCR]
	for _, r := range t.Releases {
		want, err := r.Firmware.IdentityPolicy(state)
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(want, keys[0]) {
			continue
		}
		for _, s := range r.SecureBoot {
			if bytes.Equal(s, state) {
				return want, nil
			}
		}
		if len(r.SecureBoot) > 0 {
			return nil, fmt.Errorf("%w: PCR 7 is %x, release %s expects another", errSecureBoot, state, r.Name)
		}
		return want, nil
	}
	return nil, fmt.Errorf("%w: their policy is %x under PCR 7 %x", errPolicy, keys[0], state)
}
