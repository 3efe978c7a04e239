package main

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/firmware/detect"
)

// Whoever attaches a monitor need not know what it speaks: each simulated one is recognised over its own kind of line, by its
// scenario's dialect and framing.
func TestEachMonitorIsDetected(t *testing.T) {
	for _, name := range names() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := load(name)
			if err != nil {
				t.Fatal(err)
			}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			free := l.Addr().String()
			l.Close()
			kind, _, _ := strings.Cut(s.Line.To, ":")
			line, at, ask := "tcp://"+free, "listen://"+free, false
			switch kind {
			case "listen":
				line, at = at, line
			case "pds":
				line, at, ask = "pds://"+free, line, true
			case "pty":
				line, at = "pty:", ""
			}
			all, err := (&options{RunID: "t", Rate: 5, Resend: -1}).monitors([]string{name + "@" + line}, discard())
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			if err := all[0].open(ctx, func(device string) {
				if at == "" {
					at = "serial:" + device
				}
			}); err != nil {
				t.Fatal(err)
			}
			played := make(chan struct{})
			go func() { defer close(played); all[0].play(ctx) }()
			found, err := detect.Run(ctx, detect.Options{At: at, For: 90 * time.Second, Messages: 1, Ask: ask, Pause: 100 * time.Millisecond})
			stop()
			<-played
			if err != nil {
				t.Fatal(errors.Join(err, errors.New(found.Detail)))
			}
			if d := found.Dialects[0].Dialect.Name; d != s.Dialect || found.Framing != s.Line.Framing {
				t.Errorf("found %s in %s, want %s in %s", d, found.Framing, s.Dialect, s.Line.Framing)
			}
		})
	}
}
