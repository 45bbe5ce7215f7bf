package server

import (
	"net/http"

	"bield/internal/api"
	"bield/internal/reconcile"
)

func (s *Server) getImages(w http.ResponseWriter, _ *http.Request) {
	images, err := s.engine.Images()
	if err != nil {
		s.refuse(w, err)
		return
	}
	s.reply(w, api.ImagesReply{Images: wireImages(images)})
}

func (s *Server) postImages(w http.ResponseWriter, r *http.Request) {
	var request api.BuildRequest
	caller, ok := s.accept(w, r, &request)
	if !ok {
		return
	}
	stream(w, func(show func(reconcile.Progress)) (string, error) {
		return s.engine.BuildImage(r.Context(), caller, request.Image, request.Disk, show)
	})
}

func (s *Server) deleteImage(w http.ResponseWriter, r *http.Request) {
	caller, err := callerOf(r.Context())
	if err == nil {
		err = s.engine.RemoveImage(r.Context(), caller, r.PathValue("digest"))
	}
	if err != nil {
		s.refuse(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) postImagesPrune(w http.ResponseWriter, r *http.Request) {
	var request api.PruneRequest
	caller, ok := s.accept(w, r, &request)
	if !ok {
		return
	}
	removed, err := s.engine.PruneImages(r.Context(), caller)
	if err != nil {
		s.refuse(w, err)
		return
	}
	s.reply(w, api.PruneReply{Removed: wireImages(removed)})
}

func wireImages(images []reconcile.Image) []api.Image {
	wire := make([]api.Image, len(images))
	for i, image := range images {
		wire[i] = api.Image(image)
	}
	return wire
}
