package server

import (
	"net/http"

	"bield/internal/api"
)

func (s *Server) postVerify(w http.ResponseWriter, r *http.Request) {
	caller, err := callerOf(r.Context())
	if err != nil {
		s.refuse(w, err)
		return
	}
	name := r.PathValue("name")
	rows, err := s.engine.Verify(r.Context(), caller, name)
	if err != nil {
		s.refuse(w, err)
		return
	}
	reply := api.VerifyReply{VM: name, Attempts: make([]api.Attempt, len(rows))}
	for i, row := range rows {
		reply.Attempts[i] = api.Attempt(row)
	}
	s.reply(w, reply)
}
