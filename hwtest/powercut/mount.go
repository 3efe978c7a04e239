package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vitalgate/vitalgate/firmware/appliance/filesystem"
)

// errMayNot says that this process may not mount: nothing was tested.
var errMayNot = errors.New("cannot mount here, so no power was cut; run it as root of the machine, with /dev/fuse and loop devices")

const ownMountsEnv = "VITALGATE_POWERCUT_OWN_MOUNTS"

// ownMounts runs this program again where nobody sees its mounts, and they end with it. It returns at once in the program so run.
//
// A process that serves a disk must never wait for that disk in the kernel: killed there, it would neither answer nor end. So what is
// mounted from the disk is mounted, synced and unmounted by processes of their own, and the last to leave these mounts is another one.
func ownMounts() error {
	if os.Getenv(ownMountsEnv) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("%w (%w)", errMayNot, err)
		}
		_, err := child("sleep", "infinity") // ends after this program, whatever ends that
		return err
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), ownMountsEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the signal comes with the end of this thread
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err == nil || errors.As(err, &exit) {
		os.Exit(cmd.ProcessState.ExitCode())
	}
	return fmt.Errorf("%w (%w)", errMayNot, err)
}

// child starts a process that is killed once this one has ended.
func child(name string, args ...string) (*exec.Cmd, error) {
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = &bytes.Buffer{}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w (%w)", errMayNot, err)
	}
	return cmd, nil
}

// run runs a child to its end.
func run(name string, args ...string) error {
	cmd, err := child(name, args...)
	if err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(cmd.Stderr.(*bytes.Buffer).Bytes()))
	}
	return nil
}

// served is the disk as the one file "disk" of a file system of this program's.
type served struct {
	fuse.RawFileSystem
	*disk
}

const diskNode = fuse.FUSE_ROOT_ID + 1

// serve shows the disk as a file, for a loop device.
func serve(d *disk, dir string) (file string, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	s, err := fuse.NewServer(&served{fuse.NewDefaultRawFileSystem(), d}, dir, &fuse.MountOptions{DirectMountStrict: true, DisableXAttrs: true, FsName: "powercut", Name: "powercut"})
	if err != nil {
		return "", fmt.Errorf("%w (%w)", errMayNot, err)
	}
	go s.Serve()
	return filepath.Join(dir, "disk"), s.WaitMount()
}

func (s *served) attr(node uint64, a *fuse.Attr) fuse.Status {
	a.Ino, a.Nlink, a.Mode = node, 1, syscall.S_IFDIR|0o700
	if node == diskNode {
		a.Mode, a.Size, a.Blksize = syscall.S_IFREG|0o600, uint64(s.size), pageBytes
	}
	return fuse.OK
}

func (s *served) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if h.NodeId != fuse.FUSE_ROOT_ID || name != "disk" {
		return fuse.ENOENT
	}
	out.NodeId = diskNode
	return s.attr(diskNode, &out.Attr)
}

func (s *served) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	return s.attr(in.NodeId, &out.Attr)
}

// Open lets nothing of the file be cached above the disk.
func (s *served) Open(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_DIRECT_IO
	return fuse.OK
}

func (s *served) Read(_ <-chan struct{}, in *fuse.ReadIn, b []byte) (fuse.ReadResult, fuse.Status) {
	return fuse.ReadResultData(b[:s.read(b, int64(in.Offset))]), fuse.OK
}

func (s *served) Write(_ <-chan struct{}, in *fuse.WriteIn, b []byte) (uint32, fuse.Status) {
	if !s.write(b, int64(in.Offset)) {
		return 0, fuse.EIO
	}
	return uint32(len(b)), fuse.OK
}

func (s *served) Fsync(<-chan struct{}, *fuse.FsyncIn) fuse.Status {
	if !s.flush() {
		return fuse.EIO
	}
	return fuse.OK
}

func (s *served) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }

// mountCommand makes this program the process that mounts: powercut mount FILE DIR.
const mountCommand = "mount"

// mount mounts the ext4 in a file, as the box's first process mounts the data partition.
func mount(file, dir string) error { return run("/proc/self/exe", mountCommand, file, dir) }

func mountHere(file, dir string) error {
	loop, err := attach(file)
	if err != nil {
		return err
	}
	defer loop.Close() // once nothing uses it, the loop device is free
	_, err = filesystem.Mount(loop.Name(), dir)
	return err
}

func attach(file string) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", errMayNot, err)
	}
	defer control.Close()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("%w (%w)", errMayNot, err)
		}
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err == nil {
			err = unix.IoctlLoopConfigure(int(loop.Fd()), &unix.LoopConfig{Fd: uint32(f.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}})
			if err == nil {
				return loop, nil
			}
			loop.Close()
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) { // busy: another process took it first
			return nil, fmt.Errorf("%w (%w)", errMayNot, err)
		}
	}
}

// unmount waits until nothing uses the disk any more.
func unmount(dir string) (err error) {
	for deadline := time.Now().Add(time.Minute); isMounted(dir) && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = run("umount", dir); err == nil {
			return nil
		}
	}
	return err
}

func isMounted(dir string) bool {
	mounts, err := os.ReadFile("/proc/self/mounts")
	return err != nil || bytes.Contains(mounts, []byte(" "+dir+" "))
}
