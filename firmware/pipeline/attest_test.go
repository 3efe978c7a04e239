package pipeline_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/firmware/health"
	"github.com/vitalgate/vitalgate/firmware/pipeline"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/tpm"
	"github.com/vitalgate/vitalgate/tpm/attestation"
	"github.com/vitalgate/vitalgate/tpm/tpmtest"
)

// attested starts a box whose keys are in a TPM.
func attested(t *testing.T, dir string, x *tpm.TPM) (*box, *attestation.LAK) {
	t.Helper()
	a, err := x.Attestor()
	if err != nil {
		t.Fatal(err)
	}
	lak, err := attestation.ParseLAK(a.Areas().LAK)
	if err != nil {
		t.Fatal(err)
	}
	return startWith(t, dir, "ihe-pcd01", 1<<24, func(c *pipeline.Config) { c.Signer, c.Attestor = x, a }), lak
}

// bootLeaves are those on the disk of the box, with their indexes, once one of a number of starts is there and all is signed.
func (b *box) bootLeaves(t *testing.T, starts int) (boots []record.Boot, at []uint64) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		boots, at = nil, nil
		if err := b.spool.Latest(1000, func(l record.Leaf) {
			h, body, err := record.ParseLeaf(l)
			if err != nil {
				t.Fatal(err)
			}
			if h.Kind != record.KindBoot {
				return
			}
			boot, err := record.ParseBoot(body)
			if err != nil {
				t.Fatal(err)
			}
			boots, at = append(boots, boot), append(at, h.Index)
		}); err != nil {
			t.Fatal(err)
		}
		if len(boots) >= starts {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d boot leaves are there, not %d", len(boots), starts)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := b.spool.WaitSigned(ctx, b.spool.Next()-1); err != nil {
		t.Fatalf("not signed: %v", err)
	}
	return boots, at
}

// believed checks a boot leaf as a peer does.
func believed(t *testing.T, lak *attestation.LAK, b record.Boot) {
	t.Helper()
	if b.Evidence == nil {
		t.Fatal("the TPM has not attested the start")
	}
	s := attestation.Start{PCRs: attestation.PCRs{}, Quote: attestation.Statement(b.Evidence.Quote), Counter: attestation.Statement(b.Evidence.Certify)}
	for _, p := range b.Evidence.PCRs {
		s.PCRs[uint(p.Number)] = p.Value[:]
	}
	binding, err := b.Binding(id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lak.Started(s, binding, attestation.Boot{Resets: b.Resets, Restarts: b.Restarts, Counter: b.Counter}); err != nil {
		t.Fatal(err)
	}
}

// A log that was begun in form 1, by a version that could not have its start attested, goes on in form 2; and each start names the log that
// it found and counts one more.
func TestTheTPMAttestsEachStart(t *testing.T) {
	dir, keys := t.TempDir(), tpmtest.Dir(t)
	open := func() *tpm.TPM {
		x, err := tpm.Open(t.Context(), tpm.Options{Source: "swtpm", Dir: keys})
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	x := open()
	b := startWith(t, dir, "ihe-pcd01", 1<<24, func(c *pipeline.Config) { c.Signer = x })
	wait(t, b.send(t, heartRate("A1", 1, 72)))
	boots, at := b.bootLeaves(t, 1)
	if boots[0].Evidence != nil || at[0] != 0 {
		t.Fatalf("form 1: %+v at %d", boots[0], at[0])
	}
	b.stop()
	x.Close()

	for n := 2; n <= 3; n++ {
		x = open()
		b, lak := attested(t, dir, x)
		found := b.spool.LastCheckpoint()
		wait(t, b.send(t, heartRate("A"+strconv.Itoa(n), n, 72)))
		boots, at = b.bootLeaves(t, n)
		this, before := boots[n-1], boots[n-2]
		believed(t, lak, this)
		if this.Counter != before.Counter+1 || this.Counter != x.Boot().Counter || this.Resets != x.Boot().Resets || this.LastSize == 0 || this.LastSize < found.Size || at[n-1] < this.LastSize {
			t.Errorf("start %d at %d: %+v, after %+v and a log of %d", n, at[n-1], this, before, found.Size)
		}
		if c := b.spool.LastCheckpoint(); c.Counter != this.Counter || c.Boot != this.Resets || c.Size <= at[n-1] {
			t.Errorf("the checkpoint is %+v", c)
		}
		b.stop()
		x.Close()
	}
}

// What attests is gone, what signs is there: readings are kept and signed, and a person is told.
func TestAStartThatIsNotAttestedIsSaid(t *testing.T) {
	other, err := tpm.Open(t.Context(), tpm.Options{Source: "swtpm", Dir: tpmtest.Dir(t)})
	if err != nil {
		t.Fatal(err)
	}
	gone, err := other.Attestor()
	if err != nil {
		t.Fatal(err)
	}
	other.Close()
	x, err := tpm.Open(t.Context(), tpm.Options{Source: "swtpm", Dir: tpmtest.Dir(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	b := startWith(t, t.TempDir(), "ihe-pcd01", 1<<24, func(c *pipeline.Config) { c.Signer, c.Attestor = x, gone })
	wait(t, b.send(t, heartRate("N1", 1, 72)))
	if boots, _ := b.bootLeaves(t, 1); boots[0].Evidence != nil {
		t.Errorf("a TPM that is gone attests: %+v", boots[0])
	}
	if !slices.ContainsFunc(b.health.Conditions(), func(c health.Condition) bool { return c.Code == "start-not-attested" }) {
		t.Errorf("nobody is told: %+v", b.health.Conditions())
	}
	b.stop()
}

// While the TPM takes its time, readings are kept and answered. When it has attested the start, that is signed with the first of them.
func TestASlowTPMDelaysNoReading(t *testing.T) {
	for range 10 { // a TPM that stands still for five seconds is given up and started anew, which on a slow machine may come first
		x, err := tpm.Open(t.Context(), tpm.Options{Source: "swtpm", Dir: tpmtest.Dir(t)})
		if err != nil {
			t.Fatal(err)
		}
		pid := swtpmOf(t)
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		b, lak := attested(t, t.TempDir(), x)
		wait(t, b.send(t, heartRate("S1", 1, 72)))
		still := syscall.Kill(pid, 0) == nil
		syscall.Kill(pid, syscall.SIGCONT)
		boots, at := b.bootLeaves(t, 1)
		believed(t, lak, boots[0])
		for _, r := range b.records(t) {
			if r.signed <= at[0] {
				t.Errorf("record %d is signed without the boot leaf %d, by a checkpoint over %d", r.Index, at[0], r.signed)
			}
		}
		b.stop()
		x.Close()
		if still {
			return
		}
	}
	t.Error("no reading was answered while the TPM stood still")
}

// late is a chip that says nothing of itself before it is let.
type late struct {
	*chip
	said chan struct{}
}

func (l *late) Clock() (uint64, error) {
	<-l.said
	return l.chip.Clock()
}

func (l *late) Boot() tpm.Boot {
	select {
	case <-l.said:
		return l.chip.Boot()
	default:
		return tpm.Boot{}
	}
}

// A box that is stopped before its chip has said which run this is signs nothing in that run: no boot leaf would tell of it. The next start
// signs what was kept, with its own.
func TestNothingIsSignedInARunThatIsNotToldOf(t *testing.T) {
	dir := t.TempDir()
	var x *late
	b := startWith(t, dir, "ihe-pcd01", 1<<24, func(c *pipeline.Config) {
		x = &late{c.Signer.(*chip), make(chan struct{})}
		c.Signer = x
	})
	wait(t, b.send(t, heartRate("L1", 1, 72)))
	stopped := make(chan struct{})
	go func() { defer close(stopped); b.stop() }()
	all := make([]byte, 1<<22)
	keeps := func() bool {
		return bytes.Contains(all[:runtime.Stack(all, true)], []byte("pipeline.(*Pipeline).keep("))
	}
	for deadline := time.Now().Add(time.Minute); keeps(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			close(x.said)
			t.Fatal("the line does not stop")
		}
	}
	close(x.said)
	<-stopped
	if c := b.spool.LastCheckpoint(); c.Size != 0 {
		t.Errorf("signed without a boot leaf: %+v", c)
	}

	b = startWith(t, dir, "ihe-pcd01", 1<<24, func(c *pipeline.Config) { c.Signer = x.chip })
	boots, at := b.bootLeaves(t, 1)
	if boots[0].Counter != x.chip.Boot().Counter {
		t.Errorf("the boot leaf is %+v", boots[0])
	}
	verifier := record.NewVerifier(id, b.key)
	r := b.spool.Reader(0)
	defer r.Close()
	first, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	v, err := verifier.Verify(first[0])
	if err != nil {
		t.Fatal(err)
	}
	if c := v.Checkpoint(); v.Header().Index != 0 || at[0] == 0 || c.Size <= at[0] || c.Counter != boots[0].Counter {
		t.Errorf("record %d is signed by %+v, and the boot leaf stands at %d", v.Header().Index, c, at[0])
	}
}

// swtpmOf is the process of the one emulated TPM that this test has started.
func swtpmOf(t *testing.T) int {
	t.Helper()
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil || len(lists) == 0 {
		t.Skip("this kernel does not tell the children of a process")
	}
	for _, l := range lists {
		text, _ := os.ReadFile(l) // a thread that has ended has none
		for _, f := range strings.Fields(string(text)) {
			if name, _ := os.ReadFile("/proc/" + f + "/comm"); strings.TrimSpace(string(name)) == "swtpm" {
				pid, err := strconv.Atoi(f)
				if err != nil {
					t.Fatal(err)
				}
				return pid
			}
		}
	}
	t.Skip("this kernel does not tell the children of a process")
	return 0
}
