package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/vitalgate/vitalgate/record"
)

// Bounds of what is set aside per box. Beyond them it is only counted.
const (
	maxAsideFiles = 10000
	maxAsideBytes = 256 << 20
)

// aside is a bounded folder of what was refused: the bytes as they came, and a note beside them. It is best effort: that
// it cannot be written stops nothing.
type aside struct {
	dir              string
	maxFiles, maxAll int

	full atomic.Bool // something was not kept

	mu    sync.Mutex
	ready bool
	files int
	bytes int
}

func newAside(dir string, files, bytes int) *aside {
	return &aside{dir: dir, maxFiles: files, maxAll: bytes}
}

// Note says why something was set aside.
type Note struct {
	Box    string    `json:"box"`
	Reason string    `json:"reason"`
	What   string    `json:"what"`
	From   string    `json:"from"` // "stream seq-17", "peer ward1"
	At     time.Time `json:"at"`
}

// put keeps data and note under name, once.
func (a *aside) put(name string, note any, files map[string][]byte) (kept bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.ready {
		if err := os.MkdirAll(a.dir, 0o700); err != nil {
			return false, err
		}
		entries, err := os.ReadDir(a.dir)
		if err != nil {
			return false, err
		}
		for _, e := range entries {
			if i, err := e.Info(); err == nil {
				a.files++
				a.bytes += int(i.Size())
			}
		}
		a.ready = true
	}
	size := 0
	for _, b := range files {
		size += len(b)
	}
	if a.files+1+len(files) > a.maxFiles || a.bytes+size > a.maxAll {
		a.full.Store(true)
		return false, nil
	}
	text, err := json.MarshalIndent(note, "", "  ")
	if err != nil {
		return false, err
	}
	for ext, b := range files {
		if err := a.create(name+ext, b); err != nil {
			return false, err
		}
	}
	return true, a.create(name+".json", append(text, '\n'))
}

// create makes a file, which others see whole or not at all.
func (a *aside) create(name string, b []byte) error {
	path := filepath.Join(a.dir, name)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return err // nil where the same record came again
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	a.files++
	a.bytes += len(b)
	return os.Rename(path+".new", path)
}

// refuse sets a message aside.
func (b *Box) refuse(from string, m Message, reason record.Reason, what string) {
	b.refused(reason)
	_, err := b.aside.put(m.Label+"."+string(reason), Note{b.ID.String(), string(reason), what, from, time.Now().UTC()}, map[string][]byte{".bin": m.Data})
	if err != nil {
		b.count("quarantine-failed")
	}
}

func (b *Box) refused(reason record.Reason) {
	metrics.GetOrCreateCounter(fmt.Sprintf(`vitalpeer_refused_total{box=%q,reason=%q}`, b.ID, reason)).Inc()
}

// Refuse sets aside a stored record that a later check found wanting.
func (b *Box) Refuse(v record.Verified, reason record.Reason, what string) {
	data, err := v.Published().AppendBinary(nil)
	if err == nil {
		b.refuse("store", indexed(Message{Data: data}, v.Header().Index), reason, what)
	}
}
