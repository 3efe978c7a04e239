package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vitalgate/vitalgate/peer/facility"
	"github.com/vitalgate/vitalgate/peer/peertest"
	"github.com/vitalgate/vitalgate/peer/store"
)

// What docs/peer/README.md tells whoever runs a peer: after each fault of a ward's disk it is whole again from the hub, by nothing but
// what stands there. The ward never scrubs by itself here, so what mends it is what is done.
func TestStoresAreMended(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	ward := hub.ward("ward1")
	box := peertest.NewBox(t, "f1/gw1")
	hub.enrol(box, ward)
	ward.flags = []string{"--scrub", "0s"}
	hub.start()
	ward.start()
	for range 6 {
		ward.send(box, box.Record(10))
	}
	hub.has(box)
	ward.has(box)
	log := store.LogDir(ward.dir.Store(), box.ID)
	old := filepath.Join(t.TempDir(), "old")
	program(t, "backup", "--data", string(ward.dir), "-o", old)
	segment := func() string {
		t.Helper()
		files, err := filepath.Glob(filepath.Join(log, "*.log"))
		if err != nil || len(files) == 0 {
			t.Fatal(files, err)
		}
		return files[0]
	}
	flip := func() {
		t.Helper()
		name := segment()
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		info, err := f.Stat()
		if err == nil {
			_, err = f.WriteAt(make([]byte, 2048), info.Size()/2)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	whole := func(what string) {
		t.Helper()
		ward.send(box, box.Record(5)) // the monitor goes on
		ward.has(box)
		tryProgram("verify", "--data", string(ward.dir)) // finds what is damaged, and the peer asks for it
		ward.until(what+": the peer is well", func() bool { return len(ward.says().Conditions) == 0 })
		program(t, "verify", "--data", string(ward.dir))
		ward.same(box)
		program(t, "fsck", "--data", string(ward.dir))
		t.Log(what + ": whole again")
	}

	flip()
	if out, err := tryProgram("fsck", "--data", string(ward.dir)); err == nil || !strings.Contains(out, "NOT clean") {
		t.Errorf("fsck of a damaged store: %v %s", err, out)
	}
	damaged := filepath.Join(t.TempDir(), "damaged")
	if out, err := tryProgram("backup", "--data", string(ward.dir), "-o", damaged); err == nil || !strings.Contains(err.Error(), "are damaged") {
		t.Errorf("backup of a damaged store: %v %s", err, out)
	}
	whole("flipped while it runs")

	ward.stop()
	flip()
	ward.start()
	whole("flipped while it stood")

	ward.stop()
	info, err := os.Stat(segment())
	must(err)
	must(os.Truncate(segment(), info.Size()/3))
	ward.start()
	whole("cut short")

	// The first file of several is gone: a log that begins later is no log, and is said to be none.
	ward.stop()
	must(os.Remove(segment()))
	if out, err := tryProgram("fsck", "--data", string(ward.dir)); err == nil || !strings.Contains(out, "are gone with the files") {
		t.Errorf("fsck of a log without its beginning: %v %s", err, out)
	}
	ward.start()
	if got := ward.conditionsOf(box); !slices.Contains(got, "store-failed") {
		t.Errorf("of a log without its beginning it says %v", got)
	}
	ward.stop()
	must(os.Rename(log, filepath.Join(t.TempDir(), "elsewhere")))
	ward.start()
	whole("the beginning gone")

	ward.stop()
	must(os.RemoveAll(string(ward.dir.Store())))
	must(os.CopyFS(string(ward.dir.Store()), os.DirFS(string(facility.Dir(old).Store()))))
	ward.start()
	whole("an old store copied back")

	// The disk is gone, and the backup is a damaged one.
	ward.kill()
	must(os.RemoveAll(string(ward.dir)))
	if out, err := tryProgram("restore", damaged, "--data", string(ward.dir)); err == nil || !strings.Contains(out, "is restored") {
		t.Errorf("restore of a damaged backup: %v %s", err, out)
	}
	ward.start()
	whole("restored from a damaged backup")

	// A file goes while the peer runs, and the next scrub says so.
	ward.stop()
	ward.flags = []string{"--scrub", "300ms"}
	ward.start()
	must(os.Remove(segment()))
	ward.until("it is said", func() bool { return slices.Contains(ward.conditionsOf(box), "store-damaged") })
	ward.stop()
}
