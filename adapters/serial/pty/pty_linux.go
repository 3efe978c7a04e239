// Package pty makes pairs of pseudo terminals: a serial line without hardware, for tests and for the simulator.
package pty

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Pair is a pseudo terminal. Read and Write are the monitor's end of the line; Name is the device for the box to open.
type Pair struct {
	*os.File
	Name string

	slave *os.File // held open, so that the monitor's end is no error while the box has not opened the device
	link  string
}

// Open makes a pair whose line is raw. If link is not empty, it becomes a symbolic link to the device, a name that stays the
// same when the pair is made again; a link that is there is replaced, a file of another kind is an error.
func Open(link string) (_ *Pair, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open a pseudo terminal: /dev/ptmx: %w", err)
	}
	p := &Pair{File: os.NewFile(uintptr(fd), "/dev/ptmx"), link: link}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, fmt.Errorf("cannot learn the name of a pseudo terminal: %w", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, fmt.Errorf("cannot unlock a pseudo terminal: %w", err)
	}
	p.Name = fmt.Sprintf("/dev/pts/%d", n)
	p.slave, err = os.OpenFile(p.Name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open a pseudo terminal: %w", err)
	}
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("cannot set up a pseudo terminal: %w", err)
	}
	t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, t); err != nil {
		return nil, fmt.Errorf("cannot set up a pseudo terminal: %w", err)
	}
	if link == "" {
		return p, nil
	}
	if info, err := os.Lstat(link); err == nil {
		if info.Mode()&os.ModeSymlink == 0 {
			p.link = ""
			return nil, fmt.Errorf("cannot make the link %s: a file of that name is there", link)
		}
		os.Remove(link)
	}
	if err := os.Symlink(p.Name, link); err != nil {
		return nil, fmt.Errorf("cannot make the link: %w", err)
	}
	return p, nil
}

// Discard drops what the box has not read, and lets another program open the device although the one before was killed: a real
// line keeps neither.
func (p *Pair) Discard() {
	unix.IoctlSetInt(int(p.slave.Fd()), unix.TCFLSH, unix.TCIFLUSH)
	unix.IoctlSetInt(int(p.slave.Fd()), unix.TIOCNXCL, 0)
}

// Close unplugs the line: the box's end hangs up. It removes the link.
func (p *Pair) Close() error {
	if p.link != "" {
		if to, err := os.Readlink(p.link); err == nil && to == p.Name {
			os.Remove(p.link)
		}
	}
	if p.slave != nil {
		p.slave.Close()
	}
	return p.File.Close()
}
