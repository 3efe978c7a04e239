package link

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/logfile"
)

const (
	dialTimeout  = 2 * time.Second
	mostPatience = 15 * time.Second // with a handshake; less than the peers have (peer/node)
	pingInterval = 5 * time.Second  // of an idle line; the library's two minutes find a dead one after six
	busyTimeouts = 4                // AckTimeouts that a busy leaf node gets before it is asked for less
	pongTimeout  = time.Second      // for the question "are you there" after an acknowledgement that did not come
)

// session is one connection to one leaf node, from dialling to its end.
type session struct {
	link *Link
	leaf *leafNode
	nc   *nats.Conn
	conn *watchedConn
	last uint64 // sequence at which the stream ended when the session began

	ctx context.Context // ends, with the cause, when the connection does or the leaf node denies something
	end context.CancelCauseFunc
	buf []byte
}

// watchedConn dials, and can tear down the connection beneath the library, which may be holding its locks in a write to a
// line that is dead.
type watchedConn struct {
	ctx    context.Context
	mu     sync.Mutex
	conn   net.Conn
	closed bool
}

// Dial is for the library.
func (w *watchedConn) Dial(network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(w.ctx, network, address)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		c.Close()
		return nil, net.ErrClosed
	}
	w.conn = c
	return c, nil
}

func (w *watchedConn) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if w.conn != nil {
		w.conn.Close()
	}
}

// dial connects and asks where the stream ends. It returns only with an acknowledged right to publish. The end of attempt
// gives up; the end of ctx also ends the session that was made.
func (l *Link) dial(ctx, attempt context.Context, leaf *leafNode) (*session, error) {
	began, patience := time.Now(), cmp.Or(leaf.patience, dialTimeout)
	leaf.patience = dialTimeout
	s := &session{link: l, leaf: leaf, conn: &watchedConn{ctx: attempt}}
	s.ctx, s.end = context.WithCancelCause(ctx)
	defer context.AfterFunc(attempt, s.conn.close)() // the library does not take a context
	opts := []nats.Option{
		nats.Name("vitalgate " + l.cfg.Box.String()),
		nats.SetCustomDialer(s.conn),
		nats.Timeout(patience),
		nats.NoReconnect(), // the link reconnects: with the library's reconnecting come its buffers, which are no proof of anything
		nats.IgnoreDiscoveredServers(),
		nats.CustomInboxPrefix(l.inbox()),
		nats.PingInterval(pingInterval), nats.MaxPingsOutstanding(1),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrPermissionViolation) {
				s.end(unauthorised(leaf, err))
			}
		}),
		nats.ClosedHandler(func(nc *nats.Conn) { s.end(explainClose(leaf, nc.LastError())) }),
	}
	if strings.HasPrefix(leaf.URL, "tls:") {
		opts = append(opts, nats.Secure(l.cfg.TLS), nats.TLSHandshakeFirst())
	}
	if l.cfg.NKey != "" {
		opts = append(opts, nats.Nkey(l.cfg.NKey, l.cfg.Sign))
	}
	nc, err := nats.Connect(leaf.URL, opts...)
	if err != nil {
		if time.Since(began) >= patience {
			leaf.patience = min(2*patience, mostPatience)
		}
		s.conn.close()
		s.end(err)
		return nil, explainClose(leaf, err)
	}
	s.nc = nc
	if s.last, err = s.probe(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// explainClose finds out whether a connection that failed was refused.
func explainClose(leaf *leafNode, err error) error {
	var untrusted *tls.CertificateVerificationError
	switch {
	case err == nil:
		return nats.ErrConnectionClosed
	case errors.As(err, &untrusted):
		return &refusal{code: UntrustedLeaf, cause: err,
			sentence: "What answers at " + leaf.URL + " is not leaf node " + leaf.Name + " of this facility",
			remedy:   "Check the address, and the date of the box; if the facility has a new CA, give the box its new grant."}
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked), errors.Is(err, nats.ErrAccountAuthExpired),
		strings.Contains(err.Error(), "remote error: tls:"), strings.Contains(err.Error(), "after TLS handshake"): // alerts have no type
		return unauthorised(leaf, err)
	}
	return err
}

func unauthorised(leaf *leafNode, err error) error {
	return &refusal{code: Unauthorised, cause: err,
		sentence: "Leaf node " + leaf.Name + " does not accept this box",
		remedy:   "Check with vitalpeer at that leaf node that the box is enrolled there, that it is not revoked, and that the grant on the box is the newest; check the date of both."}
}

func (s *session) close() {
	s.end(nats.ErrConnectionClosed)
	s.conn.close()
	s.nc.Close()
}

// run publishes until the session ends. A session with a better leaf node is returned for use in its place.
func (s *session) run(ctx context.Context) (better *session, err error) {
	cur, err := s.link.align(s.leaf, s.last, true)
	if err != nil {
		return nil, err
	}
	s.link.connected(s.leaf)
	returns := s.lookForBetter(ctx)
	defer func() {
		s.end(nats.ErrConnectionClosed)
		if b := <-returns; better == nil && b != nil {
			better = b
		}
	}()

	sp := s.link.spool
	reader := sp.Reader(cur.Next)
	defer func() { reader.Close() }()
	var queue []record.Published // read, not acknowledged
	held := 0                    // bytes of queue
	silent := 0                  // acknowledgements in a row that did not come
	var gap *logfile.Missing     // what stands after queue cannot be read
	for {
		for gap == nil && len(queue) < s.leaf.records && held < s.link.cfg.BatchBytes {
			more, err := reader.Next()
			if errors.Is(err, io.EOF) || errors.As(err, &gap) {
				break
			}
			if err != nil {
				if len(queue) > 0 { // what stands before it goes first; the reader says it again
					break
				}
				if !errors.Is(err, logfile.ErrDropped) {
					return nil, s.link.unreadable(cur.Next, err)
				}
				// The ring dropped what another leaf node has.
				if cur, err = s.link.align(s.leaf, cur.Next-cur.Offset, false); err != nil {
					return nil, err
				}
				reader.Close()
				reader, queue, held, gap = sp.Reader(cur.Next), nil, 0, nil
				continue
			}
			queue, held = append(queue, more...), held+size(more)
		}
		if len(queue) == 0 && gap != nil {
			s.link.missing(s.leaf, gap)
			length := cur.Next - cur.Offset
			cur.Next, cur.From, cur.Offset = gap.To, gap.To, gap.To-length
			s.leaf.sent, gap = max(s.leaf.sent, cur.Next), nil
			if err := sp.SetCursor(s.leaf.Name, cur); err != nil {
				return nil, err
			}
			continue
		}
		if len(queue) == 0 {
			s.leaf.backoff = 0 // not at the connection: a leaf node that takes it and then no record is not to be dialled without end
			if err := sp.WaitSigned(s.ctx, cur.Next); err != nil {
				if s.ctx.Err() == nil {
					return nil, err
				}
				return nil, context.Cause(s.ctx)
			}
			continue
		}
		n := s.fit(queue)
		m, err := s.publish(queue[:n], cur.Next-cur.Offset)
		switch {
		case err == nil:
			silent, s.leaf.backoff = 0, 0
			if s.leaf.calm = max(s.leaf.calm-1, 0); s.leaf.calm == 0 {
				s.leaf.records = min(2*s.leaf.records, s.link.cfg.BatchRecords)
				s.leaf.timeout = max(s.leaf.timeout/2, s.link.cfg.AckTimeout)
			}
			cur.Next, cur.Unsure = queue[n-1].Index+1, false
			held -= size(queue[:n])
			clear(queue[:n])
			queue = queue[n:]
			if err := sp.SetCursor(s.leaf.Name, cur); err != nil {
				return nil, err
			}
			s.link.acknowledged(s.leaf, n, cur)
		case errors.Is(err, errElsewhere):
			if cur, err = s.link.align(s.leaf, m, false); err != nil {
				return nil, err
			}
			reader.Close()
			reader, queue, held, gap = sp.Reader(cur.Next), nil, 0, nil
		case errors.Is(err, errSilent), errors.Is(err, errDead):
			s.leaf.unheard(err, n, s.link.cfg.AckTimeout)
			if silent++; silent > 1 || errors.Is(err, errDead) {
				return nil, err
			}
		default:
			return nil, err
		}
	}
}

// unheard asks less of the leaf node for a while, because n records were not acknowledged. One that answers and does not acknowledge
// has much to do, most of all with its disk. A batch costs it the same few syncs whatever is in it, so smaller ones would only make
// more of them: first it gets more time. Else perhaps the line is only slow, and carries a smaller batch in time.
func (leaf *leafNode) unheard(why error, n int, usual time.Duration) {
	leaf.calm = 32
	switch {
	case errors.Is(why, errSilent) && leaf.timeout < busyTimeouts*usual:
		leaf.timeout *= 2
	case n > 1:
		leaf.records = n / 2
	default:
		leaf.timeout = min(2*leaf.timeout, time.Minute)
	}
}

// lookForBetter tries from time to time the leaf nodes that stand before this one in the list. The channel gives the one
// session that was made, which then ends this one, or nil when this one ended.
func (s *session) lookForBetter(ctx context.Context) <-chan *session {
	found := make(chan *session, 1)
	if s.leaf.rank == 0 {
		close(found)
		return found
	}
	go func() {
		defer close(found)
		tick := time.NewTicker(s.link.cfg.Return)
		defer tick.Stop()
		for {
			select {
			case <-s.ctx.Done():
				return
			case <-tick.C:
			}
			for _, leaf := range s.link.leaves[:s.leaf.rank] {
				if b, err := s.link.dial(ctx, s.ctx, leaf); err == nil {
					found <- b
					s.end(errReturn)
					return
				}
			}
		}
	}()
	return found
}

var (
	errReturn    = errors.New("a better leaf node is back")
	errSilent    = errors.New("the leaf node takes records but does not acknowledge them (its disk may be full)")
	errDead      = errors.New("the line to the leaf node is dead")
	errElsewhere = errors.New("the stream ends elsewhere")
)

func size(records []record.Published) (bytes int) {
	for i := range records {
		bytes += len(records[i].Leaf)
	}
	return bytes
}

// fit says how many records of queue make the next batch.
func (s *session) fit(queue []record.Published) int {
	bytes := 0
	for i := range queue {
		if i == s.leaf.records || i > 0 && bytes+len(queue[i].Leaf) > s.link.cfg.BatchBytes {
			return i
		}
		bytes += len(queue[i].Leaf)
	}
	return len(queue)
}

// The headers of an atomic batch (nats-server ADR-50).
const (
	hdrExpected = "Nats-Expected-Last-Sequence"
	hdrBatch    = "Nats-Batch-Id"
	hdrSequence = "Nats-Batch-Sequence"
	hdrCommit   = "Nats-Batch-Commit"
)

// publish sends records as one atomic batch that must follow sequence expect, and waits until the leaf node says that it
// is on its disk (nil), or that its stream ends elsewhere (errElsewhere, with the sequence). A single record is atomic
// without a batch, and costs the leaf node a tenth.
func (s *session) publish(records []record.Published, expect uint64) (m uint64, err error) {
	batch, heard := "", s.leaf.sent
	if len(records) > 1 {
		batch = rand.Text()
	}
	sending := s.deadline(s.leaf.timeout + pongTimeout)
	defer sending.Stop()
	for i := range records {
		if s.buf, err = records[i].AppendBinary(s.buf[:0]); err != nil {
			return 0, err
		}
		msg := &nats.Msg{Subject: s.link.subject(), Data: s.buf, Header: nats.Header{}}
		if batch != "" {
			msg.Header[hdrBatch], msg.Header[hdrSequence] = []string{batch}, []string{strconv.Itoa(i + 1)}
		}
		if i == 0 {
			msg.Header[hdrExpected] = []string{strconv.FormatUint(expect, 10)}
			s.leaf.sent = max(heard, records[len(records)-1].Index+1)
		}
		if i < len(records)-1 {
			if err := s.nc.PublishMsg(msg); err != nil {
				return 0, s.explain(err)
			}
			continue
		}
		if batch != "" {
			msg.Header[hdrCommit] = []string{"1"}
		}
		sending.Stop()
		a, err := s.ask(msg)
		if err != nil {
			return 0, err
		}
		if a.Error != nil {
			s.leaf.sent = heard // this batch is not stored and never will be
			return s.refused(a)
		}
		if a.Batch != batch || batch != "" && a.Count != len(records) || a.Seq != expect+uint64(len(records)) {
			return 0, fmt.Errorf("leaf node %s acknowledged something else than what it was sent (sequence %d, %d records)", s.leaf.Name, a.Seq, a.Count)
		}
		s.leaf.sent = records[i].Index + 1 // nor can an older batch be stored now
	}
	return 0, nil
}

// deadline tears the connection down after a while: a write to a dead line would wait for minutes, and hold the locks of
// the library so that nothing else could end it.
func (s *session) deadline(d time.Duration) *time.Timer {
	return time.AfterFunc(d, func() {
		s.end(errDead)
		s.conn.close()
	})
}

// probe asks where the stream ends, by a message that no stream can take: it must follow a sequence that none reaches.
func (s *session) probe() (uint64, error) {
	a, err := s.ask(&nats.Msg{Subject: s.link.subject(), Header: nats.Header{hdrExpected: {strconv.FormatUint(1<<62, 10)}}})
	if err != nil {
		return 0, err
	}
	if a.Error == nil {
		return 0, fmt.Errorf("leaf node %s does not check sequences: it is no nats-server with JetStream", s.leaf.Name)
	}
	m, err := s.refused(a)
	if !errors.Is(err, errElsewhere) {
		return 0, err
	}
	return m, nil
}

// answer is JetStream's reply to a publish.
type answer struct {
	Seq   uint64 `json:"seq"`
	Batch string `json:"batch"`
	Count int    `json:"count"`
	Error *struct {
		Code        int    `json:"err_code"`
		Description string `json:"description"`
	} `json:"error"`
}

// ask publishes msg and waits for JetStream's answer.
func (s *session) ask(msg *nats.Msg) (a answer, err error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.leaf.timeout)
	defer cancel()
	defer s.deadline(s.leaf.timeout + 2*pongTimeout).Stop()
	reply, err := s.nc.RequestMsgWithContext(ctx, msg)
	if err != nil {
		return a, s.explain(err)
	}
	return s.parse(reply.Data)
}

func (s *session) parse(reply []byte) (a answer, err error) {
	if err := json.Unmarshal(reply, &a); err != nil {
		return a, fmt.Errorf("cannot read the answer of leaf node %s: %w", s.leaf.Name, err)
	}
	return a, nil
}

// explain finds out why an answer did not come.
func (s *session) explain(err error) error {
	switch {
	case s.ctx.Err() != nil:
		return context.Cause(s.ctx)
	case errors.Is(err, nats.ErrNoResponders): // 503: not stored
		return &refusal{cause: err, sentence: "Leaf node " + s.leaf.Name + " has no stream for this box",
			remedy: "Enrol the box at that leaf node (vitalpeer box add), or wait until its JetStream has started."}
	case errors.Is(err, nats.ErrMaxPayload):
		return &refusal{cause: err, sentence: fmt.Sprintf("A record is larger than the %d bytes that leaf node %s takes in one message", s.nc.MaxPayload(), s.leaf.Name),
			remedy: fmt.Sprintf("Set max_payload of that leaf node to at least %d.", record.MaxPublished)}
	case errors.Is(err, context.DeadlineExceeded):
		if s.nc.FlushTimeout(pongTimeout) == nil {
			return errSilent
		}
		return errDead
	}
	return err
}

// refused reads JetStream's error.
func (s *session) refused(a answer) (m uint64, err error) {
	const wrongLastSequence, incomplete = 10071, 10176
	switch a.Error.Code {
	case wrongLastSequence:
		_, number, _ := strings.Cut(a.Error.Description, "wrong last sequence: ")
		if m, err := strconv.ParseUint(number, 10, 64); err == nil {
			return m, errElsewhere
		}
	case incomplete:
		return 0, errors.New("the leaf node lost part of a batch")
	}
	return 0, &refusal{sentence: fmt.Sprintf("Leaf node %s does not store records: %s (%d)", s.leaf.Name, a.Error.Description, a.Error.Code),
		remedy: "Check the disk and the JetStream limits of that leaf node."}
}
