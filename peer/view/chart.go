package view

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A trace is one curve: the latest points one by one, and everything else by minute (of a six-hour retention) as the
// least, the greatest and the last value, so that a short dip stays visible and the memory stays bounded.
type trace struct {
	label   string
	recent  []point // by time
	buckets []bucket
}

type point struct {
	ms int64
	v  float64 // NaN: absent
}

type bucket struct {
	n               int64 // ms / width
	ms              int64 // of the last value
	low, high, last float64
}

func (tr *trace) add(ms int64, v float64, width int64) {
	i, found := slices.BinarySearchFunc(tr.recent, ms, func(p point, ms int64) int { return int(sign(p.ms - ms)) })
	if found && tr.recent[i].v == v {
		return
	}
	if i > 0 || len(tr.recent) < maxPoints {
		if len(tr.recent) >= 2*maxPoints {
			drop := len(tr.recent) - maxPoints
			tr.recent = append(tr.recent[:0], tr.recent[drop:]...)
			i = max(i-drop, 0)
		}
		tr.recent = slices.Insert(tr.recent, i, point{ms, v})
	}
	if v != v {
		return
	}
	n := ms / width
	j, found := slices.BinarySearchFunc(tr.buckets, n, func(b bucket, n int64) int { return int(sign(b.n - n)) })
	if found {
		b := &tr.buckets[j]
		b.low, b.high = min(b.low, v), max(b.high, v)
		if ms >= b.ms {
			b.ms, b.last = ms, v
		}
		return
	}
	tr.buckets = slices.Insert(tr.buckets, j, bucket{n, ms, v, v, v})
	if len(tr.buckets) > maxBuckets {
		tr.buckets = append(tr.buckets[:0], tr.buckets[len(tr.buckets)-maxBuckets:]...)
	}
}

func sign(n int64) int64 {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

// spans are the lengths of time a chart may show.
var spans = []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 3 * time.Hour, 6 * time.Hour}

// span is the shortest that reaches back to the first point.
func span(traces []*trace, now time.Time, retention time.Duration) time.Duration {
	first := now.UnixMilli()
	for _, tr := range traces {
		if len(tr.recent) > 0 {
			first = min(first, tr.recent[0].ms)
		}
		if len(tr.buckets) > 0 {
			first = min(first, tr.buckets[0].ms)
		}
	}
	age := time.Duration(now.UnixMilli()-first) * time.Millisecond
	for _, s := range spans {
		if age <= s && s <= retention {
			return s
		}
	}
	return retention
}

// A chart is a drawing in the coordinates of its SVG view box.
type chart struct {
	Width, Height int
	Label         string // the drawing in words
	Lines         []line
	Grid          []gridLine
	Times         []chartText
	Big           bool
}

type line struct {
	Class string
	Band  []string // polygons: least to greatest
	Path  []string // polylines
	Dots  []dot
}

type dot struct{ X, Y string }

type gridLine struct {
	Y, TextY string
	Text     string
}

type chartText struct {
	X, Anchor, Text string
}

// column is what falls on one step of the time axis.
type column struct {
	low, high, last float64
	ms              int64
	used, gap       bool
}

// trendChart draws the curves between from and to. Nothing is drawn where nothing was measured: a line is broken
// where points are missing for more than three times their usual distance, and where the monitor said "no value". single asks for the points alone.
func trendChart(name, unit string, traces []*trace, from, to time.Time, width, height int, big, single bool) *chart {
	c := &chart{Width: width, Height: height, Big: big}
	left, right, top, bottom := 2.0, float64(width)-4, 4.0, float64(height)-4
	if big {
		left, bottom = 44, float64(height)-18
	}
	columns := int(right-left) / 2
	start, end := from.UnixMilli(), to.UnixMilli()
	if columns < 2 || end <= start {
		return nil
	}
	step := float64(end-start) / float64(columns)
	low, high := math.Inf(1), math.Inf(-1)
	drawn := make([][]column, len(traces))
	gaps := make([]int64, len(traces))
	count := 0
	for i, tr := range traces {
		cols := make([]column, columns+1)
		put := func(ms int64, lo, hi, last float64) {
			if ms < start || ms > end {
				return
			}
			k := &cols[int(float64(ms-start)/step)]
			if last != last {
				k.gap = true
				return
			}
			if !k.used {
				*k = column{low: lo, high: hi, last: last, ms: ms, used: true, gap: k.gap}
				count++
			} else {
				k.low, k.high = min(k.low, lo), max(k.high, hi)
				if ms >= k.ms {
					k.ms, k.last = ms, last
				}
			}
			low, high = min(low, lo), max(high, hi)
		}
		exact := int64(math.MaxInt64)
		if len(tr.recent) > 0 {
			exact = tr.recent[0].ms
		}
		var distances []int64
		previous := int64(0)
		measure := func(ms int64) {
			if previous != 0 && ms > previous {
				distances = append(distances, ms-previous)
			}
			previous = ms
		}
		for _, b := range tr.buckets {
			if b.ms < exact {
				put(b.ms, b.low, b.high, b.last)
				measure(b.ms)
			}
		}
		for _, p := range tr.recent {
			put(p.ms, p.v, p.v, p.v)
			measure(p.ms)
		}
		gap := int64(15_000)
		if len(distances) > 0 {
			slices.Sort(distances)
			gap = max(gap, 3*distances[len(distances)/2])
			if exact > start && len(tr.buckets) > 1 {
				gap = max(gap, 3*60_000) // minutes stand between the older points
			}
		}
		drawn[i], gaps[i] = cols, max(gap, int64(3*step))
	}
	if count == 0 {
		return nil
	}
	least, greatest := low, high
	// A quiet signal stays a quiet line: the axis spans at least a fifth of the value.
	if pad := (math.Max(math.Abs(high), math.Abs(low))*0.2 - (high - low)) / 2; pad > 0 {
		low, high = low-pad, high+pad
	}
	if high-low < 1e-9 || math.IsInf(high-low, 0) {
		if math.IsInf(high-low, 0) {
			return nil
		}
		low, high = low-1, high+1
	}
	margin := (high - low) * 0.06
	low, high = low-margin, high+margin
	y := func(v float64) float64 { return bottom - (v-low)/(high-low)*(bottom-top) }
	x := func(ms int64) float64 { return left + float64(ms-start)/float64(end-start)*(right-left) }

	for i, cols := range drawn {
		l := line{Class: "c" + strconv.Itoa(i)}
		var path, upper, lower []string
		flush := func() {
			switch {
			case len(path) == 1:
				xs, ys, _ := strings.Cut(path[0], ",")
				l.Dots = append(l.Dots, dot{xs, ys})
			case len(path) > 1:
				l.Path = append(l.Path, strings.Join(path, " "))
				slices.Reverse(lower)
				l.Band = append(l.Band, strings.Join(append(upper, lower...), " "))
			}
			path, upper, lower = nil, nil, nil
		}
		previous := int64(0)
		lastX, lastY := "", ""
		for _, k := range cols {
			if k.gap && !k.used {
				flush()
				continue
			}
			if !k.used {
				continue
			}
			if single || previous != 0 && k.ms-previous > gaps[i] {
				flush()
			}
			previous = k.ms
			xs := coord(x(k.ms))
			lastX, lastY = xs, coord(y(k.last))
			path = append(path, xs+","+lastY)
			upper = append(upper, xs+","+coord(y(k.high)))
			lower = append(lower, xs+","+coord(y(k.low)))
			if k.gap {
				flush()
			}
		}
		flush()
		if lastX != "" {
			l.Dots = append(l.Dots, dot{lastX, lastY})
		}
		c.Lines = append(c.Lines, l)
	}
	c.Label = name + ", last " + spanWords(to.Sub(from)) + ": from " + number(least) + " to " + number(greatest)
	if unit != "" {
		c.Label += " " + unit
	}
	if big {
		c.Grid = []gridLine{{Y: coord(y(greatest)), TextY: coord(y(greatest) + 4), Text: number(greatest)}}
		if least != greatest {
			c.Grid = append(c.Grid, gridLine{Y: coord(y(least)), TextY: coord(y(least) + 4), Text: number(least)})
			if middle := (y(greatest) + y(least)) / 2; y(least)-y(greatest) < 13 { // keep the two texts apart
				c.Grid[0].TextY, c.Grid[1].TextY = coord(middle-2), coord(middle+10)
			}
		}
		c.Times = []chartText{
			{coord(left), "start", "−" + spanWords(to.Sub(from))},
			{coord(right), "end", "now"},
		}
	}
	return c
}

// waveChart draws one block of samples.
func waveChart(name string, w *wave, width, height int) *chart {
	low, high := float32(math.Inf(1)), float32(math.Inf(-1))
	for _, v := range w.samples {
		if v == v && !math.IsInf(float64(v), 0) {
			low, high = min(low, v), max(high, v)
		}
	}
	if low > high {
		return nil
	}
	if high == low {
		low, high = low-1, high+1
	}
	l := line{Class: "c0"}
	var path []string
	flush := func() {
		if len(path) > 1 {
			l.Path = append(l.Path, strings.Join(path, " "))
		}
		path = nil
	}
	for i, v := range w.samples {
		if v != v || math.IsInf(float64(v), 0) {
			flush()
			continue
		}
		px := 2 + float64(i)/float64(len(w.samples)-1)*float64(width-4)
		py := 4 + float64((high-v)/(high-low))*float64(height-8)
		path = append(path, coord(px)+","+coord(py))
	}
	flush()
	return &chart{Width: width, Height: height, Lines: []line{l},
		Label: name + ", one block of " + strconv.FormatFloat(w.seconds, 'g', 3, 64) + " s"}
}

func coord(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }

func number(v float64) string { return strconv.FormatFloat(v, 'g', 5, 64) }

func spanWords(d time.Duration) string {
	if d < time.Hour || d%time.Hour != 0 {
		return strconv.Itoa(int(d.Minutes())) + " min"
	}
	return strconv.Itoa(int(d.Hours())) + " h"
}
