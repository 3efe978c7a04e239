package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What answers at the address is believed only if it is the box of the configuration.
func TestStatusOfAnotherBox(t *testing.T) {
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"box": "f1/gw4", "ready": true, "verdict": "All is well."}`)
	}))
	defer page.Close()
	addr := strings.TrimPrefix(page.URL, "http://")
	for box, want := range map[string]string{"f1/gw4": "", "f1/gw1": "another box (f1/gw4) answers"} {
		path := filepath.Join(t.TempDir(), "config.toml")
		text := fmt.Sprintf("[box]\nid = %q\ndata = \"data\"\n[status]\nlisten = %q\n[[monitor]]\nname = \"bed-1\"\naddress = \"127.0.0.1:2575\"\ndialect = \"ihe-pcd01\"\nzone = \"UTC\"\n", box, addr)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := statusCmd{Config: path}.Run(t.Context())
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", box, err, want)
		}
	}
}
