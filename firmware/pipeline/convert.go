package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/fhir/mapping"
	"github.com/vitalgate/vitalgate/hl7"
	"github.com/vitalgate/vitalgate/record"
)

// reading is a converted frame on its way to the disk.
type reading struct {
	record.Reading
	frame   *adapters.Frame
	dialect *mapping.Dialect

	identified bool // the message tells itself from others: the same bytes again are the same message sent again
	verdict    verdict
	answers    [][]byte // what to reply once the reading is on disk
	size       int64    // bytes of the message, and of its Bundle: their part of the pipeline's room
	bundle     int64
	share      *semaphore.Weighted // of its monitor
	counters   *Counters

	charted, local, absent, events int // what the Bundle holds; counted once it is on disk
}

// shareBytes bounds what one monitor has between here and the disk: each commit waits for all that is to be written, and the others
// must not wait for a flood of one.
const shareBytes = 128 << 10

// part is the reading's part of its monitor's share.
func (r *reading) part() int64 { return min(r.size, shareBytes) }

// Counters tell how one monitor's messages fared since the start.
type Counters struct {
	Messages, Raw, Repeated, Refused atomic.Uint64 // messages; of them kept raw only, sent again, not kept
	Charted, Local, Absent           atomic.Uint64 // observations kept: under a standard code, under a local code, without a value
	Events                           atomic.Uint64 // data-quality events kept
	KeepAlive                        atomic.Uint64 // of Messages: those that say only that the monitor is there; they are not kept
}

// Snapshot is Counters at one moment.
type Snapshot struct {
	Messages uint64 `json:"messages"`
	Raw      uint64 `json:"raw"`
	Repeated uint64 `json:"repeated"`
	Refused  uint64 `json:"refused"`
	Charted  uint64 `json:"charted"`
	Local    uint64 `json:"local"`
	Absent   uint64 `json:"absent"`
	Events   uint64 `json:"events"`

	KeepAlive uint64 `json:"keep_alive"`
}

func (c *Counters) snapshot() Snapshot {
	return Snapshot{c.Messages.Load(), c.Raw.Load(), c.Repeated.Load(), c.Refused.Load(), c.Charted.Load(), c.Local.Load(), c.Absent.Load(), c.Events.Load(), c.KeepAlive.Load()}
}

// keep counts what a reading holds that has come to disk.
func (c *Counters) keep(r *reading) {
	c.Charted.Add(uint64(r.charted))
	c.Local.Add(uint64(r.local))
	c.Absent.Add(uint64(r.absent))
	c.Events.Add(uint64(r.events))
}

// convert turns one monitor's frames into readings, in order, until frames is closed. Every frame gives one but keep-alives,
// which are counted and answered.
func (p *Pipeline) convert(m *Monitor, n *Counters, frames <-chan *adapters.Frame, out chan<- *reading) error {
	c := converter{monitor: m, converter: mapping.NewConverter(m.Dialect), patients: newPatients(m), joiners: map[uint64]*hl7.Joiner{}, sequences: sequences{}}
	share := semaphore.NewWeighted(shareBytes)
	for frame := range frames {
		for _, f := range frame.Split(hl7.Messages(frame.Data)) {
			n.Messages.Add(1)
			r := c.safely(f, n)
			if r == nil {
				continue
			}
			if raw := n.Raw.Load(); r.verdict == odd && raw&(raw-1) == 0 { // the 1st, 2nd, 4th, 8th …
				p.Log.Warn("kept a message as raw bytes", "monitor", m.Name, "so far", raw, "reason", r.Content.Reason)
			}
			r.counters = n
			r.size = min(int64(len(r.Content.Raw)), roomBytes/2)
			r.bundle = min(int64(len(r.Content.Bundle)), roomBytes/2)
			r.share = share
			if err := share.Acquire(context.Background(), r.part()); err != nil {
				return err
			}
			if err := p.room.Acquire(context.Background(), r.size+r.bundle); err != nil { // the keeper outlives us, so this ends
				return err
			}
			out <- r
		}
	}
	return nil
}

type converter struct {
	monitor   *Monitor
	converter *mapping.Converter
	patients  *patients
	joiners   map[uint64]*hl7.Joiner // of lines that have begun a message and not finished it
	sequences sequences
	message   hl7.Message // as it came
	whole     hl7.Message // as it was put together from its parts
	answered  uint64      // acknowledgements made
}

// safely converts. A fault of ours in reading or answering a message costs this message its Bundle and its answer, not the box
// its life.
func (c *converter) safely(f *adapters.Frame, n *Counters) (r *reading) {
	defer func() {
		if e := recover(); e != nil {
			c.patients.end(f)
			n.Raw.Add(1)
			r = &reading{frame: f, dialect: c.monitor.Dialect, verdict: odd}
			r.Kind, r.Arrived = record.KindRaw, f.Arrived
			r.Content = record.Content{Monitor: f.Monitor, Via: f.Via, Notes: f.Notes, Raw: f.Data, Reason: fmt.Sprintf("the message could not be read (%T)", e)}
		}
	}()
	return c.convert(f, n)
}

// convert never fails: a frame that cannot be read or mapped becomes a raw reading with the reason. A keep-alive becomes none
// (docs/adr/0009).
func (c *converter) convert(f *adapters.Frame, n *Counters) *reading {
	r := &reading{frame: f, dialect: c.monitor.Dialect}
	r.Kind, r.Arrived = record.KindRaw, f.Arrived
	r.Content = record.Content{Monitor: f.Monitor, Via: f.Via, Notes: f.Notes, Raw: f.Data}
	if slices.Contains(f.Notes, adapters.NoteJunk) || slices.Contains(f.Notes, adapters.NoteRefused) { // what was lost may have named another patient
		c.patients.end(f)
	}
	raw := func(err error) *reading {
		c.patients.end(f)
		delete(c.joiners, f.Line)
		n.Raw.Add(1)
		r.verdict, r.Content.Reason = odd, err.Error()
		return r
	}
	r.identified = true // the same bytes that cannot be read say nothing new
	if err := c.message.Reset(f.Data, hl7.DefaultLimits); err != nil {
		// What does not begin with a message may be the rest of one that was answered: nothing to answer.
		if r.dialect.Ack != "none" && !slices.Contains(f.Notes, adapters.NoteNoHeader) {
			r.answers = [][]byte{hl7.AppendNak(nil, hl7.AR, f.Arrived, c.id(f.Arrived), asHL7(err))}
		}
		return raw(err)
	}
	r.identified = identified(&c.message, f.Arrived, c.monitor.Context.Zone)
	say := func(v verdict, errs ...*hl7.Error) [][]byte {
		a := answer{verdict: v, at: f.Arrived, id: c.id(f.Arrived), errs: errs}
		if v == kept {
			var gap *hl7.Error
			if a.expected, gap = c.sequences.next(&c.message); gap != nil {
				a.verdict, a.errs = refused, []*hl7.Error{gap}
			}
		}
		return a.to(&c.message, r.dialect)
	}
	if adapters.Partial(f.Notes) {
		err := &hl7.Error{Code: hl7.CodeSegmentSequence, What: "the message did not arrive whole (" + strings.Join(f.Notes, ", ") + ")", Remedy: "send it again; check the line"}
		r.answers = say(odd, err)
		return raw(err)
	}
	if beginsLink(&c.message) {
		n.Raw.Add(1)
		r.answers, r.Content.Reason = say(kept), "begins a link with sequence numbers; it says nothing else"
		return r
	}
	m := &c.message
	switch whole, waiting, err := c.join(f); {
	case err != nil:
		r.answers = say(odd, asHL7(err))
		return raw(err)
	case waiting: // the sender goes on only when this part is answered
		n.Raw.Add(1)
		r.answers, r.Content.Reason = say(kept), partOfLonger
		return r
	case whole != nil:
		if err := c.whole.Reset(whole, hl7.DefaultLimits); err != nil {
			r.answers = say(odd, asHL7(err))
			return raw(err)
		}
		m, r.Content.Raw = &c.whole, whole
	}
	at := c.monitor.Context
	at.Arrived, at.Association = f.Arrived, c.patients.of(f)
	res, err := c.mapped(m, at)
	if err != nil {
		r.answers = say(odd, asHL7(err))
		return raw(err)
	}
	c.patients.set(f, at.Association, res.Association)
	if res.KeepAlive {
		n.KeepAlive.Add(1)
		f.Reply(say(kept)...)
		return nil
	}
	r.charted, r.local, r.absent, r.events = res.Charted, res.Local, res.Absent, len(res.Events)
	r.Kind, r.Patient, r.Observed = record.Kind(res.Kind), res.Patient, res.Observed
	r.Content.Bundle = bytes.Clone(res.Bundle)
	r.answers = say(kept)
	return r
}

// join takes the message as a part of a continued one, if it is that (HL7 v2.9 §2.10.2).
func (c *converter) join(f *adapters.Frame) (whole []byte, waiting bool, err error) {
	j, begun := c.joiners[f.Line]
	if !begun {
		j = new(hl7.Joiner)
	}
	whole, waiting, err = j.Take(&c.message)
	switch {
	case !waiting:
		delete(c.joiners, f.Line)
	case !begun:
		if len(c.joiners) >= maxJoiners {
			delete(c.joiners, slices.Min(slices.Collect(maps.Keys(c.joiners))))
		}
		c.joiners[f.Line] = j
	}
	return whole, waiting, err
}

const (
	partOfLonger = "a part of a longer message (DSC): it may end within a value, so nothing is read from it; the whole is kept with its last part"
	maxJoiners   = 8 // lines that may have begun a message; beyond it the one that was opened first begins anew
)

// identified says whether the message carries a time of its own that can be believed: to the second, and within a day of the
// arrival (MSH-7, else OBR-7). The same bytes again are then the same message. A Mindray 204, which has no time, says something
// new each time, even if it says the same; so does a monitor whose clock is dead.
func identified(m *hl7.Message, arrived time.Time, zone *time.Location) bool {
	at := m.Header().Field(7)
	if at.Empty() {
		if obr, ok := m.First("OBR"); ok {
			at = obr.Field(7)
		}
	}
	t, err := at.Time(zone)
	return err == nil && t.Precision >= hl7.Second && t.Sub(arrived).Abs() < maxSkew
}

// maxSkew is how far a monitor's clock may be off, an unknown time zone included.
const maxSkew = 24 * time.Hour

// mapped converts the parsed message; a fault in the mapping costs this message its Bundle, not the box its life.
func (c *converter) mapped(m *hl7.Message, at mapping.Context) (res mapping.Result, err error) {
	defer func() {
		if e := recover(); e != nil {
			err = &hl7.Error{Code: hl7.CodeInternal, What: fmt.Sprintf("the conversion failed (%T)", e), Remedy: "report this message's structure to the maintainers; its bytes are kept"}
			c.converter = mapping.NewConverter(c.monitor.Dialect)
		}
	}()
	return c.converter.Convert(m, at)
}

// id makes a control id for an acknowledgement (MSH-10), unique per monitor.
func (c *converter) id(t time.Time) string {
	c.answered++
	return strconv.FormatInt(t.UnixMilli(), 36) + strconv.FormatUint(c.answered, 36)
}

// asHL7 gives err the form that ERR needs.
func asHL7(err error) *hl7.Error {
	if e := (*hl7.Error)(nil); errors.As(err, &e) {
		return e
	}
	return &hl7.Error{Code: hl7.CodeInternal, What: err.Error()}
}
