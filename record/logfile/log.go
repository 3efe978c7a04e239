package logfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/vitalgate/vitalgate/record"
)

// Options of Open. The zero value is good.
type Options struct {
	SegmentBytes int64 // a segment ends at the first Sync after it has grown to this; 0 means 8 MiB

	Disk *Disk // nil is SystemDisk
}

// Bounds of what one checkpoint signs, where Unsigned proposes it: they bound the memory of a Reader.
const (
	groupLeaves = 4096
	groupBytes  = 4 << 20
)

const writeBytes = 1 << 20 // the buffer of Append is written out at this size even without Sync

// ErrPoisoned says that a sync failed, so that nobody knows what is on the disk. Only opening the log anew tells.
var ErrPoisoned = errors.New("the log is poisoned by a failed sync")

// Log is a log that is open for writing. Its methods may be called from several goroutines, but the error of a Sync is
// meant for all who appended before it: let one goroutine append and sync for the others.
type Log struct {
	dir   string
	limit int64
	sys   *Disk
	lock  *os.File
	view  atomic.Pointer[view] // what readers see
	found Found
	mark  int64 // where the last mark of the last segment stands, as Open found it

	mu       sync.Mutex
	file     *os.File // the last segment
	buf      []byte   // entries that are not written yet
	written  int64    // where they belong
	now      state
	durable  state // as of the last Sync
	safe     int64 // bytes of the last segment as of then
	handed   record.Tree
	segments []segment // replaced, never changed in place
	fresh    bool      // the next batch begins a segment
	err      error     // why the log takes nothing
	poisoned bool
}

// Found is what Open has found of what was not as it was written. None of it keeps the log from going on.
type Found struct {
	Torn    int64     // bytes of a torn tail, which were cut off: no Sync had returned for them
	Missing []Missing // leaves that cannot be read, in the last segment or because a whole segment is damaged
	SetBack string    // why the log may end before where it once ended; "" if it does not. Then the same index may be given twice
}

// Missing is a run of leaves that cannot be read, From up to (not including) To. A Reader returns it as an error that is not
// final: it goes on with To.
type Missing struct {
	From, To uint64
	Cause    error // names the file and the byte
}

func (m *Missing) Error() string {
	return fmt.Sprintf("leaves %d to %d cannot be read: %v", m.From, m.To-1, m.Cause)
}

func (m *Missing) Unwrap() error { return m.Cause }

// state is what the entries say.
type state struct {
	tree record.Tree
	note record.SignedCheckpoint
	last record.Checkpoint
	cuts []record.Tree // where Unsigned proposes to sign, ascending; replaced, never changed in place
	cut  int64         // bytes of leaves after the last cut
}

// view is what is durable, for readers.
type view struct {
	segments []segment
	end      int64 // bytes of the last of them
	signed   uint64
}

// size is that of segment i.
func (v *view) size(i int) int64 {
	if i == len(v.segments)-1 {
		return v.end
	}
	return v.segments[i].size
}

// Open opens the log in dir, which it makes where there is none, and takes the lock of the writer. A torn tail of the last
// segment, that is what no Sync had returned for, is cut off. Other damage is no reason not to go on (ADR 0033): Found tells of it.
func Open(dir string, o Options) (*Log, error) {
	l := &Log{dir: dir, limit: o.SegmentBytes, sys: o.Disk}
	if l.limit <= 0 {
		l.limit = 8 << 20
	}
	if l.sys == nil {
		l.sys = &system
	}
	if err := l.open(); err != nil {
		l.Close()
		return nil, fmt.Errorf("cannot open log %s: %w", dir, err)
	}
	return l, nil
}

func (l *Log) open() (err error) {
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return err
	}
	if l.lock, err = lockDir(l.dir); err != nil {
		return err
	}
	if err := l.sys.SyncDir(filepath.Dir(filepath.Clean(l.dir))); err != nil {
		return err
	}
	if err := l.sys.Unlink(filepath.Join(l.dir, temporary)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if l.segments, err = listSegments(l.dir); err != nil {
		return err
	}
	if len(l.segments) == 0 {
		if err := l.begin(); err != nil {
			return err
		}
	} else if err := l.recover(); err != nil {
		return err
	}
	l.publish()
	return nil
}

// recover reads the headers of all segments and the entries of the last.
func (l *Log) recover() error {
	last := len(l.segments) - 1
	for _, seg := range l.segments[:last] {
		sc, h, err := openScanner(l.dir, seg, 64<<10)
		if sc != nil {
			sc.close()
		}
		if errors.Is(err, ErrDamaged) {
			continue // a Reader goes around it
		}
		if err != nil {
			return err
		}
		l.now.begin(h)
	}
	if err := l.replay(); err != nil {
		return err
	}
	for len(l.now.cuts) > 0 && l.now.cuts[0].Size() <= l.now.last.Size {
		l.now.cuts = l.now.cuts[1:]
	}
	if len(l.segments) == 0 { // nothing of it could be read
		return l.begin()
	}
	seg := &l.segments[len(l.segments)-1]
	f, err := os.OpenFile(seg.name(l.dir), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	l.file = f
	if info, err := f.Stat(); err != nil {
		return err
	} else if info.Size() > seg.size {
		if err := l.sys.Truncate(f, seg.size); err != nil {
			return err
		}
	}
	// What a killed process had written may be in no more than the cache of the system. And what it had failed to sync may be
	// nowhere else, though the system counts it as written and would not write it again: so it is written again.
	if err := l.rewrite(f, l.mark, seg.size); err != nil {
		return err
	}
	if err := l.sys.Fdatasync(f); err != nil {
		return err
	}
	if err := l.sys.SyncDir(l.dir); err != nil {
		return err
	}
	l.written, l.safe, l.durable = seg.size, seg.size, l.now
	return nil
}

// rewrite writes the bytes of f from one offset to another as they are.
func (l *Log) rewrite(f *os.File, from, to int64) error {
	b := make([]byte, min(to-from, writeBytes))
	for ; from < to; from += int64(len(b)) {
		b = b[:min(to-from, int64(len(b)))]
		if _, err := f.ReadAt(b, from); err != nil {
			return fmt.Errorf("cannot read %s at byte %d: %w", f.Name(), from, err)
		}
		if err := l.sys.Pwrite(f, b, from); err != nil {
			return err
		}
	}
	return nil
}

// replay reads the last segment to its end or to where it is torn. Where it is damaged, it goes on behind the next mark, which
// holds the tree there. Damage without such a mark takes with it all that stood behind it.
func (l *Log) replay() error {
	seg := &l.segments[len(l.segments)-1]
	sc, h, err := openScanner(l.dir, *seg, 64<<10)
	if sc == nil {
		return err
	}
	defer sc.close()
	switch {
	case err == nil:
		l.now.begin(h)
		l.fresh = h.old
	case !errors.Is(err, ErrDamaged):
		return err
	default:
		m, ok, fault := sc.nextMark(0)
		if fault != nil {
			return fault
		}
		if !ok || m.bare || m.tree.Size() < seg.first {
			return l.replayBefore(err)
		}
		l.now.tree = record.Tree{} // that of the header before is not of this segment
		l.miss(seg.first, m, err)
		sc.goTo(m)
	}
	l.mark = max(l.mark, sc.at)
	for {
		at := sc.at
		kind, payload, err := sc.next()
		if err == nil {
			err = l.take(sc, at, kind, payload)
		}
		switch {
		case err == io.EOF:
			return nil
		case errors.Is(err, ErrDamaged):
			m, ok, fault := sc.nextMark(at + 1)
			switch {
			case fault != nil:
				return fault
			case !ok: // torn
				l.found.Torn, seg.size = seg.size-at, at
				return nil
			case m.bare || m.tree.Size() < l.now.tree.Size():
				l.setAside(*seg, err)
				seg.size = at
				return nil
			}
			l.miss(l.now.tree.Size(), m, err)
			sc.goTo(m)
		case err != nil:
			return err
		}
	}
}

// take takes one entry into the state.
func (l *Log) take(sc *scanner, at int64, kind byte, payload []byte) error {
	switch kind {
	case typeMark:
		if m, _ := parseMark(payload, at); !m.bare && m.tree.Size() != l.now.tree.Size() {
			return sc.damaged(at, "the mark is of another tree")
		}
		l.mark = at
	case typeLeaf:
		l.now.add(record.LeafHash(payload), len(payload))
	case typeCheckpoint:
		c, err := record.SignedCheckpoint(payload).Unverified()
		if err != nil || c.Size > l.now.tree.Size() || c.Size <= l.now.last.Size {
			return sc.damaged(at, "the checkpoint does not fit the log")
		}
		l.now.note, l.now.last = payload, c
	}
	return nil
}

// miss goes on at a mark: the leaves from one index up to it cannot be read. What stands before them can still be signed alone.
func (l *Log) miss(from uint64, m mark, cause error) {
	if n := len(l.now.cuts); l.now.tree.Size() > 0 && (n == 0 || l.now.cuts[n-1].Size() < l.now.tree.Size()) {
		l.now.cuts = append(l.now.cuts[:n:n], l.now.tree)
	}
	if from < m.tree.Size() {
		l.found.Missing = append(l.found.Missing, Missing{from, m.tree.Size(), cause})
	}
	l.now.tree, l.now.cut, l.fresh, l.mark = m.tree, 0, true, m.at
	l.keep(l.segments[len(l.segments)-1])
}

// replayBefore gives up the last segment, of which neither the header nor a mark can be read, and ends the log with the one before.
func (l *Log) replayBefore(cause error) error {
	last := len(l.segments) - 1
	gone := l.segments[last]
	if l.segments = l.segments[:last:last]; last > 0 {
		if err := l.replay(); err != nil {
			return err
		}
	} else {
		l.now = state{}
	}
	if l.now.tree.Size() != gone.first || gone.size > int64(len(header{tree: l.now.tree, note: l.now.note}.append(nil))) {
		l.found.SetBack = cause.Error()
	}
	l.keep(gone)
	if err := l.sys.Unlink(gone.name(l.dir)); err != nil {
		return err
	}
	return nil
}

// setAside notes that a segment is damaged so that nothing behind it can be told.
func (l *Log) setAside(seg segment, cause error) {
	l.found.SetBack, l.fresh = cause.Error(), true
	l.keep(seg)
}

const maxAside = 16 // files

// keep keeps a segment as it is now in the folder of what was damaged, so that somebody can look at it when the ring has gone on.
// It is best effort: a disk that is full or failing has more important things to do.
func (l *Log) keep(seg segment) {
	dir := filepath.Join(l.dir, aside)
	to := filepath.Join(dir, filepath.Base(seg.name(l.dir)))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return
	}
	if all, err := os.ReadDir(dir); err != nil || len(all) >= maxAside {
		return
	}
	from, err := os.Open(seg.name(l.dir))
	if err != nil {
		return
	}
	defer from.Close()
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return // it is there already
	}
	defer f.Close()
	const block = 4096
	b := make([]byte, block)
	for at := int64(0); at < seg.size; at += block { // what the disk cannot read stays a hole
		if n, _ := from.ReadAt(b, at); n > 0 {
			f.WriteAt(b[:n], at)
		}
	}
}

// begin goes to the beginning of a segment.
func (s *state) begin(h header) {
	s.tree, s.note, s.last, s.cut = h.tree, h.note, h.last, 0
	if n := len(s.cuts); n == 0 || s.cuts[n-1].Size() < h.tree.Size() {
		s.cuts = append(s.cuts[:n:n], h.tree)
	}
}

// add takes a leaf of so many bytes into the tree.
func (s *state) add(leaf record.Hash, bytes int) {
	s.tree.AppendHash(leaf)
	s.cut += int64(bytes)
	from := s.last.Size
	if n := len(s.cuts); n > 0 {
		from = s.cuts[n-1].Size()
	}
	if s.tree.Size()-from >= groupLeaves || s.cut >= groupBytes {
		s.cuts = append(s.cuts[:len(s.cuts):len(s.cuts)], s.tree)
		s.cut = 0
	}
}

// begin makes the segment for the leaves from now on. All before is synced. If it fails before the new segment has its name,
// nothing has changed.
func (l *Log) begin() error {
	tmp := filepath.Join(l.dir, temporary)
	f, err := l.sys.Create(tmp)
	if err != nil {
		return fmt.Errorf("cannot begin a segment: %w", err)
	}
	b := header{tree: l.now.tree, note: l.now.note}.append(nil)
	seg := segment{l.now.tree.Size(), int64(len(b))}
	if err = l.sys.Pwrite(f, b, 0); err == nil {
		if err = l.sys.Fdatasync(f); err == nil {
			err = l.sys.Rename(tmp, seg.name(l.dir))
		}
	}
	if err != nil {
		f.Close()
		l.sys.Unlink(tmp)
		return fmt.Errorf("cannot begin a segment: %w", err)
	}
	if err := l.sys.SyncDir(l.dir); err != nil {
		f.Close()
		return l.poison(err)
	}
	segments := append([]segment(nil), l.segments...)
	if l.file != nil {
		l.file.Close()
		segments[len(segments)-1].size = l.safe
	}
	if n := len(segments); n > 0 && segments[n-1].first == seg.first {
		segments = segments[:n-1] // it held no leaf, and this one has taken its name
	}
	l.segments = append(segments, seg)
	l.file, l.written, l.safe, l.fresh = f, seg.size, seg.size, false
	return nil
}

func (l *Log) poison(err error) error {
	l.poisoned = true
	l.err = fmt.Errorf("%w: %w; restart to see what is on the disk, and check the disk", ErrPoisoned, err)
	return l.err
}

// Append takes leaves, the first at Next, into the log. They are safe when Sync has returned.
// After an error nothing of this call is in the log; see Rollback for a failed write.
func (l *Log) Append(leaves ...record.Leaf) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil || len(leaves) == 0 {
		return l.err
	}
	for i, leaf := range leaves {
		if len(leaf) > record.MaxLeaf {
			return fmt.Errorf("cannot append leaf of %d bytes: at most %d are allowed", len(leaf), record.MaxLeaf)
		}
		h, _, err := record.ParseLeaf(leaf)
		if err != nil {
			return fmt.Errorf("cannot append: %w", err)
		}
		if next := l.now.tree.Size() + uint64(i); h.Index != next {
			return fmt.Errorf("cannot append leaf %d: the log is at %d", h.Index, next)
		}
	}
	if err := l.prepare(); err != nil {
		return err
	}
	for _, leaf := range leaves {
		l.buf = appendEntry(l.buf, typeLeaf, leaf)
		l.now.add(record.LeafHash(leaf), len(leaf))
	}
	if len(l.buf) >= writeBytes {
		return l.write()
	}
	return nil
}

// AppendVerified is Append for records that were verified, whose leaves need not be read and hashed again.
func (l *Log) AppendVerified(records ...record.Verified) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil || len(records) == 0 {
		return l.err
	}
	for i, v := range records {
		if next := l.now.tree.Size() + uint64(i); v.Header().Index != next {
			return fmt.Errorf("cannot append leaf %d: the log is at %d", v.Header().Index, next)
		}
	}
	if err := l.prepare(); err != nil {
		return err
	}
	for _, v := range records {
		l.buf = appendEntry(l.buf, typeLeaf, v.Leaf())
		l.now.add(v.LeafHash(), len(v.Leaf()))
		if len(l.buf) >= writeBytes {
			if err := l.write(); err != nil {
				return err
			}
		}
	}
	return nil
}

// AppendCheckpoint takes a checkpoint into the log: of the whole log, or of a size that Unsigned gave and that is later than the
// last checkpoint. Its root must be that of the tree. c is what sc says. It is safe, and Readers see it, when Sync has returned.
func (l *Log) AppendCheckpoint(sc record.SignedCheckpoint, c record.Checkpoint) error {
	said, err := sc.Unverified()
	if err != nil {
		return fmt.Errorf("cannot append checkpoint: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	if said != c {
		return errors.New("cannot append checkpoint: it does not say what it should")
	}
	if c.Size <= l.now.last.Size {
		return fmt.Errorf("cannot append checkpoint of %d leaves: %d are signed already", c.Size, l.now.last.Size)
	}
	tree, ok := l.treeAt(c.Size)
	if !ok {
		return fmt.Errorf("cannot append checkpoint of %d leaves: sign the tree that Unsigned gives", c.Size)
	}
	if tree.Root() != c.Root {
		return fmt.Errorf("cannot append checkpoint of %d leaves: it signs another tree than that of the log", c.Size)
	}
	if err := l.prepare(); err != nil {
		return err
	}
	l.buf = appendEntry(l.buf, typeCheckpoint, sc)
	l.now.note, l.now.last = append(record.SignedCheckpoint(nil), sc...), c
	for len(l.now.cuts) > 0 && l.now.cuts[0].Size() <= c.Size {
		l.now.cuts = l.now.cuts[1:]
	}
	if len(l.now.cuts) == 0 {
		l.now.cut = 0
	}
	return nil
}

func (l *Log) treeAt(size uint64) (record.Tree, bool) {
	if l.now.tree.Size() == size {
		return l.now.tree, true
	}
	if l.handed.Size() == size {
		return l.handed, true
	}
	for _, t := range l.now.cuts {
		if t.Size() == size {
			return t, true
		}
	}
	return record.Tree{}, false
}

// prepare begins a batch: a new segment where the last is full, and the mark.
func (l *Log) prepare() error {
	if len(l.buf) > 0 || l.written > l.safe {
		return nil
	}
	if l.fresh || l.safe >= l.limit && l.now.tree.Size() > l.segments[len(l.segments)-1].first {
		if err := l.begin(); err != nil {
			return err
		}
		l.publish()
	}
	l.buf = appendMark(l.buf, l.written, l.now.tree)
	return nil
}

func (l *Log) write() error {
	if err := l.sys.Pwrite(l.file, l.buf, l.written); err != nil {
		l.err = fmt.Errorf("cannot write log %s: %w; what was not synced is lost, see Rollback", l.dir, err)
		return l.err
	}
	l.written += int64(len(l.buf))
	if l.buf = l.buf[:0]; cap(l.buf) > 4*writeBytes {
		l.buf = nil
	}
	return nil
}

// Sync makes safe all that was appended. After an error of the write, as when the disk is full, the log takes nothing until
// Rollback. After an error of the sync itself it is poisoned: every later call returns ErrPoisoned.
func (l *Log) Sync() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	if len(l.buf) == 0 && l.written == l.safe {
		return nil
	}
	if len(l.buf) > 0 {
		if err := l.write(); err != nil {
			return err
		}
	}
	if err := l.sys.Fdatasync(l.file); err != nil {
		return l.poison(fmt.Errorf("cannot sync log %s: %w", l.dir, err))
	}
	l.safe, l.durable = l.written, l.now
	l.publish()
	return nil
}

// Rollback takes the log back to what the last Sync made safe, and so ends the error of a failed write. Nobody who appended
// since then may count on it: tell them before. A poisoned log stays so.
func (l *Log) Rollback() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.poisoned {
		return l.err
	}
	if l.written > l.safe || l.err != nil {
		if err := l.sys.Truncate(l.file, l.safe); err != nil {
			return l.poison(fmt.Errorf("cannot cut log %s back: %w", l.dir, err))
		}
	}
	l.buf, l.written, l.now, l.err = l.buf[:0], l.safe, l.durable, nil
	return nil
}

// publish shows readers what is durable.
func (l *Log) publish() {
	l.view.Store(&view{l.segments, l.safe, l.durable.last.Size})
}

// First is the index of the oldest leaf that is kept.
func (l *Log) First() uint64 { return l.view.Load().segments[0].first }

// Next is the index that the next leaf will have.
func (l *Log) Next() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now.tree.Size()
}

// Signed is the size of the last checkpoint that is safe: leaves below it can be read.
func (l *Log) Signed() uint64 { return l.view.Load().signed }

// Tree is the tree at Next.
func (l *Log) Tree() record.Tree {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now.tree
}

// LastCheckpoint is the last checkpoint in the log, and what it says; nil if there is none.
func (l *Log) LastCheckpoint() (record.SignedCheckpoint, record.Checkpoint) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now.note, l.now.last
}

// Unsigned is the tree that the next checkpoint should sign, and how many leaves it adds to the last one; 0 if all that is
// safe is signed. After a long time without signatures it proposes a part of the rest: sign until there is nothing left.
func (l *Log) Unsigned() (record.Tree, uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.durable.tree
	if len(l.now.cuts) > 0 && l.now.cuts[0].Size() < t.Size() {
		t = l.now.cuts[0]
	}
	if t.Size() <= l.now.last.Size {
		return t, 0
	}
	l.handed = t
	return t, t.Size() - l.now.last.Size
}

// Bytes is what the segments take on the disk.
func (l *Log) Bytes() (n int64) {
	v := l.view.Load()
	for i := range v.segments {
		n += v.size(i)
	}
	return n
}

// Found is what was not as it was written when the log was opened.
func (l *Log) Found() Found { return l.found }

// DropBefore removes segments that hold no leaf at or above index, and none that is not signed. The last segment stays.
func (l *Log) DropBefore(index uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	index = min(index, l.durable.last.Size)
	for len(l.segments) > 1 && l.segments[1].first <= index {
		all := l.segments
		l.segments = all[1:]
		l.publish()
		if err := l.sys.Unlink(all[0].name(l.dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
			l.segments = all // else a later drop would leave a hole
			l.publish()
			return fmt.Errorf("cannot drop segment: %w", err)
		}
	}
	return nil
}

// Rotate begins a segment, so that DropBefore may drop the one that was the last.
func (l *Log) Rotate() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil || len(l.buf) > 0 || l.written > l.safe || l.now.tree.Size() == l.segments[len(l.segments)-1].first {
		return l.err
	}
	if err := l.begin(); err != nil {
		return err
	}
	l.publish()
	return nil
}

// Skip goes on with a later tree: the leaves up to it are missing. All that was appended must be safe. Fill may bring them later.
func (l *Log) Skip(to record.Tree) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.err != nil:
		return l.err
	case len(l.buf) > 0 || l.written > l.safe:
		return errors.New("cannot leave out leaves: what was appended is not synced")
	case to.Size() <= l.now.tree.Size():
		return fmt.Errorf("cannot leave out leaves up to %d: the log is at %d", to.Size(), l.now.tree.Size())
	}
	was := l.now
	l.now.tree, l.now.cuts, l.now.cut = to, nil, 0
	if err := l.begin(); err != nil {
		l.now = was
		return err
	}
	l.durable = l.now
	l.publish()
	return nil
}

// Close gives up the lock. What was not synced may be lost.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	if l.file != nil {
		err = l.file.Close()
		l.file = nil
	}
	if l.lock != nil {
		l.lock.Close()
		l.lock = nil
	}
	if l.err == nil {
		l.err = errors.New("the log is closed")
		l.poisoned = true
	}
	return err
}
