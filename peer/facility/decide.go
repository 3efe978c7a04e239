package facility

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/vitalgate/vitalgate/peer/registry"
	"github.com/vitalgate/vitalgate/record"
)

// found begins the registry of a new facility: with the genesis that several administrators have signed, or with a new
// administrator who decides alone and whose key stays in this folder.
func (d Dir) found(c *Config, genesis []byte) error {
	if genesis != nil {
		n, err := registry.Parse(genesis)
		if err != nil {
			return fmt.Errorf("cannot use the genesis: %w", err)
		}
		if n.Entry.Facility != c.Facility {
			return fmt.Errorf("cannot use the genesis: it is of facility %s, not of %s", n.Entry.Facility, c.Facility)
		}
		return d.Registry().Found(genesis)
	}
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	text, err := EncodeSigner(key)
	if err != nil {
		return err
	}
	a, err := registry.NewAdministrator("administrator", public)
	if err != nil {
		return err
	}
	n, err := Genesis(c.Facility, []registry.Administrator{a}, 1)
	if err != nil {
		return err
	}
	if err := n.Sign(a, key); err != nil {
		return err
	}
	return errors.Join(put(d.AdministratorKey(), 0o600, text), d.Registry().Found(n.Bytes()))
}

// Genesis is the beginning of a registry, for its administrators to sign.
func Genesis(facility string, all []registry.Administrator, threshold int) (*registry.Note, error) {
	if !(record.BoxID{Facility: facility, Name: "x"}).Valid() {
		return nil, fmt.Errorf("cannot begin a registry: facility %q is not 1 to 32 of a-z, 0-9 and -", facility)
	}
	return registry.Propose(registry.Entry{Facility: facility, Before: (record.Tree{}).Root(), Time: time.Now().UTC().Truncate(time.Second),
		Decision: &registry.Genesis{Administrators: all, Threshold: threshold}})
}

// EncodeSigner is the file form of an administrator's key.
func EncodeSigner(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return []byte(encode("PRIVATE KEY", der)), err
}

// ReadSigner reads the file of an administrator's key. It refuses one that others could have read.
func ReadSigner(path string) (crypto.Signer, error) {
	b, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	k, err := registry.ParseSigner(b)
	if err != nil {
		return nil, fmt.Errorf("cannot use the administrator's key %s: it %w", path, err)
	}
	return k, nil
}

// Decide makes the next entry of the registry and signs it with the administrator's key in the file, by default the one
// in this folder, if there is one. enough says whether that is all it needs.
func (d Dir) Decide(decision registry.Decision, keyFile string) (n *registry.Note, enough bool, err error) {
	log, err := d.Registry().Open()
	if err != nil {
		return nil, false, err
	}
	if n, err = log.Propose(decision); err != nil {
		return nil, false, err
	}
	if keyFile == "" {
		keyFile = d.AdministratorKey()
	}
	key, err := ReadSigner(keyFile)
	if errors.Is(err, fs.ErrNotExist) && keyFile == d.AdministratorKey() {
		return n, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	s := log.State()
	a, err := Holder(s.Administrators, key)
	if err != nil {
		return nil, false, err
	}
	if err := n.Sign(a, key); err != nil {
		return nil, false, err
	}
	return n, s.Needs(decision) <= 1, nil
}

// Holder is the administrator whose key this is.
func Holder(all []registry.Administrator, key crypto.Signer) (registry.Administrator, error) {
	for _, a := range all {
		if same, err := registry.NewAdministrator(a.Name, key.Public()); err == nil && same == a {
			return a, nil
		}
	}
	return registry.Administrator{}, errors.New("cannot sign: the key is of none of the administrators; vitalpeer registry show names them")
}

// Enact decides and takes the decision into the registry. No peer runs on the folder.
func (d Dir) Enact(decision registry.Decision) error {
	n, enough, err := d.Decide(decision, "")
	if err != nil {
		return err
	}
	if !enough {
		return fmt.Errorf("cannot decide %s: other administrators must sign it too", decision.Kind())
	}
	log, err := d.Registry().Open()
	if err != nil {
		return err
	}
	return log.Append(n.Bytes())
}
