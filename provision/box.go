package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/vitalgate/vitalgate/provision/protocol"
)

// at are the flags that say which box: its address, and its label or the identity of this tool.
type at struct {
	Address string `arg:"" help:"Address of the box, host or host:port."`
	Label   string `placeholder:"TEXT|@FILE" env:"VITALPROV_LABEL" help:"What is on the box's label: the text of its QR code, or key and code; @FILE reads it from a file."`
	toolFlag
}

// box is a box at the other end of the link.
type box struct {
	address string
	label   protocol.Label
	http    *http.Client
}

// open makes the line to the box; nothing is sent yet.
func (a at) open() (*box, error) {
	if a.Label == "" {
		return nil, errors.New("cannot be sure which box this is: give --label with what is on its label (key and code, or the text of the QR code)")
	}
	l, err := a.label()
	if err != nil {
		return nil, err
	}
	id, err := a.identity()
	if err != nil {
		return nil, err
	}
	return newBox(a.Address, l, id), nil
}

func newBox(address string, l protocol.Label, id *tls.Certificate) *box {
	if _, _, err := net.SplitHostPort(address); err != nil {
		address = net.JoinHostPort(strings.Trim(address, "[]"), protocol.Port)
	}
	// A connection for each call: the box may have other settings, or have begun anew, in between.
	return &box{address: address, label: l, http: &http.Client{Transport: &http.Transport{
		TLSClientConfig: protocol.ClientTLS(l, id), DisableKeepAlives: true, Proxy: nil, TLSHandshakeTimeout: 10 * time.Second,
		DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
	}}}
}

// call asks the box; body and answer are JSON, or nil.
func (b *box) call(ctx context.Context, method, path string, body, answer any) error {
	var in io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		in = bytes.NewReader(text)
	}
	resp, err := b.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if raw, ok := answer.(*[]byte); ok {
		*raw, err = io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	} else if answer != nil {
		err = json.NewDecoder(io.LimitReader(resp.Body, 16<<20)).Decode(answer)
	}
	if err != nil {
		return fmt.Errorf("cannot read the box's answer: %w; use a vitalprov of the box's version", err)
	}
	return nil
}

func (b *box) send(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "https://"+b.address+path, body)
	if err != nil {
		return nil, fmt.Errorf("cannot use the address %q: %w", b.address, err)
	}
	req.Header.Set("Authorization", protocol.ClaimScheme+" "+b.label.Claim)
	req.Header.Set("Content-Type", "application/json")
	resp, err := b.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the box at %s: %w", b.address, unreached(err))
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		var f protocol.Failure
		if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<16)).Decode(&f); err != nil || f.Error == "" {
			f.Error = resp.Status
		}
		return nil, refusal{resp.StatusCode, f.Error}
	}
	return resp, nil
}

// refusal is what a box answers that does not do what it was asked.
type refusal struct {
	status int
	why    string
}

func (r refusal) Error() string { return "the box says: " + r.why }

// unknown says whether the box's firmware has no such operation: it is older than this tool.
func unknown(err error) bool {
	var r refusal
	return errors.As(err, &r) && r.status == http.StatusNotFound
}

// unreached says what was not found, and where to look: a person with a laptop sees nothing of a network.
func unreached(err error) error {
	if e := (*url.Error)(nil); errors.As(err, &e) {
		err = e.Err
	}
	var timeout net.Error
	var name *net.DNSError
	switch {
	case errors.As(err, &name):
		return fmt.Errorf("nobody knows a machine of that name; give its address: %w", err)
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &tls.RecordHeaderError{}):
		return fmt.Errorf("a machine is there, and it is no box; check the address and the port: %w", err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("a machine is there, and no box listens at it; check the address and the port: %w", err)
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return fmt.Errorf("there is no way to that address; check that this laptop is in the network of the box: %w", err)
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("nothing answers; check the address, that the box has power, and both network cables: %w", err)
	}
	return err
}
