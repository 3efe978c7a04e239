// Package filesystem is the ext4 of the box's data: made without tools, mounted after any power cut.
package filesystem

import (
	"bytes"
	"compress/zlib"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// BlockBytes is the size of its blocks.
const BlockBytes = 4096

// template is an empty ext4 file system of 15 MiB as template/make writes it: for each block that is not left as it is, its number
// and content, compressed. The kernel grows it to the size of the partition.
//
//go:embed template/ext4.z
var template []byte

// Make writes an empty file system of 15 MiB to a device.
func Make(device string) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("cannot make the file system: %w", err)
	}
	defer f.Close()
	if err := errors.Join(writeTemplate(f), f.Sync()); err != nil {
		return fmt.Errorf("cannot make the file system: %w", err)
	}
	return nil
}

func writeTemplate(f io.WriterAt) error {
	z, err := zlib.NewReader(bytes.NewReader(template))
	if err != nil {
		return err
	}
	b := make([]byte, 4+BlockBytes)
	for {
		if _, err := io.ReadFull(z, b); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if _, err := f.WriteAt(b[4:], int64(binary.BigEndian.Uint32(b))*BlockBytes); err != nil {
			return err
		}
	}
}

// Mount mounts the file system of a device in a folder. A superblock that a power cut has torn is mended first (ADR 0045); mended says so.
func Mount(device, dir string) (mended bool, err error) {
	// data=ordered with barriers is the default; a log of a box wants no access times.
	mount := func() error {
		return unix.Mount(device, dir, "ext4", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_NOATIME, "errors=remount-ro")
	}
	if err = mount(); errors.Is(err, unix.EBADMSG) { // what ext4 says of a superblock with a wrong checksum
		if err := mendSuperblock(device); err != nil {
			return false, fmt.Errorf("cannot mount the data: the superblock is damaged, and cannot be mended: %w", err)
		}
		mended, err = true, mount()
	}
	if err != nil {
		return false, fmt.Errorf("cannot mount the data: %w", err)
	}
	return mended, nil
}

// The superblock (Linux, Documentation/filesystems/ext4/super.rst).
const (
	superAt       = 1024
	superBytes    = 1024
	sectorBytes   = 512
	magicAt       = 0x38
	featuresAt    = 0x64 // s_feature_ro_compat
	uuidAt        = 0x68
	typeAt        = 0x175 // s_checksum_type
	reservedAt    = 0x284
	checksumAt    = 0x3FC
	magic         = 0xEF53
	metadataCsum  = 0x400
	castagnoliSum = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// mendSuperblock gives the superblock the checksum of what stands in it. ext4 writes its two sectors in place with one write, and a disk
// that loses its power writes one of them at least whole; each sector is right for itself: no field lies
// across them, and what is counted there is counted again from the groups when it is mounted.
func mendSuperblock(device string) error {
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_SYNC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, superBytes)
	if _, err := f.ReadAt(b, superAt); err != nil {
		return err
	}
	le := binary.LittleEndian
	if le.Uint16(b[magicAt:]) != magic || le.Uint32(b[featuresAt:])&metadataCsum == 0 || b[typeAt] != castagnoliSum || !ours(b) {
		return errors.New("it is not the one that was made")
	}
	le.PutUint32(b[checksumAt:], ^crc32.Checksum(b[:checksumAt], castagnoli))
	_, err = f.WriteAt(b[sectorBytes:], superAt+sectorBytes)
	return err
}

// ours says whether the superblock names the file system that Make makes, and is empty where ext4 uses nothing, so that what it holds is no
// rot of the disk.
func ours(b []byte) bool {
	made := &superblock{}
	if err := writeTemplate(made); err != nil {
		return false
	}
	return bytes.Equal(b[uuidAt:uuidAt+16], made.b[uuidAt:uuidAt+16]) && bytes.Equal(b[reservedAt:checksumAt], made.b[reservedAt:checksumAt])
}

// superblock keeps the superblock of what is written to it.
type superblock struct{ b [superBytes]byte }

func (s *superblock) WriteAt(b []byte, at int64) (int, error) {
	if at == 0 {
		copy(s.b[:], b[superAt:])
	}
	return len(b), nil
}

// Grow makes a mounted file system so many blocks large (EXT4_IOC_RESIZE_FS).
func Grow(dir string, blocks int64) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	n := uint64(blocks)
	const resize = 1<<30 | 8<<16 | 'f'<<8 | 16 // _IOW('f', 16, __u64)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, d.Fd(), resize, uintptr(unsafe.Pointer(&n))); errno != 0 {
		return fmt.Errorf("cannot grow the file system: %w", errno)
	}
	return nil
}
