// Package cpio writes what Linux unpacks as its initial RAM disk: an archive in cpio's form "newc"
// (Linux, Documentation/driver-api/early-userspace/buffer-format.rst). Nothing in it depends on time or user.
package cpio

import (
	"bytes"
	"fmt"
)

// Entry is one entry of the archive.
type Entry struct {
	name         string
	mode         uint32
	major, minor uint32 // of a device
	content      []byte
}

// The types of files (Linux, include/uapi/linux/stat.h).
const (
	device    = 0o020000
	directory = 0o040000
	regular   = 0o100000
	symlink   = 0o120000
	types     = 0o170000
)

// Directory is a folder; those above it stand before it in the archive.
func Directory(name string) Entry { return Entry{name: name, mode: directory | 0o755} }

// File is a file that anybody reads and, if it is a program, runs.
func File(name string, program bool, content []byte) Entry {
	e := Entry{name: name, mode: regular | 0o444, content: content}
	if program {
		e.mode = regular | 0o555
	}
	return e
}

// Symlink leads to target.
func Symlink(name, target string) Entry {
	return Entry{name: name, mode: symlink | 0o777, content: []byte(target)}
}

// Devices is /dev with the two devices without which a first process in Go has no place to write to, where there is no console.
func Devices() []Entry {
	return []Entry{
		Directory("dev"),
		{name: "dev/console", mode: device | 0o600, major: 5, minor: 1},
		{name: "dev/null", mode: device | 0o666, major: 1, minor: 3},
	}
}

// Archive gives the bytes of the archive, not compressed.
func Archive(entries []Entry) []byte {
	var b bytes.Buffer
	four := func() { b.Write(make([]byte, (4-b.Len()%4)%4)) }
	write := func(number int, e Entry) {
		links := 1
		if e.mode&types == directory {
			links = 2
		}
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			number, e.mode, 0, 0, links, 0, len(e.content), 0, 0, e.major, e.minor, len(e.name)+1, 0, e.name)
		four()
		b.Write(e.content)
		four()
	}
	for i, e := range entries {
		write(i+1, e)
	}
	write(len(entries)+1, Entry{name: "TRAILER!!!"})
	return b.Bytes()
}
