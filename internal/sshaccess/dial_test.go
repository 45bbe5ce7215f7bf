package sshaccess

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// guest is a small SSH server on loopback.
type guest struct {
	address string
	hostKey Key
	userKey Key
	exit    uint32
}

func newGuest(t *testing.T, exit uint32) *guest {
	t.Helper()
	uid, gid := ids()
	dir := t.TempDir()
	g := &guest{exit: exit}
	var err error
	if g.hostKey, err = EnsureKey(filepath.Join(dir, "host", "key"), "host", uid, gid); err != nil {
		t.Fatal(err)
	}
	if g.userKey, err = EnsureKey(filepath.Join(dir, "user", "key"), "user", uid, gid); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	g.address = listener.Addr().String()
	go g.serve(listener, g.config(t))
	return g
}

func (g *guest) config(t *testing.T) *ssh.ServerConfig {
	data, err := os.ReadFile(g.hostKey.Private)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(data)
	if err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if !strings.HasPrefix(g.userKey.Public, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))) {
			return nil, errors.New("unknown key")
		}
		return nil, nil
	}}
	config.AddHostKey(signer)
	return config
}

func (g *guest) serve(listener net.Listener, config *ssh.ServerConfig) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go g.session(conn, config)
	}
}

func (g *guest) session(conn net.Conn, config *ssh.ServerConfig) {
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for offer := range channels {
		channel, requests, err := offer.Accept()
		if err != nil {
			return
		}
		for request := range requests {
			_ = request.Reply(request.Type == "exec", nil)
			if request.Type == "exec" {
				_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{g.exit}))
				_ = channel.Close()
			}
		}
	}
}

func (g *guest) target() Target {
	return Target{Address: g.address, User: "dev", PrivateKey: g.userKey.Private, HostKey: g.hostKey.Public}
}

func TestReady(t *testing.T) {
	if err := Ready(t.Context(), newGuest(t, 0).target()); err != nil {
		t.Error(err)
	}
}

func TestReadyNeedsTheCommandToRun(t *testing.T) {
	if err := Ready(t.Context(), newGuest(t, 3).target()); err == nil {
		t.Error("a guest whose shell fails is not ready")
	}
}

func TestReadyPinsTheHostKey(t *testing.T) {
	target := newGuest(t, 0).target()
	target.HostKey = newGuest(t, 0).hostKey.Public
	if err := Ready(t.Context(), target); err == nil {
		t.Error("another host key was accepted")
	}
}

func TestReadyEndsWithItsContext(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	target := newGuest(t, 0).target()
	target.Address = listener.Addr().String()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := Ready(ctx, target); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
