package hospital

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Process is one program that can be killed and started again.
type Process struct {
	Name string
	path string
	args []string
	env  []string // beside this process's own
	log  *os.File

	mu    sync.Mutex
	under []string // the program that runs this one, with its arguments
	cmd   *exec.Cmd
	done  chan struct{} // closed when the process that cmd names has ended
	err   error
}

func newProcess(dir, name, path string, args ...string) (*Process, error) {
	f, err := os.OpenFile(filepath.Join(dir, name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return &Process{Name: name, path: path, args: args, log: f}, nil
}

// Under has another program run this one at each start from now on, with these arguments before it; nil is none.
func (p *Process) Under(program []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.under = program
}

// Start runs the program. Its stderr and stdout go to the log file.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := append(slices.Clip(p.under), append([]string{p.path}, p.args...)...)
	cmd := exec.Command(all[0], all[1:]...)
	cmd.Stdout, cmd.Stderr = p.log, p.log
	cmd.Env = append(os.Environ(), p.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start %s: %w", p.Name, err)
	}
	done := make(chan struct{})
	p.cmd, p.done = cmd, done
	go func() {
		err := cmd.Wait()
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
		close(done)
	}()
	return nil
}

// Kill ends the program as a power cut would (SIGKILL) and waits until it is gone.
func (p *Process) Kill() { p.signal(syscall.SIGKILL, time.Minute) }

// Stop asks the program to end (SIGTERM) and waits; after the patience it is killed. It returns how the program ended.
func (p *Process) Stop(patience time.Duration) error {
	if !p.signal(syscall.SIGTERM, patience) {
		p.Kill()
		return fmt.Errorf("%s did not stop within %v", p.Name, patience)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Pause stops the program where it is, as a hypervisor or a swapping machine does, until Resume.
func (p *Process) Pause() { p.send(syscall.SIGSTOP) }

// Resume lets it go on.
func (p *Process) Resume() { p.send(syscall.SIGCONT) }

func (p *Process) send(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		p.cmd.Process.Signal(s)
	}
}

// PID is the process id, 0 before the first start.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

func (p *Process) signal(s syscall.Signal, patience time.Duration) bool {
	p.mu.Lock()
	cmd, done := p.cmd, p.done
	p.mu.Unlock()
	if cmd == nil {
		return true
	}
	cmd.Process.Signal(s)
	select {
	case <-done:
		return true
	case <-time.After(patience):
		return false
	}
}

// Running says whether the program runs.
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Log is what the program has said so far, its last n bytes.
func (p *Process) Log(n int64) string {
	f, err := os.Open(p.log.Name())
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > n {
		f.Seek(-n, io.SeekEnd)
	}
	b, _ := io.ReadAll(f)
	return string(b)
}

// command runs a program to its end and gives its output; on failure the error holds what it said.
func command(ctx context.Context, path string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	out, err := cmd.Output()
	if err != nil {
		said := ""
		if e := (*exec.ExitError)(nil); errors.As(err, &e) {
			said = string(e.Stderr)
		}
		return nil, fmt.Errorf("%s %v: %w: %s", filepath.Base(path), args, err, said)
	}
	return out, nil
}
