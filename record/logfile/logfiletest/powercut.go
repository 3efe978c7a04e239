// Package logfiletest is a disk whose power can be cut: it forgets what was written and not synced, as a real one may.
package logfiletest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vitalgate/vitalgate/record/logfile"
)

// PowerCut is a folder that stands for a whole disk. What its files show is the cache of the system. What the platter holds is
// kept beside it: bytes come there by Fdatasync, names by SyncDir of their folder. Its methods may be called from several
// goroutines. Files that are made without it are not on the platter.
type PowerCut struct {
	root string
	real *logfile.Disk

	mu     sync.Mutex
	dice   *rand.Rand
	off    bool
	left   int // calls until then, and one; 0 no end
	sick   bool
	inodes map[uint64]*inode // by number, of the files in the cache
	cached map[string]*inode
	disk   map[string]*inode // names on the platter
	dirs   map[string]bool   // folders on the platter
	ops    []op              // on names, not on the platter yet, in order
}

// inode is a file: what of it is on the platter, and the ranges that are only in the cache.
type inode struct {
	data  []byte
	dirty [][2]int64
}

// op is a change of one name, or of two by a rename. A file system with a journal keeps their order.
type op struct {
	dir      string
	gone, on string // "" none
	file     *inode
}

// NewPowerCut makes the disk of folder root, which must be empty or not be there.
func NewPowerCut(root string, dice *rand.Rand) *PowerCut {
	p := &PowerCut{root: root, real: logfile.SystemDisk(), dice: dice, inodes: map[uint64]*inode{}, cached: map[string]*inode{}, disk: map[string]*inode{}, dirs: map[string]bool{root: true}}
	if err := os.MkdirAll(root, 0o700); err != nil {
		panic(err)
	}
	return p
}

// FailSync makes the next Fdatasync fail as Linux does: what it should have written is lost, and counts as written.
func (p *PowerCut) FailSync() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sick = true
}

// Off cuts the power: no call has any effect from now on. Close what is open, then call On.
func (p *PowerCut) Off() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off = true
}

// OffAfter cuts the power after n more calls, wherever in the work of the log that is.
func (p *PowerCut) OffAfter(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = n + 1
}

// gone counts a call; p.mu is held.
func (p *PowerCut) gone() bool {
	if p.left > 0 {
		p.left--
		p.off = p.off || p.left == 0
	}
	return p.off
}

// On makes the folder what the platter holds. Of what was not synced it keeps nothing, or some.
func (p *PowerCut) On() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dice.IntN(2) == 0 { // else nothing
		for _, n := range p.cached {
			p.keepSome(n)
		}
		if len(p.ops) > 0 {
			p.journal(p.ops[:p.dice.IntN(len(p.ops)+1)])
		}
	}
	if err := os.RemoveAll(p.root); err != nil {
		return err
	}
	if err := os.MkdirAll(p.root, 0o700); err != nil {
		return err
	}
	old := p.disk
	p.off, p.left, p.sick, p.ops = false, 0, false, nil
	p.inodes, p.cached, p.disk = map[uint64]*inode{}, map[string]*inode{}, map[string]*inode{}
	for dir := range p.dirs {
		if p.reachable(dir) {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return err
			}
		}
	}
	for name, n := range old {
		if !p.reachable(filepath.Dir(name)) {
			continue
		}
		if err := os.WriteFile(name, n.data, 0o600); err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Stat(name, &st); err != nil {
			return err
		}
		n.dirty = nil
		p.inodes[st.Ino], p.cached[name], p.disk[name] = n, n, n
	}
	return nil
}

// reachable says whether dir and all above it are on the platter.
func (p *PowerCut) reachable(dir string) bool {
	for ; dir != p.root; dir = filepath.Dir(dir) {
		if !p.dirs[dir] {
			return false
		}
	}
	return true
}

// keepSome writes some of what was not synced: of some writes all, of some a part.
func (p *PowerCut) keepSome(n *inode) {
	for name, c := range p.cached {
		if c != n {
			continue
		}
		now, err := os.ReadFile(name)
		if err != nil {
			return
		}
		for _, d := range n.dirty {
			from, to := min(d[0], int64(len(now))), min(d[1], int64(len(now)))
			switch p.dice.IntN(3) {
			case 0:
				to = from
			case 1:
				to = from + p.dice.Int64N(to-from+1)
			}
			n.grow(to)
			copy(n.data[from:to], now[from:to])
		}
	}
}

func (n *inode) grow(size int64) {
	if more := size - int64(len(n.data)); more > 0 {
		n.data = append(n.data, make([]byte, more)...)
	}
}

func (p *PowerCut) journal(ops []op) {
	for _, o := range ops {
		delete(p.disk, o.gone)
		if o.on != "" {
			p.disk[o.on] = o.file
		}
	}
}

var errOff = fmt.Errorf("the power is cut: %w", unix.EIO)

// Disk is the disk for a log or a spool.
func (p *PowerCut) Disk() *logfile.Disk {
	return &logfile.Disk{Create: p.create, Pwrite: p.pwrite, Fdatasync: p.fdatasync, Truncate: p.truncate, Rename: p.rename, SyncDir: p.syncDir, Unlink: p.unlink}
}

// file finds the inode of an open file; p.mu is held.
func (p *PowerCut) file(f *os.File) (*inode, int64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, 0, err
	}
	n := p.inodes[st.Ino]
	if n == nil {
		return nil, 0, fmt.Errorf("%s was not made on this disk", f.Name())
	}
	return n, st.Size, nil
}

func (p *PowerCut) create(name string) (*os.File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone() {
		return nil, errOff
	}
	f, err := p.real.Create(name)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	n := &inode{}
	p.inodes[st.Ino], p.cached[name] = n, n
	p.ops = append(p.ops, op{filepath.Dir(name), "", name, n})
	return f, nil
}

func (p *PowerCut) pwrite(f *os.File, b []byte, at int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone() {
		return errOff
	}
	n, _, err := p.file(f)
	if err != nil {
		return err
	}
	n.dirty = append(n.dirty, [2]int64{at, at + int64(len(b))})
	return p.real.Pwrite(f, b, at)
}

func (p *PowerCut) fdatasync(f *os.File) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone() {
		return errOff
	}
	n, size, err := p.file(f)
	if err != nil {
		return err
	}
	dirty := n.dirty
	n.dirty = nil
	if p.sick {
		p.sick = false
		return fmt.Errorf("the disk failed: %w", unix.EIO)
	}
	n.grow(size)
	n.data = n.data[:size]
	for _, d := range dirty {
		if to := min(d[1], size); d[0] < to {
			if _, err := f.ReadAt(n.data[d[0]:to], d[0]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *PowerCut) truncate(f *os.File, size int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone() {
		return errOff
	}
	return p.real.Truncate(f, size)
}

func (p *PowerCut) rename(from, to string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone() {
		return errOff
	}
	n := p.cached[from]
	delete(p.cached, from)
	p.cached[to] = n
	p.ops = append(p.ops, op{filepath.Dir(to), from, to, n})
	return p.real.Rename(from, to)
}

func (p *PowerCut) unlink(name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone() {
		return errOff
	}
	if p.cached[name] != nil {
		delete(p.cached, name)
		p.ops = append(p.ops, op{filepath.Dir(name), name, "", nil})
	}
	return p.real.Unlink(name)
}

func (p *PowerCut) syncDir(dir string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone() {
		return errOff
	}
	var rest []op
	for _, o := range p.ops {
		if o.dir == dir {
			p.journal([]op{o})
		} else {
			rest = append(rest, o)
		}
	}
	p.ops = rest
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			p.dirs[filepath.Join(dir, e.Name())] = true
		}
	}
	return err
}
