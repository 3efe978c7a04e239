package maintain_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/firmware/maintain"
	"github.com/vitalgate/vitalgate/provision/protocol"
)

// Whoever announces a body and does not send it holds no connection.
func TestSilentCallersAreLeft(t *testing.T) {
	b := open(t, func(o *maintain.Box) { o.BodyTime = 100 * time.Millisecond })
	for _, start := range []string{"POST " + protocol.PathReset, "GET " + protocol.PathBox, "POST /nothing"} {
		conn, err := tls.Dial("tcp", b.Addr(), protocol.ClientTLS(b.Label(), nil))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(conn, start+" HTTP/1.1\r\nHost: box\r\nContent-Length: 10\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(conn)
		if resp, err := http.ReadResponse(r, nil); err == nil {
			io.Copy(io.Discard, resp.Body)
		}
		if _, err := r.ReadByte(); err != io.EOF {
			t.Errorf("%s: the connection is held: %v", start, err)
		}
	}
}

// What was asked in time may take longer to do.
func TestWorkMayTakeLongerThanTheBody(t *testing.T) {
	const bodyTime = 2 * time.Second
	b := open(t, func(o *maintain.Box) {
		o.BodyTime = bodyTime
		o.Test = func(ctx context.Context, _ protocol.TestOptions) ([]byte, error) {
			select {
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			case <-time.After(bodyTime + time.Second):
				return []byte(`{}`), nil
			}
		}
	})
	if status, answer := b.as(b.Label(), nil)("POST", protocol.PathTest, protocol.TestOptions{}); status != 200 {
		t.Errorf("%d %s", status, answer)
	}
}
