package view

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Limits of what the page keeps. With all of them reached it holds about 200 MB; thirty busy beds take about 20.
const (
	maxBeds         = 256
	maxStays        = 4    // patients kept for one bed
	maxStaySeries   = 128  // series of one patient
	maxSeries       = 4096 // series in all
	maxFeeds        = 16   // monitors of one patient
	maxTraces       = 4    // curves of one series
	maxPoints       = 240  // single points of one curve
	maxBuckets      = 360  // minutes (for six hours) of one curve
	maxRecent       = 12   // single values of one series
	maxAlarms       = 40   // alarms of one patient
	maxUncharted    = 40   // records without a chart
	maxNotes        = 64   // of one record
	maxSources      = 512  // boxes
	maxRecords      = 20000
	maxRecordBytes  = 16 << 20 // of all records kept for their provenance; others are read from the store
	maxRecordParts  = 2 << 20  // Bundle and raw message of one of them
	recordOverhead  = 1 << 10
	maxSecondChance = 64
)

// ref names one record.
type ref struct {
	facility, box string
	index         uint64
}

func (r ref) Box() string    { return r.facility + "/" + r.box }
func (r ref) Path() string   { return "/record/" + r.Box() + "/" + strconv.FormatUint(r.index, 10) }
func (r ref) String() string { return r.Box() + " " + strconv.FormatUint(r.index, 10) }

// entry is one verified record with its contents, as Add got it.
type entry struct {
	ref
	kind       string
	epoch      uint64
	pseudonym  string
	observed   time.Time
	arrived    time.Time
	commit     string
	leaf       string // hash of the leaf
	checkpoint checkpoint
	protection string
	monitor    string
	via        string
	reason     string
	notes      []string
	bundle     []byte
	raw        []byte
	cut        int // bytes of Bundle and raw message too large to be kept

	pins int // series that show this record's value
}

type checkpoint struct {
	origin  string
	size    uint64
	root    string
	boot    uint32
	clock   time.Duration
	counter uint64
	claims  string // protection as the box states it; the peer's own finding is entry.protection
}

// sealed: this peer could not open the record's content.
func (e *entry) sealed() bool {
	return e.kind != "boot" && e.kind != "epoch" && e.cut == 0 && len(e.bundle) == 0 && len(e.raw) == 0 && e.reason == ""
}

func (e *entry) bytes() int { return recordOverhead + len(e.bundle) + len(e.raw) }

// source is one box.
type source struct {
	facility, box string
	protection    string
	checkpoint    checkpoint
	newest        uint64
	records       uint64
	arrived       time.Time
}

type bed struct {
	id    string
	name  string
	where string // what the name rests on: a Location, or the box and monitor
	seen  time.Time
	stays []*stay // newest last
}

// stay is one patient at one bed, known or unknown.
type stay struct {
	patient   patient
	pseudonym string
	first     time.Time // of the observations
	last      time.Time
	seen      time.Time
	newest    ref               // record; records may come late, behind a backlog
	arrived   time.Time         // at the box of that record
	feeds     map[string]string // "f1/gw1 monitor" → device and way
	series    map[string]*series
	alarms    []alarmAt // newest first
	skew      time.Duration
	hidden    int // values beyond the limits
	demo      bool
}

type alarmAt struct {
	alarm
	at         time.Time
	from       ref
	protection string
}

// series is one quantity of one monitor at one patient.
type series struct {
	feed   string
	seen   time.Time
	recent []shown // newest first: recent[0] is what the page shows
	traces []*trace
}

// shown is one value with all that must be said beside it.
type shown struct {
	reading
	at         time.Time
	byArrival  bool // the monitor gave no time
	ahead      bool // the monitor gave a time after the arrival
	arrived    time.Time
	from       ref
	protection string
	rec        *entry
}

// state is everything the page knows. The View's mutex guards it.
type state struct {
	retention time.Duration
	beds      map[string]*bed
	sources   map[string]*source
	records   map[ref]*entry
	queue     []*entry // oldest first
	held      int      // bytes of all records
	series    int
	uncharted []*entry // newest first; only clear facts are shown of these
	dropped   int      // beds that made room for others
	sealed    int      // records that this peer could not open
	swept     time.Time
}

func newState(retention time.Duration) *state {
	return &state{retention: retention, beds: map[string]*bed{}, sources: map[string]*source{}, records: map[ref]*entry{}}
}

// add takes in one record. c is what its Bundle said; why says why there is nothing of it to show, if so.
func (s *state) add(e *entry, c contents, why string, now time.Time) {
	if _, known := s.records[e.ref]; known {
		return
	}
	if now.Sub(s.swept) > time.Minute {
		s.sweep(now)
	}
	s.source(e)
	s.keep(e)
	if e.kind == "boot" || e.kind == "epoch" {
		return
	}
	if e.sealed() {
		s.sealed++
		return
	}
	if why != "" || len(e.bundle) == 0 && e.cut == 0 {
		if e.reason == "" {
			e.reason = why
		}
		s.uncharted = slices.Insert(s.uncharted, 0, e)
		s.uncharted = s.uncharted[:min(len(s.uncharted), maxUncharted)]
		return
	}
	if len(c.readings) == 0 && len(c.alarms) == 0 {
		return
	}
	b := s.bed(e, c, now)
	feed := e.Box() + " · " + e.monitor
	about := strings.Trim(c.device+" · "+e.via, " ·")
	for i := range c.readings {
		st := s.stay(b, e, c.readings[i].patient, now)
		st.came(e, feed, about, c.demo, s.addReading(b, st, e, feed, c.readings[i], now))
	}
	for i := range c.alarms {
		st := s.stay(b, e, c.alarms[i].patient, now)
		st.came(e, feed, about, c.demo, st.addAlarm(e, c.alarms[i]))
	}
}

// came notes that something observed at the given time came in.
func (st *stay) came(e *entry, feed, about string, demo bool, at time.Time) {
	if _, known := st.feeds[feed]; known || len(st.feeds) < maxFeeds {
		st.feeds[feed] = about
	}
	if st.first.IsZero() || at.Before(st.first) {
		st.first = at
	}
	if at.After(st.last) {
		st.last, st.skew, st.demo = at, e.arrived.Sub(at), demo
	}
}

func (s *state) source(e *entry) {
	src := s.sources[e.Box()]
	if src == nil {
		if len(s.sources) >= maxSources {
			oldest := slices.MinFunc(slices.Collect(maps.Values(s.sources)), func(a, b *source) int { return a.arrived.Compare(b.arrived) })
			delete(s.sources, oldest.facility+"/"+oldest.box)
		}
		src = &source{facility: e.facility, box: e.box}
		s.sources[e.Box()] = src
	}
	src.records++
	if src.records == 1 || e.index >= src.newest {
		src.newest, src.protection, src.arrived, src.checkpoint = e.index, e.protection, e.arrived, e.checkpoint
	}
}

// keep holds the record for its provenance page. The oldest make room, those whose value is on show last.
func (s *state) keep(e *entry) {
	s.records[e.ref] = e
	s.queue = append(s.queue, e)
	s.held += e.bytes()
	for spared := 0; len(s.queue) > 1 && (s.held > maxRecordBytes || len(s.queue) > maxRecords); {
		old := s.queue[0]
		s.queue[0] = nil
		s.queue = s.queue[1:]
		if old.pins > 0 && spared < maxSecondChance {
			spared++
			s.queue = append(s.queue, old)
			continue
		}
		s.held -= old.bytes()
		delete(s.records, old.ref)
	}
}

func (s *state) bed(e *entry, c contents, now time.Time) *bed {
	key, name, where := e.facility+"\x00"+c.place, c.place, "facility "+e.facility
	if !c.atBed {
		// A ward is not a bed: two monitors of it stand at two patients.
		key, name = e.Box()+"\x00"+c.place+"\x00"+e.monitor, or(e.monitor, "monitor without a name")
		if c.place != "" {
			name = c.place + " · " + name
		}
		where = "no bed was given: named after the monitor on box " + e.Box()
	}
	sum := sha256.Sum256([]byte(key))
	id := hex.EncodeToString(sum[:8])
	b := s.beds[id]
	if b == nil {
		if len(s.beds) >= maxBeds {
			s.dropOldest(nil)
		}
		b = &bed{id: id, name: name, where: where}
		s.beds[id] = b
	}
	b.seen = now
	return b
}

// dropOldest gives up the bed that was silent for longest.
func (s *state) dropOldest(except *bed) {
	var oldest *bed
	for _, b := range s.beds {
		if b != except && (oldest == nil || b.seen.Before(oldest.seen)) {
			oldest = b
		}
	}
	if oldest != nil {
		s.dropBed(oldest)
		s.dropped++
	}
}

func (s *state) dropBed(b *bed) {
	for _, st := range b.stays {
		s.forget(st)
	}
	delete(s.beds, b.id)
}

func (s *state) forget(st *stay) {
	for key, sr := range st.series {
		s.dropSeries(st, key, sr)
	}
}

func (s *state) dropSeries(st *stay, key string, sr *series) {
	if len(sr.recent) > 0 {
		sr.recent[0].rec.pins--
	}
	delete(st.series, key)
	s.series--
}

func (s *state) stay(b *bed, e *entry, p patient, now time.Time) *stay {
	if p.key == "" && e.pseudonym != "" {
		p.key = "association " + e.pseudonym
	}
	var st *stay
	for _, have := range b.stays {
		if have.patient.key == p.key {
			st = have
		}
	}
	if st == nil {
		if len(b.stays) >= maxStays {
			oldest := slices.MinFunc(b.stays, func(a, c *stay) int { return inLog(a.newest, a.arrived, c.newest, c.arrived) })
			s.forget(oldest)
			b.stays = slices.DeleteFunc(b.stays, func(x *stay) bool { return x == oldest })
		}
		st = &stay{patient: p, feeds: map[string]string{}, series: map[string]*series{}}
		b.stays = append(b.stays, st)
	}
	st.seen = now
	if inLog(e.ref, e.arrived, st.newest, st.arrived) < 0 {
		return st
	}
	st.patient, st.newest, st.arrived = p, e.ref, e.arrived
	if e.pseudonym != "" {
		st.pseudonym = e.pseudonym
	}
	return st
}

// inLog says whether record a came before b: in the log of one box by the index, which no clock can bend.
func inLog(a ref, arrivedA time.Time, b ref, arrivedB time.Time) int {
	if a.Box() == b.Box() {
		return cmp.Compare(a.index, b.index)
	}
	return arrivedA.Compare(arrivedB)
}

// superseded says that another patient came to the bed after this one's last value.
func (b *bed) superseded(st *stay) bool {
	for _, other := range b.stays {
		if other != st && other.first.After(st.last) {
			return true
		}
	}
	return false
}

// timeOf is the observation time on the box's clock: what the monitor said, but never after the arrival.
func timeOf(claimed time.Time, dateOnly bool, observed, arrived time.Time) (at time.Time, byArrival, ahead bool) {
	at = claimed
	if dateOnly && arrived.Sub(claimed).Abs() < 38*time.Hour {
		at = time.Time{} // that day, in some zone: the arrival says more
	}
	if at.IsZero() {
		at = observed
	}
	switch {
	case at.IsZero():
		return arrived, true, false
	case !arrived.IsZero() && at.After(arrived):
		return arrived, false, at.Sub(arrived) > clockTolerance
	}
	return at, false, false
}

const clockTolerance = 2 * time.Minute

func (s *state) addReading(b *bed, st *stay, e *entry, feed string, r reading, now time.Time) time.Time {
	v := shown{reading: r, arrived: e.arrived, from: e.ref, protection: e.protection, rec: e}
	v.at, v.byArrival, v.ahead = timeOf(r.claimed, r.dateOnly, e.observed, e.arrived)
	key := feed + "\x00" + r.key
	sr := st.series[key]
	if sr == nil {
		if !s.room(b, st, r.standard) {
			st.hidden++
			return v.at
		}
		sr = &series{feed: feed}
		st.series[key] = sr
		s.series++
	}
	sr.seen = now
	if !sr.insert(v, now) {
		return v.at
	}
	if t := v.at; !t.After(now.Add(clockTolerance)) && now.Sub(t) < s.retention {
		sr.plot(v, s.retention)
	}
	return v.at
}

// room makes place for one more series: the bed that was silent for longest gives way; within one patient local-coded
// values do, and to standard ones always.
func (s *state) room(b *bed, st *stay, standard bool) bool {
	if s.series >= maxSeries {
		s.dropOldest(b)
	}
	if len(st.series) >= maxStaySeries || s.series >= maxSeries {
		victim, found := "", false
		for key, sr := range st.series {
			if sr.recent[0].standard && !standard {
				continue
			}
			if !found || less(sr, st.series[victim]) {
				victim, found = key, true
			}
		}
		if !found {
			return false
		}
		s.dropSeries(st, victim, st.series[victim])
	}
	return true
}

func less(a, b *series) bool {
	if a.recent[0].standard != b.recent[0].standard {
		return b.recent[0].standard
	}
	if c := a.seen.Compare(b.seen); c != 0 {
		return c < 0
	}
	return a.recent[0].key < b.recent[0].key
}

// order says whether a is the newer value: by observation time, then by index. A time that lies in the future
// proves a wrong clock; then the box's index, which no clock can bend, decides.
func order(a, b *shown, now time.Time) int {
	limit := now.Add(clockTolerance)
	if a.from.box == b.from.box && (a.at.After(limit) || b.at.After(limit)) {
		if c := cmp.Compare(a.from.index, b.from.index); c != 0 {
			return c
		}
	}
	return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.from.index, b.from.index))
}

// insert puts the value in its place in time; only the newest is shown. Late values never replace newer ones.
// It reports false for a value that is already there.
func (sr *series) insert(v shown, now time.Time) bool {
	i := 0
	for i < len(sr.recent) {
		c := order(&v, &sr.recent[i], now)
		if c != 0 && v.again(&sr.recent[i]) {
			if c > 0 {
				sr.replace(i, v)
			}
			return false
		}
		if c > 0 {
			break
		}
		if c == 0 {
			// One message says this twice. A value counts more than "no value"; two different values are both told.
			have := &sr.recent[i]
			switch {
			case v.text == "" || v.text == have.text && v.unit == have.unit:
			case have.text == "":
				v.rec, have.rec = have.rec, v.rec // same record
				*have = v
				return true
			case len(have.flags) <= maxFlags:
				have.flags = append(slices.Clip(have.flags), "the same message also says "+strings.TrimSpace(v.text+" "+v.unit))
			}
			return false
		}
		i++
	}
	if i >= maxRecent {
		return true // too old for the list, still a point of the curve
	}
	if i == 0 {
		if len(sr.recent) > 0 {
			sr.recent[0].rec.pins--
			sr.recent[0].wave = nil
		}
		v.rec.pins++
	} else {
		v.wave = nil
	}
	if len(sr.recent) == maxRecent {
		sr.recent = sr.recent[:maxRecent-1]
	}
	sr.recent = slices.Insert(sr.recent, i, v)
	for j := range sr.recent[1:] {
		sr.recent[1+j].rec = nil // only the value on show holds its record
	}
	return true
}

// again: monitors repeat an episodic value, as the last cuff pressure, in each message. It is one value.
func (v *shown) again(have *shown) bool {
	return v.at.Equal(have.at) && v.text == have.text && v.unit == have.unit && v.absent == have.absent
}

// replace lets the newer record vouch for value i.
func (sr *series) replace(i int, v shown) {
	if i == 0 {
		sr.recent[0].rec.pins--
		v.rec.pins++
	} else {
		v.rec, v.wave = nil, nil
	}
	sr.recent[i] = v
}

// plot adds the value's numbers to the curves, a gap where it is absent.
func (sr *series) plot(v shown, retention time.Duration) {
	t := v.at.UnixMilli()
	width := max(retention.Milliseconds()/maxBuckets, 1)
	if len(v.traces) == 0 {
		for _, tr := range sr.traces {
			tr.add(t, nan, width)
		}
		return
	}
	for _, n := range v.traces {
		i := slices.IndexFunc(sr.traces, func(tr *trace) bool { return tr.label == n.label })
		if i < 0 {
			if len(sr.traces) >= maxTraces {
				continue
			}
			i = len(sr.traces)
			sr.traces = append(sr.traces, &trace{label: n.label})
		}
		sr.traces[i].add(t, n.value, width)
	}
}

func (st *stay) addAlarm(e *entry, a alarm) time.Time {
	v := alarmAt{alarm: a, from: e.ref, protection: e.protection}
	v.at, _, _ = timeOf(a.claimed, a.dateOnly, e.observed, e.arrived)
	i, _ := slices.BinarySearchFunc(st.alarms, &v, func(have alarmAt, v *alarmAt) int {
		return cmp.Or(v.at.Compare(have.at), cmp.Compare(v.from.index, have.from.index))
	})
	for _, have := range st.alarms {
		if have.key == a.key && have.at.Equal(v.at) && have.detail == a.detail {
			return v.at
		}
	}
	st.alarms = slices.Insert(st.alarms, i, v)
	st.alarms = st.alarms[:min(len(st.alarms), maxAlarms)]
	return v.at
}

// sweep forgets what was silent for longer than the retention.
func (s *state) sweep(now time.Time) {
	s.swept = now
	for _, b := range s.beds {
		for _, st := range b.stays {
			for key, sr := range st.series {
				if now.Sub(sr.seen) > s.retention {
					s.dropSeries(st, key, sr)
				}
			}
		}
		b.stays = slices.DeleteFunc(b.stays, func(st *stay) bool { return len(st.series) == 0 && now.Sub(st.seen) > s.retention })
		if len(b.stays) == 0 {
			s.dropBed(b)
		}
	}
}
