package mllp_test

import (
	"bytes"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/adapters/adapterstest"
	"github.com/vitalgate/vitalgate/adapters/mllp"
)

// crowd is more messages than may be unanswered, and more bytes than one read takes; and less than a kernel takes from a connection
// that nobody reads.
const crowd = 2 * adapters.Window

// reached sends the crowd and waits until the box's kernel has acknowledged all of it.
func reached(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	var all []byte
	for i := range crowd {
		all = append(all, adapterstest.MLLP(adapterstest.Message(i)+"NTE|1||"+string(bytes.Repeat([]byte("x"), 200))+"\r")...)
	}
	if _, err := conn.Write(all); err != nil {
		t.Fatal(err)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(adapterstest.Patience); ; time.Sleep(time.Millisecond) {
		left := -1
		raw.Control(func(fd uintptr) { left, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
		if err == nil && left == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d bytes have not reached the box (%v)", left, err)
		}
	}
}

// all takes the frames from n on, up to the crowd.
func all(t *testing.T, r *adapterstest.Running, n int) {
	t.Helper()
	for ; n < crowd; n++ {
		f := r.Next(t)
		if want := adapterstest.Message(n); !bytes.HasPrefix(f.Data, []byte(want)) || f.Notes != nil {
			t.Fatalf("message %d came as %q %v", n, f.Data, f.Notes)
		}
		f.Reply([]byte("MSA|AA")) // fails once the line is known to be broken
	}
}

// What has reached the box is kept, whatever becomes of its connection before it is read: the monitor's TCP has the box's word for
// it, and may never send it again.
func TestWhatHasComeIsKept(t *testing.T) {
	for name, end := range map[string]func(*net.TCPConn) error{
		"it resets the connection": func(c *net.TCPConn) error { c.SetLinger(0); return c.Close() },
		"it hangs up":              func(c *net.TCPConn) error { return c.Close() },
		"it closes its side":       func(c *net.TCPConn) error { return c.CloseWrite() },
	} {
		t.Run(name, func(t *testing.T) {
			r := adapterstest.Start(t, newAdapter(t, mllp.Config{}))
			conn := dial(t, r).(*net.TCPConn)
			defer conn.Close()
			reached(t, conn)
			if err := end(conn); err != nil {
				t.Fatal(err)
			}
			all(t, r, 0)
			r.Await(t, "disconnected", func(s adapters.Status) bool { return s.Connections == 0 })
		})
	}
	// The box finds out by an answer that cannot be written: it must not end the line before the rest of it is read.
	t.Run("it takes no answers", func(t *testing.T) {
		r := adapterstest.Start(t, newAdapter(t, mllp.Config{WriteTimeout: 50 * time.Millisecond}))
		conn := dial(t, r).(*net.TCPConn)
		defer conn.Close()
		conn.SetReadBuffer(4096)
		reached(t, conn)
		r.Next(t).Reply(bytes.Repeat([]byte("x"), 32<<20))
		all(t, r, 1)
		r.Await(t, "disconnected", func(s adapters.Status) bool { return s.Connections == 0 })
	})
	t.Run("the box stops", func(t *testing.T) {
		// A stop waits a second for room and no longer, which a loaded machine may need for less than all: then once more.
		for end := time.Now().Add(adapterstest.Patience); ; {
			r := adapterstest.Start(t, newAdapter(t, mllp.Config{}))
			conn := dial(t, r).(*net.TCPConn)
			defer conn.Close()
			reached(t, conn)
			r.Next(t).Reply([]byte("MSA|AA"))
			stopped := make(chan error, 1)
			go func() { stopped <- r.Stop() }()
			n := 1
			for over := false; !over; {
				select {
				case f := <-r.Out:
					f.Reply([]byte("MSA|AA"))
					n++
				case err := <-stopped:
					if err != nil {
						t.Fatal(err)
					}
					over = true
				}
			}
			if n == crowd {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%d of %d messages that had come were kept when the box stopped", n, crowd)
			}
		}
	})
}
