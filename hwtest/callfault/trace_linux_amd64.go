package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// watch is a program whose calls are followed.
type watch struct {
	*command
	dir  string
	list *os.File

	leader int         // the program
	count  int         // of the calls that are asked for
	failed map[int]int // by thread: the call under way is to be reported failed, with this number
}

var errnos = map[string]unix.Errno{"EIO": unix.EIO, "ENOSPC": unix.ENOSPC, "EROFS": unix.EROFS}

// trace runs the program. Each thread stops before and after each of its calls (ptrace(2)).
func (w *watch) trace() (code int, err error) {
	path, err := exec.LookPath(w.Program[0])
	if err != nil {
		return 0, fmt.Errorf("cannot run the program: %w", err)
	}
	runtime.LockOSThread() // the one thread that may ask, and with whose end the program would be let go
	p, err := os.StartProcess(path, w.Program, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Sys: &syscall.SysProcAttr{Ptrace: true}})
	if err != nil {
		return 0, fmt.Errorf("cannot run the program: %w; this machine may not allow ptrace", err)
	}
	w.leader, w.failed = p.Pid, map[int]int{}
	told := make(chan os.Signal, 8)
	signal.Notify(told, unix.SIGTERM, unix.SIGINT)
	go func() {
		for s := range told {
			unix.Kill(w.leader, s.(syscall.Signal))
		}
	}()
	var ws unix.WaitStatus
	if err := wait(w.leader, &ws); err != nil || !ws.Stopped() {
		return 0, fmt.Errorf("cannot follow the program: %w (%v)", err, ws)
	}
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK | unix.PTRACE_O_TRACEEXEC | unix.PTRACE_O_EXITKILL
	if err := unix.PtraceSetOptions(w.leader, options); err != nil {
		return 0, fmt.Errorf("cannot follow the program: %w", err)
	}
	if err := unix.PtraceSyscall(w.leader, 0); err != nil {
		return 0, fmt.Errorf("cannot follow the program: %w", err)
	}
	for {
		tid, err := unix.Wait4(-1, &ws, unix.WALL, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, fmt.Errorf("cannot follow the program: %w", err)
		case tid == w.leader && ws.Exited():
			return ws.ExitStatus(), nil
		case tid == w.leader && ws.Signaled():
			return 128 + int(ws.Signal()), nil
		case !ws.Stopped():
			continue // a thread has ended
		}
		deliver := 0
		switch sig := ws.StopSignal(); {
		case sig == unix.SIGTRAP|0x80:
			err = w.stopped(tid)
		case sig == unix.SIGTRAP && ws.TrapCause() > 0, sig == unix.SIGSTOP: // a thread was made, or another program begun
		default:
			deliver = int(sig)
		}
		if err == nil {
			err = unix.PtraceSyscall(tid, deliver)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) { // it is being killed
			return 0, fmt.Errorf("cannot follow the program: %w", err)
		}
	}
}

func wait(pid int, ws *unix.WaitStatus) error {
	for {
		if _, err := unix.Wait4(pid, ws, unix.WALL, nil); err != unix.EINTR {
			return err
		}
	}
}

// callInfo is struct ptrace_syscall_info of linux/ptrace.h.
type callInfo struct {
	Op      uint8
	_       [3]uint8
	Arch    uint32
	IP, SP  uint64
	Nr      uint64
	Args    [6]uint64
	unusual uint64
}

const (
	ptraceGetSyscallInfo = 0x420e
	opEntry              = 1
	opExit               = 2
)

// stopped is a thread before or after a call.
func (w *watch) stopped(tid int) error {
	var info callInfo
	if _, _, e := unix.Syscall6(unix.SYS_PTRACE, ptraceGetSyscallInfo, uintptr(tid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0); e != 0 {
		return e
	}
	switch info.Op {
	case opEntry:
		return w.before(tid, w.class(tid, info.Nr, info.Args))
	case opExit:
		return w.after(tid)
	}
	return nil
}

// killed as the number of w.failed says that the program dies once the call is done.
const killed = -1

func (w *watch) before(tid int, class string) error {
	if class == "" {
		return nil
	}
	if w.list != nil {
		fmt.Fprintln(w.list, class)
	}
	if w.Call != "" && w.Call != class {
		return nil
	}
	if w.count++; w.count != w.Nth {
		return nil
	}
	if w.Hit != "" {
		if err := os.WriteFile(w.Hit, []byte(class), 0o600); err != nil {
			return err
		}
	}
	errno := killed
	if w.Fault != "kill" {
		errno = int(errnos[w.Fault])
	}
	if w.Done {
		w.failed[tid] = errno
		return nil
	}
	if err := setRegisters(tid, func(r *unix.PtraceRegs) { r.Orig_rax = ^uint64(0) }); err != nil { // no call has this number: nothing is done
		return err
	}
	if errno == killed {
		return unix.Kill(w.leader, unix.SIGKILL)
	}
	w.failed[tid] = errno
	return nil
}

func (w *watch) after(tid int) error {
	errno, ok := w.failed[tid]
	if !ok {
		return nil
	}
	delete(w.failed, tid)
	if errno == killed {
		return unix.Kill(w.leader, unix.SIGKILL)
	}
	return setRegisters(tid, func(r *unix.PtraceRegs) { r.Rax = -uint64(errno) })
}

func setRegisters(tid int, change func(*unix.PtraceRegs)) error {
	var r unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &r); err != nil {
		return err
	}
	change(&r)
	return unix.PtraceSetRegs(tid, &r)
}
