package appliance

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestHeadSurvivesTheLossOfEitherCopy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "partition")
	if err := os.WriteFile(path, make([]byte, 2*headerBytes), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := readHead(f); !errors.Is(err, errFresh) {
		t.Fatalf("an empty partition: %v", err)
	}
	want := head{Sealed: []byte("a sealed key")}
	if err := writeHead(f, want); err != nil {
		t.Fatal(err)
	}
	for _, at := range headerAt {
		b := make([]byte, 64)
		f.ReadAt(b, at)
		f.WriteAt(bytes.Repeat([]byte{0x5a}, 64), at)
		if h, err := readHead(f); err != nil || !bytes.Equal(h.Sealed, want.Sealed) {
			t.Errorf("without the copy at %d: %v", at, err)
		}
		f.WriteAt(b, at)
	}
	f.WriteAt([]byte{0}, headerAt[0])
	f.WriteAt([]byte{0}, headerAt[1])
	if _, err := readHead(f); !errors.Is(err, errDamaged) {
		t.Errorf("a partition with data whose heads are damaged must never be taken for a new one: %v", err)
	}
	if err := wipeHead(f); err != nil {
		t.Fatal(err)
	}
	if _, err := readHead(f); !errors.Is(err, errFresh) {
		t.Errorf("a wiped partition: %v", err)
	}
	// The power goes while the first copy is written for the first time.
	whole, err := want.bytes()
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt(whole[:len(whole)/2], headerAt[0])
	if _, err := readHead(f); !errors.Is(err, errFresh) {
		t.Errorf("a head that was begun: %v", err)
	}
}

func TestLinesKeepTheirNames(t *testing.T) {
	for dir, want := range map[string]string{
		"/sys/devices/pci0000:00/0000:00:03.0/tty/ttyS0":                                           "0000:00:03.0",
		"/sys/devices/pci0000:00/0000:00:02.0/usb1/1-1/1-1:1.0/ttyUSB0/tty/ttyUSB0":                "0000:00:02.0-usb-1:1.0",
		"/sys/devices/pci0000:00/0000:00:02.0/usb3/3-1/3-1.4/3-1.4:1.1/tty/ttyACM0":                "0000:00:02.0-usb-1.4:1.1",
		"/sys/devices/platform/soc/fe201000.serial/fe201000.serial:0/tty/ttyAMA1":                  "fe201000.serial",
		"/sys/devices/platform/scb/fd500000.pcie/pci0000:00/0000:01:00.0/usb1/1-1/1-1:1.0/ttyUSB5": "0000:01:00.0-usb-1:1.0",
	} {
		if got := lineName(dir); got != want {
			t.Errorf("%s is called %s, not %s", dir, got, want)
		}
	}
}

// The time is never before what is known, whatever the RTC says.
func TestTheTimeHasAFloor(t *testing.T) {
	wall := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	m := mark{wall, chipClock{3, 1000}}
	for _, c := range []struct {
		now  chipClock
		want time.Time
	}{
		{chipClock{3, 61000}, wall.Add(time.Minute)},
		{chipClock{4, 3601000}, wall.Add(time.Hour)},
		{chipClock{4, 400}, wall}, // the chip lost a little
		{chipClock{}, wall},       // the chip does not answer
	} {
		if got := m.floor(c.now); !got.Equal(c.want) {
			t.Errorf("with %+v the floor is %v, not %v", c.now, got, c.want)
		}
	}
}

func TestOneLineThatHangsStopsTheWatchdog(t *testing.T) {
	w := &worker{}
	if !w.alive() {
		t.Error("a box without a line is not alive")
	}
	w.running, w.heard = true, time.Now()
	if !w.alive() {
		t.Error("a line that has just begun is not alive")
	}
	w.heard = time.Now().Add(-3 * silence)
	if w.alive() {
		t.Error("a line that has been silent for minutes is alive")
	}
}

func TestTheButtonMustBeHeld(t *testing.T) {
	var h hold
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		after   time.Duration
		pressed bool
		want    bool
	}{
		{-time.Hour, true, false}, {-time.Minute, true, false}, // stuck
		{-time.Second, false, false}, {0, true, false}, {9 * time.Second, true, false}, {9500 * time.Millisecond, false, false},
		{10 * time.Second, true, false}, {19 * time.Second, true, false}, {20 * time.Second, true, true},
	} {
		if got := h.see(c.pressed, at.Add(c.after)); got != c.want {
			t.Errorf("after %v: %v", c.after, got)
		}
	}
}

// A release on trial works in the folder of one that knows nothing of its mode 0710, and leaves it as that release needs it. It takes
// back what the line has too much when it is kept.
func TestATrialLeavesTheFolderToTheReleaseOfBefore(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root gives files away")
	}
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // the test's own folder
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(names ...string) {
		t.Helper()
		for _, name := range names {
			if err := os.WriteFile(at(name), []byte(name), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	is := func(name string, mode fs.FileMode, user uint32) {
		t.Helper()
		about, err := os.Stat(at(name))
		if err != nil {
			t.Fatal(err)
		}
		if uid := about.Sys().(*syscall.Stat_t).Uid; about.Mode().Perm() != mode || uid != user {
			t.Errorf("%q: mode %v of user %d, want %v of %d", name, about.Mode().Perm(), uid, mode, user)
		}
	}
	line := func(command string, may bool) {
		t.Helper()
		cmd := exec.Command("/bin/sh", "-c", command)
		cmd.Dir = "/"
		cmd.Env = []string{"BOX=" + dir, "PATH=" + os.Getenv("PATH")}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: workUser, Gid: workUser}}
		if out, err := cmd.CombinedOutput(); (err == nil) != may {
			t.Errorf("the line, %s: %v %s", command, err, out)
		}
	}
	const works = "cat $BOX/config.toml $BOX/grant.json && touch $BOX/data/log/next"
	if err := errors.Join(os.Chmod(dir, 0o700), os.MkdirAll(at("data/log"), 0o700)); err != nil {
		t.Fatal(err)
	}
	write("link.key", "claim", "config.toml", "grant.json", "data/log/segment")
	trial := true
	w := &worker{trial: func() bool { return trial }}
	for range 2 { // at each start of the line
		if err := w.hand(dir); err != nil {
			t.Fatal(err)
		}
		is(".", 0o700, workUser)
		is("config.toml", 0o600, workUser)
		is("link.key", 0o600, 0)
		line(works, true)
		line("cat $BOX/link.key", false)
		if err := os.Remove(at("config.toml")); err != nil { // provisioned anew on trial
			t.Fatal(err)
		}
		write("config.toml")
	}
	trial = false
	if err := w.settle(dir); err != nil {
		t.Fatal(err)
	}
	is(".", 0o710, 0)
	is("config.toml", 0o640, 0)
	line(works, true)
	line("mv $BOX/config.toml $BOX/other", false)
	trial = true // the next update: the release of before knows the mode
	if err := w.hand(dir); err != nil {
		t.Fatal(err)
	}
	is(".", 0o710, 0)
	line(works, true)
}

// The line may read what it works by and write below data; the label and the rest of the box's folder are not its own, by whatever
// name.
func TestTheBoxsFolderIsNotTheLines(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root gives files away")
	}
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // the test's own folder
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(os.Chmod(dir, 0o700), os.MkdirAll(at("data/log"), 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link.key", "claim", "config.toml", "grant.json", "data/log/segment"} {
		if err := os.WriteFile(at(name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(at("link.key"), at("data/mine")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // at each start
		if err := hand(dir, false); err != nil {
			t.Fatal(err)
		}
	}
	for command, may := range map[string]bool{
		"cat config.toml grant.json": true, "cat data/log/segment": true, "touch data/log/next": true, "mv data/log data/old": true,
		"cat link.key": false, "cat data/mine": false, "cat claim": false, "ls .": false, "touch new": false, "mv link.key data/": false, "rm -f claim": false,
		"mv config.toml other": false, "echo >>config.toml": false, "rm -f grant.json": false, "mv data other": false, "chmod 777 .": false,
	} {
		cmd := exec.Command("/bin/sh", "-c", command)
		cmd.Dir = dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: workUser, Gid: workUser}}
		if out, err := cmd.CombinedOutput(); (err == nil) != may {
			t.Errorf("the line, %s: %v %s", command, err, out)
		}
		if may && strings.HasPrefix(command, "mv") {
			if err := os.Rename(at("data/old"), at("data/log")); err != nil {
				t.Fatal(err)
			}
		}
	}
}
