// Package pipeline is the line from a monitor's bytes to a signed log. Its left half runs per frame and ends at the
// monitor's acknowledgement, which leaves only after the reading is on disk:
//
//	Frame ─parse, convert─▶ reading ─seal─▶ leaf ─spool, fsync─▶ reply
//
// Its right half is one loop that signs what is new. Publishing is package link's.
package pipeline

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/fhir/mapping"
	"github.com/vitalgate/vitalgate/firmware/health"
	"github.com/vitalgate/vitalgate/firmware/spool"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/tpm"
)

// Monitor is one configured monitor.
type Monitor struct {
	Name    string
	Adapter adapters.Adapter
	Dialect *mapping.Dialect
	Context mapping.Context // Arrived and Association are set for each frame

	// AssociationAge is how long what a connection has said of its patient holds without being said again; 0 is a day.
	AssociationAge time.Duration
}

// Signer is the box's identity as the pipeline needs it.
type Signer interface {
	Data() crypto.Signer    // the key of the log, ECDSA P-256
	Clock() (uint64, error) // ms since the TPM's clock began; it may go back when the chip is reset, and then Boot differs
	Boot() tpm.Boot
}

// Config is what a pipeline is made of.
type Config struct {
	Box        record.BoxID
	Monitors   []Monitor
	Sealer     *record.Sealer
	Spool      *spool.Spool
	Signer     Signer
	Attestor   *tpm.Attestor // of the signer's chip; nil where the key is in a file, for which nobody vouches
	Protection string        // the class of the key, as the box words it
	Software   string        // name and version, one line
	Health     *health.Board
	Log        *slog.Logger
	Dir        string        // where the keys for messages sent again are kept
	RetryAfter time.Duration // wait after a failed adapter or a failed signature; 0 is one second
}

// Pipeline is the running line.
type Pipeline struct {
	Config
	counters   []*Counters
	booted     tpm.Boot     // the run that the last boot leaf is of; none yet where the TPM has not been asked
	unattested int          // failed attempts in a row to have a start attested
	starts     chan *start  // a boot leaf is due: of this start, or because the chip was reset under us
	readers    chan Readers // to seal for from now on
	bootDue    atomic.Bool
	pulses     chan chan struct{}
	room       *semaphore.Weighted // bytes of messages and Bundles under way
}

// Readers are whom to seal for.
type Readers struct {
	Network, Patient []record.ReaderKey
	PerRecord        bool
}

// SetReaders seals for others from now on, once the line runs.
func (p *Pipeline) SetReaders(ctx context.Context, r Readers) {
	select {
	case p.readers <- r:
	case <-ctx.Done():
	}
}

// roomBytes bounds what is held in memory of messages between the adapters and the disk. Beyond it monitors are read no further.
const roomBytes = 64 << 20

// New makes a pipeline; Run starts it.
func New(c Config) *Pipeline {
	if c.RetryAfter == 0 {
		c.RetryAfter = time.Second
	}
	p := &Pipeline{Config: c, starts: make(chan *start, 1), readers: make(chan Readers), pulses: make(chan chan struct{}), room: semaphore.NewWeighted(roomBytes)}
	if c.Attestor == nil {
		p.booted = c.Signer.Boot()
	}
	for range c.Monitors {
		p.counters = append(p.counters, &Counters{})
	}
	return p
}

// Run reads the monitors until ctx ends. Then it stops reading, keeps and answers what has been read, signs it, and
// returns nil. Any other end is an error.
func (p *Pipeline) Run(ctx context.Context) error {
	known, damage, err := openResent(p.Dir, p.Spool.Latest)
	if err != nil {
		return err
	}
	if damage != nil {
		p.Health.Set(health.Condition{Code: "log-unreadable", Severity: health.Critical, Sentence: "A part of the box's log cannot be read: " + damage.Error() + ". New readings are kept.",
			Remedy: "Run vitalgate fsck on the data folder and have the box's storage replaced; peers hold what was published."})
		p.Log.Error("cannot read a part of the log", "error", damage)
	}
	var begun *start
	if p.booted != (tpm.Boot{}) {
		begun = p.start(p.booted)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	readings := make(chan *reading, 64)
	var left errgroup.Group
	var adaptersDone errgroup.Group
	for i := range p.Monitors {
		frames := make(chan *adapters.Frame)
		adaptersDone.Go(func() error {
			defer close(frames)
			return p.listen(ctx, &p.Monitors[i], frames)
		})
		left.Go(func() error { return p.convert(&p.Monitors[i], p.counters[i], frames, readings) })
	}
	// The keeper and the committer outlive the adapters, so that what was read is kept.
	kctx, stopKeeping := context.WithCancel(context.WithoutCancel(ctx))
	defer stopKeeping()
	sctx, stopSigning := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSigning()
	var committer, signer errgroup.Group
	committer.Go(func() error { defer stop(); return p.Spool.Run(kctx) }) // a disk that fails ends the line
	signer.Go(func() error { defer stop(); return p.sign(sctx, begun) })
	kept := make(chan struct{})
	go func() { defer close(kept); p.keep(known, begun, readings) }()

	err = errors.Join(adaptersDone.Wait(), left.Wait())
	close(readings)
	<-kept
	stopKeeping()
	err = errors.Join(err, committer.Wait()) // first everything is on disk, then it is signed
	stopSigning()
	return errors.Join(err, signer.Wait())
}

// listen keeps one adapter running. An adapter that gives up is a condition, not the end of the other monitors.
func (p *Pipeline) listen(ctx context.Context, m *Monitor, frames chan<- *adapters.Frame) error {
	for {
		err := read(ctx, m.Adapter, frames)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			err = errors.New("the monitor's line ended")
		}
		sentence := err.Error()
		sentence = strings.ToUpper(sentence[:1]) + sentence[1:] + "." // as its adapter's status says it
		if p.Health.Set(health.Condition{Code: "monitor-line", About: m.Name, Severity: health.Critical, Sentence: sentence,
			Remedy: "Check the address or device of this monitor in the configuration; it is tried again by itself."}) {
			p.Log.Error("cannot read a monitor", "monitor", m.Name, "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(p.RetryAfter):
		}
	}
}

// read runs an adapter. What it panics with ends this one monitor's line, which is begun again.
func read(ctx context.Context, a adapters.Adapter, frames chan<- *adapters.Frame) (err error) {
	defer func() {
		if e := recover(); e != nil {
			err = fmt.Errorf("the monitor's line failed (%T)", e)
		}
	}()
	return a.Run(ctx, frames)
}

// Counters of monitor i of the configuration, as they stand.
func (p *Pipeline) Counters(i int) Snapshot { return p.counters[i].snapshot() }
