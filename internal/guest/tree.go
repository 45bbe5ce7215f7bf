package guest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// tree is the directory that a guest's absolute paths are under: "/" in a
// guest, a folder in a test.
type tree string

func (t tree) at(path string) string { return filepath.Join(string(t), path) }

// owner is who a new file belongs to.
type owner struct{ uid, gid uint32 }

// write puts a whole file into place, also over a symbolic link, whose target
// it leaves alone. Missing parents are made.
func (t tree) write(path, content string, mode fs.FileMode, o owner) error {
	full := t.at(path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(full), ".bield-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone already when all went well
	_, err = f.WriteString(content)
	err = firstError(err, f.Chown(int(o.uid), int(o.gid)), f.Chmod(mode), f.Close())
	if err = firstError(err, os.Rename(f.Name(), full)); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// read returns a file's content, or "" if there is none.
func (t tree) read(path string) (string, error) {
	b, err := os.ReadFile(t.at(path))
	if err != nil && !os.IsNotExist(err) {
		return "", err
	}
	return string(b), nil
}

func (t tree) exists(path string) bool {
	_, err := os.Stat(t.at(path))
	return err == nil
}

// mkdirs makes path and what is missing above it. What it makes at or below
// home belongs to the user, the rest to root.
func (t tree) mkdirs(path, home string, user owner) error {
	if t.exists(path) || path == "/" {
		return nil
	}
	if err := t.mkdirs(filepath.Dir(path), home, user); err != nil {
		return err
	}
	if err := os.Mkdir(t.at(path), 0o755); err != nil {
		return fmt.Errorf("make directory %s: %w", path, err)
	}
	if !within(path, home) {
		return nil
	}
	if err := os.Chown(t.at(path), int(user.uid), int(user.gid)); err != nil {
		return fmt.Errorf("make directory %s: %w", path, err)
	}
	return nil
}

func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
