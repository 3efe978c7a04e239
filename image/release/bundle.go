package release

import (
	"archive/tar"
	"bytes"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/vitalgate/vitalgate/image/disk"
)

// WriteBundle makes an update bundle: a tar of manifest, signature and slot, in this order, so that a box can judge the
// release before it reads the slot.
func WriteBundle(w io.Writer, text, signature, slot []byte) error {
	t := tar.NewWriter(w)
	for _, e := range []struct {
		name string
		b    []byte
	}{{ManifestName, text}, {SignatureName, signature}, {SlotName, slot}} {
		h := tar.Header{Name: e.name, Mode: 0o444, Size: int64(len(e.b)), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		if err := t.WriteHeader(&h); err != nil {
			return fmt.Errorf("cannot write the bundle: %w", err)
		}
		if _, err := t.Write(e.b); err != nil {
			return fmt.Errorf("cannot write the bundle: %w", err)
		}
	}
	return t.Close()
}

// Bundle is an update whose manifest has been verified. Slot gives the bytes that File describes; who reads them checks the hash.
type Bundle struct {
	Manifest        *Manifest
	Text, Signature []byte // of the manifest
	File            File
	Slot            io.Reader
}

// OpenBundle reads a bundle as far as the beginning of the slot.
func OpenBundle(r io.Reader, key *ecdsa.PublicKey) (*Bundle, error) {
	t := tar.NewReader(r)
	text, err := entry(t, ManifestName, 1<<20)
	if err != nil {
		return nil, err
	}
	signature, err := entry(t, SignatureName, 256)
	if err != nil {
		return nil, err
	}
	m, err := Open(text, signature, key)
	if err != nil {
		return nil, err
	}
	f, err := m.File(SlotName)
	if err != nil {
		return nil, err
	}
	h, err := t.Next()
	if err != nil || h.Name != SlotName || h.Size != f.Size || f.Size > disk.SlotBytes {
		return nil, fmt.Errorf("cannot read the bundle of release %s: its slot is missing or has another size than the manifest says", m.Version)
	}
	return &Bundle{m, text, signature, f, t}, nil
}

func entry(t *tar.Reader, name string, most int64) ([]byte, error) {
	h, err := t.Next()
	switch {
	case errors.Is(err, io.EOF) || err == nil && h.Name != name:
		return nil, fmt.Errorf("cannot read the bundle: %s is not where it must be; is this file an update bundle (%s)?", name, BundleName)
	case err != nil:
		return nil, fmt.Errorf("cannot read the bundle: %w; is this file an update bundle (%s)?", err, BundleName)
	case h.Size > most:
		return nil, fmt.Errorf("cannot read the bundle: %s is longer than %d bytes", name, most)
	}
	var b bytes.Buffer
	if _, err := io.Copy(&b, t); err != nil {
		return nil, fmt.Errorf("cannot read the bundle: %w", err)
	}
	return b.Bytes(), nil
}
