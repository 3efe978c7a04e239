package pds

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// shared lets several monitors of a box hear broadcasts at one port: Linux gives a broadcast to every such socket.
func shared(_, _ string, c syscall.RawConn) error {
	var set error
	if err := c.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) }); err != nil {
		return err
	}
	return set
}
