package guest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"bield/internal/guestconfig"
	"bield/internal/guestlink"
)

const (
	runDir      = "/run/bield"
	sshdPIDFile = runDir + "/sshd.pid"
	sshdConfig  = "/etc/ssh/sshd_config"
	sshdBinary  = "/usr/sbin/sshd"
	// sshdSession is there since OpenSSH 9.8, which knows no -r: its listener
	// is a small program of its own.
	sshdSession = "/usr/lib/openssh/sshd-session"

	// sshdStart bounds the first start; a guest without KVM takes a second.
	sshdStart    = 60 * time.Second
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 10 * time.Second
	// steady is how long sshd must have run for the back-off to begin anew.
	steady = time.Minute
)

// checkHostKey: sshd without its key would exit with less to say.
func checkHostKey(t tree, path string) error {
	st, err := os.Stat(t.at(path))
	switch {
	case os.IsNotExist(err):
		return fmt.Errorf("host key %s is missing: the share at %s does not hold it; `bield up` makes it in the state folder",
			path, filepath.Dir(path))
	case err != nil:
		return fmt.Errorf("host key: %w", err)
	case !st.Mode().IsRegular() || st.Size() == 0:
		return fmt.Errorf("host key %s is empty or no file: remove it on the host, and `bield up` makes a new one", path)
	}
	f, err := os.Open(t.at(path))
	if err != nil {
		return fmt.Errorf("host key: %w", err)
	}
	return f.Close()
}

// prepareSSHD writes sshd's configuration and what it needs to start.
func prepareSSHD(t tree, cfg guestconfig.Config) error {
	if !t.exists(sshdBinary) {
		return fmt.Errorf("the image has no %s: add openssh-server to it", sshdBinary)
	}
	for _, d := range []string{"/run/sshd", runDir} { // privilege separation, pid file
		if err := os.MkdirAll(t.at(d), 0o755); err != nil {
			return fmt.Errorf("prepare sshd: %w", err)
		}
	}
	return t.write(sshdConfig, sshdConfigText(cfg), 0o644, owner{})
}

// sshdConfigText is sshd_config(5). Curve25519 without a hybrid halves the
// handshake where there is no KVM; the wire is the host's own bridge.
func sshdConfigText(cfg guestconfig.Config) string {
	return `# Written by bield at every boot.
HostKey ` + cfg.HostKey + `
PidFile ` + sshdPIDFile + `
AllowUsers ` + cfg.User.Name + `
AuthenticationMethods publickey
AuthorizedKeysFile ` + authorizedDir + `/%u
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
HostbasedAuthentication no
PermitRootLogin no
PermitEmptyPasswords no
UsePAM no
UseDNS no
KexAlgorithms curve25519-sha256,curve25519-sha256@libssh.org,ecdh-sha2-nistp256
AcceptEnv LANG LC_* COLORTERM
SetEnv "PATH=` + shellPath(cfg.User) + `"
LoginGraceTime 30
MaxStartups 64:30:128
MaxSessions 128
PrintMotd no
PrintLastLog no
X11Forwarding no
Subsystem sftp internal-sftp
`
}

// sshdCommand is sshd in the foreground; -r spares older ones a second exec
// for each connection.
func sshdCommand(t tree) []string {
	argv := []string{sshdBinary, "-D", "-e", "-f", sshdConfig}
	if !t.exists(sshdSession) {
		argv = append(argv, "-r")
	}
	return argv
}

// sshd keeps the guest's sshd running.
type sshd struct {
	reaper  *reaper
	journal *journal
	console *console
	argv    []string
	env     []string
}

// start starts sshd and returns when it listens.
func (s *sshd) start(ctx context.Context) (*child, error) {
	ctx, cancel := context.WithTimeout(ctx, sshdStart)
	defer cancel()
	listening, err := watchPIDFile(ctx, sshdPIDFile)
	if err != nil {
		return nil, err
	}
	output, lastLine, err := s.openOutput()
	if err != nil {
		return nil, err
	}
	c, err := s.reaper.start(s.argv, s.env, output)
	_ = output.Close()
	if err != nil {
		return nil, err
	}
	select {
	case err := <-listening:
		if err != nil {
			_ = unix.Kill(c.pid, unix.SIGKILL)
			return nil, fmt.Errorf("sshd does not listen: %w", err)
		}
		return c, nil
	case status := <-c.exited:
		return nil, fmt.Errorf("sshd ended at its start: %s: %s", exitText(status), <-lastLine)
	}
}

// keep restarts sshd whenever it ends, until ctx is done.
func (s *sshd) keep(ctx context.Context, c *child) {
	backoff := firstBackoff
	for {
		since := time.Now()
		if c != nil {
			select {
			case status := <-c.exited:
				if ctx.Err() != nil {
					return // it was told to end
				}
				s.journal.record(guestlink.StageSSHD, guestlink.StateFailed, "sshd ended: "+exitText(status)+"; starting it again")
			case <-ctx.Done():
				return
			}
		}
		if time.Since(since) > steady {
			backoff = firstBackoff
		}
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
			return
		}
		backoff = min(2*backoff, lastBackoff)
		c = s.restart(ctx)
	}
}

func (s *sshd) restart(ctx context.Context) *child {
	c, err := s.start(ctx)
	if ctx.Err() != nil {
		return c
	}
	if err != nil {
		s.console.printf("%v", err)
		s.journal.record(guestlink.StageSSHD, guestlink.StateFailed, err.Error())
		return nil
	}
	s.journal.record(guestlink.StageSSHD, guestlink.StateDone, "started again")
	return c
}

// openOutput returns what sshd writes its log to. Its lines go to the console;
// lastLine delivers the last one when the writers are gone.
func (s *sshd) openOutput() (output *os.File, lastLine <-chan string, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("sshd's log: %w", err)
	}
	last := make(chan string, 1)
	go func() {
		defer r.Close()
		last <- s.copyLines(r)
	}()
	return w, last, nil
}

// copyLines bounds lines: who connects has a say in them.
func (s *sshd) copyLines(r io.Reader) (last string) {
	br := bufio.NewReaderSize(r, 1024)
	for {
		line, err := br.ReadSlice('\n')
		if text := guestlink.CleanText(string(line), 512); text != "" {
			last = text
			s.console.printf("sshd: %s", text)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return last
		}
	}
}

// watchPIDFile removes the file and delivers nil when it is written anew:
// sshd writes it once it listens (sshd.c, behind server_listen).
func watchPIDFile(ctx context.Context, path string) (<-chan error, error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("sshd's pid file: %w", err)
	}
	f, err := watchFolder(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	written := make(chan error, 1)
	go func() { written <- awaitFile(ctx, f, path) }()
	return written, nil
}

// awaitPIDFile returns when the file is whole, which it may be already.
func awaitPIDFile(ctx context.Context, path string) error {
	f, err := watchFolder(filepath.Dir(path))
	if err != nil {
		return err
	}
	return awaitFile(ctx, f, path)
}

func watchFolder(dir string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	return f, nil
}

// awaitFile looks now and after every event in its folder whether the file
// holds a whole line, and closes events.
func awaitFile(ctx context.Context, events *os.File, path string) error {
	defer events.Close()
	defer context.AfterFunc(ctx, func() { _ = events.Close() })()
	var buf [4096]byte
	for {
		if b, err := os.ReadFile(path); err == nil && strings.HasSuffix(string(b), "\n") {
			return nil
		}
		if _, err := events.Read(buf[:]); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("watch %s: %w", path, err)
		}
	}
}
