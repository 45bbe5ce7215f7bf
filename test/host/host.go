package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"bield/internal/api/client"
	"bield/internal/config"
	"bield/internal/spec"
	"bield/internal/state"
	"bield/test/fakes"
)

// Host is one machine: namespaces of its own, a run directory, and the programs
// that its bieldd finds.
type Host struct {
	// Work is the home of its user, with the run directory and the state folder.
	Work string
	Run  state.Run
	// Cache is the image store's folder: that of all machines, unless it is set
	// to another before the first daemon starts.
	Cache  string
	Client *client.Client
	// KVM makes KVM count as real, so that VMs run on cloud-hypervisor.
	KVM bool

	runDir      string // as bield sees it
	mounts, net string // namespaces
	before      map[string]string
	ssh         net.Listener
}

// New makes a machine of the calling thread, which the caller has locked and
// which ends with its goroutine. work is a folder below Base; what it already
// has of the machine's files stays.
func New(work string) (*Host, error) {
	h := &Host{Work: work, Run: state.Run{Dir: filepath.Join(work, "run")}, Cache: filepath.Join(Base(), "cache")}
	h.runDir = h.Run.Dir
	// The client dials on any thread, and should see this one's mounts.
	h.Client = client.New(fmt.Sprintf("/proc/self/task/%d/root%s", unix.Gettid(), h.Run.Socket()))
	if err := h.furnish(); err != nil {
		return nil, err
	}
	if err := h.enter(); err != nil {
		return nil, fmt.Errorf("make namespaces: %w", err)
	}
	return h, nil
}

// Environment is what every program on the machine begins with.
func (h *Host) Environment() map[string]string {
	kvm := "0"
	if h.KVM {
		kvm = "1"
	}
	return map[string]string{
		"BIELD_TEST_KVM":    kvm,
		"BIELD_TEST_WRITES": filepath.Join(h.Work, "fakes", "net"),
		"HOME":              h.Work, "BIN": filepath.Join(Base(), "bin"), "BIELD_RUN_DIR": h.runDir, "BIELD_CACHE_DIR": h.Cache,
		"TMPDIR": filepath.Join(h.Work, "tmp"),
		// Only a proxy would know whether package sources can be reached.
		"http_proxy": "http://127.0.0.1:9", "TERM": "dumb", "LC_ALL": "C.UTF-8",
		"PATH": strings.Join([]string{filepath.Join(h.Work, "fakes"), filepath.Join(Base(), "bin"), os.Getenv("PATH")}, ":"),
	}
}

// The user in the guests: nobody whom the machine knows.
const (
	guestUID = 4711
	guestGID = 4712
)

// configuration is what a machine has that brings none of its own.
const configuration = `stateDir: ~/state
user: {name: dev, uid: 4711, gid: 4712}
stopTimeout: 1s
vms:
  one: {ip: 192.168.83.2, workspace: ~/src, mem: 512}
  two: {ip: 192.168.83.3, workspace: ~/src, mem: 1G}
`

// File is the configuration of the machine.
func (h *Host) File() string { return filepath.Join(h.Work, ".config", "bield", "bield.yaml") }

// furnish puts the fakes, a workspace and a configuration in place, where there
// is none.
func (h *Host) furnish() error {
	dir := filepath.Join(h.Work, "fakes")
	for _, open := range []string{filepath.Join(dir, "net"), filepath.Join(h.Work, "tmp")} {
		if err := os.MkdirAll(open, 0o755); err != nil {
			return err
		}
		// Not sticky: another VM's fake takes over an address that was left.
		if err := os.Chmod(open, 0o777); err != nil {
			return err
		}
	}
	for name := range fakes.Programs() {
		if err := install(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	src := filepath.Join(h.Work, "src")
	if err := os.MkdirAll(src, 0o755); err != nil {
		return err
	}
	if err := os.Chown(src, guestUID, guestGID); err != nil {
		return err
	}
	if _, err := os.Stat(h.File()); err == nil {
		return nil
	}
	return h.Declare(configuration)
}

// Declare writes the machine's configuration.
func (h *Host) Declare(text string) error {
	if err := os.MkdirAll(filepath.Dir(h.File()), 0o755); err != nil {
		return err
	}
	return os.WriteFile(h.File(), []byte(text), 0o644)
}

// Spec is the machine's configuration as bield reads it.
func (h *Host) Spec(ctx context.Context) (spec.Host, error) {
	env, err := config.HostEnv(ctx)
	if err != nil {
		return spec.Host{}, err
	}
	env.Caller.Home, env.Sudo = h.Work, nil
	return config.Load(ctx, h.File(), env)
}

// Owner marks what bield makes in the kernel.
func (h *Host) Owner() string { return state.Run{Dir: h.runDir}.Owner() }

// AtHome makes the machine's bield the host's own, whose run directory is where
// it is by default. That is a mount of h.Run.Dir.
func (h *Host) AtHome() error {
	for _, dir := range []string{"/run", "/var/lib"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
			return err
		}
	}
	if err := errors.Join(os.Mkdir(state.DefaultRunDir, 0o755), os.Mkdir(h.Run.Dir, 0o755)); err != nil {
		return err
	}
	h.runDir = state.DefaultRunDir
	return unix.Mount(h.Run.Dir, state.DefaultRunDir, "", unix.MS_BIND, "")
}

// Reboot ends all that runs, and takes away what the kernel has and, unless it is
// kept, the run directory. It is for the machine's own thread.
func (h *Host) Reboot(keepRun bool) error {
	h.KillAll()
	if !WaitFor(Patience, func() bool { return len(h.Processes()) == 0 }) {
		return fmt.Errorf("still there: %v", h.Processes())
	}
	if !keepRun {
		entries, err := os.ReadDir(h.Run.Dir)
		for _, e := range entries {
			err = errors.Join(err, os.RemoveAll(filepath.Join(h.Run.Dir, e.Name())))
		}
		if err != nil {
			return err
		}
	}
	if err := errors.Join(h.clearGroups(), h.ssh.Close()); err != nil {
		return err
	}
	return h.enter()
}

// enter puts this thread in namespaces of its own, where guests can be reached.
func (h *Host) enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET); err != nil {
		return err
	}
	err := fakes.MountSys()
	if err != nil {
		return err
	}
	if h.mounts, err = os.Readlink("/proc/thread-self/ns/mnt"); err != nil {
		return err
	}
	if h.net, err = os.Readlink("/proc/thread-self/ns/net"); err != nil {
		return err
	}
	if err := fakes.RouteGuests(); err != nil {
		return fmt.Errorf("route to the guests: %w", err)
	}
	if h.ssh, err = net.Listen("tcp4", ":22"); err != nil {
		return err
	}
	go h.bringSSH()
	h.before, err = fakes.Settings()
	return err
}

// bringSSH takes each SSH connection to the fake guest of its address.
func (h *Host) bringSSH() {
	for {
		conn, err := h.ssh.Accept()
		if err != nil {
			return
		}
		go h.bring(conn)
	}
}

func (h *Host) bring(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	address, _, err := net.SplitHostPort(conn.LocalAddr().String())
	if err != nil {
		return
	}
	guest, err := net.Dial("unix", filepath.Join(h.Work, "fakes", "net", address+".sock"))
	if err != nil {
		return
	}
	defer func() { _ = guest.Close() }()
	ended := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{conn, guest}, {guest, conn}} {
		go func() {
			_, _ = io.Copy(way[0], way[1])
			ended <- struct{}{}
		}()
	}
	<-ended
}
