package config

import (
	"fmt"
	"path"
	"path/filepath"
	"strings"
)

func (r *resolver) wantFile(at location, path string) {
	if path == "" {
		return
	}
	switch info, err := r.look(path); {
	case err != nil:
		r.add(at, "%v — check the path", err)
	case info.Dir:
		r.add(at, "%s is a folder — name a file", brief(path))
	}
}

// look asks the host once for each path.
func (r *resolver) look(path string) (PathInfo, error) {
	a, known := r.paths[path]
	if !known {
		a.info, a.err = r.env.Path(path)
		r.paths[path] = a
	}
	return a.info, a.err
}

// expand makes a path absolute and clean; "" is a reported fault.
func (r *resolver) expand(at location, path string, home func() (string, error)) string {
	switch {
	case path == "":
		r.add(at, "is empty — write an absolute path, or one that begins with ~/")
		return ""
	case path == "~" || strings.HasPrefix(path, "~/"):
		dir, err := home()
		if err != nil || !filepath.IsAbs(dir) {
			r.add(at, "~ is nobody's home here%s — write an absolute path", because(err))
			return ""
		}
		path = dir + path[1:]
	case path[0] == '~':
		r.add(at, "%s: the home of another user is not looked up — write an absolute path", quote(path))
		return ""
	case path[0] != '/':
		r.add(at, "%s is relative — write an absolute path, or one that begins with ~/", quote(path))
		return ""
	}
	return filepath.Clean(path)
}

func because(err error) string {
	if err == nil {
		return ""
	}
	return fmt.Sprintf(" (%v)", err)
}

// real resolves the part of a path that exists, and says by which links.
func (r *resolver) real(p string) (string, []string) {
	for head, tail := p, ""; filepath.IsAbs(head); head, tail = path.Dir(head), path.Join(path.Base(head), tail) {
		if info, err := r.look(head); err == nil {
			return path.Join(info.Real, tail), info.Links
		}
		if head == "/" {
			break
		}
	}
	return p, nil
}

// within reports whether the clean path p is dir or lies below it.
func within(p, dir string) bool {
	return p == dir || dir == "/" || strings.HasPrefix(p, dir+"/")
}
