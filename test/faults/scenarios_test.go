package faults

import (
	"context"
	"path/filepath"

	"golang.org/x/sys/unix"

	"bield/internal/api"
	"bield/test/host"
)

// scenario is something that a daemon is killed in the middle of.
type scenario struct {
	name string
	file string // the machine's configuration, "" for the usual one
	// kvm has VMs run on cloud-hypervisor.
	kvm bool
	// ownCache says that there is no image yet.
	ownCache bool
	// prepare is done by an earlier daemon, or nil.
	prepare func(h *host.Host) error
	// act is done by the daemon that is killed. It may be nil: then its start
	// is all.
	act func(h *host.Host) error
	// redo is the one call that reaches the declared state, upOf() unless it is
	// set.
	redo func(h *host.Host) error
	// builds says that then nothing runs.
	builds bool
}

const onDisk = `stateDir: ~/state
user: {name: dev, uid: 4711, gid: 4712}
stopTimeout: 1s
vms:
  one: {ip: 192.168.83.2, workspace: ~/src, mem: 512, storeOnDisk: true}
`

// An apply from before to after restarts one, removes two and starts three.
const (
	before = `stateDir: ~/state
user: {name: dev, uid: 4711, gid: 4712}
stopTimeout: 1s
vms:
  one: {ip: 192.168.83.2, workspace: ~/src, mem: 512, autostart: true}
  two: {ip: 192.168.83.3, workspace: ~/src, mem: 512, autostart: true}
`
	after = `stateDir: ~/state
user: {name: dev, uid: 4711, gid: 4712}
stopTimeout: 1s
vms:
  one: {ip: 192.168.83.2, workspace: ~/src, mem: 768, autostart: true}
  three: {ip: 192.168.83.3, workspace: ~/src, mem: 512, autostart: true}
`
)

func scenarios() []scenario {
	return []scenario{
		{name: "up of one", file: onDisk, ownCache: true, act: upOf("one")},
		{name: "up of two", act: upOf("one", "two")},
		{name: "up of one on cloud-hypervisor", kvm: true, act: upOf("one")},
		{name: "restart of one on cloud-hypervisor", kvm: true, prepare: upOf("one"), act: restartOf("one")},
		{name: "down of one", prepare: upOf("one"), act: downOf("one")},
		{name: "down of two", prepare: upOf("one", "two"), act: downOf("one", "two")},
		{name: "image", ownCache: true, act: build, redo: build, builds: true},
		{name: "apply", file: before, prepare: apply, act: applyAfter, redo: applyAfter},
		{name: "restart", prepare: upOf("one"), act: restartOf("one")},
		{name: "start after a crash", prepare: wreck},
	}
}

func quiet(api.Event) {}

// upOf brings VMs of the machine's file up; no name means all.
func upOf(vms ...string) func(*host.Host) error {
	return func(h *host.Host) error {
		ctx := context.Background()
		declared, err := h.Spec(ctx)
		if err != nil {
			return err
		}
		return h.Client.Up(ctx, api.UpRequest{Host: declared, Origin: h.File(), Names: vms}, quiet)
	}
}

// downOf stops VMs; no name means all that run.
func downOf(vms ...string) func(*host.Host) error {
	return func(h *host.Host) error {
		return h.Client.Down(context.Background(), api.DownRequest{Names: vms}, quiet)
	}
}

// apply brings about what the machine's file declares.
func apply(h *host.Host) error {
	ctx := context.Background()
	declared, err := h.Spec(ctx)
	if err != nil {
		return err
	}
	return h.Client.Apply(ctx, api.ApplyRequest{Host: declared, Origin: h.File()}, quiet)
}

func applyAfter(h *host.Host) error {
	if err := h.Declare(after); err != nil {
		return err
	}
	return apply(h)
}

func restartOf(vms ...string) func(*host.Host) error {
	return func(h *host.Host) error {
		return h.Client.Start(context.Background(), api.StartRequest{Names: vms, Restart: true}, quiet)
	}
}

// build makes an image and its disk.
func build(h *host.Host) error {
	return h.Client.BuildImage(context.Background(), api.BuildRequest{Disk: true}, quiet)
}

// wreck leaves a VM without its VMM, and one that runs, to the next daemon.
func wreck(h *host.Host) error {
	if err := upOf("one", "two")(h); err != nil {
		return err
	}
	if err := h.EndDaemon(unix.SIGKILL); err != nil {
		return err
	}
	return killProcess(h, "one", "vmm")
}

// furnish sets what the machine has of its own.
func (s scenario) furnish(h *host.Host) {
	h.KVM = s.kvm
	if s.ownCache {
		h.Cache = filepath.Join(h.Work, "cache")
	}
}
