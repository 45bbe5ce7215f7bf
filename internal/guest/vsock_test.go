package guest

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"bield/internal/guestconfig"
	"bield/internal/guestlink"
)

// testPort is a reserved port that no program is known to listen on.
const testPort = 1009

// TestVsockPortIsRoots listens on a port of this machine's own vsock. Nobody
// connects to it.
func TestVsockPortIsRoots(t *testing.T) {
	if os.Geteuid() != 0 {
		skip(t, "needs root")
	}
	fd, err := bindVsock(testPort)
	if isErrno(err, unix.EAFNOSUPPORT) {
		skip(t, "this kernel has no vsock")
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bindVsock(testPort); !isErrno(err, unix.EADDRINUSE) {
		t.Errorf("listened twice: %v", err)
	}
	l := newListener(fd, isHost)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := l.accept(ctx)
		ended <- err
	}()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the wait for a host ended with %v", err)
	}
	if fd, err = bindVsock(testPort); err != nil {
		t.Fatalf("the port was not given up: %v", err)
	}
	_ = unix.Close(fd)
	if err := asNobody(t, func() error { _, err := bindVsock(guestconfig.LinkVsockPort); return err }); !isErrno(err, unix.EACCES) {
		t.Errorf("who is not root could listen: %v", err)
	}
}

// asNobody calls f in a thread that has no rights, and that ends with it.
func asNobody(t *testing.T, f func() error) error {
	t.Helper()
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		const nobody = 65534
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			t.Errorf("become nobody: %v", errno)
		}
		result <- f()
	}()
	return <-result
}

func TestNoVsock(t *testing.T) {
	for device, want := range map[string]string{
		filepath.Join(t.TempDir(), "vsock"): "kernel has no vsock",
		"/dev/null":                         "ask for this VM's vsock address",
	} {
		if err := checkVsock(device); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", device, err)
		}
	}
}

func TestIsHost(t *testing.T) {
	for cid, want := range map[uint32]bool{unix.VMADDR_CID_HOST: true, unix.VMADDR_CID_LOCAL: false, 0: false, 3: false, noCID: false} {
		if isHost(&unix.SockaddrVM{CID: cid, Port: 1}) != want {
			t.Errorf("CID %d", cid)
		}
	}
	if isHost(nil) || isHost(&unix.SockaddrUnix{}) {
		t.Error("a peer without a CID")
	}
}

// socketLink serves a link on a unix socket in place of a vsock port. A peer
// that bound a name ending in "host" is the host.
func socketLink(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err := errors.Join(err, unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, vsockBacklog)); err != nil {
		t.Fatal(err)
	}
	listener := newListener(fd, func(peer unix.Sockaddr) bool {
		u, ok := peer.(*unix.SockaddrUnix)
		return ok && strings.HasSuffix(u.Name, "host")
	})
	l := &link{open: listener.accept, close: listener.close, journal: newJournal(),
		authorize: func([]string) error { return nil }}
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { l.run(ctx) })
	t.Cleanup(func() {
		cancel()
		done.Wait()
		if _, err := net.Dial("unix", path); err == nil {
			t.Error("it listens after its end")
		}
	})
	return path
}

func connect(t *testing.T, path, as string) net.Conn {
	t.Helper()
	from := &net.UnixAddr{Net: "unix", Name: filepath.Join(t.TempDir(), as)}
	c, err := net.DialUnix("unix", from, &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestListenerTakesOneHostAfterAnother(t *testing.T) {
	path := socketLink(t)
	stranger := connect(t, path, "stranger")
	if n, err := stranger.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("a stranger read %d bytes, %v", n, err)
	}
	ctx := testContext(t)
	first, err := guestlink.Dial(ctx, connect(t, path, "host"))
	if err != nil {
		t.Fatal(err)
	}
	second := make(chan *guestlink.Session, 1)
	waiting := connect(t, path, "host")
	go func() {
		s, err := guestlink.Dial(ctx, waiting)
		if err != nil {
			t.Error(err)
		}
		second <- s
	}()
	if err := first.Authorize(ctx, []string{"a"}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-second:
		t.Fatal("two hosts at once")
	default:
	}
	_ = first.Close()
	s := <-second
	if err := s.Authorize(ctx, []string{"b"}); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
}

// TestHostGivesUpWaiting: what a dead host left in the queue is not in the way.
func TestHostGivesUpWaiting(t *testing.T) {
	path, ctx := socketLink(t), testContext(t)
	first, err := guestlink.Dial(ctx, connect(t, path, "host"))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		_ = connect(t, path, "host").Close()
	}
	_ = first.Close()
	s, err := guestlink.Dial(ctx, connect(t, path, "host"))
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
}

func TestLinkIsReadWhateverIsWrong(t *testing.T) {
	root := fill(t, map[string]string{
		"/other":   `{"version": 9, "link": {"vsockPort": 1011}, "network": "?"}`,
		"/port":    `{"version": 1, "hostname": "a"}`,
		"/broken":  `{"version": 1, "link": {"vsockPort": 1011`,
		"/strange": `{"link": {"vsockPort": -1}}`,
	})
	for file, want := range map[string]uint32{"/other": guestconfig.LinkVsockPort, "/port": 0, "/broken": 0, "/strange": 0, "/none": 0} {
		if got := readLink(root.at(file)); got.VsockPort != want {
			t.Errorf("%s: %+v", file, got)
		}
	}
}

func TestLinkModules(t *testing.T) {
	all := guestconfig.Modules{{Name: "virtio_mmio"}, {Name: "virtio_pci"}, {Name: "virtio_console"}, {Name: "vsock"},
		{Name: "vmw_vsock_virtio_transport", Deps: []string{"vsock"}}}
	for port, want := range map[uint32]string{
		0:    "virtio_mmio virtio_pci virtio_console",
		1011: "virtio_mmio virtio_pci vsock vmw_vsock_virtio_transport",
	} {
		var names []string
		for _, m := range loadOrder(all, linkModules(guestconfig.Link{VsockPort: port})) {
			names = append(names, m.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("port %d: %s", port, got)
		}
	}
}
