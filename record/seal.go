package record

import (
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/klauspost/compress/zstd"
)

// When an epoch ends. It also ends with the process: its key is nowhere but in memory.
const (
	EpochAge     = 15 * time.Minute
	EpochRecords = 4096
	EpochIdle    = 2 * time.Minute // without a reading of that patient
	maxEpochs    = 256             // open at once; beyond it the one idle for longest ends
)

// How long the pseudonym of a patient is remembered without a reading, and of how many patients.
const (
	pseudonymIdle = 24 * time.Hour
	maxPseudonyms = 4096
)

// Reading is one message of a monitor as it comes from the mapping, in clear.
type Reading struct {
	Kind     Kind
	Patient  string // association key of the patient, "" unknown. It never leaves the box in clear
	Observed time.Time
	Arrived  time.Time
	Digest   Digest // for the header; zero for none
	Content  Content
}

// Sealer turns readings into leaves. It holds the public keys of the readers and, in memory only, the keys of the epochs that
// are open now. Each patient has an epoch of his own, as has each monitor whose patient is unknown: no key covers two
// patients, and patients whose readings alternate on one connection do not end one another's epochs.
//
// A Sealer is not for concurrent use: the order of its leaves is the order of the log.
type Sealer struct {
	Now func() time.Time // the clock; time.Now unless a test sets another

	box              BoxID
	network, patient []ReaderKey
	records          int      // that one key seals
	blind            [32]byte // keys the map below, so that no identifier of a patient stays in memory
	epochs           map[association]*epoch
	names            map[association]*pseudonym
	next             uint64 // no leaf was ever given out at or above it
	swept            time.Time
	zstd             *zstd.Encoder
	plain, packed    []byte
}

type association [16]byte

type epoch struct {
	index   uint64
	patient string
	key     cipher.AEAD
	began   time.Time
	used    time.Time
	records int
}

type pseudonym struct {
	text string
	used time.Time
}

// NewSealer returns a Sealer for the box. Readers of the network side are required. Where there are readers of the patient
// side too, a record opens only to one reader of each side together.
func NewSealer(box BoxID, network, patient []ReaderKey) (*Sealer, error) {
	if !box.Valid() {
		return nil, errors.New("cannot seal: the box id is not facility/name")
	}
	if err := checkReaders(network, patient); err != nil {
		return nil, err
	}
	s := &Sealer{Now: time.Now, box: box, network: network, patient: patient, records: EpochRecords,
		epochs: map[association]*epoch{}, names: map[association]*pseudonym{}, zstd: newCompressor()}
	rand.Read(s.blind[:])
	return s, nil
}

func checkReaders(network, patient []ReaderKey) error {
	if len(network) == 0 {
		return errors.New("cannot seal: no reader of the network side is configured, so that nobody could read the records; enrol the box, or add a reader key")
	}
	if n := len(network) + len(patient); n > maxReaders {
		return fmt.Errorf("cannot seal: %d readers are configured, at most %d are allowed", n, maxReaders)
	}
	for _, r := range append(network[:len(network):len(network)], patient...) {
		if r.pub == nil {
			return errors.New("cannot seal: a reader key is empty")
		}
	}
	return nil
}

// SetReaders seals for others from now on: all epochs end. With perRecord a key seals one record only, so that no key outlives
// the call that made it.
func (s *Sealer) SetReaders(network, patient []ReaderKey, perRecord bool) error {
	if err := checkReaders(network, patient); err != nil {
		return err
	}
	s.End()
	s.network, s.patient, s.records = network, patient, EpochRecords
	if perRecord {
		s.records = 1
	}
	return nil
}

// Seal makes the leaves of a reading, to be appended at next, next+1, …: the record, and before it the epoch leaf where an
// epoch begins. If they could not be appended, the next call may name the same next again: what was given out at or above
// next is taken as lost, and new keys are made, so that a key never seals two records at one index.
//
// The error is ErrTooLarge, and nothing has changed, when the reading does not fit in a leaf.
func (s *Sealer) Seal(next uint64, r Reading) ([]Leaf, error) {
	if !r.Kind.Valid() || r.Kind.Control() {
		return nil, fmt.Errorf("cannot seal a reading of kind %.16q", r.Kind)
	}
	if next >= MaxIndex-2 {
		return nil, errors.New("cannot seal: the log is full")
	}
	plain, err := s.encode(r.Content)
	defer clear(plain)
	if err != nil {
		return nil, fmt.Errorf("cannot seal reading of monitor %q: %w", r.Content.Monitor, err)
	}
	commit := commitment(plain[:saltSize], plain[saltSize+1:])
	packed := s.pack(plain)
	defer clear(packed)
	if len(packed) < len(plain) {
		plain = packed
	}
	if maxHeader+len(plain)+16 > MaxLeaf {
		return nil, fmt.Errorf("cannot seal reading of monitor %q: %w", r.Content.Monitor, ErrTooLarge)
	}
	if next < s.next {
		s.End()
	}
	s.next = next
	now := s.Now()
	s.expire(now)
	leaves := make([]Leaf, 0, 2)
	a := s.associate(r)
	e := s.epochs[a]
	if e == nil {
		var leaf Leaf
		if e, leaf, err = s.begin(next, s.pseudonym(a, r.Patient, now), now); err != nil {
			return nil, err
		}
		s.epochs[a] = e
		leaves = append(leaves, leaf)
		next++
	}
	h := Header{Box: s.box, Index: next, Kind: r.Kind, Epoch: e.index, Patient: e.patient, Observed: r.Observed, Arrived: r.Arrived, Digest: r.Digest, Commit: commit}
	leaf := h.AppendText(make(Leaf, 0, maxHeader+len(plain)+e.key.Overhead()))
	leaf = e.key.Seal(leaf, nonce(next), plain, leaf)
	s.next = next + 1
	e.used = now
	if p := s.names[a]; p != nil {
		p.used = now
	}
	if e.records++; e.records >= s.records {
		s.forget(a)
	}
	return append(leaves, leaf), nil
}

// Expire ends the epochs that are over. Seal does it too; call it while no readings come, so that keys do not outlive their time.
//
// It says whether one ended.
func (s *Sealer) Expire() bool {
	before := len(s.epochs)
	s.swept = time.Time{}
	s.expire(s.Now())
	scrub()
	return len(s.epochs) < before
}

// End ends all epochs: their keys are overwritten, and what was sealed can no longer be opened here.
func (s *Sealer) End() {
	for a := range s.epochs {
		s.forget(a)
	}
	scrub()
}

func (s *Sealer) forget(a association) {
	wipe(s.epochs[a].key)
	delete(s.epochs, a)
}

func (s *Sealer) expire(now time.Time) {
	if d := now.Sub(s.swept); d >= 0 && d < time.Second {
		return
	}
	s.swept = now
	for a, e := range s.epochs {
		age := now.Sub(e.began)
		if age >= EpochAge || age < 0 || now.Sub(e.used) >= EpochIdle {
			s.forget(a)
		}
	}
	for a, p := range s.names {
		if now.Sub(p.used) >= pseudonymIdle && s.epochs[a] == nil {
			delete(s.names, a)
		}
	}
}

// associate blinds the key of the patient or, where he is unknown, of the monitor.
func (s *Sealer) associate(r Reading) (a association) {
	mac := hmac.New(sha256.New, s.blind[:])
	if r.Patient == "" {
		mac.Write([]byte("monitor\x00" + r.Content.Monitor))
	} else {
		mac.Write([]byte("patient\x00" + r.Patient))
	}
	copy(a[:], mac.Sum(nil))
	return a
}

// pseudonym is random and stays the same for as long as readings of the patient come; "" for an unknown patient.
func (s *Sealer) pseudonym(a association, patient string, now time.Time) string {
	if patient == "" {
		return ""
	}
	p := s.names[a]
	if p == nil {
		if len(s.names) >= maxPseudonyms {
			delete(s.names, oldest(s.names, func(p *pseudonym) time.Time { return p.used }))
		}
		var b [16]byte
		rand.Read(b[:])
		p = &pseudonym{text: hex.EncodeToString(b[:])}
		s.names[a] = p
	}
	p.used = now
	return p.text
}

func (s *Sealer) begin(index uint64, patient string, now time.Time) (*epoch, Leaf, error) {
	if len(s.epochs) >= maxEpochs {
		s.forget(oldest(s.epochs, func(e *epoch) time.Time { return e.used }))
	}
	body, shares, err := newEpoch(s.box, index, s.network, s.patient)
	if err != nil {
		return nil, nil, err
	}
	defer clear(shares)
	h := Header{Box: s.box, Index: index, Kind: KindEpoch, Epoch: index, Patient: patient, Arrived: now}
	leaf := append(Leaf(h.AppendText(nil)), body...)
	key, err := contentKey(shares, leaf, s.box, index)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot begin epoch: %w", err)
	}
	return &epoch{index: index, patient: patient, key: key, began: now, used: now}, leaf, nil
}

func oldest[V any](m map[association]V, used func(V) time.Time) (a association) {
	var at time.Time
	for k, v := range m {
		if t := used(v); at.IsZero() || t.Before(at) {
			a, at = k, t
		}
	}
	return a
}

// encode writes salt, encoding and content into the buffer of s. The result is valid until the next call and holds clear text.
func (s *Sealer) encode(c Content) ([]byte, error) {
	b := append(s.plain[:0], make([]byte, saltSize+1)...)
	rand.Read(b[:saltSize])
	b[saltSize] = encodingNone
	b, err := c.AppendBinary(b)
	s.plain = keep(b)
	return b, err
}

// pack is plain with its content compressed, in the other buffer of s.
func (s *Sealer) pack(plain []byte) []byte {
	b := append(s.packed[:0], plain[:saltSize]...)
	b = append(b, encodingZstd)
	b = s.zstd.EncodeAll(plain[saltSize+1:], b)
	s.packed = keep(b)
	return b
}

// keep is b if it is small enough to be used again.
func keep(b []byte) []byte {
	if cap(b) > 1<<20 {
		return nil
	}
	return b
}

// stackBytes is more than the deepest call of Seal needs.
const stackBytes = 32 << 10

// scrub overwrites the part of the stack below its caller, where the calls before it have left keys and plain text.
//
//go:noinline
func scrub() byte {
	var b [stackBytes]byte
	for i := range b {
		b[i] = byte(i)
	}
	return b[len(b)/2]
}
