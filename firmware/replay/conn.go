package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/adapters/framing"
)

// maxAnswer bounds an acknowledgement.
const maxAnswer = 1 << 20

// quiet is the silence that ends an answer which came without framing.
const quiet = 200 * time.Millisecond

// ErrNoAnswer says that nothing came in time.
var ErrNoAnswer = errors.New("no answer")

// Conn is the monitor's end of a line to a box: it sends messages and receives what the box answers. Close it.
type Conn struct {
	line    io.ReadWriteCloser
	framing adapters.Framing
	dec     *framing.Decoder
	answers [][]byte
	refused bool // HLLP: the box wants our last block again
	last    []byte

	read   chan []byte
	err    error // of the reading; valid when read is closed
	closed chan struct{}
	once   sync.Once
	reader sync.WaitGroup
}

// NewConn makes a Conn of an open line. A Read of line may return 0, io.EOF for silence, as tarm/serial does, if silence is set.
func NewConn(line io.ReadWriteCloser, f adapters.Framing, silence bool) (*Conn, error) {
	// Some receivers answer without framing on a framed line, so bare answers are always taken; unframed reading takes both.
	reading := f
	if f != adapters.HLLP {
		reading = adapters.Unframed
	}
	dec, err := framing.NewDecoder(reading, maxAnswer)
	if err != nil {
		return nil, err
	}
	if err := f.Check(); err != nil {
		return nil, err
	}
	c := &Conn{line: line, framing: f, dec: dec, read: make(chan []byte), closed: make(chan struct{})}
	c.reader.Go(func() { c.readAll(silence) })
	return c, nil
}

// Dial opens the line that to names: tcp://host:port, or serial:/dev/ttyUSB0 with ?baud=, bits=, parity= (none, even, odd) and
// stop= behind it.
func Dial(ctx context.Context, to string, f adapters.Framing) (*Conn, error) {
	kind, rest, _ := strings.Cut(to, ":")
	switch kind {
	case "tcp":
		address := strings.TrimPrefix(rest, "//")
		if _, _, err := net.SplitHostPort(address); err != nil {
			return nil, fmt.Errorf("cannot send to %q: it must be tcp://host:port: %w", to, err)
		}
		conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, fmt.Errorf("cannot send to %s: %w; check that the receiver listens there", to, err)
		}
		return NewConn(conn, f, false)
	case "serial":
		port, err := openSerial(strings.TrimPrefix(rest, "//"))
		if err != nil {
			return nil, fmt.Errorf("cannot send to %s: %w", to, err)
		}
		return NewConn(port, f, true)
	}
	return nil, fmt.Errorf("cannot send to %q: it must be tcp://host:port or serial:/dev/…[?baud=9600]", to)
}

func (c *Conn) readAll(silence bool) {
	defer close(c.read)
	buf := make([]byte, 4096)
	for {
		n, err := c.line.Read(buf)
		if n > 0 {
			select {
			case c.read <- append([]byte(nil), buf[:n]...):
			case <-c.closed:
				return
			}
		}
		select {
		case <-c.closed:
			return
		default:
		}
		if err != nil && !(silence && errors.Is(err, io.EOF)) {
			c.err = err
			return
		}
	}
}

// Send sends one message.
func (c *Conn) Send(message []byte) error {
	c.last = framing.Append(c.last[:0], c.framing, message)
	_, err := c.line.Write(c.last)
	return err
}

// Receive gives the next message from the box, at latest at until. The error is ErrNoAnswer, that of ctx, or why the line has
// ended. A block that HLLP refuses is sent again, at most three times.
func (c *Conn) Receive(ctx context.Context, until time.Time) ([]byte, error) {
	late := time.NewTimer(time.Until(until))
	defer late.Stop()
	still := time.NewTicker(quiet)
	defer still.Stop()
	for repeats := 0; len(c.answers) == 0; {
		select {
		case p, ok := <-c.read:
			if !ok {
				c.dec.Cut(c.collect)
				if len(c.answers) > 0 {
					continue
				}
				return nil, fmt.Errorf("the line has ended: %w", c.err)
			}
			c.dec.Write(p, c.collect)
			still.Reset(quiet)
		case <-still.C:
			c.dec.Silence(c.collect)
		case <-late.C:
			if c.dec.Cut(c.collect); len(c.answers) == 0 {
				return nil, ErrNoAnswer
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if c.refused {
			c.refused = false
			if repeats++; repeats > 3 {
				return nil, errors.New("the receiver refuses the block each time (HLLP)")
			}
			if _, err := c.line.Write(c.last); err != nil {
				return nil, err
			}
		}
	}
	answer := c.answers[0]
	c.answers = c.answers[1:]
	return answer, nil
}

func (c *Conn) collect(m framing.Message) {
	switch {
	case m.Resend:
		c.refused = true
	case m.Nak != 0:
		c.line.Write(framing.AppendNak(nil, m.Nak))
	case len(m.Data) > 0:
		c.answers = append(c.answers, m.Data)
	}
}

// Close ends the line.
func (c *Conn) Close() error {
	var err error
	c.once.Do(func() {
		close(c.closed)
		err = c.line.Close()
		c.reader.Wait()
	})
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
