package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"bield/internal/api"
	"bield/internal/api/client"
	"bield/internal/cgroup"
	"bield/internal/config"
	"bield/internal/hypervisor/installed"
	"bield/internal/preflight"
	"bield/internal/setup"
	"bield/internal/spec"
	"bield/internal/state"
)

func newDoctorCommand(a *app) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Check this machine: what is in bield's way, and what to do about it",
		Long: `Check the host for all that bield needs and for what gets in its way: kernel,
KVM, programs, memory, disk, network, other firewalls, permissions, leftovers. It
changes nothing, and works without a daemon, a configuration and root; as root it
sees more. The exit code is 1 when a check fails.`,
		Args: usage(noArgs),
		RunE: func(c *cobra.Command, _ []string) error { return runDoctor(c.Context(), a, asJSON) },
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print a JSON array of the checks")
	return c
}

func runDoctor(ctx context.Context, a *app, asJSON bool) error {
	host, err := a.preflightHost(ctx)
	if err != nil {
		return err
	}
	var all []preflight.Result
	err = preflight.Run(ctx, host.Checks(), func(r preflight.Result) {
		all = append(all, r)
		if !asJSON {
			a.printCheck(r)
		}
	})
	if err != nil {
		return err
	}
	if asJSON {
		if err := printJSON(a.out, all); err != nil {
			return err
		}
	}
	return a.verdict(all, asJSON)
}

// verdict is the error that names the checks that failed.
func (a *app) verdict(all []preflight.Result, quiet bool) error {
	count := map[preflight.State]int{}
	var failed []string
	for _, r := range all {
		if count[r.State]++; r.State == preflight.Fail {
			failed = append(failed, r.Name)
		}
	}
	if !quiet {
		fmt.Fprintf(a.out, "\n%d ok, %d warn, %d fail, %d skipped\n", count[preflight.OK], count[preflight.Warn], count[preflight.Fail], count[preflight.Skipped])
	}
	switch len(failed) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("a check failed: %s", failed[0])
	}
	return fmt.Errorf("%d checks failed: %s", len(failed), strings.Join(failed, ", "))
}

// checkColumn is where the text of a check begins.
const checkColumn = 29

func (a *app) printCheck(r preflight.Result) {
	colour := map[preflight.State]string{preflight.OK: green, preflight.Warn: yellow, preflight.Fail: red, preflight.Skipped: dim}[r.State]
	state := a.paint(a.out, colour, fmt.Sprintf("%-7s", r.State))
	indent := "\n" + strings.Repeat(" ", checkColumn)
	fmt.Fprintf(a.out, "%s  %-18s  %s\n", state, r.Name, strings.ReplaceAll(r.Found, "\n", indent))
	for _, line := range r.Do {
		fmt.Fprintf(a.out, "%s→ %s\n", indent[1:], line)
	}
}

// preflightHost is this machine with what only the CLI knows of it.
func (a *app) preflightHost(ctx context.Context) (preflight.Host, error) {
	// Who may not ask has no groups.
	groups, _ := os.Getgroups()
	cache := state.CacheFromEnv()
	conf, err := a.preflightConfig(ctx)
	vmms := installed.Host()
	return preflight.Host{
		UID:    os.Geteuid(),
		Groups: append(groups, os.Getegid()),
		Group:  setup.Group,
		Run:    a.run,
		Cache:  cache,
		Config: conf,
		KVM:    vmms.KVM,
		Hypervisor: func(ctx context.Context, asked spec.HypervisorKind) (string, error) {
			choice, err := vmms.Choose(ctx, asked)
			return choice.Why, err
		},
		Cgroups: findCgroups,
		Programs: func(ctx context.Context) ([]preflight.Program, error) {
			return programs(ctx, setup.Host{CacheDir: cache.Dir})
		},
		Daemon: a.askDaemon,
	}, err
}

// configLimit is how long reading the configuration may take: it may lie on a
// file system that hangs.
const configLimit = 10 * time.Second

// preflightConfig reads the configuration within a limit. The error is ctx's.
func (a *app) preflightConfig(ctx context.Context) (preflight.Config, error) {
	inTime, cancel := context.WithTimeout(ctx, configLimit)
	defer cancel()
	read := make(chan preflight.Config, 1)
	go func() { read <- a.readConfig(inTime) }()
	select {
	case c := <-read:
		return c, ctx.Err()
	case <-inTime.Done():
		late := fmt.Errorf("reading the configuration takes longer than %s", configLimit)
		return preflight.Config{Err: late, Host: spec.DefaultHost()}, ctx.Err()
	}
}

// readConfig finds the configuration as other verbs do. No file is none, and
// one that is no good is a finding.
func (a *app) readConfig(ctx context.Context) preflight.Config {
	found := preflight.Config{Host: spec.DefaultHost()}
	env, err := hostEnv(ctx)
	if err != nil {
		found.Err = err
		return found
	}
	path, err := config.Find(a.configFile, env)
	switch {
	case errors.Is(err, config.ErrNoFile) && a.configFile == "":
		return found
	case err != nil:
		found.Err = err
		return found
	}
	found.File = path
	host, err := config.Load(ctx, path, env)
	if err != nil {
		found.Err = err
		return found
	}
	found.Host = host
	return found
}

func (a *app) askDaemon(ctx context.Context) preflight.Daemon {
	c := client.New(a.run.Socket())
	defer c.Close()
	reply, err := c.Version(ctx)
	switch {
	case errors.Is(err, client.ErrNoDaemon):
		return preflight.Daemon{}
	case errors.Is(err, client.ErrNoPermission):
		return preflight.Daemon{Closed: true}
	case err != nil:
		return preflight.Daemon{Err: err}
	}
	d := preflight.Daemon{Runs: true, Version: reply.Version, PID: reply.PID, OtherAPI: reply.API != api.Version, Wanted: version}
	if d.OtherAPI || d.Version != d.Wanted {
		d.End = "sudo " + strings.TrimPrefix(endDaemon(ctx, reply.PID), "sudo ")
	}
	return d
}

// programs are those of others that bield starts, and its own.
func programs(ctx context.Context, host setup.Host) ([]preflight.Program, error) {
	tools, err := host.Tools(ctx)
	if err != nil {
		return nil, err
	}
	all := ownPrograms()
	for _, t := range tools {
		p := preflight.Program{Name: t.Program, Purpose: t.Purpose, Path: t.Path, Version: t.Version, Problem: t.Problem, Optional: t.Optional}
		if t.Path == "" || t.Problem != "" {
			p.Do = host.Advice([]setup.Need{t.Need})
		}
		all = append(all, p)
	}
	return all, nil
}

// ownPrograms are looked for as they are started: bieldd by bield, bield-init
// beside bieldd.
func ownPrograms() []preflight.Program {
	daemon := preflight.Program{Name: "bieldd", Purpose: "is the host daemon", Do: []string{"put it beside bield: `make build` leaves all programs in bin/"}}
	guest := preflight.Program{Name: "bield-init", Purpose: "is the first program of every guest", Do: []string{"put it beside bieldd: `make build` leaves all programs in bin/"}}
	path, err := daemonProgram()
	if err != nil {
		return []preflight.Program{daemon, guest}
	}
	daemon.Path = path
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	beside := filepath.Join(filepath.Dir(path), "bield-init")
	if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
		guest.Path = beside
	}
	return []preflight.Program{daemon, guest}
}

// findCgroups is what a daemon finds that is started from here.
func findCgroups() preflight.Cgroups {
	found, lacks, err := cgroup.Host{}.Describe()
	c := preflight.Cgroups{Found: found, Err: err}
	for _, controller := range lacks {
		c.Lacks = append(c.Lacks, string(controller))
	}
	return c
}
