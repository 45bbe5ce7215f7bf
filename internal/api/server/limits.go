package server

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"bield/internal/api"
)

// Limits on what callers may use of the daemon. Root has its own share of each,
// which others can't use up.
const (
	// connsEach is for one user's connections, connsAll for those of all but root.
	connsEach, connsAll = 128, 512
	// worksEach and worksAll are for calls that change or check much: their bodies
	// may be large too.
	worksEach, worksAll = 16, 64
	// followsEach and followsAll are for calls that go on as long as the client likes.
	followsEach, followsAll = 32, 128
	// looksEach and looksAll are for all other calls.
	looksEach, looksAll = 64, 256
	// rootShare is root's share of everything.
	rootShare = 1024

	// readTimeout is how long a client may take to send a request's body.
	readTimeout = 20 * time.Second
	// answerTimeout is how long a client may take to read what is written at once,
	// unless the handler sets another time.
	answerTimeout = 30 * time.Second
)

// errTooMany says that a caller has enough under way.
var errTooMany = errors.New("too many at once")

// gate counts what is under way, by user.
type gate struct {
	what      string
	each, all int
	mu        sync.Mutex
	by        map[uint32]int
	others    int // all but root's
}

func newGate(what string, each, all int) *gate {
	return &gate{what: what, each: each, all: all, by: map[uint32]int{}}
}

// enter takes a place for a user, to be given back by leave, or says why not.
func (g *gate) enter(uid uint32) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	each, full := g.each, g.others >= g.all
	if uid == 0 {
		each, full = rootShare, false
	}
	switch {
	case g.by[uid] >= each:
		return fmt.Errorf("%w: uid %d has %d %s under way: let some end first", errTooMany, uid, each, g.what)
	case full:
		return fmt.Errorf("%w: bieldd has %d %s under way: try again later", errTooMany, g.all, g.what)
	}
	g.by[uid]++
	if uid != 0 {
		g.others++
	}
	return nil
}

func (g *gate) leave(uid uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.by[uid]--; g.by[uid] == 0 {
		delete(g.by, uid)
	}
	if uid != 0 {
		g.others--
	}
}

// limitListener closes connections beyond the limits at once, so that those of
// others are still taken.
type limitListener struct {
	net.Listener
	gate *gate
}

// Accept returns the next connection that has a place.
func (l limitListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		cred, err := peerCredentials(conn)
		if err == nil {
			err = l.gate.enter(cred.Uid)
		}
		if err != nil {
			_ = conn.Close()
			continue
		}
		return &placed{Conn: conn, uid: cred.Uid, gid: cred.Gid, leave: sync.OnceFunc(func() { l.gate.leave(cred.Uid) })}, nil
	}
}

// placed is a connection that gives its place back when it is closed.
type placed struct {
	net.Conn
	uid, gid uint32 // of who connected
	leave    func()
}

// Close implements net.Conn.
func (p *placed) Close() error {
	defer p.leave()
	return p.Conn.Close()
}

// timedWriter gives each write its time, so that a client that does not read
// holds up no handler. One that sets a deadline itself keeps it.
type timedWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	limit   time.Duration
	own     bool
}

func newTimedWriter(w http.ResponseWriter, limit time.Duration) *timedWriter {
	return &timedWriter{ResponseWriter: w, control: http.NewResponseController(w), limit: limit}
}

// Unwrap is for http.ResponseController.
func (w *timedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// SetWriteDeadline is for http.ResponseController; the zero time gives the
// deadline back to the writer.
func (w *timedWriter) SetWriteDeadline(at time.Time) error {
	w.own = !at.IsZero()
	return w.control.SetWriteDeadline(at)
}

func (w *timedWriter) arm() {
	if !w.own {
		// What has no deadlines is no connection: a test's recorder.
		_ = w.control.SetWriteDeadline(time.Now().Add(w.limit))
	}
}

// Write implements http.ResponseWriter.
func (w *timedWriter) Write(p []byte) (int, error) {
	w.arm()
	return w.ResponseWriter.Write(p)
}

// WriteHeader implements http.ResponseWriter.
func (w *timedWriter) WriteHeader(code int) {
	w.arm()
	w.ResponseWriter.WriteHeader(code)
}

// FlushError is for http.ResponseController.
func (w *timedWriter) FlushError() error {
	w.arm()
	return w.control.Flush()
}

// bound limits a request's body in size and time. What a route does not read
// may not be sent: the server would wait for it after the answer.
func (s *Server) bound(w http.ResponseWriter, r *http.Request, hasBody bool) error {
	if r.ContentLength == 0 {
		return nil
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.readTimeout))
	r.Body = http.MaxBytesReader(w, r.Body, api.MaxRequestBytes)
	if !hasBody {
		return fmt.Errorf("%w: %s %s takes no body", errRequest, r.Method, r.URL.Path)
	}
	return nil
}

// turnAway makes the server close the connection behind the answer, and not
// wait for what else the client would send.
func turnAway(w http.ResponseWriter) {
	w.Header().Set("Connection", "close")
	_ = http.NewResponseController(w).SetReadDeadline(time.Now())
}

// readInFull ends the time for a body: from here on a read tells only that the
// client has left.
func readInFull(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
}
