// Package hl7 reads and writes HL7 v2 messages of versions 2.1 to 2.9 in the
// ER7 ("vertical bar") encoding. It does no input or output.
//
// A Message is an index over the bytes that arrived: nothing is copied, and
// nothing is decoded until a Value is asked for its text. What deviates from
// the standard but can be read is a Finding; what cannot be read is an *Error.
package hl7

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/bits"
	"strconv"
)

// Limits bound what a message may ask of us before anything is allocated for it.
type Limits struct {
	Bytes    int // of the whole message
	Segments int // lines
	Fields   int // field separators in all segments together
}

// DefaultLimits are far above any monitor's message.
var DefaultLimits = Limits{Bytes: 1 << 20, Segments: 10000, Fields: 200000}

// Delimiters are the characters of MSH-1 and MSH-2 (HL7 v2.9 §2.5.4). A zero
// byte means that the message has no such delimiter.
type Delimiters struct {
	Field, Component, Repetition, Escape, Subcomponent, Truncation byte
}

// StandardDelimiters are |^~\&.
var StandardDelimiters = Delimiters{Field: '|', Component: '^', Repetition: '~', Escape: '\\', Subcomponent: '&'}

// Message is one HL7 v2 message. The zero value is empty and ready for Reset.
// Segments, Values and Findings are valid until the next Reset and as long as
// the raw bytes stay as they are; texts are copies. Reading methods may be
// called from several goroutines, Reset may not.
type Message struct {
	raw      []byte
	segments []segment
	bars     []uint32 // offsets of all field separators, segment by segment
	names    []nameCount
	slots    [64]int32 // 1 + index in names of the name met last of those that share the slot
	delims   Delimiters
	charset  *charset
	assumed  bool
	findings []Finding

	// Texts of MSH-9 and MSH-12, kept from message to message while they stay the same.
	code, event, structure, version string
}

// segment is one entry of the index.
type segment struct {
	start, end uint32 // without the terminator
	first      uint32 // index of its first separator in bars
	name       uint32 // its first three bytes; 0 for an odd segment
	sequence   int32  // 1-based occurrence of the name
}

// nameCount is how often a segment name has come. A message has few names and may have many segments, so names are
// chained and not segments: the work stays bounded however the names fall into the slots.
type nameCount struct {
	name  uint32
	count int32
	next  int32 // 1 + index of the next name in the same slot
}

// occurred counts one more segment of that name and gives the count.
func (m *Message) occurred(name uint32) int32 {
	slot := &m.slots[name*0x9e3779b1>>26]
	for i := *slot; i != 0; i = m.names[i-1].next {
		if n := &m.names[i-1]; n.name == name {
			n.count++
			return n.count
		}
	}
	m.names = append(m.names, nameCount{name, 1, *slot})
	*slot = int32(len(m.names))
	return 1
}

// Parse indexes a message under DefaultLimits. It keeps raw and does not copy
// it. The error is always an *Error.
func Parse(raw []byte) (*Message, error) {
	m := new(Message)
	if err := m.Reset(raw, DefaultLimits); err != nil {
		return nil, err
	}
	return m, nil
}

// Reset makes m the message in raw, reusing the index of the message before.
// A zero limit means its default. The error is always an *Error; m is then empty.
func (m *Message) Reset(raw []byte, lim Limits) error {
	if err := m.reset(raw, lim); err != nil {
		m.clear(nil)
		return err
	}
	return nil
}

func (m *Message) clear(raw []byte) {
	m.raw, m.segments, m.bars, m.findings = raw, m.segments[:0], m.bars[:0], m.findings[:0]
	m.delims, m.charset, m.assumed = Delimiters{}, charsetUTF8, false
	if raw == nil {
		m.code, m.event, m.structure, m.version = "", "", "", ""
	}
}

func (m *Message) reset(raw []byte, lim Limits) *Error {
	if lim.Bytes <= 0 {
		lim.Bytes = DefaultLimits.Bytes
	}
	if lim.Segments <= 0 {
		lim.Segments = DefaultLimits.Segments
	}
	if lim.Fields <= 0 {
		lim.Fields = DefaultLimits.Fields
	}
	if len(raw) > min(lim.Bytes, math.MaxInt32) {
		return &Error{Code: CodeTooLong, What: "cannot take a message of more than " + strconv.Itoa(lim.Bytes) + " bytes", Remedy: "raise the message limit if the monitor really sends that much"}
	}
	m.clear(raw)
	start, e := m.findHeader()
	if e != nil {
		return e
	}
	end := m.findEnd(start)
	if e := m.readDelimiters(start, end); e != nil {
		return e
	}
	if e := m.grownTogether(start, end); e != nil {
		return e
	}
	x := indexer{m: m, body: raw[:end], start: start, lim: lim}
	high, e := x.run()
	if e != nil {
		return e
	}
	m.chooseCharset(raw[start:end], high)
	if m.charset.skip != nil && (high || x.escapes) {
		// Trail bytes of these character sets look like delimiters: index again, character by character.
		m.segments, m.bars = m.segments[:0], m.bars[:0]
		x = indexer{m: m, body: raw[:end], start: start, lim: lim}
		if e := x.runMultibyte(); e != nil {
			return e
		}
	}
	m.readHeader()
	return nil
}

const (
	verticalTab   = 0x0b // MLLP start of block
	fileSeparator = 0x1c // MLLP end of block
)

// isTrailer names the bytes that end a message and belong to no field.
func isTrailer(c byte) bool {
	return c == '\r' || c == '\n' || c == 0 || c == fileSeparator || c == verticalTab
}

// findEnd gives the end of the last segment: what ends a message, and blank lines, are left out, so that the last segment
// ends where it would if the message were written anew (Append).
func (m *Message) findEnd(start int) int {
	raw, end := m.raw, len(m.raw)
	for end > start {
		if c := raw[end-1]; isTrailer(c) {
			if c == fileSeparator || c == verticalTab {
				m.note(FindingFramingBytes, "", "MLLP framing bytes were left after the message")
			}
			end--
			continue
		}
		at := end
		for at > start && isBlankInLine(raw[at-1]) {
			at--
		}
		if at == end || at == start || raw[at-1] != '\r' && raw[at-1] != '\n' {
			break
		}
		end = at
	}
	return end
}

// isBlankInLine names the bytes that make no line of their own.
func isBlankInLine(c byte) bool { return c == ' ' || c == '\t' || c == 0 }

// findHeader gives the offset of MSH. HL7 wants it at 0; editors, gateways and
// torn frames put byte order marks, line ends and other things before it.
func (m *Message) findHeader() (int, *Error) {
	raw := m.raw
	if isHeaderAt(raw, 0, "MSH") {
		return 0, nil
	}
	if len(raw) >= 2 && (raw[0] == 0xff && raw[1] == 0xfe || raw[0] == 0xfe && raw[1] == 0xff || raw[0] == 0 || raw[1] == 0) && bytes.Contains(raw, []byte{'M', 0, 'S', 0, 'H'}) {
		return 0, &Error{Code: CodeSegmentSequence, What: "cannot read UTF-16", Remedy: "let the sender use UNICODE UTF-8"}
	}
	at := 0
	for at < len(raw) {
		switch n := markLen(raw[at:]); {
		case n > 0:
			m.note(FindingByteOrderMark, "", "a byte order mark or line separator stands before MSH")
			at += n
			continue
		case raw[at] == verticalTab || raw[at] == fileSeparator:
			m.note(FindingFramingBytes, "", "MLLP framing bytes were left before the message")
			at++
			continue
		case raw[at] == '\r' || raw[at] == '\n' || raw[at] == ' ' || raw[at] == '\t' || raw[at] == 0:
			at++
			continue
		}
		break
	}
	if isHeaderAt(raw, at, "MSH") {
		if at > 0 && len(m.findings) == 0 {
			m.note(FindingJunkBeforeMSH, "", "blank bytes stand before MSH")
		}
		return at, nil
	}
	if isHeaderAt(raw, at, "FHS") || isHeaderAt(raw, at, "BHS") {
		m.note(FindingBatchEnvelope, "", "a batch envelope stands before MSH")
	} else {
		m.note(FindingJunkBeforeMSH, "", "bytes that are no HL7 segment stand before MSH")
	}
	for i := at; ; i++ {
		n := bytes.Index(raw[i:], []byte("MSH"))
		if n < 0 {
			return 0, &Error{Code: CodeSegmentSequence, Segment: "MSH", What: "cannot find the message header", Remedy: "a message must begin with MSH and its delimiters"}
		}
		if i += n; isHeaderAt(raw, i, "MSH") {
			return i, nil
		}
	}
}

// markLen is the length of a byte order mark or U+2028 at the start of b.
func markLen(b []byte) int {
	if len(b) >= 3 && (b[0] == 0xef && b[1] == 0xbb && b[2] == 0xbf || b[0] == 0xe2 && b[1] == 0x80 && b[2] == 0xa8) {
		return 3
	}
	return 0
}

// isHeaderAt says whether a header segment of that name starts at i.
func isHeaderAt(b []byte, i int, name string) bool {
	return i+3 < len(b) && string(b[i:i+3]) == name && isDelimiter(b[i+3])
}

// isDelimiter: printable ASCII that is no letter, digit or blank.
func isDelimiter(c byte) bool {
	return c > ' ' && c < 0x7f && !(c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z')
}

// readDelimiters reads MSH-1 and MSH-2 (HL7 v2.9 §2.5.4, §2.14.9.1, §2.14.9.2).
func (m *Message) readDelimiters(start, end int) *Error {
	d := Delimiters{Field: m.raw[start+3]}
	list := m.raw[start+4 : end]
	for i, c := range list {
		if c == d.Field || c == '\r' || c == '\n' {
			list = list[:i]
			break
		}
	}
	bad := func(what string) *Error {
		return &Error{Code: CodeDataType, Segment: "MSH", Sequence: 1, Field: 2, Offset: start + 4, What: what, Remedy: `the sender must declare its delimiters, normally ^~\&`}
	}
	switch string(list) {
	case `^~\&`, `^~\&#`:
		d.Component, d.Repetition, d.Escape, d.Subcomponent = '^', '~', '\\', '&'
		if len(list) == 5 {
			d.Truncation = '#'
		}
		if d.Field != '|' {
			m.note(FindingDelimiters, "MSH-1", "the field separator is not the usual one")
		}
		m.delims = d
		return nil
	case `^~\\&`, `^~\\&#`:
		// Seen where a program text's "\\" was sent as it stood.
		m.note(FindingDoubledEscape, "MSH-2", "the escape character is written twice; taken once")
		list = append(append(make([]byte, 0, 5), `^~\&`...), list[5:]...)
	case `^~&`:
		// Seen from GE VSP: the escape character is missing, not the subcomponent separator.
		m.note(FindingShortDelimiters, "MSH-2", "the escape character is missing; text is taken as it stands")
		d.Component, d.Repetition, d.Subcomponent = '^', '~', '&'
		m.delims = d
		return nil
	}
	if len(list) == 0 {
		return bad("cannot read a message without delimiters")
	}
	if len(list) > 5 {
		return bad("cannot read delimiters of more than five characters")
	}
	places := [...]*byte{&d.Component, &d.Repetition, &d.Escape, &d.Subcomponent, &d.Truncation}
	for i, c := range list {
		if !isDelimiter(c) {
			return bad("cannot take a letter, digit, blank or control byte as delimiter")
		}
		if bytes.IndexByte(list[:i], c) >= 0 {
			return bad("cannot tell the delimiters apart: two are the same character")
		}
		*places[i] = c
	}
	if len(list) < 4 {
		m.note(FindingShortDelimiters, "MSH-2", "less than four delimiters are declared; the others are not in use")
	} else if string(list[:4]) != `^~\&` {
		m.note(FindingDelimiters, "MSH-2", "the delimiters are not the usual ones")
	}
	m.delims = d
	return nil
}

// grownTogether refuses two messages of which the end of the first was lost with the start of the second's frame: the patient
// and the values of the one would be read as the other's. Text does not quote a whole MSH-1 and MSH-2.
func (m *Message) grownTogether(start, end int) *Error {
	const least = len(`MSH|^~&`)
	list := start + 4
	for list < end && isDelimiter(m.raw[list]) && m.raw[list] != m.delims.Field {
		list++
	}
	header := m.raw[start:list]
	if len(header) < least {
		return nil
	}
	if i := bytes.Index(m.raw[list:end], header); i >= 0 {
		return twoMessages(list + i)
	}
	return nil
}

func twoMessages(at int) *Error {
	return &Error{Code: CodeSegmentSequence, Segment: "MSH", Sequence: 2, Offset: at, What: "cannot read two messages as one", Remedy: "each message needs its own frame"}
}

// indexer finds segments and fields.
type indexer struct {
	m       *Message
	body    []byte // raw up to the end of the last segment
	start   int
	lim     Limits
	begin   int  // of the open segment
	first   int  // its first separator in bars
	cr, lf  bool // which terminators are in the body
	escapes bool // an ESC byte was seen
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// run indexes eight bytes at a time; it reports whether any byte is outside ASCII.
//
// Segments end at CR if the body has any, else at LF (HL7 v2.9 §2.5.2 knows
// only CR). Beside CR, a LF ends a segment only where it follows a CR or where
// a known segment name and a field separator come next: any other LF is data.
func (x *indexer) run() (high bool, err *Error) {
	x.prepare()
	m, b := x.m, x.body
	bar := m.delims.Field
	bars := m.bars
	pattern := uint64(bar) * ones
	var seen uint64
	for i := x.start; i < len(b); i += 8 {
		var w uint64
		if i+8 <= len(b) {
			w = binary.LittleEndian.Uint64(b[i:])
		} else {
			w = ^uint64(0)
			for j := len(b) - 1; j >= i; j-- {
				w = w<<8 | uint64(b[j])
			}
		}
		if i+8 <= len(b) {
			seen |= w
		} else {
			for _, c := range b[i:] {
				seen |= uint64(c)
			}
		}
		// Bytes equal to bar or below 0x20; a false hit can only follow a true one and is sorted out below.
		v := w ^ pattern
		hits := ((v-ones)&^v | (w-0x20*ones)&^w) & highs
		for ; hits != 0; hits &= hits - 1 {
			p := i + bits.TrailingZeros64(hits)>>3
			switch b[p] {
			case bar:
				bars = append(bars, uint32(p))
			case '\r', '\n', 0x1b:
				m.bars = bars
				if err := x.control(p); err != nil {
					return false, err
				}
				bars = m.bars
			}
		}
		if len(bars) > x.lim.Fields {
			return false, x.tooManyFields()
		}
	}
	m.bars = bars
	return seen&highs != 0, x.finish()
}

// runMultibyte is run for character sets whose characters may hold delimiter bytes.
func (x *indexer) runMultibyte() *Error {
	x.prepare()
	m := x.m
	for p := x.start; p < len(x.body); {
		if n := m.charset.skip(x.body[p:]); n > 1 {
			p += n
			continue
		}
		switch x.body[p] {
		case m.delims.Field:
			if m.bars = append(m.bars, uint32(p)); len(m.bars) > x.lim.Fields {
				return x.tooManyFields()
			}
		case '\r', '\n':
			if err := x.control(p); err != nil {
				return err
			}
		}
		p++
	}
	return x.finish()
}

func (x *indexer) prepare() {
	body := x.body[x.start:]
	x.cr = bytes.IndexByte(body, '\r') >= 0
	x.lf = bytes.IndexByte(body, '\n') >= 0
	x.begin = x.start
	clear(x.m.slots[:])
	x.m.names = x.m.names[:0]
	if x.lf && !x.cr {
		x.m.note(FindingLineFeed, "", "segments end with LF instead of CR")
	}
}

func (x *indexer) tooManyFields() *Error {
	return &Error{Code: CodeTooLong, What: "cannot take a message of more than " + strconv.Itoa(x.lim.Fields) + " fields", Remedy: "raise the field limit if the monitor really sends that much"}
}

// control handles CR, LF and ESC at p.
func (x *indexer) control(p int) *Error {
	switch {
	case x.body[p] == 0x1b:
		x.escapes = true
	case x.body[p] == '\r', !x.cr:
		return x.closeSegment(p)
	case p == x.begin: // the LF of a CR LF
		x.m.note(FindingCarriageLineFeed, "", "segments end with CR LF instead of CR")
		x.begin++
	case x.segmentAt(p + 1):
		x.m.note(FindingMixedTerminators, "", "segments end with CR here and with LF there")
		return x.closeSegment(p)
	case x.body[p+1] != '\r':
		x.m.noteSegment(FindingLineFeedInField, "a field holds a line feed; kept as text")
	}
	return nil
}

// segmentAt says whether a known segment name and a field separator stand at p.
func (x *indexer) segmentAt(p int) bool {
	b := x.body
	if p+3 >= len(b) || b[p+3] != x.m.delims.Field {
		return false
	}
	if b[p] == 'Z' {
		return packName(b[p:p+3]) != 0
	}
	_, known := segmentNames[[3]byte(b[p:p+3])]
	return known
}

func (x *indexer) finish() *Error {
	return x.closeSegment(len(x.body))
}

// closeSegment ends the open segment at end and opens the next one.
func (x *indexer) closeSegment(end int) *Error {
	m, b := x.m, x.body
	start, first, next := x.begin, x.first, end+1
	x.begin, x.first = next, len(m.bars)
	for x.lf && x.cr && end > start && b[end-1] == '\n' {
		end--
	}
	blank := start
	for blank < end && isBlankInLine(b[blank]) {
		blank++
	}
	if blank == end {
		return nil // a blank line
	}
	s := segment{start: uint32(start), end: uint32(end), first: uint32(first), sequence: 1}
	if named(b[blank:end], m.delims.Field) {
		if blank > start {
			m.noteSegment(FindingIndented, "blanks stand before the segment name")
			s.start = uint32(blank)
		}
		s.name = packName(b[blank : blank+3])
		s.sequence = m.occurred(s.name)
		if s.name == nameMSH && s.sequence > 1 {
			return twoMessages(start)
		}
		if s.name == nameADD || s.name == nameDSC {
			m.note(FindingContinuation, "", "the message is a part of a longer one (ADD or DSC)")
		}
	} else {
		m.noteSegment(FindingOddSegment, "a line does not begin with a segment name; kept, not read")
	}
	if len(m.segments) >= x.lim.Segments {
		return &Error{Code: CodeTooLong, What: "cannot take a message of more than " + strconv.Itoa(x.lim.Segments) + " segments", Remedy: "raise the segment limit if the monitor really sends that much"}
	}
	m.segments = append(m.segments, s)
	return nil
}

// named says whether line begins with a segment name (HL7 v2.9 §2.5.2): three
// capitals or digits, then a separator or the end.
func named(line []byte, bar byte) bool {
	return len(line) >= 3 && packName(line[:3]) != 0 && (len(line) == 3 || line[3] == bar)
}

// packName gives the name as a number, 0 if it is no segment name.
func packName(b []byte) uint32 {
	if b[0] < 'A' || b[0] > 'Z' || !isNameByte(b[1]) || !isNameByte(b[2]) {
		return 0
	}
	return uint32(b[0])<<16 | uint32(b[1])<<8 | uint32(b[2])
}

func isNameByte(c byte) bool { return c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' }

const (
	nameOBX = 'O'<<16 | 'B'<<8 | 'X'
	nameMSH = 'M'<<16 | 'S'<<8 | 'H'
	nameFHS = 'F'<<16 | 'H'<<8 | 'S'
	nameBHS = 'B'<<16 | 'H'<<8 | 'S'
	nameADD = 'A'<<16 | 'D'<<8 | 'D'
	nameDSC = 'D'<<16 | 'S'<<8 | 'C'
)

// readHeader reads what every reader of a message wants to know.
func (m *Message) readHeader() {
	h := m.Header()
	keep := func(s *string, v Value) {
		if string(v.Raw()) != *s || !v.Empty() && !v.plain() {
			*s = v.String()
		}
	}
	t := h.Field(9)
	keep(&m.code, t.Comp(1))
	keep(&m.event, t.Comp(2))
	keep(&m.structure, t.Comp(3))
	keep(&m.version, h.Field(12).Comp(1))
	if m.code == "" {
		m.note(FindingTypeMissing, "MSH-9", "the message type is missing")
	}
	if h.Field(10).Empty() {
		m.note(FindingIDMissing, "MSH-10", "the message control id is missing")
	}
	if m.version == "" {
		m.note(FindingVersionMissing, "MSH-12", "the HL7 version is missing")
	}
}

// note records a finding, each code once.
func (m *Message) note(code, where, what string) {
	if !m.noted(code) {
		m.findings = append(m.findings, Finding{code, where, what})
	}
}

// noteSegment records a finding about the segment that is being read.
func (m *Message) noteSegment(code, what string) {
	if !m.noted(code) {
		m.note(code, "segment "+strconv.Itoa(len(m.segments)+1), what)
	}
}

func (m *Message) noted(code string) bool {
	for i := range m.findings {
		if m.findings[i].Code == code {
			return true
		}
	}
	return false
}

// Raw is the message as it arrived, with anything around it.
func (m *Message) Raw() []byte { return m.raw }

// Len is the number of segments.
func (m *Message) Len() int { return len(m.segments) }

// Segment gives segment i, counted from 0; the empty Segment if there is none.
func (m *Message) Segment(i int) Segment {
	if i < 0 || i >= len(m.segments) {
		return Segment{}
	}
	return Segment{m, i}
}

// First gives the first segment of that name.
func (m *Message) First(name string) (Segment, bool) {
	if len(name) == 3 {
		if want := packName([]byte(name)); want != 0 {
			for i := range m.segments {
				if m.segments[i].name == want {
					return Segment{m, i}, true
				}
			}
		}
	}
	return Segment{}, false
}

// Header gives MSH.
func (m *Message) Header() Segment { return m.Segment(0) }

// Delimiters gives the delimiters that MSH-1 and MSH-2 declare.
func (m *Message) Delimiters() Delimiters { return m.delims }

// Type gives MSH-9: message code, trigger event and message structure, as in
// "ORU", "R01", "ORU_R01". Parts that are not sent are empty.
func (m *Message) Type() (code, event, structure string) { return m.code, m.event, m.structure }

// ControlID gives the text of MSH-10.
func (m *Message) ControlID() string { return m.Header().Field(10).String() }

// Version gives MSH-12.1, as in "2.6".
func (m *Message) Version() string { return m.version }

// Charset names the character set that text is decoded from (IANA name) and
// says whether it was assumed, because MSH-18 is silent, unknown or wrong.
func (m *Message) Charset() (name string, assumed bool) {
	if m.charset == nil {
		return charsetUTF8.name, false
	}
	return m.charset.name, m.assumed
}

// Findings lists what deviates from the standard, each code once. The slice is
// valid until the next Reset.
func (m *Message) Findings() []Finding { return m.findings }

// Append appends the message in its canonical form: from MSH on, every
// segment ended by CR, blank lines and framing left out, all else byte for byte.
// Parsed again it has the same segments, delimiters and character set, and is
// appended as the same bytes.
func (m *Message) Append(dst []byte) []byte {
	for i := range m.segments {
		s := &m.segments[i]
		dst = append(dst, m.raw[s.start:s.end]...)
		dst = append(dst, '\r')
	}
	return dst
}
