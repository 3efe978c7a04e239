// Package registry is the facility's registry: who may do what, as a log of decisions that its administrators have
// signed. Every peer holds the whole log, believes nobody who hands it an entry, and enforces it alone, offline.
//
// An entry is a C2SP signed note whose text is a C2SP tlog-checkpoint of all entries before it, with the decision on
// its extension lines. So a signature on one entry is a signature on the whole history behind it, and an entry cannot
// be moved, left out or put elsewhere:
//
//	vitalgate/f1/_registry                        origin; no box has this name
//	7                                             entries before this one: its index
//	vVxX…=                                        RFC 9162 §2.1.1 root of the tree of those, each leaf a text like this
//	v1 suspend 2026-11-29T20:00:00Z               version of the form, kind, time
//	{"box":"f1/gw1","reason":"lost"}              the decision, one line of JSON in the order of its Go type
//
//	— alice Zm9v…                                 signatures: Ed25519 (type 0x01) or ECDSA P-256 (0x02, openssl)
//
// The leaf is the text alone: which m of the n administrators signed it makes no other history.
package registry

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/vitalgate/vitalgate/record"
)

// Version of the form of entries.
const Version = 1

// maxEntry bounds one entry with its signatures, in bytes.
const maxEntry = 1 << 16

// Entry is a decision at its place in the log.
type Entry struct {
	Facility string
	Index    uint64
	Before   record.Hash // root of the tree of all entries before this one
	Time     time.Time   // when it was proposed, to the second
	Decision Decision
}

// Decision is what an entry decides. The types that satisfy it are in decisions.go.
type Decision interface {
	Kind() string
	Summary() string // one line for a person who is to sign it
	check() error    // whether it is well formed by itself
	apply(s *State, at Entry) error
}

func origin(facility string) string { return "vitalgate/" + facility + "/_registry" }

// Text is what administrators sign.
func (e Entry) Text() ([]byte, error) {
	body, err := json.Marshal(e.Decision)
	if err != nil {
		return nil, fmt.Errorf("cannot write the decision: %w", err)
	}
	b := fmt.Appendf(nil, "%s\n%d\n%s\nv%d %s %s\n%s\n", origin(e.Facility), e.Index, base64.StdEncoding.EncodeToString(e.Before[:]),
		Version, e.Decision.Kind(), e.Time.UTC().Format(time.RFC3339), body)
	if len(b) > maxEntry {
		return nil, fmt.Errorf("cannot write the decision: it takes %d bytes, at most %d are allowed", len(b), maxEntry)
	}
	return b, nil
}

// leafHash is the leaf of an entry in the tree.
func leafHash(text []byte) record.Hash { return tlog.RecordHash(text) }

// Refusal is why an entry is not taken into the log.
type Refusal struct {
	Reason Reason
	Detail string
}

// Reason is the class of a Refusal.
type Reason string

const (
	ReasonMalformed Reason = "malformed" // not an entry in its one canonical form
	ReasonFacility  Reason = "facility"  // of another facility's registry
	ReasonKind      Reason = "kind"      // a kind or version that this program does not know
	ReasonGap       Reason = "gap"       // entries before it are missing
	ReasonRepeated  Reason = "repeated"  // it stands in the log already
	ReasonHistory   Reason = "history"   // it signs another history than the one before it here
	ReasonSigner    Reason = "signer"    // a signature is not of an administrator
	ReasonSignature Reason = "signature" // a signature is wrong
	ReasonThreshold Reason = "threshold" // fewer administrators have signed than must
	ReasonRule      Reason = "rule"      // what it decides cannot be decided now
	ReasonGenesis   Reason = "genesis"   // the log does not begin as the one that this peer has joined
	ReasonTruncated Reason = "truncated" // entries that this peer has enforced are gone
	ReasonFork      Reason = "fork"      // administrators have signed two entries for one place
)

func (r *Refusal) Error() string { return r.Detail + " (" + string(r.Reason) + ")" }

// ReasonOf is the reason of a *Refusal in err, "" if there is none.
func ReasonOf(err error) Reason {
	var r *Refusal
	if errors.As(err, &r) {
		return r.Reason
	}
	return ""
}

func refuse(r Reason, format string, a ...any) *Refusal {
	return &Refusal{r, fmt.Sprintf(format, a...)}
}

// parseText reads the text of an entry. Only the form that Text writes is taken, so no bit of it can change unnoticed.
func parseText(text []byte) (e Entry, err error) {
	lines := strings.Split(string(text), "\n")
	if len(lines) != 6 || lines[5] != "" {
		return e, refuse(ReasonMalformed, "the entry does not have five lines")
	}
	name, ok := strings.CutPrefix(lines[0], "vitalgate/")
	e.Facility, ok = cutSuffix(name, "/_registry", ok)
	if !ok || !(record.BoxID{Facility: e.Facility, Name: "x"}).Valid() {
		return e, refuse(ReasonMalformed, "the first line is not vitalgate/FACILITY/_registry")
	}
	if e.Index, err = strconv.ParseUint(lines[1], 10, 40); err != nil {
		return e, refuse(ReasonMalformed, "the index is not a number")
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != len(e.Before) {
		return e, refuse(ReasonMalformed, "the root is not 32 bytes in base64")
	}
	copy(e.Before[:], root)
	head := strings.Split(lines[3], " ")
	if len(head) != 3 {
		return e, refuse(ReasonMalformed, "the fourth line is not version, kind and time")
	}
	blank, known := kinds[head[1]]
	if head[0] != "v"+strconv.Itoa(Version) || !known {
		return e, refuse(ReasonKind, "the entry is %.40q of version %.10q, which this program does not know; update vitalpeer", head[1], head[0])
	}
	if e.Time, err = time.Parse(time.RFC3339, head[2]); err != nil {
		return e, refuse(ReasonMalformed, "the time is not in RFC 3339 form")
	}
	e.Decision = blank()
	d := json.NewDecoder(strings.NewReader(lines[4]))
	d.DisallowUnknownFields()
	if err := d.Decode(e.Decision); err != nil {
		return e, refuse(ReasonMalformed, "the decision is not a whole %s: %v", head[1], err)
	}
	if again, err := e.Text(); err != nil || !bytes.Equal(again, text) {
		return e, refuse(ReasonMalformed, "the entry is not in its canonical form")
	}
	if err := e.Decision.check(); err != nil {
		return e, refuse(ReasonMalformed, "the decision is not well formed: %v", err)
	}
	return e, nil
}

func cutSuffix(s, suffix string, ok bool) (string, bool) {
	cut, found := strings.CutSuffix(s, suffix)
	return cut, ok && found
}
