package update

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vitalgate/vitalgate/image/disk"
	"github.com/vitalgate/vitalgate/image/efi"
	"github.com/vitalgate/vitalgate/image/release"
)

// machine is a box as an updater sees it: boot entries, two slots, a rollback index. A restart starts what firmware would start.
type machine struct {
	t         *testing.T
	key       *ecdsa.PrivateKey
	current   Slot
	committed Slot
	next      Slot // BootNext
	slots     map[Slot]*medium
	lowest    uint64
	note      string
}

func (m *machine) Current() (Slot, error)   { return m.current, nil }
func (m *machine) Committed() (Slot, error) { return m.committed, nil }
func (m *machine) Try(s Slot) error         { m.next = s; return nil }
func (m *machine) Commit(s Slot) error      { m.committed = s; return nil }

// errCut is a power cut.
var errCut = errors.New("power cut")

// medium is a slot: what was written is there only after Sync, and a cut in between leaves any part of it.
type medium struct {
	durable, cache []byte
	cut            int // writes and syncs until the power goes; -1 never
}

func (d *medium) step() error {
	if d.cut == 0 {
		return errCut
	}
	d.cut--
	return nil
}

func (d *medium) WriteAt(b []byte, at int64) (int, error) {
	if err := d.step(); err != nil {
		copy(d.durable[at:], b[:len(b)/2]) // a torn write
		return 0, err
	}
	return copy(d.cache[at:], b), nil
}

func (d *medium) Sync() error {
	if err := d.step(); err != nil {
		return err
	}
	copy(d.durable, d.cache)
	return nil
}

func (d *medium) ReadAt(b []byte, at int64) (int, error) { return copy(b, d.durable[at:]), nil }
func (d *medium) Forget() error                          { return nil }
func (d *medium) Close() error                           { return nil }

func newMachine(t *testing.T) *machine {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, key: key, current: A, committed: A, slots: map[Slot]*medium{}, note: filepath.Join(t.TempDir(), "update.json")}
	for _, s := range []Slot{A, B} {
		m.slots[s] = &medium{durable: make([]byte, 4<<20), cache: make([]byte, 4<<20), cut: -1}
	}
	return m
}

func (m *machine) updater(version string, index uint32) *Updater {
	return &Updater{Slots: m, Open: func(s Slot) (Mount, error) { return m.slots[s], nil }, Key: &m.key.PublicKey,
		Running:  release.Running{Version: version, RollbackIndex: index},
		Rollback: func(context.Context) (uint64, error) { return m.lowest, nil },
		Raise:    func(_ context.Context, to uint64) error { m.lowest = max(m.lowest, to); return nil },
		Note:     m.note, Log: slog.New(slog.DiscardHandler)}
}

// restart is what firmware does.
func (m *machine) restart() {
	m.current, m.next = m.committed, ""
}

func (m *machine) restartIntoNext() {
	if m.next == "" {
		m.restart()
		return
	}
	if m.bootable(m.next) {
		m.current = m.next
	} else {
		m.current = m.committed
	}
	m.next = ""
}

// bootable says whether firmware finds a file system in the slot.
func (m *machine) bootable(s Slot) bool {
	d := m.slots[s].durable
	return d[510] == 0x55 && d[511] == 0xaa
}

func (m *machine) bundle(version string, index uint32) (bundle, slot []byte) {
	program := bytes.Repeat([]byte(version), 100000)
	slot, err := disk.Slot(program)
	if err != nil {
		m.t.Fatal(err)
	}
	r := release.Manifest{Version: version, RollbackIndex: index, Board: release.Board, Files: []release.File{release.Describe(release.SlotName, slot)}}
	text, signature, err := r.Sign(m.key)
	if err != nil {
		m.t.Fatal(err)
	}
	var b bytes.Buffer
	if err := release.WriteBundle(&b, text, signature, slot); err != nil {
		m.t.Fatal(err)
	}
	return b.Bytes(), slot
}

func quiet(string) {}

func TestAGoodUpdateIsTriedThenKept(t *testing.T) {
	m, ctx := newMachine(t), t.Context()
	bundle, slot := m.bundle("2", 2)
	if err := m.updater("1", 1).Take(ctx, bytes.NewReader(bundle), quiet); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m.slots[B].durable[:len(slot)], slot) || m.committed != A || m.next != B {
		t.Fatalf("written %v, committed %s, next %s", bytes.Equal(m.slots[B].durable[:len(slot)], slot), m.committed, m.next)
	}
	m.restartIntoNext()
	u := m.updater("2", 2)
	if trial, again, err := u.Begin(ctx); !trial || again || err != nil {
		t.Fatalf("trial %v, again %v, %v", trial, again, err)
	}
	if err := u.Take(ctx, bytes.NewReader(bundle), quiet); err == nil {
		t.Error("a release on trial lets its predecessor be overwritten")
	}
	if m.lowest > 1 {
		t.Error("the rollback index rose before the release was kept: going back would be refused")
	}
	if err := u.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	m.restart()
	if m.current != B || m.lowest != 2 {
		t.Errorf("after the commit slot %s runs and the rollback index is %d", m.current, m.lowest)
	}
}

func TestDowngradeForeignAndDamagedAreRefusedBeforeAnythingIsWritten(t *testing.T) {
	m, ctx := newMachine(t), t.Context()
	m.lowest = 5
	before := bytes.Repeat([]byte{0x5c}, 4<<20)
	good, _ := m.bundle("2", 5)
	old, _ := m.bundle("0.9", 4)
	other := newMachine(t)
	foreign, _ := other.bundle("3", 9)
	changed := bytes.Clone(good)
	changed[600] ^= 1 // in the manifest
	for name, b := range map[string][]byte{"an older release": old, "a release of others": foreign, "a changed manifest": changed, "no bundle": []byte("hello"), "half a manifest": good[:700]} {
		copy(m.slots[B].durable, before)
		err := m.updater("1", 1).Take(ctx, bytes.NewReader(b), quiet)
		if err == nil || !strings.HasPrefix(err.Error(), "cannot ") {
			t.Errorf("%s: %v", name, err)
		}
		if !bytes.Equal(m.slots[B].durable, before) || m.next != "" {
			t.Errorf("%s: something was written", name)
		}
	}
	// A slot that is not the signed one is found at its end, and cannot be started.
	for _, b := range [][]byte{flip(good, len(good)-20000), good[:len(good)/2]} {
		if err := m.updater("1", 1).Take(ctx, bytes.NewReader(b), quiet); err == nil {
			t.Error("a damaged slot was taken")
		}
		if m.bootable(B) || m.next != "" {
			t.Error("a damaged slot can be started")
		}
	}
}

func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 1
	return b
}

// A power cut at any write leaves a box that starts a whole release.
func TestPowerCutAtEachWrite(t *testing.T) {
	m, ctx := newMachine(t), t.Context()
	bundle, slot := m.bundle("2", 2)
	cuts := 0
	for n := 0; ; n++ {
		d := m.slots[B]
		copy(d.durable, bytes.Repeat([]byte{0x55, 0xaa}, len(d.durable)/2))
		d.cache = bytes.Clone(d.durable)
		d.cut = n
		os.Remove(m.note)
		m.next = ""
		err := m.updater("1", 1).Take(ctx, bytes.NewReader(bundle), quiet)
		if err == nil {
			break
		}
		if !errors.Is(err, errCut) {
			t.Fatal(err)
		}
		cuts++
		if m.next != "" || m.committed != A {
			t.Fatalf("cut %d: an unfinished slot is to be tried", n)
		}
		if n > 1 && m.bootable(B) && !bytes.Equal(d.durable[:len(slot)], slot) {
			t.Errorf("cut %d: slot B looks whole and is not", n)
		}
	}
	if cuts < 6 {
		t.Errorf("only %d cuts were tried", cuts)
	}
}

func TestAReleaseThatDiesIsGivenUp(t *testing.T) {
	m, ctx := newMachine(t), t.Context()
	bundle, _ := m.bundle("2", 2)
	if err := m.updater("1", 1).Take(ctx, bytes.NewReader(bundle), quiet); err != nil {
		t.Fatal(err)
	}
	starts := 0
	for range 10 {
		m.restartIntoNext()
		if m.current == B {
			starts++
			continue // it dies
		}
		_, again, err := m.updater("1", 1).Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if !again {
			break
		}
	}
	trial, err := m.updater("1", 1).Trial()
	if err != nil || starts != mostTries || trial.Outcome == "" || trial.Outcome == "committed" || m.current != A {
		t.Errorf("started %d times, then slot %s with %+v (%v)", starts, m.current, trial, err)
	}
	// And it is not tried for ever after.
	if _, again, err := m.updater("1", 1).Begin(ctx); again || err != nil {
		t.Errorf("tried again: %v (%v)", again, err)
	}
}

func TestAGivenUpReleaseIsNotTriedAgain(t *testing.T) {
	m, ctx := newMachine(t), t.Context()
	bundle, _ := m.bundle("2", 2)
	if err := m.updater("1", 1).Take(ctx, bytes.NewReader(bundle), quiet); err != nil {
		t.Fatal(err)
	}
	m.restartIntoNext()
	u := m.updater("2", 2)
	tr, err := u.Trial()
	if err != nil {
		t.Fatal(err)
	}
	if err := u.GiveUp(tr, "nothing came through"); err != nil {
		t.Fatal(err)
	}
	m.restart()
	if trial, again, err := m.updater("1", 1).Begin(ctx); trial || again || err != nil {
		t.Errorf("trial %v, again %v, %v", trial, again, err)
	}
}

// The commit is one variable; a power cut right after it must not leave an older release startable.
func TestACommitThatWasCutIsFinished(t *testing.T) {
	m, ctx := newMachine(t), t.Context()
	bundle, _ := m.bundle("2", 2)
	if err := m.updater("1", 1).Take(ctx, bytes.NewReader(bundle), quiet); err != nil {
		t.Fatal(err)
	}
	m.restartIntoNext()
	m.Commit(B) // and then the power goes
	m.restart()
	u := m.updater("2", 2)
	trial, again, err := u.Begin(ctx)
	if trial || again || err != nil || m.lowest != 2 {
		t.Errorf("trial %v, again %v, %v, rollback index %d", trial, again, err, m.lowest)
	}
	if tr, _ := u.Trial(); tr.Outcome != "committed" {
		t.Errorf("the note says %+v", tr)
	}
}

// In a folder in place of efivarfs, which has the same names and form.
func TestBootEntries(t *testing.T) {
	u := UEFI{Dir: t.TempDir()}
	global := efi.GlobalVariable.String()
	put := func(name, vendor string, value []byte) {
		if err := os.WriteFile(filepath.Join(u.Dir, name+"-"+vendor), append([]byte{7, 0, 0, 0}, value...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("LoaderDevicePartUUID", loader.String(), wide(strings.ToUpper(disk.SlotB.ID.String())))
	put("BootOrder", global, []byte{1, 0, 2, 0}) // the firmware's own
	if s, err := u.Current(); s != B || err != nil {
		t.Fatalf("runs %q, %v", s, err)
	}
	if s, err := u.Committed(); s != B || err != nil {
		t.Errorf("before our entries are there, committed is %q (%v)", s, err)
	}
	if err := u.Prepare(); err != nil {
		t.Fatal(err)
	}
	order, err := u.order()
	if err != nil || !slices.Equal(order, []uint16{entryB, entryA, 1, 2}) {
		t.Errorf("order %x, %v", order, err)
	}
	if err := u.Try(A); err != nil {
		t.Fatal(err)
	}
	if b, err := u.Get("BootNext", efi.GlobalVariable); err != nil || binary.LittleEndian.Uint16(b) != entryA {
		t.Errorf("BootNext %x, %v", b, err)
	}
	if err := u.Commit(A); err != nil {
		t.Fatal(err)
	}
	if s, _ := u.Committed(); s != A {
		t.Errorf("committed %q", s)
	}
	b, err := u.Get(fmt.Sprintf("Boot%04X", entryA), efi.GlobalVariable)
	if err != nil {
		t.Fatal(err)
	}
	// UEFI 2.10 §10.3.5.1: HD node with partition 1, start 2048, its GUID.
	hd := b[6+len(wide("vitalgate slot a")):]
	if hd[0] != 4 || hd[1] != 1 || binary.LittleEndian.Uint32(hd[4:]) != 1 || binary.LittleEndian.Uint64(hd[8:]) != 2048 || efi.GUID(hd[24:40]) != disk.SlotA.ID {
		t.Errorf("the path of slot a is % x", hd[:42])
	}
}
