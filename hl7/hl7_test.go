package hl7

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCorpus reads every message of a corpus folder: each is read or refused
// with an *Error, what was read is written again byte for byte and can be answered.
func TestCorpus(t *testing.T) {
	dir := os.Getenv("VITALGATE_CORPUS")
	if dir == "" {
		t.Skip("VITALGATE_CORPUS does not point to a corpus of messages")
	}
	files, read, refused := 0, 0, 0
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".hl7") {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		for _, token := range split(t, bytes.NewReader(raw)) {
			m, err := Parse([]byte(token))
			if err != nil {
				if _, ok := errors.AsType[*Error](err); !ok {
					t.Errorf("%s: the error is a %T", path, err)
				}
				refused++
				continue
			}
			read++
			checkMessage(t, m)
			ack, err := Parse(AppendAck(nil, m, AA, when, "1"))
			if err != nil || !bytes.Equal(ack.Segment(1).Field(2).Raw(), m.Header().Field(10).Raw()) {
				t.Errorf("%s: cannot be answered: %v", path, err)
			}
		}
		if m, err := Parse(raw); err == nil {
			checkMessage(t, m)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d files, %d messages read, %d refused with a reason", files, read, refused)
	if read == 0 {
		t.Fatal("no message was read")
	}
}
