// Package faults holds bieldd to what it promises on a bad day: killed at any
// point of any step, its programs killed at any moment, its disks full, its run
// directory gone, and used by many at once, it reaches the declared state with
// one call and leaves nothing. All runs on machines of test/host.
//
//	settled_test.go    what is declared runs, and nothing else is there
//	scenarios_test.go  what daemons are killed in the middle of
//	points_test.go     … at each point
//	victims_test.go    the processes of a VM
//	chaos_test.go      they and the daemon die at random moments
//	full_test.go       disks full in the middle of each write
//	reboot_test.go     the run directory and all that ran gone
//	leaks_test.go      200 rounds against one daemon
//	clients_test.go    20 clients that contradict each other
//	model_test.go      … and what orders of their requests lead to
//
// A bieldd with the tag faults (cmd/bieldd/faults.go) kills itself at the point
// that BIELD_FAULT names, and writes all that it comes by to BIELD_FAULT_LOG. A
// point is "before", "amid" or "after" a step, or a stage of an image; TestPoints
// runs each scenario once to learn its points, so a new step needs no new test.
//
//	go test ./test/faults -v -run 'TestPoints/(points_of_)?up_of_one'       one scenario
//	go test ./test/faults -v -run 'TestPoints/up_of_one/before_one:_tap$'   one point
//	go test ./test/faults -v -run TestPoints -every                         also those between two steps
//	go test ./test/faults -v -run TestChaos -seed 7
//	go test ./test/faults -short                                            a small sample of all
package faults
