package hwtest

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// read is a small file of /sys or /proc, trimmed; "" where there is none.
func (t *tester) read(path string) string {
	b, err := os.ReadFile(t.path(path))
	if err != nil {
		return ""
	}
	return strings.Trim(string(b), " \t\r\n\x00")
}

// number is a file that holds a number.
func (t *tester) number(path string) (float64, bool) {
	v, err := strconv.ParseFloat(t.read(path), 64)
	return v, err == nil
}

// glob lists files, without the root.
func (t *tester) glob(pattern string) []string {
	found, _ := filepath.Glob(t.path(pattern))
	for i, f := range found {
		found[i] = strings.TrimPrefix(f, strings.TrimSuffix(t.path("/"), "/"))
	}
	return found
}
