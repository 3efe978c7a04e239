package node

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
)

// text writes the server's configuration language; every value that comes from outside is quoted.
type text struct{ strings.Builder }

func (t *text) raw(s string) { t.WriteString(s); t.WriteByte('\n') }

// line writes a line whose %s are replaced by quoted strings.
func (t *text) line(format string, values ...string) {
	quoted := make([]any, len(values))
	for i, v := range values {
		quoted[i] = quote(v)
	}
	fmt.Fprintf(t, format+"\n", quoted...)
}

func (t *text) list(key string, values []string) {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = quote(v)
	}
	t.raw(key + ": [ " + strings.Join(quoted, ", ") + " ]")
}

func (t *text) tls(c *Config) {
	t.line("cert_file: %s", c.Certificate)
	t.line("key_file: %s", c.Key)
	t.line("ca_file: %s", c.CA)
	t.raw(`min_version: "1.3"`)
}

func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`, "\r", `\r`).Replace(s) + `"`
}

// serverLog carries the server's own lines into the peer's log. The server knows subjects and names of boxes and
// peers, which are no patient data, and no content.
type serverLog struct {
	log    *slog.Logger
	unwell *atomic.Bool // set by the line that says that a stream could not be written
}

func (l serverLog) emit(level slog.Level, format string, v []any) {
	line := fmt.Sprintf(format, v...)
	if level >= slog.LevelWarn && strings.Contains(strings.ToLower(line), "critical write error") {
		l.unwell.Store(true)
	}
	l.log.Log(context.Background(), level, "nats-server", "line", line)
}

func (l serverLog) Noticef(format string, v ...any) { l.emit(slog.LevelDebug, format, v) }
func (l serverLog) Warnf(format string, v ...any) {
	if strings.Contains(format, "TLS Handshake First") {
		return // that is what we want
	}
	l.emit(slog.LevelWarn, format, v)
}
func (l serverLog) Errorf(format string, v ...any) { l.emit(slog.LevelWarn, format, v) }
func (l serverLog) Fatalf(format string, v ...any) { l.emit(slog.LevelError, format, v) }
func (l serverLog) Debugf(format string, v ...any) { l.emit(slog.LevelDebug, format, v) }
func (l serverLog) Tracef(string, ...any)          {}
