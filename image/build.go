package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/vitalgate/vitalgate/image/cpio"
	"github.com/vitalgate/vitalgate/image/disk"
	"github.com/vitalgate/vitalgate/image/efi"
	"github.com/vitalgate/vitalgate/image/release"
	"github.com/vitalgate/vitalgate/tpm/attestation"
)

//go:embed stub/linuxaa64.efi.stub
var stub []byte

// stubInput says where the stub in stub/ comes from. A build refuses other bytes.
var stubInput = release.Input{Name: "linuxaa64.efi.stub", From: "Debian systemd-boot-efi 257.13-1~deb13u1 arm64 (LGPL-2.1-or-later)",
	SHA256: "2ca0d2b4e21d10dd67acf564e58570b6d36359e6d9e9aba43d50fc57996dcf94"}

// owner marks our entries in the firmware's key databases (EFI_SIGNATURE_DATA.SignatureOwner).
var owner = efi.MustGUID("7669746c-6761-7465-8000-0000000000ef")

// keysMade is the time of the signed variables. Firmware takes a later one in place of an earlier one, so new keys need a later time.
var keysMade = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// cmdline is fixed and signed with the slot: the stub ignores any other while secure boot is on. panic= brings a kernel that
// died back to the firmware, which starts the slot that is committed.
const cmdline = "console=ttyAMA0 quiet panic=5 rdinit=/init"

type buildCmd struct {
	Out           string `required:"" type:"path" help:"Folder to write the release to; what is in it is replaced."`
	Version       string `required:"" help:"Version of the release."`
	RollbackIndex uint32 `default:"1" help:"Boxes that have committed a higher index refuse this release. Raise it when going back would be dangerous."`
	Kernel        string `required:"" type:"existingdir" help:"Folder of the kernel: Image and provenance.json (image/kernel/build makes it)."`
	Program       string `required:"" type:"existingfile" help:"The vitalgate program for linux/arm64."`
	Keys          string `required:"" type:"existingdir" help:"Folder of keys (image keys makes one)."`
}

func (c buildCmd) Run() error {
	if !release.ValidVersion(c.Version) {
		return fmt.Errorf("cannot build version %q: it must be 1 to 64 of 0-9, A-Z, a-z, ., +, _ and -, and begin with a letter or digit", c.Version)
	}
	keys, err := openKeys(c.Keys)
	if err != nil {
		return err
	}
	kernel, from, err := readKernel(c.Kernel)
	if err != nil {
		return err
	}
	program, err := os.ReadFile(c.Program)
	if err != nil {
		return fmt.Errorf("cannot read the program: %w", err)
	}
	files, m, err := build(c.Version, c.RollbackIndex, kernel, from, program, keys)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.Out, 0o755); err != nil {
		return fmt.Errorf("cannot make the folder of the release: %w", err)
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(c.Out, name), b, 0o644); err != nil {
			return fmt.Errorf("cannot write the release: %w", err)
		}
	}
	fmt.Printf("%s: release %s, rollback index %d, %s keys\n%s", c.Out, m.Version, m.RollbackIndex, m.Keys, files[release.SizesName])
	return nil
}

// readKernel reads the kernel and where it comes from, and refuses a kernel that is not the one described.
func readKernel(dir string) ([]byte, release.Kernel, error) {
	var from release.Kernel
	b, err := os.ReadFile(filepath.Join(dir, "Image"))
	if err != nil {
		return nil, from, fmt.Errorf("cannot read the kernel: %w; make it with: image/kernel/build", err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "provenance.json"))
	if err != nil {
		return nil, from, fmt.Errorf("cannot read where the kernel comes from: %w", err)
	}
	if err := json.Unmarshal(text, &from); err != nil {
		return nil, from, fmt.Errorf("cannot read where the kernel comes from: %w", err)
	}
	if got := release.Describe("", b).SHA256; got != from.SHA256 {
		return nil, from, fmt.Errorf("cannot use the kernel in %s: its SHA-256 is %s, provenance.json says %s", dir, got, from.SHA256)
	}
	return b, from, nil
}

// build makes every file of the release. The same inputs give the same bytes.
func build(version string, index uint32, kernel []byte, from release.Kernel, program []byte, keys *keyring) (map[string][]byte, *release.Manifest, error) {
	if got := release.Describe("", stub).SHA256; got != stubInput.SHA256 {
		return nil, nil, fmt.Errorf("cannot build: the EFI stub has SHA-256 %s, not %s", got, stubInput.SHA256)
	}
	kind := "release"
	if keys.development {
		kind = "development"
	}
	running, err := json.Marshal(release.Running{Version: version, RollbackIndex: index, Keys: kind})
	if err != nil {
		return nil, nil, err
	}
	ramdisk, err := rootFiles(program, running, keys)
	if err != nil {
		return nil, nil, err
	}
	uki := efi.UKI{Stub: stub, Kernel: kernel, Initrd: ramdisk, Cmdline: cmdline, Uname: from.Source, PCRKey: keys.pcrPub,
		OSRelease: fmt.Sprintf("ID=vitalgate\nNAME=vitalgate\nVERSION_ID=%s\nVARIANT_ID=%s\nIMAGE_ID=%s\nIMAGE_VERSION=%d\n", version, kind, release.Board, index)}
	var pcr11 [32]byte
	unsigned, err := uki.Build(func(start [32]byte) ([]byte, error) {
		pcr11 = start
		f, err := attestation.Approve(keys.pcr, start[:])
		if err != nil {
			return nil, err
		}
		return f.MarshalApprovals()
	})
	if err != nil {
		return nil, nil, err
	}
	signed, err := keys.db.Sign(unsigned)
	if err != nil {
		return nil, nil, err
	}
	slot, err := disk.Slot(signed)
	if err != nil {
		return nil, nil, err
	}
	sbom, err := billOfMaterials(version, program, from)
	if err != nil {
		return nil, nil, err
	}
	files := map[string][]byte{release.SlotName: slot, release.SBOMName: sbom, release.DiskName: diskImage(slot)}
	files[release.SizesName] = sizes(files, signed, kernel, ramdisk, program)

	cert := sha256.Sum256(keys.db.Certificate.Raw)
	m := release.Manifest{Version: version, RollbackIndex: index, Board: release.Board, Keys: kind, PCR11: hex.EncodeToString(pcr11[:]),
		SecureBoot: hex.EncodeToString(cert[:]), Kernel: from, Stub: stubInput, Go: runtime.Version()}
	for name, b := range files {
		m.Files = append(m.Files, release.Describe(name, b))
	}
	slices.SortFunc(m.Files, func(a, b release.File) int { return strings.Compare(a.Name, b.Name) })
	text, signature, err := m.Sign(keys.release)
	if err != nil {
		return nil, nil, err
	}
	public, ok := keys.release.Public().(*ecdsa.PublicKey)
	if !ok {
		return nil, nil, errors.New("cannot sign the manifest: the release key must be a P-256 key")
	}
	if _, err := release.Open(text, signature, public); err != nil {
		return nil, nil, err
	}
	var bundle bytes.Buffer
	if err := release.WriteBundle(&bundle, text, signature, slot); err != nil {
		return nil, nil, err
	}
	files[release.ManifestName], files[release.SignatureName], files[release.BundleName] = text, signature, bundle.Bytes()
	return files, &m, nil
}

// rootFiles makes the initial RAM disk, compressed: one program, the keys it trusts, and folders to mount on.
func rootFiles(program, running []byte, keys *keyring) ([]byte, error) {
	entries := cpio.Devices()
	for _, d := range []string{"data", "etc", "etc/vitalgate", release.FactoryKeys[1:], "proc", "run", "sys"} {
		entries = append(entries, cpio.Directory(d))
	}
	entries = append(entries, cpio.Symlink("etc/resolv.conf", "/run/resolv.conf"),
		cpio.File("etc/hosts", false, []byte("127.0.0.1 localhost\n")),
		cpio.File(release.RunningPath[1:], false, running),
		cpio.File(release.ReleaseKeyPath[1:], false, keys.releasePub))
	for _, v := range []struct {
		name   string
		vendor efi.GUID
		of, by efi.Signer
	}{
		{"db", efi.SecurityDatabase, keys.db, keys.kek}, {"KEK", efi.GlobalVariable, keys.kek, keys.pk}, {"PK", efi.GlobalVariable, keys.pk, keys.pk},
	} {
		b, err := efi.SignedVariable(v.name, v.vendor, owner, v.of.Certificate, v.by, keysMade)
		if err != nil {
			return nil, err
		}
		entries = append(entries, cpio.File(release.FactoryKeys[1:]+"/"+v.name+".auth", false, b))
	}
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20))
	if err != nil {
		return nil, err
	}
	return z.EncodeAll(cpio.Archive(append(entries, cpio.File("init", true, program))), nil), nil
}

// diskImage is what an empty box's disk is written with: both tables and slot A. Slot B and the data partition are empty.
func diskImage(slot []byte) []byte {
	b := make([]byte, disk.MinDisk)
	parts := []disk.Partition{disk.SlotA, disk.SlotB, disk.Data(disk.MinDisk)}
	first, second := disk.Tables(parts, disk.MinDisk)
	copy(b, first)
	copy(b[disk.SlotA.Offset():], slot)
	copy(b[disk.SecondAt(disk.MinDisk):], second)
	return b
}

func sizes(files map[string][]byte, signed, kernel, ramdisk, program []byte) []byte {
	var b bytes.Buffer
	line := func(what string, n int) { fmt.Fprintf(&b, "%-42s %12d bytes\n", what, n) }
	line("kernel", len(kernel))
	line("program vitalgate", len(program))
	line("initial RAM disk, compressed", len(ramdisk))
	line("signed EFI program (a slot's only file)", len(signed))
	line("slot as it is written", len(files[release.SlotName]))
	line("slot partition", disk.SlotBytes)
	line("disk image", len(files[release.DiskName]))
	return b.Bytes()
}
