package replay_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/adapters/adapterstest"
	"github.com/vitalgate/vitalgate/adapters/mllp"
	"github.com/vitalgate/vitalgate/adapters/serial"
	"github.com/vitalgate/vitalgate/adapters/serial/pty"
	"github.com/vitalgate/vitalgate/firmware/replay"
	"github.com/vitalgate/vitalgate/hl7"
)

// receiver is a box's left end: a real adapter whose frames are answered as answer says, and kept.
type receiver struct {
	*adapterstest.Running
	got chan string
}

func receive(t *testing.T, a adapters.Adapter, err error, answer func(m *hl7.Message) []byte) *receiver {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{Running: adapterstest.Start(t, a), got: make(chan string, 100)}
	go func() {
		for f := range r.Out {
			r.got <- string(f.Data)
			m, err := hl7.Parse(f.Data)
			if err != nil {
				f.Reply(hl7.AppendNak(nil, hl7.AR, f.Arrived, "1", err.(*hl7.Error)))
				continue
			}
			f.Reply(answer(m))
		}
	}()
	t.Cleanup(func() { r.Stop(); close(r.Out) })
	return r
}

func tcp(t *testing.T, framing adapters.Framing, answer func(m *hl7.Message) []byte) (*receiver, string) {
	t.Helper()
	a, err := mllp.New(mllp.Config{Monitor: "bed-1", Role: "server", Address: "127.0.0.1:0", Framing: framing, IdleEnd: 50 * time.Millisecond}, adapterstest.Log(t))
	r := receive(t, a, err, answer)
	s := r.Await(t, "listening", func(s adapters.Status) bool { return s.State == adapters.StateListening })
	return r, "tcp://" + s.Address
}

func accept(m *hl7.Message) []byte {
	return hl7.AppendAck(nil, m, hl7.AA, time.Unix(0, 0).UTC(), "1")
}

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func run(t *testing.T, o replay.Options, paths ...string) (replay.Summary, string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var out bytes.Buffer
	sum, err := replay.Run(ctx, o, paths, &out)
	return sum, out.String(), err
}

// Every message of a file arrives as it is in the file, in order, in every framing, and its acknowledgement is shown.
func TestReplay(t *testing.T) {
	for _, f := range []adapters.Framing{adapters.MLLP, adapters.HLLP, adapters.Unframed} {
		t.Run(string(f), func(t *testing.T) {
			r, to := tcp(t, f, accept)
			file := write(t, "two.hl7", "\v"+adapterstest.Message(7)+"\x1c\r"+adapterstest.Message(8))
			sum, out, err := run(t, replay.Options{To: to, Framing: string(f)}, file)
			if err != nil || sum != (replay.Summary{Sent: 2, Accepted: 2}) {
				t.Fatalf("%+v, %v\n%s", sum, err, out)
			}
			for n := range 2 {
				if got := <-r.got; got != adapterstest.Message(7+n) {
					t.Errorf("message %d came as %q", n, got)
				}
				if want := fmt.Sprintf("two.hl7 #%d: AA %d\n", n+1, 7+n); !strings.Contains(out, want) {
					t.Errorf("%q does not say %q", out, want)
				}
			}
		})
	}
}

func TestReplaySerial(t *testing.T) {
	line, err := pty.Open("")
	if err != nil {
		t.Skipf("no pseudo terminal here: %v", err)
	}
	defer line.Close()
	a, err := serial.New(serial.Config{Monitor: "bed-2", Device: line.Name}, adapterstest.Log(t))
	receive(t, a, err, accept)
	conn, err := replay.NewConn(line, adapters.MLLP, false)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.Send([]byte(adapterstest.Message(3))); err != nil {
		t.Fatal(err)
	}
	answer, err := conn.Receive(t.Context(), time.Now().Add(adapterstest.Patience))
	if err != nil {
		t.Fatal(err)
	}
	if ack, err := replay.ReadAck(answer); err != nil || ack.ID != "3" || !ack.Accepted() {
		t.Fatalf("the answer is %v, %v", ack, err)
	}
}

// A refusal, with its place, and a message without an answer end in an error; the rest is sent all the same.
func TestReplayRefused(t *testing.T) {
	_, to := tcp(t, adapters.MLLP, func(m *hl7.Message) []byte {
		switch m.ControlID() {
		case "1":
			return hl7.AppendAck(nil, m, hl7.AE, time.Unix(0, 0).UTC(), "1", &hl7.Error{Code: hl7.CodeDataType, Segment: "OBX", Sequence: 3, Field: 5, Component: 1, What: "cannot read a number"})
		case "2":
			return nil
		}
		return accept(m)
	})
	dir := t.TempDir()
	for i := range 4 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.hl7", i)), []byte(adapterstest.Message(i)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	os.WriteFile(filepath.Join(dir, "4.hl7"), []byte("this is no message"), 0o600)
	os.WriteFile(filepath.Join(dir, "notes.txt"), []byte("not sent"), 0o600)
	sum, out, err := run(t, replay.Options{To: to, Timeout: 3 * time.Second}, dir)
	if want := (replay.Summary{Sent: 5, Accepted: 2, Refused: 2, Unanswered: 1}); sum != want || err == nil {
		t.Fatalf("%+v, %v\n%s", sum, err, out)
	}
	for _, want := range []string{"1.hl7 #1: AE 1 · OBX[3]-5.1 102 cannot read a number", "2.hl7 #1: no answer", "3.hl7 #1: AA 3", "4.hl7 #1: AR"} {
		if !strings.Contains(out, want) {
			t.Errorf("this is not said: %s\n%s", want, out)
		}
	}
}

// Receivers exist that answer without framing, and in HL7 2.3.
func TestReplayBareAnswer(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		conn.Read(make([]byte, 4096))
		conn.Write([]byte("MSH|^~\\&|||||||ACK|1|P|2.3\rMSA|AE|5\rERR|OBX^2^5^102&Data type error\r"))
		conn.Read(make([]byte, 1))
	}()
	_, out, err := run(t, replay.Options{To: "tcp://" + ln.Addr().String()}, write(t, "a.hl7", adapterstest.Message(5)))
	if err == nil || !strings.Contains(out, "AE 5 · OBX[2]-5 102 Data type error") {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestReplayNoAck(t *testing.T) {
	r, to := tcp(t, adapters.MLLP, func(*hl7.Message) []byte { return nil })
	sum, out, err := run(t, replay.Options{To: to, NoAck: true}, write(t, "a.hl7", adapterstest.Message(1)+adapterstest.Message(2)))
	if err != nil || sum != (replay.Summary{Sent: 2}) {
		t.Fatalf("%+v, %v\n%s", sum, err, out)
	}
	<-r.got
	<-r.got
}

// Enhanced mode: two acknowledgements if the message asks for both, none if it asks for none.
func TestReplayEnhanced(t *testing.T) {
	a, err := mllp.New(mllp.Config{Monitor: "bed-1", Role: "server", Address: "127.0.0.1:0"}, adapterstest.Log(t))
	if err != nil {
		t.Fatal(err)
	}
	r := adapterstest.Start(t, a)
	s := r.Await(t, "listening", func(s adapters.Status) bool { return s.State == adapters.StateListening })
	go func() {
		for f := range r.Out {
			m, err := hl7.Parse(f.Data)
			if err != nil {
				panic(err)
			}
			if accept, _ := hl7.AckMode(m); accept == "NE" {
				f.Reply()
				continue
			}
			at := time.Unix(0, 0).UTC()
			f.Reply(hl7.AppendAck(nil, m, hl7.CA, at, "1"), hl7.AppendAck(nil, m, hl7.AA, at, "2"))
		}
	}()
	t.Cleanup(func() { r.Stop(); close(r.Out) })
	file := write(t, "a.hl7", "MSH|^~\\&|S||||20260101||ORU^R01|1|P|2.6|||AL|AL\rMSH|^~\\&|S||||20260101||ORU^R01|2|P|2.6|||NE|NE\rMSH|^~\\&|S||||20260101||ORU^R01|3|P|2.6|||AL|AL\r")
	sum, out, err := run(t, replay.Options{To: "tcp://" + s.Address}, file)
	if err != nil || sum != (replay.Summary{Sent: 3, Accepted: 2}) {
		t.Fatalf("%+v, %v\n%s", sum, err, out)
	}
	for _, want := range []string{"#1: CA 1", "#1: AA 1", "#2: sent", "#3: CA 3", "#3: AA 3"} {
		if !strings.Contains(out, want) {
			t.Errorf("this is not said: %s\n%s", want, out)
		}
	}
}

func TestReplayRefuses(t *testing.T) {
	file, empty := write(t, "a.hl7", adapterstest.Message(1)), write(t, "empty.hl7", "\n\n")
	_, to := tcp(t, adapters.MLLP, accept)
	for _, c := range []struct {
		to, framing, path, want string
	}{
		{"udp://127.0.0.1:1", "", file, "tcp://host:port"},
		{"tcp://127.0.0.1", "", file, "tcp://host:port"},
		{"serial:/dev/none?speed=1", "", file, `"speed"`},
		{"serial:/dev/none?baud=fast", "", file, "number"},
		{"serial:/dev/none", "", file, "/dev/none"},
		{to, "mlp", file, `"mlp"`},
		{to, "", "/nowhere/a.hl7", "/nowhere/a.hl7"},
		{to, "", t.TempDir(), "no .hl7 file"},
		{to, "", empty, "no message"},
	} {
		if _, _, err := run(t, replay.Options{To: c.to, Framing: c.framing}, c.path); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("to %s, framing %q, %s: %v, want it to say %s", c.to, c.framing, c.path, err, c.want)
		}
	}
}
