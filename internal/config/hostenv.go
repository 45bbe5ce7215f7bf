package config

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"bield/internal/spec"
)

// ErrNoUser says that the host knows no such user.
var ErrNoUser = errors.New("no such user on this host")

const (
	lookupTimeout = 5 * time.Second
	maxKeyFile    = 64 << 10
	maxKeyFiles   = 64
)

// HostEnv asks this machine, now and when the Env is asked, until ctx ends.
// SUDO_UID counts only for root, as anyone can set it.
func HostEnv(ctx context.Context) (Env, error) {
	uid := os.Getuid()
	env := Env{
		Caller:     Account{Name: strconv.Itoa(uid), ID: spec.ID{UID: uint32(uid), GID: uint32(os.Getgid())}},
		MemoryMiB:  hostMemory(),
		ByName:     func(name string) (Account, error) { return userByName(ctx, name) },
		ByUID:      func(uid uint32) (Account, error) { return userByUID(ctx, uid) },
		PublicKeys: publicKeys,
		Path:       hostPath,
	}
	switch a, err := userByUID(ctx, uint32(uid)); {
	case err == nil:
		env.Caller = a
	case !errors.Is(err, ErrNoUser):
		return Env{}, err
	}
	sudo, err := sudoCaller(ctx, uid)
	if err != nil {
		return Env{}, err
	}
	env.Sudo = sudo
	// Under sudo HOME may be either user's.
	if home := os.Getenv("HOME"); sudo == nil && filepath.IsAbs(home) {
		env.Caller.Home = filepath.Clean(home)
	}
	return env, nil
}

func sudoCaller(ctx context.Context, uid int) (*Account, error) {
	text := os.Getenv("SUDO_UID")
	if uid != 0 || text == "" {
		return nil, nil
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("SUDO_UID is %q, no user number — unset it, or run bield by sudo", text)
	}
	if n == 0 {
		return nil, nil
	}
	a, err := userByUID(ctx, uint32(n))
	if err != nil {
		return nil, fmt.Errorf("look up who called sudo: %w", err)
	}
	return &a, nil
}

// hostMemory is MemTotal of proc_meminfo(5), or 0.
func hostMemory() int {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemTotal:" {
			kib, err := strconv.Atoi(f[1])
			if err != nil {
				return 0
			}
			return kib / 1024
		}
	}
	return 0
}

func userByName(ctx context.Context, name string) (Account, error) {
	u, err := user.Lookup(name)
	if err == nil {
		return accountOf(u)
	}
	return getent(ctx, name)
}

func userByUID(ctx context.Context, uid uint32) (Account, error) {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err == nil {
		return accountOf(u)
	}
	return getent(ctx, strconv.FormatUint(uint64(uid), 10))
}

func accountOf(u *user.User) (Account, error) {
	return newAccount(u.Username, u.Uid, u.Gid, u.HomeDir)
}

func newAccount(name, uid, gid, home string) (Account, error) {
	u, err := strconv.ParseUint(uid, 10, 32)
	if err != nil {
		return Account{}, fmt.Errorf("read the uid of %q: %w", name, err)
	}
	g, err := strconv.ParseUint(gid, 10, 32)
	if err != nil {
		return Account{}, fmt.Errorf("read the gid of %q: %w", name, err)
	}
	return Account{Name: name, ID: spec.ID{UID: uint32(u), GID: uint32(g)}, Home: home}, nil
}

// getent finds users that are not in /etc/passwd (LDAP, systemd-homed): a
// static program has no NSS of its own.
func getent(ctx context.Context, key string) (Account, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "getent", "passwd", "--", key).Output()
	if err != nil {
		// Exit status 2 is "not found" (getent(1)); no getent, no NSS.
		if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 2 || errors.Is(err, exec.ErrNotFound) {
			return Account{}, fmt.Errorf("user %s: %w", brief(key), ErrNoUser)
		}
		return Account{}, fmt.Errorf("look up user %s by getent: %w", brief(key), err)
	}
	f := strings.Split(strings.TrimSpace(string(out)), ":")
	if len(f) < 7 {
		return Account{}, fmt.Errorf("look up user %s by getent: unexpected answer %q", brief(key), out)
	}
	return newAccount(f[0], f[2], f[3], f[5])
}

// hostPath resolves symbolic links itself to know each of them.
func hostPath(path string) (PathInfo, error) {
	var links []string
	target, info, err := walk(path, func(p string, info fs.FileInfo) error {
		if info.Mode()&fs.ModeSymlink != 0 {
			links = append(links, p)
		}
		return nil
	})
	if err != nil {
		return PathInfo{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return PathInfo{}, fmt.Errorf("stat %s: no owner", path)
	}
	return PathInfo{ID: spec.ID{UID: st.Uid, GID: st.Gid}, Dir: info.IsDir(), Real: target, Links: links}, nil
}

func publicKeys(home string) ([]string, error) {
	dir := filepath.Join(home, ".ssh")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || home == "" {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var keys []string
	files := 0
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".pub") || strings.HasSuffix(e.Name(), "-cert.pub") {
			continue
		}
		if files++; files > maxKeyFiles {
			return nil, fmt.Errorf("%s has over %d .pub files", dir, maxKeyFiles)
		}
		lines, err := keyLines(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		keys = append(keys, lines...)
	}
	slices.Sort(keys)
	return slices.Compact(keys), nil
}

// keyLines skips what is no key: the file may be a link to anything.
func keyLines(path string) ([]string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, err
	}
	var keys []string
	for line := range bytes.Lines(data) {
		if key := strings.TrimSpace(string(line)); key != "" && spec.KeyProblem(key) == "" {
			keys = append(keys, key)
		}
	}
	return keys, nil
}
