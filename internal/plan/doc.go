// Package plan compares what a host should be with what it is and answers with
// the steps between them.
//
// It promises to be pure: no I/O, no clock, the same answer for the same
// question. Starting, stopping and cleaning up after a crash are the same
// comparison with another spec.
package plan
