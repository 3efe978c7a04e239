package hl7

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// shards are what odd messages are made of.
var shards = []string{
	"\r", "\n", "\r\n", "\v", "\x1c", "\x1c\r", " ", "\t", "\x00", "|", "^", "~", "\\", "&", "#", "!", "A", "1",
	"MSH", "MSH|", "MSH!", "MSH|^~\\&|", "PID|", "PID", "OBX|1", "ZZZ|", "FHS|", "BTS|", "ADD|", "DSC|", "foo",
	"\x1b$B", "\x1b(B", "\x1b", "\x83", "\x5c", "\x81\x30", "\x81\x30\x81\x30", "\xe9", "é", "\xef\xbb\xbf", "\u2028",
}

func oddMessage(r *rand.Rand) []byte {
	var b []byte
	some := func(n int) {
		for range r.IntN(n) {
			b = append(b, shards[r.IntN(len(shards))]...)
		}
	}
	if r.IntN(4) == 0 {
		some(4)
	}
	starts := []string{header, "MSH|^~\\&", "MSH|^~&|", "MSH!@%*$#!A", "MSH|^", "MSH|", "MSH^~|\\&^A", "MSH|^~\\\\&|A"}
	b = append(b, starts[r.IntN(len(starts))]...)
	if r.IntN(3) == 0 {
		sets := []string{"ASCII", "8859/1", "UNICODE UTF-8", "GB 18030-2000", "SHIFT-JIS", "BIG5", "ASCII~ISO IR87", "ISO IR87", "?"}
		b = append(append(b, "||||||"...), sets[r.IntN(len(sets))]...)
	}
	some(14)
	return b
}

// Whatever was read, written in its canonical form and read again, is the same message: checkMessage says what that means.
func TestOddMessagesAreWrittenAgain(t *testing.T) {
	n := 5_000
	if testing.Short() {
		n = 500
	} else if v := os.Getenv("VITALGATE_ROUNDTRIPS"); v != "" {
		n, _ = strconv.Atoi(v)
	}
	seed := uint64(1)
	if n > 5_000 {
		seed = uint64(time.Now().UnixNano())
	}
	r, read := rand.New(rand.NewPCG(seed, 2)), 0
	for range n {
		raw := oddMessage(r)
		m, err := Parse(raw)
		if err != nil {
			continue
		}
		read++
		if checkMessage(t, m); t.Failed() {
			t.Fatalf("the message was %q", raw)
		}
	}
	if read < n/4 {
		t.Fatalf("only %d of %d messages were read at all, so little is shown", read, n)
	}
}

// However the bytes of a file come, its messages are the same.
func TestOddFilesAreCutAlikeHoweverTheyCome(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	n := 800
	if testing.Short() {
		n = 100
	}
	for range n {
		var file []byte
		for range 1 + r.IntN(3) {
			file = append(append(file, oddMessage(r)...), shards[r.IntN(6)]...)
		}
		var want []string
		for rest := file; ; {
			advance, token, _ := SplitMessages(rest, true)
			if token == nil {
				break
			}
			want, rest = append(want, string(token)), rest[advance:]
		}
		for _, in := range []io.Reader{bytes.NewReader(file), iotest.OneByteReader(bytes.NewReader(file)), &slowReader{bytes.Clone(file), 5}} {
			if got := split(t, in); !slices.Equal(got, want) {
				t.Fatalf("%q is cut into\n%q, want\n%q", file, got, want)
			}
		}
	}
}

// grows makes inputs of which a reader that looks at bytes again and again would take time with the square of their length.
var grows = []struct {
	name string
	make func(n int) []byte
}{
	{"line ends", func(n int) []byte { return bytes.Repeat([]byte("\n"), n) }},
	{"line ends after a message", func(n int) []byte { return append([]byte(header), bytes.Repeat([]byte("\n"), n)...) }},
	{"line ends in a message", func(n int) []byte {
		return append(append([]byte(header), bytes.Repeat([]byte("\r\n"), n/2)...), "PID|1\r"...)
	}},
	{"line feeds in a field", func(n int) []byte {
		return append(append([]byte(header+"\rOBX|"), bytes.Repeat([]byte("\n"), n)...), "x\rPID|\r"...)
	}},
	{"blank lines at the end", func(n int) []byte { return append([]byte(header), bytes.Repeat([]byte("\r \n\t"), n/4)...) }},
	{"one blank line at the end", func(n int) []byte { return append([]byte(header+"\r"), bytes.Repeat([]byte(" "), n)...) }},
	{"names before a header", func(n int) []byte { return append(bytes.Repeat([]byte("MSH"), n/3), header...) }},
	{"escape characters", func(n int) []byte { return append([]byte(header+"\rOBX|"), bytes.Repeat([]byte(`\a`), n/2)...) }},
	{"escape sequences", func(n int) []byte { return append([]byte(header+"\rOBX|"), bytes.Repeat([]byte(`\Zx\`), n/4)...) }},
	{"shifts without end", func(n int) []byte {
		return append([]byte(header+"||||||ASCII~ISO IR87\rOBX|"), bytes.Repeat([]byte("\x1b$B!!"), n/5)...)
	}},
	{"framing bytes", func(n int) []byte { return append([]byte(header+"\r"), bytes.Repeat([]byte("\x1c\v"), n/2)...) }},
	{"names that share a slot", func(n int) []byte {
		b := []byte(header + "\r")
		for i := 0; len(b) < n; i++ {
			if name := fmt.Sprintf("%c%c%c", 'A'+i/36/36%26, base36[i/36%36], base36[i%36]); packName([]byte(name))*0x9e3779b1>>26 == 0 {
				b = append(append(b, name...), '\r')
			}
		}
		return b
	}},
}

const base36 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"

// readAll does with data what a reader of files and streams does: cut, parse, read all texts.
func readAll(data []byte) (tokens, texts int) {
	for len(data) > 0 {
		advance, token, _ := SplitMessages(data, true)
		if token == nil {
			break
		}
		tokens++
		data = data[advance:]
		m := new(Message)
		if m.Reset(token, Limits{Bytes: 16 << 20, Segments: 1 << 20, Fields: 1 << 20}) != nil {
			continue
		}
		for i := range m.Len() {
			for n := 1; n <= min(m.Segment(i).Fields(), 20); n++ {
				texts += len(m.Segment(i).Field(n).String())
			}
		}
	}
	return tokens, texts
}

// A message that comes byte by byte is looked at once, not once for each byte.
func TestBytesThatComeOneByOneAreLookedAtOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("it is about time only")
	}
	for _, g := range grows[:2] {
		data := g.make(512 << 10)
		data = append(data, header...)
		done := make(chan int)
		go func() { done <- len(split(t, iotest.OneByteReader(bytes.NewReader(append(data, data...))))) }()
		select {
		case <-done:
		case <-time.After(90 * time.Second):
			t.Fatalf("%s: a megabyte is still being read after 90 s", g.name)
		}
	}
}

// BenchmarkGrowth shows that time grows with the length of hostile inputs and not with its square: ns/byte stays the same from
// 64 KiB to 1 MiB.
func BenchmarkGrowth(b *testing.B) {
	for _, g := range grows {
		for _, size := range []int{64 << 10, 256 << 10, 1 << 20} {
			data := g.make(size)
			b.Run(fmt.Sprintf("%s/%dK", strings.ReplaceAll(g.name, " ", "-"), size>>10), func(b *testing.B) {
				b.SetBytes(int64(len(data)))
				for b.Loop() {
					readAll(data)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(data)), "ns/byte")
			})
		}
	}
}

// Half a megabyte of anything is read at once. Time with the square of the length would be minutes here, whatever the machine.
func TestNoInputTakesTimeWithTheSquareOfItsLength(t *testing.T) {
	if testing.Short() {
		t.Skip("it is about time only")
	}
	for _, g := range grows {
		t.Run(g.name, func(t *testing.T) {
			data := g.make(512 << 10)
			done := make(chan struct{})
			go func() { readAll(data); close(done) }()
			select {
			case <-done:
			case <-time.After(90 * time.Second):
				t.Fatal("half a megabyte is still being read after 90 s")
			}
		})
	}
}
