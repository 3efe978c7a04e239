// Package makers is whose word for a TPM is believed: the roots under which the makers of chips certify their endorsement
// keys, pinned by fingerprint, with the intermediate authorities that stand between. The certificates are the makers' own
// and were taken from the places in makers.tsv; nothing in here is believed because a box has shown it.
package makers

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	_ "embed"
	"encoding/csv"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/vitalgate/vitalgate/tpm/attestation"
)

var (
	//go:embed makers.tsv
	table string
	//go:embed roots.pem
	roots []byte
	//go:embed intermediates.pem
	intermediates []byte
)

// Known are the makers of hardware.
func Known() attestation.Authorities {
	known := parse()
	return attestation.Authorities{Makers: slices.Clone(known.Makers), Intermediates: known.Intermediates.Clone()}
}

// Services are where makers give out the certificates of chips that do not keep them.
func Services() (all []string) {
	for _, row := range rows() {
		if s := row[0] + " at " + row[5]; row[5] != "-" && !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}

// rows is the table without its head.
func rows() [][]string {
	r := csv.NewReader(strings.NewReader(table))
	r.Comma = '\t'
	all, err := r.ReadAll()
	if err != nil {
		panic(err) // the tests have read it
	}
	return all[1:]
}

var parse = sync.OnceValue(func() attestation.Authorities {
	a := attestation.Authorities{Intermediates: x509.NewCertPool()}
	pinned := map[string]*x509.Certificate{}
	pools := map[*x509.Certificate]*x509.CertPool{}
	for rest := roots; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			panic(err) // the tests have read it
		}
		sum := sha256.Sum256(c.Raw)
		pinned[hex.EncodeToString(sum[:])] = c
	}
	for _, row := range rows() {
		root := pinned[row[2]]
		if root == nil {
			panic(fmt.Sprintf("no certificate has the fingerprint %s of %s", row[2], row[0]))
		}
		if n := len(a.Makers); n == 0 || a.Makers[n-1].Name != row[0] {
			a.Makers = append(a.Makers, attestation.Maker{Name: row[0], Class: attestation.Hardware, IDs: strings.Split(row[1], ","), Roots: x509.NewCertPool()})
		}
		pools[root] = a.Makers[len(a.Makers)-1].Roots
		pools[root].AddCert(root)
	}
	for rest := intermediates; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return a
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			panic(err) // the tests have read it
		}
		a.Intermediates.AddCert(c)
		// STMicroelectronics' ECC intermediates name their issuer in another string type than the root names itself. X.509
		// calls the two names equal (RFC 5280 §7.1), crypto/x509 compares bytes: so each is taken for a root by its signature.
		for root, pool := range pools {
			if !bytes.Equal(c.RawIssuer, root.RawSubject) && bytes.Equal(c.AuthorityKeyId, root.SubjectKeyId) && c.CheckSignatureFrom(root) == nil {
				pool.AddCert(c)
			}
		}
	}
})
