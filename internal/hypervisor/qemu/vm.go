package qemu

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"bield/internal/hypervisor"
	"bield/internal/process"
)

// Sockets in the VM's run folder, in the order in which QEMU inherits them.
const (
	qmpSocket    = "qmp.sock"
	serialSocket = "serial.sock"
	linkSocket   = "link.sock"
	eventsSocket = "events.sock"
)

func socketNames() []string { return []string{qmpSocket, serialSocket, linkSocket, eventsSocket} }

// VM is a running QEMU. It implements hypervisor.VM.
type VM struct {
	*process.Process
	dir   string
	watch *watch

	first hypervisor.Held // the serial line, connected before the guest ran
}

func newVM(ctx context.Context, p *process.Process, dir string) *VM {
	v := &VM{Process: p, dir: dir}
	v.watch = newWatch(ctx, v.socket(eventsSocket))
	return v
}

func (v *VM) socket(name string) string { return filepath.Join(v.dir, name) }

// Link implements hypervisor.VM.
func (v *VM) Link(ctx context.Context) (net.Conn, error) { return v.connect(ctx, linkSocket) }

// Serial implements hypervisor.VM.
func (v *VM) Serial(ctx context.Context) (net.Conn, error) {
	if first := v.first.Take(); first != nil {
		return first, nil
	}
	return v.connect(ctx, serialSocket)
}

func (v *VM) connect(ctx context.Context, name string) (net.Conn, error) {
	conn, err := hypervisor.Dial(ctx, v.socket(name))
	if err != nil {
		return nil, fmt.Errorf("connect to QEMU: %w", err)
	}
	return conn, nil
}

// PowerButton implements hypervisor.VM.
func (v *VM) PowerButton(ctx context.Context) error {
	if err := execute(ctx, v.socket(qmpSocket), "system_powerdown"); err != nil {
		return fmt.Errorf("press the power button: %w", err)
	}
	return nil
}

// Pause implements hypervisor.VM.
func (v *VM) Pause(ctx context.Context) error {
	if err := execute(ctx, v.socket(qmpSocket), "stop"); err != nil {
		return fmt.Errorf("pause: %w", err)
	}
	return nil
}

// Resume implements hypervisor.VM.
func (v *VM) Resume(ctx context.Context) error {
	if err := execute(ctx, v.socket(qmpSocket), "cont"); err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	return nil
}

// Kill implements hypervisor.VM. It takes the sockets with it.
func (v *VM) Kill(context.Context) error {
	err := v.Process.Kill()
	v.letGo()
	removeAll(v.dir)
	return err
}

// Close implements hypervisor.VM.
func (v *VM) Close() {
	v.letGo()
	v.Release()
}

// letGo closes what the daemon holds of the VM beside its process.
func (v *VM) letGo() {
	v.watch.stop()
	v.first.Close()
}

// listenAll makes the sockets that QEMU is to accept connections on.
func listenAll(dir string) ([]*os.File, error) {
	var files []*os.File
	for _, name := range socketNames() {
		f, err := hypervisor.Listen(filepath.Join(dir, name))
		if err != nil {
			closeAll(files)
			removeAll(dir)
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

func removeAll(dir string) {
	for _, name := range socketNames() {
		_ = os.Remove(filepath.Join(dir, name))
	}
}
