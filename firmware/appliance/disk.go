package appliance

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vitalgate/vitalgate/firmware/update"
	"github.com/vitalgate/vitalgate/image/disk"
)

// drive is the box's disk.
type drive struct {
	name  string // such as mmcblk0
	bytes int64
	parts map[string]string // name of a partition in the table → its device
}

// findDrive waits for the disk with our partition table. A stick with the image on it is not taken for the box's own disk.
func findDrive(patience time.Duration) (*drive, error) {
	deadline := time.Now().Add(patience)
	for {
		all, err := filepath.Glob("/sys/class/block/*/partition")
		if err != nil {
			return nil, err
		}
		for _, p := range all {
			dir, err := filepath.EvalSymlinks(filepath.Dir(p))
			if err != nil || strings.Contains(dir, "/usb") {
				continue
			}
			if facts(filepath.Join(dir, "uevent"))["PARTNAME"] != "vitalgate-data" {
				continue
			}
			return readDrive(filepath.Dir(dir))
		}
		if time.Now().After(deadline) {
			return nil, errors.New("cannot find the box's disk: no partition is called vitalgate-data; write disk.img to the disk again")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func readDrive(dir string) (*drive, error) {
	text, err := os.ReadFile(filepath.Join(dir, "size"))
	if err != nil {
		return nil, err
	}
	sectors, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return nil, err
	}
	d := &drive{name: filepath.Base(dir), bytes: sectors * 512, parts: map[string]string{}}
	all, err := filepath.Glob(filepath.Join(dir, "*", "uevent"))
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		if f := facts(p); f["PARTNAME"] != "" {
			d.parts[f["PARTNAME"]] = "/dev/" + f["DEVNAME"]
		}
	}
	return d, nil
}

// facts reads the KEY=value lines of a uevent file.
func facts(path string) map[string]string {
	all := map[string]string{}
	b, err := os.ReadFile(path)
	if err != nil {
		return all
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			all[k] = v
		}
	}
	return all
}

// openSlot opens the device of a slot for an update.
func (d *drive) openSlot(s update.Slot) (update.Mount, error) {
	device, ok := d.parts["vitalgate-"+string(s)]
	if !ok {
		return nil, fmt.Errorf("cannot open slot %s: the partition table has none", s)
	}
	return update.OpenDevice(device)
}

// grow gives the data partition all of the disk. The image is small, so this is needed once, at the first start. The second table
// comes first: a power cut leaves one table or both, and the next start goes on.
func (d *drive) grow() error {
	f, err := os.OpenFile("/dev/"+d.name, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("cannot open the disk: %w", err)
	}
	defer f.Close()
	have, err := disk.ReadTable(f)
	if err != nil {
		return err
	}
	want, err := disk.Layout(d.bytes)
	if err != nil {
		return err
	}
	if len(have) == len(want) && have[2] == want[2] {
		return nil
	}
	first, second := disk.Tables(want, d.bytes)
	for _, w := range []struct {
		b  []byte
		at int64
	}{{second, disk.SecondAt(d.bytes)}, {first, 0}} {
		if _, err := f.WriteAt(w.b, w.at); err != nil {
			return fmt.Errorf("cannot write the partition table: %w", err)
		}
		if err := f.Sync(); err != nil {
			return fmt.Errorf("cannot write the partition table: %w", err)
		}
	}
	return resizePartition(f, 3, want[2])
}

// resizePartition tells the kernel (Linux, include/uapi/linux/blkpg.h).
func resizePartition(f *os.File, number int32, p disk.Partition) error {
	const resize = 3
	part := struct {
		start, length int64
		number        int32
		names         [128]byte
	}{p.Offset(), p.Bytes(), number, [128]byte{}}
	call := struct {
		op, flags, size int32
		data            unsafe.Pointer
	}{op: resize, size: int32(unsafe.Sizeof(part)), data: unsafe.Pointer(&part)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKPG, uintptr(unsafe.Pointer(&call))); errno != 0 {
		return fmt.Errorf("cannot tell the kernel the partition's new size: %w", errno)
	}
	return nil
}

func deviceBytes(f *os.File) (int64, error) {
	n, err := f.Seek(0, 2)
	if err != nil {
		return 0, fmt.Errorf("cannot tell the size of %s: %w", f.Name(), err)
	}
	return n, nil
}

func waitFor(path string) error {
	for range 200 {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("cannot open %s: %w", path, errNoDevice)
}

func allZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }
