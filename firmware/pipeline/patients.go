package pipeline

import (
	"time"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/fhir/mapping"
)

// patients are what the connections of one monitor have said of their patients (docs/adr/0008). They are in memory only: after
// a start the patient is unknown until the monitor names him. What one connection said is never used for another.
type patients struct {
	age    time.Duration
	byLine map[uint64]saidPatient
}

type saidPatient struct {
	association *mapping.Association
	at          time.Time // arrival of the last message that said it
}

const (
	associationAge = 24 * time.Hour
	maxLines       = 256 // lines remembered; beyond it the one that was opened first is forgotten
)

func newPatients(m *Monitor) *patients {
	p := &patients{age: m.AssociationAge, byLine: map[uint64]saidPatient{}}
	if p.age == 0 {
		p.age = associationAge
	}
	return p
}

// of gives what is in force for a frame, nil if nothing is.
func (p *patients) of(f *adapters.Frame) *mapping.Association {
	said, ok := p.byLine[f.Line]
	if !ok {
		return nil
	}
	if age := f.Arrived.Sub(said.at); age > p.age || age < 0 {
		delete(p.byLine, f.Line)
		return nil
	}
	return said.association
}

// set keeps what is in force after a frame, where was in force before it.
func (p *patients) set(f *adapters.Frame, was, now *mapping.Association) {
	if now == was || f.Line == 0 {
		return
	}
	if now == nil {
		p.end(f)
		return
	}
	if _, known := p.byLine[f.Line]; !known && len(p.byLine) >= maxLines {
		p.forget()
	}
	p.byLine[f.Line] = saidPatient{association: now, at: f.Arrived}
}

// end makes the patient of the frame's line unknown.
func (p *patients) end(f *adapters.Frame) { delete(p.byLine, f.Line) }

// forget drops the lowest line: the connection that was opened first.
func (p *patients) forget() {
	oldest := ^uint64(0)
	for line := range p.byLine {
		oldest = min(oldest, line)
	}
	delete(p.byLine, oldest)
}
