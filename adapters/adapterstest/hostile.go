package adapterstest

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/vitalgate/vitalgate/adapters"
)

// Stream is what a monitor, a noisy line or somebody else sends on one connection until it ends, and what must come of it.
type Stream struct {
	Name    string
	Framing adapters.Framing
	In      string
	Want    []Got
}

// Got is a frame that came.
type Got struct {
	Data  string
	Notes []string
}

const (
	head = "MSH|^~\\&|SIM||||20260101120000||ORU^R01|1|P|2.6\rOBX|1|NM|147842^MDC_ECG_HEART_RATE^MDC||"
	tail = "|||||F\r"
	hr   = head + "120" + tail // a heart rate of 120
	bare = head + "120"        // the value is the last of the message, and no 0D ends it
	adt  = "MSH|^~\\&|SIM||||20260101120001||ADT^A01|2|P|2.3\rPID|||1\r"
)

// hllp frames data with a given count and checksum, "" for the right ones.
func hllp(data, count, sum string) string {
	block := "\vD23\r" + data
	x := 0
	for _, b := range []byte(block) {
		x ^= int(b)
	}
	if count == "" {
		count = fmt.Sprintf("%05d", len(block))
	}
	if sum == "" {
		sum = fmt.Sprintf("%03d", x)
	}
	return block + count + sum + "\x1c\r"
}

func got(data string, notes ...string) Got { return Got{data, notes} }

// Hostile are streams that are not as a standard wants them. The rule behind all expectations: what is whole comes as it was sent;
// what may be cut or damaged comes with a note that Partial knows, or with the damaged byte still in the value; what is no message
// at all is dropped and counted.
var Hostile = []Stream{
	// MLLP. The end is 1C 0D, wherever it stands: a block cannot be told from one that a damaged byte ended.
	{"whole", adapters.MLLP, "\v" + hr + "\x1c\r", []Got{got(hr)}},
	{"three without a pause", adapters.MLLP, "\v" + hr + "\x1c\r\v" + adt + "\x1c\r\v" + hr + "\x1c\r", []Got{got(hr), got(adt), got(hr)}},
	{"no last 0D in the message", adapters.MLLP, "\v" + bare + "\x1c\r\v" + adt + "\x1c\r", []Got{got(bare), got(adt)}},
	{"junk first", adapters.MLLP, "hello\v" + hr + "\x1c\r", []Got{got(hr, adapters.NoteJunk)}},
	{"junk between", adapters.MLLP, "\v" + hr + "\x1c\r\xff\xfe\v" + adt + "\x1c\r", []Got{got(hr), got(adt, adapters.NoteJunk)}},
	{"a bare message between blocks", adapters.MLLP, "\v" + hr + "\x1c\r" + hr + "\v" + adt + "\x1c\r", []Got{got(hr), got(adt, adapters.NoteJunk)}},
	{"line ends between", adapters.MLLP, "\v" + hr + "\x1c\r\r\n\n\v" + adt + "\x1c\r", []Got{got(hr), got(adt)}},
	{"0D missing", adapters.MLLP, "\v" + hr + "\x1c\v" + adt + "\x1c", []Got{got(hr, adapters.NoteNoTrailingCR), got(adt, adapters.NoteNoTrailingCR)}},
	{"0A for 0D", adapters.MLLP, "\v" + hr + "\x1c\n\v" + adt + "\x1c\n", []Got{got(hr, adapters.NoteNoTrailingCR), got(adt, adapters.NoteNoTrailingCR)}},
	{"padded with NUL", adapters.MLLP, "\v" + hr + "\x1c\r\x00\x00\v" + adt + "\x1c\r\x00", []Got{got(hr), got(adt, adapters.NoteNulPadding)}},
	{"0B doubled", adapters.MLLP, "\v\v" + hr + "\x1c\r", []Got{got(hr, adapters.NoteDoubledStart)}},
	{"1C doubled", adapters.MLLP, "\v" + hr + "\x1c\x1c\r", []Got{got(hr, adapters.NoteDoubledEnd)}},
	{"end doubled", adapters.MLLP, "\v" + hr + "\x1c\r\x1c\r\v" + adt + "\x1c\r", []Got{got(hr), got(adt, adapters.NoteDoubledEnd)}},
	{"a hundred 0B", adapters.MLLP, strings.Repeat("\v", 100) + hr + "\x1c\r", []Got{got(hr, adapters.NoteDoubledStart)}},
	{"the end lost in a value", adapters.MLLP, "\v" + head + "12\v" + adt + "\x1c\r", []Got{got(head+"12", adapters.NoteNoEnd), got(adt)}},
	{"end and start lost in a value", adapters.MLLP, "\v" + head + "12" + adt + "\x1c\r", []Got{got(head + "12" + adt)}}, // refused by the parser
	{"0B in a value", adapters.MLLP, "\v" + head + "12\v0" + tail + "\x1c\r", []Got{got(head+"12\v0"+tail, adapters.NoteControlByte)}},
	{"1C in a value", adapters.MLLP, "\v" + head + "12\x1c0" + tail + "\x1c\r", []Got{got(head+"12\x1c0"+tail, adapters.NoteControlByte)}},
	{"1C 1C in a value", adapters.MLLP, "\v" + head + "12\x1c\x1c0" + tail + "\x1c\r", []Got{got(head+"12\x1c\x1c0"+tail, adapters.NoteControlByte)}},
	{"NUL in a value", adapters.MLLP, "\v" + head + "12\x000" + tail + "\x1c\r", []Got{got(head + "12\x000" + tail)}},
	{"gone in a value", adapters.MLLP, "\v" + head + "12", []Got{got(head+"12", adapters.NoteIncomplete)}},
	{"gone behind a segment", adapters.MLLP, "\v" + hr, []Got{got(hr, adapters.NoteIncomplete)}},
	{"gone behind the 0B of the next", adapters.MLLP, "\v" + hr + "\vMS", []Got{got(hr+"\vMS", adapters.NoteIncomplete)}},
	{"gone before a byte of it", adapters.MLLP, "\v" + hr + "\x1c\r\v", []Got{got(hr)}},
	{"an empty block", adapters.MLLP, "\v\x1c\r\v" + hr + "\x1c\r", []Got{got(hr, adapters.NoteEmpty)}},
	{"commit bytes of MLLP 2", adapters.MLLP, "\v\x06\x1c\r\v" + hr + "\x1c\r", []Got{got("\x06"), got(hr)}},
	{"HLLP by mistake", adapters.MLLP, hllp(hr, "", ""), []Got{got(strings.TrimSuffix(hllp(hr, "", ""), "\x1c\r")[1:], adapters.NoteHLLP)}},
	{"two messages in one block", adapters.MLLP, "\v" + hr + adt + "\x1c\r", []Got{got(hr + adt)}}, // the pipeline takes them apart
	{"a batch in one block", adapters.MLLP, "\vFHS|^~\\&\rBHS|^~\\&\r" + hr + "BTS|1\rFTS|1\r\x1c\r", []Got{got("FHS|^~\\&\rBHS|^~\\&\r" + hr + "BTS|1\rFTS|1\r")}},
	{"a web browser", adapters.MLLP, "GET / HTTP/1.1\r\nHost: box\r\n\r\n", nil},
	{"a TLS client", adapters.MLLP, "\x16\x03\x01\x00\xf1\x01\x00\x00\xed\x03\x03", nil},
	{"bare messages", adapters.MLLP, hr + adt, nil},

	// HLLP. A block whose count or checksum is wrong is refused, for the sender has it still; the next one says so.
	{"HLLP", adapters.HLLP, hllp(hr, "", "") + hllp(adt, "", ""), []Got{got(hr), got(adt)}},
	{"HLLP, wrong count", adapters.HLLP, hllp(hr, "00012", "") + hllp(adt, "", ""), []Got{got(adt, adapters.NoteRefused)}},
	{"HLLP, wrong checksum", adapters.HLLP, hllp(hr, "", "000") + hllp(adt, "", ""), []Got{got(adt, adapters.NoteRefused)}},
	{"HLLP, a digit lost", adapters.HLLP, strings.Replace(hllp(hr, "", ""), "|120|", "|12|", 1) + hllp(adt, "", ""), []Got{got(adt, adapters.NoteRefused)}},
	{"HLLP, a digit changed", adapters.HLLP, strings.Replace(hllp(hr, "", ""), "|120|", "|128|", 1) + hllp(adt, "", ""), []Got{got(adt, adapters.NoteRefused)}},
	{"HLLP, 1C for a digit", adapters.HLLP, strings.Replace(hllp(hr, "", ""), "|120|", "|12\x1c|", 1) + hllp(adt, "", ""), []Got{got(adt, adapters.NoteRefused)}},
	{"HLLP, 1C 0D for two digits", adapters.HLLP, strings.Replace(hllp(hr, "", ""), "|120|", "|1\x1c\r|", 1) + hllp(adt, "", ""), []Got{got(adt, adapters.NoteJunk, adapters.NoteDoubledEnd, adapters.NoteRefused)}},
	{"HLLP, without checksum", adapters.HLLP, hllp(hr, "", "999"), []Got{got(hr, adapters.NoteNoChecksum)}},
	{"HLLP, MLLP by mistake", adapters.HLLP, "\v" + hr + "\x1c\r", nil},
	{"HLLP, gone in a value", adapters.HLLP, "\vD23\r" + head + "12", nil},
	{"HLLP, gone in the checksum", adapters.HLLP, strings.TrimSuffix(hllp(hr, "", ""), "0\x1c\r")[:len(hr)+8], nil},

	// Bare messages. A message ends where the next begins, or with the stream behind a whole segment.
	{"bare", adapters.Unframed, hr + adt, []Got{got(hr), got(adt, adapters.NoteIdleEnded)}},
	{"bare, LF", adapters.Unframed, strings.ReplaceAll(hr+adt, "\r", "\n"), []Got{got(strings.ReplaceAll(hr, "\r", "\n")), got(strings.ReplaceAll(adt, "\r", "\n"), adapters.NoteIdleEnded)}},
	{"bare, no 0D at the end", adapters.Unframed, bare, []Got{got(bare, adapters.NoteUnterminated)}},
	{"bare, gone in a value", adapters.Unframed, adt + head + "12", []Got{got(adt), got(head+"12", adapters.NoteUnterminated)}},
	{"bare, gone in the next header", adapters.Unframed, hr + "MS", []Got{got(hr+"MS", adapters.NoteUnterminated)}},
	{"bare, 1C in a value", adapters.Unframed, head + "12\x1c0" + tail + adt, []Got{got(head+"12\x1c0"+tail, adapters.NoteControlByte), got(adt, adapters.NoteIdleEnded)}},
	{"bare, 1C for the last digit", adapters.Unframed, head + "12\x1c\r" + adt, []Got{got(head+"12\x1c\r", adapters.NoteControlByte), got(adt, adapters.NoteIdleEnded)}},
	{"bare, 1C for the last digit of all", adapters.Unframed, head + "12\x1c\r", []Got{got(head+"12\x1c\r", adapters.NoteControlByte, adapters.NoteIdleEnded)}},
	{"bare, gone behind a 1C in a value", adapters.Unframed, head + "12\x1c", []Got{got(head+"12\x1c", adapters.NoteControlByte, adapters.NoteUnterminated)}},
	{"bare, 0B in a value", adapters.Unframed, head + "12\v0" + tail, []Got{got(head+"12\v0"+tail, adapters.NoteIdleEnded)}},
	{"bare, NUL in a value", adapters.Unframed, head + "12\x000" + tail, []Got{got(head+"12\x000"+tail, adapters.NoteIdleEnded)}},
	{"bare, framed all the same", adapters.Unframed, "\v" + hr + "\x1c\r\v" + adt + "\x1c\r", []Got{got(hr, adapters.NoteFramed), got(adt, adapters.NoteFramed)}},
	{"bare, framed, no 0D in the message", adapters.Unframed, "\v" + bare + "\x1c\r\v" + bare + "\x1c\r", []Got{got(bare, adapters.NoteFramed), got(bare, adapters.NoteIdleEnded, adapters.NoteFramed)}},
	{"bare, framed, 1C in a value", adapters.Unframed, "\v" + head + "12\x1c0" + tail + "\x1c\r", []Got{got(head+"12\x1c0"+tail, adapters.NoteControlByte, adapters.NoteFramed)}},
	{"bare, framed, gone behind a 1C in a value", adapters.Unframed, "\v" + head + "12\x1c", []Got{got(head+"12\x1c", adapters.NoteControlByte, adapters.NoteUnterminated, adapters.NoteFramed)}},
	{"bare, 1C behind a segment", adapters.Unframed, hr + "\x1c\r" + adt, []Got{got(hr, adapters.NoteFramed), got(adt, adapters.NoteIdleEnded)}},
	{"bare, the rest of a message first", adapters.Unframed, "0" + tail + hr, []Got{got("0"+tail, adapters.NoteNoHeader), got(hr, adapters.NoteIdleEnded)}},
	{"bare, MSH in a text", adapters.Unframed, head + "see MSH|x" + tail, []Got{got(head+"see MSH|x"+tail, adapters.NoteIdleEnded)}},
	{"bare, end and start lost in a value", adapters.Unframed, head + "12" + adt, []Got{got(head+"12"+adt, adapters.NoteIdleEnded)}}, // refused by the parser
	{"bare, byte order mark", adapters.Unframed, "\xef\xbb\xbf" + hr + "\xef\xbb\xbf" + adt, []Got{got("\xef\xbb\xbf" + hr), got("\xef\xbb\xbf"+adt, adapters.NoteIdleEnded)}},
	{"bare, blank lines", adapters.Unframed, "\r\n\r\n" + hr + "\r\n\r\n" + adt, []Got{got(hr + "\r\n\r\n"), got(adt, adapters.NoteIdleEnded)}},
}

// RunHostile sends each stream, whole and byte by byte, over a line of its own that open makes, and holds what comes. open gives
// the adapter for a framing, with a silence so long that only the end of the stream counts, and how a monitor is plugged in.
func RunHostile(t *testing.T, open func(t *testing.T, f adapters.Framing) Rig) {
	for _, s := range Hostile {
		for _, piece := range []int{len(s.In), 1} {
			name := s.Name + "/whole"
			if piece == 1 {
				name = s.Name + "/byte by byte"
			}
			t.Run(name, func(t *testing.T) {
				rig := open(t, s.Framing)
				r := Start(t, rig.Adapter)
				m := rig.Plug(t)
				before := r.Await(t, "connected", func(s adapters.Status) bool { return s.Connections > 0 }).Bytes
				go io.Copy(io.Discard, m) // answers and refusals
				for p := range slices.Chunk([]byte(s.In), piece) {
					send(t, m, p)
				}
				var all []Got
				take := func() {
					select {
					case f := <-r.Out:
						all = append(all, Got{string(f.Data), f.Notes})
						f.Reply(nil)
					default:
					}
				}
				r.Await(t, "all bytes are read, and what is whole has come", func(st adapters.Status) bool {
					take()
					return st.Bytes-before == uint64(len(s.In)) && len(all) >= s.whole()
				})
				m.Close()
				r.Await(t, "disconnected", func(st adapters.Status) bool { take(); return st.Connections == 0 })
				s.Check(t, all)
			})
		}
	}
}

// whole is how many frames come before the stream ends: all but one that the end of the stream ends.
func (s Stream) whole() int {
	n := len(s.Want)
	if n > 0 && slices.ContainsFunc(s.Want[n-1].Notes, func(note string) bool {
		return note == adapters.NoteIncomplete || note == adapters.NoteUnterminated || note == adapters.NoteIdleEnded || note == adapters.NoteNoTrailingCR
	}) {
		n--
	}
	return n
}

// Check holds that all is what must come of the stream, and that no value in it is cut without a word.
func (s Stream) Check(t *testing.T, all []Got) {
	t.Helper()
	equal := func(a, b Got) bool {
		return a.Data == b.Data && slices.Equal(slices.Sorted(slices.Values(a.Notes)), slices.Sorted(slices.Values(b.Notes)))
	}
	if !slices.EqualFunc(all, s.Want, equal) {
		t.Errorf("came\n%q\nwant\n%q", all, s.Want)
	}
	for _, g := range all {
		if _, value, ok := strings.Cut(g.Data, "MDC||"); ok && !adapters.Partial(g.Notes) {
			if value = strings.FieldsFunc(value+"|", func(r rune) bool { return r == '|' || r == '\r' || r == '\n' })[0]; value == "1" || value == "12" {
				t.Errorf("a value was cut to %s and nothing says so: %q", value, g)
			}
		}
	}
}
