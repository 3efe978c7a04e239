package maintain_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/vitalgate/vitalgate/firmware/lamp"
	"github.com/vitalgate/vitalgate/provision/protocol"
)

// What answers at the status address is believed only if it is this box.
func TestThePageOfAnotherBox(t *testing.T) {
	var answer atomic.Value
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer.Load()) }))
	defer page.Close()
	b, f := open(t, nil), newFacility(t)
	b.enrolled(t, f)
	call := b.as(b.Label(), f.tool(t, nil))
	answer.Store(`{}`)
	config := strings.Replace(configOf("f1/gw1"), `listen = ""`, fmt.Sprintf("listen = %q", strings.TrimPrefix(page.URL, "http://")), 1)
	if status, text := call("PUT", protocol.PathProvision, protocol.Provision{Config: config}); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	until(t, "the box works again", func() bool { return b.works.Load() == 2 && b.working.Load() == 1 })
	for _, c := range []struct {
		page, trouble string
		lamp          lamp.State
	}{
		{`{"box": "f1/gw4", "ready": true}`, "another box (f1/gw4) answers", lamp.Attention},
		{`{"ready": true}`, "it is no box's", lamp.Attention},
		{`<html>`, "it is no box's", lamp.Attention},
		{`{"box": "f1/gw1", "ready": true}`, "", lamp.Good},
		{`{"box": "f1/gw1", "ready": false}`, "", lamp.NotWorking},
	} {
		answer.Store(c.page)
		var st protocol.Status
		status, text := call("GET", protocol.PathStatus, nil)
		if err := json.Unmarshal(text, &st); err != nil || status != 200 {
			t.Fatalf("%d %s", status, text)
		}
		if !strings.Contains(st.Trouble, c.trouble) || (c.trouble == "") != (st.Report != nil) {
			t.Errorf("%s: %q, %s", c.page, st.Trouble, st.Report)
		}
		if got := b.State(t.Context()); got != c.lamp {
			t.Errorf("%s: lamp %v, want %v", c.page, got, c.lamp)
		}
	}
}
