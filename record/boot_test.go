package record

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func testEvidence() *BootEvidence {
	return &BootEvidence{PCRs: []PCR{{Number: 0, Value: [32]byte{1}}, {Number: 11, Value: [32]byte{31: 2}}},
		Quote: Statement{[]byte("quoted"), []byte{1}}, Certify: Statement{[]byte("certified"), []byte{2, 3}}}
}

// Both forms say what they were made of, in one way only.
func TestBootLeafForms(t *testing.T) {
	s := newSealer(t, []ReaderKey{newReader(t).Public()}, nil)
	claimed := Boot{Resets: 4, Restarts: 1, Counter: 99, Protection: "emulated", Software: "vitalgate 0.1.0", LastSize: 12, LastRoot: Hash{9}}
	attested := claimed
	attested.Evidence = testEvidence()
	for i, b := range []Boot{claimed, attested} {
		leaf, err := s.Boot(uint64(12+i), b)
		if err != nil {
			t.Fatal(err)
		}
		_, body, err := ParseLeaf(leaf)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseBoot(body)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := got.AppendText(nil); err != nil || !bytes.Equal(again, body) || (got.Evidence == nil) != (i == 0) || got.Counter != 99 {
			t.Errorf("%+v %v", got, err)
		}
		lines := strings.SplitAfter(string(body), "\n")
		for n := range lines[:len(lines)-1] {
			for what, bad := range map[string]string{
				"left out": strings.Join(append(append([]string{}, lines[:n]...), lines[n+1:]...), ""),
				"twice":    strings.Join(append(append([]string{}, lines[:n+1]...), lines[n:]...), ""),
				"spaced":   strings.Join(append(append([]string{}, lines[:n]...), append([]string{" " + lines[n]}, lines[n+1:]...)...), ""),
			} {
				if _, err := ParseBoot([]byte(bad)); err == nil && !(what == "left out" && strings.HasPrefix(lines[n], "pcr ")) {
					t.Errorf("form %d with the line %q %s: taken", i+1, lines[n], what)
				}
			}
		}
	}
	body := must(attested.AppendText(nil))
	if _, err := ParseBoot(bytes.Replace(body, []byte("boot/v2"), []byte("boot/v3"), 1)); !errors.Is(err, ErrLaterBoot) {
		t.Errorf("a later form: %v", err)
	}
	if _, err := ParseBoot(bytes.Replace(body, []byte("boot/v2"), []byte("boot/v1"), 1)); err == nil {
		t.Error("form 1 with evidence: taken")
	}
	if _, err := ParseBoot(bytes.Replace(must(claimed.AppendText(nil)), []byte("boot/v1"), []byte("boot/v2"), 1)); err == nil {
		t.Error("form 2 without evidence: taken")
	}
	for name, change := range map[string]func(*BootEvidence){
		"no PCR":             func(e *BootEvidence) { e.PCRs = nil },
		"PCRs out of order":  func(e *BootEvidence) { e.PCRs[0], e.PCRs[1] = e.PCRs[1], e.PCRs[0] },
		"a PCR twice":        func(e *BootEvidence) { e.PCRs[1].Number = 0 },
		"a PCR that is none": func(e *BootEvidence) { e.PCRs[1].Number = 24 },
		"no quote":           func(e *BootEvidence) { e.Quote.Attest = nil },
		"an unsigned quote":  func(e *BootEvidence) { e.Quote.Signature = nil },
		"too long":           func(e *BootEvidence) { e.Certify.Attest = make([]byte, maxStatement+1) },
	} {
		bad := attested
		bad.Evidence = testEvidence()
		change(bad.Evidence)
		if _, err := bad.AppendText(nil); err == nil {
			t.Errorf("%s: written", name)
		}
	}
}

// The evidence is about one box and every line of form 1.
func TestBootBinding(t *testing.T) {
	b := Boot{Resets: 4, Restarts: 1, Counter: 99, Protection: "emulated", Software: "vitalgate 0.1.0", LastSize: 12, LastRoot: Hash{9}}
	seen := map[string]string{}
	for name, c := range map[string]struct {
		box    BoxID
		change func(*Boot)
	}{
		"it":         {testBox, func(*Boot) {}},
		"box":        {BoxID{testBox.Facility, "other"}, func(*Boot) {}},
		"facility":   {BoxID{"other", testBox.Name}, func(*Boot) {}},
		"resets":     {testBox, func(b *Boot) { b.Resets++ }},
		"restarts":   {testBox, func(b *Boot) { b.Restarts++ }},
		"counter":    {testBox, func(b *Boot) { b.Counter++ }},
		"protection": {testBox, func(b *Boot) { b.Protection = "hardware" }},
		"software":   {testBox, func(b *Boot) { b.Software = "vitalgate 0.1.1" }},
		"last-size":  {testBox, func(b *Boot) { b.LastSize++ }},
		"last-root":  {testBox, func(b *Boot) { b.LastRoot[31]++ }},
	} {
		v := b
		c.change(&v)
		sum, err := v.Binding(c.box)
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[string(sum)]; ok {
			t.Errorf("%s has the binding of %s", name, other)
		}
		seen[string(sum)] = name
		v.Evidence = testEvidence()
		if again, err := v.Binding(c.box); err != nil || !bytes.Equal(again, sum) {
			t.Errorf("%s: the evidence changes what it is about: %v", name, err)
		}
	}
}
