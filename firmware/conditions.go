package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/firmware/health"
	"github.com/vitalgate/vitalgate/firmware/link"
	"github.com/vitalgate/vitalgate/firmware/status"
)

// silence is how long a connected monitor may say nothing before a person should look.
const silence = 5 * time.Minute

// ofLink are the codes of what the link reports.
var ofLink = []string{link.Offline, link.Unauthorised, link.NetworkLostData, link.ForeignWriter, link.UntrustedLeaf, link.LogRolledBack, link.LogDamaged}

// judge turns what the parts say of themselves into conditions: those that are so are set, the others cleared.
func judge(b *health.Board, r status.Report) {
	for _, code := range ofLink {
		so := map[string]bool{}
		for _, c := range r.Network.Conditions {
			if c.Code == code {
				so[c.Leaf] = true
				b.Set(health.Condition{Code: code, About: c.Leaf, Sentence: c.Sentence, Remedy: c.Remedy})
			}
		}
		clearOthers(b, code, so)
	}
	for _, m := range r.Monitors {
		name := m.Line.Monitor
		if m.Line.State == adapters.StateWaiting {
			b.Set(health.Condition{Code: "monitor-away", About: name, Sentence: "No line to the monitor: " + m.Line.Detail})
		} else {
			b.Clear("monitor-away", name)
		}
		if m.Line.State == adapters.StateFailed {
			b.Set(health.Condition{Code: "monitor-line", About: name, Sentence: m.Line.Detail})
		} else {
			b.Clear("monitor-line", name)
		}
		if m.Line.State == adapters.StateConnected && !m.Line.LastFrame.IsZero() && r.Now.Sub(m.Line.LastFrame) > silence {
			b.Set(health.Condition{Code: "monitor-silent", About: name, Sentence: fmt.Sprintf("The monitor is connected but has sent nothing for more than %v.", silence)})
		} else {
			b.Clear("monitor-silent", name)
		}
	}
}

func clearOthers(b *health.Board, code string, so map[string]bool) {
	for _, c := range b.Conditions() {
		if c.Code == code && !so[c.About] {
			b.Clear(code, c.About)
		}
	}
}

// watch judges every second and logs what begins and what ends.
func watch(ctx context.Context, b *health.Board, report func() status.Report, log *slog.Logger) error {
	type key struct{ code, about string }
	known := map[key]bool{}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select { // the parts need a moment to begin
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		judge(b, report())
		now := map[key]bool{}
		for _, c := range b.Conditions() {
			k := key{c.Code, c.About}
			now[k] = true
			if !known[k] {
				log.Warn("condition", "code", c.Code, "about", c.About, "severity", c.Severity.String(), "sentence", c.Sentence, "remedy", c.Remedy)
			}
		}
		for k := range known {
			if !now[k] {
				log.Info("condition is over", "code", k.code, "about", k.about)
			}
		}
		known = now
	}
}
