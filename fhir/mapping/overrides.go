package mapping

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/vitalgate/vitalgate/fhir"
)

// Overrides are codes that a site adds to the tables: what its monitors send beyond what is known of their family, and LOINC codes
// that it wants beside those of ISO/IEEE 11073-10101. A known pair of number and name is never changed by them.
type Overrides struct {
	// Codes is how many lines were taken.
	Codes int
	// Skipped says of each line of LOINC's table that was not taken why: it holds many codes that no monitor of a site sends.
	Skipped []string

	numbers map[int]*term
	names   map[string]*term
	loinc   map[string]*loincCode
	codes   map[string]*localCode // system, NUL, code
}

// maxOverrides bounds the bytes of an overrides file.
const maxOverrides = 16 << 20

// siteCode is one line of an overrides file, whatever its form.
type siteCode struct {
	at                        string // "line 3"
	system, code              string
	labels, channels          []string
	mdc, name, loinc, display string
	units, low, high          string
	lenient                   bool // a line that cannot be used is no error
}

// LoadOverrides reads codes in one of three forms, recognized by how the text begins:
//
//   - tab-separated values with a line of column names: system and code as OBX-3 sends them, then any of label (a|b: its names,
//     others are doubted), mdc and name (number and name of ISO/IEEE 11073-10101), loinc and display, units (UCUM, a|b), min and
//     max (plausible, in the first of the units), channel (OBX-4 prefixes, a|b). A line needs mdc or loinc; a number that is not
//     in the tables needs name and units. Lines that begin with # are comments.
//   - a FHIR R4 ConceptMap (JSON), as AppendConceptMap writes it.
//   - LOINC's LoincIeeeMedicalDeviceCodeMappingTable.csv (LOINC_NUM, LOINC_LONG_COMMON_NAME, IEEE_CF_CODE10, IEEE_REFID, equivalence).
//
// A line that contradicts the tables is an error that names it.
func LoadOverrides(r io.Reader) (*Overrides, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxOverrides+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read the overrides: %w", err)
	}
	if len(data) > maxOverrides {
		return nil, fmt.Errorf("cannot read the overrides: more than %d bytes", maxOverrides)
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	var all []siteCode
	first, _, _ := bytes.Cut(data, []byte("\n"))
	switch {
	case bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")):
		all, err = readConceptMap(data)
	case bytes.Contains(first, []byte("IEEE_CF_CODE10")):
		all, err = readIEEETable(data)
	default:
		all, err = readSiteTable(string(data))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the overrides: %w", err)
	}
	o := &Overrides{numbers: map[int]*term{}, names: map[string]*term{}, loinc: map[string]*loincCode{}, codes: map[string]*localCode{}}
	for _, s := range all {
		if err := o.add(s); err != nil {
			if s.lenient {
				o.Skipped = append(o.Skipped, s.at+": "+err.Error())
				continue
			}
			return nil, fmt.Errorf("cannot use the overrides: %s: %w", s.at, err)
		}
		o.Codes++
	}
	return o, nil
}

var siteColumns = []string{"system", "code", "label", "mdc", "name", "loinc", "display", "units", "min", "max", "channel"}

func readSiteTable(text string) (all []siteCode, err error) {
	var columns []string
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSuffix(line, "\r")
		if strings.TrimSpace(line) == "" || line[0] == '#' {
			continue
		}
		f := strings.Split(line, "\t")
		if columns == nil {
			if columns = f; !slices.Contains(columns, "code") {
				return nil, errors.New("the first line names no column code")
			}
			for _, name := range columns {
				if !slices.Contains(siteColumns, name) {
					return nil, fmt.Errorf("the column %q is not known", name)
				}
			}
			continue
		}
		at := "line " + strconv.Itoa(i+1)
		if len(f) > len(columns) {
			return nil, fmt.Errorf("%s: %d columns, but the first line names %d", at, len(f), len(columns))
		}
		s := siteCode{at: at}
		for k, v := range f {
			v = strings.TrimSpace(v)
			switch columns[k] {
			case "system":
				s.system = v
			case "code":
				s.code = v
			case "label":
				s.labels = list(v)
			case "mdc":
				s.mdc = v
			case "name":
				s.name = v
			case "loinc":
				s.loinc = v
			case "display":
				s.display = v
			case "units":
				s.units = v
			case "min":
				s.low = v
			case "max":
				s.high = v
			case "channel":
				s.channels = list(v)
			}
		}
		if s.code == "" {
			return nil, fmt.Errorf("%s: no code", at)
		}
		all = append(all, s)
	}
	if columns == nil {
		return nil, errors.New("no line of column names")
	}
	return all, nil
}

func readIEEETable(data []byte) (all []siteCode, err error) {
	r := csv.NewReader(bytes.NewReader(data))
	r.FieldsPerRecord = -1
	r.ReuseRecord = true
	at := map[string]int{}
	for n := 1; ; n++ {
		f, err := r.Read()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		if n == 1 {
			for i, name := range f {
				at[strings.ToUpper(strings.TrimSpace(name))] = i
			}
			for _, name := range []string{"LOINC_NUM", "LOINC_LONG_COMMON_NAME", "IEEE_CF_CODE10", "IEEE_REFID"} {
				if _, ok := at[name]; !ok {
					return nil, fmt.Errorf("the table has no column %s", name)
				}
			}
			continue
		}
		cell := func(name string) string {
			if i, ok := at[name]; ok && i < len(f) {
				return strings.Clone(strings.TrimSpace(f[i]))
			}
			return ""
		}
		s := siteCode{
			at: "record " + strconv.Itoa(n), lenient: true, system: "MDC",
			code: cell("IEEE_CF_CODE10"), mdc: cell("IEEE_CF_CODE10"), name: cell("IEEE_REFID"),
			loinc: cell("LOINC_NUM"), display: cell("LOINC_LONG_COMMON_NAME"), units: strings.Join(strings.Fields(cell("IEEE_UOM_UCUM")), "|"),
		}
		// The table goes from LOINC to IEEE: only where both are the same is the LOINC code that of the number.
		if e := strings.ToLower(cell("EQUIVALENCE")); !oneOf(e, "", "equal", "equivalent") {
			s.code = ""
		}
		all = append(all, s)
	}
}

// holdsFor says whether a ConceptMap equivalence means that the target holds wherever the source does (FHIR R4
// concept-map-equivalence).
func holdsFor(equivalence string) bool {
	return oneOf(equivalence, "", "equal", "equivalent", "wider", "subsumes")
}

// Properties of ConceptMap.group.element.target.dependsOn by which a target holds for some rows only.
const (
	propertyChannel = "https://vitalgate.github.io/fhir/property/obx-4"
	propertyLabel   = "https://vitalgate.github.io/fhir/property/label"
)

func readConceptMap(data []byte) (all []siteCode, err error) {
	var m struct {
		ResourceType string
		Group        []struct {
			Source, Target string
			Element        []struct {
				Code, Display string
				Target        []struct {
					Code, Display, Equivalence string
					DependsOn                  []struct{ Property, Value string }
					Product                    []any
				}
			}
		}
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, err
	}
	if m.ResourceType != "ConceptMap" {
		return nil, fmt.Errorf("it is a FHIR %s, want a ConceptMap", m.ResourceType)
	}
	index := map[string]int{}
	for gi, g := range m.Group {
		system, ok := strings.CutPrefix(g.Source, localSystem)
		switch {
		case ok:
		case g.Source == fhir.SystemMDC && g.Target == fhir.SystemUCUM:
			continue // units of the tables
		case g.Source == fhir.SystemMDC:
			system = "MDC"
		default:
			return nil, fmt.Errorf("group[%d].source: want %s<system> or %s", gi, localSystem, fhir.SystemMDC)
		}
		if g.Target != fhir.SystemMDC && g.Target != fhir.SystemLOINC {
			return nil, fmt.Errorf("group[%d].target: want %s or %s", gi, fhir.SystemMDC, fhir.SystemLOINC)
		}
		for ei, e := range g.Element {
			for ti, t := range e.Target {
				at := fmt.Sprintf("group[%d].element[%d].target[%d]", gi, ei, ti)
				if !holdsFor(t.Equivalence) {
					return nil, fmt.Errorf("%s: the equivalence does not say that the target holds for the source", at)
				}
				if len(t.Product) > 0 {
					return nil, fmt.Errorf("%s: a product is not understood", at)
				}
				key := system + "\x00" + e.Code
				i, seen := index[key]
				if !seen {
					i = len(all)
					index[key] = i
					all = append(all, siteCode{at: at, system: system, code: e.Code})
					if system == "MDC" {
						all[i].mdc, all[i].name = e.Code, e.Display
					}
				}
				s := &all[i]
				for _, d := range t.DependsOn {
					switch d.Property {
					case propertyChannel:
						s.channels = list(d.Value)
					case propertyLabel:
						s.labels = list(d.Value)
					default:
						return nil, fmt.Errorf("%s: the property of dependsOn is not understood", at)
					}
				}
				if g.Target == fhir.SystemMDC {
					s.mdc, s.name = t.Code, t.Display
				} else if s.loinc == "" { // the first is the most exact
					s.loinc, s.display = t.Code, t.Display
				}
			}
		}
	}
	return all, nil
}

// add takes one line.
func (o *Overrides) add(s siteCode) error {
	if s.code == "" {
		return errors.New("names no code that holds")
	}
	if s.mdc == "" && s.loinc == "" {
		return errors.New("names neither a number of ISO/IEEE 11073-10101 nor a LOINC code")
	}
	if err := s.contradicts(); err != nil {
		return err
	}
	units, dims, err := siteUnits(s.units)
	if err != nil {
		return err
	}
	bounds, err := readLimits(s.low, s.high)
	if err != nil {
		return errors.New("min or max is no number")
	}
	if len(units) > 0 { // as the tables hold them: in the first unit of the dimension
		u := unitByText[units[0]]
		bounds.low, bounds.high = bounds.low*u.factor+u.offset, bounds.high*u.factor+u.offset
	} else if bounds.hasLow || bounds.hasHigh {
		return errors.New("min and max need units")
	}
	var t *term
	if s.mdc != "" {
		if t, err = o.term(s, dims, bounds); err != nil {
			return err
		}
		if len(dims) == 0 {
			dims = t.dimensions
		}
	}
	var l *loincCode
	if s.loinc != "" {
		if l, err = o.loincCode(s, units, dims, bounds); err != nil {
			return err
		}
		if t != nil && !t.allows(l.dimension) {
			return errors.New("the LOINC code and the number measure different things")
		}
	}
	if t != nil && l != nil && len(t.loinc) > 0 && !slices.Contains(t.loinc, l) {
		if !l.site || s.system == "MDC" {
			return errors.New("the tables know the number under other LOINC codes")
		}
		more := *l // the code of the profile comes first
		more.also = t.loinc[0]
		l = &more
	}
	if s.system == "MDC" && len(s.channels) == 0 {
		if l != nil && len(t.loinc) == 0 {
			t = o.own(t)
			t.loinc = []*loincCode{l}
		}
		return nil
	}
	key := s.system + "\x00" + s.code
	if o.codes[key] != nil {
		return errors.New("the code stands twice")
	}
	o.codes[key] = &localCode{labels: s.labels, needsLabel: len(s.labels) > 0, term: t, loinc: l, channels: s.channels}
	return nil
}

// contradicts says whether a line gives a code of a known coding system another meaning.
func (s *siteCode) contradicts() error {
	switch s.system {
	case "MDC":
		if s.mdc != s.code {
			return errors.New("a number of ISO/IEEE 11073-10101 means itself: mdc must be the code")
		}
	case "MDIL":
		if n, ok := mdil(s.code); ok && termByNumber[n] != nil && strconv.Itoa(n) != s.mdc {
			return errors.New("the MDIL code is known under its own number")
		}
	case "LN", "LOINC":
		if l := loincByCode[s.code]; l != nil && (s.mdc != "" || s.loinc != s.code) {
			return errors.New("the LOINC code is known as itself")
		}
	}
	return nil
}

// own gives the overrides' copy of a term.
func (o *Overrides) own(t *term) *term {
	if o.numbers[t.number] == t {
		return t
	}
	mine := *t
	o.numbers[t.number] = &mine
	for name, x := range termByName {
		if x == t {
			o.names[name] = &mine
		}
	}
	return &mine
}

func (o *Overrides) term(s siteCode, dims []dimension, bounds limits) (*term, error) {
	number, err := strconv.Atoi(s.mdc)
	if err != nil || number < 1 || number > 1<<30 || strconv.Itoa(number) != s.mdc {
		return nil, errors.New("mdc is no number of ISO/IEEE 11073-10101")
	}
	t := o.numbers[number]
	if t == nil {
		t = termByNumber[number]
	}
	if t != nil {
		if s.name != "" && termByName[s.name] != termByNumber[number] && o.names[s.name] != t {
			return nil, errors.New("number and name are no pair: the tables know the number under another name")
		}
		return t, nil
	}
	if !strings.HasPrefix(s.name, "MDC") || !isCode(s.name) || termByName[s.name] != nil || o.names[s.name] != nil {
		return nil, errors.New("the number is not in the tables and needs a name (MDC_...) that is not either")
	}
	if len(dims) == 0 {
		return nil, errors.New("the number is not in the tables and needs units")
	}
	t = &term{number: number, coding: fhir.Coding{System: fhir.SystemMDC, Code: s.mdc, Display: s.name}, dimensions: dims, limits: bounds}
	t.about = t.meaning()
	o.numbers[number], o.names[s.name] = t, t
	return t, nil
}

func (o *Overrides) loincCode(s siteCode, units []string, dims []dimension, bounds limits) (*loincCode, error) {
	l := o.loinc[s.loinc]
	if l == nil {
		l = loincByCode[s.loinc]
	}
	if l != nil {
		if len(dims) > 0 && !(&term{dimensions: dims}).allows(l.dimension) {
			return nil, errors.New("the LOINC code does not have these units")
		}
		return l, nil
	}
	if !isLOINC(s.loinc) {
		return nil, errors.New("the LOINC code has no valid check digit")
	}
	if s.display == "" || len(dims) != 1 {
		return nil, errors.New("the LOINC code is not in the tables and needs a display and units of one kind")
	}
	l = &loincCode{coding: fhir.Coding{System: fhir.SystemLOINC, Code: s.loinc, Display: s.display}, units: units, dimension: dims[0], limits: bounds, site: true}
	o.loinc[s.loinc] = l
	return l, nil
}

// siteUnits reads UCUM codes, a|b, and gives them with their dimensions.
func siteUnits(s string) (units []string, dims []dimension, err error) {
	for _, code := range list(s) {
		u := unitByText[code]
		if u == nil || u.ucum != code {
			return nil, nil, fmt.Errorf("the unit %q is not a UCUM code of the tables", code)
		}
		units = append(units, code)
		known := false
		for _, d := range dims {
			known = known || d == u.dimension
		}
		if !known {
			dims = append(dims, u.dimension)
		}
	}
	return units, dims, nil
}

// With gives the dialect with a site's codes. The codes of the dialect itself and those of the tables come first. d does not change.
func (d *Dialect) With(o *Overrides) (*Dialect, error) {
	if o == nil {
		return d, nil
	}
	mine := *d
	mine.site = o
	mine.codes = maps.Clone(d.codes)
	for k, c := range mine.codes {
		if c.term != nil && o.numbers[c.term.number] != nil {
			x := *c
			x.term = o.numbers[c.term.number]
			mine.codes[k] = &x
		}
	}
	for k, c := range o.codes {
		if code, ok := strings.CutPrefix(k, d.Name+"\x00"); ok { // as AppendConceptMap names codes without a coding system
			k = "\x00" + code
		}
		if old := mine.codes[k]; old != nil && (c.term == nil || old.term == nil || old.term.number != c.term.number) {
			_, code, _ := strings.Cut(k, "\x00")
			return nil, fmt.Errorf("cannot use the overrides: dialect %s knows the code %s under another number", d.Name, code)
		}
		mine.codes[k] = c
	}
	return &mine, nil
}

// numbered and named find a term in the tables and the site's codes.
func (d *Dialect) numbered(n int) *term {
	if d.site != nil {
		if t := d.site.numbers[n]; t != nil {
			return t
		}
	}
	return termByNumber[n]
}

func (d *Dialect) named(name string) *term {
	if d.site != nil {
		if t := d.site.names[name]; t != nil {
			return t
		}
	}
	return termByName[name]
}

func (d *Dialect) loincCode(code string) *loincCode {
	if d.site != nil {
		if l := d.site.loinc[code]; l != nil {
			return l
		}
	}
	return loincByCode[code]
}
