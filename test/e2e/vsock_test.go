package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bield/internal/guestconfig"
	"bield/internal/guestlink"
	"bield/internal/hypervisor"
	"bield/internal/hypervisor/qemu"
	"bield/internal/image"
	"bield/internal/setup"
	"bield/internal/spec"
	"bield/test/fakes"
	"bield/test/vsock"
)

const vsockMAC = "02:00:00:01:b8:4b"

// vsockGuest is a guest under QEMU that is told to use vsock for its link.
type vsockGuest struct {
	dir     string
	machine hypervisor.Machine
	console chan string // all that it printed, once it has ended
}

// TestLinkOverVsock boots guests whose link comes as it does from
// cloud-hypervisor, through both inits: stages are told from the first on, a
// session that systemd's start has ended is followed by one with the service,
// and the guest powers off when asked.
func TestLinkOverVsock(t *testing.T) {
	for _, init := range []string{"bield", "systemd"} {
		t.Run(init, func(t *testing.T) {
			g := newVsockGuest(t, init)
			vm := g.start(t, g.withVsock(t))
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			told, session := g.follow(ctx, t, guestlink.StageReady)
			for _, stage := range guestlink.Stages()[:8] {
				if !slices.Contains(told, stage+" done") {
					t.Errorf("the stage %s was not told of: %q", stage, told)
				}
			}
			if err := session.Authorize(ctx, []string{"ssh-ed25519 AAAA late"}); err != nil {
				t.Error(err)
			}
			if err := session.PowerOff(ctx); err != nil {
				t.Error(err)
			}
			_ = session.Close()
			select {
			case <-vm.Done():
			case <-ctx.Done():
				t.Error("not off in time")
			}
			if cause := vm.Cause(); cause != nil {
				t.Errorf("ended: %v", cause)
			}
			if t.Failed() {
				_ = vm.Kill(t.Context())
				t.Logf("console: %s", <-g.console)
			}
		})
	}
}

// TestNoVsock tells a guest to use a vsock that it has not.
func TestNoVsock(t *testing.T) {
	g := newVsockGuest(t, "bield")
	vm := g.start(t, fakes.QEMU())
	select {
	case <-vm.Done():
	case <-time.After(time.Minute):
		_ = vm.Kill(t.Context())
		t.Error("it hangs")
	}
	contains(t, "console", <-g.console, "FAILED: modules: guest link: the VM has no vsock device")
}

func newVsockGuest(t *testing.T, init string) *vsockGuest {
	t.Helper()
	h := newHost(t)
	g := &vsockGuest{dir: h.folder(t, "vm", 0, 0), console: make(chan string, 1)}
	in, err := image.Resolve(spec.Image{})
	if err != nil {
		t.Fatal(err)
	}
	img, err := image.Store{Dir: filepath.Join(cacheDir(), "images")}.Find(in.Digest())
	if err != nil {
		t.Fatal(err)
	}
	const uid = spec.VMMUIDBase
	disk, err := img.Disk(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	g.machine = hypervisor.Machine{
		Name: "vsock", VCPU: 2, MemoryMiB: 1024, Kernel: img.Kernel(), Initrd: filepath.Join(g.dir, "initrd"),
		RootDisk: disk, Dir: g.dir, UID: uid, GID: uid, Log: filepath.Join(g.dir, "vmm.log"),
		Taps:   []hypervisor.Tap{{Queues: []*os.File{loneTap(t)}, MAC: vsockMAC}},
		Shares: []hypervisor.Share{{Tag: spec.HostKeysTag, Socket: g.shareKeys(t, h)}},
	}
	g.writeInitrd(t, h, img, init)
	return g
}

func cacheDir() string {
	if dir := os.Getenv("BIELD_CACHE_DIR"); dir != "" {
		return dir
	}
	return "/var/cache/bield"
}

func (g *vsockGuest) writeInitrd(t *testing.T, h *host, img image.Image, init string) {
	t.Helper()
	shared, err := img.Initrd(t.Context(), filepath.Join(h.bin, "bield-init"))
	if err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(shared)
	if err != nil {
		t.Fatal(err)
	}
	own, err := image.ConfigArchive(guestconfig.Config{
		Version: guestconfig.Version, Hostname: "vsock", Init: init, Clock: time.Now().UnixNano(),
		Link:    guestconfig.Link{VsockPort: guestconfig.LinkVsockPort},
		Modules: []string{"virtiofs", "overlay", "virtio_net", "virtio_blk", "erofs", "evdev", "button"},
		Root:    guestconfig.Root{Disk: "/dev/vda"},
		Network: guestconfig.Network{MAC: vsockMAC, Address: "192.168.83.2/24", Gateway: "192.168.83.1"},
		Shares:  []guestconfig.Share{{Tag: spec.HostKeysTag, MountPoint: spec.HostKeysMount, ReadOnly: true}},
		User:    guestconfig.User{Name: "ann", UID: 1000, GID: 1000, Home: "/home/ann", Shell: "/usr/bin/zsh"},
		HostKey: spec.HostKeysMount + "/" + spec.HostKeyFile,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(g.machine.Initrd, append(first, own...), 0o644); err != nil {
		t.Fatal(err)
	}
}

// shareKeys serves a new host key and returns the share's socket.
func (g *vsockGuest) shareKeys(t *testing.T, h *host) string {
	t.Helper()
	keys, path := h.folder(t, "keys", 0, 0), filepath.Join(g.dir, "share.sock")
	run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(keys, spec.HostKeyFile))
	listener := listenUnix(t, path)
	file, err := listener.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	argv, err := setup.Virtiofsd(t.Context(), cacheDir())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(argv[0], append(argv[1:], "--fd=3", "--shared-dir="+keys, "--sandbox=none")...)
	cmd.ExtraFiles = []*os.File{file}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // it has ended with QEMU
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return path
}

// listenUnix makes a socket that QEMU, who is not root, can connect to.
func listenUnix(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err := errors.Join(err, os.Chmod(path, 0o666)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// withVsock returns a QEMU whose machines have a vsock device, and serves that.
func (g *vsockGuest) withVsock(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath(fakes.QEMU())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(g.dir, "vsock-qemu")
	text := fmt.Sprintf("#!/bin/sh\nexec %s \"$@\" -chardev socket,id=vsock,path=%s -device vhost-user-vsock-device,chardev=vsock\n", program, path+".sock")
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	qemuSide, hostSide := listenUnix(t, path+".sock"), listenUnix(t, g.hybrid())
	device := vsock.New(3)
	ended := make(chan error, 1)
	go func() { ended <- device.ServeQEMU(qemuSide) }()
	go device.ServeHost(hostSide)
	t.Cleanup(func() {
		_ = qemuSide.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return path
}

func (g *vsockGuest) hybrid() string { return filepath.Join(g.dir, "hybrid.sock") }

func (g *vsockGuest) start(t *testing.T, program string) hypervisor.VM {
	t.Helper()
	vm, err := qemu.New(program, false).Start(t.Context(), g.machine)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = vm.Kill(context.WithoutCancel(t.Context())) })
	serial, err := vm.Serial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		text, _ := io.ReadAll(serial)
		g.console <- string(text)
	}()
	return vm
}

// follow gathers what the guest tells until a stage is done, over as many
// sessions as that takes, and returns the last one.
func (g *vsockGuest) follow(ctx context.Context, t *testing.T, last string) ([]string, *guestlink.Session) {
	t.Helper()
	var told []string
	for {
		session, err := g.dial(ctx)
		if err != nil {
			t.Fatalf("%v; told of %q", err, told)
		}
		for e, err := range session.Events(ctx) {
			if err != nil {
				break
			}
			if e.State == guestlink.StateFailed {
				t.Fatalf("%s: %s", e.Stage, e.Message)
			}
			told = append(told, e.Stage+" "+e.State)
			if e.Stage == last && e.State == guestlink.StateDone {
				return told, session
			}
		}
		_ = session.Close()
	}
}

// dial connects as often as the guest refuses, before it listens.
func (g *vsockGuest) dial(ctx context.Context) (*guestlink.Session, error) {
	for {
		conn, err := net.Dial("unix", g.hybrid())
		if err != nil {
			return nil, err
		}
		_, _ = fmt.Fprintf(conn, "CONNECT %d\n", guestconfig.LinkVsockPort)
		line, err := bufio.NewReader(io.LimitReader(conn, 32)).ReadString('\n')
		if err == nil && strings.HasPrefix(line, "OK ") {
			// It may still have been the listener that made way for systemd.
			if session, err := guestlink.Dial(ctx, conn); err == nil {
				return session, nil
			}
		}
		_ = conn.Close()
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// loneTap is a tap that nothing else is joined to.
func loneTap(t *testing.T) *os.File {
	t.Helper()
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	request, err := unix.NewIfreq("vsock-test")
	if err != nil {
		t.Fatal(err)
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, request); err != nil {
		t.Fatal(err)
	}
	return f
}
