package apt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Fetch downloads the .deb files of the named packages from sources into the
// existing folder dir and returns their paths in the order of the names. Every
// source needs a keyring: apt checks the archive's signature and the files'
// hashes. The host's sources, lists, cache, preferences and hooks stay out of
// it; of its configuration only the way to reach an archive is used.
//
// A package that the sources do not have, and a source that can't be reached,
// are errors of one line that name it.
func Fetch(ctx context.Context, sources []Source, packages []string, dir string) ([]string, error) {
	for _, s := range sources {
		if s.Keyring == "" {
			return nil, fmt.Errorf("fetch packages: source %s has no keyring", s.Public().URI)
		}
	}
	work, err := os.MkdirTemp(dir, ".apt-")
	if err != nil {
		return nil, fmt.Errorf("fetch packages: %w", err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	client := client{dir: work}
	if err := client.configure(ctx, sources); err != nil {
		return nil, fmt.Errorf("fetch packages: %w", err)
	}
	if err := client.run(ctx, "update", "--error-on=any"); err != nil {
		return nil, fmt.Errorf("read the package lists: %w", err)
	}
	if err := client.run(ctx, append([]string{"download"}, packages...)...); err != nil {
		return nil, fmt.Errorf("download %s: %w", strings.Join(packages, ", "), err)
	}
	return client.collect(packages, dir)
}

// client is apt-get with a private folder for all that it reads and writes.
type client struct{ dir string }

func (c client) path(name string) string { return filepath.Join(c.dir, name) }

func (c client) configure(ctx context.Context, sources []Source) error {
	// apt's unprivileged user must pass through.
	if err := os.Chmod(c.dir, 0o755); err != nil {
		return err
	}
	for _, d := range []string{"state/lists/partial", "cache/archives/partial", "log", "debs"} {
		if err := os.MkdirAll(c.path(d), 0o755); err != nil {
			return err
		}
	}
	if err := c.unprivileged(); err != nil {
		return err
	}
	transport, err := Transport(ctx)
	if err != nil {
		return err
	}
	files := map[string]string{
		"status":       "",
		"sources.list": Lines(sources),
		"apt.conf":     c.config(transport),
	}
	for name, text := range files {
		if err := os.WriteFile(c.path(name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// unprivileged gives the download folder to apt's own user, where there is
// one: apt would fetch as root into a folder that _apt can't write.
func (c client) unprivileged() error {
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup("_apt")
	if _, unknown := errors.AsType[user.UnknownUserError](err); unknown {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look up apt's user: %w", err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return fmt.Errorf("uid of _apt: %w", err)
	}
	return os.Chown(c.path("debs"), uid, -1)
}

// config is read before all other configuration, of which it switches off
// every file: the host's apt.conf.d may hold hooks that run at an update.
func (c client) config(transport []Setting) string {
	settings := []Setting{
		{"Dir::Etc::main", "/dev/null"},
		{"Dir::Etc::parts", "/dev/null"},
		{"Dir::Etc::sourcelist", c.path("sources.list")},
		{"Dir::Etc::sourceparts", "/dev/null"},
		{"Dir::Etc::preferences", "/dev/null"},
		{"Dir::Etc::preferencesparts", "/dev/null"},
		{"Dir::Etc::trusted", "/dev/null"},
		{"Dir::Etc::trustedparts", "/dev/null"},
		{"Dir::State", c.path("state")},
		{"Dir::State::status", c.path("status")},
		{"Dir::Cache", c.path("cache")},
		{"Dir::Log", c.path("log")},
		{"Acquire::Languages", "none"},
	}
	var b strings.Builder
	for _, s := range append(settings, transport...) {
		b.WriteString(s.String() + "\n")
	}
	return b.String()
}

func (c client) run(ctx context.Context, args ...string) error {
	var log bytes.Buffer
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q", "-y"}, args...)...)
	cmd.Dir = c.path("debs")
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.Env = Environment(os.Environ(), "APT_CONFIG="+c.path("apt.conf"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("apt-get is not installed: %w", err)
	}
	if reason := Explain(log.String()); reason != "" {
		return errors.New(reason)
	}
	return fmt.Errorf("apt-get %s: %w", args[0], err)
}

// Environment is what an apt client needs of environ, and extra: a path, plain
// messages and the proxies of the environment.
func Environment(environ []string, extra ...string) []string {
	env := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "HOME=/",
	}
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		switch strings.ToLower(name) {
		case "http_proxy", "https_proxy", "all_proxy", "no_proxy":
			env = append(env, kv)
		}
	}
	return append(env, extra...)
}

// collect moves the downloaded files to dir.
func (c client) collect(packages []string, dir string) ([]string, error) {
	var paths []string
	for _, name := range packages {
		found, err := filepath.Glob(c.path(filepath.Join("debs", name+"_*.deb")))
		if err != nil || len(found) != 1 {
			return nil, fmt.Errorf("download %s: expected one file, have %d", name, len(found))
		}
		target := filepath.Join(dir, filepath.Base(found[0]))
		if err := os.Rename(found[0], target); err != nil {
			return nil, fmt.Errorf("keep %s: %w", name, err)
		}
		if err := os.Chown(target, os.Geteuid(), os.Getegid()); err != nil {
			return nil, fmt.Errorf("keep %s: %w", name, err)
		}
		paths = append(paths, target)
	}
	return paths, nil
}
