package protocol_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/provision/protocol"
)

func TestLabelAsPeopleTypeIt(t *testing.T) {
	whole := protocol.Label{Key: strings.Repeat("78RSQP7FSBVYN", 4), Claim: "HZAHEAQ7EMXGME30"}
	short := protocol.Label{Key: whole.Key[:protocol.ShortKey], Claim: whole.Claim}
	for text, want := range map[string]protocol.Label{
		whole.String():                  whole,
		strings.ToLower(whole.String()): whole,
		protocol.Groups(short.Key) + " " + protocol.Groups(short.Claim): short,
		"78rs-qp7f-sbvy-n78r-sqp7-fsbv\nhzah-eaq7-emxg-me3o":            short, // O for 0
		" 78RS QP7F SBVY N78R SQP7 FSBV HZAH EAQ7 EMXG ME30 ":           short,
	} {
		if got, err := protocol.ParseLabel(text); err != nil || got != want {
			t.Errorf("%q: %+v %v", text, got, err)
		}
	}
	for _, text := range []string{"", "VITALGATE:1:", "VITALGATE:1:" + whole.Key, whole.Key[:23] + whole.Claim, whole.String() + "0000", "ÄÖ" + whole.String(), strings.Replace(whole.String(), "R", "U", 1)} {
		if l, err := protocol.ParseLabel(text); err == nil {
			t.Errorf("%q is read as %+v", text, l)
		}
	}
}

func FuzzParseLabel(f *testing.F) {
	f.Add("VITALGATE:1:" + strings.Repeat("78RSQP7FSBVYN", 4) + ":HZAHEAQ7EMXGME30")
	f.Fuzz(func(t *testing.T, s string) {
		l, err := protocol.ParseLabel(s)
		if err != nil {
			return
		}
		if again, err := protocol.ParseLabel(l.Key + " " + l.Claim); err != nil || again != l || l.Name() == "" {
			t.Errorf("%q: %+v, then %+v %v", s, l, again, err)
		}
	})
}

func TestReportIsSigned(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r := protocol.Report{Version: 1, Verdict: "Good.", Good: true, Machine: "m", Time: time.Now(), Results: []protocol.Result{{Test: "tpm", Outcome: protocol.Pass}}}
	text, err := r.Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, k := range map[string]*ecdsa.PublicKey{"the box's key": &key.PublicKey, "the key that it names": nil} {
		if got, err := protocol.OpenReport(text, k); err != nil || got.Verdict != r.Verdict {
			t.Errorf("with %s: %v", name, err)
		}
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := protocol.OpenReport(text, &other.PublicKey); err == nil {
		t.Error("another box's key verifies it")
	}
	var e protocol.Envelope
	if err := json.Unmarshal(text, &e); err != nil {
		t.Fatal(err)
	}
	for i := range e.Payload {
		changed := e
		changed.Payload = bytes.Clone(e.Payload)
		changed.Payload[i] ^= 1
		b, _ := json.Marshal(changed)
		if _, err := protocol.OpenReport(b, &key.PublicKey); err == nil {
			t.Fatalf("a change of byte %d goes unnoticed", i)
		}
	}
	e.Signatures = nil
	b, _ := json.Marshal(e)
	if got, err := protocol.OpenReport(b, &key.PublicKey); !errors.Is(err, protocol.ErrUnsigned) || got == nil {
		t.Errorf("an unsigned report: %v", err)
	}
}
