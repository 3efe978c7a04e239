// Package store is a peer's verified copy of the logs of boxes: what a box has signed, in order, without a gap, or
// nothing. Records come in from the box's own stream or from another peer; either way they are verified here, and only
// here do they become part of the store. What fails is set aside in quarantine with its reason.
package store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/vitalgate/vitalgate/peer/registry"
	"github.com/vitalgate/vitalgate/peer/starts"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/logfile"
)

// Reasons that come on top of those of package record.
const (
	ReasonFork   record.Reason = "fork"   // the box has signed two histories: evidence against it
	ReasonKind   record.Reason = "kind"   // a kind that the registry does not grant the box
	ReasonRange  record.Reason = "range"  // an index outside of what the registry grants the box
	ReasonGroup  record.Reason = "group"  // one checkpoint signs more than a peer can hold at once
	ReasonSchema record.Reason = "schema" // the Bundle is not valid FHIR R4
)

// ErrSuspended says that the box is suspended: nothing of it is taken until it is resumed, and nothing of it is set aside.
var ErrSuspended = errors.New("the box is suspended in the registry")

// Bounds of the records that wait in memory for the last one of their checkpoint.
const (
	maxGroup      = 1 << 16
	maxGroupBytes = 128 << 20
)

// Store holds the logs of all registered boxes.
type Store struct {
	dir        string
	quarantine string
	evidence   string
	starts     string
	reading    bool
	log        logfile.Options
	patience   time.Duration

	mu    sync.Mutex
	boxes map[record.BoxID]*Box
}

// Options of New.
type Options struct {
	Dir        string // the logs
	Quarantine string
	Evidence   string
	Starts     string // what was found of the starts of boxes; "" looks it up in the logs each time
	Reading    bool   // nothing is taken in, and nothing noted in Starts

	SegmentBytes int64         // of a log file; 0 for the usual
	Patience     time.Duration // with missing records; 0 is DefaultPatience
}

// New makes a store. Nothing is opened yet.
func New(o Options) *Store {
	return &Store{dir: o.Dir, quarantine: o.Quarantine, evidence: o.Evidence, starts: o.Starts, reading: o.Reading,
		log: logfile.Options{SegmentBytes: o.SegmentBytes}, patience: cmp.Or(o.Patience, DefaultPatience), boxes: map[record.BoxID]*Box{}}
}

// LogDir is where the log of a box is kept.
func LogDir(dir string, id record.BoxID) string { return filepath.Join(dir, id.Facility, id.Name) }

// Box opens the log of a registered box, or brings the registration of an open one up to date.
func (s *Store) Box(r *registry.Registration) (*Box, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := r.ID()
	if b, ok := s.boxes[id]; ok {
		b.registration.Store(r)
		return b, nil
	}
	log, err := logfile.Open(LogDir(s.dir, id), s.log)
	if err != nil {
		return nil, err
	}
	if first := log.First(); first > 0 { // a peer drops nothing
		return nil, errors.Join(fmt.Errorf("cannot open the log of box %s: records 0 to %d are gone with the files that held them; stop vitalpeer, move the folder %s elsewhere and start it again: the log comes from the other peers",
			id, first-1, LogDir(s.dir, id)), log.Close())
	}
	b := &Box{ID: id, log: log, tree: log.Tree(), verifier: r.Verifier(), mine: r.Verifier(), grown: make(chan struct{}), patience: s.patience, reading: s.reading}
	b.closing, b.cancel = context.WithCancel(context.Background())
	b.registration.Store(r)
	b.aside = newAside(filepath.Join(s.quarantine, id.Facility, id.Name), maxAsideFiles, maxAsideBytes)
	b.proofs = newAside(filepath.Join(s.evidence, id.Facility, id.Name), maxAsideFiles, maxAsideBytes)
	if s.starts != "" {
		b.startsFile = filepath.Join(s.starts, id.Facility, id.Name+".json")
	}
	b.recall()
	s.boxes[id] = b
	return b, nil
}

// Find is an open box, or nil.
func (s *Store) Find(id record.BoxID) *Box {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.boxes[id]
}

// Boxes are all open boxes.
func (s *Store) Boxes() []*Box {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*Box, 0, len(s.boxes))
	for _, b := range s.boxes {
		all = append(all, b)
	}
	return all
}

// Close gives up the logs. What was stored is on the disk already.
func (s *Store) Close() error {
	var err error
	for _, b := range s.Boxes() {
		err = errors.Join(err, b.close())
	}
	return err
}

// Box is the verified log of one box.
type Box struct {
	ID           record.BoxID
	log          *logfile.Log
	registration atomic.Pointer[registry.Registration]
	aside        *aside
	proofs       *aside

	mu       sync.Mutex
	verifier *registry.Verifier
	tree     record.Tree        // of the log and the pending records
	pending  []record.Verified  // after the log, until the last record of their checkpoint is there
	bytes    int                // of the leaves of pending
	mine     *registry.Verifier // of what is stored
	old      *logfile.Reader    // for comparison of records that come again
	oldGroup []record.Published
	lastHead []byte
	recent   recent
	beyond   record.SignedCheckpoint // of a verified record that lies beyond a gap
	shown    []byte                  // checkpoint of another history that evidence was last made of
	err      error                   // why the box takes nothing more
	trouble  error                   // of the disk, until something could be stored again
	troubled time.Time

	patience time.Duration
	waits    waiting

	startsMu   sync.Mutex
	noted      noted
	seen       noted // as far as the log was looked through
	looking    bool
	looked     chan struct{} // closed when that has ended
	filled     []uint64      // boot leaves that came where the log had none, and are not judged
	notedAt    time.Time
	startsFile string
	reading    bool
	closing    context.Context // ended when the box is closed
	cancel     context.CancelFunc

	gapMu sync.Mutex
	gaps  []Gap

	grownMu sync.Mutex
	grown   chan struct{} // closed and replaced when the log has grown
}

// Registration is what the registry says of the box now.
func (b *Box) Registration() *registry.Registration { return b.registration.Load() }

// Size is how many records are stored and signed.
func (b *Box) Size() uint64 { return b.log.Signed() }

// Checkpoint is the last one stored.
func (b *Box) Checkpoint() (record.SignedCheckpoint, record.Checkpoint) {
	return b.log.LastCheckpoint()
}

// Grown is closed when the log has grown beyond what it is at the time of the call.
func (b *Box) Grown() <-chan struct{} {
	b.grownMu.Lock()
	defer b.grownMu.Unlock()
	return b.grown
}

// Next is the index of the first record that the box's log lacks here.
func (b *Box) Next() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tree.Size()
}

// Lacks is the index of the first record that is not safe here and not on its way, which is where to ask another peer to go
// on. It is below Next where records are in the log whose checkpoint is not.
func (b *Box) Lacks() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.pending) > 0 {
		return b.tree.Size()
	}
	return b.log.Signed()
}

// Pending is how many verified records wait for the rest of their checkpoint.
func (b *Box) Pending() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.pending)
}

// Message is a record as it came, not yet believed. Data becomes the store's.
type Message struct {
	Data  []byte
	Label string // where it was, for quarantine, such as "seq-17"; letters, digits and "-"
}

// Early says which messages could not be taken because records before them are missing.
type Early struct {
	Count int
	First int    // position of the first of them in the call
	Gap   uint64 // lowest index of them: offer them again when Next has reached it
}

// Add verifies the messages in order and takes in those that are new. from says where they come from. Records are safe
// once Size has passed them. An error is one of the disk, which other messages do not mend; none of the messages is
// taken then.
func (b *Box) Add(from string, messages []Message) (early Early, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return early, b.err
	}
	reg := b.Registration()
	if reg.Cut() == "suspended" { // of one that was revoked meanwhile, the records before its end are taken
		return early, ErrSuspended
	}
	b.verifier.Follow(reg)
	b.mine.Follow(reg)
	fresh, completed := 0, false
	var begun []starts.Start
	for i, m := range messages {
		p, refusal := record.ParsePublished(m.Data)
		var v record.Verified
		if refusal == nil {
			v, refusal = b.verifier.Verify(p)
		}
		if refusal != nil {
			b.refuse(from, m, record.ReasonOf(refusal), refusal.Error())
			continue
		}
		if reg.Until != nil && p.Index >= *reg.Until {
			b.refuse(from, indexed(m, p.Index), ReasonRange, "the registration of the box ends before this record")
			continue
		}
		if p.Index < b.tree.Size() {
			b.again(from, m, v)
			if !b.lacksOnly(v.Checkpoint()) {
				continue
			}
			if err = b.log.AppendCheckpoint(p.Checkpoint, v.Checkpoint()); err != nil {
				break
			}
			b.fill(b.boots(b.log.Signed(), v.Checkpoint().Size))
			completed = true
			continue
		}
		if p.Index > b.tree.Size() {
			leapt := false
			if leapt, err = b.leap(from, v); err != nil {
				break
			}
			completed = completed || leapt
		}
		if p.Index > b.tree.Size() {
			if early.Count == 0 {
				early.First, early.Gap = i, p.Index
			}
			b.beyond = p.Checkpoint
			early.Count++
			early.Gap = min(early.Gap, p.Index)
			continue
		}
		if !extends(&b.tree, p, v.Checkpoint().Size) {
			b.refuse(from, indexed(m, p.Index), ReasonFork, "the box has signed a log that does not continue the one stored here")
			if mine, err := b.known(p.Index - 1); err == nil {
				b.diverged(from, mine.After(), v.Before(), v)
			}
			continue
		}
		if len(b.pending) >= maxGroup || b.bytes+len(p.Leaf) > maxGroupBytes {
			b.refuse(from, indexed(m, p.Index), ReasonGroup, "one checkpoint signs more records than a peer holds at once")
			continue
		}
		if reason := reg.Refuses(v.Header()); reason != "" {
			// It stays in the log, which would have a gap without it, but no reader gets it.
			b.refuse(from, indexed(m, p.Index), map[string]record.Reason{"kind": ReasonKind, "index": ReasonRange}[reason],
				"the registry does not grant this record to the box; it is kept in the log and shown to nobody")
		}
		b.tree.AppendHash(v.LeafHash())
		b.pending = append(b.pending, v)
		b.bytes += len(p.Leaf)
		if c := v.Checkpoint(); c.Size == b.tree.Size() {
			b.counters(from, c)
			begun = append(begun, b.judge(b.pending)...)
			if err = b.append(p.Checkpoint, c); err != nil {
				break
			}
			fresh += len(b.pending)
			b.pending, b.bytes = nil, 0
		}
	}
	if fresh == 0 && !completed && err == nil {
		return early, nil
	}
	if err == nil {
		err = b.log.Sync()
	}
	if err != nil {
		err = fmt.Errorf("cannot store records of box %s: %w", b.ID, err)
		b.fail(err)
		b.began(from, slices.DeleteFunc(begun, func(s starts.Start) bool { return s.Index >= b.tree.Size() })) // some may be safe all the same
		return early, err
	}
	b.trouble = nil
	b.judgeFilled()
	b.began(from, begun)
	metrics.GetOrCreateCounter(fmt.Sprintf(`vitalpeer_records_total{box=%q,outcome="stored",from=%q}`, b.ID, sourceKind(from))).Add(fresh)
	b.grownMu.Lock()
	close(b.grown)
	b.grown = make(chan struct{})
	b.grownMu.Unlock()
	return early, nil
}

func (b *Box) append(sc record.SignedCheckpoint, c record.Checkpoint) error {
	if err := b.log.AppendVerified(b.pending...); err != nil { // they begin where the log ends
		return err
	}
	b.recent.add(sc, c)
	return b.log.AppendCheckpoint(sc, c)
}

// recent are the prefixes of the log that its last checkpoints sign. Other peers' heads and this peer's own cosignatures are of these
// sizes, many times a second while a log grows, and comparing them must not read the log.
type recent struct {
	of   [256]record.Prefix
	next int
}

func (r *recent) add(sc record.SignedCheckpoint, c record.Checkpoint) {
	r.of[r.next] = whole(bytes.Clone(sc), c) // it is a part of a message
	r.next = (r.next + 1) % len(r.of)
}

func (r *recent) find(size uint64) (record.Prefix, bool) {
	for _, p := range r.of {
		if p.Size == size && size > 0 {
			return p, true
		}
	}
	return record.Prefix{}, false
}

// lacksOnly says whether the log holds all that c signs but c itself: a power cut may keep the leaves of the last write and
// tear the checkpoint behind them.
func (b *Box) lacksOnly(c record.Checkpoint) bool {
	_, last := b.log.LastCheckpoint()
	return len(b.pending) == 0 && c.Size == b.tree.Size() && c.Size > last.Size && c.Root == b.tree.Root()
}

// fail ends what was begun since the last Sync. The disk may be full for a while; a failed sync is final.
func (b *Box) fail(err error) {
	if b.trouble == nil {
		b.troubled = time.Now()
	}
	b.trouble = err
	if b.log.Rollback() != nil {
		b.err = err
	}
	b.pending, b.bytes = nil, 0
	b.tree, b.recent = b.log.Tree(), recent{}
	b.unjudge()
}

// again handles a record at an index that is known: the same one is dropped, another one, or one after another log, is evidence.
func (b *Box) again(from string, m Message, v record.Verified) {
	index := v.Header().Index
	mine, err := b.known(index)
	switch {
	case err == io.EOF: // it is in the log, and its checkpoint is not
		if c := v.Checkpoint(); c.Size == b.tree.Size() && c.Root != b.tree.Root() {
			b.refuse(from, indexed(m, index), ReasonFork, "the box has signed another log than the one whose last records wait here for their checkpoint")
			return
		}
	case err != nil: // it cannot be compared now; what is stored stays
		b.count("unread")
		return
	case mine.After().Root != v.After().Root:
		b.refuse(from, indexed(m, index), ReasonFork, "the box has signed another log up to this record")
		b.diverged(from, mine.After(), v.After(), v)
		return
	}
	b.count("known")
}

// published is a stored record. Ascending calls are cheap.
func (b *Box) published(index uint64) (record.Published, error) {
	for range 2 {
		for len(b.oldGroup) > 0 && b.oldGroup[0].Index < index {
			b.oldGroup = b.oldGroup[1:]
		}
		if len(b.oldGroup) > 0 && b.oldGroup[0].Index == index {
			return b.oldGroup[0], nil
		}
		if b.old != nil && b.old.From() != index {
			b.old.Close()
			b.old = nil
		}
		if b.old == nil {
			b.old = b.log.Reader(index)
		}
		var err error
		if b.oldGroup, err = b.old.Next(); err != nil {
			b.oldGroup = nil
			if err != io.EOF {
				b.old.Close()
				b.old = nil
			}
			return record.Published{}, err
		}
	}
	return record.Published{}, io.EOF
}

// Get is one stored record, verified anew.
func (b *Box) Get(index uint64) (record.Verified, error) {
	r := b.log.Reader(index)
	defer r.Close()
	group, err := r.Next()
	if err != nil {
		return record.Verified{}, err
	}
	return record.Verify(group[0], b.ID, b.Registration().KeyAt(index))
}

// Reader reads what is stored and signed, beside the writer.
func (b *Box) Reader(from uint64) *logfile.Reader { return b.log.Reader(from) }

// Head looks at a checkpoint that another peer shows: it is verified, and compared with what is stored. It returns the
// size that it signs.
func (b *Box) Head(from string, sc record.SignedCheckpoint) (uint64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	said, err := sc.Unverified()
	if err != nil {
		return 0, err
	}
	c, err := record.OpenCheckpoint(sc, b.ID, b.Registration().KeyAt(max(said.Size, 1)-1)) // that of its last record
	if err != nil {
		return 0, err
	}
	if bytes.Equal(b.lastHead, sc) || c.Size == 0 || c.Size > b.log.Signed() {
		return c.Size, nil
	}
	b.lastHead = bytes.Clone(sc)
	if mine, ok := b.recent.find(c.Size); ok && mine.Root == c.Root {
		return c.Size, nil
	}
	mine, err := b.known(c.Size - 1)
	if err != nil {
		return c.Size, nil // not readable now; it is announced again
	}
	if p := mine.After(); p.Root != c.Root {
		b.diverged(from, p, whole(sc, c), record.Verified{})
	}
	return c.Size, nil
}

// Err is why the box takes nothing more; nil while it does.
func (b *Box) Err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// Trouble is since when records could not be stored, and why; nil as soon as some could be again.
func (b *Box) Trouble() (since time.Time, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.troubled, b.trouble
}

// Unkept says whether more of the box was refused than the quarantine keeps.
func (b *Box) Unkept() bool { return b.aside.full.Load() }

func (b *Box) close() error {
	b.cancel()
	b.Looked(context.Background())
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.old != nil {
		b.old.Close()
	}
	b.err = errors.New("the store is closed")
	b.note()
	return b.log.Close()
}

func (b *Box) count(outcome string) { counter(b.ID, outcome).Inc() }

func counter(id record.BoxID, outcome string) *metrics.Counter {
	return metrics.GetOrCreateCounter(fmt.Sprintf(`vitalpeer_records_total{box=%q,outcome=%q}`, id, outcome))
}

// extends says whether the proof of the record at the end of the tree goes through the tree's own nodes, that is whether
// the log that was signed begins with the log that the tree is of. The siblings to the left of its path are exactly the
// roots of the complete subtrees before it (RFC 9162 §2.1.3).
func extends(t *record.Tree, p record.Published, size uint64) bool {
	roots, err := t.AppendBinary(nil)
	if err != nil {
		return false
	}
	roots = roots[8:] // from the largest subtree to the smallest
	path := p.Path
	for at, last := p.Index, size-1; last > 0; at, last = at>>1, last>>1 {
		switch {
		case at&1 == 1: // the sibling is to the left
			if len(path) == 0 || len(roots) < 32 || !bytes.Equal(path[0][:], roots[len(roots)-32:]) {
				return false
			}
			path, roots = path[1:], roots[:len(roots)-32]
		case at < last: // to the right
			if len(path) == 0 {
				return false
			}
			path = path[1:]
		} // else there is none: the node goes up alone
	}
	return len(roots) == 0 && len(path) == 0
}

func indexed(m Message, index uint64) Message {
	m.Label = fmt.Sprintf("%012d", index)
	return m
}

// sourceKind is the first word of a source, to keep metrics few.
func sourceKind(from string) string {
	word, _, _ := bytes.Cut([]byte(from), []byte(" "))
	return string(word)
}
