package store

import (
	"slices"
	"testing"
)

// A scrub says what is missing as it found it, but for what was noted while it read.
func TestScrubKeepsWhatWasNotedMeanwhile(t *testing.T) {
	healed, stays, part := Gap{1, 3, "damaged"}, Gap{5, 7, "damaged"}, Gap{10, 20, "damaged"}
	noted, rest := Gap{30, 40, "nobody had them in time"}, Gap{15, 20, "damaged"}
	b := &Box{gaps: []Gap{healed, stays, part}}
	before := b.Gaps()
	b.gaps[2] = rest // Mend has filled a part
	b.gap(noted)
	b.scrubbed(before, []Gap{stays, part})
	if want := []Gap{stays, rest, noted}; !slices.Equal(b.Gaps(), want) {
		t.Errorf("missing after the scrub: %v, want %v", b.Gaps(), want)
	}
}
