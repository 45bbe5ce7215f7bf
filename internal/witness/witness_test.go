package witness

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("BIELD_TEST_REQUIRE") == "1" {
		t.Fatal("needs root")
	}
	t.Skip("needs root")
}

// TestPacketsAndCanaries: what is marked is seen on its interface, and heard by
// the socket it was for; what is not, or by another cookie, is neither.
func TestPacketsAndCanaries(t *testing.T) {
	needRoot(t)
	cookie := NewCookie()
	packets, err := WatchPackets(cookie)
	if err != nil {
		t.Fatal(err)
	}
	defer packets.Close()
	canaries, err := Listen(cookie)
	if err != nil {
		t.Fatal(err)
	}
	loopback := net.IPv4(127, 0, 0, 1)
	conn, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: loopback, Port: int(canaries.UDP())})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, data := range [][]byte{[]byte("x"), NewCookie().Mark(3), append(make([]byte, 40), cookie.Mark(4)...), append(cookie.Mark(5), 'x')} {
		if _, err := conn.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	tcp, err := net.DialTCP("tcp4", nil, &net.TCPAddr{IP: loopback, Port: int(canaries.TCP())})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = tcp.Write(cookie.Mark(6))
	_ = tcp.Close()
	raw, err := net.DialIP("ip4:253", nil, &net.IPAddr{IP: loopback})
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_, _ = raw.Write(append(make([]byte, 40), cookie.Mark(7)...))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, id := range []uint32{4, 6, 7} {
		if err := packets.Await(ctx, id, "lo"); err != nil {
			t.Errorf("packet %d was not seen: %v", id, err)
		}
	}
	for ctx.Err() == nil && len(canaries.Heard()) < 3 {
		time.Sleep(time.Millisecond)
	}
	if seen := packets.Seen(); len(seen) != 3 || !slices.Equal(seen[4], []string{"lo"}) {
		t.Errorf("seen: %v", seen)
	}
	heard := canaries.Heard()
	if len(heard) != 3 || !slices.Equal(heard[4], []string{"udp"}) || !slices.Equal(heard[6], []string{"tcp"}) || !slices.Equal(heard[7], []string{"IP protocol 253"}) {
		t.Errorf("heard: %v", heard)
	}
	if err := canaries.Close(); err != nil {
		t.Error(err)
	}
}

func TestAwaitEndsWithItsContext(t *testing.T) {
	needRoot(t)
	packets, err := WatchPackets(NewCookie())
	if err != nil {
		t.Fatal(err)
	}
	defer packets.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if packets.Await(ctx, 1, "lo") == nil {
		t.Error("seen what was not sent")
	}
}

func TestParseSockets(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 0153A8C0:1F90 0253A8C0:9C40 01 00000000:00000000 00:00000000 00000000     0        0 2 1
`
	got, err := parseSockets("tcp", strings.NewReader(table))
	if err != nil || len(got) != 2 {
		t.Fatalf("%v, %v", got, err)
	}
	if !got[0].Listens || got[0].Local != netip.MustParseAddrPort("127.0.0.1:22") {
		t.Errorf("%+v", got[0])
	}
	if got[1].Listens || got[1].Local != netip.MustParseAddrPort("192.168.83.1:8080") || got[1].Remote != netip.MustParseAddrPort("192.168.83.2:40000") {
		t.Errorf("%+v", got[1])
	}
	const six = "\n 0: 0000000000000000FFFF00000153A8C0:0016 00000000000000000000000000000000:0000 07 0:0 0 0 0\n"
	got, err = parseSockets("udp", strings.NewReader(six))
	if err != nil || len(got) != 1 || !got[0].Listens || got[0].Local != netip.MustParseAddrPort("192.168.83.1:22") {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"\nx\n", "\n0: 01:1 0:0 0A\n", "\n0: 0100007F:0016 zz:0 0A\n"} {
		if _, err := parseSockets("tcp", strings.NewReader(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

// TestOwnSockets finds a socket of this test's in the kernel's own list.
func TestOwnSockets(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	sockets, err := Sockets()
	if err != nil {
		t.Fatal(err)
	}
	want := l.Addr().(*net.TCPAddr).AddrPort()
	if !slices.ContainsFunc(sockets, func(s Socket) bool { return s.Listens && s.Local == want && s.Proto == "tcp" }) {
		t.Errorf("%s is not listed", want)
	}
}

// TestFolderFollowsNothing: a guest may put links anywhere.
func TestFolderFollowsNothing(t *testing.T) {
	base := t.TempDir()
	share, victim := filepath.Join(base, "share"), filepath.Join(base, "victim")
	for _, path := range []string{share, victim, filepath.Join(share, "mark-folder")} {
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	precious := filepath.Join(victim, "mark-precious")
	if err := os.WriteFile(precious, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"mark-link": precious, "mark-dir": victim, "kept": "mark-link"} {
		if err := os.Symlink(to, filepath.Join(share, name)); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.Open(share)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	found, err := Look(dir, "mark-link")
	if err != nil || found == nil || found.Mode&unix.S_IFMT != unix.S_IFLNK {
		t.Errorf("%+v, %v", found, err)
	}
	if found, err := LookAbove(dir, "victim"); err != nil || found == nil {
		t.Errorf("%+v, %v", found, err)
	}
	for _, name := range []string{"", ".", "..", "../victim", "a/b"} {
		if _, err := Look(dir, name); err == nil {
			t.Errorf("looked at %q", name)
		}
	}
	// Another folder in its place changes nothing.
	if err := os.Rename(share, share+"2"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, share); err != nil {
		t.Fatal(err)
	}
	if err := Sweep(dir, "mark-"); err != nil {
		t.Error(err)
	}
	if err := RemoveAbove(dir, "mark-nothing"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("what a link led to: %v", err)
	}
	left, _ := os.ReadDir(share + "2")
	if len(left) != 1 || left[0].Name() != "kept" {
		t.Errorf("left: %v", left)
	}
}
