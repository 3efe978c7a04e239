package appliance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vitalgate/vitalgate/firmware/notify"
	"github.com/vitalgate/vitalgate/firmware/status"
)

// workUser is the user of the line from monitor to network. It may use serial lines, the TPM, the network and the box's folder,
// and nothing else of the box: no disk, no firmware variables, no network settings.
const workUser = 1000

const (
	notifySocket = "/run/notify"
	systemFile   = "/run/system.json"
	silence      = time.Minute      // a line that says nothing for so long is ended
	stopTime     = 10 * time.Second // what it has to end in order
)

// worker runs `vitalgate run` as a process of its own and listens to what it says of itself.
type worker struct {
	log    *slog.Logger
	system func() map[string]string // facts of the image, for the status page; nil: none

	trial  func() bool // this release may still be given up
	folder sync.Mutex  // held while the box's folder is handed over

	mu      sync.Mutex
	running bool
	pid     int
	heard   time.Time // last sign of life, or the start
	kept    uint64    // messages taken in this run
	through bool      // a reading came all the way through
	failed  int       // times it ended by itself
}

func (w *worker) hear(fields map[string]string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if fields[notify.Watchdog] == "1" {
		w.heard = time.Now()
	}
	if n, err := strconv.ParseUint(fields[notify.Kept], 10, 64); err == nil {
		w.kept = n
	}
	if fields[notify.Through] == "1" && !w.through {
		w.through = true
		var t unix.Timespec
		unix.ClockGettime(unix.CLOCK_BOOTTIME, &t)
		w.log.Info("a reading came through: kept, signed, acknowledged by a leaf node", "since_kernel_start_ms", t.Nano()/1e6,
			"rss_kib", resident(os.Getpid()), "line_rss_kib", resident(w.pid))
	}
}

// tell puts the facts of the image where the status page of the line finds them.
func (w *worker) tell() {
	if err := status.WriteSystem(systemFile, w.system()); err != nil {
		w.log.Warn("the status page does not show what is new of the image", "why", err.Error())
	}
}

// resident is the memory that a process has in RAM, in KiB (proc_pid_statm(5)); 0 where it is gone.
func resident(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	var size, pages int
	if _, err := fmt.Sscan(string(b), &size, &pages); err != nil {
		return 0
	}
	return pages * os.Getpagesize() / 1024
}

// alive says whether the box makes progress.
func (w *worker) alive() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.running || time.Since(w.heard) < 2*silence
}

func (w *worker) state() (kept uint64, through bool, failed int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.kept, w.through, w.failed
}

// hand gives the line the box's folder.
func (w *worker) hand(dir string) error {
	w.folder.Lock()
	defer w.folder.Unlock()
	if err := hand(dir, w.trial()); err != nil {
		return fmt.Errorf("cannot hand the box's folder to the line: %w", err)
	}
	return nil
}

// settle restricts, under the line that runs, what hand left as it was for the release of before. The trial is over.
func (w *worker) settle(dir string) error {
	w.folder.Lock()
	defer w.folder.Unlock()
	if err := restrict(dir); err != nil {
		return fmt.Errorf("cannot take back what the line had of the box's folder on trial: %w; it is tried again when the line starts", err)
	}
	return nil
}

// run is maintain's Work.
func (w *worker) run(ctx context.Context, config string) error {
	if err := w.hand(boxFolder); err != nil {
		return err
	}
	cmd := exec.Command("/init", "run", "-c", config)
	cmd.Args[0] = "vitalgate"
	cmd.Dir, cmd.Stderr = "/", os.Stderr
	cmd.Env = []string{notify.Socket + "=" + notifySocket}
	if w.system != nil {
		cmd.Env = append(cmd.Env, status.SystemVariable+"="+systemFile)
		w.tell()
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: workUser, Gid: workUser},
		AmbientCaps: []uintptr{unix.CAP_NET_BIND_SERVICE}, // a monitor may know port 104 or so
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start the line: %w", err)
	}
	w.mu.Lock()
	w.running, w.pid, w.heard, w.kept, w.through = true, cmd.Process.Pid, time.Now(), 0, false
	w.mu.Unlock()
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	defer func() {
		w.mu.Lock()
		w.running = false
		w.mu.Unlock()
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	stopping := ctx.Done()
	var kill <-chan time.Time
	hung := false
	for {
		select {
		case err := <-done:
			if ctx.Err() != nil {
				return nil
			}
			w.mu.Lock()
			w.failed++
			w.mu.Unlock()
			switch {
			case hung:
				return errors.New("the line from monitor to network hung and was ended")
			case err != nil:
				return fmt.Errorf("the line from monitor to network ended: %w", err)
			}
			return errors.New("the line from monitor to network ended without being asked to")
		case <-stopping:
			stopping = nil
			cmd.Process.Signal(syscall.SIGTERM)
			kill = time.After(stopTime)
		case <-kill:
			cmd.Process.Kill()
		case <-tick.C:
			w.mu.Lock()
			silent := time.Since(w.heard) > silence
			w.mu.Unlock()
			if silent && !hung {
				hung = true
				w.log.Error("the line from monitor to network says nothing any more and is ended")
				cmd.Process.Kill()
			}
		}
	}
}

// own are the files of the label in the box's folder. The line has no business with them.
var own = []string{"link.key", "claim"}

// hand gives the line what it needs of the box's folder. On trial a folder that only one user may enter stays so, and is the line's as it
// was: the committed release, which starts again when the trial fails, may be from before restrict, and opens no other.
func hand(dir string, trial bool) error {
	data := filepath.Join(dir, "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		return err
	}
	about, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if trial && about.Mode().Perm() == 0o700 {
		return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if slices.Contains(own, filepath.Base(path)) {
				return err
			}
			return give(path, e, err)
		})
	}
	if err := restrict(dir); err != nil {
		return err
	}
	return filepath.WalkDir(data, give)
}

// restrict leaves the line no more of the box's folder than it needs: the folder is the first process's, so that the line cannot put
// another label, configuration or grant in the place of what is there; it may pass through, read the two files that it works by, and
// write below data.
func restrict(dir string) error {
	err := errors.Join(os.Lchown(dir, 0, workUser), os.Chmod(dir, 0o710))
	for _, name := range []string{"config.toml", "grant.json"} {
		err = errors.Join(err, show(filepath.Join(dir, name)))
	}
	return err
}

// show lets the line read a file of the first process.
func show(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Chown(0, workUser), f.Chmod(0o640), f.Close())
}

// give makes a file the line's. What the first process has written below data was its own until now. A file that has another name
// besides stays whose it is: the line may have made that name, for a file of ours.
func give(path string, e fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	about, err := e.Info()
	if err != nil {
		return err
	}
	if st := about.Sys().(*syscall.Stat_t); about.Mode().IsRegular() && st.Nlink > 1 {
		return nil
	}
	return os.Lchown(path, workUser, workUser)
}
