package preflight

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"bield/internal/spec"
	"bield/internal/state"
)

// State is how a check ended.
type State string

// The states of a check. Fail means that VMs won't start or have no network.
const (
	OK      State = "ok"
	Warn    State = "warn"
	Fail    State = "fail"
	Skipped State = "skipped"
)

// Result is what one check found.
type Result struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	// Found is what is there; for Skipped, why it was not looked at. It may
	// have several lines.
	Found string `json:"found"`
	// Do is what to do about it: a command or an advice a line.
	Do []string `json:"do,omitempty"`
}

// Host is the machine that is checked, and what others know of it.
type Host struct {
	// Root is where the host's files are; "" means "/".
	Root string
	// UID is who asks: root sees more.
	UID int
	// Groups are the groups of who asks.
	Groups []int
	Run    state.Run
	Cache  state.Cache
	Config Config
	// KVM says whether KVM runs guests at full speed, and if not why.
	KVM func() (usable bool, reason string)
	// Hypervisor says what a VM runs on that asks for a program, or for auto,
	// and why; the error says what to install.
	Hypervisor func(context.Context, spec.HypervisorKind) (why string, err error)
	// Cgroups says what there is to limit VMs by.
	Cgroups func() Cgroups
	// Programs are those that bield starts.
	Programs func(context.Context) ([]Program, error)
	// Daemon asks whether there is one.
	Daemon func(context.Context) Daemon
	// Group is the group whose members use bield without sudo.
	Group string
}

// Config is the configuration as it was found.
type Config struct {
	// File is its path, "" where there is none.
	File string
	// Err is why it is no good.
	Err error
	// Host is what it asks for; without a good file, the defaults.
	Host spec.Host
}

// Check is one check, or several that are made at once.
type Check struct {
	// Name stands for it where it gives no answer.
	Name string
	look func(context.Context) []Result
}

// Checks are all checks of the host, in the order in which they are shown.
func (h Host) Checks() []Check {
	one := func(name string, look func(context.Context) Result) Check {
		return Check{name, func(ctx context.Context) []Result {
			r := look(ctx)
			r.Name = name
			return []Result{r}
		}}
	}
	still := func(name string, look func() Result) Check {
		return one(name, func(context.Context) Result { return look() })
	}
	return []Check{
		still("configuration", h.configuration),
		still("kernel", h.kernel),
		still("kernel-features", h.kernelFeatures),
		still("system-calls", h.systemCalls),
		still("user-namespaces", h.userNamespaces),
		still("landlock", h.landlock),
		still("cgroups", h.cgroups),
		still("kvm", h.kvm),
		one("hypervisor", h.hypervisor),
		{"programs", h.programs},
		one("open-files", h.openFiles),
		still("memory", h.memory),
		still("disk-state", h.diskOfState),
		still("disk-cache", h.diskOfCache),
		still("forwarding", h.forwarding),
		still("br-netfilter", h.brNetfilter),
		one("bridge", h.bridge),
		one("subnet", h.subnet),
		one("external-interface", h.externalInterface),
		one("other-firewalls", h.otherFirewalls),
		still("access", h.access),
		one("daemon", h.daemon),
		still("folders", h.folders),
		one("records", h.records),
		still("systemd", h.systemd),
	}
}

// limit is how long a check may take. It is above what a slow machine needs to
// start QEMU for its version.
const limit = 15 * time.Second

// Run makes all checks at once and shows their results in order, each as soon
// as those before it are there. The error is ctx's.
func Run(ctx context.Context, checks []Check, show func(Result)) error {
	return run(ctx, checks, limit, show)
}

func run(ctx context.Context, checks []Check, limit time.Duration, show func(Result)) error {
	inTime, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	answers := make([]chan []Result, len(checks))
	for i, c := range checks {
		answers[i] = make(chan []Result, 1)
		go func() { answers[i] <- c.look(inTime) }()
	}
	// A check that heeds the limit says itself what it waited for.
	late := time.NewTimer(limit + time.Second)
	defer late.Stop()
	over := false
	for i, c := range checks {
		results, err := await(ctx, answers[i], late.C, &over)
		if err != nil {
			return err
		}
		if results == nil {
			results = []Result{{Name: c.Name, State: Warn, Found: fmt.Sprintf("no answer within %s", limit),
				Do: []string{"look for what hangs: a network file system, or a process in state D"}}}
		}
		for _, r := range results {
			show(r)
		}
	}
	return nil
}

// await returns nil where the answer did not come in time; over says that the
// time has passed already.
func await(ctx context.Context, answer <-chan []Result, late <-chan time.Time, over *bool) ([]Result, error) {
	if *over {
		select {
		case r := <-answer:
			return r, nil
		default:
			return nil, ctx.Err()
		}
	}
	select {
	case r := <-answer:
		return r, ctx.Err()
	case <-late:
		*over = true
		return await(ctx, answer, late, over)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (h Host) path(name string) string {
	if h.Root == "" {
		return "/" + name
	}
	return filepath.Join(h.Root, name)
}

func (h Host) root() bool { return h.UID == 0 }

func ok(format string, args ...any) Result {
	return Result{State: OK, Found: fmt.Sprintf(format, args...)}
}

func warn(found string, do ...string) Result { return Result{State: Warn, Found: found, Do: do} }

func fail(found string, do ...string) Result { return Result{State: Fail, Found: found, Do: do} }

func skipped(why string, do ...string) Result { return Result{State: Skipped, Found: why, Do: do} }

// needsRoot is the result of a check that only root can make.
func needsRoot(what string) Result { return skipped(what+" needs root", "sudo bield doctor") }

func (h Host) configuration() Result {
	switch {
	case h.Config.Err != nil && h.Config.File == "":
		return fail(h.Config.Err.Error(), "see who may read it, or name another file with -c FILE")
	case h.Config.Err != nil:
		return fail(h.Config.File+" is no good:\n"+h.Config.Err.Error(), "mend it; `bield config check` reads it again")
	case h.Config.File == "":
		return ok("no file yet; what follows is checked with the defaults")
	}
	n := len(h.Config.Host.VMs)
	return ok("%s declares %d VM%s", h.Config.File, n, map[bool]string{false: "s"}[n == 1])
}
