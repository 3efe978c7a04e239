//go:build !linux

package mllp

import (
	"net"
	"time"
)

// limitUnsent leaves the wait to the kernel here.
func limitUnsent(net.Conn, time.Duration) error { return nil }
