package logfile

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/vitalgate/vitalgate/record"
)

var update = flag.Bool("update", false, "write the test vectors anew; only before a version is released")

const (
	vectors   = "testdata/v1"
	vectorsV2 = "testdata/v2"
)

// A log that any version has written opens for ever, is clean, gives its records and goes on.
func TestVectors(t *testing.T) {
	if *update { // those of the version that is written now
		vectors := vectorsV2
		if err := os.RemoveAll(vectors); err != nil {
			t.Fatal(err)
		}
		w := newWriter(t, filepath.Join(vectors, "log"), Options{SegmentBytes: 1200})
		for range 4 {
			w.append(3, 40)
			w.sync()
			w.sign()
		}
		w.append(2, 40)
		w.sync() // and two that are not signed
		if err := w.log.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(vectors, "log", "lock")); err != nil {
			t.Fatal(err)
		}
		spki, err := x509.MarshalPKIXPublicKey(&w.key.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(vectors, "box.pem"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range []string{vectors, vectorsV2} {
		t.Run(filepath.Base(v), func(t *testing.T) { openVectors(t, v) })
	}
}

func openVectors(t *testing.T, vectors string) {
	b, err := os.ReadFile(filepath.Join(vectors, "box.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	w := &writer{t: t, key: &ecdsa.PrivateKey{PublicKey: *pub.(*ecdsa.PublicKey)}}
	dir := filepath.Join(t.TempDir(), "log")
	copyLog(t, filepath.Join(vectors, "log"), dir)
	if r := w.check(dir); !r.Clean() || r.Next != 14 || r.Signed != 12 || r.Checkpoints != 4 || r.Segments < 2 {
		t.Fatalf("check: %+v", r)
	}
	defer func() {
		if r := w.check(dir); !r.Clean() || r.Next != 15 {
			t.Errorf("check after it has gone on: %+v", r)
		}
	}()
	w.open(dir, Options{})
	defer func() { w.log.Close() }()
	for i, v := range w.read(0) {
		if h := v.Header(); h.Index != uint64(i) || h.Kind != record.KindBoot {
			t.Errorf("record %d: %+v", i, h)
		}
	}
	w.append(1, 40)
	w.sync()
	if _, n := w.log.Unsigned(); n != 3 || w.log.Found().Torn != 0 {
		t.Fatalf("%d unsigned", n)
	}
}
