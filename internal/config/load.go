package config

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"bield/internal/spec"
)

// Minimal is the smallest file that makes a VM.
const Minimal = `vms:
  my-vm:
    ip: 192.168.83.2
    workspace: ~/src/my-project
`

// SystemFile is where the host's own file lies.
const SystemFile = "/etc/bield/bield.yaml"

// ErrNoFile says that there is no file to read.
var ErrNoFile = errors.New("no bield.yaml")

// UserFile is where a user's own file lies.
func UserFile(home string) string { return filepath.Join(home, ".config", "bield", "bield.yaml") }

// Find returns explicit if it is set, else the first that exists of the
// person's own file and the host's. When there is none the error is ErrNoFile.
func Find(explicit string, env Env) (string, error) {
	if explicit != "" {
		_, err := os.Stat(explicit)
		if errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("%w at %s — check the path behind -c", ErrNoFile, printable(explicit))
		}
		return explicit, err
	}
	var places []string
	if home := env.person().Home; filepath.IsAbs(home) {
		places = append(places, UserFile(home))
	}
	places = append(places, SystemFile)
	return firstThere(places)
}

func firstThere(places []string) (string, error) {
	looked := ""
	for _, p := range places {
		_, err := os.Stat(p)
		switch {
		case err == nil:
			return p, nil
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR):
			return "", fmt.Errorf("look for the configuration: %w", err)
		}
		looked += "  " + p + "\n"
	}
	return "", fmt.Errorf("%w: looked for\n%sWrite one of them, or name a file with -c FILE. The smallest one:\n%s", ErrNoFile, looked, Minimal)
}

// Load reads the file at path and refuses one that a guest or a stranger could
// have written. The error is a *FileError, or ctx's.
func Load(ctx context.Context, path string, env Env) (spec.Host, error) {
	if err := ctx.Err(); err != nil {
		return spec.Host{}, err
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return spec.Host{}, refuse(path, "find its whole path: %v", err)
	}
	data, ways, err := readTrusted(path, abs, env)
	if err != nil {
		return spec.Host{}, err
	}
	if err := ctx.Err(); err != nil {
		return spec.Host{}, err
	}
	return parse(path, data, ways, env)
}

// readTrusted opens the file once, so that what is checked is what is read,
// and returns with it the real paths by which the file was found.
func readTrusted(name, abs string, env Env) ([]byte, []string, error) {
	// O_NONBLOCK: opening a FIFO would wait for a writer.
	f, err := os.OpenFile(abs, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, refuse(name, "%v — check the path, or who may read it", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, refuse(name, "%v", err)
	}
	if !info.Mode().IsRegular() {
		return nil, nil, refuse(name, "is no ordinary file — name a YAML file")
	}
	ways, err := trust(name, abs, info, env)
	if err != nil {
		return nil, nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, nil, refuse(name, "%v", err)
	}
	return data, ways, nil
}

// trust refuses a file that someone else may write, or replace in a folder on
// the way to it.
func trust(name, abs string, opened fs.FileInfo, env Env) ([]string, error) {
	var problems []Problem
	var ways []string
	_, found, err := walk(abs, func(p string, info fs.FileInfo) error {
		if m := untrusted(p, info, env); m != "" && !slices.Contains(problems, Problem{Message: m}) {
			problems = append(problems, Problem{Message: m})
		}
		if !info.IsDir() {
			ways = append(ways, p)
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, refuse(name, "%v — check the path, or who may read it", err)
	case len(problems) > 0:
		return nil, &FileError{File: name, Problems: problems}
	case !os.SameFile(found, opened):
		return nil, refuse(name, "was replaced while it was read — try again")
	}
	return ways, nil
}

func untrusted(path string, info fs.FileInfo, env Env) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return printable(path) + " has no owner — move the file"
	}
	if st.Uid != 0 && st.Uid != env.Caller.UID && (env.Sudo == nil || st.Uid != env.Sudo.UID) {
		return fmt.Sprintf("%s belongs to uid %d, who could change what bield does — chown it to %s, or move the file",
			printable(path), st.Uid, env.person().Name)
	}
	const others = 0o022
	mode := info.Mode()
	switch {
	case mode&fs.ModeSymlink != 0, mode.Perm()&others == 0, info.IsDir() && mode&fs.ModeSticky != 0:
		return ""
	}
	return fmt.Sprintf("%s may be written by others (mode %04o), who could change what bield does — chmod go-w %s",
		printable(path), mode.Perm(), printable(path))
}
