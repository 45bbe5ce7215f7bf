package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"bield/internal/guestconfig"
	"bield/internal/guestlink"
)

// systemdPowerOff is the signal that makes systemd start poweroff.target:
// SIGRTMIN+4, with the C library's SIGRTMIN (systemd(1), signals).
const systemdPowerOff = unix.Signal(34 + 4)

// Service goes on with the link under systemd: it tells when sshd listens, and
// turns the power button and the host's requests into systemd's power-off. It
// returns nil when systemd ends it.
func Service(ctx context.Context) error {
	cfg, err := readConfig(configCopy)
	if err != nil {
		return err
	}
	j, err := loadJournal(journalCopy)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stop()
	s := &service{cfg: cfg, journal: j, console: openConsole()}
	go s.tellSSHD(ctx)
	go watchButtons(ctx, func() { s.powerOff("power button") })
	return s.serve(ctx)
}

type service struct {
	cfg     guestconfig.Config
	journal *journal
	console *console
}

// serve serves the link until systemd ends this service, and tells of that.
func (s *service) serve(ctx context.Context) error {
	l, err := newLink(s.cfg.Link)
	if err != nil {
		return err
	}
	l.journal, l.powerOff = s.journal, s.powerOff
	l.authorize = func(keys []string) error { return tree("/").authorize(s.cfg.User.Name, keys) }
	l.start = startAwaited
	linkCtx, stopLink := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLink()
	go l.run(linkCtx)
	<-ctx.Done()
	flush, cancel := context.WithTimeout(linkCtx, flushBound)
	defer cancel()
	s.journal.flushed(flush)
	_ = s.journal.save(journalCopy) // for a service that is only restarted
	return nil
}

// tellSSHD notes when sshd listens. It may have begun before this service did,
// and its pid file may be one that is being written.
func (s *service) tellSSHD(ctx context.Context) {
	if s.journal.has(guestlink.StageReady, guestlink.StateDone) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, sshdStart)
	defer cancel()
	if err := awaitPIDFile(ctx, sshdPIDFile); err != nil {
		if !errors.Is(err, context.Canceled) {
			s.journal.record(guestlink.StageSSHD, guestlink.StateFailed, fmt.Sprintf("sshd does not listen: %v", err))
		}
		return
	}
	s.journal.record(guestlink.StageSSHD, guestlink.StateDone, "")
	s.journal.record(guestlink.StageReady, guestlink.StateDone, "")
	_ = s.journal.save(journalCopy)
	s.console.printf("ready")
}

func (s *service) powerOff(why string) {
	s.console.printf("powering off: %s", why)
	s.journal.record(guestlink.StagePowerOff, guestlink.StateStarted, why)
	if err := unix.Kill(1, systemdPowerOff); err != nil {
		s.console.printf("ask systemd to power off: %v", err)
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
	}
}

// startAwaited is the starter of a process that is not PID 1: it has only its
// own children, and waits for each.
func startAwaited(path string, argv []string, attr *os.ProcAttr) (*child, error) {
	p, err := os.StartProcess(path, argv, attr)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	exited := make(chan unix.WaitStatus, 1)
	go func() {
		state, err := p.Wait()
		var status unix.WaitStatus
		if err == nil {
			known, _ := state.Sys().(syscall.WaitStatus)
			status = unix.WaitStatus(known)
		}
		exited <- status
	}()
	return &child{pid: p.Pid, exited: exited}, nil
}
