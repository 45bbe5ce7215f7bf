package server

import (
	"net/http"

	"bield/internal/api"
)

// load is how much a call asks of the daemon.
type load int

const (
	look   load = iota // it reads what is there
	work               // it changes or checks something, and takes a body
	follow             // it may go on as long as the client likes
)

// route is one call of the API.
type route struct {
	pattern string
	load    load
	hasBody bool
	serve   http.HandlerFunc
}

// table lists all calls. Who may make which is tested by route.
func (s *Server) table() []route {
	return []route{
		{"GET " + api.PathVersion, look, false, s.getVersion},
		{"GET " + api.PathVMs, look, false, s.getVMs},
		{"GET " + api.PathVM, look, false, s.getVM},
		{"GET " + api.PathEvents, follow, false, s.getEvents},
		{"GET " + api.PathMetrics, look, false, metricsHandler(s.engine.Metrics(), s.log).ServeHTTP},
		{"POST " + api.PathUp, work, true, s.postUp},
		{"POST " + api.PathStart, work, true, s.postStart},
		{"POST " + api.PathDown, work, true, s.postDown},
		{"POST " + api.PathPlan, work, true, s.postPlan},
		{"POST " + api.PathApply, work, true, s.postApply},
		{"POST " + api.PathWait, follow, false, s.postWait},
		{"POST " + api.PathAccess, look, false, s.postAccess},
		{"POST " + api.PathVerify, work, false, s.postVerify},
		{"GET " + api.PathLogs, follow, false, s.getLogs},
		{"GET " + api.PathEgressCheck, look, false, s.getEgressCheck},
		{"GET " + api.PathEgressLog, follow, false, s.getEgressLog},
		{"GET " + api.PathImages, look, false, s.getImages},
		{"POST " + api.PathImages, work, true, s.postImages},
		{"DELETE " + api.PathImage, work, false, s.deleteImage},
		{"POST " + api.PathImagesPrune, work, true, s.postImagesPrune},
	}
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	for _, r := range s.table() {
		mux.HandleFunc(r.pattern, s.guarded(r))
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.calls.Add(1)
		s.busy.Add(1)
		defer s.calls.Done()
		defer s.busy.Add(-1)
		s.touch()
		defer s.touch()
		timed := newTimedWriter(w, s.answerTimeout)
		defer timed.arm() // what is left goes to the client after this
		mux.ServeHTTP(timed, r)
	})
}

// guarded lets a call through that the kernel names the caller of, that has a
// place among those of its kind, and that keeps to the bounds.
func (s *Server) guarded(r route) http.HandlerFunc {
	gate := s.gates[r.load]
	return func(w http.ResponseWriter, request *http.Request) {
		caller, err := callerOf(request.Context())
		if err == nil {
			err = gate.enter(caller.UID)
		}
		if err != nil {
			turnAway(w)
			s.refuse(w, err)
			return
		}
		defer gate.leave(caller.UID)
		if err := s.bound(w, request, r.hasBody); err != nil {
			turnAway(w)
			s.refuse(w, err)
			return
		}
		r.serve(w, request)
	}
}
