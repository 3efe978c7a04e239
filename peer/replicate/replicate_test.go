package replicate

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/vitalgate/vitalgate/record"
)

// A peer that was asked cannot guess where the answers to the next request come in: no part of one inbox stands in another.
func TestAnswersComeWhereNobodyCanGuess(t *testing.T) {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	defer s.Shutdown()
	if !s.ReadyForConnections(time.Minute) {
		t.Fatal("the server does not start")
	}
	nc, err := nats.Connect(s.ClientURL(), nats.CustomInboxPrefix("_PEER.hub"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	replies := make(chan string, 2)
	_, err = nc.Subscribe("peer.ask.ward.>", func(m *nats.Msg) {
		replies <- m.Reply
		end := nats.NewMsg(m.Reply)
		end.Header.Set(endHeader, "0")
		nc.PublishMsg(end)
	})
	if err != nil {
		t.Fatal(err)
	}
	r := &Replicator{Name: "hub", Conn: nc}
	for range 2 {
		if err := r.ask(t.Context(), record.BoxID{Facility: "f1", Name: "gw1"}, "ward", 0, 1, func([]byte) bool { return true }); err != nil {
			t.Fatal(err)
		}
	}
	const known = len("_PEER.hub.")
	a, b := <-replies, <-replies
	same := 0
	for i := known; i < min(len(a), len(b)); i++ {
		if a[i] == b[i] {
			same++
		}
	}
	if a[:known] != "_PEER.hub." || b[:known] != "_PEER.hub." || len(a) < known+26 || same > 12 {
		t.Errorf("the answers to two requests come to %s and %s", a, b)
	}
}
