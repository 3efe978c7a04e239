package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/aes"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/hwtest/hospital"
)

// TestAStolenBoxHoldsNoEpochThatHasEnded takes the memory and the disk of a running box. While an epoch is open they hold its key
// and the patient's data; once it has ended, here because the facility has given new readers, they hold neither.
func TestAStolenBoxHoldsNoEpochThatHasEnded(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("the search of a whole memory is left to the long form")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	source := os.Getenv("VITALGATE_E2E_TPM")
	if source == "" {
		source = "software"
	}
	monitor := hospital.FreeAddr()
	h, err := hospital.New(ctx, hospital.Options{Bin: bin, Dir: t.TempDir(), TPM: source, Monitors: monitorAt("bed-1", monitor)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Stop() })
	if err := h.Start(ctx); err != nil {
		t.Fatal(err)
	}
	acked := &hospital.Acknowledged{}
	send := func(patient string, from, to int) {
		t.Helper()
		if err := (&hospital.Sender{Addr: monitor, Bed: patient, From: from, To: to, Acked: acked, Unanswered: 30 * time.Second}).Run(ctx); err != nil {
			t.Fatal(err)
		}
	}
	const patient = "ZQ7-KASIMIR-4711"
	send(patient, 0, 10)
	opened := func(n int) func() bool {
		return func() bool {
			got := 0
			err := h.Tail(ctx, "hub", false, func(r hospital.Record) {
				if hospital.NumberOf(r.Bundle) >= 0 {
					got++
				}
			})
			return err == nil && got == n
		}
	}
	if err := h.Wait(ctx, 2*time.Minute, "the readings at the hub", opened(10)); err != nil {
		t.Fatal(err)
	}
	needles := epochKeys(t, ctx, h)
	needles["the patient"] = []byte(patient)
	pid := h.Gateway.PID()
	before := search(t, pid, needles)
	t.Logf("while the epoch is open: %v", before)
	if before["the key of the epoch"] == 0 || before["the patient"] == 0 {
		t.Fatalf("the search does not find what must be there: %v", before)
	}

	set := filepath.Join(t.TempDir(), "set")
	if out, err := h.Run(ctx, "vitalpeer", "readers", "rotate", "-o", set, "--data", h.Data("hub")); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := h.Run(ctx, "vitalgate", "readers", "-c", h.ConfigPath(), set); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := h.Run(ctx, "vitalgate", "readers", "-c", h.ConfigPath(), set); err == nil || !strings.Contains(string(out)+err.Error(), "the box has this very set already") {
		t.Errorf("the same set again: %v: %s", err, out)
	}
	if err := h.Wait(ctx, time.Minute, "the new readers", func() bool { return strings.Contains(h.Gateway.Log(20000), "sealing for a new set of readers") }); err != nil {
		t.Fatal(err)
	}
	send("SOMEBODY-ELSE", 10, 40)
	var after map[string]int
	h.Wait(ctx, 3*time.Minute, "the memory to be clear", func() bool {
		after = search(t, pid, needles)
		return len(after) == 0
	})
	t.Logf("after its end: %v", after)
	if len(after) != 0 {
		t.Errorf("the memory of the box still holds %v", after)
	}
	if found := searchDisk(t, filepath.Dir(h.ConfigPath()), needles); len(found) != 0 {
		t.Errorf("the disk of the box holds %v", found)
	}
	// Whoever has both reader keys reads on.
	if err := h.Wait(ctx, 2*time.Minute, "the readings of both sets at the hub", opened(40)); err != nil {
		t.Error(err)
	}
}

// epochKeys are the secrets of the epoch of the first sealed record, derived from the facility's private reader key as
// docs/spec/record.md §5 says.
func epochKeys(t *testing.T, ctx context.Context, h *hospital.Hospital) map[string][]byte {
	t.Helper()
	export := filepath.Join(t.TempDir(), "export")
	if out, err := h.Run(ctx, "vitalpeer", "export", hospital.Box, "-o", export, "--data", h.Data("hub")); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text, err := os.ReadFile(filepath.Join(h.Data("hub"), "keys", "reader.key"))
	if err != nil {
		t.Fatal(err)
	}
	seed, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(strings.TrimPrefix(strings.TrimSpace(string(text)), "VGREADER-SECRET-1"))
	if err != nil {
		t.Fatal(err)
	}
	private, err := hpke.MLKEM768X25519().NewPrivateKey(seed[:32])
	if err != nil {
		t.Fatal(err)
	}
	leaves, err := filepath.Glob(filepath.Join(export, "*.leaf"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range leaves {
		leaf, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		head, body, _ := strings.Cut(string(leaf), "\n\n")
		if !strings.Contains(head, "\nkind epoch\n") || strings.Contains(head, "\npatient -\n") {
			continue
		}
		_, index, _ := strings.Cut(head, "\nindex ")
		index, _, _ = strings.Cut(index, "\n")
		line := strings.Fields(strings.Split(body, "\n")[2]) // share SIDE READER SEALED
		sealed, err := base64.StdEncoding.DecodeString(line[3])
		if err != nil {
			t.Fatal(err)
		}
		info := fmt.Sprintf("vitalgate/share/v1\n%s\n%s\n%s\n%s\n", hospital.Box, index, line[1], line[2])
		share, err := hpke.Open(private, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(info), sealed)
		if err != nil {
			t.Fatal(err)
		}
		salt := sha256.Sum256(leaf)
		key, err := hkdf.Key(sha256.New, share, salt[:], fmt.Sprintf("vitalgate/cek/v1\n%s\n%s\n", hospital.Box, index), 32)
		if err != nil {
			t.Fatal(err)
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			t.Fatal(err)
		}
		zero := make([]byte, 16)
		block.Encrypt(zero, zero)
		return map[string][]byte{"the share": share, "the key of the epoch": key[:16], "its second half": key[16:], "its hash key": zero}
	}
	t.Fatal("there is no epoch of a patient")
	return nil
}

// search counts where the needles stand in the memory of a process.
func search(t *testing.T, pid int, needles map[string][]byte) map[string]int {
	t.Helper()
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Skipf("the memory of a process cannot be read here: %v", err)
	}
	defer maps.Close()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Skipf("the memory of a process cannot be read here: %v", err)
	}
	defer mem.Close()
	found, bytesRead := map[string]int{}, 0
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from, to int64
		var mode string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); err != nil || !strings.HasPrefix(mode, "rw") {
			continue
		}
		const step, overlap = 4 << 20, 64
		for at := from; at < to; at += step {
			b := make([]byte, min(step+overlap, to-at))
			n, _ := mem.ReadAt(b, at) // what cannot be read holds nothing
			bytesRead += n
			for name, needle := range needles {
				for rest := b[:n]; ; {
					i := bytes.Index(rest, needle)
					if i < 0 || len(b)-len(rest)+i >= step {
						break
					}
					found[name]++
					rest = rest[i+1:]
				}
			}
		}
	}
	if bytesRead < 1<<20 {
		t.Fatalf("only %d bytes of the memory could be read", bytesRead)
	}
	return found
}

// searchDisk counts the files below dir that hold a needle.
func searchDisk(t *testing.T, dir string, needles map[string][]byte) map[string]int {
	t.Helper()
	found := map[string]int{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		for name, needle := range needles {
			if bytes.Contains(b, needle) {
				found[name+" in "+d.Name()]++
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
