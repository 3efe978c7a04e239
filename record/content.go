package record

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
)

// Content is what a leaf seals: the Bundle that was made of a message, and the message itself.
type Content struct {
	Monitor string   // configured name of the monitor
	Via     string   // how it came: "tcp 10.0.0.7:51234", "serial /dev/ttyUSB0"
	Reason  string   // why there is no Bundle; "" where there is one
	Notes   []string // what was bent in the message or its framing: short codes without spaces
	Bundle  []byte   // FHIR JSON, exactly as it was made
	Raw     []byte   // the message, exactly as it came
}

const (
	contentMagic     = "vitalgate/content/v1"
	maxContentHeader = 64 << 10
)

// AppendBinary appends the text header (the lines monitor, via, reason and notes where they are not empty, bundle and raw with
// their lengths), a blank line, the Bundle and the message. A control character in a line of the header becomes a space.
func (c Content) AppendBinary(dst []byte) ([]byte, error) {
	head := len(c.Monitor) + len(c.Via) + len(c.Reason)
	for _, n := range c.Notes {
		head += len(n)
	}
	if len(c.Bundle)+len(c.Raw) > MaxContent-maxContentHeader || head > maxContentHeader/4 || len(c.Notes) > 256 {
		return dst, ErrTooLarge
	}
	dst = c.appendHeader(dst, len(c.Bundle), len(c.Raw))
	dst = append(dst, c.Bundle...)
	return append(dst, c.Raw...), nil
}

func (c Content) appendHeader(dst []byte, bundle, raw int) []byte {
	dst = append(dst, contentMagic+"\n"...)
	dst = appendLine(dst, "monitor ", c.Monitor)
	dst = appendLine(dst, "via ", c.Via)
	dst = appendLine(dst, "reason ", c.Reason)
	for _, n := range c.Notes {
		dst = appendLine(dst, "note ", n)
	}
	return fmt.Appendf(dst, "bundle %d\nraw %d\n\n", bundle, raw)
}

func appendLine(dst []byte, key, value string) []byte {
	if value == "" {
		return dst
	}
	dst = append(dst, key...)
	for _, r := range value {
		if r < 0x20 || r == 0x7f {
			r = ' '
		}
		dst = utf8.AppendRune(dst, r)
	}
	return append(dst, '\n')
}

// ParseContent reads the form of AppendBinary. Bundle and Raw of the result are parts of b.
func ParseContent(b []byte) (Content, error) {
	bad := func(what string) (Content, error) { return Content{}, errors.New("cannot read content: " + what) }
	end := bytes.Index(b[:min(len(b), maxContentHeader)], []byte("\n\n"))
	if end < 0 || len(b) > MaxContent {
		return bad("no header of the allowed size")
	}
	var c Content
	var bundle, raw uint64
	lines := lineReader{rest: string(b[:end+1])}
	if lines.next() != contentMagic {
		return bad("the first line is not " + contentMagic)
	}
	for lines.rest != "" && lines.err == nil {
		key, _, _ := strings.Cut(lines.rest, " ")
		switch key {
		case "monitor":
			c.Monitor = lines.value(key)
		case "via":
			c.Via = lines.value(key)
		case "reason":
			c.Reason = lines.value(key)
		case "note":
			c.Notes = append(c.Notes, lines.value(key))
		default:
			bundle = lines.uint("bundle")
			raw = lines.uint("raw")
			if lines.rest != "" {
				return bad("there are lines after the lengths")
			}
		}
	}
	if lines.err != nil {
		return bad(lines.err.Error())
	}
	rest := b[end+2:]
	if bundle > uint64(len(rest)) || raw != uint64(len(rest))-bundle {
		return bad("the lengths do not fit")
	}
	c.Bundle, c.Raw = rest[:bundle:bundle], rest[bundle:]
	if !bytes.Equal(c.appendHeader(nil, len(c.Bundle), len(c.Raw)), b[:end+2]) {
		return bad("the header is not in its canonical form")
	}
	return c, nil
}

// The plaintext of a body is the salt of the commitment (32 bytes), the encoding (1) and the content in that encoding.
const (
	saltSize     = 32
	encodingNone = 0
	encodingZstd = 1
)

func commitment(salt, content []byte) (sum [32]byte) {
	mac := hmac.New(sha256.New, salt)
	mac.Write(content)
	mac.Sum(sum[:0])
	return sum
}

func newCompressor() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithWindowSize(256<<10), zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(err) // the options are constants
	}
	return e
}

func newDecompressor() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxContent), zstd.WithDecoderLowmem(true))
	if err != nil {
		panic(err) // the options are constants
	}
	return d
}

// decompress refuses a frame that does not say its size or says more than MaxContent, before it takes memory.
func decompress(d *zstd.Decoder, b []byte) ([]byte, error) {
	var h zstd.Header
	if err := h.Decode(b); err != nil || !h.HasFCS || h.Skippable || h.FrameContentSize > MaxContent {
		return nil, errors.New("the compressed content has no acceptable size")
	}
	out, err := d.DecodeAll(b, make([]byte, 0, h.FrameContentSize))
	if err != nil || uint64(len(out)) != h.FrameContentSize {
		return nil, errors.New("the compressed content is damaged")
	}
	return out, nil
}
