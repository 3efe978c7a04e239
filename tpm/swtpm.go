package tpm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// swtpm is a child process that emulates a TPM, reached over a socket pair: no path, no port, nothing left behind. It ends
// when our end of the pair closes, and by Pdeathsig when we are killed: with a command under way it overlooks the close.
type swtpm struct {
	conn   net.Conn
	cmd    *exec.Cmd
	said   *tail
	exited chan struct{}
}

// startSwtpm powers the emulated TPM on (TPM2_Startup(CLEAR)), manufacturing it at the first start. Its state is in
// dir/swtpm.
func startSwtpm(ctx context.Context, dir string, log *slog.Logger) (link, error) {
	path, err := exec.LookPath("swtpm")
	if err != nil {
		return nil, fmt.Errorf("cannot start the emulated TPM: swtpm is not installed (package swtpm); this box's identity needs it: %w", err)
	}
	state := filepath.Join(dir, "swtpm")
	if _, err := os.Stat(state); errors.Is(err, fs.ErrNotExist) {
		if err := manufacture(ctx, state, log); err != nil {
			return nil, fmt.Errorf("cannot manufacture the emulated TPM: %w", err)
		}
	}
	for try := 0; ; try++ {
		s, err := spawn(path, state)
		if err != nil {
			return nil, fmt.Errorf("cannot start the emulated TPM: %w", err)
		}
		_, err = vendor(&bus{ctx: ctx, link: s, patience: swtpmPatience})
		if err == nil {
			return s, nil
		}
		s.close()
		err = fmt.Errorf("cannot start the emulated TPM with the state in %s: %w", state, err)
		// The swtpm of a box that was just killed may still be on its way out.
		if try == 20 || !strings.Contains(s.said.String(), "lock") {
			return nil, err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
	}
}

func spawn(path, state string) (*swtpm, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "swtpm"), os.NewFile(uintptr(pair[1]), "swtpm")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, err
	}
	s := &swtpm{conn: conn, said: &tail{}, exited: make(chan struct{})}
	s.cmd = exec.Command(path, "socket", "--tpm2", "--tpmstate", "dir="+state, "--fd", "3",
		"--flags", "not-need-init,startup-clear", "--terminate")
	s.cmd.ExtraFiles = []*os.File{theirs}
	s.cmd.Stdout, s.cmd.Stderr = s.said, s.said
	// Its own process group: a Ctrl-C on our terminal must not take the TPM away before we have closed it.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // Pdeathsig fires when the thread that forked ends
		defer runtime.UnlockOSThread()
		defer close(s.exited)
		err := s.cmd.Start()
		started <- err
		if err == nil {
			s.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

func (s *swtpm) String() string { return "swtpm" }

func (s *swtpm) exchange(ctx context.Context, command []byte) ([]byte, error) {
	s.conn.SetDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { s.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := s.conn.Write(command); err != nil {
		return nil, s.ended(err)
	}
	header := make([]byte, headerSize)
	if _, err := io.ReadFull(s.conn, header); err != nil {
		return nil, s.ended(err)
	}
	size := binary.BigEndian.Uint32(header[2:])
	if size < headerSize || size > answerMost {
		return nil, fmt.Errorf("swtpm gave an answer of %d bytes", size)
	}
	answer := make([]byte, size)
	copy(answer, header)
	if _, err := io.ReadFull(s.conn, answer[headerSize:]); err != nil {
		return nil, s.ended(err)
	}
	return answer, nil
}

// ended says why the conversation ended, with swtpm's last words.
func (s *swtpm) ended(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	select {
	case <-s.exited:
	case <-time.After(time.Second):
		return fmt.Errorf("lost swtpm: %w", err)
	}
	if words := s.said.String(); words != "" {
		return fmt.Errorf("swtpm ended (%v): %s", s.cmd.ProcessState, words)
	}
	return fmt.Errorf("swtpm ended (%v)", s.cmd.ProcessState)
}

// close ends the process: by itself when the pair closes, by force when it hangs.
func (s *swtpm) close() error {
	err := s.conn.Close()
	select {
	case <-s.exited:
	case <-time.After(300 * time.Millisecond):
		s.cmd.Process.Kill()
		<-s.exited
	}
	return err
}

// manufacture makes the state of a new TPM, with endorsement keys certified by a local authority where swtpm_setup is
// installed. The state appears as a whole or not at all.
func manufacture(ctx context.Context, state string, log *slog.Logger) error {
	fresh := state + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(fresh, "ca"), 0o700); err != nil {
		return err
	}
	if err := setup(ctx, fresh); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		log.Warn("the emulated TPM has no endorsement certificates", "why", err)
		if err := os.RemoveAll(fresh); err != nil {
			return err
		}
		if err := os.Mkdir(fresh, 0o700); err != nil { // swtpm fills an empty directory itself
			return err
		}
	}
	if err := syncTree(fresh); err != nil {
		return err
	}
	if err := os.Rename(fresh, state); err != nil {
		return err
	}
	return syncDir(filepath.Dir(state))
}

// setupPatience is how long swtpm_setup may take: it makes RSA keys, which takes a minute and more on a machine that has other work.
const setupPatience = 5 * time.Minute

func setup(ctx context.Context, dir string) error {
	path, err := exec.LookPath("swtpm_setup")
	if err != nil {
		return err
	}
	ca := filepath.Join(dir, "ca")
	for name, text := range map[string]string{
		"localca.conf":    fmt.Sprintf("statedir = %[1]s\nsigningkey = %[1]s/signkey.pem\nissuercert = %[1]s/issuercert.pem\ncertserial = %[1]s/certserial\n", ca),
		"localca.options": "--platform-manufacturer vitalgate\n--platform-version 1\n--platform-model emulated\n",
		"setup.conf": fmt.Sprintf("create_certs_tool=swtpm_localca\ncreate_certs_tool_config=%[1]s/localca.conf\n"+
			"create_certs_tool_options=%[1]s/localca.options\nactive_pcr_banks = sha256\n", ca),
	} {
		if err := os.WriteFile(filepath.Join(ca, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, setupPatience, fmt.Errorf("swtpm_setup did not end within %v", setupPatience))
	defer cancel()
	said := &tail{}
	cmd := exec.CommandContext(ctx, path, "--tpm2", "--tpmstate", dir, "--config", filepath.Join(ca, "setup.conf"),
		"--create-ek-cert", "--lock-nvram", "--overwrite")
	cmd.Stdout, cmd.Stderr = said, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("swtpm_setup: %w: %s", err, said)
	}
	return nil
}

func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}

// tail keeps the last words of a process.
type tail struct {
	mu   sync.Mutex
	data []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p...)
	if over := len(t.data) - 1024; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
	}
	return len(p), nil
}

// String returns the words on one line.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.ReplaceAll(bytes.TrimSpace(t.data), []byte("\n"), []byte("; ")))
}
