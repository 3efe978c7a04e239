package view

import (
	"math"
	"strings"
	"testing"
	"time"
)

const minute = int64(60_000)

func draw(tr *trace, from, to int64) *chart {
	return trendChart("Heart rate", "/min", []*trace{tr}, time.UnixMilli(from), time.UnixMilli(to), 200, 60, false, false)
}

// Where nothing was measured, nothing is drawn.
func TestTrendHasGaps(t *testing.T) {
	start := noon.UnixMilli()
	tr := &trace{}
	for s := range int64(120) {
		if s < 40 || s > 80 {
			tr.add(start+s*1000, 70, minute)
		}
	}
	if c := draw(tr, start, start+2*minute); len(c.Lines[0].Path) != 2 {
		t.Errorf("a silence of 40 s in values of each second is drawn as %d lines, want 2", len(c.Lines[0].Path))
	}
	tr = &trace{}
	for s := range int64(120) {
		tr.add(start+s*1000, map[bool]float64{true: nan, false: 70}[s >= 50 && s < 60], minute)
	}
	if c := draw(tr, start, start+2*minute); len(c.Lines[0].Path) != 2 {
		t.Errorf("ten seconds of \"no value\" are drawn as %d lines, want 2", len(c.Lines[0].Path))
	}
	if c := draw(&trace{}, start, start+minute); c != nil {
		t.Error("a chart of nothing")
	}
}

// A short dip stays visible for the whole retention, and the memory stays bounded.
func TestTrendKeepsDips(t *testing.T) {
	start := noon.UnixMilli()
	tr := &trace{}
	for s := range int64(6 * 3600) {
		v := 97.0
		if s == 1800 {
			v = 61
		}
		tr.add(start+s*1000, v, minute)
	}
	if len(tr.recent) > 2*maxPoints || len(tr.buckets) > maxBuckets {
		t.Fatalf("%d points and %d minutes are kept", len(tr.recent), len(tr.buckets))
	}
	c := draw(tr, start, start+360*minute)
	if !strings.Contains(c.Label, "last 6 h: from 61 to 97 /min") {
		t.Errorf("the dip is lost: %q", c.Label)
	}
	if n := len(c.Lines[0].Path); n != 1 {
		t.Errorf("six hours without a gap are drawn as %d lines", n)
	}
}

// Late points find their place in time.
func TestTrendTakesLatePoints(t *testing.T) {
	start := noon.UnixMilli()
	tr := &trace{}
	for _, s := range []int64{0, 30, 10, 20, 10} {
		tr.add(start+s*1000, float64(60+s), minute)
	}
	for i := 1; i < len(tr.recent); i++ {
		if tr.recent[i].ms < tr.recent[i-1].ms {
			t.Fatalf("points are not in order: %v", tr.recent)
		}
	}
	if len(tr.recent) != 4 || tr.buckets[0].last != 90 || tr.buckets[0].low != 60 {
		t.Errorf("points %v, minutes %v", tr.recent, tr.buckets)
	}
}

func TestChartsOfOddNumbers(t *testing.T) {
	start := noon.UnixMilli()
	for _, values := range [][]float64{{0, 0}, {1e308, -1e308}, {math.SmallestNonzeroFloat64, 0}, {-5}} {
		tr := &trace{}
		for i, v := range values {
			tr.add(start+int64(i)*1000, v, minute)
		}
		if c := draw(tr, start, start+minute); c != nil {
			for _, l := range c.Lines {
				for _, p := range append(l.Path, l.Band...) {
					if strings.Contains(p, "NaN") || strings.Contains(p, "Inf") {
						t.Errorf("%v is drawn as %q", values, p)
					}
				}
			}
		}
	}
}

func TestSampledData(t *testing.T) {
	w := waveOf(&sampledData{Period: "4", Factor: "0.5", Origin: quantity{Value: "10", Code: "mV"}, Dimensions: 1, Data: "0 2 E 4"})
	if w == nil || len(w.samples) != 4 || w.samples[1] != 11 || w.samples[2] == w.samples[2] || w.seconds != 0.016 {
		t.Fatalf("samples %+v", w)
	}
	if c := waveChart("ECG", w, 100, 40); len(c.Lines[0].Path) != 1 {
		t.Errorf("an error sample does not break the line: %v", c.Lines[0].Path)
	}
	if w := waveOf(&sampledData{Period: "4", Data: strings.Repeat("1 ", 100_000)}); len(w.samples) != maxWave {
		t.Errorf("%d samples are kept", len(w.samples))
	}
}

// Deep or long JSON costs no more than it is worth.
func TestPrettyIsBounded(t *testing.T) {
	if got, _ := pretty([]byte(`{"value":72.50}`)); got != "{\n  \"value\": 72.50\n}" {
		t.Errorf("%q", got)
	}
	deep := strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000)
	if got, _ := pretty([]byte(deep)); len(got) > len(deep) {
		t.Errorf("%d bytes of brackets became %d", len(deep), len(got))
	}
	if got, cut := pretty([]byte(strings.Repeat(" ", 3*maxShownBundle))); !cut || len(got) > 2*maxShownBundle {
		t.Errorf("%d bytes are shown", len(got))
	}
}

func TestNaturalOrder(t *testing.T) {
	for _, c := range [][2]string{{"Bed 2", "Bed 10"}, {"Bed 02", "Bed 10"}, {"A", "B"}, {"Bed", "Bed 1"}, {"ICU 1 / 9", "ICU 2 / 1"}} {
		if natural(c[0], c[1]) >= 0 || natural(c[1], c[0]) <= 0 {
			t.Errorf("%q does not stand before %q", c[0], c[1])
		}
	}
}
