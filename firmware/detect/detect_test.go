package detect_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/adapters/framing"
	"github.com/vitalgate/vitalgate/firmware/detect"
	"github.com/vitalgate/vitalgate/hl7"
	"github.com/vitalgate/vitalgate/hwtest/hospital"
)

const patience = 90 * time.Second

// goldens are one message of each family: those that the conversion is held to.
func goldens(t *testing.T) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("../../fhir/mapping/testdata/*/*.hl7")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{}
	for _, f := range files {
		if raw, err := os.ReadFile(f); err == nil {
			_, message, _ := hl7.SplitMessages(raw, true) // without what framed it
			all[filepath.Base(filepath.Dir(f))] = append(message, '\r')
		}
	}
	delete(all, "refused")
	if len(all) < 14 {
		t.Fatalf("messages of only %d families", len(all))
	}
	return all
}

// listenTo runs detect and gives what it found; speak is the monitor, given the address that detect listens at.
func listenTo(t *testing.T, o detect.Options, speak func(ctx context.Context)) (*detect.Found, error) {
	t.Helper()
	if o.For == 0 {
		o.For = patience
	}
	if o.Messages == 0 {
		o.Messages = 1
	}
	ctx, stop := context.WithCancel(t.Context())
	spoken := make(chan struct{})
	go func() { defer close(spoken); speak(ctx) }()
	f, err := detect.Run(ctx, o)
	stop()
	<-spoken
	return f, err
}

// sender dials address until it is there, and sends data again and again until ctx ends; what comes back is an error of the test,
// for detect must say nothing.
func sender(t *testing.T, address string, data []byte) func(context.Context) {
	return func(ctx context.Context) {
		for ctx.Err() == nil {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				time.Sleep(10 * time.Millisecond)
				continue
			}
			repeat(t, ctx, conn, data)
		}
	}
}

func repeat(t *testing.T, ctx context.Context, conn net.Conn, data []byte) {
	defer conn.Close()
	go func() {
		buf := make([]byte, 1)
		if n, _ := conn.Read(buf); n > 0 {
			t.Errorf("it said something: %q", buf[:n])
		}
	}()
	for ctx.Err() == nil {
		if _, err := conn.Write(data); err != nil {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(150 * time.Millisecond):
		}
	}
}

// Every family is recognised in every framing, by who only listens: as server and as client.
func TestEveryFamilyInEveryFraming(t *testing.T) {
	for name, raw := range goldens(t) {
		for _, f := range []adapters.Framing{adapters.MLLP, adapters.HLLP, adapters.Unframed} {
			t.Run(name+"/"+string(f), func(t *testing.T) {
				t.Parallel()
				address := hospital.FreeAddr()
				found, err := listenTo(t, detect.Options{At: "listen://" + address, Pause: 50 * time.Millisecond}, sender(t, address, framing.Append(nil, f, raw)))
				if err != nil {
					t.Fatal(err)
				}
				if found.Framing != f || found.Dialects[0].Dialect.Name != name {
					t.Errorf("found %s in %s", found.Dialects[0].Dialect.Name, found.Framing)
				}
				var b strings.Builder
				found.Report(&b)
				for _, want := range []string{"kind    = \"mllp-server\"", "framing = \"" + string(f) + "\"", "dialect = \"" + name + "\"", address} {
					if !strings.Contains(b.String(), want) {
						t.Errorf("the report has no %q:\n%s", want, b.String())
					}
				}
			})
		}
	}
}

func TestAMonitorThatIsDialled(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	raw := framing.Append(nil, adapters.MLLP, goldens(t)["ge-bseries"])
	found, err := listenTo(t, detect.Options{At: "tcp://" + l.Addr().String(), Messages: 3}, func(ctx context.Context) {
		conn, err := l.Accept()
		if err == nil {
			repeat(t, ctx, conn, raw)
		}
	})
	if err != nil || found.Messages < 3 || found.Dialects[0].Dialect.Name != "ge-bseries" || found.Framing != adapters.MLLP {
		t.Fatalf("%v, %+v", err, found)
	}
}

// A Mindray bedside monitor says nothing until it is asked; it is asked only if a person says so.
func TestAMonitorThatWaitsToBeAsked(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	answer := framing.Append(nil, adapters.MLLP, goldens(t)["mindray-pds"])
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buf := make([]byte, 4096)
				for {
					n, err := conn.Read(buf)
					if err != nil {
						return
					}
					if strings.Contains(string(buf[:n]), "QRY^R02") {
						conn.Write(answer)
					}
				}
			}()
		}
	}()
	at := "tcp://" + l.Addr().String()
	f, err := detect.Run(t.Context(), detect.Options{At: at, For: time.Second, Messages: 1})
	if !errors.Is(err, detect.ErrNothing) {
		t.Fatalf("not asked: %v, %+v", err, f)
	}
	var b strings.Builder
	if f.Report(&b); !strings.Contains(b.String(), "--ask") {
		t.Errorf("the report does not say what to try: %s", b.String())
	}
	f, err = detect.Run(t.Context(), detect.Options{At: at, For: patience, Messages: 1, Ask: true})
	if err != nil || f.Dialects[0].Dialect.Name != "mindray-pds" || f.Framing != adapters.MLLP {
		t.Fatalf("asked: %v, %+v", err, f)
	}
	b.Reset()
	if f.Report(&b); !strings.Contains(b.String(), `"mindray-pds"`+"\naddress") {
		t.Errorf("the report proposes another kind: %s", b.String())
	}
}

// What is no HL7, and what cannot be, is said.
func TestWhatIsNoMonitor(t *testing.T) {
	for name, c := range map[string]struct{ data, want string }{
		"a web browser": {"GET / HTTP/1.1\r\nHost: box\r\n\r\n", "no HL7"},
		"noise":         {"\xff\x00\xfe\x80\x1c\v\r\n", "no HL7"},
	} {
		t.Run(name, func(t *testing.T) {
			address := hospital.FreeAddr()
			f, err := listenTo(t, detect.Options{At: "listen://" + address, For: 3 * time.Second}, sender(t, address, []byte(c.data)))
			var b strings.Builder
			if f.Report(&b); !errors.Is(err, detect.ErrNothing) || f.Bytes > 0 && !strings.Contains(b.String(), c.want) {
				t.Errorf("%v: %s", err, b.String())
			}
		})
	}
	for _, o := range []detect.Options{
		{At: "tcp://nowhere", For: time.Second}, {At: "listen://127.0.0.1:1", Ask: true, For: time.Second},
		{At: "serial:/dev/null?baud=x", For: time.Second}, {At: "serial:/dev/null?speed=1", For: time.Second}, {At: "serial:/dev/null?baud=9601", For: time.Second},
	} {
		if _, err := detect.Run(t.Context(), o); err == nil || errors.Is(err, detect.ErrNothing) || !strings.Contains(err.Error(), o.At) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}
