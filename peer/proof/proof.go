// Package proof makes, on demand, proofs of a verified record in the forms that others know: a FHIR Provenance with a JWS,
// and a COSE receipt. Both are the word of a peer, signed with the key of its certificate; the box's own word is the
// checkpoint and the inclusion proof, which every export carries.
package proof

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/vitalgate/vitalgate/record"
)

// Signer is the peer that vouches.
type Signer struct {
	Name  string              // "f1 peer hub"
	Key   crypto.Signer       // ECDSA P-256
	Chain []*x509.Certificate // its certificate, then that of the facility's authority
}

// sign is an ES256 signature: r and s, 32 bytes each (RFC 7518 §3.4, RFC 9053 §2.1).
func (s Signer) sign(message []byte) ([]byte, error) {
	digest := sha256.Sum256(message)
	der, err := s.Key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("cannot sign: %w", err)
	}
	var sig struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &sig); err != nil || len(rest) != 0 || !ecdsa.VerifyASN1(s.Chain[0].PublicKey.(*ecdsa.PublicKey), digest[:], der) {
		return nil, errors.New("cannot sign: the key does not belong to the certificate")
	}
	out := make([]byte, 64)
	sig.R.FillBytes(out[:32])
	sig.S.FillBytes(out[32:])
	return out, nil
}

// jws is a JWS in compact form with detached content (RFC 7515 §3.1 and appendix F). The payload is exactly the bytes given:
// another form of the same JSON has another signature.
func (s Signer) jws(payload []byte) (string, error) {
	var chain [][]byte
	for _, c := range s.Chain {
		chain = append(chain, c.Raw)
	}
	header, err := json.Marshal(struct {
		Alg string   `json:"alg"`
		X5C [][]byte `json:"x5c"` // RFC 7515 §4.1.6
	}{"ES256", chain})
	if err != nil {
		return "", err
	}
	b64 := base64.RawURLEncoding
	head := b64.EncodeToString(header)
	sig, err := s.sign([]byte(head + "." + b64.EncodeToString(payload)))
	if err != nil {
		return "", err
	}
	return head + ".." + b64.EncodeToString(sig), nil
}

type coding struct {
	System  string `json:"system"`
	Code    string `json:"code"`
	Display string `json:"display,omitempty"`
}

type concept struct {
	Coding []coding `json:"coding"`
}

type identifier struct {
	System string `json:"system"`
	Value  string `json:"value"`
}

type reference struct {
	Identifier *identifier `json:"identifier,omitempty"`
	Display    string      `json:"display,omitempty"`
}

type agent struct {
	Type concept   `json:"type"`
	Who  reference `json:"who"`
}

type entity struct {
	Role string    `json:"role"`
	What reference `json:"what"`
}

type signature struct {
	Type         []coding  `json:"type"`
	When         string    `json:"when"`
	Who          reference `json:"who"`
	TargetFormat string    `json:"targetFormat"`
	SigFormat    string    `json:"sigFormat"`
	Data         []byte    `json:"data"`
}

// Provenance is a FHIR R4 Provenance of the Bundle of a record, with the peer's JWS over the exact bytes of the Bundle. The
// record is named by box and index and by the hash of its leaf, which its inclusion proof is about.
func (s Signer) Provenance(v record.Verified, bundle []byte, now time.Time) ([]byte, error) {
	jws, err := s.jws(bundle)
	if err != nil {
		return nil, err
	}
	h := v.Header()
	hash := record.LeafHash(v.Leaf())
	at := now.UTC().Format("2006-01-02T15:04:05Z")
	const participant = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
	peer := reference{Display: s.Name}
	return json.MarshalIndent(struct {
		ResourceType string      `json:"resourceType"`
		Target       []reference `json:"target"`
		Occurred     string      `json:"occurredDateTime"`
		Recorded     string      `json:"recorded"`
		Agent        []agent     `json:"agent"`
		Entity       []entity    `json:"entity"`
		Signature    []signature `json:"signature"`
	}{
		"Provenance",
		[]reference{{&identifier{"urn:vitalgate:record", fmt.Sprintf("%s/%d", h.Box, h.Index)}, "the Bundle of this record, byte for byte"}},
		h.Arrived.UTC().Format("2006-01-02T15:04:05.000Z"), at,
		[]agent{
			{concept{[]coding{{participant, "assembler", "Assembler"}}}, reference{Display: "vitalgate box " + h.Box.String()}},
			{concept{[]coding{{participant, "verifier", "Verifier"}}}, peer},
		},
		[]entity{{"source", reference{&identifier{"urn:vitalgate:leaf-hash", fmt.Sprintf("%x", hash[:])}, fmt.Sprintf("record %d of the log %s", h.Index, h.Box.Origin())}}},
		// ASTM E1762, FHIR R4 value set signature-type.
		[]signature{{[]coding{{"urn:iso-astm:E1762-95:2013", "1.2.840.10065.1.12.1.5", "Verification Signature"}}, at, peer, "application/fhir+json", "application/jose", []byte(jws)}},
	}, "", "  ")
}

// Receipt is a COSE receipt of inclusion (RFC 9942 §5.2): a COSE_Sign1 whose detached payload is the root of the box's log and
// whose unprotected header holds the inclusion proof of the leaf. Who has the leaf computes the root and checks the signature.
func (s Signer) Receipt(v record.Verified, now time.Time) ([]byte, error) {
	h, c, p := v.Header(), v.Checkpoint(), v.Published()
	proof := cborHead(cborArray, 3)
	proof = append(proof, cborHead(cborUint, c.Size)...)
	proof = append(proof, cborHead(cborUint, p.Index)...)
	proof = append(proof, cborHead(cborArray, uint64(len(p.Path)))...)
	for _, sibling := range p.Path {
		proof = append(proof, cborBytes(sibling[:])...)
	}
	chain := cborHead(cborArray, uint64(len(s.Chain)))
	for _, cert := range s.Chain {
		chain = append(chain, cborBytes(cert.Raw)...)
	}
	claims := cborMap(cborHead(cborUint, 1), cborText(s.Name), // iss
		cborHead(cborUint, 2), cborText(fmt.Sprintf("%s/%d", h.Box.Origin(), h.Index)), // sub
		cborHead(cborUint, 6), cborHead(cborUint, uint64(now.Unix()))) // iat
	protected := cborMap(
		cborHead(cborUint, 1), cborHead(cborNegative, 6), // alg: ES256 (-7)
		cborHead(cborUint, 15), claims, // CWT Claims (RFC 9597)
		cborHead(cborUint, 33), chain, // x5chain (RFC 9360)
		cborHead(cborUint, 395), cborHead(cborUint, 1)) // vds: RFC9162_SHA256
	unprotected := cborMap(cborHead(cborUint, 396), // vdp
		cborMap(cborHead(cborNegative, 0), append(cborHead(cborArray, 1), cborBytes(proof)...))) // inclusion proofs (-1)
	if tlog.CheckRecord(p.Path, int64(c.Size), c.Root, int64(p.Index), record.LeafHash(v.Leaf())) != nil {
		return nil, errors.New("cannot make a receipt: the record was not verified")
	}
	tbs := cborHead(cborArray, 4) // Sig_structure (RFC 9052 §4.4)
	tbs = append(tbs, cborText("Signature1")...)
	tbs = append(tbs, cborBytes(protected)...)
	tbs = append(tbs, cborBytes(nil)...)
	tbs = append(tbs, cborBytes(c.Root[:])...)
	sig, err := s.sign(tbs)
	if err != nil {
		return nil, err
	}
	out := append(cborHead(cborTag, 18), cborHead(cborArray, 4)...) // COSE_Sign1
	out = append(out, cborBytes(protected)...)
	out = append(out, unprotected...)
	out = append(out, cborNull)
	return append(out, cborBytes(sig)...), nil
}

// CBOR in its deterministic encoding (RFC 8949 §4.2.1), as far as receipts need it.
const (
	cborUint     = 0 << 5
	cborNegative = 1 << 5 // -1 - n
	cborString   = 2 << 5
	cborUTF8     = 3 << 5
	cborArray    = 4 << 5
	cborPairs    = 5 << 5
	cborTag      = 6 << 5
	cborNull     = 0xf6
)

func cborHead(major byte, n uint64) []byte {
	switch {
	case n < 24:
		return []byte{major | byte(n)}
	case n < 1<<8:
		return []byte{major | 24, byte(n)}
	case n < 1<<16:
		return binary.BigEndian.AppendUint16([]byte{major | 25}, uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32([]byte{major | 26}, uint32(n))
	}
	return binary.BigEndian.AppendUint64([]byte{major | 27}, n)
}

func cborBytes(b []byte) []byte { return append(cborHead(cborString, uint64(len(b))), b...) }

func cborText(s string) []byte { return append(cborHead(cborUTF8, uint64(len(s))), s...) }

// cborMap takes keys and values by turns, the keys in the order of their encodings.
func cborMap(pairs ...[]byte) []byte {
	out := cborHead(cborPairs, uint64(len(pairs)/2))
	for _, p := range pairs {
		out = append(out, p...)
	}
	return out
}
