package server

import (
	"encoding/json"
	"net/http"
	"sync"

	"bield/internal/api"
	"bield/internal/reconcile"
)

// stream runs work and writes its progress as events, each on the wire at
// once; the last one carries the result.
func stream(w http.ResponseWriter, work func(show func(reconcile.Progress)) (string, error)) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := events{w: w, encoder: json.NewEncoder(w)}
	result, err := work(func(p reconcile.Progress) {
		out.write(api.Event{VM: p.VM, Step: p.Step, State: p.State, Message: p.Message, Detail: p.Detail, Elapsed: p.Elapsed})
	})
	last := api.Event{Done: true, Message: result}
	if err != nil {
		last.Error = &api.Error{Message: err.Error()}
	}
	out.write(last)
}

// events writes one event at a time: steps of several VMs report at once.
type events struct {
	mu      sync.Mutex
	w       http.ResponseWriter
	encoder *json.Encoder
}

// write drops an event that the client does not take: its going away ends the
// request's context, which ends the work.
func (e *events) write(event api.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.encoder.Encode(event) == nil {
		_ = http.NewResponseController(e.w).Flush()
	}
}
