package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/vitalgate/vitalgate/peer/facility"
	"github.com/vitalgate/vitalgate/peer/ingest"
	"github.com/vitalgate/vitalgate/peer/registry"
	"github.com/vitalgate/vitalgate/peer/starts"
	"github.com/vitalgate/vitalgate/peer/store"
	"github.com/vitalgate/vitalgate/record/evidence"
)

// status is what `vitalpeer status` and the running peer's socket say.
type status struct {
	Facility   string      `json:"facility"`
	Name       string      `json:"name"`
	Running    bool        `json:"running"`
	Registry   uint64      `json:"registry"` // entries of the registry in force here
	Links      int         `json:"links"`    // leaf-node connections to other peers
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
	Cosigned    int    `json:"cosigned"`   // peers that have cosigned all of these records, this one among them
	Start       string `json:"start"`      // what its last start is taken for (starts.Verdict); "" none is known
}

// standing is how long something must last to be a condition: what passes by itself within it is no news.
const standing = 10 * time.Second

func (p *peer) status() *status {
	p.mu.Lock()
	state, broken, lastLink, untaken, damaged, unread, keyless := p.state, p.broken, p.lastLink, maps.Clone(p.untaken), maps.Clone(p.damaged), maps.Clone(p.unread), maps.Clone(p.keyless)
	p.mu.Unlock()
	works, now := p.works(), time.Now()
	st := &status{Facility: p.conf.Facility, Name: p.conf.Name, Running: true, Links: p.node.Leaves()}
	for _, r := range state.Boxes {
		b := p.store.Find(r.ID())
		if err := untaken[r.Box]; err != nil {
			st.say("store-failed", r.Box,
				"Records of this box are not stored, nor shown: "+err.Error()+". They wait in its stream, and when that is full in the box.",
				"Run vitalpeer fsck; then restart vitalpeer.")
		}
		if b == nil {
			continue
		}
		st.add(p.dir, state, r, b)
		for _, c := range p.witness.Cosigners(b.ID) {
			if at := &st.Boxes[len(st.Boxes)-1]; c.Size >= at.Records {
				at.Cosigned++
			}
		}
		if d, found := damaged[b.ID]; found && mended(b, d) {
			p.mu.Lock()
			delete(p.damaged, b.ID)
			p.mu.Unlock()
		} else if found && !slices.ContainsFunc(b.Gaps(), func(g store.Gap) bool { return g.From <= d.first && d.first < g.To }) { // a gap is said below
			st.say("store-damaged", r.Box, fmt.Sprintf("Records %d to %d of this box cannot be read here: %v. The page goes on after them.", d.first, d.end-1, d.err), "")
		}
		if err := unread[b.ID]; err != nil {
			st.say("store-damaged", r.Box, "The records of this box could not all be read again: "+err.Error()+".", "")
		}
		if from, lacks := keyless[b.ID]; lacks {
			st.say("reader-key-missing", r.Box,
				fmt.Sprintf("The records of this box from %d on are sealed to readers whose key is not here: they are verified and kept, and the page does not show what is in them.", from),
				"Copy the key that vitalpeer readers rotate named at the hub to "+filepath.Dir(p.dir.ReaderKey())+" here, under its name (mode 0600): the next record opens. A restart of vitalpeer shows those before it too.")
		}
		for _, gap := range b.Gaps() {
			st.say("records-missing", r.Box,
				fmt.Sprintf("Records %d to %d of this box are missing here: %s.", gap.From, gap.To-1, strings.TrimSuffix(gap.Why, "; run fsck")),
				"")
		}
		var at ingest.State
		if w := works[b.ID]; w != nil {
			at = w.State()
		}
		for _, c := range stands(b, at, p.dir.Store(), now) {
			c.About = r.Box
			st.Conditions = append(st.Conditions, c)
		}
	}
	if !p.node.Streams() {
		st.say("streams-stopped", "",
			"The NATS server has given up its streams, as it does when its disk is full: boxes are not acknowledged and keep their records.",
			"Make room on the disk of "+p.dir.Nats()+"; vitalpeer goes on by itself.")
	}
	if broken != nil {
		st.say("registry-broken", "",
			"Something of the registry is not in force: "+broken.Error()+".", "Mend what it names; restart vitalpeer.")
	}
	st.registry(p.dir, state)
	for _, name := range p.spread.SetBack() {
		st.say("registry-set-back", name,
			"That peer has lost entries of the registry that it had shown before, as after a restored backup.",
			"")
	}
	for _, name := range p.twins.Of() {
		about, who := name, "peer "+name
		if name == st.Name {
			about, who = "", "this peer"
		}
		st.say("peer-twice", about,
			"Two peers run with the keys of "+who+" and throw each other off the network: what either of them takes reaches the others late or not at all.",
			"Find out who copied its invitation or its data folder, and stop the copy: its address is in the log of the hub. If nobody did, its keys are in other hands: take the peer out (vitalpeer peer remove "+name+
				" at the hub) and invite it anew under another name. This passes a minute after one of them has stopped.")
	}
	if p.removed(state) {
		st.say("removed", "",
			"This peer was removed from the facility: no other peer lets it in, and it hears of nothing that is decided or recorded elsewhere. What it holds can still be read.",
			"If it is to take part again, invite it anew under another name (vitalpeer invite at the hub) and begin with a new data folder; else lead its boxes to another peer and take it out of use.")
	} else if away := time.Since(lastLink); len(p.conf.Peers.Hubs) > 0 && away > 10*time.Second {
		st.say("hub-away", "",
			fmt.Sprintf("No hub has been connected for %s; records are kept here and sent when it is back.", away.Round(time.Second)),
			"")
	}
	st.finish()
	return st
}

// removed says whether the registry has known this peer and knows it no more. A ward that has just been invited has not heard of itself yet,
// and the hub that made the facility stands in no entry.
func (p *peer) removed(s *registry.State) bool {
	pin, err := facility.Pin(p.witness.Card.Certificate)
	return err == nil && s.Holder(pin) != "" && s.Peer(p.conf.Name) == nil
}

// mended says whether what could not be read can be again.
func mended(b *store.Box, d damage) bool {
	r := b.Reader(d.first)
	defer r.Close()
	_, err := r.Next()
	return err == nil
}

// stands says why the records of a box are not stored, if they are not.
func stands(b *store.Box, at ingest.State, folder string, now time.Time) (all []condition) {
	say := func(code string, since time.Time, what, remedy string) {
		waiting := "."
		if at.Last > at.Cursor {
			waiting = fmt.Sprintf("; %d messages wait in its stream.", at.Last-at.Cursor)
		}
		all = append(all, of(code, "", "Since "+since.UTC().Format(time.RFC3339)+" "+what+waiting, remedy))
	}
	since, trouble := b.Trouble()
	switch {
	case errors.Is(trouble, syscall.ENOSPC), errors.Is(trouble, syscall.EDQUOT):
		say("store-full", since, "the disk is full and no record of this box is stored. Nothing is lost: when the stream is full too, the box keeps its records",
			"Make room on the disk of "+folder+"; vitalpeer goes on by itself.")
	case trouble != nil && b.Err() != nil:
		say("store-failed", since, "no record of this box is stored: "+trouble.Error(), "Look at the disk of "+folder+", then restart vitalpeer.")
	case trouble != nil:
		say("store-failed", since, "no record of this box is stored: "+trouble.Error(), "Look at the disk of "+folder+"; vitalpeer goes on by itself when it can.")
	case errors.Is(at.Err, store.ErrSuspended):
		// st.add says so, also where nothing of it waits
	case at.Err != nil && now.Sub(at.Since) > standing:
		say("ingest-behind", at.Since, "nothing is taken out of the stream of this box: "+at.Err.Error(), "Mend what it names; vitalpeer tries again every second.")
	case at.Gap == nil && !at.Behind.IsZero() && now.Sub(at.Behind) > standing:
		say("ingest-behind", at.Behind, fmt.Sprintf("nothing is taken out of the stream of this box, and %d verified records wait for the rest of their checkpoint", b.Pending()),
			"If records wait for the rest of their checkpoint, bring back the peer or the box that has it; else restart vitalpeer and read its log.")
	}
	if at.Gap != nil && now.Sub(at.Gap.Since) > standing {
		say("gap", at.Gap.Since, fmt.Sprintf("records %d to %d of this box are missing here, and what it sent after them is neither stored nor shown", at.Gap.From, at.Gap.To-1),
			"")
	}
	return all
}

func (st *status) add(d facility.Dir, s *registry.State, r *registry.Registration, b *store.Box) {
	q := files(filepath.Join(d.Quarantine(), r.ID().Facility, r.ID().Name), ".json")
	e := files(filepath.Join(d.Evidence(), r.ID().Facility, r.ID().Name), ".json")
	st.Boxes = append(st.Boxes, boxStatus{r.Box, r.Protection(), r.Revoked != nil, b.Size(), b.Pending(), q, e, 0, ""})
	st.starts(s, r, b)
	if r.Cut() == "suspended" {
		st.say("suspended", r.Box, "The box is suspended in the registry: nothing of it is taken; it keeps its records.", "")
	}
	if q > 0 {
		st.say("quarantine", r.Box,
			fmt.Sprintf("%d messages of this box were refused and set aside.", q), "Read the notes in "+d.Quarantine()+".")
	}
	if b.Unkept() {
		st.say("quarantine-full", r.Box,
			"More messages of this box were refused than are kept; further ones are only counted.",
			"Find out why they are refused; move what is in "+filepath.Join(d.Quarantine(), r.Box)+" elsewhere and restart vitalpeer.")
	}
	st.contradictions(d, r)
}

// starts are the conditions of a box whose last start is not what it should be.
func (st *status) starts(s *registry.State, r *registry.Registration, b *store.Box) {
	all := b.Starts()
	if size, yes := b.Looking(); yes {
		st.say("starts-behind", r.Box,
			fmt.Sprintf("This peer still looks through the log of the box for its starts (%d of %d records). Until it has, readings of a forged start that it does not know are shown.", size, b.Size()),
			"")
	}
	if len(all) == 0 {
		return
	}
	last := all[len(all)-1]
	st.Boxes[len(st.Boxes)-1].Start = string(last.Verdict)
	if name, why, denied := last.Firmware(s.Firmware); denied && r.Cut() == "" {
		st.say("firmware-denied", r.Box,
			fmt.Sprintf("This box runs the firmware %q, which the registry denies as %q: %s. Its records are still taken.", last.Software, name, why),
			"Update the box; until then stop it with vitalpeer box suspend "+r.Box+", if what is wrong with that firmware asks for it.")
	}
	if r.Cut() != "" {
		return
	}
	_, since := r.ChipAt(b.Size())
	_, c := b.Checkpoint()
	switch proven := slices.ContainsFunc(all, func(s starts.Start) bool { return s.Verdict == starts.Attested && s.Index >= since }); {
	case last.Verdict.Forged():
		st.say("start-forged", r.Box,
			fmt.Sprintf("What box %s tells of its start at record %d is not what its TPM has said (%s): %s. Its records since then are kept and shown to nobody.", r.Box, last.Index, last.Verdict, last.Why),
			"Chart by hand at this bed. Somebody writes in the place of the box's firmware, or an emulated TPM was set back: find out who had access. Restart the box: an honest start ends this. If nobody can explain it, revoke the box (vitalpeer box revoke).")
	case proven && last.Verdict == starts.Claimed:
		st.say("start-unproven", r.Box,
			fmt.Sprintf("The TPM of this box has attested earlier starts, and not the last one, at record %d: its counters and its firmware are its own word. %s", last.Index, last.Why),
			"If the box was set back to an older release, update it. Otherwise look at its own status page, and restart it.")
	case last.Verdict == starts.Attested && (c.Counter != last.Counter || c.Boot != last.Resets):
		st.say("start-unproven", r.Box,
			fmt.Sprintf("This box signs in another run of its TPM (counter %d, reset %d) than the last that the TPM has attested (%d, %d).", c.Counter, c.Boot, last.Counter, last.Resets),
			"It passes by itself if the box has just started. Otherwise look at its own status page, and restart it.")
	}
}

// contradictions are the conditions of a box whose log was bent.
func (st *status) contradictions(d facility.Dir, r *registry.Registration) {
	aside, proofs := filepath.Join(d.Quarantine(), r.Box), filepath.Join(d.Evidence(), r.Box)
	found := map[evidence.Kind]int{}
	for _, k := range []evidence.Kind{evidence.Fork, evidence.Clone, evidence.Rollback} {
		found[k] = files(proofs, "."+string(k)+".evidence")
	}
	forks := files(aside, "."+string(store.ReasonFork)+".json")
	if forks+found[evidence.Fork]+found[evidence.Clone] > 0 {
		st.say("fork", r.Box,
			"Box "+r.Box+" has signed two histories that cannot both be true: its disk was rolled back, restored or copied, or its key was used elsewhere. "+
				"What it sends of the second one is set aside; it is neither stored nor shown, and the box believes that it is.",
			"Go to the bed: chart by hand until this is settled. If the disk of the box was restored, no peer will ever take its second history: enrol it anew under another name (vitalpeer box add), and revoke "+r.Box+
				" (vitalpeer box revoke). If nobody restored it, its key is in other hands: revoke it at once. The evidence is in "+proofs+" (vitalpeer evidence verify FILE says what it shows), what was set aside in "+aside+
				"; this condition ends when the files of both are moved elsewhere.")
	} else if found[evidence.Rollback] > 0 {
		st.say("rollback", r.Box,
			"The chip of box "+r.Box+", or what stands in for one, was set back: its counters went back while its log went on. Its records are stored.",
			"A chip cannot be set back, an emulated one can, by whoever has its files. Find out who restored the box; if nobody did, revoke it (vitalpeer box revoke). The evidence is in "+proofs+
				" (vitalpeer evidence verify FILE says what it shows); this condition ends when its files are moved elsewhere.")
	}
}

// registry says what of the registry a person must know.
func (st *status) registry(d facility.Dir, s *registry.State) {
	st.Registry = s.Size
	if n := files(d.Registry().Evidence, ".fork"); n > 0 {
		st.say("registry-fork", "",
			fmt.Sprintf("Administrators have signed two different decisions for one place of the registry (%d times), so peers do not enforce the same.", n),
			"See both with vitalpeer registry verify FILE in "+d.Registry().Evidence+". If nobody did it by mistake, their keys are in other hands: name new ones (vitalpeer registry administrators). "+
				"Then put the right log into force at each peer that has gone the other way (vitalpeer registry restore), and move the files elsewhere.")
	}
}

// files counts the notes in a folder of what was set aside, those whose names end so.
func files(dir, end string) (n int) {
	entries, _ := os.ReadDir(dir) // none where there is no folder
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), end) {
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
			st.say("registry-broken", "", err.Error()+".", "Do what it says; until then this peer does not run.")
		}
		st.registry(c.dir(), &state)
		for _, r := range state.Boxes {
			b, err := s.store.Box(r)
			if err != nil {
				st.say("store-failed", r.Box, err.Error()+".", "Run vitalpeer fsck.")
				continue
			}
			st.add(c.dir(), &state, r, b)
		}
		st.finish()
	}
	if c.JSON {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		err = e.Encode(st)
	} else {
		err = st.print(os.Stdout)
	}
	if err == nil && !st.Ready {
		err = errors.New("this peer is not well: see the critical conditions above")
	}
	return err
}

func (st *status) print(out io.Writer) error {
	state := "stopped"
	if st.Running {
		state = fmt.Sprintf("running, %d links to other peers", st.Links)
	}
	fmt.Fprintf(out, "%s/%s: %s\n", st.Facility, st.Name, state)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, b := range st.Boxes {
		revoked, cosigned := "", ""
		if st.Running {
			cosigned = fmt.Sprintf("cosigned by %d", b.Cosigned)
		}
		start := ""
		if b.Start != "" {
			start = "start " + b.Start
		}
		if b.Revoked {
			revoked = "revoked"
		}
		fmt.Fprintf(w, "%s\t%s\t%d records\t%d pending\t%d refused\t%d evidence\t%s\t%s\t%s\n", b.Box, b.Protection, b.Records, b.Pending, b.Quarantined, b.Evidence, start, cosigned, revoked)
	}
	err := w.Flush()
	for _, c := range st.Conditions {
		fmt.Fprintf(out, "%s: %s: %s %s\n", c.Severity, strings.TrimPrefix(c.About+" "+c.Code, " "), c.Sentence, c.Remedy)
	}
	return err
}
