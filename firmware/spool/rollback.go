package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A log that was set back, by an image that was restored, another disk, or one that had lied about an fsync, must not go on
// as if nothing had happened: the box would give other records the indexes that it has published already, and sign with one
// key two histories that contradict each other. So it says so for good, in a file that outlives the restart, keeps what it is
// given, and neither signs nor publishes. A signature cannot be taken back; one that was not made can still be made.

const (
	rolledBackFile  = "rolled-back"
	rolledBackMagic = "vitalgate/rolled-back/v1"
)

// RolledBack says how it is known that the log is older than what was published of it; "" if it is not so. Then nothing is
// signed, and nothing may be published, under this box's name and key.
func (s *Spool) RolledBack() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rolledBack
}

// SetRolledBack notes for good that the log is older than what was published of it. why is the end of a sentence. The error
// says that it could not be written down; it holds until the restart all the same.
func (s *Spool) SetRolledBack(why string) error {
	s.mu.Lock()
	if s.rolledBack != "" {
		s.mu.Unlock()
		return nil
	}
	s.rolledBack = strings.ReplaceAll(why, "\n", " ")
	s.countAcked()
	// What comes from now on has other content than what was acknowledged under its index, so nothing says it is elsewhere.
	s.intact = min(s.acked, s.size)
	s.countAcked()
	text := fmt.Sprintf("%s intact %d\n%s\n", rolledBackMagic, s.intact, s.rolledBack)
	s.mu.Unlock()
	if err := s.writeRolledBack(text); err != nil {
		return fmt.Errorf("cannot write down that the log was set back: %w", err)
	}
	return nil
}

// writeRolledBack makes the file. That it exists is what counts: a crash may leave it without its text.
func (s *Spool) writeRolledBack(text string) error {
	f, err := s.disk.Create(filepath.Join(s.dir, rolledBackFile))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := s.disk.SyncDir(s.dir); err != nil {
		return err
	}
	if err := s.disk.Pwrite(f, []byte(text), 0); err != nil {
		return err
	}
	return s.disk.Fdatasync(f)
}

// loadRolledBack reads what SetRolledBack wrote.
func (s *Spool) loadRolledBack() error {
	text, err := os.ReadFile(filepath.Join(s.dir, rolledBackFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	head, why, _ := strings.Cut(string(text), "\n")
	if _, err := fmt.Sscanf(head, rolledBackMagic+" intact %d", &s.intact); err != nil {
		s.intact = 0 // then nothing is known to be elsewhere, and nothing is dropped
	}
	if s.rolledBack = strings.TrimSpace(why); s.rolledBack == "" {
		s.rolledBack = "this was found before the last start"
	}
	return nil
}

// checkBegun says that the log is gone if there was one. A box that has signed nothing is new, however often it was started.
func (s *Spool) checkBegun() error {
	if s.opts.Begun == "" {
		s.begun = true
		return nil
	}
	_, err := os.Stat(s.opts.Begun)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot tell whether the log has begun: %w", err)
	}
	s.begun = true
	if s.next > 0 {
		return nil
	}
	if err := s.SetRolledBack("the log of this box is gone, though it had begun"); err != nil {
		s.warn("cannot note that the log is gone", "error", err)
	}
	return nil
}

// begin makes the file Begun, before the first checkpoint is on disk and so before anything can be published.
func (s *Spool) begin() error {
	if s.begun {
		return nil
	}
	f, err := s.disk.Create(s.opts.Begun)
	if err == nil {
		err = errors.Join(f.Close(), s.disk.SyncDir(filepath.Dir(s.opts.Begun)))
	}
	if err != nil {
		return fmt.Errorf("cannot note that the log begins: %w", err)
	}
	s.begun = true
	return nil
}
