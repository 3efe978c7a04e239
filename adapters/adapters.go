// Package adapters is how bytes come in: it says what a monitor's message is (Frame), how it is answered (Frame.Reply)
// and what reads monitors (Adapter). The sub-packages mllp, serial and pds read them; framing finds messages in a byte
// stream. Nothing here knows HL7 beyond the three letters that begin a message, but pds knows the class in MSH-10 that its protocol rests on.
package adapters

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Window is how many frames of one connection may be unanswered. Beyond it the connection is not read any more, so a
// stalled box shows to the monitor as a full TCP window or lowered RTS, and memory stays bounded.
const Window = 64

// DefaultMaxMessage is the largest message, in bytes, that an adapter takes unless told otherwise.
const DefaultMaxMessage = 1 << 20

// Notes that an adapter puts on a frame: what was unusual about how it came in. The codes are stable.
//
// A frame with a note for which Partial is true is not the whole message, or not as the monitor sent it. Keep it, but chart
// nothing from it: a value cut in the middle ("12" of "120") reads like a good one.
const (
	NoteJunk         = "junk-before-start" // bytes between the frame before and this one; they were dropped and counted
	NoteNulPadding   = "nul-padding"       // NUL bytes between frames
	NoteDoubledStart = "doubled-start"     // 0B 0B
	NoteDoubledEnd   = "doubled-end"       // 1C 1C, or a second 1C 0D (then it stands on the frame after)
	NoteNoTrailingCR = "no-trailing-cr"    // 1C without 0D
	NoteNoEnd        = "no-end"            // the next message began before this one ended
	NoteControlByte  = "control-in-data"   // 0B or 1C inside a message; kept
	NoteEmpty        = "empty-frame"       // a frame without a byte came before this one
	NoteTooLong      = "too-long"          // the first MaxMessage bytes; the rest was dropped and counted
	NoteIncomplete   = "incomplete"        // the sender stopped in the middle, or went away
	NoteIdleEnded    = "idle-ended"        // unframed: silence ended the message, after a whole segment
	NoteUnterminated = "unterminated"      // unframed: silence or close ended the message in the middle of a segment
	NoteNoHeader     = "no-header"         // unframed: does not begin with MSH
	NoteFramed       = "framed"            // unframed: MLLP bytes were there all the same
	NoteHLLP         = "hllp-block"        // MLLP: looks like an HLLP block, so the configuration should say hllp
	NoteNoChecksum   = "no-checksum"       // HLLP: the sender gave 999 for the checksum
	NoteRefused      = "refused-before"    // HLLP: a block before this frame was damaged; it was refused, dropped and counted
	NoteLineError    = "line-error"        // serial: a byte came damaged and was replaced by 1A, or bytes were lost in or before this message
)

// Partial says whether notes mean that a frame is not a whole, undamaged message.
func Partial(notes []string) bool {
	for _, n := range notes {
		switch n {
		case NoteNoEnd, NoteTooLong, NoteIncomplete, NoteUnterminated, NoteNoHeader, NoteLineError, NoteHLLP:
			return true
		}
	}
	return false
}

// Frame is one message as the monitor sent it, framing bytes removed.
type Frame struct {
	Monitor string    // configured name of the monitor, e.g. "icu-3-bed-12"
	Via     string    // "tcp 127.0.0.1:51234", "serial /dev/ttyUSB0"
	Line    uint64    // the connection, by a number that no other has had or will have in this process; 0: not known (NewLine)
	Data    []byte    // owned by the receiver
	Arrived time.Time // when its last byte was read
	Notes   []string  // framing deviations: the Note constants

	reply   func(acks ...[]byte) error
	replied atomic.Bool
}

// NewFrame makes a frame whose Reply calls reply, at most once. reply must not block.
func NewFrame(monitor, via string, data []byte, arrived time.Time, notes []string, reply func(acks ...[]byte) error) *Frame {
	return &Frame{Monitor: monitor, Via: via, Data: data, Arrived: arrived, Notes: notes, reply: reply}
}

var lines atomic.Uint64

// NewLine gives a number to a connection that was opened: what a monitor says on one connection holds on no other.
func NewLine() uint64 { return lines.Add(1) }

// ErrReplied says that a frame was answered twice. It is a mistake of the caller; the monitor saw the first answer only.
var ErrReplied = errors.New("cannot answer a frame twice")

// ErrGone says that the connection of a frame is closed. A monitor that waits for an answer sends the message again.
var ErrGone = errors.New("the connection is closed")

// Reply answers the monitor with HL7 acknowledgements, each of which the adapter frames, or with nothing; enhanced mode may want
// two (HL7 v2.9 §2.9.3). Call it exactly once for each frame: a frame without Reply holds one place of its connection's Window for
// ever. Reply does not block; answers leave in the order of their frames, so an answer waits for those of the frames before it.
// The acknowledgements belong to the adapter after the call; nil ones are left out. The error is ErrReplied or wraps ErrGone.
func (f *Frame) Reply(acks ...[]byte) error {
	if f.replied.Swap(true) {
		return fmt.Errorf("monitor %s: %w", f.Monitor, ErrReplied)
	}
	if err := f.reply(acks...); err != nil {
		return fmt.Errorf("cannot answer monitor %s over %s: %w", f.Monitor, f.Via, err)
	}
	return nil
}

// Split makes frames of the messages that f holds, each to be answered for itself. When all are answered, f is, with their answers in
// order. What was noted of f holds for each of them.
func (f *Frame) Split(messages [][]byte) []*Frame {
	if len(messages) == 1 {
		return []*Frame{f}
	}
	var mu sync.Mutex
	answers, left := make([][][]byte, len(messages)), len(messages)
	parts := make([]*Frame, len(messages))
	for i, data := range messages {
		parts[i] = NewFrame(f.Monitor, f.Via, data, f.Arrived, f.Notes, func(acks ...[]byte) error {
			mu.Lock()
			defer mu.Unlock()
			answers[i] = acks
			if left--; left > 0 {
				return nil
			}
			return f.Reply(slices.Concat(answers...)...)
		})
		parts[i].Line = f.Line
	}
	return parts
}

// Adapter reads one monitor for as long as ctx lives. It reconnects, listens again and opens again by itself, and returns
// only when ctx ends (with nil) or on an error that a person has to mend, such as a port in use. A device that is not there
// is no error: it is a Status. When Run has returned it uses out no more. Run is called once.
type Adapter interface {
	Run(ctx context.Context, out chan<- *Frame) error
	Status() Status
}

// State says what an adapter is doing.
const (
	StateListening = "listening" // a server without a connection
	StateConnected = "connected"
	StateWaiting   = "waiting" // the monitor or the network is not there; Detail says what is tried
	StateFailed    = "failed"  // the port or the device cannot be opened; Detail holds the remedy
)

// Status is what an adapter knows about itself. Counters are cumulative since the start.
type Status struct {
	Monitor, Kind, Address string // Kind: "mllp-server", "mllp-client", "serial" or "mindray-pds"
	State                  string // the State constants
	Detail                 string // one sentence for a person, with the remedy if there is one; never patient data
	Connections            int    // open now
	Refused                uint64 // connections closed at once because MaxConnections were open
	Frames, Bytes, Replies uint64 // Bytes: all that were read
	Dropped                uint64 // bytes outside frames, past MaxMessage, or in HLLP blocks that were refused
	Undelivered            uint64 // messages that were read and found no room before the program ended
	LastFrame              time.Time
	Line                   *LineStatus // serial only
}

// LineStatus is the health of a serial line. Error counts are the kernel's (TIOCGICOUNT) where Counted, else what the adapter
// saw itself in the data (parity and framing errors cannot be told apart there and stand under Framing).
type LineStatus struct {
	Counted                                         bool
	Parity, Framing, Overrun, BufferOverrun, Breaks uint64
	Modem                                           bool // DCD, DSR and CTS are known
	DCD, DSR, CTS                                   bool
}

// Framing is how messages stand in the byte stream.
type Framing string

const (
	MLLP     Framing = "mllp" // 0B data 1C 0D
	HLLP     Framing = "hllp" // 0B t vv 0D data ccccc xxx 1C 0D
	Unframed Framing = "none" // bare messages; each begins with MSH
)

// Check says whether f is a framing, with the three possible values in the error.
func (f Framing) Check() error {
	switch f {
	case MLLP, HLLP, Unframed:
		return nil
	}
	return fmt.Errorf("cannot use framing %q: it must be \"mllp\", \"hllp\" or \"none\"", string(f))
}
