package enrol

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/enrolment"
)

// ReadersFile is where the box keeps the last set of readers that it took.
func ReadersFile(dir string) string { return filepath.Join(dir, "readers.json") }

// Readers is the set of readers that the box seals for: the last one it took, else that of its grant, as number 0.
func Readers(grantPath string, box record.BoxID, dir string) (*enrolment.ReaderSet, error) {
	g, err := enrolment.ReadGrant(grantPath)
	if err != nil {
		return nil, err
	}
	path := ReadersFile(dir)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return &enrolment.ReaderSet{Version: enrolment.Version, Facility: box.Facility, Readers: g.Readers}, nil
	}
	ca, err := enrolment.ParseCertificate(g.CA)
	if err != nil {
		return nil, err
	}
	return enrolment.ReadReaderSet(path, box.Facility, ca)
}

// ErrSameReaders says that a set is the very one that the box has.
var ErrSameReaders = errors.New("the box has this very set already")

// NewReaders reads a set of readers from the facility, which must be newer than what the box has.
func NewReaders(file, grantPath string, box record.BoxID, dir string) (*enrolment.ReaderSet, error) {
	have, err := Readers(grantPath, box, dir)
	if err != nil {
		return nil, err
	}
	g, err := enrolment.ReadGrant(grantPath)
	if err != nil {
		return nil, err
	}
	ca, err := enrolment.ParseCertificate(g.CA)
	if err != nil {
		return nil, err
	}
	set, err := enrolment.ReadReaderSet(file, box.Facility, ca)
	if err != nil {
		return nil, err
	}
	switch {
	case set.Number == have.Number && bytes.Equal(set.Signature, have.Signature):
		return nil, fmt.Errorf("cannot take reader set %d: %w", set.Number, ErrSameReaders)
	case set.Number <= have.Number:
		return nil, fmt.Errorf("cannot take reader set %d: this box has %d and takes only newer ones; get the latest from the facility (vitalpeer readers show)", set.Number, have.Number)
	}
	return set, nil
}

// TakeReaders takes a new set of readers.
func TakeReaders(file, grantPath string, box record.BoxID, dir string) (*enrolment.ReaderSet, error) {
	set, err := NewReaders(file, grantPath, box, dir)
	if err != nil {
		return nil, err
	}
	return set, set.Replace(ReadersFile(dir))
}
