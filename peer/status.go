package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/vitalgate/vitalgate/peer/facility"
	"github.com/vitalgate/vitalgate/peer/registry"
	"github.com/vitalgate/vitalgate/peer/store"
)

// status is what `vitalpeer status` and the running peer's socket say.
type status struct {
	Facility   string      `json:"facility"`
	Name       string      `json:"name"`
	Running    bool        `json:"running"`
	Links      int         `json:"links"` // leaf-node connections to other peers
	Ready      bool        `json:"ready"`
	Conditions []condition `json:"conditions"`
	Boxes      []boxStatus `json:"boxes"`
}

type boxStatus struct {
	Box         string `json:"box"`
	Protection  string `json:"protection"`
	Revoked     bool   `json:"revoked"`
	Records     uint64 `json:"records"`    // stored, signed and verified
	Pending     int    `json:"pending"`    // waiting for the rest of their checkpoint
	Quarantined int    `json:"quarantine"` // files
	Evidence    int    `json:"evidence"`   // files
}

// condition is something that a person should know. It holds no patient data.
type condition struct {
	Code     string `json:"code"`
	About    string `json:"about,omitempty"`
	Severity string `json:"severity"` // "warning" or "critical"
	Sentence string `json:"sentence"`
	Remedy   string `json:"remedy"`
}

func (p *peer) status() *status {
	p.mu.Lock()
	state, broken, lastLink := p.state, p.broken, p.lastLink
	p.mu.Unlock()
	st := &status{Facility: p.conf.Facility, Name: p.conf.Name, Running: true, Links: p.node.Leaves()}
	for _, r := range state.Boxes {
		b := p.store.Find(r.ID())
		if b == nil {
			continue
		}
		st.add(p.dir, r, b)
		if err := b.Err(); err != nil {
			st.Conditions = append(st.Conditions, condition{"store-failed", r.Box, "critical",
				"The store of this box takes no records: " + err.Error() + ".", "Look at the disk, then restart vitalpeer."})
		}
	}
	if broken != nil {
		st.Conditions = append(st.Conditions, condition{"registry-broken", "", "critical",
			"Something of the registry is not in force: " + broken.Error() + ".", "Mend what it names; run vitalpeer fsck for a log."})
	}
	if away := time.Since(lastLink); len(p.conf.Peers.Hubs) > 0 && away > 10*time.Second {
		st.Conditions = append(st.Conditions, condition{"hub-away", "", "warning",
			fmt.Sprintf("No hub has been connected for %s; records are kept here and sent when it is back.", away.Round(time.Second)),
			"Look at the network and at the hub."})
	}
	st.finish()
	return st
}

func (st *status) add(d facility.Dir, r *registry.Registration, b *store.Box) {
	q := files(filepath.Join(d.Quarantine(), r.ID().Facility, r.ID().Name))
	e := files(filepath.Join(d.Evidence(), r.ID().Facility, r.ID().Name))
	st.Boxes = append(st.Boxes, boxStatus{r.Box, r.Protection(), r.Revoked != nil, b.Size(), b.Pending(), q, e})
	if q > 0 {
		st.Conditions = append(st.Conditions, condition{"quarantine", r.Box, "warning",
			fmt.Sprintf("%d messages of this box were refused and set aside.", q), "Read the notes in " + d.Quarantine() + "."})
	}
	if e > 0 {
		st.Conditions = append(st.Conditions, condition{"fork", r.Box, "warning",
			"This box has signed two histories that cannot both be true: its disk was restored or copied, or its key was used elsewhere.",
			"Look into it; the evidence is in " + d.Evidence() + ". Revoke the box if it is not explained."})
	}
}

func (st *status) finish() {
	slices.SortStableFunc(st.Conditions, func(a, b condition) int { return cmp.Compare(a.Severity, b.Severity) }) // "critical" first
	st.Ready = len(st.Conditions) == 0 || st.Conditions[0].Severity != "critical"
}

// files counts the notes in a folder of what was set aside.
func files(dir string) (n int) {
	entries, _ := os.ReadDir(dir) // none where there is no folder
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".json") {
			n++
		}
	}
	return n
}

type statusCmd struct {
	data
	JSON bool `help:"As JSON."`
}

func (c *statusCmd) Run(ctx context.Context) error {
	conf, err := c.dir().Load()
	if err != nil {
		return err
	}
	src, err := openSource(c.dir())
	if err != nil {
		return err
	}
	defer src.Close()
	var st *status
	switch s := src.(type) {
	case socketSource:
		if st, err = s.status(ctx); err != nil {
			return err
		}
	case *fileSource:
		st = &status{Facility: conf.Facility, Name: conf.Name}
		state, err := c.dir().Registry().Load()
		if err != nil {
			st.Conditions = append(st.Conditions, condition{"registry-broken", "", "critical", err.Error() + ".", "Mend or remove the file that it names."})
		}
		for _, r := range state.Boxes {
			b, err := s.store.Box(r)
			if err != nil {
				st.Conditions = append(st.Conditions, condition{"store-failed", r.Box, "critical", err.Error() + ".", "Run vitalpeer fsck."})
				continue
			}
			st.add(c.dir(), r, b)
		}
		st.finish()
	}
	if c.JSON {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(st)
	}
	return st.print(os.Stdout)
}

func (st *status) print(out io.Writer) error {
	state := "stopped"
	if st.Running {
		state = fmt.Sprintf("running, %d links to other peers", st.Links)
	}
	fmt.Fprintf(out, "%s/%s: %s\n", st.Facility, st.Name, state)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, b := range st.Boxes {
		revoked := ""
		if b.Revoked {
			revoked = "revoked"
		}
		fmt.Fprintf(w, "%s\t%s\t%d records\t%d pending\t%d refused\t%d evidence\t%s\n", b.Box, b.Protection, b.Records, b.Pending, b.Quarantined, b.Evidence, revoked)
	}
	err := w.Flush()
	for _, c := range st.Conditions {
		fmt.Fprintf(out, "%s: %s: %s %s\n", c.Severity, strings.TrimPrefix(c.About+" "+c.Code, " "), c.Sentence, c.Remedy)
	}
	return err
}
