package main

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// Where a call says what it changes.
type target int

const (
	byFile   target = iota // its first argument is an open file
	byPath                 // its first argument is a path
	byFolder               // a folder, and a path from there
	bySecond               // as byPath, twice; the second one counts
	byRename               // as byFolder, twice; the second one counts
)

// changing are the calls that change a disk. One that is missing here is found by nobody, so they are all here, used or not.
var changing = map[uint64]struct {
	name string
	target
}{
	unix.SYS_WRITE: {"write", byFile}, unix.SYS_PWRITE64: {"pwrite64", byFile}, unix.SYS_WRITEV: {"writev", byFile}, unix.SYS_PWRITEV: {"pwritev", byFile}, unix.SYS_PWRITEV2: {"pwritev2", byFile},
	unix.SYS_FSYNC: {"fsync", byFile}, unix.SYS_FDATASYNC: {"fdatasync", byFile}, unix.SYS_SYNC_FILE_RANGE: {"sync_file_range", byFile}, unix.SYS_SYNCFS: {"syncfs", byFile},
	unix.SYS_FTRUNCATE: {"ftruncate", byFile}, unix.SYS_FALLOCATE: {"fallocate", byFile}, unix.SYS_FCHMOD: {"fchmod", byFile}, unix.SYS_FCHOWN: {"fchown", byFile},
	unix.SYS_TRUNCATE: {"truncate", byPath}, unix.SYS_MKDIR: {"mkdir", byPath}, unix.SYS_RMDIR: {"rmdir", byPath}, unix.SYS_UNLINK: {"unlink", byPath},
	unix.SYS_CHMOD: {"chmod", byPath}, unix.SYS_CREAT: {"creat", byPath},
	unix.SYS_RENAME: {"rename", bySecond}, unix.SYS_LINK: {"link", bySecond}, unix.SYS_SYMLINK: {"symlink", bySecond},
	unix.SYS_OPENAT: {"openat", byFolder}, unix.SYS_MKDIRAT: {"mkdirat", byFolder}, unix.SYS_UNLINKAT: {"unlinkat", byFolder}, unix.SYS_FCHMODAT: {"fchmodat", byFolder},
	unix.SYS_RENAMEAT: {"renameat", byRename}, unix.SYS_RENAMEAT2: {"renameat2", byRename}, unix.SYS_LINKAT: {"linkat", byRename},
}

// class is the call and what it changes, below the folder and with numbers left out; "" if it changes nothing there.
func (w *watch) class(tid int, nr uint64, args [6]uint64) string {
	call, ok := changing[nr]
	if !ok || nr == unix.SYS_OPENAT && args[2]&(unix.O_CREAT|unix.O_TRUNC) == 0 {
		return ""
	}
	var path string
	switch call.target {
	case byFile:
		path, _ = os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", tid, int32(args[0])))
	case byPath:
		path = w.path(tid, unix.AT_FDCWD, args[0])
	case byFolder:
		path = w.path(tid, int32(args[0]), args[1])
	case bySecond:
		path = w.path(tid, unix.AT_FDCWD, args[1])
	case byRename:
		path = w.path(tid, int32(args[2]), args[3])
	}
	below, ok := strings.CutPrefix(strings.TrimSuffix(path, " (deleted)"), w.dir)
	if !ok || below != "" && below[0] != '/' {
		return ""
	}
	return call.name + " " + cmp.Or(numbers.ReplaceAllString(strings.TrimPrefix(below, "/"), "#"), ".")
}

var numbers = regexp.MustCompile(`[0-9a-f]{16,}|[0-9]{4,}`)

// path reads one from the program's memory.
func (w *watch) path(tid int, folder int32, at uint64) string {
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", tid))
	if err != nil {
		return ""
	}
	defer mem.Close()
	b := make([]byte, unix.PathMax)
	n, _ := mem.ReadAt(b, int64(at))
	name, _, whole := bytes.Cut(b[:n], []byte{0})
	if !whole {
		return ""
	}
	path := string(name)
	if !filepath.IsAbs(path) {
		from := fmt.Sprintf("/proc/%d/cwd", tid)
		if folder != unix.AT_FDCWD {
			from = fmt.Sprintf("/proc/%d/fd/%d", tid, folder)
		}
		dir, err := os.Readlink(from)
		if err != nil {
			return ""
		}
		path = filepath.Join(dir, path)
	}
	return filepath.Clean(path)
}
