package notify_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bield/internal/notify"
)

// manager listens as systemd does and returns what comes next.
func manager(t *testing.T, address string) func() string {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", address)
	return func() string {
		t.Helper()
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		buffer := make([]byte, 4096)
		n, err := conn.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		return string(buffer[:n])
	}
}

func TestNotify(t *testing.T) {
	for name, address := range map[string]string{
		"path":     filepath.Join(t.TempDir(), "notify"),
		"abstract": "@bield-notify-" + filepath.Base(t.TempDir()) + "-" + time.Now().Format("150405.000000"),
	} {
		t.Run(name, func(t *testing.T) {
			next := manager(t, address)
			m, err := notify.FromEnv()
			if err != nil || !m.Asked() {
				t.Fatal(m, err)
			}
			if value, set := os.LookupEnv("NOTIFY_SOCKET"); set {
				t.Errorf("programs started later would speak for this one: %q", value)
			}
			for want, tell := range map[string]func() error{
				"READY=1\nSTATUS=serves\n": func() error { return m.Ready("serves") },
				"READY=1\n":                func() error { return m.Ready("") },
				"STATUS=a READY=1 b\n":     func() error { return m.Status("a\nREADY=1\rb") },
				"STOPPING=1\n":             m.Stopping,
			} {
				if err := tell(); err != nil {
					t.Fatal(err)
				}
				if got := next(); got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			}
		})
	}
}

func TestNobodyAsked(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	m, err := notify.FromEnv()
	if err != nil || m.Asked() {
		t.Fatal(m, err)
	}
	if err := m.Ready("nobody hears this"); err != nil {
		t.Error(err)
	}
}

func TestUnusableSockets(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "relative/path")
	if _, err := notify.FromEnv(); err == nil || !strings.Contains(err.Error(), "absolute") {
		t.Errorf("a relative path: %v", err)
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "nobody"))
	m, err := notify.FromEnv()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Ready(""); err == nil || !strings.Contains(err.Error(), "service manager") {
		t.Errorf("a socket that nobody listens on: %v", err)
	}
}
