package main

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/vitalgate/vitalgate/peer/peertest"
)

// dial connects as the nats program does with the flags that vitalpeer wrote.
func dial(t *testing.T, dir string) (*nats.Conn, <-chan error, error) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "flags"))
	if err != nil {
		t.Fatal(err)
	}
	flag := map[string]string{}
	for f := strings.Fields(strings.Replace(string(text), "--tlsfirst ", "", 1)); len(f) > 1; f = f[2:] {
		flag[f[0]] = f[1]
	}
	key, err := nats.NkeyOptionFromSeed(flag["--nkey"])
	if err != nil {
		t.Fatal(err)
	}
	said := make(chan error, 16)
	nc, err := nats.Connect(flag["--server"], nats.TLSHandshakeFirst(), nats.RootCAs(flag["--tlsca"]), nats.ClientCert(flag["--tlscert"], flag["--tlskey"]),
		key, nats.CustomInboxPrefix(flag["--inbox-prefix"]), nats.NoReconnect(),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { said <- err }))
	if err == nil {
		t.Cleanup(nc.Close)
	}
	return nc, said, err
}

// TestRecipes runs the checks of docs/nats-recipes.md: each "sub" and "pub" line there that is said to be refused is.
func TestRecipes(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "docs", "nats-recipes.md"))
	if err != nil {
		t.Fatal(err)
	}
	hub := newHub(t, "")
	box := peertest.NewBox(t, "f1/gw1")
	hub.enrol(box)
	hub.start()
	hub.send(box, box.Record(3))
	dir := t.TempDir()
	alice, drill := filepath.Join(dir, "alice"), filepath.Join(dir, "drill")
	program(t, "operator", "add", "alice", "-o", alice, "--data", string(hub.dir))
	program(t, "box", "trial", "f1/drill", "-o", drill, "--data", string(hub.dir))
	who := map[string]string{"alice": alice, "drill": drill}
	for _, d := range who {
		hub.until("the credentials are in force", func() bool {
			nc, _, err := dial(t, d)
			if err == nil {
				nc.Close()
			}
			return err == nil
		})
	}

	refused := regexp.MustCompile(`(?m)^    nats \$\(cat (alice|drill)/flags\) (sub|pub) '?([^' ]+)'?`)
	lines := refused.FindAllStringSubmatch(string(page), -1)
	if len(lines) < 15 {
		t.Fatalf("the page has only %d such lines", len(lines))
	}
	for _, l := range lines {
		nc, said, err := dial(t, who[l[1]])
		if err != nil {
			t.Fatal(err)
		}
		if l[2] == "sub" {
			_, err = nc.SubscribeSync(l[3])
		} else {
			err = nc.Publish(l[3], []byte("x"))
		}
		if err == nil {
			err = nc.Flush()
		}
		if err != nil {
			t.Fatalf("%s: %v", l[0], err)
		}
		select {
		case err := <-said:
			if !errors.Is(err, nats.ErrPermissionViolation) {
				t.Errorf("%s: the server said %v", l[0], err)
			}
		case <-time.After(time.Minute):
			t.Errorf("%s: is allowed", l[0])
		}
		nc.Close()
	}

	nc, _, err := dial(t, alice)
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), "OBS_f1_gw1")
	if err != nil {
		t.Fatal(err)
	}
	if c := s.CachedInfo(); c.State.LastSeq != uint64(len(box.Log)) || c.Config.Discard != jetstream.DiscardNew || !c.Config.DenyDelete || !c.Config.AllowAtomicPublish || c.State.Consumers != 1 {
		t.Errorf("the operator sees %+v", c)
	}
	names := s.ConsumerNames(t.Context())
	for name := range names.Name() {
		c, err := s.Consumer(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if c.CachedInfo().NumPending != 0 {
			t.Errorf("%d messages are unprocessed", c.CachedInfo().NumPending)
		}
	}
	if names.Err() != nil {
		t.Error(names.Err())
	}

	if nc, _, err = dial(t, drill); err != nil {
		t.Fatal(err)
	}
	var answer *nats.Msg
	hub.until("the stream of the box is there", func() bool {
		answer, err = nc.Request("obs.f1.drill", []byte("no record"), time.Second)
		return err == nil
	})
	if string(answer.Data) != `{"stream":"OBS_f1_drill","seq":1}` {
		t.Errorf("the box hears %q", answer.Data)
	}
	hub.until("the message is set aside", func() bool {
		_, err := os.Stat(filepath.Join(hub.dir.Quarantine(), "f1", "drill", "seq-1.malformed.json"))
		return err == nil
	})
	program(t, "box", "revoke", "f1/drill", "--last", "0", "--data", string(hub.dir))
	hub.until("the box is cut off", nc.IsClosed)
	if _, _, err := dial(t, drill); err == nil {
		t.Error("the revoked box got in again")
	}
}
