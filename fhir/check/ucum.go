package check

import (
	"fmt"
	"strings"
)

// Atoms and prefixes of UCUM that bedside monitors need. Atoms in atomsMetric take a prefix.
var (
	atomsMetric = words("m g s L l mol Hz Pa bar V Ohm J W N dyn m[Hg] m[H2O] B eq K Cel")
	atoms       = words("1 % min h d wk mo a [degF] [in_i] [lb_av] [oz_av] [pH] [drp] [ppth] [ppm] [ppb] [pptr]")
	prefixes    = words("Y Z E P T G M k h da d c m u n p f a z y")
)

func words(s string) map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(s) {
		m[w] = true
	}
	return m
}

// UCUM says whether code is a unit by the grammar of UCUM §2 (case sensitive), built of the atoms that this package
// knows.
func UCUM(code string) error {
	if code == "" || len(code) > 64 {
		return fmt.Errorf("is no UCUM unit: empty or too long")
	}
	p := ucum{s: code}
	p.accept('/')
	p.term(0)
	if p.err == "" && p.i < len(p.s) {
		p.err = "has something after its end"
	}
	if p.err != "" {
		return fmt.Errorf("is no UCUM unit: %s", p.err)
	}
	return nil
}

type ucum struct {
	s   string
	i   int
	err string
}

func (p *ucum) accept(c byte) bool {
	if p.i < len(p.s) && p.s[p.i] == c {
		p.i++
		return true
	}
	return false
}

func (p *ucum) term(depth int) {
	if depth > 8 {
		p.err = "nested too deep"
		return
	}
	for {
		p.component(depth)
		if p.err != "" || !p.accept('.') && !p.accept('/') {
			return
		}
	}
}

func (p *ucum) component(depth int) {
	switch {
	case p.accept('('):
		p.term(depth + 1)
		if p.err == "" && !p.accept(')') {
			p.err = "a parenthesis is not closed"
		}
		return
	case p.i < len(p.s) && p.s[p.i] == '{':
		p.annotation()
		return
	}
	start := p.i
	for p.i < len(p.s) && !strings.ContainsRune("./(){", rune(p.s[p.i])) {
		if p.s[p.i] == '[' {
			for p.i < len(p.s) && p.s[p.i] != ']' {
				p.i++
			}
			if p.i == len(p.s) {
				p.err = "a bracket is not closed"
				return
			}
		}
		p.i++
	}
	symbol := p.s[start:p.i]
	if !factor(symbol) {
		base := strings.TrimRight(symbol, "0123456789")
		if base != symbol {
			base = strings.TrimRight(base, "+-")
		}
		if !atom(base) {
			p.err = "a unit atom is not known"
			return
		}
	}
	if p.i < len(p.s) && p.s[p.i] == '{' {
		p.annotation()
	}
}

func factor(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

func atom(s string) bool {
	if atoms[s] || atomsMetric[s] {
		return true
	}
	for n := 1; n <= 2 && n < len(s); n++ {
		if prefixes[s[:n]] && atomsMetric[s[n:]] {
			return true
		}
	}
	return false
}

func (p *ucum) annotation() {
	for p.i++; p.i < len(p.s); p.i++ {
		switch c := p.s[p.i]; {
		case c == '}':
			p.i++
			return
		case c == '{' || c < ' ' || c > '~':
			p.err = "an annotation holds a character that is not allowed"
			return
		}
	}
	p.err = "an annotation is not closed"
}
