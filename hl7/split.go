package hl7

import "bytes"

// SplitMessages is a bufio.SplitFunc that cuts a file into messages: bare one
// after the other, MLLP-wrapped, with CR, LF or CR LF, in batches. Header and
// trailer lines of batches (FHS BHS BTS FTS) and blank bytes between messages
// are left out. What is no message becomes a token of its own, for Parse to
// refuse it with a reason. A message that begins an MLLP block whose end is
// missing keeps the block's first byte: see Cut. A Scanner's buffer must hold
// the largest message.
func SplitMessages(data []byte, atEOF bool) (advance int, token []byte, err error) {
	advance, token, _ = splitMessages(data, atEOF, 0)
	return advance, token, nil
}

// Splitter is SplitMessages for a Scanner whose bytes come in small pieces: it remembers how far a message has been looked at, so
// that each byte is looked at once. The zero Splitter is ready.
type Splitter struct{ known int }

// Split is a bufio.SplitFunc.
func (s *Splitter) Split(data []byte, atEOF bool) (advance int, token []byte, err error) {
	advance, token, s.known = splitMessages(data, atEOF, s.known)
	return advance, token, nil
}

// splitMessages cuts off the first token. Up to known the end of the token is not in data; unknown is that place for the next call.
func splitMessages(data []byte, atEOF bool, known int) (advance int, token []byte, unknown int) {
	at, block := 0, -1
	for at < len(data) {
		if c := data[at]; c == ' ' || c == '\t' || isTrailer(c) {
			switch c {
			case verticalTab:
				block = at
			case fileSeparator:
				block = -1
			}
			at++
			continue
		}
		envelope := isEnvelope(data, at)
		end, found := tokenEnd(data, max(at, known), envelope)
		if !found && !atEOF {
			unknown = end
			break
		}
		if envelope {
			at, block, known = end, -1, 0
			continue
		}
		if !found {
			end = len(data)
		}
		token = data[at:end]
		if block >= 0 && (end == len(data) || data[end] == verticalTab) {
			token = data[block:end]
		}
		for isTrailer(token[len(token)-1]) {
			token = token[:len(token)-1]
		}
		return end, token, 0
	}
	if block >= 0 && !atEOF {
		at = block
	}
	return at, nil, max(unknown-at, 0)
}

// Cut says whether a token of SplitMessages is an MLLP block without its end: a
// message of which the last part is missing. Nothing in it can be relied on; a
// value cut in the middle reads like a good one.
func Cut(token []byte) bool { return len(token) > 0 && token[0] == verticalTab }

// tokenEnd gives the end of the message, junk or envelope line that from is in: an MLLP byte or the next line that begins a message
// or a batch line, for an envelope any next line. If it is not found, end is where to look on when there is more.
func tokenEnd(data []byte, from int, envelope bool) (end int, found bool) {
	const header = len("\xef\xbb\xbfMSH|")
	end = len(data)
	for i := from; i < len(data); i++ {
		switch data[i] {
		case verticalTab, fileSeparator:
			return i, true
		case '\r', '\n':
			next := i + 1
			if envelope {
				return next, true
			}
			for next < len(data) && (data[next] == '\n' || data[next] == '\r') {
				next++
			}
			if at := next + markLen(data[next:]); isHeaderAt(data, at, "MSH") || isEnvelope(data, at) {
				return next, true
			}
			i = next - 1                                     // a run of line ends is looked at once
			if next+header > len(data) && end == len(data) { // what follows may become a header
				end = i
			}
		}
	}
	return end, false
}

// isEnvelope says whether a batch line starts at i (HL7 v2.9 §2.10.3).
func isEnvelope(b []byte, i int) bool {
	i += markLen(b[i:])
	for _, name := range [...]string{"FHS", "BHS", "BTS", "FTS"} {
		if isHeaderAt(b, i, name) {
			return true
		}
	}
	return false
}

// Messages cuts what stands in one frame into its messages, in order, with nothing left out: the header lines of a batch go
// with the message after them, all else with the message before it. A frame of one message, or of none, is one part.
func Messages(frame []byte) [][]byte {
	if first := bytes.Index(frame, []byte("MSH")); first < 0 || !bytes.Contains(frame[first+3:], []byte("MSH")) {
		return [][]byte{frame} // as nearly all are
	}
	var parts [][]byte
	from, header, found := 0, -1, false
	for at := 0; at < len(frame); at++ { // at the start of a line
		switch i := at + markLen(frame[at:]); {
		case isHeaderAt(frame, i, "MSH"):
			cut := at
			if header >= 0 {
				cut, header = header, -1
			}
			if found {
				parts = append(parts, frame[from:cut:cut])
				from = cut
			}
			found = true
		case header < 0 && (isHeaderAt(frame, i, "FHS") || isHeaderAt(frame, i, "BHS")):
			header = at
		}
		n := bytes.IndexAny(frame[at:], "\r\n\v\x1c")
		if n < 0 {
			break
		}
		at += n
	}
	return append(parts, frame[from:])
}
