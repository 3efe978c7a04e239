// Package disk lays out the box's disk: a GUID partition table with two slots, each a FAT32 volume of one file, and a data
// partition. The image tool writes it and the box finds, grows and renews it, so both use this one description.
package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"

	"github.com/vitalgate/vitalgate/image/efi"
)

// Sector is the size of a logical block. Disks with others are not supported.
const Sector = 512

// tableSectors is what a partition table takes at either end of the disk: header and 128 entries (UEFI 2.10 §5.3).
const (
	entries      = 128
	entrySize    = 128
	tableSectors = 1 + entries*entrySize/Sector
)

var (
	typeESP  = efi.MustGUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b") // EFI system partition
	typeData = efi.MustGUID("0fc63daf-8483-4772-8e79-3d69d8477de4") // Linux file system data
)

// Partition is one entry of the table.
type Partition struct {
	Name        string
	Type, ID    efi.GUID
	First, Last int64 // sectors, both included
}

// Bytes is the size of the partition.
func (p Partition) Bytes() int64 { return (p.Last - p.First + 1) * Sector }

// Offset is where the partition begins on the disk.
func (p Partition) Offset() int64 { return p.First * Sector }

// The partitions have the same identity on every box: a boot entry names a slot by it.
var (
	diskID = efi.MustGUID("7669746c-6761-7465-8000-000000000000")
	SlotA  = Partition{"vitalgate-a", typeESP, efi.MustGUID("7669746c-6761-7465-8000-00000000000a"), 1 << 20 / Sector, (1<<20+SlotBytes)/Sector - 1}
	SlotB  = Partition{"vitalgate-b", typeESP, efi.MustGUID("7669746c-6761-7465-8000-00000000000b"), SlotA.Last + 1, SlotA.Last + SlotBytes/Sector}
)

// SlotBytes is the size of a slot. MinDisk is the smallest disk: the image has this size, and the box then grows its data.
const (
	SlotBytes = 64 << 20
	MinDisk   = 1<<20 + 2*SlotBytes + 16<<20 + 1<<20
)

// Data is the data partition of a disk: all behind the slots, but the last MiB with the second table.
func Data(diskBytes int64) Partition {
	return Partition{"vitalgate-data", typeData, efi.MustGUID("7669746c-6761-7465-8000-0000000000da"), SlotB.Last + 1, diskBytes>>20<<20/Sector - 1<<20/Sector - 1}
}

// Layout is the whole table for a disk of this size.
func Layout(diskBytes int64) ([]Partition, error) {
	if diskBytes < MinDisk {
		return nil, fmt.Errorf("cannot use the disk: it has %d MiB, the box needs at least %d MiB", diskBytes>>20, MinDisk>>20)
	}
	return []Partition{SlotA, SlotB, Data(diskBytes)}, nil
}

// Tables makes both tables: the first begins at sector 0 with the protective MBR, the second ends with the disk's last sector.
func Tables(parts []Partition, diskBytes int64) (first, second []byte) {
	last := diskBytes/Sector - 1
	list := make([]byte, entries*entrySize)
	for i, p := range parts {
		e := list[i*entrySize:]
		copy(e, p.Type[:])
		copy(e[16:], p.ID[:])
		binary.LittleEndian.PutUint64(e[32:], uint64(p.First))
		binary.LittleEndian.PutUint64(e[40:], uint64(p.Last))
		for j, c := range utf16.Encode([]rune(p.Name)) {
			binary.LittleEndian.PutUint16(e[56+2*j:], c)
		}
	}
	header := func(mine, other, at int64) []byte {
		h := make([]byte, Sector)
		copy(h, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
		for off, v := range map[int]int64{24: mine, 32: other, 40: 1 + tableSectors, 48: last - tableSectors, 72: at} {
			binary.LittleEndian.PutUint64(h[off:], uint64(v))
		}
		copy(h[56:], diskID[:])
		for off, v := range map[int]uint32{80: entries, 84: entrySize, 88: crc32.ChecksumIEEE(list)} {
			binary.LittleEndian.PutUint32(h[off:], v)
		}
		binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
		return h
	}
	mbr := make([]byte, Sector)
	copy(mbr[446:], []byte{0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0})
	binary.LittleEndian.PutUint32(mbr[458:], uint32(min(last, 0xffffffff)))
	mbr[510], mbr[511] = 0x55, 0xaa
	first = append(append(mbr, header(1, last, 2)...), list...)
	second = append(bytes.Clone(list), header(last, 1, last-tableSectors+1)...)
	return first, second
}

// SecondAt is where the second table of a disk begins.
func SecondAt(diskBytes int64) int64 { return (diskBytes/Sector - tableSectors) * Sector }

// ReadTable reads the first table of a disk.
func ReadTable(r io.ReaderAt) ([]Partition, error) {
	b := make([]byte, (1+tableSectors)*Sector)
	if _, err := r.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("cannot read the partition table: %w", err)
	}
	h, list := b[Sector:2*Sector], b[2*Sector:]
	sum := binary.LittleEndian.Uint32(h[16:])
	clean := bytes.Clone(h[:92])
	clear(clean[16:20])
	if string(h[:8]) != "EFI PART" || crc32.ChecksumIEEE(clean) != sum || binary.LittleEndian.Uint32(h[88:]) != crc32.ChecksumIEEE(list) {
		return nil, errors.New("cannot read the partition table: there is none, or it is damaged")
	}
	var parts []Partition
	for i := range entries {
		e := list[i*entrySize:][:entrySize]
		p := Partition{Type: efi.GUID(e[:16]), ID: efi.GUID(e[16:32]), First: int64(binary.LittleEndian.Uint64(e[32:])), Last: int64(binary.LittleEndian.Uint64(e[40:]))}
		if p.Type == (efi.GUID{}) {
			continue
		}
		var name []uint16
		for j := 56; j < entrySize; j += 2 {
			if c := binary.LittleEndian.Uint16(e[j:]); c != 0 {
				name = append(name, c)
			}
		}
		p.Name = string(utf16.Decode(name))
		parts = append(parts, p)
	}
	return parts, nil
}
