// Package client speaks to bieldd over its unix socket.
//
// It promises that every failure is an error a person can act on: no daemon,
// no permission, or the daemon's own words.
package client
