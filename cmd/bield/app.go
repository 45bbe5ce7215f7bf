package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"bield/internal/api"
	"bield/internal/api/client"
	"bield/internal/config"
	"bield/internal/notify"
	"bield/internal/spec"
	"bield/internal/state"
)

// app is what every verb works with.
type app struct {
	out, err   io.Writer
	run        state.Run
	configFile string
	// manager is the service manager that started this command, if one did.
	manager notify.Manager
}

func newApp(out, err io.Writer) *app {
	a := &app{out: out, err: err, run: state.RunFromEnv()}
	var unusable error
	if a.manager, unusable = notify.FromEnv(); unusable != nil {
		fmt.Fprintln(err, "bield:", unusable)
	}
	return a
}

func newRootCommand(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "bield",
		Short: "Ephemeral microVMs for coding agents",
		Long: `bield hosts ephemeral microVMs for coding agents. A file declares the VMs; each
is a real VM with your workspace mounted live and nothing else of the host in it.`,
		Example: `  sudo bield setup                 get what this machine lacks
  sudo bield up claude-home        start a VM; returns when SSH works
  bield ssh claude-home            a shell in it
  bield ls                         what runs
  bield down claude-home           stop it and forget its root
  sudo bield doctor                what is in the way, and what to do about it`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version,
	}
	group(root)
	root.SetVersionTemplate("bield {{.Version}}\n")
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &exitError{exitUsage, fmt.Errorf("%w (see `%s --help`)", err, c.CommandPath())}
	})
	root.PersistentFlags().StringVarP(&a.configFile, "config", "c", "", "the `file` that declares the VMs (default: ~/.config/bield/bield.yaml, then /etc/bield/bield.yaml)")
	root.AddCommand(
		newUpCommand(a), newDownCommand(a), newRestartCommand(a), newPlanCommand(a), newApplyCommand(a), newListCommand(a), newSSHCommand(a), newLogsCommand(a),
		newEgressCommand(a), newVerifyCommand(a), newEventsCommand(a), newInspectCommand(a), newMetricsCommand(a),
		newConfigCommand(a), newImageCommand(a), newSetupCommand(a), newDoctorCommand(a), newVersionCommand(a),
		newManCommand(),
	)
	a.completeVMs(root)
	return root
}

// usage makes an argument check whose failure is a usage error.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return &exitError{exitUsage, fmt.Errorf("%w\nusage: %s", err, c.UseLine())}
		}
		return nil
	}
}

// namesOrAll wants names of VMs, or --all and none.
func namesOrAll(all *bool) cobra.PositionalArgs {
	return usage(func(_ *cobra.Command, args []string) error {
		switch {
		case *all && len(args) > 0:
			return errors.New("--all takes no names")
		case !*all && len(args) == 0:
			return errors.New("name the VMs, or add --all")
		}
		return nil
	})
}

// noArgs is cobra's in words that fit a verb.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%q takes no arguments, but was given %q", c.CommandPath(), args[0])
	}
	return nil
}

// group makes a command that only has others below it: alone it explains
// itself, and a word that is none of them is a usage error.
func group(c *cobra.Command) {
	c.Args = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		hint := fmt.Sprintf("(see `%s --help`)", c.CommandPath())
		if c.SuggestionsMinimumDistance = 2; len(c.SuggestionsFor(args[0])) > 0 {
			hint = fmt.Sprintf("(did you mean `%s %s`?)", c.CommandPath(), c.SuggestionsFor(args[0])[0])
		}
		return &exitError{exitUsage, fmt.Errorf("unknown command %q %s", args[0], hint)}
	}
	c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
}

// load finds, reads and checks the configuration.
func (a *app) load(ctx context.Context) (spec.Host, string, error) {
	env, err := hostEnv(ctx)
	if err != nil {
		return spec.Host{}, "", err
	}
	path, err := config.Find(a.configFile, env)
	if err != nil {
		return spec.Host{}, "", err
	}
	host, err := config.Load(ctx, path, env)
	return host, path, err
}

// errVersion says that the daemon that runs is not of this bield's version.
var errVersion = errors.New("bieldd is of another version")

// connect returns a client of a daemon that runs.
func (a *app) connect(ctx context.Context) (*client.Client, error) {
	c := client.New(a.run.Socket())
	reply, err := c.Version(ctx)
	if err == nil && reply.API != api.Version {
		err = fmt.Errorf("%w (%s, this is %s): end it (`%s`; VMs go on), and run this again", errVersion, reply.Version, version, endDaemon(ctx, reply.PID))
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// daemon returns a client of a daemon that runs, started if need be.
func (a *app) daemon(ctx context.Context) (*client.Client, error) {
	c, err := a.connect(ctx)
	if err == nil || !errors.Is(err, client.ErrNoDaemon) {
		return c, err
	}
	// Somebody else may have started one at the same moment: then it answers.
	startErr := a.startDaemon(ctx)
	if c, err = a.connect(ctx); err != nil {
		return nil, cmp.Or(startErr, err)
	}
	return c, nil
}

// Colours of a terminal.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
	dim    = "2"
)

// paint colours text where w is a terminal that wants it.
func (a *app) paint(w io.Writer, colour, text string) string {
	if !isTerminal(w) || os.Getenv("NO_COLOR") != "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}
