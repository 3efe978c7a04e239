package hl7

import (
	"errors"
	"testing"
	"time"
	_ "time/tzdata"
)

var when = time.Date(2026, 11, 21, 6, 1, 2, 0, time.FixedZone("", 3600))

func TestTimesOfEveryPrecision(t *testing.T) { // §2A.2.20 DT, §2A.2.22 DTM
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	havana, err := time.LoadLocation("America/Havana")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		raw       string
		zone      *time.Location
		want      string
		precision Precision
		given     bool
		bent      string
	}{
		{"2026", nil, "2026-01-01T00:00:00Z", Year, false, ""},
		{"202611", nil, "2026-11-01T00:00:00Z", Month, false, ""},
		{"20261121", nil, "2026-11-21T00:00:00Z", Day, false, ""},
		{"2026112106", nil, "2026-11-21T06:00:00Z", Hour, false, ""},
		{"202611210601", nil, "2026-11-21T06:01:00Z", Minute, false, ""},
		{"20261121060102", nil, "2026-11-21T06:01:02Z", Second, false, ""},
		{"20261121060102.5", nil, "2026-11-21T06:01:02.5Z", Fraction, false, ""},
		{"20261121060102.0000", nil, "2026-11-21T06:01:02Z", Fraction, false, ""},
		{"20261121060102.1234+0530", nil, "2026-11-21T06:01:02.1234+05:30", Fraction, true, ""},
		{"20261121060102-0330", berlin, "2026-11-21T06:01:02-03:30", Second, true, ""},
		{"20261121060102+0000", berlin, "2026-11-21T06:01:02Z", Second, true, ""},
		{"20261121060102+1400", nil, "2026-11-21T06:01:02+14:00", Second, true, ""},
		{"2026+0100", nil, "2026-01-01T00:00:00+01:00", Year, true, ""},
		{"2026-0100", nil, "2026-01-01T00:00:00-01:00", Year, true, ""},
		{"202611210601+0100", nil, "2026-11-21T06:01:00+01:00", Minute, true, ""},
		{"20261121060102", berlin, "2026-11-21T06:01:02+01:00", Second, false, ""},
		{"20260721060102", berlin, "2026-07-21T06:01:02+02:00", Second, false, ""},
		{"20240229", nil, "2024-02-29T00:00:00Z", Day, false, ""},
		{"19600101000000", nil, "1960-01-01T00:00:00Z", Second, false, ""},
		// v2.2 TS: degree of precision as second component.
		{"20261121000000^D", nil, "2026-11-21T00:00:00Z", Day, false, ""},
		{"20261121^S", nil, "2026-11-21T00:00:00Z", Day, false, ""},
		{"20261121060102^", nil, "2026-11-21T06:01:02Z", Second, false, ""},
		// Bent forms.
		{"20260124124738000+0800", nil, "2026-01-24T12:47:38+08:00", Fraction, true, BentNoDot},
		{"20260124124738123", nil, "2026-01-24T12:47:38.123Z", Fraction, false, BentNoDot},
		{"20260124124738.123456789", nil, "2026-01-24T12:47:38.123456789Z", Fraction, false, BentLong},
		{"20260124124738.", nil, "2026-01-24T12:47:38Z", Second, false, BentDotNoDigits},
		{" 20260124124738 ", nil, "2026-01-24T12:47:38Z", Second, false, BentBlanks},
		{"20260124 124738", nil, "2026-01-24T12:47:38Z", Second, false, BentBlanks},
		{"2026-01-24", nil, "2026-01-24T00:00:00Z", Day, false, BentISO},
		{"2026-01", nil, "2026-01-01T00:00:00Z", Month, false, BentISO},
		{"2026-01-24T12:47:38", nil, "2026-01-24T12:47:38Z", Second, false, BentISO},
		{"2026-01-24T12:47:38.5+01:00", nil, "2026-01-24T12:47:38.5+01:00", Fraction, true, BentISO + "," + BentZone},
		{"20260124T124738Z", nil, "2026-01-24T12:47:38Z", Second, true, BentISO + "," + BentZone},
		{"20260124124738+08", nil, "2026-01-24T12:47:38+08:00", Second, true, BentZone},
		{"20260124124760", nil, "2026-01-24T12:48:00Z", Second, false, BentLeap},
		// Clock changes: 02:30 is not on 29 March 2026 and is twice on 25 October 2026.
		{"20260329023000", berlin, "2026-03-29T03:30:00+02:00", Second, false, BentGap},
		{"20261025023000", berlin, "2026-10-25T02:30:00+02:00", Second, false, BentAmbiguous},
		{"20261025013000", berlin, "2026-10-25T01:30:00+02:00", Second, false, ""},
		{"20261025033000", berlin, "2026-10-25T03:30:00+01:00", Second, false, ""},
		{"20240310", havana, "2024-03-10T01:00:00-04:00", Day, false, BentGap}, // midnight is skipped; the day stays
	} {
		t.Run(c.raw, func(t *testing.T) {
			got, err := ParseTime(c.raw, c.zone)
			if err != nil {
				t.Fatal(err)
			}
			if s := got.Time.Format(time.RFC3339Nano); s != c.want {
				t.Errorf("time is %s, want %s", s, c.want)
			}
			if got.Precision != c.precision || got.ZoneGiven != c.given || got.Bent != c.bent {
				t.Errorf("precision %d, zone given %v, bent %q; want %d, %v, %q", got.Precision, got.ZoneGiven, got.Bent, c.precision, c.given, c.bent)
			}
		})
	}
}

func TestNoTimeIsNotAnError(t *testing.T) {
	for _, raw := range []string{"", `""`, "   ", "00000000", "00000000000000", "0000", "18991230", "18991230000000", "00000000000000.000+0000"} {
		if _, err := ParseTime(raw, nil); !errors.Is(err, ErrNoTime) {
			t.Errorf("%q gives %v, want ErrNoTime", raw, err)
		}
	}
}

func TestWhatIsNoTimeIsRefused(t *testing.T) {
	for _, raw := range []string{
		"1", "20261", "2026112", "202611210", "2026112106010", "20261301", "20260230", "20250229", "20261121240000", "20261121066000",
		"20261121060161", "20261121060102+9900", "20261121060102+0160", "20261121060102+1401", "20261121060102+01000", "20261121060102x",
		".0000+0800", "+0100", "Aug 2, 2012", "12-16-2004", "12/16/2004", "2026-01-24T", "2026112106.5", "0000112106", "202600", "20261100",
		"20261121060102.1234567890", "20261121060102^X", "20261121060102^DD", "time", "20261121060102+", "1234567890123456789012345678901234567890123",
	} {
		got, err := ParseTime(raw, nil)
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Code != CodeDataType {
			t.Errorf("%q gives %v, %v; want code %d", raw, got.Time, err, CodeDataType)
		}
	}
}
