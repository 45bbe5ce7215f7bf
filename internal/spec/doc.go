// Package spec holds the desired and the observed state of a host as plain
// types: what bield.yaml asks for once every default is filled in, what is
// really there, the names that follow from a VM's name, and the rules that a
// host must keep.
//
// It promises to do no I/O and to read no clock: the same value in, the same
// value out. It imports nothing of bield's.
package spec
