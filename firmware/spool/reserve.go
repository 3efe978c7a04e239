package spool

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// A disk that is full of records that are not signed yet would be full for ever: they must be signed before they can be published,
// and published before they can be dropped, and there is no room for the signature. So a part of the disk is reserved by a file that
// holds nothing. When a checkpoint does not fit, the file goes, and until it can be made again, only checkpoints are taken.

const (
	reserveFile  = "reserve"
	reserveBytes = 64 << 10
	reserveEvery = 200 * time.Millisecond // between attempts to make it again
)

func (s *Spool) reservePath() string { return filepath.Join(s.dir, reserveFile) }

// makeReserve makes the reserve again, and reports whether it is there. It is under commitMu.
func (s *Spool) makeReserve() bool {
	if time.Since(s.leanTried) < reserveEvery {
		return false
	}
	if info, err := os.Stat(s.reservePath()); err == nil && info.Size() == s.reserveSize() {
		s.lean = false
		return true
	}
	s.leanTried = time.Now()
	f, err := s.disk.Create(s.reservePath())
	if err != nil {
		return false
	}
	err = s.disk.Pwrite(f, make([]byte, s.reserveSize()), 0)
	if err == nil {
		err = s.disk.Fdatasync(f)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		s.disk.Unlink(s.reservePath())
		return false
	}
	s.lean, s.leanTried = false, time.Time{}
	return true
}

// touchReserve has the disk write a block where it has room for certain. A disk that hangs holds it up; what one answers that refuses is not
// asked, for nothing is lost by it.
func (s *Spool) touchReserve() {
	f, err := os.OpenFile(s.reservePath(), os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer f.Close()
	if s.disk.Pwrite(f, make([]byte, min(512, s.reserveSize())), 0) == nil {
		s.disk.Fdatasync(f)
	}
}

// reserveSize is small beside a small quota.
func (s *Spool) reserveSize() int64 { return min(reserveBytes, s.opts.Quota/64) }

// useReserve gives the reserve to a checkpoint. It reports whether there was one.
func (s *Spool) useReserve() bool {
	if s.lean {
		return false
	}
	if err := s.disk.Unlink(s.reservePath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	s.lean, s.leanTried = true, time.Now()
	s.warn("the disk is full; what room was reserved is for signing what is kept, and nothing more is taken until there is room")
	return true
}
