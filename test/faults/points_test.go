package faults

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"bield/test/host"
)

var every = flag.Bool("every", false, "kill the daemon also where nothing has happened since the point before")

// TestPoints kills the daemon at every point of every step of each scenario,
// which it lists itself, and has the next one reach the declared state.
func TestPoints(t *testing.T) {
	host.Require(t)
	t.Parallel()
	var tried atomic.Int64
	for _, s := range scenarios() {
		points := listPoints(t, s)
		if !*every {
			points = instants(points)
		}
		if testing.Short() {
			points = sample(points)
		}
		t.Run(s.name, func(t *testing.T) {
			for i, point := range points {
				t.Run(point, func(t *testing.T) {
					t.Parallel()
					s.kill(t, point, i%2 == 0)
					tried.Add(1)
				})
			}
		})
	}
	t.Logf("the daemon was killed at %d points of %d scenarios", tried.Load(), len(scenarios()))
}

// instants leaves out where one step has ended and the next has not begun: that
// is the same as before the next.
func instants(points []string) []string {
	var all []string
	for i, point := range points {
		ends, begins := strings.HasPrefix(point, "after "), i+1 < len(points) && strings.HasPrefix(points[i+1], "before ")
		if !ends || !begins {
			all = append(all, point)
		}
	}
	return all
}

// sample is every tenth.
func sample(points []string) []string {
	var some []string
	for i := 0; i < len(points); i += 10 {
		some = append(some, points[i])
	}
	return some
}

// listPoints runs a scenario to its end and returns the points it comes by.
func listPoints(t *testing.T, s scenario) []string {
	var points []string
	t.Run("points of "+s.name, func(t *testing.T) {
		h := machine(t, s.file)
		defer h.End(t)
		s.begin(t, h)
		log := filepath.Join(h.Work, "points")
		must(t, h.StartDaemon(map[string]string{"BIELD_FAULT_LOG": log}))
		if s.act != nil {
			must(t, s.act(h))
		}
		data, err := os.ReadFile(log)
		must(t, err)
		points = strings.Split(strings.TrimSpace(string(data)), "\n")
		must(t, downOf()(h))
		clean(t, h)
	})
	return points
}

// begin prepares the machine and leaves it without a daemon.
func (s scenario) begin(t *testing.T, h *host.Host) {
	s.furnish(h)
	if s.prepare == nil {
		return
	}
	must(t, h.StartDaemon(nil))
	must(t, s.prepare(h))
	must(t, h.EndDaemon(unix.SIGKILL))
}

// kill runs the scenario with a daemon that dies at the point, and then the way
// back: to what is declared and down again, or straight down.
func (s scenario) kill(t *testing.T, point string, up bool) {
	h := machine(t, s.file)
	defer h.End(t)
	s.begin(t, h)
	must(t, s.die(h, point))
	must(t, readable(h))
	must(t, h.StartDaemon(nil))
	must(t, s.recover(h, up))
}

// die has a daemon kill itself at the point.
func (s scenario) die(h *host.Host, point string) error {
	err := h.StartDaemon(map[string]string{"BIELD_FAULT": point})
	if err != nil || s.act == nil {
		return died(h, err)
	}
	return h.WithDaemon(func(fd int) error {
		err := s.act(h)
		if err == nil || !host.Ends(fd, host.Patience) {
			return fmt.Errorf("%q was not reached: %w", point, err)
		}
		return nil
	})
}

// died says whether the daemon is gone that did not come to serve.
func died(h *host.Host, err error) error {
	if pid, _ := h.DaemonPID(); pid != 0 || err == nil {
		return fmt.Errorf("the daemon did not die: %w", err)
	}
	return nil
}

// recover reaches the declared state with one call, and the state without VMs
// with another; or the latter at once.
func (s scenario) recover(h *host.Host, up bool) error {
	if up || s.builds {
		redo := s.redo
		if redo == nil {
			redo = upOf()
		}
		if err := redo(h); err != nil {
			return err
		}
	}
	declared, err := h.Spec(context.Background())
	if err != nil {
		return err
	}
	if up && !s.builds {
		if err := soon(func() error { return settled(h, declared, declared.Names()) }); err != nil {
			return err
		}
	}
	if err := downOf()(h); err != nil {
		return err
	}
	return soon(func() error { return errors.Join(settled(h, declared, nil), readable(h)) })
}

// soon is nil once do is, or what do says in the end. What a killed daemon was
// just about to start ends by itself, in a moment.
func soon(do func() error) error {
	var err error
	host.WaitFor(host.Patience/3, func() bool { err = do(); return err == nil })
	return err
}
