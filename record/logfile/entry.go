package logfile

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vitalgate/vitalgate/record"
)

// Types of entries.
const (
	typeSegment    = 1
	typeLeaf       = 2
	typeCheckpoint = 3
	typeMark       = 4
)

const (
	overhead  = 4 + 1 + 4
	magic     = "vitalgate/log/v2\n"
	magicV1   = "vitalgate/log/v1\n" // its marks hold no tree
	suffix    = ".log"
	temporary = "next.tmp"
	aside     = "damaged" // folder of what was damaged, as it was found
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendEntry(dst []byte, kind byte, payload ...[]byte) []byte {
	start, n := len(dst), 0
	for _, p := range payload {
		n += len(p)
	}
	dst = append(binary.BigEndian.AppendUint32(dst, uint32(n)), kind)
	for _, p := range payload {
		dst = append(dst, p...)
	}
	return binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

// appendMark appends the mark at offset at, where the tree is t.
func appendMark(dst []byte, at int64, t record.Tree) []byte {
	tree, _ := t.AppendBinary(nil)
	return appendEntry(dst, typeMark, binary.BigEndian.AppendUint64(nil, uint64(at)), tree)
}

const (
	markV1  = 8                  // bytes of the payload of a mark of version 1
	maxMark = markV1 + 8 + 64*32 // of any mark
)

// mark is an entry that says: all before me was safe on the disk when I was written, and this was the tree.
type mark struct {
	at, end int64
	tree    record.Tree
	bare    bool // of version 1: it says nothing of the tree
}

// parseMark reads the payload of the mark that stands at an offset.
func parseMark(payload []byte, at int64) (m mark, ok bool) {
	if len(payload) < markV1 || binary.BigEndian.Uint64(payload) != uint64(at) {
		return m, false
	}
	m = mark{at: at, end: at + int64(len(payload)) + overhead, bare: len(payload) == markV1}
	if m.bare {
		return m, true
	}
	tree, rest, err := record.ParseTree(payload[markV1:])
	m.tree = tree
	return m, err == nil && len(rest) == 0
}

// segment is what the directory and the header say of one file.
type segment struct {
	first uint64
	size  int64 // bytes; of the last segment, when it was last looked at
}

func (s segment) name(dir string) string {
	return filepath.Join(dir, fmt.Sprintf("%020d%s", s.first, suffix))
}

// listSegments reads the directory. The segments are in order of their first index.
func listSegments(dir string) ([]segment, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []segment
	for _, f := range files {
		digits, ok := strings.CutSuffix(f.Name(), suffix)
		if !ok {
			continue
		}
		first, err := strconv.ParseUint(digits, 10, 64)
		if err != nil || len(digits) != 20 {
			return nil, fmt.Errorf("%s is not named as a segment; move it away", filepath.Join(dir, f.Name()))
		}
		info, err := f.Info()
		if err != nil {
			return nil, err
		}
		out = append(out, segment{first, info.Size()})
	}
	slices.SortFunc(out, func(a, b segment) int { return cmp.Compare(a.first, b.first) })
	return out, nil
}

// header is the first entry of a segment.
type header struct {
	old  bool                    // of version 1
	tree record.Tree             // at the first leaf
	note record.SignedCheckpoint // the last one before; empty if none
	last record.Checkpoint       // what it says
}

func (h header) append(dst []byte) []byte {
	tree, _ := h.tree.AppendBinary(nil)
	return appendEntry(dst, typeSegment, []byte(magic), tree, binary.BigEndian.AppendUint32(nil, uint32(len(h.note))), h.note)
}

// errVersion is no damage: nothing of such a file may be changed.
var errVersion = errors.New("its version is unknown; open it with the software that wrote it")

func parseHeader(b []byte) (h header, err error) {
	b, ok := bytes.CutPrefix(b, []byte(magic))
	if !ok {
		b, h.old = bytes.CutPrefix(b, []byte(magicV1))
	}
	if !ok && !h.old {
		return h, errVersion
	}
	if h.tree, b, err = record.ParseTree(b); err != nil {
		return h, err
	}
	if len(b) < 4 || uint64(binary.BigEndian.Uint32(b)) != uint64(len(b)-4) {
		return h, errors.New("the checkpoint in its header has the wrong length")
	}
	if h.note = b[4:]; len(h.note) > 0 {
		if h.last, err = h.note.Unverified(); err != nil {
			return h, err
		}
	}
	if h.last.Size > h.tree.Size() {
		return h, errors.New("the checkpoint in its header is of a later log")
	}
	return h, nil
}

// damage is an entry that is not what was written.
type damage struct {
	file   string
	offset int64
	what   string
}

// ErrDamaged says that what was once safe on the disk is no longer what was written. The error that wraps it names the file and
// the offset.
var ErrDamaged = errors.New("the log is damaged")

func (d *damage) Is(target error) bool { return target == ErrDamaged }

func (d *damage) Error() string {
	return fmt.Sprintf("%s is damaged at byte %d: %s; run fsck", d.file, d.offset, d.what)
}

// scanner reads the entries of one segment in order, up to limit bytes.
type scanner struct {
	file  *os.File
	name  string
	r     *bufio.Reader
	at    int64 // where the next entry begins
	limit int64
}

// openScanner opens a segment and reads its header. Where that is damaged, the scanner stands at its beginning and can be taken to
// a mark.
func openScanner(dir string, s segment, buffer int) (*scanner, header, error) {
	f, err := os.Open(s.name(dir))
	if err != nil {
		return nil, header{}, err
	}
	sc := &scanner{file: f, name: f.Name(), r: bufio.NewReaderSize(nil, int(min(int64(buffer), max(s.size, 32<<10))))}
	sc.grow(s.size)
	h, err := sc.header(s.first)
	if err != nil && !errors.Is(err, ErrDamaged) {
		f.Close()
		return nil, h, err
	}
	return sc, h, err
}

// header reads the header of the segment of the given first leaf.
func (s *scanner) header(first uint64) (h header, err error) {
	kind, payload, err := s.next()
	switch {
	case err == io.EOF || err == nil && kind != typeSegment:
		err = s.damaged(0, "it does not begin with its header")
	case err == nil:
		if h, err = parseHeader(payload); err == nil && h.tree.Size() != first {
			err = errors.New("its name is not the index of its first leaf")
		}
		if errors.Is(err, errVersion) {
			return h, fmt.Errorf("cannot read %s: %w", s.name, err)
		}
		if err != nil {
			err = s.damaged(0, err.Error())
		}
	}
	return h, err
}

// grow lets the scanner read up to limit. It stands at its old limit.
func (s *scanner) grow(limit int64) {
	s.limit = limit
	s.r.Reset(io.NewSectionReader(s.file, s.at, limit-s.at))
}

func (s *scanner) close() error { return s.file.Close() }

func (s *scanner) damaged(at int64, what string) error { return &damage{s.name, at, what} }

// head reads the length and the type of the next entry, io.EOF at the limit.
func (s *scanner) head() (kind byte, n int, err error) {
	if s.at == s.limit {
		return 0, 0, io.EOF
	}
	if s.limit-s.at < overhead {
		return 0, 0, s.damaged(s.at, "the entry is cut off")
	}
	b, err := s.r.Peek(5)
	if err != nil {
		return 0, 0, s.failed(err)
	}
	kind, size := b[4], binary.BigEndian.Uint32(b)
	if kind < typeSegment || kind > typeMark || size > record.MaxLeaf {
		return 0, 0, s.damaged(s.at, "there is no entry")
	}
	if int64(size)+overhead > s.limit-s.at {
		return 0, 0, s.damaged(s.at, "the entry is cut off")
	}
	return kind, int(size), nil
}

// next reads one entry. The payload is the caller's.
func (s *scanner) next() (kind byte, payload []byte, err error) {
	kind, n, err := s.head()
	if err != nil {
		return 0, nil, err
	}
	b := make([]byte, n+overhead)
	if _, err := io.ReadFull(s.r, b); err != nil {
		return 0, nil, s.failed(err)
	}
	if crc32.Checksum(b[:n+5], castagnoli) != binary.BigEndian.Uint32(b[n+5:]) {
		return 0, nil, s.damaged(s.at, "the checksum of the entry is wrong")
	}
	if kind == typeMark {
		if _, ok := parseMark(b[5:n+5], s.at); !ok {
			return 0, nil, s.damaged(s.at, "the mark is not at its place")
		}
	}
	if kind == typeSegment && s.at != 0 {
		return 0, nil, s.damaged(s.at, "there is a second header")
	}
	s.at += int64(len(b))
	return kind, b[5 : n+5 : n+5], nil
}

// skipLeaves goes on to the next entry that is no leaf, without looking at what it skips.
func (s *scanner) skipLeaves() error {
	for {
		kind, n, err := s.head()
		if err != nil || kind != typeLeaf {
			return err
		}
		if _, err := s.r.Discard(n + overhead); err != nil {
			return s.failed(err)
		}
		s.at += int64(n) + overhead
	}
}

func (s *scanner) failed(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return s.damaged(s.at, "the file is shorter than it was")
	}
	if errors.Is(err, unix.EIO) {
		return s.damaged(s.at, "the disk cannot read it")
	}
	return fmt.Errorf("cannot read %s at byte %d: %w", s.name, s.at, err)
}

// nextMark finds the first whole mark at or after an offset; false if there is none, so that nothing from there on is known to have
// been safe. What the disk cannot read is passed over.
func (s *scanner) nextMark(from int64) (mark, bool, error) {
	const block = 4096 // of a disk
	buf := make([]byte, 16*block)
	for s.limit-from >= overhead+markV1 {
		n, err := s.file.ReadAt(buf[:min(int64(len(buf)), s.limit-from)], from)
		if errors.Is(err, unix.EIO) && n == 0 && len(buf) > block {
			buf = buf[:block] // the bad block may be any of them
			continue
		}
		if errors.Is(err, unix.EIO) && n == 0 {
			from = (from/block + 1) * block
			continue
		}
		if err != nil && err != io.EOF && !errors.Is(err, unix.EIO) || n == 0 {
			return mark{}, false, fmt.Errorf("cannot read %s at byte %d: %w", s.name, from, err)
		}
		for i := 0; i+5 <= n; i++ {
			if size := binary.BigEndian.Uint32(buf[i:]); buf[i+4] == typeMark && size >= markV1 && size <= maxMark {
				if m, ok := s.markAt(from+int64(i), int(size)); ok {
					return m, true, nil
				}
			}
		}
		from += int64(max(1, n-4))
	}
	return mark{}, false, nil
}

// markAt reads the mark at an offset if there is one, with a payload of n bytes.
func (s *scanner) markAt(at int64, n int) (m mark, ok bool) {
	if s.limit-at < int64(n+overhead) {
		return m, false
	}
	b := make([]byte, n+overhead)
	if _, err := s.file.ReadAt(b, at); err != nil || crc32.Checksum(b[:n+5], castagnoli) != binary.BigEndian.Uint32(b[n+5:]) {
		return m, false
	}
	return parseMark(b[5:n+5], at)
}

// goTo goes on behind a mark.
func (s *scanner) goTo(m mark) {
	s.at = m.end
	s.grow(s.limit)
}
