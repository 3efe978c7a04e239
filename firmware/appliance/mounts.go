package appliance

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const (
	efiVariables = "/sys/firmware/efi/efivars"
	dataFolder   = "/data"
	boxFolder    = dataFolder + "/box"
)

// mounts are the file systems of the kernel. None but data and sticks has anything of a disk.
var mounts = []struct {
	kind, at string
	flags    uintptr
	options  string
}{
	{"proc", "/proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "hidepid=invisible"},
	{"sysfs", "/sys", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"devtmpfs", "/dev", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0755"},
	{"tmpfs", "/run", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "mode=0755,size=16m"},
	{"efivarfs", efiVariables, unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
}

// mountAll mounts them, and makes the root, which is the RAM disk of the signed slot, read-only.
func mountAll() error {
	for _, m := range mounts {
		if err := unix.Mount(m.kind, m.at, m.kind, m.flags, m.options); err != nil {
			return fmt.Errorf("cannot mount %s: %w", m.at, err)
		}
	}
	// The line must not give names to files that are not its own (proc_sys_fs(5)).
	if err := os.WriteFile("/proc/sys/fs/protected_hardlinks", []byte("1"), 0); err != nil {
		return fmt.Errorf("cannot forbid links to files of others: %w", err)
	}
	if err := os.MkdirAll(stickFolder, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID, ""); err != nil {
		return fmt.Errorf("cannot make the root read-only: %w", err)
	}
	return nil
}
