// Package detect listens to a line and says what speaks there: the framing, the line's settings and the dialect of the monitor. It
// proposes; a person decides. It says nothing on the line, unless it is told to ask as a Mindray bedside monitor wants it, and it
// acknowledges nothing: what a monitor sends meanwhile is not kept, and a monitor that waits for an answer sends it again.
package detect

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/adapters/mllp"
	"github.com/vitalgate/vitalgate/adapters/pds"
	"github.com/vitalgate/vitalgate/fhir/mapping"
	"github.com/vitalgate/vitalgate/hl7"
)

// Options say where and for how long to listen.
type Options struct {
	At       string        // tcp://host:port (dial), listen://host:port, serial:/dev/…[?baud=9600&bits=8&parity=none&stop=1]
	For      time.Duration // at most
	Messages int           // enough when so many were read
	Ask      bool          // send the query of Mindray bedside monitors (tcp:// only)
	Pause    time.Duration // silence that ends a message, or a trial of serial settings that brought nothing readable; default 500 ms
}

// Found is what was heard.
type Found struct {
	Options
	Took     time.Duration
	Bytes    uint64
	Messages int              // that could be read
	Unread   int              // frames that could not
	Framing  adapters.Framing // "" if nothing could be read
	Serial   *Settings        // of a serial line: those that were right, or the last that were tried
	Tried    []Settings       // of a serial line, in order
	Detail   string           // of the line, when nothing came
	Dialects []Proposal       // best first
}

// Proposal is a dialect that messages look like.
type Proposal struct {
	Dialect  *mapping.Dialect
	Messages int // that look like it
	Score    int // of all of them
	Why      string
}

// ErrNothing says that nothing readable came. What was found tells more.
var ErrNothing = errors.New("no message that can be read has come")

// Line says whether at names a line and not a file.
func Line(at string) bool {
	return strings.HasPrefix(at, "tcp://") || strings.HasPrefix(at, "listen://") || strings.HasPrefix(at, "serial:")
}

// Run listens until enough was heard, or time or ctx ends.
func Run(ctx context.Context, o Options) (*Found, error) {
	if o.Pause == 0 {
		o.Pause = 500 * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(ctx, o.For)
	defer cancel()
	f := &Found{Options: o}
	began := time.Now()
	err := f.listen(ctx)
	f.Took = time.Since(began)
	f.settle()
	if err == nil && f.Messages == 0 {
		err = ErrNothing
	}
	if err != nil {
		err = fmt.Errorf("cannot tell what speaks at %s: %w", o.At, err)
	}
	return f, err
}

func (f *Found) listen(ctx context.Context) error {
	kind, rest, _ := strings.Cut(f.At, ":")
	rest = strings.TrimPrefix(rest, "//")
	if kind == "serial" {
		return f.sweep(ctx, rest)
	}
	if f.Ask && kind != "tcp" {
		return errors.New("asking needs tcp://host:port: a Mindray bedside monitor is dialled")
	}
	if _, _, err := net.SplitHostPort(rest); err != nil {
		return fmt.Errorf("it must be tcp://host:port, listen://host:port or serial:/dev/…: %w", err)
	}
	role := map[string]string{"tcp": "client", "listen": "server"}[kind]
	var a adapters.Adapter
	var err error
	if f.Ask {
		a, err = pds.New(pds.Config{Monitor: "detect", Address: rest}, quiet())
	} else {
		a, err = mllp.New(mllp.Config{Monitor: "detect", Role: role, Address: rest, Framing: adapters.Unframed, IdleEnd: f.Pause}, quiet())
	}
	if err != nil {
		return err
	}
	_, err = f.hear(ctx, a, func(adapters.Status) bool { return false })
	return err
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// hear reads a until ctx ends, enough was heard, or enough says so. It looks at least every tenth of a second.
func (f *Found) hear(ctx context.Context, a adapters.Adapter, enough func(adapters.Status) bool) (readable bool, err error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	frames, done := make(chan *adapters.Frame), make(chan error, 1)
	go func() { done <- a.Run(ctx, frames) }()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	before := f.Messages
	for {
		select {
		case frame := <-frames:
			frame.Reply() // nothing: it only makes room
			f.take(frame)
			if f.Messages >= f.Options.Messages {
				stop()
			}
		case <-tick.C:
			s := a.Status()
			f.Detail = s.Detail
			if enough(s) {
				stop()
			}
		case err := <-done:
			s := a.Status()
			f.Bytes += s.Bytes
			return f.Messages > before, err
		}
	}
}

// take judges one frame. Lines are read as if nothing framed the messages: that finds them in every framing, and what is left of
// the framing tells which it is.
func (f *Found) take(frame *adapters.Frame) {
	for _, raw := range hl7.Messages(frame.Data) {
		switch {
		case hllpHead(raw):
			f.Framing = adapters.HLLP
			continue
		case f.Ask, f.Framing != adapters.HLLP && slices.Contains(frame.Notes, adapters.NoteFramed):
			f.Framing = adapters.MLLP
		}
		m, err := hl7.Parse(raw)
		if err != nil || slices.Contains(frame.Notes, adapters.NoteLineError) {
			f.Unread++
			continue
		}
		f.Messages++
		d, score, why := mapping.Detect(m)
		i := slices.IndexFunc(f.Dialects, func(p Proposal) bool { return p.Dialect == d })
		if i < 0 {
			i = len(f.Dialects)
			f.Dialects = append(f.Dialects, Proposal{Dialect: d, Why: why})
		}
		f.Dialects[i].Messages++
		f.Dialects[i].Score += score
	}
}

// hllpHead says whether raw is what stands before the message in an HLLP block: t vv 0D.
func hllpHead(raw []byte) bool {
	raw = bytes.TrimRight(raw, "\r\n")
	return len(raw) == 3 && (raw[0] == 'D' || raw[0] == 'N') && raw[1] >= '0' && raw[1] <= '9' && raw[2] >= '0' && raw[2] <= '9'
}

// settle draws the conclusions.
func (f *Found) settle() {
	if f.Framing == "" && f.Messages > 0 {
		f.Framing = adapters.Unframed
	}
	// A dialect is what most messages look like; one that a message names outweighs those that nothing names.
	slices.SortStableFunc(f.Dialects, func(a, b Proposal) int {
		return cmp.Or(cmp.Compare(b.Score, a.Score), cmp.Compare(b.Messages, a.Messages))
	})
}

// Report says in words what was found, with the table for the configuration. It names no patient and no value.
func (f *Found) Report(w io.Writer) {
	fmt.Fprintf(w, "%s: %d bytes in %v, %d messages read, %d frames that could not be read\n", f.At, f.Bytes, f.Took.Round(100*time.Millisecond), f.Messages, f.Unread)
	for i, s := range f.Tried {
		switch {
		case f.Messages > 0 && i == len(f.Tried)-1:
			fmt.Fprintf(w, "  %s: readable\n", s)
		case f.Bytes > 0:
			fmt.Fprintf(w, "  %s: nothing readable\n", s)
		}
	}
	if f.Messages == 0 {
		fmt.Fprintf(w, "%s\n%s\n", f.Detail, f.remedy())
		return
	}
	for i, p := range f.Dialects {
		word := "dialect"
		if i > 0 {
			word = "also possible:"
		}
		fmt.Fprintf(w, "%s %s: %d of %d messages (score %d: %s)\n", word, p.Dialect.Name, p.Messages, f.Messages, p.Score, p.Why)
	}
	best := f.Dialects[0].Dialect
	fmt.Fprintf(w, "\nA proposal for the configuration; check it against the monitor's own settings:\n\n[[monitor]]\nname    = \"…\"\n")
	kind, rest, _ := strings.Cut(f.At, ":")
	rest = strings.TrimPrefix(rest, "//")
	switch {
	case kind == "serial":
		device, _, _ := strings.Cut(rest, "?")
		fmt.Fprintf(w, "kind    = \"serial\"\ndevice  = %q\nbaud    = %d\n", device, f.Serial.Baud)
		if *f.Serial != (Settings{f.Serial.Baud, 8, "none", 1}) {
			fmt.Fprintf(w, "data_bits = %d\nparity    = %q\nstop_bits = %d\n", f.Serial.Bits, f.Serial.Parity, f.Serial.Stop)
		}
	case f.Ask:
		fmt.Fprintf(w, "kind    = \"mindray-pds\"\naddress = %q\n", rest)
	case kind == "tcp":
		fmt.Fprintf(w, "kind    = \"mllp-client\"\naddress = %q\n", rest)
	default:
		fmt.Fprintf(w, "kind    = \"mllp-server\"\naddress = %q\n", rest)
	}
	fmt.Fprintf(w, "framing = %q\ndialect = %q\n", f.Framing, best.Name)
}

// remedy says what a person can try when nothing readable came.
func (f *Found) remedy() string {
	kind, _, _ := strings.Cut(f.At, ":")
	switch {
	case kind == "serial" && f.Bytes == 0:
		return "Nothing came: check the cable (crossed or straight), that the monitor's serial HL7 output is on, and listen for longer than its interval (--for)."
	case kind == "serial":
		return "Bytes came and were readable with no settings that were tried: look at the monitor's serial settings, and give them as ?baud=…&parity=…; it may also speak another protocol than HL7."
	case f.Bytes == 0 && kind == "tcp" && !f.Ask:
		return "Nothing came. A Mindray bedside monitor says nothing until it is asked: --ask asks it. Else listen for longer than the monitor's interval (--for)."
	case f.Bytes == 0:
		return "Nothing came: check the address that the monitor sends to, firewalls, and listen for longer than its interval (--for)."
	}
	return "Bytes came that are no HL7 v2: the monitor may speak another protocol, or TLS."
}
