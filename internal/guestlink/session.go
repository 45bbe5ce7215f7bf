package guestlink

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

type side int

const (
	hostSide side = iota
	guestSide
)

// Limits of a session.
const (
	// MaxStreams is how many streams a session holds at once.
	MaxStreams = 64
	// backlog is how many streams may wait to be accepted.
	backlog = 16

	// The host asks whether the guest lives; the guest learns of a lost host
	// from its port, and asks rarely, since each time wakes an idle VM.
	hostKeepAlive  = 15 * time.Second
	guestKeepAlive = 2 * time.Minute
	writeTimeout   = 10 * time.Second
	openTimeout    = 30 * time.Second
	closeTimeout   = 10 * time.Second
	goodbyeTimeout = time.Second
	headerTimeout  = 10 * time.Second
	// window is per stream; yamux takes no less.
	window = 256 << 10
)

// ErrClosed means that the session is over; the host dials again.
var ErrClosed = errors.New("guest link session is over")

// errGuestOnly answers a host that tries to accept.
var errGuestOnly = errors.New("only the guest accepts streams")

// Session is one conversation over the link. It is safe for concurrent use.
type Session struct {
	side side
	ym   *yamux.Session
	conn *wire
	// slots holds one element for each open stream.
	slots chan struct{}
}

func newSession(conn io.ReadWriteCloser, r *bufio.Reader, side side) (*Session, error) {
	w := newWire(conn, r, side)
	cfg := yamux.DefaultConfig()
	cfg.AcceptBacklog = backlog
	cfg.KeepAliveInterval = hostKeepAlive
	cfg.ConnectionWriteTimeout = writeTimeout
	cfg.StreamOpenTimeout = openTimeout
	cfg.StreamCloseTimeout = closeTimeout
	cfg.MaxStreamWindowSize = window
	cfg.LogOutput = io.Discard // a hostile peer could fill a log with it
	start := yamux.Client
	if side == guestSide {
		cfg.KeepAliveInterval = guestKeepAlive
		start = yamux.Server
	}
	ym, err := start(w, cfg)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("guest link: %w", err)
	}
	return &Session{side: side, ym: ym, conn: w, slots: make(chan struct{}, MaxStreams)}, nil
}

// Done is closed when the session is over, whoever ended it.
func (s *Session) Done() <-chan struct{} { return s.ym.CloseChan() }

// Close ends the session and all its streams, and closes what it was made
// from. The other side is told, so that it need not find out by itself.
func (s *Session) Close() error {
	told := make(chan struct{})
	go func() {
		defer close(told)
		_ = s.ym.GoAway()
	}()
	select {
	case <-told:
	case <-time.After(goodbyeTimeout):
	case <-s.Done():
	}
	return s.ym.Close()
}

// Err says why a session that is over ended, when the reading end knows.
func (s *Session) Err() error {
	select {
	case <-s.Done():
	default:
		return nil
	}
	if err := s.conn.reason(); err != nil {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return ErrClosed
}

// Open begins a stream of a kind; body, which may be nil, is the kind's own
// part of the header. Only the host opens streams.
func (s *Session) Open(ctx context.Context, kind string, body any) (*Stream, error) {
	line, err := encodeHeader(kind, body)
	if err != nil {
		return nil, err
	}
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("open a %s stream: %w", kind, context.Cause(ctx))
	case <-s.Done():
		return nil, s.Err()
	}
	ys, err := s.openStream(ctx)
	if err != nil {
		<-s.slots
		return nil, fmt.Errorf("open a %s stream: %w", kind, err)
	}
	st := s.newStream(ys, kind, nil)
	release := st.bind(ctx)
	defer release()
	if _, err := st.Write(line); err != nil {
		_ = st.Close()
		return nil, fmt.Errorf("open a %s stream: %w", kind, ctxError(ctx, err))
	}
	return st, nil
}

// openStream lets ctx end the wait: yamux blocks while too many streams are
// not acknowledged.
func (s *Session) openStream(ctx context.Context) (*yamux.Stream, error) {
	type opened struct {
		st  *yamux.Stream
		err error
	}
	c := make(chan opened, 1)
	go func() {
		st, err := s.ym.OpenStream()
		c <- opened{st, err}
	}()
	select {
	case o := <-c:
		if o.err != nil && s.ym.IsClosed() {
			return nil, s.Err()
		}
		return o.st, o.err
	case <-ctx.Done():
		go func() {
			if o := <-c; o.err == nil {
				_ = o.st.Close()
			}
		}()
		return nil, context.Cause(ctx)
	}
}

// Accept returns the next stream of the host with its header read. A stream
// whose header is wrong, or that exceeds MaxStreams, is closed and skipped.
// The error is ErrClosed when the session is over.
func (s *Session) Accept(ctx context.Context) (*Stream, error) {
	if s.side != guestSide {
		return nil, errGuestOnly
	}
	for {
		ys, err := s.ym.AcceptStreamWithContext(ctx)
		if err != nil {
			if s.ym.IsClosed() {
				return nil, s.Err()
			}
			return nil, ctxError(ctx, err)
		}
		select {
		case s.slots <- struct{}{}:
		default:
			_ = ys.Close()
			continue
		}
		st := s.newStream(ys, "", nil)
		if err := st.readHeader(); err != nil {
			_ = st.Close()
			continue
		}
		return st, nil
	}
}

func (s *Session) newStream(ys *yamux.Stream, kind string, body []byte) *Stream {
	return &Stream{ys: ys, r: bufio.NewReaderSize(ys, streamBuffer), kind: kind, body: body,
		release: sync.OnceFunc(func() { <-s.slots })}
}

// wire is the connection as yamux sees it: reads pass the guard.
type wire struct {
	conn   io.ReadWriteCloser
	guard  *guard
	closed chan struct{}
	close  func() error

	mu   sync.Mutex
	last error
}

func newWire(conn io.ReadWriteCloser, r *bufio.Reader, side side) *wire {
	w := &wire{conn: conn, closed: make(chan struct{})}
	w.guard = newGuard(r, w.closed, side)
	w.close = sync.OnceValue(func() error {
		close(w.closed)
		return conn.Close()
	})
	return w
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.guard.Read(p)
	if err != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.last = err
	}
	return n, err
}

func (w *wire) Write(p []byte) (int, error) { return w.conn.Write(p) }

func (w *wire) Close() error { return w.close() }

func (w *wire) reason() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}
