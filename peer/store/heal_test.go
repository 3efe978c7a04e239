package store

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/peer/peertest"
	"github.com/vitalgate/vitalgate/record/evidence"
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

// missing are the runs of records that are missing.
func missing(b *Box) (all [][2]uint64) {
	for _, g := range b.Gaps() {
		all = append(all, [2]uint64{g.From, g.To})
	}
	slices.SortFunc(all, func(a, b [2]uint64) int { return int(a[0]) - int(b[0]) })
	return all
}

// other is another peer that has the log of the box but for the records from one index up to another, and counts what it is asked for.
type other struct {
	t        *testing.T
	box      *peertest.Box
	from, to uint64
	given    int
}

func (o *other) ask(from, most uint64, take func([]byte) bool) error {
	for _, p := range o.box.Log[from:] {
		if p.Index >= o.from && p.Index < o.to {
			continue
		}
		if most == 0 {
			return nil
		}
		most--
		o.given++
		if !take(messages(o.t, p)[0].Data) {
			return nil
		}
	}
	return nil
}

// leapt is a store that has gone on without records of the box.
func leapt(t *testing.T, dir string, b *peertest.Box, before, without, after int) *Box {
	t.Helper()
	s := New(Options{Dir: filepath.Join(dir, "store"), Quarantine: filepath.Join(dir, "quarantine"), Evidence: filepath.Join(dir, "evidence"), Patience: time.Nanosecond})
	t.Cleanup(func() { s.Close() })
	box, err := s.Box(registration(t, b))
	if err != nil {
		t.Fatal(err)
	}
	for range before {
		add(t, box, messages(t, b.Record(10)...)...)
	}
	for range without {
		b.Record(10)
	}
	for range after {
		m := messages(t, b.Record(10)...)
		add(t, box, m...)
		add(t, box, m...) // they are offered again when the patience is over
	}
	return box
}

// Damage beside records that nobody has is mended with what others have, and what they have not is asked for by itself from then on.
func TestDamageBesideAGapIsMended(t *testing.T) {
	dir, b := t.TempDir(), newBox(t, "f1/gw1")
	box := leapt(t, dir, b, 3, 1, 2)
	lost := missing(box)
	if len(lost) != 1 || box.Size() != uint64(len(b.Log)) {
		t.Fatalf("missing %v of %d records, %d are stored", lost, len(b.Log), box.Size())
	}
	files, err := filepath.Glob(filepath.Join(LogDir(filepath.Join(dir, "store"), b.ID), "*.log"))
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	copy(text[len(text)/2:], make([]byte, 512))
	if err := os.WriteFile(files[0], text, 0o600); err != nil {
		t.Fatal(err)
	}
	scrub := func() {
		t.Helper()
		if err := box.Scrub(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	mend := func(o *other) (err error) {
		for _, g := range box.Gaps() {
			err = errors.Join(err, box.Mend(g, o.ask))
		}
		return err
	}
	scrub()
	if got := missing(box); len(got) != 2 || got[1] != lost[0] {
		t.Fatalf("missing %v, want something damaged before %v", got, lost)
	}
	less := &other{t: t, box: b, from: lost[0][0] - 2, to: lost[0][1]} // it has less than can be read here
	if err := mend(less); err == nil || len(missing(box)) != 2 {
		t.Errorf("missing %v after a peer that has less gave it: %v", missing(box), err)
	}
	all := &other{t: t, box: b, from: lost[0][0], to: lost[0][1]}
	for range 2 {
		mend(all)
		if got := missing(box); !slices.Equal(got, lost) {
			t.Fatalf("missing %v, want %v alone", got, lost)
		}
		scrub()
	}
	if limit := int(lost[0][1]) + 10; all.given > limit { // the damaged part once, and each time for the rest what is sent in its place
		t.Errorf("%d records were sent, want %d at most", all.given, limit)
	}
	if err := mend(&other{t: t, box: b}); err != nil || len(missing(box)) != 0 {
		t.Errorf("missing %v after all was given: %v", missing(box), err)
	}
	scrub()
	if got := missing(box); len(got) != 0 {
		t.Errorf("the scrub finds %v", got)
	}
}

// What is noted as missing and is here is asked of nobody, and no longer noted.
func TestNothingIsAskedThatIsHere(t *testing.T) {
	dir, b := t.TempDir(), newBox(t, "f1/gw1")
	_, box := open(t, dir, b)
	add(t, box, messages(t, b.Record(20)...)...)
	add(t, box, messages(t, b.Record(5)...)...)
	box.gap(Gap{3, 9, "damaged"})
	o := &other{t: t, box: b}
	if err := box.Mend(Gap{3, 9, "damaged"}, o.ask); err != nil || o.given != 0 || len(box.Gaps()) != 0 {
		t.Errorf("%d records were sent, missing %v: %v", o.given, box.Gaps(), err)
	}
}

// The evidence of a gap can be made before the log has gone on without the records, and after.
func TestMissingRecordsAreEvidenceAlsoAfterTheLogWentOn(t *testing.T) {
	dir, b := t.TempDir(), newBox(t, "f1/gw1")
	box := leapt(t, dir, b, 1, 2, 1)
	lost := missing(box)
	if len(lost) != 1 {
		t.Fatal(lost)
	}
	f, err := box.Missing(lost[0][0], lost[0][1])
	if err != nil || f == nil || f.Kind != evidence.Gap || f.From != lost[0][0] || f.To != lost[0][1] {
		t.Fatalf("%+v %v", f, err)
	}
	for what, run := range map[string][2]uint64{
		"a record before it is here": {lost[0][0] - 1, lost[0][1]},
		"a record behind it is here": {lost[0][0], lost[0][1] + 1},
		"nothing of it was signed":   {uint64(len(b.Log)), uint64(len(b.Log)) + 5},
	} {
		if f, err := box.Missing(run[0], run[1]); f != nil || err != nil {
			t.Errorf("%s: evidence %+v %v", what, f, err)
		}
	}
	add(t, box, messages(t, b.Record(5)[:3]...)...) // they wait for their checkpoint
	if held, err := box.Holds(uint64(len(b.Log))-4, uint64(len(b.Log))); !held || err != nil {
		t.Errorf("records that wait for their checkpoint are here: %v %v", held, err)
	}
}
