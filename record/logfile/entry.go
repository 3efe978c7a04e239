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
	overhead     = 4 + 1 + 4
	segmentMagic = "vitalgate/log/v1\n"
	suffix       = ".log"
	temporary    = "next.tmp"
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

func appendMark(dst []byte, at int64) []byte {
	return appendEntry(dst, typeMark, binary.BigEndian.AppendUint64(nil, uint64(at)))
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
	tree record.Tree             // at the first leaf
	note record.SignedCheckpoint // the last one before; empty if none
	last record.Checkpoint       // what it says
}

func (h header) append(dst []byte) []byte {
	tree, _ := h.tree.AppendBinary(nil)
	return appendEntry(dst, typeSegment, []byte(segmentMagic), tree, binary.BigEndian.AppendUint32(nil, uint32(len(h.note))), h.note)
}

func parseHeader(b []byte) (h header, err error) {
	b, ok := bytes.CutPrefix(b, []byte(segmentMagic))
	if !ok {
		return h, errors.New("its version is unknown; open it with the software that wrote it")
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

func openScanner(dir string, s segment, buffer int) (*scanner, header, error) {
	f, err := os.Open(s.name(dir))
	if err != nil {
		return nil, header{}, err
	}
	sc := &scanner{file: f, name: f.Name(), r: bufio.NewReaderSize(nil, int(min(int64(buffer), max(s.size, 32<<10))))}
	sc.grow(s.size)
	kind, payload, err := sc.next()
	var h header
	switch {
	case err == io.EOF || err == nil && kind != typeSegment:
		err = sc.damaged(0, "it does not begin with its header")
	case err == nil:
		if h, err = parseHeader(payload); err == nil && h.tree.Size() != s.first {
			err = errors.New("its name is not the index of its first leaf")
		}
		if err != nil {
			err = sc.damaged(0, err.Error())
		}
	}
	if err != nil {
		f.Close()
		return nil, h, err
	}
	return sc, h, nil
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
	if kind == typeMark && (n != 8 || binary.BigEndian.Uint64(b[5:]) != uint64(s.at)) {
		return 0, nil, s.damaged(s.at, "the mark is not at its place")
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
	return fmt.Errorf("cannot read %s at byte %d: %w", s.name, s.at, err)
}

// vouched reports whether a mark after offset at says that the bytes there were once safe on the disk.
func (s *scanner) vouched(at int64) (bool, error) {
	const step = 1 << 20
	size := len(appendMark(nil, 0))
	buf := make([]byte, min(step+int64(size), s.limit-at))
	for from := at + 1; from < s.limit; from += step {
		n, err := s.file.ReadAt(buf[:min(int64(len(buf)), s.limit-from)], from)
		if err != nil && err != io.EOF {
			return false, fmt.Errorf("cannot read %s at byte %d: %w", s.name, from, err)
		}
		for i := 0; i+size <= n; i++ {
			if buf[i+3] == 8 && buf[i+4] == typeMark && bytes.Equal(buf[i:i+size], appendMark(nil, from+int64(i))) {
				return true, nil
			}
		}
	}
	return false, nil
}
