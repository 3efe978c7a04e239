package status

import (
	"context"
	"fmt"
	"html/template"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	sampleEvery = 10 * time.Second
	samples     = 180 // half an hour
)

// history are the figures of the last half hour, for the charts of the page.
type history struct {
	mu       sync.Mutex
	unsent   []float64
	messages map[string][]float64 // a minute, by monitor
	last     map[string]uint64
}

func (h *history) add(r Report) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.messages == nil {
		h.messages, h.last = map[string][]float64{}, map[string]uint64{}
	}
	h.unsent = push(h.unsent, float64(r.Spool.Depth))
	for _, m := range r.Monitors {
		name := m.Line.Monitor
		if last, ok := h.last[name]; ok {
			h.messages[name] = push(h.messages[name], float64(m.Counters.Messages-last)*float64(time.Minute/sampleEvery))
		}
		h.last[name] = m.Counters.Messages
	}
}

func push(list []float64, v float64) []float64 {
	if len(list) == samples {
		list = append(list[:0], list[1:]...)
	}
	return append(list, v)
}

// run samples until ctx ends.
func (h *history) run(ctx context.Context, report func() Report) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		h.add(report())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// chart draws a row of figures; the newest is at the right. The words below say what it is, so that nobody takes it for a curve of a
// patient; they are for those too who do not see it.
func chart(what string, list []float64) template.HTML {
	if len(list) < 2 {
		return ""
	}
	most := slices.Max(list)
	full := max(1, most) // one is no hill
	const width, height = 300, 36
	step := float64(width) / float64(samples-1)
	left := float64(width) - step*float64(len(list)-1)
	var line strings.Builder
	for i, v := range list {
		fmt.Fprintf(&line, "%.1f,%.1f ", left+step*float64(i), height-1-v/full*(height-3))
	}
	points := strings.TrimSpace(line.String())
	return template.HTML(fmt.Sprintf(`<svg class="chart" viewBox="0 0 %d %d" aria-hidden="true" preserveAspectRatio="none">`+
		`<polygon points="%.1f,%d %s %d,%d"/><polyline points="%s"/></svg><small>%s: %.0f now, at most %.0f in the last %.0f min</small>`,
		width, height, left, height, points, width, height, points, template.HTMLEscapeString(what), list[len(list)-1], most,
		max(1, (time.Duration(len(list)-1)*sampleEvery).Minutes())))
}

// charts are those of the page.
func (h *history) charts() (unsent template.HTML, messages map[string]template.HTML) {
	h.mu.Lock()
	defer h.mu.Unlock()
	messages = map[string]template.HTML{}
	for name, list := range h.messages {
		messages[name] = chart("messages a minute", list)
	}
	return chart("records not yet at a leaf node", h.unsent), messages
}
