package server

import (
	"net/http"

	"bield/internal/api"
	"bield/internal/reconcile"
)

func (s *Server) postStart(w http.ResponseWriter, r *http.Request) {
	var request api.StartRequest
	caller, ok := s.accept(w, r, &request)
	if !ok {
		return
	}
	stream(w, func(show func(reconcile.Progress)) (string, error) {
		return "", s.engine.Start(r.Context(), caller, reconcile.StartRequest(request), show)
	})
}

func (s *Server) postPlan(w http.ResponseWriter, r *http.Request) {
	var request api.ApplyRequest
	caller, ok := s.accept(w, r, &request)
	if !ok {
		return
	}
	planned, err := s.engine.Plan(r.Context(), caller, reconcile.ApplyRequest(request))
	if err != nil {
		s.refuse(w, err)
		return
	}
	s.reply(w, planReply(planned))
}

func (s *Server) postApply(w http.ResponseWriter, r *http.Request) {
	var request api.ApplyRequest
	caller, ok := s.accept(w, r, &request)
	if !ok {
		return
	}
	stream(w, func(show func(reconcile.Progress)) (string, error) {
		return "", s.engine.Apply(r.Context(), caller, reconcile.ApplyRequest(request), show)
	})
}

func (s *Server) postWait(w http.ResponseWriter, r *http.Request) {
	caller, err := callerOf(r.Context())
	if err != nil {
		s.refuse(w, err)
		return
	}
	ctx, stop := s.untilShutdown(r.Context())
	defer stop()
	status, err := s.engine.Wait(ctx, caller, r.PathValue("name"))
	if ctx.Err() != nil {
		return // no answer: who waits asks the next daemon
	}
	if err != nil {
		s.refuse(w, err)
		return
	}
	s.reply(w, api.WaitReply{VM: status})
}

func planReply(p reconcile.Planned) api.PlanReply {
	reply := api.PlanReply{
		Before: steps(p.Before), After: steps(p.After), Changes: []api.Change{},
		Unchanged: p.Unchanged, Purgeable: p.Purgeable,
	}
	for _, c := range p.VMs {
		reply.Changes = append(reply.Changes, api.Change{
			VM: c.VM, Action: string(c.Action), Reasons: c.Reasons, Pending: c.Pending,
			Stop: steps(c.Stop), Start: steps(c.Start),
		})
	}
	return reply
}

func steps(list []reconcile.Step) []api.Step {
	var steps []api.Step
	for _, s := range list {
		steps = append(steps, api.Step{Kind: string(s.Kind), Share: s.Share, Reason: s.Reason})
	}
	return steps
}
