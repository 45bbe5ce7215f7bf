package hypervisortest_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bield/internal/hypervisor"
	"bield/internal/hypervisor/hypervisortest"
	"bield/internal/process"
)

// mutant is a driver with one fault. What it doesn't change is the driver's own.
type mutant struct {
	start func(context.Context, hypervisor.Driver, hypervisor.Machine) (hypervisor.VM, error)
	adopt func(context.Context, hypervisor.Driver, string, process.ID) (hypervisor.VM, error)
	// vm changes each VM, after one adopted or not.
	vm func(vm hypervisor.VM, adopted bool, dir string) hypervisor.VM
}

// mutantDriver is a driver with a mutant's fault.
type mutantDriver struct {
	hypervisor.Driver
	mutant mutant
}

func (d mutantDriver) Start(ctx context.Context, m hypervisor.Machine) (hypervisor.VM, error) {
	start := d.mutant.start
	if start == nil {
		start = func(ctx context.Context, d hypervisor.Driver, m hypervisor.Machine) (hypervisor.VM, error) {
			return d.Start(ctx, m)
		}
	}
	vm, err := start(ctx, d.Driver, m)
	return d.change(vm, err, false, m.Dir)
}

func (d mutantDriver) Adopt(ctx context.Context, dir string, id process.ID) (hypervisor.VM, error) {
	adopt := d.mutant.adopt
	if adopt == nil {
		adopt = func(ctx context.Context, d hypervisor.Driver, dir string, id process.ID) (hypervisor.VM, error) {
			return d.Adopt(ctx, dir, id)
		}
	}
	vm, err := adopt(ctx, d.Driver, dir, id)
	return d.change(vm, err, true, dir)
}

func (d mutantDriver) change(vm hypervisor.VM, err error, adopted bool, dir string) (hypervisor.VM, error) {
	if err != nil || d.mutant.vm == nil {
		return vm, err
	}
	return d.mutant.vm(vm, adopted, dir), nil
}

// mutantVM is a VM some of whose methods are others.
type mutantVM struct {
	hypervisor.VM
	cause                       func() error
	serial, link                func(context.Context) (net.Conn, error)
	button, pause, resume, kill func(context.Context) error
}

func (v mutantVM) Cause() error {
	if v.cause != nil {
		return v.cause()
	}
	return v.VM.Cause()
}

func (v mutantVM) Serial(ctx context.Context) (net.Conn, error) {
	return or(v.serial, v.VM.Serial)(ctx)
}
func (v mutantVM) Link(ctx context.Context) (net.Conn, error) { return or(v.link, v.VM.Link)(ctx) }
func (v mutantVM) PowerButton(ctx context.Context) error      { return or(v.button, v.VM.PowerButton)(ctx) }
func (v mutantVM) Pause(ctx context.Context) error            { return or(v.pause, v.VM.Pause)(ctx) }
func (v mutantVM) Resume(ctx context.Context) error           { return or(v.resume, v.VM.Resume)(ctx) }
func (v mutantVM) Kill(ctx context.Context) error             { return or(v.kill, v.VM.Kill)(ctx) }

// or is the one that is set, the first before the second.
func or[F func(context.Context) error | func(context.Context) (net.Conn, error)](changed, own F) F {
	if changed != nil {
		return changed
	}
	return own
}

// changed is a mutant whose VMs are changed by themselves.
func changed(change func(v *mutantVM, adopted bool, dir string)) mutant {
	return mutant{vm: func(vm hypervisor.VM, adopted bool, dir string) hypervisor.VM {
		v := mutantVM{VM: vm}
		change(&v, adopted, dir)
		return v
	}}
}

// causing is a mutant that takes some causes for others.
func causing(change func(cause error, adopted bool) error) mutant {
	return changed(func(v *mutantVM, adopted bool, _ string) {
		v.cause = func() error { return change(v.VM.Cause(), adopted) }
	})
}

// broken is a mutant with the cases that are to tell of it, and no other.
type broken struct {
	how    string
	mutant mutant
	fails  []string
}

func mutants() []broken {
	return []broken{
		{"the record is written late", mutant{start: startWithoutRecord}, []string{"start"}},
		{"Serial loses the first words", changed(losesFirstWords), []string{"first words"}},
		{"Link hangs up", changed(hangsUpLink), []string{"guest link"}},
		{"Serial has seven bits", changed(sevenBits), []string{"console"}},
		{"Serial connects twice alone", changed(connectsTwice), []string{"console again"}},
		{"Pause does not last", changed(resumesAtOnce), []string{"pause and resume"}},
		{"PowerButton presses nothing", changed(pressesNothing), []string{"power button"}},
		{"Kill passes for a power-off", changed(killIsPowerOff), []string{"forced stop"}},
		{"Kill leaves a file", changed(leavesFile), []string{"forced stop", "stale files", "adoption", "VMM hangs", "half answers"}},
		{"a power-off is an error", causing(powerOffIsError), []string{"power button", "guest powers off"}},
		{"a reset passes for a power-off", causing(resetIsPowerOff), []string{"guest resets"}},
		{"a signal is not named", causing(signalIsUnknown), []string{"VMM killed"}},
		{"Start takes the folder of another", mutant{start: startAnyway}, []string{"start twice", "starts at once"}},
		{"Start is not alone", mutant{start: startBeside()}, []string{"starts at once"}},
		{"a failed Start leaves a file", mutant{start: startLeavesFile}, []string{"start fails"}},
		{"Start heeds no context", mutant{start: startForever}, []string{"start hangs"}},
		{"Start takes stale files for a VM", mutant{start: startOnlyInEmpty}, []string{"stale files"}},
		{"an adopted VM can't be paused", changed(adoptedIsMute), []string{"adoption"}},
		{"an adopted VM always powers off", causing(adoptedPowersOff), []string{"end after adoption"}},
		{"Adopt takes anything", mutant{adopt: adoptAnything}, []string{"adoption too late"}},
		{"Pause heeds no context", changed(waitsOn), []string{"VMM hangs"}},
		{"Pause is impatient", changed(impatient), []string{"slow answers"}},
		{"Pause takes half an answer", changed(takesHalves), []string{"half answers"}},
		{"the VMM is another user", mutant{start: startAsAnother}, []string{"confined"}},
	}
}

func startWithoutRecord(ctx context.Context, d hypervisor.Driver, m hypervisor.Machine) (hypervisor.VM, error) {
	note := m.Note
	m.Note = nil
	vm, err := d.Start(ctx, m)
	if err == nil && note != nil {
		err = note(process.ID{PID: vm.ID().PID}) // late, and half
	}
	return vm, err
}

func losesFirstWords(v *mutantVM, adopted bool, _ string) {
	first := !adopted
	v.serial = func(ctx context.Context) (net.Conn, error) {
		if first {
			first = false
			conn, err := v.VM.Serial(ctx)
			if err != nil {
				return nil, err
			}
			_ = conn.Close()
		}
		return v.VM.Serial(ctx)
	}
}

func hangsUpLink(v *mutantVM, _ bool, _ string) {
	v.link = func(ctx context.Context) (net.Conn, error) {
		conn, err := v.VM.Link(ctx)
		if err == nil {
			_ = conn.Close()
		}
		return conn, err
	}
}

// sevenBitConn loses the eighth.
type sevenBitConn struct{ net.Conn }

func (c sevenBitConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	for i := range p[:n] {
		p[i] &= 0x7f
	}
	return n, err
}

func sevenBits(v *mutantVM, _ bool, _ string) {
	v.serial = func(ctx context.Context) (net.Conn, error) {
		conn, err := v.VM.Serial(ctx)
		return sevenBitConn{conn}, err
	}
}

// connectsTwice fails from the third connection on.
func connectsTwice(v *mutantVM, _ bool, _ string) {
	connections := 0
	v.serial = func(ctx context.Context) (net.Conn, error) {
		if connections++; connections > 2 {
			return nil, errors.New("connection refused")
		}
		return v.VM.Serial(ctx)
	}
}

func resumesAtOnce(v *mutantVM, _ bool, _ string) {
	v.pause = func(ctx context.Context) error {
		return errors.Join(v.VM.Pause(ctx), v.VM.Resume(ctx))
	}
}

// pressesNothing only sees that the VMM answers.
func pressesNothing(v *mutantVM, _ bool, _ string) {
	v.button = v.VM.Resume
}

func killIsPowerOff(v *mutantVM, _ bool, _ string) {
	killed := false
	v.kill = func(ctx context.Context) error {
		killed = true
		return v.VM.Kill(ctx)
	}
	v.cause = func() error {
		if killed {
			return nil
		}
		return v.VM.Cause()
	}
}

func leavesFile(v *mutantVM, _ bool, dir string) {
	v.kill = func(ctx context.Context) error {
		select {
		case <-v.Done(): // cleaned up
			return v.VM.Kill(ctx)
		default:
		}
		return errors.Join(v.VM.Kill(ctx), os.WriteFile(filepath.Join(dir, "left.sock"), nil, 0o600))
	}
}

func powerOffIsError(cause error, adopted bool) error {
	if cause == nil && !adopted {
		return errors.New("it ended")
	}
	return cause
}

func resetIsPowerOff(cause error, adopted bool) error {
	if !adopted && cause != nil && strings.Contains(cause.Error(), "reset") {
		return nil
	}
	return cause
}

func signalIsUnknown(cause error, _ bool) error {
	if cause != nil && strings.Contains(cause.Error(), "SIGKILL") {
		return errors.New("it ended")
	}
	return cause
}

func adoptedPowersOff(cause error, adopted bool) error {
	if adopted {
		return nil
	}
	return cause
}

// startAnyway takes what lies in the run folder for stale.
func startAnyway(ctx context.Context, d hypervisor.Driver, m hypervisor.Machine) (hypervisor.VM, error) {
	vm, err := d.Start(ctx, m)
	if errors.Is(err, hypervisor.ErrInUse) {
		removeFiles(m.Dir)
		vm, err = d.Start(ctx, m)
	}
	return vm, err
}

func removeFiles(dir string) {
	paths, _ := filepath.Glob(filepath.Join(dir, "*"))
	for _, path := range paths {
		_ = os.RemoveAll(path)
	}
}

// startBeside starts a second one elsewhere, where one is being started.
func startBeside() func(context.Context, hypervisor.Driver, hypervisor.Machine) (hypervisor.VM, error) {
	var starting sync.Map
	return func(ctx context.Context, d hypervisor.Driver, m hypervisor.Machine) (hypervisor.VM, error) {
		if _, other := starting.LoadOrStore(m.Dir, true); other {
			m.Dir = filepath.Join(m.Dir, "2")
			if err := os.Mkdir(m.Dir, 0o711); err != nil {
				return nil, err
			}
			return d.Start(ctx, m)
		}
		defer starting.Delete(m.Dir)
		return d.Start(ctx, m)
	}
}

func startLeavesFile(ctx context.Context, d hypervisor.Driver, m hypervisor.Machine) (hypervisor.VM, error) {
	vm, err := d.Start(ctx, m)
	if err != nil && ctx.Err() == nil && !errors.Is(err, hypervisor.ErrInUse) {
		err = errors.Join(err, os.WriteFile(filepath.Join(m.Dir, "left.sock"), nil, 0o600))
	}
	return vm, err
}

func startForever(ctx context.Context, d hypervisor.Driver, m hypervisor.Machine) (hypervisor.VM, error) {
	return d.Start(context.WithoutCancel(ctx), m)
}

func startOnlyInEmpty(ctx context.Context, d hypervisor.Driver, m hypervisor.Machine) (hypervisor.VM, error) {
	if paths, _ := filepath.Glob(filepath.Join(m.Dir, "*")); len(paths) > 0 {
		return nil, hypervisor.ErrInUse
	}
	return d.Start(ctx, m)
}

func adoptedIsMute(v *mutantVM, adopted bool, _ string) {
	if adopted {
		v.pause = func(context.Context) error { return errors.New("it is not mine") }
	}
}

func adoptAnything(ctx context.Context, d hypervisor.Driver, dir string, id process.ID) (hypervisor.VM, error) {
	vm, err := d.Adopt(ctx, dir, id)
	if errors.Is(err, process.ErrGone) {
		return nil, nil
	}
	return vm, err
}

// waitsOn gives up after a time of its own.
func waitsOn(v *mutantVM, _ bool, _ string) {
	v.pause = func(ctx context.Context) error {
		return v.VM.Pause(context.WithoutCancel(ctx))
	}
}

func impatient(v *mutantVM, _ bool, _ string) {
	v.pause = func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		return v.VM.Pause(ctx)
	}
}

func takesHalves(v *mutantVM, _ bool, _ string) {
	v.pause = func(ctx context.Context) error {
		if err := v.VM.Pause(ctx); ctx.Err() != nil {
			return err
		}
		return nil
	}
}

func startAsAnother(ctx context.Context, d hypervisor.Driver, m hypervisor.Machine) (hypervisor.VM, error) {
	m.UID++
	return d.Start(ctx, m)
}

// TestMutants breaks the driver in one way after another: the cases that are there
// for it must fail, and no others.
func TestMutants(t *testing.T) {
	healthy := fakeQEMU(installFakes(t, ""))
	if healthy.Missing != "" {
		require(t, healthy)
		t.Skip(healthy.Missing)
	}
	healthy.Patience = 10 * time.Second
	for _, b := range mutants() {
		t.Run(b.how, func(t *testing.T) {
			t.Parallel()
			s := healthy
			s.New = func() hypervisor.Driver { return mutantDriver{healthy.New(), b.mutant} }
			report := hypervisortest.Check(t, s)
			if failed := report.Failures(); !slices.Equal(failed, b.fails) {
				t.Errorf("failed: %q, not %q\n%s", failed, b.fails, hypervisortest.Table(report))
			}
		})
	}
	t.Run("seccomp", func(t *testing.T) {
		t.Parallel()
		s := healthy
		s.Cannot = nil // it fails for that reason
		if failed := hypervisortest.Check(t, s).Failures(); !slices.Equal(failed, []string{"seccomp"}) {
			t.Errorf("failed: %q", failed)
		}
	})
}
