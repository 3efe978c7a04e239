package framing

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/adapters/adapterstest"
)

const (
	oru = "MSH|^~\\&|SIM||||20260101120000||ORU^R01|1|P|2.6\rPID|||1\rOBX|1|NM|147842^MDC_ECG_HEART_RATE^MDC||72|||||F\r"
	adt = "MSH|^~\\&|SIM||||20260101120001||ADT^A01|2|P|2.3\rPID|||1\r"
)

// decode gives what a decoder makes of pieces, each followed by nothing, and of the end of the stream.
func decode(t testing.TB, f adapters.Framing, limit int, pieces ...string) (found []Message, d *Decoder) {
	t.Helper()
	d, err := NewDecoder(f, limit)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pieces {
		d.Write([]byte(p), func(m Message) { found = append(found, m) })
	}
	return found, d
}

func describe(found []Message) string {
	var b strings.Builder
	for _, m := range found {
		fmt.Fprintf(&b, "%q %v", m.Data, m.Notes)
		if m.Nak != 0 {
			fmt.Fprintf(&b, " refused %c", m.Nak)
		}
		if m.Resend {
			b.WriteString(" resend")
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// streams are what monitors do to a byte stream, and what must come of it.
var streams = []struct {
	name    string
	framing adapters.Framing
	in      string
	want    []Message
	dropped uint64
}{
	{"one message", adapters.MLLP, "\v" + oru + "\x1c\r", []Message{{Data: []byte(oru)}}, 0},
	{"two in one read", adapters.MLLP, "\v" + oru + "\x1c\r\v" + adt + "\x1c\r", []Message{{Data: []byte(oru)}, {Data: []byte(adt)}}, 0},
	{"junk before", adapters.MLLP, "hello\v" + oru + "\x1c\r", []Message{{Data: []byte(oru), Notes: []string{"junk-before-start"}}}, 5},
	{"junk between", adapters.MLLP, "\v" + oru + "\x1c\r??\v" + adt + "\x1c\r", []Message{{Data: []byte(oru)}, {Data: []byte(adt), Notes: []string{"junk-before-start"}}}, 2},
	{"line feeds between are no junk", adapters.MLLP, "\v" + oru + "\x1c\r\n\r\n\v" + adt + "\x1c\r", []Message{{Data: []byte(oru)}, {Data: []byte(adt)}}, 3},
	{"no 0D before the next", adapters.MLLP, "\v" + oru + "\x1c\v" + adt + "\x1c\r", []Message{{Data: []byte(oru), Notes: []string{"no-trailing-cr"}}, {Data: []byte(adt)}}, 0},
	{"LF for the 0D", adapters.MLLP, "\v" + oru + "\x1c\n\v" + adt + "\x1c\r", []Message{{Data: []byte(oru), Notes: []string{"no-trailing-cr"}}, {Data: []byte(adt)}}, 1},
	{"NUL padding", adapters.MLLP, "\v" + oru + "\x1c\r\x00\x00\x00\v" + adt + "\x1c\r", []Message{{Data: []byte(oru)}, {Data: []byte(adt), Notes: []string{"nul-padding"}}}, 3},
	{"NUL padding for the 0D", adapters.MLLP, "\v" + oru + "\x1c\x00\x00\v" + adt + "\x1c\r", []Message{{Data: []byte(oru), Notes: []string{"no-trailing-cr"}}, {Data: []byte(adt), Notes: []string{"nul-padding"}}}, 2},
	{"doubled start", adapters.MLLP, "\v\v" + oru + "\x1c\r", []Message{{Data: []byte(oru), Notes: []string{"doubled-start"}}}, 0},
	{"doubled 1C", adapters.MLLP, "\v" + oru + "\x1c\x1c\r", []Message{{Data: []byte(oru), Notes: []string{"doubled-end"}}}, 0},
	{"doubled end", adapters.MLLP, "\v" + oru + "\x1c\r\x1c\r\v" + adt + "\x1c\r", []Message{{Data: []byte(oru)}, {Data: []byte(adt), Notes: []string{"doubled-end"}}}, 2},
	{"all doubled", adapters.MLLP, "\v\v" + oru + "\x1c\x1c\r\r\v\v" + adt + "\x1c\x1c\r\r", []Message{{Data: []byte(oru), Notes: []string{"doubled-start", "doubled-end"}}, {Data: []byte(adt), Notes: []string{"doubled-start", "doubled-end"}}}, 2},
	{"broken off by the next", adapters.MLLP, "\vMSH|^~\\&|half\v" + adt + "\x1c\r", []Message{{Data: []byte("MSH|^~\\&|half"), Notes: []string{"no-end"}}, {Data: []byte(adt)}}, 0},
	{"0B in the data", adapters.MLLP, "\vMSH|a\vb\v\vMS\rX\x1c\r", []Message{{Data: []byte("MSH|a\vb\v\vMS\rX"), Notes: []string{"control-in-data"}}}, 0},
	{"1C in the data", adapters.MLLP, "\vMSH|a\x1cb\x1c\x1cc\x1c\r", []Message{{Data: []byte("MSH|a\x1cb\x1c\x1cc"), Notes: []string{"control-in-data"}}}, 0},
	{"empty frame", adapters.MLLP, "\v\x1c\r\v" + adt + "\x1c\r", []Message{{Data: []byte(adt), Notes: []string{"empty-frame"}}}, 0},
	{"not HL7 at all", adapters.MLLP, "\v\x06\x1c\r", []Message{{Data: []byte{6}}}, 0},
	{"HLLP by mistake", adapters.MLLP, string(Append(nil, adapters.HLLP, []byte(oru))), []Message{{Data: []byte("D23\r" + oru + trail(oru)), Notes: []string{"hllp-block"}}}, 0},

	{"HLLP", adapters.HLLP, "\vD23\r" + oru + trail(oru) + "\x1c\r", []Message{{Data: []byte(oru)}}, 0},
	{"HLLP, counted by hand", adapters.HLLP, "\vD21\rB00006003\x1c\r", []Message{{Data: []byte("B")}}, 0}, // 0B^44^32^31^0D^42 = 03
	{"HLLP, no checksum", adapters.HLLP, "\vD21\r" + oru + fmt.Sprintf("%05d999\x1c\r", len(oru)+5), []Message{{Data: []byte(oru), Notes: []string{"no-checksum"}}}, 0},
	{"HLLP, wrong count", adapters.HLLP, "\vD21\r" + oru + "00001999\x1c\r", []Message{{Nak: NakCount}}, uint64(len(oru)) + 12},
	{"HLLP, wrong checksum", adapters.HLLP, "\vD23\r" + strings.Replace(oru, "|72|", "|12|", 1) + trail(oru) + "\x1c\r", []Message{{Nak: NakChecksum}}, uint64(len(oru)) + 12},
	{"HLLP, bare MLLP", adapters.HLLP, "\v" + oru + "\x1c\r", []Message{{Nak: NakOther}}, uint64(len(oru))},
	{"HLLP, refused by the other", adapters.HLLP, string(AppendNak(nil, NakChecksum)), []Message{{Resend: true}}, 0},
	{"HLLP, a bad one between good ones", adapters.HLLP, "\vD23\r" + oru + trail(oru) + "\x1c\r" + "\vD23\rxx00007000\x1c\r" + "\vD23\r" + oru + trail(oru) + "\x1c\r",
		[]Message{{Data: []byte(oru)}, {Nak: NakChecksum}, {Data: []byte(oru), Notes: []string{"refused-before"}}}, 14},
	{"HLLP, a good one after bad ones says so, once, whatever is between", adapters.HLLP, "??\vD23\rxx00007000\x1c\r" + string(AppendNak(nil, NakChecksum)) + "\v\x1c\r" + "\vD23\r" + oru + trail(oru) + "\x1c\r" + "\vD23\r" + adt + trail(adt) + "\x1c\r",
		[]Message{{Nak: NakChecksum}, {Resend: true}, {Data: []byte(oru), Notes: []string{"junk-before-start", "empty-frame", "refused-before"}}, {Data: []byte(adt)}}, 16},

	{"unframed, two", adapters.Unframed, oru + adt + "MSH|^", []Message{{Data: []byte(oru)}, {Data: []byte(adt)}}, 0},
	{"unframed, LF", adapters.Unframed, "MSH|^~\\&|a\nPID|1\nMSH|^~\\&|b\nMSH|", []Message{{Data: []byte("MSH|^~\\&|a\nPID|1\n")}, {Data: []byte("MSH|^~\\&|b\n")}}, 0},
	{"unframed, other delimiters", adapters.Unframed, "MSH#*~\\&#a\rMSH$*~\\&$b\rMSH|", []Message{{Data: []byte("MSH#*~\\&#a\r")}, {Data: []byte("MSH$*~\\&$b\r")}}, 0},
	{"unframed, MSH within a segment is text", adapters.Unframed, "MSH|^~\\&|a\rNTE|see MSH|x\rMSHX\rMSH|", []Message{{Data: []byte("MSH|^~\\&|a\rNTE|see MSH|x\rMSHX\r")}}, 0},
	{"unframed, the rest of a message first", adapters.Unframed, "|F\rOBX|2\r" + adt + "MSH|", []Message{{Data: []byte("|F\rOBX|2\r"), Notes: []string{"no-header"}}, {Data: []byte(adt)}}, 0},
	{"unframed, blank lines and NULs first", adapters.Unframed, "\r\n\x00" + adt + "MSH|", []Message{{Data: []byte(adt)}}, 3},
	{"unframed, framed all the same", adapters.Unframed, "\v" + oru + "\x1c\r\v" + adt + "\x1c\r", []Message{{Data: []byte(oru), Notes: []string{"framed"}}, {Data: []byte(adt), Notes: []string{"framed"}}}, 2},
	{"unframed, byte order mark and line separator", adapters.Unframed, "\xef\xbb\xbf" + oru + "\u2028" + adt + "MSH|", []Message{{Data: []byte("\xef\xbb\xbf" + oru)}, {Data: []byte("\u2028" + adt)}}, 0},
}

func trail(data string) string {
	b := appendHLLP(nil, 'D', []byte(data))
	return string(b[len(b)-10 : len(b)-2])
}

// A person must get every message that a monitor sends, whatever the network does to it on the way: the stream may be cut into
// reads at any place.
func TestStreams(t *testing.T) {
	for _, s := range streams {
		t.Run(s.name, func(t *testing.T) {
			want := describe(s.want)
			check := func(how string, pieces ...string) {
				t.Helper()
				found, d := decode(t, s.framing, 4096, pieces...)
				if got := describe(found); got != want {
					t.Fatalf("%s:\n%swant\n%s", how, got, want)
				}
				if d.Dropped() != s.dropped {
					t.Fatalf("%s: dropped %d, want %d", how, d.Dropped(), s.dropped)
				}
			}
			check("whole", s.in)
			for i := 1; i < len(s.in); i++ {
				check(fmt.Sprintf("cut at %d", i), s.in[:i], s.in[i:])
			}
			check("byte by byte", strings.Split(s.in, "")...)
		})
	}
}

// The same streams that come over real lines in mllp and serial, cut into two reads at every place.
func TestHostileStreams(t *testing.T) {
	for _, s := range adapterstest.Hostile {
		t.Run(s.Name, func(t *testing.T) {
			for i := range len(s.In) {
				found, d := decode(t, s.Framing, 4096, s.In[:i], s.In[i:])
				d.Cut(func(m Message) { found = append(found, m) })
				var all []adapterstest.Got
				for _, m := range found {
					if m.Data != nil {
						all = append(all, adapterstest.Got{Data: string(m.Data), Notes: m.Notes})
					}
				}
				if s.Check(t, all); t.Failed() {
					t.Fatalf("cut at %d", i)
				}
			}
		})
	}
}

// A frame beyond the limit comes with its first bytes, and the stream goes on behind it.
func TestTooLong(t *testing.T) {
	long := "MSH|^~\\&|" + strings.Repeat("x", 100)
	for _, c := range []struct {
		framing adapters.Framing
		in      string
		want    string
	}{
		{adapters.MLLP, "\v" + long + "\x1c\r\vMSH|^~\\&|b\x1c\r", describe([]Message{{Data: []byte(long[:32]), Notes: []string{"too-long"}}, {Data: []byte("MSH|^~\\&|b")}})},
		{adapters.MLLP, "\v" + long + "\vMSH|^~\\&|b\x1c\r", describe([]Message{{Data: []byte(long[:32]), Notes: []string{"too-long"}}, {Data: []byte("MSH|^~\\&|b")}})},
		{adapters.MLLP, "\v" + long[:32] + "\x1c\r", describe([]Message{{Data: []byte(long[:32])}})},
		{adapters.Unframed, long + "\rOBX|1\rMSH|^~\\&|b\rMSH|", describe([]Message{{Data: []byte(long[:32]), Notes: []string{"too-long"}}, {Data: []byte("MSH|^~\\&|b\r")}})},
		{adapters.HLLP, "\vD23\r" + long + trail(long) + "\x1c\r\vD23\rMSH|" + trail("MSH|") + "\x1c\r", describe([]Message{{Data: []byte(long[:40]), Notes: []string{"too-long"}, Nak: NakTooLong}, {Data: []byte("MSH|")}})},
	} {
		for i := range len(c.in) {
			found, d := decode(t, c.framing, 32, c.in[:i], c.in[i:])
			if got := describe(found); got != c.want {
				t.Fatalf("%s cut at %d: %swant %s", c.framing, i, got, c.want)
			}
			if cap(d.data) > 1024 {
				t.Fatalf("%s: %d bytes held for a limit of 32", c.framing, cap(d.data))
			}
		}
	}
}

// Bytes that were lost without a trace may have been in the message that is being read or in the next one, which may be one that
// has grown together of two: neither may be believed. While it is not known where the loss lies, none may be.
func TestLost(t *testing.T) {
	const a, b, c, d = "MSH|^~\\&|a\r", "MSH|^~\\&|b\r", "MSH|^~\\&|c\r", "MSH|^~\\&|d\r"
	for _, f := range []adapters.Framing{adapters.MLLP, adapters.HLLP, adapters.Unframed} {
		for _, s := range []struct {
			name   string
			before string // fed before the loss is known
			doubt  string // fed while it may lie ahead
			after  string
			want   string
		}{
			{"in a message", wire(f, a, b)[:len(wire(f, a, b))-3], "", wire(f, a, b)[len(wire(f, a, b))-3:] + wire(f, c, d), "a b! c! d"},
			{"between messages", wire(f, a), "", wire(f, b, c, d), "a b! c d"},
			{"somewhere in what the kernel held", wire(f, a), wire(f, b, c), wire(f, d, a, b), "a b! c! d! a b"},
		} {
			if f == adapters.Unframed { // where nothing follows, a message is pending still
				s.want = map[string]string{"a b! c! d": "a b! c! d", "a b! c d": "a! b! c d", "a b! c! d! a b": "a! b! c! d! a b"}[s.want]
			}
			var got []string
			emit := func(m Message) {
				name := string(m.Data[9:10])
				if slices.Contains(m.Notes, adapters.NoteLineError) {
					name += "!"
				}
				got = append(got, name)
			}
			_, dec := decode(t, f, 4096)
			dec.Write([]byte(s.before), emit)
			dec.Lost(true)
			dec.Write([]byte(s.doubt), emit)
			dec.Lost(false)
			dec.Write([]byte(s.after), emit)
			dec.Cut(emit)
			if strings.Join(got, " ") != s.want {
				t.Errorf("%s, %s: the messages are %v, want %s", f, s.name, got, s.want)
			}
		}
	}
}

func wire(f adapters.Framing, messages ...string) string {
	var b []byte
	for _, m := range messages {
		b = Append(b, f, []byte(m))
	}
	return string(b)
}

func TestSilenceAndCut(t *testing.T) {
	for _, c := range []struct {
		framing adapters.Framing
		in      string
		silence string // what silence gives
		cut     string // what giving up gives after that
	}{
		{adapters.MLLP, "\v" + adt + "\x1c", describe([]Message{{Data: []byte(adt), Notes: []string{"no-trailing-cr"}}}), ""},
		{adapters.MLLP, "\v" + adt, "", describe([]Message{{Data: []byte(adt), Notes: []string{"incomplete"}}})},
		{adapters.MLLP, "\vMSH|a\vMS", "", describe([]Message{{Data: []byte("MSH|a\vMS"), Notes: []string{"incomplete"}}})},
		{adapters.MLLP, "\v", "", ""},
		{adapters.MLLP, "junk", "", ""},
		{adapters.Unframed, adt, describe([]Message{{Data: []byte(adt), Notes: []string{"idle-ended"}}}), ""},
		{adapters.Unframed, adt + "OBX|1|NM|x||12", "", describe([]Message{{Data: []byte(adt + "OBX|1|NM|x||12"), Notes: []string{"unterminated"}}})},
		{adapters.Unframed, adt + "MS", "", describe([]Message{{Data: []byte(adt + "MS"), Notes: []string{"unterminated"}}})},
		{adapters.Unframed, "MS", "", describe([]Message{{Data: []byte("MS"), Notes: []string{"unterminated", "no-header"}}})},
		{adapters.HLLP, "\vD23\r" + adt, "", ""},
	} {
		var found []Message
		emit := func(m Message) { found = append(found, m) }
		_, d := decode(t, c.framing, 4096)
		d.Write([]byte(c.in), emit)
		if len(found) > 0 {
			t.Fatalf("%q: found %s before the silence", c.in, describe(found))
		}
		d.Silence(emit)
		if got := describe(found); got != c.silence {
			t.Fatalf("%q: silence gives %s, want %s", c.in, got, c.silence)
		}
		found = nil
		d.Cut(emit)
		if c.framing == adapters.HLLP {
			if len(found) != 1 || found[0].Nak == 0 || found[0].Data != nil {
				t.Fatalf("half an HLLP block gives %s, want a refusal", describe(found))
			}
			continue
		}
		if got := describe(found); got != c.cut {
			t.Fatalf("%q: cut gives %s, want %s", c.in, got, c.cut)
		}
		if d.Pending() {
			t.Fatalf("%q: a message is pending after the cut", c.in)
		}
		// The stream goes on.
		found = nil
		d.Write(Append(nil, c.framing, []byte(adt)), emit)
		d.Silence(emit)
		if len(found) != 1 || string(found[0].Data) != adt {
			t.Fatalf("%q: after the cut the next message gives %s", c.in, describe(found))
		}
	}
}

// What Append makes, a Decoder reads.
func TestAppend(t *testing.T) {
	for _, f := range []adapters.Framing{adapters.MLLP, adapters.HLLP, adapters.Unframed} {
		in := Append(Append(nil, f, []byte(oru)), f, []byte(adt))
		var found []Message
		_, d := decode(t, f, 4096)
		d.Write(in, func(m Message) { found = append(found, m) })
		d.Silence(func(m Message) { found = append(found, m) })
		if len(found) != 2 || string(found[0].Data) != oru || string(found[1].Data) != adt {
			t.Fatalf("%s: %s", f, describe(found))
		}
	}
}

func TestNewDecoderRefuses(t *testing.T) {
	if _, err := NewDecoder("mlp", 4096); err == nil || !strings.Contains(err.Error(), `"mlp"`) {
		t.Fatalf("the error does not name the framing: %v", err)
	}
	if _, err := NewDecoder(adapters.MLLP, 3); err == nil {
		t.Fatal("a limit of 3 bytes was taken")
	}
}

// fuzz checks for any bytes, cut anywhere: every byte is in a message, framing or dropped, once and in order; the cut makes no
// difference; and nothing is longer than the limit.
func fuzz(f *testing.F, framing adapters.Framing) {
	for _, s := range streams {
		f.Add([]byte(s.in), uint16(len(s.in)/2), uint16(0))
	}
	f.Add([]byte("\v\v\x1c\x1c\v\x1c\r\x00MSH|\x1c\v"), uint16(3), uint16(5))
	const limit = 48
	f.Fuzz(func(t *testing.T, in []byte, cut1, cut2 uint16) {
		a, b := int(cut1)%(len(in)+1), int(cut2)%(len(in)+1)
		whole, sumWhole := fuzzOne(t, framing, limit, in, nil)
		cut, sumCut := fuzzOne(t, framing, limit, in, []int{min(a, b), max(a, b)})
		if whole != cut || sumWhole != sumCut {
			t.Fatalf("cut at %d and %d it gives\n%s%s\nwhole\n%s%s", a, b, cut, sumCut, whole, sumWhole)
		}
	})
}

func fuzzOne(t *testing.T, f adapters.Framing, limit int, in []byte, cuts []int) (found, summary string) {
	d, err := NewDecoder(f, limit)
	if err != nil {
		t.Fatal(err)
	}
	var order, data, delivered []byte
	var dropped uint64
	d.trace = func(kind byte, p []byte) {
		order = append(order, p...)
		switch kind {
		case 'd':
			data = append(data, p...)
		case 'x':
			dropped += uint64(len(p))
		}
	}
	var ms []Message
	emit := func(m Message) {
		if len(m.Data) > limit+hllpTrail {
			t.Fatalf("a message of %d bytes for a limit of %d", len(m.Data), limit)
		}
		if len(m.Data) == 0 && m.Data != nil && f != adapters.HLLP {
			t.Fatal("an empty message")
		}
		ms = append(ms, m)
		delivered = append(delivered, m.Data...)
	}
	last := 0
	for _, c := range append(slices.Clone(cuts), len(in)) {
		p := bytes.Clone(in[last:c])
		d.Write(p, emit)
		clear(p) // the decoder must keep nothing of it
		last = c
	}
	d.Cut(emit)
	if d.Pending() {
		t.Fatal("a message is pending after the end")
	}
	if !bytes.Equal(order, in) {
		t.Fatalf("the bytes that were accounted for are\n%q, want\n%q", order, in)
	}
	if f != adapters.HLLP && !bytes.Equal(delivered, data) {
		t.Fatalf("delivered\n%q, want\n%q", delivered, data)
	}
	if f != adapters.HLLP && dropped != d.Dropped() {
		t.Fatalf("counted %d dropped, want %d", d.Dropped(), dropped)
	}
	return describe(ms), fmt.Sprint(d.Dropped())
}

func FuzzMLLP(f *testing.F)     { fuzz(f, adapters.MLLP) }
func FuzzHLLP(f *testing.F)     { fuzz(f, adapters.HLLP) }
func FuzzUnframed(f *testing.F) { fuzz(f, adapters.Unframed) }

func BenchmarkDecode(b *testing.B) {
	for _, f := range []adapters.Framing{adapters.MLLP, adapters.HLLP, adapters.Unframed} {
		b.Run(string(f), func(b *testing.B) {
			in := bytes.Repeat(Append(nil, f, []byte(strings.Repeat(oru, 1)[:len(oru)-1]+strings.Repeat("OBX|2|NM|150456^MDC_PULS_OXIM_SAT_O2^MDC||97|262688^MDC_DIM_PERCENT^MDC|||||F\r", 12))), 8)
			d, err := NewDecoder(f, adapters.DefaultMaxMessage)
			if err != nil {
				b.Fatal(err)
			}
			n := 0
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			for b.Loop() {
				d.Write(in, func(Message) { n++ })
			}
			d.Cut(func(Message) { n++ })
			if n != 8*b.N {
				b.Fatalf("%d messages, want %d", n, 8*b.N)
			}
		})
	}
}
