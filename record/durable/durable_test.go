package durable_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/vitalgate/vitalgate/record/durable"
)

// Whoever may write to the folder cannot have the file written elsewhere.
func TestNoLinkLeadsElsewhere(t *testing.T) {
	for what, link := range map[string]func(old, new string) error{"a symbolic link": os.Symlink, "a hard link": os.Link} {
		dir := t.TempDir()
		other, path := filepath.Join(dir, "other"), filepath.Join(dir, "file")
		if err := os.WriteFile(other, []byte("other"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := link(other, path+".new"); err != nil {
			t.Fatal(err)
		}
		if err := durable.WriteFile(path, []byte("text")); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(other); err != nil || string(b) != "other" {
			t.Errorf("%s: what it leads to is now %q: %v", what, b, err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != "text" {
			t.Errorf("%s: the file is %q: %v", what, b, err)
		}
		if st, err := os.Lstat(path); err != nil || !st.Mode().IsRegular() {
			t.Errorf("%s: the file is no file: %v", what, err)
		}
	}
}
