package facility

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/vitalgate/vitalgate/provision/protocol"
	"github.com/vitalgate/vitalgate/record"
)

// CertifyTool gives a field tool (vitalprov) the certificate with which boxes of this facility let it in. It ends soon, because
// boxes that are not on the network could not be told of a revocation.
func CertifyTool(d Dir, c *Config, name, request string, days int) (certificate string, err error) {
	ca, err := d.authority()
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(request)
	if err != nil {
		return "", fmt.Errorf("cannot read the tool's request: %w", err)
	}
	csr, err := parseRequest(string(text))
	if err != nil {
		return "", fmt.Errorf("cannot use the tool's request %s: %w", request, err)
	}
	if _, err := record.ParseBoxID(c.Facility + "/" + name); err != nil {
		return "", fmt.Errorf("cannot certify a tool of the name %q: use 1 to 32 of a-z, 0-9 and -", name)
	}
	if days < 1 || days > 366 {
		return "", fmt.Errorf("cannot certify a tool for %d days: 1 to 366", days)
	}
	t := template(name, 0)
	t.NotAfter = time.Now().AddDate(0, 0, days)
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	t.URIs = []*url.URL{protocol.ToolURI(c.Facility, name)}
	return ca.sign(t, csr.PublicKey)
}

func parseRequest(text string) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("it is no PEM block \"CERTIFICATE REQUEST\" (vitalprov tool request)")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, err
	}
	if k, ok := csr.PublicKey.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() {
		return nil, errors.New("its key is not an ECDSA P-256 key")
	}
	return csr, nil
}
