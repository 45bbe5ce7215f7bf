// Package faults holds bieldd to what it promises on a bad day: killed at any
// point of any step, its programs killed at any moment, its disks full, its run
// directory gone, and used by many at once, it reaches the declared state with
// one call and leaves nothing. All runs on machines of test/host.
//
//	settled_test.go    what is declared runs, and nothing else is there
//	scenarios_test.go  what daemons are killed in the middle of
//	points_test.go     … at each point
package faults
