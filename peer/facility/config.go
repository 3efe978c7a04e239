package facility

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/vitalgate/vitalgate/record"
)

// Config is peer.toml. It is strict: an unknown key or a wrong type is an error that names it.
type Config struct {
	Facility string `toml:"facility"`
	Name     string `toml:"name"`
	Boxes    struct {
		Listen    string `toml:"listen"`
		URL       string `toml:"url"`
		StreamMiB int64  `toml:"stream_mib"`
	} `toml:"boxes"`
	Peers struct {
		Listen string   `toml:"listen"`
		URL    string   `toml:"url"`
		Hubs   []string `toml:"hubs"`
	} `toml:"peers"`
	Page struct {
		Listen string `toml:"listen"`
	} `toml:"page"`
}

const defaultStreamMiB = 1024

// text is the file as `vitalpeer init` writes it.
func (c *Config) text() []byte {
	quote := func(s string) string {
		b, _ := toml.Marshal(map[string]string{"v": s}) // a string always encodes
		return strings.TrimSpace(strings.TrimPrefix(string(b), "v = "))
	}
	hubs := make([]string, len(c.Peers.Hubs))
	for i, h := range c.Peers.Hubs {
		hubs[i] = quote(h)
	}
	return fmt.Appendf(nil, `# vitalpeer: one peer of the network. An unknown key is an error. Changes need a restart of vitalpeer run.

facility = %s
name     = %s             # unique in the facility

[boxes]
listen = %s # where boxes connect (NATS over TLS 1.3); empty: this peer takes no boxes
url    = %s # how boxes reach that, tls://host:port, where it differs; the host must be in the certificate (init --host)
stream_mib = %d            # most MiB of each box that wait to be verified and stored; full, the stream refuses and the box keeps its records

[peers]
listen = %s # where ward peers join (NATS leaf nodes); empty: none
url    = %s # how ward peers reach that, tls://host:port, where it differs
hubs   = [%s] # which peers this one joins, tls://host:port

[page]
listen = %s # page of the beds, /api/records, /healthz, /readyz, /metrics. It shows patient data and asks nobody who he
            # is: keep it on a loopback address. Empty: none
`, quote(c.Facility), quote(c.Name), quote(c.Boxes.Listen), quote(c.Boxes.URL), c.Boxes.StreamMiB,
		quote(c.Peers.Listen), quote(c.Peers.URL), strings.Join(hubs, ", "), quote(c.Page.Listen))
}

// Load reads and checks the peer's configuration.
func (d Dir) Load() (*Config, error) {
	b, err := os.ReadFile(d.Config())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot find a peer in %s (no peer.toml); name its folder with --data, or make one with vitalpeer init", d)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	var c Config
	c.Boxes.StreamMiB = defaultStreamMiB
	if err := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields().Decode(&c); err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", d.Config(), explain(err))
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", d.Config(), err)
	}
	return &c, nil
}

// explain turns the TOML library's errors into lines that say where and what.
func explain(err error) error {
	if strict := (*toml.StrictMissingError)(nil); errors.As(err, &strict) {
		var all []error
		for _, e := range strict.Errors {
			row, col := e.Position()
			all = append(all, fmt.Errorf("line %d, column %d: unknown key %q; remove it or mend its name", row, col, strings.Join(e.Key(), ".")))
		}
		return errors.Join(all...)
	}
	if de := (*toml.DecodeError)(nil); errors.As(err, &de) {
		row, col := de.Position()
		return fmt.Errorf("line %d, column %d: %s: %s", row, col, strings.Join(de.Key(), "."), strings.TrimPrefix(de.Error(), "toml: "))
	}
	return err
}

func (c *Config) check() error {
	var all []error
	bad := func(key, format string, a ...any) {
		all = append(all, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, a...)))
	}
	if !(record.BoxID{Facility: c.Facility, Name: "x"}).Valid() {
		bad("facility", "%q is not 1 to 32 of a-z, 0-9 and -", c.Facility)
	}
	if !(record.BoxID{Facility: "x", Name: c.Name}).Valid() {
		bad("name", "%q is not 1 to 32 of a-z, 0-9 and -", c.Name)
	}
	c.Boxes.StreamMiB = cmp.Or(c.Boxes.StreamMiB, defaultStreamMiB)
	if c.Boxes.StreamMiB < 16 || c.Boxes.StreamMiB > 1<<20 {
		bad("boxes.stream_mib", "is %d, must be 16 to 1048576", c.Boxes.StreamMiB)
	}
	for _, a := range [][2]string{{"boxes.listen", c.Boxes.Listen}, {"peers.listen", c.Peers.Listen}, {"page.listen", c.Page.Listen}} {
		if _, _, err := net.SplitHostPort(a[1]); a[1] != "" && err != nil {
			bad(a[0], "%q is not host:port", a[1])
		}
	}
	urls := [][2]string{{"boxes.url", c.Boxes.URL}, {"peers.url", c.Peers.URL}}
	for _, h := range c.Peers.Hubs {
		urls = append(urls, [2]string{"peers.hubs", cmp.Or(h, "an empty one")})
	}
	for _, u := range urls {
		if u[1] != "" && !validURL(u[1]) {
			bad(u[0], "%q is not tls://host:port", u[1])
		}
	}
	return errors.Join(all...)
}

func validURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "tls" && u.Hostname() != "" && u.Port() != "" && u.Path == ""
}

// hosts are the names under which others reach this peer.
func (c *Config) hosts() (all []string) {
	for _, a := range []string{c.Boxes.Listen, c.Peers.Listen} {
		if host, _, err := net.SplitHostPort(a); err == nil {
			all = append(all, host)
		}
	}
	for _, s := range []string{c.Boxes.URL, c.Peers.URL} {
		if u, err := url.Parse(s); err == nil {
			all = append(all, u.Hostname())
		}
	}
	return all
}

// BoxURL is how boxes reach this peer, PeerURL how ward peers do; "" where they cannot.
func (c *Config) BoxURL() string  { return reach(c.Boxes.URL, c.Boxes.Listen) }
func (c *Config) PeerURL() string { return reach(c.Peers.URL, c.Peers.Listen) }

func reach(url, listen string) string {
	if url == "" && listen != "" {
		return "tls://" + listen
	}
	return url
}
