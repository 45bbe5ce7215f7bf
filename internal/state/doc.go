// Package state knows where bield keeps its files and how they are written:
// the run directory (gone at a reboot), the state folder (kept), the cache
// (can be made again), locks, and records.
//
// It promises that a record is either wholly there or not at all, on disk
// before the call returns, and that nothing half-written is ever read.
//
// Who is not root cannot exchange what bield keeps: its folders, and all on the
// way to them, belong to root (or whoever runs it) and are written by nobody
// else. Folders that belong to users are worked in by handle (Owned), since a
// user may exchange what is in theirs at any moment; a folder that was
// somebody's already is never given to another.
//
// It imports nothing of bield's.
package state
