package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// clock is the clock on the box's wall, which can be set while the box runs. The box is the product's own program; only time.Now of
// the standard library is built with an offset that it reads from a page of memory shared with us.
type clock struct {
	path   string
	page   *os.File
	season time.Duration // from our own clock to that of the run's box and monitors
	began  time.Time
}

const (
	clockEnv   = "VITALGATE_CHAOS_CLOCK"
	nowBefore  = "\tsec, nsec, mono := runtimeNow()\n\tif mono == 0 {\n\t\treturn Time{uint64(nsec), sec + unixToInternal, Local}"
	nowAfter   = "\tsec, nsec, mono := runtimeNow()\n\tsec += wallOffset()\n\tif mono == 0 {\n\t\treturn Time{uint64(nsec), sec + unixToInternal, Local}"
	wallOffset = `package time

import (
	"sync/atomic"
	"syscall"
	"unsafe"
)

var wallPage = func() []byte {
	path, ok := syscall.Getenv("` + clockEnv + `")
	if !ok {
		return nil
	}
	fd, err := syscall.Open(path, syscall.O_RDONLY, 0)
	if err != nil {
		return nil
	}
	b, err := syscall.Mmap(fd, 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return nil
	}
	return b
}()

func wallOffset() int64 {
	if wallPage == nil {
		return 0
	}
	return atomic.LoadInt64((*int64)(unsafe.Pointer(&wallPage[0])))
}
`
)

// newClock builds the box with such a clock into out. The clock is right when it shows season more than ours.
func newClock(ctx context.Context, dir, out string, season time.Duration) (*clock, error) {
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("cannot build the box with a clock that can be set: %w; Go is needed", err)
	}
	pkg := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	source, err := os.ReadFile(filepath.Join(pkg, "time.go"))
	if err != nil {
		return nil, fmt.Errorf("cannot build the box with a clock that can be set: %w", err)
	}
	if bytes.Count(source, []byte(nowBefore)) != 1 {
		return nil, fmt.Errorf("cannot build the box with a clock that can be set: time.Now of this Go version is another one")
	}
	work := filepath.Join(dir, "clock")
	if err := os.Mkdir(work, 0o700); err != nil {
		return nil, err
	}
	c := &clock{path: filepath.Join(work, "offset"), season: season, began: time.Now()}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(pkg, "time.go"):           filepath.Join(work, "time.go"),
		filepath.Join(pkg, "vitalgate_wall.go"): filepath.Join(work, "wall.go"),
	}})
	if err != nil {
		return nil, err
	}
	for name, b := range map[string][]byte{
		"time.go": bytes.Replace(source, []byte(nowBefore), []byte(nowAfter), 1), "wall.go": []byte(wallOffset), "overlay.json": overlay, "offset": make([]byte, 8),
	} {
		if err := os.WriteFile(filepath.Join(work, name), b, 0o600); err != nil {
			return nil, err
		}
	}
	build := exec.CommandContext(ctx, "go", "build", "-overlay", filepath.Join(work, "overlay.json"), "-o", out, "github.com/vitalgate/vitalgate/firmware")
	if said, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cannot build the box with a clock that can be set: %w\n%s", err, said)
	}
	if c.page, err = os.OpenFile(c.path, os.O_WRONLY, 0); err != nil {
		return nil, err
	}
	c.set(0)
	return c, nil
}

func (c *clock) env() []string { return []string{clockEnv + "=" + c.path} }

// set makes the clock wrong by so much. The machine's byte order is that of the shared page.
func (c *clock) set(by time.Duration) {
	c.page.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(int64((c.season+by)/time.Second))), 0)
}

// back puts the clock to what it showed so long after the run began.
func (c *clock) back(to time.Duration) { c.set(to - time.Since(c.began)) }
