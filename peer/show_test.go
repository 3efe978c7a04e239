package main

import (
	"testing"
	"time"
)

// A box that records a reading now and then is followed, however long one takes to show; one whose backlog comes in is not, until it
// comes in more slowly, and then the page goes on where it stopped, or with the newest that it has room for.
func TestThePageFollowsWhatItCanShow(t *testing.T) {
	for _, c := range []struct {
		n    int
		in   time.Duration
		each time.Duration
		many bool
	}{
		{32, time.Second, 100 * time.Millisecond, false},
		{1000, time.Second, time.Millisecond, false},
		{1001, time.Second, time.Millisecond, true},
		{1001, time.Second, time.Microsecond, false},
		{3000, time.Second, 50 * time.Microsecond, true},
		{3000, 4 * time.Second, 50 * time.Microsecond, false},
		{500, 250 * time.Millisecond, 60 * time.Microsecond, true},
	} {
		at := pace{each: c.each}
		if got := at.tooMany(c.n, c.in); got != c.many {
			t.Errorf("%d records in %v, each shown in %v: too many is %v", c.n, c.in, c.each, got)
		}
	}
	at := pace{behind: 100}
	for _, c := range []struct {
		index, size uint64
		lost        bool
	}{{99, 10_000, false}, {100, 100 + backlog, false}, {100, 101 + backlog, true}, {10_000, 10_001, false}} {
		if got := at.lost(c.index, c.size); got != c.lost {
			t.Errorf("record %d of %d: lost is %v", c.index, c.size, got)
		}
	}
	at.peeking = true
	if !at.lost(100, 101) || at.lost(99, 101) {
		t.Error("a look at the newest records does not end where they began to be the newest")
	}
}

// What came in while the page did not follow is shown when nothing more comes, and until then the newest is looked at.
func TestThePageGoesOnWhereItStopped(t *testing.T) {
	t.Parallel()
	size := uint64(500)
	grown := func(by uint64) func() uint64 {
		return func() uint64 { size += by; return size }
	}
	at := pace{behind: 1, each: time.Millisecond}
	if from := at.wait(t.Context(), grown(0), 300); from != 300 || at.peeking || at.behind != size {
		t.Errorf("nothing more came, and it goes on with record %d of %d (%+v)", from, size, at)
	}
	if from := at.wait(t.Context(), grown(1<<24), 300); from != size-backlogPage || !at.peeking || at.behind != size {
		t.Errorf("more and more came, and it looks from record %d of %d on (%+v)", from, size, at)
	}
	look, done := at.patience(t.Context())
	defer done()
	if _, ends := look.Deadline(); !ends {
		t.Error("a look at the newest waits for a record that need not come")
	}
	if from := at.wait(t.Context(), grown(0), size); from != size-viewRecords || at.peeking {
		t.Errorf("the backlog is here, and it goes on with record %d of %d (%+v)", from, size, at)
	}
}
