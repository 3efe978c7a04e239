package tpm_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vitalgate/vitalgate/tpm"
	"github.com/vitalgate/vitalgate/tpm/tpmtest"
)

// line is a character device with a real swtpm behind it: a terminal whose other end carries the bytes to and fro.
type line struct {
	path string
	mu   sync.Mutex
	bend func(command []byte) []byte // an answer to give instead; empty for none at all; nil for the TPM's own
}

func (l *line) bent(f func(command []byte) []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bend = f
}

func newLine(t *testing.T) *line {
	t.Helper()
	exchange, end, err := tpm.Swtpm(context.Background(), tpmtest.Dir(t))
	must(t, err)
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		end()
		t.Skipf("this machine has no pseudo terminals: %v", err)
	}
	var n int
	control, err := master.SyscallConn() // Fd would make Close wait for Read
	must(t, err)
	must(t, control.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			n, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	}))
	must(t, err)
	l := &line{path: fmt.Sprintf("/dev/pts/%d", n)}
	slave, err := os.OpenFile(l.path, os.O_RDWR|unix.O_NOCTTY, 0) // kept open: a terminal without users hangs up
	must(t, err)
	raw, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	must(t, err)
	raw.Iflag, raw.Oflag, raw.Lflag = 0, 0, 0
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	must(t, unix.IoctlSetTermios(int(slave.Fd()), unix.TCSETS, raw))

	var done sync.WaitGroup
	done.Go(func() {
		for {
			command := make([]byte, 10)
			if _, err := io.ReadFull(master, command); err != nil {
				return
			}
			command = append(command, make([]byte, binary.BigEndian.Uint32(command[2:])-10)...)
			if _, err := io.ReadFull(master, command[10:]); err != nil {
				return
			}
			l.mu.Lock()
			bend := l.bend
			l.mu.Unlock()
			var answer []byte
			if bend != nil {
				answer = bend(command)
			}
			if answer == nil {
				if answer, err = exchange(command); err != nil {
					return
				}
			}
			master.Write(answer)
		}
	})
	t.Cleanup(func() {
		master.Close() // and whoever still waits for an answer reads EIO
		done.Wait()
		slave.Close()
		end()
	})
	return l
}

func TestDeviceOnALine(t *testing.T) {
	l := newLine(t)
	dir := filepath.Join(t.TempDir(), "tpm")
	x := open(t, l.path, dir)
	if x.Class() != tpm.Emulated || x.Label() != "emulated TPM (swtpm)" {
		t.Fatalf("a swtpm behind a device is called %s, %q", x.Class(), x.Label())
	}
	data, boot := public(x.Data()), x.Boot()
	signs(t, x.Data())
	stop(t, x)
	x = open(t, l.path, dir)
	defer stop(t, x)
	if !public(x.Data()).Equal(data) || x.Boot().Counter != boot.Counter+1 || x.Boot().Resets != boot.Resets {
		t.Fatalf("the second run has boot %+v after %+v", x.Boot(), boot)
	}
	signs(t, x.TLS())
}

// Some SPI chips answer the first commands with nonsense: "device is not a TPM 2.0".
func TestDeviceThatFailsItsFirstCommands(t *testing.T) {
	l := newLine(t)
	var n atomic.Int32
	l.bent(func([]byte) []byte {
		switch n.Add(1) {
		case 1:
			return []byte{0, 0xc4, 0, 0, 0, 10, 0, 0, 0, 0x1e} // a TPM 1.2 response
		case 2:
			return rc(0x101) // TPM_RC_FAILURE
		}
		return nil
	})
	x := open(t, l.path, filepath.Join(t.TempDir(), "tpm"))
	defer stop(t, x)
	signs(t, x.Data())
	if n.Load() < 3 {
		t.Fatal("the faults were not injected")
	}
}

func TestDeviceHungIsAnError(t *testing.T) {
	l := newLine(t)
	x := open(t, l.path, filepath.Join(t.TempDir(), "tpm"))
	defer x.Close()
	signs(t, x.Data())
	x.SetPatience(200 * time.Millisecond)
	l.bent(func([]byte) []byte { return []byte{} })
	ctx, cancel := context.WithTimeout(t.Context(), time.Second) // for the second try, which opens the device again
	defer cancel()
	a, _ := attestor(t, x)
	_, err := a.CertifyData(ctx, nonce)
	if err == nil || !strings.HasPrefix(err.Error(), "cannot certify the data key: ") || errors.Is(err, tpm.ErrIdentity) {
		t.Fatalf("got %v", err)
	}
}

func TestDeviceInFailureModeSaysWhatToDo(t *testing.T) {
	l := newLine(t)
	x := open(t, l.path, filepath.Join(t.TempDir(), "tpm"))
	defer stop(t, x)
	l.bent(func([]byte) []byte { return rc(0x101) })
	_, err := x.Data().Sign(nil, digest[:], nil)
	if err == nil || !strings.Contains(err.Error(), "failure mode; power the box off and on") {
		t.Fatalf("got %v", err)
	}
	l.bent(nil)
	signs(t, x.Data())
}

// The first process holds the vault for as long as the box runs: one bad answer must not be its end.
func TestVaultIsOpenedAgain(t *testing.T) {
	l := newLine(t)
	v, err := tpm.OpenVault(t.Context(), l.path)
	must(t, err)
	defer v.Close()
	must(t, v.RaiseRollback(t.Context(), 3))
	l.bent(func([]byte) []byte { return []byte{0x80, 1, 0, 0, 0, 9, 0, 0, 0, 0} }) // 10 bytes that say they are 9
	if _, err := v.Rollback(t.Context()); err == nil || !strings.Contains(err.Error(), "no TPM 2.0 response") {
		t.Fatalf("nonsense is taken for an answer: %v", err)
	}
	l.bent(nil)
	if index, err := v.Rollback(t.Context()); err != nil || index != 3 {
		t.Errorf("afterwards the rollback index is %d: %v", index, err)
	}
}
