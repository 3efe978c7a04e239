package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vitalgate/vitalgate/hwtest/hospital"
)

// A copy of an invitation makes a second peer of one name. Both throw each other off the hub, which says so, and so do they; it passes
// when one of them has stopped.
func TestACopiedInvitationIsNoticed(t *testing.T) {
	t.Parallel()
	hub := newHub(t, "")
	dir := t.TempDir()
	invitation, copied := filepath.Join(dir, "invitation"), filepath.Join(dir, "copied")
	program(t, "invite", "ward1", "--data", string(hub.dir), "-o", invitation)
	text, err := os.ReadFile(invitation)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(copied, text, 0o600); err != nil {
		t.Fatal(err)
	}
	ward := func(name, from string) *site {
		d := filepath.Join(dir, name)
		program(t, "init", "--join", from, "--data", d, "--listen-boxes", hospital.FreeAddr(), "--page", hospital.FreeAddr())
		return newSite(t, d)
	}
	one, other := ward("one", invitation), ward("other", copied)
	for _, s := range []*site{hub, one, other} {
		s.start()
	}
	says := func(s *site, about string) bool {
		st, err := (socketSource{s.dir}).status(context.Background())
		return err == nil && slices.ContainsFunc(st.Conditions, func(c condition) bool { return c.Code == "peer-twice" && c.About == about })
	}
	hub.until("the hub says that there are two", func() bool { return says(hub, "ward1") })
	one.until("one of them says it", func() bool { return says(one, "") })
	other.until("the other says it", func() bool { return says(other, "") })
	other.kill()
	hub.until("it is over", func() bool { return !says(hub, "ward1") })
}
