package e2e

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"bield/internal/process"
	"bield/internal/reconcile"
	"bield/internal/spec"
	"bield/internal/state"
)

var seed = flag.Uint64("seed", 1, "what random tests begin with")

// TestChaos kills, in five rounds and at random moments of an up, a down or of
// nothing at all, a real VM's VMM, its virtiofsds, its kernel and the daemon. One
// call then reaches what is asked for. test/faults does so with fakes, and more.
func TestChaos(t *testing.T) {
	t.Logf("-seed %d", *seed)
	c := &chaos{h: newHost(t), rng: rand.New(rand.NewPCG(*seed, 0)), before: settings(t)}
	c.h.configure(t, minimal(c.h.folder(t, "work", guestUID, guestGID)))
	victims := []string{"vmm", spec.WorkspaceTag, spec.RootTag, "guest", "bieldd"}
	c.rng.Shuffle(len(victims), func(i, j int) { victims[i], victims[j] = victims[j], victims[i] })
	for i, victim := range victims {
		t.Run(fmt.Sprintf("%d %s", i+1, victim), func(t *testing.T) { c.round(t, victim) })
	}
	c.h.bield(t, "down", "one")
	nothingLeft(t, c.h, c.before)
}

type chaos struct {
	h      *host
	rng    *rand.Rand
	before map[string]string
	runs   bool
}

// round is one action, what dies during it, and the way back.
func (c *chaos) round(t *testing.T, victim string) {
	verb, within := "up", 8*time.Second
	if c.runs {
		verb, within = []string{"down", "ls"}[c.rng.IntN(2)], time.Second
	}
	pause := time.Duration(c.rng.Int64N(int64(within)))
	if victim == "guest" && c.runs {
		verb = "ls" // a kernel that is asked to power off may do so first
	}
	done := make(chan error, 1)
	go func() {
		out, err := c.h.command(verb, "one").CombinedOutput()
		if verb == "ls" {
			out, err = nil, nil
		}
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		done <- err
	}()
	time.Sleep(pause)
	t.Logf("%s; %v later the end of %s: %v", verb, pause, victim, c.kill(victim))
	t.Logf("%s: %v", verb, <-done)
	if c.runs = c.rng.IntN(3) > 0; !c.runs {
		c.h.bield(t, "down", "one")
		nothingLeft(t, c.h, c.before)
		return
	}
	c.h.bield(t, "up", "one")
	want(t, "in the guest", c.h.in(t, "one", "echo here > /workspace/file && cat /workspace/file"), "here")
}

// kill ends the victim, if it is there, and returns when it is gone.
func (c *chaos) kill(victim string) error {
	if victim == "bieldd" {
		pid, err := daemonPID(c.h.bin, c.h.run)
		if err != nil || pid == 0 {
			return fmt.Errorf("no daemon: %w", err)
		}
		return c.end(pid, func() error { return syscall.Kill(pid, syscall.SIGKILL) })
	}
	var r reconcile.Record
	if err := state.Read(filepath.Join(c.h.run, "records", "one.json"), &r); err != nil {
		return err
	}
	var id *process.ID
	for _, s := range r.Shares {
		if s.Tag == victim {
			id = s.Process
		}
	}
	if victim == "vmm" || victim == "guest" {
		id = r.VMM
	}
	switch {
	case id == nil:
		return fmt.Errorf("%s does not run yet", victim)
	case victim == "guest":
		return c.end(id.PID, c.panics)
	}
	return c.end(id.PID, func() error { return syscall.Kill(id.PID, syscall.SIGKILL) })
}

// panics has the guest's kernel panic, if it lets us in.
func (c *chaos) panics() error {
	return c.h.command("ssh", "one", "--", "nohup sh -c 'sleep 0.2; echo c | sudo tee /proc/sysrq-trigger' >/dev/null 2>&1 &").Run()
}

func (c *chaos) end(pid int, kill func() error) error {
	if err := kill(); err != nil {
		return err
	}
	return waitFor(20*time.Second, fmt.Sprintf("the end of process %d", pid), func() bool { return zombie(pid) })
}
