package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/vitalgate/vitalgate/image/disk"
	"github.com/vitalgate/vitalgate/image/efi"
	"github.com/vitalgate/vitalgate/image/release"
	"github.com/vitalgate/vitalgate/tpm/attestation"
)

// verify checks a release folder or a bundle against the release key: the signature, every byte of every file, and that slot,
// disk and bundle hold the same signed program with the PCR 11 value and certificate that the manifest states.
func verify(path, keyPath string, folder bool) (*release.Manifest, error) {
	text, err := os.ReadFile(keyPath)
	if err != nil {
		return nil, fmt.Errorf("cannot read the release key: %w", err)
	}
	key, err := release.ParseKey(text)
	if err != nil {
		return nil, err
	}
	if !folder {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("cannot verify the bundle: %w", err)
		}
		bundle, err := release.OpenBundle(bytes.NewReader(b), key)
		if err != nil {
			return nil, err
		}
		slot, err := io.ReadAll(bundle.Slot)
		if err != nil {
			return nil, fmt.Errorf("cannot read the bundle: %w", err)
		}
		// A tar has bytes that mean nothing: the only bundle that is whole is the one that comes out again.
		var again bytes.Buffer
		if err := release.WriteBundle(&again, bundle.Text, bundle.Signature, slot); err != nil {
			return nil, err
		}
		if !bytes.Equal(again.Bytes(), b) {
			return nil, fmt.Errorf("cannot verify the bundle: it holds bytes that are not of release %s", bundle.Manifest.Version)
		}
		return bundle.Manifest, verifySlot(bundle.Manifest, slot)
	}
	read := func(name string) ([]byte, error) {
		b, err := os.ReadFile(filepath.Join(path, name))
		if err != nil {
			return nil, fmt.Errorf("cannot verify the release: %w", err)
		}
		return b, nil
	}
	manifest, err := read(release.ManifestName)
	if err != nil {
		return nil, err
	}
	signature, err := read(release.SignatureName)
	if err != nil {
		return nil, err
	}
	m, err := release.Open(manifest, signature, key)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, f := range m.Files {
		if f.Name != filepath.Base(f.Name) {
			return nil, fmt.Errorf("cannot verify the release: the manifest names %q, which is no file beside it", f.Name)
		}
		if files[f.Name], err = read(f.Name); err != nil {
			return nil, err
		}
		if got := release.Describe(f.Name, files[f.Name]); got != f {
			return nil, fmt.Errorf("cannot verify the release: %s is not the file of the manifest: %d bytes with SHA-256 %s in place of %d with %s", f.Name, got.Size, got.SHA256, f.Size, f.SHA256)
		}
	}
	if err := verifySlot(m, files[release.SlotName]); err != nil {
		return nil, err
	}
	if !bytes.Equal(files[release.DiskName], diskImage(files[release.SlotName])) {
		return nil, fmt.Errorf("cannot verify the release: %s does not hold the slot, or the tables are not as they must be", release.DiskName)
	}
	bundle, err := read(release.BundleName)
	if err != nil {
		return nil, err
	}
	var again bytes.Buffer
	if err := release.WriteBundle(&again, manifest, signature, files[release.SlotName]); err != nil {
		return nil, err
	}
	if !bytes.Equal(again.Bytes(), bundle) {
		return nil, fmt.Errorf("cannot verify the release: %s does not hold its manifest and slot", release.BundleName)
	}
	return m, nil
}

// verifySlot checks what a hash cannot tell: that the slot's program is signed for secure boot, and that its PCR 11 is approved.
func verifySlot(m *release.Manifest, slot []byte) error {
	if f, err := m.File(release.SlotName); err != nil || release.Describe(release.SlotName, slot) != f {
		return fmt.Errorf("cannot verify release %s: its slot is not the one of the manifest", m.Version)
	}
	program, err := disk.Program(slot)
	if err != nil {
		return err
	}
	certificate, err := efi.SignedBy(program)
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(certificate.Raw); hex.EncodeToString(sum[:]) != m.SecureBoot {
		return fmt.Errorf("cannot verify release %s: its program is signed by %q, not with the certificate that the manifest names", m.Version, certificate.Subject.CommonName)
	}
	pcr, err := efi.PCR11(program)
	if err != nil {
		return err
	}
	if hex.EncodeToString(pcr[:]) != m.PCR11 {
		return fmt.Errorf("cannot verify release %s: PCR 11 will be %x, the manifest says %s", m.Version, pcr, m.PCR11)
	}
	return verifyApprovals(program, pcr)
}

// verifyApprovals checks that the program carries the approval of both values that PCR 11 will have.
func verifyApprovals(program []byte, start [32]byte) error {
	sections, err := efi.Sections(program)
	if err != nil {
		return err
	}
	of := map[string][]byte{}
	for _, s := range sections {
		of[s.Name] = s.Data
	}
	f, err := attestation.ParseFirmware(of[".pcrpkey"], of[".pcrsig"])
	if err != nil {
		return err
	}
	if err := f.Approves(start[:]); err != nil {
		return fmt.Errorf("cannot verify the release, because its program could not open a box's data: %w", err)
	}
	return nil
}
