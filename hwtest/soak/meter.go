package main

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vitalgate/vitalgate/hwtest/hospital"
)

// latencies collects how long things took, until it is asked.
type latencies struct {
	mu  sync.Mutex
	all []time.Duration
}

func (l *latencies) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, d)
}

// take gives median and 99th percentile of what was added since the last call, in milliseconds.
func (l *latencies) take() (p50, p99 float64) {
	l.mu.Lock()
	all := l.all
	l.all = make([]time.Duration, 0, len(all))
	l.mu.Unlock()
	if len(all) == 0 {
		return math.NaN(), math.NaN()
	}
	slices.Sort(all)
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	return ms(all[len(all)/2]), ms(all[len(all)*99/100])
}

// use is what a program takes of the machine.
type use struct{ rss, fds, goroutines, cpu float64 } // rss in MB; cpu in seconds, from its beginning

// sample is one measurement.
type sample struct {
	at                         float64 // seconds since the beginning
	acked, arrived             int
	ack50, ack99, hub50, hub99 float64 // ms: until AA; from the last byte at the box to the hub's verdict
	disk                       float64 // MB, of everything
	of                         []use   // as programs
}

// programs are who is measured, in the direction of the flow.
var programs = []string{"box", "ward", "hub"}

// meter measures a hospital.
type meter struct {
	h              *hospital.Hospital
	dir            string
	acked, arrived interface{ Count() int }
	ack, seen      *latencies
	began          time.Time
	samples        []sample
}

func (m *meter) measure(ctx context.Context) error {
	s := sample{at: time.Since(m.began).Seconds(), acked: m.acked.Count(), arrived: m.arrived.Count()}
	s.ack50, s.ack99 = m.ack.take()
	s.hub50, s.hub99 = m.seen.take()
	for i, p := range []*hospital.Process{m.h.Gateway, m.h.Ward, m.h.Hub} {
		u, err := m.use(ctx, p)
		if err != nil {
			return fmt.Errorf("cannot measure the %s: %w; its last words:\n%s", programs[i], err, p.Log(1500))
		}
		s.of = append(s.of, u)
	}
	err := filepath.WalkDir(m.dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil { // else it has just been removed
				s.disk += float64(info.Size()) / 1e6
			}
		}
		return nil
	})
	m.samples = append(m.samples, s)
	return err
}

// use asks a program for its figures, and the system for what it knows of it.
func (m *meter) use(ctx context.Context, p *hospital.Process) (u use, err error) {
	figures, err := m.h.Figures(ctx, p)
	if err != nil {
		return u, err
	}
	for name, to := range map[string]*float64{"process_resident_memory_bytes": &u.rss, "go_goroutines": &u.goroutines, "process_cpu_seconds_total": &u.cpu} {
		v, ok := figures[name]
		if !ok {
			return u, fmt.Errorf("%s does not tell its %s", m.h.Metrics(p), name)
		}
		*to = v
	}
	u.rss /= 1e6
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.PID()))
	u.fds = float64(len(fds))
	return u, err
}

// line is the last measurement for a person.
func (m *meter) line() string {
	s := m.samples[len(m.samples)-1]
	text := fmt.Sprintf("%6.0f s  acknowledged %d (AA in %.0f ms, p99 %.0f), at the hub %d (after %.0f ms, p99 %.0f), disk %.0f MB;", s.at, s.acked, s.ack50, s.ack99, s.arrived, s.hub50, s.hub99, s.disk)
	for i, u := range s.of {
		text += fmt.Sprintf("  %s %.1f MB %.0f fds %.0f goroutines", programs[i], u.rss, u.fds, u.goroutines)
	}
	return text
}

// Bounds of the judgement. A run fills caches at first (digests of messages that may be sent again, records of the page), so the
// first part says nothing, and a short run nothing but that there is a ceiling.
const (
	warm    = 0.25 // of the run is not judged
	blocks  = 12   // means of so many parts of the rest: single samples depend on each other, as the collector's saw-tooth does
	student = 2.23 // of 10 degrees of freedom, 95 %
	least   = 0.05 // growth over the judged part, as a share of the mean, that is no growth
	judged  = 20 * time.Minute
	ceiling = 512 // MB of each program
	stray   = 3   // descriptors or goroutines that a request under way may have
)

// judge says of each program whether it has grown.
func (m *meter) judge() (verdicts []string, ok bool) {
	ok = true
	rest := m.samples[int(warm*float64(len(m.samples))):]
	if len(rest) < 2*blocks {
		return []string{fmt.Sprintf("%d measurements are too few to judge by; let it run longer\n", len(m.samples))}, false
	}
	long := m.samples[len(m.samples)-1].at >= judged.Seconds()
	for i, name := range programs {
		of := func(what func(use) float64) (values []float64) {
			for _, s := range rest {
				values = append(values, what(s.of[i]))
			}
			return values
		}
		rss := of(func(u use) float64 { return u.rss })
		slope, errOf, mean := trend(rest, rss)
		hours := (rest[len(rest)-1].at - rest[0].at) / 3600
		verdict := "flat"
		if long && slope-errOf > 0 && slope*hours > least*mean {
			verdict, ok = "GROWS", false
		}
		if slices.Max(rss) > ceiling {
			verdict, ok = fmt.Sprintf("ABOVE %d MB", ceiling), false
		}
		if !long && verdict == "flat" {
			verdict = fmt.Sprintf("not judged: shorter than %v", judged)
		}
		text := fmt.Sprintf("%-4s memory %.1f MB (most %.1f), %+.2f ± %.2f MB an hour (95 %%): %s", name, mean, slices.Max(rss), slope, errOf, verdict)
		for what, values := range [][]float64{of(func(u use) float64 { return u.fds }), of(func(u use) float64 { return u.goroutines })} {
			third := len(values) / 3
			early, late := median(values[:third]), median(values[len(values)-third:])
			text += fmt.Sprintf("; %s %.0f, then %.0f", []string{"descriptors", "goroutines"}[what], early, late)
			if late > early+stray {
				text, ok = text+" GROWS", false
			}
		}
		if n := rest[len(rest)-1].acked - rest[0].acked; n > 0 {
			text += fmt.Sprintf("; processor %.0f µs a message", (rest[len(rest)-1].of[i].cpu-rest[0].of[i].cpu)/float64(n)*1e6)
		}
		verdicts = append(verdicts, text+"\n")
	}
	return verdicts, ok
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// trend fits a line through the means of parts of the run: its slope an hour, the 95 % error of that, and the mean.
func trend(samples []sample, values []float64) (slope, errOf, mean float64) {
	var x, y [blocks]float64
	for b := range blocks {
		from, to := b*len(values)/blocks, (b+1)*len(values)/blocks
		for i := from; i < to; i++ {
			x[b] += samples[i].at / 3600 / float64(to-from)
			y[b] += values[i] / float64(to-from)
		}
	}
	mx := 0.0
	for b := range blocks {
		mx, mean = mx+x[b]/blocks, mean+y[b]/blocks
	}
	sxx, sxy := 0.0, 0.0
	for b := range blocks {
		sxx += (x[b] - mx) * (x[b] - mx)
		sxy += (x[b] - mx) * (y[b] - mean)
	}
	slope = sxy / sxx
	left := 0.0
	for b := range blocks {
		d := y[b] - mean - slope*(x[b]-mx)
		left += d * d
	}
	return slope, student * math.Sqrt(left/(blocks-2)/sxx), mean
}

// write leaves the measurements and their picture in a folder.
func (m *meter) write(dir string) error {
	if len(m.samples) == 0 {
		return nil
	}
	var b strings.Builder
	b.WriteString("seconds\tacknowledged\tat_hub\tack_p50_ms\tack_p99_ms\thub_p50_ms\thub_p99_ms\tdisk_mb")
	for _, p := range programs {
		fmt.Fprintf(&b, "\t%s_mb\t%s_fds\t%s_goroutines\t%s_cpu_s", p, p, p, p)
	}
	for _, s := range m.samples {
		fmt.Fprintf(&b, "\n%.1f\t%d\t%d\t%.1f\t%.1f\t%.1f\t%.1f\t%.0f", s.at, s.acked, s.arrived, s.ack50, s.ack99, s.hub50, s.hub99, s.disk)
		for _, u := range s.of {
			fmt.Fprintf(&b, "\t%.1f\t%.0f\t%.0f\t%.1f", u.rss, u.fds, u.goroutines, u.cpu)
		}
	}
	b.WriteString("\n")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("cannot write the measurements: %w", err)
	}
	for name, text := range map[string]string{"soak.tsv": b.String(), "soak.svg": plot(m.samples)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("cannot write the measurements: %w", err)
		}
	}
	fmt.Printf("every measurement is in %s, drawn in %s\n", filepath.Join(dir, "soak.tsv"), filepath.Join(dir, "soak.svg"))
	return nil
}

// curve is one line of a panel.
type curve struct {
	name, colour string
	of           func(before, now sample) float64
}

// plot draws the samples: one panel a question, all over the same time.
func plot(samples []sample) string {
	colours := []string{"#0b6e4f", "#b5541c", "#3b4cc0"}
	panels := []struct {
		title  string
		curves []curve
	}{{"memory of each program, MB", nil}, {"goroutines", nil}, {"file descriptors", nil},
		{"messages a second", []curve{
			{"acknowledged", colours[0], func(b, s sample) float64 { return float64(s.acked-b.acked) / (s.at - b.at) }},
			{"verified at the hub", colours[2], func(b, s sample) float64 { return float64(s.arrived-b.arrived) / (s.at - b.at) }}}},
		{"ms until the monitor's AA", []curve{
			{"p50", colours[0], func(_, s sample) float64 { return s.ack50 }}, {"p99", colours[1], func(_, s sample) float64 { return s.ack99 }}}},
		{"ms until the hub's verdict", []curve{
			{"p50", colours[0], func(_, s sample) float64 { return s.hub50 }}, {"p99", colours[1], func(_, s sample) float64 { return s.hub99 }}}}}
	for i, name := range programs {
		panels[0].curves = append(panels[0].curves, curve{name, colours[i], func(_, s sample) float64 { return s.of[i].rss }})
		panels[1].curves = append(panels[1].curves, curve{name, colours[i], func(_, s sample) float64 { return s.of[i].goroutines }})
		panels[2].curves = append(panels[2].curves, curve{name, colours[i], func(_, s sample) float64 { return s.of[i].fds }})
	}
	const width, height, left, top, gap = 900, 110, 60, 24, 46
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width+left+20, len(panels)*(height+gap)+top)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/>`+"\n")
	last := samples[len(samples)-1].at
	for p, panel := range panels {
		most := 1.0
		for _, c := range panel.curves {
			for i := range samples {
				if v := c.of(samples[max(i-1, 0)], samples[i]); i > 0 && !math.IsNaN(v) {
					most = max(most, v)
				}
			}
		}
		y0 := top + p*(height+gap)
		fmt.Fprintf(&b, `<text x="%d" y="%d" font-weight="bold">%s</text>`, left, y0-6, panel.title)
		fmt.Fprintf(&b, `<path d="M%d %dv%dh%d" fill="none" stroke="#888"/>`, left, y0, height, width)
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%.0f</text><text x="%d" y="%d" text-anchor="end">0</text>`+"\n", left-6, y0+10, most, left-6, y0+height)
		for k, c := range panel.curves {
			fmt.Fprintf(&b, `<text x="%d" y="%d" fill="%s">%s</text>`, left+width-130*(len(panel.curves)-k), y0-6, c.colour, c.name)
			fmt.Fprintf(&b, `<polyline fill="none" stroke="%s" points="`, c.colour)
			for i := 1; i < len(samples); i++ {
				if v := c.of(samples[i-1], samples[i]); !math.IsNaN(v) {
					fmt.Fprintf(&b, "%.0f,%.0f ", left+width*samples[i].at/last, float64(y0)+height*(1-v/most))
				}
			}
			b.WriteString(`"/>` + "\n")
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", left+width, y0+height+14, cmp.Or(time.Duration(last*float64(time.Second)).Round(time.Second).String(), "0"))
	}
	b.WriteString("</svg>\n")
	return b.String()
}
