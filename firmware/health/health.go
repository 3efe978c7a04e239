// Package health keeps the list of conditions that a person should know of. The status page, /readyz, the metrics and
// the watchdog all read this one list; nothing else decides whether the box is well.
package health

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Severity orders conditions by what they mean for the promise "nothing lost".
type Severity int

const (
	Note     Severity = iota // worth knowing, nothing suffers
	Warning                  // works, but something must be mended
	Critical                 // readings are not taken, not kept or not trusted
)

var severities = [...]string{"note", "warning", "critical"}

func (s Severity) String() string { return severities[s] }

// MarshalText gives the severity's name.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the severity's name.
func (s *Severity) UnmarshalText(b []byte) error {
	i := slices.Index(severities[:], string(b))
	if i < 0 {
		return fmt.Errorf("%q is no severity", b)
	}
	*s = Severity(i)
	return nil
}

// Condition is one thing that is not as it should be. It never holds patient data.
type Condition struct {
	Code     string    `json:"code"`            // stable, such as "tpm-failed"
	About    string    `json:"about,omitempty"` // which monitor, leaf node …; with Code it names the condition
	Severity Severity  `json:"severity"`
	Sentence string    `json:"sentence"` // what is so, for a person
	Remedy   string    `json:"remedy"`   // what to do
	Since    time.Time `json:"since"`
}

// Board holds the conditions that are true now. The zero value is ready; it is safe for concurrent use.
type Board struct {
	mu  sync.Mutex
	now map[[2]string]Condition
}

// Set states that c is so: Code, About and Sentence; the severity is that of its kind, and so is the remedy where c has none of its
// own. A condition that was already there keeps its Since. It tells whether c is new.
func (b *Board) Set(c Condition) bool {
	if k, ok := Lookup(c.Code); ok {
		c.Severity, c.Remedy = k.Severity, cmp.Or(c.Remedy, k.Remedy)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.now == nil {
		b.now = map[[2]string]Condition{}
	}
	key := [2]string{c.Code, c.About}
	old, was := b.now[key]
	c.Since = time.Now()
	if was {
		c.Since = old.Since
	}
	b.now[key] = c
	return !was
}

// Clear states that the condition is no longer so. It tells whether it was.
func (b *Board) Clear(code, about string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := [2]string{code, about}
	_, was := b.now[key]
	delete(b.now, key)
	return was
}

// Conditions lists what is so now, the gravest first: by severity, then in the order of the table of kinds, then the oldest.
func (b *Board) Conditions() []Condition {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]Condition, 0, len(b.now))
	for _, c := range b.now {
		all = append(all, c)
	}
	slices.SortFunc(all, func(x, y Condition) int {
		return cmp.Or(cmp.Compare(y.Severity, x.Severity), cmp.Compare(rank(x.Code), rank(y.Code)), x.Since.Compare(y.Since), cmp.Compare(x.Code, y.Code), cmp.Compare(x.About, y.About))
	})
	return all
}

// Ready says whether nothing critical is so.
func (b *Board) Ready() bool {
	all := b.Conditions()
	return len(all) == 0 || all[0].Severity < Critical
}

// Verdict is one sentence on the whole box.
func (b *Board) Verdict() string {
	all := b.Conditions()
	switch {
	case len(all) == 0 || all[0].Severity == Note:
		return "Working: readings are taken, kept, signed and published."
	case all[0].Severity == Warning:
		return "Working, but needs attention: " + all[0].Sentence
	}
	return "Not working: " + all[0].Sentence
}
