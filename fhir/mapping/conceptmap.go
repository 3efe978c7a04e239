package mapping

import (
	"sort"
	"strconv"
	"strings"

	"github.com/vitalgate/vitalgate/fhir"
)

// AppendConceptMap appends the tables in use as a FHIR R4 ConceptMap: ISO/IEEE 11073-10101 observation codes to LOINC, its
// units to UCUM, and, for a dialect that has codes of its own, those to 11073 and LOINC. d may be nil. A dialect's row that
// holds only for some channels or labels says so in its comment and in dependsOn. LoadOverrides reads it.
func AppendConceptMap(dst []byte, d *Dialect) []byte {
	name := "11073"
	if d != nil {
		name = d.Name
	}
	var groups []conceptGroup
	numbers := make([]int, 0, len(termByNumber))
	for n := range termByNumber {
		numbers = append(numbers, n)
	}
	term := func(n int) *term { return termByNumber[n] }
	if d != nil && d.site != nil {
		term = d.numbered
		for n := range d.site.numbers {
			if termByNumber[n] == nil {
				numbers = append(numbers, n)
			}
		}
	}
	sort.Ints(numbers)
	observations := conceptGroup{source: fhir.SystemMDC, target: fhir.SystemLOINC}
	for _, n := range numbers {
		t := term(n)
		for _, l := range t.loinc {
			observations.add(t.coding, l.coding, "wider", "", [2]string{})
		}
	}
	units := conceptGroup{source: fhir.SystemMDC, target: fhir.SystemUCUM}
	numbers = numbers[:0]
	for n := range unitByNumber {
		numbers = append(numbers, n)
	}
	sort.Ints(numbers)
	for _, n := range numbers {
		u := unitByNumber[n]
		units.add(fhir.Coding{Code: strconv.Itoa(n), Display: u.refid}, fhir.Coding{Code: u.ucum}, "equivalent", "", [2]string{})
	}
	groups = append(groups, observations, units)
	if d != nil {
		groups = append(groups, d.conceptGroups()...)
	}
	b := append(dst, `{"resourceType":"ConceptMap","id":`...)
	b = fhir.AppendString(b, "vitalgate-"+name)
	b = append(b, `,"url":`...)
	b = fhir.AppendString(b, "https://vitalgate.github.io/fhir/ConceptMap/"+name)
	b = append(b, `,"status":"active","copyright":`...)
	b = fhir.AppendString(b, "This material contains content from LOINC (http://loinc.org). LOINC is copyright © Regenstrief Institute, Inc. and the LOINC Committee and is available at no cost under the license at http://loinc.org/license.")
	b = append(b, `,"group":[`...)
	for i := range groups {
		if i > 0 {
			b = append(b, ',')
		}
		b = groups[i].append(b)
	}
	return append(b, "]}"...)
}

type conceptGroup struct {
	source, target string
	elements       []conceptElement
}

type conceptElement struct {
	source  fhir.Coding
	targets []conceptTarget
}

type conceptTarget struct {
	coding               fhir.Coding
	equivalence, comment string
	depends              [2]string // values of propertyLabel and propertyChannel that the target depends on, "" none
}

// add puts in one pair; pairs of one source follow each other.
func (g *conceptGroup) add(source, target fhir.Coding, equivalence, comment string, depends [2]string) {
	if n := len(g.elements); n == 0 || g.elements[n-1].source.Code != source.Code {
		g.elements = append(g.elements, conceptElement{source: source})
	}
	e := &g.elements[len(g.elements)-1]
	e.targets = append(e.targets, conceptTarget{coding: target, equivalence: equivalence, comment: comment, depends: depends})
}

func (g *conceptGroup) append(b []byte) []byte {
	member := func(b []byte, name, value string) []byte {
		if value == "" {
			return b
		}
		b = append(append(append(b, `,"`...), name...), `":`...)
		return fhir.AppendString(b, value)
	}
	b = append(b, `{"source":`...)
	b = fhir.AppendString(b, g.source)
	b = member(b, "target", g.target)
	b = append(b, `,"element":[`...)
	for i, e := range g.elements {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"code":`...)
		b = fhir.AppendString(b, e.source.Code)
		b = member(b, "display", e.source.Display)
		b = append(b, `,"target":[`...)
		for k, t := range e.targets {
			if k > 0 {
				b = append(b, ',')
			}
			b = append(b, `{"code":`...)
			b = fhir.AppendString(b, t.coding.Code)
			b = member(b, "display", t.coding.Display)
			b = member(b, "equivalence", t.equivalence)
			b = member(b, "comment", t.comment)
			for i, value := range t.depends {
				switch {
				case value == "":
					continue
				case i == 1 && t.depends[0] != "":
					b = append(b[:len(b)-1], ',')
				default:
					b = append(b, `,"dependsOn":[`...)
				}
				b = append(b, `{"property":`...)
				b = fhir.AppendString(b, [...]string{propertyLabel, propertyChannel}[i])
				b = append(member(b, "value", value), "}]"...)
			}
			b = append(b, '}')
		}
		b = append(b, "]}"...)
	}
	return append(b, "]}"...)
}

// conceptGroups gives the dialect's own codes, by coding system.
func (d *Dialect) conceptGroups() []conceptGroup {
	keys := make([]string, 0, len(d.codes))
	for k := range d.codes {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	var groups []conceptGroup
	for _, target := range []string{fhir.SystemMDC, fhir.SystemLOINC} {
		for _, k := range keys {
			system, code, _ := strings.Cut(k, "\x00")
			c := d.codes[k]
			source := localSystem + system
			switch system {
			case "":
				source = localSystem + d.Name
			case "MDC":
				source = fhir.SystemMDC
			}
			var to fhir.Coding
			equivalence, comment, depends := "equal", "", [2]string{}
			if target == fhir.SystemLOINC {
				if c.loinc == nil {
					continue
				}
				to, equivalence = c.loinc.coding, "wider"
			} else {
				if system == "MDC" || c.term == nil {
					continue // the same code, or none
				}
				to = c.term.coding
			}
			if c.needsLabel {
				comment = "only under the labels " + strings.Join(c.labels, ", ")
				depends[0] = strings.Join(c.labels, "|")
			}
			if len(c.channels) > 0 && target == fhir.SystemLOINC {
				comment = "only in the channels " + strings.Join(c.channels, ", ")
				depends[1] = strings.Join(c.channels, "|")
			}
			display := ""
			if len(c.labels) > 0 {
				display = c.labels[0]
			}
			if n := len(groups); n == 0 || groups[n-1].source != source || groups[n-1].target != target {
				groups = append(groups, conceptGroup{source: source, target: target})
			}
			groups[len(groups)-1].add(fhir.Coding{Code: code, Display: display}, to, equivalence, comment, depends)
		}
	}
	return groups
}
