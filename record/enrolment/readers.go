package enrolment

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/durable"
)

// ReaderSet says anew for whom all boxes of a facility seal. A box takes only one with a higher number than it has, so that
// nobody brings back the reader whose key was lost.
type ReaderSet struct {
	Version   int     `json:"version"`
	Facility  string  `json:"facility"`
	Number    uint64  `json:"number"` // 1, 2, …; the readers of a grant stand for 0
	Readers   Readers `json:"readers"`
	PerRecord bool    `json:"per_record"` // a key for each record, instead of one for a patient's epoch
	Signature []byte  `json:"signature"`  // by the authority, ECDSA with SHA-256, ASN.1, over the set without it
}

func (s ReaderSet) signed() ([]byte, error) {
	s.Signature = nil
	b, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(append([]byte("vitalgate/readers/v1\n"), b...))
	return sum[:], nil
}

// Sign puts the authority's signature on the set.
func (s *ReaderSet) Sign(authority crypto.Signer) error {
	sum, err := s.signed()
	if err != nil {
		return err
	}
	s.Signature, err = authority.Sign(rand.Reader, sum, crypto.SHA256)
	return err
}

// ReadReaderSet reads a set and checks that the authority signed it for this facility.
func ReadReaderSet(path, facility string, authority *x509.Certificate) (*ReaderSet, error) {
	var s ReaderSet
	if err := Read(path, "reader set (vitalpeer readers)", &s); err != nil {
		return nil, err
	}
	sum, err := s.signed()
	if err != nil {
		return nil, err
	}
	key, ok := authority.PublicKey.(*ecdsa.PublicKey)
	switch {
	case s.Version != Version:
		err = fmt.Errorf("version is %d, this program knows %d", s.Version, Version)
	case !ok || !ecdsa.VerifyASN1(key, sum, s.Signature):
		err = errors.New("signature: it is not the authority's; the set was changed on its way, or is of another facility")
	case s.Facility != facility:
		err = fmt.Errorf("facility: it is for %s, this is %s", s.Facility, facility)
	case s.Number == 0:
		err = errors.New("number: there is none")
	default:
		_, _, err = s.Readers.Keys()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot use the reader set %s: %w", path, err)
	}
	return &s, nil
}

// Keys are the keys of both sides.
func (r Readers) Keys() (network, patient []record.ReaderKey, err error) {
	if len(r.Network) == 0 {
		return nil, nil, errors.New("readers: there is no network reader, so nobody could read the records")
	}
	for _, side := range []struct {
		name  string
		texts []string
		keys  *[]record.ReaderKey
	}{{"network", r.Network, &network}, {"patient", r.Patient, &patient}} {
		for i, t := range side.texts {
			k, err := record.ParseReaderKey(t)
			if err != nil {
				return nil, nil, fmt.Errorf("readers: key %d of the %s side: %w", i+1, side.name, err)
			}
			*side.keys = append(*side.keys, k)
		}
	}
	return network, patient, nil
}

// Bytes is the file of a set.
func (s *ReaderSet) Bytes() ([]byte, error) {
	b, err := json.MarshalIndent(s, "", "  ")
	return append(b, '\n'), err
}

// Replace puts a set into the place of the one before, whole or not at all, and durably.
func (s *ReaderSet) Replace(path string) error {
	b, err := s.Bytes()
	if err != nil {
		return err
	}
	if err := durable.WriteFile(path, b); err != nil {
		return fmt.Errorf("cannot keep the reader set: %w", err)
	}
	return nil
}
