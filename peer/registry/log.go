package registry

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/durable"
)

// maxLog bounds what is read of a log, in bytes.
const maxLog = 64 << 20

// Registry is where a peer keeps the registry: the log, a text that begins each entry after an empty line; the pin, the
// hash of the genesis entry that makes it this facility's; and the head, how far it was enforced here.
type Registry struct {
	Log      string // file
	Pin      string // file
	Head     string // file
	Evidence string // folder, for two entries in one place
}

// Found begins a registry with a genesis that its administrators have signed.
func (g Registry) Found(genesis []byte) error {
	n, err := Parse(genesis)
	if err != nil {
		return err
	}
	if _, ok := n.Entry.Decision.(*Genesis); !ok {
		return refuse(ReasonGenesis, "the entry is no genesis but %s", n.Entry.Decision.Kind())
	}
	hash := leafHash(n.Text)
	return g.join(hash, genesis)
}

// Join begins this peer's copy of a registry that it is told the hash of, from a log that may have been handed on by anybody.
func (g Registry) Join(pin string, log []byte) error {
	hash, err := parsePin([]byte(pin))
	if err != nil {
		return err
	}
	return g.join(hash, log)
}

func (g Registry) join(hash record.Hash, log []byte) error {
	for _, f := range []string{g.Log, g.Pin, g.Head} {
		if _, err := os.Stat(f); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot begin a registry: %s exists", f)
		}
	}
	notes, err := Split(log)
	if err != nil {
		return err
	}
	l := &Log{at: g, changed: make(chan struct{})}
	if err := l.fold(hash, notes); err != nil {
		return fmt.Errorf("cannot begin a registry: %w", err)
	}
	return errors.Join(replace(g.Pin, append(hex.AppendEncode(nil, hash[:]), '\n')), l.keep())
}

// PinOf is the pin of a log whose genesis names these administrators' keys and no others, for who knows the keys and not the pin.
func PinOf(log []byte, keys []crypto.PublicKey) (string, error) {
	notes, err := Split(log)
	if err != nil {
		return "", err
	}
	if len(notes) == 0 {
		return "", refuse(ReasonGenesis, "the registry is empty")
	}
	n, err := Parse(notes[0])
	if err != nil {
		return "", err
	}
	g, ok := n.Entry.Decision.(*Genesis)
	if !ok {
		return "", refuse(ReasonGenesis, "the first entry is no genesis")
	}
	for _, a := range g.Administrators {
		k, err := a.public()
		if err != nil {
			return "", refuse(ReasonMalformed, "%v", err)
		}
		if !slices.ContainsFunc(keys, k.(interface{ Equal(crypto.PublicKey) bool }).Equal) {
			return "", refuse(ReasonGenesis, "its genesis names administrator %s, whose key is none of those that were given", a.Name)
		}
	}
	if len(g.Administrators) != len(keys) {
		return "", refuse(ReasonGenesis, "its genesis names %d administrators, and %d keys were given", len(g.Administrators), len(keys))
	}
	hash := leafHash(n.Text)
	return hex.EncodeToString(hash[:]), nil
}

// Verify is what a log comes to that somebody has handed on, for who knows its pin.
func Verify(pin string, log []byte) (*State, error) {
	hash, err := parsePin([]byte(pin))
	if err != nil {
		return nil, err
	}
	notes, err := Split(log)
	if err != nil {
		return nil, err
	}
	l := &Log{}
	if err := l.fold(hash, notes); err != nil {
		return nil, err
	}
	return l.state, nil
}

// Restore replaces a log that is damaged or behind by a whole one. It must begin as the pinned one and hold all that was
// enforced here.
func (g Registry) Restore(log []byte) error {
	hash, err := g.pin()
	if err != nil {
		return err
	}
	notes, err := Split(log)
	if err != nil {
		return err
	}
	l := &Log{at: g, changed: make(chan struct{})}
	if err := l.fold(hash, notes); err != nil {
		return err
	}
	if size, root, err := g.head(); err == nil {
		if err := l.holds(size, root); err != nil {
			return err
		}
	}
	return l.keep()
}

func (g Registry) pin() (record.Hash, error) {
	b, err := os.ReadFile(g.Pin)
	if err != nil {
		return record.Hash{}, refuse(ReasonGenesis, "this peer has lost which registry it belongs to (%v); bring %s back from a backup, or join anew", err, g.Pin)
	}
	return parsePin(b)
}

func parsePin(b []byte) (h record.Hash, err error) {
	if n, err := hex.Decode(h[:], bytes.TrimSpace(b[:min(len(b), 65)])); err != nil || n != len(h) {
		return h, refuse(ReasonGenesis, "the pin of the registry is not 64 hex digits")
	}
	return h, nil
}

// head is how many entries were enforced here, and their root.
func (g Registry) head() (size uint64, root record.Hash, err error) {
	b, err := os.ReadFile(g.Head)
	if err != nil {
		return 0, root, refuse(ReasonTruncated, "this peer has lost how far it has enforced its registry (%v); get the log of another peer and run vitalpeer registry restore", err)
	}
	var text string
	if n, err := fmt.Sscanf(string(b), "%d %s\n", &size, &text); n != 2 || err != nil {
		return 0, root, refuse(ReasonTruncated, "%s does not say how far the registry was enforced; get the log of another peer and run vitalpeer registry restore", g.Head)
	}
	r, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(r) != len(root) {
		return 0, root, refuse(ReasonTruncated, "%s does not say how far the registry was enforced; get the log of another peer and run vitalpeer registry restore", g.Head)
	}
	copy(root[:], r)
	return size, root, nil
}

// Load reads and checks the whole log. Nothing of a log that does not check is believed: the entry that somebody has
// taken out could be a revocation.
func (g Registry) Load() (State, error) {
	l, err := g.Open()
	if err != nil {
		return State{}, err
	}
	return *l.State(), nil
}

// Open reads and checks the whole log, for going on with it. One process may append at a time.
func (g Registry) Open() (*Log, error) {
	hash, err := g.pin()
	if err != nil {
		return nil, fmt.Errorf("cannot use the registry: %w", err)
	}
	f, err := os.Open(g.Log)
	if err != nil {
		return nil, fmt.Errorf("cannot use the registry: %w", refuse(ReasonGenesis, "its log is gone (%v); get that of another peer and run vitalpeer registry restore", err))
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxLog+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read the registry: %w", err)
	}
	l := &Log{at: g, changed: make(chan struct{})}
	notes, err := Split(b)
	if err == nil {
		err = l.fold(hash, notes)
	}
	if err == nil {
		var size uint64
		var root record.Hash
		if size, root, err = g.head(); err == nil {
			err = l.holds(size, root)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot use the registry %s: %w", g.Log, err)
	}
	return l, nil
}

// Mark changes whenever the registry does.
func (g Registry) Mark() string {
	i, err := os.Stat(g.Log)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%d %d", i.Size(), i.ModTime().UnixNano())
}

// Split takes a log apart: notes with an empty line between them.
func Split(b []byte) (notes [][]byte, err error) {
	if len(b) > maxLog {
		return nil, refuse(ReasonMalformed, "the registry is larger than %d bytes", maxLog)
	}
	for len(b) > 0 {
		text := bytes.Index(b, []byte("\n\n"))
		if text < 0 {
			return nil, refuse(ReasonMalformed, "entry %d of the registry is cut off", len(notes))
		}
		end := bytes.Index(b[text+2:], []byte("\n\n"))
		if end < 0 {
			if b[len(b)-1] != '\n' {
				return nil, refuse(ReasonMalformed, "entry %d of the registry is cut off", len(notes))
			}
			return append(notes, b), nil
		}
		end += text + 3
		notes = append(notes, b[:end:end])
		if b = b[end+1:]; len(b) == 0 {
			return nil, refuse(ReasonMalformed, "there is an empty line after the last entry of the registry")
		}
	}
	return notes, nil
}

// Log is the registry of a peer that runs.
type Log struct {
	at Registry

	mu       sync.Mutex
	notes    [][]byte
	texts    [][]byte
	roots    []record.Hash // roots[i] is that before entry i
	councils []State       // councils[i] says who could decide entry i
	tree     record.Tree
	state    *State
	changed  chan struct{} // closed and replaced when the log has grown
}

// fold checks notes from the beginning and makes them this log.
func (l *Log) fold(genesis record.Hash, notes [][]byte) error {
	if len(notes) == 0 {
		return refuse(ReasonGenesis, "the registry is empty; get the log of another peer and run vitalpeer registry restore")
	}
	s := &State{}
	for i, b := range notes {
		n, err := Parse(b)
		if err == nil && i == 0 && leafHash(n.Text) != genesis {
			err = refuse(ReasonGenesis, "it is another registry than the one that this peer belongs to")
		}
		council, threshold := s.Administrators, s.Threshold
		if err == nil {
			err = l.believe(s, n)
		}
		if err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
		l.add(s, n, b, council, threshold)
	}
	l.state = s
	return nil
}

// believe checks that a note is the next entry and applies it to s.
func (l *Log) believe(s *State, n *Note) error {
	e, size := n.Entry, uint64(len(l.notes))
	_, first := e.Decision.(*Genesis)
	switch {
	case size > 0 && e.Facility != s.Facility:
		return refuse(ReasonFacility, "it is of the registry of facility %s, this is that of %s", e.Facility, s.Facility)
	case e.Index > size:
		return refuse(ReasonGap, "it is entry %d, and the registry has %d entries", e.Index, size)
	case e.Index < size && bytes.Equal(l.texts[e.Index], n.Text):
		return refuse(ReasonRepeated, "it is entry %d, which stands there already", e.Index)
	case e.Index < size:
		return refuse(ReasonFork, "it is entry %d, and the registry has another one there", e.Index)
	case e.Before != l.tree.Root():
		return refuse(ReasonHistory, "it was signed over another history than the %d entries before it", size)
	case size == 0 && !first:
		return refuse(ReasonGenesis, "the first entry is no genesis")
	}
	council := s.Administrators
	if g, ok := e.Decision.(*Genesis); ok && size == 0 {
		council = g.Administrators
	}
	if err := n.quorum(council, s.Needs(e.Decision)); err != nil {
		return err
	}
	return e.Decision.apply(s, e)
}

// add takes in what is believed.
func (l *Log) add(s *State, n *Note, note []byte, council []Administrator, threshold int) {
	l.notes, l.texts, l.roots = append(l.notes, note), append(l.texts, n.Text), append(l.roots, l.tree.Root())
	l.councils = append(l.councils, State{Administrators: council, Threshold: threshold})
	l.tree.AppendHash(leafHash(n.Text))
	s.Size, s.Root = l.tree.Size(), l.tree.Root()
}

// holds checks that the log goes on from what was enforced.
func (l *Log) holds(size uint64, root record.Hash) error {
	switch n := uint64(len(l.notes)); {
	case size > n:
		return refuse(ReasonTruncated, "this peer has enforced %d entries and %d are there; get the log of another peer and run vitalpeer registry restore", size, n)
	case size < n && l.roots[size] != root, size == n && l.tree.Root() != root:
		return refuse(ReasonHistory, "its first %d entries are others than those that this peer has enforced", size)
	}
	return nil
}

// keep writes log and head, each whole or not at all. A power cut between them leaves a head that is behind, which holds.
func (l *Log) keep() error {
	if err := replace(l.at.Log, bytes.Join(l.notes, []byte("\n"))); err != nil {
		return err
	}
	root := l.tree.Root()
	return replace(l.at.Head, fmt.Appendf(nil, "%d %s\n", len(l.notes), base64.StdEncoding.EncodeToString(root[:])))
}

// State is what is in force.
func (l *Log) State() *State {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state
}

// Changed is closed when the log has grown beyond what it is at the time of the call.
func (l *Log) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// Entries are up to max notes from an index on.
func (l *Log) Entries(from uint64, max int) [][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if from >= uint64(len(l.notes)) {
		return nil
	}
	return l.notes[from:min(uint64(len(l.notes)), from+uint64(max))]
}

// Propose makes the next entry, for administrators to sign.
func (l *Log) Propose(d Decision) (*Note, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := Entry{Facility: l.state.Facility, Index: l.tree.Size(), Before: l.tree.Root(), Time: time.Now().UTC().Truncate(time.Second), Decision: d}
	n, err := Propose(e)
	if err != nil {
		return nil, err
	}
	s := l.state.clone()
	if err := s.advise(d); err != nil {
		return nil, fmt.Errorf("cannot decide %s: %w", d.Kind(), err)
	}
	if err := d.apply(&s, e); err != nil {
		return nil, fmt.Errorf("cannot decide %s: %w", d.Kind(), err)
	}
	return n, nil
}

// Append takes in the next entry, durably. One that is known already is no error. Where administrators have signed two
// entries for one place, the error is a *Refusal with ReasonFork, and what is here stays.
func (l *Log) Append(note []byte) error {
	n, err := Parse(note)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if n.Entry.Index < uint64(len(l.notes)) {
		return l.again(n)
	}
	s := l.state.clone()
	if err := l.believe(&s, n); err != nil {
		return err
	}
	size, tree := len(l.notes), l.tree
	l.add(&s, n, bytes.Clone(note), l.state.Administrators, l.state.Threshold)
	if err := l.keep(); err != nil {
		l.notes, l.texts, l.roots, l.councils, l.tree = l.notes[:size], l.texts[:size], l.roots[:size], l.councils[:size], tree
		return err
	}
	l.state = &s
	close(l.changed)
	l.changed = make(chan struct{})
	return nil
}

// again looks at an entry whose place is taken.
func (l *Log) again(n *Note) error {
	at := n.Entry.Index
	if bytes.Equal(l.texts[at], n.Text) {
		return nil
	}
	switch e := n.Entry; {
	case at == 0:
		return refuse(ReasonGenesis, "it begins another registry than the one that this peer belongs to")
	case e.Facility != l.state.Facility:
		return refuse(ReasonFacility, "it is of the registry of facility %s, this is that of %s", e.Facility, l.state.Facility)
	case e.Before != l.roots[at]:
		return refuse(ReasonHistory, "it was signed over another history than the %d entries before it", at)
	}
	// Only if those who could decide then have signed it, it says something about them.
	c := l.councils[at]
	if err := n.quorum(c.Administrators, c.Needs(n.Entry.Decision)); err != nil {
		return err
	}
	return refuse(ReasonFork, "administrators have signed two different entries %d: %s here, and %s; propose the second one anew", at, kindOf(l.texts[at]), n.Entry.Decision.Kind())
}

func kindOf(text []byte) string {
	e, err := parseText(text)
	if err != nil {
		return "another"
	}
	return e.Decision.Kind()
}

// Check says what an entry is to this log, without taking it in: the same, the next, or a refusal.
func (l *Log) Check(note []byte) (string, error) {
	n, err := Parse(note)
	if err != nil {
		return "", err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if n.Entry.Index < uint64(len(l.notes)) {
		if err := l.again(n); err != nil {
			return "", err
		}
		return fmt.Sprintf("entry %d, %s, is in this registry", n.Entry.Index, n.Entry.Decision.Kind()), nil
	}
	s := l.state.clone()
	if err := l.believe(&s, n); err != nil {
		return "", err
	}
	return fmt.Sprintf("entry %d, %s, is valid and would be the next one", n.Entry.Index, n.Entry.Decision.Kind()), nil
}

// KeepFork keeps both entries of a fork as evidence against the administrators' keys.
func (l *Log) KeepFork(note []byte) error {
	n, err := Parse(note)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if n.Entry.Index >= uint64(len(l.notes)) {
		return errors.New("cannot keep a fork: there is no other entry at its place")
	}
	hash := leafHash(n.Text)
	path := filepath.Join(l.at.Evidence, fmt.Sprintf("%08d-%x.fork", n.Entry.Index, hash[:8]))
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := os.MkdirAll(l.at.Evidence, 0o700); err != nil {
		return fmt.Errorf("cannot keep a fork: %w", err)
	}
	return replace(path, bytes.Join([][]byte{l.notes[n.Entry.Index], note}, []byte("\n")))
}

// replace writes a file of the registry, whole or not at all, and durably.
func replace(path string, b []byte) error {
	if err := durable.WriteFile(path, b); err != nil {
		return fmt.Errorf("cannot write the registry: %w", err)
	}
	return nil
}
