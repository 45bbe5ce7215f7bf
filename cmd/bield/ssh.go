package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"bield/internal/api"
)

func newSSHCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "ssh NAME [-- COMMAND [ARG…]]",
		Short: "A login shell in a VM, or one command",
		Long: `Open a login shell in the guest as its user, or run one command. A command of
one word goes to the guest's shell as it stands; several words arrive as they are
given, quotes and spaces included. The exit code is the command's; 125 is a
failure of bield's own, 255 one of ssh.`,
		Example: `  bield ssh claude-home
  bield ssh claude-home -- git status
  bield ssh claude-home -- 'cd /workspace && make | tail'`,
		Args: usage(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			command := args[1:]
			if len(command) > 0 && command[0] == "--" {
				command = command[1:]
			}
			if err := runSSH(c.Context(), a, args[0], command); err != nil {
				return &exitError{exitOwn, err}
			}
			return nil
		},
	}
	c.Flags().SetInterspersed(false)
	return c
}

// runSSH becomes OpenSSH: the terminal, signals and the exit code are then its.
func runSSH(ctx context.Context, a *app, name string, command []string) error {
	d, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	access, err := d.Access(ctx, name)
	if err != nil {
		return err
	}
	program, err := exec.LookPath("ssh")
	if err != nil {
		return errors.New("find ssh: install openssh-client")
	}
	if err := syscall.Exec(program, sshArguments(access, command), os.Environ()); err != nil {
		return fmt.Errorf("run %s: %w", program, err)
	}
	return nil
}

// sshArguments is a command line that uses no configuration but its own, so
// that it means the same for every user.
func sshArguments(access api.AccessReply, command []string) []string {
	args := []string{
		"ssh", "-F", "none", "-i", access.Identity,
		"-o", "IdentitiesOnly=yes",
		"-o", "UserKnownHostsFile=" + access.KnownHosts,
		"-o", "GlobalKnownHostsFile=none",
		"-o", "StrictHostKeyChecking=yes",
		"-o", "HostKeyAlias=" + access.Alias,
		"-o", "ForwardAgent=no",
		"-o", "LogLevel=ERROR",
		// A guest without KVM may be silent for 15 seconds and live.
		"-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=6",
	}
	args = append(args, "--", access.User+"@"+access.Address)
	if len(command) == 1 {
		return append(args, command[0])
	}
	for _, word := range command {
		args = append(args, quote(word))
	}
	return args
}

// quote makes one word of a POSIX shell.
func quote(word string) string {
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
