package e2e_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/vitalgate/vitalgate/hwtest/hospital"
	"github.com/vitalgate/vitalgate/record/enrolment"
)

// TestACopiedDiskOpensNoDoor copies the disk of a running box, all but the chip, which stays soldered to the board. The key of its
// certificate is nowhere on it, whatever is on it opens no connection, and another chip makes nothing of it.
func TestACopiedDiskOpensNoDoor(t *testing.T) {
	t.Parallel()
	for _, p := range []string{"swtpm", "swtpm_setup"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skip(p + " is not installed")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	monitor := hospital.FreeAddr()
	h, err := hospital.New(ctx, hospital.Options{Bin: bin, Dir: t.TempDir(), TPM: "swtpm", Monitors: monitorAt("bed-1", monitor)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Stop() })
	if err := h.Start(ctx); err != nil {
		t.Fatal(err)
	}
	acked := &hospital.Acknowledged{}
	if err := (&hospital.Sender{Addr: monitor, Bed: "bed-1", To: 20, Acked: acked, Unanswered: 10 * time.Second}).Run(ctx); err != nil {
		t.Fatal(err)
	}
	disk, copied := filepath.Dir(h.ConfigPath()), filepath.Join(t.TempDir(), "copied")
	files, chips := 0, 0
	err = filepath.WalkDir(disk, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(disk, path)
		if err != nil {
			return err
		}
		to := filepath.Join(copied, name)
		switch {
		case d.IsDir() && d.Name() == "swtpm":
			chips++
			return fs.SkipDir
		case d.IsDir():
			return os.MkdirAll(to, 0o700)
		case !d.Type().IsRegular():
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		return os.WriteFile(to, b, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	if chips != 1 || files < 4 {
		t.Fatalf("copied %d files of the disk, left out %d chips", files, chips)
	}
	grant, err := enrolment.ReadGrant(filepath.Join(copied, "gw1.grant.json"))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := enrolment.ParseCertificate(grant.TLSCertificate)
	if err != nil {
		t.Fatal(err)
	}
	public, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		t.Fatalf("the box's certificate is for a %T", cert.PublicKey)
	}
	want, err := public.ECDH()
	if err != nil {
		t.Fatal(err)
	}

	planted, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if i := keyIn(append([]byte("some bytes before it"), planted.Bytes()...), planted.PublicKey()); i != 20 {
		t.Fatalf("a key that lies open is not found: %d", i)
	}
	// Every run of 32 bytes of every file is tried as the private key, and every nkey seed is kept for later.
	seeds, tried := [][]byte{}, 0
	err = filepath.WalkDir(copied, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if bytes.Contains(b, []byte("PRIVATE KEY")) {
			t.Errorf("%s holds a private key", path)
		}
		for _, word := range bytes.Fields(b) {
			if _, err := nkeys.FromSeed(word); err == nil {
				seeds = append(seeds, word)
			}
		}
		for _, raw := range append(bodies(b), b) {
			raw = raw[:min(len(raw), 32<<10)]
			tried += len(raw)
			if i := keyIn(raw, want); i >= 0 {
				t.Errorf("byte %d of %s is the private key of the box's certificate", i, path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d files, %d places tried for the key, %d nkey seeds found", files, tried, len(seeds))

	// The door: with the certificate and no key, with another key, with every seed.
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(grant.CA))
	block, _ := pem.Decode([]byte(grant.TLSCertificate))
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{grant.Leaves[0].URL} {
		for what, certs := range map[string][]tls.Certificate{"no certificate": nil, "the certificate with another key": {{Certificate: [][]byte{block.Bytes}, PrivateKey: other}}} {
			for _, seed := range append(seeds, nil) {
				opts := []nats.Option{nats.Secure(&tls.Config{RootCAs: roots, Certificates: certs}), nats.TLSHandshakeFirst(), nats.NoReconnect(), nats.Timeout(20 * time.Second)}
				if kp, err := nkeys.FromSeed(seed); err == nil {
					pub, err := kp.PublicKey()
					if err != nil {
						t.Fatal(err)
					}
					opts = append(opts, nats.Nkey(pub, kp.Sign))
				}
				nc, err := nats.Connect(url, opts...)
				if err == nil {
					nc.Close()
					t.Errorf("%s opens the door", what)
				} else if !strings.Contains(err.Error(), "tls: ") && !strings.Contains(err.Error(), "EOF") && !strings.Contains(err.Error(), "reset") {
					t.Errorf("%s: the door was not closed by the handshake: %v", what, err)
				}
			}
		}
	}

	// The program itself, with another chip on the board.
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "vitalgate"), "request", "-c", filepath.Join(copied, filepath.Base(h.ConfigPath())), "-o", filepath.Join(copied, "again.json"))
	cmd.Dir = copied
	out, err := cmd.CombinedOutput()
	again, readErr := enrolment.ReadRequest(filepath.Join(copied, "again.json"))
	if err == nil && readErr == nil {
		csr, err := again.CertificateRequest()
		if err != nil {
			t.Fatal(err)
		}
		if public.Equal(csr.PublicKey) {
			t.Error("another chip has the key of the copied box")
		}
	}
	t.Logf("vitalgate request on the copied disk with another chip: %v: %s", err, out)
}

// keyIn is where in b the private key of public begins; -1 if nowhere.
func keyIn(b []byte, public *ecdh.PublicKey) int {
	for i := 0; i+32 <= len(b); i++ {
		if k, err := ecdh.P256().NewPrivateKey(b[i : i+32]); err == nil && k.PublicKey().Equal(public) {
			return i
		}
	}
	return -1
}

// bodies are the decoded PEM blocks of a file.
func bodies(b []byte) (all [][]byte) {
	for {
		block, rest := pem.Decode(b)
		if block == nil {
			return all
		}
		all, b = append(all, block.Bytes), rest
	}
}
