package client

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bield/internal/api"
)

// serve answers on a socket as a daemon would.
func serve(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	dir, err := os.MkdirTemp("", "c") // short, for the socket's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	c := New(path)
	t.Cleanup(c.Close)
	return c
}

func TestNoDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if _, err := New(path).Version(t.Context()); !errors.Is(err, ErrNoDaemon) {
		t.Errorf("no socket: %v", err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = listener.Close()
	if _, err := New(path).Version(t.Context()); !errors.Is(err, ErrNoDaemon) {
		t.Errorf("a stale socket: %v", err)
	}
	dying := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_ = conn.Close()
		}
	})
	if _, err := dying.Version(t.Context()); !errors.Is(err, ErrNoDaemon) {
		t.Errorf("a daemon that is just ending: %v", err)
	}
}

func TestRefusal(t *testing.T) {
	for body, want := range map[string]string{
		`{"message":"VM x is down"}`: "VM x is down",
		`<html>`:                     "bieldd answered 409 Conflict",
	} {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusConflict)
			_, _ = io.WriteString(w, body)
		})
		if _, err := c.Access(t.Context(), "x"); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestStream(t *testing.T) {
	long := strings.Repeat("y", 200<<10)
	for name, c := range map[string]struct{ body, want string }{
		"good":      {`{"vm":"a","step":"tap","state":"done"}` + "\n" + `{"done":true}`, ""},
		"failed":    {`{"done":true,"error":{"message":"no room"}}`, "no room"},
		"long":      {`{"done":true,"error":{"message":"` + long + `"}}`, long},
		"cut off":   {`{"vm":"a","step":"tap","state":"start"}` + "\n", "bieldd ended in the middle of its answer"},
		"no JSON":   {"hello", "bieldd ended in the middle of its answer"},
		"cut short": {`{"vm":"a",`, "bieldd ended in the middle of its answer"},
	} {
		t.Run(name, func(t *testing.T) {
			client := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, c.body) })
			err := client.Up(t.Context(), api.UpRequest{}, func(api.Event) {})
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)) {
				t.Errorf("got %.200v", err)
			}
		})
	}
}

func TestStreamEndsWithItsContext(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	if err := c.Up(ctx, api.UpRequest{}, func(api.Event) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestNamesAreEscaped(t *testing.T) {
	var asked string
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) { asked = r.URL.EscapedPath() })
	_ = c.RemoveImage(t.Context(), "../vms")
	if asked != "/v1/images/..%2Fvms" {
		t.Errorf("asked for %s", asked)
	}
}
