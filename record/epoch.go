package record

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"unsafe"
)

// A side is one part of the key of an epoch. Any one reader of a side recovers its share; the key needs the share of every
// side that the epoch has.
type side string

const (
	sideNetwork side = "network"
	sidePatient side = "patient"
)

const (
	epochMagic = "vitalgate/epoch/v1"
	epochSuite = "hpke 647a 0001 0002" // RFC 9180 numbers: KEM X-Wing, KDF HKDF-SHA256, AEAD AES-256-GCM
	shareSize  = 32
	maxReaders = 64 // on both sides together
)

// sealedShare is one line of the body of an epoch leaf.
type sealedShare struct {
	side   side
	reader string // ReaderKey.ID
	sealed []byte // HPKE encapsulated key and ciphertext of the share
}

// shareInfo binds a sealed share to its box, epoch, side and reader.
func shareInfo(box BoxID, epoch uint64, s side, reader string) []byte {
	return fmt.Appendf(nil, "vitalgate/share/v1\n%s\n%d\n%s\n%s\n", box, epoch, s, reader)
}

// newEpoch makes the body of an epoch leaf and the shares that are sealed in it.
func newEpoch(box BoxID, index uint64, network, patient []ReaderKey) (body, shares []byte, err error) {
	body = []byte(epochMagic + "\n" + epochSuite + "\n")
	for _, s := range []struct {
		side    side
		readers []ReaderKey
	}{{sideNetwork, network}, {sidePatient, patient}} {
		if len(s.readers) == 0 {
			continue
		}
		var share [shareSize]byte
		rand.Read(share[:])
		for _, r := range s.readers {
			sealed, err := hpke.Seal(r.pub, kdf, aead, shareInfo(box, index, s.side, r.id), share[:])
			if err != nil {
				return nil, nil, fmt.Errorf("cannot seal the epoch key to reader %s: %w", r.id, err)
			}
			body = fmt.Appendf(body, "share %s %s %s\n", s.side, r.id, base64.StdEncoding.EncodeToString(sealed))
		}
		shares = append(shares, share[:]...)
		clear(share[:])
	}
	return body, shares, nil
}

// parseEpoch reads the body of an epoch leaf: the suite, and shares of the network side before those of the patient side.
func parseEpoch(body []byte) ([]sealedShare, error) {
	lines := lineReader{rest: string(body)}
	if lines.next() != epochMagic || lines.next() != epochSuite {
		return nil, errors.New("cannot read epoch: its version or its suite is unknown")
	}
	again := []byte(epochMagic + "\n" + epochSuite + "\n")
	var shares []sealedShare
	for lines.rest != "" {
		f := strings.Split(lines.next(), " ")
		if len(f) != 4 || f[0] != "share" || len(f[2]) != 16 || len(shares) == maxReaders {
			return nil, errors.New("cannot read epoch: a share is malformed")
		}
		sealed, err := base64.StdEncoding.Strict().DecodeString(f[3])
		s := sealedShare{side(f[1]), f[2], sealed}
		if err != nil || s.side != sideNetwork && (s.side != sidePatient || len(shares) == 0) ||
			s.side == sideNetwork && len(shares) > 0 && shares[len(shares)-1].side != sideNetwork {
			return nil, errors.New("cannot read epoch: a share is malformed or not at its place")
		}
		shares = append(shares, s)
		again = fmt.Appendf(again, "share %s %s %s\n", s.side, s.reader, base64.StdEncoding.EncodeToString(sealed))
	}
	if len(shares) == 0 || !bytes.Equal(again, body) {
		return nil, errors.New("cannot read epoch: it has no share or is not in its canonical form")
	}
	return shares, nil
}

// contentKey derives the key of an epoch from the shares of its sides, the network's first. The whole epoch leaf is the salt,
// so that no other list of readers, patient or time can be put around the same shares.
func contentKey(shares []byte, leaf Leaf, box BoxID, epoch uint64) (cipher.AEAD, error) {
	salt := sha256.Sum256(leaf)
	key, err := hkdf.Key(sha256.New, shares, salt[:], fmt.Sprintf("vitalgate/cek/v1\n%s\n%d\n", box, epoch), 32)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	defer wipe(block)
	return cipher.NewGCM(block)
}

// nonce is the index of the record. An epoch never seals two records at one index, so no nonce meets the same key twice.
func nonce(index uint64) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 4, 12), index)
}

// wipe overwrites the key schedule inside a cipher of the standard library, which has no call for it.
func wipe(cipher any) {
	v := reflect.ValueOf(cipher)
	if v.Kind() == reflect.Pointer && v.Elem().Kind() == reflect.Struct && strings.HasPrefix(v.Elem().Type().PkgPath(), "crypto/") {
		clear(unsafe.Slice((*byte)(v.UnsafePointer()), v.Elem().Type().Size()))
	}
}
