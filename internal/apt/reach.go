package apt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// reachTimeout is how long a package source may take to accept a connection.
// apt itself tries for minutes before it gives up on a name.
const reachTimeout = 20 * time.Second

// Reach connects once to each server of the sources, so that a host without a
// network is told at once. Where the settings or the environment name a proxy
// only that could tell, and nothing is checked.
func Reach(ctx context.Context, sources []Source, settings []Setting) error {
	if proxied(settings, os.Environ()) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	servers := servers(sources)
	failures := make([]error, len(servers))
	var all sync.WaitGroup
	for i, server := range servers {
		all.Go(func() {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", server)
			if err != nil {
				failures[i] = fmt.Errorf("the package source %s cannot be reached: %w", server, shorten(err))
				return
			}
			_ = conn.Close()
		})
	}
	all.Wait()
	return errors.Join(failures...)
}

// shorten drops Go's own wrapping, which names the server again.
func shorten(err error) error {
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return errors.New("its name cannot be resolved: " + dns.Err)
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// servers lists each host:port of the sources that are reached by network.
func servers(sources []Source) []string {
	ports := map[string]string{"http": "80", "https": "443"}
	var found []string
	for _, s := range sources {
		u, err := url.Parse(s.URI)
		if err != nil || ports[u.Scheme] == "" || u.Hostname() == "" {
			continue
		}
		port := u.Port()
		if port == "" {
			port = ports[u.Scheme]
		}
		found = append(found, net.JoinHostPort(u.Hostname(), port))
	}
	return slices.Compact(slices.Sorted(slices.Values(found)))
}

func proxied(settings []Setting, environ []string) bool {
	byApt := slices.ContainsFunc(settings, func(s Setting) bool {
		key := strings.ToLower(s.Key)
		return strings.Contains(key, "proxy") || strings.Contains(key, "tor+")
	})
	return byApt || slices.ContainsFunc(environ, func(line string) bool {
		name, value, _ := strings.Cut(line, "=")
		return value != "" && slices.Contains([]string{"http_proxy", "https_proxy", "all_proxy"}, strings.ToLower(name))
	})
}
