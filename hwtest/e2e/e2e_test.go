// Package e2e_test runs the real programs against each other and breaks them.
package e2e_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/hwtest/hospital"
)

// bin is the folder of the programs under test.
var bin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "vitalgate-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	bin = dir
	for name, pkg := range map[string]string{"vitalgate": "firmware", "vitalpeer": "peer", "vitalprov": "provision"} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, name), "github.com/vitalgate/vitalgate/"+pkg)
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "cannot build", name, err)
			os.Exit(1)
		}
	}
	flag.Set("test.parallel", "3") // these tests wait more than they work
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// monitorAt is the configuration of one MLLP monitor that connects to addr.
func monitorAt(name, addr string) string {
	return hospital.Monitor(name, addr, "UTC")
}

// TestNothingLostNothingDoubled is the promise: what a monitor got AA for is at the hub, verified, exactly once, while the
// box, the ward peer and the hub are killed with -9 and both cables are pulled.
func TestNothingLostNothingDoubled(t *testing.T) {
	t.Parallel()
	total, senders, atLeast, patience := 10000, 4, 3, 8*time.Minute
	if testing.Short() {
		total, atLeast = 1500, 1
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience+2*time.Minute)
	defer cancel()
	addr := []string{hospital.FreeAddr(), hospital.FreeAddr()}
	h, err := hospital.New(ctx, hospital.Options{Bin: bin, Dir: t.TempDir(), TPM: os.Getenv("VITALGATE_E2E_TPM"), Monitors: monitorAt("bed-1", addr[0]) + monitorAt("bed-2", addr[1])})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Stop() })
	if err := h.Start(ctx); err != nil {
		t.Fatal(err)
	}

	acked := &hospital.Acknowledged{}
	all := make([]*hospital.Sender, senders)
	var sending sync.WaitGroup
	for i := range all {
		all[i] = &hospital.Sender{Addr: addr[i%2], Bed: fmt.Sprintf("bed-%d", i%2+1), From: i * total / senders, To: (i + 1) * total / senders, Acked: acked, Pause: 14 * time.Millisecond, Unanswered: 3 * time.Second}
		sending.Go(func() {
			if err := all[i].Run(ctx); err != nil {
				t.Errorf("sender %d: %v", i, err)
			}
		})
	}
	sent := make(chan struct{})
	go func() { sending.Wait(); close(sent) }()

	faults := breakThings(ctx, t, h, sent)
	if got := acked.Count(); got != total {
		t.Fatalf("only %d of %d messages were acknowledged; box:\n%s", got, total, h.Gateway.Log(3000))
	}

	var seen map[int]int
	err = h.Wait(ctx, patience, "everything acknowledged is at the hub", func() bool {
		seen = map[int]int{}
		if err := h.Tail(ctx, "hub", false, func(r hospital.Record) {
			if n := hospital.NumberOf(r.Bundle); n >= 0 {
				seen[n]++
			}
		}); err != nil {
			t.Logf("tail: %v", err)
			return false
		}
		return len(seen) == total
	})
	lost, doubled, resent := 0, 0, int64(0)
	for n := range total {
		switch seen[n] {
		case 0:
			lost++
		case 1:
		default:
			doubled++
		}
	}
	for _, s := range all {
		resent += s.Broken.Load()
	}
	quarantined, qerr := h.Quarantined("hub")
	t.Logf("%d acknowledged, %d lost, %d doubled, %d quarantined; connections broken %d times; faults: %v", total, lost, doubled, quarantined, resent, faults)
	if err != nil || qerr != nil || lost > 0 || doubled > 0 || quarantined > 0 {
		t.Fatalf("lost %d, doubled %d, quarantined %d (%v, %v)", lost, doubled, quarantined, err, qerr)
	}
	for what, n := range faults {
		if n < atLeast {
			t.Errorf("%s happened only %d times: this run proves too little", what, n)
		}
	}
	if out, err := h.Run(ctx, "vitalpeer", "verify", "--data", h.Data("hub")); err != nil {
		t.Errorf("the hub's store does not verify: %v\n%s", err, out)
	}
	if err := h.Stop(); err != nil {
		t.Errorf("a program did not stop cleanly: %v", err)
	}
	if out, err := h.Run(ctx, "vitalgate", "fsck", filepath.Join(h.Data("gw1"), "data")); err != nil {
		t.Errorf("the box's log is damaged: %v\n%s", err, out)
	}
}

// breakThings breaks one thing after another until all is sent, and mends all in the end.
func breakThings(ctx context.Context, t *testing.T, h *hospital.Hospital, sent <-chan struct{}) map[string]int {
	faults := map[string]int{"kill box": 0, "kill ward": 0, "kill hub": 0, "cut box-ward": 0, "cut ward-hub": 0}
	pause := func(d time.Duration) bool {
		select {
		case <-sent:
			return false
		case <-ctx.Done():
			return false
		case <-time.After(d):
			return true
		}
	}
	restart := func(p *hospital.Process, down time.Duration) {
		p.Kill()
		time.Sleep(down)
		if err := p.Start(); err != nil {
			t.Error(err)
		}
	}
	short := func() time.Duration { return time.Duration(100+rand.IntN(500)) * time.Millisecond }
	steps := []func(){
		func() { faults["kill box"]++; restart(h.Gateway, short()) },
		func() { faults["cut box-ward"]++; h.BoxWire.Cut(); time.Sleep(short()); h.BoxWire.Mend() },
		func() { faults["kill ward"]++; restart(h.Ward, short()) },
		func() { faults["cut ward-hub"]++; h.PeerWire.Cut(); time.Sleep(short()); h.PeerWire.Mend() },
		func() { faults["kill hub"]++; restart(h.Hub, short()) },
	}
	for i := 0; pause(short()); i++ {
		steps[i%len(steps)]()
	}
	return faults
}

// TestABoxThatIsToldWhatIsWrong: what a person gets wrong is named with its remedy, and the exit status is not zero.
func TestABoxThatIsToldWhatIsWrong(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	monitor := monitorAt("bed-1", hospital.FreeAddr())
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		want []string
	}{
		{"no file", []string{"run", "-c", filepath.Join(dir, "none.toml")}, []string{"none.toml", "vitalgate config example"}},
		{"unknown key", []string{"run", "-c", write("a.toml", "[box]\nid=\"f1/gw1\"\ndatta=\"x\"\n"+monitor)}, []string{"datta", "line 3", "data"}},
		{"no grant", []string{"run", "-c", write("b.toml", "[box]\nid=\"f1/gw1\"\ndata=\"b\"\n[tpm]\nsource=\"software\"\n"+monitor)}, []string{"network.grant", "vitalgate request"}},
		{"others may read", []string{"run", "-c", write("c.toml", "[box]\nid=\"f1/gw1\"\ndata=\"open\"\n"+monitor)}, []string{"chmod 700"}},
		{"grant missing", []string{"run", "-c", write("d.toml", "[box]\nid=\"f1/gw1\"\ndata=\"d\"\n[tpm]\nsource=\"software\"\n[network]\ngrant=\"g.json\"\n"+monitor)}, []string{"g.json"}},
		{"no such TPM", []string{"run", "-c", write("e.toml", "[box]\nid=\"f1/gw1\"\ndata=\"e\"\n[tpm]\nsource=\"/dev/no-such-tpm\"\n"+monitor)}, []string{"/dev/no-such-tpm"}},
		{"unknown command", []string{"rum"}, []string{"rum"}},
		{"unknown dialect", []string{"convert", "--dialect", "klingon", "x"}, []string{"klingon"}},
		{"unknown zone", []string{"convert", "--zone", "Mars/Base", "x"}, []string{"Mars/Base"}},
		{"no such file", []string{"convert", filepath.Join(dir, "none.hl7")}, []string{"none.hl7"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, filepath.Join(bin, "vitalgate"), c.args...)
			var said bytes.Buffer
			cmd.Stdout, cmd.Stderr = io.Discard, &said
			if err := cmd.Run(); err == nil {
				t.Fatal("exit status 0")
			}
			for _, want := range c.want {
				if !bytes.Contains(said.Bytes(), []byte(want)) {
					t.Errorf("does not name %q:\n%s", want, said.String())
				}
			}
		})
	}
}
