package mapping

import (
	"errors"
	"strings"
	"time"

	"github.com/vitalgate/vitalgate/fhir"
	"github.com/vitalgate/vitalgate/hl7"
)

// zone says how times without an offset are read in one message.
type zone struct {
	loc   *time.Location // nil: not known
	basis string         // time-basis code to record, "" where the standard itself says so
}

// Codes of the time-basis extension.
const (
	basisZone      = "zone-configured" // no offset sent: the configured zone of the monitor was taken
	basisUTC       = "zone-utc"        // no offset sent: UTC by the dialect's rule
	basisUnknown   = "zone-unknown"    // no offset sent and no zone configured: only the date is stated
	basisAmbiguous = "zone-ambiguous"  // the local time exists twice (end of summer time): the first was taken
	basisMessage   = "message-time"    // MSH-7 was taken: the row and its order have no time
	basisArrival   = "arrival"         // the arrival was taken: the message has no time
)

// zoneOf: an offset in MSH-7 holds for the whole message (HL7 v2.9 §2.14.9.7: "If the time zone is specified, it
// will be used throughout the message as the default time zone"); else the dialect's rule or the configured zone.
func (c *Converter) zoneOf(msh7 hl7.Value) zone {
	if t, err := msh7.Time(time.UTC); err == nil && t.ZoneGiven {
		return zone{loc: t.Location()}
	}
	if c.d.Zone == "utc" {
		return zone{time.UTC, basisUTC}
	}
	if c.at.Zone != nil {
		return zone{c.at.Zone, basisZone}
	}
	return zone{nil, basisUnknown}
}

// stamp is a point in time as FHIR says it.
type stamp struct {
	at     time.Time // zero where it cannot be placed on the time line
	text   string    // FHIR dateTime, "" none
	raw    string    // what was sent, where only its date could be used
	basis  [2]string // time-basis codes
	own    bool      // the row itself states it
	absent string    // data-absent-reason code where text is ""
}

func (s *stamp) addBasis(code string) {
	if code == "" {
		return
	}
	if s.basis[0] == "" {
		s.basis[0] = code
	} else if s.basis[0] != code {
		s.basis[1] = code
	}
}

// before says whether s is earlier than t, by their dates where one of them has no hour.
func (s stamp) before(t stamp) bool {
	if !s.at.IsZero() && !t.at.IsZero() {
		return s.at.Before(t.at)
	}
	n := min(len(s.text), len(t.text), len("2006-01-02"))
	return s.text[:n] < t.text[:n]
}

// timeCache holds the last time read: nearly always all rows of a message carry the same one.
type timeCache struct {
	valid bool
	raw   string
	stamp stamp
	ok    bool
}

// stampOf reads a DTM or TS. ok is false where there is none, or none that can be read (then an Event says so).
func (c *Converter) stampOf(v hl7.Value, s hl7.Segment, field int) (stamp, bool) {
	raw := v.Raw()
	if len(raw) == 0 {
		return stamp{}, false
	}
	if c.times.valid && string(raw) == c.times.raw {
		return c.times.stamp, c.times.ok
	}
	c.times = timeCache{valid: true}
	start := len(c.arena)
	c.arena = append(c.arena, raw...)
	c.times.raw = c.since(start)
	t, err := v.Time(c.zone.loc)
	if err != nil {
		if !errors.Is(err, hl7.ErrNoTime) {
			c.event(EventTimeBad, s, field, "the time cannot be read")
		}
		return stamp{}, false
	}
	if y := t.Year(); y < 1970 || y > 9998 {
		c.event(EventTimeBad, s, field, "the time lies outside of any monitor's life")
		return stamp{}, false
	}
	st := stamp{}
	start = len(c.arena)
	switch {
	case t.Precision == hl7.Year:
		c.arena = t.AppendFormat(c.arena, "2006")
	case t.Precision == hl7.Month:
		c.arena = t.AppendFormat(c.arena, "2006-01")
	case t.Precision == hl7.Day:
		c.arena = t.AppendFormat(c.arena, "2006-01-02")
	case !t.ZoneGiven && c.zone.loc == nil:
		c.arena = t.AppendFormat(c.arena, "2006-01-02")
		st.raw = c.times.raw
		c.event(EventZoneUnknown, s, field, "the time has no offset from UTC and the monitor has no configured zone: only the date is used")
		st.addBasis(basisUnknown)
	default:
		c.arena = appendDateTime(c.arena, t)
		st.at = t.Time
		if !t.ZoneGiven {
			st.addBasis(c.zone.basis)
			if strings.Contains(t.Bent, hl7.BentAmbiguous) {
				st.addBasis(basisAmbiguous)
			}
		}
	}
	st.text = c.since(start)
	c.times.stamp, c.times.ok = st, true
	return st, true
}

// observed reads the time of an observation. What is less exact than a day is no such time (FHIR R4 vital signs, vs-1).
func (c *Converter) observed(s hl7.Segment, field int) (stamp, bool) {
	st, ok := c.stampOf(s.Field(field), s, field)
	if ok && len(st.text) < len("2006-01-02") {
		c.event(EventTimeBad, s, field, "the time is less exact than a day")
		return stamp{}, false
	}
	return st, ok
}

// fractions of a second by number of digits.
const fractions = "2006-01-02T15:04:05.000000000"

// appendDateTime writes t with the digits that were sent; seconds that were not are 00 (FHIR R4 datatypes.html#dateTime:
// "Seconds must be provided due to schema type constraints but may be zero-filled").
func appendDateTime(b []byte, t hl7.Time) []byte {
	layout := fractions[:19]
	if t.Digits > 0 {
		layout = fractions[:20+t.Digits]
	}
	b = t.AppendFormat(b, layout)
	return t.AppendFormat(b, "Z07:00")
}

// when gives the time of a row: OBX-14, else its OBR's observation time, else MSH-7, else the arrival. What is not
// the row's or the order's own time is recorded as such.
func (c *Converter) when(s hl7.Segment, g *group) stamp {
	if st, ok := c.observed(s, 14); ok {
		st.own = true
		return st
	}
	if raw := s.Field(14).Raw(); len(raw) > 0 && strings.Trim(string(raw), `0.+- "`) != "" {
		// The row has a time of its own that cannot be read. Its order's is another: an old pressure would look new.
		return stamp{raw: c.text(s.Field(14)), own: true, absent: "unknown"}
	}
	if g.has {
		return g.start
	}
	if st, ok := c.observed(c.m.Header(), 7); ok {
		if !g.told {
			g.told = true
			c.event(EventTimeMessage, s, 14, "no observation time: the message's own time is used")
		}
		st.addBasis(basisMessage)
		return st
	}
	if !c.at.Arrived.IsZero() {
		if !g.told {
			g.told = true
			c.event(EventTimeArrival, s, 14, "no time in the message: its arrival is used")
		}
		start := len(c.arena)
		c.arena = c.at.Arrived.UTC().AppendFormat(c.arena, "2006-01-02T15:04:05.000Z07:00")
		return stamp{at: c.at.Arrived, text: c.since(start), basis: [2]string{basisArrival}}
	}
	if !g.told {
		g.told = true
		c.event(EventTimeMissing, s, 14, "no time in the message and no arrival known")
	}
	return stamp{absent: "unknown"}
}

// group is one OBR and what its rows inherit from it.
type group struct {
	has    bool
	told   bool
	start  stamp
	end    stamp
	device int32 // last equipment that a row of it named, -1 none
	alert  fhir.Identifier
}

// readGroup reads an OBR. IHE DEV TF Vol. 2 §B.7: OBR-7 and OBR-8 bound the time of its observations; some Philips
// exports use OBR-14 instead.
func (c *Converter) readGroup(s hl7.Segment) int32 {
	g := group{device: -1}
	if s.Name() != "" {
		if c.kind == KindAlarm {
			g.alert = c.alertInstance(s)
		}
		g.start, g.has = c.observed(s, 7)
		if !g.has {
			g.start, g.has = c.observed(s, 14)
		} else if end, ok := c.observed(s, 8); ok && end.raw == "" && g.start.raw == "" && !end.at.Before(g.start.at) {
			g.end = end
		}
	}
	c.groups = append(c.groups, g)
	return int32(len(c.groups) - 1)
}
