// Package apt reads the host's apt configuration, picks out what belongs to
// the distribution itself, and downloads packages of another suite beside it.
//
// It promises that no third-party source, credential or proxy of the host
// gets into its result unless asked for by name, and that the host's own apt
// (its lists, cache, status and hooks) is never touched. It imports nothing
// of bield's.
package apt
