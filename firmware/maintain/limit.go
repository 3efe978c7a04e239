package maintain

import (
	"net"
	"sync"
	"time"
)

// How many connections the link holds at once. A tool needs one or two.
const (
	mostConnections = 64
	mostOfOne       = 8 // from one address
)

// limited closes connections beyond the limits at once, so that whoever opens many costs a tool nothing.
type limited struct {
	net.Listener
	mu  sync.Mutex
	all int
	of  map[string]int
}

func newLimited(l net.Listener) *limited { return &limited{Listener: l, of: map[string]int{}} }

func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		host := hostOf(c.RemoteAddr().String())
		l.mu.Lock()
		ok := l.all < mostConnections && l.of[host] < mostOfOne
		if ok {
			l.all++
			l.of[host]++
		}
		l.mu.Unlock()
		if ok {
			return &limitedConn{Conn: c, done: sync.OnceFunc(func() {
				l.mu.Lock()
				defer l.mu.Unlock()
				l.all--
				if l.of[host]--; l.of[host] == 0 {
					delete(l.of, host)
				}
			})}, nil
		}
		c.Close()
	}
}

type limitedConn struct {
	net.Conn
	done func()
}

func (c *limitedConn) Close() error {
	c.done()
	return c.Conn.Close()
}

func hostOf(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return host
}

// tries slows down whoever guesses claim codes. 80 bits cannot be guessed at any rate; what is bounded here is work and log lines.
type tries struct {
	now func() time.Time

	mu sync.Mutex
	of map[string]*wrong
}

type wrong struct {
	times int
	until time.Time
}

const (
	freeTries    = 5 // a person mistypes
	firstLock    = 2 * time.Second
	longestLock  = 10 * time.Minute
	mostGuessers = 1024
)

func newTries(now func() time.Time) *tries { return &tries{now: now, of: map[string]*wrong{}} }

// locked is how long the address must wait before its next try.
func (t *tries) locked(host string) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w := t.of[host]; w != nil {
		return max(0, w.until.Sub(t.now()))
	}
	return 0
}

func (t *tries) failed(host string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.of[host]
	if w == nil {
		if len(t.of) >= mostGuessers { // an attacker with so many addresses gains nothing by being forgotten: see above
			clear(t.of)
		}
		w = &wrong{}
		t.of[host] = w
	}
	if w.times++; w.times >= freeTries {
		w.until = t.now().Add(min(firstLock<<min(w.times-freeTries, 20), longestLock))
	}
}

func (t *tries) succeeded(host string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.of, host)
}
