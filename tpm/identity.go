package tpm

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// keyName names a key in the identity file and in errors.
type keyName string

const (
	srkKey  keyName = "srk"
	dataKey keyName = "data"
	tlsKey  keyName = "tls"
	lakKey  keyName = "lak"
)

const identityFile = "identity.json"

// identity is what the box remembers of its keys: how to authorise their use, and which they are, so that another chip,
// a cleared one or a lost swtpm is noticed and never silently becomes a new identity.
type identity struct {
	Version int    `json:"version"`
	Source  string `json:"source"` // "device", "swtpm", "software"
	// Auth is the authorisation value of every key and of the counter: 32 hex characters, written before the keys are
	// made. Hex because it may hold no zero byte: the TPM strips trailing ones (part 1 §19.6.5) and go-tpm cuts at the first.
	Auth string `json:"auth,omitempty"`
	// Keys are the Names of the keys (TPM2B_NAME, part 1 §16), or SHA-256 of the SPKI for a software key, in hex. Empty
	// until all are made.
	Keys map[keyName]string `json:"keys,omitempty"`
	// Areas are the public areas of the keys of a TPM (TPMT_PUBLIC): with them the box knows its public keys while the TPM
	// is not there.
	Areas map[keyName][]byte `json:"areas,omitempty"`
	// Emulator says that the device has called itself one.
	Emulator bool `json:"emulator,omitempty"`

	path string
}

// readIdentity returns an empty identity when dir has none yet.
func readIdentity(dir string) (*identity, error) {
	id := &identity{path: filepath.Join(dir, identityFile)}
	data, err := readSecret(id.path)
	if errors.Is(err, fs.ErrNotExist) {
		return id, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, id); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w; restore it from a backup, or move %s away and enrol the box anew", id.path, err, dir)
	}
	if id.Version != 1 {
		return nil, fmt.Errorf("cannot read %s: its version is %d, this program knows version 1", id.path, id.Version)
	}
	switch id.Source {
	case "device", "swtpm":
		if b, err := hex.DecodeString(id.Auth); err != nil || len(b) != 16 {
			return nil, fmt.Errorf("cannot read %s: auth is not 32 hex characters; restore the file from a backup, or move %s away and enrol the box anew", id.path, dir)
		}
	case "software":
	default:
		return nil, fmt.Errorf("cannot read %s: the source %q is unknown", id.path, id.Source)
	}
	return id, nil
}

// begin starts an identity: from here on its authorisation value is on the disk.
func (id *identity) begin(source string) error {
	if id.Source != "" {
		return nil
	}
	id.Version, id.Source = 1, source
	if source != "software" {
		id.Auth = hex.EncodeToString(random(16))
	}
	return id.save()
}

func (id *identity) save() error {
	data, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	return writeSecret(id.path, append(data, '\n'))
}

// check compares the keys that were found with those remembered; the first complete set is remembered.
func (id *identity) check(found map[keyName]string, where string) error {
	if id.Keys == nil {
		id.Keys = found
		return id.save()
	}
	for _, name := range []keyName{dataKey, tlsKey, lakKey, srkKey} {
		if id.Keys[name] != found[name] {
			return fmt.Errorf("cannot use the TPM (%s): its %s key is not the one in %s, the TPM was replaced or cleared; put the old one back, or move %s away and enrol the box anew: %w",
				where, name, id.path, filepath.Dir(id.path), ErrIdentity)
		}
	}
	return nil
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails (crypto/rand)
	return b
}

// readSecret reads a file that only its owner may read.
func readSecret(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("cannot use %s: others may read it (mode %04o); run: chmod 600 %s", path, st.Mode().Perm(), path)
	}
	if st.Size() > 1<<16 {
		return nil, fmt.Errorf("cannot use %s: %d bytes are too many", path, st.Size())
	}
	return os.ReadFile(path)
}

// writeSecret replaces a file as a whole: after a power cut it is the old one or the new one.
func writeSecret(path string, data []byte) error {
	if err := replace(path, data); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}

func replace(path string, data []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
