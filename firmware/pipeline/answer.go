package pipeline

import (
	"strings"
	"time"

	"github.com/vitalgate/vitalgate/fhir/mapping"
	"github.com/vitalgate/vitalgate/hl7"
)

// verdict is how a message fared.
type verdict int

const (
	kept    verdict = iota // on disk, as a Bundle
	odd                    // on disk, as raw bytes: the application could not use it
	refused                // not on disk: the monitor must send it again
)

// Codes of HL7 table 0008, by verdict.
var (
	application = [3]hl7.AckCode{kept: hl7.AA, odd: hl7.AE, refused: hl7.AE}
	accept      = [3]hl7.AckCode{kept: hl7.CA, odd: hl7.CA, refused: hl7.CE}
)

// answer is what to say to a message.
type answer struct {
	verdict  verdict
	at       time.Time
	id       string // MSH-10 of the acknowledgement
	expected string // MSA-4, "" for none
	errs     []*hl7.Error
}

// to gives the acknowledgements to send, in order: those that the message asks for (HL7 v2.9 §2.9.2 original mode, §2.9.3
// enhanced mode by MSH-15 and MSH-16), or the one form that the dialect's monitors understand.
func (a answer) to(m *hl7.Message, d *mapping.Dialect) [][]byte {
	one := func(codes [3]hl7.AckCode, id string) []byte {
		return hl7.AppendAckExpecting(nil, m, codes[a.verdict], a.at, id, a.expected, a.errs...)
	}
	acceptWhen, applicationWhen := hl7.AckMode(m)
	_, isAnswer := m.First("MSA")
	if code, _, _ := m.Type(); code == "ACK" {
		isAnswer = true
	}
	switch {
	case d.Ack == "none", isAnswer: // an acknowledgement is never acknowledged
		return nil
	case d.Ack == "accept":
		return [][]byte{one(accept, a.id)}
	case d.Ack == "original", acceptWhen == "" && applicationWhen == "":
		return [][]byte{one(application, a.id)}
	}
	var all [][]byte
	if wanted(acceptWhen, a.verdict != refused) {
		all = append(all, one(accept, a.id))
	}
	// What was not accepted never reaches the application, but a sender that wants no accept acknowledgement must hear of it.
	if (a.verdict != refused || len(all) == 0) && wanted(applicationWhen, a.verdict == kept) {
		all = append(all, one(application, a.id+"A"))
	}
	return all
}

// wanted applies a condition of HL7 table 0155. A word that is none of the table is taken as "always": a monitor that waits in
// vain does more harm than an answer that nobody wanted.
func wanted(when string, success bool) bool {
	switch strings.ToUpper(when) {
	case "", "NE":
		return false
	case "SU":
		return success
	case "ER":
		return !success
	}
	return true
}
