package hl7

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCorpus reads every message of a corpus folder: each is read or refused
// with an *Error, and what was read is written again byte for byte.
func TestCorpus(t *testing.T) {
	dir := os.Getenv("VITALGATE_CORPUS")
	if dir == "" {
		t.Skip("VITALGATE_CORPUS does not point to a corpus of messages")
	}
	read, refused := 0, 0
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".hl7") {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		m, err := Parse(raw)
		if err != nil {
			if _, ok := errors.AsType[*Error](err); !ok {
				t.Errorf("%s: the error is a %T", path, err)
			}
			refused++
			return nil
		}
		read++
		checkMessage(t, m)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d read, %d refused with a reason", read, refused)
	if read == 0 {
		t.Fatal("no message was read")
	}
}
