package server

import (
	"encoding/json"
	"errors"
	"net/http"

	"bield/internal/api"
	"bield/internal/reconcile"
)

// getEgressCheck says whether a VM may go somewhere, and why.
func (s *Server) getEgressCheck(w http.ResponseWriter, r *http.Request) {
	caller, err := callerOf(r.Context())
	if err != nil {
		s.refuse(w, err)
		return
	}
	answer, err := s.engine.EgressCheck(r.Context(), caller, r.PathValue("name"), r.URL.Query().Get("target"))
	if err != nil {
		s.refuse(w, err)
		return
	}
	s.reply(w, checkReply(answer))
}

func checkReply(c reconcile.EgressCheck) api.EgressCheck {
	reply := api.EgressCheck{VM: c.VM, Target: c.Target, Port: c.Port, Mode: c.Mode, Allowed: c.Allowed, Rule: c.Rule, Reason: c.Reason}
	for _, a := range c.Addresses {
		reply.Addresses = append(reply.Addresses, api.EgressAddress{Address: a.Address.String(), Allowed: a.Allowed, Reason: a.Reason})
	}
	return reply
}

// getEgressLog streams what was refused to a VM, and with follow=1 goes on until
// the client, the VM or the daemon ends.
func (s *Server) getEgressLog(w http.ResponseWriter, r *http.Request) {
	caller, err := callerOf(r.Context())
	if err != nil {
		s.refuse(w, err)
		return
	}
	ctx, stop := s.untilShutdown(r.Context())
	defer stop()
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := &eventWriter{encoder: json.NewEncoder(w), control: http.NewResponseController(w)}
	follow := r.URL.Query().Get("follow") == "1"
	err = s.engine.EgressLog(ctx, caller, r.PathValue("name"), follow, func(d reconcile.Denial) error {
		if err := out.write(api.Denial(d)); err != nil {
			return err
		}
		return out.flush()
	})
	if err != nil && !out.used && !errors.Is(err, ctx.Err()) {
		s.refuse(w, err)
	}
}
