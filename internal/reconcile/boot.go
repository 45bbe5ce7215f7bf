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
	driver, err := j.e.Hypervisors.Driver(j.hypervisor)
	if err != nil {
		return err
	}
	machine, err := j.machine(ctx)
	if err != nil {
		return err
	}
	defer closeTaps(machine.Taps)
	r := j.building()
	logs := j.logs()
	console, err := openConsole(state.Folder{Dir: j.host.StateDir}.Console(j.vm.Name), true)
	if err != nil {
		return err
	}
	machine.Note = func(id process.ID) error {
		return j.change(func(record *Record) { record.VMM = &id })
	}
	j.e.mu.Lock()
	r.logs, r.console = logs, console
	j.e.mu.Unlock()
	vmm, err := driver.Start(ctx, machine)
	if err != nil {
		console.Close()
		r.awaitDeadShare() // a VMM that can't connect may tell of it first
		return errors.Join(r.deadShares(), err)
	}
	j.e.mu.Lock()
	r.vmm = vmm
	j.e.mu.Unlock()
	j.e.attend(ctx, j.m, r)
	return nil
}

func (j *job) vmmLog() string { return filepath.Join(j.e.Run.VM(j.vm.Name), "vmm.log") }

// logs lists the logs of the VM's programs, as run holds them.
func (j *job) logs() map[string]string {
	paths := map[string]string{"": j.vmmLog()}
	for _, tag := range plan.Tags(j.vm) {
		paths[tag] = j.shareLog(tag)
	}
	return paths
}

// attend listens to a run: its end, its console, its guest link. Needs r.vmm
// and r.console.
func (e *Engine) attend(ctx context.Context, m *machine, r *run) {
	log := e.Log.With("vm", m.name)
	// It ends with the run, and not with the call that began it.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r.tasks.Go(func() {
		<-r.letGo
		cancel()
	})
	r.tasks.Go(func() { r.drainConsole(ctx, log) })
	r.tasks.Go(func() { r.keepLink(ctx, log) })
	e.tasks.Go(r.supervise)
	e.follow(ctx, m, r)
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
		Dir: dir, UID: record.UID, GID: record.UID, Log: j.vmmLog(), Cgroups: record.Group,
	}
	for _, tag := range plan.Tags(j.vm) {
		m.Shares = append(m.Shares, hypervisor.Share{Tag: tag, Socket: j.shareSocket(tag)})
	}
	if j.vm.StoreOnDisk {
		if m.RootDisk, err = j.image.Disk(ctx, j.buildProgress); err != nil {
			return m, err
		}
	}
	queues, err := network.OpenTap(j.vm.Tap(), record.queues())
	if err != nil {
		return m, err
	}
	m.Taps = []hypervisor.Tap{{Queues: queues, MAC: j.vm.MAC}}
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
	host, vm := j.host, j.vm
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
	if j.hypervisor.Kind == spec.HypervisorCloudHypervisor {
		c.Link.VsockPort = guestconfig.LinkVsockPort
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
	wanted := []string{"virtio_mmio", "virtio_console", "virtiofs", "overlay", "virtio_net", "virtio_rng", "virtio_balloon", "evdev", "button", "gpio_pl061"}
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
	shown := ""
	for {
		at, changed := r.guest.now()
		switch {
		case at.failure != "":
			return errGuest(at)
		case at.ready:
			return j.logIn(ctx)
		case at.stage != "" && at.stage != shown:
			shown = at.stage
			j.show(Progress{VM: j.vm.Name, Step: string(plan.AwaitReady), State: "progress", Message: shown})
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if err := context.Cause(ctx); shown != "" {
				return fmt.Errorf("%w; the last stage was %s", err, shown)
			}
			return fmt.Errorf("%w; it told of no stage", context.Cause(ctx))
		}
	}
}

func errGuest(at progressOfGuest) error {
	return fmt.Errorf("the guest could not boot: stage %s: %s", at.stage, at.failure)
}

// logIn proves that the guest is usable.
func (j *job) logIn(ctx context.Context) error {
	err := sshaccess.Ready(ctx, j.e.target(j.record()))
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		err = errors.Join(cause, err)
	}
	return fmt.Errorf("the guest's sshd listens, but: %w", err)
}

// target is how bieldd logs in to a VM.
func (e *Engine) target(record Record) sshaccess.Target {
	return sshaccess.Target{
		Address: net.JoinHostPort(record.VM.IP.String(), "22"), User: record.VM.User.Name,
		PrivateKey: state.Folder{Dir: e.host().StateDir}.DaemonKey(), HostKey: record.HostKey,
	}
}

// endedEarly says why a VM ended before it was usable, with its last words.
func (j *job) endedEarly(r *run) error {
	if at, _ := r.guest.now(); at.failure != "" {
		return errGuest(at)
	}
	err := errors.New("the VM ended before it was usable")
	if r.cause != nil {
		err = fmt.Errorf("%w: %w", err, r.cause)
	}
	for _, log := range []struct{ what, path string }{
		{"VMM", j.vmmLog()},
		{"console", state.Folder{Dir: j.host.StateDir}.Console(j.vm.Name)},
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
	if !over(r.forced) && j.record().Ready != nil {
		j.powerOff(ctx, r)
	}
	if err := r.vmm.Kill(ctx); err != nil {
		return err
	}
	r.quit()
	return j.drop(func(record *Record) { record.VMM = nil })
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
	case <-r.forced:
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
	return j.drop(func(record *Record) { record.VMM = nil })
}

func closeTaps(taps []hypervisor.Tap) {
	for _, t := range taps {
		for _, queue := range t.Queues {
			_ = queue.Close()
		}
	}
}
