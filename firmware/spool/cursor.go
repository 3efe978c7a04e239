package spool

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Cursor is the place in the stream of one leaf node. All of the stream up to Next was acknowledged by that leaf node, or
// by another one before this one was first used.
type Cursor struct {
	Next    uint64 // first index that this leaf node has not acknowledged
	Offset  uint64 // index = sequence - 1 + Offset, modulo 2^64
	From    uint64 // first index to which Offset applies
	Refill  uint64 // index up to which the leaf node is being given again what it had lost; 0 never
	Unsure  bool   // a batch under an older Offset may still reach the leaf node: nothing is acknowledged under this one
	Foreign bool   // the stream holds what this box never sent; for good, as the next index that it lacks will not be the thief's
	Sent    uint64 // records from Next up to here may be stored there though nobody heard of it; AllSigned: whatever is signed
}

// AllSigned as Cursor.Sent says that a connection was open: each record may have been sent as soon as it was signed.
const AllSigned = math.MaxUint64

// cursorEvery is how stale a cursor on disk may be. What is sent again because of it is recognised by the leaf node.
const cursorEvery = 200 * time.Millisecond

type cursor struct {
	Cursor
	unmet  bool      // reserved, never used; Sent is the size of the log at that time
	disk   Cursor    // as it stands on disk
	at     time.Time // when that was written
	writes uint64    // how often; the file's two slots are used in turn
}

// CheckLeafName says whether name can name a leaf node: 1 to 64 of A-Z, a-z, 0-9, ".", "_" and "-", beginning with a
// letter or digit.
func CheckLeafName(name string) error {
	ok := len(name) >= 1 && len(name) <= 64
	for i := range len(name) {
		c := name[i]
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || i > 0 && (c == '.' || c == '_' || c == '-'))
	}
	if !ok {
		return fmt.Errorf("cannot use %.70q as the name of a leaf node: give 1 to 64 letters, digits, \".\", \"_\" and \"-\"", name)
	}
	return nil
}

// Cursor gives the place in the stream of the named leaf node; false if this box has never used it. Then Sent is the size of
// the log when it was reserved.
func (s *Spool) Cursor(leaf string) (Cursor, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.cursors[leaf]
	if !ok {
		return Cursor{Sent: s.log.Next()}, false
	}
	return c.Cursor, !c.unmet
}

// SetCursor keeps the place in the stream of the named leaf node. What changes beside Next is on disk when
// SetCursor returns; Next alone may reach the disk up to 200 ms and one call later.
func (s *Spool) SetCursor(leaf string, to Cursor) error {
	if err := CheckLeafName(leaf); err != nil {
		return err
	}
	s.cursorMu.Lock()
	defer s.cursorMu.Unlock()
	s.mu.Lock()
	c := s.cursors[leaf]
	if c == nil {
		c = &cursor{}
		s.cursors[leaf] = c
	}
	c.Cursor, c.unmet = to, false
	s.countAcked()
	s.trimMarks()
	crowded := s.crowded
	s.mu.Unlock()
	if crowded {
		s.kick() // the committer may now drop what was acknowledged
	}
	if to.Next = c.disk.Next; to == c.disk && time.Since(c.at) < cursorEvery {
		return nil
	}
	return s.writeCursor(leaf, c)
}

// countAcked finds what some leaf node has acknowledged of this log; s.mu is held.
func (s *Spool) countAcked() {
	s.acked = 0
	for _, c := range s.cursors {
		s.acked = max(s.acked, c.Next)
	}
	s.acked = min(s.acked, s.intact)
}

// Reserve makes the files of the cursors of leaf nodes that this box has not used yet, so that their places can be kept
// when the disk has become full: only what a leaf node has acknowledged may be dropped, and that must be on disk first. What
// cannot be made now is made with the first SetCursor.
func (s *Spool) Reserve(leaves ...string) error {
	s.cursorMu.Lock()
	defer s.cursorMu.Unlock()
	for _, leaf := range leaves {
		if err := CheckLeafName(leaf); err != nil {
			return err
		}
		s.mu.Lock()
		known := s.cursors[leaf] != nil
		if !known {
			s.cursors[leaf] = &cursor{unmet: true, Cursor: Cursor{Sent: s.log.Next()}}
		}
		c := s.cursors[leaf]
		s.mu.Unlock()
		if known {
			continue
		}
		if err := s.writeCursor(leaf, c); err != nil {
			return err
		}
		c.at = time.Time{} // the first SetCursor is written, whatever it says
	}
	return nil
}

// Refill asks that the named leaf node be given again, after what its stream holds, all that is still here: as when another
// one died for good before it had passed on what it alone had acknowledged. Peers recognise what they have. It is for a time
// when nothing is published.
func (s *Spool) Refill(leaf string) error {
	c, known := s.Cursor(leaf)
	if !known {
		return nil // it is given all anyway
	}
	first, last := s.First(), c.Next-c.Offset
	c.Refill, c.Next, c.From, c.Offset, c.Unsure = max(c.Refill, c.Next), first, first, first-last, true
	return s.SetCursor(leaf, c)
}

// flushCursors writes what SetCursor put off.
func (s *Spool) flushCursors() error {
	s.cursorMu.Lock()
	defer s.cursorMu.Unlock()
	for leaf, c := range s.cursors {
		if c.Cursor != c.disk {
			if err := s.writeCursor(leaf, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// A cursor's file has two slots of one line each, written in turn and in place: a torn write leaves the other slot, and a
// full disk has room for it.
const (
	cursorMagic   = "vitalgate/cursor/v2"
	cursorMagicV1 = "vitalgate/cursor/v1" // without sent, foreign and met
	slotBytes     = 256
)

// writeCursor writes the next slot of the cursor's file. s.cursorMu is held.
func (s *Spool) writeCursor(leaf string, c *cursor) (err error) {
	defer func() {
		if err != nil {
			c.at = time.Time{} // nobody knows what is on disk: the next one is written, whatever it says
			err = fmt.Errorf("cannot keep the place in the stream of leaf node %s: %w; check the disk of the box", leaf, err)
		}
	}()
	path := filepath.Join(s.cursorDir(), leaf+cursorExt)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	fresh := errors.Is(err, fs.ErrNotExist)
	if fresh {
		f, err = s.disk.Create(path)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if fresh || c.writes == 0 { // both slots, so that none must be found room for later
		if err := s.disk.Pwrite(f, bytes.Repeat([]byte(" "), 2*slotBytes), 0); err != nil {
			return err
		}
	}
	if err := s.disk.Pwrite(f, c.appendSlot(nil, c.writes+1), int64((c.writes+1)%2*slotBytes)); err != nil {
		return err
	}
	if err := s.disk.Fdatasync(f); err != nil {
		return err
	}
	if fresh || c.writes == 0 {
		if err := s.disk.SyncDir(s.cursorDir()); err != nil {
			return err
		}
	}
	c.writes++
	c.disk, c.at = c.Cursor, time.Now()
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendSlot appends the line of a slot, of slotBytes.
func (c *cursor) appendSlot(dst []byte, writes uint64) []byte {
	return finishSlot(fmt.Appendf(dst, "%s write %d next %d offset %d from %d refill %d unsure %t sent %d foreign %t met %t", cursorMagic, writes, c.Next, c.Offset, c.From, c.Refill, c.Unsure, c.Sent, c.Foreign, !c.unmet), len(dst))
}

// finishSlot closes the slot that begins at start.
func finishSlot(dst []byte, start int) []byte {
	dst = fmt.Appendf(dst, " crc32c %08x", crc32.Checksum(dst[start:], castagnoli))
	for len(dst)-start < slotBytes-1 {
		dst = append(dst, ' ')
	}
	return append(dst, '\n')
}

// parseSlot reads one slot; false if it is not whole.
func parseSlot(slot []byte) (c cursor, ok bool) {
	var met bool
	text := string(slot)
	if _, err := fmt.Sscanf(text, cursorMagic+" write %d next %d offset %d from %d refill %d unsure %t sent %d foreign %t met %t crc32c", &c.writes, &c.Next, &c.Offset, &c.From, &c.Refill, &c.Unsure, &c.Sent, &c.Foreign, &met); err == nil {
		c.unmet = !met
		return c, bytes.Equal(slot, c.appendSlot(nil, c.writes))
	}
	c = cursor{}
	if _, err := fmt.Sscanf(text, cursorMagicV1+" write %d next %d offset %d from %d refill %d unsure %t crc32c", &c.writes, &c.Next, &c.Offset, &c.From, &c.Refill, &c.Unsure); err == nil {
		c.Sent = AllSigned
		line, _, _ := strings.Cut(text, " crc32c")
		return c, bytes.Equal(slot, finishSlot([]byte(line), 0))
	}
	return c, false
}

// parseCursor reads the file of a cursor: the newer of its slots that is whole.
func parseCursor(file []byte) (c cursor, err error) {
	err = fmt.Errorf("cannot read cursor: no slot of it is whole and of the form %s", cursorMagic)
	for i := range 2 {
		found, ok := parseSlot(file[min(i*slotBytes, len(file)):min((i+1)*slotBytes, len(file))])
		if ok && found.writes > c.writes {
			c, err = found, nil
		}
	}
	return c, err
}

const cursorExt = ".cursor"

func (s *Spool) cursorDir() string { return filepath.Join(s.dir, "cursors") }

// loadCursors reads all cursors. One that is damaged is put aside: without it the leaf node is taken as new, and what it gets
// again it knows by its index. One that is whole and points beyond the log is no damage of its own but the proof that the log
// was set back: only what is safe on the disk is signed, and only what is signed is published.
func (s *Spool) loadCursors() error {
	if err := os.MkdirAll(s.cursorDir(), 0o700); err != nil {
		return err
	}
	if err := s.disk.SyncDir(s.dir); err != nil {
		return err
	}
	files, err := fs.Glob(os.DirFS(s.cursorDir()), "*"+cursorExt)
	if err != nil {
		return err
	}
	for _, name := range files {
		path := filepath.Join(s.cursorDir(), name)
		file, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		c, err := parseCursor(file)
		if err != nil {
			s.warn("a cursor is put aside; its leaf node gets records again", "file", path, "error", err)
			if err := s.disk.Rename(path, path+".bad"); err != nil {
				return err
			}
			continue
		}
		c.disk = c.Cursor
		leaf := strings.TrimSuffix(name, cursorExt)
		s.cursors[leaf] = &c
		if next := s.log.Next(); c.Next > next {
			if err := s.SetRolledBack(fmt.Sprintf("leaf node %s has acknowledged all records below index %d, and the log on the disk ends at %d", leaf, c.Next, next)); err != nil {
				s.warn("cannot note that the log was set back", "error", err) // found again at the next start, unless the log has grown
			}
		}
	}
	s.countAcked()
	return nil
}
