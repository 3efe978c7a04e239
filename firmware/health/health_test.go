package health_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/vitalgate/vitalgate/firmware/health"
)

func TestTheGravestConditionIsTheVerdict(t *testing.T) {
	var b health.Board
	if !b.Ready() || !strings.HasPrefix(b.Verdict(), "Working:") {
		t.Fatalf("an empty board: %s", b.Verdict())
	}
	b.Set(health.Condition{Code: "w", Severity: health.Warning, Sentence: "A small thing."})
	if !b.Ready() || !strings.Contains(b.Verdict(), "A small thing.") {
		t.Errorf("with a warning: %s", b.Verdict())
	}
	b.Set(health.Condition{Code: "c", About: "bed-1", Severity: health.Critical, Sentence: "A grave thing."})
	if b.Ready() || !strings.Contains(b.Verdict(), "A grave thing.") {
		t.Errorf("with a critical condition: %s", b.Verdict())
	}
	if got := b.Conditions(); len(got) != 2 || got[0].Code != "c" {
		t.Errorf("order: %+v", got)
	}
	if !b.Clear("c", "bed-1") || b.Clear("c", "bed-1") || !b.Ready() {
		t.Error("a condition that is over stays")
	}
}

func TestAConditionKeepsItsBeginning(t *testing.T) {
	var b health.Board
	if !b.Set(health.Condition{Code: "x", Sentence: "one"}) {
		t.Error("a new condition is not new")
	}
	since := b.Conditions()[0].Since
	if b.Set(health.Condition{Code: "x", Sentence: "two"}) {
		t.Error("an old condition is new")
	}
	if c := b.Conditions()[0]; !c.Since.Equal(since) || c.Sentence != "two" {
		t.Errorf("%+v", c)
	}
}

// A worse condition is not hidden by an older one of the same severity.
func TestTheTableGivesTheOrder(t *testing.T) {
	var b health.Board
	for _, k := range slices.Backward(health.Kinds()) {
		b.Set(health.Condition{Code: k.Code, Sentence: k.Code})
	}
	for i, c := range b.Conditions() {
		if want := health.Kinds()[i].Code; c.Code != want {
			t.Errorf("%d is %s, want %s", i, c.Code, want)
		}
	}
}
