package sshaccess

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/crypto/ssh"
)

// Target is a guest's SSH server and how bieldd logs in there.
type Target struct {
	Address    string // "192.168.83.2:22"
	User       string
	PrivateKey string // file
	HostKey    string // authorized_keys line: the only key accepted
}

// Dial makes an SSH connection: the handshake with the pinned host key and the
// login as the user. It ends with ctx.
func Dial(ctx context.Context, t Target) (*ssh.Client, error) {
	config, err := clientConfig(t)
	if err != nil {
		return nil, err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", t.Address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", t.Address, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	c, channels, requests, err := ssh.NewClientConn(conn, t.Address, config)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("ssh to %s: %w", t.Address, errors.Join(err, ctx.Err()))
	}
	return ssh.NewClient(c, channels, requests), nil
}

func clientConfig(t Target) (*ssh.ClientConfig, error) {
	data, err := os.ReadFile(t.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(data)
	if err != nil {
		return nil, fmt.Errorf("read key %s: %w", t.PrivateKey, err)
	}
	hostKey, _, _, _, err := ssh.ParseAuthorizedKey([]byte(t.HostKey))
	if err != nil {
		return nil, fmt.Errorf("read host key of %s: %w", t.Address, err)
	}
	return &ssh.ClientConfig{
		Config:            ssh.Config{KeyExchanges: []string{ssh.KeyExchangeCurve25519}},
		User:              t.User,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback:   ssh.FixedHostKey(hostKey),
		HostKeyAlgorithms: []string{hostKey.Type()},
	}, nil
}

// Ready proves a guest usable: it logs in and runs a command.
func Ready(ctx context.Context, t Target) error {
	client, err := Dial(ctx, t)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = client.Close() })
	defer stop()
	session, err := client.NewSession()
	if err != nil {
		return fmt.Errorf("open a session on %s: %w", t.Address, err)
	}
	defer func() { _ = session.Close() }()
	if err := session.Run("true"); err != nil {
		return fmt.Errorf("run a command on %s: %w", t.Address, errors.Join(err, ctx.Err()))
	}
	return nil
}
