package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/vitalgate/vitalgate/fhir/mapping"
	"github.com/vitalgate/vitalgate/hl7"
)

type convertCmd struct {
	Dialect       string   `help:"Monitor dialect (see vitalgate dialects). Without it each message's own is detected and said on stderr."`
	Zone          string   `help:"IANA time zone of times that carry none. Without it they are kept as of unknown zone."`
	Bed           string   `help:"Bed of messages that name none."`
	PatientSystem string   `help:"Identifier system of patient numbers without an assigning authority."`
	Pressure      string   `name:"unit-pressure" enum:",mm[Hg],kPa,cm[H2O]" default:"" help:"Unit of pressures sent without one: mm[Hg], kPa or cm[H2O]."`
	Temperature   string   `name:"unit-temperature" enum:",Cel,[degF]" default:"" help:"Unit of temperatures sent without one: Cel or [degF]."`
	Codes         string   `placeholder:"FILE" help:"The site's own codes (fhir.codes of the configuration)."`
	Pretty        bool     `help:"Indent the JSON."`
	Files         []string `arg:"" name:"file" help:"Files of HL7 v2 messages: bare, MLLP-wrapped or batches, any line ends; - is standard input."`
}

func (c convertCmd) Run(ctx context.Context) error {
	var dialect *mapping.Dialect
	if c.Dialect != "" {
		d, err := siteDialect(c.Dialect, c.Codes)
		if err != nil {
			return err
		}
		dialect = d
	}
	if c.Codes != "" && dialect == nil {
		return errors.New("cannot use --codes without --dialect: name the dialect that they add to")
	}
	at := mapping.Context{Bed: c.Bed, PatientSystem: c.PatientSystem, Units: mapping.Units{Pressure: c.Pressure, Temperature: c.Temperature}}
	if c.Zone != "" {
		zone, err := time.LoadLocation(c.Zone)
		if err != nil {
			return fmt.Errorf("cannot use zone %q: name an IANA time zone such as Europe/Berlin", c.Zone)
		}
		at.Zone = zone
	}
	out := bufio.NewWriterSize(os.Stdout, 1<<16)
	b := batch{at: at, given: dialect, pretty: c.Pretty, out: out, converters: map[string]*mapping.Converter{}}
	for _, name := range c.Files {
		if err := b.file(ctx, name); err != nil {
			return errors.Join(err, out.Flush())
		}
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("cannot write the documents: %w", err)
	}
	if b.failed > 0 {
		fmt.Fprintf(os.Stderr, "%d of %d messages could not be converted; each has an OperationOutcome on stdout\n", b.failed, b.messages)
	}
	if b.unread > 0 {
		fmt.Fprintf(os.Stderr, "%d of %d files could not be read; each has an OperationOutcome on stdout\n", b.unread, len(c.Files))
	}
	if b.failed+b.unread > 0 {
		return errSaid
	}
	return nil
}

// batch converts the messages of one call.
type batch struct {
	at         mapping.Context
	given      *mapping.Dialect
	pretty     bool
	out        *bufio.Writer
	converters map[string]*mapping.Converter // by dialect
	said       string                        // the dialect last named on stderr
	messages   int
	failed     int
	unread     int // files
	message    hl7.Message
	joiner     hl7.Joiner
}

// longestMessage bounds one message of a file, in bytes.
const longestMessage = 16 << 20

// messagesOf reads the messages of a file, or of standard input where name is "-".
func messagesOf(name string) (sc *bufio.Scanner, done func() error, err error) {
	in, done := os.Stdin, func() error { return nil }
	if name != "-" {
		if in, err = os.Open(name); err != nil {
			return nil, nil, err
		}
		done = in.Close
	}
	sc = bufio.NewScanner(in)
	sc.Buffer(nil, longestMessage)
	sc.Split(new(hl7.Splitter).Split)
	return sc, done, nil
}

func (b *batch) file(ctx context.Context, name string) error {
	sc, done, err := messagesOf(name)
	if err != nil {
		b.unread++
		return b.say(name, &hl7.Error{Code: hl7.CodeInternal, What: "cannot read the file: " + errors.Unwrap(err).Error(), Remedy: "name a file of HL7 v2 messages, or - for standard input"})
	}
	defer done()
	n := 0
	for sc.Scan() {
		if err := ctx.Err(); err != nil {
			return err
		}
		n++
		if err := b.one(name, n, sc.Bytes()); err != nil {
			return err
		}
	}
	if err := sc.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			err = fmt.Errorf("message %d is longer than %d bytes", n+1, longestMessage)
		}
		return b.fail(name, n+1, &hl7.Error{Code: hl7.CodeInternal, What: err.Error(), Remedy: "check that this is a file of HL7 v2 messages"})
	}
	if b.joiner.Waiting() {
		b.joiner = hl7.Joiner{}
		return b.fail(name, n, &hl7.Error{Code: hl7.CodeSegmentSequence, Segment: "DSC", What: "the message is to be continued and the file ends", Remedy: "get the rest; a value cut in the middle reads like a good one"})
	}
	if n == 0 {
		return b.fail(name, 1, &hl7.Error{Code: hl7.CodeFieldMissing, Segment: "MSH", What: "there is no message in the file", Remedy: "check that this is a file of HL7 v2 messages"})
	}
	return nil
}

func (b *batch) one(name string, n int, raw []byte) error {
	if hl7.Cut(raw) {
		return b.fail(name, n, &hl7.Error{Code: hl7.CodeSegmentSequence, What: "the message is cut: its MLLP block has no end", Remedy: "get the whole message; a value cut in the middle reads like a good one"})
	}
	if err := b.message.Reset(raw, hl7.DefaultLimits); err != nil {
		return b.fail(name, n, err)
	}
	switch whole, waiting, err := b.joiner.Take(&b.message); {
	case err != nil:
		return b.fail(name, n, err)
	case waiting: // the Bundle is that of the whole message
		return nil
	case whole != nil:
		if err := b.message.Reset(whole, hl7.DefaultLimits); err != nil {
			return b.fail(name, n, err)
		}
	}
	d := b.given
	if d == nil {
		why := ""
		if d, _, why = mapping.Detect(&b.message); d.Name != b.said {
			fmt.Fprintf(os.Stderr, "%s: message %d: dialect %s (%s)\n", name, n, d.Name, why)
			b.said = d.Name
		}
	}
	c := b.converters[d.Name]
	if c == nil {
		c = mapping.NewConverter(d)
		b.converters[d.Name] = c
	}
	res, err := c.Convert(&b.message, b.at)
	if err != nil {
		return b.fail(name, n, err)
	}
	for _, e := range res.Events {
		fmt.Fprintf(os.Stderr, "%s: message %d: %s: %s: %s\n", name, n, e.Where, e.Code, e.What)
	}
	b.messages++
	return b.write(res.Bundle)
}

// fail writes the OperationOutcome of a message that has no Bundle, and says the same on stderr.
func (b *batch) fail(name string, n int, err error) error {
	b.messages++
	b.failed++
	e := (*hl7.Error)(nil)
	if !errors.As(err, &e) {
		e = &hl7.Error{Code: hl7.CodeInternal, What: err.Error()}
	}
	return b.say(fmt.Sprintf("%s: message %d", cmp.Or(name, "-"), n), e)
}

func (b *batch) say(where string, e *hl7.Error) error {
	fmt.Fprintf(os.Stderr, "%s: %v\n", where, e)
	said := *e
	said.What = where + ": " + e.What
	return b.write(mapping.AppendOutcome(nil, &said))
}

func (b *batch) write(doc []byte) error {
	if b.pretty {
		var buf bytes.Buffer
		if err := json.Indent(&buf, doc, "", "  "); err != nil {
			return err
		}
		doc = buf.Bytes()
	}
	b.out.Write(doc)
	return b.out.WriteByte('\n')
}
