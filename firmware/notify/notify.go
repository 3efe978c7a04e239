// Package notify is how a running box tells whoever started it how it is: the datagrams of sd_notify(3), so that systemd and the
// first process of our image understand the same words.
package notify

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
)

// Socket is the variable of the environment that names the socket.
const Socket = "NOTIFY_SOCKET"

// Fields. Those that begin with X_ are ours; systemd leaves them aside.
const (
	Ready    = "READY"     // 1: started
	Stopping = "STOPPING"  // 1: ends
	Status   = "STATUS"    // one sentence for a person
	Watchdog = "WATCHDOG"  // 1: alive
	Kept     = "X_KEPT"    // messages taken in this run
	Through  = "X_THROUGH" // 1: a reading of this run was kept, signed, and acknowledged by a leaf node
)

// Send tells fields, such as "READY=1". Without a socket nobody asked, and nothing is sent.
func Send(fields ...string) error {
	name := os.Getenv(Socket)
	if name == "" {
		return nil
	}
	if name[0] == '@' { // abstract
		name = "\x00" + name[1:]
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("cannot tell the service manager: %w", err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(strings.Join(fields, "\n"))); err != nil {
		return fmt.Errorf("cannot tell the service manager: %w", err)
	}
	return nil
}

// Listen hears what is sent to the socket at path until ctx ends.
func Listen(ctx context.Context, path string, heard func(map[string]string)) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot listen to the service: %w", err)
	}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("cannot listen to the service: %w", err)
	}
	// The service may run as another user. It can say nothing that would harm: see who reads it.
	if err := os.Chmod(path, 0o666); err != nil {
		c.Close()
		return err
	}
	go func() {
		defer c.Close()
		stop := context.AfterFunc(ctx, func() { c.Close() })
		defer stop()
		b := make([]byte, 4096)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			fields := map[string]string{}
			for line := range strings.Lines(string(b[:n])) {
				if k, v, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "="); ok {
					fields[k] = v
				}
			}
			heard(fields)
		}
	}()
	return nil
}
