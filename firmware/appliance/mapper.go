package appliance

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The device mapper's interface, version 4 (Linux, include/uapi/linux/dm-ioctl.h).
const (
	dmHeader    = 312
	dmDevCreate = 3
	dmSuspend   = 6 // without a flag: resume
	dmTableLoad = 9
	dmSecure    = 1 << 15 // DM_SECURE_DATA_FLAG: the kernel wipes its copy
)

func dmCommand(nr uintptr) uintptr { return 3<<30 | dmHeader<<16 | 0xfd<<8 | nr }

// openCrypt makes the decrypted view of the disk from byte offset on, and gives its device (dm-crypt, aes-xts-plain64).
func openCrypt(device string, offset, size int64, key []byte) (string, error) {
	control, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("cannot open the encrypted disk: %w", err)
	}
	defer control.Close()
	const name = "vitalgate-data"
	call := func(nr uintptr, targets uint32, table []byte) (uint64, error) {
		b := make([]byte, dmHeader+len(table))
		defer clear(b)
		le := binary.LittleEndian
		le.PutUint32(b[0:], 4)
		le.PutUint32(b[12:], uint32(len(b)))
		le.PutUint32(b[16:], dmHeader)
		le.PutUint32(b[20:], targets)
		le.PutUint32(b[28:], dmSecure)
		copy(b[48:], name)
		copy(b[dmHeader:], table)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, control.Fd(), dmCommand(nr), uintptr(unsafe.Pointer(&b[0]))); errno != 0 {
			return 0, fmt.Errorf("cannot open the encrypted disk: device mapper command %d: %w", nr, errno)
		}
		return le.Uint64(b[40:]), nil
	}
	dev, err := call(dmDevCreate, 0, nil)
	if err != nil {
		return "", err
	}
	parameters := fmt.Sprintf("aes-xts-plain64 %s 0 %s %d", hex.EncodeToString(key), device, offset/512)
	table := make([]byte, 40, 40+len(parameters)+8)
	defer func() { clear(table) }()
	binary.LittleEndian.PutUint64(table[8:], uint64(size/512))
	copy(table[24:], "crypt")
	table = append(append(table, parameters...), 0)
	for len(table)%8 != 0 {
		table = append(table, 0)
	}
	if _, err := call(dmTableLoad, 1, table); err != nil {
		return "", err
	}
	if _, err := call(dmSuspend, 0, nil); err != nil {
		return "", err
	}
	path := fmt.Sprintf("/dev/dm-%d", unix.Minor(dev))
	return path, waitFor(path)
}

var errNoDevice = errors.New("the device did not appear")
