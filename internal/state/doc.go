// Package state knows where bield keeps its files and how they are written:
// the run directory (gone at a reboot), the state folder (kept), the cache
// (can be made again), locks, and records.
//
// It promises that a record is either wholly there or not at all, on disk
// before the call returns, and that nothing half-written is ever read. It
// imports nothing of bield's.
package state
