// Package reconcile brings a host from what it is to what its spec asks for:
// it observes, plans, applies, records, and takes back what it made.
//
// It promises that each resource has a record on disk before it exists, that a
// failed start leaves nothing behind, and that stopping, undoing and cleaning
// up are one code: the plan for a smaller spec.
//
//	engine.go   the Engine: its VMs and locks, List
//	accept.go   who may ask for what; the one applied spec
//	queue.go    whose turn it is at a VM
//	apply.go    Plan and Apply: a host by its file; purge
//	wave.go     several VMs changed so that none is in another's way
//	up.go       Up, Start and Down, several VMs at a time
//	change.go   one VM brought to what it should be, and taken back
//	admission.go  has the host enough for a VM
//	again.go    a VM that has ended by itself is started again
//	fate.go     what is to become of VMs, for a daemon to come
//	adopt.go    what an earlier daemon left: taken over, or taken away
//	job.go      one VM's steps, carried out in order
//	host.go     steps of the host: bridge, forwarding, firewall
//	parts.go    steps of a VM: image, keys, tap, shares
//	group.go    the control group of a VM's processes
//	boot.go     steps of a VM: VMM, ready
//	run.go      what belongs to a running VM, and the cause of its end
//	console.go  the serial line's log
//	events.go   what happened: noted, and shown to who may know
//	metrics.go  the same in numbers, and what is there now
//	inspect.go  all that is known of one VM
//	memory.go   what running VMs hold
//	record.go   what is written down
//	eventlog.go, boundedlog.go  logs on disk
//	observe.go  what is really there
package reconcile
