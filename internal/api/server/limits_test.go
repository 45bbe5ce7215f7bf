package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"bield/internal/api"
	"bield/internal/hypervisor"
	"bield/internal/reconcile"
	"bield/internal/state"
)

// newServer serves an engine that has nothing, on a socket that all may use.
func newServer(t *testing.T, change func(*Server)) (*Server, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "bield-api-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := New(newEngine(t), "test", slog.New(slog.DiscardHandler), func() {})
	if change != nil {
		change(s)
	}
	socket := filepath.Join(dir, "s")
	listener, err := net.Listen("unix", socket)
	if err == nil {
		err = os.Chmod(socket, 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(listener) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = s.Shutdown(ctx)
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return s, socket
}

func newEngine(t testing.TB) *reconcile.Engine {
	t.Helper()
	dir := t.TempDir()
	engine, err := reconcile.New(context.Background(), reconcile.Options{
		Run: state.Run{Dir: filepath.Join(dir, "run")}, Cache: state.Cache{Dir: filepath.Join(dir, "cache")},
		Log: slog.New(slog.DiscardHandler), Cores: 1, Version: "test",
		Hypervisors: hypervisor.Host{KVM: func() (bool, string) { return false, "a test's" }},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(engine.Close)
	return engine
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("BIELD_TEST_REQUIRE") == "1" {
		t.Fatal("needs root")
	}
	t.Skip("needs root")
}

func TestGate(t *testing.T) {
	g := newGate("calls", 2, 3)
	for _, step := range []struct {
		uid uint32
		ok  bool
	}{{1, true}, {1, true}, {1, false}, {2, true}, {3, false}, {0, true}, {0, true}, {0, true}, {0, true}} {
		if err := g.enter(step.uid); (err == nil) != step.ok || err != nil && !errors.Is(err, errTooMany) {
			t.Errorf("%+v: %v", step, err)
		}
	}
	g.leave(1)
	if err := g.enter(3); err != nil {
		t.Errorf("a place was given back: %v", err)
	}
	for range 4 {
		g.leave(0)
	}
	g.leave(1)
	g.leave(2)
	g.leave(3)
	if len(g.by) != 0 || g.others != 0 {
		t.Errorf("%+v", g)
	}
	for range rootShare {
		if err := g.enter(0); err != nil {
			t.Fatal(err)
		}
	}
	if g.enter(0) == nil {
		t.Error("root's share has no end")
	}
}

func dial(t *testing.T, socket, send string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	// One that is turned away need not be read to its end.
	if _, err := io.WriteString(conn, send); err != nil && !errors.Is(err, syscall.EPIPE) {
		t.Fatal(err)
	}
	return conn
}

// ended reads an answer to the connection's end, and returns its status.
func ended(t *testing.T, conn net.Conn) int {
	t.Helper()
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body)
	if _, err := reader.ReadByte(); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection goes on: %v", err)
	}
	return response.StatusCode
}

// TestSlowBodies: a body that does not come, or comes where none belongs, ends
// the connection, answered.
func TestSlowBodies(t *testing.T) {
	_, socket := newServer(t, func(s *Server) { s.readTimeout = 200 * time.Millisecond })
	for _, tt := range []struct {
		request string
		status  int
	}{
		{"POST /v1/down HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", 400},
		{"POST /v1/down HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"na", 400},
		{"GET /v1/vms HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n", 400},
		{"GET /v1/events?follow=1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
		{"POST /v1/vms/one/wait HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n", 400},
		{"POST /v1/down HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n" + `{"names":["` + strings.Repeat("x", api.MaxRequestBytes), 400},
		{"POST /v1/down HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n" + `{"nonsense":1}      `, 400},
	} {
		began := time.Now()
		if got := ended(t, dial(t, socket, tt.request)); got != tt.status {
			t.Errorf("%.60q: %d", tt.request, got)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%.60q: after %s", tt.request, took)
		}
	}
}

// TestManyHeaders: those are bounded in size.
func TestManyHeaders(t *testing.T) {
	_, socket := newServer(t, nil)
	conn := dial(t, socket, "GET /v1/version HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", 64<<10)+"\r\n\r\n")
	if got := ended(t, conn); got != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("%d", got)
	}
}

// TestSlowReader: a client that asks and does not read ends the handler.
func TestSlowReader(t *testing.T) {
	over := make(chan error, 1)
	_, socket := newServer(t, func(s *Server) {
		s.answerTimeout = 200 * time.Millisecond
		s.http.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			timed := newTimedWriter(w, s.answerTimeout)
			for {
				if _, err := timed.Write(make([]byte, 64<<10)); err != nil {
					over <- err
					return
				}
			}
		})
	})
	dial(t, socket, "GET /v1/version HTTP/1.1\r\nHost: x\r\n\r\n")
	select {
	case err := <-over:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("ended by %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the handler waits for the client")
	}
}

// TestOwnDeadline: what a handler sets counts until it is given back.
func TestOwnDeadline(t *testing.T) {
	w := newTimedWriter(nil, time.Minute)
	w.control = http.NewResponseController(&recorder{})
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now())
	if !w.own {
		t.Error("its own deadline is not kept")
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
	if w.own {
		t.Error("the deadline is not given back")
	}
}

type recorder struct{ http.ResponseWriter }

func (recorder) SetWriteDeadline(time.Time) error { return nil }

// TestTooManyCalls: one user's calls that go on leave room for root's.
func TestTooManyCalls(t *testing.T) {
	s, socket := newServer(t, nil)
	for range worksEach {
		if err := s.gates[work].enter(1); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.gates[work].enter(1); statusOf(err) != http.StatusTooManyRequests {
		t.Errorf("%v", err)
	}
	s.gates[work].others = worksAll
	if got := ended(t, dial(t, socket, "POST /v1/down HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")); os.Geteuid() == 0 && got == http.StatusTooManyRequests {
		t.Errorf("root is refused: %d", got)
	}
}

// childEnv has a child process do something as another user.
const childEnv = "BIELD_TEST_API"

func TestMain(m *testing.M) {
	switch os.Getenv(childEnv) {
	case "flood":
		flood(os.Getenv("SOCKET"))
	case "who":
		who(os.Getenv("SOCKET"))
	default:
		os.Exit(m.Run())
	}
}

// flood opens 10,000 connections and keeps those that are kept.
func flood(socket string) {
	const all = 10_000
	var kept []net.Conn
	refused := 0
	for range all {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			refused++
			continue
		}
		kept = append(kept, conn)
	}
	// The last of them may still wait to be taken, and then be refused.
	open := all
	for end := time.Now().Add(5 * time.Second); open > connsEach && time.Now().Before(end); {
		open = 0
		for _, conn := range kept {
			_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond))
			if _, err := conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
				open++
			}
		}
	}
	fmt.Println(all, refused, open)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func who(socket string) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n")
	_, _ = io.Copy(os.Stdout, conn)
}

func child(t *testing.T, what, socket string, uid uint32) *exec.Cmd {
	t.Helper()
	self := filepath.Join(filepath.Dir(socket), "test")
	data, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(self, data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childEnv+"="+what, "SOCKET="+socket)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid + 1}, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// TestFlood: 10,000 connections of one user don't lock out root.
func TestFlood(t *testing.T) {
	needRoot(t)
	s, socket := newServer(t, nil)
	cmd := child(t, "flood", socket, 12345)
	end, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make(chan string, 1)
	go func() {
		text, _ := bufio.NewReader(out).ReadString('\n')
		line <- text
	}()
	asks := func() {
		t.Helper()
		if got := ended(t, dial(t, socket, "GET /v1/version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")); got != 200 {
			t.Errorf("root gets %d", got)
		}
	}
	var all, refused, open int
	for done := false; !done; {
		asks()
		select {
		case text := <-line:
			if _, err := fmt.Sscan(text, &all, &refused, &open); err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			done = true
		default:
		}
	}
	asks()
	if all != 10_000 || open == 0 || open > connsEach {
		t.Errorf("of %d connections %d were refused and %d are open, want %d at most", all, refused, open, connsEach)
	}
	end.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		s.conns.mu.Lock()
		left := s.conns.others
		s.conns.mu.Unlock()
		if left == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d places are not given back", left)
		}
		asks()
	}
}

// TestPeer: the kernel says who calls, and not the client.
func TestPeer(t *testing.T) {
	needRoot(t)
	_, socket := newServer(t, func(s *Server) {
		s.http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			caller, err := callerOf(r.Context())
			fmt.Fprintln(w, "caller", caller.UID, caller.GID, err)
		})
	})
	for _, uid := range []uint32{0, 12345} {
		out, err := child(t, "who", socket, uid).Output()
		if want := "caller " + strconv.Itoa(int(uid)) + " " + strconv.Itoa(int(uid+1)) + " <nil>"; err != nil || !strings.Contains(string(out), want) {
			t.Errorf("uid %d: %v: %s", uid, err, out)
		}
	}
}
