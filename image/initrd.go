package main

import (
	"bytes"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// node is one entry of the initial RAM disk.
type node struct {
	name         string
	mode         uint32
	major, minor uint32 // of a device
	content      []byte
}

const (
	directory = 0o040000
	device    = 0o020000
	regular   = 0o100000
	symlink   = 0o120000
)

// initrd makes the initial RAM disk, cpio "newc" (Linux, Documentation/driver-api/early-userspace/buffer-format.rst), compressed.
func initrd(nodes []node) ([]byte, error) {
	var b bytes.Buffer
	four := func() { b.Write(make([]byte, (4-b.Len()%4)%4)) }
	for i, n := range append(nodes, node{name: "TRAILER!!!"}) {
		links := 1
		if n.mode&0o170000 == directory {
			links = 2
		}
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			i+1, n.mode, 0, 0, links, 0, len(n.content), 0, 0, n.major, n.minor, len(n.name)+1, 0, n.name)
		four()
		b.Write(n.content)
		four()
	}
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20))
	if err != nil {
		return nil, err
	}
	return z.EncodeAll(b.Bytes(), nil), nil
}
