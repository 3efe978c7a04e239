// Package replay sends messages from files to a box as a monitor would, and shows how the box answers.
package replay

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/hl7"
)

// Options say where to send, and how.
type Options struct {
	To      string        // tcp://host:port or serial:/dev/…[?baud=9600], see Dial
	Framing string        // "mllp" (also if empty), "none" or "hllp"
	Speed   float64       // messages a second; 0 sends the next one when the one before is answered
	Timeout time.Duration // for each answer; 0 is 5 s
	NoAck   bool          // the receiver does not answer
}

// Summary counts messages.
type Summary struct {
	Sent, Accepted, Refused, Unanswered int
}

// maxMessage bounds a message of a file: more than a box takes, so that its refusal can be seen.
const maxMessage = 8 << 20

// Run sends every message in paths, in order; a path is a file or a folder of .hl7 files. It writes one line for each answer to
// out. The error is not nil if a file cannot be read, the line is lost, or not every message was accepted.
func Run(ctx context.Context, o Options, paths []string, out io.Writer) (Summary, error) {
	var sum Summary
	if o.Framing == "" {
		o.Framing = string(adapters.MLLP)
	}
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	if o.Speed < 0 {
		return sum, fmt.Errorf("cannot send %g messages a second", o.Speed)
	}
	files, err := list(paths)
	if err != nil {
		return sum, err
	}
	conn, err := Dial(ctx, o.To, adapters.Framing(o.Framing))
	if err != nil {
		return sum, err
	}
	defer conn.Close()
	p := player{Options: o, conn: conn, out: out, sum: &sum}
	for _, name := range files {
		if err := p.file(ctx, name); err != nil {
			return sum, err
		}
	}
	if sum.Refused+sum.Unanswered > 0 {
		return sum, fmt.Errorf("cannot say all is well: of %d messages %d were refused and %d had no answer", sum.Sent, sum.Refused, sum.Unanswered)
	}
	return sum, nil
}

// list gives the files of paths. A folder without .hl7 files is an error: nothing sent looks like nothing wrong.
func list(paths []string) (files []string, err error) {
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("cannot read: %w", err)
		}
		if !info.IsDir() {
			files = append(files, path)
			continue
		}
		before := len(files)
		err = filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && strings.EqualFold(filepath.Ext(name), ".hl7") {
				files = append(files, name)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("cannot read: %w", err)
		}
		if len(files) == before {
			return nil, fmt.Errorf("cannot send %s: there is no .hl7 file in it", path)
		}
	}
	if len(files) == 0 {
		return nil, errors.New("cannot send nothing: name files, or folders of .hl7 files")
	}
	return files, nil
}

type player struct {
	Options
	conn *Conn
	out  io.Writer
	sum  *Summary
	next time.Time // when the next message may go
}

// file sends the messages of one file.
func (p *player) file(ctx context.Context, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("cannot read: %w", err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(nil, maxMessage)
	s.Split(new(hl7.Splitter).Split)
	n := 0
	for s.Scan() {
		n++
		if err := p.message(ctx, fmt.Sprintf("%s #%d", name, n), s.Bytes()); err != nil {
			return fmt.Errorf("%s: message %d: %w", name, n, err)
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("cannot read %s after message %d: %w", name, n, err)
	}
	if n == 0 {
		return fmt.Errorf("cannot send %s: there is no message in it", name)
	}
	return nil
}

// message sends one message and waits for its answer, or its two answers (HL7 v2.9 §2.9.3). What is in the file is what is sent, but for a terminator of the last
// segment, which SplitMessages takes away.
func (p *player) message(ctx context.Context, where string, raw []byte) error {
	if hl7.Cut(raw) {
		p.sum.Refused++
		fmt.Fprintf(p.out, "%s: not sent: the message is cut, its MLLP block has no end\n", where)
		return nil
	}
	if err := p.pace(ctx); err != nil {
		return err
	}
	var accept, application string
	id, parsed := "", false
	if m, err := hl7.Parse(raw); err == nil {
		id, parsed = string(m.Header().Field(10).Raw()), true
		accept, application = hl7.AckMode(m)
	}
	end := byte('\r')
	if bytes.IndexByte(raw, '\r') < 0 && bytes.IndexByte(raw, '\n') >= 0 {
		end = '\n'
	}
	if err := p.conn.Send(append(bytes.Clone(raw), end)); err != nil {
		return fmt.Errorf("cannot send: %w", err)
	}
	p.sum.Sent++
	if p.NoAck || accept == "NE" && application == "NE" {
		fmt.Fprintf(p.out, "%s: sent\n", where)
		return nil
	}
	two := always(accept) && always(application)
	sent := time.Now()
	for {
		answer, err := p.conn.Receive(ctx, sent.Add(p.Timeout))
		switch {
		case errors.Is(err, ErrNoAnswer):
			p.sum.Unanswered++
			fmt.Fprintf(p.out, "%s: no answer in %v\n", where, p.Timeout)
			return nil
		case err != nil:
			return fmt.Errorf("cannot read the answer: %w", err)
		}
		ack, err := ReadAck(answer)
		if err != nil {
			fmt.Fprintf(p.out, "%s: something else than an acknowledgement came (%d bytes)\n", where, len(answer))
			continue
		}
		if parsed && ack.ID != id {
			fmt.Fprintf(p.out, "%s: an acknowledgement for another message came: %s\n", where, ack)
			continue
		}
		if two && ack.Code == hl7.CA {
			two = false
			fmt.Fprintf(p.out, "%s: %s\n", where, ack)
			continue
		}
		if ack.Accepted() {
			p.sum.Accepted++
		} else {
			p.sum.Refused++
		}
		fmt.Fprintf(p.out, "%s: %s\n", where, ack)
		return nil
	}
}

// always says whether a condition of MSH-15 or MSH-16 asks for an acknowledgement of a message that is good.
func always(condition string) bool { return condition == "AL" || condition == "SU" }

func (p *player) pace(ctx context.Context) error {
	if p.Speed == 0 {
		return ctx.Err()
	}
	wait := time.NewTimer(time.Until(p.next))
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	p.next = time.Now().Add(time.Duration(float64(time.Second) / p.Speed))
	return nil
}

// Ack is what an acknowledgement says.
type Ack struct {
	Code   hl7.AckCode // MSA-1
	ID     string      // MSA-2, byte for byte
	Errors []AckError
}

// AckError is one ERR segment.
type AckError struct {
	Location string // ERR-2, or ERR-1 of versions before 2.5
	Code     string // ERR-3.1, of table 0357
	Text     string // ERR-8 or ERR-7, or the text of the code
}

// ReadAck reads an acknowledgement (HL7 v2.9 §2.13.1, §2.14.5, §2.14.8).
func ReadAck(raw []byte) (Ack, error) {
	m, err := hl7.Parse(raw)
	if err != nil {
		return Ack{}, err
	}
	msa, ok := m.First("MSA")
	if !ok {
		return Ack{}, errors.New("cannot find MSA: this is no acknowledgement")
	}
	a := Ack{Code: hl7.AckCode(msa.Field(1).String()), ID: string(msa.Field(2).Raw())}
	for i := range m.Len() {
		if e := m.Segment(i); e.Name() == "ERR" {
			a.Errors = append(a.Errors, readError(e))
		}
	}
	return a, nil
}

func readError(e hl7.Segment) AckError {
	if v := e.Field(1); !v.Empty() { // ELD: segment, sequence, field, code (versions up to 2.4)
		return AckError{Location: place(v.Comp(1), v.Comp(2), v.Comp(3)), Code: v.Comp(4).Sub(1).String(), Text: v.Comp(4).Sub(2).String()}
	}
	v := e.Field(2)
	text := e.Field(8)
	if text.Empty() {
		text = e.Field(7)
	}
	if text.Empty() {
		text = e.Field(3).Comp(2)
	}
	return AckError{Location: place(v.Comp(1), v.Comp(2), v.Comp(3), v.Comp(5), v.Comp(6)), Code: e.Field(3).Comp(1).String(), Text: text.String()}
}

// place writes a location as "OBX[3]-5.1".
func place(segment, sequence hl7.Value, rest ...hl7.Value) string {
	var b strings.Builder
	b.WriteString(segment.String())
	if !sequence.Empty() {
		fmt.Fprintf(&b, "[%s]", sequence.String())
	}
	for i, v := range rest {
		if v.Empty() {
			break
		}
		b.WriteByte("-.."[min(i, 2)])
		b.WriteString(v.String())
	}
	return b.String()
}

// Accepted says whether the message was taken.
func (a Ack) Accepted() bool { return a.Code == hl7.AA || a.Code == hl7.CA }

// String gives code, control id and errors in one line.
func (a Ack) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", a.Code, a.ID)
	for _, e := range a.Errors {
		if e.Location == "" && e.Text == "" {
			continue
		}
		b.WriteString(" ·")
		for _, s := range []string{e.Location, e.Code, e.Text} {
			if s != "" {
				b.WriteByte(' ')
				b.WriteString(s)
			}
		}
	}
	return b.String()
}
