package cloudhypervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"bield/internal/hypervisor"
	"bield/internal/process"
)

const (
	// minMajor is the first version that is supported: older ones have the hole
	// CVE-2026-45782, and lack options that are used here.
	minMajor = 52
	// startTimeout is how long it may take until it runs the machine: it talks to
	// every virtiofsd before.
	startTimeout = time.Minute
	// logLines of its own words go into an error.
	logLines = 8
)

// Driver starts cloud-hypervisor. Make one with New and keep it.
type Driver struct {
	program  string
	versions hypervisor.Versions
}

// New returns a driver that starts program, "" for the one in PATH.
func New(program string) *Driver { return &Driver{program: program} }

// ErrMissing says that cloud-hypervisor is not installed.
var ErrMissing = errors.New("cloud-hypervisor is not installed: it is a package of Fedora (dnf install cloud-hypervisor), " +
	"Arch (pacman -S cloud-hypervisor) and nixpkgs; elsewhere put the static program of its releases into /usr/local/bin as cloud-hypervisor")

// find returns the program's path, or ErrMissing.
func (d *Driver) find() (string, error) {
	name := d.program
	if name == "" {
		name = "cloud-hypervisor"
	}
	path, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		return "", ErrMissing
	}
	return path, err
}

// Describe says which version is installed, as "cloud-hypervisor 52.0". The error
// wraps ErrMissing where there is none, and says so of one that is too old.
func (d *Driver) Describe(ctx context.Context) (string, error) {
	_, version, err := d.supported(ctx)
	return "cloud-hypervisor " + version, err
}

// supported finds a program that the arguments are for.
func (d *Driver) supported(ctx context.Context) (program, version string, err error) {
	if program, err = d.find(); err != nil {
		return "", "", err
	}
	if version, err = d.versions.Of(ctx, program); err != nil {
		return "", "", err
	}
	major, _, _ := strings.Cut(version, ".")
	if n, err := strconv.Atoi(major); err != nil || n < minMajor {
		return "", version, fmt.Errorf("%s is version %s: bield needs cloud-hypervisor %d or newer", program, version, minMajor)
	}
	return program, version, nil
}

// Start implements hypervisor.Driver.
func (d *Driver) Start(ctx context.Context, m hypervisor.Machine) (hypervisor.VM, error) {
	vm, err := d.start(ctx, m)
	if err != nil {
		return nil, fmt.Errorf("start cloud-hypervisor for %s: %w", m.Name, err)
	}
	return vm, nil
}

func (d *Driver) start(ctx context.Context, m hypervisor.Machine) (*VM, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("it does not run the machine within %s", startTimeout))
	defer cancel()
	program, _, err := d.supported(ctx)
	if err != nil {
		return nil, err
	}
	args, err := arguments(m, runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	f := files{m.Dir}
	release, err := hypervisor.Claim(m.Dir, f.api())
	if err != nil {
		return nil, err
	}
	defer release()
	inherited, err := f.make(m.UID, m.GID)
	if err != nil {
		return nil, err
	}
	defer closeAll(inherited)
	for _, tap := range m.Taps {
		inherited = append(inherited[:len(inherited):len(inherited)], tap.Queues...)
	}
	p, err := process.Start(ctx, process.Command{
		Path: program, Args: args, UID: m.UID, GID: m.GID, Groups: groups(m.Groups),
		Files: inherited, LogPath: m.Log, NewNetNS: true, Note: m.Note,
		Cgroups: m.Cgroups, Limits: hypervisor.Limits(m),
	})
	if err != nil {
		f.remove()
		return nil, err
	}
	vm, err := newVM(p, m)
	if err == nil {
		err = vm.confirm(ctx)
	}
	if err != nil {
		return nil, vm.giveUp(err)
	}
	return vm, nil
}

// groups adds the group of /dev/kvm, which the VMM opens by itself.
func groups(groups []uint32) []uint32 {
	gid, needed := hypervisor.KVMGroup()
	if !needed {
		return groups
	}
	return append(groups[:len(groups):len(groups)], gid)
}

// confirm waits until the guest's CPUs run. The serial line is connected before
// they do: what is printed while nobody is there is lost.
func (v *VM) confirm(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-v.Done():
			cancel(errEnded)
		case <-ctx.Done():
		}
	}()
	if err := v.watch.await(ctx, event{"vm", "booting"}); err != nil {
		return err
	}
	serial, err := v.dialVMM(ctx, v.files.serial())
	if err != nil {
		return err
	}
	v.first.Keep(serial)
	if err := v.watch.await(ctx, event{"vm", "booted"}); err != nil {
		return err
	}
	state, err := v.api.state(ctx)
	if err == nil && state != stateRunning {
		err = fmt.Errorf("the VM is %.20q after it has booted", state)
	}
	return err
}

var errEnded = errors.New("it ended")

// giveUp ends a VMM that does not run its machine, and says why it doesn't.
func (v *VM) giveUp(err error) error {
	v.mu.Lock()
	if v.cause != nil { // the events know better than who was cut off
		err = v.cause
	}
	v.mu.Unlock()
	if killed := v.Process.Kill(); killed != nil {
		err = errors.Join(err, killed)
	}
	v.letGo()
	v.files.remove()
	lines := process.TailLog(v.log, logLines)
	if len(lines) == 0 {
		return fmt.Errorf("%w (%s); it said nothing", err, v.Exit())
	}
	return fmt.Errorf("%w (%s): %s", err, v.Exit(), strings.Join(lines, "; "))
}

// Adopt implements hypervisor.Driver.
func (d *Driver) Adopt(_ context.Context, dir string, id process.ID) (hypervisor.VM, error) {
	p, err := process.Adopt(id)
	if err != nil {
		return nil, err
	}
	vm, err := newVM(p, hypervisor.Machine{Dir: dir})
	if err != nil {
		p.Release()
		return nil, err
	}
	return vm, nil
}
