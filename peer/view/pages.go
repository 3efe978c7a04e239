package view

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vitalgate/vitalgate/record"
)

//go:embed web
var web embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"clock": func(t time.Time) string { return t.Local().Format("15:04:05") },
	"stamp": stamp,
	"iso":   func(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") },
	"ms":    time.Time.UnixMilli,
}).ParseFS(web, "web/*.html"))

var assets = map[string]string{"view.css": "text/css; charset=utf-8", "view.js": "text/javascript; charset=utf-8", "icon.svg": "image/svg+xml"}

// Handler serves the page: "/" (beds), "/bed/{id}", "/record/{facility}/{box}/{index}" (provenance), "/events"
// (Server-Sent Events) and "/assets/". It answers GET and HEAD, and only calls that name this machine by an IP address,
// as "localhost", or by one of Options.Hosts (against DNS rebinding).
func (v *View) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", v.overview)
	mux.HandleFunc("/bed/{id}", v.bed)
	mux.HandleFunc("/record/{facility}/{box}/{index}", v.record)
	mux.HandleFunc("/events", v.events)
	mux.HandleFunc("/assets/{name}", func(w http.ResponseWriter, r *http.Request) {
		kind, ok := assets[r.PathValue("name")]
		if !ok {
			v.fail(w, http.StatusNotFound, "No such page", "The overview has everything there is.")
			return
		}
		data, _ := web.ReadFile("web/" + r.PathValue("name"))
		w.Header().Set("Content-Type", kind)
		w.Write(data)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		v.fail(w, http.StatusNotFound, "No such page", "The overview has everything there is.")
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'")
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		switch {
		case !v.here(r):
			v.fail(w, http.StatusForbidden, "Only on this machine",
				"This page shows patient data and is served to the machine it runs on. From elsewhere, use an SSH tunnel.")
		case !v.named(r.Host):
			v.fail(w, http.StatusMisdirectedRequest, "Wrong name", "Call this page as localhost or by the machine's IP address.")
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			h.Set("Allow", "GET, HEAD")
			v.fail(w, http.StatusMethodNotAllowed, "Read only", "This page only answers GET.")
		default:
			mux.ServeHTTP(w, r)
		}
	})
}

// here: without Options.Hosts, the connection must have come in on a loopback address.
func (v *View) here(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok || len(v.o.Hosts) > 0 {
		return true
	}
	a, err := netip.ParseAddrPort(local.String())
	return err != nil || a.Addr().Unmap().IsLoopback()
}

// named: a page of a stranger whose name was made to point here (DNS rebinding) calls us by that name.
func (v *View) named(host string) bool {
	if slices.Contains(v.o.Hosts, host) {
		return true
	}
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	if slices.Contains(v.o.Hosts, name) || strings.EqualFold(name, "localhost") {
		return true
	}
	_, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(name, "["), "]"))
	return err == nil
}

// frame is what every page has.
type frame struct {
	Title   string // of the product
	Page    string // of this page
	Now     time.Time
	Live    bool
	Banner  []bannerLine
	Trouble [][2]string // sentence and remedy
	Content any
}

type bannerLine struct{ Box, Words string }

type card struct {
	ID, Name, Where string
	Key             string // of bed and patient, for the page's own use
	Patient         string // "" unknown
	Details         string
	Association     string // start of the pseudonym
	Earlier         bool   // another patient came after
	Feeds           []string
	Rows            []row // standard codes
	Local           []row
	Waves           []row
	Alarms          []alarmRow
	MoreRows        int
	MoreAlarms      int
	Hidden          int
	Demo            bool
	Skew            string
	Last            time.Time
}

type row struct {
	ID                string
	Name, Codes, Feed string
	Standard          bool
	Value, Unit       string
	Absent            string
	Flags, Findings   []string
	Demo              bool
	At                time.Time
	Age               string
	Stale             bool
	StaleAfter        int // seconds
	ByArrival, Ahead  bool
	Protection        string
	Hardware          bool
	Ref               string
	Link              string
	Chart             *chart
	Recent            []row
}

type alarmRow struct {
	ID, Text, Detail string
	Demo             bool
	At               time.Time
	Age              string
	Protection       string
	Hardware         bool
	Ref, Link        string
}

type overviewPage struct {
	Beds            []card
	Sources         []sourceRow
	Uncharted       []unchartedRow
	OldBeds         int
	Dropped, Sealed int
	Retention       string
}

type sourceRow struct {
	Box, Protection string
	Stopped         string
	Hardware        bool
	Size            uint64
	Boot            uint32
	Arrived         time.Time
	Age             string
}

type unchartedRow struct {
	Box, Link, Monitor, Reason string
	Index                      uint64
	At                         time.Time
}

type bedPage struct {
	Name, Where string
	Stays       []card
}

// What the overview shows of each bed; the bed's own page has everything.
const (
	overviewRows   = 12
	overviewLocal  = 4 // local codes fill up to so many rows
	overviewAlarms = 3
	overviewTables = 20
)

func (v *View) overview(w http.ResponseWriter, r *http.Request) {
	now := v.now()
	p := overviewPage{Retention: spanWords(v.o.Retention)}
	v.mu.RLock()
	for _, b := range sortedBeds(v.state.beds) {
		shown := false
		for _, st := range b.stays {
			if len(st.series) == 0 && len(st.alarms) == 0 || b.superseded(st) || now.Sub(st.last) > v.o.Retention {
				continue
			}
			c := v.card(b, st, now, false)
			if more := len(c.Rows) - overviewRows; more > 0 {
				c.Rows, c.MoreRows = c.Rows[:overviewRows], more
			}
			if room := overviewLocal - len(c.Rows); room > 0 {
				n := min(room, len(c.Local))
				c.Rows, c.Local = append(c.Rows, c.Local[:n]...), c.Local[n:]
			}
			if more := len(c.Alarms) - overviewAlarms; more > 0 {
				c.Alarms, c.MoreAlarms = c.Alarms[:overviewAlarms], more
			}
			p.Beds = append(p.Beds, c)
			shown = true
		}
		if !shown {
			p.OldBeds++
		}
	}
	for _, s := range v.state.sources {
		words, hardware := protectionWords(s.protection)
		p.Sources = append(p.Sources, sourceRow{
			Box: s.facility + "/" + s.box, Protection: words, Hardware: hardware,
			Size: s.checkpoint.size, Boot: s.checkpoint.boot, Arrived: s.arrived, Age: age(now, s.arrived),
		})
	}
	for _, e := range v.state.uncharted {
		p.Uncharted = append(p.Uncharted, unchartedRow{
			Box: e.Box(), Index: e.index, Link: e.Path(), Monitor: e.monitor, Reason: or(e.reason, "no reason was given"), At: e.arrived,
		})
	}
	p.Dropped, p.Sealed = v.state.dropped, v.state.sealed
	v.mu.RUnlock()
	for i := range p.Sources {
		if id, err := record.ParseBoxID(p.Sources[i].Box); err == nil && v.o.Stopped != nil {
			p.Sources[i].Stopped = v.o.Stopped(id)
		}
	}
	slices.SortFunc(p.Sources, func(a, b sourceRow) int { return cmp.Compare(a.Box, b.Box) })
	p.Uncharted = p.Uncharted[:min(len(p.Uncharted), overviewTables)]
	v.render(w, http.StatusOK, "overview", frame{Page: "Beds", Now: now, Live: true, Content: p})
}

func (v *View) bed(w http.ResponseWriter, r *http.Request) {
	now := v.now()
	v.mu.RLock()
	b := v.state.beds[r.PathValue("id")]
	var p bedPage
	if b != nil {
		p.Name, p.Where = b.name, b.where
		stays := slices.Clone(b.stays)
		slices.SortStableFunc(stays, func(a, c *stay) int { return c.last.Compare(a.last) })
		for _, st := range stays {
			p.Stays = append(p.Stays, v.card(b, st, now, true))
		}
	}
	v.mu.RUnlock()
	if b == nil {
		v.fail(w, http.StatusNotFound, "No such bed", "Nothing of this bed was received in the last "+spanWords(v.o.Retention)+", or the address is wrong.")
		return
	}
	v.render(w, http.StatusOK, "bed", frame{Page: p.Name, Now: now, Live: true, Content: p})
}

// card draws one patient at one bed; full for the bed's own page.
func (v *View) card(b *bed, st *stay, now time.Time, full bool) card {
	c := card{
		ID: b.id, Key: b.id + "-" + shortHash(st.patient.key), Name: b.name, Where: b.where,
		Patient: st.patient.name, Details: st.patient.details,
		Earlier: b.superseded(st), Hidden: st.hidden, Demo: st.demo, Last: st.last,
	}
	if c.Patient == "" && c.Details != "" {
		c.Patient = "Name not given"
	}
	if st.pseudonym != "" {
		c.Association = st.pseudonym[:min(8, len(st.pseudonym))]
	}
	for _, feed := range slices.Sorted(maps.Keys(st.feeds)) {
		c.Feeds = append(c.Feeds, strings.Trim(feed+" · "+st.feeds[feed], " ·"))
	}
	switch {
	case st.skew > clockTolerance:
		c.Skew = "The newest value is " + durationWords(st.skew) + " older than its arrival: the monitor's clock may be slow, or its zone set wrong."
	}
	keys := slices.Collect(maps.Keys(st.series))
	slices.SortFunc(keys, func(a, b string) int {
		x, y := st.series[a].recent[0], st.series[b].recent[0]
		return cmp.Or(cmp.Compare(x.rank, y.rank), cmp.Compare(x.name, y.name), cmp.Compare(a, b))
	})
	for i, key := range keys {
		sr := st.series[key]
		latest := &sr.recent[0]
		rw := makeRow(latest, now)
		rw.ID = "r" + b.id + "-" + shortHash(st.patient.key+"\x00"+key)
		if len(st.feeds) > 1 {
			rw.Feed = sr.feed
		}
		if full {
			for j := range sr.recent {
				rw.Recent = append(rw.Recent, makeRow(&sr.recent[j], now))
			}
		}
		width, height := 104, 36
		if full {
			width, height = 340, 92
		}
		if latest.wave != nil || latest.text != "" && strings.HasSuffix(latest.text, " samples") {
			if latest.wave != nil {
				rw.Chart = waveChart(latest.name, latest.wave, 340, 72)
				rw.Value = strconv.FormatFloat(latest.wave.seconds, 'g', 3, 64) + " s of waveform"
				rw.Unit = latest.wave.unit
			}
			c.Waves = append(c.Waves, rw)
			continue
		}
		if len(sr.traces) > 0 && (full || latest.standard && i < overviewRows+8) {
			from := now.Add(-span(sr.traces, now, v.o.Retention))
			rw.Chart = trendChart(latest.name, latest.unit, sr.traces, from, now, width, height, full, cuff(latest.rank))
		}
		if latest.standard {
			c.Rows = append(c.Rows, rw)
		} else {
			c.Local = append(c.Local, rw)
		}
	}
	for i := range st.alarms {
		a := &st.alarms[i]
		words, hardware := protectionWords(a.protection)
		c.Alarms = append(c.Alarms, alarmRow{
			ID: "a" + b.id + "-" + shortHash(a.key+a.at.String()+a.detail), Text: a.text, Detail: a.detail, Demo: a.demo, At: a.at, Age: age(now, a.at),
			Protection: words, Hardware: hardware, Ref: a.from.String(), Link: a.from.Path(),
		})
	}
	return c
}

func makeRow(s *shown, now time.Time) row {
	words, hardware := protectionWords(s.protection)
	after := staleAfter(s)
	return row{
		Name: s.name, Codes: s.codes, Standard: s.standard, Value: s.text, Unit: s.unit, Absent: s.absent,
		Flags: s.flags, Findings: s.findings, Demo: s.demo, At: s.at, Age: age(now, s.at), StaleAfter: int(after.Seconds()),
		Stale:     now.Sub(s.at) > after || s.at.Sub(now) > clockTolerance,
		ByArrival: s.byArrival, Ahead: s.ahead, Protection: words, Hardware: hardware,
		Ref: s.from.String(), Link: s.from.Path(),
	}
}

// staleAfter is when a value is no longer called current: two minutes for what a monitor measures all the time,
// half an hour for cuff pressures, a day for weight and height.
func staleAfter(s *shown) time.Duration {
	switch {
	case s.rank >= rankBody && s.rank < rankBody+10:
		return 24 * time.Hour
	case s.rank >= rankCuff && s.rank < rankCuff+4:
		return 30 * time.Minute
	}
	return 2 * time.Minute
}

// cuff: measured once in a while, so that a line between two values would say what nobody knows.
func cuff(rank int) bool { return rank >= rankCuff && rank < rankCuff+4 }

func shortHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:6])
}

func sortedBeds(beds map[string]*bed) []*bed {
	all := slices.Collect(maps.Values(beds))
	slices.SortFunc(all, func(a, b *bed) int { return cmp.Or(natural(a.name, b.name), cmp.Compare(a.id, b.id)) })
	return all
}

// natural orders "Bed 2" before "Bed 10".
func natural(a, b string) int {
	for a != "" && b != "" {
		na, nb := digits(a), digits(b)
		if na > 0 && nb > 0 {
			x, y := strings.TrimLeft(a[:na], "0"), strings.TrimLeft(b[:nb], "0")
			if c := cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y)); c != 0 {
				return c
			}
			a, b = a[na:], b[nb:]
			continue
		}
		if a[0] != b[0] {
			return cmp.Compare(a[0], b[0])
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

// render draws the whole page before the first byte leaves, so that a page is never half.
func (v *View) render(w http.ResponseWriter, code int, name string, f frame) {
	f.Title = clean(v.o.Title)
	if v.o.Conditions != nil {
		f.Trouble = v.o.Conditions()
	}
	v.mu.RLock()
	for _, s := range v.state.sources {
		if words, hardware := protectionWords(s.protection); !hardware {
			f.Banner = append(f.Banner, bannerLine{s.facility + "/" + s.box, words})
		}
	}
	v.mu.RUnlock()
	slices.SortFunc(f.Banner, func(a, b bannerLine) int { return cmp.Compare(a.Box, b.Box) })
	var page bytes.Buffer
	if err := templates.ExecuteTemplate(&page, name, f); err != nil {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintln(w, "cannot draw this page; the program's log may say more")
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(page.Len()))
	w.WriteHeader(code)
	w.Write(page.Bytes())
}

type failPage struct{ What, Help string }

func (v *View) fail(w http.ResponseWriter, code int, what, help string) {
	if code == http.StatusForbidden || code == http.StatusMisdirectedRequest {
		// Not even the names of the boxes for a stranger.
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(code)
		fmt.Fprintf(w, "%s. %s\n", what, help)
		return
	}
	v.render(w, code, "fail", frame{Page: what, Now: v.now(), Content: failPage{what, help}})
}

// record shows where one value comes from.
func (v *View) record(w http.ResponseWriter, r *http.Request) {
	box := record.BoxID{Facility: r.PathValue("facility"), Name: r.PathValue("box")}
	index, err := strconv.ParseUint(r.PathValue("index"), 10, 64)
	if err != nil || !box.Valid() {
		v.fail(w, http.StatusNotFound, "No such record", "A record is named by facility, box and index: /record/f1/gw1/123.")
		return
	}
	v.mu.RLock()
	e := v.state.records[ref{box.Facility, box.Name, index}]
	v.mu.RUnlock()
	if e == nil && v.o.Record != nil {
		if verified, content, protection, err := v.o.Record(r.Context(), box, index); err == nil {
			e = entryOf(verified, content, protection)
		}
	}
	if e == nil {
		v.fail(w, http.StatusNotFound, "Record not at hand",
			"This page does not hold record "+strconv.FormatUint(index, 10)+" of "+box.String()+" in its memory. The peer's store keeps what it verified: vitalpeer get.")
		return
	}
	v.render(w, http.StatusOK, "record", frame{Page: "Record " + e.ref.String(), Now: v.now(), Content: recordPageOf(e, v.now())})
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "not given"
	}
	return t.Local().Format("2006-01-02 15:04:05.000 MST")
}

func age(now, t time.Time) string {
	if t.IsZero() {
		return "time unknown"
	}
	d := now.Sub(t)
	if d < -clockTolerance {
		return "in the future"
	}
	return durationWords(max(d, 0)) + " ago"
}

// durationWords is one number with its unit. view.js counts on in the same words.
func durationWords(d time.Duration) string {
	switch {
	case d < time.Minute:
		return strconv.Itoa(int(d.Seconds())) + " s"
	case d < time.Hour:
		return strconv.Itoa(int(d.Minutes())) + " min"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d.Hours())) + " h"
	}
	return strconv.Itoa(int(d.Hours()/24)) + " d"
}
