// Package leaktest fails a package's tests that leave something behind: a goroutine of this module, an open file or a socket. A box
// runs for years, so what is left over once is left over without end.
package leaktest

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// patience is how long what has been told to end may take on a machine that does much else.
const patience = 60 * time.Second

// Main is a TestMain: it runs the tests of a package and fails if they leave something behind. after gives back what they share to
// their end.
func Main(m *testing.M, after ...func()) { os.Exit(Run(m, after...)) }

// Run runs the tests and gives the exit status.
func Run(m *testing.M, after ...func()) int {
	before := open()
	status := m.Run()
	for _, f := range after {
		f()
	}
	if status != 0 {
		return status
	}
	left := leftOver(before)
	for end := time.Now().Add(patience); len(left) > 0 && time.Now().Before(end); left = leftOver(before) {
		time.Sleep(20 * time.Millisecond)
	}
	for _, l := range left {
		fmt.Fprintf(os.Stderr, "left over: %s\n\n", l)
		status = 1
	}
	return status
}

func leftOver(before map[string]bool) (left []string) {
	http.DefaultClient.CloseIdleConnections()
	for name := range open() {
		if !before[name] {
			left = append(left, name)
		}
	}
	return append(left, goroutines()...)
}

// goroutines are the stacks of those that run code of this module, but for the one that asks.
func goroutines() (all []string) {
	b := make([]byte, 1<<20)
	for n := runtime.Stack(b, true); ; n = runtime.Stack(b, true) {
		if n < len(b) {
			b = b[:n]
			break
		}
		b = make([]byte, 2*len(b))
	}
	for _, stack := range strings.Split(string(b), "\n\n") {
		if strings.Contains(stack, "github.com/vitalgate/vitalgate/") && !strings.Contains(stack, "/leaktest.Run(") {
			all = append(all, stack)
		}
	}
	return all
}

// open are the files and sockets that are open, by what /proc calls them; none where there is no /proc. Pipes and what belongs to the
// runtime are left out: os/exec and the poller keep some.
func open() map[string]bool {
	all := map[string]bool{}
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		name, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name()))
		if err == nil && (strings.HasPrefix(name, "socket:") || strings.HasPrefix(name, "/") && name != os.DevNull && !strings.HasPrefix(name, "/proc/")) {
			all[e.Name()+" "+name] = true
		}
	}
	return all
}
