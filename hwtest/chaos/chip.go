package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// chip is the box's emulated TPM, which can be slow, hang or die. The box starts "swtpm" from a folder of ours; that is this program
// again, which passes commands on to the real one.
type chip struct {
	dir, swtpm string
}

const (
	chipEnv  = "VITALGATE_CHAOS_TPM"   // folder of the files "slow", "hang" and "pid"
	swtpmEnv = "VITALGATE_CHAOS_SWTPM" // the real one
)

// newChip prepares the folder; nil and "software" without swtpm.
func newChip(dir string) (c *chip, source string, err error) {
	real, err := exec.LookPath("swtpm")
	if err != nil {
		fmt.Println("the box has NOT A TPM (software key), so none is broken: install swtpm")
		return nil, "software", nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, "", err
	}
	c = &chip{dir: filepath.Join(dir, "chip"), swtpm: real}
	if err := os.Mkdir(c.dir, 0o700); err != nil {
		return nil, "", err
	}
	return c, "swtpm", os.Symlink(self, filepath.Join(c.dir, "swtpm"))
}

func (c *chip) env() []string {
	if c == nil {
		return nil
	}
	return []string{chipEnv + "=" + c.dir, swtpmEnv + "=" + c.swtpm, "PATH=" + c.dir + string(os.PathListSeparator) + os.Getenv("PATH")}
}

// kill ends the TPM that runs now, if one does.
func (c *chip) kill() error {
	b, err := os.ReadFile(filepath.Join(c.dir, "pid"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(string(b))
	if err != nil {
		return err
	}
	// The number may have been given to another process since.
	if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil {
		if self, err := os.Executable(); err == nil && exe == self {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	return nil
}

// while lets something be so for a while.
func (c *chip) while(what string, long time.Duration) error {
	path := filepath.Join(c.dir, what)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	time.Sleep(long)
	return os.Remove(path)
}

// beTPM is the program that the box takes for swtpm: its end of the conversation is file 3.
func beTPM() int {
	dir := os.Getenv(chipEnv)
	if err := passOn(dir); err != nil {
		fmt.Fprintln(os.Stderr, "swtpm:", err)
		return 1
	}
	return 0
}

func passOn(dir string) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	box, ours, theirs := os.NewFile(3, "box"), os.NewFile(uintptr(pair[0]), "chip"), os.NewFile(uintptr(pair[1]), "box")
	cmd := exec.Command(os.Getenv(swtpmEnv), os.Args[1:]...)
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	theirs.Close()
	if err := sayPID(dir); err != nil {
		return err
	}
	is := func(what string) bool { _, err := os.Stat(filepath.Join(dir, what)); return err == nil }
	for {
		command, err := message(box)
		if err != nil { // the box has ended
			ours.Close()
			return cmd.Wait()
		}
		for is("hang") {
			time.Sleep(10 * time.Millisecond)
		}
		const sign = 0x15d // TPM_CC_Sign
		if is("slow") && binary.BigEndian.Uint32(command[6:]) == sign {
			time.Sleep(time.Duration(25+rand.IntN(166)) * time.Millisecond) // what real chips take
		}
		if _, err := ours.Write(command); err != nil {
			return err
		}
		answer, err := message(ours)
		if err != nil {
			return err
		}
		if _, err := box.Write(answer); err != nil {
			return err
		}
	}
}

// sayPID names this process in the file "pid", which is whole whenever kill reads it.
func sayPID(dir string) error {
	pid := strconv.Itoa(os.Getpid())
	path := filepath.Join(dir, "pid."+pid)
	if err := os.WriteFile(path, []byte(pid), 0o600); err != nil {
		return err
	}
	return os.Rename(path, filepath.Join(dir, "pid"))
}

// message reads one TPM command or answer.
func message(r io.Reader) ([]byte, error) {
	b := make([]byte, 10)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(b[2:])
	if n < 10 || n > 1<<16 {
		return nil, fmt.Errorf("a message of %d bytes", n)
	}
	b = append(b, make([]byte, n-10)...)
	_, err := io.ReadFull(r, b[10:])
	return b, err
}
