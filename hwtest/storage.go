package hwtest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// testStorage measures what the box's promise rests on: how long a write takes until it is on the disk, and how long the disk will
// live.
func testStorage(ctx context.Context, t *tester) {
	if t.Dir == "" {
		t.not("", "", "No data folder was given.")
		return
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(t.Dir, &fs); err != nil {
		t.fail(t.Dir, nil, "Set box.data to a folder of this box.", "The data folder cannot be used: %v.", err)
		return
	}
	free := float64(fs.Bavail) * float64(fs.Bsize)
	all := float64(fs.Blocks) * float64(fs.Bsize)
	room := map[string]float64{"free_gib": free / (1 << 30), "size_gib": all / (1 << 30)}
	if free < 64<<20 {
		t.fail("room", room, "Free space, or use a larger disk.", "The disk of the data folder is full.")
	} else {
		t.pass("room", room, "There is room for the log.")
	}
	testSync(ctx, t)
	testWear(t)
}

func testSync(ctx context.Context, t *tester) {
	f, err := os.CreateTemp(t.Dir, "hwtest-*.tmp")
	if err != nil {
		t.fail("fsync", nil, "Make the data folder writable; if it is and the disk went read-only by itself, replace the disk.", "The data folder cannot be written: %v.", err)
		return
	}
	defer os.Remove(f.Name())
	defer f.Close()
	const times, block = 64, 4096
	b := make([]byte, block)
	took := make([]time.Duration, 0, times)
	for i := range times {
		if ctx.Err() != nil {
			return
		}
		binary.LittleEndian.PutUint64(b, uint64(i)^0xA5A5A5A5)
		began := time.Now()
		_, err := f.WriteAt(b, int64(i)*block)
		if err == nil {
			err = unix.Fdatasync(int(f.Fd()))
		}
		if err != nil {
			t.fail("fsync", nil, "Replace the disk: readings would not survive a power cut.", "The disk does not write: %v.", err)
			return
		}
		took = append(took, time.Since(began))
	}
	for i := range times {
		if _, err := f.ReadAt(b, int64(i)*block); err != nil || binary.LittleEndian.Uint64(b) != uint64(i)^0xA5A5A5A5 {
			t.fail("fsync", nil, "Replace the disk.", "What was written does not come back.")
			return
		}
	}
	slices.Sort(took)
	ms := func(d time.Duration) float64 { return d.Seconds() * 1e3 }
	figures := map[string]float64{"p50_ms": ms(took[times/2]), "p99_ms": ms(took[times*99/100]), "most_ms": ms(took[times-1])}
	if took[times/2] > time.Second {
		t.fail("fsync", figures, "Monitors give up on an acknowledgement after seconds: use another disk.", "The disk takes %v to keep a block.", took[times/2].Round(time.Millisecond))
		return
	}
	t.pass("fsync", figures, "%d blocks were written and are on the disk.", times)
}

const wornRemedy = "Replace the disk before it fails: wait until status says that everything was sent, then enrol the new box."

// testWear asks the disk under the data folder for its health: eMMC by its extended registers (JEDEC JESD84-B51 §7.4.29), NVMe by
// its log page 2 (NVM Express base 2.0 §5.16.1.3). Others do not say.
func testWear(t *tester) {
	var st unix.Stat_t
	if err := unix.Stat(t.Dir, &st); err != nil {
		t.not("wear", "", "The disk of the data folder is not known.")
		return
	}
	name := t.disk(unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev)))
	switch {
	case name == "":
		t.not("wear", "", "The data folder is on no disk of its own.")
	case strings.HasPrefix(name, "mmcblk"):
		emmcWear(t, name)
	case strings.HasPrefix(name, "nvme"):
		nvmeWear(t, name)
	default:
		t.not("wear "+name, "", "The disk does not say how worn it is.")
	}
}

// disk is the whole disk under a device, through partitions and dm-crypt.
func (t *tester) disk(major, minor uint32) string {
	dir, err := filepath.EvalSymlinks(t.path(fmt.Sprintf("/sys/dev/block/%d:%d", major, minor)))
	if err != nil {
		return ""
	}
	for range 4 {
		if slaves, _ := os.ReadDir(filepath.Join(dir, "slaves")); len(slaves) == 1 {
			if dir, err = filepath.EvalSymlinks(filepath.Join(dir, "slaves", slaves[0].Name())); err != nil {
				return ""
			}
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
			dir = filepath.Dir(dir)
			continue
		}
		break
	}
	return filepath.Base(dir)
}

func emmcWear(t *tester, name string) {
	a, b, ok := strings.Cut(t.read("/sys/block/"+name+"/device/life_time"), " ")
	typeA, errA := strconv.ParseUint(a, 0, 8)
	typeB, errB := strconv.ParseUint(b, 0, 8)
	if !ok || errA != nil || errB != nil || typeA == 0 && typeB == 0 {
		t.not("wear "+name, "", "The card does not say how worn it is.")
		return
	}
	used := float64(max(typeA, typeB)) * 10 // 0x01 is up to 10 % … 0x0A up to 100 %, 0x0B more
	spare := t.read("/sys/block/" + name + "/device/pre_eol_info")
	figures := map[string]float64{"used_percent": used}
	if used >= 90 || spare == "0x02" || spare == "0x03" {
		t.fail("wear "+name, figures, wornRemedy, "The memory card has lived up to %.0f %% of its life, spare blocks %s.", used, map[string]string{"0x02": "are nearly used up", "0x03": "are used up"}[spare])
		return
	}
	t.pass("wear "+name, figures, "The memory card has lived up to %.0f %% of its life.", used)
}

// nvmeAdmin is struct nvme_admin_cmd of linux/nvme_ioctl.h.
type nvmeAdmin struct {
	opcode, flags                            uint8
	rsvd1                                    uint16
	nsid, cdw2, cdw3                         uint32
	metadata, addr                           uint64
	metadataLen, dataLen                     uint32
	cdw10, cdw11, cdw12, cdw13, cdw14, cdw15 uint32
	timeout, result                          uint32
}

func nvmeWear(t *tester, name string) {
	controller := strings.SplitN(strings.TrimPrefix(name, "nvme"), "n", 2)[0]
	page, err := nvmeHealth(t.path("/dev/nvme" + controller))
	if err != nil {
		t.not("wear "+name, "", "The disk does not say how worn it is: %v.", err)
		return
	}
	warning, spare, threshold, used := page[0], page[3], page[4], page[5]
	kelvin := float64(binary.LittleEndian.Uint16(page[1:]))
	figures := map[string]float64{"used_percent": float64(used), "spare_percent": float64(spare), "celsius": kelvin - 273}
	if warning != 0 || spare < threshold || used >= 90 {
		t.fail("wear "+name, figures, wornRemedy, "The disk has lived %d %% of its life, has %d %% spare, warning bits %#02x.", used, spare, warning)
		return
	}
	t.pass("wear "+name, figures, "The disk has lived %d %% of its life.", used)
}

func nvmeHealth(path string) (page [512]byte, err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return page, err
	}
	defer unix.Close(fd)
	const getLogPage, everyNamespace, smart = 0x02, 0xFFFFFFFF, 0x02
	const adminCommand = 0xC0484E41 // _IOWR('N', 0x41, struct nvme_admin_cmd)
	var pin runtime.Pinner          // the kernel is told the address as a number, which keeps nothing where it is
	pin.Pin(&page)
	defer pin.Unpin()
	c := nvmeAdmin{opcode: getLogPage, nsid: everyNamespace, addr: uint64(uintptr(unsafe.Pointer(&page))), dataLen: uint32(len(page)),
		cdw10: smart | uint32(len(page)/4-1)<<16}
	status, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), adminCommand, uintptr(unsafe.Pointer(&c)))
	switch {
	case errno != 0:
		return page, errno
	case status != 0:
		return page, errors.New("it refuses the question")
	}
	return page, nil
}
