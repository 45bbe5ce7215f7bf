package fakes

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// startSSHD listens where the test's network brings SSH connections for the
// guest's address.
func (v *guest) startSSHD() error {
	if v.plan.SSH == SSHRefuses {
		return nil
	}
	config, err := v.sshConfig()
	if err != nil {
		return err
	}
	address, _, _ := strings.Cut(v.config.Network.Address, "/")
	path := filepath.Join(v.netDir, address+".sock")
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("bind to port 22: %w", err)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go v.serveSSH(conn, config)
		}
	}()
	return nil
}

func (v *guest) sshConfig() (*ssh.ServerConfig, error) {
	pem, err := v.file("read", v.config.HostKey, nil)
	if err != nil {
		return nil, err
	}
	hostKey, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return nil, fmt.Errorf("host key %s: %w", v.config.HostKey, err)
	}
	if v.plan.SSH == SSHOtherKey {
		_, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			return nil, err
		}
		if hostKey, err = ssh.NewSignerFromKey(private); err != nil {
			return nil, err
		}
	}
	config := &ssh.ServerConfig{PublicKeyCallback: v.admit}
	config.AddHostKey(hostKey)
	return config, nil
}

// admit is authorized_keys.
func (v *guest) admit(c ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if c.User() == v.config.User.Name && v.plan.SSH != SSHDenies {
		for _, line := range v.keys {
			known, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
			if err == nil && string(known.Marshal()) == string(key.Marshal()) {
				return nil, nil
			}
		}
	}
	return nil, fmt.Errorf("user %s may not log in with this key", c.User())
}

func (v *guest) serveSSH(conn net.Conn, config *ssh.ServerConfig) {
	defer func() { _ = conn.Close() }()
	user, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for c := range channels {
		if c.ChannelType() != "session" {
			_ = c.Reject(ssh.UnknownChannelType, "sessions only")
			continue
		}
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		go v.session(user, channel, requests)
	}
}

// goodbye is how long a guest that is about to end waits for its user to hang
// up, so that they see their exit code.
const goodbye = time.Second

// session runs the one command of a session.
func (v *guest) session(user *ssh.ServerConn, channel ssh.Channel, requests <-chan *ssh.Request) {
	for r := range requests {
		ran := r.Type == "exec" || r.Type == "shell"
		_ = r.Reply(ran || r.Type == "pty-req" || r.Type == "env", nil)
		if !ran {
			continue
		}
		var command struct{ Line string }
		if r.Type == "exec" && ssh.Unmarshal(r.Payload, &command) != nil {
			return
		}
		code, then := v.command(command.Line, channel)
		_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{uint32(code)}))
		_ = channel.Close()
		if then != nil {
			late := time.AfterFunc(goodbye, func() { _ = user.Close() })
			_ = user.Wait()
			late.Stop()
			then()
		}
		return
	}
}

// command runs a line of the user's: what touches the guest itself is played,
// all else goes to a real shell. An empty line is a login shell. then is what
// follows once the user has got the exit code, or nil.
func (v *guest) command(line string, channel ssh.Channel) (code int, then func()) {
	words := append(strings.Fields(strings.ReplaceAll(line, "'", "")), "", "")
	switch {
	case v.plan.SSH == SSHNoShell:
		fmt.Fprintln(channel.Stderr(), "no shell")
		return 1, nil
	case line == "":
		fmt.Fprintf(channel, "%s@%s\r\n", v.config.User.Name, v.name)
		return 0, nil
	case words[0] == "poweroff":
		return 0, func() { v.powerOff("the user asked for it") }
	case words[0] == "panic":
		code, _ := strconv.Atoi(words[1])
		if code == 0 {
			code = Reset
		}
		return 0, func() {
			v.print("Kernel panic - not syncing: as asked")
			v.end(code)
		}
	case words[0] == "flood":
		return v.flood(words[1]), nil
	case words[0] == "cat" && strings.HasPrefix(words[1], "/"):
		data, err := v.file("read", words[1], nil)
		return output(channel, data, err), nil
	case words[0] == "put":
		_, err := v.file("write", words[1], []byte(strings.TrimSpace(strings.Join(words[2:], " "))+"\n"))
		return output(channel, nil, err), nil
	}
	return shell(line, channel), nil
}

// flood fills the console with numbered lines of 1 KiB.
func (v *guest) flood(lines string) int {
	n, err := strconv.Atoi(lines)
	if err != nil {
		return 1
	}
	for i := range n {
		v.print(fmt.Sprintf("line %d %s", i+1, strings.Repeat("x", 1000)))
	}
	return 0
}

func output(channel ssh.Channel, data []byte, err error) int {
	if err != nil {
		fmt.Fprintln(channel.Stderr(), err)
		return 1
	}
	_, _ = channel.Write(data)
	return 0
}

func shell(line string, channel ssh.Channel) int {
	cmd := exec.Command("/bin/sh", "-c", line)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return output(channel, nil, err)
	}
	go func() {
		_, _ = io.Copy(in, channel)
		_ = in.Close()
	}()
	var failed *exec.ExitError
	if err := cmd.Wait(); errors.As(err, &failed) {
		return failed.ExitCode()
	}
	return 0
}
