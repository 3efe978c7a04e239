package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/peer/peertest"
	"github.com/vitalgate/vitalgate/record"
)

// python is an interpreter that has the modules which the outside verifiers need.
func python(t *testing.T, modules ...string) string {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed, so the outside verifiers are not tried")
	}
	if out, err := exec.Command("python3", "-c", "import "+strings.Join(modules, ", ")).CombinedOutput(); err != nil {
		t.Skipf("python3 with the modules %v is not installed (pip install cbor2 jwcrypto), so the outside verifiers are not tried: %s", modules, out)
	}
	return "python3"
}

// hubWithRecords is a stopped hub with a few records, and the Bundle and leaf of one of them.
func hubWithRecords(t *testing.T) (hub *site, box *peertest.Box, index string, dir string) {
	t.Helper()
	hub = newHub(t, "")
	box = peertest.NewBox(t, "f1/gw1")
	hub.enrol(box)
	hub.start()
	hub.send(box, box.Record(5))
	hub.has(box)
	hub.kill()
	dir = t.TempDir()
	program(t, "export", "f1/gw1", "-o", filepath.Join(dir, "export"), "--data", string(hub.dir))
	return hub, box, "3", dir
}

// judge runs one of the verifiers in docs.
func judge(t *testing.T, py, script string, files ...string) (out string, ok bool) {
	t.Helper()
	b, err := exec.Command(py, append([]string{filepath.Join("..", "docs", script)}, files...)...).CombinedOutput()
	out = string(b)
	if err == nil != strings.HasPrefix(out, "OK: ") || err != nil && !strings.HasPrefix(out, "REFUSED: ") {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
	return out, err == nil
}

func put(t *testing.T, path string, b []byte) string {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestProvenanceIsVerifiedByOthers(t *testing.T) {
	t.Parallel()
	hub, _, index, dir := hubWithRecords(t)
	bundle := []byte(program(t, "get", "f1/gw1", index, "--bundle", "--data", string(hub.dir)))
	text := []byte(program(t, "provenance", "f1/gw1", index, "--data", string(hub.dir)))
	s, err := newSchema()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.strict.Unmarshal(text); err != nil {
		t.Errorf("it is not FHIR R4: %v", err)
	}
	py := python(t, "jwcrypto")
	b, p := put(t, filepath.Join(dir, "bundle"), bundle), put(t, filepath.Join(dir, "provenance"), text)
	if out, ok := judge(t, py, "provenance.py", hub.dir.CA(), b, p); !ok || !strings.Contains(out, "f1 peer hub") {
		t.Fatal(out)
	}
	stranger := newHub(t, "")
	if out, ok := judge(t, py, "provenance.py", stranger.dir.CA(), b, p); ok || !strings.Contains(out, "not of this authority") {
		t.Errorf("under another authority: %s", out)
	}
	if out, ok := judge(t, py, "provenance.py", hub.dir.CA(), put(t, filepath.Join(dir, "bent"), bytes.Replace(bundle, []byte("final"), []byte("Final"), 1)), p); ok {
		t.Errorf("another Bundle: %s", out)
	}
	var doc struct{ Signature []struct{ Data []byte } }
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	jws := string(doc.Signature[0].Data)
	for name, bent := range map[string]string{"a signature of zeros": jws[:strings.Index(jws, "..")+2] + strings.Repeat("A", 86), "no signature": jws[:strings.Index(jws, "..")+2],
		"alg none": base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","x5c":[]}`)) + "..", "attached": strings.Replace(jws, "..", ".AAAA.", 1)} {
		changed := bytes.Replace(text, []byte(base64.StdEncoding.EncodeToString([]byte(jws))), []byte(base64.StdEncoding.EncodeToString([]byte(bent))), 1)
		if out, ok := judge(t, py, "provenance.py", hub.dir.CA(), b, put(t, filepath.Join(dir, "bent"), changed)); ok {
			t.Errorf("%s: %s", name, out)
		}
	}
}

func TestReceiptIsVerifiedByOthers(t *testing.T) {
	t.Parallel()
	hub, box, index, dir := hubWithRecords(t)
	receipt := []byte(program(t, "receipt", "f1/gw1", index, "--data", string(hub.dir)))
	py := python(t, "cbor2")
	leaf := filepath.Join(dir, "export", fmt.Sprintf("%012s.leaf", index))
	file := put(t, filepath.Join(dir, "receipt"), receipt)
	if out, ok := judge(t, py, "receipt.py", hub.dir.CA(), leaf, file); !ok || !strings.Contains(out, "f1 peer hub says that the log of 6 records holds vitalgate/f1/gw1/3") {
		t.Fatal(out)
	}
	other := filepath.Join(dir, "export", "000000000002.leaf")
	if out, ok := judge(t, py, "receipt.py", hub.dir.CA(), other, file); ok {
		t.Errorf("another record: %s", out)
	}
	stranger := newHub(t, "")
	if out, ok := judge(t, py, "receipt.py", stranger.dir.CA(), leaf, file); ok {
		t.Errorf("under another authority: %s", out)
	}
	root := record.LeafHash(box.Log[2].Leaf) // the sibling of the record: in the proof
	at := bytes.Index(receipt, root[:])
	if at < 0 {
		t.Fatal("the proof does not hold the sibling of the record")
	}
	for name, off := range map[string]int{"the algorithm": 8, "a certificate": 300, "the proof": at, "the signature": len(receipt) - 3} {
		bent := bytes.Clone(receipt)
		bent[off] ^= 1
		if out, ok := judge(t, py, "receipt.py", hub.dir.CA(), leaf, put(t, filepath.Join(dir, "bent"), bent)); ok {
			t.Errorf("%s changed: %s", name, out)
		}
	}
}

// A record that is sealed to both sides opens with a key of each and with neither alone; each refusal says what is missing.
func TestOpenWithOneSideAndWithBoth(t *testing.T) {
	t.Parallel()
	box := peertest.NewBox(t, "f1/gw1")
	dir := t.TempDir()
	export := filepath.Join(dir, "export")
	if err := os.Mkdir(export, 0o700); err != nil {
		t.Fatal(err)
	}
	file := map[string]string{}
	public := map[string]record.ReaderKey{}
	for _, name := range []string{"network", "patient", "stranger"} {
		s, err := record.GenerateReaderKey()
		if err != nil {
			t.Fatal(err)
		}
		file[name], public[name] = put(t, filepath.Join(dir, name), []byte(s.Text()+"\n")), s.Public()
	}
	seal := func(next uint64, patient ...record.ReaderKey) []record.Leaf {
		s, err := record.NewSealer(box.ID, []record.ReaderKey{public["network"]}, patient)
		if err != nil {
			t.Fatal(err)
		}
		leaves, err := s.Seal(next, record.Reading{Kind: record.KindVitals, Patient: "p", Arrived: time.Now(), Content: record.Content{Monitor: "m", Raw: []byte("MSH|raw"), Bundle: peertest.Bundle(72)}})
		if err != nil {
			t.Fatal(err)
		}
		return leaves
	}
	box.Append(append(seal(0), seal(2, public["patient"])...)...)
	for i, p := range box.Log {
		put(t, filepath.Join(export, fmt.Sprintf("%012d.leaf", i)), p.Leaf)
		put(t, filepath.Join(export, fmt.Sprintf("%012d.tlog-proof", i)), p.Text())
	}
	put(t, filepath.Join(export, "box.pem"), []byte(box.Request().DataKey))
	for _, c := range []struct {
		index   string
		readers []string
		refusal string // "" opens
	}{
		{"1", []string{"network"}, ""}, {"1", []string{"patient"}, "the network side is missing, which is sealed to reader key " + public["network"].ID()},
		{"3", []string{"network", "patient"}, ""}, {"3", []string{"patient", "network"}, ""},
		{"3", []string{"network"}, "the patient side is missing, which is sealed to reader key " + public["patient"].ID()},
		{"3", []string{"patient"}, "the network side is missing"}, {"3", []string{"network", "stranger"}, "the patient side is missing"},
		{"3", []string{"stranger"}, "the network side is missing"}, {"2", []string{"network"}, "not sealed"}, {"9", []string{"network"}, "no such file"},
	} {
		args := []string{"open", export, c.index}
		for _, r := range c.readers {
			args = append(args, "--reader", file[r])
		}
		out, err := tryProgram(args...)
		if c.refusal == "" && (err != nil || out != string(peertest.Bundle(72))) || c.refusal != "" && (err == nil || !strings.Contains(err.Error(), c.refusal)) {
			t.Errorf("record %s with %v: %q %v, want %q", c.index, c.readers, out, err, c.refusal)
		}
		if err == nil {
			if raw := program(t, append(args, "--raw")...); raw != "MSH|raw" {
				t.Errorf("raw: %q", raw)
			}
		}
	}
	if _, err := tryProgram("open", export, "3", "--reader", file["network"], "--key", put(t, filepath.Join(dir, "other.pem"), []byte(peertest.NewBox(t, "f1/gw1").Request().DataKey))); err == nil || !strings.Contains(err.Error(), "signature") {
		t.Errorf("with the key of another box: %v", err)
	}
	if err := os.Remove(filepath.Join(export, "000000000002.leaf")); err != nil {
		t.Fatal(err)
	}
	if _, err := tryProgram("open", export, "3", "--reader", file["network"]); err == nil || !strings.Contains(err.Error(), "--from 2") {
		t.Errorf("without its epoch: %v", err)
	}
}
