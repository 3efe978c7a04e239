package main

import (
	"math"
	"math/rand/v2"
	"time"
)

// patient is a synthetic person whose vitals drift slowly around a mean, with breathing and noise on top. The same seed and the
// same times give the same values.
type patient struct {
	scenario *Scenario
	rng      *rand.Rand
	last     time.Duration // of the sample before
	drift    [channels]float64
	cuff     cuff
}

// A channel is one thing that is measured.
type channel int

const (
	hr channel = iota
	spo2
	rr
	sys
	dia
	temp
	etco2
	perfusion
	channels
)

// model of a channel: how far it drifts, how fast it comes back, how much breathing and noise are in it, and the range that is
// possible.
var models = [channels]struct{ drift, back, breath, noise, low, high float64 }{
	hr:        {6, 60, 1.5, 0.7, 25, 220},
	spo2:      {1.2, 90, 0.2, 0.3, 55, 100},
	rr:        {2, 45, 0, 0.4, 4, 45},
	sys:       {9, 120, 3, 1, 50, 230},
	dia:       {6, 120, 1.5, 0.8, 25, 140},
	temp:      {0.15, 900, 0, 0.02, 33, 41.5},
	etco2:     {2.5, 90, 0.3, 0.4, 10, 80},
	perfusion: {0.8, 60, 0.2, 0.1, 0.2, 15},
}

// cuff is the last non-invasive blood pressure.
type cuff struct {
	at             time.Time // zero before the first
	after          time.Duration
	sys, dia, mean float64
	fresh          bool // measured at this sample
}

// sample is what the monitor shows at one moment.
type sample struct {
	at       time.Time
	value    [channels]float64
	probeOff bool // pulse oximeter: no SpO2, pulse or perfusion
	pvcs     int
	cuff     cuff
	events   []*Event // that last at this moment
	began    []*Event // of these, those that were not there at the sample before
}

// mean pressure by the usual third.
func mean(sys, dia float64) float64 { return dia + (sys-dia)/3 }

func newPatient(s *Scenario, seed uint64) *patient {
	p := &patient{scenario: s, rng: rand.New(rand.NewPCG(seed, 0x76697461)), last: -1}
	for c := range p.drift {
		p.drift[c] = p.rng.NormFloat64() * models[c].drift / 2
	}
	return p
}

// sample gives the vitals after a time t of the scenario; at is the clock of the monitor then.
func (p *patient) sample(t time.Duration, at time.Time) sample {
	s := sample{at: at}
	dt := min(max(t-p.last, 0).Seconds(), 60)
	before := p.last
	p.last = t
	for i := range p.scenario.Events {
		e := &p.scenario.Events[i]
		if !e.active(t) {
			continue
		}
		s.events = append(s.events, e)
		if before < 0 || !e.active(before) {
			s.began = append(s.began, e)
		}
		s.probeOff = s.probeOff || e.Kind == "probe-off"
	}
	breath := math.Sin(2 * math.Pi * t.Seconds() * p.scenario.Vitals.mean(rr) / 60)
	for c := range channels {
		m := models[c]
		// An Ornstein-Uhlenbeck step: drift is the standard deviation it settles at, back the time it takes to come back.
		k := math.Exp(-dt / m.back)
		p.drift[c] = p.drift[c]*k + p.rng.NormFloat64()*m.drift*math.Sqrt(1-k*k)
		v := p.scenario.Vitals.mean(c) + p.drift[c] + breath*m.breath + p.rng.NormFloat64()*m.noise
		for _, e := range s.events {
			v += e.effect(c, t)
		}
		s.value[c] = min(max(v, m.low), m.high)
	}
	s.value[dia] = min(s.value[dia], s.value[sys]-15)
	if p.rng.Float64() < 0.1 {
		s.pvcs = 1 + p.rng.IntN(4)
	}
	if every := time.Duration(p.scenario.NIBP.Every); every > 0 && (p.cuff.at.IsZero() || t-p.cuff.after >= every) {
		p.cuff = cuff{at: at, after: t, sys: math.Round(s.value[sys]), dia: math.Round(s.value[dia])}
		p.cuff.mean = math.Round(mean(p.cuff.sys, p.cuff.dia))
		s.cuff.fresh = true
	}
	fresh := s.cuff.fresh
	s.cuff = p.cuff
	s.cuff.fresh = fresh
	return s
}

// active says whether e lasts at time t of the scenario.
func (e *Event) active(t time.Duration) bool {
	t -= time.Duration(e.At)
	if every := time.Duration(e.Every); every > 0 && t >= 0 {
		t %= every
	}
	return t >= 0 && t < time.Duration(e.For)
}

// effect is what e adds to a channel; it comes within five seconds.
func (e *Event) effect(c channel, t time.Duration) float64 {
	t -= time.Duration(e.At)
	if every := time.Duration(e.Every); every > 0 {
		t %= every
	}
	ramp := min(t.Seconds()/5, 1)
	switch {
	case e.Kind == "desaturation" && c == spo2:
		return -13 * ramp
	case e.Kind == "desaturation" && c == hr:
		return 12 * ramp
	case e.Kind == "tachycardia" && c == hr:
		return 55 * ramp
	case e.Kind == "hypotension" && c == sys:
		return -40 * ramp
	case e.Kind == "hypotension" && c == dia:
		return -22 * ramp
	case e.Kind == "apnea" && c == rr:
		return -30 * ramp
	}
	return 0
}
