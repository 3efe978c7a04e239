package hl7

import (
	"strconv"
	"strings"
)

// Codes of HL7 table 0357, Message Error Condition Codes.
const (
	CodeAccepted           = 0
	CodeSegmentSequence    = 100
	CodeFieldMissing       = 101
	CodeDataType           = 102
	CodeTableValue         = 103
	CodeTooLong            = 104
	CodeCardinality        = 198
	CodeOther              = 199
	CodeUnsupportedType    = 200
	CodeUnsupportedEvent   = 201
	CodeUnsupportedProcess = 202
	CodeUnsupportedVersion = 203
	CodeUnknownKey         = 204
	CodeDuplicateKey       = 205
	CodeLocked             = 206
	CodeInternal           = 207
)

// conditionText holds the display names of table 0357.
func conditionText(code int) string {
	switch code {
	case CodeAccepted:
		return "Message accepted"
	case CodeSegmentSequence:
		return "Segment sequence error"
	case CodeFieldMissing:
		return "Required field missing"
	case CodeDataType:
		return "Data type error"
	case CodeTableValue:
		return "Table value not found"
	case CodeTooLong:
		return "Value too long"
	case CodeCardinality:
		return "Non-Conformant Cardinality"
	case CodeUnsupportedType:
		return "Unsupported message type"
	case CodeUnsupportedEvent:
		return "Unsupported event code"
	case CodeUnsupportedProcess:
		return "Unsupported processing id"
	case CodeUnsupportedVersion:
		return "Unsupported version id"
	case CodeUnknownKey:
		return "Unknown key identifier"
	case CodeDuplicateKey:
		return "Duplicate key identifier"
	case CodeLocked:
		return "Application record locked"
	case CodeInternal:
		return "Application internal error"
	}
	return "Other HL7 Error"
}

// Error says what is wrong with a message and where. It never quotes a value
// of the message, so it may be logged, shown and sent back to the monitor.
type Error struct {
	Code     int    // HL7 table 0357
	Segment  string // name of the segment, "" where none is meant
	Sequence int    // 1-based occurrence of that segment, 0 not given

	Field, Repetition, Component, Subcomponent int // 1-based, 0 not given

	Offset int    // byte offset in the raw message, 0 not given
	What   string // one sentence part that begins with "cannot"
	Remedy string // what a person can do about it
}

// Error gives location, what and remedy in one line.
func (e *Error) Error() string {
	s := e.What
	if at := e.Location(); at != "" {
		s = at + ": " + s
	}
	if e.Remedy != "" {
		s += "; " + e.Remedy
	}
	return s
}

// Location names the place as "OBX[3]-5.1", with the repetition as
// "PID[1]-3[2].1"; it is empty where no segment is meant.
func (e *Error) Location() string {
	if e.Segment == "" {
		return ""
	}
	var b strings.Builder
	b.WriteString(e.Segment)
	if e.Sequence > 0 {
		b.WriteString("[" + strconv.Itoa(e.Sequence) + "]")
	}
	if e.Field == 0 {
		return b.String()
	}
	b.WriteString("-" + strconv.Itoa(e.Field))
	if e.Repetition > 1 {
		b.WriteString("[" + strconv.Itoa(e.Repetition) + "]")
	}
	if e.Component > 0 {
		b.WriteString("." + strconv.Itoa(e.Component))
		if e.Subcomponent > 0 {
			b.WriteString("." + strconv.Itoa(e.Subcomponent))
		}
	}
	return b.String()
}

// Finding is a deviation that did not keep the message from being read. It
// holds no value of the message.
type Finding struct {
	Code  string // stable short code, see the Finding constants
	Where string // "MSH-2", "segment 4", "" for the message as a whole
	What  string // one sentence for a person
}

// Codes of findings.
const (
	FindingByteOrderMark    = "byte-order-mark"    // BOM or U+2028 before MSH
	FindingJunkBeforeMSH    = "junk-before-msh"    // other bytes before MSH
	FindingFramingBytes     = "framing-bytes"      // MLLP bytes left around the message
	FindingBatchEnvelope    = "batch-envelope"     // FHS or BHS before MSH
	FindingDelimiters       = "delimiters"         // MSH-1/MSH-2 are not |^~\&
	FindingShortDelimiters  = "short-delimiters"   // MSH-2 has less than four characters
	FindingDoubledEscape    = "doubled-escape"     // MSH-2 is ^~\\&
	FindingLineFeed         = "line-feed"          // LF alone ends the segments
	FindingCarriageLineFeed = "crlf"               // CR LF ends the segments
	FindingMixedTerminators = "mixed-terminators"  // CR, CR LF and LF side by side
	FindingLineFeedInField  = "line-feed-in-field" // LF kept as data
	FindingOddSegment       = "odd-segment"        // a line that begins with no segment name
	FindingIndented         = "indented-segment"   // blanks before a segment name
	FindingContinuation     = "continuation"       // ADD or DSC segment
	FindingTypeMissing      = "type-missing"       // MSH-9.1 empty
	FindingIDMissing        = "id-missing"         // MSH-10 empty
	FindingVersionMissing   = "version-missing"    // MSH-12 empty
	FindingCharsetUnknown   = "charset-unknown"    // MSH-18 names no character set we know
	FindingCharsetMismatch  = "charset-mismatch"   // bytes do not fit MSH-18
	FindingCharsetDoubtful  = "charset-doubtful"   // bytes read better as UTF-8 than as MSH-18
	FindingCharsetAssumed   = "charset-assumed"    // no MSH-18 and bytes outside ASCII
)
