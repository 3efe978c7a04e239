package maintain_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vitalgate/vitalgate/firmware/maintain"
	"github.com/vitalgate/vitalgate/provision/protocol"
)

// The power may go at any moment of a reset: the box is then nobody's, or its owner is still let in.
func TestResetCutShortLocksNobodyOut(t *testing.T) {
	b, f := open(t, nil), newFacility(t)
	b.enrolled(t, f)
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.InotifyAddWatch(fd, b.dir, unix.IN_DELETE); err != nil {
		t.Fatal(err)
	}
	if status, answer := b.as(b.Label(), f.tool(t, nil))("POST", protocol.PathReset, protocol.Reset{NewLabel: true}); status != 200 {
		t.Fatalf("%d %s", status, answer)
	}
	events := make([]byte, 1<<16)
	n, err := unix.Read(fd, events)
	if err != nil {
		t.Fatal(err)
	}
	var gone []string
	for events = events[:n]; len(events) >= unix.SizeofInotifyEvent; { // inotify(7)
		name := events[unix.SizeofInotifyEvent:][:binary.NativeEndian.Uint32(events[12:])]
		gone = append(gone, string(bytes.TrimRight(name, "\x00")))
		events = events[unix.SizeofInotifyEvent+len(name):]
	}
	order := []int{}
	for _, name := range []string{"data", "config.toml", "grant.json"} {
		order = append(order, slices.Index(gone, name))
	}
	if order[0] < 0 || !slices.IsSorted(order) {
		t.Errorf("the reset removed %q: the keys must go first and the grant last", gone)
	}
	for _, name := range []string{"link.key", "claim"} {
		if slices.Index(gone, name) < slices.Index(gone, "config.toml") {
			t.Errorf("the reset removed %q: without the old label the owner does not find an owned box", gone)
		}
	}
}

// What a power cut left of a trial does not stay.
func TestLeftoversGo(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"trial-123/grant.json", "config.toml.new"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("left"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b := open(t, func(o *maintain.Box) { o.Dir = dir })
	if b.Owned() {
		t.Error("a file that was being written makes the box owned")
	}
	for _, pattern := range []string{"trial-*", "*.new"} {
		if left, err := filepath.Glob(filepath.Join(dir, pattern)); err != nil || len(left) > 0 {
			t.Errorf("%q are left: %v", left, err)
		}
	}
}
