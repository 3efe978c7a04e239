package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The FAT32 volume of a slot (Microsoft FAT specification 1.03): clusters of one sector, and in it one file where UEFI firmware
// looks for it (UEFI 2.10 §3.5.1.1). It is written whole and never changed in place, so it is the same bytes each time.
const (
	reserved   = 32
	volume     = SlotBytes / Sector
	fatSectors = (volume - reserved + 2 + 128) / (128 + 2) // 128 entries a sector, two tables
	dataStart  = reserved + 2*fatSectors
	rootDir    = 2 // clusters
	efiDir     = 3
	bootDir    = 4
	fileStart  = 5
	endOfChain = 0x0fffffff
)

// MaxProgram is the largest EFI program that fits into a slot.
const MaxProgram = (volume - dataStart - fileStart + rootDir) * Sector

func clusterAt(n int) int { return (dataStart + n - 2) * Sector }

// Slot makes the FAT32 volume that holds program as \EFI\BOOT\BOOTAA64.EFI. It ends with the file: what follows on the
// partition is free space and may hold anything.
func Slot(program []byte) ([]byte, error) {
	if len(program) > MaxProgram {
		return nil, fmt.Errorf("cannot fill the slot: the program has %d bytes, the slot holds %d", len(program), MaxProgram)
	}
	n := (len(program) + Sector - 1) / Sector
	b := make([]byte, clusterAt(fileStart+n))
	boot := b[:Sector]
	copy(boot, "\xeb\x58\x90VITLGATE")
	le16, le32 := binary.LittleEndian.PutUint16, binary.LittleEndian.PutUint32
	le16(boot[11:], Sector)
	boot[13] = 1 // sectors per cluster
	le16(boot[14:], reserved)
	boot[16], boot[21] = 2, 0xf8 // tables, fixed disk
	le16(boot[24:], 63)
	le16(boot[26:], 255)
	le32(boot[32:], volume)
	le32(boot[36:], fatSectors)
	le32(boot[44:], rootDir)
	le16(boot[48:], 1) // FSInfo
	le16(boot[50:], 6) // backup of the boot sector
	boot[64], boot[66] = 0x80, 0x29
	le32(boot[67:], 0x76697467)
	copy(boot[71:], "VITALGATE  FAT32   ")
	boot[510], boot[511] = 0x55, 0xaa
	info := b[Sector : 2*Sector]
	le32(info, 0x41615252)
	le32(info[484:], 0x61417272)
	le32(info[488:], uint32(volume-dataStart-(fileStart-rootDir)-n))
	le32(info[492:], uint32(fileStart+n))
	le32(info[508:], 0xaa550000)
	copy(b[6*Sector:], b[:2*Sector])

	table := b[reserved*Sector:]
	le32(table[0:], 0x0ffffff8)
	le32(table[4:], endOfChain)
	for _, c := range []int{rootDir, efiDir, bootDir} {
		le32(table[4*c:], endOfChain)
	}
	for i := range n {
		next := uint32(fileStart + i + 1)
		if i == n-1 {
			next = endOfChain
		}
		le32(table[4*(fileStart+i):], next)
	}
	copy(b[(reserved+fatSectors)*Sector:], b[reserved*Sector:(reserved+fatSectors)*Sector])

	entry := func(at int, name string, attributes byte, cluster, size int) {
		e := b[at:]
		copy(e, name)
		e[11] = attributes
		le16(e[16:], 0x21) // 1980-01-01
		le16(e[18:], 0x21)
		le16(e[20:], uint16(cluster>>16))
		le16(e[24:], 0x21)
		le16(e[26:], uint16(cluster))
		le32(e[28:], uint32(size))
	}
	const directory, readOnly, label = 0x10, 0x01, 0x08
	entry(clusterAt(rootDir), "VITALGATE  ", label, 0, 0)
	entry(clusterAt(rootDir)+32, "EFI        ", directory, efiDir, 0)
	entry(clusterAt(efiDir), ".          ", directory, efiDir, 0)
	entry(clusterAt(efiDir)+32, "..         ", directory, 0, 0)
	entry(clusterAt(efiDir)+64, "BOOT       ", directory, bootDir, 0)
	entry(clusterAt(bootDir), ".          ", directory, bootDir, 0)
	entry(clusterAt(bootDir)+32, "..         ", directory, efiDir, 0)
	entry(clusterAt(bootDir)+64, "BOOTAA64EFI", readOnly, fileStart, len(program))
	copy(b[clusterAt(fileStart):], program)
	return b, nil
}

// Program is the EFI program in a slot that [Slot] made.
func Program(slot []byte) ([]byte, error) {
	at := clusterAt(bootDir) + 64
	if len(slot) < clusterAt(fileStart) || string(slot[at:at+11]) != "BOOTAA64EFI" {
		return nil, errors.New("cannot read the slot: it does not hold EFI/BOOT/BOOTAA64.EFI")
	}
	n := int64(binary.LittleEndian.Uint32(slot[at+28:]))
	if n > int64(len(slot)-clusterAt(fileStart)) {
		return nil, errors.New("cannot read the slot: its file is cut")
	}
	return slot[clusterAt(fileStart):][:n], nil
}
