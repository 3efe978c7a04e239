package appliance

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/vitalgate/vitalgate/firmware/appliance/filesystem"
	"github.com/vitalgate/vitalgate/record/durable"
	"github.com/vitalgate/vitalgate/tpm"
	"github.com/vitalgate/vitalgate/tpm/attestation"
)

// The data partition begins with a MiB in the clear: two copies of the sealed key. What follows is encrypted with it.
const (
	headerBytes = 1 << 20
	copyBytes   = headerBytes / 2
	headerMagic = "VITALGATE DATA 1\n"
)

var headerAt = [2]int64{0, copyBytes}

var (
	errFresh   = errors.New("the data partition is empty")
	errDamaged = errors.New("both copies of the disk's sealed key are damaged; the data cannot be opened any more: reset the box")
)

// head is what stands in the clear.
type head struct {
	Sealed  []byte `json:"sealed"`            // the key, for this box's TPM
	Carried []byte `json:"carried,omitempty"` // files for a file system that is yet to be made, encrypted under the key
}

// readHead reads the head. A partition of zeros was never used, or was wiped; so was one whose first copy did not get on the disk
// whole and whose second was not begun.
func readHead(f io.ReaderAt) (h head, err error) {
	zeros := false
	for _, at := range headerAt {
		b := make([]byte, copyBytes)
		if _, err := f.ReadAt(b, at); err != nil {
			return h, fmt.Errorf("cannot read the head of the data partition: %w", err)
		}
		if body, ok := parseHead(b); ok {
			return h, json.Unmarshal(body, &h)
		}
		zeros = allZero(b)
	}
	if zeros {
		return h, errFresh
	}
	return h, errDamaged
}

func parseHead(b []byte) ([]byte, bool) {
	rest, ok := bytes.CutPrefix(b, []byte(headerMagic))
	if !ok {
		return nil, false
	}
	n := int64(binary.BigEndian.Uint32(rest))
	if n > 1<<16 {
		return nil, false
	}
	body, sum := rest[4:4+n], rest[4+n:4+n+sha256.Size]
	if h := sha256.Sum256(body); !bytes.Equal(h[:], sum) {
		return nil, false
	}
	return body, true
}

func (h head) bytes() ([]byte, error) {
	body, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	b := binary.BigEndian.AppendUint32([]byte(headerMagic), uint32(len(body)))
	sum := sha256.Sum256(body)
	return append(append(b, body...), sum[:]...), nil
}

// writeHead writes both copies, one after the other, so that one is whole at any time.
func writeHead(f *os.File, h head) error {
	b, err := h.bytes()
	if err != nil {
		return err
	}
	for _, at := range headerAt {
		if _, err := f.WriteAt(b, at); err != nil {
			return fmt.Errorf("cannot write the head of the data partition: %w", err)
		}
		if err := f.Sync(); err != nil {
			return fmt.Errorf("cannot write the head of the data partition: %w", err)
		}
	}
	return nil
}

// wipeHead makes the partition one that was never used.
func wipeHead(f *os.File) error {
	if _, err := f.WriteAt(make([]byte, headerBytes), 0); err != nil {
		return fmt.Errorf("cannot wipe the head of the data partition: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("cannot wipe the head of the data partition: %w", err)
	}
	return nil
}

// store is the open data partition.
type store struct {
	device string // of the partition
	fresh  bool   // made in this run
	mended bool   // its superblock was torn
}

// openData unseals the key, opens the disk and mounts it on /data. An empty partition is made: the head comes last, so a power cut
// before leaves it empty.
func openData(ctx context.Context, device string, vault *tpm.Vault, firmware *attestation.Firmware) (*store, error) {
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_SYNC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the data partition: %w", err)
	}
	defer f.Close()
	size, err := deviceBytes(f)
	if err != nil {
		return nil, err
	}
	s := &store{device: device}
	var key []byte
	defer func() { clear(key) }()
	h, err := readHead(f)
	switch {
	case errors.Is(err, errFresh):
		s.fresh = true
		if key, h.Sealed, err = newKey(ctx, vault, firmware); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	default:
		if key, err = vault.Unseal(ctx, h.Sealed, firmware); err != nil {
			return nil, err
		}
		s.fresh = h.Carried != nil
	}
	plain, err := openCrypt(device, headerBytes, size-headerBytes, key)
	if err != nil {
		return nil, err
	}
	if s.fresh {
		if err := filesystem.Make(plain); err != nil {
			return nil, err
		}
	}
	if s.mended, err = filesystem.Mount(plain, dataFolder); err != nil {
		return nil, err
	}
	if s.fresh {
		if err := filesystem.Grow(dataFolder, (size-headerBytes)/filesystem.BlockBytes); err != nil {
			return nil, err
		}
		if err := unpack(h.Carried, key); err != nil {
			return nil, err
		}
		unix.Sync()
		if err := writeHead(f, head{Sealed: h.Sealed}); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// newKey makes the key of the disk: two of 256 bits, for XTS.
func newKey(ctx context.Context, vault *tpm.Vault, firmware *attestation.Firmware) (key, sealed []byte, err error) {
	key = make([]byte, 64)
	rand.Read(key)
	sealed, err = vault.Seal(ctx, key, firmware)
	return key, sealed, err
}

// renew leaves a head with a new key and these files, from which the next start makes the data anew.
func (s *store) renew(ctx context.Context, vault *tpm.Vault, firmware *attestation.Firmware, files map[string][]byte) error {
	key, sealed, err := newKey(ctx, vault, firmware)
	if err != nil {
		return err
	}
	defer clear(key)
	text, err := json.Marshal(files)
	if err != nil {
		return err
	}
	a, err := carriage(key)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(s.device, os.O_RDWR|unix.O_SYNC, 0)
	if err != nil {
		return fmt.Errorf("cannot open the data partition: %w", err)
	}
	defer f.Close()
	return writeHead(f, head{sealed, a.Seal(nil, nil, text, nil)})
}

// carriage encrypts what is carried over. Its nonce is in the ciphertext.
func carriage(key []byte) (cipher.AEAD, error) {
	k, err := hkdf.Key(sha256.New, key, nil, "vitalgate: carried over a reset", 32)
	if err != nil {
		return nil, err
	}
	c, err := aes.NewCipher(k)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(c)
}

// unpack puts the carried files into the box's new folder.
func unpack(carried, key []byte) error {
	if err := os.MkdirAll(boxFolder, 0o700); err != nil {
		return fmt.Errorf("cannot make the box's folder: %w", err)
	}
	if carried == nil {
		return nil
	}
	a, err := carriage(key)
	if err != nil {
		return err
	}
	text, err := a.Open(nil, nil, carried, nil)
	if err != nil {
		return fmt.Errorf("cannot read what was carried over the reset: %w", err)
	}
	files := map[string][]byte{}
	if err := json.Unmarshal(text, &files); err != nil {
		return fmt.Errorf("cannot read what was carried over the reset: %w", err)
	}
	for name, b := range files {
		if err := durable.WriteFile(filepath.Join(boxFolder, filepath.Base(name)), b); err != nil {
			return fmt.Errorf("cannot put back what was carried over the reset: %w", err)
		}
	}
	return nil
}

// wipe ends the life of the data: the sealed key goes from the disk.
func (s *store) wipe() error {
	f, err := os.OpenFile(s.device, os.O_RDWR|unix.O_SYNC, 0)
	if err != nil {
		return fmt.Errorf("cannot open the data partition: %w", err)
	}
	defer f.Close()
	return wipeHead(f)
}
