// Package server answers bield's clients on a unix socket.
//
// It promises to know who calls (peer credentials), to bound what a request
// may hold, and to end a call's work when its client goes away.
package server
