package maintain

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

const (
	stopPatience = 30 * time.Second // for the line to end when an operation needs the box
	firstPause   = time.Second      // before work that has ended begins again; doubled each time
	longestPause = 30 * time.Second
	settled      = 10 * time.Second // work that has run so long has no trouble
)

// work keeps the line from monitor to network running, except while somebody else has the box.
type work struct {
	do  func(context.Context) error
	log *slog.Logger

	box chan struct{} // holds one token: who took it has the box

	mu      sync.Mutex
	wanted  bool
	waiting int                // operations that want the box
	stop    context.CancelFunc // of the work that runs; nil: none does
	trouble string
	wake    chan struct{}
}

func newWork(do func(context.Context) error, log *slog.Logger) *work {
	w := &work{do: do, log: log, box: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
	w.box <- struct{}{}
	return w
}

func (w *work) begin() { w.want(true) }
func (w *work) end()   { w.want(false) }

func (w *work) want(so bool) {
	w.mu.Lock()
	w.wanted, w.trouble = so, ""
	w.mu.Unlock()
	w.nudge()
}

func (w *work) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// state says whether work runs and, if it ended by itself a moment ago, why.
func (w *work) state() (working bool, trouble string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stop != nil, w.trouble
}

// halt stops the work and gives the box to the caller until resume. One has it at a time.
func (w *work) halt(ctx context.Context) (resume func(), err error) {
	w.mu.Lock()
	w.waiting++
	if w.stop != nil {
		w.stop()
	}
	w.mu.Unlock()
	leave := func() {
		w.mu.Lock()
		w.waiting--
		w.mu.Unlock()
		w.nudge()
	}
	patience := time.NewTimer(stopPatience)
	defer patience.Stop()
	select {
	case <-w.box:
		return func() { w.box <- struct{}{}; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, context.Cause(ctx)
	case <-patience.C:
		leave()
		return nil, errors.New("cannot have the box for this: another operation is under way, or the line does not end; try again")
	}
}

// run works whenever it is wanted and nobody else has the box.
func (w *work) run(ctx context.Context) error {
	pause := firstPause
	for ctx.Err() == nil {
		began := time.Now()
		ran, err := w.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		var again <-chan time.Time
		switch {
		case !ran: // until somebody wants it
		case err == nil: // it was stopped, or ended by itself as nothing should
			again = time.After(firstPause)
		default:
			if time.Since(began) > settled {
				pause = firstPause
			}
			w.log.Error("the box does not work; it is tried again", "error", err.Error(), "in", pause.String())
			w.mu.Lock()
			w.trouble = err.Error()
			w.mu.Unlock()
			again = time.After(pause)
			pause = min(2*pause, longestPause)
		}
		select {
		case <-ctx.Done():
		case <-w.wake:
		case <-again:
		}
	}
	return nil
}

func (w *work) once(ctx context.Context) (ran bool, err error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	w.mu.Lock()
	may := w.wanted && w.waiting == 0
	w.mu.Unlock()
	if !may {
		return false, nil
	}
	select {
	case <-w.box:
	case <-ctx.Done():
		return false, nil
	}
	defer func() { w.box <- struct{}{} }()
	w.mu.Lock()
	if w.waiting > 0 || !w.wanted {
		w.mu.Unlock()
		return false, nil
	}
	w.stop = stop
	w.mu.Unlock()
	calm := time.AfterFunc(settled, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.trouble = ""
	})
	err = w.do(ctx)
	calm.Stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stop = nil
	if ctx.Err() != nil { // asked to end
		err = nil
	}
	return true, err
}
