package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"bield/internal/api/client"
)

// idleTimeout is when a daemon that bield started ends for want of work.
const idleTimeout = 5 * time.Minute

// startDaemon starts bieldd and waits until it answers requests or says why it
// cannot: by its unit where that is installed, else in a session of its own.
func (a *app) startDaemon(ctx context.Context) error {
	if a.hasUnit(ctx) {
		return startUnit(ctx)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w, and only root may start it: `sudo bield %s`", client.ErrNoDaemon, strings.Join(os.Args[1:], " "))
	}
	program, err := daemonProgram()
	if err != nil {
		return err
	}
	if err := a.run.Make(); err != nil {
		return err
	}
	log, err := os.OpenFile(a.run.Log(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("open log of bieldd: %w", err)
	}
	defer func() { _ = log.Close() }()
	return launch(ctx, program, log)
}

// daemonProgram is the bieldd that came with this bield, or the one in the path.
func daemonProgram() (string, error) {
	self, err := os.Executable()
	if err == nil {
		for _, place := range []string{".", "../libexec/bield", "../lib/bield"} {
			program := filepath.Join(filepath.Dir(self), place, "bieldd")
			if _, err := os.Stat(program); err == nil {
				return program, nil
			}
		}
	}
	found, err := exec.LookPath("bieldd")
	if err != nil {
		return "", fmt.Errorf("find bieldd: it belongs beside bield, or in ../libexec/bield: %w", err)
	}
	return found, nil
}

func launch(ctx context.Context, program string, log *os.File) error {
	ready, theirs, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start bieldd: %w", err)
	}
	defer func() { _ = ready.Close() }()
	cmd := exec.Command(program, "--idle-timeout", idleTimeout.String(), "--ready-fd", "3") //nolint:noctx // bieldd outlives this command
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return fmt.Errorf("start bieldd: %w", err)
	}
	defer func() { _ = cmd.Process.Release() }()
	stop := context.AfterFunc(ctx, func() { _ = ready.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	return readiness(ready, log.Name())
}

// readiness reads the daemon's one line: empty when it serves.
func readiness(ready *os.File, log string) error {
	line, err := bufio.NewReader(ready).ReadString('\n')
	switch text := strings.TrimSpace(line); {
	case text != "":
		return errors.New(text)
	case err != nil:
		return fmt.Errorf("bieldd ended at once: see %s", log)
	}
	return nil
}
