package efi

import (
	"crypto/sha256"
	"fmt"
	"slices"
)

// UKI is what goes into a unified kernel image (UAPI Group Specification 5, "Unified Kernel Image").
type UKI struct {
	Stub      []byte // systemd's EFI stub
	Kernel    []byte // .linux
	Initrd    []byte // .initrd
	Cmdline   string // .cmdline
	OSRelease string // .osrel
	Uname     string // .uname
	PCRKey    []byte // .pcrpkey: PEM of the key that signs PCR policies
}

// measured lists the sections that the stub measures into PCR 11, in its order (systemd 257, src/fundamental/uki.h); it
// measures all it knows but .pcrsig, which could not sign itself. Those that we never use stand here too, so that none can be slipped in.
var measured = []string{".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey"}

// sections lists the UKI's own sections in the order of the file.
func (u UKI) sections() []Section {
	return []Section{
		{".osrel", []byte(u.OSRelease)}, {".cmdline", []byte(u.Cmdline)}, {".uname", []byte(u.Uname)}, {".pcrpkey", u.PCRKey},
		{".linux", u.Kernel}, {".initrd", u.Initrd},
	}
}

// Build makes the PE file, unsigned. approve is given the value that PCR 11 will have and answers the .pcrsig section: the
// release key's approval of it.
func (u UKI) Build(approve func(pcr11 [32]byte) ([]byte, error)) ([]byte, error) {
	pe, err := addSections(u.Stub, u.sections())
	if err != nil {
		return nil, err
	}
	pcr, err := PCR11(pe)
	if err != nil {
		return nil, err
	}
	approval, err := approve(pcr)
	if err != nil {
		return nil, err
	}
	return addSections(u.Stub, append(u.sections(), Section{".pcrsig", approval}))
}

// PCR11 is the value of PCR 11 (SHA-256) when the kernel of this image starts.
func PCR11(pe []byte) ([32]byte, error) {
	var pcr [32]byte
	sections, err := Sections(pe)
	if err != nil {
		return pcr, err
	}
	extend := func(b []byte) {
		h := sha256.Sum256(b)
		pcr = sha256.Sum256(append(pcr[:], h[:]...))
	}
	for _, name := range measured {
		of := slices.DeleteFunc(slices.Clone(sections), func(s Section) bool { return s.Name != name })
		switch len(of) {
		case 0:
			continue
		case 1:
			extend(append([]byte(name), 0))
			extend(of[0].Data)
		default:
			return pcr, fmt.Errorf("cannot tell the value of PCR 11: section %s is there %d times", name, len(of))
		}
	}
	return pcr, nil
}
