package record

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Limits of the format, checked before memory is taken for what a stranger sent.
const (
	MaxLeaf       = 4 << 20  // bytes of one leaf, header and body
	MaxContent    = 32 << 20 // bytes of one content, uncompressed
	MaxIndex      = 1 << 40  // an index is below it, and so is the size of a tree
	MaxCheckpoint = 60 << 10 // bytes of one signed checkpoint, cosignatures included
	maxHeader     = 512      // bytes of a clear header
)

// ErrTooLarge says that a reading does not fit in one leaf. The caller records it without its Bundle, or in parts.
var ErrTooLarge = errors.New("record too large")

// Kind says what a leaf carries. It stands in the clear header, so that a peer can enforce grants without reading values.
type Kind string

// The kinds of version 1. KindBoot and KindEpoch are control leaves: the log's own book-keeping, with a readable body.
const (
	KindVitals   Kind = "vitals"
	KindWaveform Kind = "waveform"
	KindAlarm    Kind = "alarm"
	KindADT      Kind = "adt"
	KindOther    Kind = "other"
	KindRaw      Kind = "raw" // no Bundle could be made of it; the content says why
	KindBoot     Kind = "boot"
	KindEpoch    Kind = "epoch"
)

// Control reports whether k is a control leaf, which has no sealed content.
func (k Kind) Control() bool { return k == KindBoot || k == KindEpoch }

// Valid reports whether version 1 knows k.
func (k Kind) Valid() bool {
	switch k {
	case KindVitals, KindWaveform, KindAlarm, KindADT, KindOther, KindRaw, KindBoot, KindEpoch:
		return true
	}
	return false
}

// Leaf is one entry of a log: the exact bytes that are hashed, stored and sent.
type Leaf []byte

// Header is the clear part of a leaf. It holds no name, no identifier of a patient and no value.
type Header struct {
	Box      BoxID
	Index    uint64    // position in the log of the box, from 0
	Kind     Kind      // what the leaf carries
	Epoch    uint64    // index of the epoch leaf whose key seals the body; a control leaf names itself
	Patient  string    // pseudonym, 32 hex digits; "" unknown
	Observed time.Time // earliest time of what was observed, UTC, milliseconds; zero unknown
	Arrived  time.Time // when the box had received it; for a control leaf, when it was made
	Digest   Digest    // keyed digest of the message; zero where equal bytes do not mean the same message
	Commit   [32]byte  // HMAC-SHA-256 of the content under a salt inside the body; zero in a control leaf
}

// Digest tells that two records carry the same message, sent twice. The key is the box's own and is forgotten within half an
// hour (docs/adr/0005), so that nobody can test guesses of a message later.
type Digest [16]byte

const (
	leafMagic  = "vitalgate/record/v1"
	timeLayout = "2006-01-02T15:04:05.000Z"
)

// AppendText appends the header as it stands in a leaf, with the blank line that ends it.
func (h Header) AppendText(dst []byte) []byte {
	dst = append(dst, leafMagic+"\nbox "...)
	dst = append(dst, h.Box.Facility...)
	dst = append(dst, '/')
	dst = append(dst, h.Box.Name...)
	dst = append(dst, "\nindex "...)
	dst = strconv.AppendUint(dst, h.Index, 10)
	dst = append(dst, "\nkind "...)
	dst = append(dst, h.Kind...)
	dst = append(dst, "\nepoch "...)
	dst = strconv.AppendUint(dst, h.Epoch, 10)
	dst = append(dst, "\npatient "...)
	if h.Patient == "" {
		dst = append(dst, '-')
	}
	dst = append(dst, h.Patient...)
	dst = append(dst, "\nobserved "...)
	dst = appendTime(dst, h.Observed)
	dst = append(dst, "\narrived "...)
	dst = appendTime(dst, h.Arrived)
	dst = append(dst, "\ndigest "...)
	if h.Digest == (Digest{}) {
		dst = append(dst, '-')
	} else {
		dst = hex.AppendEncode(dst, h.Digest[:])
	}
	dst = append(dst, "\ncommit "...)
	if h.Commit == ([32]byte{}) {
		dst = append(dst, '-')
	} else {
		dst = base64.StdEncoding.AppendEncode(dst, h.Commit[:])
	}
	return append(dst, "\n\n"...)
}

// appendTime writes RFC 3339 in UTC with milliseconds, or "-" where there is no time or RFC 3339 cannot say it.
func appendTime(dst []byte, t time.Time) []byte {
	t = t.UTC()
	if t.IsZero() || t.Year() < 1 || t.Year() > 9999 {
		return append(dst, '-')
	}
	dst = t.AppendFormat(dst, time.RFC3339) // the layout that the library is quick at
	ms := t.Nanosecond() / 1e6
	return append(dst[:len(dst)-1], '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10), 'Z')
}

// check holds the rules that the text alone does not show.
func (h Header) check() error {
	switch {
	case !h.Box.Valid():
		return errors.New("the box id is not facility/name")
	case h.Index >= MaxIndex:
		return errors.New("the index is out of range")
	case !h.Kind.Valid():
		return errors.New("the kind is unknown to this version")
	case !validPseudonym(h.Patient):
		return errors.New("the patient is neither a pseudonym of 32 hex digits nor \"-\"")
	case h.Kind.Control() && (h.Epoch != h.Index || h.Commit != [32]byte{} || h.Digest != Digest{}):
		return errors.New("a control leaf names its own index as epoch and has no digest and no commitment")
	case h.Kind == KindBoot && h.Patient != "":
		return errors.New("a boot leaf has no patient")
	case !h.Kind.Control() && (h.Epoch >= h.Index || h.Commit == [32]byte{}):
		return errors.New("a sealed leaf names an earlier epoch leaf and has a commitment")
	}
	return nil
}

func validPseudonym(s string) bool {
	if s == "" {
		return true
	}
	var b [16]byte
	n, err := hex.Decode(b[:], []byte(s[:min(len(s), 32)]))
	return err == nil && n == 16 && len(s) == 32 && strings.ToLower(s) == s
}

// ParseLeaf reads a leaf. It is strict: what does not encode to the same bytes again is refused, so that there is one leaf
// for one meaning. The body is part of l, not a copy. The error wraps nothing and quotes no value.
func ParseLeaf(l Leaf) (h Header, body []byte, err error) {
	h, body, err = parseLeaf(l)
	if err != nil {
		return Header{}, nil, fmt.Errorf("cannot read leaf: %w", err)
	}
	return h, body, nil
}

func parseLeaf(l Leaf) (h Header, body []byte, err error) {
	if len(l) > MaxLeaf {
		return h, nil, fmt.Errorf("%d bytes, at most %d are allowed", len(l), MaxLeaf)
	}
	end := bytes.Index(l[:min(len(l), maxHeader)], []byte("\n\n"))
	if end < 0 {
		return h, nil, fmt.Errorf("no blank line ends the header within %d bytes", maxHeader)
	}
	head, body := l[:end+2], l[end+2:]
	lines := lineReader{rest: string(head[:end+1])}
	if lines.next() != leafMagic {
		return h, nil, errors.New("the first line is not " + leafMagic)
	}
	facility, name, _ := strings.Cut(lines.value("box"), "/")
	h.Box = BoxID{facility, name}
	h.Index = lines.uint("index")
	h.Kind = Kind(lines.value("kind"))
	h.Epoch = lines.uint("epoch")
	if p := lines.value("patient"); p != "-" {
		h.Patient = p
	}
	h.Observed = lines.time("observed")
	h.Arrived = lines.time("arrived")
	if d := lines.value("digest"); d != "-" {
		lines.hex("digest", d, h.Digest[:])
	}
	if c := lines.value("commit"); c != "-" {
		lines.base64("commit", c, h.Commit[:])
	}
	if lines.err != nil {
		return h, nil, lines.err
	}
	if err := h.check(); err != nil {
		return h, nil, err
	}
	var again [maxHeader]byte
	if !bytes.Equal(h.AppendText(again[:0]), head) {
		return h, nil, errors.New("the header is not in its canonical form")
	}
	return h, body, nil
}

// lineReader takes the lines "key value" of a text header in their fixed order and keeps the first error.
type lineReader struct {
	rest string
	err  error
}

func (r *lineReader) next() string {
	line, rest, _ := strings.Cut(r.rest, "\n")
	r.rest = rest
	return line
}

func (r *lineReader) value(key string) string {
	k, v, ok := strings.Cut(r.next(), " ")
	if !ok || k != key {
		r.fail("there is no line %q at its place", key)
		return ""
	}
	return v
}

func (r *lineReader) hex(key, v string, dst []byte) {
	if hex.DecodedLen(len(v)) != len(dst) {
		r.fail("%s is not %d hex digits", key, hex.EncodedLen(len(dst)))
		return
	}
	if _, err := hex.Decode(dst, []byte(v)); err != nil {
		r.fail("%s is not %d hex digits", key, hex.EncodedLen(len(dst)))
	}
}

func (r *lineReader) uint(key string) uint64 {
	n, err := strconv.ParseUint(r.value(key), 10, 64)
	if err != nil {
		r.fail("%s is not a number", key)
	}
	return n
}

func (r *lineReader) uint32(key string) uint32 {
	n := r.uint(key)
	if n > 1<<32-1 {
		r.fail("%s is out of range", key)
	}
	return uint32(n)
}

func (r *lineReader) time(key string) time.Time {
	v := r.value(key)
	if v == "-" || r.err != nil {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, v) // takes more than appendTime writes, and is quicker than a layout of our own
	if err != nil || len(v) != len(timeLayout) {
		r.fail("%s is not a time of RFC 3339 in UTC with milliseconds", key)
	}
	return t
}

// base64 fills dst exactly.
func (r *lineReader) base64(key, v string, dst []byte) {
	b, err := base64.StdEncoding.Strict().DecodeString(v)
	if err != nil || len(b) != len(dst) {
		r.fail("%s is not %d bytes in base64", key, len(dst))
		return
	}
	copy(dst, b)
}

func (r *lineReader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}
