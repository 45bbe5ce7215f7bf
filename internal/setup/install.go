package setup

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"bield/internal/apt"
)

// ErrByHand means that bield does not install packages on this distribution;
// the error's text is what a person does instead.
var ErrByHand = errors.New("bield installs packages on Debian and its relatives only")

// Install installs what Missing names. progress gets one line for each thing
// being done and may be nil. On other distributions than Debian and its
// relatives it is an ErrByHand with the command to run.
func (h Host) Install(ctx context.Context, progress func(string)) error {
	if progress == nil {
		progress = func(string) {}
	}
	needs, err := h.Missing(ctx)
	if err != nil || len(needs) == 0 {
		return err
	}
	release, err := apt.HostRelease(h.root())
	if err != nil {
		return err
	}
	if familyOf(release) != familyDebian {
		return fmt.Errorf("%w: %s", ErrByHand, strings.Join(h.Advice(needs), "; "))
	}
	if os.Geteuid() != 0 {
		return errors.New("install what is missing: only root can: run `sudo bield setup`")
	}
	if err := installPackages(ctx, packagesOf(needs), progress); err != nil {
		return err
	}
	if _, err = h.Virtiofsd(ctx); !errors.Is(err, ErrNoVirtiofsd) {
		return err
	}
	if !bundled(release) {
		return fmt.Errorf("%w; %s has no newer one: build it with `cargo install virtiofsd` and put it in /usr/libexec", err, release.Name)
	}
	return h.installVirtiofsd(ctx, release, progress)
}

func packagesOf(needs []Need) []string {
	var packages []string
	for _, n := range needs {
		if n.Package != "" {
			packages = append(packages, n.Package)
		}
	}
	return packages
}

// installPackages uses the host's own apt with the host's own settings.
func installPackages(ctx context.Context, packages []string, progress func(string)) error {
	if len(packages) == 0 {
		return nil
	}
	progress("apt-get update")
	if err := runApt(ctx, progress, "update"); err != nil {
		return fmt.Errorf("read the package lists: %w", err)
	}
	progress("apt-get install " + strings.Join(packages, " "))
	args := append([]string{"install", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"}, packages...)
	if err := runApt(ctx, progress, args...); err != nil {
		return fmt.Errorf("install packages: %w", err)
	}
	return nil
}

// runApt ends apt by SIGTERM only and gives it time: a killed dpkg leaves
// half-configured packages.
func runApt(ctx context.Context, progress func(string), args ...string) error {
	var log bytes.Buffer
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q", "-y"}, args...)...)
	cmd.Env = apt.Environment(os.Environ())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, in
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		follow(io.TeeReader(out, &log), progress)
	}()
	err := cmd.Run()
	_ = in.Close()
	<-copied
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	if reason := apt.Explain(log.String()); reason != "" {
		return errors.New(reason)
	}
	return fmt.Errorf("apt-get %s: %w", args[0], err)
}

// follow passes on the lines that tell what is happening.
func follow(r io.Reader, progress func(string)) {
	scan := bufio.NewScanner(r)
	for scan.Scan() {
		line := scan.Text()
		if strings.HasPrefix(line, "Setting up ") || strings.HasPrefix(line, "Unpacking ") {
			progress(strings.TrimRight(line, " ."))
		}
	}
	// A line too long for the scanner must not stop apt.
	_, _ = io.Copy(io.Discard, r)
}
