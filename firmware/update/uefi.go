package update

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf16"

	"golang.org/x/sys/unix"

	"github.com/vitalgate/vitalgate/image/disk"
	"github.com/vitalgate/vitalgate/image/efi"
)

// UEFI chooses the slot by boot entries: BootNext for a trial, the head of BootOrder for good (UEFI 2.10 §3.1). Each is one
// variable, which firmware writes whole or not at all.
type UEFI struct {
	Dir string // efivarfs: /sys/firmware/efi/efivars
}

// Numbers of our boot entries, Boot#### in hex.
const (
	entryA uint16 = 0x7661
	entryB uint16 = 0x7662
)

// loader is the vendor of what the stub tells about how it was started (Boot Loader Interface).
var loader = efi.MustGUID("4a67b082-0a4c-41cf-b6c7-440b29bb8c4f")

// Attributes of variables: non-volatile, at boot time, at run time.
const lasting = 7

func entryOf(s Slot) (uint16, disk.Partition, uint32) {
	if s == A {
		return entryA, disk.SlotA, 1
	}
	return entryB, disk.SlotB, 2
}

// Current is the slot whose program runs, as the stub has seen it.
func (u UEFI) Current() (Slot, error) {
	b, err := u.Get("LoaderDevicePartUUID", loader)
	if err != nil {
		return "", fmt.Errorf("cannot tell which slot runs: %w", err)
	}
	id := strings.ToLower(strings.TrimRight(text(b), "\x00"))
	switch id {
	case disk.SlotA.ID.String():
		return A, nil
	case disk.SlotB.ID.String():
		return B, nil
	}
	return "", fmt.Errorf("cannot tell which slot runs: the program came from partition %s, which is neither", id)
}

// Committed is the slot that stands first among ours in BootOrder; the running one where none does yet.
func (u UEFI) Committed() (Slot, error) {
	order, err := u.order()
	if err != nil {
		return "", err
	}
	for _, n := range order {
		switch n {
		case entryA:
			return A, nil
		case entryB:
			return B, nil
		}
	}
	return u.Current()
}

// Prepare makes what is missing: both boot entries, their place before all others, no waiting for a key. Firmware drops entries
// whose file it does not find, such as that of a slot half written.
func (u UEFI) Prepare() error {
	committed, err := u.Committed()
	if err != nil {
		return err
	}
	for _, s := range []Slot{A, B} {
		n, part, number := entryOf(s)
		if err := u.ensure(fmt.Sprintf("Boot%04X", n), loadOption("vitalgate slot "+string(s), part, number)); err != nil {
			return err
		}
	}
	if err := u.ensure("Timeout", []byte{0, 0}); err != nil {
		return err
	}
	return u.Commit(committed)
}

// Try sets BootNext, which firmware removes before it starts the entry.
func (u UEFI) Try(s Slot) error {
	n, _, _ := entryOf(s)
	return u.Set("BootNext", efi.GlobalVariable, lasting, binary.LittleEndian.AppendUint16(nil, n))
}

// Commit puts a slot first in BootOrder, the other second, and what else there is behind.
func (u UEFI) Commit(s Slot) error {
	order, err := u.order()
	if err != nil {
		return err
	}
	first, _, _ := entryOf(s)
	second, _, _ := entryOf(s.Other())
	var b []byte
	for _, n := range append([]uint16{first, second}, slices.DeleteFunc(order, func(n uint16) bool { return n == first || n == second })...) {
		b = binary.LittleEndian.AppendUint16(b, n)
	}
	return u.ensure("BootOrder", b)
}

func (u UEFI) order() ([]uint16, error) {
	b, err := u.Get("BootOrder", efi.GlobalVariable)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return shorts(b), nil
}

// ensure writes a variable only when it is not so already: its memory wears.
func (u UEFI) ensure(name string, value []byte) error {
	if old, err := u.Get(name, efi.GlobalVariable); err == nil && slices.Equal(old, value) {
		return nil
	}
	return u.Set(name, efi.GlobalVariable, lasting, value)
}

func (u UEFI) path(name string, vendor efi.GUID) string {
	return filepath.Join(u.Dir, name+"-"+vendor.String())
}

// Get reads a variable without its attributes.
func (u UEFI) Get(name string, vendor efi.GUID) ([]byte, error) {
	b, err := os.ReadFile(u.path(name, vendor))
	if err != nil {
		return nil, fmt.Errorf("cannot read the firmware's variable %s: %w", name, err)
	}
	if len(b) < 4 {
		return nil, fmt.Errorf("cannot read the firmware's variable %s: it has %d bytes", name, len(b))
	}
	return b[4:], nil
}

// Set writes a variable: attributes and value in one write (Linux, Documentation/filesystems/efivarfs.rst).
func (u UEFI) Set(name string, vendor efi.GUID, attributes uint32, value []byte) error {
	fd, err := unix.Open(u.path(name, vendor), unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("cannot write the firmware's variable %s: %w", name, err)
	}
	b := append(binary.LittleEndian.AppendUint32(nil, attributes), value...)
	n, err := unix.Write(fd, b)
	if err == nil && n != len(b) {
		err = fmt.Errorf("wrote %d of %d bytes", n, len(b))
	}
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		return fmt.Errorf("cannot write the firmware's variable %s: %w", name, err)
	}
	return nil
}

// loadOption is an EFI_LOAD_OPTION for the file of a slot (UEFI 2.10 §3.1.3, §10.3.5): by the partition's identity, so that it holds
// wherever the disk is plugged in.
func loadOption(name string, p disk.Partition, number uint32) []byte {
	le := binary.LittleEndian
	hd := []byte{4, 1, 42, 0}
	hd = le.AppendUint32(hd, number)
	hd = le.AppendUint64(hd, uint64(p.First))
	hd = le.AppendUint64(hd, uint64(p.Last-p.First+1))
	hd = append(append(hd, p.ID[:]...), 2, 2)
	file := wide(`\EFI\BOOT\BOOTAA64.EFI`)
	path := append(hd, 4, 4, byte(4+len(file)), 0)
	path = append(append(path, file...), 0x7f, 0xff, 4, 0)
	b := le.AppendUint32(nil, 1) // LOAD_OPTION_ACTIVE
	b = le.AppendUint16(b, uint16(len(path)))
	return append(append(b, wide(name)...), path...)
}

func wide(s string) []byte {
	var b []byte
	for _, c := range utf16.Encode([]rune(s + "\x00")) {
		b = binary.LittleEndian.AppendUint16(b, c)
	}
	return b
}

func shorts(b []byte) []uint16 {
	all := make([]uint16, len(b)/2)
	for i := range all {
		all[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return all
}

func text(b []byte) string { return string(utf16.Decode(shorts(b))) }
