package protocol

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
)

// Label is what stands on the box: by whom the box is known, and the proof that somebody stands in front of it.
//
// Its text form "VITALGATE:1:KEY:CLAIM" has only characters of the alphanumeric mode of a QR code (ISO/IEC 18004 §7.4.4).
type Label struct {
	Key   string // SHA-256 of the SubjectPublicKeyInfo of the box's link key, in base 32: the whole, or typed at least ShortKey of it
	Claim string // 80 random bits in base 32: opens a box that has no owner
}

const (
	labelPrefix = "VITALGATE:1:"
	wholeKey    = 52 // characters of 256 bits
	claimSize   = 16 // characters of 80 bits
	// ShortKey is how much of the key a person must type. 120 bits cannot be met by another key.
	ShortKey = 24
)

// alphabet is that of Douglas Crockford: without I, L, O and U, which are read as 1, 1, 0 and refused.
var alphabet = base32.NewEncoding("0123456789ABCDEFGHJKMNPQRSTVWXYZ").WithPadding(base32.NoPadding)

// NewClaim makes the secret of a label.
func NewClaim() string {
	var b [10]byte
	rand.Read(b[:])
	return alphabet.EncodeToString(b[:])
}

// KeyOf is the whole key of a label for the public key of a certificate.
func KeyOf(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return alphabet.EncodeToString(sum[:])
}

// Name is how people call a box that has no name yet: VG- and the first eight characters of its key.
func (l Label) Name() string { return "VG-" + l.Key[:4] + "-" + l.Key[4:8] }

// String is the text of the QR code. It holds the claim: it may stand on the label and nowhere else.
func (l Label) String() string { return labelPrefix + l.Key + ":" + l.Claim }

// Matches says whether the certificate is that of the box with this label.
func (l Label) Matches(c *x509.Certificate) bool { return strings.HasPrefix(KeyOf(c), l.Key) }

// ParseLabel reads the text of the QR code, or "KEY CLAIM" as a person types it from the label, in any case and grouping.
func ParseLabel(s string) (Label, error) {
	t := plain(s)
	if rest, ok := strings.CutPrefix(strings.ToUpper(strings.TrimSpace(s)), labelPrefix); ok {
		key, claim, ok := strings.Cut(rest, ":")
		if !ok {
			return Label{}, errors.New("cannot read the label: it has no code behind its key; scan the whole QR code")
		}
		t = plain(key) + plain(claim)
	}
	if len(t) < ShortKey+claimSize || len(t) > wholeKey+claimSize {
		return Label{}, fmt.Errorf("cannot read the label: found %d characters, a label has %d of the key and %d of the code; type both, or scan the QR code", len(t), ShortKey, claimSize)
	}
	l := Label{Key: t[:len(t)-claimSize], Claim: t[len(t)-claimSize:]}
	for _, c := range t {
		if !strings.ContainsRune("0123456789ABCDEFGHJKMNPQRSTVWXYZ", c) {
			return Label{}, fmt.Errorf("cannot read the label: %q is in no key and in no code", c)
		}
	}
	return l, nil
}

// ParseClaim reads the code alone.
func ParseClaim(s string) (string, bool) {
	t := plain(s)
	return t, len(t) == claimSize
}

// plain takes out what is only there to be read by people.
func plain(s string) string {
	return strings.NewReplacer("-", "", " ", "", "\t", "", "\n", "", "\r", "", "O", "0", "I", "1", "L", "1").Replace(strings.ToUpper(s))
}

// Groups writes a key or a code in groups of four.
func Groups(s string) string {
	var parts []string
	for len(s) > 4 {
		parts, s = append(parts, s[:4]), s[4:]
	}
	return strings.Join(append(parts, s), "-")
}
