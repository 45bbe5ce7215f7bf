package reconcile

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"bield/internal/guestconfig"
	"bield/internal/guestlink"
	"bield/internal/hypervisor"
	"bield/internal/image"
	"bield/internal/network"
	"bield/internal/plan"
	"bield/internal/process"
	"bield/internal/spec"
	"bield/internal/sshaccess"
	"bield/internal/state"
)

// logTail is how many last lines of a log an error message shows.
const logTail = 8

// startVMM starts the VMM, notes it, and begins to listen to it.
func (j *job) startVMM(ctx context.Context) error {
	machine, err := j.machine(ctx)
	if err != nil {
		return err
	}
	defer closeTaps(machine.Taps)
	r := j.building()
	r.logs = j.shareLog
	if r.console, err = openConsole(state.Folder{Dir: j.e.host().StateDir}.Console(j.vm.Name), true); err != nil {
		return err
	}
	r.vmm, err = j.e.Driver.Start(ctx, machine)
	if err != nil {
		r.console.Close()
		return err
	}
	id := r.vmm.ID()
	err = j.change(func(record *Record) { record.VMM = &id })
	j.e.attend(j.m, r)
	return err
}

// attend listens to a run: its end, its console. Needs r.vmm and r.console.
func (e *Engine) attend(m *machine, r *run) {
	r.tasks.Go(func() { r.drainConsole(e.Log.With("vm", m.name)) })
	e.tasks.Go(r.supervise)
	e.follow(m, r)
}

// machine puts together what the driver needs.
func (j *job) machine(ctx context.Context) (hypervisor.Machine, error) {
	record := j.record()
	dir := j.e.Run.VM(j.vm.Name)
	initrd, err := j.writeInitrd(ctx, filepath.Join(dir, "initrd"), record.UID)
	if err != nil {
		return hypervisor.Machine{}, err
	}
	m := hypervisor.Machine{
		Name: j.vm.Name, VCPU: record.VCPU, MemoryMiB: j.vm.MemoryMiB,
		Kernel: j.image.Kernel(), Initrd: initrd,
		Dir: dir, UID: record.UID, GID: record.UID, Log: filepath.Join(dir, "vmm.log"),
	}
	for _, tag := range plan.Tags(j.vm) {
		m.Shares = append(m.Shares, hypervisor.Share{Tag: tag, Socket: j.shareSocket(tag)})
	}
	if j.vm.StoreOnDisk {
		if m.RootDisk, err = j.image.Disk(ctx, j.buildProgress); err != nil {
			return m, err
		}
	}
	queues, err := network.OpenTap(j.vm.Tap(), 1)
	if err != nil {
		return m, err
	}
	m.Taps = []hypervisor.Tap{{File: queues[0], MAC: j.vm.MAC}}
	return m, nil
}

// writeInitrd puts this VM's configuration behind the shared initramfs; only
// its VMM may read it.
func (j *job) writeInitrd(ctx context.Context, path string, uid uint32) (string, error) {
	base, err := j.image.Initrd(ctx, j.e.InitBinary)
	if err != nil {
		return "", err
	}
	shared, err := os.ReadFile(base)
	if err != nil {
		return "", fmt.Errorf("read initramfs: %w", err)
	}
	own, err := image.ConfigArchive(j.guestConfig())
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(path, append(shared, own...), 0o400); err != nil {
		return "", fmt.Errorf("write initramfs: %w", err)
	}
	if err := os.Chown(path, int(uid), int(uid)); err != nil {
		return "", fmt.Errorf("write initramfs: %w", err)
	}
	return path, nil
}

func (j *job) guestConfig() guestconfig.Config {
	host, vm := j.e.host(), j.vm
	c := guestconfig.Config{
		Version: guestconfig.Version, Hostname: vm.Name, Init: string(vm.Init), Modules: modules(vm),
		Network: guestconfig.Network{
			MAC: vm.MAC, Address: fmt.Sprintf("%s/%d", vm.IP, host.Subnet.Bits()), Gateway: host.Gateway().String(),
		},
		Shares:  []guestconfig.Share{{Tag: spec.HostKeysTag, MountPoint: spec.HostKeysMount, ReadOnly: true}},
		HostKey: spec.HostKeysMount + "/" + spec.HostKeyFile,
		User: guestconfig.User{
			Name: vm.User.Name, UID: vm.User.UID, GID: vm.User.GID, Home: vm.User.Home, Shell: vm.User.Shell,
			AuthorizedKeys: j.authorizedKeys(),
		},
		Clock: time.Now().UnixNano(),
	}
	if vm.StoreOnDisk {
		c.Root.Disk = "/dev/vda"
	} else {
		c.Root.Tag = spec.RootTag
	}
	for _, ns := range host.Nameservers {
		c.Network.Nameservers = append(c.Network.Nameservers, ns.String())
	}
	for _, s := range vm.Shares {
		c.Shares = append(c.Shares, guestconfig.Share{Tag: s.Tag, MountPoint: s.MountPoint, ReadOnly: s.ReadOnly})
	}
	return c
}

// modules names what a guest needs of the kernel, whatever VMM it runs on.
func modules(vm spec.VM) []string {
	wanted := []string{"virtio_mmio", "virtio_console", "virtiofs", "overlay", "virtio_net", "virtio_rng", "virtio_balloon", "evdev", "button"}
	if vm.StoreOnDisk {
		wanted = append(wanted, "virtio_blk", "erofs")
	}
	return wanted
}

// authorizedKeys are those that bield made, then the user's own.
func (j *job) authorizedKeys() []string {
	var lines []string
	for _, key := range j.keys {
		lines = append(lines, key.Public)
	}
	return append(lines, j.vm.User.AuthorizedKeys...)
}

// awaitReady returns once a command has run in the guest, or with the reason
// why that will not happen.
func (j *job) awaitReady(ctx context.Context) error {
	r := j.currentRun()
	ctx, cancel := context.WithTimeoutCause(ctx, j.e.BootTimeout,
		fmt.Errorf("the guest was not ready after %s (`bield logs %s` shows its console)", j.e.BootTimeout, j.vm.Name))
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		select {
		case <-r.ended:
			stop(errEnded)
		case <-ctx.Done():
		}
	}()
	err := j.boot(ctx, r)
	if err == nil {
		now := time.Now()
		return j.change(func(record *Record) { record.Ready = &now })
	}
	if errors.Is(context.Cause(ctx), errEnded) {
		return j.endedEarly(r)
	}
	return err
}

var errEnded = errors.New("the VM ended")

// boot follows the guest's stages and then logs in.
func (j *job) boot(ctx context.Context, r *run) error {
	last, err := j.linkUp(ctx, r)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		if last != "" {
			err = fmt.Errorf("%w; the last stage was %s", err, last)
		}
		return err
	}
	target := j.e.target(j.record())
	if err := sshaccess.Ready(ctx, target); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = errors.Join(cause, err)
		}
		return fmt.Errorf("the guest's sshd listens, but: %w", err)
	}
	return nil
}

// target is how bieldd logs in to a VM.
func (e *Engine) target(record Record) sshaccess.Target {
	return sshaccess.Target{
		Address: net.JoinHostPort(record.VM.IP.String(), "22"), User: record.VM.User.Name,
		PrivateKey: state.Folder{Dir: e.host().StateDir}.DaemonKey(), HostKey: record.HostKey,
	}
}

// linkUp follows the guest's stages until sshd listens. last is the stage that
// was heard of last. A session may end on the way: a guest that goes on to
// systemd takes up the link anew, and then tells all from the beginning.
func (j *job) linkUp(ctx context.Context, r *run) (last string, err error) {
	for {
		session, err := r.connect(ctx)
		if err != nil {
			return last, err
		}
		ready, err := j.readStages(ctx, session, &last)
		if ready || !errors.Is(err, errLinkLost) {
			return last, err
		}
		if err := pause(ctx, linkPause); err != nil {
			return last, err
		}
	}
}

// linkPause keeps a guest that ends every session at once from keeping the
// host busy.
const linkPause = 50 * time.Millisecond

var errLinkLost = errors.New("guest link ended")

// readStages reads one session's events; last holds the newest stage.
func (j *job) readStages(ctx context.Context, session *guestlink.Session, last *string) (ready bool, err error) {
	seen := map[string]bool{}
	for event, err := range session.Events(ctx) {
		if err != nil {
			return false, fmt.Errorf("%w: %w", errLinkLost, err)
		}
		*last = event.Stage
		switch {
		case event.State == guestlink.StateFailed:
			return false, fmt.Errorf("the guest could not boot: stage %s: %s", event.Stage, event.Message)
		case event.Stage == guestlink.StageReady && event.State == guestlink.StateDone:
			return true, nil
		case event.State == guestlink.StateDone && !seen[event.Stage]:
			seen[event.Stage] = true
			j.show(Progress{VM: j.vm.Name, Step: string(plan.AwaitReady), State: "progress", Message: event.Stage})
		}
	}
	return false, errLinkLost
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// connect opens a session on the guest link.
func (r *run) connect(ctx context.Context) (*guestlink.Session, error) {
	conn, err := r.vmm.Link(ctx)
	if err != nil {
		return nil, fmt.Errorf("guest link: %w", err)
	}
	session, err := guestlink.Dial(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("guest link: %w", err)
	}
	r.setLink(session)
	return session, nil
}

// endedEarly says why a VM ended before it was usable, with its last words.
func (j *job) endedEarly(r *run) error {
	err := errors.New("the VM ended before it was usable")
	if r.cause != nil {
		err = fmt.Errorf("%w: %w", err, r.cause)
	}
	for _, log := range []struct{ what, path string }{
		{"VMM", filepath.Join(j.e.Run.VM(j.vm.Name), "vmm.log")},
		{"console", state.Folder{Dir: j.e.host().StateDir}.Console(j.vm.Name)},
	} {
		if tail := process.TailLog(log.path, logTail); len(tail) > 0 {
			err = fmt.Errorf("%w\n  %s: %s", err, log.what, strings.Join(tail, "\n  "+log.what+": "))
		}
	}
	return err
}

// stopVMM asks the guest to power off and ends the VMM when it does not.
func (j *job) stopVMM(ctx context.Context) error {
	r := j.currentRun()
	if r == nil || r.vmm == nil {
		return j.killVMM()
	}
	if !r.force.Load() && j.record().Ready != nil {
		j.powerOff(ctx, r)
	}
	if err := r.vmm.Kill(ctx); err != nil {
		return err
	}
	r.quit()
	return j.change(func(record *Record) { record.VMM = nil })
}

// powerOff presses the power button and waits for the VMM to end, at most the
// VM's stop timeout.
func (j *job) powerOff(ctx context.Context, r *run) {
	ctx, cancel := context.WithTimeout(ctx, j.vm.StopTimeout)
	defer cancel()
	if err := r.vmm.PowerButton(ctx); err != nil {
		j.e.Log.Warn("power button", "vm", j.vm.Name, "error", err)
		return
	}
	select {
	case <-r.vmm.Done():
	case <-ctx.Done():
		j.show(Progress{VM: j.vm.Name, Step: string(plan.StopVMM), State: "progress",
			Message: fmt.Sprintf("not off after %s: ending it by force", j.vm.StopTimeout)})
	}
}

// killVMM ends a VMM that only its record knows.
func (j *job) killVMM() error {
	if id := j.record().VMM; id != nil {
		p, err := process.Adopt(*id)
		if err == nil {
			err = p.Kill()
		}
		if err != nil && !errors.Is(err, process.ErrGone) {
			return err
		}
	}
	return j.change(func(record *Record) { record.VMM = nil })
}

func closeTaps(taps []hypervisor.Tap) {
	for _, t := range taps {
		_ = t.File.Close()
	}
}
