package view

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	maxShownRaw    = 256 << 10
	maxShownBundle = 512 << 10
	maxIndent      = 24 // depth of JSON that is still indented
	maxShownRows   = 500
)

type recordPage struct {
	Ref, Box, Kind          string
	Index, Epoch            uint64
	Monitor, Via            string
	Reason                  string
	Notes                   []string
	Pseudonym, Commit, Leaf string
	Observed, Arrived       time.Time
	Protection              string
	Hardware                bool
	Origin, Root            string
	Size, Counter           uint64
	Boot                    uint32
	Clock                   string
	Claims                  string
	Control, Sealed         bool
	Segments                []segment
	RawBytes                int
	RawCut                  bool
	Bundle                  string
	BundleBytes             int
	BundleCut               bool
	NotKept                 int
	Readings                []row
	Alarms                  []alarmRow
	Patient, Details, Place string
	Device                  string
	Unreadable, Skipped     int
	Problem                 string
	Demo                    bool
}

// segment is one line of an HL7 message: its name, and the rest.
type segment struct {
	Number     int
	Name, Rest string
}

func recordPageOf(e *entry, now time.Time) recordPage {
	p := recordPage{
		Ref: e.ref.String(), Box: e.Box(), Kind: e.kind, Index: e.index, Epoch: e.epoch,
		Monitor: e.monitor, Via: e.via, Reason: e.reason, Notes: e.notes,
		Pseudonym: e.pseudonym, Commit: e.commit, Leaf: e.leaf, Observed: e.observed, Arrived: e.arrived,
		Origin: e.checkpoint.origin, Root: e.checkpoint.root, Size: e.checkpoint.size, Counter: e.checkpoint.counter,
		Boot: e.checkpoint.boot, Clock: e.checkpoint.clock.String(), Claims: e.checkpoint.claims,
		Control:  e.kind == "boot" || e.kind == "epoch",
		Sealed:   e.sealed(),
		RawBytes: len(e.raw), BundleBytes: len(e.bundle), NotKept: e.cut,
	}
	p.Protection, p.Hardware = protectionWords(e.protection)
	p.Segments, p.RawCut = segments(e.raw)
	p.Bundle, p.BundleCut = pretty(e.bundle)

	c, why := readContents(e)
	p.Problem, p.Place, p.Device, p.Unreadable, p.Skipped, p.Demo = why, c.place, c.device, c.unreadable, c.skipped, c.demo
	for i := range c.readings[:min(len(c.readings), maxShownRows)] {
		s := shown{reading: c.readings[i], arrived: e.arrived, from: e.ref, protection: e.protection}
		s.at, s.byArrival, s.ahead = timeOf(s.claimed, s.dateOnly, e.observed, e.arrived)
		r := makeRow(&s, now)
		if s.wave != nil {
			r.Chart = waveChart(s.name, s.wave, 340, 72)
		}
		p.Readings = append(p.Readings, r)
		if p.Patient == "" {
			p.Patient, p.Details = s.patient.name, s.patient.details
		}
	}
	for i := range c.alarms[:min(len(c.alarms), maxShownRows)] {
		a := &c.alarms[i]
		at, _, _ := timeOf(a.claimed, a.dateOnly, e.observed, e.arrived)
		p.Alarms = append(p.Alarms, alarmRow{Text: a.text, Detail: a.detail, Demo: a.demo, At: at, Age: age(now, at)})
		if p.Patient == "" {
			p.Patient, p.Details = a.patient.name, a.patient.details
		}
	}
	if p.Patient == "" && p.Details != "" {
		p.Patient = "Name not given"
	}
	return p
}

// segments splits a message where its segments end, for a person to read. Bytes that are no text stand as \x….
func segments(raw []byte) (all []segment, cut bool) {
	if len(raw) > maxShownRaw {
		raw, cut = raw[:maxShownRaw], true
	}
	end := "\r"
	if bytes.IndexByte(raw[:max(len(raw)-1, 0)], '\r') < 0 {
		end = "\n"
	}
	for i, s := range strings.Split(strings.TrimRight(string(raw), "\r\n"), end) {
		s = strings.Trim(s, "\r\n")
		if s == "" {
			continue
		}
		name, rest := s, ""
		if len(s) >= 3 && isName(s[:3]) {
			name, rest = s[:3], s[3:]
		} else {
			name, rest = "", s
		}
		all = append(all, segment{i + 1, name, visible(rest)})
	}
	return all, cut
}

func isName(s string) bool {
	for i := range len(s) {
		if c := s[i]; !(c >= 'A' && c <= 'Z' || c >= '0' && c <= '9') {
			return false
		}
	}
	return true
}

// visible keeps text as it is and writes everything that would not be seen, or would be seen as something else, as an escape.
func visible(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && size == 1:
			b.WriteString(`\x` + strconv.FormatUint(uint64(s[0])|0x100, 16)[1:])
		case r == '\t' || r == ' ' || strconv.IsGraphic(r):
			b.WriteRune(r)
		default:
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		}
		s = s[size:]
	}
	return b.String()
}

// pretty indents JSON; the digits stay as they are. What is too deep or too long stands unindented and cut.
func pretty(data []byte) (text string, cut bool) {
	if len(data) <= maxShownBundle && depth(data) <= maxIndent {
		var b bytes.Buffer
		if json.Indent(&b, data, "", "  ") == nil {
			data = b.Bytes()
		}
	}
	if len(data) > 2*maxShownBundle {
		data, cut = data[:2*maxShownBundle], true
	}
	var b strings.Builder
	for i, line := range strings.Split(string(data), "\n") {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(visible(line))
	}
	return b.String(), cut
}

// depth is how deep the brackets of a JSON text nest; brackets in strings do not count.
func depth(data []byte) int {
	deepest, now, quoted := 0, 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			now++
			deepest = max(deepest, now)
		case c == '}' || c == ']':
			now--
		}
	}
	return deepest
}
