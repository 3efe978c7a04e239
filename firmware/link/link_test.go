package link

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/vitalgate/vitalgate/firmware/spool"
)

// The whole way as in a hospital: TLS 1.3 on both sides, pinned certificate, NATS key, own account, one stream. Each record
// arrives once, in order, and verifies; live ones in batches of one.
func TestEveryRecordArrivesOnce(t *testing.T) {
	ca := newAuthority(t)
	ca.issue(t, "ward1")
	boxCert, boxKey := ca.issue(t, "box")
	peerCert, peerKey := ca.issue(t, "peer")
	b := newBedside(t, spool.Options{})
	ward := newLeafServer(t, b.nkey, ca.server(boxCert, peerCert), ca.client(peerCert, peerKey))
	cfg := b.config(Leaf{"ward1", ward.url()})
	cfg.TLS = ca.client(boxCert, boxKey)
	b.keep(2500)
	l, _ := b.publish(cfg)
	b.drained()
	for range 5 {
		b.keep(1)
		b.drained()
	}
	wantRun(t, ward.stored(&b.key.PublicKey), 0, 2505)
	st := l.Status()
	if st.Leaf != "ward1" || st.Acked != 2505 || st.Records != 2505 || st.Batches != 8 || len(st.Conditions) != 0 || st.LastAck.IsZero() {
		t.Errorf("status: %+v", st)
	}
}

// Strangers are turned away, each with a sentence that says so: a certificate that the leaf node does not know, none at all,
// the wrong NATS key; and a leaf node that the box does not know.
func TestStrangersAreTurnedAway(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	ca.issue(t, "ward1")
	boxCert, boxKey := ca.issue(t, "box")
	otherCert, otherKey := ca.issue(t, "other")
	b := newBedside(t, spool.Options{})
	ward := newLeafServer(t, b.nkey, ca.server(boxCert), ca.client(boxCert, boxKey))
	b.keep(1)
	good := b.config(Leaf{"ward1", ward.url()})
	good.TLS = ca.client(boxCert, boxKey)
	for name, change := range map[string]func(*Config) string{
		"certificate not pinned": func(c *Config) string { c.TLS = ca.client(otherCert, otherKey); return Unauthorised },
		"no certificate": func(c *Config) string {
			c.TLS = ca.client(boxCert, boxKey)
			c.TLS.Certificates = nil
			return Unauthorised
		},
		"wrong NATS key":    func(c *Config) string { k := newIdentity(t); c.NKey, c.Sign = k.public, k.Sign; return Unauthorised },
		"unknown leaf node": func(c *Config) string { c.TLS = other.client(boxCert, boxKey); return UntrustedLeaf },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			code := change(&cfg)
			l, stop := b.publish(cfg)
			defer stop()
			eventually(t, "the refusal shows", func() bool { return l.has(code) && l.has(Offline) })
			if b.spool.Acked() != 0 {
				t.Fatal("something was acknowledged")
			}
		})
	}
	_, stop := b.publish(good)
	b.drained()
	stop()
}

// A thief with the box's credentials can read nothing and write nowhere else.
func TestCredentialsOpenNothingElse(t *testing.T) {
	b := newBedside(t, spool.Options{})
	ward := newLeafServer(t, b.nkey, "", nil)
	b.keep(10)
	_, stop := b.publish(b.config(Leaf{"ward1", ward.url()}))
	b.drained()
	stop()
	denied := make(chan error, 1)
	nc, err := nats.Connect(ward.url(), nats.Nkey(b.nkey.public, b.nkey.Sign), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { denied <- err }))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	wantDenied := func(what string) {
		t.Helper()
		nc.Flush()
		select {
		case err := <-denied:
			if !strings.Contains(err.Error(), "Permissions Violation") {
				t.Errorf("%s: %v", what, err)
			}
		case <-time.After(time.Minute):
			t.Errorf("%s is allowed", what)
		}
	}
	for _, subject := range []string{">", "obs.>", "obs.f1.gw1", "obs.f1.gw2", "_ACK.>", "_ACK.gw2.>", "_INBOX.>", "_R_.>", "$JS.>", "$SYS.>", "peer.>"} {
		nc.SubscribeSync(subject)
		wantDenied("subscribing to " + subject)
	}
	nc.QueueSubscribeSync("obs.f1.gw1", "workers")
	wantDenied("subscribing as one of a group")
	for _, subject := range []string{"obs.f1.gw2", "obs.f1.gw1.x", "obs.f2.gw1", "_ACK.gw2.x", "_INBOX.x", "$JS.API.STREAM.INFO.OBS_f1_gw1", "$JS.API.STREAM.PURGE.OBS_f1_gw1",
		"$JS.API.STREAM.MSG.GET.OBS_f1_gw1", "$JS.API.DIRECT.GET.OBS_f1_gw1", "$JS.API.CONSUMER.CREATE.OBS_f1_gw1", "$JS.ACK.OBS_f1_gw1.c.1.1.1.1.0", "$SYS.REQ.USER.INFO", "peer.head.f1.gw1"} {
		nc.Publish(subject, nil)
		wantDenied("publishing to " + subject)
	}
	wantRun(t, ward.stored(&b.key.PublicKey), 0, 10)
}

// The line is cut again and again while records come, sometimes after it has swallowed the leaf node's acknowledgements,
// sometimes what the box sent. In the end each record is there once.
func TestCutLineLosesAndDoublesNothing(t *testing.T) {
	b := newBedside(t, spool.Options{})
	ward := newLeafServer(t, b.nkey, "", nil)
	line := newWire(t, ward.address)
	cfg := b.config(Leaf{"ward1", line.url(ward)})
	cfg.AckTimeout = 400 * time.Millisecond
	l, _ := b.publish(cfg)
	b.keep(1)
	b.drained()
	for round := range 12 {
		b.keep(1 + rand.IntN(200))
		eventually(t, "the box publishes", func() bool { return l.Status().Connects > uint64(round) })
		switch round % 4 {
		case 1:
			line.set(func() { line.eatDown = true })
		case 2:
			line.set(func() { line.eatUp = true })
		case 3:
			line.set(func() { line.down = true })
		}
		for range rand.IntN(5) {
			b.keep(1 + rand.IntN(200))
		}
		line.cut()
		line.set(func() { line.eatUp, line.eatDown = false, false })
		b.keep(1 + rand.IntN(50))
		line.set(func() { line.down = false })
	}
	b.drained()
	wantRun(t, ward.stored(&b.key.PublicKey), 0, b.spool.Next())
	if st := l.Status(); len(st.Conditions) != 0 || st.Refilled != 0 {
		t.Errorf("status: %+v", st)
	}
}

// A line that is dead without a word (no reset, no FIN) is noticed, without a record lost or doubled.
func TestHalfOpenLineIsNoticed(t *testing.T) {
	b := newBedside(t, spool.Options{})
	ward := newLeafServer(t, b.nkey, "", nil)
	line := newWire(t, ward.address)
	cfg := b.config(Leaf{"ward1", line.url(ward)})
	cfg.AckTimeout = 400 * time.Millisecond
	b.publish(cfg)
	b.keep(100)
	b.drained()
	line.set(func() { line.eatUp, line.eatDown = true, true })
	b.keep(3000) // more than the buffers of the line hold
	line.mu.Lock()
	before := line.accepted
	line.mu.Unlock()
	eventually(t, "the box dials anew", func() bool { line.mu.Lock(); defer line.mu.Unlock(); return line.accepted > before })
	line.cut()
	line.set(func() { line.eatUp, line.eatDown = false, false })
	b.drained()
	wantRun(t, ward.stored(&b.key.PublicKey), 0, 3100)
}

// The leaf node is killed with -9 while it stores, and comes back.
func TestKilledLeafNodeLosesAndDoublesNothing(t *testing.T) {
	b := newBedside(t, spool.Options{})
	ward := newLeafServer(t, b.nkey, "", nil)
	l, _ := b.publish(b.config(Leaf{"ward1", ward.url()}))
	b.keep(10)
	b.drained()
	for range 4 {
		for range 10 {
			b.keep(1 + rand.IntN(100))
		}
		ward.kill()
		b.keep(50)
		eventually(t, "the loss of the line shows", func() bool { return l.has(Offline) })
		ward.start()
	}
	b.drained()
	wantRun(t, ward.stored(&b.key.PublicKey), 0, b.spool.Next())
}

// The box itself stops between sending and hearing, and its cursor on disk is older than the truth.
func TestStaleCursorDoublesNothing(t *testing.T) {
	b := newBedside(t, spool.Options{})
	ward := newLeafServer(t, b.nkey, "", nil)
	cfg := b.config(Leaf{"ward1", ward.url()})
	b.keep(500)
	_, stop := b.publish(cfg)
	b.drained()
	stop()
	cur, _ := b.spool.Cursor("ward1")
	cur.Next = 123
	if err := b.spool.SetCursor("ward1", cur); err != nil {
		t.Fatal(err)
	}
	b.keep(10)
	b.publish(cfg)
	b.drained()
	wantRun(t, ward.stored(&b.key.PublicKey), 0, 510)
}

// A leaf node that lost its disk is given all again, and one that was restored from a backup what the backup lacks.
func TestNetworkThatLostDataIsGivenItAgain(t *testing.T) {
	for name, backup := range map[string]bool{"lost its disk": false, "restored from a backup": true} {
		t.Run(name, func(t *testing.T) {
			b := newBedside(t, spool.Options{})
			ward := newLeafServer(t, b.nkey, "", nil)
			l, _ := b.publish(b.config(Leaf{"ward1", ward.url()}))
			b.keep(300)
			b.drained()
			ward.kill()
			if out, err := exec.Command("cp", "-a", ward.store(), ward.store()+".backup").CombinedOutput(); err != nil {
				t.Skipf("cannot copy the store here: %s", out)
			}
			ward.start()
			b.keep(200)
			b.drained()
			ward.kill()
			if err := os.RemoveAll(ward.store()); err != nil {
				t.Fatal(err)
			}
			want := uint64(500)
			if backup {
				if err := os.Rename(ward.store()+".backup", ward.store()); err != nil {
					t.Fatal(err)
				}
				want = 200
			}
			ward.start()
			b.keep(50)
			eventually(t, "the loss is mended", func() bool { return l.Status().Refilled == want && b.spool.Acked() == 550 })
			wantRun(t, ward.stored(&b.key.PublicKey), 0, 550)
			if l.has(NetworkLostData) {
				t.Error("the condition stays after the leaf node has everything")
			}
		})
	}
}

// What the ring no longer has cannot be given again; all that it has is, under a new offset, and nothing is skipped after.
func TestRingGivesAgainWhatItHas(t *testing.T) {
	b := newBedside(t, spool.Options{Quota: 128 << 10, SegmentBytes: 8 << 10})
	ward := newLeafServer(t, b.nkey, "", nil)
	l, _ := b.publish(b.config(Leaf{"ward1", ward.url()}))
	for b.spool.First() < 200 {
		b.keep(20)
		b.drained()
	}
	ward.kill()
	if err := os.RemoveAll(ward.store()); err != nil {
		t.Fatal(err)
	}
	first := b.spool.First()
	ward.start()
	eventually(t, "the loss is noticed", func() bool { return l.Status().Refilled > 0 })
	b.drained()
	wantRun(t, ward.stored(&b.key.PublicKey), first, b.spool.Next())
	b.keep(30)
	b.drained()
	ward.kill()
	ward.start()
	b.keep(30)
	b.drained()
	wantRun(t, ward.stored(&b.key.PublicKey), first, b.spool.Next())
}

// Somebody else writes with the box's key: the box stops there, says so, and keeps its records.
func TestForeignWriterStopsPublishing(t *testing.T) {
	b := newBedside(t, spool.Options{})
	ward := newLeafServer(t, b.nkey, "", nil)
	l, _ := b.publish(b.config(Leaf{"ward1", ward.url()}))
	b.keep(100)
	b.drained()
	thief, err := nats.Connect(ward.url(), nats.Nkey(b.nkey.public, b.nkey.Sign), nats.CustomInboxPrefix("_ACK.gw1"))
	if err != nil {
		t.Fatal(err)
	}
	defer thief.Close()
	if _, err := thief.Request("obs.f1.gw1", []byte("forged"), 5*time.Second); err != nil { // one message is enough, it stands where ours should
		t.Fatal(err)
	}
	b.keep(1)
	eventually(t, "the thief shows", func() bool { return l.has(ForeignWriter) && l.has(Offline) })
	b.keep(20)
	if n := ward.length(); n != 101 {
		t.Errorf("the stream has %d messages, want 101: the box published beside the thief", n)
	}
	if b.spool.Acked() != 100 {
		t.Errorf("%d records count as acknowledged, want 100", b.spool.Acked())
	}
}

// Somebody else wrote in the box's name while it ran. That is not forgotten by a restart, nor when the box has come to have
// more records than the stream.
func TestForeignWriterIsNotForgotten(t *testing.T) {
	b := newBedside(t, spool.Options{})
	ward := newLeafServer(t, b.nkey, "", nil)
	cfg := b.config(Leaf{"ward1", ward.url()})
	l, stop := b.publish(cfg)
	b.keep(10)
	b.drained()
	thief, err := nats.Connect(ward.url(), nats.Nkey(b.nkey.public, b.nkey.Sign), nats.CustomInboxPrefix("_ACK.gw1"))
	if err != nil {
		t.Fatal(err)
	}
	defer thief.Close()
	if _, err := thief.Request("obs.f1.gw1", []byte("forged"), 5*time.Second); err != nil {
		t.Fatal(err)
	}
	b.keep(1)
	eventually(t, "the thief shows", func() bool { return l.has(ForeignWriter) })
	b.keep(40)
	stop()
	b.spool.Close()
	b.open(spool.Options{})
	l, _ = b.publish(cfg)
	eventually(t, "the thief still shows", func() bool { return l.has(ForeignWriter) && l.has(Offline) })
	if n := ward.length(); n != 11 || b.spool.Acked() != 10 {
		t.Errorf("the stream has %d messages and %d records count as acknowledged: the box published beside the thief", n, b.spool.Acked())
	}
}

// setBack is the box after its disk was set back to files that were saved before, and started again.
func (b *bedside) setBack(saved string) {
	b.t.Helper()
	b.spool.Close()
	if err := os.RemoveAll(b.dir); err != nil {
		b.t.Fatal(err)
	}
	if err := os.CopyFS(b.dir, os.DirFS(saved)); err != nil {
		b.t.Fatal(err)
	}
	b.open(spool.Options{})
}

// save copies the disk of the box as it is now.
func (b *bedside) save() (saved string) {
	b.t.Helper()
	saved = b.t.TempDir()
	if err := os.CopyFS(saved, os.DirFS(b.dir)); err != nil {
		b.t.Fatal(err)
	}
	return saved
}

// The box's disk is set back to before what it has published, in whole or in part. Whatever the box does then, it says so,
// keeps what it is given, and publishes no second history to any leaf node, however often it is started and however much it
// has recorded meanwhile.
func TestLogThatWasSetBackIsNotPublishedOn(t *testing.T) {
	for name, spoil := range map[string]struct {
		saveAfter int                    // records, of 100
		change    func(*bedside, string) // of the files that are put back
		offline   bool                   // it is not on the network at its first start after that
	}{
		"all of the disk":                                   {saveAfter: 50},
		"all of the disk, and first no network":             {saveAfter: 50, offline: true},
		"the log alone":                                     {saveAfter: 50, change: keepCursors},
		"the log alone, and first no network":               {saveAfter: 50, change: keepCursors, offline: true},
		"to before the leaf node was met":                   {saveAfter: 0},
		"to before the leaf node was met, first no network": {saveAfter: 0, offline: true},
		"to nothing":                                        {saveAfter: 0, change: func(_ *bedside, saved string) { os.RemoveAll(saved); os.Mkdir(saved, 0o700) }},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBedside(t, spool.Options{})
			one, two := newLeafServer(t, b.nkey, "", nil), newLeafServer(t, b.nkey, "", nil)
			leaves := []Leaf{{"ward1", one.url()}, {"ward2", two.url()}}
			b.keep(5)
			saved := ""
			if spoil.saveAfter == 0 {
				if _, err := New(b.config(leaves...), b.spool, nil); err != nil { // it has been started, with no network
					t.Fatal(err)
				}
				saved = b.save()
			}
			l, stop := b.publish(b.config(leaves...))
			b.keep(45)
			b.drained()
			if saved == "" {
				saved = b.save()
			}
			b.keep(50)
			b.drained()
			stop()
			if spoil.change != nil {
				spoil.change(b, saved)
			}
			b.setBack(saved)
			nowhere := []Leaf{{"ward1", "nats://127.0.0.1:1"}, {"ward2", "nats://127.0.0.1:1"}}
			if spoil.offline {
				l, stop = b.publish(b.config(nowhere...))
				b.keep(200)
				eventually(t, "something shows", func() bool { return l.has(Offline) || l.has(LogRolledBack) })
				stop()
				b.spool.Close()
				b.open(spool.Options{})
			}
			for range 2 {
				l, stop = b.publish(b.config(leaves...))
				eventually(t, "that the log was set back shows", func() bool { return l.has(LogRolledBack) })
				b.keep(60)
				if st := l.Status(); len(st.Conditions) != 1 || !strings.Contains(st.State, "enrol it anew") {
					t.Errorf("status: %+v", st)
				}
				stop()
				b.spool.Close()
				b.open(spool.Options{})
			}
			if one.length() != 100 || two.length() != 0 {
				t.Errorf("the streams have %d and %d records, want 100 and 0: a second history was published", one.length(), two.length())
			}
		})
	}
}

// keepCursors puts the newest cursors beside an older log.
func keepCursors(b *bedside, saved string) {
	b.t.Helper()
	b.spool.Close() // writes them
	if err := os.RemoveAll(filepath.Join(saved, "cursors")); err != nil {
		b.t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(saved, "cursors"), os.DirFS(filepath.Join(b.dir, "cursors"))); err != nil {
		b.t.Fatal(err)
	}
}

// Records that are not published yet are damaged on the box's disk. All before and all after them is published, once, each with its
// proof; the box says which are missing, and that its own disk is at fault, not the network.
func TestDamagedRecordsAreLeftOutAndNamed(t *testing.T) {
	b := newBedside(t, spool.Options{SegmentBytes: 4 << 10})
	ward := newLeafServer(t, b.nkey, "", nil)
	for range 60 {
		b.keep(1)
	}
	segments, err := filepath.Glob(filepath.Join(b.dir, "*.log"))
	if err != nil || len(segments) < 3 {
		t.Fatalf("%d segments: %v", len(segments), err)
	}
	bent, err := os.ReadFile(segments[1])
	if err != nil {
		t.Fatal(err)
	}
	bent[len(bent)/2] ^= 1
	if err := os.WriteFile(segments[1], bent, 0o600); err != nil {
		t.Fatal(err)
	}
	l, stop := b.publish(b.config(Leaf{"ward1", ward.url()}))
	b.drained()
	if !l.has(LogDamaged) || l.has(Offline) {
		t.Fatalf("conditions: %+v", l.Status().Conditions)
	}
	var from, to, n uint64
	for _, c := range l.Status().Conditions {
		if c.Code == LogDamaged {
			if _, err := fmt.Sscanf(c.Sentence, "%d records on this box's disk are damaged, %d to %d", &n, &from, &to); err != nil || n != to+1-from || n > 5 ||
				!strings.Contains(c.Sentence, filepath.Base(segments[1])) || !strings.Contains(c.Remedy, "fsck") {
				t.Fatalf("%v: %+v", err, c)
			}
		}
	}
	missing := func(next uint64) (want []uint64) {
		for i := range next {
			if i < from || i > to {
				want = append(want, i)
			}
		}
		return want
	}
	if got := ward.stored(&b.key.PublicKey); !slices.Equal(got, missing(60)) {
		t.Fatalf("stored %v, missing %d to %d", got, from, to)
	}
	// It goes on, over a restart too, and nothing comes twice.
	b.keep(5)
	b.drained()
	stop()
	b.publish(b.config(Leaf{"ward1", ward.url()}))
	b.keep(5)
	b.drained()
	if got := ward.stored(&b.key.PublicKey); !slices.Equal(got, missing(70)) {
		t.Fatalf("stored %v, missing %d to %d", got, from, to)
	}
}

// A cursor whose file is damaged is no sign of a log that was set back: the leaf node is given again what the box has.
func TestDamagedCursorIsNoRollback(t *testing.T) {
	b := newBedside(t, spool.Options{})
	ward := newLeafServer(t, b.nkey, "", nil)
	cfg := b.config(Leaf{"ward1", ward.url()})
	_, stop := b.publish(cfg)
	b.keep(50)
	b.drained()
	stop()
	b.spool.Close()
	if err := os.WriteFile(filepath.Join(b.dir, "cursors", "ward1.cursor"), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.open(spool.Options{})
	l, _ := b.publish(cfg)
	b.keep(10)
	b.drained()
	if n := ward.length(); n != 110 || len(l.Status().Conditions) != 0 {
		t.Errorf("the stream has %d records, want the 50 of before and all 60 again: %+v", n, l.Status())
	}
}

// A leaf node without a stream for the box answers at once that nobody is there. That is no acknowledgement.
func TestNoStreamIsNotStored(t *testing.T) {
	b := newBedside(t, spool.Options{})
	ward := newLeafServer(t, b.nkey, "", nil)
	ward.kill()
	os.RemoveAll(ward.store())
	ward.startWithoutStream()
	b.keep(10)
	l, _ := b.publish(b.config(Leaf{"ward1", ward.url()}))
	eventually(t, "the missing stream shows", func() bool { return l.has(Offline) && strings.Contains(l.Status().State, "no stream for this box") })
	if b.spool.Acked() != 0 {
		t.Fatal("records count as acknowledged that nobody has")
	}
	ward.kill()
	ward.start()
	b.drained()
	wantRun(t, ward.stored(&b.key.PublicKey), 0, 10)
}

// The first leaf node goes, the second takes over where the first ended, and the first is used again when it is back. Between
// them they have everything.
func TestFailOverAndReturn(t *testing.T) {
	b := newBedside(t, spool.Options{})
	one, two := newLeafServer(t, b.nkey, "", nil), newLeafServer(t, b.nkey, "", nil)
	line := newWire(t, one.address)
	l, _ := b.publish(b.config(Leaf{"ward1", line.url(one)}, Leaf{"ward2", two.url()}))
	b.keep(100)
	b.drained()
	line.set(func() { line.down = true })
	line.cut()
	b.keep(50)
	b.drained()
	if st := l.Status(); st.Leaf != "ward2" {
		t.Fatalf("status: %+v", st)
	}
	wantRun(t, two.stored(&b.key.PublicKey), 100, 150)
	line.set(func() { line.down = false })
	eventually(t, "the first leaf node is used again", func() bool { return l.Status().Leaf == "ward1" })
	b.keep(25)
	b.drained()
	wantRun(t, one.stored(&b.key.PublicKey)[100:], 150, 175)

	// The second one lost everything meanwhile: it gets again what it had, and so on to the newest.
	two.kill()
	os.RemoveAll(two.store())
	two.start()
	line.set(func() { line.down = true })
	line.cut()
	b.keep(5)
	eventually(t, "the second leaf node has everything", func() bool { return b.spool.Acked() == 180 && two.length() == 80 })
	wantRun(t, two.stored(&b.key.PublicKey), 100, 180)
}

// A batch that the network held back arrives after the box has given it up, gone elsewhere and come back. It is stored, and
// nothing that comes after is taken for stored because of it.
func TestBatchThatArrivesLateHidesNothing(t *testing.T) {
	b := newBedside(t, spool.Options{})
	one, two := newLeafServer(t, b.nkey, "", nil), newLeafServer(t, b.nkey, "", nil)
	line := newWire(t, one.address)
	l, _ := b.publish(b.config(Leaf{"ward1", line.url(one)}, Leaf{"ward2", two.url()}))
	b.keep(100)
	b.drained()
	line.set(func() { line.hold = true })
	b.keep(50)
	eventually(t, "the whole batch is held", func() bool {
		line.mu.Lock()
		defer line.mu.Unlock()
		return bytes.Contains(line.held, []byte(hdrCommit)) && bytes.HasSuffix(line.held, []byte("\r\n"))
	})
	line.set(func() { line.down, line.hold = true, false })
	line.cut()
	b.drained()
	if st := l.Status(); st.Leaf != "ward2" {
		t.Fatalf("status: %+v", st)
	}
	b.keep(100)
	b.drained()
	line.set(func() { line.down = false })
	eventually(t, "the first leaf node is used again", func() bool { return l.Status().Leaf == "ward1" })
	line.release()
	eventually(t, "the late batch is stored", func() bool { return one.length() == 150 })
	b.keep(70)
	b.drained()
	if l.has(ForeignWriter) {
		t.Error("the box took itself for a thief")
	}
	stored := one.stored(&b.key.PublicKey)
	wantRun(t, stored[:150], 0, 150)
	wantRun(t, stored[150:], 250, 320)
	wantRun(t, two.stored(&b.key.PublicKey), 100, 250)
}

// A new leaf node also gets the newest of what the last one acknowledged, which may have died with it.
func TestOverlapAtAChangeOfLeafNode(t *testing.T) {
	b := newBedside(t, spool.Options{})
	one, two := newLeafServer(t, b.nkey, "", nil), newLeafServer(t, b.nkey, "", nil)
	cfg := b.config(Leaf{"ward1", one.url()}, Leaf{"ward2", two.url()})
	cfg.Overlap = 30
	b.publish(cfg)
	b.keep(100)
	b.drained()
	one.kill()
	b.keep(10)
	b.drained()
	wantRun(t, two.stored(&b.key.PublicKey), 70, 110)
}

// A leaf node is gone for good with what it alone had. On request the next one is given all that the box still has, and what
// comes after it once.
func TestNextLeafNodeIsGivenWhatADeadOneHad(t *testing.T) {
	b := newBedside(t, spool.Options{})
	one, two := newLeafServer(t, b.nkey, "", nil), newLeafServer(t, b.nkey, "", nil)
	cfg := b.config(Leaf{"ward1", one.url()}, Leaf{"ward2", two.url()})
	_, stop := b.publish(cfg)
	b.keep(100)
	b.drained()
	one.kill()
	b.keep(10)
	b.drained()
	stop()
	if err := b.spool.Refill("ward2"); err != nil {
		t.Fatal(err)
	}
	l, _ := b.publish(cfg)
	b.keep(5)
	eventually(t, "the second leaf node has everything", func() bool { return two.length() == 125 })
	stored := two.stored(&b.key.PublicKey)
	wantRun(t, stored[:10], 100, 110)
	wantRun(t, stored[10:], 0, 115)
	if l.has(ForeignWriter) || l.has(LogRolledBack) {
		t.Errorf("status: %+v", l.Status())
	}
}

// A line that cannot carry a full batch in time gets smaller ones, and so progress.
func TestSlowLineGetsSmallerBatches(t *testing.T) {
	b := newBedside(t, spool.Options{})
	ward := newLeafServer(t, b.nkey, "", nil)
	leaf := &leafNode{Leaf: Leaf{"ward1", ward.url()}, records: 1000, timeout: time.Millisecond}
	l, err := New(b.config(leaf.Leaf), b.spool, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.keep(1500)
	// No leaf node stores a thousand records on disk within a millisecond: the first batches are not heard of in time.
	l.leaves[0] = leaf
	l.cfg.AckTimeout = time.Millisecond
	for b.spool.Acked() < 1500 {
		s, err := l.dial(t.Context(), t.Context(), leaf)
		if err != nil {
			leaf.timeout *= 2 // even the question at the beginning took longer
			continue
		}
		stop := time.AfterFunc(300*time.Millisecond, func() { s.end(nil) })
		s.run(t.Context())
		stop.Stop()
		s.close()
	}
	wantRun(t, ward.stored(&b.key.PublicKey), 0, 1500)
}

// A leaf node that answers, but stores a batch later than it was waited for, first gets more time and no smaller batches, which would
// cost it as many syncs each; what is behind a line that is dead or slow gets smaller ones.
func TestABusyLeafNodeGetsMoreTime(t *testing.T) {
	const usual = time.Second
	for _, c := range []struct {
		why     error
		times   int
		records int
		timeout time.Duration
	}{
		{errSilent, 1, 1000, 2 * usual},
		{errSilent, 2, 1000, 4 * usual},
		{errSilent, 3, 500, 4 * usual},
		{errSilent, 11, 1, 4 * usual},
		{errDead, 1, 500, usual},
		{errDead, 9, 1, usual},
		{errDead, 11, 1, 4 * usual},
		{errDead, 30, 1, time.Minute},
	} {
		leaf := &leafNode{records: 1000, timeout: usual}
		for range c.times {
			leaf.unheard(c.why, leaf.records, usual)
		}
		if leaf.records != c.records || leaf.timeout != c.timeout || leaf.calm == 0 {
			t.Errorf("after %d times that %v: batches of %d, waited for %v", c.times, c.why, leaf.records, leaf.timeout)
		}
	}
}

// A handshake that takes longer than it was given gets more time.
func TestASlowHandshakeGetsMoreTime(t *testing.T) {
	b := newBedside(t, spool.Options{})
	ward := newLeafServer(t, b.nkey, "", nil)
	leaf := &leafNode{Leaf: Leaf{"ward1", ward.url()}, timeout: time.Minute, patience: time.Microsecond}
	l, err := New(b.config(leaf.Leaf), b.spool, nil)
	if err != nil {
		t.Fatal(err)
	}
	const most = 40 // in which a microsecond would have become a week
	for tries := 1; ; tries++ {
		s, err := l.dial(t.Context(), t.Context(), leaf)
		if err == nil {
			s.close()
			break
		}
		if tries == most {
			t.Fatalf("after %d times, the last with a patience of %v: %v", tries, leaf.patience, err)
		}
	}
	if leaf.patience != dialTimeout {
		t.Errorf("after a handshake that was quick enough the patience is %v", leaf.patience)
	}
}

// Two leaf nodes, and whatever can happen to them and the lines to them, in any order: in the end the two together have every
// record, and neither has a gap that the other does not fill.
func TestChaosLosesNothing(t *testing.T) {
	b := newBedside(t, spool.Options{})
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 0))
	var leaves []Leaf
	var wards []*leafServer
	var lines []*wire
	for i := range 2 {
		ward := newLeafServer(t, b.nkey, "", nil)
		line := newWire(t, ward.address)
		wards, lines, leaves = append(wards, ward), append(lines, line), append(leaves, Leaf{[]string{"ward1", "ward2"}[i], line.url(ward)})
	}
	cfg := b.config(leaves...)
	cfg.AckTimeout = 200 * time.Millisecond
	l, stop := b.publish(cfg)
	for range 40 {
		b.keep(1 + dice.IntN(150))
		i := dice.IntN(2)
		ward, line := wards[i], lines[i]
		switch dice.IntN(9) {
		case 0:
			line.cut()
		case 1:
			line.set(func() { line.eatDown = true })
		case 2:
			line.set(func() { line.eatUp = true })
		case 3:
			line.set(func() { line.down = true })
			line.cut()
		case 4:
			ward.kill()
			ward.start()
		case 5:
			ward.kill()
			if err := os.RemoveAll(ward.store()); err != nil {
				t.Fatal(err)
			}
			ward.start()
		case 6:
			stop()
			l, stop = b.publish(cfg)
		default:
			line.set(func() { line.down, line.eatUp, line.eatDown = false, false, false })
			eventually(t, "the box publishes", func() bool { return l.Status().Leaf != "" })
		}
	}
	for i := range lines {
		lines[i].cut()
		lines[i].set(func() { lines[i].down, lines[i].eatUp, lines[i].eatDown = false, false, false })
	}
	stop()
	have := map[uint64]bool{}
	for i, ward := range wards {
		l, stop := b.publish(b.config(leaves[i]))
		b.keep(1)
		eventually(t, "the leaf node has the newest", func() bool {
			cur, ok := b.spool.Cursor(leaves[i].Name)
			return ok && cur.Next == b.spool.Signed()
		})
		stop()
		if l.has(ForeignWriter) {
			t.Error("the box took itself for a thief")
		}
		for _, index := range ward.stored(&b.key.PublicKey) {
			have[index] = true
		}
	}
	for index := range b.spool.Next() {
		if !have[index] {
			t.Fatalf("record %d of %d is at no leaf node", index, b.spool.Next())
		}
	}
}

// Whatever a leaf node answers, the box takes only JetStream's own word for stored.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"stream":"OBS_f1_gw1","seq":1001,"batch":"x","count":1000}`))
	f.Add([]byte(`{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 1004"},"stream":"OBS_f1_gw1","seq":0}`))
	f.Add([]byte(`{"error":{"code":400,"err_code":10176,"description":""}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &session{leaf: &leafNode{}}
		a, err := s.parse(b)
		if err == nil && a.Error != nil {
			if _, err := s.refused(a); err == nil {
				t.Fatal("an error is taken for an acknowledgement")
			}
		}
	})
}

func TestConfigSaysWhatIsWrong(t *testing.T) {
	b := newBedside(t, spool.Options{})
	ok := Leaf{"ward1", "nats://127.0.0.1:4222"}
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"no leaf node":  {func(c *Config) { c.Leaves = nil }, "no leaf node is given"},
		"no box":        {func(c *Config) { c.Box.Name = "" }, "not a box id"},
		"batch":         {func(c *Config) { c.BatchRecords = 1001 }, "give 1 to 1000"},
		"address":       {func(c *Config) { c.Leaves = []Leaf{{"ward1", "ward1:4222"}} }, "tls://host:port"},
		"TLS":           {func(c *Config) { c.Leaves = []Leaf{{"ward1", "tls://ward1:4222"}} }, "no TLS configuration"},
		"name":          {func(c *Config) { c.Leaves = []Leaf{{"../ward1", ok.URL}} }, "as the name of a leaf node"},
		"two of a name": {func(c *Config) { c.Leaves = []Leaf{ok, ok} }, "two leaf nodes have the name"},
	} {
		cfg := b.config(ok)
		c.change(&cfg)
		if _, err := New(cfg, b.spool, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The wire form that is published is the record's own, nothing added: the box's link carries it, it does not interpret it.
func TestPublishesTheBytesOfTheRecord(t *testing.T) {
	b := newBedside(t, spool.Options{})
	ward := newLeafServer(t, b.nkey, "", nil)
	b.keep(3)
	b.publish(b.config(Leaf{"ward1", ward.url()}))
	b.drained()
	r := b.spool.Reader(0)
	defer r.Close()
	records, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	got := ward.messages()
	if len(got) != 3 {
		t.Fatalf("%d messages, want 3", len(got))
	}
	for i, p := range records {
		want, err := p.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(want, got[i]) {
			t.Errorf("record %d is published in another form", i)
		}
	}
}

// BenchmarkPublish drains a backlog into a leaf node whose JetStream syncs always, by batch size.
func BenchmarkPublish(b *testing.B) {
	for _, batch := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			side := newBedside(b, spool.Options{Quota: 1 << 40})
			ward := newLeafServer(b, side.nkey, "", nil)
			side.body = make([]byte, 1200)
			for kept := 0; kept < b.N; kept += 1000 {
				side.keep(min(1000, b.N-kept))
			}
			cfg := side.config(Leaf{"ward1", ward.url()})
			cfg.BatchRecords, cfg.AckTimeout = batch, time.Minute
			b.ResetTimer()
			l, stop := side.publish(cfg)
			side.drained()
			b.StopTimer()
			stop()
			st := l.Status()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(float64(st.Records)/float64(st.Batches), "records/batch")
		})
	}
}
