package serial

import "time"

// kernelBuffer is how many bytes the kernel surely holds for a reader who does not come. Its terminal layer has 4096; with PARMRK
// it keeps room for marks, and stops taking bytes from a USB adapter, whose own buffer is small, at some 3700.
const kernelBuffer = 3 << 10

// losses notices that bytes were lost without a mark in the stream, as PARMRK marks bytes that came damaged and not those that
// did not come: by the driver's count of overruns; and, as not every driver counts, by a full buffer that was not emptied for
// longer than it lasts while nothing held the monitor back.
//
// A loss may lie behind bytes that the kernel still holds. So what is read is in doubt until the buffer has been empty.
type losses struct {
	overruns func() (n uint64, counted bool) // bytes, or events, since the opening
	waiting  func() int                      // bytes in the buffer
	lasts    time.Duration                   // kernelBuffer at the line's rate; 0: flow control holds the monitor back

	counted uint64
	emptied time.Time
	doubt   bool
}

func newLosses(p *port, cfg Config, now time.Time) *losses {
	l := &losses{overruns: p.overruns, waiting: p.waiting, emptied: now}
	if cfg.Flow == "none" {
		bits := 1 + cfg.DataBits + cfg.StopBits // at least, for a byte
		l.lasts = time.Duration(kernelBuffer*bits) * time.Second / time.Duration(cfg.Baud)
	}
	return l
}

// before is called before each read.
func (l *losses) before(now time.Time) {
	if l.lasts > 0 && now.Sub(l.emptied) > l.lasts && l.waiting() >= kernelBuffer {
		l.doubt = true
	}
}

// after is called after each read, and says whether what was read, and the message that it goes on with, may lack bytes; and
// whether that is over with what was read.
func (l *losses) after(now time.Time) (lost, over bool) {
	// In this order: a loss that is counted lies before what comes after the count.
	if n, ok := l.overruns(); ok && n != l.counted {
		l.counted, l.doubt = n, true
	}
	lost = l.doubt
	if l.waiting() == 0 {
		l.emptied, l.doubt = now, false
	}
	return lost, lost && !l.doubt
}
