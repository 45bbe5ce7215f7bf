package network

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"reflect"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func testTap(name string) Tap {
	return Tap{Name: name, Bridge: "microbr", Owner: owner, UID: 1234, GID: 5678, Queues: 1}
}

func wantTaps(t *testing.T, want ...TapStatus) {
	t.Helper()
	links, err := Observe(owner)
	must(t, err)
	if !reflect.DeepEqual(links.Taps, want) {
		t.Errorf("taps: got %+v, want %+v", links.Taps, want)
	}
}

func TestEnsureTap(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	tap := testTap("mvb84b5ea1db5")
	wantError(t, EnsureTap(t.Context(), tap), tap.Name, "no bridge microbr")
	_, err := EnsureBridge(t.Context(), testBridge())
	must(t, err)
	must(t, EnsureTap(t.Context(), tap))
	status := TapStatus{Name: tap.Name, Bridge: "microbr", Up: true, Isolated: true, UID: 1234, GID: 5678}
	wantTaps(t, status)
	link := mustLink(t, tap.Name).(*netlink.Tuntap)
	if link.NonPersist || link.Flags&netlink.TUNTAP_VNET_HDR == 0 || link.Attrs().Alias != owner {
		t.Errorf("tap %+v", link)
	}
	if got := sysctl(t, ipv6Conf+tap.Name+"/disable_ipv6"); got != "1" {
		t.Errorf("disable_ipv6 is %s", got)
	}

	must(t, EnsureTap(t.Context(), tap))
	if again := mustLink(t, tap.Name).Attrs().Index; again == link.Attrs().Index {
		t.Error("the leftover was not deleted")
	}
	wantTaps(t, status)
	must(t, RemoveTap(t.Context(), tap))
	must(t, RemoveTap(t.Context(), tap))
	wantTaps(t)
	wantNoLink(t, tap.Name)
}

func TestTapQueues(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	_, err := EnsureBridge(t.Context(), testBridge())
	must(t, err)
	many, one := testTap("many"), testTap("one")
	many.Queues = 4
	must(t, EnsureTap(t.Context(), many))
	must(t, EnsureTap(t.Context(), one))
	for _, c := range []struct {
		tap, want int
		name      string
	}{{4, 4, "many"}, {1, 1, "many"}, {1, 1, "one"}} {
		files, err := OpenTap(c.name, c.want)
		must(t, err)
		if len(files) != c.want {
			t.Errorf("%d files, want %d", len(files), c.want)
		}
		closeAll(files)
	}
	_, err = OpenTap("one", 2)
	wantError(t, err, "one", "one queue")
}

func TestForeignTap(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	_, err := EnsureBridge(t.Context(), testBridge())
	must(t, err)
	foreign := &netlink.Tuntap{LinkAttrs: named("theirs"), Mode: netlink.TUNTAP_MODE_TAP}
	addLink(t, foreign, "")
	closeAll(foreign.Fds)
	addLink(t, pair("link0"), "")
	must(t, netlink.LinkSetAlias(mustLink(t, "link0"), owner))
	for _, name := range []string{"theirs", "link0"} {
		index := mustLink(t, name).Attrs().Index
		wantError(t, EnsureTap(t.Context(), testTap(name)), name, "ip link delete dev "+name)
		must(t, RemoveTap(t.Context(), testTap(name)))
		if got := mustLink(t, name).Attrs(); got.Index != index || got.MasterIndex != 0 {
			t.Errorf("%s was altered: %+v", name, got)
		}
	}
	wantTaps(t)
}

func TestTapUndo(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	_, err := EnsureBridge(t.Context(), testBridge())
	must(t, err)
	tap := testTap("tap0")
	tap.GID = 1<<32 - 1 // no group
	wantError(t, EnsureTap(t.Context(), tap), "tap0", "group")
	wantNoLink(t, "tap0")

	remountProc(t, unix.MS_RDONLY)
	wantError(t, EnsureTap(t.Context(), testTap("tap0")), "tap0", "IPv6")
	wantNoLink(t, "tap0")
}

func TestOpenTapErrors(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	_, err := OpenTap("none", 1)
	wantError(t, err, "none", "no such tap")
	wantNoLink(t, "none")
	_, err = EnsureBridge(t.Context(), testBridge())
	must(t, err)
	must(t, EnsureTap(t.Context(), testTap("tap0")))
	files, err := OpenTap("tap0", 1)
	must(t, err)
	wantTaps(t, TapStatus{Name: "tap0", Bridge: "microbr", Up: true, Carrier: true, Isolated: true, UID: 1234, GID: 5678})
	_, err = OpenTap("tap0", 1)
	wantError(t, err, "tap0", "another process")
	closeAll(files)
	files, err = OpenTap("tap0", 0)
	must(t, err)
	closeAll(files)
}

// childFD is the first of exec.Cmd's ExtraFiles.
const childFD = 3

// TestHandedOverTap lets a process in another network namespace speak through
// the tap: it asks for the gateway's hardware address and gets it.
func TestHandedOverTap(t *testing.T) {
	if os.Getenv("BIELD_TEST_VMM") != "" {
		playVMM(t)
		return
	}
	if !inNamespace(t) {
		return
	}
	_, err := EnsureBridge(t.Context(), testBridge())
	must(t, err)
	must(t, EnsureTap(t.Context(), testTap("tap0")))
	files, err := OpenTap("tap0", 1)
	must(t, err)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestHandedOverTap$", "-test.v")
	cmd.Env = append(os.Environ(), "BIELD_TEST_VMM="+mustLink(t, "microbr").Attrs().HardwareAddr.String())
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Credential: &syscall.Credential{Uid: 1234, Gid: 5678}}
	out, err := cmd.CombinedOutput()
	closeAll(files)
	if err != nil || !bytes.Contains(out, []byte("--- PASS")) {
		t.Fatalf("in the VMM's namespace: %v\n%s", err, out)
	}
}

// playVMM runs as another user, in a namespace without the tap.
func playVMM(t *testing.T) {
	if all, err := net.Interfaces(); err != nil || len(all) != 1 {
		t.Fatalf("not in an empty namespace: %v %v", all, err)
	}
	flags, err := unix.FcntlInt(childFD, unix.F_GETFL, 0)
	must(t, err)
	if flags&unix.O_NONBLOCK == 0 {
		t.Error("the handed-over file blocks")
	}
	from := askGateway(t, childFD, net.HardwareAddr{2, 0, 0, 1, 0xb8, 0x4b}, "192.168.83.2")
	if want := os.Getenv("BIELD_TEST_VMM"); from.String() != want {
		t.Errorf("the gateway is %s, want %s", from, want)
	}
}

// askGateway plays a guest that asks for the gateway's MAC, again and again,
// for the kernel takes a moment to notice that the tap is open.
func askGateway(t *testing.T, fd int, mac net.HardwareAddr, ip string) net.HardwareAddr {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		_, err := unix.Write(fd, append(make([]byte, vnetHeader), arpRequest(mac, ip, "192.168.83.1")...))
		must(t, err)
		if from, ok := awaitARPReply(t, fd, mac); ok {
			return from
		}
	}
	t.Fatal("no answer from the gateway")
	return nil
}

// vnetHeader is the length of struct virtio_net_hdr, the default of TUNSETVNETHDRSZ.
const vnetHeader = 10

func awaitARPReply(t *testing.T, fd int, mac net.HardwareAddr) (net.HardwareAddr, bool) {
	t.Helper()
	buf := make([]byte, 2048)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 50)
		if n == 0 && err == nil {
			return nil, false
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		must(t, err)
		n, err = unix.Read(fd, buf)
		must(t, err)
		frame := buf[vnetHeader:n]
		if len(frame) >= 42 && bytes.Equal(frame[:6], mac) && frame[12] == 8 && frame[13] == 6 && frame[21] == 2 {
			return net.HardwareAddr(frame[22:28]), true
		}
	}
}

func arpRequest(mac net.HardwareAddr, from, to string) []byte {
	f := append([]byte{255, 255, 255, 255, 255, 255}, mac...)
	f = binary.BigEndian.AppendUint16(f, 0x0806)
	f = append(f, 0, 1, 8, 0, 6, 4, 0, 1)
	f = append(append(f, mac...), net.ParseIP(from).To4()...)
	return append(append(f, make([]byte, 6)...), net.ParseIP(to).To4()...)
}

// TestPinnedTap has one guest say, in ways that the bridge hears, that it has
// the MAC of another.
func TestPinnedTap(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	_, err := EnsureBridge(t.Context(), testBridge())
	must(t, err)
	m1, m2 := net.HardwareAddr{2, 0, 0, 1, 0, 1}, net.HardwareAddr{2, 0, 0, 1, 0, 2}
	plain := net.HardwareAddr{255, 255, 255, 255, 255, 255}
	lldp := net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0x0e}
	for _, c := range []struct {
		name   string
		pinned bool
		to     net.HardwareAddr
		stolen bool
	}{
		{"not pinned", false, plain, true},
		{"not pinned, LLDP", false, lldp, false},
		{"pinned", true, plain, false},
		{"pinned, LLDP", true, lldp, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			tap1, tap2 := testTap("tap1"), testTap("tap2")
			if c.pinned {
				tap1.MAC, tap2.MAC = m1.String(), m2.String()
			}
			must(t, EnsureTap(t.Context(), tap1))
			must(t, EnsureTap(t.Context(), tap2))
			files, err := OpenTap("tap1", 1)
			must(t, err)
			defer closeAll(files)
			fd := int(files[0].Fd())
			askGateway(t, fd, m1, "192.168.83.2")
			frame := arpRequest(m2, "192.168.83.2", "192.168.83.1")
			copy(frame, c.to)
			_, err = unix.Write(fd, append(make([]byte, vnetHeader), frame...))
			must(t, err)
			if got := learned(t, "tap1", m2); got != c.stolen {
				t.Errorf("the bridge takes tap1 for the other's: %v, want %v", got, c.stolen)
			}
			if c.pinned && !(learned(t, "tap1", m1) && learned(t, "tap2", m2)) {
				t.Error("the entries of the taps are gone")
			}
		})
	}
}

// learned tells whether the bridge would send frames for mac to the tap. What a
// write to a tap teaches is known when the write returns.
func learned(t *testing.T, tap string, mac net.HardwareAddr) bool {
	t.Helper()
	entries, err := netlink.NeighList(mustLink(t, tap).Attrs().Index, unix.AF_BRIDGE)
	must(t, err)
	for _, e := range entries {
		if bytes.Equal(e.HardwareAddr, mac) {
			return true
		}
	}
	return false
}

func TestUnprivileged(t *testing.T) {
	if os.Getenv("BIELD_TEST_NOBODY") == "" {
		if os.Geteuid() != 0 {
			skip(t, "needs root to become another user in a namespace of its own")
		}
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestUnprivileged$", "-test.v")
		cmd.Env = append(os.Environ(), "BIELD_TEST_NOBODY=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS")) {
			t.Fatalf("as nobody: %v\n%s", err, out)
		}
		return
	}
	_, err := EnsureBridge(t.Context(), testBridge())
	wantError(t, err, "create bridge microbr", "root", "CAP_NET_ADMIN")
	wantError(t, SetForwarding(sysctl(t, ipForward) == "0"), "CAP_NET_ADMIN")
	if _, err := Observe(owner); err != nil {
		t.Errorf("observing needs no privilege: %v", err)
	}
	wantError(t, advise(fmt.Errorf("attach (TUNSETIFF): %w", unix.EPERM)), "TUNSETIFF", "CAP_NET_ADMIN")
}
