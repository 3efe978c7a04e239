package mllp

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// limitUnsent ends a connection whose other side has acknowledged nothing of what was sent for so long (TCP_USER_TIMEOUT, RFC
// 5482); the kernel's own limit is a quarter of an hour.
func limitUnsent(conn net.Conn, limit time.Duration) error {
	c, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	if err := raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(limit/time.Millisecond))
	}); err != nil {
		return err
	}
	return set
}
