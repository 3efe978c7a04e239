package pipeline_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/fhir/mapping"
	"github.com/vitalgate/vitalgate/firmware/health"
	"github.com/vitalgate/vitalgate/firmware/pipeline"
	"github.com/vitalgate/vitalgate/firmware/spool"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/tpm"
)

// bedside is an adapter that a test speaks through.
type bedside struct {
	name string
	in   chan *adapters.Frame
	faults
}

func newBedside(name string) *bedside {
	return &bedside{name: name, in: make(chan *adapters.Frame), faults: faults{fault: make(chan func())}}
}

func (b *bedside) Run(ctx context.Context, out chan<- *adapters.Frame) error {
	for {
		if err := b.err(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case fail := <-b.fault:
			fail()
		case f := <-b.in:
			select {
			case out <- f:
			case <-ctx.Done():
				return nil
			}
		}
	}
}

func (b *bedside) Status() adapters.Status { return adapters.Status{Monitor: b.name} }

// send gives the box one message and returns the channel of its answer.
func (b *bedside) send(t testing.TB, message string, notes ...string) <-chan []byte {
	t.Helper()
	return b.over(t, 1, message, notes...)
}

// over sends over one of several connections.
func (b *bedside) over(t testing.TB, line uint64, message string, notes ...string) <-chan []byte {
	t.Helper()
	return b.hand(t, line, time.Now(), message, notes)
}

// at sends with a time of arrival.
func (b *bedside) at(t testing.TB, arrived time.Time, message string) <-chan []byte {
	t.Helper()
	return b.hand(t, 1, arrived, message, nil)
}

func (b *bedside) hand(t testing.TB, line uint64, arrived time.Time, message string, notes []string) <-chan []byte {
	t.Helper()
	answer := make(chan []byte, 1)
	f := adapters.NewFrame(b.name, "test", []byte(message), arrived, notes, func(acks ...[]byte) error {
		answer <- bytes.Join(acks, []byte("\n"))
		return nil
	})
	f.Line = line
	select {
	case b.in <- f:
	case <-time.After(time.Minute):
		t.Fatal("the box does not read")
	}
	return answer
}

func wait(t testing.TB, answer <-chan []byte) string {
	t.Helper()
	select {
	case a := <-answer:
		return string(a)
	case <-time.After(time.Minute):
		t.Fatal("no answer")
		return ""
	}
}

// chip is a key that can be out of order.
type chip struct {
	key    *ecdsa.PrivateKey
	broken atomic.Bool
	resets atomic.Uint32
}

func (c *chip) Data() crypto.Signer { return c }
func (c *chip) Boot() tpm.Boot {
	return tpm.Boot{Resets: c.resets.Load(), Counter: 1}
}
func (c *chip) Clock() (uint64, error) {
	if c.broken.Load() {
		return 0, errors.New("no answer from the chip")
	}
	return 1, nil
}
func (c *chip) Public() crypto.PublicKey { return c.key.Public() }
func (c *chip) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	if c.broken.Load() {
		return nil, errors.New("no answer from the chip")
	}
	return c.key.Sign(r, digest, o)
}

// box is a running line with a monitor, and another beside it.
type box struct {
	*bedside
	other    *bedside
	pipeline *pipeline.Pipeline
	spool    *spool.Spool
	health   *health.Board
	chip     *chip
	key      *ecdsa.PublicKey
	secret   record.ReaderSecret
	log      *bytes.Buffer
	stop     func()
}

var id = record.BoxID{Facility: "f1", Name: "gw1"}

func start(t testing.TB, dir, dialect string, quota int64) *box {
	t.Helper()
	return startWith(t, dir, dialect, quota, func(*pipeline.Config) {})
}

func startWith(t testing.TB, dir, dialect string, quota int64, change func(*pipeline.Config)) *box {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := record.GenerateReaderKey()
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := record.NewSealer(id, []record.ReaderKey{secret.Public()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	sp, err := spool.Open(dir, spool.Options{Quota: quota, SegmentBytes: 1 << 16})
	if err != nil {
		t.Fatal(err)
	}
	d, err := mapping.LookupDialect(dialect)
	if err != nil {
		t.Fatal(err)
	}
	b := &box{bedside: newBedside("bed-1"), other: newBedside("bed-2"), spool: sp, health: &health.Board{}, chip: &chip{key: key}, secret: secret, log: &bytes.Buffer{}}
	config := pipeline.Config{
		Box: id, Sealer: sealer, Spool: sp, Signer: b.chip, Health: b.health, Log: slog.New(slog.NewJSONHandler(&syncWriter{w: b.log}, nil)),
		Protection: "software", Software: "test", Dir: dir, RetryAfter: 10 * time.Millisecond,
		Monitors: []pipeline.Monitor{
			{Name: "bed-1", Adapter: b.bedside, Dialect: d, Context: mapping.Context{Box: "f1/gw1", Monitor: "bed-1", Zone: time.UTC}, AssociationAge: time.Hour},
			{Name: "bed-2", Adapter: b.other, Dialect: d, Context: mapping.Context{Box: "f1/gw1", Monitor: "bed-2", Zone: time.UTC}},
		},
	}
	change(&config)
	b.key = config.Signer.Data().Public().(*ecdsa.PublicKey)
	b.pipeline = pipeline.New(config)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.pipeline.Run(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the line ended with %v", err)
		}
		if err := sp.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(b.stop)
	return b
}

type syncWriter struct {
	mu sync.Mutex
	w  *bytes.Buffer
}

func (s *syncWriter) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(p)
}

// contents are the opened records of what is signed, control leaves left out.
func (b *box) contents(t testing.TB) (all []record.Content, kinds []record.Kind) {
	t.Helper()
	for _, r := range b.records(t) {
		all, kinds = append(all, r.Content), append(kinds, r.Kind)
	}
	return all, kinds
}

type kept struct {
	record.Header
	record.Content
	signed uint64 // size of the log that its checkpoint signs
}

func (b *box) records(t testing.TB) (all []kept) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := b.spool.WaitSigned(ctx, b.spool.Next()-1); err != nil {
		t.Fatal(err)
	}
	opener := record.NewOpener(b.secret)
	verifier := record.NewVerifier(id, b.key)
	r := b.spool.Reader(0)
	defer r.Close()
	for {
		batch, err := r.Next()
		if err != nil {
			return all
		}
		for _, p := range batch {
			v, err := verifier.Verify(p)
			if err != nil {
				t.Fatal(err)
			}
			c, err := opener.Open(v)
			if errors.Is(err, record.ErrNoContent) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, kept{v.Header(), c, v.Checkpoint().Size})
		}
	}
}

// today is the day of the messages: a monitor whose clock is far off is not believed.
var today = time.Now().UTC().Truncate(time.Minute)

func heartRate(controlID string, second, value int) string {
	return heartRateAt(today.Add(time.Duration(second)*time.Second).Format("20060102150405")+"+0000", controlID, value)
}

func heartRateAt(at, controlID string, value int) string {
	return fmt.Sprintf("MSH|^~\\&|SIM||||%s||ORU^R01^ORU_R01|%s|P|2.6\rPID|||secret-4711^^^Hospital^PI||Mustermann^Erika^^^^^L\rOBR|1|||69952^MDC_DEV_MON_PT_PHYSIO_MULTI_PARAM^MDC|||%s\r"+
		"OBX|1|NM|147842^MDC_ECG_HEART_RATE^MDC|1.7.4.147842|%d|264864^MDC_DIM_BEAT_PER_MIN^MDC|||||R\r", at, controlID, at, value)
}

func TestAReadingIsAnsweredKeptAndSigned(t *testing.T) {
	b := start(t, t.TempDir(), "ihe-pcd01", 1<<24)
	a := wait(t, b.send(t, heartRate("A1", 1, 72)))
	if !strings.Contains(a, "MSA|AA|A1") {
		t.Fatalf("answer %q", a)
	}
	all, kinds := b.contents(t)
	if len(all) != 1 || kinds[0] != record.KindVitals || !bytes.Contains(all[0].Bundle, []byte(`"8867-4"`)) || !bytes.Contains(all[0].Raw, []byte("147842")) {
		t.Fatalf("%d records, kinds %v", len(all), kinds)
	}
}

func TestAFrameThatCannotBeReadIsKeptAndRefused(t *testing.T) {
	b := start(t, t.TempDir(), "ihe-pcd01", 1<<24)
	if a := wait(t, b.send(t, "this is not HL7")); !strings.Contains(a, "MSA|AR|") {
		t.Errorf("answer %q", a)
	}
	if a := wait(t, b.send(t, heartRate("A1", 1, 72)[:120], adapters.NoteIncomplete)); !strings.Contains(a, "MSA|AE|A1") {
		t.Errorf("answer to half a message %q", a)
	}
	all, kinds := b.contents(t)
	if len(all) != 2 || kinds[0] != record.KindRaw || kinds[1] != record.KindRaw || string(all[0].Raw) != "this is not HL7" || all[0].Reason == "" || len(all[0].Bundle) > 0 {
		t.Fatalf("kept: %v %+v", kinds, all)
	}
}

func TestEnhancedModeAsksForWhatItWants(t *testing.T) {
	b := start(t, t.TempDir(), "ihe-pcd01", 1<<24)
	for i, c := range []struct{ modes, want, not string }{
		{"AL|NE", "MSA|CA|", "MSA|AA|"},
		{"NE|AL", "MSA|AA|", "MSA|CA|"},
		{"AL|AL", "MSA|CA|", "MSA|CR|"},
		{"NE|NE", "", "MSA|"},
		{"ER|ER", "", "MSA|"},
		{"al|", "MSA|CA|", "MSA|AA|"},
		{"XX|", "MSA|CA|", "MSA|AA|"},
	} {
		m := strings.Replace(heartRate(fmt.Sprint("E", i), i, 70), "|P|2.6\r", "|P|2.6|||"+c.modes+"\r", 1)
		a := wait(t, b.send(t, m))
		if !strings.Contains(a, c.want) || strings.Contains(a, c.not) {
			t.Errorf("%s: answer %q", c.modes, a)
		}
		if c.modes == "AL|AL" && !strings.Contains(a, "MSA|AA|") {
			t.Errorf("%s: no application acknowledgement in %q", c.modes, a)
		}
	}
}

func TestADialectThatWantsNoAnswerGetsNone(t *testing.T) {
	b := start(t, t.TempDir(), "mindray-pds", 1<<24)
	m := "MSH|^~\\&|||||||ORU^R01|204|P|2.3.1|\rOBX||NM|101^HR|2101|60||||||F\r"
	for range 3 {
		if a := wait(t, b.send(t, m)); a != "" {
			t.Errorf("answer %q", a)
		}
	}
	if all, _ := b.contents(t); len(all) != 3 {
		t.Errorf("%d of 3 equal messages without a time are kept: each is a reading of its own", len(all))
	}
}

func TestAMessageSentAgainIsAnsweredButKeptOnce(t *testing.T) {
	dir := t.TempDir()
	b := start(t, dir, "ihe-pcd01", 1<<24)
	for range 3 {
		if a := wait(t, b.send(t, heartRate("A1", 1, 72))); !strings.Contains(a, "MSA|AA|A1") {
			t.Fatalf("answer %q", a)
		}
	}
	if all, _ := b.contents(t); len(all) != 1 {
		t.Errorf("kept %d times", len(all))
	}
	if n := b.pipeline.Counters(0); n.Messages != 3 || n.Repeated != 2 || n.Charted != 1 {
		t.Errorf("one reading, sent three times, is counted as %+v", n)
	}
	b.stop()
	again := start(t, dir, "ihe-pcd01", 1<<24)
	if a := wait(t, again.send(t, heartRate("A1", 1, 72))); !strings.Contains(a, "MSA|AA|A1") {
		t.Fatalf("answer after a restart %q", a)
	}
	if n := again.pipeline.Counters(0); n.Repeated != 1 || n.Messages != 1 || n.Charted != 0 {
		t.Errorf("after a restart the message counts as new: %+v", n)
	}
	if a := wait(t, again.send(t, heartRate("A2", 2, 72))); !strings.Contains(a, "MSA|AA|A2") {
		t.Fatalf("answer %q", a)
	}
	if n := again.pipeline.Counters(0); n.Repeated != 1 {
		t.Errorf("another message counts as sent again: %+v", n)
	}
}

// TestRefusedThenAnsweredIsKept: a message that the disk refused and that is sent again is answered AA only when it is there.
func TestRefusedThenAnsweredIsKept(t *testing.T) {
	dir := t.TempDir()
	b := start(t, dir, "ihe-pcd01", 1<<30)
	full := filepath.Join(dir, "next.tmp") // a segment cannot be begun, as on a full disk
	if err := os.Mkdir(full, 0o700); err != nil {
		t.Fatal(err)
	}
	refused := ""
	for i := range 5000 {
		m := heartRate(fmt.Sprint("F", i), i%60, 40+i%100)
		if a := wait(t, b.send(t, m)); strings.Contains(a, "MSA|AE|") {
			refused = m
			break
		}
	}
	if refused == "" {
		t.Fatal("the disk refuses nothing")
	}
	for range 3 {
		if a := wait(t, b.send(t, refused)); !strings.Contains(a, "MSA|AE|") {
			t.Fatalf("sent again while the disk refuses: %q", a)
		}
	}
	if b.health.Ready() {
		t.Error("the box calls itself ready while it keeps nothing")
	}
	if err := os.Remove(full); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if a := wait(t, b.send(t, refused)); !strings.Contains(a, "MSA|AA|") {
			t.Fatalf("sent again when there is room: %q", a)
		}
	}
	n := 0
	all, _ := b.contents(t)
	for _, c := range all {
		if string(c.Raw) == refused {
			n++
		}
	}
	if n != 1 || !b.health.Ready() {
		t.Errorf("kept %d times, conditions %+v", n, b.health.Conditions())
	}
}

func TestADamagedOldSegmentStopsNoReading(t *testing.T) {
	dir := t.TempDir()
	b := start(t, dir, "ihe-pcd01", 1<<30)
	for i := range 400 {
		wait(t, b.send(t, heartRate(fmt.Sprint("F", i), i%60, 40+i%100)))
	}
	b.contents(t)
	b.stop()
	segments, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || len(segments) < 2 {
		t.Fatal(segments, err)
	}
	bytes, err := os.ReadFile(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	bytes[len(bytes)/2] ^= 1
	if err := os.WriteFile(segments[0], bytes, 0o600); err != nil {
		t.Fatal(err)
	}
	again := start(t, dir, "ihe-pcd01", 1<<30)
	if a := wait(t, again.send(t, heartRate("A1", 1, 72))); !strings.Contains(a, "MSA|AA|") {
		t.Fatalf("answer %q", a)
	}
	if c := again.health.Conditions(); len(c) != 1 || c[0].Code != "log-unreadable" {
		t.Errorf("conditions %+v", c)
	}
}

func TestAMonitorWithADeadClockLosesNothing(t *testing.T) {
	b := start(t, t.TempDir(), "ihe-pcd01", 1<<24)
	for _, at := range []string{"20000101000000", today.Format("20060102")} {
		for range 3 {
			wait(t, b.send(t, heartRateAt(at, "1", 72)))
		}
	}
	if all, _ := b.contents(t); len(all) != 6 {
		t.Errorf("%d of 6 readings are kept", len(all))
	}
}

func TestWhatCannotBeUsedIsKeptOnce(t *testing.T) {
	b := start(t, t.TempDir(), "ihe-pcd01", 1<<24)
	for range 5 {
		if a := wait(t, b.send(t, heartRate("A1", 1, 72)[:120], adapters.NoteIncomplete)); !strings.Contains(a, "MSA|AE|A1") {
			t.Errorf("answer %q", a)
		}
		if a := wait(t, b.send(t, "this is not HL7")); !strings.Contains(a, "MSA|AR|") {
			t.Errorf("answer %q", a)
		}
	}
	if all, _ := b.contents(t); len(all) != 2 {
		t.Errorf("2 messages, each sent 5 times, are kept as %d", len(all))
	}
}

func TestADeadChipStopsNoReading(t *testing.T) {
	b := start(t, t.TempDir(), "ihe-pcd01", 1<<24)
	wait(t, b.send(t, heartRate("A1", 1, 72)))
	b.contents(t)
	b.chip.broken.Store(true)
	for i := range 20 {
		if a := wait(t, b.send(t, heartRate(fmt.Sprint("B", i), i+2, 72))); !strings.Contains(a, "MSA|AA|") {
			t.Fatalf("answer %q", a)
		}
	}
	deadline := time.Now().Add(10 * time.Second)
	for b.health.Ready() && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if c := b.health.Conditions(); len(c) != 1 || c[0].Code != "not-signed" || c[0].Remedy == "" {
		t.Errorf("conditions %+v", c)
	}
	b.chip.broken.Store(false)
	if all, _ := b.contents(t); len(all) != 21 {
		t.Errorf("%d of 21 readings are signed after the chip came back", len(all))
	}
	for !b.health.Ready() && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if !b.health.Ready() {
		t.Errorf("the condition stays: %+v", b.health.Conditions())
	}
}

func TestAResetOfTheChipIsWrittenIntoTheLog(t *testing.T) {
	b := start(t, t.TempDir(), "ihe-pcd01", 1<<24)
	wait(t, b.send(t, heartRate("A1", 1, 72)))
	b.contents(t)
	b.chip.resets.Store(7)
	wait(t, b.send(t, heartRate("A2", 2, 72)))
	boots := func() (resets []uint32) {
		b.contents(t)
		if err := b.spool.Latest(100, func(l record.Leaf) {
			if h, body, err := record.ParseLeaf(l); err == nil && h.Kind == record.KindBoot {
				boot, err := record.ParseBoot(body)
				if err != nil {
					t.Fatal(err)
				}
				resets = append(resets, boot.Resets)
			}
		}); err != nil {
			t.Fatal(err)
		}
		return resets
	}
	deadline := time.Now().Add(10 * time.Second)
	for len(boots()) < 2 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if got := boots(); len(got) != 2 || got[0] != 0 || got[1] != 7 {
		t.Errorf("boot leaves with resets %v", got)
	}
	if c := b.spool.LastCheckpoint(); c.Boot != 7 {
		t.Errorf("the checkpoint says boot %d", c.Boot)
	}
}

func TestAFullSpoolSaysSo(t *testing.T) {
	b := start(t, t.TempDir(), "ihe-pcd01", 1<<18)
	refused := false
	for i := range 5000 {
		a := wait(t, b.send(t, heartRate(fmt.Sprint("F", i), i%60, 40+i%100)))
		if strings.Contains(a, "MSA|AE|") {
			refused = true
			break
		}
		if !strings.Contains(a, "MSA|AA|") {
			t.Fatalf("answer %q", a)
		}
	}
	if c := b.health.Conditions(); !refused || len(c) == 0 || c[0].Code != "spool-refuses" || b.health.Ready() {
		t.Fatalf("refused %v, conditions %+v", refused, c)
	}
}

func TestNoPatientDataInTheLog(t *testing.T) {
	b := start(t, t.TempDir(), "ihe-pcd01", 1<<18)
	for i := range 3000 {
		if a := wait(t, b.send(t, heartRate(fmt.Sprint("F", i), i%60, 40+i%100))); strings.Contains(a, "MSA|AE|") {
			break
		}
	}
	wait(t, b.send(t, heartRate("A1", 1, 72)[:100], adapters.NoteIncomplete))
	b.chip.broken.Store(true)
	b.stop()
	said := b.log.String()
	for _, c := range b.health.Conditions() {
		said += c.Sentence + c.Remedy + c.About
	}
	for _, secret := range []string{"Mustermann", "Erika", "4711"} {
		if strings.Contains(said, secret) {
			t.Errorf("%q stands in the log or in a condition", secret)
		}
	}
}

// BenchmarkWholePath is one message from the frame to its durable acknowledgement, with 32 under way as 32 monitors have.
func BenchmarkWholePath(b *testing.B) {
	for _, depth := range []int{1, 32} {
		b.Run(fmt.Sprint("underway-", depth), func(b *testing.B) {
			x := start(b, b.TempDir(), "ihe-pcd01", 1<<34)
			slots := make(chan struct{}, depth)
			var open sync.WaitGroup
			i := 0
			for b.Loop() {
				slots <- struct{}{}
				open.Add(1)
				i++
				f := adapters.NewFrame("bed-1", "bench", []byte(heartRate(fmt.Sprint("W", i), i%60, 40+i%100)), time.Now(), nil, func(...[]byte) error {
					<-slots
					open.Done()
					return nil
				})
				x.in <- f
			}
			open.Wait()
			x.stop()
		})
	}
}
