package status

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"rsc.io/qr"

	"github.com/vitalgate/vitalgate/adapters"
	"github.com/vitalgate/vitalgate/firmware/health"
)

//go:embed page.html
var pageText string

//go:embed page.css
var pageStyle string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"age": age, "style": func() template.CSS { return template.CSS(pageStyle) }, "qr": drawQR, "size": size,
	"percent": func(n, of int64) int { return int(min(100, 100*n/max(of, 1))) },
	"groups": func(s string) string {
		var parts []string
		for len(s) > 8 {
			parts, s = append(parts, s[:8]), s[8:]
		}
		return strings.Join(append(parts, s), " ")
	},
	"called": called, "connected": connected,
	"state": func(r Report) string {
		switch {
		case !r.Ready:
			return "critical"
		case len(r.Conditions) > 0 && r.Conditions[0].Severity == health.Warning:
			return "warning"
		}
		return "good"
	},
}).Parse(pageText))

// called is how the page calls a condition. "Critical, bed-12" would be read as a word about a patient.
func called(c health.Condition) string {
	name := [...]string{health.Note: "Note", health.Warning: "To be mended", health.Critical: "Technical fault"}[c.Severity]
	if c.About == "" {
		return name
	}
	k, _ := health.Lookup(c.Code)
	return strings.TrimSpace(name+", "+k.About) + " " + c.About
}

// connected says of how many monitors there is a line.
func connected(all []Monitor) string {
	n := 0
	for _, m := range all {
		if m.Line.State == adapters.StateConnected {
			n++
		}
	}
	return fmt.Sprintf("%d of %d connected", n, len(all))
}

// pagePolicy lets the browser do nothing but show: no script, nothing from elsewhere, one style that is known by its hash (CSP level 3).
var pagePolicy = func() string {
	sum := sha256.Sum256([]byte(pageStyle))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}()

func size(n int64) string {
	if n >= 1<<30 {
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

func age(now, t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	d := now.Sub(t)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	}
	return fmt.Sprintf("%d days ago", int(d.Hours()/24))
}

// showPage draws into memory first, so that a fault gives no half page.
func (s *Server) showPage(w http.ResponseWriter, r Report) {
	unsent, messages := s.history.charts()
	var b bytes.Buffer
	if err := page.Execute(&b, struct {
		Report
		Unsent    template.HTML
		PerMinute map[string]template.HTML
	}{r, unsent, messages}); err != nil {
		http.Error(w, "cannot draw the page: "+err.Error(), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	w.Write(b.Bytes())
}

// drawQR draws a code of squares.
func drawQR(text string) (template.HTML, error) {
	c, err := qr.Encode(text, qr.M)
	if err != nil {
		return "", err
	}
	const quiet = 4
	var b strings.Builder
	size := c.Size + 2*quiet
	fmt.Fprintf(&b, `<svg class="qr" viewBox="0 0 %d %d" role="img" shape-rendering="crispEdges"><title>%s</title><rect width="%d" height="%d" fill="#fff"/><path d="`,
		size, size, template.HTMLEscapeString(text), size, size)
	for y := range c.Size {
		for x := range c.Size {
			if c.Black(x, y) {
				fmt.Fprintf(&b, "M%d %dh1v1h-1z", x+quiet, y+quiet)
			}
		}
	}
	b.WriteString(`"/></svg>`)
	return template.HTML(b.String()), nil
}

// ownHost says whether a request names this machine as its people do: by address, as localhost, by its name, or as configured. A
// page elsewhere whose name was made to point here (DNS rebinding) does not, and is told nothing.
func ownHost(host, listen string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if _, err := netip.ParseAddr(host); err == nil || strings.EqualFold(host, "localhost") {
		return true
	}
	if h, _, err := net.SplitHostPort(listen); err == nil && h != "" && strings.EqualFold(host, h) {
		return true
	}
	name, err := os.Hostname()
	if err != nil {
		return false
	}
	short, _, _ := strings.Cut(name, ".")
	return strings.EqualFold(host, name) || strings.EqualFold(host, short)
}
