package server

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"bield/internal/api"
	"bield/internal/reconcile"
	"bield/internal/spec"
)

// harmless takes the place of the calls that change something: their bodies are
// read and checked as by those, and nothing is done.
func (s *Server) harmless(t *testing.T, r route) http.HandlerFunc {
	bodies := map[string]func() (any, *spec.Host){
		"POST " + api.PathUp:          func() (any, *spec.Host) { v := &api.UpRequest{}; return v, &v.Host },
		"POST " + api.PathPlan:        func() (any, *spec.Host) { v := &api.ApplyRequest{}; return v, &v.Host },
		"POST " + api.PathApply:       func() (any, *spec.Host) { v := &api.ApplyRequest{}; return v, &v.Host },
		"POST " + api.PathStart:       func() (any, *spec.Host) { return &api.StartRequest{}, nil },
		"POST " + api.PathDown:        func() (any, *spec.Host) { return &api.DownRequest{}, nil },
		"POST " + api.PathImages:      func() (any, *spec.Host) { return &api.BuildRequest{}, nil },
		"POST " + api.PathImagesPrune: func() (any, *spec.Host) { return &api.PruneRequest{}, nil },
	}
	body, there := bodies[r.pattern]
	if !there {
		t.Fatalf("%s takes a body, and is not fuzzed", r.pattern)
	}
	return func(w http.ResponseWriter, request *http.Request) {
		value, host := body()
		if _, ok := s.accept(w, request, value); !ok {
			return
		}
		if host != nil {
			for _, p := range spec.Check(*host) {
				if len(p.Path) == 0 || p.Message == "" {
					t.Errorf("an empty problem: %+v", p)
				}
			}
		}
		s.reply(w, value)
	}
}

// timeless is a recorder that takes deadlines, as connections do.
type timeless struct{ *httptest.ResponseRecorder }

func (timeless) SetWriteDeadline(time.Time) error { return nil }

func (timeless) SetReadDeadline(time.Time) error { return nil }

// FuzzRequests sends whole HTTP requests: each is answered, in JSON where it is
// refused, and by nothing that went wrong in the daemon itself.
func FuzzRequests(f *testing.F) {
	for _, request := range []string{
		"GET /v1/version HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /v1/events?after=1&tail=2&vm=one&since=2026-01-02T03:04:05Z HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /v1/vms/one/logs?follow=1 HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /v1/vms/one/egress/check?target=example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /v1/vms/%2e%2e%2fx/access HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
		"POST /v1/down HTTP/1.1\r\nHost: x\r\nContent-Length: 28\r\n\r\n{\"names\":[\"a\"],\"force\":true}",
		"POST /v1/up HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n46\r\n{\"host\":{\"bridge\":\"b\",\"subnet\":\"10.0.0.0/24\",\"vms\":[{}]},\"origin\":\"/x\"}\r\n0\r\n\r\n",
		"POST /v1/images HTTP/1.1\r\nHost: x\r\nContent-Length: 29\r\n\r\n{\"image\":{\"packages\":[\"git\"]}}",
		"DELETE /v1/images/..%2f..%2fetc HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		f.Add([]byte(request))
	}
	engine := newEngine(f)
	s := New(engine, "test", slog.New(slog.DiscardHandler), func() {})
	f.Fuzz(func(t *testing.T, data []byte) {
		request, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(data)))
		if err != nil {
			return
		}
		mux := http.NewServeMux()
		for _, r := range s.table() {
			if r.hasBody {
				r.serve = s.harmless(t, r)
			}
			mux.HandleFunc(r.pattern, s.guarded(r))
		}
		// A caller who owns nothing, and has left: what would go on ends.
		ctx, leave := context.WithCancel(context.WithValue(t.Context(), callerKey{}, reconcile.Caller{UID: member, GID: member}))
		leave()
		w := httptest.NewRecorder()
		mux.ServeHTTP(timeless{w}, request.WithContext(ctx))
		if w.Code >= 500 {
			t.Errorf("%d: %s", w.Code, w.Body)
		}
		if w.Code >= 400 && strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") {
			var refusal api.Error
			if err := json.Unmarshal(w.Body.Bytes(), &refusal); err != nil || refusal.Message == "" {
				t.Errorf("%d: %v: %s", w.Code, err, w.Body)
			}
		}
		for _, gate := range s.gates {
			if len(gate.by) != 0 || gate.others != 0 {
				t.Errorf("a place is not given back: %+v", gate.by)
			}
		}
	})
}
