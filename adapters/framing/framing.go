// Package framing finds messages in a byte stream, and frames what is sent back.
//
// Decoder takes the bytes as they come, in pieces of any size, and gives messages; Line adds what a connection needs around
// it: the window of unanswered frames, answers in order, and the rules for silence.
package framing

import (
	"bytes"
	"fmt"

	"github.com/vitalgate/vitalgate/adapters"
)

const (
	vt  = 0x0B // start of a block
	fs  = 0x1C // end of a block, followed by cr
	cr  = '\r'
	lf  = '\n'
	nul = 0
)

// Message is what a Decoder found.
type Message struct {
	Data  []byte   // owned by the receiver; nil if the block was refused
	Notes []string // adapters.Note constants

	// Nak is the HLLP reason to refuse the block with, 0 if it is good. A block that is NakTooLong has Data all the same.
	Nak byte
	// Resend: the other side refused our last HLLP block and wants it again. There is no Data.
	Resend bool
}

// Append appends message to dst, framed.
func Append(dst []byte, f adapters.Framing, message []byte) []byte {
	switch f {
	case adapters.Unframed:
		return append(dst, message...)
	case adapters.HLLP:
		return appendHLLP(dst, 'D', message)
	}
	dst = append(dst, vt)
	dst = append(dst, message...)
	return append(dst, fs, cr)
}

// note is a set of notes; a set costs nothing for the many frames that have none.
type note uint32

const (
	junk note = 1 << iota
	nulPadding
	doubledStart
	doubledEnd
	noTrailingCR
	noEnd
	controlByte
	empty
	tooLong
	incomplete
	idleEnded
	unterminated
	noHeader
	framed
	hllpBlock
	noChecksum
	refused
	lineError
)

var noteNames = [...]string{
	adapters.NoteJunk, adapters.NoteNulPadding, adapters.NoteDoubledStart, adapters.NoteDoubledEnd, adapters.NoteNoTrailingCR,
	adapters.NoteNoEnd, adapters.NoteControlByte, adapters.NoteEmpty, adapters.NoteTooLong, adapters.NoteIncomplete,
	adapters.NoteIdleEnded, adapters.NoteUnterminated, adapters.NoteNoHeader, adapters.NoteFramed, adapters.NoteHLLP,
	adapters.NoteNoChecksum, adapters.NoteRefused, adapters.NoteLineError,
}

func (n note) names() []string {
	var names []string
	for i, name := range noteNames {
		if n&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// state of a Decoder.
type state uint8

const (
	outside  state = iota // between messages
	inside                // in a message
	afterVT               // in a message, and a 0B came: is it the start of the next one?
	afterFS               // in a message (unframed: within a segment), and a 1C came: is it the end?
	lineHead              // unframed: at the start of a segment, which may be the header of the next message
)

// Decoder cuts a byte stream into messages. Where the stream is cut into reads makes no difference to what it finds.
// It holds at most one message of at most max bytes. The zero Decoder is not usable.
type Decoder struct {
	framing adapters.Framing
	max     int

	state   state
	over    bool   // the message was too long and is delivered; what is left of it is dropped
	held    []byte // bytes since a 0B in a message, or since the start of a segment, not yet decided upon
	data    []byte // the message so far
	notes   note   // of the message so far, or of the one to come
	lost    int    // so many messages may lack bytes, from the one that is being read on; -1: all, until further notice
	dropped uint64
	emit    func(Message)

	trace func(kind byte, p []byte) // tests: every byte once, in order, as 'd'ata, 'f'raming or 'x' dropped
}

// NewDecoder makes a decoder for messages of at most max bytes.
func NewDecoder(f adapters.Framing, max int) (*Decoder, error) {
	if err := f.Check(); err != nil {
		return nil, err
	}
	if max < 16 {
		return nil, fmt.Errorf("cannot limit messages to %d bytes: a message header alone is longer; the default is %d", max, adapters.DefaultMaxMessage)
	}
	if f == adapters.HLLP {
		max += hllpHead + hllpTrail
	}
	d := &Decoder{framing: f, max: max}
	d.reset()
	return d, nil
}

// Write decodes p and calls emit for every message that it completes. It keeps nothing of p.
func (d *Decoder) Write(p []byte, emit func(Message)) {
	d.emit = emit
	if d.framing == adapters.Unframed {
		d.unframed(p)
	} else {
		d.blocks(p)
	}
}

// Silence tells the decoder that the sender has paused. A message that may be whole is taken as whole: one that ended in
// 1C without 0D, or an unframed one that ends with a whole segment.
func (d *Decoder) Silence(emit func(Message)) {
	d.emit = emit
	switch {
	case d.framing == adapters.Unframed && d.state == afterFS:
		if bytes.IndexByte(d.held, cr) > 0 {
			d.notes |= idleEnded
			d.release('f')
			d.finish()
		}
	case d.state == afterFS:
		d.release('f')
		d.notes |= noTrailingCR
		d.finish()
	case d.state == lineHead && len(d.held) == 0 && len(d.data) > 0:
		d.notes |= idleEnded
		d.finish()
	}
}

// Cut ends the message that is being read, if any, as adapters.NoteIncomplete (or, unframed, adapters.NoteUnterminated if it
// ends within a segment): the sender was silent for too long, too slow, or is gone.
func (d *Decoder) Cut(emit func(Message)) {
	d.Silence(emit)
	if !d.Pending() {
		return
	}
	if d.framing == adapters.Unframed {
		if d.state == afterFS {
			d.notes |= controlByte
		}
		if len(d.held) > 0 {
			d.body(d.held)
		}
		d.notes |= unterminated
	} else {
		d.take(d.held)
		d.notes |= incomplete
	}
	d.finish()
}

// Pending says whether a message has begun and has not ended.
func (d *Decoder) Pending() bool {
	if d.framing == adapters.Unframed {
		return len(d.data) > 0 || len(d.held) > 0 || d.over
	}
	return d.state != outside
}

// Dropped is the number of bytes that are in no message and are no framing.
func (d *Decoder) Dropped() uint64 { return d.dropped }

// Damaged notes that a byte of the message that is being read was damaged on the line.
func (d *Decoder) Damaged() {
	if d.Pending() {
		d.notes |= lineError
	}
}

// Lost notes that bytes were lost on the line without a trace in the stream: the message that is being read and the next one may
// lack them, or be two that have grown together. more says that the place may still lie ahead: all messages are doubtful until
// Lost is called without.
func (d *Decoder) Lost(more bool) {
	switch {
	case more:
		d.lost = -1
	case d.Pending() && !d.over:
		d.lost = 2
	default:
		d.lost = 1
	}
}

// take adds p to the message, up to the limit.
func (d *Decoder) take(p []byte) {
	if d.over {
		d.drop(p)
		return
	}
	n := min(len(p), d.max-len(d.data))
	d.data = append(d.data, p[:n]...)
	d.mark('d', p[:n])
	if n < len(p) {
		d.notes |= tooLong
		d.deliver()
		d.over = true
		d.drop(p[n:])
	}
}

func (d *Decoder) drop(p []byte) {
	d.dropped += uint64(len(p))
	d.mark('x', p)
}

func (d *Decoder) mark(kind byte, p []byte) {
	if d.trace != nil && len(p) > 0 {
		d.trace(kind, p)
	}
}

// release gives up the held bytes as framing or as dropped.
func (d *Decoder) release(kind byte) {
	if kind == 'x' {
		d.dropped += uint64(len(d.held))
	}
	d.mark(kind, d.held)
	d.held = d.held[:0]
}

// finish ends the message that is being read.
func (d *Decoder) finish() {
	switch {
	case d.over:
		d.notes = 0
	case len(d.data) > 0:
		d.deliver()
	default:
		d.notes |= empty // stays for the next one
	}
	d.reset()
}

func (d *Decoder) reset() {
	d.over, d.data, d.held = false, d.data[:0], d.held[:0]
	d.state = outside
	if d.framing == adapters.Unframed {
		d.state = lineHead
	}
	if cap(d.data) > 64<<10 {
		d.data = nil // one giant does not keep its memory for the life of a connection
	}
}

func (d *Decoder) deliver() {
	if d.framing == adapters.HLLP {
		d.deliverHLLP()
	} else {
		if d.framing == adapters.MLLP && looksLikeHLLP(d.data) {
			d.notes |= hllpBlock
		}
		d.give(d.data, 0)
	}
	d.data = d.data[:0]
}

// give emits data as a message. The notes are spent on it.
func (d *Decoder) give(data []byte, nak byte) {
	if d.lost != 0 {
		d.notes |= lineError
	}
	if d.lost > 0 {
		d.lost--
	}
	d.emit(Message{Data: bytes.Clone(data), Notes: d.notes.names(), Nak: nak})
	d.notes = 0
}
