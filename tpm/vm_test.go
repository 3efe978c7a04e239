package tpm_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vitalgate/vitalgate/tpm"
	"github.com/vitalgate/vitalgate/tpm/attestation"
)

// The tests of this package are also the first process of a virtual machine, where the TPM stands behind the kernel's driver
// (package tpmtest/qemu starts it). VG_PHASE, VG_RELEASE and VG_KEYS of the kernel's command line say what it does.
func vm(m *testing.M) {
	for _, fs := range [][2]string{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}, {"tmpfs", "/tmp"}} {
		os.MkdirAll(fs[1], 0o700)
		if err := unix.Mount(fs[0], fs[1], fs[0], 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			fmt.Println("VM FAILED: mount", fs, err)
		}
	}
	if err := phase(m, os.Getenv("VG_PHASE")); err != nil {
		fmt.Println("VM FAILED:", err)
	} else {
		fmt.Println("VM DONE")
	}
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	for { // the machine goes
		time.Sleep(time.Second)
	}
}

const vmTPM = "/dev/tpmrm0"

func phase(m *testing.M, name string) error {
	if name == "tests" {
		device = vmTPM
		flag.Set("test.v", "true")
		flag.Set("test.run", "^(TestDevice|TestIdentityStaysAndCounterRises|TestSignerKeepsTheContractOfCrypto|TestDecommissionedBoxIsANewBox|TestStartIsAttested)$")
		if code := m.Run(); code != 0 {
			return fmt.Errorf("the tests ended with %d", code)
		}
		return nil
	}
	ctx := context.Background()
	release, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), digest[:])
	if err != nil {
		return err
	}
	uki, keys := sha256.Sum256([]byte(os.Getenv("VG_RELEASE"))), sha256.Sum256([]byte(os.Getenv("VG_KEYS")))
	firmware, err := attestation.Approve(release, attestation.Extend(make([]byte, 32), uki[:]))
	if err != nil {
		return err
	}
	if name == "rogue" { // as the release before it, but not as it says it is
		uki = sha256.Sum256([]byte("rogue"))
	}
	v, err := tpm.OpenVault(ctx, vmTPM)
	if err != nil {
		return err
	}
	defer v.Close()
	if err := errors.Join(v.Measure(ctx, attestation.SecureBootPCR, keys[:]), v.Measure(ctx, attestation.FirmwarePCR, uki[:])); err != nil {
		return err
	}
	dir, save, err := disk()
	if err != nil {
		return err
	}
	sealed, secret := filepath.Join(dir, "sealed"), []byte("the key of the disk")
	blob, err := os.ReadFile(sealed)
	if errors.Is(err, os.ErrNotExist) {
		if blob, err = v.Seal(ctx, secret, firmware); err == nil {
			err = os.WriteFile(sealed, blob, 0o600)
		}
	}
	if err != nil {
		return err
	}
	if name == "clear" {
		if err := v.Clear(ctx); err != nil {
			return err
		}
	}
	got, unsealing := v.Unseal(ctx, blob, firmware)
	if err := v.Shut(ctx); err != nil {
		return err
	}
	if _, err := v.Unseal(ctx, blob, firmware); err == nil {
		return errors.New("the disk opens a second time")
	}
	x, err := tpm.Open(ctx, tpm.Options{Source: vmTPM, Dir: filepath.Join(dir, "tpm"), Firmware: firmware})
	var signing error
	if err == nil {
		_, signing = x.Data().Sign(nil, digest[:], nil)
		defer x.Close()
	}
	switch name {
	case "clear":
		if !errors.Is(unsealing, tpm.ErrIdentity) || !errors.Is(err, tpm.ErrIdentity) {
			return fmt.Errorf("after TPM2_Clear: %w, %w", unsealing, err)
		}
		return nil
	case "rogue":
		if !errors.Is(unsealing, tpm.ErrFirmware) || !errors.Is(signing, tpm.ErrFirmware) || err != nil {
			return fmt.Errorf("other firmware: unsealing gives %w, opening %w, signing %w", unsealing, err, signing)
		}
		return nil
	}
	if err := errors.Join(unsealing, err, signing); err != nil {
		return err
	}
	if !bytes.Equal(got, secret) {
		return errors.New("the disk has another key")
	}
	if err := save(); err != nil {
		return err
	}
	point, err := public(x.Data()).Bytes()
	if err != nil {
		return err
	}
	fmt.Printf("VM IDENTITY %x %d\n", sha256.Sum256(point), x.Boot().Counter)
	for name == "cut" { // until the power goes
		if _, err := x.Data().Sign(nil, digest[:], nil); err != nil {
			return err
		}
	}
	return nil
}

// disk is a folder whose files last in /dev/vda, as one document.
func disk() (dir string, save func() error, err error) {
	dir = "/tmp/box"
	f, err := os.OpenFile("/dev/vda", os.O_RDWR, 0)
	if err != nil {
		return "", nil, err
	}
	head := make([]byte, 1<<20)
	if _, err := f.ReadAt(head, 0); err != nil {
		return "", nil, err
	}
	files := map[string][]byte{}
	if n := binary.BigEndian.Uint32(head); n > 0 {
		if err := json.Unmarshal(head[4:4+n], &files); err != nil {
			return "", nil, err
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "tpm"), 0o700); err != nil {
		return "", nil, err
	}
	names := []string{"sealed", "tpm/identity.json"}
	for _, name := range names {
		if data := files[name]; data != nil {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				return "", nil, err
			}
		}
	}
	return dir, func() error {
		for _, name := range names {
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				return err
			}
			files[name] = data
		}
		text, err := json.Marshal(files)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...), 0)
		return errors.Join(err, f.Sync())
	}, nil
}
