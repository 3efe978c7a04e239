package filesystem

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// made is a new file system, in a file that held other things before.
func made(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "fs")
	if err := os.WriteFile(path, bytes.Repeat([]byte{0xc7}, 15<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Make(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func e2fsck(t *testing.T, path string) {
	if _, err := exec.LookPath("e2fsck"); err != nil {
		t.Skip("e2fsck is not installed")
	}
	if out, err := exec.Command("e2fsck", "-fn", path).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestTheFileSystemIsWhole(t *testing.T) { e2fsck(t, made(t)) }

// The power goes while the superblock is written: one of its two sectors is the new one.
func TestATornSuperblockIsMended(t *testing.T) {
	for _, newer := range []string{"first", "second"} {
		t.Run(newer, func(t *testing.T) {
			path := made(t)
			image, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			super := image[superAt : superAt+superBytes]
			before := bytes.Clone(super)
			binary.LittleEndian.PutUint16(super[0x34:], 7) // s_mnt_count
			binary.LittleEndian.PutUint32(super[checksumAt:], ^crc32.Checksum(super[:checksumAt], castagnoli))
			if newer == "first" {
				copy(super[sectorBytes:], before[sectorBytes:])
			} else {
				copy(super[:sectorBytes], before[:sectorBytes])
			}
			if err := os.WriteFile(path, image, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := mendSuperblock(path); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			binary.LittleEndian.PutUint32(super[checksumAt:], ^crc32.Checksum(super[:checksumAt], castagnoli))
			if !bytes.Equal(got, image) {
				t.Fatal("something else than the checksum was changed")
			}
			e2fsck(t, path)
		})
	}
}

// What was not made here, or is not what ext4 writes, is left as it is.
func TestAnotherSuperblockIsLeftAlone(t *testing.T) {
	for what, at := range map[string]int{"magic": magicAt, "no checksums": featuresAt + 1, "another sum": typeAt, "another file system": uuidAt, "where nothing stands": reservedAt + 100} {
		t.Run(what, func(t *testing.T) {
			path := made(t)
			image, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			image[superAt+at] ^= 0xff
			if err := os.WriteFile(path, image, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := mendSuperblock(path); err == nil {
				t.Error("it was mended")
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, image) {
				t.Errorf("it was changed (%v)", err)
			}
		})
	}
}
