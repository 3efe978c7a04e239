package pipeline

import (
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/record"
)

// A message that is sent again is known while the clock on the wall is set both ways and the box starts again, and forgotten when its
// keys have grown old by the clock that nobody sets.
func TestResentIsKnownWhateverTheWallClockSays(t *testing.T) {
	dir := t.TempDir()
	at := moment{time.Date(2026, 3, 29, 1, 30, 0, 0, time.UTC), "a-boot", time.Hour}
	var kept []record.Digest
	start := func() *resent {
		t.Helper()
		r, damage, err := openResent(dir, func(uint64, func(record.Leaf)) error { return nil })
		if err != nil || damage != nil {
			t.Fatal(err, damage)
		}
		r.now = func() moment { return at }
		for _, d := range kept { // which openResent reads from the leaves
			r.add(d)
		}
		return r
	}
	r := start()
	at = thisMoment() // openResent has made its first key now
	look := func() bool {
		t.Helper()
		d, known, err := r.digest("bed-1", "p", []byte("message"))
		if err != nil {
			t.Fatal(err)
		}
		if !known {
			r.add(d)
			kept = append(kept, d)
		}
		return known
	}
	if look() {
		t.Fatal("known before it came")
	}
	for i, jump := range []time.Duration{time.Hour, -3 * time.Hour, 20 * time.Hour, -40 * time.Hour, time.Hour, -time.Hour} {
		at.wall, at.up = at.wall.Add(jump), at.up+time.Minute
		if i%2 == 1 {
			r = start()
		}
		if !look() {
			t.Fatalf("unknown after the clock was set by %v", jump)
		}
	}
	at.up += digestKeyAge
	if !look() {
		t.Fatal("unknown under the key before")
	}
	at.up += digestKeyAge
	if look() {
		t.Fatal("known though its keys are old")
	}
}
