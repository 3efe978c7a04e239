package ingest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/vitalgate/vitalgate/hwtest/hospital"
	"github.com/vitalgate/vitalgate/peer/facility"
	"github.com/vitalgate/vitalgate/peer/node"
	"github.com/vitalgate/vitalgate/peer/peertest"
	"github.com/vitalgate/vitalgate/peer/store"
	"github.com/vitalgate/vitalgate/record"
)

// ward is a peer that takes the records of one box: its node, its store and the work between them, which a test starts and
// stops.
type ward struct {
	t     testing.TB
	box   *peertest.Box
	nc    *nats.Conn // of the box
	js    jetstream.JetStream
	store *store.Store
	work  *Ingest
	end   func() // stops the work
}

func newWard(t testing.TB, streamMiB int64) *ward {
	t.Helper()
	dir := t.TempDir()
	d := facility.Dir(filepath.Join(dir, "peer"))
	c := facility.Config{Facility: "f1", Name: "hub"}
	c.Boxes.Listen, c.Peers.Listen = "127.0.0.1:0", hospital.FreeAddr()
	if err := facility.Init(d, c, nil); err != nil {
		t.Fatal(err)
	}
	conf, err := d.Load()
	if err != nil {
		t.Fatal(err)
	}
	w := &ward{t: t, box: peertest.NewBox(t, "f1/gw1")}
	r, g, err := facility.Enrol(d, conf, w.box.Request(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Enact(r); err != nil {
		t.Fatal(err)
	}
	w.box.Granted(g)
	s, err := d.Registry().Load()
	if err != nil {
		t.Fatal(err)
	}
	conf.Boxes.StreamMiB = streamMiB
	nc, err := node.FromFacility(d, conf)
	if err != nil {
		t.Fatal(err)
	}
	n, err := node.Start(nc, node.FromRegistry(s), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Stop)
	in, err := n.Ingest()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(in.Close)
	if w.js, err = jetstream.New(in); err != nil {
		t.Fatal(err)
	}
	w.store = store.New(store.Options{Dir: d.Store(), Quarantine: d.Quarantine(), Evidence: d.Evidence()})
	t.Cleanup(func() { w.store.Close() })
	b, err := w.store.Box(s.Box(w.box.ID))
	if err != nil {
		t.Fatal(err)
	}
	w.work = &Ingest{Box: b, Dir: d.Cursors(), Log: slog.New(slog.DiscardHandler),
		Stream: func(ctx context.Context) (jetstream.Stream, error) { return n.Stream(ctx, w.js, b.ID) }}
	if _, err := w.work.Stream(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.nc = w.box.Connect("tls://" + n.BoxAddress().String())
	return w
}

func (w *ward) start() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		w.work.Run(ctx)
		close(done)
	}()
	w.end = func() { cancel(); <-done }
	w.t.Cleanup(w.end)
}

func (w *ward) until(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	w.t.Fatalf("never came true: %s", what)
}

// send publishes as a box does: again, until the stream has room.
func (w *ward) send(records []record.Published) {
	w.t.Helper()
	w.until("the box is not refused any more", func() bool {
		err := w.box.TryPublish(w.nc, records)
		var no *peertest.Refusal
		if err != nil && !errors.As(err, &no) {
			w.t.Fatal(err)
		}
		return err == nil
	})
}

func (w *ward) state() jetstream.StreamState {
	w.t.Helper()
	s, err := w.js.Stream(w.t.Context(), node.StreamName(w.box.ID))
	if err != nil {
		w.t.Fatal(err)
	}
	return s.CachedInfo().State
}

// stored checks that the store holds just what the box has signed.
func (w *ward) stored() {
	w.t.Helper()
	w.until("all is stored", func() bool { return w.work.Box.Size() == uint64(len(w.box.Log)) })
	r := w.work.Box.Reader(0)
	defer r.Close()
	for i := 0; i < len(w.box.Log); {
		group, err := r.Next()
		if err != nil {
			w.t.Fatal(err)
		}
		for _, p := range group {
			if p.Index != uint64(i) || !bytes.Equal(p.Leaf, w.box.Log[i].Leaf) {
				w.t.Fatalf("record %d is another one", i)
			}
			i++
		}
	}
}

// The records of a box are not taken in for a while, and it sends more than its stream holds: it is told so and keeps them,
// nothing that it was told is stored is lost, and when the work goes on all of it arrives, however much that is.
func TestNothingAcknowledgedIsLostWhileRecordsAreNotTakenIn(t *testing.T) {
	w := newWard(t, 1)
	var wait []record.Published // in the box
	acknowledged := uint64(0)
	for n := 0; wait == nil; n++ {
		if n == 100 {
			t.Fatal("the box is never refused")
		}
		batch := w.box.Record(100)
		err := w.box.TryPublish(w.nc, batch)
		var no *peertest.Refusal
		switch {
		case errors.As(err, &no):
			wait = batch
		case err != nil:
			t.Fatal(err)
		default:
			acknowledged += uint64(len(batch))
		}
	}
	if s := w.state(); s.FirstSeq != 1 || s.LastSeq != acknowledged {
		t.Fatalf("%d records are acknowledged, the stream holds %d to %d", acknowledged, s.FirstSeq, s.LastSeq)
	}
	w.start()
	for range 20 { // several times what the stream holds
		w.send(wait)
		wait = w.box.Record(100)
	}
	w.send(wait)
	w.stored()
	s := w.state()
	if s.FirstSeq == 1 {
		t.Error("the stream was never freed of what is stored")
	}
	if s.LastSeq != uint64(len(w.box.Log)) {
		t.Errorf("the stream counts %d messages, the box has sent %d", s.LastSeq, len(w.box.Log))
	}
}

// What lies beyond a gap waits in the stream: it is not removed to make room, however full the stream is.
func TestRecordsBeyondAGapStayInTheStream(t *testing.T) {
	w := newWard(t, 1)
	w.start()
	first := w.box.Record(100)
	w.box.Publish(w.nc, first)
	w.stored()
	missing := w.box.Record(50) // went to another leaf node
	for n := 0; ; n++ {
		if n == 100 {
			t.Fatal("the box is never refused")
		}
		var no *peertest.Refusal
		if err := w.box.TryPublish(w.nc, w.box.Record(100)); errors.As(err, &no) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if s := w.state(); s.FirstSeq > uint64(len(first)) || w.work.Box.Size() != uint64(len(first)) {
		t.Fatalf("the stream begins at %d with %d stored; %d were stored before the gap", s.FirstSeq, w.work.Box.Size(), len(first))
	}
	want := Gap{From: uint64(len(first)), To: uint64(len(first) + len(missing))}
	w.until("the gap is named, and that the work stands", func() bool {
		s := w.work.State()
		return s.Gap != nil && s.Gap.From == want.From && s.Gap.To == want.To && !s.Gap.Since.IsZero() && !s.Behind.IsZero() && s.Last > s.Cursor
	})
	messages := make([]store.Message, len(missing))
	for i, p := range missing {
		data, err := p.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		messages[i].Data = data
	}
	if _, err := w.work.Box.Add("peer ward2", messages); err != nil {
		t.Fatal(err)
	}
	refused := uint64(len(w.box.Log)) // the last batch, in the box
	w.until("all that was acknowledged is stored", func() bool { return w.work.Box.Size() >= refused-101 })
	w.send(w.box.Log[w.work.Box.Size():])
	w.stored()
	w.until("it is said that nothing is missing", func() bool {
		s := w.work.State()
		return s.Gap == nil && s.Behind.IsZero() && s.Err == nil
	})
}

// Messages that the server has sent and that did not come through, as when a request is given up on a slow machine, are not taken for
// records that the box never sent: they are read again.
func TestMessagesThatDidNotComeThroughAreReadAgain(t *testing.T) {
	w := newWard(t, 16)
	w.box.Publish(w.nc, w.box.Record(20))
	s, err := w.work.Stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.CreateConsumer(t.Context(), jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true})
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Fetch(len(w.box.Log), jetstream.FetchMaxWait(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	var group []jetstream.Msg
	for m := range got.Messages() {
		group = append(group, m)
	}
	if len(group) != len(w.box.Log) {
		t.Fatalf("%d of %d messages came", len(group), len(w.box.Log))
	}
	if err := w.work.take(t.Context(), s, append(group[:5:5], group[8:]...), &position{}); err != errRewind {
		t.Fatalf("that messages are missing ends in %v", err)
	}
	w.start()
	w.stored()
	if s := w.work.State(); s.Gap != nil {
		t.Errorf("a gap is seen: %+v", s.Gap)
	}
}

// The cursor is believed only of the stream that it was kept of: a stream that was lost and begun anew has other messages
// at the same place, and is read from its beginning.
func TestCursorOfAnotherStreamIsNotBelieved(t *testing.T) {
	w := newWard(t, 16)
	w.start()
	w.box.Publish(w.nc, w.box.Record(20))
	w.stored()
	w.until("the cursor is kept", func() bool {
		var c cursor
		b, err := os.ReadFile(w.work.path())
		return err == nil && json.Unmarshal(b, &c) == nil && c.Sequence == uint64(len(w.box.Log))
	})
	w.end()
	if err := w.js.DeleteStream(t.Context(), node.StreamName(w.box.ID)); err != nil {
		t.Fatal(err)
	}
	// The server may still be taking the old stream's folder away when the new one is made; the ward asks again, as it does here.
	w.until("the stream is made anew", func() bool {
		_, err := w.work.Stream(t.Context())
		return err == nil
	})
	w.box.Publish(w.nc, w.box.Record(2*len(w.box.Log))) // the place of the cursor lies in the middle of them
	s, err := w.work.Stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if c, err := w.work.start(t.Context(), s); err != nil || c.Sequence != 0 {
		t.Errorf("the cursor at %d of the lost stream is believed (%v)", c.Sequence, err)
	}
	w.start()
	w.stored()

	// The same stream is not read twice.
	w.until("the cursor is kept", func() bool {
		c, err := w.work.start(t.Context(), s)
		return err == nil && c.Sequence == w.state().LastSeq
	})
	m, err := s.GetMsg(t.Context(), w.state().LastSeq)
	if err != nil {
		t.Fatal(err)
	}
	if c, _ := w.work.start(t.Context(), s); c.Digest != sha256.Sum256(m.Data) {
		t.Error("the cursor's digest is not that of its message")
	}
}

// BenchmarkTakeIn takes a backlog that stands in the stream into the store: read, verified and on the disk.
func BenchmarkTakeIn(b *testing.B) {
	const batches, records = 8, 1000
	w := newWard(b, 256)
	for b.Loop() {
		b.StopTimer()
		for range batches {
			w.box.Publish(w.nc, w.box.Record(records))
		}
		ctx, cancel := context.WithCancel(b.Context())
		done := make(chan struct{})
		b.StartTimer()
		go func() { w.work.Run(ctx); close(done) }()
		for w.work.Box.Size() < uint64(len(w.box.Log)) {
			<-w.work.Box.Grown()
		}
		b.StopTimer()
		cancel()
		<-done
		b.StartTimer()
	}
	b.ReportMetric(float64(batches*records*b.N)/b.Elapsed().Seconds(), "records/s")
}
