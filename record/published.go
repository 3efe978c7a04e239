package record

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// Published is a leaf as it travels: with the proof that the tree of a signed checkpoint holds it at Index.
type Published struct {
	Leaf       Leaf
	Index      uint64
	Path       []Hash // from the leaf's sibling to the root's child (RFC 9162 §2.1.3)
	Checkpoint SignedCheckpoint
}

const (
	wireMagic  = "VGP1"
	proofMagic = "c2sp.org/tlog-proof@v1"
	// MaxPublished bounds the binary form; a transport must carry messages of this size.
	MaxPublished = len(wireMagic) + 8 + 1 + 32*maxLevels + 2 + MaxCheckpoint + 4 + MaxLeaf
)

// AppendBinary appends the wire form: "VGP1", index (8 bytes), hashes in the path (1), the path, length of the checkpoint (2),
// the checkpoint, length of the leaf (4), the leaf; numbers big endian.
func (p Published) AppendBinary(dst []byte) ([]byte, error) {
	if len(p.Path) > maxLevels || len(p.Checkpoint) > MaxCheckpoint || len(p.Leaf) > MaxLeaf || p.Index >= MaxIndex {
		return dst, errors.New("cannot encode record: a part is larger than the format allows")
	}
	dst = slices.Grow(dst, len(wireMagic)+8+1+32*len(p.Path)+2+len(p.Checkpoint)+4+len(p.Leaf))
	dst = append(dst, wireMagic...)
	dst = binary.BigEndian.AppendUint64(dst, p.Index)
	dst = append(dst, byte(len(p.Path)))
	for i := range p.Path {
		dst = append(dst, p.Path[i][:]...)
	}
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(p.Checkpoint)))
	dst = append(dst, p.Checkpoint...)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(p.Leaf)))
	return append(dst, p.Leaf...), nil
}

// ParsePublished reads the wire form. Leaf and Checkpoint of the result are parts of b. It looks at the form only: Verify
// decides whether to believe it. The error is a *Refusal with ReasonMalformed.
func ParsePublished(b []byte) (Published, error) {
	bad := func(what string) (Published, error) { return Published{}, refuse(ReasonMalformed, what) }
	if len(b) > MaxPublished {
		return bad("the message is larger than a record can be")
	}
	rest, ok := bytes.CutPrefix(b, []byte(wireMagic))
	if !ok || len(rest) < 9 {
		return bad("the message does not begin as a record")
	}
	p := Published{Index: binary.BigEndian.Uint64(rest)}
	n := int(rest[8])
	rest = rest[9:]
	if p.Index >= MaxIndex || n > maxLevels || len(rest) < 32*n+2 {
		return bad("the index or the path is out of range")
	}
	if n > 0 {
		p.Path = make([]Hash, n)
	}
	for i := range p.Path {
		rest = rest[copy(p.Path[i][:], rest):]
	}
	n = int(binary.BigEndian.Uint16(rest))
	rest = rest[2:]
	if n > MaxCheckpoint || len(rest) < n+4 {
		return bad("the checkpoint does not fit the message")
	}
	p.Checkpoint, rest = SignedCheckpoint(rest[:n:n]), rest[n:]
	if uint64(binary.BigEndian.Uint32(rest)) != uint64(len(rest)-4) || len(rest)-4 > MaxLeaf {
		return bad("the leaf does not fit the message")
	}
	p.Leaf = Leaf(rest[4:])
	return p, nil
}

// Text is the proof, without the leaf, in the form c2sp.org/tlog-proof@v1, which is kept in a file *.tlog-proof beside the leaf.
func (p Published) Text() []byte {
	b := []byte(proofMagic + "\nindex ")
	b = strconv.AppendUint(b, p.Index, 10)
	b = append(b, '\n')
	for i := range p.Path {
		b = base64.StdEncoding.AppendEncode(b, p.Path[i][:])
		b = append(b, '\n')
	}
	b = append(b, '\n')
	return append(b, p.Checkpoint...)
}

// ParseProof joins a leaf with its proof in the form of Text. Extra data, which that form allows, is refused.
// The error is a *Refusal with ReasonMalformed.
func ParseProof(leaf Leaf, proof []byte) (Published, error) {
	bad := func(what string) (Published, error) { return Published{}, refuse(ReasonMalformed, what) }
	end := bytes.Index(proof[:min(len(proof), 4096)], []byte("\n\n"))
	if end < 0 {
		return bad("the proof has no blank line before its checkpoint")
	}
	p := Published{Leaf: leaf, Checkpoint: proof[end+2:]}
	lines := lineReader{rest: string(proof[:end+1])}
	if lines.next() != proofMagic {
		return bad("the first line of the proof is not " + proofMagic)
	}
	p.Index = lines.uint("index")
	for lines.rest != "" && lines.err == nil && len(p.Path) <= maxLevels {
		var h Hash
		lines.base64("a line of the path", lines.next(), h[:])
		p.Path = append(p.Path, h)
	}
	if lines.err != nil {
		return bad(lines.err.Error())
	}
	if len(p.Path) > maxLevels || p.Index >= MaxIndex || len(p.Checkpoint) > MaxCheckpoint || !bytes.Equal(p.Text(), proof) {
		return bad("the proof is not in its canonical form")
	}
	return p, nil
}

// Prove gives each of the leaves its proof under the checkpoint. prev is the tree before the first of them, and the tree
// after the last must be the one that the checkpoint signs.
func Prove(prev Tree, leaves []Leaf, sc SignedCheckpoint) ([]Published, error) {
	hashes := make([]Hash, len(leaves))
	for i, l := range leaves {
		hashes[i] = tlog.RecordHash(l)
	}
	return ProveHashed(prev, leaves, hashes, sc)
}

// ProveHashed is Prove for leaves whose LeafHash is known.
func ProveHashed(prev Tree, leaves []Leaf, hashes []Hash, sc SignedCheckpoint) ([]Published, error) {
	c, err := sc.Unverified()
	if err != nil {
		return nil, err
	}
	size := prev.size + uint64(len(leaves))
	if c.Size != size {
		return nil, fmt.Errorf("cannot prove records: the checkpoint is of %d leaves, the log has %d", c.Size, size)
	}
	if len(leaves) == 0 {
		return nil, nil
	}
	g, err := newGrowth(&prev, hashes)
	if err != nil {
		return nil, fmt.Errorf("cannot prove records: %w", err)
	}
	out := make([]Published, len(leaves))
	paths := make([]Hash, 0, len(leaves)*bits.Len64(size-1))
	for i, l := range leaves {
		from := len(paths)
		paths = g.appendPath(paths, prev.size+uint64(i))
		out[i] = Published{Leaf: l, Index: prev.size + uint64(i), Path: paths[from:len(paths):len(paths)], Checkpoint: sc}
	}
	// One proof shows that leaves and checkpoint belong together: all share the same nodes.
	if err := tlog.CheckRecord(out[0].Path, int64(size), c.Root, int64(prev.size), hashes[0]); err != nil {
		return nil, errors.New("cannot prove records: the checkpoint signs another tree than that of the log")
	}
	return out, nil
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f || r == 0xfffd })
}
