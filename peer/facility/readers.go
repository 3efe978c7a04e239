package facility

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/enrolment"
)

func (d Dir) ReaderSet() string { return d.at("keys", "readers.json") } // the last set that was signed; absent: that of the grants

// readerKeys are the files of the private reader keys: the facility's first, and those of the sets after it, in order.
func (d Dir) readerKeys() []string {
	more, _ := filepath.Glob(d.at("keys", "reader-*.key")) // the pattern is a constant
	return append([]string{d.ReaderKey()}, more...)
}

// rotatedKey is the private reader key of a set.
func (d Dir) rotatedKey(set uint64) string { return d.at("keys", fmt.Sprintf("reader-%06d.key", set)) }

// readers are those that boxes seal for now, and the number of their set: the last that was signed, or 0, the facility's first key.
func (d Dir) readers(c *Config, ca *authority) (enrolment.Readers, uint64, error) {
	set, err := enrolment.ReadReaderSet(d.ReaderSet(), c.Facility, ca.cert)
	if err == nil {
		return set.Readers, set.Number, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return enrolment.Readers{}, 0, err
	}
	first, err := os.ReadFile(d.Reader())
	if err != nil {
		return enrolment.Readers{}, 0, fmt.Errorf("cannot read the facility's reader key: %w", err)
	}
	return enrolment.Readers{Network: []string{strings.TrimSpace(string(first))}, Patient: []string{}}, 0, nil
}

// Opener opens sealed records with the peer's reader keys, of all sets that it has; nil where it has none.
func (d Dir) Opener() (*record.Opener, error) {
	var secrets []record.ReaderSecret
	for _, path := range d.readerKeys() {
		b, err := readSecret(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		k, err := record.ParseReaderSecret(strings.TrimSpace(string(b)))
		if err != nil {
			return nil, fmt.Errorf("cannot use the reader key %s: %w", path, err)
		}
		secrets = append(secrets, k)
	}
	if len(secrets) == 0 {
		return nil, nil
	}
	return record.NewOpener(secrets...), nil
}

// ReaderMark changes when a reader key comes to the folder or goes: a running peer then takes Opener anew.
func (d Dir) ReaderMark() string { return strings.Join(d.readerKeys(), "\n") }

// Rotate makes a new reader key for the network side and signs the set of readers that all boxes of the facility are to seal
// for from now on: this key, and those of the patient side. What was sealed before opens with the keys before, which stay.
func Rotate(d Dir, c *Config, patient []string, perRecord bool) (*enrolment.ReaderSet, string, error) {
	ca, err := d.authority()
	if err != nil {
		return nil, "", err
	}
	_, last, err := d.readers(c, ca)
	if err != nil {
		return nil, "", err
	}
	number := last + 1
	secret, err := record.GenerateReaderKey()
	if err != nil {
		return nil, "", err
	}
	if patient == nil {
		patient = []string{}
	}
	set := &enrolment.ReaderSet{Version: enrolment.Version, Facility: c.Facility, Number: number, PerRecord: perRecord,
		Readers: enrolment.Readers{Network: []string{secret.Public().String()}, Patient: patient}}
	if _, _, err := set.Readers.Keys(); err != nil {
		return nil, "", err
	}
	if err := set.Sign(ca.key); err != nil {
		return nil, "", fmt.Errorf("cannot sign the reader set: %w", err)
	}
	key := d.rotatedKey(number)
	if err := put(key, 0o600, []byte(secret.Text()+"\n")); err != nil { // the key first: no box may seal for one that nobody has
		return nil, "", err
	}
	return set, key, set.Replace(d.ReaderSet())
}
