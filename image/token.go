package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// token is a key in a PKCS #11 token. It is asked through OpenSC's pkcs11-tool, so that this program needs no C library.
type token struct {
	module, label, id, pinFile string
	public                     crypto.PublicKey
}

// newToken reads a PKCS #11 URI (RFC 7512): pkcs11:token=NAME;id=%01?module-path=FILE&pin-source=FILE
func newToken(uri string, public crypto.PublicKey) (*token, error) {
	rest, ok := strings.CutPrefix(uri, "pkcs11:")
	path, query, _ := strings.Cut(rest, "?")
	parts := map[string]string{}
	for _, p := range append(strings.Split(path, ";"), strings.Split(query, "&")...) {
		name, value, _ := strings.Cut(p, "=")
		v, err := url.PathUnescape(value)
		if err != nil {
			return nil, fmt.Errorf("cannot read the PKCS #11 URI: %w", err)
		}
		parts[name] = v
	}
	t := &token{module: parts["module-path"], label: parts["token"], id: hex.EncodeToString([]byte(parts["id"])), pinFile: strings.TrimPrefix(parts["pin-source"], "file:"), public: public}
	if !ok || t.module == "" || t.label == "" || t.id == "" || t.pinFile == "" {
		return nil, errors.New("cannot use the PKCS #11 URI: it must be pkcs11:token=NAME;id=%01?module-path=FILE&pin-source=FILE")
	}
	return t, nil
}

func (t *token) Public() crypto.PublicKey { return t.public }

// digestInfo is the DER before a SHA-256 hash in PKCS #1 v1.5 (RFC 8017 §9.2).
var digestInfo = []byte{0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20}

// Sign asks the token. Its ECDSA signatures are random, so a release whose manifest a token signed differs in manifest.sig.
func (t *token) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	mechanism, input := "ECDSA", digest
	if _, ok := t.public.(*rsa.PublicKey); ok {
		mechanism, input = "RSA-PKCS", append(bytes.Clone(digestInfo), digest...)
	}
	pin, err := os.ReadFile(t.pinFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read the PIN of the token: %w", err)
	}
	dir, err := os.MkdirTemp("", "vitalgate-token") // the tool may take what comes by a pipe for more than one part
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	if err := os.WriteFile(in, input, 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command("pkcs11-tool", "--module", t.module, "--token-label", t.label, "--id", t.id, "--sign", "--mechanism", mechanism,
		"--input-file", in, "--output-file", out, "--pin", "env:VITALGATE_PIN")
	cmd.Env = append(os.Environ(), "VITALGATE_PIN="+string(bytes.TrimSpace(pin)))
	if said, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cannot sign with key %s of token %s: %w: %s", t.id, t.label, err, bytes.TrimSpace(said))
	}
	signature, err := os.ReadFile(out)
	if err != nil {
		return nil, err
	}
	switch k := t.public.(type) {
	case *rsa.PublicKey:
		if err := rsa.VerifyPKCS1v15(k, crypto.SHA256, digest, signature); err != nil {
			return nil, fmt.Errorf("cannot use key %s of token %s: it does not belong to the certificate beside its URI", t.id, t.label)
		}
		return signature, nil
	case *ecdsa.PublicKey:
		n := len(signature) / 2 // r and s, each half (PKCS #11 v3.1 §6.3.1)
		der, err := asn1.Marshal([]*big.Int{new(big.Int).SetBytes(signature[:n]), new(big.Int).SetBytes(signature[n:])})
		if err != nil || !ecdsa.VerifyASN1(k, digest, der) {
			return nil, fmt.Errorf("cannot use key %s of token %s: it does not belong to the public key beside its URI", t.id, t.label)
		}
		return der, nil
	}
	return nil, errors.New("cannot sign with the token: the key is neither RSA nor ECDSA")
}
