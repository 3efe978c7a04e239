package mapping

import (
	"slices"
	"strconv"
	"strings"
)

// Numbers lists the codes of the dialect's own table that are bare numbers, in ascending order: what a monitor that has to be
// asked for each parameter can be asked for.
func (d *Dialect) Numbers() []string {
	var numbers []int
	for key := range d.codes {
		if code, ok := strings.CutPrefix(key, "\x00"); ok {
			if n, err := strconv.Atoi(code); err == nil && n >= 0 {
				numbers = append(numbers, n)
			}
		}
	}
	slices.Sort(numbers)
	texts := make([]string, len(numbers))
	for i, n := range numbers {
		texts[i] = strconv.Itoa(n)
	}
	return texts
}
