package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"bield/internal/guestconfig"
	"bield/internal/guestlink"
)

// errNoUser answers a host that replaces keys before there is a user.
var errNoUser = errors.New("the user is not made yet: wait for the stage user to be done")

// boot is one life of PID 1.
type boot struct {
	cfg     guestconfig.Config
	root    tree
	journal *journal
	console *console
	reaper  *reaper
	// requests holds the first reason to power off.
	requests chan string
	userMade atomic.Bool
	// program is a copy of this one for the service under systemd.
	program *os.File

	stopLink func()
	linkDone sync.WaitGroup
}

// Boot is PID 1 of a guest. It returns only where the machine cannot be
// powered off, which is a kernel's panic for PID 1.
func Boot(ctx context.Context) {
	b := &boot{root: "/", journal: newJournal(), reaper: newReaper(), requests: make(chan string, 1)}
	early := tree("/").mountAll(earlyMounts())
	b.console = openConsole()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go b.reaper.run(ctx)
	go catchSignals(ctx, b.powerOff)
	services, cancelServices := context.WithCancel(ctx)
	defer cancelServices()
	booted := make(chan error, 1)
	go func() { booted <- b.run(services, early) }()
	why, err := b.await(booted)
	cancelServices()
	b.end(ctx, why, err)
}

// await returns when the boot failed or someone asks for the end, and why.
func (b *boot) await(booted <-chan error) (string, error) {
	for {
		select {
		case err := <-booted:
			if err != nil {
				return "", err
			}
			booted = nil
		case why := <-b.requests:
			return why, nil
		}
	}
}

// powerOff asks for the end; the first to ask is heard.
func (b *boot) powerOff(why string) {
	select {
	case b.requests <- why:
	default:
	}
}

// run goes through the stages. It returns nil with sshd kept running in the
// background, and not at all where systemd takes over.
func (b *boot) run(ctx context.Context, early error) error {
	stages := []struct {
		name string
		do   func(context.Context) error
	}{
		{guestlink.StageModules, func(ctx context.Context) error { return firstError(early, b.modules(ctx)) }},
		{guestlink.StageRoot, b.mountRoot},
		{guestlink.StageShares, func(context.Context) error { return mountShares(b.root, b.cfg) }},
		{guestlink.StageNetwork, b.network},
		{guestlink.StageUser, b.user},
		{guestlink.StageHostKeys, func(context.Context) error { return checkHostKey(b.root, b.cfg.HostKey) }},
	}
	for _, s := range stages {
		if err := b.stage(ctx, s.name, s.do); err != nil {
			return err
		}
	}
	if b.cfg.Init == initSystemd {
		return b.stage(ctx, guestlink.StageSSHD, b.becomeSystemd)
	}
	return b.stage(ctx, guestlink.StageSSHD, b.startSSHD)
}

// stage runs one stage and tells of it. A panic fails it like an error.
func (b *boot) stage(ctx context.Context, name string, do func(context.Context) error) (err error) {
	b.journal.record(name, guestlink.StateStarted, "")
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
		if err != nil {
			b.journal.record(name, guestlink.StateFailed, err.Error())
			err = fmt.Errorf("%s: %w", name, err)
			return
		}
		b.journal.record(name, guestlink.StateDone, "")
		b.console.printf("%s", name)
		if name == guestlink.StageSSHD {
			b.journal.record(guestlink.StageReady, guestlink.StateDone, "")
		}
	}()
	return do(ctx)
}

// modules loads what carries the link, starts it, and loads the rest.
func (b *boot) modules(ctx context.Context) error {
	var modules guestconfig.Modules
	err := readJSON(guestconfig.ModulesPath, &modules)
	if err != nil {
		err = fmt.Errorf("read the list of modules: %w", err)
	}
	link := readLink(guestconfig.Path)
	first := loadOrder(modules, linkModules(link))
	err = firstError(err, loadModules(first))
	if err := firstError(err, b.startLink(ctx, link)); err != nil {
		return err
	}
	if b.cfg, err = readConfig(guestconfig.Path); err != nil {
		return err
	}
	rest := loadOrder(modules, slices.Concat(linkModules(link), b.cfg.Modules))[len(first):]
	if err := loadModules(rest); err != nil {
		return err
	}
	go watchButtons(ctx, func() { b.powerOff("power button") })
	return startClock(b.cfg.Clock)
}

// startLink serves the host in the background until stopLink.
func (b *boot) startLink(ctx context.Context, cfg guestconfig.Link) error {
	l, err := newLink(cfg)
	if err != nil {
		return err
	}
	l.journal, l.powerOff, l.start = b.journal, b.powerOff, b.reaper.begin
	l.authorize = func(keys []string) error {
		if !b.userMade.Load() {
			return errNoUser
		}
		return b.root.authorize(b.cfg.User.Name, keys)
	}
	// It outlives the context of what it reports about.
	ctx, b.stopLink = context.WithCancel(context.WithoutCancel(ctx))
	b.linkDone.Go(func() { l.run(ctx) })
	return nil
}

func (b *boot) mountRoot(ctx context.Context) error {
	if err := mountRoot(ctx, b.cfg.Root); err != nil {
		return err
	}
	if err := b.keepProgram(); err != nil {
		return err
	}
	if err := switchRoot(); err != nil {
		return err
	}
	go b.root.prefetch(sshdBinary, b.cfg.User.Shell)
	b.root.tune()
	raiseLimits()
	return b.root.mountAll(systemMounts(b.cfg.Init))
}

func (b *boot) network(ctx context.Context) error {
	return firstError(nameHost(b.root, b.cfg), setUpNetwork(ctx, b.cfg.Network))
}

func (b *boot) user(context.Context) error {
	notes, err := makeUser(b.root, b.cfg)
	for _, n := range notes {
		b.console.printf("%s", n)
	}
	if err != nil {
		return err
	}
	b.userMade.Store(true)
	if b.cfg.Init != initSystemd {
		if err := b.root.writePowerCommands(); err != nil {
			return err
		}
	}
	return firstError(b.root.write("/etc/machine-id", machineID(b.cfg)+"\n", 0o444, owner{}),
		makeRuntimeDir(b.root, b.cfg.User))
}

func makeRuntimeDir(t tree, u guestconfig.User) error {
	dir := t.at(runtimeDir(u))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	// The parent is everybody's way to his own.
	return firstError(os.Chmod(t.at("/run/user"), 0o755), os.Chown(dir, int(u.UID), int(u.GID)))
}

func (b *boot) startSSHD(ctx context.Context) error {
	if err := prepareSSHD(b.root, b.cfg); err != nil {
		return err
	}
	s := &sshd{reaper: b.reaper, journal: b.journal, console: b.console,
		argv: sshdCommand(b.root), env: daemonEnv()}
	c, err := s.start(ctx)
	if err != nil {
		return err
	}
	go s.keep(ctx, c)
	return nil
}

// daemonEnv is what systemd gives a service.
func daemonEnv() []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
}

// end tells why, ends what runs and switches the machine off. The link goes on
// to the last.
func (b *boot) end(ctx context.Context, why string, failure error) {
	bound := flushBound
	if failure != nil {
		bound, why = failureFlush, "the boot failed"
		if b.stopLink == nil {
			bound = 0 // there is no link to tell of it over
		}
		b.console.printf("FAILED: %v", failure)
		kernelLog(firstLine(failure.Error()))
	}
	b.console.printf("powering off: %s", why)
	b.journal.record(guestlink.StagePowerOff, guestlink.StateStarted, why)
	endProcesses(ctx, b.reaper)
	var mounts []string
	for _, s := range b.cfg.Shares {
		mounts = append(mounts, s.MountPoint)
	}
	releaseFiles(mounts)
	b.journal.record(guestlink.StagePowerOff, guestlink.StateDone, "")
	flush, cancel := context.WithTimeout(ctx, bound)
	b.journal.flushed(flush)
	cancel()
	switchOff()
}

// raiseLimits gives every process what systemd gives: the kernel's own limit
// for PID 1 is 4096 files at most.
func raiseLimits() {
	_ = syscall.Setrlimit(unix.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 1 << 16, Max: 1 << 19})
	_ = syscall.Setrlimit(unix.RLIMIT_CORE, &syscall.Rlimit{Cur: 0, Max: ^uint64(0)})
}
