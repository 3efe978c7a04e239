package tpm_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/vitalgate/vitalgate/leaktest"
	"github.com/vitalgate/vitalgate/tpm"
	"github.com/vitalgate/vitalgate/tpm/tpmtest"
)

func TestMain(m *testing.M) {
	if os.Getpid() == 1 {
		vm(m)
	}
	if dir := os.Getenv("VITALGATE_TPM_CHILD"); dir != "" { // see TestSwtpmDiesWithTheBox
		t, err := tpm.Open(context.Background(), tpm.Options{Source: "swtpm", Dir: dir})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(t.Pid())
		for { // a swtpm that is at work when the box dies overlooks the end of its socket
			if _, err := t.Data().Sign(nil, digest[:], nil); err != nil {
				os.Exit(1)
			}
		}
	}
	leaktest.Main(m)
}

func open(t testing.TB, source, dir string) *tpm.TPM {
	t.Helper()
	x, err := tpm.Open(t.Context(), tpm.Options{Source: source, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func stop(t testing.TB, x *tpm.TPM) {
	t.Helper()
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
}

// device is a TPM that tests may write to, and that holds no identity of value: VITALGATE_TPM=/dev/tpmrm0.
var device = os.Getenv("VITALGATE_TPM")

// sources runs a test against every source. The machine's own TPM is touched only where VITALGATE_TPM names it.
func sources(t *testing.T, f func(t *testing.T, source, dir string)) {
	if device != "" {
		t.Run("device", func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "tpm")
			t.Cleanup(func() {
				if err := tpm.Decommission(context.Background(), tpm.Options{Source: device, Dir: dir}); err != nil {
					t.Error(err)
				}
			})
			f(t, device, dir)
		})
	}
	t.Run("swtpm", func(t *testing.T) { f(t, "swtpm", tpmtest.Dir(t)) })
	t.Run("software", func(t *testing.T) { f(t, "software", filepath.Join(t.TempDir(), "tpm")) })
}

var digest = sha256.Sum256([]byte("a checkpoint"))

func public(s crypto.Signer) *ecdsa.PublicKey { return s.Public().(*ecdsa.PublicKey) }

func signs(t testing.TB, s crypto.Signer) {
	t.Helper()
	sig, err := s.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if !ecdsa.VerifyASN1(public(s), digest[:], sig) {
		t.Fatal("the signature does not verify")
	}
}

func TestIdentityStaysAndCounterRises(t *testing.T) {
	sources(t, func(t *testing.T, source, dir string) {
		x := open(t, source, dir)
		data, client, boot := public(x.Data()), public(x.TLS()), x.Boot()
		if data.Equal(client) {
			t.Fatal("the data key and the TLS key are the same key")
		}
		stop(t, x)
		for i := uint64(1); i <= 3; i++ {
			x := open(t, source, dir)
			if !public(x.Data()).Equal(data) || !public(x.TLS()).Equal(client) {
				t.Fatal("the identity changed when the box restarted")
			}
			b := x.Boot()
			if b.Counter != boot.Counter+i || source != device && b.Resets <= boot.Resets {
				t.Fatalf("boot %d after %+v is %+v", i, boot, b)
			}
			signs(t, x.Data())
			signs(t, x.TLS())
			stop(t, x)
		}
	})
}

func TestTwoBoxesDiffer(t *testing.T) {
	sources(t, func(t *testing.T, source, dir string) {
		if source == device {
			t.Skip("there is one device")
		}
		x := open(t, source, dir)
		defer stop(t, x)
		other := filepath.Join(t.TempDir(), "other")
		if err := os.MkdirAll(filepath.Join(other, "swtpm"), 0o700); err != nil {
			t.Fatal(err)
		}
		y := open(t, source, other)
		defer stop(t, y)
		if public(x.Data()).Equal(public(y.Data())) {
			t.Fatal("two boxes have one key")
		}
	})
}

func TestSignerKeepsTheContractOfCrypto(t *testing.T) {
	sources(t, func(t *testing.T, source, dir string) {
		x := open(t, source, dir)
		for name, s := range map[string]crypto.Signer{"data": x.Data(), "tls": x.TLS()} {
			for range 20 { // r and s of every length
				sig, err := s.Sign(nil, digest[:], nil)
				if err != nil || !ecdsa.VerifyASN1(public(s), digest[:], sig) {
					t.Fatalf("%s key, nil options: %v", name, err)
				}
			}
			long := make([]byte, 48)
			if _, err := s.Sign(nil, long, crypto.SHA384); err == nil {
				t.Fatalf("%s key signed a SHA-384 digest", name)
			}
			if _, err := s.Sign(nil, digest[:20], crypto.SHA256); err == nil {
				t.Fatalf("%s key signed a short digest", name)
			}
		}
		stop(t, x)
		if _, err := x.Data().Sign(nil, digest[:], nil); !errors.Is(err, tpm.ErrClosed) {
			t.Fatalf("after Close: %v", err)
		}
		if _, err := x.Clock(); !errors.Is(err, tpm.ErrClosed) {
			t.Fatalf("after Close: %v", err)
		}
	})
}

func TestOpensslVerifies(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	sources(t, func(t *testing.T, source, dir string) {
		x := open(t, source, dir)
		defer stop(t, x)
		sig, err := x.Data().Sign(nil, digest[:], crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		spki, err := x509.MarshalPKIXPublicKey(x.Data().Public())
		if err != nil {
			t.Fatal(err)
		}
		d := t.TempDir()
		write(t, d+"/key", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))
		write(t, d+"/sig", sig)
		write(t, d+"/good", []byte("a checkpoint"))
		write(t, d+"/bad", []byte("a checkpoinT"))
		if out, err := exec.Command("openssl", "dgst", "-sha256", "-verify", d+"/key", "-signature", d+"/sig", d+"/good").CombinedOutput(); err != nil {
			t.Fatalf("openssl refuses the signature: %s", out)
		}
		if exec.Command("openssl", "dgst", "-sha256", "-verify", d+"/key", "-signature", d+"/sig", d+"/bad").Run() == nil {
			t.Fatal("openssl accepts the signature for other bytes")
		}
	})
}

func TestDecommissionedBoxIsANewBox(t *testing.T) {
	sources(t, func(t *testing.T, source, dir string) {
		x := open(t, source, dir)
		old, counter := public(x.Data()), x.Boot().Counter
		if err := tpm.Decommission(t.Context(), tpm.Options{Source: source, Dir: dir}); err == nil {
			t.Fatal("decommissioned under a running box")
		}
		stop(t, x)
		must(t, tpm.Decommission(t.Context(), tpm.Options{Source: source, Dir: dir}))
		left, err := os.ReadDir(dir)
		must(t, err)
		if len(left) != 1 || left[0].Name() != "lock" {
			t.Fatalf("%v is left", left)
		}
		must(t, tpm.Decommission(t.Context(), tpm.Options{Source: source, Dir: dir})) // once more does no harm
		x = open(t, source, dir)
		defer stop(t, x)
		if public(x.Data()).Equal(old) {
			t.Fatal("the old identity is back")
		}
		if source == device && x.Boot().Counter <= counter {
			t.Fatalf("the counter of the chip went from %d to %d", counter, x.Boot().Counter)
		}
		signs(t, x.Data())
	})
}

// The device of the kernel, as a person meets it: see VITALGATE_TPM.
func TestDevice(t *testing.T) {
	if device == "" {
		t.Skip("VITALGATE_TPM does not name a TPM that tests may write to")
	}
	dir := filepath.Join(t.TempDir(), "tpm")
	x := open(t, device, dir)
	t.Logf("%s, %s, %+v", x.Class(), x.Label(), x.Boot())
	if strings.Contains(x.Label(), "NOT A TPM") {
		t.Fatal(x.Label())
	}
	signs(t, x.Data())
	a, lak := attestor(t, x)
	s, err := a.CertifyData(t.Context(), nonce)
	must(t, err)
	_, e, err := lak.Certified(s, nonce, a.Areas().Data)
	must(t, err)
	if e.Resets != x.Boot().Resets {
		t.Fatalf("the statement has %d resets, the box says %d", e.Resets, x.Boot().Resets)
	}
	keys, err := a.EndorsementKeys(t.Context())
	must(t, err)
	for _, ek := range keys {
		challenge, secret, err := ek.Challenge(lak)
		must(t, err)
		answer, err := a.Activate(t.Context(), ek, challenge)
		must(t, err)
		if !bytes.Equal(answer, secret) {
			t.Fatal("the TPM read another secret")
		}
	}
	_, values, err := a.Quote(t.Context(), nonce, 0, 7, 11)
	must(t, err)
	t.Logf("%d endorsement keys, PCRs %x", len(keys), values)
	other := filepath.Join(t.TempDir(), "other") // the disk was lost, the chip was not
	stop(t, x)
	_, err = tpm.Open(t.Context(), tpm.Options{Source: device, Dir: other})
	if !errors.Is(err, tpm.ErrIdentity) || !strings.Contains(err.Error(), "another password") {
		t.Fatalf("got %v", err)
	}
	must(t, tpm.Decommission(t.Context(), tpm.Options{Source: device, Dir: other}))
	_, err = tpm.Open(t.Context(), tpm.Options{Source: device, Dir: dir})
	if !errors.Is(err, tpm.ErrIdentity) {
		t.Fatalf("the identity was removed: %v", err)
	}
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Without noDA, swtpm locks a key out after three of these.
func TestTenPowerCutsDoNotLockTheKey(t *testing.T) {
	dir := tpmtest.Dir(t)
	x := open(t, "swtpm", dir)
	data, last := public(x.Data()), x.Boot()
	for i := range 10 {
		signs(t, x.Data())
		signs(t, x.TLS())
		x.PowerCut()
		x = open(t, "swtpm", dir)
		if !public(x.Data()).Equal(data) {
			t.Fatalf("another identity after power cut %d", i+1)
		}
		b := x.Boot()
		if b.Counter != last.Counter+1 || b.Resets <= last.Resets {
			t.Fatalf("power cut %d: boot went from %+v to %+v", i+1, last, b)
		}
		last = b
	}
	signs(t, x.Data())
	stop(t, x)
}

func TestSwtpmKilledComesBack(t *testing.T) {
	x := tpmtest.Open(t)
	data, before := x.Data(), x.Boot()
	for range 3 {
		signs(t, data)
		x.Kill(syscall.SIGKILL)
		signs(t, data)
	}
	b := x.Boot()
	if b.Resets <= before.Resets || b.Counter != before.Counter {
		t.Fatalf("Boot went from %+v to %+v: the resets must show, the counter counts Opens", before, b)
	}
	if _, err := x.Clock(); err != nil {
		t.Fatal(err)
	}
}

func TestSwtpmHungIsReplaced(t *testing.T) {
	x := tpmtest.Open(t)
	x.SetPatience(300 * time.Millisecond)
	pid := x.Pid()
	x.Kill(syscall.SIGSTOP)
	_, err := x.Data().Sign(nil, digest[:], nil)
	if err != nil && !strings.Contains(err.Error(), "did not answer") { // a slow machine may fail the second time too
		t.Fatal(err)
	}
	x.SetPatience(10 * time.Second)
	x.Rested()
	signs(t, x.Data())
	if x.Pid() == pid {
		t.Fatal("the hung swtpm is still used")
	}
}

// An emulated TPM that cannot write its state is in failure mode until it is started again, though there is room long since.
func TestSwtpmInFailureModeIsReplaced(t *testing.T) {
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	x := tpmtest.Open(t)
	data, before := x.Data(), x.Boot()
	signs(t, data)
	if err := x.FillDisk(); !errors.Is(err, tpm2.TPMRCFailure) {
		t.Fatalf("the TPM is not in failure mode: %v", err)
	}
	signs(t, data)
	if b := x.Boot(); b.Resets <= before.Resets || b.Counter != before.Counter {
		t.Fatalf("Boot went from %+v to %+v: the reset must show", before, b)
	}
}

func TestSwtpmGoneIsAnErrorThatEnds(t *testing.T) {
	x := tpmtest.Open(t)
	path := os.Getenv("PATH")
	t.Setenv("PATH", t.TempDir())
	x.Kill(syscall.SIGKILL)
	for range 3 { // the later ones within the rest
		_, err := x.Data().Sign(nil, digest[:], nil)
		if err == nil || !strings.Contains(err.Error(), "cannot sign with the data key") || !strings.Contains(err.Error(), "swtpm is not installed") {
			t.Fatalf("got %v", err)
		}
		if errors.Is(err, tpm.ErrIdentity) {
			t.Fatalf("a TPM that may come back is taken for a lost identity: %v", err)
		}
	}
	t.Setenv("PATH", path)
	x.Rested()
	signs(t, x.Data())
}

func TestSessionLostInTheTPM(t *testing.T) {
	x := tpmtest.Open(t)
	pid := x.Pid()
	for range 2 {
		signs(t, x.Data())
		if err := x.LoseSession(); err != nil {
			t.Fatal(err)
		}
	}
	signs(t, x.TLS())
	if x.Pid() != pid {
		t.Fatal("swtpm was restarted for a lost session")
	}
}

// rc is a TPM response that is nothing but a response code.
func rc(code uint32) []byte {
	return []byte{0x80, 1, 0, 0, 0, 10, byte(code >> 24), byte(code >> 16), byte(code >> 8), byte(code)}
}

func TestBusyTPMIsAskedAgain(t *testing.T) {
	for name, code := range map[string]uint32{"RETRY": 0x922, "YIELDED": 0x908, "TESTING": 0x90A, "NV_RATE": 0x920} {
		t.Run(name, func(t *testing.T) {
			busy := 0
			x, err := tpm.OpenFaulty(t.Context(), tpmtest.Dir(t), func([]byte) ([]byte, bool, error) {
				if busy++; busy%3 != 0 { // every command twice
					return rc(code), false, nil
				}
				return nil, true, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			signs(t, x.Data())
			stop(t, x)
		})
	}
}

func TestLockedTPMSaysSo(t *testing.T) {
	var locked atomic.Bool
	x, err := tpm.OpenFaulty(t.Context(), tpmtest.Dir(t), func([]byte) ([]byte, bool, error) {
		if locked.Load() {
			return rc(0x921), false, nil // TPM_RC_LOCKOUT
		}
		return nil, true, nil
	})
	must(t, err)
	locked.Store(true)
	if _, err := x.Data().Sign(nil, digest[:], nil); !errors.Is(err, tpm.ErrLocked) || !strings.Contains(err.Error(), "it recovers in time") {
		t.Fatalf("got %v", err)
	}
	locked.Store(false)
	signs(t, x.Data())
	stop(t, x)
}

// A box that has an identity opens without its TPM: it knows who it is, and is itself again when the TPM is back.
func TestTolerantOpen(t *testing.T) {
	dir, path := tpmtest.Dir(t), os.Getenv("PATH")
	tolerant := tpm.Options{Source: "swtpm", Dir: dir, Tolerant: true}
	t.Setenv("PATH", "")
	if _, err := tpm.Open(t.Context(), tolerant); err == nil {
		t.Fatal("a box without an identity has opened without a TPM")
	}
	t.Setenv("PATH", path)
	x := open(t, "swtpm", dir)
	data, client, boot := public(x.Data()), public(x.TLS()), x.Boot()
	stop(t, x)

	t.Setenv("PATH", "")
	if _, err := tpm.Open(t.Context(), tpm.Options{Source: "swtpm", Dir: dir}); err == nil {
		t.Fatal("a box that is not told to be tolerant has opened without its TPM")
	}
	x, err := tpm.Open(t.Context(), tolerant)
	must(t, err)
	if !public(x.Data()).Equal(data) || !public(x.TLS()).Equal(client) || x.Class() != tpm.Emulated {
		t.Error("the box does not know who it is")
	}
	if b := x.Boot(); b != (tpm.Boot{}) {
		t.Errorf("the box has counted boot %+v of a TPM it has not reached", b)
	}
	if _, err := x.Data().Sign(nil, digest[:], nil); err == nil || !strings.Contains(err.Error(), "swtpm is not installed") {
		t.Errorf("signing says %v", err)
	}
	t.Setenv("PATH", path)
	x.Rested()
	signs(t, x.Data())
	if b := x.Boot(); b.Counter != boot.Counter+1 {
		t.Errorf("boot %+v after %+v", b, boot)
	}
	stop(t, x)

	// Areas that are not the remembered keys are not believed.
	file := filepath.Join(dir, "identity.json")
	text, err := os.ReadFile(file)
	must(t, err)
	var id map[string]any
	must(t, json.Unmarshal(text, &id))
	areas := id["areas"].(map[string]any)
	areas["data"] = areas["tls"]
	text, err = json.Marshal(id)
	must(t, err)
	write(t, file, text)
	t.Setenv("PATH", "")
	if _, err := tpm.Open(t.Context(), tolerant); err == nil {
		t.Error("the box has taken another key for its own")
	}
}

// The first start makes the keys in some thirty commands. Wherever it is interrupted, with the command done or not, the
// next start completes the same identity.
func TestFirstStartInterruptedAnywhere(t *testing.T) {
	for _, done := range []bool{false, true} {
		for at := 1; ; at++ {
			dir := tpmtest.Dir(t)
			n := 0
			x, err := tpm.OpenFaulty(t.Context(), dir, func([]byte) ([]byte, bool, error) {
				if n++; n >= at {
					return nil, done && n == at, tpm.ErrFault
				}
				return nil, true, nil
			})
			if err == nil { // the start needs fewer commands than that
				x.Close() // the line is still cut
				if at < 20 {
					t.Fatalf("the first start took only %d commands: the faults were not injected", at-1)
				}
				break
			}
			if !errors.Is(err, tpm.ErrFault) {
				t.Fatalf("command %d: %v", at, err)
			}
			x = open(t, "swtpm", dir)
			signs(t, x.Data())
			signs(t, x.TLS())
			data := public(x.Data())
			stop(t, x)
			if at%8 != 0 { // each of these starts costs some ten fsyncs
				continue
			}
			x = open(t, "swtpm", dir)
			if !public(x.Data()).Equal(data) {
				t.Fatalf("command %d: another identity", at)
			}
			stop(t, x)
		}
	}
}

func TestClearedTPMIsNotANewIdentity(t *testing.T) {
	dir := tpmtest.Dir(t)
	x := open(t, "swtpm", dir)
	if err := x.Clear(); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Data().Sign(nil, digest[:], nil); err == nil {
		t.Fatal("a cleared TPM still signs")
	}
	x.PowerCut()
	_, err := tpm.Open(t.Context(), tpm.Options{Source: "swtpm", Dir: dir})
	if !errors.Is(err, tpm.ErrIdentity) || !strings.Contains(err.Error(), "cleared") {
		t.Fatalf("got %v", err)
	}
}

func TestReplacedTPMIsNotANewIdentity(t *testing.T) {
	one, two := tpmtest.Dir(t), tpmtest.Dir(t)
	stop(t, open(t, "swtpm", one))
	stop(t, open(t, "swtpm", two))
	for name, change := range map[string]func(dir string){
		"another TPM": func(dir string) { must(t, os.Rename(filepath.Join(two, "swtpm"), filepath.Join(dir, "swtpm"))) },
		"state lost":  func(dir string) { must(t, os.Mkdir(filepath.Join(dir, "swtpm"), 0o700)) },
	} {
		t.Run(name, func(t *testing.T) {
			must(t, os.RemoveAll(filepath.Join(one, "swtpm")))
			change(one)
			_, err := tpm.Open(t.Context(), tpm.Options{Source: "swtpm", Dir: one})
			if !errors.Is(err, tpm.ErrIdentity) || !strings.Contains(err.Error(), "enrol") {
				t.Fatalf("got %v", err)
			}
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestTPMWithAnotherPassword(t *testing.T) {
	dir := tpmtest.Dir(t)
	stop(t, open(t, "swtpm", dir))
	must(t, os.Remove(filepath.Join(dir, "identity.json")))
	for range 2 { // nor does trying again make it ours
		_, err := tpm.Open(t.Context(), tpm.Options{Source: "swtpm", Dir: dir})
		if !errors.Is(err, tpm.ErrIdentity) || !strings.Contains(err.Error(), "another password") || !strings.Contains(err.Error(), "0x81000100") {
			t.Fatalf("got %v", err)
		}
	}
}

func TestDamagedFiles(t *testing.T) {
	for _, c := range []struct {
		name, source, file string
		damage             func(path string, data []byte)
		want               string
	}{
		{"not JSON", "swtpm", "identity.json", func(p string, d []byte) { write(t, p, d[:len(d)/2]) }, "identity.json"},
		{"empty", "swtpm", "identity.json", func(p string, d []byte) { write(t, p, nil) }, "identity.json"},
		{"other version", "swtpm", "identity.json", func(p string, d []byte) {
			write(t, p, bytes.Replace(d, []byte(`"version": 1`), []byte(`"version": 9`), 1))
		}, "version is 9"},
		{"no auth", "swtpm", "identity.json", func(p string, d []byte) { write(t, p, bytes.Replace(d, []byte(`"auth"`), []byte(`"xuth"`), 1)) }, "auth is not"},
		{"readable by all", "swtpm", "identity.json", func(p string, d []byte) { must(t, os.Chmod(p, 0o644)) }, "chmod 600"},
		{"garbage", "software", "software-keys.pem", func(p string, d []byte) { write(t, p, []byte("garbage")) }, "software-keys.pem is damaged"},
		{"one key only", "software", "software-keys.pem", func(p string, d []byte) { write(t, p, d[:len(d)/2]) }, "the tls key"},
		{"missing", "software", "software-keys.pem", func(p string, d []byte) { must(t, os.Remove(p)) }, "is missing"},
		{"keys swapped", "software", "software-keys.pem", func(p string, d []byte) {
			write(t, p, append(append([]byte{}, d[len(d)/2:]...), d[:len(d)/2]...))
		}, "data key is not the one"},
		{"readable by all", "software", "software-keys.pem", func(p string, d []byte) { must(t, os.Chmod(p, 0o640)) }, "chmod 600"},
		{"counter", "software", "software-counter", func(p string, d []byte) { write(t, p, []byte("many")) }, "software-counter is damaged"},
	} {
		t.Run(c.source+" "+c.file+" "+c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "tpm")
			if c.source == "swtpm" {
				dir = tpmtest.Dir(t)
			}
			stop(t, open(t, c.source, dir))
			path := filepath.Join(dir, c.file)
			data, err := os.ReadFile(path)
			must(t, err)
			c.damage(path, data)
			before, _ := os.ReadFile(path)
			x, err := tpm.Open(t.Context(), tpm.Options{Source: c.source, Dir: dir})
			if err == nil {
				stop(t, x)
				t.Fatal("opened all the same")
			}
			if !strings.HasPrefix(err.Error(), "cannot ") || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v", err)
			}
			if strings.Contains(err.Error(), "BEGIN") || len(data) > 8 && strings.Contains(err.Error(), string(data)) {
				t.Fatalf("the error quotes the secret: %v", err)
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
				t.Fatal("the damaged file was written over")
			}
		})
	}
}

func TestAutoTakesWhatIsThereAndStays(t *testing.T) {
	if _, err := os.Stat("/dev/tpmrm0"); err == nil {
		t.Skip("this machine has a TPM: its own keys are left alone")
	}
	emulated, file := tpmtest.Dir(t), filepath.Join(t.TempDir(), "tpm")
	path := os.Getenv("PATH")
	check := func(dir string, class tpm.Class, label string) {
		t.Helper()
		x := open(t, "auto", dir)
		defer stop(t, x)
		if x.Class() != class || x.Label() != label {
			t.Fatalf("got %s, %q", x.Class(), x.Label())
		}
	}
	check(emulated, tpm.Emulated, "emulated TPM (swtpm)")
	t.Setenv("PATH", t.TempDir())
	check(file, tpm.Software, "NOT A TPM (software key)")
	if _, err := tpm.Open(t.Context(), tpm.Options{Dir: emulated}); err == nil || !strings.Contains(err.Error(), "swtpm is not installed") {
		t.Fatalf("a swtpm identity without swtpm: %v", err)
	}
	t.Setenv("PATH", path)
	check(file, tpm.Software, "NOT A TPM (software key)") // an identity does not change because swtpm was installed
	if _, err := tpm.Open(t.Context(), tpm.Options{Source: "swtpm", Dir: file}); err == nil || !strings.Contains(err.Error(), "kept by software") {
		t.Fatalf("a software identity opened as swtpm: %v", err)
	}
}

func TestWrongSource(t *testing.T) {
	for source, want := range map[string]string{
		"hsm":            `"auto"`,
		"/dev/tpm-none":  "enable the TPM",
		"/dev/null":      "/dev/null does not answer as a TPM 2.0",
		"/etc/hostname ": "cannot open the TPM",
		"/etc":           "/etc",
	} {
		_, err := tpm.Open(t.Context(), tpm.Options{Source: source, Dir: t.TempDir()})
		if err == nil || !strings.HasPrefix(err.Error(), "cannot open the TPM") || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v", source, err)
		}
	}
}

func TestOneBoxPerDirectory(t *testing.T) {
	sources(t, func(t *testing.T, source, dir string) {
		x := open(t, source, dir)
		if _, err := tpm.Open(t.Context(), tpm.Options{Source: source, Dir: dir}); err == nil || !strings.Contains(err.Error(), "another vitalgate") {
			t.Fatalf("got %v", err)
		}
		stop(t, x)
		stop(t, open(t, source, dir))
	})
}

func TestOpenObeysItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the operator has gone home"))
	_, err := tpm.Open(ctx, tpm.Options{Source: "swtpm", Dir: tpmtest.Dir(t)})
	if err == nil || !strings.Contains(err.Error(), "gone home") {
		t.Fatalf("got %v", err)
	}
}

func TestConcurrentUse(t *testing.T) {
	sources(t, func(t *testing.T, source, dir string) {
		x := open(t, source, dir)
		defer stop(t, x)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for range 10 {
					s := x.Data()
					if i%2 == 0 {
						s = x.TLS()
					}
					sig, err := s.Sign(nil, digest[:], nil)
					if err != nil || !ecdsa.VerifyASN1(public(s), digest[:], sig) {
						t.Error("signature:", err)
					}
					if _, err := x.Clock(); err != nil {
						t.Error(err)
					}
					x.Boot()
					if source == "swtpm" && i == 0 {
						x.Kill(syscall.SIGKILL) // while the others sign
					}
				}
			})
		}
		wg.Wait()
		signs(t, x.Data())
	})
}

func TestSwtpmDiesWithTheBox(t *testing.T) {
	dir := tpmtest.Dir(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "VITALGATE_TPM_CHILD="+dir)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	var pid int
	_, err = fmt.Fscan(out, &pid)
	must(t, err)
	must(t, cmd.Process.Kill())
	cmd.Wait()
	for range 500 {
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err != nil || bytes.Contains(stat, []byte(") Z ")) {
			stop(t, open(t, "swtpm", dir)) // and its state is free again
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("swtpm %d outlived its box", pid)
}

func TestClientCertificateInTLS13(t *testing.T) {
	sources(t, func(t *testing.T, source, dir string) {
		x := open(t, source, dir)
		defer stop(t, x)
		csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "f1/gw1"}}, x.TLS())
		must(t, err)
		req, err := x509.ParseCertificateRequest(csr)
		must(t, err)
		must(t, req.CheckSignature())

		ca := open(t, "software", filepath.Join(t.TempDir(), "ca"))
		defer stop(t, ca)
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "facility"}, NotBefore: time.Now().Add(-time.Hour),
			NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
		root := certificate(t, tmpl, tmpl, ca.Data().Public(), ca.Data())
		client := certificate(t, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: req.Subject, NotBefore: tmpl.NotBefore, NotAfter: tmpl.NotAfter,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, root, req.PublicKey, ca.Data())
		server := certificate(t, &x509.Certificate{SerialNumber: big.NewInt(3), NotBefore: tmpl.NotBefore, NotAfter: tmpl.NotAfter, DNSNames: []string{"leaf"},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, root, ca.TLS().Public(), ca.Data())
		pool := x509.NewCertPool()
		pool.AddCert(root)

		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		done := make(chan error, 1)
		srv := tls.Server(a, &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
			SessionTicketsDisabled: true, Certificates: []tls.Certificate{{Certificate: [][]byte{server.Raw}, PrivateKey: ca.TLS()}}})
		go func() { done <- srv.Handshake() }()
		must(t, tls.Client(b, &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: "leaf",
			Certificates: []tls.Certificate{{Certificate: [][]byte{client.Raw}, PrivateKey: x.TLS()}}}).Handshake())
		must(t, <-done)
		if got := srv.ConnectionState().PeerCertificates[0].PublicKey.(*ecdsa.PublicKey); !got.Equal(x.TLS().Public()) {
			t.Fatal("the server saw another key")
		}
	})
}

func certificate(t testing.TB, c, parent *x509.Certificate, key any, by crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key, by)
	must(t, err)
	out, err := x509.ParseCertificate(der)
	must(t, err)
	return out
}

func TestLogHoldsNoSecret(t *testing.T) {
	dir := tpmtest.Dir(t)
	var log bytes.Buffer
	x, err := tpm.Open(t.Context(), tpm.Options{Source: "swtpm", Dir: dir, Log: slog.New(slog.NewTextHandler(&log, nil))})
	must(t, err)
	x.Kill(syscall.SIGKILL)
	signs(t, x.Data())
	stop(t, x)
	id, err := os.ReadFile(filepath.Join(dir, "identity.json"))
	must(t, err)
	auth := strings.Split(string(id), `"auth": "`)[1][:32]
	if log.Len() == 0 {
		t.Fatal("a TPM that died left no word in the log")
	}
	if strings.Contains(log.String(), auth) {
		t.Fatal("the log holds the password of the keys")
	}
}

func BenchmarkSign(b *testing.B) {
	all := []string{"swtpm", "software"}
	if device != "" {
		all = append(all, device)
		clean := tpm.Options{Source: device, Dir: b.TempDir()}
		b.Cleanup(func() { tpm.Decommission(context.Background(), clean) })
	}
	for _, source := range all {
		b.Run(source, func(b *testing.B) {
			dir := filepath.Join(b.TempDir(), "tpm")
			if source == "swtpm" {
				dir = tpmtest.Dir(b)
			}
			x := open(b, source, dir)
			defer stop(b, x)
			key := x.Data()
			for b.Loop() {
				if _, err := key.Sign(nil, digest[:], crypto.SHA256); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	dir := tpmtest.Dir(b)
	stop(b, open(b, "swtpm", dir))
	for b.Loop() {
		stop(b, open(b, "swtpm", dir))
	}
}
