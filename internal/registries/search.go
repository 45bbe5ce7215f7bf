package registries

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"bield/internal/spec"
)

// maxFile bounds what is read of a configuration file, and maxHosts what all of
// a preset's files may name.
const (
	maxFile  = 1 << 20
	maxHosts = 64
)

// search is one look at a client's configuration.
type search struct {
	Host
	found []spec.Target
	files []string
}

// variable is one of the environment's: clients differ in whether case counts.
func (s *search) variable(name string, anyCase bool) string {
	for _, line := range s.Environ {
		key, value, _ := strings.Cut(line, "=")
		if key == name || anyCase && strings.EqualFold(key, name) {
			return value
		}
	}
	return ""
}

// under is a path in the user's home; "" where there is none.
func (s *search) under(path string) string {
	if s.Home == "" {
		return ""
	}
	return filepath.Join(s.Home, path)
}

// configHome is the XDG base directory for configuration.
func (s *search) configHome(path string) string {
	if dir := s.variable("XDG_CONFIG_HOME", false); filepath.IsAbs(dir) {
		return filepath.Join(dir, path)
	}
	return s.under(filepath.Join(".config", path))
}

// read returns a configuration file of the host's; one that is not there, and
// the path "", are empty.
func (s *search) read(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%s is no absolute path", path)
	}
	if !slices.Contains(s.files, path) {
		s.files = append(s.files, path)
	}
	// A pipe in its place must not hold up the reader.
	f, err := os.OpenFile(filepath.Join(s.Root, path), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", path, errors.Unwrap(err))
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, err // such as /dev/null, which clients take for none
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = errors.New("it is larger than a configuration is")
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return text, nil
}

// add opens the host of a registry's URL. The URL may hold a password: no error
// quotes it.
func (s *search) add(where, text string, private bool) error {
	u, err := url.Parse(strings.TrimSpace(text))
	if err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" {
		return fmt.Errorf("%s is no URL of http or https", where)
	}
	port := uint64(443)
	if u.Scheme == "http" {
		port = 80
	}
	if u.Port() != "" {
		if port, err = strconv.ParseUint(u.Port(), 10, 16); err != nil || port == 0 {
			return fmt.Errorf("%s has no port of 1 to 65535", where)
		}
	}
	return s.addHost(where, u.Hostname(), uint16(port), private)
}

func (s *search) addHost(where, host string, port uint16, private bool) error {
	if len(s.found) >= maxHosts {
		return fmt.Errorf("over %d registries are configured", maxHosts)
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if addr, err := netip.ParseAddr(host); err == nil {
		return fmt.Errorf("%s is an address and no name: put %s into `allow`", where, net.JoinHostPort(addr.String(), strconv.Itoa(int(port))))
	}
	t := spec.Target{Name: host, Port: port, Private: private}
	if spec.TargetProblem(t) != "" {
		return fmt.Errorf("%s holds no host name", where)
	}
	s.found = append(s.found, t)
	return nil
}
