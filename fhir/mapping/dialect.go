package mapping

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/vitalgate/vitalgate/hl7"
)

//go:embed dialects
var dialectFiles embed.FS

// Dialect is the named data of one family of monitors: how it is connected and acknowledged, and which of its
// rows mean what. It is read from dialects/<name>/dialect.toml and, where there is one, codes.tsv.
type Dialect struct {
	Name   string // of the folder, as "mindray-pds"
	Title  string // for a person
	Source string // where the knowledge comes from

	Framing string // "mllp" | "hllp" | "none"
	Role    string // of vitalgate: "server" | "client"
	Port    int    // usual TCP port, 0 unknown
	// Ack says how frames are acknowledged: "message" by MSH-15/16 of each message, "original" always AA/AE/AR,
	// "accept" always CA/CE/CR, "none" not at all.
	Ack string
	// Zone is the rule for times without an offset: "site" takes the configured zone of the monitor, "utc" is UTC.
	Zone string
	// Sentinels are the numbers that mean "no value".
	Sentinels []string
	// Dedup names what makes two readings the same reading: "device", "code", "channel", "time".
	Dedup []string

	limits    string              // meaning of OBX-7: "alarm" | "reference"
	units     map[dimension]*unit // of values that the family sends without one, where its documents fix them
	absent    []string
	sentinels []float64
	knownOnly bool // sentinels hold for known codes only
	bed       place
	bedNumber place // what makes a bed of the name in bed, where that is a ward's
	bedID     place
	noBed     bool
	messages  []messageRule
	rows      []rowRule
	alarms    []alarmRule
	detect    []detectRule
	detectMin int
	lineRules []lineRule
	codes     map[string]*localCode // system, NUL, code
	site      *Overrides
}

// localCode is what a dialect says about one of its codes.
type localCode struct {
	labels     []string // names it is known under; empty: any
	needsLabel bool     // under another name it means something else
	term       *term
	loinc      *loincCode // instead of the term's own
	channels   []string   // OBX-4 prefixes for which loinc holds; empty: all
}

type messageRule struct {
	typ  string
	cond condition
	kind string
}

type rowRule struct {
	cond condition
	as   rowKind
}

type rowKind uint8

const (
	measurement rowKind = iota
	setting
	alarm
)

type detectRule struct {
	cond  condition
	score int
	why   string
}

// condition asks something of one field. Of OBX fields any row of the first few will do when a message is judged.
type condition struct {
	at       place
	equals   string
	oneOf    []string
	prefix   string
	contains string
	length   int
	absent   bool
}

// place is where something stands in a message, as OBX-3.1.2.
type place struct {
	segment               string
	field, component, sub int
}

func parsePlace(s string) (p place, err error) {
	segment, rest, ok := strings.Cut(s, "-")
	if !ok || len(segment) != 3 {
		return p, fmt.Errorf("cannot read place %q: want the form OBX-3.1", s)
	}
	p.segment = segment
	for i, n := range strings.Split(rest, ".") {
		v, err := strconv.Atoi(n)
		if err != nil || v < 1 || i > 2 {
			return p, fmt.Errorf("cannot read place %q: want the form OBX-3.1", s)
		}
		switch i {
		case 0:
			p.field = v
		case 1:
			p.component = v
		case 2:
			p.sub = v
		}
	}
	return p, nil
}

// in gives the value at p in segment s.
func (p place) in(s hl7.Segment) hl7.Value {
	v := s.Field(p.field)
	if p.component > 0 {
		v = v.Comp(p.component)
		if p.sub > 0 {
			v = v.Sub(p.sub)
		}
	}
	return v
}

// holds says whether the raw bytes of a value satisfy c.
func (c *condition) holds(raw []byte) bool {
	if c.absent {
		return len(raw) == 0
	}
	if len(raw) == 0 || (c.length > 0 && len(raw) != c.length) {
		return false
	}
	if c.equals != "" && string(raw) != c.equals {
		return false
	}
	if c.prefix != "" && !hasPrefix(raw, c.prefix) {
		return false
	}
	if c.contains != "" && !bytes.Contains(raw, []byte(c.contains)) {
		return false
	}
	if len(c.oneOf) > 0 {
		for _, s := range c.oneOf {
			if string(raw) == s {
				return true
			}
		}
		return false
	}
	return true
}

func hasPrefix(raw []byte, s string) bool { return len(raw) >= len(s) && string(raw[:len(s)]) == s }

// detectRows bounds how many OBX rows are looked at to name a dialect.
const detectRows = 40

// inMessage says whether any of the segments that c speaks of satisfies it.
func (c *condition) inMessage(m *hl7.Message) bool {
	if c.at.segment == "MSH" {
		return c.holds(c.at.in(m.Header()).Raw())
	}
	seen := 0
	for i := 0; i < m.Len() && seen < detectRows; i++ {
		s := m.Segment(i)
		if s.Name() != c.at.segment {
			continue
		}
		seen++
		if c.holds(c.at.in(s).Raw()) {
			return true
		}
	}
	return false
}

// The shape of dialect.toml.
type dialectFile struct {
	Title     string `toml:"title"`
	Source    string `toml:"source"`
	DetectMin int    `toml:"detect_min"`
	Transport struct {
		Framing string `toml:"framing"`
		Role    string `toml:"role"`
		Port    int    `toml:"port"`
		Ack     string `toml:"ack"`
	} `toml:"transport"`
	Time struct {
		Zone string `toml:"zone"`
	} `toml:"time"`
	Values struct {
		Sentinels []string `toml:"sentinels"`
		KnownOnly bool     `toml:"sentinels_of_known_codes_only"`
		Absent    []string `toml:"absent"`
		Limits    string   `toml:"limits"`
	} `toml:"values"`
	Units map[string]string `toml:"units"`
	Bed   struct {
		Field  string `toml:"field"`
		Number string `toml:"number"`
		ID     string `toml:"id"`
		None   bool   `toml:"none"`
	} `toml:"bed"`
	Dedup struct {
		Key []string `toml:"key"`
	} `toml:"dedup"`
	Message []struct {
		Type string `toml:"type"`
		conditionFile
		Kind string `toml:"kind"`
	} `toml:"message"`
	Row []struct {
		conditionFile
		As string `toml:"as"`
	} `toml:"row"`
	Alarm       []alarmRuleFile `toml:"alarm"`
	Association []lineRuleFile  `toml:"association"`
	Detect      []struct {
		conditionFile
		Score int    `toml:"score"`
		Why   string `toml:"why"`
	} `toml:"detect"`
}

type conditionFile struct {
	Field    string   `toml:"field"`
	Equals   string   `toml:"equals"`
	OneOf    []string `toml:"one_of"`
	Prefix   string   `toml:"prefix"`
	Contains string   `toml:"contains"`
	Length   int      `toml:"length"`
	Absent   bool     `toml:"absent"`
}

func (f conditionFile) condition() (condition, error) {
	at, err := parsePlace(f.Field)
	c := condition{at: at, equals: f.Equals, oneOf: f.OneOf, prefix: f.Prefix, contains: f.Contains, length: f.Length, absent: f.Absent}
	if err == nil && c.equals == "" && len(c.oneOf) == 0 && c.prefix == "" && c.contains == "" && !c.absent {
		err = fmt.Errorf("rule on %s asks for nothing: give equals, one_of, prefix, contains or absent", f.Field)
	}
	return c, err
}

var dialects, dialectByName = mustLoadDialects()

func mustLoadDialects() ([]*Dialect, map[string]*Dialect) {
	if err := loadTables(); err != nil {
		panic("mapping: " + err.Error()) // the tables are compiled in, a test reads them too
	}
	all, err := loadDialects(dialectFiles)
	if err != nil {
		panic("mapping: " + err.Error())
	}
	byName := map[string]*Dialect{}
	for _, d := range all {
		byName[d.Name] = d
	}
	return all, byName
}

func loadDialects(files fs.FS) ([]*Dialect, error) {
	folders, err := fs.ReadDir(files, "dialects")
	if err != nil {
		return nil, fmt.Errorf("cannot list dialects: %w", err)
	}
	var all []*Dialect
	for _, f := range folders {
		if !f.IsDir() {
			continue // README.md
		}
		d, err := loadDialect(files, "dialects/"+f.Name())
		if err != nil {
			return nil, fmt.Errorf("cannot load dialect %s: %w", f.Name(), err)
		}
		all = append(all, d)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all, nil
}

// LoadDialect reads a dialect that is no part of vitalgate: a folder of files with its dialect.toml and, where it has codes of its own,
// codes.tsv, as docs/adding-a-dialect.md says. Its name is the folder's, and none of those that vitalgate brings.
func LoadDialect(files fs.FS, folder string) (*Dialect, error) {
	if dialectByName[path.Base(folder)] != nil {
		return nil, fmt.Errorf("cannot load the dialect in %s: vitalgate brings one of that name; give the folder another", folder)
	}
	d, err := loadDialect(files, folder)
	if err != nil {
		return nil, fmt.Errorf("cannot load the dialect in %s: %w", folder, err)
	}
	return d, nil
}

// dialectName is the form of the name of a dialect's folder.
var dialectName = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

func loadDialect(files fs.FS, folder string) (*Dialect, error) {
	name := path.Base(folder)
	if !dialectName.MatchString(name) {
		return nil, fmt.Errorf("the folder is called %q, want small letters and digits with dashes between", name)
	}
	data, err := fs.ReadFile(files, folder+"/dialect.toml")
	if err != nil {
		return nil, err
	}
	var f dialectFile
	dec := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		var strict *toml.StrictMissingError
		if errors.As(err, &strict) {
			return nil, errors.New(strict.String())
		}
		return nil, err
	}
	d := &Dialect{
		Name: name, Title: f.Title, Source: f.Source,
		Framing: f.Transport.Framing, Role: f.Transport.Role, Port: f.Transport.Port, Ack: f.Transport.Ack,
		Zone: f.Time.Zone, Sentinels: f.Values.Sentinels, Dedup: f.Dedup.Key,
		limits: f.Values.Limits, knownOnly: f.Values.KnownOnly, absent: f.Values.Absent, noBed: f.Bed.None, detectMin: f.DetectMin,
		codes: map[string]*localCode{}, units: map[dimension]*unit{},
	}
	for _, check := range []struct {
		key, value string
		allowed    []string
	}{
		{"transport.framing", d.Framing, []string{"mllp", "hllp", "none"}},
		{"transport.role", d.Role, []string{"server", "client"}},
		{"transport.ack", d.Ack, []string{"message", "original", "accept", "none"}},
		{"time.zone", d.Zone, []string{"site", "utc"}},
		{"values.limits", d.limits, []string{"alarm", "reference"}},
	} {
		if !oneOf(check.value, check.allowed...) {
			return nil, fmt.Errorf("%s is %q, want one of %s", check.key, check.value, strings.Join(check.allowed, ", "))
		}
	}
	if f.Title == "" || f.Source == "" {
		return nil, errors.New("title and source must be given")
	}
	for _, s := range f.Values.Sentinels {
		x, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return nil, fmt.Errorf("sentinel %q is no number", s)
		}
		d.sentinels = append(d.sentinels, x)
	}
	for of, code := range f.Units {
		u := unitByText[code]
		if u == nil || u.ucum != code || u.dimension != dimension(of) {
			return nil, fmt.Errorf("units.%s is %q, want a UCUM code of the tables that measures a %s", of, code, of)
		}
		d.units[u.dimension] = u
	}
	for _, at := range []struct {
		text string
		to   *place
	}{{f.Bed.Field, &d.bed}, {f.Bed.Number, &d.bedNumber}, {f.Bed.ID, &d.bedID}} {
		if at.text == "" {
			continue
		}
		if *at.to, err = parsePlace(at.text); err != nil {
			return nil, err
		}
		if at.to.segment != "PV1" {
			return nil, fmt.Errorf("bed is in %s: want a PV1 field", at.text)
		}
	}
	for _, r := range f.Message {
		rule := messageRule{typ: r.Type, kind: r.Kind}
		if !oneOf(r.Kind, KindVitals, KindWaveform, KindAlarm, KindADT, KindOther, kindKeepAlive) {
			return nil, fmt.Errorf("message rule has kind %q", r.Kind)
		}
		if r.Type == "" {
			if rule.cond, err = r.condition(); err != nil {
				return nil, err
			}
		}
		d.messages = append(d.messages, rule)
	}
	if err := d.readLineRules(f.Association); err != nil {
		return nil, err
	}
	for _, r := range f.Row {
		rule := rowRule{}
		switch r.As {
		case "setting":
			rule.as = setting
		case "alarm":
			rule.as = alarm
		default:
			return nil, fmt.Errorf("row rule has as = %q, want setting or alarm", r.As)
		}
		if rule.cond, err = r.condition(); err != nil {
			return nil, err
		}
		if rule.cond.at.segment != "OBX" {
			return nil, fmt.Errorf("row rule on %s: want an OBX field", r.Field)
		}
		d.rows = append(d.rows, rule)
	}
	if err := d.readAlarmRules(f.Alarm); err != nil {
		return nil, err
	}
	for _, r := range f.Detect {
		rule := detectRule{score: r.Score, why: r.Why}
		if rule.cond, err = r.condition(); err != nil {
			return nil, err
		}
		if r.Score < 1 || r.Why == "" {
			return nil, fmt.Errorf("detect rule on %s needs a score and a reason", r.Field)
		}
		d.detect = append(d.detect, rule)
	}
	err = readTable(files, folder+"/codes.tsv", 7, func(f []string) error {
		number, err := strconv.Atoi(f[4])
		if err != nil {
			return err
		}
		c := &localCode{labels: list(f[2]), needsLabel: f[3] == "yes", term: termByNumber[number], channels: list(f[6])}
		if c.term == nil {
			return fmt.Errorf("number %d is not in data/codes.tsv", number)
		}
		if f[5] != "" {
			if c.loinc = loincByCode[f[5]]; c.loinc == nil {
				return fmt.Errorf("LOINC code %s is not in data/loinc.tsv", f[5])
			}
		}
		key := f[0] + "\x00" + f[1]
		if d.codes[key] != nil {
			return fmt.Errorf("code %s stands twice", f[1])
		}
		d.codes[key] = c
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return d, nil
}

func oneOf(s string, list ...string) bool {
	for _, x := range list {
		if s == x {
			return true
		}
	}
	return false
}

// Dialects lists all dialects by name.
func Dialects() []*Dialect { return append([]*Dialect(nil), dialects...) }

// LookupDialect gives the dialect of that name.
func LookupDialect(name string) (*Dialect, error) {
	if d := dialectByName[name]; d != nil {
		return d, nil
	}
	names := make([]string, len(dialects))
	for i, d := range dialects {
		names[i] = d.Name
	}
	return nil, fmt.Errorf("cannot find dialect %q: known are %s", name, strings.Join(names, ", "))
}

// generic is the dialect of a message that no other dialect knows.
const generic = "ihe-pcd01"

// Detect proposes the dialect of a message: the one whose rules score highest, with the rules that held as its
// reason. It never fails: where nothing fits, it proposes the generic one with score 0. A person decides.
func Detect(m *hl7.Message) (d *Dialect, score int, why string) {
	d, why = dialectByName[generic], "nothing in the message names a dialect"
	for _, c := range dialects {
		s := 0
		for i := range c.detect {
			if c.detect[i].cond.inMessage(m) {
				s += c.detect[i].score
			}
		}
		if s > score && s >= c.detectMin {
			d, score = c, s
		}
	}
	if score == 0 {
		return d, 0, why
	}
	var reasons []string
	for i := range d.detect {
		if d.detect[i].cond.inMessage(m) {
			reasons = append(reasons, d.detect[i].why)
		}
	}
	return d, score, strings.Join(reasons, "; ")
}
