package registries

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	askTimeout = 10 * time.Second
	maxAnswer  = 1 << 20
)

// errNotInstalled says that a client is not there to be asked.
var errNotInstalled = errors.New("is not installed on this host, and nothing of it is configured")

// question is a client to run.
type question struct {
	program string
	args    []string
	// extra variables, beside those whose names begin with one of own.
	extra, own []string
	dir        string // "/", unless named: no project's configuration
	// both takes what it prints on its standard error as well, and any exit
	// status.
	both bool
}

// ask runs a client as the user and returns what it prints.
func (s *search) ask(ctx context.Context, q question) ([]byte, error) {
	program, err := s.find(q.program)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, q.args...)
	cmd.Dir, cmd.Env = "/", s.environment(q)
	if q.dir != "" {
		cmd.Dir = q.dir
	}
	// A session of its own has no terminal to write to, and its group is ended whole.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if s.As != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: s.As.UID, Gid: s.As.GID}
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	out := &bounded{cancel: cancel}
	cmd.Stdout = out
	if q.both {
		cmd.Stderr = out
	}
	err = cmd.Run()
	switch {
	case out.over:
		return nil, fmt.Errorf("%s prints more than an answer", q.program)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, fmt.Errorf("%s does not answer within %s", q.program, askTimeout)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !(exited && q.both) {
		return nil, fmt.Errorf("ask %s: %w", q.program, err)
	}
	return out.text.Bytes(), nil
}

// bounded is what a program prints, up to maxAnswer bytes.
type bounded struct {
	text   bytes.Buffer // not embedded: its ReadFrom has no bound
	cancel context.CancelFunc
	over   bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.text.Len()+len(p) > maxAnswer {
		b.over = true
		b.cancel()
		return 0, errors.New("too long")
	}
	return b.text.Write(p)
}

// path is where clients are looked for. Users have them in their homes too,
// where sudo's PATH does not lead.
func (s *search) path() []string {
	dirs := filepath.SplitList(s.variable("PATH", false))
	dirs = append(dirs, "/usr/local/bin", "/usr/bin", "/bin", "/usr/local/go/bin")
	if s.Home != "" {
		dirs = append(dirs, s.under(".cargo/bin"), s.under(".local/bin"), s.under("go/bin"))
	}
	return slices.DeleteFunc(dirs, func(d string) bool { return !filepath.IsAbs(d) })
}

func (s *search) find(program string) (string, error) {
	for _, dir := range s.path() {
		file := filepath.Join(dir, program)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", fmt.Errorf("%s %w", program, errNotInstalled)
}

// environment is what a client needs, and none of what could make it run or
// load something else.
func (s *search) environment(q question) []string {
	env := []string{"PATH=" + strings.Join(s.path(), ":"), "LC_ALL=C.UTF-8", "HOME=" + s.Home}
	for _, line := range s.Environ {
		name, _, _ := strings.Cut(line, "=")
		for _, own := range append(q.own, "XDG_CONFIG_") {
			if strings.HasPrefix(strings.ToUpper(name), own) {
				env = append(env, line)
				break
			}
		}
	}
	return append(env, q.extra...)
}
