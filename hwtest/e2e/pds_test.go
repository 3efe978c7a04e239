package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/hwtest/hospital"
)

// TestABedsideMonitorThatHasToBeAsked: the box hears where a Mindray bedside monitor is, asks it, and is killed in between. What
// reaches the hub is about the patient whom the monitor named on that connection, and no keep-alive is among it.
func TestABedsideMonitorThatHasToBeAsked(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	sim := filepath.Join(t.TempDir(), "vitalsim")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", sim, "github.com/vitalgate/vitalgate/hwtest/simmonitor").CombinedOutput(); err != nil {
		t.Fatalf("cannot build vitalsim: %v\n%s", err, out)
	}
	beacon := hospital.FreeAddr()
	h, err := hospital.New(ctx, hospital.Options{Bin: bin, Dir: t.TempDir(), TPM: "software", Monitors: fmt.Sprintf(
		"[[monitor]]\nname = \"er-bed5\"\nkind = \"mindray-pds\"\naddress = \"127.0.0.1:0\"\nbeacon = %q\ndialect = \"mindray-pds\"\nzone = \"UTC\"\nunit_temperature = \"Cel\"\n", beacon)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Stop() })
	if err := h.Start(ctx); err != nil {
		t.Fatal(err)
	}
	sctx, stopSim := context.WithCancel(ctx)
	defer stopSim()
	var said bytes.Buffer
	cmd := exec.CommandContext(sctx, sim, "run", "--rate", "20", "mindray-pds@pds://127.0.0.1:0?beat=100ms&beacon="+beacon)
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := sync.OnceFunc(func() { stopSim(); cmd.Wait() })
	defer ended()

	var vitals, named, alive int
	read := func() {
		vitals, named, alive = 0, 0, 0
		if err := h.Tail(ctx, "hub", false, func(r hospital.Record) {
			switch {
			case r.Kind == "vitals" && bytes.Contains(r.Bundle, []byte("99VITALSIM")):
				vitals++
				if bytes.Contains(r.Bundle, []byte("HORVAT")) && bytes.Contains(r.Bundle, []byte("SIM500911")) && !bytes.Contains(r.Bundle, []byte("unknown patient")) {
					named++
				}
			case r.Kind == "other":
				alive++
			}
		}); err != nil {
			t.Logf("tail: %v", err)
		}
	}
	for _, least := range []int{20, 60} {
		if err := h.Wait(ctx, 2*time.Minute, fmt.Sprint(least, " readings at the hub"), func() bool { read(); return vitals >= least }); err != nil {
			t.Fatalf("%v\nthe monitor says:\n%s", err, said.String())
		}
		if least == 20 {
			h.Gateway.Kill()
			if err := h.Gateway.Start(); err != nil {
				t.Fatal(err)
			}
		}
	}
	ended()
	read()
	if named != vitals || alive != 0 {
		t.Errorf("of %d readings %d are about the patient; %d keep-alives are recorded", vitals, named, alive)
	}
	t.Logf("%d readings at the hub, all about the patient, over a kill of the box", vitals)
}
