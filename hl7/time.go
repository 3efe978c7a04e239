package hl7

import (
	"errors"
	"strings"
	"time"
)

// Precision says how much of a time was sent.
type Precision uint8

// Precisions, coarse to fine.
const (
	NoPrecision Precision = iota
	Year
	Month
	Day
	Hour
	Minute
	Second
	Fraction // of a second
)

// Time is a DTM, DT or TS value (HL7 v2.9 §2A.2.20 to 2A.2.22, §2.A.79 of v2.5).
type Time struct {
	time.Time           // the earliest instant that the value may mean
	Precision Precision // what was sent
	Digits    int       // of the fraction of a second
	ZoneGiven bool      // the value has its own offset from UTC; if not, the zone is the caller's assumption
	Bent      string    // codes of deviations from the standard, comma separated; "" if none
}

// Codes of Time.Bent.
const (
	BentBlanks      = "blanks"            // blanks around or inside
	BentNoDot       = "fraction-no-dot"   // 20260124124738000: milliseconds without dot
	BentLong        = "fraction-long"     // more than four digits after the dot
	BentISO         = "iso-8601"          // 2012-09-09T12:00:00
	BentZone        = "zone-form"         // Z, +08, +08:00
	BentLeap        = "leap-second"       // second 60, taken as the second after
	BentGap         = "zone-gap"          // a local time that the zone's clock change skips; taken after it
	BentAmbiguous   = "zone-ambiguous"    // a local time that the zone's clock change repeats; the first is taken
	BentDotNoDigits = "fraction-no-digit" // a dot and nothing after it
)

// ErrNoTime says that the sender has no time: an empty or null value, only
// zeros, or 30 December 1899 (day 0 of some senders' calendars).
var ErrNoTime = errors.New("no time was sent")

func errTime() *Error {
	return &Error{Code: CodeDataType, What: "cannot read a time", Remedy: "the form is YYYYMMDDHHMMSS.SSSS+ZZZZ, cut from the right"}
}

// ParseTime reads a time of any precision: YYYY[MM[DD[HH[MM[SS[.S[S[S[S]]]]]]]]][+/-ZZZZ],
// with the degree of precision of old versions as second component (YYYYMMDD^D),
// and the bent forms that monitors send. A value without offset is in zone,
// where nil means UTC. The error is ErrNoTime or an *Error without location.
func ParseTime(s string, zone *time.Location) (Time, error) { return parseTime(s, zone) }

// Time reads the value as ParseTime does, without a copy. An *Error has no location.
func (v Value) Time(zone *time.Location) (Time, error) { return parseTime(v.Raw(), zone) }

func parseTime[T string | []byte](s T, zone *time.Location) (Time, error) {
	var t Time
	bend := func(code string) {
		switch {
		case t.Bent == "":
			t.Bent = code
		case !strings.Contains(t.Bent, code):
			t.Bent += "," + code
		}
	}
	for len(s) > 0 && isBlank(s[0]) {
		bend(BentBlanks)
		s = s[1:]
	}
	for len(s) > 0 && isBlank(s[len(s)-1]) {
		bend(BentBlanks)
		s = s[:len(s)-1]
	}
	var degree byte
	for i := 0; i < len(s); i++ {
		if s[i] == '^' {
			if i+2 == len(s) {
				degree = s[i+1]
			} else if i+1 < len(s) {
				return Time{}, errTime()
			}
			s = s[:i]
			break
		}
	}
	if len(s) == 0 || len(s) == 2 && s[0] == '"' && s[1] == '"' {
		return Time{}, ErrNoTime
	}
	if len(s) > 40 {
		return Time{}, errTime()
	}

	// Digits of date and time, up to the dot or the zone.
	var digits [18]byte
	n, i := 0, 0
	iso := false
	for ; i < len(s); i++ {
		c := s[i]
		switch {
		case c >= '0' && c <= '9':
			if n == len(digits) {
				return Time{}, errTime()
			}
			digits[n] = c - '0'
			n++
			continue
		case c == '-' && (n == 4 && i == 4 || n == 6 && i == 7 && iso) && isISODate(s):
			iso = true
			continue
		case (c == 'T' || c == ' ') && n == 8 && i+1 < len(s) && isDigit(s[i+1]):
			if c == 'T' {
				iso = true
			} else {
				bend(BentBlanks)
			}
			continue
		case c == ':' && (n == 10 || n == 12) && i+1 < len(s) && isDigit(s[i+1]):
			iso = true
			continue
		}
		break
	}
	if iso {
		bend(BentISO)
	}
	nanos, scale := 0, 100_000_000
	fraction := func(d byte) {
		nanos += int(d) * scale
		scale /= 10
		t.Digits++
	}
	if n > 14 {
		bend(BentNoDot)
		for _, d := range digits[14:n] {
			fraction(d)
		}
		n = 14
	}
	if i < len(s) && (s[i] == '.' || iso && s[i] == ',') {
		if n != 14 || t.Digits > 0 {
			return Time{}, errTime()
		}
		for i++; i < len(s) && isDigit(s[i]); i++ {
			if t.Digits == 9 {
				return Time{}, errTime()
			}
			fraction(s[i] - '0')
		}
		if t.Digits > 4 {
			bend(BentLong)
		}
		if t.Digits == 0 {
			bend(BentDotNoDigits)
		}
	}
	number := func(from, to int) int {
		v := 0
		for _, d := range digits[from:to] {
			v = v*10 + int(d)
		}
		return v
	}
	zero := nanos == 0
	for _, d := range digits[:n] {
		zero = zero && d == 0
	}
	if n == 0 {
		return Time{}, errTime()
	}
	if zero {
		return Time{}, ErrNoTime
	}
	year, month, day, hour, minute, second := 0, 1, 1, 0, 0, 0
	switch n {
	case 14:
		second = number(12, 14)
		t.Precision++
		fallthrough
	case 12:
		minute = number(10, 12)
		t.Precision++
		fallthrough
	case 10:
		hour = number(8, 10)
		t.Precision++
		fallthrough
	case 8:
		day = number(6, 8)
		t.Precision++
		fallthrough
	case 6:
		month = number(4, 6)
		t.Precision++
		fallthrough
	case 4:
		year = number(0, 4)
		t.Precision++
	default:
		return Time{}, errTime()
	}
	if t.Digits > 0 {
		t.Precision = Fraction
	}
	if year == 1899 && month == 12 && day == 30 {
		return Time{}, ErrNoTime
	}
	if year == 0 || month < 1 || month > 12 || day < 1 || day > daysIn(year, month) || hour > 23 || minute > 59 || second > 60 {
		return Time{}, errTime()
	}
	if second == 60 {
		bend(BentLeap)
	}

	if i < len(s) {
		offset, form, ok := parseOffset(s[i:])
		if !ok {
			return Time{}, errTime()
		}
		if form {
			bend(BentZone)
		}
		t.ZoneGiven = true
		zone = time.FixedZone("", offset*60)
		if offset == 0 {
			zone = time.UTC
		}
	} else if zone == nil {
		zone = time.UTC
	}
	t.Time = time.Date(year, time.Month(month), day, hour, minute, second, nanos, zone)
	if !t.ZoneGiven && zone != time.UTC {
		if m := time.Date(year, time.Month(month), day, hour, minute, 0, 0, zone); m.Hour() != hour || m.Minute() != minute {
			// Taken with the offset before the change, so that it comes after the gap and no day is lost.
			_, offset := m.Add(-3 * time.Hour).Zone()
			t.Time = time.Date(year, time.Month(month), day, hour, minute, second, nanos, time.UTC).
				Add(-time.Duration(offset) * time.Second).In(zone)
			bend(BentGap)
		} else if first, twice := repeated(t.Time); twice {
			t.Time = first
			bend(BentAmbiguous)
		}
	}
	if degree != 0 {
		p := strings.IndexByte("YLDHMS", degree) // v2.2 TS: year, month, day, hour, minute, second
		if p < 0 {
			return Time{}, errTime()
		}
		t.Precision = min(t.Precision, Year+Precision(p))
	}
	return t, nil
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }
func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// isISODate tells 2012-09 and 2012-09-01 from 2012-0400 (a year and a zone).
func isISODate[T string | []byte](s T) bool {
	if len(s) == 7 {
		return true
	}
	return len(s) >= 10 && s[7] == '-'
}

func daysIn(year, month int) int {
	switch month {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}

// parseOffset reads +ZZZZ, -ZZZZ and the bent forms Z, +ZZ, +ZZ:ZZ, in minutes.
func parseOffset[T string | []byte](s T) (minutes int, bent, ok bool) {
	if len(s) == 1 && s[0] == 'Z' {
		return 0, true, true
	}
	if s[0] != '+' && s[0] != '-' {
		return 0, false, false
	}
	var d [4]int
	n := 0
	for i := 1; i < len(s); i++ {
		if s[i] == ':' && i == 3 && len(s) == 6 {
			bent = true
			continue
		}
		if !isDigit(s[i]) || n == 4 {
			return 0, false, false
		}
		d[n] = int(s[i] - '0')
		n++
	}
	if n == 2 {
		bent = true
	} else if n != 4 {
		return 0, false, false
	}
	h, m := d[0]*10+d[1], d[2]*10+d[3]
	if minutes = h*60 + m; m > 59 || minutes > 14*60 {
		return 0, false, false
	}
	if s[0] == '-' {
		minutes = -minutes
	}
	return minutes, bent, true
}

// repeated gives the first of two instants with the same local time, if there are two.
func repeated(t time.Time) (first time.Time, twice bool) {
	_, now := t.Zone()
	_, before := t.Add(-3 * time.Hour).Zone()
	_, after := t.Add(3 * time.Hour).Zone()
	for _, other := range [...]int{before, after} {
		if other == now {
			continue
		}
		u := t.Add(time.Duration(now-other) * time.Second)
		if _, o := u.Zone(); o == other {
			if u.Before(t) {
				t = u
			}
			return t, true
		}
	}
	return t, false
}
