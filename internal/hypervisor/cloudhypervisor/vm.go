package cloudhypervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"bield/internal/guestconfig"
	"bield/internal/hypervisor"
	"bield/internal/process"
)

const (
	// shutdownTimeout bounds the orderly end of a VMM that is to go at once.
	shutdownTimeout = 2 * time.Second
	// linkTimeout bounds the wait for a guest that does not listen yet, linkTry one
	// connection: the VMM loses some when the guest resets its device.
	linkTimeout = 10 * time.Second
	linkTry     = 2 * time.Second
	linkPause   = 20 * time.Millisecond
)

// VM is a running cloud-hypervisor. It implements hypervisor.VM.
type VM struct {
	*process.Process
	files files
	api   api
	watch *watch
	log   string // "" if an earlier daemon has started it

	first hypervisor.Held // the serial line, connected before the guest ran

	mu    sync.Mutex
	cause error // what the events say of its end
}

// newVM takes charge of a VMM's process.
func newVM(p *process.Process, m hypervisor.Machine) (*VM, error) {
	f := files{m.Dir}
	v := &VM{Process: p, files: f, api: api{f.api()}, log: m.Log}
	var err error
	v.watch, err = newWatch(f.events(), v.take)
	return v, err
}

// take acts on an event. A guest that resets its machine ends it: the VMM would
// boot it anew, beside all that bield knows of it.
func (v *VM) take(e event) {
	switch e {
	case event{"vm", "rebooting"}, event{"vm", "rebooted"}, event{"guest", "panic"}:
		v.mu.Lock()
		if v.cause == nil {
			v.cause = errReset
		}
		v.mu.Unlock()
		go func() { _ = v.Process.Kill() }()
	}
}

// Cause implements hypervisor.VM.
func (v *VM) Cause() error {
	v.watch.drain()
	v.mu.Lock()
	cause := v.cause
	v.mu.Unlock()
	exit := v.Exit()
	switch {
	case cause != nil:
		return cause
	case exit.Known && (exit.Code != 0 || exit.Signal != 0):
		return fmt.Errorf("the VMM ended: %s", exit)
	case v.broke() != "":
		return fmt.Errorf("the VMM ended: %s", v.broke())
	case v.watch.has(event{"vm", "shutdown"}), exit.Known:
		return nil
	default:
		return errors.New("the VMM ended while no daemon saw how")
	}
}

// broke is what the VMM says of a CPU or thread of its own that has failed: it then
// ends as if it had been told to, with the exit code 0.
func (v *VM) broke() string {
	for _, line := range process.TailLog(v.log, logLines) {
		if strings.Contains(line, "VCPU generated error") || strings.Contains(line, "thread panicked") {
			return line
		}
	}
	return ""
}

// Serial implements hypervisor.VM.
func (v *VM) Serial(ctx context.Context) (net.Conn, error) {
	if first := v.first.Take(); first != nil {
		return first, nil
	}
	return v.dialVMM(ctx, v.files.serial())
}

// Link implements hypervisor.VM: a connection to the guest's vsock port. It tries
// for a while: until the guest listens, the VMM answers with the end, or, before
// the guest has a driver, not at all.
func (v *VM) Link(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, linkTimeout)
	defer cancel()
	var says error // of the last try that was not cut off
	for {
		conn, err := v.tryLink(ctx)
		if err == nil {
			return conn, nil
		}
		var late net.Error
		if says == nil || !errors.As(err, &late) || !late.Timeout() {
			says = err
		}
		select {
		case <-time.After(linkPause):
		case <-v.Done():
			return nil, fmt.Errorf("connect to the guest link: %w: %w", errEnded, io.EOF) // no more than the end of a link
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to the guest link: %w", says)
		}
	}
}

func (v *VM) tryLink(ctx context.Context) (net.Conn, error) {
	conn, err := v.dialVMM(ctx, v.files.link())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, linkTry)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err = connectVsock(conn, guestconfig.LinkVsockPort)
	if !stop() && err == nil {
		err = context.Cause(ctx) // its deadline may stand already
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// connectVsock asks for a port of the guest's, as cloud-hypervisor's docs/vsock.md
// has it: "CONNECT <port>\n" is answered by "OK <port of the host's side>\n", or by
// the end where nobody listens. It reads no byte of what comes behind.
func connectVsock(conn io.ReadWriter, port uint32) error {
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return err
	}
	const longest = len("OK 4294967295\n")
	var line strings.Builder
	var b [1]byte
	for line.Len() < longest {
		if _, err := io.ReadFull(conn, b[:]); errors.Is(err, io.EOF) {
			return errors.New("the guest does not listen yet")
		} else if err != nil {
			return err
		}
		if b[0] == '\n' {
			break
		}
		line.WriteByte(b[0])
	}
	if !strings.HasPrefix(line.String(), "OK ") {
		return fmt.Errorf("it answers %q, not OK", line.String())
	}
	return nil
}

// PowerButton implements hypervisor.VM.
func (v *VM) PowerButton(ctx context.Context) error {
	if err := v.api.put(ctx, "vm.power-button"); err != nil {
		return fmt.Errorf("press the power button: %w", err)
	}
	return nil
}

// Pause implements hypervisor.VM.
func (v *VM) Pause(ctx context.Context) error {
	if err := v.api.become(ctx, "vm.pause", statePaused); err != nil {
		return fmt.Errorf("pause: %w", err)
	}
	return nil
}

// Resume implements hypervisor.VM.
func (v *VM) Resume(ctx context.Context) error {
	if err := v.api.become(ctx, "vm.resume", stateRunning); err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	return nil
}

// Kill implements hypervisor.VM. It asks the VMM first: one that ends by itself
// lets go of disks and shares in order. The sockets go with it.
func (v *VM) Kill(ctx context.Context) error {
	v.noteKill()
	v.shutDown(ctx)
	err := v.Process.Kill()
	v.letGo()
	v.files.remove()
	return err
}

// noteKill keeps the end by force of a VM that runs from passing for the guest's
// own: the VMM's exit status and its events are the same.
func (v *VM) noteKill() {
	select {
	case <-v.Done():
		return
	default:
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.cause == nil && !v.watch.has(event{"vm", "shutdown"}) {
		v.cause = errKilled
	}
}

// shutDown asks the VMM to end and waits a little; what it answers does not
// matter.
func (v *VM) shutDown(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, shutdownTimeout)
	defer cancel()
	if v.api.put(ctx, "vm.shutdown") != nil && ctx.Err() != nil {
		return
	}
	if v.api.put(ctx, "vmm.shutdown") != nil && ctx.Err() != nil {
		return
	}
	select {
	case <-v.Done():
	case <-ctx.Done():
	}
}

// Close implements hypervisor.VM.
func (v *VM) Close() {
	v.letGo()
	v.Release()
}

// letGo closes what the daemon holds of the VM beside its process.
func (v *VM) letGo() {
	if v.watch != nil {
		v.watch.stop()
	}
	v.first.Close()
}
