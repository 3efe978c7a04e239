package replicate

import (
	"fmt"
	"log/slog"
	"reflect"
	"testing"
	"time"
)

// A peer that is restarted, however often, is one; two that are heard in turn are two, until one of them is silent.
func TestTwinsAreTwo(t *testing.T) {
	began := time.Now()
	at := func(s int) time.Time { return began.Add(time.Duration(s) * time.Second) }
	said := func(run string, twins ...string) []byte {
		list := ""
		for _, p := range twins {
			list += fmt.Sprintf(`,"twins":[%q]`, p)
		}
		return []byte(`{"run":"` + run + `"` + list + `}`)
	}
	n := &Twins{Name: "hub", Log: slog.New(slog.DiscardHandler), run: "OWN", heard: map[string]*voice{}}
	of := func(now time.Time, want ...string) {
		t.Helper()
		if got := n.of(now); !reflect.DeepEqual(got, want) && len(got)+len(want) > 0 {
			t.Errorf("after %v: %v, want %v", now.Sub(began), got, want)
		}
	}
	for i := range 20 { // restarts; each says itself more than once
		n.hear("ward1", said(fmt.Sprint("RUN", i)), at(i))
		n.hear("ward1", said(fmt.Sprint("RUN", i)), at(i))
	}
	n.hear("ward1", said("RUN18"), at(20)) // late
	n.hear("ward1", said("RUN19"), at(21))
	of(at(21))
	for i := range 6 {
		n.hear("ward2", said([]string{"A", "B"}[i%2]), at(30+i))
		n.hear("hub", said("OWN"), at(30+i))
	}
	of(at(36), "ward2")
	of(at(36 + 61))

	n.hear("ward3", said("X", "hub"), at(100)) // another has heard two of us
	of(at(101), "hub")
	of(at(161))
	for i := range 6 { // and so have we
		n.hear("hub", said([]string{"OWN", "COPY"}[i%2]), at(200+i))
	}
	of(at(206), "hub")
	for _, bad := range []string{"", "{}", "[]", `{"run":7}`, `{"run":"` + string(make([]byte, 5000)) + `"}`} {
		n.hear("ward9", []byte(bad), at(300))
	}
	n.hear("../x", said("Y"), at(300))
	if n.heard["ward9"] != nil || n.heard["../x"] != nil {
		t.Error("noise is heard as a peer")
	}
}
