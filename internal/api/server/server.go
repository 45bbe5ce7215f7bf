package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"bield/internal/api"
	"bield/internal/reconcile"
)

// Server is bieldd's side of the API.
type Server struct {
	engine  *reconcile.Engine
	version string
	log     *slog.Logger
	http    *http.Server
	touch   func()
	// calls are those under way, and busy is their number.
	calls                      sync.WaitGroup
	busy                       atomic.Int64
	readTimeout, answerTimeout time.Duration
	conns                      *gate
	gates                      map[load]*gate
	// ending is closed when the server is shut down.
	ending chan struct{}
}

// Busy says that calls are under way.
func (s *Server) Busy() bool { return s.busy.Load() > 0 }

// New returns a server of the engine's. touch is called for each request, so
// that an idle daemon can be told from a used one.
func New(engine *reconcile.Engine, version string, log *slog.Logger, touch func()) *Server {
	s := &Server{engine: engine, version: version, log: log, touch: touch, ending: make(chan struct{}), readTimeout: readTimeout, answerTimeout: answerTimeout}
	s.conns = newGate("connections", connsEach, connsAll)
	s.gates = map[load]*gate{
		look:   newGate("calls", looksEach, looksAll),
		work:   newGate("changes and checks", worksEach, worksAll),
		follow: newGate("calls that wait or follow", followsEach, followsAll),
	}
	s.http = &http.Server{
		Handler:           s.routes(),
		ConnContext:       withCaller,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	s.http.RegisterOnShutdown(sync.OnceFunc(func() { close(s.ending) }))
	return s
}

// Serve answers on listener until Shutdown.
func (s *Server) Serve(listener net.Listener) error {
	if err := s.http.Serve(limitListener{listener, s.conns}); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// Shutdown lets calls under way finish until ctx ends, then cuts them off: an up
// is then taken back. Calls that only look on end at once. It returns when the
// last of them is over.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = s.http.Close()
	}
	s.calls.Wait()
	return err
}

func (s *Server) getVersion(w http.ResponseWriter, _ *http.Request) {
	s.reply(w, api.VersionReply{API: api.Version, Version: s.version, PID: os.Getpid()})
}

func (s *Server) getVMs(w http.ResponseWriter, r *http.Request) {
	caller, err := callerOf(r.Context())
	if err != nil {
		s.refuse(w, err)
		return
	}
	s.reply(w, api.VMsReply{VMs: s.engine.List(caller)})
}

func (s *Server) postUp(w http.ResponseWriter, r *http.Request) {
	var request api.UpRequest
	caller, ok := s.accept(w, r, &request)
	if !ok {
		return
	}
	stream(w, func(show func(reconcile.Progress)) (string, error) {
		return "", s.engine.Up(r.Context(), caller, reconcile.UpRequest(request), show)
	})
}

func (s *Server) postDown(w http.ResponseWriter, r *http.Request) {
	var request api.DownRequest
	caller, ok := s.accept(w, r, &request)
	if !ok {
		return
	}
	stream(w, func(show func(reconcile.Progress)) (string, error) {
		return "", s.engine.Down(r.Context(), caller, request.Names, request.Force, show)
	})
}

func (s *Server) postAccess(w http.ResponseWriter, r *http.Request) {
	caller, err := callerOf(r.Context())
	if err != nil {
		s.refuse(w, err)
		return
	}
	access, err := s.engine.Access(r.Context(), caller, r.PathValue("name"))
	if err != nil {
		s.refuse(w, err)
		return
	}
	s.reply(w, api.AccessReply(access))
}

// accept reads a request's body and says who sent it.
func (s *Server) accept(w http.ResponseWriter, r *http.Request, request any) (reconcile.Caller, bool) {
	caller, err := callerOf(r.Context())
	if err == nil {
		if err = decode(r.Body, request); err == nil {
			readInFull(w)
		} else {
			turnAway(w)
		}
	}
	if err != nil {
		s.refuse(w, err)
		return reconcile.Caller{}, false
	}
	return caller, true
}

// errRequest marks a request that cannot be read.
var errRequest = errors.New("bad request")

func decode(body io.Reader, request any) error {
	decoder := json.NewDecoder(body)
	decoder.DisallowUnknownFields()
	err := decoder.Decode(request)
	if err == nil {
		// A body read to its end lets the server notice that the client leaves.
		if _, err = decoder.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		err = errors.New("something follows the request")
	}
	return fmt.Errorf("%w: %w (are bield and bieldd of one version?)", errRequest, err)
}

func (s *Server) reply(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(value); err != nil {
		s.log.Debug("answer not taken", "error", err)
	}
}

func (s *Server) refuse(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(statusOf(err))
	if err := json.NewEncoder(w).Encode(api.Error{Message: err.Error()}); err != nil {
		s.log.Debug("answer not taken", "error", err)
	}
}

func statusOf(err error) int {
	switch {
	case errors.Is(err, errTooMany):
		return http.StatusTooManyRequests
	case errors.Is(err, errRequest):
		return http.StatusBadRequest
	case errors.Is(err, reconcile.ErrForbidden):
		return http.StatusForbidden
	case errors.Is(err, reconcile.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, reconcile.ErrConflict):
		return http.StatusConflict
	default:
		return http.StatusInternalServerError
	}
}
