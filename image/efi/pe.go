// Package efi builds and checks what UEFI firmware loads and trusts: a unified kernel image (one PE file of kernel, initial RAM disk
// and command line), its Authenticode signature, the value PCR 11 will have when it has started, and signed variables (PK, KEK, db).
package efi

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Section is a named part of a PE image (Microsoft PE Format, "Section Table").
type Section struct {
	Name string
	Data []byte
}

// image is a PE32+ file in memory and where its headers stand.
type image struct {
	b        []byte
	coff     int // COFF file header
	optional int // optional header
	table    int // section table
	count    int
}

// Offsets in the optional header of PE32+.
const (
	sizeOfData    = 8
	sectionAlign  = 32
	fileAlign     = 36
	sizeOfImage   = 56
	sizeOfHeaders = 60
	checkSum      = 64
	directories   = 108
	certTable     = 144 // data directory 4: a file offset, not an address
	sectionHeader = 40
	readOnlyData  = 0x40000040 // IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ
)

var errNotPE = errors.New("cannot read the EFI program: it is not a PE32+ file, or it is cut")

func parse(b []byte) (image, error) {
	if len(b) < 0x40 || b[0] != 'M' || b[1] != 'Z' {
		return image{}, errNotPE
	}
	pe := int(binary.LittleEndian.Uint32(b[0x3c:]))
	if pe < 0 || pe > len(b)-0x200 || string(b[pe:pe+4]) != "PE\x00\x00" {
		return image{}, errNotPE
	}
	m := image{b: b, coff: pe + 4, optional: pe + 24}
	m.count = int(binary.LittleEndian.Uint16(b[m.coff+2:]))
	m.table = m.optional + int(binary.LittleEndian.Uint16(b[m.coff+16:]))
	if binary.LittleEndian.Uint16(b[m.optional:]) != 0x20b || m.u32(directories) < 5 || m.table < m.optional+certTable+8 ||
		m.table+m.count*sectionHeader > len(b) {
		return image{}, errNotPE
	}
	return m, nil
}

func (m image) u32(field int) int {
	return int(binary.LittleEndian.Uint32(m.b[m.optional+field:]) & 0x7fffffff)
}

func (m image) set(field, value int) {
	binary.LittleEndian.PutUint32(m.b[m.optional+field:], uint32(value))
}

// header gives the name of section i and where it is: size in memory, address, size and place in the file.
func (m image) header(i int) (name string, virtual, address, raw, offset int) {
	h := m.b[m.table+i*sectionHeader:][:sectionHeader]
	u := func(at int) int { return int(binary.LittleEndian.Uint32(h[at:]) & 0x7fffffff) }
	return string(bytes.TrimRight(h[:8], "\x00")), u(8), u(12), u(16), u(20)
}

// Sections gives the sections of a PE file, each as long as it is in memory.
func Sections(pe []byte) ([]Section, error) {
	m, err := parse(pe)
	if err != nil {
		return nil, err
	}
	all := make([]Section, m.count)
	for i := range all {
		name, virtual, _, raw, offset := m.header(i)
		n := min(virtual, raw)
		if offset > len(pe) || n > len(pe)-offset {
			return nil, errNotPE
		}
		all[i] = Section{name, pe[offset : offset+n]}
	}
	return all, nil
}

// addSections puts sections behind those of stub. The headers of the stub leave room for theirs.
func addSections(stub []byte, add []Section) ([]byte, error) {
	m, err := parse(slices.Clone(stub))
	if err != nil {
		return nil, err
	}
	if m.u32(certTable) != 0 {
		return nil, errors.New("cannot add sections to the EFI program: it is signed already")
	}
	align, fileAlign := m.u32(sectionAlign), m.u32(fileAlign)
	if align == 0 || fileAlign == 0 || m.table+(m.count+len(add))*sectionHeader > m.u32(sizeOfHeaders) {
		return nil, errors.New("cannot add sections to the EFI program: its headers have no room for them")
	}
	address := 0
	for i := range m.count {
		_, virtual, at, _, _ := m.header(i)
		address = max(address, roundUp(at+virtual, align))
	}
	for _, s := range add {
		if len(s.Name) > 8 {
			return nil, fmt.Errorf("cannot add section %q: its name is longer than 8 bytes", s.Name)
		}
		m.b = pad(m.b, fileAlign)
		h := m.b[m.table+m.count*sectionHeader:][:sectionHeader]
		copy(h, s.Name)
		for at, v := range map[int]int{8: len(s.Data), 12: address, 16: roundUp(len(s.Data), fileAlign), 20: len(m.b), 36: readOnlyData} {
			binary.LittleEndian.PutUint32(h[at:], uint32(v))
		}
		m.count++
		m.b = pad(append(m.b, s.Data...), fileAlign)
		m.set(sizeOfData, m.u32(sizeOfData)+roundUp(len(s.Data), fileAlign))
		address += roundUp(len(s.Data), align)
	}
	binary.LittleEndian.PutUint16(m.b[m.coff+2:], uint16(m.count))
	m.set(sizeOfImage, address)
	return m.b, nil
}

func roundUp(n, to int) int { return (n + to - 1) / to * to }

func pad(b []byte, to int) []byte { return append(b, make([]byte, roundUp(len(b), to)-len(b))...) }

// digest is the Authenticode hash of a PE file: all of it but the checksum, the entry of the certificate table and the
// table itself (Windows Authenticode Portable Executable Signature Format, "Calculating the PE Image Hash").
func digest(pe []byte) (hash [32]byte, certificates []byte, err error) {
	m, err := parse(pe)
	if err != nil {
		return hash, nil, err
	}
	end := len(pe)
	if at, n := m.u32(certTable), m.u32(certTable+4); at != 0 {
		if at < m.table || at > len(pe) || n != len(pe)-at {
			return hash, nil, errors.New("cannot read the signature of the EFI program: the certificate table is not at its end")
		}
		end, certificates = at, pe[at:]
	}
	h := sha256.New()
	h.Write(pe[:m.optional+checkSum])
	h.Write(pe[m.optional+checkSum+4 : m.optional+certTable])
	h.Write(pe[m.optional+certTable+8 : end])
	return [32]byte(h.Sum(nil)), certificates, nil
}
