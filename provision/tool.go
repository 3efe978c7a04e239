package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// toolFlag says where this tool's identity is.
type toolFlag struct {
	Identity string `placeholder:"DIR" env:"VITALPROV_IDENTITY" help:"Folder of this tool's key and certificate (default: vitalprov in your configuration folder)."`
}

func (f toolFlag) dir() (string, error) {
	if f.Identity != "" {
		return f.Identity, nil
	}
	base, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("cannot find your configuration folder: %w; give --identity DIR", err)
	}
	return filepath.Join(base, "vitalprov"), nil
}

const (
	toolKey  = "tool.key"
	toolCert = "tool.pem"
)

// identity is this tool's certificate and key; nil where no facility has given it one, which is enough for boxes that are nobody's.
func (f toolFlag) identity() (*tls.Certificate, error) {
	dir, err := f.dir()
	if err != nil {
		return nil, err
	}
	c, err := tls.LoadX509KeyPair(filepath.Join(dir, toolCert), filepath.Join(dir, toolKey))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot use this tool's identity in %s: %w", dir, err)
	}
	return &c, nil
}

type toolCmd struct {
	Request toolRequestCmd `cmd:"" help:"Make this tool's key and write what the facility needs to certify it."`
	Install toolInstallCmd `cmd:"" help:"Take in the certificate that the facility gave (vitalpeer tool add)."`
	Show    toolShowCmd    `cmd:"" help:"Say who this tool is and how long it is believed."`
}

type toolRequestCmd struct {
	toolFlag
	Name string `arg:"" help:"Who you are, as boxes will log it: 1 to 32 of a-z, 0-9 and -."`
	Out  string `short:"o" placeholder:"FILE" help:"Where to write the request (default NAME.tool.csr)."`
}

func (c toolRequestCmd) Run() error {
	dir, err := c.dir()
	if err != nil {
		return err
	}
	if c.Out == "" {
		c.Out = c.Name + ".tool.csr"
	}
	key, err := ownKey(dir)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: c.Name}}, key)
	if err != nil {
		return fmt.Errorf("cannot make the request: %w", err)
	}
	if err := writeNew(c.Out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), 0o644); err != nil {
		return err
	}
	fmt.Printf("%s: the request of this tool.\nAt the facility's hub: vitalpeer tool add %s %s --data DIR; then here: vitalprov tool install %s.tool.pem\n", c.Out, c.Name, c.Out, c.Name)
	return nil
}

// ownKey reads this tool's key, or makes it.
func ownKey(dir string) (*ecdsa.PrivateKey, error) {
	path := filepath.Join(dir, toolKey)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("cannot keep this tool's key: %w", err)
		}
		return key, writeNew(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read this tool's key: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("cannot use this tool's key %s: it is not PEM; remove it and begin anew", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if k, ok := key.(*ecdsa.PrivateKey); ok {
		return k, nil
	}
	return nil, fmt.Errorf("cannot use this tool's key %s: %w; remove it and begin anew", path, errors.Join(err, errors.New("it is no ECDSA key")))
}

type toolInstallCmd struct {
	toolFlag
	Certificate string `arg:"" type:"existingfile" help:"The certificate that the facility gave."`
}

func (c toolInstallCmd) Run() error {
	dir, err := c.dir()
	if err != nil {
		return err
	}
	if _, err := tls.LoadX509KeyPair(c.Certificate, filepath.Join(dir, toolKey)); err != nil {
		return fmt.Errorf("cannot take the certificate %s: %w; it must answer the request of this tool (vitalprov tool request)", c.Certificate, err)
	}
	text, err := os.ReadFile(c.Certificate)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, toolCert), text, 0o644); err != nil {
		return fmt.Errorf("cannot keep the certificate: %w", err)
	}
	return toolShowCmd(struct{ toolFlag }{c.toolFlag}).Run()
}

type toolShowCmd struct{ toolFlag }

func (c toolShowCmd) Run() error {
	id, err := c.identity()
	if err != nil {
		return err
	}
	if id == nil {
		fmt.Println("This tool has no certificate: it is let into boxes that are nobody's, with the code of their label. vitalprov tool request is the way to one.")
		return nil
	}
	left := time.Until(id.Leaf.NotAfter)
	fmt.Printf("%s, certified by %s, until %s\n", id.Leaf.Subject.CommonName, id.Leaf.Issuer.CommonName, id.Leaf.NotAfter.Format(time.DateTime))
	if left <= 0 {
		return errors.New("this tool's certificate is over: ask the facility for a new one (vitalpeer tool add)")
	}
	return nil
}

// writeNew writes a file that must not be there yet.
func writeNew(path string, b []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	switch {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("cannot write: %w; remove the old file or name another", err)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("cannot write: %w; make the folder first, or name another", err)
	case err != nil:
		return fmt.Errorf("cannot write: %w; name a file in a folder that you may write to", err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(path)
	}
	return err
}
