package store

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vitalgate/vitalgate/peer/peertest"
	"github.com/vitalgate/vitalgate/record"
)

// Whoever carries the records of a box may leave some out, send some twice, exchange them, put those of other boxes, other
// starts or other histories among them, or go on with another history. Each is found, for its own reason, and the store holds
// what the box has signed first, from its beginning on, and nothing else. The table is printed with -v.
func TestTamperingWithTheOrder(t *testing.T) {
	b := newBox(t, "f1/gw1")
	b.Record(6)
	b.Restart()
	b.Record(6)
	all := b.Log
	n := len(all)
	other := newBox(t, "f1/gw2") // its own key
	other.Record(n)
	twin := newBox(t, "f1/gw1") // another key under the same name
	twin.Record(n)
	copied := newBox(t, "f1/gw2") // the same key under another name
	copied.Data = b.Data
	copied.Record(n)
	fork := b.Fork(4)
	fork.Record(2 * n)
	longer := b.Fork(n) // goes on honestly: the same records under later checkpoints
	longer.Record(3)
	join := func(parts ...[]record.Published) []record.Published { return slices.Concat(parts...) }
	moved := func(from, to int) []record.Published {
		out := slices.Clone(all)
		out[to].Leaf = all[from].Leaf
		return out
	}
	mixed := slices.Clone(all) // a record under a checkpoint that is not its own
	mixed[5].Checkpoint = all[n-1].Checkpoint
	mixed[n-1].Checkpoint = all[5].Checkpoint
	reversed := slices.Clone(all)
	slices.Reverse(reversed)
	rows := 0
	for _, c := range []struct {
		name   string
		sent   []record.Published
		stored int    // records in the end
		found  string // what was noticed: reasons of what was set aside, "missing" for a gap, "known" for what came again
	}{
		{"all of it", all, n, ""},
		{"the first left out", all[1:], 0, "missing"},
		{"one in the middle left out", join(all[:3], all[4:]), 0, "missing"},
		{"the end of one checkpoint left out", join(all[:6], all[8:]), 0, "missing"},
		{"the last left out", all[:n-1], 8, ""}, // nobody can know before more is signed; what it is part of waits
		{"each twice", join(all[:1], all), n, "known"},
		{"all twice", join(all, all), n, "known"},
		{"two exchanged", join(all[:2], all[3:4], all[2:3], all[4:]), 0, "missing"},
		{"backwards", reversed, 0, "missing"},
		{"those of another box in between", join(all[:4], other.Log[4:6], all[4:]), n, "origin"},
		{"those of another box instead", other.Log, 0, "origin"},
		{"the same key under another name", copied.Log, 0, "origin"},
		{"another key under the same name", twin.Log, 0, "signature"},
		{"one at the place of another", moved(2, 9), 8, "missing proof"},
		{"the last at the place of the first", moved(n-1, 0), 0, "missing proof"},
		{"checkpoints exchanged", mixed, 0, "missing proof size"},
		{"another history after the first records", join(all[:8], fork.Log[4:]), 8, "fork missing"},
		{"another history after all", join(all, fork.Log[4:]), n, "fork missing"},
		{"only the new part of another history", join(all, fork.Log[n:]), n, "fork missing"},
		{"two histories by turns", join(all[:8], fork.Log[4:9], all[8:], fork.Log[9:]), n, "fork missing"},
		{"earlier ones again, under a later checkpoint", join(all, longer.Log[n:], all[:5]), len(longer.Log), "known"},
		{"an earlier start again after a later one", join(all, all[:7]), n, "known"},
	} {
		rows++
		dir := t.TempDir()
		_, box := open(t, dir, b)
		missing, before := false, counted(b, "known")
		for from := 0; from < len(c.sent); from += 5 { // in several messages, as a network brings them
			early := add(t, box, messages(t, c.sent[from:min(from+5, len(c.sent))]...)...)
			missing = missing || early.Count > 0
		}
		var found []string
		notes, err := filepath.Glob(filepath.Join(dir, "quarantine", "f1", "gw1", "*.json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range notes {
			part := strings.Split(filepath.Base(p), ".")
			found = append(found, part[1])
		}
		if missing {
			found = append(found, "missing")
		}
		if len(found) == 0 && counted(b, "known") > before {
			found = append(found, "known")
		}
		slices.Sort(found)
		got := strings.Join(slices.Compact(found), " ")
		t.Logf("%-46s %2d stored  %s", c.name, box.Size(), got)
		if got != c.found || int(box.Size()) != c.stored {
			t.Errorf("%s: %d stored, %q; want %d, %q", c.name, box.Size(), got, c.stored, c.found)
		}
		honest := longer.Log
		for i := range box.Size() {
			if v, err := box.Get(i); err != nil || string(v.Leaf()) != string(honest[i].Leaf) {
				t.Fatalf("%s: record %d is not the one that was signed first: %v", c.name, i, err)
			}
		}
	}
	if rows < 10 {
		t.Errorf("only %d sequences", rows)
	}
}

// counted is how often something happened to records of a box.
func counted(b *peertest.Box, outcome string) uint64 { return counter(b.ID, outcome).Get() }
