package mapping

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/vitalgate/vitalgate/hl7"
)

// Association is what the messages of one line (one connection of one monitor) have said of the patient and the bed of the
// messages after them. It does not change; it holds a patient's data, so it must not be logged or stored.
//
// Some monitors say who their patient is once, and send vitals without a patient afterwards. Which of their messages say it is
// in the dialect ([[association]]). The rules:
//   - A message that the dialect names begins an association with the one patient of its PID, and so ends the one before it. If
//     it names nobody or more than one, the patient is unknown from then on; the bed of its PV1 holds.
//   - Another message with a PID ends the association unless it names the same patient.
//   - A message of the same sender (MSH-3, MSH-4) that names neither a patient (PID) nor a place (PV1) is about the patient and bed
//     in force. A keep-alive is not. A gateway may put several monitors on one line, or the monitor on a line be exchanged.
//
// The caller ends it, by a nil in the next Context, when the line ends or when bytes of the line were lost.
type Association struct {
	message *hl7.Message // that said it
	source  string       // its digest, as in the Bundle's identifier
	begun   time.Time    // arrival of the first message that named this patient
	key     string       // of the patient, as Result.Patient; "" if the message names nobody
}

// Patient says whether the association names a patient.
func (a *Association) Patient() bool { return a != nil && a.key != "" }

// says is what a message is to the association of its line.
type says uint8

const (
	nothing says = iota
	begins
	ends
)

// lineRule names messages that begin or end an association.
type lineRule struct {
	typ  string
	cond condition
	says says
}

type lineRuleFile struct {
	Type string `toml:"type"`
	conditionFile
	Says string `toml:"says"`
}

func (d *Dialect) readLineRules(all []lineRuleFile) (err error) {
	for _, f := range all {
		r := lineRule{typ: f.Type}
		switch f.Says {
		case "begins":
			r.says = begins
		case "ends":
			r.says = ends
		default:
			return fmt.Errorf("association rule has says = %q, want begins or ends", f.Says)
		}
		if r.typ == "" {
			if r.cond, err = f.condition(); err != nil {
				return err
			}
		}
		d.lineRules = append(d.lineRules, r)
	}
	return nil
}

// associates says whether messages of this dialect may name the patient of the messages after them.
func (d *Dialect) associates() bool { return len(d.lineRules) > 0 }

func (d *Dialect) saysOf(m *hl7.Message, typ, trigger string) says {
	for i := range d.lineRules {
		r := &d.lineRules[i]
		if r.typ != "" && isType(r.typ, typ, trigger) || r.typ == "" && r.cond.inMessage(m) {
			return r.says
		}
	}
	return nothing
}

// isType says whether rule is "typ^trigger".
func isType(rule, typ, trigger string) bool {
	return len(rule) == len(typ)+1+len(trigger) && strings.HasPrefix(rule, typ) && strings.HasSuffix(rule, trigger)
}

// maxAssociation bounds the message that an association keeps in memory, in bytes.
const maxAssociation = 16 << 10

// inherit reads the patient and the bed in force, if the message is about them, and gives the patient's place in c.patients.
func (c *Converter) inherit() int32 {
	c.inherits = false
	a := c.at.Association
	if a == nil || !c.d.associates() || c.says != nothing || c.kind == kindKeepAlive || !a.from(c.m.Header()) {
		return -1
	}
	if _, named := c.m.First("PID"); named {
		return -1
	}
	if _, placed := c.m.First("PV1"); placed {
		return -1
	}
	c.inherits = true
	if s, ok := a.message.First("PV1"); ok {
		c.readLocation(s)
	}
	if s, ok := a.message.First("PID"); ok && a.key != "" {
		return c.readPatient(s)
	}
	return -1
}

// from says whether the sender of a header is the one that made the association.
func (a *Association) from(header hl7.Segment) bool {
	was := a.message.Header()
	return bytes.Equal(was.Field(3).Raw(), header.Field(3).Raw()) && bytes.Equal(was.Field(4).Raw(), header.Field(4).Raw())
}

// unnumbered gives the id and the association key of a patient without a number. Nobody can say that he is the same as another
// of that name, so he is known only for as long as his association lasts, or for the one message.
func (c *Converter) unnumbered(pid hl7.Segment) (id, key string) {
	if c.says == begins || c.at.Association.speaksOf(pid) {
		id = c.uuid("patient of association", c.at.Box, c.at.Monitor, c.begun(pid).UTC().Format(time.RFC3339Nano), string(pid.Raw()))
		return id, c.join("association|", id)
	}
	return c.uuid("patient of message", string(c.m.Raw())), ""
}

// begun is when the association with this patient began.
func (c *Converter) begun(pid hl7.Segment) time.Time {
	if a := c.at.Association; a.speaksOf(pid) {
		return a.begun
	}
	return c.at.Arrived
}

// speaksOf says whether the association was made by this very PID.
func (a *Association) speaksOf(pid hl7.Segment) bool {
	if a == nil {
		return false
	}
	s, ok := a.message.First("PID")
	return ok && bytes.Equal(s.Raw(), pid.Raw())
}

// associate gives the association in force after the message.
func (c *Converter) associate() *Association {
	was := c.at.Association
	if !c.d.associates() {
		return nil
	}
	pid, named := c.m.First("PID")
	switch c.says {
	case ends:
		return nil
	case begins:
		return c.begin(pid)
	}
	if named && was != nil && (was.key == "" || c.r.Patient != was.key) {
		c.event(EventAssociation, pid, 0, "the message names another patient, or none, than its line did: the patient of the messages after it is unknown")
		return nil
	}
	return was
}

func (c *Converter) begin(pid hl7.Segment) *Association {
	if len(c.m.Raw()) > maxAssociation {
		c.event(EventAssociation, pid, 0, "the message is too long to be kept in memory: the patient of the messages after it is unknown")
		return nil
	}
	m, err := hl7.Parse(bytes.Clone(c.m.Raw()))
	if err != nil { // the same bytes have been read before
		return nil
	}
	a := &Association{message: m, begun: c.begun(pid)}
	pids := 0
	for i := range m.Len() {
		if m.Segment(i).Name() == "PID" {
			pids++
		}
	}
	if pids == 1 {
		a.key = strings.Clone(c.r.Patient)
	}
	digest := sha256.Sum256(m.Raw())
	a.source = "nih:sha-256;" + hex.EncodeToString(digest[:]) // RFC 6920 §7
	return a
}
