package main

import (
	"context"
	"errors"
	"time"

	"github.com/vitalgate/vitalgate/peer/store"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/logfile"
)

// viewRecords is how many records of each box the page is filled with, at start and after a time when more came than it could show.
const viewRecords = 20000

// The page follows a box unless so many of its records wait to be shown, or come each second at more than a tenth of the pace at which
// they can be: then a backlog is coming in, and to open each of its records would hold up taking them in (ADR 0052).
const (
	backlog     = 4096
	busyRecords = 1000
	backlogLook = 5 * time.Second // how often the page shows the newest ones meanwhile, and how many
	backlogPage = 1000
)

var errBacklog = errors.New("more records have come in than the page shows one by one")

// show feeds the page with a box's records and samples their Bundles for the schema check.
func (p *peer) show(ctx context.Context, b *store.Box) error {
	opener, err := p.dir.Opener()
	if err != nil {
		return err
	}
	from := b.Size() - min(b.Size(), viewRecords)
	at := pace{behind: b.Size(), second: time.Now(), each: time.Millisecond}
	rd := newReader(storeSource{p.store}, b.Registration(), opener)
	rd.keys = p.dir
	check := newSampler(p.log)
	stuck := false
	one := func(pub record.Published) error {
		rd.reg = b.Registration()
		rd.verifier.Follow(rd.reg)
		v, err := rd.verifier.Verify(pub)
		if err != nil {
			return err
		}
		if why, err := rd.refuses(ctx, v.Header()); err != nil || why != "" {
			return err
		}
		var c record.Content
		if opener != nil {
			c, err = rd.open(ctx, v)
			p.opened(b.ID, v.Header(), err)
			if err == nil {
				check.look(b, v, c)
			}
			if rd.reg.RefusesMonitor(pub.Index, c.Monitor) && err == nil {
				return nil
			}
		}
		p.view.Add(v, c, rd.reg.Protection())
		return nil
	}
	for {
		look, done := at.patience(ctx)
		err := records(look, b, from, true, nil, func(pub record.Published) error {
			if at.lost(pub.Index, b.Size()) {
				return errBacklog
			}
			from = pub.Index + 1
			if stuck { // the fault has passed
				p.mu.Lock()
				delete(p.damaged, b.ID)
				p.mu.Unlock()
				stuck = false
			}
			began := time.Now()
			err := one(pub)
			at.took(began)
			return err
		})
		looked := look.Err() != nil
		done()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if looked || errors.Is(err, errBacklog) {
			from = at.wait(ctx, b.Size, from)
			continue
		}
		if m := (*logfile.Missing)(nil); errors.As(err, &m) {
			b.Unread(m)
		}
		next := readable(b, from)
		p.mu.Lock()
		p.damaged[b.ID] = damage{from, max(next, from+1), err}
		p.mu.Unlock()
		p.log.Error("cannot read the verified store; run vitalpeer fsck", "box", b.ID.String(), "record", from, "error", err, "page goes on with record", next)
		if next > from {
			from, stuck = next, false
			continue
		}
		stuck = true
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Second):
		}
	}
}

// pace is how the page keeps up with a box.
type pace struct {
	behind  uint64 // records before it are shown whatever comes in meanwhile
	resume  uint64 // where the page stopped following
	peeking bool   // it has not begun to follow again: what is shown is the newest of a backlog
	busy    bool   // in the last second more came than the page follows

	second time.Time // when it began
	shown  int       // since then
	spent  time.Duration
	each   time.Duration // that a record takes, as it was last seen
}

// took notes that a record was shown.
func (at *pace) took(began time.Time) {
	now := time.Now()
	at.shown, at.spent = at.shown+1, at.spent+now.Sub(began)
	if past := now.Sub(at.second); past >= time.Second {
		at.each = at.spent / time.Duration(at.shown)
		at.busy = at.tooMany(at.shown, past)
		at.second, at.shown, at.spent = now, 0, 0
	}
}

// tooMany says whether n records in a time are more than the page follows.
func (at *pace) tooMany(n int, in time.Duration) bool {
	return time.Duration(n)*time.Second > busyRecords*in && 10*time.Duration(n)*at.each > in
}

// lost says whether the page stops following at this record.
func (at *pace) lost(index, size uint64) bool {
	return index >= at.behind && (at.peeking || at.busy || size-index > backlog)
}

// patience ends a look at the newest of a backlog, where no record comes behind them that would.
func (at *pace) patience(ctx context.Context) (context.Context, context.CancelFunc) {
	if at.peeking {
		return context.WithTimeout(ctx, backlogLook)
	}
	return context.WithCancel(ctx)
}

// wait waits until the page can follow again, but not for long, and says where to go on.
func (at *pace) wait(ctx context.Context, size func() uint64, from uint64) uint64 {
	if !at.peeking {
		at.resume = from
	}
	const every = 250 * time.Millisecond
	at.peeking, at.busy = true, false
	for end := time.Now().Add(backlogLook); at.peeking && ctx.Err() == nil && time.Now().Before(end); {
		before, began := size(), time.Now()
		select {
		case <-ctx.Done():
		case <-time.After(every):
		}
		at.peeking = at.tooMany(int(size()-before), time.Since(began))
	}
	at.behind, at.second, at.shown, at.spent = size(), time.Now(), 0, 0
	if at.peeking {
		return at.behind - min(at.behind, backlogPage)
	}
	return max(at.resume, at.behind-min(at.behind, viewRecords))
}

// opened notes whether the last record of a box was one that this peer should be able to open and cannot.
func (p *peer) opened(id record.BoxID, h record.Header, err error) {
	if h.Kind.Control() {
		return
	}
	lacks := errors.Is(err, record.ErrNoKey) && !errors.Is(err, record.ErrNoPatientKey)
	p.mu.Lock()
	defer p.mu.Unlock()
	_, lacked := p.keyless[id]
	switch {
	case lacks && !lacked:
		p.keyless[id] = h.Index
		p.log.Warn("the records of a box are sealed to readers whose key is not here", "box", id.String(), "record", h.Index, "error", err)
	case !lacks && lacked:
		delete(p.keyless, id)
	}
}
