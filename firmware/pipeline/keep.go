package pipeline

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/vitalgate/vitalgate/firmware/health"
	"github.com/vitalgate/vitalgate/hl7"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/tpm"
)

// keep seals readings and gives them to the spool, in one order for the whole box: the order of the log. The monitor's
// acknowledgement leaves when the spool says that the reading is on disk.
func (p *Pipeline) keep(known *resent, begun *start, in <-chan *reading) {
	p.bootDue.Store(begun != nil) // what a TPM says of this start comes when it has said it
	p.begin(begun)                // if the disk refuses it, the next reading brings it again
	sweep := time.NewTicker(30 * time.Second)
	defer sweep.Stop()
	for {
		select {
		case r, ok := <-in:
			if !ok {
				p.Sealer.End()
				return
			}
			err := p.begin(begun)
			if err == nil {
				err = p.keepOne(known, r)
			}
			p.room.Release(r.bundle)
			if err != nil {
				p.refuse(r, err)
			}
		case begun = <-p.starts:
			p.bootDue.Store(true)
			p.begin(begun)
		case beat := <-p.pulses:
			if err := p.Spool.Pulse(func(error) { close(beat) }); err != nil {
				close(beat) // a disk that refuses has answered
			}
		case r := <-p.readers:
			if err := p.Sealer.SetReaders(r.Network, r.Patient, r.PerRecord); err != nil {
				p.Log.Error("cannot seal for the new readers", "error", err)
				continue
			}
			debug.FreeOSMemory()
		case <-sweep.C: // keys end in time though no reading comes
			if p.Sealer.Expire() {
				debug.FreeOSMemory() // what was read in the epoch must not outlive it as garbage
			}
		}
	}
}

// Pulse goes the way of a reading, through the keeper to the disk and back: when it returns nil, the line moves. A part that hangs,
// or a disk that does not answer, holds it up until ctx ends.
func (p *Pipeline) Pulse(ctx context.Context) error {
	beat := make(chan struct{})
	select {
	case p.pulses <- beat:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-beat:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// start is a run of the box, and the boot leaf that tells of it.
type start struct {
	leaf record.Boot
	kept chan struct{} // closed when the leaf is on disk, or the disk has refused it
	done func()        // closes it
}

// start is about the log as it was found: nothing of the run is signed yet.
func (p *Pipeline) start(boot tpm.Boot) *start {
	last := p.Spool.LastCheckpoint()
	if last.Size == 0 {
		last.Root = record.Tree{}.Root()
	}
	kept := make(chan struct{})
	s := &start{record.Boot{Protection: p.Protection, Software: p.Software, LastSize: last.Size, LastRoot: last.Root}, kept, sync.OnceFunc(func() { close(kept) })}
	s.setRun(boot)
	return s
}

func (s *start) setRun(b tpm.Boot) {
	s.leaf.Resets, s.leaf.Restarts, s.leaf.Counter = b.Resets, b.Restarts, b.Counter
}

// wait waits until the boot leaf is on disk, or the disk has refused it. It gives up with ctx.
func (s *start) wait(ctx context.Context) error {
	select {
	case <-s.kept:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-s.kept: // both are so
		return nil
	default:
		return ctx.Err()
	}
}

// begin puts a boot leaf in front of the records to come, if one is due.
func (p *Pipeline) begin(s *start) error {
	if !p.bootDue.Swap(false) {
		return nil
	}
	leaf, err := p.Sealer.Boot(p.Spool.Next(), s.leaf)
	if err == nil {
		err = p.Spool.Append([]record.Leaf{leaf}, func(err error) {
			if err != nil {
				p.bootDue.Store(true)
			}
			s.done()
		})
	}
	if err != nil {
		p.bootDue.Store(true)
		s.done()
		return fmt.Errorf("cannot begin the log: %w", err)
	}
	return nil
}

func (p *Pipeline) keepOne(known *resent, r *reading) error {
	if r.identified {
		d, again, err := known.digest(r.frame.Monitor, r.Patient, r.frame.Data)
		if err != nil {
			return err
		}
		r.Digest = d
		if again {
			return p.appendAgain(known, r)
		}
	}
	leaves, err := p.Sealer.Seal(p.Spool.Next(), r.Reading)
	if errors.Is(err, record.ErrTooLarge) && r.Content.Bundle != nil { // the message itself matters more than its Bundle
		r.Kind, r.Content.Bundle, r.Content.Reason = record.KindRaw, nil, err.Error()
		r.charted, r.local, r.absent, r.events = 0, 0, 0, 0
		leaves, err = p.Sealer.Seal(p.Spool.Next(), r.Reading)
	}
	if err != nil {
		return err
	}
	return p.append(known, r, leaves)
}

// append gives the leaves of a reading to the spool, and answers the monitor when they are on disk. The message is known from
// now on, unless the disk refuses it.
func (p *Pipeline) append(known *resent, r *reading, leaves []record.Leaf) error {
	if r.identified {
		known.add(r.Digest)
	}
	r.Content.Bundle = nil // sealed; only the frame is needed to answer
	err := p.Spool.Append(leaves, func(err error) {
		if err != nil {
			known.forget(r.Digest)
			p.refuse(r, err)
			return
		}
		if p.Health.Clear("spool-refuses", "") {
			p.Log.Info("readings are kept again")
		}
		r.counters.keep(r)
		p.answer(r, r.answers)
	})
	if err != nil {
		known.forget(r.Digest)
	}
	return err
}

// appendAgain answers a message that was sent again when its first coming is on disk. Callbacks come in order, so by then it is
// known whether it got there.
func (p *Pipeline) appendAgain(known *resent, r *reading) error {
	return p.Spool.Append(nil, func(err error) {
		if err == nil && !known.has(r.Digest) {
			err = errors.New("the message sent before did not come to disk")
		}
		if err != nil {
			p.refuse(r, err)
			return
		}
		r.counters.Repeated.Add(1)
		p.answer(r, r.answers)
	})
}

// answer is the end of a reading.
func (p *Pipeline) answer(r *reading, acks [][]byte) {
	p.room.Release(r.size)
	r.share.Release(r.part())
	r.frame.Reply(acks...)
}

// refuse tells the monitor that its message is not kept, so that it sends it again.
func (p *Pipeline) refuse(r *reading, err error) {
	r.counters.Refused.Add(1)
	if p.Health.Set(health.Condition{Code: "spool-refuses", Severity: health.Critical, Sentence: "Readings are not kept: " + err.Error(),
		Remedy: "Check the network (records leave the box when a leaf node takes them) and the box's disk."}) {
		p.Log.Error("cannot keep a reading", "monitor", r.frame.Monitor, "error", err)
	}
	p.answer(r, refusal(r))
}

// refusal is what to answer to a reading that is not kept.
func refusal(r *reading) [][]byte {
	var m hl7.Message
	e := &hl7.Error{Code: hl7.CodeInternal, What: "the message could not be stored", Remedy: "send it again"}
	now := time.Now()
	if m.Reset(r.frame.Data, hl7.DefaultLimits) == nil {
		return answer{verdict: refused, at: now, id: "R", errs: []*hl7.Error{e}}.to(&m, r.dialect)
	}
	if len(r.answers) == 0 { // nothing is answered to what cannot be read, or to this monitor
		return nil
	}
	return [][]byte{hl7.AppendNak(nil, hl7.AE, now, "R", e)}
}
