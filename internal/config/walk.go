package config

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// maxLinks is what the kernel follows (path_resolution(7)).
const maxLinks = 40

// walk resolves an absolute path as the kernel does and shows visit each
// folder, link and file on the way, by its real path, beginning with /. It
// returns the real path and what lies there.
func walk(path string, visit func(path string, info fs.FileInfo) error) (string, fs.FileInfo, error) {
	if !filepath.IsAbs(path) {
		return "", nil, fmt.Errorf("%s is not absolute", path)
	}
	at, rest, links := "/", split(path), 0
	info, err := step(at, visit)
	for err == nil && len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		if !info.IsDir() {
			return "", nil, &fs.PathError{Op: "open", Path: filepath.Join(at, name), Err: syscall.ENOTDIR}
		}
		next := filepath.Join(at, name)
		if info, err = step(next, visit); err != nil {
			break
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return "", nil, &fs.PathError{Op: "open", Path: path, Err: syscall.ELOOP}
		}
		target, lerr := os.Readlink(next)
		if lerr != nil {
			return "", nil, lerr
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		rest = append(split(target), rest...)
		if info, err = os.Lstat(at); err != nil {
			break
		}
	}
	if err != nil {
		return "", nil, err
	}
	return at, info, nil
}

func step(path string, visit func(string, fs.FileInfo) error) (fs.FileInfo, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	return info, visit(path, info)
}

// split keeps "..": behind a link it is another folder than in the text.
func split(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}
