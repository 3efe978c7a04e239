package mapping

import (
	"embed"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/vitalgate/vitalgate/fhir"
)

//go:embed data/*.tsv
var dataFiles embed.FS

// dimension is the kind of amount that a unit measures; units of one dimension can be compared.
type dimension string

// unit is a unit of measure: a number and name of ISO/IEEE 11073-10101 partition 4 and its UCUM code.
type unit struct {
	number    int
	refid     string
	ucum      string
	dimension dimension
	factor    float64 // amount in the first unit of the dimension = value*factor + offset; for judging only
	offset    float64
}

// loincCode is a LOINC code in use and what its FHIR R4 vital-signs profile asks for.
type loincCode struct {
	coding    fhir.Coding
	profile   string   // canonical URL, "" where R4 has none
	units     []string // UCUM codes that the profile allows
	dimension dimension
	limits    limits
	part      part
	about     string     // what labels of it mean, see meanings
	site      bool       // added by a site: no vital sign of a profile
	also      *loincCode // the more general code that the profile wants beside it
}

// limits is the range outside of which a value is physically impossible, in the first unit of the dimension.
type limits struct {
	low, high       float64
	hasLow, hasHigh bool
}

func (l limits) holds(x float64) bool { return !(l.hasLow && x < l.low) && !(l.hasHigh && x > l.high) }

// part says which part of a blood pressure panel a code is.
type part uint8

const (
	notPart part = iota
	systolic
	diastolic
	mean
)

var partNames = map[string]part{"": notPart, "sys": systolic, "dia": diastolic, "mean": mean}

// term is an observation identifier: a number and a name of ISO/IEEE 11073-10101 that belong together.
type term struct {
	number     int
	coding     fhir.Coding
	loinc      []*loincCode // confirmed equivalents, the profile's code first
	dimensions []dimension  // that its unit may have; empty: any
	limits     limits
	panel      *term // blood pressure panel
	part       part
	setting    bool
	about      string // what labels of it mean, see meanings
	panelOf    int
}

var (
	unitByNumber = map[int]*unit{}
	unitByName   = map[string]*unit{} // REFID
	unitByText   = map[string]*unit{} // UCUM codes and other spellings
	termByNumber = map[int]*term{}
	termByName   = map[string]*term{}
	loincByCode  = map[string]*loincCode{}
	// base is the first unit of each dimension, in which limits are given.
	base = map[dimension]*unit{}
)

const profileBase = "http://hl7.org/fhir/StructureDefinition/"

func loadTables() error {
	err := readTable(dataFiles, "data/units.tsv", 8, func(f []string) error {
		u := &unit{refid: f[1], ucum: f[3], dimension: dimension(f[4])}
		var err error
		if u.number, err = strconv.Atoi(f[0]); err != nil {
			return err
		}
		if u.factor, err = strconv.ParseFloat(f[5], 64); err != nil {
			return err
		}
		if u.offset, err = strconv.ParseFloat(f[6], 64); err != nil {
			return err
		}
		if unitByNumber[u.number] != nil {
			return fmt.Errorf("number %d stands twice", u.number)
		}
		unitByNumber[u.number] = u
		if base[u.dimension] == nil {
			base[u.dimension] = u
		}
		for _, name := range append(list(f[2]), u.refid) {
			if unitByName[name] != nil {
				return fmt.Errorf("name %s stands twice", name)
			}
			unitByName[name] = u
		}
		for _, s := range append(list(f[7]), u.ucum) {
			if old := unitByText[s]; old != nil && old.ucum != u.ucum {
				return fmt.Errorf("text %s stands twice", s)
			} else if old == nil {
				unitByText[s] = u
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = readTable(dataFiles, "data/loinc.tsv", 9, func(f []string) error {
		l := &loincCode{coding: fhir.Coding{System: fhir.SystemLOINC, Code: f[0], Display: f[1]}, units: strings.Fields(f[3]), dimension: dimension(f[4])}
		if f[2] != "" {
			l.profile = profileBase + f[2]
		}
		var err error
		if l.limits, err = readLimits(f[5], f[6]); err != nil {
			return err
		}
		l.part = partNames[f[7]]
		if f[8] != "" {
			if l.also = loincByCode[f[8]]; l.also == nil {
				return fmt.Errorf("LOINC code %s stands before its line", f[8])
			}
		}
		l.about = l.meaning()
		loincByCode[f[0]] = l
		return nil
	})
	if err != nil {
		return err
	}
	err = readTable(dataFiles, "data/codes.tsv", 9, func(f []string) error {
		t := &term{coding: fhir.Coding{System: fhir.SystemMDC, Code: f[0], Display: f[1]}, setting: strings.HasSuffix(f[1], "_SETTING") || isAttribute(f[1])}
		var err error
		if t.number, err = strconv.Atoi(f[0]); err != nil {
			return err
		}
		if termByNumber[t.number] != nil {
			return fmt.Errorf("number %d stands twice", t.number)
		}
		termByNumber[t.number] = t
		for _, name := range append(list(f[2]), f[1]) {
			if termByName[name] != nil {
				return fmt.Errorf("name %s stands twice", name)
			}
			termByName[name] = t
		}
		for _, code := range strings.Fields(f[3]) {
			l := loincByCode[code]
			if l == nil {
				return fmt.Errorf("LOINC code %s is not in data/loinc.tsv", code)
			}
			t.loinc = append(t.loinc, l)
		}
		for _, d := range list(f[4]) {
			if base[dimension(d)] == nil {
				return fmt.Errorf("dimension %s has no unit", d)
			}
			t.dimensions = append(t.dimensions, dimension(d))
		}
		t.about = t.meaning()
		if t.limits, err = readLimits(f[5], f[6]); err != nil {
			return err
		}
		if f[7] != "" {
			if t.panelOf, err = strconv.Atoi(f[7]); err != nil {
				return err
			}
			var ok bool
			if t.part, ok = partNames[f[8]]; !ok {
				return fmt.Errorf("part %s is not known", f[8])
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, t := range termByNumber {
		if t.panelOf != 0 {
			if t.panel = termByNumber[t.panelOf]; t.panel == nil {
				return fmt.Errorf("panel %d of %d is not in the table", t.panelOf, t.number)
			}
		}
	}
	return nil
}

// allows says whether a unit of that dimension fits the term.
func (t *term) allows(d dimension) bool {
	for _, x := range t.dimensions {
		if x == d {
			return true
		}
	}
	return len(t.dimensions) == 0
}

func readLimits(low, high string) (l limits, err error) {
	if low != "" {
		l.hasLow = true
		if l.low, err = strconv.ParseFloat(low, 64); err != nil {
			return l, err
		}
	}
	if high != "" {
		l.hasHigh = true
		l.high, err = strconv.ParseFloat(high, 64)
	}
	return l, err
}

func list(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, "|")
}

// readTable reads a table of tab-separated values: comment lines begin with #, the first other line names the columns.
func readTable(files fs.FS, name string, columns int, row func(fields []string) error) error {
	data, err := fs.ReadFile(files, name)
	if err != nil {
		return fmt.Errorf("cannot read table %s: %w", name, err)
	}
	header := true
	for i, line := range strings.Split(string(data), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		if header {
			header = false
			continue
		}
		f := strings.Split(line, "\t")
		if len(f) != columns {
			return fmt.Errorf("cannot read table %s line %d: %d columns, want %d", name, i+1, len(f), columns)
		}
		if err := row(f); err != nil {
			return fmt.Errorf("cannot read table %s line %d: %w", name, i+1, err)
		}
	}
	return nil
}
