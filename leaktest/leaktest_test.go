package leaktest

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestWhatIsLeftOverIsSeen: a goroutine, a file and a socket that stay are named, and not any more when they have ended.
func TestWhatIsLeftOverIsSeen(t *testing.T) {
	before := open()
	mine := len(goroutines())
	stay, ended := make(chan struct{}), make(chan struct{})
	go func() { defer close(ended); <-stay }()
	if got := len(goroutines()); got != mine+1 {
		t.Errorf("%d goroutines more than before", got-mine)
	}
	close(stay)
	<-ended
	f, err := os.Create(filepath.Join(t.TempDir(), "left"))
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, l := range leftOver(before) {
		if !strings.Contains(l, "goroutine ") {
			files = append(files, l)
		}
	}
	if all := strings.Join(files, "\n"); runtime.GOOS == "linux" && (len(files) != 2 || !strings.Contains(all, "/left") || !strings.Contains(all, "socket:")) {
		t.Errorf("it sees %q", all)
	}
	f.Close()
	lis.Close()
	for _, l := range leftOver(before) {
		if !strings.Contains(l, "goroutine ") {
			t.Errorf("%s is closed", l)
		}
	}
}
