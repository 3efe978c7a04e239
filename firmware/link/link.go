// Package link publishes the box's signed records to a NATS leaf node of the hospital. It is the only part of the box
// that knows NATS, and it can only write: it subscribes to nothing but the inbox of its own acknowledgements.
//
// Each leaf node holds one stream of the box, which this box alone writes. Records go out in index order as atomic
// batches, each of which names the stream sequence that it must follow. So a batch is stored once or not at all, however
// often it is sent, and the leaf node's answer shows at once whether it lost what it had acknowledged (then it is given it
// again from the box's log) or whether somebody else writes in the box's name.
//
// A box has several leaf nodes and publishes to one at a time, the first of its list that it can reach. The place in each
// stream is a spool.Cursor.
//
// At a change of leaf node the next one also gets the newest Config.Overlap records that the last one acknowledged. What that
// one had acknowledged before and had not passed on to other peers is then at it and in the box's ring only. If it never comes
// back, spool.Refill asks that the next leaf node be given all that the ring still has.
package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vitalgate/vitalgate/firmware/spool"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/logfile"
)

// Leaf is a NATS leaf node: its name for cursors and status, and its address, "tls://host:4222".
type Leaf struct{ Name, URL string }

// Config says where to publish and as whom.
type Config struct {
	Box    record.BoxID
	Leaves []Leaf                       // in order of preference
	TLS    *tls.Config                  // with the box's certificate; required for tls:// addresses
	NKey   string                       // public NATS user key, "U…"; "" for none
	Sign   func([]byte) ([]byte, error) // signs the server's nonce with the NATS user key

	BatchRecords int           // most records in one batch, 1 to 1000; 0 is 1000
	BatchBytes   int           // bytes after which a batch is closed; 0 is 4 MiB
	AckTimeout   time.Duration // how long a leaf node may take to acknowledge; 0 is 1.5 s. A dead line is noticed one second later
	Overlap      int           // newest acknowledged records that the next leaf node gets too, as the last one may have died before it passed them on; 0 is 1000, -1 none
	Return       time.Duration // how often a better leaf node is tried while a lesser one is in use; 0 is 30 s
}

const maxBatchRecords = 1000 // nats-server refuses more in an atomic batch (error 10199)

// Link is the box's line to the network.
type Link struct {
	cfg    Config
	spool  *spool.Spool
	log    *slog.Logger
	leaves []*leafNode

	mu     sync.Mutex
	status Status
	alarms []Condition
	why    Condition // the latest reason not to be connected
	torn   uint64    // the first record that was not published because the log could not be read there
}

// leafNode is what the link remembers of one leaf node while it runs. Only Run's goroutine uses it.
type leafNode struct {
	Leaf
	rank    int
	sent    uint64        // records below this index may be stored there though we did not hear of it
	met     bool          // since the start of the box
	records int           // most records in a batch; shrinks while acknowledgements fail to come
	timeout time.Duration // of an acknowledgement; grows while the leaf node is busy, and when even one record does not get through in time
	calm    int           // batches that must get through before more is asked of the line
	// patience with its handshake, in which a TPM signs: one that has much to do takes seconds. It grows while it is not enough, so that
	// a leaf node that says nothing is left soon all the same. 0 is dialTimeout.
	patience time.Duration
	backoff  time.Duration
	notYet   time.Time // do not try it before
}

// New checks the configuration. Run does the work.
func New(cfg Config, sp *spool.Spool, log *slog.Logger) (*Link, error) {
	if !cfg.Box.Valid() {
		return nil, fmt.Errorf("cannot publish: %q is not a box id of the form facility/name", cfg.Box)
	}
	if len(cfg.Leaves) == 0 {
		return nil, errors.New("cannot publish: no leaf node is given; the grant of this box must list at least one")
	}
	switch {
	case cfg.BatchRecords == 0:
		cfg.BatchRecords = maxBatchRecords
	case cfg.BatchRecords < 1 || cfg.BatchRecords > maxBatchRecords:
		return nil, fmt.Errorf("cannot publish in batches of %d records: give 1 to %d", cfg.BatchRecords, maxBatchRecords)
	}
	if cfg.BatchBytes <= 0 {
		cfg.BatchBytes = 4 << 20
	}
	if cfg.AckTimeout <= 0 {
		cfg.AckTimeout = 1500 * time.Millisecond
	}
	switch {
	case cfg.Overlap == 0:
		cfg.Overlap = maxBatchRecords
	case cfg.Overlap < 0:
		cfg.Overlap = 0
	}
	if cfg.Return <= 0 {
		cfg.Return = 30 * time.Second
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	l := &Link{cfg: cfg, spool: sp, log: log}
	for i, leaf := range cfg.Leaves {
		u, err := url.Parse(leaf.URL)
		switch {
		case err != nil || u.Host == "" || u.Scheme != "tls" && u.Scheme != "nats":
			return nil, fmt.Errorf("cannot publish to leaf node %q: its address %q is not of the form tls://host:port", leaf.Name, leaf.URL)
		case u.Scheme == "tls" && cfg.TLS == nil:
			return nil, fmt.Errorf("cannot publish to leaf node %q: its address asks for TLS and there is no TLS configuration", leaf.Name)
		case slices.ContainsFunc(cfg.Leaves[:i], func(o Leaf) bool { return o.Name == leaf.Name }):
			return nil, fmt.Errorf("cannot publish: two leaf nodes have the name %q; each needs its own, the box keeps its place by it", leaf.Name)
		}
		if err := spool.CheckLeafName(leaf.Name); err != nil {
			return nil, err
		}
		l.leaves = append(l.leaves, &leafNode{Leaf: leaf, rank: i, records: cfg.BatchRecords, timeout: cfg.AckTimeout})
	}
	names := make([]string, len(cfg.Leaves))
	for i, leaf := range cfg.Leaves {
		names[i] = leaf.Name
	}
	if err := sp.Reserve(names...); err != nil { // no reason not to run: with room on the disk it is made up for
		log.Warn("cannot reserve the place in the stream of a leaf node", "error", err)
	}
	for _, leaf := range l.leaves {
		cur, known := sp.Cursor(leaf.Name)
		if known && cur.Sent == spool.AllSigned {
			// What was signed before this start may have been sent before it; what is signed from now on is not, until there is
			// a connection. That must outlive the next start, or a log that was set back would grow past what was published.
			cur.Sent = max(sp.Signed(), cur.Next)
			if err := sp.SetCursor(leaf.Name, cur); err != nil {
				log.Warn("cannot keep how much was sent to a leaf node", "error", err)
			}
		}
		leaf.sent = cur.Sent
	}
	l.status.State = "Not connected yet."
	return l, nil
}

const (
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = 2 * time.Second  // for a leaf node that cannot be reached
	hardBackoff  = 15 * time.Second // for one that refuses
)

// Run publishes until ctx ends and then returns nil. Trouble of the network is no error: it is shown by Status, and Run
// goes on trying, the first leaf node of the list first.
func (l *Link) Run(ctx context.Context) error {
	var s *session
	for {
		if why := l.spool.RolledBack(); why != "" {
			if s != nil {
				s.close()
			}
			l.rolledBack(why)
			<-ctx.Done()
			return nil
		}
		if s == nil {
			leaf, wait := l.choose()
			if wait > 0 {
				l.offline()
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(wait):
				}
				continue
			}
			var err error
			if s, err = l.dial(ctx, ctx, leaf); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				l.failed(leaf, err)
				s = nil
				continue
			}
		}
		better, err := s.run(ctx)
		s.close()
		l.disconnected()
		switch {
		case ctx.Err() != nil:
			if better != nil {
				better.close()
			}
			return nil
		case better != nil:
			l.log.Info("returning to a better leaf node", "from", s.leaf.Name, "to", better.leaf.Name)
		default:
			l.failed(s.leaf, err)
		}
		s = better
	}
}

// choose gives the first leaf node of the list that may be tried now, or how long to wait for one.
func (l *Link) choose() (*leafNode, time.Duration) {
	now := time.Now()
	soonest := l.leaves[0].notYet
	for _, leaf := range l.leaves {
		if !leaf.notYet.After(now) {
			return leaf, 0
		}
		if leaf.notYet.Before(soonest) {
			soonest = leaf.notYet
		}
	}
	return nil, soonest.Sub(now)
}

// failed notes why the leaf node is not in use and when it may be tried again.
func (l *Link) failed(leaf *leafNode, err error) {
	limit := maxBackoff
	var refused *refusal
	if errors.As(err, &refused) {
		limit = hardBackoff
	}
	leaf.backoff = min(max(2*leaf.backoff, firstBackoff), limit)
	if refused != nil && refused.code == LogDamaged { // it is not the leaf node that was in the way: each connection succeeds
		leaf.backoff = maxBackoff
	}
	leaf.notYet = time.Now().Add(leaf.backoff)
	l.trouble(leaf, err)
}

// refusal is an answer of the leaf node (not of the network between) that repeating soon will not change.
type refusal struct {
	code             string // of the condition; "" if offline says it all
	sentence, remedy string
	cause            error
}

func (r *refusal) Error() string {
	if r.cause == nil {
		return r.sentence
	}
	return r.sentence + ": " + r.cause.Error()
}

func (r *refusal) Unwrap() error { return r.cause }

// align finds where to go on at a leaf node whose stream ends at sequence m, and keeps the new place if it changed. fresh
// says that the connection is new.
//
// Only this box writes the stream, so one that is longer than what this log can have sent there has one of two reasons.
//
// At the first connection after a start, it is that the log is not the one that was published: the disk was set back to an
// earlier state, or another took its place. Going on would publish a second history under the box's name and key, here or at
// the next leaf node, so nothing more is published anywhere (spool.SetRolledBack). This holds for a leaf node that the log has
// no place for too, and for a log that is empty: a name belongs to its keys for ever (a box with new keys is registered under
// a new name), so records in this name were signed by this box. The measure is the size of the log when it first was told of
// that leaf node, or when the last connection ended with a restart; not its size now, which grows while there is no network.
// A place whose file was damaged is found by this too: its stream is no longer than the log, and is given all of it again.
//
// Later, while the box has run all the time, it is that somebody else writes there.
func (l *Link) align(leaf *leafNode, m uint64, fresh bool) (spool.Cursor, error) {
	cur, known := l.spool.Cursor(leaf.Name)
	old, first := cur, l.spool.First()
	base, last := cur.From-cur.Offset, cur.Next-cur.Offset // lengths of the stream when this offset began, and as we know it
	unheard := known && leaf.sent > cur.Next               // a batch may still be under way
	lost := uint64(0)
	switch {
	case cur.Foreign:
		return cur, foreign(leaf)
	case !known && m > leaf.sent:
		return cur, l.setBack(leaf, m, leaf.sent)
	case !known:
		cur.Offset, leaf.sent = -m, 0
		if m > 0 {
			l.log.Warn("the place in the stream of a leaf node was lost; it is given again what this box still has", "leaf", leaf.Name, "records", m)
		}
	case m == last:
	case m < last: // It lost what it had acknowledged.
		lost = last - m
		cur.Refill = max(cur.Refill, cur.Next)
		cur.Next = first // Was it also what stood under an older offset, then all that is left here.
		if m >= base {
			cur.Next = max(m+cur.Offset, first)
		}
		if m < base || cur.Next != m+cur.Offset {
			cur.Offset, cur.From, cur.Unsure = cur.Next-m, cur.Next, unheard
		}
	case cur.Unsure: // Something older arrived late. Nothing is acknowledged under this offset yet, so it moves.
		cur.Offset = cur.Next - m
	case m+cur.Offset > leaf.sent && !leaf.met:
		return cur, l.setBack(leaf, m+cur.Offset, leaf.sent)
	case m+cur.Offset > leaf.sent:
		cur.Foreign = true
		if err := l.spool.SetCursor(leaf.Name, cur); err != nil {
			l.log.Error("cannot note that somebody else writes in this box's name", "leaf", leaf.Name, "error", err)
		}
		return cur, foreign(leaf)
	default: // It had stored a batch whose answer was lost.
		cur.Next = m + cur.Offset
	}
	start := max(cur.Next, first)
	if acked := l.spool.Acked(); fresh && cur.Next >= cur.Refill && acked > uint64(l.cfg.Overlap) {
		start = max(start, acked-uint64(l.cfg.Overlap))
	}
	if start > cur.Next {
		cur.Next, cur.From, cur.Offset, cur.Unsure = start, start, start-m, unheard
	}
	leaf.sent, leaf.met = max(leaf.sent, cur.Next), true
	cur.Sent = spool.AllSigned
	if cur != old || !known {
		if err := l.spool.SetCursor(leaf.Name, cur); err != nil {
			return cur, err
		}
	}
	if lost > 0 {
		l.lost(leaf, lost, cur)
	}
	return cur, nil
}

// foreign is the end of publishing to a leaf node where somebody else writes.
func foreign(leaf *leafNode) error {
	return &refusal{code: ForeignWriter,
		sentence: fmt.Sprintf("Leaf node %s holds records in this box's name that this box never sent", leaf.Name),
		remedy:   "Somebody else uses this box's NATS key. Revoke the box at the peer and enrol it anew with new keys; the peers refuse records that the box's TPM did not sign."}
}

// unreadable is the end of a session at a record that cannot be read now, as while the disk fails. It is tried again.
func (l *Link) unreadable(index uint64, err error) error {
	l.mu.Lock()
	l.torn = max(l.torn, index)
	l.mu.Unlock()
	return &refusal{code: LogDamaged, cause: err,
		sentence: fmt.Sprintf("The log on this box's disk cannot be read at record %d or soon after; all before it is published", index),
		remedy:   damagedRemedy}
}

const damagedRemedy = "New readings are kept and published. Run vitalgate fsck on the data folder to see what is damaged, and replace the box's storage soon; what was damaged is kept in the folder log/damaged."

// missing notes that records which nobody can read any more are left out of the stream. Peers see that they are missing, and get
// them from each other where one of them has been given them before.
func (l *Link) missing(leaf *leafNode, gap *logfile.Missing) {
	sentence := fmt.Sprintf("%d records on this box's disk are damaged, %d to %d, and were never published", gap.To-gap.From, gap.From, gap.To-1)
	if l.spool.Acked() >= gap.To {
		sentence = fmt.Sprintf("%d records on this box's disk are damaged, %d to %d; a leaf node has taken them before", gap.To-gap.From, gap.From, gap.To-1)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.log.Error("records are left out, the disk does not give them back", "leaf", leaf.Name, "from", gap.From, "to", gap.To, "error", gap.Cause)
	l.torn = math.MaxUint64 // it stays said until the box starts again
	l.set(Condition{Code: LogDamaged, Sentence: sentence + ": " + gap.Cause.Error() + ".", Remedy: damagedRemedy})
}

// setBack notes that the stream ends at index end, of which this log can have sent no more than those below most.
func (l *Link) setBack(leaf *leafNode, end, most uint64) error {
	why := fmt.Sprintf("leaf node %s holds %d records in this box's name, and this log can have sent it no more than %d", leaf.Name, end, most)
	if err := l.spool.SetRolledBack(why); err != nil {
		l.log.Error("the log was set back", "error", err)
	}
	return &refusal{code: LogRolledBack, sentence: rolledBackSentence + why, remedy: rolledBackRemedy}
}

// subject and inbox are all that the box may publish to and subscribe to.
func (l *Link) subject() string { return l.cfg.Box.Subject() }
func (l *Link) inbox() string   { return "_ACK." + l.cfg.Box.Name }

// sentence makes an error of a library into the end of a sentence: one line, no trailing dot.
func sentence(err error) string {
	return strings.TrimSuffix(strings.ReplaceAll(err.Error(), "\n", "; "), ".")
}
