package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"bield/internal/api"
	"bield/internal/reconcile"
)

// followTimeout is how long a follower may take to read what was sent. It may
// ask again then, from the event where it stopped.
const followTimeout = time.Minute

// getEvents streams what happened, and with follow=1 goes on until the client
// or the daemon ends.
func (s *Server) getEvents(w http.ResponseWriter, r *http.Request) {
	caller, err := callerOf(r.Context())
	if err != nil {
		s.refuse(w, err)
		return
	}
	query, err := api.ParseEventQuery(r.URL.Query())
	if err != nil {
		s.refuse(w, fmt.Errorf("%w: %w", errRequest, err))
		return
	}
	ctx, stop := s.untilShutdown(r.Context())
	defer stop()
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := &eventWriter{encoder: json.NewEncoder(w), control: http.NewResponseController(w)}
	err = s.engine.Events(ctx, caller, reconcile.EventQuery(query), reconcile.EventSink{Show: out.show, CaughtUp: out.flush})
	if err != nil && !out.used && !errors.Is(err, ctx.Err()) {
		s.refuse(w, err)
	}
}

// untilShutdown ends a context also when the daemon ends: who follows would
// hold it up.
func (s *Server) untilShutdown(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(parent)
	go func() {
		defer cancel()
		select {
		case <-s.ending:
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// eventWriter puts events on the wire, as many at once as there are.
type eventWriter struct {
	encoder *json.Encoder
	control *http.ResponseController
	used    bool
}

func (w *eventWriter) show(e api.HostEvent) error { return w.write(e) }

func (w *eventWriter) write(value any) error {
	if err := w.control.SetWriteDeadline(time.Now().Add(followTimeout)); err != nil {
		return err
	}
	w.used = true
	return w.encoder.Encode(value)
}

// flush also tells the client that the following has begun.
func (w *eventWriter) flush() error {
	w.used = true
	if err := w.control.SetWriteDeadline(time.Now().Add(followTimeout)); err != nil {
		return err
	}
	return w.control.Flush()
}

func (s *Server) getVM(w http.ResponseWriter, r *http.Request) {
	caller, err := callerOf(r.Context())
	if err != nil {
		s.refuse(w, err)
		return
	}
	vm, err := s.engine.Inspect(caller, r.PathValue("name"))
	if err != nil {
		s.refuse(w, err)
		return
	}
	s.reply(w, vm)
}
