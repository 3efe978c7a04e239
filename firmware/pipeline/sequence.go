package pipeline

import (
	"strconv"

	"github.com/vitalgate/vitalgate/hl7"
)

// sequences follows senders that number their messages in MSH-13 (HL7 v2.9 §2.9.4), by MSH-3 and MSH-4. It is in memory only:
// after a start the answer to a sender that begins its link is -1, "begin where you like", which the protocol has for this.
//
// A number never keeps a message from being kept: what a monitor measured is worth more than its count. It only decides the
// answer, so that a sender that has what is missing sends it.
type sequences map[string]*sequence

type sequence struct {
	last  int64 // number of the latest message in order; 0 for none
	began bool  // the sender began its link with 0: it knows the protocol, and is told of a gap
}

const (
	maxSenders = 64
	maxNumber  = 2_000_000_000
)

// next takes the number of a message. expected is MSA-4, "" where the sender does not count. A gap is an error for the answer.
func (s sequences) next(m *hl7.Message) (expected string, gap *hl7.Error) {
	h := m.Header()
	n, err := strconv.ParseInt(string(h.Field(13).Raw()), 10, 64)
	if err != nil || n < 0 || n > maxNumber {
		return "", nil
	}
	key := string(h.Field(3).Raw()) + "|" + string(h.Field(4).Raw())
	q := s[key]
	if q == nil {
		if len(s) >= maxSenders || len(key) > 512 {
			return "", nil
		}
		q = &sequence{}
		s[key] = q
	}
	switch {
	case n == 0:
		q.began = true
	case q.last == 0, n == q.last+1, n == q.last, !q.began: // n == q.last: sent again
		q.last = n
	default:
		gap = &hl7.Error{Code: hl7.CodeOther, Segment: "MSH", Sequence: 1, Field: 13,
			What: "cannot accept a message out of sequence", Remedy: "send those from the number in MSA-4 on, or begin the link anew with 0"}
	}
	if q.last == 0 {
		return "-1", gap
	}
	return strconv.FormatInt(q.last+1, 10), gap
}

// beginsLink says whether m is the message without content that begins a link with sequence numbers.
func beginsLink(m *hl7.Message) bool {
	return m.Len() == 1 && string(m.Header().Field(13).Raw()) == "0"
}
