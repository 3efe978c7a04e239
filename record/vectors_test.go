package record

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the test vectors anew; only before a version is released")

const vectors = "testdata/v1"

// vectorContent is what the sealed leaves of the vectors hold, by index.
var vectorContent = map[uint64]Content{
	2: {Monitor: "icu-3-bed-12", Via: "tcp 192.0.2.7:51234",
		Bundle: []byte(`{"resourceType":"Bundle","type":"collection","entry":[{"resource":{"resourceType":"Observation","status":"final","code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},"valueQuantity":{"value":72.50,"unit":"/min","system":"http://unitsofmeasure.org","code":"/min"}}}]}`),
		Raw:    []byte("MSH|^~\\&|MONITOR||||20260102030405||ORU^R01|1|P|2.6\rPID|||TEST-0001\rOBX|1|NM|147842^MDC_ECG_HEART_RATE^MDC||72.50|264864^MDC_DIM_BEAT_PER_MIN^MDC\r")},
	3: {Monitor: "icu-3-bed-12", Via: "tcp 192.0.2.7:51234", Notes: []string{"junk-before-start", "idle-ended"}, Reason: "cannot parse message: no MSH at byte 0",
		Raw: []byte{0x0b, 'P', 'I', 'D', '|', 0x00, 0xff}},
	5: {Monitor: "or-1-left", Via: "serial /dev/ttyUSB0", Bundle: []byte("{}"), Raw: []byte("MSH|\r")},
}

// writeVectors makes the vectors: keys, five kinds of leaves, a checkpoint over them, and each leaf as it is published.
func writeVectors(t *testing.T) {
	if err := os.MkdirAll(vectors, 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(vectors, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	key, network, patient := newKey(t), newReader(t), newReader(t)
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	put("box.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))
	put("network-reader.secret", []byte(network.Text()+"\n"))
	put("patient-reader.secret", []byte(patient.Text()+"\n"))
	put("network-reader.public", []byte(network.Public().String()+"\n"))
	put("patient-reader.public", []byte(patient.Public().String()+"\n"))
	s := newSealer(t, []ReaderKey{network.Public()}, []ReaderKey{patient.Public()})
	at := time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC)
	s.Now = func() time.Time { return at }
	boot, err := s.Boot(0, Boot{Resets: 3, Restarts: 1, Counter: 7, Protection: "NOT A TPM (software key)", Software: "vitalgate 0.1.0", LastRoot: Tree{}.Root()})
	if err != nil {
		t.Fatal(err)
	}
	leaves := []Leaf{boot}
	for _, index := range []uint64{2, 3, 5} {
		r := Reading{Kind: KindVitals, Patient: "TEST-0001", Observed: at.Add(-2 * time.Second), Arrived: at, Content: vectorContent[index]}
		switch index {
		case 2:
			r.Digest = Digest{0xd1, 0x9e, 15: 0x57}
		case 3:
			r.Kind, r.Observed = KindRaw, time.Time{}
		case 5:
			r.Kind, r.Patient = KindAlarm, ""
		}
		ls, err := s.Seal(uint64(len(leaves)), r)
		if err != nil {
			t.Fatal(err)
		}
		leaves = append(leaves, ls...)
	}
	var tree Tree
	for _, l := range leaves {
		tree.Append(l)
	}
	sc, err := Checkpoint{Origin: testBox.Origin(), Size: tree.Size(), Root: tree.Root(), Boot: 3, Clock: 123456, Counter: 7, Protection: "NOT A TPM (software key)"}.Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	ps, err := Prove(Tree{}, leaves, sc)
	if err != nil {
		t.Fatal(err)
	}
	put("checkpoint", sc)
	put("tree", must(tree.AppendBinary(nil)))
	for i, p := range ps {
		put(fmt.Sprintf("%d.leaf", i), p.Leaf)
		put(fmt.Sprintf("%d.tlog-proof", i), p.Text())
		put(fmt.Sprintf("%d.published", i), must(p.AppendBinary(nil)))
		if c, ok := vectorContent[uint64(i)]; ok {
			put(fmt.Sprintf("%d.content", i), must(c.AppendBinary(nil)))
		}
	}
}

func readVector(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectors, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func vectorKey(t testing.TB) *ecdsa.PublicKey {
	t.Helper()
	block, _ := pem.Decode(readVector(t, "box.pem"))
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return pub.(*ecdsa.PublicKey)
}

func vectorSecret(t testing.TB, name string) ReaderSecret {
	t.Helper()
	s, err := ParseReaderSecret(string(readVector(t, name)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What version 1 has written opens for ever, and is written to the same bytes again.
func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	pub := vectorKey(t)
	network, patient := vectorSecret(t, "network-reader.secret"), vectorSecret(t, "patient-reader.secret")
	if got := network.Public().String() + "\n"; got != string(readVector(t, "network-reader.public")) {
		t.Error("the public form of the reader key changed")
	}
	if k, err := ParseReaderKey(string(readVector(t, "patient-reader.public"))); err != nil || k.ID() != patient.Public().ID() {
		t.Errorf("reader key: %v", err)
	}
	o := NewOpener(network, patient)
	var tree Tree
	for i, kind := range []Kind{KindBoot, KindEpoch, KindVitals, KindRaw, KindEpoch, KindAlarm} {
		file := func(suffix string) []byte { return readVector(t, fmt.Sprint(i)+suffix) }
		p, err := ParsePublished(file(".published"))
		if err != nil {
			t.Fatal(err)
		}
		v, err := Verify(p, testBox, pub)
		if err != nil {
			t.Fatal(err)
		}
		if h := v.Header(); h.Kind != kind || !bytes.Equal(h.AppendText(nil), p.Leaf[:len(p.Leaf)-len(v.Body())]) {
			t.Errorf("%d: header %+v", i, h)
		}
		if !bytes.Equal(p.Leaf, file(".leaf")) || !bytes.Equal(p.Text(), file(".tlog-proof")) || !bytes.Equal(p.Checkpoint, readVector(t, "checkpoint")) {
			t.Errorf("%d: the parts of the published form are not the files", i)
		}
		if again, err := p.AppendBinary(nil); err != nil || !bytes.Equal(again, file(".published")) {
			t.Errorf("%d: the published form is written differently: %v", i, err)
		}
		if q, err := ParseProof(file(".leaf"), file(".tlog-proof")); err != nil {
			t.Error(err)
		} else if _, err := Verify(q, testBox, pub); err != nil {
			t.Error(err)
		}
		tree.Append(p.Leaf)
		c, err := o.Open(v)
		want, sealed := vectorContent[uint64(i)]
		if !sealed {
			if err != ErrNoContent {
				t.Errorf("%d: %v", i, err)
			}
			continue
		}
		if err != nil || !sameContent(c, want) {
			t.Errorf("%d: content %+v, %v", i, c, err)
		}
		if b, err := c.AppendBinary(nil); err != nil || !bytes.Equal(b, file(".content")) {
			t.Errorf("%d: the content is written differently: %v", i, err)
		}
	}
	if b := must(tree.AppendBinary(nil)); !bytes.Equal(b, readVector(t, "tree")) {
		t.Error("the tree is written differently")
	}
	c, err := OpenCheckpoint(readVector(t, "checkpoint"), testBox, pub)
	if err != nil || c.Root != tree.Root() || c.Size != 6 || c.Boot != 3 || c.Clock != 123456 || c.Counter != 7 || c.Protection != "NOT A TPM (software key)" {
		t.Errorf("checkpoint: %+v, %v", c, err)
	}
	_, body, err := ParseLeaf(readVector(t, "0.leaf"))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := ParseBoot(body); err != nil || b.Software != "vitalgate 0.1.0" || b.Resets != 3 {
		t.Errorf("boot: %+v, %v", b, err)
	}
}

// The examples in the written format are the vectors.
func TestSpecShowsVectors(t *testing.T) {
	spec, err := os.ReadFile("../docs/spec/record.md")
	if err != nil {
		t.Fatal(err)
	}
	head := func(b []byte) []byte { return b[:bytes.Index(b, []byte("\n\n"))] }
	for i := range 6 {
		if hash := LeafHash(readVector(t, fmt.Sprint(i)+".leaf")); !bytes.Contains(spec, fmt.Appendf(nil, "`%x`", hash[:])) {
			t.Errorf("docs/spec/record.md does not show the hash of leaf %d, %x", i, hash[:])
		}
	}
	for name, want := range map[string][]byte{
		"header of 2.leaf":    head(readVector(t, "2.leaf")),
		"0.leaf":              bytes.TrimSpace(readVector(t, "0.leaf")),
		"checkpoint":          bytes.TrimSpace(readVector(t, "checkpoint")),
		"header of 3.content": head(readVector(t, "3.content")),
		"2.tlog-proof":        head(readVector(t, "2.tlog-proof")),
	} {
		if !bytes.Contains(spec, want) {
			t.Errorf("docs/spec/record.md does not show %s:\n%s", name, want)
		}
	}
}

// Anyone can check a record with Python and openssl alone; what this package refuses, they refuse too.
func TestOutsideVerifier(t *testing.T) {
	for _, tool := range []string{"python3", "openssl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed, so docs/verify.py is not tried", tool)
		}
	}
	dir := t.TempDir()
	leaf, proof, pub := readVector(t, "2.leaf"), readVector(t, "2.tlog-proof"), vectorKey(t)
	run := func(leaf, proof []byte, box string) (string, bool) {
		for name, b := range map[string][]byte{"r.leaf": leaf, "r.tlog-proof": proof} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		out, err := exec.Command("python3", "../docs/verify.py", filepath.Join(vectors, "box.pem"),
			filepath.Join(dir, "r.leaf"), filepath.Join(dir, "r.tlog-proof"), box).CombinedOutput()
		if err == nil != strings.HasPrefix(string(out), "OK: ") || err != nil && !strings.HasPrefix(string(out), "REFUSED: ") {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out), err == nil
	}
	out, ok := run(leaf, proof, "f1/gw1")
	if !ok || !strings.Contains(out, "record 2 of 6") || !strings.Contains(out, "protection NOT A TPM (software key)") {
		t.Fatal(out)
	}
	for i := range 6 {
		if out, ok := run(readVector(t, fmt.Sprint(i)+".leaf"), readVector(t, fmt.Sprint(i)+".tlog-proof"), "f1/gw1"); !ok {
			t.Errorf("record %d: %s", i, out)
		}
	}
	if out, ok := run(leaf, proof, "f1/gw2"); ok {
		t.Errorf("as another box: %s", out)
	}
	if out, ok := run(leaf, readVector(t, "3.tlog-proof"), "f1/gw1"); ok {
		t.Errorf("with the proof of another record: %s", out)
	}
	bend := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[at] ^= 1
		return b
	}
	text := bytes.Index(proof, []byte("\n\n")) + 2
	signature := bytes.LastIndex(proof, []byte(" ")) + 1
	for name, c := range map[string][2][]byte{
		"header": {bend(leaf, 40), proof}, "index in the header": {bytes.Replace(leaf, []byte("index 2"), []byte("index 3"), 1), proof},
		"body": {bend(leaf, len(leaf)-1), proof}, "longer body": {append(bytes.Clone(leaf), 0), proof}, "empty": {nil, proof},
		"index in the proof": {leaf, bytes.Replace(proof, []byte("index 2"), []byte("index 3"), 1)},
		"path":               {leaf, bend(proof, text-20)}, "origin": {leaf, bend(proof, text+12)}, "size": {leaf, bytes.Replace(proof, []byte("\n6\n"), []byte("\n7\n"), 1)},
		"extension": {leaf, bytes.Replace(proof, []byte("NOT A TPM"), []byte("GOOD TPM!"), 1)}, "signature": {leaf, bend(proof, signature+40)},
		"unsigned": {leaf, proof[:signature]}, "no proof": {leaf, nil}, "no checkpoint": {leaf, proof[:text]},
	} {
		if bytes.Equal(c[0], leaf) && bytes.Equal(c[1], proof) {
			t.Fatalf("%s: nothing changed", name)
		}
		if out, ok := run(c[0], c[1], "f1/gw1"); ok {
			t.Errorf("%s changed: %s", name, out)
		}
		q, err := ParseProof(c[0], c[1])
		if err == nil {
			_, err = Verify(q, testBox, pub)
		}
		if err == nil {
			t.Errorf("%s changed: Verify takes it", name)
		}
	}
}
