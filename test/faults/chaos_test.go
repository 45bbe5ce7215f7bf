package faults

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"bield/internal/guestlink"
	"bield/internal/spec"
	"bield/internal/state"
	"bield/test/fakes"
	"bield/test/host"
)

var seed = flag.Uint64("seed", 1, "what random tests begin with")

// Rounds of TestChaos, over all machines.
const (
	chaosRounds   = 200
	chaosMachines = 8
)

// TestChaos kills VMMs, virtiofsds, guests and the daemon at random moments of
// an up, a down, a restart, or of nothing at all. One call then reaches the
// declared state.
func TestChaos(t *testing.T) {
	host.Require(t)
	t.Parallel()
	rounds := chaosRounds / chaosMachines
	if testing.Short() {
		rounds = 2
	}
	t.Logf("-seed %d", *seed)
	var kills atomic.Int64
	t.Run("machines", func(t *testing.T) {
		for i := range chaosMachines {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				c := newChaos(t, uint64(i))
				defer c.h.End(t)
				for round := range rounds {
					if err := c.round(); err != nil {
						t.Fatalf("-seed %d, machine %d, round %d: %v\n%v", *seed, i, round, c.did, err)
					}
				}
				must(t, downOf()(c.h))
				clean(t, c.h)
				kills.Add(c.kills)
			})
		}
	})
	t.Logf("%d rounds, %d kills", rounds*chaosMachines, kills.Load())
}

const restarting = `stateDir: ~/state
user: {name: dev, uid: 4711, gid: 4712}
stopTimeout: 1s
vms:
  one: {ip: 192.168.83.2, workspace: ~/src, mem: 512, restart: always}
  two: {ip: 192.168.83.3, workspace: ~/src, mem: 512, restart: on-failure, autostart: true}
`

// chaos is what happens to one machine.
type chaos struct {
	h        *host.Host
	rng      *rand.Rand
	declared spec.Host
	runs     bool // all VMs do; otherwise none
	kills    int64
	did      []string // in this round
}

func newChaos(t *testing.T, i uint64) *chaos {
	file := ""
	if i%4 == 3 {
		file = restarting
	}
	c := &chaos{h: machineFor(t, file, 10*time.Minute), rng: rand.New(rand.NewPCG(*seed, i))}
	c.h.KVM = i%2 == 1 // half of them on cloud-hypervisor
	var err error
	c.declared, err = c.h.Spec(context.Background())
	must(t, err)
	must(t, c.h.StartDaemon(nil))
	return c
}

func (c *chaos) note(format string, args ...any) { c.did = append(c.did, fmt.Sprintf(format, args...)) }

// round is one action, what dies during it, and the way back.
func (c *chaos) round() error {
	c.did = nil
	name, act := c.action()
	if err := c.crashAtBoot(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- act(c.h) }()
	for range 1 + c.rng.IntN(2) {
		time.Sleep(time.Duration(c.rng.IntN(120)) * time.Millisecond)
		if err := c.killOne(); err != nil {
			return err
		}
	}
	c.note("%s: %v", name, <-done)
	if err := errors.Join(os.RemoveAll(c.plan()), c.revive()); err != nil {
		return err
	}
	return c.reach()
}

func (c *chaos) action() (string, func(*host.Host) error) {
	if !c.runs {
		return "up", upOf()
	}
	switch c.rng.IntN(3) {
	case 0:
		return "down", downOf()
	case 1:
		return "restart", restartOf()
	default:
		return "nothing", func(*host.Host) error { return nil }
	}
}

func (c *chaos) plan() string { return filepath.Join(c.h.Work, "fakes", "plan.json") }

// crashAtBoot has a guest panic at a stage of its boot, now and then.
func (c *chaos) crashAtBoot() error {
	if c.rng.IntN(4) > 0 {
		return nil
	}
	stages := append(guestlink.Stages(), fakes.AtStart)
	vm, stage := c.pick(c.declared.Names()), c.pick(stages)
	c.note("%s panics at %s", vm, stage)
	data, err := json.Marshal(fakes.Plan{VMs: map[string]fakes.Guest{vm: {Crash: stage, Exit: 3, Says: "Kernel panic"}}})
	if err != nil {
		return err
	}
	return os.WriteFile(c.plan(), data, 0o644)
}

func (c *chaos) pick(from []string) string { return from[c.rng.IntN(len(from))] }

// killOne kills something, if it is there.
func (c *chaos) killOne() error {
	vm := c.pick(c.declared.Names())
	what := c.pick([]string{"vmm", "root", "ssh-host-keys", "workspace", "guest", "bieldd"})
	var err error
	switch what {
	case "bieldd":
		err = c.h.EndDaemon(unix.SIGKILL)
	case "guest":
		err = ending(c.h, vm, "vmm", func(int) error { return c.panicGuest(vm) })
	default:
		err = killProcess(c.h, vm, what)
	}
	c.note("kill %s of %s: %v", what, vm, err)
	if err == nil {
		c.kills++
	}
	if errors.Is(err, errStays) {
		return err
	}
	return nil // it was not there
}

// panicGuest logs in to a guest and has its kernel panic.
func (c *chaos) panicGuest(name string) error {
	vm, _ := c.declared.VM(name)
	pem, err := os.ReadFile(state.Folder{Dir: c.declared.StateDir}.DaemonKey())
	if err != nil {
		return err
	}
	key, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return err
	}
	client, err := ssh.Dial("tcp", net.JoinHostPort(vm.IP.String(), "22"), &ssh.ClientConfig{
		User: vm.User.Name, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, Timeout: 2 * time.Second,
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), //nolint:gosec // a fake of this test's own
	})
	if err != nil {
		return err
	}
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		return err
	}
	return session.Run(c.pick([]string{"panic 1", "poweroff"}))
}

// revive starts a daemon where it was killed.
func (c *chaos) revive() error {
	if pid, err := c.h.DaemonPID(); err != nil || pid != 0 {
		return err
	}
	if err := readable(c.h); err != nil {
		return err
	}
	return c.h.StartDaemon(nil)
}

// reach gets to what is declared, or to nothing, by one call.
func (c *chaos) reach() error {
	var want []string
	redo := downOf()
	if c.runs = c.rng.IntN(3) > 0; c.runs {
		want, redo = c.declared.Names(), upOf()
	}
	c.note("then %q", want)
	if err := redo(c.h); err != nil {
		return err
	}
	return soon(func() error { return settled(c.h, c.declared, want) })
}
