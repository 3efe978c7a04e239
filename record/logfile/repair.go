package logfile

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// Repair takes out of the log in dir what is damaged, so that its files are whole again: a damaged segment is replaced by the runs of
// entries in it that can be read, each in a segment of its own. The segment as it was is kept in the folder "damaged". What was
// damaged stays missing; only another copy of the log brings it back. It returns what it has replaced, and needs the writer's lock.
func Repair(dir string, disk *Disk) (replaced []string, err error) {
	if disk == nil {
		disk = &system
	}
	l := &Log{dir: dir, sys: disk}
	defer l.Close()
	if l.lock, err = lockDir(dir); err != nil {
		return nil, fmt.Errorf("cannot repair log %s: %w", dir, err)
	}
	if l.segments, err = listSegments(dir); err != nil {
		return nil, fmt.Errorf("cannot repair log %s: %w", dir, err)
	}
	for i, s := range l.segments {
		runs, whole, err := l.runs(s)
		switch {
		case err == nil && !whole && len(runs) > 0:
			err = l.replace(s, runs)
		case err == nil && !whole && i+1 < len(l.segments): // nothing of it can be read; the last one is for Open to judge
			l.keep(s)
			err = disk.Unlink(s.name(dir))
		}
		if err != nil {
			return replaced, fmt.Errorf("cannot repair log %s: %w", dir, err)
		}
		if !whole {
			replaced = append(replaced, s.name(dir))
		}
	}
	return replaced, disk.SyncDir(dir)
}

// run is what can be read of a segment without a break: the header that it would begin with, and the entries after it.
type run struct {
	header  header
	entries []byte
}

// runs reads what can be read of a segment; whole says that it is all of it.
func (l *Log) runs(s segment) (all []run, whole bool, err error) {
	sc, h, err := openScanner(l.dir, s, readBuffer)
	if sc == nil {
		return nil, false, err
	}
	defer sc.close()
	whole = err == nil
	if err == nil {
		l.now.begin(h)
		all = append(all, run{header: h})
	}
	at := int64(0)
	for {
		var kind byte
		var payload []byte
		if err == nil {
			at = sc.at
			kind, payload, err = sc.next()
		}
		if err == nil && len(all) > 0 {
			err = l.take(sc, at, kind, payload)
		}
		switch {
		case err == io.EOF:
			return all, whole, nil
		case errors.Is(err, ErrDamaged):
			whole = false
			m, ok, fault := sc.nextMark(at + 1)
			if fault != nil {
				return nil, false, fault
			}
			if !ok || m.bare || m.tree.Size() < l.now.tree.Size() {
				return all, false, nil
			}
			if len(all) == 0 || m.tree.Size() > l.now.tree.Size() { // else no leaf is lost, and the run goes on
				all = append(all, run{header: header{tree: m.tree, note: l.now.note}})
			}
			l.now.tree, err = m.tree, nil
			sc.goTo(m)
		case err != nil:
			return nil, false, err
		case kind != typeMark:
			last := &all[len(all)-1]
			last.entries = appendEntry(last.entries, kind, payload)
		}
	}
}

// replace puts the runs of a segment in its place. The later ones come first, so that whatever ends this, the damaged one is still
// there until all others are, and another Repair finds it.
func (l *Log) replace(s segment, runs []run) error {
	l.keep(s)
	for i := len(runs) - 1; i >= 0; i-- {
		h := runs[i].header
		b := h.append(nil)
		b = append(appendMark(b, int64(len(b)), h.tree), runs[i].entries...)
		if err := l.put(segment{first: h.tree.Size()}, b); err != nil {
			return err
		}
	}
	if runs[0].header.tree.Size() != s.first {
		if err := l.sys.Unlink(s.name(l.dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return l.sys.SyncDir(l.dir)
}
