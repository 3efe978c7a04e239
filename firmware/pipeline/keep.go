package pipeline

import (
	"errors"
	"fmt"
	"time"

	"github.com/vitalgate/vitalgate/firmware/health"
	"github.com/vitalgate/vitalgate/hl7"
	"github.com/vitalgate/vitalgate/record"
)

// keep seals readings and gives them to the spool, in one order for the whole box: the order of the log. The monitor's
// acknowledgement leaves when the spool says that the reading is on disk.
func (p *Pipeline) keep(known *resent, in <-chan *reading) {
	begun := p.begin() == nil
	sweep := time.NewTicker(30 * time.Second)
	defer sweep.Stop()
	for {
		select {
		case r, ok := <-in:
			if !ok {
				p.Sealer.End()
				return
			}
			err := error(nil)
			if !begun {
				err = p.begin()
				begun = err == nil
			}
			if begun {
				err = p.keepOne(known, r)
			}
			if err != nil {
				p.refuse(r, err)
			}
		case <-p.resets:
			begun = p.begin() == nil
		case <-sweep.C: // keys end in time though no reading comes
			p.Sealer.Expire()
		}
	}
}

// begin puts a boot leaf in front of the records to come.
func (p *Pipeline) begin() error {
	boot, last := p.Signer.Boot(), p.Spool.LastCheckpoint()
	leaf, err := p.Sealer.Boot(p.Spool.Next(), record.Boot{
		Resets: boot.Resets, Restarts: boot.Restarts, Counter: boot.Counter, Protection: p.Protection, Software: p.Software,
		LastSize: last.Size, LastRoot: last.Root,
	})
	if err == nil {
		err = p.Spool.Append([]record.Leaf{leaf}, func(error) {})
	}
	if err != nil {
		return fmt.Errorf("cannot begin the log: %w", err)
	}
	return nil
}

func (p *Pipeline) keepOne(known *resent, r *reading) error {
	if r.identified {
		d, again, err := known.digest(r.frame.Monitor, r.frame.Data)
		if err != nil {
			return err
		}
		if again { // answered when its first coming is on disk
			return p.append(r, nil)
		}
		r.Digest = d
	}
	leaves, err := p.Sealer.Seal(p.Spool.Next(), r.Reading)
	if errors.Is(err, record.ErrTooLarge) && r.Content.Bundle != nil { // the message itself matters more than its Bundle
		r.Kind, r.Content.Bundle, r.Content.Reason = record.KindRaw, nil, err.Error()
		leaves, err = p.Sealer.Seal(p.Spool.Next(), r.Reading)
	}
	if err != nil {
		return err
	}
	if err := p.append(r, leaves); err != nil {
		return err
	}
	if r.identified {
		known.add(r.Digest)
	}
	return nil
}

// append gives the leaves of a reading to the spool, and answers the monitor when they are on disk. A reading without leaves
// has been kept before.
func (p *Pipeline) append(r *reading, leaves []record.Leaf) error {
	return p.Spool.Append(leaves, func(err error) {
		if err != nil {
			p.refuse(r, err)
			return
		}
		if p.Health.Clear("spool-refuses", "") {
			p.Log.Info("readings are kept again")
		}
		p.Health.Clear("monitor-line", r.frame.Monitor)
		if len(leaves) == 0 {
			r.counters.Repeated.Add(1)
		}
		r.frame.Reply(r.answers...)
	})
}

// refuse tells the monitor that its message is not kept, so that it sends it again.
func (p *Pipeline) refuse(r *reading, err error) {
	r.counters.Refused.Add(1)
	if p.Health.Set(health.Condition{Code: "spool-refuses", Severity: health.Critical, Sentence: "Readings are not kept: " + err.Error(),
		Remedy: "Check the network (records leave the box when a leaf node takes them) and the box's disk."}) {
		p.Log.Error("cannot keep a reading", "monitor", r.frame.Monitor, "error", err)
	}
	var m hl7.Message
	e := &hl7.Error{Code: hl7.CodeInternal, What: "the message could not be stored", Remedy: "send it again"}
	now := time.Now()
	switch {
	case r.dialect.Ack == "none":
		r.frame.Reply()
	case m.Reset(r.frame.Data, hl7.DefaultLimits) != nil:
		r.frame.Reply(hl7.AppendNak(nil, hl7.AE, now, "R", e))
	default:
		r.frame.Reply(answers(&m, r.dialect, refused, now, "R", e)...)
	}
}
