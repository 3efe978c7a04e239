package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/vitalgate/vitalgate/provision/protocol"
)

// Whoever looks for a box is told what is not there.
func TestWhatWasNotFound(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	go func() { // it is no box
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 1<<14))
			c.Write([]byte("220 mail.example ESMTP\r\n"))
			io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	for address, want := range map[string]string{lis.Addr().String(): "first record does not look like a TLS handshake", "box.invalid": "cannot reach the box at box.invalid:8471"} {
		var known protocol.Box
		err := newBox(address, aLabel(), nil).call(t.Context(), "GET", protocol.PathBox, nil, &known)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", address, err)
		}
	}
	wrap := func(err error) error {
		return &url.Error{Op: "Get", URL: "https://x", Err: &net.OpError{Op: "dial", Err: err}}
	}
	for want, err := range map[string]error{
		"no box listens at it":   wrap(os.NewSyscallError("connect", syscall.ECONNREFUSED)),
		"no way to that address": wrap(os.NewSyscallError("connect", syscall.EHOSTUNREACH)),
		"nothing answers":        wrap(os.ErrDeadlineExceeded),
		"nobody knows":           wrap(&net.DNSError{Err: "no such host", Name: "box.invalid"}),
	} {
		if got := unreached(err); !strings.Contains(got.Error(), want) || strings.Contains(got.Error(), "Get") {
			t.Errorf("%v: want %q", got, want)
		}
	}
	if got := unreached(fmt.Errorf("x: %w", context.Canceled)); !errors.Is(got, context.Canceled) {
		t.Errorf("%v", got)
	}
}

// A box of an older firmware cannot check a configuration beforehand: that is said, and is no error.
func TestAnOlderBoxChecksLater(t *testing.T) {
	answer := http.StatusNotFound
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(answer)
		json.NewEncoder(w).Encode(protocol.Failure{Error: "cannot answer " + r.Method + " " + r.URL.Path})
	}))
	defer srv.Close()
	b := newBox(srv.Listener.Addr().String(), protocol.Label{Key: protocol.KeyOf(srv.Certificate()), Claim: aLabel().Claim}, nil)
	if err := b.check(t.Context(), "f1/gw1", ""); err != nil {
		t.Error(err)
	}
	answer = http.StatusUnprocessableEntity
	if err := b.check(t.Context(), "f1/gw1", ""); err == nil || err.Error() != "the box says: cannot answer POST /v1/check" {
		t.Errorf("%v", err)
	}
}
