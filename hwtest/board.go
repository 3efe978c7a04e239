package hwtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// testMemory writes patterns into memory and reads them again, and asks the memory controller what it had to correct.
func testMemory(ctx context.Context, t *tester) {
	total, available := t.meminfo("MemTotal"), t.meminfo("MemAvailable")
	size := int64(16 << 20)
	if t.Factory {
		size = min(available/4, 1<<30)
	}
	size = max(min(size, available/4), 1<<20)
	words := make([]uint64, size/8)
	for _, pattern := range []uint64{0, ^uint64(0), 0xAAAAAAAAAAAAAAAA, 0x5555555555555555, 0x0123456789ABCDEF} {
		for i := range words {
			words[i] = pattern ^ uint64(i)
		}
		for i := range words {
			if words[i] != pattern^uint64(i) {
				t.fail("", nil, "Replace the box: its memory is broken.", "Memory does not keep what is written.")
				return
			}
		}
		if ctx.Err() != nil {
			return
		}
	}
	figures := map[string]float64{"total_mib": float64(total >> 20), "tested_mib": float64(size >> 20)}
	for _, f := range t.glob("/sys/devices/system/edac/mc/mc*/ue_count") {
		if n, ok := t.number(f); ok && n > 0 {
			t.fail("", figures, "Replace the box: its memory is broken.", "The memory controller counted %v errors that it could not correct.", n)
			return
		}
	}
	t.pass("", figures, "Memory keeps what is written.")
}

// meminfo is a line of /proc/meminfo, in bytes.
func (t *tester) meminfo(key string) int64 {
	for l := range strings.Lines(t.read("/proc/meminfo")) {
		if v, ok := strings.CutPrefix(l, key+":"); ok {
			n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			return n << 10
		}
	}
	return 0
}

// clock is the real time clock: it must go, and must not have lost its battery.
func testClock(_ context.Context, t *tester) {
	f, err := os.Open(t.path("/dev/rtc0"))
	if errors.Is(err, fs.ErrNotExist) {
		t.not("", "", "The box has no real time clock; after a power cut its time comes from the network.")
		return
	}
	if err != nil {
		t.not("", "Stop the program that has it.", "The real time clock cannot be opened: %v.", err)
		return
	}
	defer f.Close()
	const battery = "Replace the battery of the real time clock, then set the time."
	if low, err := unix.IoctlGetInt(int(f.Fd()), unix.RTC_VL_READ); err == nil && low&0x1 != 0 { // RTC_VL_DATA_INVALID
		t.fail("", nil, battery, "The real time clock has lost its time: its battery is empty.")
		return
	}
	read := func() (time.Time, error) {
		v, err := unix.IoctlGetRTCTime(int(f.Fd()))
		if err != nil {
			return time.Time{}, err
		}
		return time.Date(int(v.Year)+1900, time.Month(v.Mon+1), int(v.Mday), int(v.Hour), int(v.Min), int(v.Sec), 0, time.UTC), nil
	}
	first, err := read()
	if err != nil {
		t.fail("", nil, battery, "The real time clock cannot be read: %v.", err)
		return
	}
	offset := -time.Until(first).Seconds()
	time.Sleep(2100 * time.Millisecond)
	second, err := read()
	if gone := second.Sub(first); err != nil || gone < time.Second || gone > time.Minute {
		t.fail("", nil, battery, "The real time clock does not go.")
		return
	}
	sentence := "The real time clock goes."
	if time.Duration(offset*float64(time.Second)).Abs() > time.Hour {
		sentence = "The real time clock goes, and has another time than the box. It is set when a time server answers; if it is wrong again after a power cut, its battery is empty."
	}
	t.pass("", map[string]float64{"offset_s": offset}, "%s", sentence)
}

// testWatchdog asks the watchdog for what it is. With Watchdog it is let fire: the run after the restart finds the mark and tells.
func testWatchdog(_ context.Context, t *tester) {
	const broken = "Without a watchdog a box that hangs stays so until somebody comes: enable it in the firmware setup, else replace the box."
	mark := filepath.Join(t.Dir, "watchdog-test")
	boot := t.read("/proc/sys/kernel/random/boot_id")
	if then, err := os.ReadFile(mark); err == nil && t.Dir != "" {
		os.Remove(mark)
		if string(then) != boot {
			t.pass("fires", nil, "The watchdog restarted the machine when nobody fed it.")
		} else {
			t.fail("fires", nil, broken, "The watchdog was not fed, and the machine was not restarted.")
		}
		return
	}
	fd, err := unix.Open(t.path("/dev/watchdog"), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		t.not("", broken, "The box has no watchdog.")
		return
	case errors.Is(err, unix.EBUSY):
		t.not("", "", "The watchdog is in use: the first process of the box feeds it.")
		return
	case err != nil:
		t.not("", "", "The watchdog cannot be opened: %v.", err)
		return
	}
	close := func() { unix.Write(fd, []byte("V")); unix.Close(fd) } // the magic close: it does not fire
	var info unix.WatchdogInfo
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.WDIOC_GETSUPPORT, uintptr(unsafe.Pointer(&info))); errno != 0 {
		close()
		t.fail("", nil, broken, "The watchdog does not answer: %v.", errno)
		return
	}
	name := strings.TrimRight(string(info.Identity[:]), "\x00")
	if !t.Watchdog {
		timeout, _ := unix.IoctlGetInt(fd, unix.WDIOC_GETTIMEOUT)
		close()
		t.pass(name, map[string]float64{"timeout_s": float64(timeout)}, "The watchdog answers.")
		t.not("fires", "Run the test once with --fire-watchdog, and again after the restart.", "Whether it restarts the machine was not tried.")
		return
	}
	if err := t.fire(fd, mark, boot); err != nil {
		close()
		t.fail("fires", nil, broken, "The watchdog did not fire: %v.", err)
	}
}

// fire leaves the watchdog unfed. It returns only if the machine goes on.
func (t *tester) fire(fd int, mark, boot string) error {
	f, err := os.OpenFile(mark, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(boot)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	dir, err := os.Open(t.Dir)
	if err != nil {
		return err
	}
	if err = errors.Join(dir.Sync(), dir.Close()); err != nil {
		return err
	}
	if err := unix.IoctlSetPointerInt(fd, unix.WDIOC_SETTIMEOUT, 5); err != nil {
		return err
	}
	unix.IoctlGetInt(fd, unix.WDIOC_KEEPALIVE)
	time.Sleep(30 * time.Second)
	os.Remove(mark)
	return errors.New("the machine went on for 30 s")
}

// testLEDs switches each lamp on and off; whether it shone only a person sees.
func testLEDs(ctx context.Context, t *tester) {
	found := t.glob("/sys/class/leds/*")
	if len(found) == 0 {
		t.not("", "", "The box has no lamp that the system knows.")
	}
	for _, led := range found {
		name := filepath.Base(led)
		set := func(file, v string) error { return os.WriteFile(t.path(led+"/"+file), []byte(v), 0) }
		trigger := t.read(led + "/trigger")
		if err := set("trigger", "none"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.not(name, "", "The lamp cannot be switched: %v.", err)
			continue
		}
		before, most := t.read(led+"/brightness"), t.read(led+"/max_brightness")
		wrong := ""
		for range 3 {
			for _, v := range []string{most, "0"} {
				if err := set("brightness", v); err != nil || t.read(led+"/brightness") != v {
					wrong = fmt.Sprintf("it does not take brightness %s", v)
				}
				select {
				case <-ctx.Done():
				case <-time.After(150 * time.Millisecond):
				}
			}
		}
		set("brightness", before)
		if _, rest, ok := strings.Cut(trigger, "["); ok {
			if now, _, ok := strings.Cut(rest, "]"); ok {
				set("trigger", now)
			}
		}
		if wrong != "" {
			t.fail(name, nil, "Check the lamp's cable.", "The lamp cannot be switched: %s.", wrong)
			continue
		}
		t.pass(name, nil, "The lamp was switched on and off three times; only a person sees whether it shone.")
	}
}

// gpioInfo is struct gpiochip_info of linux/gpio.h.
type gpioInfo struct {
	name, label [32]byte
	lines       uint32
}

// testGPIO asks each GPIO chip what it is.
func testGPIO(_ context.Context, t *tester) {
	found := t.glob("/dev/gpiochip*")
	if len(found) == 0 {
		t.not("", "", "The box has no GPIO chip.")
	}
	for _, chip := range found {
		f, err := os.Open(t.path(chip))
		if err != nil {
			t.not(chip, "", "The chip cannot be opened: %v.", err)
			continue
		}
		var info gpioInfo
		const getChipInfo = 0x8044B401 // _IOR(0xB4, 0x01, struct gpiochip_info)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), getChipInfo, uintptr(unsafe.Pointer(&info)))
		f.Close()
		if errno != 0 {
			t.fail(chip, nil, "Replace the box.", "The GPIO chip does not answer: %v.", errno)
			continue
		}
		t.pass(chip, map[string]float64{"lines": float64(info.lines)}, "The GPIO chip %s answers.", strings.TrimRight(string(info.label[:]), "\x00"))
	}
}

// Limits of a part in a closed box without a fan; most parts are made for 85 °C.
const coldest, hottest = -20, 85

func testTemperature(_ context.Context, t *tester) {
	found := append(t.glob("/sys/class/thermal/thermal_zone*/temp"), t.glob("/sys/class/hwmon/hwmon*/temp*_input")...)
	n := 0
	for _, f := range found {
		milli, ok := t.number(f)
		if !ok {
			continue
		}
		n++
		name := filepath.Base(filepath.Dir(f))
		for _, file := range []string{"type", "name"} {
			if s := t.read(filepath.Dir(f) + "/" + file); s != "" {
				name = s
			}
		}
		c := milli / 1000
		figures := map[string]float64{"celsius": c}
		if c < coldest || c > hottest {
			t.fail(name, figures, "Give the box air; do not mount it over a heater or in the sun.", "It has %.0f °C, which is outside of %d to %d °C.", c, coldest, hottest)
			continue
		}
		t.pass(name, figures, "It has %.0f °C.", c)
	}
	if n == 0 {
		t.not("", "", "The box has no thermometer.")
	}
}
