package cloudhypervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"bield/internal/hypervisor"
)

// files are the driver's in a VM's run folder.
type files struct{ dir string }

func (f files) api() string    { return filepath.Join(f.dir, "api.sock") }
func (f files) events() string { return filepath.Join(f.dir, "events.fifo") }

// vmm is the one folder that the VMM may write to: it makes the sockets of the
// serial line and of vsock itself, and takes no open ones.
func (f files) vmm() string    { return filepath.Join(f.dir, "vmm") }
func (f files) serial() string { return filepath.Join(f.vmm(), "serial.sock") }
func (f files) link() string   { return filepath.Join(f.vmm(), "link.sock") }

// make makes what the VMM is to find, in the place of what is stale, and returns
// the files that it inherits.
func (f files) make(uid, gid uint32) ([]*os.File, error) {
	f.remove()
	made, err := f.makeAll(uid, gid)
	if err != nil {
		closeAll(made)
		f.remove()
	}
	return made, err
}

func (f files) makeAll(uid, gid uint32) ([]*os.File, error) {
	for _, socket := range []string{f.serial(), f.link()} {
		if err := hypervisor.CheckSocketPath(socket); err != nil {
			return nil, err
		}
	}
	if err := os.Mkdir(f.vmm(), 0o700); err != nil {
		return nil, fmt.Errorf("make the VMM's folder: %w", err)
	}
	if err := os.Chown(f.vmm(), int(uid), int(gid)); err != nil {
		return nil, fmt.Errorf("make the VMM's folder: %w", err)
	}
	api, err := hypervisor.Listen(f.api())
	if err != nil {
		return nil, err
	}
	events, err := makeFIFO(f.events())
	if err != nil {
		return []*os.File{api}, err
	}
	return []*os.File{api, events}, nil
}

func (f files) remove() {
	_ = os.Remove(f.api())
	_ = os.Remove(f.events())
	_ = os.RemoveAll(f.vmm())
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// dialVMM connects to a socket in the VMM's own folder. A VMM that its guest has
// taken over may have put anything in its place, such as a link to a socket where
// root is somebody: who listens must be of the folder's owner.
func (v *VM) dialVMM(ctx context.Context, socket string) (net.Conn, error) {
	conn, err := hypervisor.Dial(ctx, socket)
	if err != nil {
		return nil, fmt.Errorf("connect to cloud-hypervisor: %w", err)
	}
	if err := checkPeer(conn, filepath.Dir(socket)); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("connect to %s: %w", socket, err)
	}
	return conn, nil
}

func checkPeer(conn net.Conn, folder string) error {
	var st unix.Stat_t
	if err := unix.Lstat(folder, &st); err != nil {
		return err
	}
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var askErr error
	if err := raw.Control(func(fd uintptr) {
		peer, askErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || askErr != nil {
		return errors.Join(err, askErr)
	}
	if peer.Uid != st.Uid {
		return fmt.Errorf("who listens there is uid %d, not the VMM's %d", peer.Uid, st.Uid)
	}
	return nil
}
