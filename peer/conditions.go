package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
)

// condition is something that a person should know. It holds no patient data.
type condition struct {
	Code     string `json:"code"`
	About    string `json:"about,omitempty"` // which box or peer
	Severity string `json:"severity"`        // critical or warning
	Sentence string `json:"sentence"`
	Remedy   string `json:"remedy"`
}

const (
	critical = "critical" // records are not taken, not kept, not shown or not to be trusted
	warning  = "warning"  // the peer works, and something must be mended
)

// kind is all that is the same each time a condition of one code is so. This table is the only place where a severity stands, and
// docs/peer/troubleshooting.md and docs/alerts-peer.yml are made from it.
type kind struct {
	Code     string
	Severity string
	About    string // what condition.About names: "box" or "peer"; "" this peer as a whole
	Means    string // for a person who has only the code
	Remedy   string // what to do, unless the condition itself knows better
}

// kinds are all conditions of a peer, the gravest first.
var kinds = []kind{
	{"start-forged", critical, "box", "What a box tells of its start is not what its TPM has said. Its records since then are kept and shown to nobody.",
		"Chart by hand at this bed, find out who had access to the box, and restart it: an honest start ends this. If nobody can explain it, revoke the box (vitalpeer box revoke)."},
	{"fork", critical, "box", "A box has signed two histories that cannot both be true: its disk was restored or copied, or its key was used elsewhere. The second one is set aside.",
		"Chart by hand at this bed. If the disk was restored, enrol the box anew under another name and revoke the old one; if nobody restored it, revoke it at once."},
	{"registry-fork", critical, "", "Administrators have signed two different decisions for one place of the registry, so peers do not enforce the same.",
		"Read both (vitalpeer registry verify FILE), put the right log into force at each peer that has gone the other way (vitalpeer registry restore); docs/registry.md says how."},
	{"rollback", critical, "box", "The chip of a box, or what stands in for one, was set back: its counters went back while its log went on. Its records are stored.",
		"Find out who restored the box; if nobody did, revoke it (vitalpeer box revoke)."},
	{"firmware-denied", critical, "box", "A box runs a firmware that the registry denies. Its records are still taken.",
		"Update the box; until then stop it with vitalpeer box suspend, if what is wrong with that firmware asks for it."},
	{"removed", critical, "", "This peer was removed from the facility: no other peer lets it in, and it hears of nothing that is decided or recorded elsewhere.",
		"If it is to take part again, invite it anew under another name and begin with a new data folder; else lead its boxes to another peer."},
	{"peer-twice", critical, "peer", "Two peers run with the keys of one and throw each other off the network: what either of them takes reaches the others late or not at all.",
		"Find out who copied its invitation or its data folder, and stop the copy; if nobody did, take the peer out (vitalpeer peer remove) and invite it anew under another name."},
	{"registry-broken", critical, "", "Something of the registry is not in force at this peer.", "Mend what the condition names; restart vitalpeer."},
	{"streams-stopped", critical, "", "The NATS server has given up its streams, as it does when its disk is full. Boxes are not acknowledged and keep their records.",
		"Make room on the disk of the data folder; vitalpeer goes on by itself."},
	{"store-full", critical, "box", "The disk of the store is full, and no record of this box is stored. They wait in its stream, and when that is full in the box.",
		"Make room on the disk of the data folder; vitalpeer goes on by itself."},
	{"store-failed", critical, "box", "The records of a box are not stored, because its store does not open or its disk does not take them. They wait in its stream, and then in the box.",
		"Look at the disk, run vitalpeer fsck, restart vitalpeer; docs/peer/README.md says how to begin with a new folder."},
	{"store-damaged", critical, "box", "Records of this box cannot be read on this peer's disk: a file is gone, or the disk does not give it.",
		"Look at the disk, then restart vitalpeer: what is gone then comes from the other peers. If this stays, see docs/peer/README.md."},
	{"records-missing", critical, "box", "Records of this box are missing here: damaged on the disk, or left out because nobody had them in time.",
		"They are asked of the other peers until one has them. If none has, the box has lost them itself: see its own status."},
	{"gap", critical, "box", "Records of this box are missing here, and what it sent after them waits for them, at most the time of run --patience.",
		"Bring back the peer that took them from the box: they come from it at once. vitalpeer status at each peer shows how far it holds the log of the box."},
	{"ingest-behind", critical, "box", "Nothing is taken out of the stream of this box. Nothing is lost: the stream keeps it, and when it is full the box.",
		"Mend what the condition names; vitalpeer tries again every second."},
	{"quarantine-full", critical, "box", "More messages of this box were refused than are kept; further ones are only counted.",
		"Find out why they are refused; move what is in the folder quarantine elsewhere and restart vitalpeer."},
	{"hub-away", warning, "", "No hub is connected. Records are kept here and sent when it is back.",
		"Look at the network and at the hub. If both are well, see at the hub with vitalpeer peer list that this peer was not removed meanwhile."},
	{"registry-set-back", warning, "peer", "A peer has lost entries of the registry that it had shown before, as after a restored backup.",
		"If nobody restored it, find out who works on its disk. It takes the entries again from the others by itself."},
	{"start-unproven", warning, "box", "The TPM of a box has attested earlier starts and not the last one: its counters and its firmware are its own word.",
		"If the box was set back to an older release, update it. Otherwise look at its own status page, and restart it."},
	{"quarantine", warning, "box", "Messages of a box were refused and set aside.", "Read the notes in the folder quarantine: they say why."},
	{"suspended", warning, "box", "A box is suspended in the registry: nothing of it is taken; it keeps its records.", "Resume it (vitalpeer box resume) or revoke it."},
	{"reader-key-missing", warning, "box", "The records of a box are sealed to readers whose key is not here: they are verified and kept, and the page does not show what is in them.",
		"Copy the key that vitalpeer readers rotate named at the hub into the folder keys, under its name (mode 0600)."},
	{"starts-behind", warning, "box", "This peer still looks through the log of a box for its starts. Until it has, readings of a forged start that it does not know are shown.",
		"It passes by itself."},
}

// rank is the place of a code in the table; what is in none comes behind.
func rank(code string) int {
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.Code == code })
	if i < 0 {
		return len(kinds)
	}
	return i
}

// of is a condition of one of the kinds, with the remedy of its kind where it has none of its own.
func of(code, about, sentence, remedy string) condition {
	k := kinds[rank(code)]
	return condition{code, about, k.Severity, sentence, cmp.Or(remedy, k.Remedy)}
}

// say adds a condition.
func (st *status) say(code, about, sentence, remedy string) {
	st.Conditions = append(st.Conditions, of(code, about, sentence, remedy))
}

// finish puts the gravest first.
func (st *status) finish() {
	slices.SortStableFunc(st.Conditions, func(a, b condition) int { return cmp.Compare(rank(a.Code), rank(b.Code)) })
	st.Ready = !slices.ContainsFunc(st.Conditions, func(c condition) bool { return c.Severity == critical })
}

// critical is what a person at the page must know: sentence and remedy.
func (st *status) critical() (all [][2]string) {
	for _, c := range st.Conditions {
		if c.Severity == critical {
			all = append(all, [2]string{strings.TrimSpace(c.About + " " + c.Sentence), c.Remedy})
		}
	}
	return all
}

// serveReady answers /readyz.
func (st *status) serveReady(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	if !st.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	json.NewEncoder(w).Encode(struct {
		Ready      bool        `json:"ready"`
		Conditions []condition `json:"conditions"`
	}{st.Ready, st.Conditions})
}

// writeMetrics prints the conditions in the Prometheus text format.
func (st *status) writeMetrics(w io.Writer) {
	said := map[[2]string]bool{}
	for _, c := range st.Conditions {
		if is := [2]string{c.Code, c.About}; !said[is] { // two gaps of one box are one sample
			said[is] = true
			fmt.Fprintf(w, "vitalpeer_condition{code=%q,about=%q,severity=%q} 1\n", c.Code, c.About, c.Severity)
		}
	}
	ready := 0
	if st.Ready {
		ready = 1
	}
	fmt.Fprintf(w, "vitalpeer_ready %d\nvitalpeer_leaf_links %d\n", ready, st.Links)
}
