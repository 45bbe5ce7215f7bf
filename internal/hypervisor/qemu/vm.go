package qemu

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

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
func (v *VM) Serial(ctx context.Context) (net.Conn, error) { return v.connect(ctx, serialSocket) }

func (v *VM) connect(ctx context.Context, name string) (net.Conn, error) {
	conn, err := dial(ctx, v.socket(name))
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
	v.watch.stop()
	removeAll(v.dir)
	return err
}

// Close implements hypervisor.VM.
func (v *VM) Close() {
	v.watch.stop()
	v.Release()
}

// listenAll makes the sockets that QEMU is to accept connections on.
func listenAll(dir string) ([]*os.File, error) {
	var files []*os.File
	for _, name := range socketNames() {
		f, err := listen(filepath.Join(dir, name))
		if err != nil {
			closeAll(files)
			removeAll(dir)
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// listen makes a socket that root alone can connect to, in the place of a stale
// one. The folder is root's: nobody else can have put something there.
func listen(path string) (*os.File, error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("remove the stale socket: %w", err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	if err := bind(fd, path); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("make socket %s: %w", path, err)
	}
	return f, nil
}

// backlog is how many connections may wait while QEMU serves one.
const backlog = 8

// maxSocketPath is the length of sun_path less its closing zero (unix(7)).
const maxSocketPath = 107

func bind(fd int, path string) error {
	if len(path) > maxSocketPath {
		return fmt.Errorf("the path is longer than %d bytes: choose a shorter BIELD_RUN_DIR", maxSocketPath)
	}
	if err := unix.Fchmod(fd, 0o600); err != nil { // bind gives it to the file
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return err
	}
	return unix.Listen(fd, backlog)
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
