package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vitalgate/vitalgate/peer/facility"
	"github.com/vitalgate/vitalgate/peer/registry"
	"github.com/vitalgate/vitalgate/peer/starts"
	"github.com/vitalgate/vitalgate/peer/store"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/logfile"
)

// source is where a command reads the verified store: the files of a stopped peer, or a running peer through the socket
// in its data folder. Either way the command verifies what it reads itself.
type source interface {
	// Records calls do for each stored record of the box from an index on, in order. With follow it goes on until ctx ends.
	Records(ctx context.Context, id record.BoxID, from uint64, follow bool, do func(record.Published) error) error
	Size(record.BoxID) (uint64, error)
	// Starts are what was found of the starts of the box.
	Starts(context.Context, record.BoxID) ([]starts.Start, error)
	Close() error
}

// openSource opens the store of the peer in d.
func openSource(d facility.Dir) (source, error) {
	if _, err := d.Load(); err != nil {
		return nil, err
	}
	unlock, err := lock(d)
	if errors.Is(err, errRunning) {
		return socketSource{d}, nil
	}
	if err != nil {
		return nil, err
	}
	s := store.New(store.Options{Dir: d.Store(), Quarantine: d.Quarantine(), Evidence: d.Evidence(), Starts: d.Starts(), Reading: true})
	return &fileSource{s, d.Registry(), unlock}, nil
}

// unknownBox is the error for a box that the store does not know (yet).
type unknownBox struct{ box string }

func (e unknownBox) Error() string {
	return "cannot find box " + e.box + ": it is not registered here; vitalpeer box list shows all"
}

// storeSource reads the store of this process.
type storeSource struct{ store *store.Store }

func (s storeSource) Records(ctx context.Context, id record.BoxID, from uint64, follow bool, do func(record.Published) error) error {
	b := s.store.Find(id)
	if b == nil {
		return unknownBox{id.String()}
	}
	return records(ctx, b, from, follow, leaveOut, do)
}

func (s storeSource) Size(id record.BoxID) (uint64, error) {
	b := s.store.Find(id)
	if b == nil {
		return 0, unknownBox{id.String()}
	}
	return b.Size(), nil
}

func (s storeSource) Starts(_ context.Context, id record.BoxID) ([]starts.Start, error) {
	b := s.store.Find(id)
	if b == nil {
		return nil, unknownBox{id.String()}
	}
	return b.Starts(), nil
}

func (storeSource) Close() error { return nil }

var errRunning = errors.New("a vitalpeer is running on this data folder")

// lock takes the data folder for this process.
func lock(d facility.Dir) (unlock func(), err error) { return lockFile(d.Lock(), unix.LOCK_NB) }

// lockDeciding lets one command at a time make the next entry of the registry: two would sign two for one place.
func lockDeciding(d facility.Dir) (unlock func(), err error) {
	return lockFile(d.Lock()+".registry", 0)
}

func lockFile(path string, how int) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the data folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|how); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errRunning
		}
		return nil, fmt.Errorf("cannot lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// fileSource reads the files of a stopped peer.
type fileSource struct {
	store    *store.Store
	registry registry.Registry
	unlock   func()
}

func (s *fileSource) box(id record.BoxID) (*store.Box, error) {
	state, err := s.registry.Load()
	if r := state.Box(id); r != nil {
		return s.store.Box(r)
	}
	return nil, errors.Join(unknownBox{id.String()}, err)
}

func (s *fileSource) Records(ctx context.Context, id record.BoxID, from uint64, follow bool, do func(record.Published) error) error {
	b, err := s.box(id)
	if err != nil {
		return err
	}
	if err := records(ctx, b, from, false, leaveOut, do); err != nil || !follow {
		return err
	}
	<-ctx.Done() // a stopped peer's store does not grow
	return ctx.Err()
}

func (s *fileSource) Size(id record.BoxID) (uint64, error) {
	b, err := s.box(id)
	if err != nil {
		return 0, err
	}
	return b.Size(), nil
}

func (s *fileSource) Starts(ctx context.Context, id record.BoxID) ([]starts.Start, error) {
	b, err := s.box(id)
	if err == nil {
		err = b.Looked(ctx)
	}
	if err != nil {
		return nil, err
	}
	return b.Starts(), nil
}

func (s *fileSource) Close() error {
	err := s.store.Close()
	s.unlock()
	return err
}

// leaveOut goes on behind what is missing; who reads sees it by the indexes.
func leaveOut(*logfile.Missing) error { return nil }

// records reads the log of a box from an index on. Where records are missing it asks missing whether to go on; nil does not.
func records(ctx context.Context, b *store.Box, from uint64, follow bool, missing func(*logfile.Missing) error, do func(record.Published) error) error {
	r := b.Reader(from)
	defer r.Close()
	for ctx.Err() == nil {
		grown := b.Grown()
		group, err := r.Next()
		if err == io.EOF {
			if !follow {
				return nil
			}
			select {
			case <-ctx.Done():
			case <-grown:
			}
			continue
		}
		if m := (*logfile.Missing)(nil); missing != nil && errors.As(err, &m) {
			err = missing(m)
		}
		if err != nil {
			return err
		}
		for _, p := range group {
			if err := do(p); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// socketSource reads from a running peer.
type socketSource struct{ dir facility.Dir }

func (s socketSource) get(ctx context.Context, path string) (*http.Response, error) {
	return s.do(ctx, http.MethodGet, path, nil)
}

func (s socketSource) do(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			name, done, err := socketName(s.dir)
			if err != nil {
				return nil, err
			}
			defer done()
			var d net.Dialer
			return d.DialContext(ctx, "unix", name)
		}}}
	q, err := http.NewRequestWithContext(ctx, method, "http://peer"+path, body)
	if err != nil {
		return nil, err
	}
	a, err := client.Do(q)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the vitalpeer that runs on %s: %w; it may be starting or stopping, try again", s.dir, err)
	}
	if a.StatusCode != http.StatusOK {
		defer a.Body.Close()
		if a.StatusCode == http.StatusNotFound {
			return nil, unknownBox{path}
		}
		text, _ := io.ReadAll(io.LimitReader(a.Body, 4096))
		if a.StatusCode == http.StatusConflict {
			return nil, decisionRefused{strings.TrimSpace(string(text))}
		}
		return nil, fmt.Errorf("cannot read from the vitalpeer that runs on %s: %s", s.dir, text)
	}
	return a, nil
}

func (s socketSource) Records(ctx context.Context, id record.BoxID, from uint64, follow bool, do func(record.Published) error) error {
	q := url.Values{"box": {id.String()}, "from": {strconv.FormatUint(from, 10)}}
	if follow {
		q.Set("follow", "1")
	}
	a, err := s.get(ctx, "/records?"+q.Encode())
	if errors.As(err, &unknownBox{}) {
		return unknownBox{id.String()}
	}
	if err != nil {
		return err
	}
	defer a.Body.Close()
	r := bufio.NewReaderSize(a.Body, 64<<10)
	for {
		var size [4]byte
		if _, err := io.ReadFull(r, size[:]); err == io.EOF {
			return ctx.Err()
		} else if err != nil {
			return errors.Join(ctx.Err(), fmt.Errorf("the vitalpeer that runs on %s ended the answer: %w", s.dir, err))
		}
		n := binary.BigEndian.Uint32(size[:])
		if n == 0 {
			return nil // the end, said
		}
		if n > uint32(record.MaxPublished) {
			return fmt.Errorf("the vitalpeer that runs on %s sent a record that is too large", s.dir)
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(r, b); err != nil {
			return errors.Join(ctx.Err(), err)
		}
		p, err := record.ParsePublished(b)
		if err != nil {
			return err
		}
		if err := do(p); err != nil {
			return err
		}
	}
}

func (s socketSource) Size(id record.BoxID) (uint64, error) {
	st, err := s.status(context.Background())
	if err != nil {
		return 0, err
	}
	for _, b := range st.Boxes {
		if b.Box == id.String() {
			return b.Records, nil
		}
	}
	return 0, nil
}

func (s socketSource) status(ctx context.Context) (*status, error) {
	a, err := s.get(ctx, "/status")
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	var st status
	return &st, json.NewDecoder(io.LimitReader(a.Body, 16<<20)).Decode(&st)
}

func (s socketSource) Starts(ctx context.Context, id record.BoxID) (all []starts.Start, err error) {
	a, err := s.get(ctx, "/starts?"+url.Values{"box": {id.String()}}.Encode())
	if errors.As(err, &unknownBox{}) {
		return nil, nil // the release of before runs, and knows of no starts; that a box is not registered its records say
	}
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	return all, json.NewDecoder(io.LimitReader(a.Body, 256<<20)).Decode(&all)
}

func (socketSource) Close() error { return nil }

// socketName is a name of the peer's socket that is short enough for the kernel (108 bytes); done after use.
func socketName(d facility.Dir) (name string, done func(), err error) {
	if len(d.Socket()) < 100 {
		return d.Socket(), func() {}, nil
	}
	f, err := os.Open(string(d))
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", f.Fd(), facility.SocketName), func() { f.Close() }, nil
}

// serveStarts answers /starts on the socket.
func (p *peer) serveStarts(w http.ResponseWriter, q *http.Request) {
	id, err := record.ParseBoxID(q.FormValue("box"))
	b := p.store.Find(id)
	if err != nil || b == nil {
		http.Error(w, fmt.Sprintf("box %q is not registered here", q.FormValue("box")), http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(b.Starts())
}

// serveRecords answers /records on the socket. What it meets that cannot be read is asked of the other peers.
func (p *peer) serveRecords(w http.ResponseWriter, q *http.Request) {
	id, err := record.ParseBoxID(q.FormValue("box"))
	b := p.store.Find(id)
	if err != nil || b == nil {
		http.Error(w, fmt.Sprintf("box %q is not registered here", q.FormValue("box")), http.StatusNotFound)
		return
	}
	from, err := strconv.ParseUint(q.FormValue("from"), 10, 64)
	if err != nil {
		http.Error(w, "from is not an index", http.StatusBadRequest)
		return
	}
	follow := q.FormValue("follow") != ""
	var frame []byte
	out := http.NewResponseController(w)
	lacks := func(m *logfile.Missing) error { b.Unread(m); return nil }
	err = records(q.Context(), b, from, follow, lacks, func(p record.Published) error {
		frame, err = p.AppendBinary(append(frame[:0], 0, 0, 0, 0))
		if err != nil {
			return err
		}
		binary.BigEndian.PutUint32(frame, uint32(len(frame)-4))
		if _, err := w.Write(frame); err != nil {
			return err
		}
		if follow && p.Index+1 >= b.Size() {
			return out.Flush()
		}
		return nil
	})
	if err != nil {
		if q.Context().Err() == nil {
			p.log.Error("cannot read the verified store", "box", id.String(), "error", err)
		}
		if frame == nil { // nothing has been answered yet
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		panic(http.ErrAbortHandler) // the reader must not take it for the whole
	}
	w.Write([]byte{0, 0, 0, 0})
}
