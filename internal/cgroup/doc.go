// Package cgroup gives each VM a control group of its own, for its VMM and its
// virtiofsds: what a VM uses of the host's memory, processors and process numbers
// ends there, whoever has taken it over.
//
// It promises that
//   - a group lies below one that is this bield's own, named after the mark of its
//     run directory, and nothing but groups of that kind is ever removed;
//   - Make and Remove work on what is half there; Remove kills what is left in a
//     group, and returns when the group is gone;
//   - a host without usable control groups is an error that says why, and no more:
//     VMs run without.
//
// # Where
//
// Each of the controllers memory, pids and cpu is taken from version 2 where that
// has it, else from version 1 (cgroups(7)).
//
// Version 2 forbids processes in a group whose children are limited. So, where
// systemd has put the daemon into a group of its own below its unit's
// (DelegateSubgroup=, systemd 254 and newer), groups are made beside that one;
// elsewhere below the root, as container managers without systemd do: were the
// daemon in the group of an older systemd's unit and had it made groups there, it
// could not be started again while VMs run.
//
// With version 1 groups lie below the one that the daemon is in, in each
// hierarchy, so that what bounds the daemon bounds its VMs.
//
//	PARENT/bield-HASH/vm-NAME    HASH: eight digits of the mark's SHA-256
//
// # Limits
//
// limits.go says how they follow from a VM's mem, vcpu and shares.
package cgroup
