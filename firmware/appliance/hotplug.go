package appliance

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lineNames are the serial lines a monitor may be at. The port of the kernel's console is none.
var lineNames = regexp.MustCompile(`^tty(S|AMA|USB|ACM|mxc|LP)[0-9]+$`)

const byPath = "/dev/serial/by-path"

// hotplug follows what is plugged in and out (uevents of the kernel): serial lines get a name that stays the same at the same
// socket, sticks are handed on.
type hotplug struct {
	stick func(device string)
	log   *slog.Logger
}

// listen opens the kernel's messages before what is there already is looked through, so that nothing falls between.
func (h *hotplug) run(ctx context.Context) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return fmt.Errorf("cannot hear what is plugged in: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		return fmt.Errorf("cannot hear what is plugged in: %w", err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return err
	}
	h.lookThrough()
	b := make([]byte, 1<<16)
	for ctx.Err() == nil {
		n, from, err := unix.Recvfrom(fd, b, 0)
		if err == unix.EAGAIN || err == unix.EINTR {
			continue
		}
		if err == unix.ENOBUFS { // more came than we took: look at what there is
			h.lookThrough()
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot hear what is plugged in: %w", err)
		}
		if k, ok := from.(*unix.SockaddrNetlink); !ok || k.Pid != 0 {
			continue // not the kernel
		}
		event := map[string]string{}
		for _, f := range bytes.Split(b[:n], []byte{0}) {
			if k, v, ok := strings.Cut(string(f), "="); ok {
				event[k] = v
			}
		}
		h.on(event["ACTION"], event["SUBSYSTEM"], "/sys"+event["DEVPATH"], event["DEVNAME"])
	}
	return nil
}

func (h *hotplug) lookThrough() {
	for _, class := range []string{"tty", "block"} {
		all, err := filepath.Glob("/sys/class/" + class + "/*")
		if err != nil {
			continue
		}
		for _, p := range all {
			dir, err := filepath.EvalSymlinks(p)
			if err == nil {
				h.on("add", class, dir, filepath.Base(dir))
			}
		}
	}
}

func (h *hotplug) on(action, subsystem, dir, name string) {
	name = filepath.Base(name)
	switch {
	case subsystem == "tty" && lineNames.MatchString(name) && action == "add":
		h.addLine(dir, name)
	case subsystem == "tty" && lineNames.MatchString(name) && action == "remove":
		links, err := filepath.Glob(byPath + "/*")
		if err != nil {
			return
		}
		for _, l := range links {
			if to, err := os.Readlink(l); err == nil && filepath.Base(to) == name {
				os.Remove(l)
				h.log.Warn("a serial line is gone", "line", l)
			}
		}
	case subsystem == "block" && action == "add" && strings.Contains(dir, "/usb"):
		// A stick with partitions is announced whole first; the whole is taken only where it has none.
		if whole, _ := filepath.Glob(filepath.Join(dir, name+"*", "partition")); len(whole) == 0 {
			go h.stick("/dev/" + name)
		}
	}
}

func (h *hotplug) addLine(dir, name string) {
	if console, err := os.ReadFile("/sys/class/tty/console/active"); err == nil && slices.Contains(strings.Fields(string(console)), name) {
		return
	}
	if kind, err := os.ReadFile(filepath.Join(dir, "type")); err == nil && strings.TrimSpace(string(kind)) == "0" {
		return // a place for a UART that is not there
	}
	if err := waitFor("/dev/" + name); err != nil {
		return
	}
	if err := os.Chown("/dev/"+name, workUser, workUser); err != nil {
		h.log.Error("a serial line cannot be used", "line", name, "error", err.Error())
		return
	}
	link := filepath.Join(byPath, lineName(dir))
	os.MkdirAll(byPath, 0o755)
	os.Remove(link)
	if err := os.Symlink("../../"+name, link); err != nil {
		h.log.Error("a serial line has no lasting name", "line", name, "error", err.Error())
		return
	}
	h.log.Info("a serial line is there", "line", link, "device", name)
}

var (
	busAddress = regexp.MustCompile(`^([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]|[0-9a-z]+\.[0-9a-z-]+|[A-Z]{3,4}[0-9A-F]{4}:[0-9a-f]{2})$`)
	usbPort    = regexp.MustCompile(`^[0-9]+-([0-9.]+)(:[0-9]+\.[0-9]+)$`)
)

// lineName says where a line is plugged in: the address of its controller on the bus, and the way through USB hubs. The numbers the
// kernel gives to buses and lines are left out: they depend on what was found first.
func lineName(dir string) string {
	controller, port := "", ""
	for part := range strings.SplitSeq(dir, "/") {
		switch m := usbPort.FindStringSubmatch(part); {
		case m != nil:
			port = "-usb-" + m[1] + m[2]
		case port == "" && busAddress.MatchString(part):
			controller = part
		}
	}
	if controller == "" && port == "" {
		return filepath.Base(dir)
	}
	return controller + port
}

// stickFolder is where a stick is mounted while it is looked at.
const stickFolder = "/run/stick"

// mountStick mounts a stick; nothing on it is executed, and what is written is there when it is pulled.
func mountStick(device string) error {
	var err error
	for range 20 { // the kernel may still be reading it
		for _, kind := range []string{"vfat", "exfat"} {
			if err = unix.Mount(device, stickFolder, kind, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_SYNCHRONOUS, "umask=077"); err == nil {
				return nil
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("cannot read the stick: %w; it must be FAT32 or exFAT", err)
}
