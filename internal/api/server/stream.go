package server

import (
	"encoding/json"
	"net/http"
	"time"

	"bield/internal/api"
	"bield/internal/reconcile"
)

const (
	// maxWaiting is how many events may wait for a client that reads slowly;
	// more are dropped.
	maxWaiting = 64
	// writeTimeout is how long a client may take to read one.
	writeTimeout = 10 * time.Second
)

// stream runs work and writes its progress as events, each on the wire at
// once; the last one carries the result. A client that does not read never
// holds up the work, which may hold locks.
func stream(w http.ResponseWriter, work func(show func(reconcile.Progress)) (string, error)) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	waiting, written := make(chan api.Event, maxWaiting), make(chan struct{})
	go func() {
		defer close(written)
		writeEvents(w, waiting)
	}()
	result, err := work(func(p reconcile.Progress) {
		select {
		case waiting <- api.Event{VM: p.VM, Step: p.Step, State: p.State, Message: p.Message, Detail: p.Detail, Elapsed: p.Elapsed}:
		default:
		}
	})
	last := api.Event{Done: true, Message: result}
	if err != nil {
		last.Error = &api.Error{Message: err.Error()}
	}
	waiting <- last // the writer ends in bounded time, whatever the client does
	close(waiting)
	<-written
}

// writeEvents writes until the channel is closed; once a write has failed it
// only takes what comes.
func writeEvents(w http.ResponseWriter, events <-chan api.Event) {
	encoder, control := json.NewEncoder(w), http.NewResponseController(w)
	failed := false
	for event := range events {
		if failed {
			continue
		}
		_ = control.SetWriteDeadline(time.Now().Add(writeTimeout))
		failed = encoder.Encode(event) != nil || control.Flush() != nil
	}
	_ = control.SetWriteDeadline(time.Time{})
}
