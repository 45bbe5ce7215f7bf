package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"strconv"
	"time"

	"bield/internal/api/server"
	"bield/internal/notify"
	"bield/internal/reconcile"
	"bield/internal/state"
)

// daemon is the engine, its server, and the lock that makes it the only one.
type daemon struct {
	lock     *os.File
	listener net.Listener
	engine   *reconcile.Engine
	server   *server.Server
	metrics  *http.Server // nil unless they were asked for on TCP
	idle     *idleTimer
	manager  notify.Manager
	log      *slog.Logger
}

// start takes the run directory's lock before it touches anything else there.
func start(ctx context.Context, o options, log *slog.Logger) (_ *daemon, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("bieldd needs root, to make bridges and to become other users: use sudo")
	}
	run, cache := state.RunFromEnv(), state.CacheFromEnv()
	if err := run.Make(); err != nil {
		return nil, err
	}
	d := &daemon{log: log}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if d.lock, err = lockRun(ctx, run); err != nil {
		return nil, err
	}
	if d.engine, err = newEngine(ctx, run, cache, o, log); err != nil {
		return nil, err
	}
	d.idle = newIdleTimer(o.idle, func() bool { return !d.server.Busy() && d.engine.Idle() })
	d.server = server.New(d.engine, version, log, d.idle.touch)
	if err := d.serveMetrics(ctx, o.metrics); err != nil {
		return nil, err
	}
	d.listener, err = listen(ctx, run.Socket())
	return d, err
}

// endGrace is how long a daemon that no longer answers may take to end.
const endGrace = 5 * time.Second

// lockRun takes the run directory's lock. One that is held by a daemon that
// answers is an error at once; one that is just ending is waited for.
func lockRun(ctx context.Context, run state.Run) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, endGrace)
	defer cancel()
	ticker := time.NewTicker(endGrace / 100)
	defer ticker.Stop()
	var dialer net.Dialer
	for {
		lock, err := state.Lock(run.Lock())
		if !errors.Is(err, state.ErrLocked) {
			return lock, err
		}
		if conn, err := dialer.DialContext(ctx, "unix", run.Socket()); err == nil {
			_ = conn.Close()
			return nil, fmt.Errorf("another bieldd serves %s: end it first, or set %s", run.Dir, state.EnvRunDir)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("another bieldd holds %s but does not answer: end it first, or set %s", run.Dir, state.EnvRunDir)
		}
	}
}

// listen opens the socket to root and the group bield, where there is one.
func listen(ctx context.Context, path string) (net.Listener, error) {
	if err := state.Remove(path); err != nil {
		return nil, err
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	gid, mode := 0, os.FileMode(0o600)
	if group, err := user.LookupGroup("bield"); err == nil {
		if gid, err = strconv.Atoi(group.Gid); err == nil {
			mode = 0o660
		}
	}
	if err := errors.Join(os.Chown(path, 0, gid), os.Chmod(path, mode)); err != nil {
		_ = listener.Close()
		return nil, fmt.Errorf("open %s to the group bield: %w", path, err)
	}
	return listener, nil
}

// serve answers until ctx ends or the daemon has been idle for long enough.
func (d *daemon) serve(ctx context.Context) error {
	served := make(chan error, 1)
	d.engine.Resume(ctx)
	go func() { served <- d.server.Serve(d.listener) }()
	d.log.Info("bieldd serves", "version", version, "socket", d.listener.Addr().String())
	told := d.report(ctx)
	select {
	case err := <-served:
		told()
		return err
	case <-ctx.Done():
		d.ends("told to; VMs go on")
	case <-d.idle.expired:
		d.ends("nothing to do")
	}
	told()
	d.tell(d.manager.Stopping())
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	return errors.Join(d.server.Shutdown(closing), <-served)
}

// ends says why, also to those who follow the events.
func (d *daemon) ends(why string) {
	d.log.Info("bieldd ends: " + why)
	d.engine.Ends(why)
}

func (d *daemon) close() {
	if d.metrics != nil {
		_ = d.metrics.Close()
	}
	if d.idle != nil {
		d.idle.stop()
	}
	if d.engine != nil {
		d.engine.Close()
	}
	if d.lock != nil {
		_ = d.lock.Close()
	}
}

// idleTimer expires when nothing ran and nobody asked for a while.
type idleTimer struct {
	expired chan struct{}
	after   time.Duration
	timer   *time.Timer
}

// newIdleTimer never expires when after is 0.
func newIdleTimer(after time.Duration, idle func() bool) *idleTimer {
	t := &idleTimer{expired: make(chan struct{}), after: after}
	if after <= 0 {
		return t
	}
	t.timer = time.AfterFunc(after, func() {
		if idle() {
			close(t.expired)
			return
		}
		t.timer.Reset(after)
	})
	return t
}

func (t *idleTimer) touch() {
	// Reset on a timer that has fired would let it expire twice.
	if t.timer != nil && t.timer.Stop() {
		t.timer.Reset(t.after)
	}
}

func (t *idleTimer) stop() {
	if t.timer != nil {
		t.timer.Stop()
	}
}
