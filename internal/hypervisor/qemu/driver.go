package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"bield/internal/hypervisor"
	"bield/internal/process"
)

const (
	// startTimeout is how long QEMU may take until it runs the machine:
	// it talks to every virtiofsd before.
	startTimeout = time.Minute
	// adoptTimeout is how long a VM's adoption waits to hear of its end.
	adoptTimeout = time.Second
	// logLines of QEMU's own words go into an error.
	logLines = 5
)

// Driver starts QEMU. Make one with New and keep it: it measures the host's
// clock rate better the older it is.
type Driver struct {
	program string
	arch    string // of host and guest, by Go's name
	kvm     bool
	first   tscReading
	// Writes lists further folders that the program may write to. QEMU needs none;
	// what plays it in tests plays a network with files, too.
	Writes []string

	versions hypervisor.Versions
}

// New returns a driver that starts program, "" for the one in PATH, with KVM or
// without: see hypervisor.KVM.
func New(program string, kvm bool) *Driver { return NewFor(program, runtime.GOARCH, kvm) }

// NewFor is New for hosts and guests of an architecture, by Go's name. Without KVM
// the host may be of another.
func NewFor(program, arch string, kvm bool) *Driver {
	return &Driver{program: program, arch: arch, kvm: kvm, first: readTSC()}
}

// ErrMissing says that QEMU is not installed.
var ErrMissing = errors.New("QEMU is not installed")

// Find returns QEMU's path, or an error that wraps ErrMissing.
func (d *Driver) Find() (string, error) {
	b, err := boardFor(d.arch)
	if err != nil {
		return "", err
	}
	name := d.program
	if name == "" {
		name = b.program
	}
	path, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("%s: %w: run `bield setup`, or install the package %s", name, ErrMissing, b.debian)
	}
	return path, err
}

// options finds out what the command line depends on.
func (d *Driver) options(ctx context.Context, program string) (options, error) {
	b, err := boardFor(d.arch)
	if err != nil {
		return options{}, err
	}
	major, err := d.majorVersion(ctx, program)
	if err != nil {
		return options{}, err
	}
	o := options{board: b, kvm: d.kvm, optionROMs: major < 10}
	if b.x86 && !d.kvm {
		o.tscKHz, err = tscKHz(ctx, d.first)
	}
	return o, err
}

// Describe says which QEMU is installed, as "QEMU 7.2.22"; the error wraps
// ErrMissing where there is none.
func (d *Driver) Describe(ctx context.Context) (string, error) {
	program, err := d.Find()
	if err != nil {
		return "", err
	}
	version, err := d.versions.Of(ctx, program)
	return "QEMU " + version, err
}

// majorVersion is the 7 of "7.2.22".
func (d *Driver) majorVersion(ctx context.Context, program string) (int, error) {
	version, err := d.versions.Of(ctx, program)
	if err != nil {
		return 0, err
	}
	major, _, _ := strings.Cut(version, ".")
	return strconv.Atoi(major)
}

// Start implements hypervisor.Driver.
func (d *Driver) Start(ctx context.Context, m hypervisor.Machine) (hypervisor.VM, error) {
	vm, err := d.start(ctx, m)
	if err != nil {
		return nil, fmt.Errorf("start QEMU for %s: %w", m.Name, err)
	}
	return vm, nil
}

func (d *Driver) start(ctx context.Context, m hypervisor.Machine) (*VM, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("it does not run the machine within %s", startTimeout))
	defer cancel()
	program, err := d.Find()
	if err != nil {
		return nil, err
	}
	o, err := d.options(ctx, program)
	if err != nil {
		return nil, err
	}
	release, err := hypervisor.Claim(m.Dir, filepath.Join(m.Dir, qmpSocket))
	if err != nil {
		return nil, err
	}
	defer release()
	files, err := listenAll(m.Dir)
	if err != nil {
		return nil, err
	}
	defer closeAll(files)
	for _, tap := range m.Taps {
		if len(tap.Queues) != 1 {
			return nil, fmt.Errorf("a tap of %d queues, not one", len(tap.Queues))
		}
		files = append(files[:len(files):len(files)], tap.Queues...)
	}
	p, err := process.Start(ctx, process.Command{
		Path: program, Args: arguments(m, o), UID: m.UID, GID: m.GID, Groups: d.groups(m.Groups),
		Files: files, LogPath: m.Log, NewNetNS: true, Note: m.Note,
		Cgroups: m.Cgroups, Limits: hypervisor.Limits(m), Landlock: d.landlock(program, m),
	})
	if err != nil {
		removeAll(m.Dir)
		return nil, err
	}
	return confirm(ctx, newVM(ctx, p, m.Dir), m.Log)
}

// confirm lets the guest run once QEMU answers on QMP, which it does when the
// machine is made, or ends it.
func confirm(ctx context.Context, vm *VM, log string) (*VM, error) {
	answered := make(chan struct{})
	ask, cancel := context.WithCancel(ctx)
	defer cancel()
	var ran bool
	var err error
	go func() {
		defer close(answered)
		ran, err = vm.begin(ask)
	}()
	select {
	case <-answered:
	case <-vm.Done():
		cancel()
		<-answered
		if err != nil {
			err = errors.New("it ended")
		}
	}
	// A guest that ran and is over at once has not failed to start.
	if err == nil || ran && ends(vm) {
		return vm, nil
	}
	vm.letGo()
	if killed := vm.Process.Kill(); killed != nil {
		err = errors.Join(err, killed)
	}
	removeAll(vm.dir)
	return nil, explain(err, vm.Exit(), log)
}

// endTime is how long after the loss of its answer QEMU may be seen to end.
const endTime = time.Second

func ends(vm *VM) bool {
	timer := time.NewTimer(endTime)
	defer timer.Stop()
	select {
	case <-vm.Done():
		return true
	case <-timer.C:
		return false
	}
}

// begin connects the serial line and lets the guest run: QEMU takes connections
// in the order in which they are made, and what is printed before is lost. ran
// says that the guest may have run, also where the answer was not heard.
func (v *VM) begin(ctx context.Context) (ran bool, err error) {
	if err := execute(ctx, v.socket(qmpSocket), "query-status"); err != nil {
		return false, err
	}
	serial, err := hypervisor.Dial(ctx, v.socket(serialSocket))
	if err != nil {
		return false, fmt.Errorf("connect to the serial line: %w", err)
	}
	v.first.Keep(serial)
	v.watch.await(ctx)
	return true, execute(ctx, v.socket(qmpSocket), "cont")
}

// explain adds what QEMU said before it ended.
func explain(err error, exit process.Exit, log string) error {
	lines := process.TailLog(log, logLines)
	if len(lines) == 0 {
		return fmt.Errorf("%w (%s); it said nothing", err, exit)
	}
	return fmt.Errorf("%w (%s): %s", err, exit, strings.Join(lines, "; "))
}

// groups adds the group of /dev/kvm, which QEMU opens by itself.
func (d *Driver) groups(groups []uint32) []uint32 {
	gid, needed := hypervisor.KVMGroup()
	if !d.kvm || !needed {
		return groups
	}
	return append(groups[:len(groups):len(groups)], gid)
}

// Adopt implements hypervisor.Driver.
func (d *Driver) Adopt(ctx context.Context, dir string, id process.ID) (hypervisor.VM, error) {
	p, err := process.Adopt(id)
	if err != nil {
		return nil, err
	}
	vm := newVM(ctx, p, dir)
	wait, cancel := context.WithTimeout(ctx, adoptTimeout)
	defer cancel()
	vm.watch.await(wait)
	return vm, nil
}
