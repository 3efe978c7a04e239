//go:build linux

package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/firmware/notify"
	"github.com/vitalgate/vitalgate/hwtest/hospital"
)

// TestStartAndStop: the box says when it reads its monitors, gives signs of life while it does, and stops in order, with what it had
// read on disk. How long that takes is printed.
func TestStartAndStop(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	var mu sync.Mutex
	var said []string
	socket := filepath.Join(t.TempDir(), "notify")
	if err := notify.Listen(ctx, socket, func(fields map[string]string) {
		mu.Lock()
		defer mu.Unlock()
		for k, v := range fields {
			said = append(said, k+"="+v)
		}
	}); err != nil {
		t.Fatal(err)
	}
	has := func(what string) func() bool {
		return func() bool { mu.Lock(); defer mu.Unlock(); return slices.Contains(said, what) }
	}
	addr := hospital.FreeAddr()
	h, err := hospital.New(ctx, hospital.Options{Bin: bin, Dir: t.TempDir(), TPM: "software", Monitors: monitorAt("bed-1", addr),
		Env: []string{notify.Socket + "=" + socket, "WATCHDOG_USEC=600000"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Stop() })
	if err := h.Start(ctx); err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		if round > 0 { // a start alone, with nothing else to do
			mu.Lock()
			said = nil
			mu.Unlock()
			began := time.Now()
			if err := h.Gateway.Start(); err != nil {
				t.Fatal(err)
			}
			first(t, addr)
			t.Logf("start to the first acknowledged reading: %.0f ms (the key is software: add what a TPM takes)", ms(time.Since(began)))
		}
		for _, what := range []string{"READY=1", "WATCHDOG=1"} {
			if err := h.Wait(ctx, 90*time.Second, "it says "+what, has(what)); err != nil {
				t.Fatal(err)
			}
		}
		// Monitors are connected and one is in the middle of a message.
		var open []net.Conn
		for range 3 {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			conn.Write([]byte("\vMSH|^~\\&|half"))
			open = append(open, conn)
		}
		first(t, addr)
		began := time.Now()
		if err := h.Gateway.Stop(60 * time.Second); err != nil {
			t.Fatalf("the stop is not clean: %v\n%s", err, h.Gateway.Log(3000))
		}
		t.Logf("clean stop with 4 connections: %.0f ms", ms(time.Since(began)))
		for _, c := range open {
			c.Close()
		}
		if !has("STOPPING=1")() {
			t.Errorf("it did not say that it stops: %v", said)
		}
	}
	if out, err := h.Run(ctx, "vitalgate", "fsck", h.Data("gw1/data")); err != nil {
		t.Errorf("the log is not in order: %s, %v", out, err)
	}
}

// TestABoxThatWasStartedTooEarly: a start before the grant is there, or with a grant that is another box's, is refused and leaves
// nothing behind; with its own grant the box publishes.
func TestABoxThatWasStartedTooEarly(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	addr := hospital.FreeAddr()
	h, err := hospital.New(ctx, hospital.Options{Bin: bin, Dir: t.TempDir(), TPM: "software", Monitors: monitorAt("bed-1", addr)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Stop() })
	path := filepath.Join(h.Data("gw1"), "gw1.grant.json")
	grant, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if out, err := h.Run(ctx, "vitalgate", "run", "-c", h.ConfigPath()); err == nil {
			t.Fatalf("it runs without a grant: %s", out)
		}
		if err := os.WriteFile(path, bytes.ReplaceAll(grant, []byte(hospital.Box), []byte("f1/gw2")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, grant, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.Start(ctx); err != nil {
		t.Fatal(err)
	}
	first(t, addr)
	var r struct {
		Spool      struct{ Next, Depth uint64 }
		Conditions []struct{ Code, Sentence string }
	}
	if err := h.Wait(ctx, 120*time.Second, "the ward has the reading", func() bool {
		resp, err := http.Get("http://" + h.Status + "/status")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return json.NewDecoder(resp.Body).Decode(&r) == nil && r.Spool.Next > 0 && r.Spool.Depth == 0
	}); err != nil {
		t.Fatalf("%v\nthe box says %+v", err, r)
	}
	for _, c := range r.Conditions {
		if c.Code == "log-rolled-back" {
			t.Fatalf("the box says %+v", r)
		}
	}
}

var readings int

// first sends a reading until it is acknowledged.
func first(t *testing.T, addr string) {
	t.Helper()
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			continue
		}
		readings++
		conn.SetDeadline(end)
		conn.Write(block(message(fmt.Sprint("F", readings), time.Now())))
		ack, err := bufio.NewReader(conn).ReadString('\x1c')
		conn.Close()
		if err == nil && strings.Contains(ack, "MSA|AA|") {
			return
		}
	}
	t.Fatal("no reading is acknowledged")
}
