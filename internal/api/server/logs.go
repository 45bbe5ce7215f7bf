package server

import (
	"errors"
	"io"
	"net/http"
)

// getLogs streams the console log; with follow=1 it goes on until the client
// or the VM ends.
func (s *Server) getLogs(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/octet-stream")
	out := &flusher{w: w, control: http.NewResponseController(w)}
	caller, err := callerOf(r.Context())
	if err != nil {
		s.refuse(w, err)
		return
	}
	ctx, stop := s.untilShutdown(r.Context())
	defer stop()
	follow := r.URL.Query().Get("follow") == "1"
	err = s.engine.Logs(ctx, caller, r.PathValue("name"), follow, out)
	if err != nil && !out.used && !errors.Is(err, ctx.Err()) {
		s.refuse(w, err)
	}
}

// flusher puts each write on the wire at once.
type flusher struct {
	w       io.Writer
	control *http.ResponseController
	used    bool
}

func (f *flusher) Write(p []byte) (int, error) {
	f.used = true
	n, err := f.w.Write(p)
	if err == nil {
		err = f.control.Flush()
	}
	return n, err
}
